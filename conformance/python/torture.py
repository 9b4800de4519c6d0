"""One job that is killed and paused at random, and compared record by record with what it must come to.

    torture.py SEED KILLS PAUSES [ARGUMENT OF THE SERVICE...]

The seed says what the job is, who is killed, and how much work lies between; FERROBEAM is the program. Of a thousand
kills PAUSES are pauses instead, longer than a process goes on without its service. The last line that is printed is JSON:
what happened, and what was lost, repeated or wrong.
"""
import json
import logging
import os
import random
import signal
import sys
import tempfile
import time

import apache_beam as beam

import kills
import pieces
import service

# A process ends by itself after 40 s without a sign of its service.
PAUSE = (42, 70)
# Of the misfortunes, these are the service's.
SERVICES = 0.15
# Longer than that, and than it takes the service to notice.
PATIENCE = 240


def job_of(chosen):
  """What the pipeline is, and its options: from the seed."""
  some = chosen.sample(pieces.ALL, chosen.randint(1, 4))
  bounded = chosen.random() < 0.15
  shape = {
      'parts': chosen.randint(1, 4),
      'count': chosen.choice([400, 1000, 2000, 4000]),
      'batch': chosen.choice([10, 50, 100]),
      'pause': chosen.choice([0.01, 0.02, 0.05]),
      'source_fn': pieces.BoundedSource if bounded else pieces.Source,
  }
  processes = chosen.choice([1, 1, 1, 2, 3])
  options = [
      '--ferrobeam_processes=%d' % processes,
      '--parallelism=%d' % (processes * chosen.choice([1, 2])),
      '--state_backend=%s' % chosen.choice(['memory', 'rocksdb', 'auto']),
      '--checkpointing_interval=%d' % chosen.choice([30, 100, 300]),
  ]
  if not bounded:
    options.append('--streaming')
  if chosen.random() < 0.3:
    options.append('--max_bundle_size=%d' % chosen.choice([1, 10, 100]))
  return some, shape, options, chosen.random() < 0.25


class Torturer:
  """Kills one job's processes."""

  def __init__(self, job, chosen, pauses):
    self.job, self.service, self.chosen, self.pauses = job, job.service, chosen, pauses
    self.done = {'kills': 0, 'harnesses': 0, 'services': 0, 'pauses': 0}

  def kill(self, pid, what='kills'):
    self.done[what] += service.kill(pid)

  def pause(self, pid):
    """Stops a process, as a machine does that is busy with other things, and lets it go on."""
    seconds = self.chosen.uniform(*PAUSE)
    logging.warning('process %d pauses for %d s', pid, seconds)
    try:
      os.kill(pid, signal.SIGSTOP)
      time.sleep(seconds)
      os.kill(pid, signal.SIGCONT)
    except ProcessLookupError:
      pass  # It was found to be lost, and ended.
    self.done['pauses'] += 1

  def kill_service(self):
    """Kills the service, perhaps again as it begins, and lets the next one go on with the job."""
    for _ in range(self.chosen.choice([1, 1, 2])):
      self.service.kill()
      self.done['services'] += 1
      self.service.start()
      time.sleep(self.chosen.uniform(0, 0.5))
    self.service.wait()

  def once(self):
    """One misfortune. False: the job is over."""
    checkpoints = int(self.chosen.random() < 0.7)
    if not self.job.worked(self.chosen.randint(0, 15), checkpoints):
      return False
    workers, harnesses = self.service.workers(), self.service.harnesses()
    if not workers:
      return self.job.reached(self.service.workers)
    if self.chosen.random() < self.pauses / 1000:
      self.pause(self.chosen.choice(workers + harnesses))
    elif self.chosen.random() < SERVICES:
      self.kill_service()
    elif harnesses and self.chosen.random() < 0.5:
      self.kill(self.chosen.choice(harnesses), 'harnesses')
    elif self.chosen.random() < 0.15:
      for pid in workers:
        self.kill(pid)
    else:
      self.kill(self.chosen.choice(workers))
      if self.chosen.random() < 0.15:
        # The next attempt, as it begins.
        time.sleep(self.chosen.uniform(0, 0.3))
        for pid in self.service.all_processes():
          self.kill(pid)
    return True

  def total(self):
    return sum(self.done.values())


def torture(seed, wanted, pauses, serve_args):
  """What became of the job of that seed."""
  chosen = random.Random(seed)
  some, shape, options, in_processes = job_of(chosen)
  began = time.monotonic()
  serving = service.Service(*serve_args)
  with tempfile.TemporaryDirectory() as folder:
    context = pieces.Context(folder, some, **shape)
    if in_processes:
      options += serving.process_environment()
    logging.warning('seed %d: %s, %s, %s', seed, [piece.name for piece in some], shape, options)
    pipeline = beam.Pipeline(options=kills.options(serving, 'torture-%d' % seed, *options))
    context.build(pipeline)
    context.hold(1, wanted + 1)
    job = kills.Job(serving, pipeline, context, seed, PATIENCE)
    torturer = Torturer(job, chosen, pauses)
    answer = {'seed': seed, 'hung': False}
    try:
      while torturer.total() < wanted and torturer.once():
        context.hold(torturer.total() + 1, wanted + 1)
      context.release()
      job.end()
    except service.NeverCame as error:
      answer.update(hung=True, why=str(error))
    compared, lost, repeated = (0, [], []) if answer['hung'] else context.results()
    answer.update(
        torturer.done, state=job.state(), compared=compared, lost=len(lost), repeated=len(repeated),
        differences=(lost[:5] + repeated[:5]), seconds=round(time.monotonic() - began, 1))
    if answer['state'] != 'DONE':
      logging.warning('%s', '\n'.join(job.messages() if job.over() else []))
  serving.stop()
  return answer


if __name__ == '__main__':
  print(json.dumps(torture(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]), sys.argv[4:])), flush=True)
  os._exit(0)  # the loopback worker's threads would keep the process
