"""What tests of Kafka have in common: a service, a broker, and pipelines between topics of their own.

FERROBEAM is the program, KAFKA_JARS the folder of the broker's jars, GO_KAFKA Go's program. Pipelines are written with the SDK's
own transforms, and expanded by the service. When something is killed is random, from a seed that is printed; DURABLE_SEED
sets it.
"""
import collections
import functools
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
import unittest

import apache_beam as beam
from apache_beam.io.kafka import ReadFromKafka, WriteToKafka
from apache_beam.utils.subprocess_server import JavaJarServer

import broker
import kills
import service
from numbered import Number


@functools.cache
def shared_broker():
  """The broker of tests that leave it alone: it ends with this process."""
  return broker.Broker()


def text(value):
  return b'(null)' if value is None else value


class KafkaTest(unittest.TestCase):
  """What all tests have: a service, a broker and topics of their own."""
  maxDiff = 2000

  def setUp(self):
    self.seed = int(os.environ.get('DURABLE_SEED', random.randrange(1 << 30)))
    print('%s: DURABLE_SEED=%d' % (self.id(), self.seed), flush=True)
    self.random = random.Random(self.seed)
    folder = tempfile.TemporaryDirectory()
    self.addCleanup(folder.cleanup)
    self.folder = folder.name
    self.service = service.Service()
    self.addCleanup(self.service.stop)
    self.broker = self.make_broker()
    unique = '%s-%d' % (self._testMethodName.replace('_', '-'), os.getpid())
    self.source, self.sink = unique + '-in', unique + '-out'

  def make_broker(self):
    return shared_broker()

  def own_broker(self, listeners=None, **properties):
    own = broker.Broker(listeners, **properties)
    self.addCleanup(own.stop)
    return own

  def topics(self, partitions=1, **config):
    self.broker.create_topic(self.source, partitions, **config)
    self.broker.create_topic(self.sink, partitions)

  def read(self, topics=None, config=(), **more):
    config = {'bootstrap.servers': self.broker.bootstrap, 'auto.offset.reset': 'earliest', **dict(config)}
    return ReadFromKafka(config, topics or [self.source], expansion_service=self.service.expansion, **more)

  def write(self, config=(), topic=None, **more):
    config = {'bootstrap.servers': self.broker.bootstrap, **dict(config)}
    return WriteToKafka(config, topic or self.sink, expansion_service=self.service.expansion, **more)

  def run_bounded(self, build, *more):
    """Runs a pipeline to its end, without checkpoints unless it asks for them."""
    options = ['--checkpointing_interval=-1', *more]
    pipeline = beam.Pipeline(options=kills.options(self.service, self._testMethodName, *options))
    build(pipeline)
    result = pipeline.run()
    result.wait_until_finish()
    self.assertEqual(result.state, 'DONE')

  def program(self, *command, **environment):
    ended = subprocess.run(command, timeout=service.LIMIT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                           env={**os.environ, **environment})
    self.assertEqual(ended.returncode, 0, ended.stdout[-2000:])

  def run_by_ferrobeam(self, *command, **environment):
    """A Python program of a user's, with no Java to be found."""
    no_java = {'PATH': os.path.join(self.folder, 'nothing'), 'JAVA_HOME': '', **environment}
    self.program(os.environ['FERROBEAM'], 'run', '--', sys.executable, *command, **no_java)

  def run_yaml(self, text, **words):
    """A YAML file of a user's, with words in it for what this test has."""
    program = os.path.join(self.folder, 'pipeline.yaml')
    words = {'SOURCE': self.source, 'SINK': self.sink, 'BOOTSTRAP': self.broker.bootstrap, **words}
    with open(program, 'w') as file:
      file.write(functools.reduce(lambda yaml, word: yaml.replace(*word), words.items(), text))
    self.run_by_ferrobeam('-m', 'apache_beam.yaml.main', '--yaml_pipeline_file=%s' % program)

  def expanded_here(self):
    """While this holds, what would start a jar for it asks the service."""
    return JavaJarServer.beam_services({'sdks:java:io:expansion-service:shadowJar': self.service.expansion})

  def start(self, build, *options):
    """Starts a streaming pipeline."""
    pipeline = beam.Pipeline(options=kills.options(self.service, self._testMethodName, '--streaming', *options))
    build(pipeline)
    job = kills.Job(self.service, pipeline, None, self.seed)
    self.addCleanup(job.cancel)
    return job

  def savepoint(self, job, *flags):
    """The path of a savepoint of a job."""
    return self.service.run('savepoint', *flags, job.result._job_id).strip()  # pylint: disable=protected-access

  def stop_with_savepoint(self, job):
    """A job ends; gives the path of what it leaves."""
    path = self.savepoint(job, '--stop')
    self.assertEqual(job.end(), 'CANCELLED')
    return path

  def next_checkpoint(self):
    latest = self.service.checkpoint()
    service.wait_for('a checkpoint', lambda: self.service.checkpoint() > latest)

  def fails(self, job):
    """The last that it says."""
    self.assertEqual(job.end(), 'FAILED')
    return job.messages()[-1]

  def copy(self, pipeline, read=None, write=None):
    """Reads, numbers the records of each key, and writes."""
    return (
        pipeline | (read or self.read()) | beam.Map(lambda pair: (text(pair[0]), text(pair[1])))
        | 'typed' >> beam.Map(lambda pair: pair).with_output_types(tuple[bytes, bytes])
        | beam.ParDo(Number()).with_output_types(tuple[bytes, bytes]) | (write or self.write()))

  def check_numbered(self, sent, records):
    """Every record is there once, and the numbers of a key are all there once. Beam promises no order."""
    expected, found, numbers = (collections.defaultdict(list) for _ in range(3))
    for key, value in sent:
      expected[key].append(value)
    for record in records:
      value, number = record.value.rsplit(b' ', 1)
      found[record.key].append(value)
      numbers[record.key].append(int(number))
    self.assertEqual({key: sorted(values) for key, values in found.items()},
                     {key: sorted(values) for key, values in expected.items()})
    for key, of_key in numbers.items():
      self.assertEqual(sorted(of_key), list(range(len(of_key))), key)

  def check_written_once(self, sent):
    """All of it is written, and nothing twice."""
    self.broker.read(self.sink, len(sent))
    # What came too much would come soon.
    time.sleep(1)
    self.check_numbered(sent, self.broker.read_all(self.sink))

  def numbers(self, count, keys=5):
    return [(b'k%d' % (i % keys), b'%d' % i) for i in range(count)]

  def feed(self, sent, pieces=20, between=lambda at: None):
    """Writes it in pieces, and does something after each."""
    size = -(-len(sent) // pieces)
    for at in range(pieces):
      self.broker.produce(self.source, sent[at * size:(at + 1) * size], restarts=True)
      between(at)
      time.sleep(0.05)

  def check_exactly_once(self, job, sent, limit=service.LIMIT):
    self.broker.read(self.sink, len(sent), limit)
    # What came too much would come soon.
    time.sleep(1)
    job.cancel()
    job.end()
    self.check_numbered(sent, self.broker.read_all(self.sink))


class FaultTest(KafkaTest):
  """What real sources and sinks got wrong: records of one key go through a broker on which everything happens soon."""

  def setUp(self):
    super().setUp()
    self.sent = 0

  def make_broker(self):
    # Everything that brokers do after a while they do soon.
    soon = {
        'transaction.abort.timed.out.transaction.cleanup.interval.ms': 200,
        'transaction.remove.expired.transaction.cleanup.interval.ms': 500, 'log.retention.check.interval.ms': 500,
    }
    return self.own_broker(**{**soon, **self.properties.get(self._testMethodName, {})})

  # Of the brokers of single tests.
  properties = {}

  def records(self, count, start=0):
    return [(b'k', b'%d' % i) for i in range(start, start + count)]

  def send(self, count):
    """Sends more records."""
    self.broker.produce(self.source, self.records(count, self.sent), restarts=True)
    self.sent += count

  def written(self, count):
    """Sends more records, and waits until they are written."""
    self.send(count)
    return self.broker.read(self.sink, self.sent)

  def check(self):
    """What was sent is written once."""
    self.check_written_once(self.records(self.sent))

  def worker(self):
    """The one job process."""
    worker, = service.wait_for('a job process', self.service.workers)
    return worker

  def transactional_ids(self):
    """Of sinks: their groups have the same names."""
    return [group for group in self.broker.groups() if group.startswith('ferrobeam-')]

  def stop_in_transaction(self):
    """Sends records until a transaction of them is open, and stops the job process there."""
    worker = self.worker()
    for _ in range(100):
      self.send(50)
      time.sleep(self.random.random() * 0.15)
      os.kill(worker, signal.SIGSTOP)
      # What was on its way comes, and readers see what is committed.
      time.sleep(0.4)
      if self.broker.end_offsets(self.sink, broker.UNCOMMITTED) != self.broker.end_offsets(self.sink):
        return worker
      os.kill(worker, signal.SIGCONT)
    self.fail('it was never in a transaction')
