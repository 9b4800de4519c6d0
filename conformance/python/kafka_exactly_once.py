"""Kafka, exactly once: whatever dies, and whatever brokers do. See `kafka_test.py`."""
import collections
import os
import time
import unittest

import service
from kafka_test import KafkaTest


class ExactlyOnce(KafkaTest):
  """Nothing is lost and nothing is there twice, whatever dies."""

  def make_broker(self):
    return self.own_broker()

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
    path = self.savepoint(job, '--stop')
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
    path = self.savepoint(job, '--stop')
    job.end()
    with_path = self.broker.read_all(self.sink)
    # What is not there, the savepoint has not read: whoever starts from it goes on exactly there.
    self.check_exactly_once(self.start(self.copy, '--savepoint_path=%s' % path), sent + [(b'late', b'record')])
    self.assertEqual(self.broker.read_all(self.sink)[:len(with_path)], with_path)

  def rescale(self, job, parallelism):
    """A new job goes on from the savepoint that this one stops with."""
    path = self.stop_with_savepoint(job)
    return self.start(self.copy, '--parallelism=%d' % parallelism, '--savepoint_path=%s' % path)


if __name__ == '__main__':
  unittest.main()
