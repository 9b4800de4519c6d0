"""Elements a second of a streaming pipeline with checkpoints, against the same without."""
import functools
import time

import figures
import pipelines
import running
from alone import alone

# Seconds between looks at the job.
LOOK = 0.5
CASES = {'keyed-state': pipelines.keyed_state, 'windows': pipelines.windows}


def measure(settings, case, interval):
  """Of one job: elements a second from the first call of a source to the last output, and the number of checkpoints."""
  elements = settings.elements // settings.parts * settings.parts
  build = functools.partial(CASES[case], elements=elements, batch=settings.batch, parts=settings.parts)
  options = running.checkpoints_every(interval)
  arrived = pipelines.ARRIVED
  with running.serving(settings) as runner, running.started(runner, settings, build, *options) as job:
    taken, end = runner.checkpoint(), time.monotonic() + settings.limit
    while not job.over() and time.monotonic() < end:
      time.sleep(LOOK)
      # A job that is done takes its checkpoints with it.
      taken = taken if taken is None else max(taken, runner.checkpoint())
    if (job.state(), arrived.count) != ('DONE', elements):
      raise RuntimeError('the job is %s, and %d of %d elements came' % (job.state(), arrived.count, elements))
    return elements / (arrived.last - arrived.begun), taken


def main(settings):
  for case in settings.case or CASES:
    found = figures.pairs(
        settings.rounds, lambda interval, case=case: alone(measure, settings, case, interval), [settings.interval, 0])
    rates = [[rate for rate, _ in values] for values in found]
    medians = [figures.median(values) for values in rates]
    figures.say(
        'throughput %s' % case, unit='elements/s', with_checkpoints=medians[0], without=medians[1],
        ratio=medians[0] / medians[1], ratios=[one / other for one, other in zip(*rates)],
        checkpoints=[taken for _, taken in found[0]])
