"""A job that is disturbed while it runs."""
import logging
import random

import grpc
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.portability.api import beam_job_api_pb2
from apache_beam.portability.api import beam_job_api_pb2_grpc

import service

OVER = ('DONE', 'FAILED', 'CANCELLED', 'DRAINED')


def options(serving, name, *more):
  """Of a job with frequent checkpoints, and user code in this process unless it is said where."""
  if not any(option.startswith('--environment_type') for option in more):
    more = ['--environment_type=LOOPBACK', *more]
  return PipelineOptions([
      '--runner=PortableRunner', '--job_endpoint=%s' % serving.endpoint, '--job_name=%s' % name,
      '--checkpointing_interval=100', '--execution_retry_delay=20',
      '--experiments=disable_logging_submission_environment', *more
  ])


class Job:
  """One that runs."""

  def __init__(self, serving, pipeline, context, seed, limit=service.LIMIT):
    """The context is that of its pieces; nothing that is waited for takes longer than `limit`."""
    self.service, self.context, self.random, self.limit = serving, context, random.Random(seed), limit
    self.result = pipeline.run()
    self.kills = 0

  # pylint: disable=protected-access

  def move(self, serving):
    """Another service has the job now."""
    self.service = serving
    self.result._job_service = beam_job_api_pb2_grpc.JobServiceStub(grpc.insecure_channel(serving.endpoint))

  def states(self):
    """The states that the job has been in, when it is over."""
    request = beam_job_api_pb2.GetJobStateRequest(job_id=self.result._job_id)
    stream = self.result._job_service.GetStateStream(request)
    return [beam_job_api_pb2.JobState.Enum.Name(each.state) for each in stream]

  def state(self):
    """Where the job is now."""
    request = beam_job_api_pb2.GetJobStateRequest(job_id=self.result._job_id)
    return beam_job_api_pb2.JobState.Enum.Name(self.result._job_service.GetState(request).state)

  def messages(self):
    """All that the job has said: when it is over."""
    request = beam_job_api_pb2.JobMessagesRequest(job_id=self.result._job_id)
    stream = self.result._job_service.GetMessageStream(request)
    return [each.message_response.message_text for each in stream if each.HasField('message_response')]

  def counters(self, name):
    """The values of the user's counters of that name, attempted and committed."""
    request = beam_job_api_pb2.GetJobMetricsRequest(job_id=self.result._job_id)
    metrics = self.result._job_service.GetJobMetrics(request).metrics
    return [[int.from_bytes(_plain(info.payload), 'little') for info in infos if info.labels.get('NAME') == name]
            for infos in (metrics.attempted, metrics.committed)]

  def over(self):
    return self.state() in OVER

  def reached(self, value):
    """Waits until it is true. False: the job is over before."""
    def look():
      self.service.check_alive()
      return 'true' if value() else 'over' if self.over() else ''

    return service.wait_for('more work of the job', look, self.limit) == 'true'

  def worked(self, calls, checkpoints=0):
    """Waits for so many more checkpoints, and then until sources were called so often more. False: it is over."""
    for _ in range(checkpoints):
      last = self.service.checkpoint()
      if not self.reached(lambda last=last: self.service.checkpoint() > last):
        return False
    calls += self.context.progress()
    return self.reached(lambda: self.context.progress() >= calls)

  def kill(self, victims=None):
    """Kills one of `victims()`, which are the processes of the job unless told otherwise. False: the job is over."""
    found = []
    if not self.reached(lambda: found.extend((victims or self.service.workers)()) or found):
      return False
    victim = self.random.choice(sorted(found))
    if service.kill(victim):
      self.kills += 1
      logging.warning('killed process %d, of %s', victim, found)
    return True

  def disturb(self, kills, victims=None, most=12):
    """Kills so often, at a random time after another checkpoint, or now and then at any time.

    Each time there is work.
    """
    for at in range(kills):
      self.context.hold(at + 1, kills + 1)
      checkpoints = int(self.random.random() < 0.8)
      if not self.worked(self.random.randint(0, most), checkpoints) or not self.kill(victims):
        return

  def end(self):
    """The state in which it ended."""
    service.wait_for('the end of the job', self.over, self.limit)
    return self.state()

  def cancel(self):
    if not self.over():
      self.result.cancel()


def _plain(varint):
  """A varint's value, as bytes."""
  value = 0
  for at, byte in enumerate(varint):
    value |= (byte & 0x7F) << (7 * at)
  return value.to_bytes(8, 'little')
