"""How late elements are at the end of an idle streaming pipeline with checkpoints, against the same without."""
import functools
import time

import figures
import pipelines
import running
from alone import alone

# Percentiles of the milliseconds since an element was emitted, and since it was due: what holds up the source itself
# is seen in these only.
NAMES = ['p50', 'p99', 'due_p50', 'due_p99']


def measure(settings, interval):
  """Of one job: the percentiles, and the number of checkpoints meanwhile."""
  build = functools.partial(pipelines.paced, interval=settings.every / 1000)
  options = running.checkpoints_every(interval)
  noted = pipelines.ARRIVED.noted
  with running.serving(settings) as runner, running.started(runner, settings, build, *options) as job:
    running.until(job, 'output', lambda: noted)
    time.sleep(settings.warm)
    first, taken = len(noted), runner.checkpoint()
    time.sleep(settings.seconds)
    found = noted[first:]
    if taken is not None:
      taken = runner.checkpoint() - taken
    if job.over() or not found:
      raise RuntimeError('the job is %s, and %d elements came' % (job.state(), len(found)))
  late, overdue = [each[3] * 1000 for each in found], [each[4] * 1000 for each in found]
  return [figures.percentile(values, part) for values in (late, overdue) for part in (0.5, 0.99)] + [taken]


def main(settings):
  found = figures.pairs(
      settings.rounds, lambda interval: alone(measure, settings, interval), [settings.interval, 0])
  ours, others = [[figures.median(column) for column in list(zip(*values))[:len(NAMES)]] for values in found]
  for name, one, other in zip(NAMES, ours, others):
    figures.say('latency %s' % name, unit='ms', with_checkpoints=one, without=other, ratio=one / other)
  figures.say('latency checkpoints', each=[values[-1] for values in found[0]])
