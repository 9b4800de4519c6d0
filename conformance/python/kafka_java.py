"""Kafka in pipelines of the Java SDK, which has its own: a splittable DoFn, and a sink that writes at least once. (Its sink that
writes exactly once refuses every portable runner.) See `kafka_test.py`.

Nothing of it is the runner's: the harness reads and writes, and the runner's part are checkpoints of what it says.
"""
import collections
import os
import subprocess
import time
import unittest

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

  def feed(self, pieces=12, size=50):
    """Sends records, and kills job processes now and then; gives what was sent, by key."""
    sent, number = collections.defaultdict(list), 0
    for piece in range(pieces):
      records = [(b'k%d' % (at % 7), b'%d' % at) for at in range(number, number + size)]
      number += size
      self.broker.produce(self.source, records)
      for key, value in records:
        sent[key].append(value)
      if piece % 4 == 3:
        last = self.service.checkpoint()
        service.wait_for('a checkpoint', lambda last=last: self.service.checkpoint() > last)
        time.sleep(self.random.random() / 3)
        service.kill(self.random.choice(self.service.workers()))
    return sent

  def numbered(self):
    """By key, the number of each value, as it was written last."""
    numbers = collections.defaultdict(dict)
    for record in self.broker.read_all(self.sink):
      value, number = record.value.rsplit(b' ', 1)
      numbers[record.key][value] = int(number)
    return numbers

  def check(self, sent):
    """All that was sent was numbered, each record of a key by a number of its own."""
    service.wait_for('all records', lambda: {key: sorted(values) for key, values in self.numbered().items()} ==
                     {key: sorted(values) for key, values in sent.items()})
    for key, of_key in self.numbered().items():
      self.assertEqual(sorted(of_key.values()), list(range(len(of_key))), key)

  def test_source_goes_on_where_it_was(self):
    """It is read from checkpoints on; the sink writes at least once."""
    self.topics(2)
    self.start_java()
    self.check(self.feed())


if __name__ == '__main__':
  unittest.main()
