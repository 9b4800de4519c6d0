"""Streaming pipelines that are measured, and what comes out of them.

User code runs in the process that measures (LOOPBACK), which finds here what has arrived.
"""
import hashlib
import sys
import threading
import time

import apache_beam as beam
from apache_beam.coders import BytesCoder, VarIntCoder
from apache_beam.io.restriction_trackers import OffsetRange, OffsetRestrictionTracker
from apache_beam.io.watermark_estimators import ManualWatermarkEstimator
from apache_beam.transforms import userstate, window
from apache_beam.transforms.window import TimestampedValue
from apache_beam.utils.timestamp import Duration, Timestamp

# Of a source that is as fast as it can be a window has so many elements, of so many keys.
WINDOW, KEYS = 2000, 100
# Event time between two numbers.
APART = 1000  # microseconds
VALUE = 1024  # bytes
NUMBER = 8  # bytes, of those of a value


class Arrived:
  """What sinks were given."""

  def __init__(self):
    self.lock = threading.Lock()
    self.count = 0
    # When a source was called first, and when a sink was given something last.
    self.begun = self.last = None
    # When each instance of a sink was made, and when it was given something first.
    self.first = []
    # (time, when the sink was made, number, seconds since it was emitted, seconds since it was due)
    self.noted = []

  def begin(self):
    self.begun = self.begun or time.time()

  def add(self, count):
    with self.lock:
      self.count += count
      self.last = time.time()

  def since(self, then):
    """When a sink that was made after `then` was given something first: what came out of the job's next attempt."""
    return min((at for born, at in list(self.first) if born > then), default=None)


ARRIVED = Arrived()


class Asked:
  """What `OnDemand` is to emit, and what has become of it."""
  goal = 0
  # The number of keys: the first so many numbers make one each, later ones change one each.
  keys = 1
  wrong = []


class Numbers(beam.RestrictionProvider):
  """Of (end, ...): the numbers up to there, some a call."""
  def initial_restriction(self, element):
    return OffsetRange(0, element[0])

  def create_tracker(self, restriction):
    return OffsetRestrictionTracker(restriction)

  def restriction_size(self, element, restriction):
    return 1

  def truncate(self, element, restriction):
    """Nothing is left to do when the job drains."""
    return None


class AsFastAsItCan(beam.DoFn):
  """Of (end, batch): emits so many numbers a call, under their keys, and hands back control at once."""
  @beam.DoFn.unbounded_per_element()
  def process(
      self, element, tracker=beam.DoFn.RestrictionParam(Numbers()),
      estimator=beam.DoFn.WatermarkEstimatorParam(ManualWatermarkEstimator.default_provider())):
    first = tracker.current_restriction().start
    ARRIVED.begin()
    for number in range(first, first + element[1]):
      if not tracker.try_claim(number):
        return
      yield TimestampedValue((number % KEYS, number), Timestamp(micros=number * APART))
    estimator.set_watermark(Timestamp(micros=(first + element[1]) * APART))
    tracker.defer_remainder()


class Paced(beam.DoFn):
  """Of (end, start, interval): number n is due so many intervals after the start. What is overdue comes at once.

  Emits (key, (number, when it was due, when it was emitted)).
  """
  @beam.DoFn.unbounded_per_element()
  def process(
      self, element, tracker=beam.DoFn.RestrictionParam(Numbers()),
      estimator=beam.DoFn.WatermarkEstimatorParam(ManualWatermarkEstimator.default_provider())):
    _, start, interval = element
    number = tracker.current_restriction().start
    while (due := start + number * interval) <= time.time():
      if not tracker.try_claim(number):
        return
      yield TimestampedValue((number % KEYS, (number, due, time.time())), Timestamp(due))
      number += 1
    estimator.set_watermark(Timestamp(due))
    tracker.defer_remainder(Duration(max(due - time.time(), 0.001)))


class OnDemand(beam.DoFn):
  """Of (end, batch): emits the numbers up to `Asked.goal`, under their keys, at most so many a call."""
  @beam.DoFn.unbounded_per_element()
  def process(self, element, tracker=beam.DoFn.RestrictionParam(Numbers())):
    first = tracker.current_restriction().start
    end = min(first + element[1], Asked.goal)
    for number in range(first, end):
      if not tracker.try_claim(number):
        return
      yield key_of(number), number
    tracker.defer_remainder(Duration(0 if end < Asked.goal else 0.02))


class CountByKey(beam.DoFn):
  """Counts the values of each key, and gives each on."""
  COUNT = userstate.ReadModifyWriteStateSpec('count', VarIntCoder())

  def process(self, pair, count=beam.DoFn.StateParam(COUNT)):
    count.write((count.read() or 0) + 1)
    yield pair[1]


def key_of(number):
  """Keys that change are spread over all."""
  return number if number < Asked.keys else number * 1_000_003 % Asked.keys


def value_of(number):
  """Bytes that cannot be compressed, and that tell which they must be."""
  return number.to_bytes(NUMBER, 'big') + hashlib.shake_128(b'%d' % number).digest(VALUE - NUMBER)


class KeepLast(beam.DoFn):
  """Keeps the value of the last number of each key; one that is replaced must be what was kept.

  In a bag: to add the first value takes one request to the runner.
  """
  KEPT = userstate.BagStateSpec('kept', BytesCoder())

  def process(self, pair, kept=beam.DoFn.StateParam(KEPT)):
    key, number = pair
    if number >= Asked.keys:
      self.check(key, list(kept.read()))
      kept.clear()
    kept.add(value_of(number))
    yield number

  def check(self, key, before):
    numbers = [int.from_bytes(value[:NUMBER], 'big') for value in before]
    if len(numbers) != 1 or key_of(numbers[0]) != key or [value_of(numbers[0])] != before:
      Asked.wrong.append('key %d has the values of %s' % (key, numbers))


class Sink(beam.DoFn):
  """Counts what arrives."""
  def setup(self):
    # pylint: disable=attribute-defined-outside-init
    self.born, self.begun = time.time(), False

  def arrive(self, count):
    ARRIVED.add(count)
    if not self.begun:
      self.begun = True
      ARRIVED.first.append((self.born, time.time()))

  def process(self, _):
    self.arrive(1)


class SinkOfGroups(Sink):
  """Counts what arrives in groups."""
  def process(self, group):
    self.arrive(sum(1 for _ in group[1]))


class SinkWithTimes(Sink):
  """Notes how late each is."""
  def process(self, paced):
    number, due, emitted = paced
    now = time.time()
    ARRIVED.noted.append((now, self.born, number, now - emitted, now - due))
    self.arrive(1)


Pairs = tuple[int, int]
Paces = tuple[int, tuple[int, float, float]]
ENDLESS = sys.maxsize


def keyed_state(pipeline, elements, batch, parts):
  """Numbers through keyed state."""
  (  # pylint: disable=expression-not-assigned
      fast(pipeline, elements, batch, parts) | beam.ParDo(CountByKey()) | 'shuffled' >> beam.Reshuffle()
      | beam.ParDo(Sink()))


def windows(pipeline, elements, batch, parts):
  """Numbers grouped by key in fixed windows."""
  (  # pylint: disable=expression-not-assigned
      fast(pipeline, elements, batch, parts) | beam.WindowInto(window.FixedWindows(WINDOW * APART / 1e6))
      | beam.GroupByKey() | beam.ParDo(SinkOfGroups()))


def fast(pipeline, elements, batch, parts):
  """Sources side by side, of so many elements together."""
  return (
      pipeline | beam.Create([(elements // parts, batch)] * parts) | beam.Reshuffle()
      | beam.ParDo(AsFastAsItCan()).with_output_types(Pairs))


def paced(pipeline, interval):
  """Elements at a steady rate through keyed state and a shuffle, each with its time."""
  (  # pylint: disable=expression-not-assigned
      slow(pipeline, interval) | beam.ParDo(CountByKey()) | 'shuffled' >> beam.Reshuffle()
      | beam.ParDo(SinkWithTimes()))


def steady(pipeline, interval):
  """Elements at a steady rate, for hours, through keyed state and through windows."""
  numbers = slow(pipeline, interval)
  numbers | beam.ParDo(CountByKey()) | beam.ParDo(Sink())  # pylint: disable=expression-not-assigned
  (  # pylint: disable=expression-not-assigned
      numbers | beam.WindowInto(window.FixedWindows(2)) | beam.GroupByKey() | 'groups' >> beam.ParDo(SinkOfGroups()))


def slow(pipeline, interval):
  """A source at a steady rate, which begins a second from now."""
  return (
      pipeline | beam.Impulse() | beam.Map(lambda _: (ENDLESS, time.time() + 1, interval))
      | beam.ParDo(Paced()).with_output_types(Paces))


def large_state(pipeline):
  """As much keyed state as `Asked` says."""
  (  # pylint: disable=expression-not-assigned
      pipeline | beam.Create([(ENDLESS, 1000)]) | beam.ParDo(OnDemand()).with_output_types(Pairs)
      | beam.ParDo(KeepLast()) | beam.ParDo(Sink()))
