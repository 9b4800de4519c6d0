"""Writes real pipelines, as Beam's Python SDK submits them, into the folder named on the command line.

Each function below builds one. `NAME.pb` is what the SDK makes of it by itself, `NAME.submitted.pb` what its portable
runner sends, after packing and lifting combines.
"""

import sys
import typing

import apache_beam as beam
from apache_beam import coders
from apache_beam.io.restriction_trackers import OffsetRange, OffsetRestrictionTracker
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.portability import python_urns
from apache_beam.runners.portability import portable_runner
from apache_beam.transforms import combiners, trigger, window
from apache_beam.transforms.userstate import (
    BagStateSpec, CombiningValueStateSpec, OrderedListStateSpec, ReadModifyWriteStateSpec, SetStateSpec, TimerSpec,
    on_timer)
from apache_beam.transforms.timeutil import TimeDomain
from apache_beam.testing.test_stream import TestStream


def wordcount(p):
  lines = p | 'Read' >> beam.Create(['to be', 'or not'])
  words = lines | 'Split' >> beam.FlatMap(str.split).with_output_types(str)
  counts = words | 'Count' >> combiners.Count.PerElement()
  counts | 'Format' >> beam.MapTuple(lambda w, n: '%s: %d' % (w, n)) | 'Write' >> beam.Map(print)


def grouping_chain(p):
  keyed = p | beam.Create([(1, 'a'), (2, 'b')]).with_output_types(tuple[int, str])
  once = keyed | 'Once' >> beam.GroupByKey()
  again = once | beam.MapTuple(lambda k, vs: (str(k), len(list(vs)))).with_output_types(tuple[str, int])
  again | 'Twice' >> beam.GroupByKey() | beam.Map(print)


def side_inputs(p):
  main = p | 'Main' >> beam.Create(range(10))
  side = p | 'Side' >> beam.Create([('a', 1), ('b', 2)])
  doubled = main | 'Double' >> beam.Map(lambda x: x * 2)
  (  # pylint: disable=expression-not-assigned
      main
      | 'All' >> beam.Map(
          lambda x, entries, values, one: (x, entries, list(values), one), beam.pvalue.AsMultiMap(side),
          beam.pvalue.AsIter(doubled),
          beam.pvalue.AsSingleton(doubled | beam.CombineGlobally(sum).without_defaults())))


def side_input_of_itself(p):
  """The main input's own stage gives the side input: neither may wait for the other."""
  numbers = p | beam.Create(range(10)) | 'Same' >> beam.Map(lambda x: x)
  total = numbers | 'Ten' >> beam.Map(lambda x: x * 10)
  first = numbers | 'First' >> beam.Map(lambda x, ten: (x, list(ten)), beam.pvalue.AsIter(total))
  total | 'Second' >> beam.Map(lambda x, first: (x, list(first)), beam.pvalue.AsIter(first))


def siblings(p):
  grouped = p | beam.Create([(1, 2)]) | beam.GroupByKey()
  grouped | 'Left' >> beam.Map(print)
  grouped | 'Right' >> beam.Map(print)
  grouped | 'Aside' >> beam.Map(lambda x: x) | 'Further' >> beam.Map(print)


def flatten_of_differing_coders(p):
  ints = p | 'Ints' >> beam.Create([1]).with_output_types(int)
  strings = p | 'Strings' >> beam.Create(['a']).with_output_types(str)
  (ints, strings, ints) | beam.Flatten() | beam.Map(print)


def flatten_of_nothing(p):
  () | beam.Flatten(pipeline=p) | beam.Map(print)


def sessions(p):
  (  # pylint: disable=expression-not-assigned
      p
      | beam.Create([('k', 1), ('k', 100)])
      | 'Stamp' >> beam.MapTuple(lambda k, t: window.TimestampedValue((k, t), t))
      | beam.WindowInto(
          window.Sessions(10), timestamp_combiner=window.TimestampCombiner.OUTPUT_AT_EARLIEST)
      | 'Sum' >> beam.CombinePerKey(sum)
      | beam.Map(print))


class Bucket(window.BoundedWindow):
  def __init__(self, end):
    super().__init__(end)
    self.name = 'bucket'

  def __eq__(self, other):
    return self.end == other.end

  def __hash__(self):
    return hash(self.end)


class BucketCoder(coders.Coder):
  def encode(self, value):
    return str(value.end.micros).encode()

  def decode(self, encoded):
    return Bucket(window.Timestamp(micros=int(encoded)))

  def is_deterministic(self):
    return True


class Buckets(window.NonMergingWindowFn):
  def assign(self, context):
    return [Bucket(context.timestamp + 1)]

  def get_window_coder(self):
    return BucketCoder()


class MergingBuckets(Buckets):
  def merge(self, merge_context):
    if len(merge_context.windows) > 1:
      merge_context.merge(merge_context.windows, max(merge_context.windows, key=lambda w: w.end))

  def is_merging(self):
    return True


def custom_windows(p):
  windowed = p | 'Main' >> beam.Create([('k', 1)]) | 'Assign' >> beam.WindowInto(Buckets())
  side = p | 'Side' >> beam.Create([('k', 1)]) | 'AssignSide' >> beam.WindowInto(Buckets())
  grouped = windowed | beam.GroupByKey()
  grouped | 'Look' >> beam.Map(lambda kv, side: print(kv, side), beam.pvalue.AsDict(side))


def side_windows(p):
  """Unbounded side inputs, of whose windows the runner has to know which is meant."""
  def stream(name, coder=coders.BytesCoder()):
    return p | name >> TestStream(coder).add_elements([b'x']).advance_watermark_to_infinity().with_output_types(bytes)

  main = stream('Main') | 'Hop' >> beam.WindowInto(window.SlidingWindows(20, 5, 1))
  fixed = stream('Fixed') | 'InFixed' >> beam.WindowInto(window.FixedWindows(10, 3))
  fine = stream('Fine') | 'InFine' >> beam.WindowInto(window.FixedWindows(window.Duration(micros=1500)))
  sliding = stream('Sliding') | 'InSliding' >> beam.WindowInto(window.SlidingWindows(20, 5))
  custom = stream('Custom') | 'InCustom' >> beam.WindowInto(Buckets())
  globally = stream('Global')
  main | 'Look' >> beam.Map(print, *[beam.pvalue.AsIter(side) for side in (fixed, fine, sliding, custom, globally)])


def custom_merging_windows(p):
  p | beam.Create([('k', 1)]) | beam.WindowInto(MergingBuckets()) | beam.GroupByKey() | beam.Map(print)


class CountProvider(beam.transforms.core.RestrictionProvider):
  def initial_restriction(self, element):
    return OffsetRange(0, element)

  def create_tracker(self, restriction):
    return OffsetRestrictionTracker(restriction)

  def restriction_size(self, element, restriction):
    return restriction.size()


class Count(beam.DoFn):
  def process(self, element, bias, tracker=beam.DoFn.RestrictionParam(CountProvider())):
    position = tracker.current_restriction().start
    while tracker.try_claim(position):
      yield position + len(bias)
      position += 1


def splittable(p):
  bias = p | 'Bias' >> beam.Create([1, 2])
  counted = p | beam.Create([5]) | 'Count' >> beam.ParDo(Count(), beam.pvalue.AsList(bias))
  counted | 'After' >> beam.Map(print)


class Statistics(beam.PTransform):
  """Combines of one input, which the SDK is asked to pack into one."""
  def annotations(self):
    return {python_urns.APPLY_COMBINER_PACKING: b''}

  def expand(self, keyed):
    keyed | 'Sum' >> beam.CombinePerKey(sum)
    return keyed | 'Mean' >> combiners.Mean.PerKey()


def packed_combines(p):
  keyed = p | beam.Create([('a', 1), ('b', 2)]).with_output_types(tuple[str, int])
  means = keyed | Statistics()
  means | beam.Values() | 'Most' >> beam.CombineGlobally(lambda values: max(values, default=0)).as_singleton_view()


def counting_trigger(p):
  (  # pylint: disable=expression-not-assigned
      p
      | beam.Create([('k', 1)])
      | beam.WindowInto(
          window.FixedWindows(10), trigger=trigger.Repeatedly(trigger.AfterCount(2)),
          accumulation_mode=trigger.AccumulationMode.DISCARDING)
      | 'Sum' >> beam.CombinePerKey(sum)
      | beam.Map(print))


def reshuffle(p):
  p | beam.Create([1, 2]) | beam.Reshuffle() | beam.Map(print)


def cogroup(p):
  left = p | 'Left' >> beam.Create([('k', 1)])
  right = p | 'Right' >> beam.Create([('k', 'x')])
  {'left': left, 'right': right} | beam.CoGroupByKey() | beam.Map(print)


def several_outputs(p):
  class Route(beam.DoFn):
    def process(self, element):
      yield element
      yield beam.pvalue.TaggedOutput('odd', element)

  outputs = p | beam.Create([1]) | beam.ParDo(Route()).with_outputs('odd', 'unread', main='even')
  outputs.even | 'Even' >> beam.Map(print)
  outputs.odd | 'Pair' >> beam.Map(lambda x: (x, x)) | beam.GroupByKey()


def rows(p):
  people = p | beam.Create([('ann', 1)]) | beam.MapTuple(lambda name, age: beam.Row(name=name, age=age))
  people | beam.GroupBy('name').aggregate_field('age', sum, 'ages') | beam.Map(print)


class Remember(beam.DoFn):
  BAG = BagStateSpec('bag', coders.VarIntCoder())
  SUM = CombiningValueStateSpec('sum', sum)
  LAST = ReadModifyWriteStateSpec('last', coders.PickleCoder())
  SEEN = SetStateSpec('seen', coders.StrUtf8Coder())
  ORDERED = OrderedListStateSpec('ordered', coders.BytesCoder())

  def process(
      self, element, bag=beam.DoFn.StateParam(BAG), total=beam.DoFn.StateParam(SUM),
      last=beam.DoFn.StateParam(LAST), seen=beam.DoFn.StateParam(SEEN), ordered=beam.DoFn.StateParam(ORDERED)):
    bag.add(element[1])
    yield element


class Wait(beam.DoFn):
  TIMER = TimerSpec('timer', TimeDomain.WATERMARK)
  TICK = TimerSpec('tick', TimeDomain.REAL_TIME)

  def process(self, element, timer=beam.DoFn.TimerParam(TIMER), tick=beam.DoFn.TimerParam(TICK)):
    timer.set(1)

  @on_timer(TIMER)
  def ring(self):
    yield 1

  @on_timer(TICK)
  def beat(self):
    yield 2


def stateful(p):
  """Two that keep state by the same key, one in a stage of its own behind the other, and a sibling that keeps none."""
  keyed = p | beam.Create([('k', 1)]).with_output_types(tuple[str, int])
  keyed | 'Aside' >> beam.Map(print)
  remembered = keyed | 'Remember' >> beam.ParDo(Remember()).with_output_types(tuple[str, int])
  remembered | 'Again' >> beam.ParDo(Remember()) | 'Behind' >> beam.Map(print)


def timers(p):
  """Keys that only Python can encode, in windows."""
  keyed = p | beam.Create([((1.5, 'k'), 1)]).with_output_types(tuple[tuple[typing.Any, str], int])
  windowed = keyed | beam.WindowInto(window.FixedWindows(10))
  windowed | 'Wait' >> beam.ParDo(Wait()) | beam.Map(print)


def batches(p):
  keyed = p | beam.Create([('k', 1)]).with_output_types(tuple[str, int])
  keyed | beam.GroupIntoBatches(10) | 'Print' >> beam.Map(print)
  keyed | 'Sharded' >> beam.GroupIntoBatches.WithShardedKey(10) | 'PrintSharded' >> beam.Map(print)


def streams(p):
  """Two that play in turn: one of the default coder, one of pairs that are grouped as they come."""
  p | 'Plain' >> TestStream().add_elements([1, 'two']).advance_watermark_to_infinity() | 'Print' >> beam.Map(print)
  (  # pylint: disable=expression-not-assigned
      p
      | 'Pairs' >> TestStream(coders.TupleCoder((coders.StrUtf8Coder(), coders.StrUtf8Coder()))).add_elements(
          [window.TimestampedValue(('k', 'v'), 1)]).advance_processing_time(5).advance_watermark_to(20).
      add_elements([('k', 'late')]).advance_watermark_to_infinity().with_output_types(tuple[str, str])
      | beam.WindowInto(
          window.FixedWindows(10), trigger=trigger.AfterWatermark(
              early=trigger.AfterProcessingTime(5), late=trigger.AfterCount(1)),
          accumulation_mode=trigger.AccumulationMode.ACCUMULATING, allowed_lateness=100)
      | beam.GroupByKey()
      | 'Groups' >> beam.Map(print))


def streams_of_several_outputs(p):
  """Grouped and kept by key straight from the source; a bounded main input reads an unbounded side input."""
  outputs = p | (
      TestStream(coders.TupleCoder((coders.VarIntCoder(), coders.BytesCoder()))).add_elements(
          [(1, b'x')], tag='left').advance_watermark_to(5, tag='right').advance_watermark_to_infinity(
              tag='left').advance_watermark_to_infinity(tag='right').with_output_types(tuple[int, bytes]))
  windowed = outputs['left'] | beam.WindowInto(window.FixedWindows(10))
  windowed | beam.GroupByKey()
  outputs['right'] | 'Remember' >> beam.ParDo(Remember())
  p | beam.Create([1]) | 'Look' >> beam.Map(lambda x, side: print(x, side), beam.pvalue.AsDict(outputs['left']))


def stream_from_a_service(p):
  p | TestStream(coder=coders.BytesCoder(), endpoint='localhost:1', output_tags={None}) | beam.Map(print)


def read(p):
  """A read, which Python takes apart into a splittable DoFn under the name of the deprecated primitive."""
  p | beam.io.ReadFromText(__file__) | beam.Map(print)


PIPELINES = [
    wordcount, read, grouping_chain, side_inputs, side_input_of_itself, siblings, flatten_of_differing_coders,
    flatten_of_nothing, sessions, custom_windows, side_windows, custom_merging_windows, splittable, packed_combines,
    counting_trigger, reshuffle, cogroup, several_outputs, rows, stateful, timers, batches, streams,
    streams_of_several_outputs, stream_from_a_service
]


def write(folder):
  for build in PIPELINES:
    for suffix, optimize in (('', 'none'), ('.submitted', 'default')):
      options = PipelineOptions([
          '--environment_type=EXTERNAL', '--environment_config=localhost:1', '--experiments=pre_optimize=' + optimize
      ])
      pipeline = beam.Pipeline(options=options)
      build(pipeline)
      proto = portable_runner.PortableRunner.get_proto_pipeline(pipeline, options)
      with open('%s/%s%s.pb' % (folder, build.__name__, suffix), 'wb') as file:
        file.write(proto.SerializeToString())


if __name__ == '__main__':
  write(sys.argv[1])
