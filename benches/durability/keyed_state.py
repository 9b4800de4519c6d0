"""What checkpoints of much keyed state in RocksDB cost, and what it takes to start from them.

Checkpoints are asked for as savepoints, so that it is known when they begin. They share files with those before them
as all checkpoints do.
"""
import shutil
import time

import figures
import pipelines
import running
from alone import alone
from pipelines import ARRIVED, Asked

# No checkpoint comes by itself.
NEVER = 24 * 3600 * 1000
# Seconds that filling the state, saving or loading it may take.
LONG = 4 * 3600
# Elements that are asked for to see that the job gives some.
SOME = 100


class Measurement:
  """One runner and its jobs, one after the other."""

  def __init__(self, runner, settings):
    self.runner, self.settings = runner, settings
    self.found = []

  def say(self, figure, **values):
    self.found.append((figure, values))
    figures.told(figure, {name: figures.rounded(value) for name, value in values.items()})

  def job(self, parallelism, *more):
    options = ['--state_backend=rocksdb', '--parallelism=%d' % parallelism, *running.checkpoints_every(NEVER), *more]
    return running.started(self.runner, self.settings, pipelines.large_state, *options)

  def process(self, job, count):
    """So many more elements; gives the seconds that they took."""
    began, before = time.monotonic(), ARRIVED.count
    Asked.goal += count
    running.until(job, '%d elements' % count, lambda: ARRIVED.count >= before + count, LONG)
    return time.monotonic() - began

  def save(self, job, figure):
    """Gives the savepoint's path."""
    before, began = self.runner.files(job), time.monotonic()
    path = self.runner.savepoint(job)
    seconds = time.monotonic() - began
    after = self.runner.files(job)
    new = {name: size for name, size in after.items() if name not in before}
    self.say(
        'state %s' % figure, seconds=seconds, bytes=sum(new.values()), files=len(new), all_bytes=sum(after.values()))
    return path

  def first_job(self):
    """Fills, saves, changes a little, saves and is killed; gives a savepoint."""
    with self.job(2) as job:
      seconds = self.process(job, Asked.keys)
      self.say('state filled', seconds=seconds, keys=Asked.keys, user_bytes=Asked.keys * pipelines.VALUE)
      self.save(job, 'full checkpoint')
      self.process(job, max(Asked.keys // 100, 1))
      self.save(job, 'next checkpoint, 1 % changed')
      Asked.goal += SOME
      killed = time.time()
      self.runner.kill()
      running.until(job, 'output after the kill', lambda: ARRIVED.since(killed), LONG)
      self.say('state restored after kill -9', seconds=ARRIVED.since(killed) - killed)
      self.process(job, SOME)
      return self.save(job, 'next checkpoint after the restore'), running.job_id(job)

  def rescaled(self, path, of, parallelism, before):
    """Another job goes on from a savepoint, with other workers; gives its own savepoint."""
    Asked.goal += SOME
    began = time.time()
    with self.job(parallelism, '--savepoint_path=%s' % path) as job:
      at = running.until(job, 'RUNNING', lambda: job.state() == 'RUNNING' and time.time(), LONG)
      running.until(job, 'output', lambda: ARRIVED.since(began), LONG)
      self.say('state from %d to %d workers' % (before, parallelism), seconds_to_running=at - began,
               seconds_to_output=ARRIVED.since(began) - began)
      self.process(job, SOME)
      path = self.save(job, 'first checkpoint with %d workers' % parallelism)
      # What it began from would only take up room.
      shutil.rmtree(self.runner.storage / of)
      if parallelism == 2:
        self.process(job, min(Asked.keys, 5000))
      return path, running.job_id(job)


def measure(settings):
  """Of one service: figures with their values."""
  Asked.keys = max(int(settings.gib * (1 << 30)) // pipelines.VALUE, SOME)
  with running.serving(settings) as runner:
    measurement = Measurement(runner, settings)
    path, job = measurement.first_job()
    path, job = measurement.rescaled(path, job, 4, 2)
    measurement.rescaled(path, job, 2, 4)
    measurement.say('state wrong values', wrong=len(Asked.wrong))
    for line in Asked.wrong[:5]:
      figures.told(line)
  return measurement.found


def main(settings):
  rounds = [alone(measure, settings) for _ in range(settings.rounds)]
  wrong = 0
  for each in zip(*rounds):
    figure, values = each[0]
    figures.say(figure, **{name: figures.median([of[name] for _, of in each]) for name in values})
    wrong += sum(of.get('wrong', 0) for _, of in each)
  return 1 if wrong else 0
