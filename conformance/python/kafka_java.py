"""Kafka in pipelines of the Java SDK, which has its own: a splittable DoFn, and a sink that writes at least once. (Its sink that
writes exactly once refuses every portable runner.) See `kafka_test.py`.

Nothing of it is the runner's: the harness reads and writes, and the runner's part are checkpoints of what it says.
"""
import collections
import functools
import io
import json
import os
import subprocess
import time
import unittest

import apache_beam as beam
from apache_beam.transforms.external import SchemaAwareExternalTransform
import fastavro
import grpc

import broker
import service
from kafka_test import KafkaTest


class Java(KafkaTest):
  """Job processes are killed, the harness lives: it is in the client."""

  def make_broker(self):
    return self.own_broker()

  def start_java(self):
    command = ['java', '-Xmx1g', '-cp', os.environ['JAVA_CLASS_PATH'], 'Kafka', '--runner=PortableRunner',
               '--jobEndpoint=%s' % self.service.endpoint, '--defaultEnvironmentType=LOOPBACK', '--jobName=java',
               '--experiments=checkpointing_interval=200,execution_retry_delay=20,parallelism=2',
               '--bootstrap=%s' % self.broker.bootstrap, '--from=%s' % self.source, '--to=%s' % self.sink]
    client = service.started(command, stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT)
    self.addCleanup(client.wait)
    self.addCleanup(client.kill)
    self.addCleanup(self.service.ask, 'cancel', 'java')
    service.wait_for('a checkpoint', lambda: client.poll() is None and self.service.checkpoint())

  def kill(self, piece):
    """Kills a job process, some time after a checkpoint, behind every fourth piece of what is sent."""
    if piece % 4 == 3:
      self.next_checkpoint()
      time.sleep(self.random.random() / 3)
      service.kill(self.random.choice(self.service.workers()))

  def numbered(self):
    """By key, the number of each value, as it was written last."""
    numbers = collections.defaultdict(dict)
    for record in self.broker.read_all(self.sink):
      value, number = record.value.rsplit(b' ', 1)
      numbers[record.key][value] = int(number)
    return numbers

  def check(self, sent):
    """All that was sent was numbered, each record of a key by a number of its own."""
    written = lambda: sorted((key, value) for key, of_key in self.numbered().items() for value in of_key)
    service.wait_for('all records', lambda: written() == sorted(sent))
    for key, of_key in self.numbered().items():
      self.assertEqual(sorted(of_key.values()), list(range(len(of_key))), key)

  def test_source_goes_on_where_it_was(self):
    """It is read from checkpoints on; the sink writes at least once."""
    self.topics(2)
    self.start_java()
    sent = self.numbers(600, keys=7)
    self.feed(sent, pieces=12, between=self.kill)
    self.check(sent)


@functools.cache
def java_expansion():
  """The address of the Java SDK's own expansion service, which lives as long as this process."""
  port = broker.lasting_port()
  command = ['java', '-Xmx512m', '-cp', os.environ['JAVA_CLASS_PATH'], 'org.apache.beam.sdk.expansion.service.ExpansionService', str(port)]
  service.started(command, stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT)
  address = 'localhost:%d' % port
  grpc.channel_ready_future(grpc.insecure_channel(address)).result(service.LIMIT)
  return address


class JavaExpanded(KafkaTest):
  """Schema transforms that Java has taken apart. They say what was asked of them, so the runner does it: here is no container."""

  def transform(self, name, **config):
    return SchemaAwareExternalTransform(
        identifier='beam:schematransform:org.apache.beam:%s:v1' % name, expansion_service=java_expansion(),
        rearrange_based_on_discovery=True, bootstrap_servers=self.broker.bootstrap, **config)

  def expanded_read(self, **config):
    return 'read' >> self.transform(
        'kafka_read', topic=self.source, auto_offset_reset_config='earliest', max_read_time_seconds=3, **config)

  def copy_expanded(self, pipeline):
    rows = beam.Map(lambda row: beam.Row(payload=bytes(row.payload + b'!')))
    return pipeline | self.expanded_read(format='RAW') | rows | 'write' >> self.transform('kafka_write', topic=self.sink, format='RAW')

  def test_schema_transforms_are_done_by_the_runner(self):
    self.topics()
    self.broker.produce(self.source, [(b'k', b'%d' % at) for at in range(5)])
    self.run_bounded(self.copy_expanded)
    self.assertEqual([record.value for record in self.broker.read(self.sink, 5)], [b'%d!' % at for at in range(5)])

  def test_errors_have_their_output(self):
    schema = {'type': 'record', 'name': 'Order', 'fields': [{'name': 'id', 'type': 'long'}, {'name': 'name', 'type': ['null', 'string']}]}
    out = io.BytesIO()
    fastavro.schemaless_writer(out, fastavro.parse_schema(schema), {'id': 1, 'name': 'n'})
    self.topics()
    self.broker.produce(self.source, [(b'k', out.getvalue()), (b'k', b'none')])

    def build(pipeline):
      found = pipeline | self.expanded_read(format='AVRO', schema=json.dumps(schema), error_handling={'output': 'bad'})
      good = found['output'] | beam.Map(lambda row: (b'good', b'%d %s' % (row.id, row.name.encode())))
      bad = found['bad'] | beam.Map(lambda row: (b'bad', row.failed_row))
      pairs = beam.Map(lambda pair: pair).with_output_types(tuple[bytes, bytes])
      _ = (good, bad) | beam.Flatten() | pairs | self.write()

    self.run_bounded(build)
    found = [(record.key, record.value) for record in self.broker.read(self.sink, 2)]
    self.assertEqual(sorted(found), [(b'bad', b'none'), (b'good', b'1 n')])

  def test_they_can_be_left_to_the_sdk(self):
    """Which would run them in a container."""
    self.topics()
    with self.assertRaises(Exception) as raised:
      self.run_bounded(self.copy_expanded, '--ferrobeam_kafka_by_sdk')
    self.assertIn('docker', str(raised.exception).lower())


if __name__ == '__main__':
  unittest.main()
