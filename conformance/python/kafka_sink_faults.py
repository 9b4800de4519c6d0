"""What real sinks of Kafka got wrong when they wrote exactly once. See `kafka_test.py`."""
import collections
import os
import pathlib
import shutil
import signal
import time
import unittest

import apache_beam as beam

import broker
import broker_relay
import service
from kafka_io import Writes
from kafka_test import FaultTest

# What went through a pipeline whose harness is in this process.
SEEN = []


def see(pair):
  SEEN.append(1)
  return pair


class SinkFaults(FaultTest):
  """By name; `guards.py` takes away what each of them is for."""
  properties = {
      'test_transactional_id_that_the_broker_forgot': {
          'transactional.id.expiration.ms': 1500, 'producer.id.expiration.ms': 1500
      },
      'test_transaction_timeout_above_the_brokers': {'transaction.max.timeout.ms': 60000},
  }

  def test_transaction_that_took_too_long(self):
    """The broker ends it: the producer is fenced, and nobody else was there."""
    self.topics()
    self.start(lambda pipeline: self.copy(pipeline, write=self.write({'transaction.timeout.ms': '1000'}.items())))
    self.written(10)
    worker = self.stop_in_transaction()
    time.sleep(2.5)
    os.kill(worker, signal.SIGCONT)
    self.check()
    self.assertEqual(self.worker(), worker)

  def test_transaction_timeout_above_the_brokers(self):
    self.topics()
    write = lambda: self.write({'transaction.timeout.ms': '120000'}.items())
    job = self.start(lambda pipeline: self.copy(pipeline, write=write()), '--number_of_execution_retries=0')
    self.assertIn("transaction.timeout.ms is more than the broker's transaction.max.timeout.ms", self.fails(job))

  def test_commit_that_comes_late(self):
    """A request that librdkafka has sent again comes when the next transaction is open, and is none of that."""
    relay = broker_relay.LateCommit(broker.lasting_port)
    self.addCleanup(relay.stop)
    self.broker = self.own_broker(relay)
    self.topics()
    write = lambda: self.write({'bootstrap.servers': relay.bootstrap}.items())
    job = self.start(lambda pipeline: self.copy(pipeline, write=write()), '--parallelism=1')
    self.written(10)
    relay.arm()
    self.written(10)
    self.send(10)
    self.assertTrue(relay.came.wait(service.LIMIT), 'the late commit never came')
    job.kill()
    relay.let_pass()
    self.written(10)
    self.check()
    # INVALID_PRODUCER_EPOCH or PRODUCER_FENCED.
    self.assertIn(relay.said, (47, 90))

  def test_death_between_the_checkpoint_and_the_transaction(self):
    """The broker hangs, so that what is durable is not written; then the job process dies."""
    self.topics()
    job = self.start(self.copy, '--checkpointing_interval=2000')
    self.written(10)
    self.next_checkpoint()
    # They are read before the next checkpoint, and their transaction, which comes after it, finds no broker.
    self.send(10)
    time.sleep(0.7)
    self.broker.pause()
    self.next_checkpoint()
    job.kill()
    self.broker.wake()
    self.check()

  def test_sink_of_another_topic_goes_on_from_a_savepoint(self):
    """What is in doubt is of the topic that it was for."""
    self.topics()
    job = self.start(self.copy)
    self.written(10)
    path = self.stop_with_savepoint(job)
    first, self.sink = self.sink, self.sink + '-2'
    self.broker.create_topic(self.sink)
    self.start(self.copy, '--savepoint_path=%s' % path)
    self.send(10)
    self.assertEqual(sorted(int(record.value.split()[0]) for record in self.broker.read(self.sink, 10)), list(range(10, 20)))
    self.assertEqual(len(self.broker.read_all(first)), 10)

  def twice(self):
    """Each of the records is there twice."""
    found = [record.value.split()[0] for record in self.broker.read(self.sink, 2 * self.sent)]
    time.sleep(1)
    self.assertEqual(len(self.broker.read_all(self.sink)), 2 * self.sent)
    self.assertEqual(collections.Counter(found), collections.Counter({b'%d' % i: 2 for i in range(self.sent)}))

  def test_two_copies_of_a_job(self):
    """Each of them writes everything once."""
    self.topics()
    for _ in range(2):
      self.start(self.copy)
    self.send(100)
    self.twice()

  def test_two_sinks_of_a_job(self):
    """Each of them has transactions of its own, also those of one topic."""
    self.topics()

    def build(pipeline):
      read = pipeline | self.read() | beam.Map(lambda pair: pair).with_output_types(tuple[bytes, bytes])
      for name in ('one', 'two'):
        read | name >> self.write()  # pylint: disable=expression-not-assigned

    self.start(build)
    self.send(50)
    self.broker.read(self.sink, 100)
    self.send(50)
    self.twice()

  def test_rescaled_with_transactions_in_doubt(self):
    """Whoever goes on from a checkpoint settles what was in doubt, of each worker that saved it."""
    self.topics(4)
    job = self.start(self.copy, '--parallelism=4', '--checkpointing_interval=600000')
    service.wait_for('its producers', lambda: len(self.transactional_ids()) == 4)
    sent = self.numbers(200, keys=20)
    self.broker.produce(self.source, sent)
    time.sleep(2)
    self.broker.pause()
    path = self.savepoint(job)
    job.cancel()
    job.end()
    self.broker.wake()
    self.start(self.copy, '--parallelism=1', '--savepoint_path=%s' % path)
    self.check_written_once(sent)

  def test_transaction_that_was_left_open_holds_no_reader_up(self):
    """It would be open for five minutes."""
    self.topics()
    self.start(self.copy)
    self.written(10)
    worker = self.stop_in_transaction()
    begun = time.monotonic()
    service.kill(worker)
    self.check()
    self.assertLess(time.monotonic() - begun, 30, 'a transaction without an owner was waited for')

  def test_failure_leaves_no_transaction_open(self):
    """A record of the transaction is refused for good: what else was in it is given up, and holds no reader up."""
    self.broker.create_topic(self.source)
    self.broker.create_topic(self.sink, 2, **{'max.message.bytes': 1000})
    job = self.start(self.copy, '--number_of_execution_retries=0', '--parallelism=1', '--checkpointing_interval=1000')
    keys = {Writes.murmur2(key) % 2: key for key in (b'k%d' % i for i in range(20))}
    self.broker.produce(self.source, [(keys[0], b'small')])
    self.broker.read(self.sink, 1)
    self.next_checkpoint()
    self.broker.produce(self.source, [(keys[0], b'small'), (keys[1], self.random.randbytes(2000))])
    self.fails(job)
    self.broker.produce(self.sink, [dict(key=b'other', value=b'plain', partition=0)])
    self.assertEqual([record.value for record in self.broker.read(self.sink, 2, limit=20)], [b'small 0', b'plain'])

  def test_offset_of_an_open_transaction(self):
    """What somebody with the id has begun and not committed is ended first, and then it is asked which epoch Kafka has."""
    self.topics()
    self.start(self.copy, '--parallelism=1')
    self.written(10)
    transactional_id, = self.transactional_ids()
    self.service.kill()
    left_open = self.broker.settle(transactional_id, self.sink, 10**6, [(b'k', b'never committed')], commit=False)
    self.service.start()
    self.service.wait()
    self.written(10)
    self.check()
    del left_open

  def too_large(self, *options):
    """A job does not go on over a record that was not written."""
    self.broker.create_topic(self.source)
    self.broker.create_topic(self.sink, **{'max.message.bytes': 1000})
    job = self.start(self.copy, '--number_of_execution_retries=0', *options)
    self.written(3)
    self.broker.produce(self.source, [(b'k', self.random.randbytes(2000))])
    said = self.fails(job)
    self.assertIn('could not be written', said)
    self.assertIn(self.sink, said)

  def test_record_that_is_too_large(self):
    self.too_large()

  def test_record_that_is_too_large_among_many(self):
    """It is refused while those behind it are still given to the producer, which then says no more than that it takes none."""
    self.broker.create_topic(self.source)
    self.broker.create_topic(self.sink, **{'max.message.bytes': 100_000})
    job = self.start(lambda pipeline: pipeline | self.read() | self.write(), '--number_of_execution_retries=0',
                     '--parallelism=1', '--checkpointing_interval=2000')
    self.written(1)
    self.next_checkpoint()
    many = [(b'k', self.random.randbytes(200_000))] + [(b'k', b'small')] * 200_000
    self.broker.produce(self.source, many)
    said = self.fails(job)
    self.assertIn('could not be written', said)
    self.assertIn(self.sink, said)

  def test_record_that_is_too_large_at_least_once(self):
    self.too_large('--checkpointing_mode=AT_LEAST_ONCE')

  def test_record_that_is_too_large_without_checkpoints(self):
    self.too_large('--checkpointing_interval=-1')

  def test_topic_that_is_not_there(self):
    self.topics()
    job = self.start(lambda pipeline: self.copy(pipeline, write=self.write(topic='no-such-topic')), '--number_of_execution_retries=0')
    self.send(1)
    said = self.fails(job)
    self.assertIn('no-such-topic', said)
    self.assertIn('the topic is not there; create it, or correct its name', said)

  def test_producer_that_is_fenced(self):
    self.topics()
    self.start(self.copy, '--parallelism=1')
    self.written(10)
    worker = self.worker()
    transactional_id, = self.transactional_ids()
    for _ in range(3):
      self.broker.fence(transactional_id)
      self.written(10)
    self.check()
    self.assertEqual(self.worker(), worker)

  def test_commit_whose_answer_was_lost(self):
    """Kafka has the epoch, and the producer was fenced before it knew: the records are not written again."""
    self.topics()
    self.start(self.copy, '--parallelism=1')
    self.written(10)
    transactional_id, = self.transactional_ids()
    worker = self.stop_in_transaction()
    read = self.broker.read_all(self.sink)
    in_doubt = [record for record in self.broker.read_all(self.sink, broker.UNCOMMITTED) if record not in read]
    self.assertTrue(in_doubt)
    # As if they were committed.
    self.broker.settle(transactional_id, self.sink, self.service.checkpoint())
    os.kill(worker, signal.SIGCONT)
    self.send(10)
    last = b'%d' % (self.sent - 1)
    value = lambda record: record.value.split()[0]
    service.wait_for('the last record', lambda: last in map(value, self.broker.read_all(self.sink)))
    again = set(map(value, in_doubt)) & set(map(value, self.broker.read_all(self.sink)))
    self.assertEqual(again, set())

  def test_epoch_that_the_broker_forgot(self):
    """Whether what is in doubt was written cannot be known: that is said, and nothing is guessed."""
    self.topics()
    job = self.start(self.copy, '--parallelism=1', '--checkpointing_interval=2000')
    self.written(10)
    group, = self.transactional_ids()
    self.next_checkpoint()
    # They are read before the next checkpoint, and their transaction, which comes after it, finds no broker.
    self.send(10)
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
    # Its owner has looked: they are not there.
    path = self.service.storage.as_uri() + '/' + job.result._job_id  # pylint: disable=protected-access
    self.start(self.copy, '--parallelism=1', '--savepoint_path=%s' % path, '--ferrobeam_kafka_in_doubt=WRITE')
    self.written(10)
    self.check()

  def test_epoch_that_the_broker_forgot_though_it_was_written(self):
    """Its owner has looked: the records are there."""
    self.topics()
    del SEEN[:]
    copy = lambda pipeline: pipeline | self.read() | beam.Map(see).with_output_types(tuple[bytes, bytes]) | self.write()
    job = self.start(copy, '--parallelism=1', '--checkpointing_interval=3600000')
    self.send(10)
    service.wait_for('all records', lambda: len(SEEN) == 10)
    path = self.stop_with_savepoint(job)
    self.broker.read(self.sink, 10)
    group, = self.transactional_ids()
    self.broker.delete_group(group)
    job = self.start(copy, '--parallelism=1', '--savepoint_path=%s' % path)
    self.assertIn('cannot be known: the group %s' % group, self.fails(job))
    self.start(copy, '--parallelism=1', '--savepoint_path=%s' % path, '--ferrobeam_kafka_in_doubt=WRITTEN')
    self.send(10)
    found = sorted(int(record.value) for record in self.broker.read(self.sink, self.sent))
    self.assertEqual(found, list(range(self.sent)))

  def test_idle_job_writes_nothing(self):
    """Not even transactions of nothing."""
    self.topics()
    self.start(self.copy)
    self.written(10)
    # Of the last that had records.
    checkpoint = self.service.checkpoint()
    service.wait_for('more checkpoints', lambda: self.service.checkpoint() > checkpoint + 3)
    ends = lambda: [self.broker.end_offsets(topic, broker.UNCOMMITTED) for topic in (self.sink, '__consumer_offsets')]
    before, checkpoint = ends(), self.service.checkpoint()
    service.wait_for('more checkpoints', lambda: self.service.checkpoint() > checkpoint + 10)
    self.assertEqual(ends(), before)

  def test_transactional_id_that_the_broker_forgot(self):
    self.topics()
    self.start(self.copy)
    self.written(10)
    worker = self.worker()
    time.sleep(5)
    self.written(10)
    self.check()
    self.assertEqual(self.worker(), worker)

  def test_no_producer_is_left_behind(self):
    """Neither by a checkpoint nor by a fault."""
    self.topics()
    self.start(self.copy, '--parallelism=1')
    self.written(10)
    transactional_id, = self.transactional_ids()
    worker = self.worker()
    threads = lambda: len(os.listdir('/proc/%d/task' % worker))
    for _ in range(10):
      self.written(5)
    before, checkpoint = threads(), self.service.checkpoint()
    for at in range(30):
      if at % 3 == 0:
        self.broker.fence(transactional_id)
      self.written(5)
    self.assertGreater(self.service.checkpoint(), checkpoint + 20)
    # Each producer has two threads at the least; some of the process's own come when there is much to do.
    self.assertLess(threads(), before + 20)

  def test_latest_checkpoint_is_damaged(self):
    """The job goes on from the one before, says that it writes some again, and loses nothing."""
    self.topics()
    job = self.start(self.copy, '--checkpointing_interval=1000')
    self.written(10)
    self.next_checkpoint()
    self.service.kill()
    number = self.service.checkpoint()
    manifest, = [path for path in self.service.storage.glob('*/manifests/*') if path.name.isdigit() and int(path.name) == number]
    manifest.write_bytes(manifest.read_bytes()[:manifest.stat().st_size // 2])
    self.service.start()
    self.service.wait()
    self.send(10)
    value = lambda record: record.value.split()[0]
    everything = {value for _, value in self.records(self.sent)}
    service.wait_for('all records', lambda: set(map(value, self.broker.read_all(self.sink))) == everything)
    job.cancel()
    job.end()
    self.assertIn('cannot be used', '\n'.join(job.messages()))

  def test_storage_that_was_set_back(self):
    """From a copy of it: what the job writes then has numbers that Kafka has already, of a future that was given up."""
    self.topics()
    self.start(self.copy, '--parallelism=1')
    self.written(10)
    self.next_checkpoint()
    self.service.kill()
    kept = pathlib.Path(self.folder) / 'kept'
    shutil.copytree(self.service.storage, kept)
    before = self.service.checkpoint()
    self.service.start()
    self.service.wait()
    for _ in range(20):
      self.written(1)
    self.assertGreater(self.service.checkpoint(), before + 10)
    self.service.kill()
    shutil.rmtree(self.service.storage)
    shutil.copytree(kept, self.service.storage)
    self.service.start()
    self.service.wait()
    self.send(10)
    value = lambda record: record.value.split()[0]
    everything = {value for _, value in self.records(self.sent)}
    service.wait_for('all records', lambda: set(map(value, self.broker.read_all(self.sink))) == everything)
    # What came after the copy is written again, and nothing else.
    found = collections.Counter(map(value, self.broker.read_all(self.sink)))
    again = {b'%d' % at for at in range(10, 30)}
    self.assertEqual({value: count for value, count in found.items() if value not in again},
                     {value: 1 for value in everything - again})

  def test_cancelled_in_the_middle_of_a_transaction(self):
    """What was written of it is given up, and holds no reader up: the broker would do that after five minutes."""
    self.topics()
    # A request for each record.
    slow = {'batch.num.messages': '1', 'max.in.flight.requests.per.connection': '1', 'linger.ms': '0'}
    job = self.start(lambda pipeline: self.copy(pipeline, write=self.write(slow.items())), '--parallelism=1',
                     '--checkpointing_interval=3000')
    self.written(1)
    self.next_checkpoint()
    self.send(50_000)
    ends = lambda isolation: self.broker.end_offsets(self.sink, isolation)[0]
    open_transaction = lambda: ends('read_uncommitted') > ends('read_committed') + 100
    service.wait_for('a transaction', open_transaction)
    job.cancel()
    self.assertEqual(job.end(), 'CANCELLED')
    ended = ends('read_uncommitted')
    self.assertLess(ended, 40_000, 'all was written before the job was cancelled')
    self.broker.produce(self.sink, [(b'other', b'plain')])
    service.wait_for('what is behind it', lambda: b'plain' in [record.value for record in self.broker.read_all(self.sink)], 30)

  def test_what_waits_for_a_broker_is_bounded(self):
    """While nothing can be written, not everything is read that another broker has."""
    self.topics()
    other, size, memory = self.own_broker(), 20_000, 16 << 20
    other.create_topic(self.source)
    value = self.random.randbytes(size)
    count = 16 * memory // size
    del SEEN[:]
    read = self.read(config={'bootstrap.servers': other.bootstrap}.items())
    copy = lambda pipeline: pipeline | read | beam.Map(see).with_output_types(tuple[bytes, bytes]) | self.write()
    job = self.start(copy, '--parallelism=1', '--ferrobeam_memory=16MiB')
    other.produce(self.source, [(b'k', value)] * 10)
    self.broker.read(self.sink, 10)
    other.produce(self.source, [(b'k', value)])
    self.broker.pause()
    # A checkpoint has it, and its transaction hangs.
    time.sleep(2)
    other.produce(self.source, [(b'k', value)] * count)
    time.sleep(10)
    # As much as is allowed, and what is on its way.
    self.assertLess(len(SEEN) * size, 9 * memory)
    self.assertGreater(len(SEEN) * size, 4 * memory)
    self.broker.wake()
    service.wait_for('all records', lambda: len(SEEN) >= count + 11)
    self.assertFalse(job.over())

  def test_what_waits_for_checkpoints_that_fail_is_bounded(self):
    """The storage takes nothing, which the job is to go on over."""
    self.topics()
    size, memory = 20_000, 16 << 20
    value = self.random.randbytes(size)
    del SEEN[:]
    copy = lambda pipeline: pipeline | self.read() | beam.Map(see).with_output_types(tuple[bytes, bytes]) | self.write()
    self.start(copy, '--parallelism=1', '--ferrobeam_memory=16MiB', '--experiments=fail_on_checkpointing_errors=false')
    self.broker.produce(self.source, [(b'k', value)] * 10)
    self.broker.read(self.sink, 10)
    manifests, = self.service.storage.glob('*/manifests')
    kept = manifests.rename(manifests.with_name('kept'))
    manifests.write_text('no folder')
    # A checkpoint has failed before much comes: what comes before the first one is its own.
    self.broker.produce(self.source, [(b'k', value)])
    service.wait_for('another record', lambda: len(SEEN) > 10)
    time.sleep(3)
    count = 48 * memory // size
    self.broker.produce(self.source, [(b'k', value)] * count)
    seen = -1
    # It stands still.
    while seen < len(SEEN):
      seen = len(SEEN)
      time.sleep(5)
    self.assertLess(seen * size, 36 * memory)
    manifests.unlink()
    kept.rename(manifests)
    service.wait_for('all records', lambda: len(SEEN) >= count + 11)
    self.broker.read(self.sink, count + 11)


if __name__ == '__main__':
  unittest.main()
