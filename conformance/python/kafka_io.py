"""Kafka as a source and a sink: what is read, written and refused, and programs of users. See `kafka_test.py`."""
import json
import os
import signal
import time
import unittest

import apache_beam as beam
from apache_beam.io.kafka import ReadFromKafka
from apache_beam.transforms import managed
from apache_beam.transforms.window import FixedWindows

import kills
import service
from kafka_test import KafkaTest

SERIALIZATION = 'org.apache.kafka.common.serialization.'
LONG, TEXT = SERIALIZATION + 'LongDeserializer', SERIALIZATION + 'StringDeserializer'


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

  def test_records_that_are_waited_for_are_told(self):
    self.topics()
    self.broker.produce(self.source, [(b'k', b'%d' % i) for i in range(10)])
    job = self.start(lambda pipeline: self.copy(pipeline, self.read(max_num_records=20)))
    self.broker.read(self.sink, 10)
    time.sleep(12)
    self.broker.produce(self.source, [(b'k', b'%d' % i) for i in range(10, 20)])
    self.assertEqual(job.end(), 'DONE')
    self.assertIn('10 of the 20 records that are to be read were there', '\n'.join(job.messages()))

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

  def test_a_timestamp_of_zero(self):
    """librdkafka has no way to write it (2.12.1)."""
    self.broker.create_topic(self.sink)
    rows = [beam.Row(key=b'k', value=b'v', timestamp=at) for at in (0, 1, 7)]
    self.run_bounded(lambda pipeline: pipeline | beam.Create(rows) | self.write(with_headers=True))
    self.assertEqual(sorted(record.timestamp for record in self.broker.read(self.sink, 3)), [1, 1, 7])

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
    # Of which Java has its own, for what stands beside Java's Kafka.
    - type: LogForTesting
    - type: MapToFields
      config: {language: python, fields: {doubled: {expression: "2 * id", output_type: integer}, name: name}}
    - type: WriteToKafka
      config: {topic: SINK, format: JSON, bootstrap_servers: BOOTSTRAP}
'''


class Clients(KafkaTest):
  """Programs of users, as they are."""

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
    self.run_yaml(YAML)
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
    with self.expanded_here():
      def build(pipeline):
        read = managed.Read(managed.KAFKA, config=dict(
            config, topic=self.source, auto_offset_reset_config='earliest', max_read_time_seconds=3))
        changed = pipeline | read | beam.Map(lambda row: beam.Row(payload=str(row.payload) + '!'))
        return changed | managed.Write(managed.KAFKA, config=dict(config, topic=self.sink))

      self.run_bounded(build)
    self.assertEqual([record.value for record in self.broker.read(self.sink, 10)], [b'%d!' % i for i in range(10)])

  def test_managed_read_of_a_group(self):
    """It tells the group, and goes on where that was told."""
    self.topics()
    self.broker.produce(self.source, [(b'k', b'%d' % i) for i in range(10)])
    settings = os.path.join(self.folder, 'settings')
    with open(settings, 'w') as file:
      file.write('where=earliest\n')
    # A property may stand in a file.
    config = {'bootstrap_servers': self.broker.bootstrap, 'topic': self.source, 'format': 'STRING', 'max_read_time_seconds': 3,
              'auto_offset_reset_config': '${file:%s:where}' % settings,
              'consumer_config_updates': {'group.id': self.source, 'enable.auto.commit': 'true'}}
    with self.expanded_here():
      for end in (10, 15):
        read = managed.Read(managed.KAFKA, config=config)
        write = self.write(topic=self.sink)
        self.run_bounded(lambda pipeline, read=read, write=write: (
            pipeline | read | beam.Map(lambda row: (b'k', row.payload.encode())).with_output_types(tuple[bytes, bytes]) | write))
        self.assertEqual(self.broker.committed(self.source, self.source), {0: end})
        self.broker.produce(self.source, [(b'k', b'more %d' % i) for i in range(5)])
    self.assertEqual(len(self.broker.read(self.sink, 15)), 15)

  def test_yaml_of_json(self):
    self.topics()
    self.broker.produce(self.source, [(b'k', b'{"id": %d, "name": "n%d", "more": [1]}' % (i, i)) for i in range(10)])
    self.run_yaml(JSON)
    found = sorted(json.loads(record.value)['doubled'] for record in self.broker.read(self.sink, 5))
    self.assertEqual(found, [10, 12, 14, 16, 18])


if __name__ == '__main__':
  unittest.main()
