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


if __name__ == '__main__':
  unittest.main()
