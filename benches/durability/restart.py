"""How long a job with small state gives nothing when its process is killed."""
import functools
import random
import time

import figures
import pipelines
import running
from alone import alone


def measure(settings):
  """Of one job: seconds from the kill to the first output after it, and to the first that had not been there before."""
  build = functools.partial(pipelines.paced, interval=settings.every / 1000)
  options = running.checkpoints_every(settings.interval)
  arrived = pipelines.ARRIVED
  with running.serving(settings) as runner, running.started(runner, settings, build, *options) as job:
    running.until(job, 'output', lambda: arrived.count)
    last = runner.checkpoint()
    if last is None:
      time.sleep(3 * settings.interval / 1000)
    else:
      running.until(job, 'a checkpoint', lambda: runner.checkpoint() > last + 1)
    time.sleep(random.uniform(0, settings.interval / 1000))
    killed = time.time()
    runner.kill()
    running.until(job, 'output after the kill', lambda: arrived.since(killed))
    before = max(number for _, born, number, _, _ in arrived.noted if born < killed)

    def new():
      return next((at for at, born, number, _, _ in list(arrived.noted) if born > killed and number > before), None)

    return arrived.since(killed) - killed, running.until(job, 'new output after the kill', new) - killed


def main(settings):
  found = []
  for number in range(settings.rounds):
    found.append(alone(measure, settings))
    figures.told('round %d of %d: %s' % (number + 1, settings.rounds, found[-1]))
  for name, values in zip(['first output', 'first new output'], zip(*found)):
    figures.say('restart to %s' % name, unit='s', median=figures.median(values), least=min(values), most=max(values))
