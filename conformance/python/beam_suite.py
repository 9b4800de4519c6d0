"""The Python SDK's own FnApiRunnerTest, no test excluded, against the endpoint in JOB_ENDPOINT, bounded and streaming.

User code runs in the lane's own process (LOOPBACK).
"""
import os
import time

import apache_beam as beam
from apache_beam.options import pipeline_options as po
from apache_beam.runners.portability import portable_runner, portable_runner_test
from apache_beam.runners.portability.fn_api_runner import fn_runner_test


class Bounded(fn_runner_test.FnApiRunnerTest):
  """The tests as they are."""
  streaming = False

  def create_options(self, is_drain=False):
    options = po.PipelineOptions.from_dictionary({
        'job_name': '%s_%s' % (self._testMethodName, time.time()),
        # The tests of draining expect it to be on from the start, as the SDK's own runner has it.
        'ferrobeam_drain': is_drain,
    })
    portable = options.view_as(po.PortableOptions)
    portable.job_endpoint = os.environ['JOB_ENDPOINT']
    portable.environment_type = 'LOOPBACK'
    debug = options.view_as(po.DebugOptions)
    # The SDK's own portable runner tests set these two as well.
    for experiment in ('beam_fn_api', 'state_cache_size=100', 'data_buffer_time_limit_ms=1000'):
      debug.add_experiment(experiment)
    options.view_as(po.StandardOptions).streaming = self.streaming
    return options

  def create_pipeline(self, is_drain=False):
    return beam.Pipeline(portable_runner.PortableRunner(), self.create_options(is_drain))

  test_pardo_state_with_custom_key_coder = (
      portable_runner_test.PortableRunnerTest.test_pardo_state_with_custom_key_coder)


class Streaming(Bounded):
  """The same tests with the option `streaming`."""
  streaming = True
