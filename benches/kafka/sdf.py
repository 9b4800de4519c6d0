"""The SDK's own splittable DoFn in Java, on Ferrobeam and on Flink's job server: the same pipeline, to be had by every runner."""
import json
import pathlib
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
sys.path += [str(HERE.parent / 'compare'), str(HERE.parents[1] / 'conformance' / 'python')]
import broker  # pylint: disable=wrong-import-position
import compare  # pylint: disable=wrong-import-position
import service  # pylint: disable=wrong-import-position

# Seconds that a slow one may take.
LIMIT = 900
HEAP = '-Xmx2g'


def on_core(core, command, **options):
  return service.started(['taskset', '-c', str(core), *command], **options)


class Program:
  """The pipeline, compiled, with the SDK and what it needs on a class path."""

  def __init__(self, class_path):
    self._folder = tempfile.TemporaryDirectory(prefix='ferrobeam-sdf-')
    subprocess.run(['javac', '-cp', class_path, '-d', self._folder.name, str(HERE / 'Sdf.java')], check=True)
    self._class_path = '%s:%s' % (self._folder.name, class_path)

  def _start(self, endpoint, brokers, records, *more):
    flags = ['--runner=PortableRunner', '--jobEndpoint=%s' % endpoint, '--defaultEnvironmentType=LOOPBACK', '--jobName=sdf',
             '--bootstrap=%s' % brokers.bootstrap, '--from=source', '--records=%d' % records, *more]
    command = ['java', HEAP, '-cp', self._class_path, 'Sdf', *flags]
    return on_core(0, command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)

  def read(self, endpoint, brokers, records):
    """Records a second, from the first of them to the last."""
    client = self._start(endpoint, brokers, records)
    try:
      for line in client.stdout:
        if line.startswith('{"records"'):
          return records / json.loads(line)['seconds']
      raise AssertionError('the Java client ended: %s' % client.wait())
    finally:
      client.kill()
      client.wait()

  def copy(self, endpoint, brokers, records, sink):
    """Copies so many to a topic."""
    client = self._start(endpoint, brokers, records, '--to=%s' % sink)
    try:
      service.wait_for('%d records' % records, lambda: written(brokers, sink) >= records, LIMIT)
    finally:
      client.kill()
      client.wait()


def written(brokers, topic):
  return sum(brokers.end_offsets(topic, broker.UNCOMMITTED).values())


class Flink:
  """Its job server, on the same core."""

  def __init__(self):
    command, port = compare.server_command('flink', None)
    self.endpoint = 'localhost:%d' % port
    self._process = on_core(0, command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    service.wait_for('Flink', lambda: compare.answers(port))

  def stop(self):
    self._process.kill()
    self._process.wait()
