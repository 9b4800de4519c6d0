"""One measured pipeline of the Python SDK: prints the seconds from submission to DONE.

    pipelines.py CASE RUNNER [ENDPOINT]

RUNNER is `endpoint`, or one of the SDK's own: `fnapi-grpc`, `fnapi-local`.
"""
import os
import statistics
import sys
import time

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.portability.fn_api_runner import fn_runner
from apache_beam.testing.util import assert_that, equal_to
from apache_beam.transforms import environments, userstate

ELEMENTS, KEYS, SIDE, COUNTED = 1_000_000, 1_000, 300_000, 50_000


def elements(_):
  value = b'x' * 100
  for i in range(ELEMENTS):
    yield i % KEYS, value


def length(values):
  return sum(1 for _ in values)


def impulse(p):
  p | beam.Impulse()  # pylint: disable=expression-not-assigned


def pardo(p):
  p | beam.Impulse() | beam.Map(len)  # pylint: disable=expression-not-assigned


def group(p):
  grouped = p | beam.Impulse() | beam.FlatMap(elements) | beam.GroupByKey() | beam.MapTuple(lambda k, vs: length(vs))
  assert_that(grouped, equal_to([ELEMENTS // KEYS] * KEYS))


def combine(p):
  counted = p | beam.Impulse() | beam.FlatMap(elements) | beam.combiners.Count.PerKey() | beam.Values()
  assert_that(counted, equal_to([ELEMENTS // KEYS] * KEYS))


def reshuffle(p):
  counted = p | beam.Impulse() | beam.FlatMap(elements) | beam.Reshuffle() | beam.combiners.Count.Globally()
  assert_that(counted, equal_to([ELEMENTS]))


def side_input(p):
  table = p | 'start table' >> beam.Impulse() | beam.FlatMap(lambda _: ((i, i) for i in range(SIDE)))
  found = p | beam.Impulse() | beam.Map(lambda _, table: (len(table), sum(table.values())), beam.pvalue.AsDict(table))
  assert_that(found, equal_to([(SIDE, SIDE * (SIDE - 1) // 2)]))


class CountInState(beam.DoFn):
  """Adds to a combining state and reads it, for every element."""
  COUNT = userstate.CombiningValueStateSpec('count', beam.coders.VarIntCoder(), beam.combiners.CountCombineFn())

  def process(self, element, count=beam.DoFn.StateParam(COUNT)):
    count.add(element)
    yield element[0], count.read()


def state(p):
  keyed = p | beam.Impulse() | beam.FlatMap(lambda _: ((i % KEYS, i) for i in range(COUNTED))).with_output_types(
      tuple[int, int])
  counted = keyed | beam.ParDo(CountInState()) | beam.CombinePerKey(max) | beam.Values()
  assert_that(counted, equal_to([COUNTED // KEYS] * KEYS))


CASES = {
    'impulse': impulse, 'pardo': pardo, 'group': group, 'combine': combine, 'reshuffle': reshuffle,
    'side-input': side_input, 'state': state
}


def measure(case, runner, endpoint):
  flags = []
  if runner == 'endpoint':
    flags = ['--runner=PortableRunner', '--job_endpoint=%s' % endpoint, '--environment_type=LOOPBACK',
             # Or the client runs `pip freeze` for every job, which takes longer than a small job.
             '--experiments=disable_logging_submission_environment']
    chosen = None
  elif runner == 'fnapi-grpc':
    chosen = fn_runner.FnApiRunner(default_environment=environments.EmbeddedPythonGrpcEnvironment.default())
  else:
    chosen = fn_runner.FnApiRunner(default_environment=environments.EmbeddedPythonEnvironment.default())
  pipeline = beam.Pipeline(runner=chosen, options=PipelineOptions(flags))
  CASES[case](pipeline)
  start = time.monotonic()
  result = pipeline.run()
  result.wait_until_finish()
  took = time.monotonic() - start
  if result.state != 'DONE':
    raise RuntimeError('the job ended as %s' % result.state)
  return took


def main(case, runner, endpoint=None):
  if case in ('impulse', 'pardo'):
    # The client's own first time is no runner's merit, and a small job is over soon enough to be run often.
    seconds = [measure(case, runner, endpoint) for _ in range(6)][1:]
    return statistics.median(seconds)
  return measure(case, runner, endpoint)


if __name__ == '__main__':
  print(main(*sys.argv[1:]), flush=True)
  os._exit(0)  # the loopback worker's threads would keep the process
