"""What the Beam model asks of a runner and the SDKs' own suites do not test, against the endpoint in JOB_ENDPOINT.

User code runs in the test's own process (LOOPBACK), so what it saw can be looked at here while the job runs.
"""
import collections
import itertools
import os
import sys
import threading
import time
import unittest

import apache_beam as beam
from apache_beam import pvalue
from apache_beam.io.restriction_trackers import OffsetRange, OffsetRestrictionTracker
from apache_beam.io.watermark_estimators import MonotonicWatermarkEstimator
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.portability.api import beam_job_api_pb2, beam_runner_api_pb2
from apache_beam.testing.test_stream import ElementEvent, TestStream, WatermarkEvent
from apache_beam.testing.test_stream_service import TestStreamServiceController
from apache_beam.testing.util import assert_that, equal_to
from apache_beam.transforms import trigger, window
from apache_beam.transforms.core import WatermarkEstimatorProvider
from apache_beam.transforms.window import TimestampedValue
from apache_beam.utils.timestamp import MAX_TIMESTAMP, Timestamp
from apache_beam.utils.windowed_value import PaneInfoTiming

FOREVER = sys.maxsize
# What a job's user code saw, by the name of its test.
SEEN = collections.defaultdict(list)
# The elements that it waits for.
WAITING = collections.defaultdict(list)
# The names of tests, or of their DoFns, that have failed.
FAILED = set()
LIMIT = 60


def stopped_clock():
  """A test's own clock, which stands where the TestStream's processing time begins."""
  return 0.0


class Ranges(beam.RestrictionProvider):
  """Every element is the end of a range of offsets."""
  def initial_restriction(self, element):
    return OffsetRange(0, element)

  def create_tracker(self, restriction):
    return OffsetRestrictionTracker(restriction)

  def restriction_size(self, element, restriction):
    return min(restriction.size(), 1 << 40)


class Slowly(beam.DoFn):
  """Takes its time for every offset, and tells where the call began in which it came to it."""
  def __init__(self, calls, fails=False):
    self.calls = calls
    self.fails = fails

  def process(self, element, tracker=beam.DoFn.RestrictionParam(Ranges())):
    first = tracker.current_restriction().start
    for offset in itertools.takewhile(tracker.try_claim, itertools.count(first)):
      yield see(self.calls, first), offset
      time.sleep(0.05)
      if self.fails and tracker.current_restriction().stop < element:
        fail_once(self.calls)


class SlowlyWithoutBound(Slowly):
  """The same, said to be unbounded."""
  @beam.DoFn.unbounded_per_element()
  def process(self, element, tracker=beam.DoFn.RestrictionParam(Ranges())):
    return Slowly.process(self, element, tracker)


class Endless(Ranges):
  """Nothing is left at a drain; of a range as such, whose end is known, everything would be."""
  def truncate(self, element, restriction):
    return None


class FromTheStart(WatermarkEstimatorProvider):
  """The greatest timestamp so far. The SDK's own provider begins with no watermark at all, which a split cannot hold."""
  def initial_estimator_state(self, element, restriction):
    return Timestamp(0)

  def create_watermark_estimator(self, estimator_state):
    return MonotonicWatermarkEstimator(estimator_state)


class Ticks(beam.DoFn):
  """Counts until somebody stops it: `process` does not return by itself. Its watermark is the last number."""
  @beam.DoFn.unbounded_per_element()
  def process(
      self, element, tracker=beam.DoFn.RestrictionParam(Endless()),
      unused_estimator=beam.DoFn.WatermarkEstimatorParam(FromTheStart())):
    for offset in itertools.takewhile(tracker.try_claim, itertools.count(tracker.current_restriction().start)):
      yield TimestampedValue(offset, offset)
      time.sleep(0.02)


def see(name, value):
  SEEN[name].append(value)
  return value


def fail_once(name):
  if name not in FAILED:
    FAILED.add(name)
    raise RuntimeError('this is to happen once')


def wait_for_the_others(name, element, others):
  """The first element waits until the others were seen. Then it fails, once."""
  if element != 0:
    return see(name, element)
  deadline = time.monotonic() + LIMIT
  while len(set(SEEN[name])) < others and time.monotonic() < deadline:
    time.sleep(0.02)
  fail_once(name)
  return element


def wait(name, element):
  """Takes two seconds, and sees how many elements do at once."""
  WAITING[name].append(element)
  see(name, len(WAITING[name]))
  time.sleep(2)
  WAITING[name].remove(element)
  return element


class Model(unittest.TestCase):
  """The tests; those with an end of their own run the whole pipeline, the others drain it."""
  maxDiff = 2000

  def setUp(self):
    self.name = '%s-%d-%d' % (self._testMethodName, os.getpid(), time.monotonic_ns())
    self.addCleanup(SEEN.pop, self.name, None)

  def pipeline(self):
    return beam.Pipeline(
        options=PipelineOptions([
            '--runner=PortableRunner', '--job_endpoint=%s' % os.environ['JOB_ENDPOINT'], '--environment_type=LOOPBACK',
            '--streaming', '--job_name=%s' % self.name, '--experiments=disable_logging_submission_environment'
        ]))

  def until(self, what, condition):
    deadline = time.monotonic() + LIMIT
    while not condition():
      self.assertLess(time.monotonic(), deadline, 'never %s; seen: %s' % (what, SEEN[self.name][:20]))
      time.sleep(0.02)

  def drain(self, result):
    """Drains the job; it has to end as DRAINED."""
    # pylint: disable=protected-access
    result._job_service.Drain(beam_job_api_pb2.DrainJobRequest(job_id=result._job_id))
    waiter = threading.Thread(target=result.wait_until_finish, daemon=True)
    waiter.start()
    waiter.join(LIMIT)
    self.assertEqual(result.state, 'DRAINED')

  # Dynamic splits.

  def split(self, dofn, **options):
    """Gives where the calls began, in the order of their work."""
    name, calls, offsets = self.name, self.name + ' calls', 120
    self.addCleanup(SEEN.pop, calls, None)
    with self.pipeline() as p:
      (  # pylint: disable=expression-not-assigned
          p | beam.Impulse() | beam.Map(lambda _: offsets) | beam.ParDo(dofn(calls, **options)) | beam.Reshuffle()
          | beam.Map(lambda pair: see(name, pair)))
    self.assertEqual(sorted(offset for _, offset in SEEN[name]), list(range(offsets)))
    self.assertGreater(len({first for first, _ in SEEN[name]}), 1, 'one call did it all, for 6 s')
    return SEEN[calls]

  def test_dynamic_split_bounded(self):
    calls = self.split(Slowly)
    turns = len(list(itertools.groupby(calls)))
    self.assertGreater(turns, len(set(calls)), 'one call after the other, not side by side')

  def test_dynamic_split_unbounded(self):
    self.split(SlowlyWithoutBound)

  def test_dynamic_split_before_a_failure(self):
    self.split(Slowly, fails=True)
    self.assertIn(self.name + ' calls', FAILED)

  def test_elements_behind_one_that_waits_for_them(self):
    name, elements = self.name, list(range(10))
    with self.pipeline() as p:
      waited = p | beam.Create(elements) | beam.Reshuffle() | beam.Map(
          lambda element: wait_for_the_others(name, element, len(elements) - 1))
      assert_that(waited, equal_to(elements))
    self.assertIn(name, FAILED)

  def test_slow_elements_run_side_by_side(self):
    name, elements = self.name, list(range(40))
    self.addCleanup(WAITING.pop, name, None)
    with self.pipeline() as p:
      waited = p | beam.Create(elements) | beam.Reshuffle() | beam.Map(lambda element: wait(name, element))
      assert_that(waited, equal_to(elements))
    self.assertGreater(max(SEEN[name]), 10, 'so many at once')

  # Sources without an end, and drain.

  def endless(self, then):
    p = self.pipeline()
    ticks = p | beam.Impulse() | beam.Map(lambda _: FOREVER) | beam.ParDo(Ticks())
    ticks | then  # pylint: disable=pointless-statement
    result = p.run()
    self.addCleanup(self.cancel, result)
    return result

  def cancel(self, result):
    """Leaves no job behind, whatever became of the test."""
    if result.state not in ('DRAINED', 'FAILED', 'CANCELLED', 'DONE'):
      result.cancel()

  def test_source_that_never_returns(self):
    name = self.name
    result = self.endless(beam.Reshuffle() | beam.Map(lambda tick: see(name, tick)))
    self.until('50 ticks', lambda: len(SEEN[name]) >= 50)
    self.cancel(result)
    self.assertEqual(sorted(set(SEEN[name])), list(range(max(SEEN[name]) + 1)))

  def test_drain_closes_windows(self):
    name = self.name

    def tell(tick):
      see(name + '-in', tick)
      return 'key', tick

    def group(ticks):
      return (
          ticks | beam.Map(tell) | beam.WindowInto(window.FixedWindows(1 << 30)) | beam.GroupByKey()
          | beam.MapTuple(lambda key, values: see(name, sorted(values))))

    self.addCleanup(SEEN.pop, name + '-in', None)
    result = self.endless(beam.ptransform_fn(group)())
    self.until('20 ticks', lambda: len(SEEN[name + '-in']) >= 20)
    self.assertEqual(SEEN[name], [], 'the window was not over')
    self.drain(result)
    self.assertEqual(SEEN[name], [list(range(len(SEEN[name][0])))])
    self.assertGreaterEqual(len(SEEN[name][0]), 20)

  def test_windows_close_while_the_source_goes_on(self):
    name = self.name
    windows = beam.WindowInto(window.FixedWindows(10))

    def group(ticks):
      return (
          ticks | beam.Map(lambda tick: ('key', tick)) | windows | beam.GroupByKey()
          | beam.MapTuple(lambda key, values: see(name, sorted(values))))

    result = self.endless(beam.ptransform_fn(group)())
    self.until('three windows', lambda: len(SEEN[name]) >= 3)
    self.cancel(result)
    self.assertEqual(SEEN[name][:3], [list(range(10)), list(range(10, 20)), list(range(20, 30))])

  # TestStream.

  def test_test_stream_of_an_endpoint(self):
    stream = TestStream()
    coder = stream.coder
    events = [
        ElementEvent([TimestampedValue(('k', 1), 1)], None), WatermarkEvent(20, None),
        ElementEvent([TimestampedValue(('k', 2), 21)], None), WatermarkEvent(MAX_TIMESTAMP, None)
    ]

    class Reader:
      """Hands out the events once."""
      def read_multiple(self, unused_labels):
        for event in events:
          proto = event.to_runner_api(coder)
          assert isinstance(proto, beam_runner_api_pb2.TestStreamPayload.Event)
          yield proto

    controller = TestStreamServiceController(Reader())
    controller.start()
    self.addCleanup(controller.stop)
    with self.pipeline() as p:
      grouped = (
          p | TestStream(coder=coder, endpoint=controller.endpoint) | beam.Map(lambda pair: pair)
          | beam.WindowInto(window.FixedWindows(10)) | beam.GroupByKey()
          | beam.MapTuple(lambda key, values: (key, list(values))))
      assert_that(grouped, equal_to([('k', [1]), ('k', [2])]))

  def test_timers_by_the_wall_and_by_a_clock_of_the_test(self):
    """Ten elements five seconds apart, in batches that wait 42 s: nine are in the first, by whichever clock."""
    for clock in time.time, stopped_clock:
      events = TestStream().advance_watermark_to(0)
      for i in range(10):
        events.add_elements([TimestampedValue(('k', i), i)]).advance_processing_time(5)
      events.advance_watermark_to(11).advance_watermark_to_infinity()
      with self.pipeline() as p:
        sizes = p | events | beam.GroupIntoBatches(20, 42, clock) | beam.MapTuple(lambda key, values: len(values))
        assert_that(sizes, equal_to([9, 1]))

  def test_late_data_is_dropped_and_counted(self):
    stream = (
        TestStream().add_elements([TimestampedValue('on time', 1)]).advance_watermark_to(100).add_elements(
            [TimestampedValue('late', 2), TimestampedValue('on time', 101)]).advance_watermark_to_infinity())
    p = self.pipeline()
    grouped = (
        p | stream | beam.Map(lambda word: (word, 1)) | beam.WindowInto(window.FixedWindows(10)) | beam.GroupByKey()
        | beam.MapTuple(lambda key, values: (key, len(list(values)))))
    assert_that(grouped, equal_to([('on time', 1), ('on time', 1)]))
    result = p.run()
    self.assertEqual(result.wait_until_finish(), 'DONE')
    # pylint: disable=protected-access
    metrics = result._job_service.GetJobMetrics(beam_job_api_pb2.GetJobMetricsRequest(job_id=result._job_id)).metrics
    dropped = [info for info in metrics.attempted if info.labels.get('NAME') == 'droppedDueToLateness']
    self.assertEqual([info.payload for info in dropped], [b'\x01'])

  def test_panes(self):
    stream = (
        TestStream().add_elements([TimestampedValue(1, 1)]).add_elements([TimestampedValue(2, 2)]).add_elements(
            [TimestampedValue(3, 3)]).advance_watermark_to(10).add_elements([TimestampedValue(4, 4)
                                                                             ]).advance_watermark_to_infinity())
    fire = trigger.AfterWatermark(early=trigger.AfterCount(2), late=trigger.AfterCount(1))

    def tell(pair, pane=beam.DoFn.PaneInfoParam):
      return sorted(pair[1]), PaneInfoTiming.to_string(pane.timing), pane.index, pane.nonspeculative_index, pane.is_first

    with self.pipeline() as p:
      panes = (
          p | stream | beam.Map(lambda value: ('key', value)) | beam.WindowInto(
              window.FixedWindows(10), trigger=fire, accumulation_mode=trigger.AccumulationMode.ACCUMULATING,
              allowed_lateness=100) | beam.GroupByKey() | beam.Map(tell)
          | 'globally' >> beam.WindowInto(window.GlobalWindows()))
      assert_that(
          panes,
          equal_to([([1, 2], 'EARLY', 0, -1, True), ([1, 2, 3], 'ON_TIME', 1, 0, False),
                    ([1, 2, 3, 4], 'LATE', 2, 1, False),
                    # Python asks for a pane when a window closes, be it empty.
                    ([1, 2, 3, 4], 'LATE', 3, 2, False)]))

  # Side inputs of a stream.

  def streams(self):
    return TestStream(output_tags=['main', 'side'])

  def looked(self, stream, windows, then=beam.Map(lambda value: value)):
    """The main elements beside what they found in the side input, whose panes are made by `then`.

    It is read as an iterable, anew at each look: of side inputs in global windows the SDK keeps what it made of them for
    the first element for as long as it keeps the DoFn (`has_windowed_inputs` in runners/common.py).
    """
    name = self.name
    with self.pipeline() as p:
      streams = p | stream
      side = streams['side'] | 'windows of the side' >> windows | 'panes' >> then
      (  # pylint: disable=expression-not-assigned
          streams['main'] | 'windows' >> beam.WindowInto(windows.windowing.windowfn)
          | 'look' >> beam.Map(lambda main, side: see(name, (main, list(side))), pvalue.AsIter(side)))
    return SEEN[name]

  def test_side_input_is_updated(self):
    windows = beam.WindowInto(
        window.GlobalWindows(), trigger=trigger.Repeatedly(trigger.AfterCount(1)),
        accumulation_mode=trigger.AccumulationMode.DISCARDING)
    stream = self.streams()
    stream.add_elements([1], tag='side').add_elements(['a'], tag='main')
    stream.add_elements([2], tag='side').add_elements(['b'], tag='main')
    stream.advance_watermark_to_infinity(tag='side').advance_watermark_to_infinity(tag='main')
    # Elements that meet in a pane replace those of the pane before. The last pane, of the window's end, has none.
    greatest = beam.CombineGlobally(lambda values: max(values, default=0)).without_defaults()
    looked = self.looked(stream, windows, greatest)
    self.assertEqual(looked, [('a', [1]), ('b', [2])])

  def test_main_input_waits_for_the_side(self):
    stream = self.streams()
    stream.add_elements([TimestampedValue('main', 1)], tag='main').advance_watermark_to(20, tag='main')
    stream.add_elements([TimestampedValue('side', 2)], tag='side').advance_watermark_to_infinity(tag='side')
    stream.advance_watermark_to_infinity(tag='main')
    looked = self.looked(stream, beam.WindowInto(window.FixedWindows(10)))
    self.assertEqual(looked, [('main', ['side'])])

  def test_side_input_that_never_comes(self):
    stream = self.streams()
    stream.add_elements([TimestampedValue('main', 1)], tag='main').advance_watermark_to(20, tag='side')
    stream.advance_watermark_to_infinity(tag='main').advance_watermark_to_infinity(tag='side')
    looked = self.looked(stream, beam.WindowInto(window.FixedWindows(10)))
    self.assertEqual(looked, [('main', [])])

  def test_combines_read_side_inputs(self):
    def bounded(values, most):
      return min(sum(values), most)

    with self.pipeline() as p:
      most = pvalue.AsSingleton(p | 'most' >> beam.Create([5]))
      pairs = p | 'pairs' >> beam.Create([('few', 1), ('few', 2), ('many', 4), ('many', 4)])
      expected = equal_to([('few', 3), ('many', 5)])
      assert_that(pairs | beam.CombinePerKey(bounded, most), expected, label='per key')
      assert_that(pairs | beam.GroupByKey() | beam.CombineValues(bounded, most), expected, label='grouped values')
      assert_that(pairs | beam.Values() | beam.CombineGlobally(bounded, most), equal_to([5]), label='globally')

  # Batches.

  def test_batches_with_sharded_keys(self):
    stream = TestStream()
    for value in range(6):
      stream.add_elements([('key', value)])
    stream.advance_watermark_to_infinity()
    with self.pipeline() as p:
      batches = (
          p | stream | beam.Map(lambda pair: pair).with_output_types(tuple[str, int])
          | beam.GroupIntoBatches.WithShardedKey(2) | beam.FlatMapTuple(lambda key, values: values))
      assert_that(batches, equal_to(list(range(6))))


if __name__ == '__main__':
  unittest.main()
