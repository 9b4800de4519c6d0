"""What a runner must refuse, sent straight to the Job API at the endpoint in JOB_ENDPOINT.

Every test spoils a good pipeline in one way and wants one of two ends: a call refused with a status that blames the
request, or a job that is FAILED with a message. Either has to name the culprit. Then a good pipeline must run to DONE.
"""
import concurrent.futures
import contextlib
import os
import socket
import threading
import unittest

import apache_beam as beam
import grpc
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.portability import common_urns
from apache_beam.portability.api import (
    beam_artifact_api_pb2_grpc, beam_fn_api_pb2, beam_fn_api_pb2_grpc, beam_job_api_pb2, beam_job_api_pb2_grpc,
    beam_runner_api_pb2)
from apache_beam.runners.portability import artifact_service
from apache_beam.runners.worker import worker_pool_main
from apache_beam.transforms import environments
from apache_beam.utils import thread_pool_executor

SERVICE = '/org.apache.beam.model.job_management.v1.JobService/'
TERMINAL = frozenset(
    getattr(beam_job_api_pb2.JobState, name) for name in ('DONE', 'FAILED', 'CANCELLED', 'DRAINED', 'UPDATED'))
BLAMES_THE_REQUEST = frozenset((
    grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.UNIMPLEMENTED, grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.NOT_FOUND, grpc.StatusCode.ALREADY_EXISTS, grpc.StatusCode.OUT_OF_RANGE))


class End:
  """How a submission ended: refused with a status, or in a state with messages."""
  def __init__(self, text, code=None, state=None):
    self.text, self.code, self.state = text, code, state

  def __str__(self):
    if self.code is not None:
      return 'refused, %s: %s' % (self.code.name, self.text)
    return 'job %s: %s' % (beam_job_api_pb2.JobState.Enum.Name(self.state), self.text or '(no message)')


class BadInput(unittest.TestCase):
  """The tests; each has a method of its own for how it spoils the pipeline."""
  @classmethod
  def setUpClass(cls):
    cls.channel = grpc.insecure_channel(os.environ['JOB_ENDPOINT'])
    cls.jobs = beam_job_api_pb2_grpc.JobServiceStub(cls.channel)
    cls.pool, cls.pool_server = worker_pool_main.BeamFnExternalWorkerPoolServicer.start()

  @classmethod
  def tearDownClass(cls):
    cls.pool_server.stop(0)
    cls.channel.close()

  def tearDown(self):
    end = self.submit(self.good())
    self.assertEqual(end.state, beam_job_api_pb2.JobState.DONE, 'a good pipeline afterwards: %s' % end)

  # The good pipeline, and how to submit one.

  def good(self, address=None):
    environment = environments.ExternalEnvironment(address or self.pool)
    pipeline = beam.Pipeline(options=PipelineOptions(['--environment_type=LOOPBACK']))
    (  # pylint: disable=expression-not-assigned
        pipeline | beam.Impulse() | beam.FlatMap(lambda _: [(i % 2, i) for i in range(10)]) | beam.GroupByKey()
        | beam.MapTuple(lambda k, vs: (k, sum(vs))))
    return pipeline.to_runner_api(default_environment=environment)

  def submit(self, proto, options=None):
    try:
      request = beam_job_api_pb2.PrepareJobRequest(job_name='job', pipeline=proto)
      request.pipeline_options.update(options or {})
      prepared = self.jobs.Prepare(request)
      artifact_service.offer_artifacts(
          beam_artifact_api_pb2_grpc.ArtifactStagingServiceStub(
              grpc.insecure_channel(prepared.artifact_staging_endpoint.url)),
          artifact_service.ArtifactRetrievalService(lambda path: open(path, 'rb')), prepared.staging_session_token)
      job_id = self.jobs.Run(beam_job_api_pb2.RunJobRequest(preparation_id=prepared.preparation_id)).job_id
    except grpc.RpcError as error:
      return End(error.details(), code=error.code())
    return self.end_of(job_id)

  def end_of(self, job_id):
    text, state = [], beam_job_api_pb2.JobState.UNSPECIFIED
    with contextlib.closing(_Stream(self.jobs.GetMessageStream(beam_job_api_pb2.JobMessagesRequest(job_id=job_id)))) as s:
      for event in s.events:
        if event.HasField('state_response'):
          state = event.state_response.state
          if state in TERMINAL:
            break
        elif event.message_response.importance >= beam_job_api_pb2.JobMessage.JOB_MESSAGE_ERROR:
          text.append(event.message_response.message_text)
    if state not in TERMINAL:
      state = self.jobs.GetState(beam_job_api_pb2.GetJobStateRequest(job_id=job_id)).state
    return End('\n'.join(text), state=state)

  def assert_refused(self, end, *culprits):
    if end.code is not None:
      self.assertIn(end.code, BLAMES_THE_REQUEST, str(end))
    else:
      self.assertEqual(end.state, beam_job_api_pb2.JobState.FAILED, str(end))
    for culprit in culprits:
      self.assertIn(culprit.lower(), (end.text or '').lower(), str(end))

  def transform_with(self, proto, urn):
    return next(t for t in proto.components.transforms.values() if t.spec.urn == urn)

  # Pipelines that make no sense.

  def test_unknown_transform(self):
    proto = self.good()
    self.transform_with(proto, 'beam:transform:pardo:v1').spec.urn = 'beam:transform:of_another_world:v1'
    self.assert_refused(self.submit(proto), 'beam:transform:of_another_world:v1')

  def test_unknown_requirement(self):
    proto = self.good()
    proto.requirements.append('beam:requirement:of_another_world:v1')
    self.assert_refused(self.submit(proto), 'beam:requirement:of_another_world:v1')

  def test_cyclic_graph(self):
    proto = self.good()
    grouping = self.transform_with(proto, 'beam:transform:group_by_key:v1')
    upstream = next(
        t for t in proto.components.transforms.values()
        if t.spec.urn == 'beam:transform:pardo:v1' and set(t.outputs.values()) & set(grouping.inputs.values()))
    downstream = next(
        t for t in proto.components.transforms.values()
        if t.spec.urn == 'beam:transform:pardo:v1' and set(t.inputs.values()) & set(grouping.outputs.values()))
    tag = next(iter(upstream.inputs))
    upstream.inputs[tag] = next(iter(downstream.outputs.values()))
    self.assert_refused(self.submit(proto), 'cycl')

  def test_missing_coder(self):
    proto = self.good()
    next(iter(proto.components.pcollections.values())).coder_id = 'coder_that_is_not_there'
    self.assert_refused(self.submit(proto), 'coder_that_is_not_there')

  def test_coder_that_contains_itself(self):
    proto = self.good()
    iterable = next((i, c) for i, c in proto.components.coders.items() if c.component_coder_ids)
    iterable[1].component_coder_ids[0] = iterable[0]
    self.assert_refused(self.submit(proto), iterable[0])

  def test_missing_pcollection(self):
    proto = self.good()
    grouping = self.transform_with(proto, 'beam:transform:group_by_key:v1')
    grouping.inputs[next(iter(grouping.inputs))] = 'pcollection_that_is_not_there'
    self.assert_refused(self.submit(proto), 'pcollection_that_is_not_there')

  def test_missing_windowing_strategy(self):
    proto = self.good()
    next(iter(proto.components.pcollections.values())).windowing_strategy_id = 'windowing_that_is_not_there'
    self.assert_refused(self.submit(proto), 'windowing_that_is_not_there')

  def test_missing_environment(self):
    proto = self.good()
    self.transform_with(proto, 'beam:transform:pardo:v1').environment_id = 'environment_that_is_not_there'
    self.assert_refused(self.submit(proto), 'environment_that_is_not_there')

  def test_composite_without_its_part(self):
    proto = self.good()
    next(t for t in proto.components.transforms.values() if t.subtransforms).subtransforms.append('part_that_is_not_there')
    self.assert_refused(self.submit(proto), 'part_that_is_not_there')

  def test_two_producers(self):
    proto = self.good()
    grouping = self.transform_with(proto, 'beam:transform:group_by_key:v1')
    impulse = self.transform_with(proto, 'beam:transform:impulse:v1')
    grouping.outputs[next(iter(grouping.outputs))] = next(iter(impulse.outputs.values()))
    self.assert_refused(self.submit(proto))

  def test_grouping_of_what_has_no_key(self):
    proto = self.good()
    grouping = self.transform_with(proto, 'beam:transform:group_by_key:v1')
    components = proto.components
    components.coders['bytes_coder'].spec.urn = 'beam:coder:bytes:v1'
    components.pcollections[next(iter(grouping.inputs.values()))].coder_id = 'bytes_coder'
    self.assert_refused(self.submit(proto))

  def test_empty_pipeline(self):
    end = self.submit(beam_runner_api_pb2.Pipeline())
    # Nothing to do may well be done.
    if end.state != beam_job_api_pb2.JobState.DONE:
      self.assert_refused(end)

  # Bytes that make no sense.

  def prepare_bytes(self, data):
    call = self.channel.unary_unary(
        SERVICE + 'Prepare', request_serializer=lambda raw: raw, response_deserializer=lambda raw: raw)
    with self.assertRaises(grpc.RpcError) as caught:
      call(data, timeout=60)
    self.assertNotIn(
        caught.exception.code(),
        (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED))
    self.assertTrue(caught.exception.details())

  def test_truncated_request(self):
    whole = beam_job_api_pb2.PrepareJobRequest(job_name='job', pipeline=self.good()).SerializeToString()
    for part in (len(whole) // 3, len(whole) // 2, len(whole) - 1):
      self.prepare_bytes(whole[:part])

  def test_garbage_request(self):
    self.prepare_bytes(bytes(range(255, 0, -1)) * 10)

  def test_truncated_pardo_payload(self):
    proto = self.good()
    pardo = self.transform_with(proto, 'beam:transform:pardo:v1')
    pardo.spec.payload = pardo.spec.payload[:len(pardo.spec.payload) // 2]
    self.assert_refused(self.submit(proto))

  def test_truncated_environment_payload(self):
    proto = self.good()
    for environment in proto.components.environments.values():
      environment.payload = b'\x0a\xff'
    self.assert_refused(self.submit(proto))

  def test_truncated_window_function(self):
    proto = self.good()
    for strategy in proto.components.windowing_strategies.values():
      strategy.window_fn.urn = common_urns.fixed_windows.urn
      strategy.window_fn.payload = b'\x0a'
    self.assert_refused(self.submit(proto))

  # Artifacts that would leave their folder.

  def test_artifact_outside_its_folder(self):
    secret = 'outside-%d' % os.getpid()
    for name in ('../../../../tmp/' + secret, '/tmp/' + secret, 'a/../../../../tmp/' + secret):
      proto = self.good()
      for environment in proto.components.environments.values():
        environment.dependencies.add(
            type_urn=common_urns.artifact_types.FILE.urn,
            type_payload=beam_runner_api_pb2.ArtifactFilePayload(path=__file__).SerializeToString(),
            role_urn=common_urns.artifact_roles.STAGING_TO.urn,
            role_payload=beam_runner_api_pb2.ArtifactStagingToRolePayload(staged_name=name).SerializeToString())
      self.assert_refused(self.submit(proto), name)
      self.assertFalse(os.path.exists('/tmp/' + secret))

  # Environments that are none.

  def test_environment_of_unknown_kind(self):
    proto = self.good()
    for environment in proto.components.environments.values():
      environment.urn = 'beam:env:of_another_world:v1'
    self.assert_refused(self.submit(proto), 'beam:env:of_another_world:v1')

  def test_environment_where_nobody_listens(self):
    with socket.create_server(('localhost', 0)) as listener:
      address = 'localhost:%d' % listener.getsockname()[1]
    self.assert_refused(self.submit(self.good(address)), address)

  def test_environment_that_never_answers(self):
    with socket.create_server(('localhost', 0)) as silent:
      address = 'localhost:%d' % silent.getsockname()[1]
      self.assert_refused(self.submit(self.good(address)), address)

  def test_environment_that_refuses(self):
    with _pool(lambda request: 'no worker today') as address:
      self.assert_refused(self.submit(self.good(address)), 'no worker today')

  def test_environment_that_never_dials_back(self):
    with _pool(lambda request: '') as address:
      self.assert_refused(self.submit(self.good(address)), address)

  def test_harness_that_hangs_up(self):
    def dial(request):
      threading.Thread(target=_speak, args=(request, [])).start()
      return ''

    with _pool(dial) as address:
      self.assert_refused(self.submit(self.good(address)))

  def test_harness_that_speaks_nonsense(self):
    def dial(request):
      threading.Thread(target=_speak, args=(request, [b'\xff\xff\xff\xff'] * 3)).start()
      return ''

    with _pool(dial) as address:
      self.assert_refused(self.submit(self.good(address)))

  # Calls about jobs that are not.

  def assert_status(self, call, *codes):
    with self.assertRaises(grpc.RpcError) as caught:
      answer = call()
      list(answer) if hasattr(answer, '__iter__') else None  # pylint: disable=expression-not-assigned
    self.assertIn(caught.exception.code(), codes, caught.exception.details())
    self.assertTrue(caught.exception.details())

  def test_unknown_job(self):
    api, stubs = beam_job_api_pb2, self.jobs
    not_found = grpc.StatusCode.NOT_FOUND
    self.assert_status(lambda: stubs.Run(api.RunJobRequest(preparation_id='none such')), not_found)
    self.assert_status(lambda: stubs.GetState(api.GetJobStateRequest(job_id='none such')), not_found)
    self.assert_status(lambda: stubs.Cancel(api.CancelJobRequest(job_id='none such')), not_found)
    self.assert_status(lambda: stubs.Drain(api.DrainJobRequest(job_id='none such')), not_found)
    self.assert_status(lambda: stubs.GetPipeline(api.GetJobPipelineRequest(job_id='none such')), not_found)
    self.assert_status(lambda: stubs.GetJobMetrics(api.GetJobMetricsRequest(job_id='none such')), not_found)
    self.assert_status(lambda: stubs.GetStateStream(api.GetJobStateRequest(job_id='none such')), not_found)
    self.assert_status(lambda: stubs.GetMessageStream(api.JobMessagesRequest(job_id='none such')), not_found)

  def test_run_twice(self):
    prepared = self.jobs.Prepare(beam_job_api_pb2.PrepareJobRequest(job_name='job', pipeline=self.good()))
    artifact_service.offer_artifacts(
        beam_artifact_api_pb2_grpc.ArtifactStagingServiceStub(
            grpc.insecure_channel(prepared.artifact_staging_endpoint.url)),
        artifact_service.ArtifactRetrievalService(lambda path: open(path, 'rb')), prepared.staging_session_token)
    request = beam_job_api_pb2.RunJobRequest(preparation_id=prepared.preparation_id)
    job_id = self.jobs.Run(request).job_id
    self.assert_status(
        lambda: self.jobs.Run(request), grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.ALREADY_EXISTS,
        grpc.StatusCode.NOT_FOUND)
    self.assertEqual(self.end_of(job_id).state, beam_job_api_pb2.JobState.DONE)

  def test_unknown_staging_token(self):
    prepared = self.jobs.Prepare(beam_job_api_pb2.PrepareJobRequest(job_name='job', pipeline=self.good()))
    stub = beam_artifact_api_pb2_grpc.ArtifactStagingServiceStub(
        grpc.insecure_channel(prepared.artifact_staging_endpoint.url))
    service = artifact_service.ArtifactRetrievalService(lambda path: open(path, 'rb'))
    self.assert_status(
        lambda: artifact_service.offer_artifacts(stub, service, 'none such'), grpc.StatusCode.NOT_FOUND,
        grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNAUTHENTICATED)


class _Stream:
  """A server's stream that is cancelled when it is left."""
  def __init__(self, events):
    self.events = events

  def close(self):
    self.events.cancel()


class _Pool(beam_fn_api_pb2_grpc.BeamFnExternalWorkerPoolServicer):
  def __init__(self, start):
    self.start = start

  def StartWorker(self, request, context):
    return beam_fn_api_pb2.StartWorkerResponse(error=self.start(request))

  def StopWorker(self, request, context):
    return beam_fn_api_pb2.StopWorkerResponse()


@contextlib.contextmanager
def _pool(start):
  """A worker pool that does as `start` says, which returns the error of StartWorker's answer."""
  server = grpc.server(thread_pool_executor.shared_unbounded_instance())
  beam_fn_api_pb2_grpc.add_BeamFnExternalWorkerPoolServicer_to_server(_Pool(start), server)
  port = server.add_insecure_port('localhost:0')
  server.start()
  try:
    yield 'localhost:%d' % port
  finally:
    server.stop(0)


def _speak(request, words):
  """Dials the control endpoint as the worker that was asked for, says these bytes and hangs up."""
  with grpc.insecure_channel(request.control_endpoint.url) as channel:
    call = channel.stream_stream(
        '/org.apache.beam.model.fn_execution.v1.BeamFnControl/Control',
        request_serializer=lambda raw: raw, response_deserializer=lambda raw: raw)
    with contextlib.suppress(grpc.RpcError, concurrent.futures.TimeoutError):
      for _ in call(iter(words), metadata=(('worker_id', request.worker_id), ), timeout=30):
        pass
