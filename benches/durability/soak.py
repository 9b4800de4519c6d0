"""Whether storage, memory and open files stay as they are while a job takes checkpoints for long."""
import contextlib
import functools
import os
import pathlib
import statistics
import time

import figures
import pipelines
import running
from alone import alone

# Seconds between looks, of which each line gives the median.
LOOK = 1
# What may grow by so much more than a twentieth, from the second third to the last.
SLACK = {'storage_mib': 1, 'storage_files': 10, 'service_mib': 8, 'jobs_mib': 8, 'service_open': 5, 'jobs_open': 5}


def mebibytes(count):
  return count / (1 << 20)


def resident(pid):
  with contextlib.suppress(OSError):
    pages = int(pathlib.Path('/proc/%d/statm' % pid).read_text().split()[1])
    return mebibytes(pages * os.sysconf('SC_PAGE_SIZE'))
  return 0


def opened(pid):
  with contextlib.suppress(OSError):
    return len(os.listdir('/proc/%d/fd' % pid))
  return 0


def look(runner):
  stored, jobs = running.sizes(runner.storage), runner.all_processes()
  return {
      'storage_mib': mebibytes(sum(stored.values())),
      'storage_files': len(stored),
      'service_mib': resident(runner.pid),
      'jobs_mib': sum(map(resident, jobs)),
      'service_open': opened(runner.pid),
      'jobs_open': sum(map(opened, jobs)),
  }


def medians(looks):
  return {name: statistics.median(each[name] for each in looks) for name in SLACK}


def measure(settings):
  """Prints a line for each while; gives what the lines say."""
  build = functools.partial(pipelines.steady, interval=1 / settings.rate)
  lines = []
  options = running.checkpoints_every(settings.interval)
  with running.serving(settings) as runner, running.started(runner, settings, build, *options) as job:
    running.until(job, 'output', lambda: pipelines.ARRIVED.count)
    began = time.monotonic()
    while time.monotonic() < began + 60 * settings.minutes:
      looks, end = [], time.monotonic() + settings.every
      while time.monotonic() < end:
        looks.append(look(runner))
        time.sleep(LOOK)
      runner.check_alive()
      if job.over():
        raise RuntimeError('the job is %s: %s' % (job.state(), '\n'.join(job.messages())[-3000:]))
      lines.append(medians(looks))
      figures.say(
          'soak', minutes=(time.monotonic() - began) / 60, **lines[-1], checkpoints=runner.checkpoint(),
          arrived=pipelines.ARRIVED.count)
  return lines


def main(settings):
  """Gives 1 if something has grown."""
  grown = False
  for _ in range(settings.rounds):
    lines = alone(measure, settings)
    third = max(len(lines) // 3, 1)
    second, last = lines[third:2 * third] or lines[:third], lines[-third:]
    flat, values = True, {}
    for name, slack in SLACK.items():
      values[name] = [statistics.mean(line[name] for line in lines) for lines in (second, last)]
      flat &= values[name][1] <= values[name][0] * 1.05 + slack
    figures.say('soak flat', flat=flat, **values)
    grown |= not flat
  return 1 if grown else 0
