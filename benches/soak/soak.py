#!/usr/bin/env python3
"""A streaming pipeline that runs for minutes at a steady rate, and what the runner's processes hold meanwhile.

    soak.py [--minutes N] [--rate N] [--ferrobeam PATH] [--serve-arg FLAG]... [--growth MIB] [--log FILE]

An unbounded splittable DoFn emits `rate` elements a second, some twice and some late. A stateful DoFn lets only the
first of each pass and forgets it by a timer; fixed windows count the rest by key, with early and late firings. At the
end the job is drained. It is wrong if an element was counted twice or not at all, if a window's last firing is not its
whole count, if the job does not end as DRAINED, or if the processes hold more memory at the end than `growth` above
what they held once warm. Figures are printed every minute; to run it in the background:

    nohup benches/soak/soak.py --minutes 30 --log soak.log &

Only the service and its job processes are measured: user code runs in the client (LOOPBACK), which is this program.
"""
import argparse
import collections
import contextlib
import importlib
import itertools
import os
import pathlib
import sys
import threading
import time

import apache_beam as beam
from apache_beam.io.restriction_trackers import OffsetRange, OffsetRestrictionTracker
from apache_beam.io.watermark_estimators import ManualWatermarkEstimator
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.portability.api import beam_job_api_pb2
from apache_beam.transforms import trigger, userstate, window
from apache_beam.transforms.window import TimestampedValue
from apache_beam.utils.timestamp import Duration, Timestamp

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / 'compare'))
import compare  # pylint: disable=wrong-import-position

KEYS, WINDOW, LATE, LATENESS, TWICE = 50, 10, 4, 20, 10
WARM = 3  # minutes
EMITTED = collections.Counter()
# By key and window: how many panes of each kind, and the most that one told.
PANES, COUNTS = collections.Counter(), {}
LOCK = threading.Lock()


def window_of(when):
  return when.micros // (WINDOW * 1000000)


class Endless(beam.RestrictionProvider):
  """Offsets without an end, some per call."""
  def initial_restriction(self, element):
    return OffsetRange(0, sys.maxsize)

  def create_tracker(self, restriction):
    return OffsetRestrictionTracker(restriction)

  def restriction_size(self, element, restriction):
    return 1

  def truncate(self, element, restriction):
    """Nothing is left to do when the job drains. The tracker calls every range of offsets bounded, so that by default
    this one would be worked off whole."""
    return None


class Emit(beam.DoFn):
  """Offset n comes n / rate seconds after the start. Every tenth comes twice; every hundredth, some seconds late."""
  @beam.DoFn.unbounded_per_element()
  def process(
      self, element, tracker=beam.DoFn.RestrictionParam(Endless()),
      estimator=beam.DoFn.WatermarkEstimatorParam(ManualWatermarkEstimator.default_provider())):
    start, rate = element
    for offset in itertools.count(tracker.current_restriction().start):
      due = start + offset / rate
      if due > time.time():
        tracker.defer_remainder(Duration(max(due - time.time(), 0.02)))
        return
      if not tracker.try_claim(offset):
        return
      late = LATE if offset % 100 == 99 else 0
      event = Timestamp(due - late)
      with LOCK:
        EMITTED[offset % KEYS, window_of(event)] += 1
      for _ in range(2 if offset % TWICE == 0 else 1):
        yield TimestampedValue((offset % KEYS, offset), event)
      estimator.set_watermark(Timestamp(due))


class Dedup(beam.DoFn):
  """Lets the first of each offset pass, and forgets it when nothing of its window can come any more."""
  SEEN = userstate.SetStateSpec('seen', beam.coders.VarIntCoder())
  FORGET = userstate.TimerSpec('forget', userstate.TimeDomain.WATERMARK)

  def process(
      self, element, when=beam.DoFn.TimestampParam, seen=beam.DoFn.StateParam(SEEN),
      forget=beam.DoFn.TimerParam(FORGET)):
    key, offset = element
    if offset not in seen.read():
      seen.add(offset)
      # Every offset of a window asks for the same: a moment before the runner itself forgets the window.
      forget.set(Timestamp((window_of(when) + 1) * WINDOW + LATENESS - 1))
      yield key, 1

  @userstate.on_timer(FORGET)
  def forget(self, seen=beam.DoFn.StateParam(SEEN)):
    seen.clear()


def arrive(counted, win=beam.DoFn.WindowParam, pane=beam.DoFn.PaneInfoParam):
  key, count = counted
  with LOCK:
    PANES[pane.timing] += 1
    # Panes of a key may pass each other on their way; as they accumulate, the last has the most.
    COUNTS[key, window_of(win.start)] = max(count, COUNTS.get((key, window_of(win.start)), 0))


def build(pipeline, rate):
  fire = trigger.AfterWatermark(early=trigger.AfterProcessingTime(2), late=trigger.AfterCount(1))
  windows = beam.WindowInto(
      window.FixedWindows(WINDOW), trigger=fire, accumulation_mode=trigger.AccumulationMode.ACCUMULATING,
      allowed_lateness=LATENESS)
  (  # pylint: disable=expression-not-assigned
      pipeline | beam.Impulse() | beam.Map(lambda _: (time.time(), rate))
      | beam.ParDo(Emit()).with_output_types(tuple[int, int]) | 'windows' >> windows
      | beam.ParDo(Dedup()).with_output_types(tuple[int, int]) | beam.CombinePerKey(sum) | beam.Map(arrive))


def family(pid):
  """The process and its descendants that run the same program."""
  children = collections.defaultdict(list)
  for stat in pathlib.Path('/proc').glob('[0-9]*/stat'):
    with contextlib.suppress(OSError):
      fields = stat.read_text().rsplit(')', 1)[1].split()
      children[int(fields[1])].append(int(stat.parent.name))
  program, found, todo = os.readlink('/proc/%d/exe' % pid), [], [pid]
  while todo:
    member = todo.pop()
    todo += children[member]
    with contextlib.suppress(OSError):
      if os.readlink('/proc/%d/exe' % member) == program:
        found.append(member)
  return found


def resident(pid):
  """MiB that the service and its job processes hold, and how many they are."""
  pages = []
  for member in family(pid):
    with contextlib.suppress(OSError):
      pages.append(int(pathlib.Path('/proc/%d/statm' % member).read_text().split()[1]))
  return sum(pages) * os.sysconf('SC_PAGE_SIZE') / (1 << 20), len(pages)


def finish(result, limit):
  """Drains the job; gives the state it ends in, or None if it does not end."""
  # pylint: disable=protected-access
  result._job_service.Drain(beam_job_api_pb2.DrainJobRequest(job_id=result._job_id))
  ended = threading.Event()

  def wait():
    with contextlib.suppress(Exception):
      result.wait_until_finish()
    ended.set()

  threading.Thread(target=wait, daemon=True).start()
  return result.state if ended.wait(limit) else None


def soak(options, endpoint, pid, say):
  """Runs the pipeline; gives what is wrong."""
  wrong = []
  pipeline = beam.Pipeline(
      options=PipelineOptions([
          '--runner=PortableRunner', '--job_endpoint=%s' % endpoint, '--environment_type=LOOPBACK', '--streaming',
          '--job_name=soak', '--experiments=disable_logging_submission_environment'
      ]))
  build(pipeline, options.rate)
  result = pipeline.run()
  start, warm = time.monotonic(), None
  say('%8s%12s%12s%12s%12s%10s%10s' % ('minute', 'emitted', 'windows', 'panes', 'late panes', 'MiB', 'processes'))
  for minute in itertools.count():
    held, processes = resident(pid)
    with LOCK:
      emitted, windows, panes, late = EMITTED.total(), len(COUNTS), PANES.total(), PANES[2]
    say('%8d%12d%12d%12d%12d%10.1f%10d' % (minute, emitted, windows, panes, late, held, processes))
    if minute == min(WARM, max(options.minutes - 1, 0)):
      warm = held
    if minute >= options.minutes:
      break
    until = start + 60 * (minute + 1)
    while time.monotonic() < until:
      time.sleep(min(1, max(until - time.monotonic(), 0)))
      if result.state != 'RUNNING' and time.monotonic() > start + 30:
        return ['the job is %s' % result.state]
  if held > warm + options.growth:
    wrong.append('the processes hold %.1f MiB, and held %.1f when warm' % (held, warm))
  if emitted < 0.98 * options.rate * 60 * options.minutes:
    wrong.append('%d elements were emitted, not %d: it does not keep up' % (emitted, options.rate * 60 * options.minutes))
  state = finish(result, 120)
  if state != 'DRAINED':
    wrong.append('drained, the job is %s' % state)
  for window_of_key in sorted(EMITTED.keys() | COUNTS.keys()):
    if EMITTED[window_of_key] != COUNTS.get(window_of_key, 0):
      wrong.append(
          'key %d in window %d: %d emitted, %d counted' %
          (window_of_key + (EMITTED[window_of_key], COUNTS.get(window_of_key, 0))))
  say('at the end: %d elements, %d windows of keys, panes %s, %s' % (EMITTED.total(), len(COUNTS), dict(PANES), state))
  return wrong


def main():
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--minutes', type=int, default=30)
  parser.add_argument('--rate', type=int, default=500, help='elements a second')
  parser.add_argument('--growth', type=float, default=32, help='MiB that may be held more at the end than when warm')
  parser.add_argument('--ferrobeam', default=str(compare.HERE.parents[1] / 'target' / 'release' / 'ferrobeam'))
  parser.add_argument('--serve-arg', action='append', default=[], help='a flag for the service (repeatable)')
  parser.add_argument('--log', help='write what is printed to this file too')
  options = parser.parse_args()
  log = open(options.log, 'a') if options.log else contextlib.nullcontext()
  with log as out:

    def say(line):
      for file in [sys.stdout] + ([out] if out else []):
        print(line, file=file, flush=True)

    with compare.serving('ferrobeam', options.ferrobeam, options.serve_arg) as (endpoint, pid):
      wrong = soak(options, endpoint, pid, say)
    for line in wrong[:20]:
      say('WRONG ' + line)
    say('%d things wrong' % len(wrong))
  return 1 if wrong else 0


if __name__ == '__main__':
  # By its name, so that user code finds this module's counters and not a copy of them.
  sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
  code = importlib.import_module('soak').main()
  sys.stdout.flush()
  os._exit(code)  # the loopback worker's threads would keep the process
