"""Writes bundle descriptors of small stages, made from pipelines of Beam's Python SDK, into a folder.

Each stage writes byte strings in the global window, between transforms named `source` and `sink`; it reads byte
strings, or pairs of them if it has state or timers. A side input has the local name written into its file of side
inputs, a timer family the id written into its file of timers. A splittable stage processes sized restrictions; what it
can be given is in its file of elements, a line each, in hexadecimal.
"""

import os
import signal
import sys
import time

import apache_beam as beam
from apache_beam.coders import BytesCoder
from apache_beam.coders.coders import GlobalWindowCoder
from apache_beam.coders.coders import WindowedValueCoder
from apache_beam.io.restriction_trackers import OffsetRange
from apache_beam.io.restriction_trackers import OffsetRestrictionTracker
from apache_beam.io.watermark_estimators import ManualWatermarkEstimator
from apache_beam.metrics import Metrics
from apache_beam.portability import common_urns
from apache_beam.portability.api import beam_fn_api_pb2
from apache_beam.portability.api import beam_runner_api_pb2
from apache_beam.runners.pipeline_context import PipelineContext
from apache_beam.transforms import userstate
from apache_beam.transforms.core import RestrictionProvider
from apache_beam.transforms.window import GlobalWindows
from apache_beam.utils.timestamp import Duration
from apache_beam.utils.timestamp import Timestamp


def upper(element):
  return element.upper()


def fail(element):
  if element == b'fail':
    raise ValueError('the element told the stage to fail')
  return element


def die(element):
  if element == b'die':
    os.kill(os.getpid(), signal.SIGKILL)
  return element


def leave(element):
  if element == b'leave':
    print('leaving with a word', file=sys.stderr, flush=True)
    os._exit(7)
  return element


class Count(beam.DoFn):
  def __init__(self):
    self.counter = Metrics.counter('bridge', 'seen')

  def process(self, element):
    self.counter.inc()
    yield element


def grow(element):
  yield from (element for _ in range(64))


def wait_for_file(element):
  """Runs until the file named by the element exists."""
  while not os.path.exists(element.decode()):
    time.sleep(0.01)
  return element


def log(element):
  import logging
  logging.getLogger('bridge').warning('saw %s', element.decode())
  return element


class Finalize(beam.DoFn):
  def process(self, element, finalizer=beam.DoFn.BundleFinalizerParam):
    def callback():
      log(element)
      fail(element)
    finalizer.register(callback)
    yield element


class Remember(beam.DoFn):
  """Keeps what comes until a timer is fired; has another family that it clears and that never fires."""
  SEEN = userstate.BagStateSpec('seen', BytesCoder())
  TIMES = userstate.OrderedListStateSpec('times', BytesCoder())
  FIRE = userstate.TimerSpec('fire', userstate.TimeDomain.WATERMARK)
  OTHER = userstate.TimerSpec('other', userstate.TimeDomain.REAL_TIME)

  def process(
      self,
      element,
      seen=beam.DoFn.StateParam(SEEN),
      times=beam.DoFn.StateParam(TIMES),
      fire=beam.DoFn.TimerParam(FIRE),
      other=beam.DoFn.TimerParam(OTHER)):
    _, value = element
    if value == b'forget':
      seen.clear()
      times.clear_range(Timestamp(micros=1), Timestamp(micros=2))
    seen.add(value)
    times.add((Timestamp(micros=len(value)), value))
    fire.set(Timestamp(7), dynamic_timer_tag='tag')
    other.clear()

  @userstate.on_timer(FIRE)
  def fire(
      self,
      key=beam.DoFn.KeyParam,
      tag=beam.DoFn.DynamicTimerTagParam,
      seen=beam.DoFn.StateParam(SEEN),
      times=beam.DoFn.StateParam(TIMES)):
    in_order = (value for _, value in times.read())
    yield b' '.join([key, tag.encode(), b','.join(sorted(seen.read())), b','.join(in_order)])

  @userstate.on_timer(OTHER)
  def other(self):
    raise ValueError('nobody fires this')


class Ranges(RestrictionProvider):
  """Restrictions are made by hand, in `sized`."""
  def create_tracker(self, restriction):
    return OffsetRestrictionTracker(restriction)

  def restriction_size(self, element, restriction):
    return restriction.size()


class Positions(beam.DoFn):
  """Emits the element with each position of its range, slowly if it is the name of a file that does not exist.

  The element `pause` is left at its third position, to be gone on with later.
  """
  def process(
      self,
      element,
      tracker=beam.DoFn.RestrictionParam(Ranges()),
      watermark=beam.DoFn.WatermarkEstimatorParam(ManualWatermarkEstimator.default_provider())):
    position = tracker.current_restriction().start
    while tracker.try_claim(position):
      yield element + b' ' + str(position).encode()
      position += 1
      if element == b'pause' and position == 3:
        watermark.set_watermark(Timestamp(5))
        tracker.defer_remainder(Duration(1.5))
        return
      if element.startswith(b'/') and not os.path.exists(element.decode()):
        time.sleep(0.01)


# The first is slow until its file exists.
SIZED = [(os.path.join(sys.argv[1], 'go'), 300), ('pause', 6), ('last', 2)]


def sized(components, pcollection_id, restriction_coder_id):
  """Gives the collection the coder of sized restrictions, within a length prefix; returns encoded elements."""
  pcollection = components.pcollections[pcollection_id]

  def make(name, urn, *parts):
    components.coders[name].spec.urn = urn.urn
    components.coders[name].component_coder_ids.extend(parts)
    return name

  kv = common_urns.coders.KV
  pair = make('sized_pair', kv, pcollection.coder_id, restriction_coder_id)
  size = make('sized_size', common_urns.coders.DOUBLE)
  whole = make('sized', kv, pair, size)
  pcollection.coder_id = make('sized_prefixed', common_urns.coders.LENGTH_PREFIX, whole)
  context = PipelineContext(components)
  coder = WindowedValueCoder(context.coders[pcollection.coder_id], GlobalWindowCoder())
  for element, end in SIZED:
    value = ((element.encode(), (OffsetRange(0, end), None)), float(end))
    yield coder.get_impl().encode_nested(GlobalWindows.windowed_value(value, 0))


def stages(root):
  yield 'upper', beam.Map(upper)
  yield 'fail', beam.Map(fail)
  yield 'die', beam.Map(die)
  yield 'leave', beam.Map(leave)
  yield 'count', beam.ParDo(Count())
  yield 'grow', beam.FlatMap(grow)
  yield 'wait', beam.Map(wait_for_file)
  yield 'log', beam.Map(log)
  yield 'finalize', beam.ParDo(Finalize())
  yield 'positions', beam.ParDo(Positions())
  pairs = root | 'pairs' >> beam.Map(lambda x: (x, x)).with_output_types(tuple[bytes, bytes])
  yield 'remember', beam.ParDo(Remember()), pairs
  side = root | 'side' >> beam.Map(lambda x: x).with_output_types(bytes)
  yield 'join', beam.Map(
      lambda element, rest: element + b':' + b','.join(rest), rest=beam.pvalue.AsIter(side))


def windowed(components, coder_id, pcollection):
  strategy = components.windowing_strategies[pcollection.windowing_strategy_id]
  components.coders[coder_id].spec.urn = common_urns.coders.WINDOWED_VALUE.urn
  components.coders[coder_id].component_coder_ids.extend([pcollection.coder_id, strategy.window_coder_id])
  return beam_fn_api_pb2.RemoteGrpcPort(coder_id=coder_id).SerializeToString()


def port(components, name, urn, pcollection_id):
  spec = beam_runner_api_pb2.FunctionSpec(
      urn=urn, payload=windowed(components, name + '_coder', components.pcollections[pcollection_id]))
  ends = {'end': pcollection_id}
  return beam_runner_api_pb2.PTransform(
      unique_name=name,
      spec=spec,
      inputs=ends if name == 'sink' else {},
      outputs=ends if name == 'source' else {})


def describe(proto, step):
  components = beam_runner_api_pb2.Components()
  components.CopyFrom(proto.components)
  transform = next(
      transform for transform in components.transforms.values()
      if transform.unique_name.startswith(step) and transform.spec.urn == common_urns.primitives.PAR_DO.urn)
  payload = beam_runner_api_pb2.ParDoPayload.FromString(transform.spec.payload)
  main, = [pc for name, pc in transform.inputs.items() if name not in payload.side_inputs]
  out, = transform.outputs.values()
  elements = []
  if payload.restriction_coder_id:
    transform.spec.urn = common_urns.sdf_components.PROCESS_SIZED_ELEMENTS_AND_RESTRICTIONS.urn
    elements = list(sized(components, main, payload.restriction_coder_id))
  descriptor = beam_fn_api_pb2.ProcessBundleDescriptor()
  descriptor.transforms['source'].CopyFrom(port(components, 'source', 'beam:runner:source:v1', main))
  descriptor.transforms['sink'].CopyFrom(port(components, 'sink', 'beam:runner:sink:v1', out))
  descriptor.transforms['step'].CopyFrom(transform)
  for id in {out, *transform.inputs.values()}:
    descriptor.pcollections[id].CopyFrom(components.pcollections[id])
  for kind in ('windowing_strategies', 'coders', 'environments'):
    for id, value in getattr(components, kind).items():
      getattr(descriptor, kind)[id].CopyFrom(value)
  return descriptor, sorted(payload.side_inputs), sorted(payload.timer_family_specs), elements


def main(folder):
  pipeline = beam.Pipeline()
  root = pipeline | beam.Impulse()
  root.element_type = bytes
  names = []
  for name, transform, *read in stages(root):
    # `_` keeps a name from being another's beginning.
    _ = (read[0] if read else root) | f'_{name}_' >> transform.with_output_types(bytes)
    names.append(name)
  proto = pipeline.to_runner_api()
  for name in names:
    descriptor, side_inputs, timers, elements = describe(proto, f'_{name}_')
    with open(os.path.join(folder, name + '.descriptor'), 'wb') as file:
      file.write(descriptor.SerializeToString())
    with open(os.path.join(folder, name + '.side_inputs'), 'w') as file:
      file.write('\n'.join(side_inputs))
    with open(os.path.join(folder, name + '.timers'), 'w') as file:
      file.write('\n'.join(timers))
    with open(os.path.join(folder, name + '.elements'), 'w') as file:
      file.write('\n'.join(element.hex() for element in elements))


if __name__ == '__main__':
  main(sys.argv[1])
