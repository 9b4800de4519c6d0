"""What is measured: a Ferrobeam of our own, or another runner's job server; and jobs that run on it."""
import contextlib
import os
import pathlib
import subprocess
import sys
import time

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions

# At the end: modules of this folder come first.
sys.path.append(str(pathlib.Path(__file__).resolve().parents[2] / 'conformance' / 'python'))
import kills  # pylint: disable=wrong-import-position
import service  # pylint: disable=wrong-import-position

# Seconds that anything may take that is not itself a matter of size.
LIMIT = 180
# Seconds between two looks at a job's state, which cost the runner something.
LOOK = 1


class Ours(service.Service):
  """`ferrobeam serve`, with its storage of checkpoints in a temporary folder."""

  def __init__(self, settings):
    os.environ['FERROBEAM'] = settings.runner
    super().__init__(*settings.serve_arg)
    self.program = settings.runner
    self.pid = self._process.pid

  def kill(self):
    """Kills the job's process, as `kill -9` does."""
    for pid in service.wait_for('a job process', self.workers):
      service.kill(pid)

  def savepoint(self, job):
    """Has the job save its state now; gives the path."""
    command = [self.program, 'savepoint', '--endpoint', self.endpoint, job_id(job)]
    taken = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if taken.returncode:
      raise RuntimeError('no savepoint: %s%s' % (taken.stdout, taken.stderr))
    return taken.stdout.strip()

  def files(self, job):
    """The bytes of each file that the job has in the storage."""
    return sizes(self.storage / job_id(job) / 'files')


class Other:
  """Another runner's job server, which is there and stays."""

  def __init__(self, settings):
    self.endpoint, self.command = settings.endpoint, settings.kill

  def check_alive(self):
    """The job's own state must do."""

  def checkpoint(self):
    """How many there are is not known."""
    return None

  def kill(self):
    subprocess.run(self.command, shell=True, check=True)

  def stop(self):
    """It is not ours."""


@contextlib.contextmanager
def serving(settings):
  """The runner that is measured, for a while."""
  runner = Other(settings) if getattr(settings, 'endpoint', None) else Ours(settings)
  try:
    yield runner
  finally:
    runner.stop()


@contextlib.contextmanager
def started(runner, settings, build, *options):
  """A streaming job, with user code in this process; cancelled in the end."""
  more = ['--%s' % option for option in settings.option]
  pipeline = beam.Pipeline(options=PipelineOptions([
      '--runner=PortableRunner', '--job_endpoint=%s' % runner.endpoint, '--job_name=durability', '--streaming',
      '--environment_type=LOOPBACK', '--experiments=disable_logging_submission_environment', *options, *more
  ]))
  build(pipeline)
  job = kills.Job(runner, pipeline, None, 0, LIMIT)
  try:
    yield job
  finally:
    job.cancel()
    job.end()


def checkpoints_every(milliseconds):
  """The options of a job that takes checkpoints, or of one that takes none."""
  return ['--checkpointing_interval=%d' % milliseconds] if milliseconds else []


def job_id(job):
  return job.result._job_id  # pylint: disable=protected-access


def until(job, what, value, limit=LIMIT):
  """Waits for the first value that is true, and gives it. The job must not be over before."""
  end = time.monotonic() + limit
  look = 0.0
  while True:
    found = value()
    now = time.monotonic()
    if found:
      return found
    if now > look:
      job.service.check_alive()
      if job.over():
        raise RuntimeError('the job is %s: %s' % (job.state(), '\n'.join(job.messages())[-3000:]))
      look = now + LOOK
    if now > end:
      raise RuntimeError('%s never came, for %d s; the job is %s' % (what, limit, job.state()))
    time.sleep(0.01)


def sizes(folder):
  """The bytes of each file below a folder in which files come and go."""
  found = {}
  for parent, _, names in os.walk(folder):
    for name in names:
      path = os.path.join(parent, name)
      with contextlib.suppress(FileNotFoundError):
        found[path] = os.stat(path).st_size
  return found
