"""Writes bundle descriptors of small stages, made from pipelines of Beam's Python SDK, into a folder.

Each stage writes byte strings in the global window, between transforms named `source` and `sink`; it reads byte
strings, or pairs of them if it has state or timers. A side input has the local name written into its file of side
inputs, a timer family the id written into its file of timers.
"""

import os
import signal
import sys
import time

import apache_beam as beam
from apache_beam.coders import BytesCoder
from apache_beam.metrics import Metrics
from apache_beam.portability import common_urns
from apache_beam.portability.api import beam_fn_api_pb2
from apache_beam.portability.api import beam_runner_api_pb2
from apache_beam.transforms import userstate
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


def stages(root):
  yield 'upper', beam.Map(upper)
  yield 'fail', beam.Map(fail)
  yield 'die', beam.Map(die)
  yield 'leave', beam.Map(leave)
  yield 'count', beam.ParDo(Count())
  yield 'grow', beam.FlatMap(grow)
  yield 'wait', beam.Map(wait_for_file)
  yield 'log', beam.Map(log)
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
  descriptor = beam_fn_api_pb2.ProcessBundleDescriptor()
  descriptor.transforms['source'].CopyFrom(port(components, 'source', 'beam:runner:source:v1', main))
  descriptor.transforms['sink'].CopyFrom(port(components, 'sink', 'beam:runner:sink:v1', out))
  descriptor.transforms['step'].CopyFrom(transform)
  for id in {out, *transform.inputs.values()}:
    descriptor.pcollections[id].CopyFrom(components.pcollections[id])
  for kind in ('windowing_strategies', 'coders', 'environments'):
    for id, value in getattr(components, kind).items():
      getattr(descriptor, kind)[id].CopyFrom(value)
  return descriptor, sorted(payload.side_inputs), sorted(payload.timer_family_specs)


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
    descriptor, side_inputs, timers = describe(proto, f'_{name}_')
    with open(os.path.join(folder, name + '.descriptor'), 'wb') as file:
      file.write(descriptor.SerializeToString())
    with open(os.path.join(folder, name + '.side_inputs'), 'w') as file:
      file.write('\n'.join(side_inputs))
    with open(os.path.join(folder, name + '.timers'), 'w') as file:
      file.write('\n'.join(timers))


if __name__ == '__main__':
  main(sys.argv[1])
