"""A job service of a test's own, whose processes may be killed: FERROBEAM is the program.

A test that kills must know whose process it kills, so it does not share a service with others.
"""
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import tempfile
import time

# How long anything that a test waits for may take on a busy machine.
LIMIT = 80
LISTENING = '0A'
CHECKPOINT = b'"entry":{"checkpoint":'
PR_SET_PDEATHSIG = 1

# Starts Python's harness, as the command of a PROCESS environment.
BOOT = '''#!/bin/sh
for flag in "$@"; do
  case "$flag" in
    --id=*) export WORKER_ID="${flag#*=}";;
    --control_endpoint=*) export CONTROL_API_SERVICE_DESCRIPTOR="url: \\"${flag#*=}\\"";;
    --logging_endpoint=*) export LOGGING_API_SERVICE_DESCRIPTOR="url: \\"${flag#*=}\\"";;
  esac
done
%s
export PIPELINE_OPTIONS='{}' SEMI_PERSISTENT_DIRECTORY="$PWD"
exec "%s" -m apache_beam.runners.worker.sdk_worker_main
'''

# The same of a program that was written with Go's SDK.
GO_BOOT = '''#!/bin/sh
for flag in "$@"; do
  case "$flag" in
    --id=*|--control_endpoint=*|--logging_endpoint=*) set -- "$@" "$flag";;
  esac
  shift
done
exec "%s" --worker --semi_persist_dir="$PWD" "$@"
'''


# Becomes the command that it is given, which ends with its parent: a driver that is killed leaves no service behind. It is
# no `preexec_fn`, because Python forks for that, and the child of a process with gRPC's threads may hang in gRPC's handlers
# of forks (seen with gRPC 1.85.3).
ENDS_WITH_ITS_PARENT = 'import ctypes, os, sys; ctypes.CDLL(None).prctl(%d, %d); os.execvp(sys.argv[1], sys.argv[1:])'


def started(command, **options):
  """A process that ends with this one."""
  boot = ENDS_WITH_ITS_PARENT % (PR_SET_PDEATHSIG, signal.SIGTERM)
  return subprocess.Popen([sys.executable, '-c', boot] + command, stdin=subprocess.DEVNULL, **options)


def process_environment(folder, first):
  """The options of an environment whose harnesses are processes, each of which runs the shell command `first` first."""
  return processes(folder, BOOT % (first, sys.executable))


def go_environment(folder, program):
  """The options of an environment whose harnesses are processes of this program, which was written with Go's SDK. It would
  compile itself again if it were not told where it is."""
  return [*processes(folder, GO_BOOT % program), '--worker_binary=%s' % program]


def processes(folder, script):
  boot = folder / 'boot'
  boot.write_text(script)
  boot.chmod(0o755)
  return ['--environment_type=PROCESS', '--environment_config=%s' % json.dumps({'command': str(boot)})]


def free_port():
  with socket.socket() as found:
    found.bind(('127.0.0.1', 0))
    return found.getsockname()[1]


def stat(pid):
  """The fields of a process's `stat` after its name: its state, its parent and so on; none when it is gone."""
  try:
    return pathlib.Path('/proc/%d/stat' % pid).read_text().rsplit(')', 1)[1].split()
  except (FileNotFoundError, ProcessLookupError):
    return []


def alive(pid):
  fields = stat(pid)
  return bool(fields) and fields[0] != 'Z'


def children(pid):
  found = [int(name) for name in os.listdir('/proc') if name.isdigit()]
  return [child for child in found if alive(child) and stat(child)[1:2] == [str(pid)]]


def listens(pid):
  """Whether a process has a TCP port."""
  try:
    sockets = {os.readlink(link.path) for link in os.scandir('/proc/%d/fd' % pid)}
    tables = [pathlib.Path('/proc/%d/net/%s' % (pid, table)).read_text() for table in ('tcp', 'tcp6')]
  except (FileNotFoundError, ProcessLookupError):
    return False
  lines = [line.split() for table in tables for line in table.splitlines()[1:]]
  return any(line[3] == LISTENING and 'socket:[%s]' % line[9] in sockets for line in lines)


class NeverCame(AssertionError):
  """What was waited for."""


def wait_for(what, value, limit=LIMIT):
  """The first value that is true."""
  until = time.monotonic() + limit
  while time.monotonic() < until:
    found = value()
    if found:
      return found
    time.sleep(0.02)
  raise NeverCame('%s never came, for %d s' % (what, limit))


class S3:
  """A folder as an S3 bucket: by versitygw, which FERROBEAM_S3 names. Objects are its files, so tests can look at them."""

  def __init__(self, bucket):
    port = free_port()
    self.url = 's3://%s' % bucket.name
    # None of it is a secret; without credentials a client asks a cloud's metadata service.
    access = {'AWS_ACCESS_KEY_ID': 'test', 'AWS_SECRET_ACCESS_KEY': 'test-test', 'AWS_REGION': 'us-east-1'}
    self.environment = dict(os.environ, AWS_ENDPOINT_URL='http://127.0.0.1:%d' % port, AWS_ALLOW_HTTP='true', **access)
    command = [os.environ['FERROBEAM_S3'], '--port=127.0.0.1:%d' % port, '--access=test', '--secret=test-test']
    self._process = started(command + ['posix', str(bucket.parent)], stdout=subprocess.DEVNULL)
    wait_for('the S3 gateway', lambda: listens(self._process.pid))

  def stop(self):
    self._process.terminate()
    self._process.wait()


class Service:
  """`ferrobeam serve` in a folder of its own, with a storage of jobs and checkpoints there, or in that of another."""

  def __init__(self, *flags, storage=None):
    self._temporary = tempfile.TemporaryDirectory(prefix='ferrobeam-durable-')
    self.folder = pathlib.Path(self._temporary.name)
    self.storage = storage or self.folder / 'checkpoints'
    self.storage.mkdir(exist_ok=True)
    (self.folder / 'temp').mkdir()
    self._s3 = None
    if 'FERROBEAM_S3' in os.environ:
      self._s3 = S3(self.storage)
    port, expansion = free_port(), free_port()
    self.endpoint, self.expansion = 'localhost:%d' % port, 'localhost:%d' % expansion
    self._command = [os.environ['FERROBEAM'], 'serve', '--job-port=%d' % port, '--artifact-port=0']
    self._command += ['--expansion-port=%d' % expansion]
    url = self._s3.url if self._s3 else 'file://%s' % self.storage
    self._command += ['--checkpoint-storage=%s' % url, '--temp-dir=%s' % (self.folder / 'temp')]
    self._command += flags
    self.log = self.folder / 'log'
    self.start()
    if not storage:
      self.wait()

  def start(self):
    """Starts it, or starts it again. One on the storage of another waits for that one's end before it listens."""
    with self.log.open('a') as log:
      environment = self._s3.environment if self._s3 else None
      self._process = started(self._command, stdout=log, stderr=subprocess.STDOUT, env=environment)

  def ask(self, command, *arguments):
    """Runs a command of the program that asks this service: what it prints, what it says beside that, and its exit status."""
    asked = [os.environ['FERROBEAM'], command, '--endpoint=%s' % self.endpoint, *arguments]
    return subprocess.run(asked, timeout=LIMIT, capture_output=True, text=True)

  def run(self, command, *arguments):
    """What such a command prints, which succeeds."""
    answer = self.ask(command, *arguments)
    assert answer.returncode == 0, '%s %s: %s' % (command, arguments, answer.stderr)
    return answer.stdout

  def wait(self):
    wait_for('the service', lambda: self.check_alive() or listens(self._process.pid))

  def is_listening(self):
    return listens(self._process.pid)

  def kill(self):
    """Kills it. Its job processes end by themselves."""
    self._process.kill()
    self._process.wait()

  def pause(self):
    """Stops it as a machine does that is suspended. Its job processes run on."""
    self._process.send_signal(signal.SIGSTOP)

  def wake(self):
    self._process.send_signal(signal.SIGCONT)

  def ends(self):
    """Its exit status, when it has ended."""
    return self._process.wait(LIMIT)

  def terminate(self):
    """Asks it to end."""
    self._process.terminate()
    self.ends()

  def stop(self):
    self.wake()
    self._process.terminate()
    try:
      self._process.wait(60)
    except subprocess.TimeoutExpired:
      self._process.kill()
      self._process.wait()
    if self._s3:
      self._s3.stop()
    self._temporary.cleanup()

  def check_alive(self):
    """Fails if it has ended."""
    assert self._process.poll() is None, 'the service ended: %s' % self.log.read_text()[-1500:]

  def workers(self):
    """The job processes that have work: those that wait for some have no port yet."""
    return [pid for pid in self.all_processes() if listens(pid)]

  def all_processes(self):
    """The job processes, also those that wait for work."""
    return sorted(children(self._process.pid))

  def harnesses(self):
    """The harnesses of PROCESS environments."""
    return sorted(harness for pid in self.workers() for harness in children(pid))

  def checkpoint(self):
    """The number of the latest checkpoint; 0 when there is none. Entries of the journal that are none do not count."""
    entries = [path for path in self.storage.glob('*/manifests/*') if path.name.isdigit()]
    for path in sorted(entries, key=lambda path: path.name, reverse=True):
      try:
        with path.open('rb') as file:
          if CHECKPOINT in file.read(1000):
            return int(path.name)
      except FileNotFoundError:
        pass  # A later one has taken its place.
    return 0

  def process_environment(self):
    """The options of an environment whose harnesses are processes that find the modules of the tests."""
    return process_environment(self.folder, first='export PYTHONPATH="%s"' % pathlib.Path(__file__).resolve().parent)


def kill(pid, name=signal.SIGKILL):
  """Whether it was there to be killed. Returns when it is gone."""
  try:
    os.kill(pid, name)
  except ProcessLookupError:
    return False
  wait_for('the end of process %d' % pid, lambda: not alive(pid))
  return True


class Pool:
  """A worker pool, whose harnesses are processes."""

  def __init__(self):
    self._port = free_port()
    self.environment = ['--environment_type=EXTERNAL', '--environment_config=localhost:%d' % self._port]
    self.start()

  def start(self):
    """Starts it, or starts it again where it was."""
    path = '%s:%s' % (os.path.dirname(sys.executable), os.environ['PATH'])  # The pool starts whatever `python` is.
    modules = str(pathlib.Path(__file__).resolve().parent)
    self._process = started(
        [sys.executable, '-m', 'apache_beam.runners.worker.worker_pool_main', '--service_port=%d' % self._port],
        env=dict(os.environ, PATH=path, PYTHONPATH=modules), stdout=sys.stderr)
    wait_for('the worker pool', lambda: listens(self._process.pid))

  def harnesses(self):
    return children(self._process.pid)

  def stop(self):
    for harness in self.harnesses():
      kill(harness)
    self._process.terminate()
    self._process.wait()
