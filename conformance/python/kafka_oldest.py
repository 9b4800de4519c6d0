"""Kafka 0.11, the oldest that has transactions: no ids of topics, older requests. See `kafka_test.py`."""
import time
import unittest

import apache_beam as beam
from apache_beam.io.kafka import ReadFromKafka
from apache_beam.transforms.window import FixedWindows

import broker
import service
from kafka_test import KafkaTest


class Oldest(KafkaTest):
  """What the newest brokers do, too."""

  def make_broker(self):
    oldest = broker.OldestBroker()
    self.addCleanup(oldest.stop)
    return oldest

  def test_exactly_once_while_processes_and_the_broker_are_killed(self):
    self.topics(3)
    sent = self.numbers(1000)
    job = self.start(self.copy, '--parallelism=2')

    def kill(at):
      if at % 5 == 2:
        job.kill()
      elif at == 9:
        self.broker.kill()
        self.broker.start()

    self.feed(sent, between=kill)
    self.check_exactly_once(job, sent)
    self.assertGreater(job.kills, 2)

  def test_windows_close_where_nothing_more_comes(self):
    """Such a broker, too, is asked where partitions end."""
    self.topics()
    read = self.read(timestamp_policy=ReadFromKafka.create_time_policy)
    pairs = tuple[bytes, bytes]
    self.start(lambda pipeline: (
        pipeline | read | beam.Map(lambda pair: pair).with_output_types(pairs) | beam.WindowInto(FixedWindows(1))
        | beam.GroupByKey() | beam.MapTuple(lambda key, values: (key, b'%d' % len(list(values)))).with_output_types(pairs)
        | self.write()))
    # Of one window.
    at = int(time.time() * 1000)
    self.broker.produce(self.source, [dict(key=b'k', value=b'v', timestamp=at)] * 10)
    self.assertEqual([record.value for record in self.broker.read(self.sink, 1)], [b'10'])

  def test_group_is_told(self):
    self.topics()
    read = self.read(config={'group.id': self.source}.items(), commit_offset_in_finalize=True)
    self.start(lambda pipeline: self.copy(pipeline, read))
    self.broker.produce(self.source, [(b'k', b'%d' % i) for i in range(10)])
    self.broker.read(self.sink, 10)
    service.wait_for('the offset of the group', lambda: self.broker.committed(self.source, self.source) == {0: 10})


if __name__ == '__main__':
  unittest.main()
