#!/usr/bin/env python3
"""How long an element takes through an idle streaming pipeline of three stages, on Ferrobeam and other runners.

    latency.py [--runner NAME]... [--elements N] [--interval SECONDS] [--ferrobeam PATH]

A source (an unbounded splittable DoFn of the Python SDK) emits an element, hands back control for the interval, and so
on; two reshuffles part the stages; the last stage looks at how old the element is. User code runs in the client
(LOOPBACK), so one clock measures both ends. Elements of the first seconds, when harnesses and caches are cold, do not
count. What an element costs at the least are the round trips of three bundles between runner and harness.
"""
import argparse
import importlib
import json
import os
import subprocess
import sys
import time

import apache_beam as beam
from apache_beam.io.restriction_trackers import OffsetRange, OffsetRestrictionTracker
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.utils.timestamp import Duration

import compare

COLD = 2.0  # seconds
# Seconds that elements took, with the time at which they arrived.
TOOK = []


class Ranges(beam.RestrictionProvider):
  """An element is a number of elements to emit, and the interval between them."""
  def initial_restriction(self, element):
    return OffsetRange(0, element[0])

  def create_tracker(self, restriction):
    return OffsetRestrictionTracker(restriction)

  def restriction_size(self, element, restriction):
    return restriction.size()


class Emit(beam.DoFn):
  """One element a call."""
  @beam.DoFn.unbounded_per_element()
  def process(self, element, tracker=beam.DoFn.RestrictionParam(Ranges())):
    offset = tracker.current_restriction().start
    if tracker.try_claim(offset):
      yield offset, time.monotonic()
      tracker.defer_remainder(Duration(element[1]))


def arrive(element):
  now = time.monotonic()
  TOOK.append((now, now - element[1]))


def client(endpoint, elements, interval):
  """Runs the pipeline, and prints what it took as JSON."""
  options = PipelineOptions([
      '--runner=PortableRunner', '--job_endpoint=%s' % endpoint, '--environment_type=LOOPBACK', '--streaming',
      '--experiments=disable_logging_submission_environment'
  ])
  pipeline = beam.Pipeline(options=options)
  (  # pylint: disable=expression-not-assigned
      pipeline | beam.Impulse() | beam.Map(lambda _: (elements, interval)) | beam.ParDo(Emit())
      | 'first' >> beam.Reshuffle() | beam.Map(lambda element: element)
      | 'second' >> beam.Reshuffle() | 'arrive' >> beam.Map(arrive))
  result = pipeline.run()
  result.wait_until_finish()
  if result.state != 'DONE':
    raise RuntimeError('the job ended as %s' % result.state)
  if len(TOOK) != elements:
    raise RuntimeError('%d of %d elements arrived' % (len(TOOK), elements))
  warm = TOOK[0][0] + COLD
  print(json.dumps([took for arrived, took in TOOK if arrived >= warm]))


def measure(runner, options):
  """The sorted times of one runner."""
  with compare.serving(runner, options.ferrobeam) as (endpoint, _):
    command = [sys.executable, __file__, '--client', endpoint]
    command += ['--elements', str(options.elements), '--interval', str(options.interval)]
    ended = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, timeout=options.limit, check=True)
    return sorted(json.loads(ended.stdout.splitlines()[-1]))


def main():
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--runner', action='append', choices=compare.SERVERS, help='repeatable; default: all')
  parser.add_argument('--elements', type=int, default=1000)
  parser.add_argument('--interval', type=float, default=0.02, help='seconds between elements')
  parser.add_argument('--ferrobeam', default=str(compare.HERE.parents[1] / 'target' / 'release' / 'ferrobeam'))
  parser.add_argument('--limit', type=float, default=compare.JOB_LIMIT, help='seconds that a job may take')
  parser.add_argument('--client', metavar='ENDPOINT', help=argparse.SUPPRESS)
  options = parser.parse_args()
  if options.client:
    # By its name, so that user code finds this module's TOOK and not a copy of it.
    importlib.import_module('latency').client(options.client, options.elements, options.interval)
    return 0
  failed = False
  print('%-12s%10s%10s%10s%10s%10s' % ('milliseconds', 'elements', 'p50', 'p90', 'p99', 'max'))
  for runner in options.runner or compare.SERVERS:
    try:
      took = measure(runner, options)
      at = [took[min(int(len(took) * part), len(took) - 1)] * 1000 for part in (0.5, 0.9, 0.99, 1)]
      print('%-12s%10d%10.1f%10.1f%10.1f%10.1f' % ((runner, len(took)) + tuple(at)), flush=True)
    except (subprocess.SubprocessError, RuntimeError) as error:
      print('%-12s failed: %s' % (runner, error), flush=True)
      failed |= runner == 'ferrobeam'
  return 1 if failed else 0


if __name__ == '__main__':
  code = main()
  sys.stdout.flush()
  os._exit(code)  # the loopback worker's threads would keep the process
