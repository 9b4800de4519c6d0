"""Kafka as a source and a sink, on a real broker: FERROBEAM is the program, KAFKA_JARS the folder of the broker's jars, GO_KAFKA
Go's program.

Pipelines are written with the SDK's own transforms, and expanded by the service. When something is killed is random, from
a seed that is printed; DURABLE_SEED sets it.
"""
import collections
import functools
import json
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
from apache_beam.transforms import managed
from apache_beam.transforms.window import FixedWindows
from apache_beam.utils.subprocess_server import JavaJarServer

import broker
import kills
import service
from numbered import Number

SERIALIZATION = 'org.apache.kafka.common.serialization.'
LONG, TEXT = SERIALIZATION + 'LongDeserializer', SERIALIZATION + 'StringDeserializer'


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

  def own_broker(self, **properties):
    own = broker.Broker(**properties)
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

  def start(self, build, *options):
    """Starts a streaming pipeline."""
    pipeline = beam.Pipeline(options=kills.options(self.service, self._testMethodName, '--streaming', *options))
    build(pipeline)
    job = kills.Job(self.service, pipeline, None, self.seed)
    self.addCleanup(job.cancel)
    return job

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


class Reads(KafkaTest):
  """What is read, and from where."""

  def test_null_and_empty_stay_apart(self):
    self.topics()
    sent = [(None, b'a'), (b'', b'b'), (b'k', None), (b'k', b'')]
    self.broker.produce(self.source, sent)

    def build(pipeline):
      read = pipeline | self.read(max_num_records=4)
      shown = read | beam.Map(lambda pair: (b'k', repr(pair).encode())).with_output_types(tuple[bytes, bytes])
      return shown | self.write()

    self.run_bounded(build)
    self.assertEqual([record.value.decode() for record in self.broker.read(self.sink, 4)], [repr(pair) for pair in sent])

  def test_metadata(self):
    self.topics(2)
    sent = dict(key=b'k', value=b'v', partition=1, timestamp=1234567, headers=[('h', b'1'), ('h', None), ('', b'')])
    self.broker.produce(self.source, [sent, dict(key=None, value=None, partition=1, timestamp=7)])

    def show(row):
      headers = row.headers and [(header.key, header.value) for header in row.headers]
      return b'k', repr((row.topic, row.partition, row.offset, row.timestamp, row.key, row.value, headers,
                         row.timestampTypeId, row.timestampTypeName)).encode()

    def build(pipeline):
      read = pipeline | self.read(max_num_records=2, with_metadata=True)
      return read | beam.Map(show).with_output_types(tuple[bytes, bytes]) | self.write()

    self.run_bounded(build)
    expected = [(self.source, 1, 0, 1234567, b'k', b'v', sent['headers'], 0, 'CreateTime'),
                (self.source, 1, 1, 7, None, None, None, 0, 'CreateTime')]
    written = [record.value.decode() for record in self.broker.read(self.sink, 2)]
    self.assertEqual(sorted(written), sorted(map(repr, expected)))

  def test_deserializers(self):
    self.topics()
    self.broker.produce(self.source, [((300).to_bytes(8, 'big'), 'é'.encode()), (None, None)])

    def build(pipeline):
      read = pipeline | self.read(max_num_records=2, key_deserializer=LONG, value_deserializer=TEXT)
      return read | beam.Map(lambda pair: (b'k', repr(pair).encode())).with_output_types(tuple[bytes, bytes]) | self.write()

    self.run_bounded(build)
    self.assertEqual([record.value.decode() for record in self.broker.read(self.sink, 2)], ["(300, 'é')", '(None, None)'])

  def test_start_time(self):
    self.topics()
    self.broker.produce(self.source, [dict(value=b'%d' % i, timestamp=1000 + i) for i in range(10)])

    def build(pipeline):
      read = pipeline | self.read(start_read_time=1006, max_num_records=4)
      return read | beam.Map(lambda pair: (b'k', pair[1])).with_output_types(tuple[bytes, bytes]) | self.write()

    self.run_bounded(build)
    self.assertEqual([record.value for record in self.broker.read(self.sink, 4)], [b'6', b'7', b'8', b'9'])

  def test_max_read_time_ends_it(self):
    self.topics(3)
    self.broker.produce(self.source, [(b'k', b'%d' % i) for i in range(100)])
    self.run_bounded(lambda pipeline: self.copy(pipeline, self.read(max_read_time=3)))
    self.check_numbered([(b'k', b'%d' % i) for i in range(100)], self.broker.read_all(self.sink))

  def test_redistribute(self):
    self.topics()
    self.broker.produce(self.source, [(b'%d' % i, b'v') for i in range(100)])
    self.run_bounded(lambda pipeline: self.copy(pipeline, self.read(max_num_records=100, redistribute=True)))
    self.check_numbered([(b'%d' % i, b'v') for i in range(100)], self.broker.read(self.sink, 100))

  def test_group_goes_on_where_it_committed(self):
    self.topics()
    group = dict([('group.id', self.source)])
    self.broker.produce(self.source, [(b'k', b'%d' % i) for i in range(10)])
    read = lambda: self.read(config=group, commit_offset_in_finalize=True)
    job = self.start(lambda pipeline: self.copy(pipeline, read()))
    self.broker.read(self.sink, 10)
    service.wait_for('the offset of the group', lambda: self.broker.committed(self.source, self.source) == {0: 10})
    job.cancel()
    job.end()
    self.broker.produce(self.source, [(b'k', b'more')])
    self.start(lambda pipeline: self.copy(pipeline, read()))
    self.assertEqual(self.broker.read(self.sink, 11)[10].value, b'more 0')

  def test_new_partitions_are_found(self):
    self.topics()
    self.broker.produce(self.source, [(b'k', b'first')])
    self.start(lambda pipeline: self.copy(
        pipeline, self.read(config={'auto.offset.reset': 'latest'}.items(), dynamic_read_poll_interval_seconds=1)),
               '--parallelism=3')
    time.sleep(3)
    self.broker.add_partitions(self.source, 4)
    # They came later: they are read from their start, whatever the reset says.
    self.broker.produce(self.source, [dict(key=b'%d' % i, value=b'later', partition=i) for i in range(1, 4)])
    found = self.broker.read(self.sink, 3)
    self.assertEqual(sorted((record.key, record.value) for record in found), [(b'%d' % i, b'later 0') for i in (1, 2, 3)])

  def test_windows_close_where_a_partition_is_idle(self):
    self.topics(4)
    begin = int(time.time()) // 10 * 10 - 100

    def build(pipeline):
      return (
          pipeline | self.read(timestamp_policy=ReadFromKafka.create_time_policy)
          | beam.Map(lambda pair: pair).with_output_types(tuple[bytes, bytes]) | beam.WindowInto(FixedWindows(10))
          | beam.GroupByKey()
          | beam.Map(lambda group: (group[0], b' '.join(sorted(group[1])))).with_output_types(tuple[bytes, bytes])
          | self.write())

    self.start(build)
    # Only one of the partitions ever has something.
    for number in range(30):
      self.broker.produce(self.source, [dict(key=b'k', value=b'%02d' % number, partition=0, timestamp=1000 * (begin + number))])
    found = self.broker.read(self.sink, 3)
    self.assertEqual(sorted(record.value for record in found), [b' '.join(b'%02d' % i for i in range(at, at + 10)) for at in (0, 10, 20)])


  def test_nothing_is_late_because_a_process_slept(self):
    """That a partition had its end reached is nothing to go by after a pause."""
    self.broker.create_topic(self.source, 2, **{'message.timestamp.type': 'LogAppendTime'})
    self.broker.create_topic(self.sink)

    def build(pipeline):
      return (
          pipeline | self.read(timestamp_policy=ReadFromKafka.log_append_time)
          | beam.Map(lambda pair: pair).with_output_types(tuple[bytes, bytes]) | beam.WindowInto(FixedWindows(1))
          | beam.GroupByKey() | beam.FlatMapTuple(lambda key, values: [(key, value) for value in values]).with_output_types(
              tuple[bytes, bytes]) | self.write())

    self.start(build)
    worker, = service.wait_for('a job process', self.service.workers)
    sent = 0
    for _ in range(3):
      self.broker.produce(self.source, [(b'k', b'%d' % i) for i in range(sent, sent + 5)])
      self.broker.read(self.sink, sent + 5)
      os.kill(worker, signal.SIGSTOP)
      for at in range(sent + 5, sent + 35):
        self.broker.produce(self.source, [(b'k%d' % (at % 7), b'%d' % at)])
        time.sleep(0.15)
      os.kill(worker, signal.SIGCONT)
      sent += 35
    found = [int(record.value) for record in self.broker.read(self.sink, sent)]
    self.assertEqual(sorted(found), list(range(sent)))


class Refusals(KafkaTest):
  """What is refused, and how that is told."""

  def refused(self, build):
    with self.assertRaises(RuntimeError) as raised:
      build(beam.Pipeline(options=kills.options(self.service, self._testMethodName)))
    return str(raised.exception)

  def test_deserializer_that_is_not_known(self):
    said = self.refused(lambda pipeline: pipeline | self.read(value_deserializer='com.example.OrderDeserializer'))
    self.assertIn('com.example.OrderDeserializer is a Java class that is not known here', said)

  def test_property_that_is_not_known(self):
    said = self.refused(lambda pipeline: pipeline | self.read(config={'no.such.property': '1'}.items()))
    self.assertIn('the property no.such.property is not accepted', said)

  def test_topics_that_are_letters(self):
    said = self.refused(lambda pipeline: pipeline | self.read(topics='words'))
    self.assertIn('is that one topic, "words"?', said)

  def test_topic_that_is_not_there(self):
    job = self.start(lambda pipeline: self.copy(pipeline, self.read(topics=['no-such-topic'])), '--number_of_execution_retries=0')
    self.assertIn('there is no Kafka topic no-such-topic', self.fails(job))

  def test_elements_that_are_no_records(self):
    with self.assertRaises(Exception) as raised:
      self.run_bounded(lambda pipeline: pipeline | beam.Create([1]) | self.write())
    self.assertIn('.with_output_types(tuple[bytes, bytes])', str(raised.exception))


class Writes(KafkaTest):
  """What is written."""

  def test_headers(self):
    self.broker.create_topic(self.sink, 3)
    rows = [
        beam.Row(key=b'k', value=b'v', headers=[beam.Row(key='h', value=b'1'), beam.Row(key='h', value=b'2')], partition=2,
                 timestamp=1234567),
    ]
    self.run_bounded(lambda pipeline: pipeline | beam.Create(rows) | self.write(with_headers=True))
    found, = self.broker.read(self.sink, 1)
    self.assertEqual((found.partition, found.key, found.value, found.headers, found.timestamp),
                     (2, b'k', b'v', [('h', b'1'), ('h', b'2')], 1234567))

  def test_keys_go_where_kafkas_own_producer_sends_them(self):
    self.broker.create_topic(self.sink, 7)
    keys = [b'key-%d' % i for i in range(20)]
    create = beam.Create([(key, b'v') for key in keys]).with_output_types(tuple[bytes, bytes])
    self.run_bounded(lambda pipeline: pipeline | create | self.write())
    found = {record.key: record.partition for record in self.broker.read(self.sink, 20)}
    # By Java's `Utils.murmur2`, of kafka-clients 4.4.0.
    self.assertEqual([found[b'key-%d' % i] for i in range(8)], [self.murmur2(b'key-%d' % i) % 7 for i in range(8)])

  @staticmethod
  def murmur2(data):
    """As Kafka's clients have it."""
    mask, m = 0xffffffff, 0x5bd1e995
    h = 0x9747b28c ^ len(data)
    for at in range(0, len(data) // 4 * 4, 4):
      k = int.from_bytes(data[at:at + 4], 'little') * m & mask
      k = (k ^ k >> 24) * m & mask
      h = h * m & mask ^ k
    rest = data[len(data) // 4 * 4:]
    if rest:
      h = (h ^ int.from_bytes(rest, 'little')) * m & mask
    h = (h ^ h >> 13) * m & mask
    return (h ^ h >> 15) & 0x7fffffff


# A program of a user's, which says nothing of expansion services, nor `with`.
PYTHON = '''
import sys
import apache_beam as beam
from apache_beam.io.kafka import ReadFromKafka, WriteToKafka
from apache_beam.options.pipeline_options import PipelineOptions

bootstrap, source, sink = sys.argv[1:4]
pipeline = beam.Pipeline(options=PipelineOptions(sys.argv[4:]))
config = {"bootstrap.servers": bootstrap, "auto.offset.reset": "earliest"}
(pipeline | ReadFromKafka(config, [source], max_num_records=10)
 | beam.MapTuple(lambda key, value: (key, value + b"!")).with_output_types(tuple[bytes, bytes])
 | WriteToKafka({"bootstrap.servers": bootstrap}, sink))
pipeline.run().wait_until_finish()
'''

YAML = '''
pipeline:
  type: chain
  transforms:
    - type: ReadFromKafka
      config: {topic: SOURCE, format: RAW, bootstrap_servers: BOOTSTRAP, auto_offset_reset_config: earliest,
               max_read_time_seconds: 3}
    - type: WriteToKafka
      config: {topic: SINK, format: RAW, bootstrap_servers: BOOTSTRAP}
'''


JSON = '''
pipeline:
  type: chain
  transforms:
    - type: ReadFromKafka
      config:
        topic: SOURCE
        format: JSON
        schema: '{"type": "object", "required": ["id"], "properties": {"id": {"type": "integer"}, "name": {"type": "string"}}}'
        bootstrap_servers: BOOTSTRAP
        auto_offset_reset_config: earliest
        max_read_time_seconds: 3
    - type: Filter
      config: {language: python, keep: "id >= 5"}
    - type: MapToFields
      config: {language: python, fields: {doubled: {expression: "2 * id", output_type: integer}, name: name}}
    - type: WriteToKafka
      config: {topic: SINK, format: JSON, bootstrap_servers: BOOTSTRAP}
'''


class Clients(KafkaTest):
  """Programs of users, as they are."""

  def run_by_ferrobeam(self, *command, **environment):
    """With no Java to be found."""
    no_java = {'PATH': os.path.join(self.folder, 'nothing'), 'JAVA_HOME': '', **environment}
    self.program(os.environ['FERROBEAM'], 'run', '--', sys.executable, *command, **no_java)

  def test_python_by_ferrobeam_run(self):
    self.topics()
    self.broker.produce(self.source, [(b'k', b'%d' % i) for i in range(10)])
    program = os.path.join(self.folder, 'program.py')
    with open(program, 'w') as file:
      file.write(PYTHON)
    self.run_by_ferrobeam(program, self.broker.bootstrap, self.source, self.sink)
    self.assertEqual([record.value for record in self.broker.read(self.sink, 10)], [b'%d!' % i for i in range(10)])

  def test_yaml_by_ferrobeam_run(self):
    self.topics()
    self.broker.produce(self.source, [(b'k', b'%d' % i) for i in range(10)])
    program = os.path.join(self.folder, 'pipeline.yaml')
    words = {'SOURCE': self.source, 'SINK': self.sink, 'BOOTSTRAP': self.broker.bootstrap}
    with open(program, 'w') as file:
      file.write(functools.reduce(lambda yaml, word: yaml.replace(*word), words.items(), YAML))
    self.run_by_ferrobeam('-m', 'apache_beam.yaml.main', '--yaml_pipeline_file=%s' % program)
    self.assertEqual([record.value for record in self.broker.read(self.sink, 10)], [b'%d' % i for i in range(10)])

  def test_a_sitecustomize_of_the_users_own_runs(self):
    os.makedirs(os.path.join(self.folder, 'site'))
    with open(os.path.join(self.folder, 'site', 'sitecustomize.py'), 'w') as file:
      file.write('import os; os.environ["SEEN"] = "yes"')
    check = 'import os, sitecustomize; assert os.environ["SEEN"] == "yes" and "site" in sitecustomize.__file__'
    self.run_by_ferrobeam('-c', check, PYTHONPATH=os.path.join(self.folder, 'site'))

  def test_go(self):
    self.topics()
    self.broker.produce(self.source, [(b'k', b'%d' % i) for i in range(10)] + [(None, b'n'), (b'', b'e'), (b't', None)])
    self.program(
        os.environ['GO_KAFKA'], '--runner=universal', '--endpoint=%s' % self.service.endpoint,
        '--environment_type=LOOPBACK', '--expansion_addr=%s' % self.service.expansion,
        '--bootstrap=%s' % self.broker.bootstrap, '--from=%s' % self.source, '--to=%s' % self.sink, '--records=13')
    expected = [(b'k', b'%d!' % i) for i in range(10)] + [(b'', b'n!'), (b'', b'e!'), (b't', b'!')]
    self.assertEqual([(record.key, record.value) for record in self.broker.read(self.sink, 13)], expected)

  def test_managed(self):
    self.topics()
    self.broker.produce(self.source, [(b'k', b'%d' % i) for i in range(10)])
    config = {'bootstrap_servers': self.broker.bootstrap, 'format': 'STRING'}
    with JavaJarServer.beam_services({'sdks:java:io:expansion-service:shadowJar': self.service.expansion}):
      def build(pipeline):
        read = managed.Read(managed.KAFKA, config=dict(
            config, topic=self.source, auto_offset_reset_config='earliest', max_read_time_seconds=3))
        changed = pipeline | read | beam.Map(lambda row: beam.Row(payload=str(row.payload) + '!'))
        return changed | managed.Write(managed.KAFKA, config=dict(config, topic=self.sink))

      self.run_bounded(build)
    self.assertEqual([record.value for record in self.broker.read(self.sink, 10)], [b'%d!' % i for i in range(10)])

  def test_yaml_of_json(self):
    self.topics()
    self.broker.produce(self.source, [(b'k', b'{"id": %d, "name": "n%d", "more": [1]}' % (i, i)) for i in range(10)])
    program = os.path.join(self.folder, 'pipeline.yaml')
    words = {'SOURCE': self.source, 'SINK': self.sink, 'BOOTSTRAP': self.broker.bootstrap}
    with open(program, 'w') as file:
      file.write(functools.reduce(lambda yaml, word: yaml.replace(*word), words.items(), JSON))
    self.run_by_ferrobeam('-m', 'apache_beam.yaml.main', '--yaml_pipeline_file=%s' % program)
    found = sorted(json.loads(record.value)['doubled'] for record in self.broker.read(self.sink, 5))
    self.assertEqual(found, [10, 12, 14, 16, 18])


class Durable(KafkaTest):
  """Nothing is lost and nothing is there twice, whatever dies."""

  def make_broker(self):
    return self.own_broker()

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
    records = self.broker.read(self.sink, len(sent), limit)
    # What came too much would come soon.
    time.sleep(1)
    job.cancel()
    job.end()
    records = self.broker.read_all(self.sink)
    self.check_numbered(sent, records)

  def test_exactly_once_while_processes_are_killed(self):
    self.topics(3)
    sent = self.numbers(2000)
    job = self.start(self.copy, '--parallelism=2')
    self.feed(sent, between=lambda at: at % 4 == 3 and job.kill())
    self.check_exactly_once(job, sent)
    self.assertGreater(job.kills, 3)

  def test_go_is_exactly_once_while_processes_are_killed(self):
    self.topics(2)
    sent = self.numbers(1000)
    program = os.environ['GO_KAFKA']
    # Go's SDK takes no option that it does not know, so they are experiments.
    self.program(
        program, '--runner=universal', '--endpoint=%s' % self.service.endpoint, '--async',
        '--experiments=checkpointing_interval=100,execution_retry_delay=20,parallelism=2',
        *service.go_environment(self.service.folder, program), '--expansion_addr=%s' % self.service.expansion,
        '--bootstrap=%s' % self.broker.bootstrap, '--from=%s' % self.source, '--to=%s' % self.sink)
    service.wait_for('a checkpoint', lambda: self.service.checkpoint())
    kills_done = []

    def kill(at):
      if at % 5 == 4:
        kills_done.append(service.kill(self.random.choice(self.service.workers() + self.service.harnesses())))
        service.wait_for('its processes', lambda: self.service.workers() and self.service.harnesses())

    self.feed(sent, between=kill)
    self.broker.read(self.sink, len(sent), service.LIMIT)
    # What came too much would come soon.
    time.sleep(1)
    found = collections.Counter((record.key, record.value) for record in self.broker.read_all(self.sink))
    self.assertEqual(found, collections.Counter((key, value + b'!') for key, value in sent))
    self.assertTrue(all(kills_done) and len(kills_done) > 2, kills_done)

  def test_exactly_once_while_the_service_is_killed(self):
    self.topics(2)
    sent = self.numbers(1000)
    job = self.start(self.copy, '--parallelism=2')

    def kill(at):
      if at % 7 == 6:
        self.service.kill()
        self.service.start()
        self.service.wait()

    self.feed(sent, between=kill)
    self.check_exactly_once(job, sent)

  def test_exactly_once_while_the_broker_is_killed(self):
    self.topics(2)
    sent = self.numbers(1000)
    job = self.start(self.copy, '--parallelism=2')

    def restart(at):
      if at % 7 == 6:
        self.broker.kill()
        self.broker.start()

    self.feed(sent, between=restart)
    self.check_exactly_once(job, sent)

  def test_at_least_once_loses_nothing(self):
    self.topics(2)
    sent = self.numbers(1000)
    job = self.start(self.copy, '--parallelism=2', '--checkpointing_mode=AT_LEAST_ONCE')
    self.feed(sent, between=lambda at: at % 7 == 6 and job.kill())
    self.broker.read(self.sink, len(sent))
    values = lambda: {(record.key, record.value.split()[0]) for record in self.broker.read_all(self.sink)}
    service.wait_for('all records', lambda: values() == set(sent))

  def test_bounded_input_is_written_once_and_to_its_end(self):
    self.topics(2)
    sent = self.numbers(500)
    self.broker.produce(self.source, sent)
    self.run_bounded(lambda pipeline: self.copy(pipeline, self.read(max_num_records=500)), '--checkpointing_interval=200')
    self.check_numbered(sent, self.broker.read_all(self.sink))

  def test_rescaled_from_a_savepoint(self):
    self.topics(3)
    sent = self.numbers(1500)
    third = len(sent) // 3
    job = self.start(self.copy, '--parallelism=4')
    for parallelism in (1, 3):
      # The second job is asked as it starts, before its first checkpoint.
      self.broker.produce(self.source, sent[:third])
      job = self.rescale(job, parallelism)
      sent = sent[third:]
    self.broker.produce(self.source, sent)
    self.check_exactly_once(job, self.numbers(1500))

  def test_stop_outlives_the_service(self):
    """Whoever has the path may start from it: the job that it is of does not come back, whatever dies."""
    self.topics()
    sent = self.numbers(500)
    job = self.start(self.copy)
    self.broker.produce(self.source, sent)
    self.broker.read(self.sink, 1)
    path = self.service.run('savepoint', '--stop', job.result._job_id).strip()
    self.service.kill()
    self.service.start()
    self.service.wait()
    self.assertEqual(job.state(), 'CANCELLED')
    more = self.numbers(200)
    next_job = self.start(self.copy, '--savepoint_path=%s' % path)
    self.broker.produce(self.source, more)
    self.check_exactly_once(next_job, sent + more)

  def test_what_a_job_stops_with_is_in_the_topic(self):
    """Also where no job ever goes on from the savepoint."""
    self.topics()
    sent = self.numbers(100)
    job = self.start(self.copy)
    self.broker.produce(self.source, sent)
    self.broker.read(self.sink, 1)
    self.broker.produce(self.source, [(b'late', b'record')])
    time.sleep(self.random.random() / 5)
    path = self.service.run('savepoint', '--stop', job.result._job_id).strip()
    job.end()
    with_path = self.broker.read_all(self.sink)
    # What is not there, the savepoint has not read: whoever starts from it goes on exactly there.
    self.check_exactly_once(self.start(self.copy, '--savepoint_path=%s' % path), sent + [(b'late', b'record')])
    self.assertEqual(self.broker.read_all(self.sink)[:len(with_path)], with_path)

  def rescale(self, job, parallelism):
    """A new job goes on from the savepoint that this one stops with."""
    path = self.service.run('savepoint', '--stop', job.result._job_id).strip()
    self.assertEqual(job.end(), 'CANCELLED')
    return self.start(self.copy, '--parallelism=%d' % parallelism, '--savepoint_path=%s' % path)


class Faults(KafkaTest):
  """What real sources and sinks got wrong, each by name.

  A transaction that outlives its timeout, a timeout above the broker's, a request that comes late (`Durable`, the broker killed),
  death between the checkpoint and the transaction, ids that two jobs share, rescaling before the first checkpoint (`Durable`), a
  transaction left open, errors of delivery that nobody hears, a producer that is fenced, an offset or an id that the broker forgot, a
  topic made anew, partitions added (`Reads`), offsets committed too early, transactions of nothing, a bounded read that never
  ends, a producer left behind a checkpoint, a topic that is away for a while (`Durable`).
  """

  def make_broker(self):
    # Everything that brokers do after a while they do soon.
    soon = {
        'transaction.abort.timed.out.transaction.cleanup.interval.ms': 200,
        'transaction.remove.expired.transaction.cleanup.interval.ms': 500, 'log.retention.check.interval.ms': 500,
    }
    return self.own_broker(**{**soon, **self.properties.get(self._testMethodName, {})})

  # Of the brokers of single tests.
  properties = {
      'test_transactional_id_that_the_broker_forgot': {
          'transactional.id.expiration.ms': 1500, 'producer.id.expiration.ms': 1500
      },
      'test_transaction_timeout_above_the_brokers': {'transaction.max.timeout.ms': 60000},
  }

  def written(self, count, start=0):
    """Sends records and waits until they are written."""
    self.broker.produce(self.source, self.records(count, start), restarts=True)
    return self.broker.read(self.sink, start + count)

  def records(self, count, start=0):
    return [(b'k', b'%d' % i) for i in range(start, start + count)]

  def check(self, count):
    self.broker.read(self.sink, count)
    time.sleep(1)
    self.check_numbered(self.records(count), self.broker.read_all(self.sink))

  def transactional_ids(self):
    """Of sinks: their groups have the same names."""
    return [group for group in self.broker.groups() if group.startswith('ferrobeam-')]

  def test_transaction_that_took_too_long(self):
    """The broker ends it: the producer is fenced, and nobody else was there."""
    self.topics()
    job = self.start(lambda pipeline: self.copy(pipeline, write=self.write({'transaction.timeout.ms': '1000'}.items())))
    self.written(10)
    for at in range(1, 4):
      # In the middle of whatever it does.
      self.broker.produce(self.source, self.records(200, 10 + 200 * (at - 1)))
      time.sleep(self.random.random() / 4)
      worker, = self.service.workers()
      os.kill(worker, signal.SIGSTOP)
      time.sleep(2.5)
      os.kill(worker, signal.SIGCONT)
    self.check(610)
    self.assertFalse(job.over())

  def test_transaction_timeout_above_the_brokers(self):
    self.topics()
    write = lambda: self.write({'transaction.timeout.ms': '120000'}.items())
    job = self.start(lambda pipeline: self.copy(pipeline, write=write()), '--number_of_execution_retries=0')
    self.assertIn("transaction.timeout.ms is more than the broker's transaction.max.timeout.ms", self.fails(job))

  def test_death_between_the_checkpoint_and_the_transaction(self):
    """The broker hangs, so that what is durable is not written; then the job process dies."""
    self.topics()
    job = self.start(self.copy)
    self.written(10)
    self.broker.produce(self.source, self.records(10, 10))
    time.sleep(0.12)
    self.broker.pause()
    time.sleep(0.5)
    job.kill()
    time.sleep(0.5)
    self.broker.wake()
    self.check(20)

  def test_restart_while_the_broker_is_away(self):
    """Nothing is saved before it is known where partitions begin: that would be a checkpoint of a job that has read nothing."""
    self.topics()
    job = self.start(self.copy)
    self.written(10)
    checkpoint = self.service.checkpoint()
    self.broker.pause()
    for _ in range(2):
      job.kill()
      time.sleep(3)
    self.broker.wake()
    service.wait_for('a checkpoint', lambda: self.service.checkpoint() > checkpoint)
    job.kill()
    self.written(10, 10)
    self.check(20)

  def test_sink_of_another_topic_goes_on_from_a_savepoint(self):
    """What is in doubt is of the topic that it was for."""
    self.topics()
    job = self.start(self.copy)
    self.broker.produce(self.source, self.records(10))
    self.broker.read(self.sink, 10)
    path = self.service.run('savepoint', '--stop', job.result._job_id).strip()
    job.end()
    first, self.sink = self.sink, self.sink + '-2'
    self.broker.create_topic(self.sink)
    self.start(self.copy, '--savepoint_path=%s' % path)
    self.broker.produce(self.source, self.records(10, 10))
    self.assertEqual(sorted(int(record.value.split()[0]) for record in self.broker.read(self.sink, 10)), list(range(10, 20)))
    self.assertEqual(len(self.broker.read_all(first)), 10)

  def test_two_copies_of_a_job(self):
    """Each of them writes everything once."""
    self.topics()
    for _ in range(2):
      self.start(self.copy)
    self.broker.produce(self.source, self.records(100))
    found = [record.value for record in self.broker.read(self.sink, 200)]
    self.assertEqual(collections.Counter(value.split()[0] for value in found), collections.Counter({b'%d' % i: 2 for i in range(100)}))

  def test_transaction_that_was_left_open_holds_no_reader_up(self):
    self.topics()
    job = self.start(self.copy)
    self.written(10)
    self.broker.produce(self.source, self.records(500, 10))
    job.kill()
    begun = time.monotonic()
    self.check(510)
    self.assertLess(time.monotonic() - begun, 30, 'a transaction without an owner was waited for')

  def test_record_that_is_too_large(self):
    """A job does not go on over a record that was not written."""
    self.broker.create_topic(self.source)
    self.broker.create_topic(self.sink, **{'max.message.bytes': 1000})
    job = self.start(self.copy, '--number_of_execution_retries=0')
    self.written(3)
    self.broker.produce(self.source, [(b'k', self.random.randbytes(2000))])
    said = self.fails(job)
    self.assertIn('could not be written', said)
    self.assertIn(self.sink, said)

  def test_producer_that_is_fenced(self):
    self.topics()
    job = self.start(self.copy, '--parallelism=1')
    self.written(10)
    transactional_id, = self.transactional_ids()
    for at in range(1, 4):
      self.broker.fence(transactional_id)
      self.written(10, 10 * at)
    self.check(40)
    self.assertFalse(job.over())

  def test_epoch_that_the_broker_forgot(self):
    """Whether what is in doubt was written cannot be known: that is said, and nothing is guessed."""
    self.topics()
    job = self.start(self.copy, '--parallelism=1', '--checkpointing_interval=2000')
    self.written(10)
    group, = self.transactional_ids()
    self.next_checkpoint()
    # They are read before the next checkpoint, and their transaction, which comes after it, finds no broker.
    self.broker.produce(self.source, self.records(10, 10))
    time.sleep(0.7)
    self.broker.pause()
    self.next_checkpoint()
    self.service.kill()
    self.broker.wake()
    self.broker.read_all(self.sink, isolation=broker.COMMITTED)
    self.broker.delete_group(group)
    self.service.start()
    self.service.wait()
    self.assertIn('cannot be known: the group %s' % group, self.fails(job))

  def test_topic_that_was_made_anew_while_the_job_was_down(self):
    self.topics()
    job = self.start(self.copy)
    self.written(10)
    path = self.service.run('savepoint', '--stop', job.result._job_id).strip()
    job.end()
    self.broker.delete_topic(self.source)
    self.broker.create_topic(self.source)
    # More than the job has read: offsets alone would tell nothing.
    self.broker.produce(self.source, self.records(25))
    more = ['--savepoint_path=%s' % path, '--number_of_execution_retries=0']
    said = self.fails(self.start(self.copy, *more))
    self.assertIn('was deleted and made anew since the job has read it up to offset 10', said)
    self.assertIn('ferrobeam.fail.on.data.loss=false', said)
    lenient = lambda: self.read(config={'ferrobeam.fail.on.data.loss': 'false'}.items())
    self.start(lambda pipeline: self.copy(pipeline, lenient()), *more)
    found = [record.value.split()[0] for record in self.broker.read(self.sink, 35)][10:]
    self.assertEqual(sorted(found), sorted(b'%d' % i for i in range(25)))

  def test_topic_that_was_made_anew_while_the_job_slept(self):
    """It does not go on in the middle of another topic in silence."""
    self.topics()
    read = lambda: self.read(dynamic_read_poll_interval_seconds=1)
    job = self.start(lambda pipeline: self.copy(pipeline, read()), '--number_of_execution_retries=0')
    self.written(10)
    worker, = self.service.workers()
    os.kill(worker, signal.SIGSTOP)
    self.broker.delete_topic(self.source)
    self.broker.create_topic(self.source)
    self.broker.produce(self.source, self.records(25))
    os.kill(worker, signal.SIGCONT)
    self.assertIn('made anew', self.fails(job))

  def test_topic_that_is_deleted_while_the_job_runs(self):
    self.topics()
    job = self.start(self.copy, '--number_of_execution_retries=0')
    self.written(10)
    self.broker.delete_topic(self.source)
    self.assertIn('is not there any more', self.fails(job))

  def test_records_that_retention_removed(self):
    self.topics()
    job = self.start(self.copy)
    self.written(10)
    path = self.service.run('savepoint', '--stop', job.result._job_id).strip()
    job.end()
    self.broker.produce(self.source, self.records(10, 10))
    self.broker.delete_records(self.source, 0, 15)
    job = self.start(self.copy, '--savepoint_path=%s' % path, '--number_of_execution_retries=0')
    self.assertIn('records 10 to 14 were removed before they were read', self.fails(job))

  def test_group_is_told_of_nothing_that_is_not_durable(self):
    """Its offsets follow checkpoints, which hold what the sink has to write."""
    self.topics()
    group = {'group.id': self.source}
    self.start(lambda pipeline: self.copy(pipeline, self.read(config=group.items(), commit_offset_in_finalize=True)),
               '--checkpointing_interval=600000')
    # There is a checkpoint as the job begins to do something, if at all.
    self.broker.produce(self.source, self.records(10))
    time.sleep(7)
    self.assertEqual((self.broker.committed(self.source, self.source), self.broker.read_all(self.sink)), ({}, []))

  def test_idle_job_writes_nothing(self):
    self.topics()
    self.start(self.copy)
    self.written(10)
    end, checkpoint = self.broker.end_offsets(self.sink), self.service.checkpoint()
    service.wait_for('more checkpoints', lambda: self.service.checkpoint() > checkpoint + 10)
    self.assertEqual(self.broker.end_offsets(self.sink), end)

  def test_transactional_id_that_the_broker_forgot(self):
    self.topics()
    job = self.start(self.copy)
    self.written(10)
    time.sleep(5)
    self.written(10, 10)
    self.check(20)
    self.assertFalse(job.over())

  def test_no_producer_is_left_behind(self):
    self.topics()
    self.start(self.copy)
    self.written(10)
    worker, = self.service.workers()
    threads = lambda: len(os.listdir('/proc/%d/task' % worker))
    for at in range(1, 11):
      self.written(5, 5 + 5 * at)
    before, checkpoint = threads(), self.service.checkpoint()
    for at in range(11, 41):
      self.written(5, 5 + 5 * at)
    self.assertGreater(self.service.checkpoint(), checkpoint + 20)
    # Each producer has two threads at the least; some of the process's own come when there is much to do.
    self.assertLess(threads(), before + 20)

  def test_bounded_read_ends_where_no_record_is(self):
    """The last offsets are an aborted transaction and its marker."""
    self.topics()
    self.broker.produce(self.source, self.records(10))
    self.broker.abort(self.source, self.records(5, 10))
    read = lambda: self.read(config={'isolation.level': 'read_committed'}.items(), max_read_time=4)
    self.run_bounded(lambda pipeline: self.copy(pipeline, read()))
    self.check_numbered(self.records(10), self.broker.read_all(self.sink))


if __name__ == '__main__':
  unittest.main()
