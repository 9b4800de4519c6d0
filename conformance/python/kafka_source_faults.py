"""What real sources of Kafka got wrong. See `kafka_test.py`."""
import json
import os
import signal
import time
import unittest

import apache_beam as beam
from apache_beam.io.kafka import ReadFromKafka
from apache_beam.runners.portability.portable_runner import PortableRunner

import kills
import service
from kafka_test import FaultTest


class StopAt(PortableRunner):
  """Has reads stop at a time: what expands them takes one, and no SDK gives it."""

  def __init__(self, millis):
    super().__init__()
    self._millis = millis

  def run_portable_pipeline(self, pipeline, options):
    reads = [each.spec for each in pipeline.components.transforms.values() if each.spec.urn == 'ferrobeam:transform:kafka_read:v1']
    for spec in reads:
      spec.payload = json.dumps({**json.loads(spec.payload), 'stop_time': self._millis}).encode()
    assert reads
    return super().run_portable_pipeline(pipeline, options)


class SourceFaults(FaultTest):
  """By name; `guards.py` takes away what each of them is for."""

  def sleep(self, what):
    """Does something while the job process is stopped."""
    worker = self.worker()
    os.kill(worker, signal.SIGSTOP)
    what()
    os.kill(worker, signal.SIGCONT)

  def make_anew(self):
    """The topic is another now, of more records than the job has read: offsets alone would tell nothing."""
    self.broker.delete_topic(self.source)
    self.broker.create_topic(self.source)
    self.broker.produce(self.source, self.records(25))

  def test_topic_that_was_made_anew_while_the_job_was_down(self):
    self.topics()
    job = self.start(self.copy)
    self.written(10)
    path = self.stop_with_savepoint(job)
    self.make_anew()
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
    self.sleep(self.make_anew)
    self.assertIn('made anew', self.fails(job))

  def test_topic_that_is_deleted_while_the_job_runs(self):
    self.topics()
    job = self.start(self.copy, '--number_of_execution_retries=0')
    self.written(10)
    self.broker.delete_topic(self.source)
    self.assertIn('is not there any more', self.fails(job))

  def test_topic_that_the_pipeline_reads_no_more_is_told(self):
    """What was saved of it is dropped: a mistyped name looks like that."""
    self.topics()
    job = self.start(self.copy)
    self.written(10)
    path = self.stop_with_savepoint(job)
    self.broker.create_topic(self.source + '-2')
    self.broker.produce(self.source + '-2', self.records(5, 10))
    job = self.start(lambda pipeline: self.copy(pipeline, self.read(topics=[self.source + '-2'])), '--savepoint_path=%s' % path)
    self.sent += 5
    self.check()
    job.cancel()
    job.end()
    told = 'topic %s, which the saved state has read up to offset 10 of partition 0, is not read any more' % self.source
    self.assertIn(told, '\n'.join(job.messages()))

  def test_records_that_retention_removed(self):
    self.topics()
    job = self.start(self.copy)
    self.written(10)
    path = self.stop_with_savepoint(job)
    self.send(10)
    self.broker.delete_records(self.source, 0, 15)
    job = self.start(self.copy, '--savepoint_path=%s' % path, '--number_of_execution_retries=0')
    self.assertIn('records 10 to 14 were removed before they were read', self.fails(job))

  def test_records_that_retention_removed_while_the_job_slept(self):
    self.topics()
    job = self.start(self.copy, '--number_of_execution_retries=0')
    self.written(10)

    def remove():
      # More than one answer to the job's consumer holds, which may be there already.
      self.broker.produce(self.source, [(b'k', self.random.randbytes(100_000))] * 400)
      self.broker.delete_records(self.source, 0, 405)

    self.sleep(remove)
    self.assertIn('has no record at offset', self.fails(job))

  def test_partitions_added_while_the_job_was_down(self):
    """They are read from their start, and the old ones from where they stood, whatever the reset says."""
    self.topics(2)
    latest = lambda: self.read(config={'auto.offset.reset': 'latest'}.items())
    job = self.start(lambda pipeline: self.copy(pipeline, latest()), '--parallelism=2')
    # None of them has a record yet, and all are known.
    self.next_checkpoint()
    self.next_checkpoint()
    path = self.stop_with_savepoint(job)
    self.broker.add_partitions(self.source, 4)
    sent = [dict(key=b'%d' % i, value=b'later', partition=i) for i in (0, 2, 3)]
    self.broker.produce(self.source, sent)
    self.start(lambda pipeline: self.copy(pipeline, latest()), '--parallelism=3', '--savepoint_path=%s' % path)
    found = sorted((record.key, record.value) for record in self.broker.read(self.sink, 3))
    self.assertEqual(found, [(b'%d' % i, b'later 0') for i in (0, 2, 3)])

  def test_nothing_is_told_before_the_manifest(self):
    """A checkpoint that is saved and not complete moves no offset of the group, and nothing of it is written."""
    self.topics()
    read = lambda: self.read(config={'group.id': self.source}.items(), commit_offset_in_finalize=True)
    self.start(lambda pipeline: self.copy(pipeline, read()), '--checkpointing_interval=2000')
    self.written(3)
    told = lambda: self.broker.committed(self.source, self.source)
    service.wait_for('the offset of the group', lambda: told() == {0: 3})
    self.next_checkpoint()
    manifests, = self.service.storage.glob('*/manifests')
    away = manifests.rename(manifests.parent / 'away')
    # Nothing can be written there.
    manifests.touch()
    self.send(10)
    time.sleep(4)
    self.assertEqual((told(), len(self.broker.read_all(self.sink))), ({0: 3}, 3))
    manifests.unlink()
    away.rename(manifests)
    self.check()
    service.wait_for('the offset of the group', lambda: told() == {0: 13})

  def test_nothing_is_late_because_a_transaction_was_open(self):
    """A reader of what is committed sees nothing of it until then, and has not come to the end of what there is."""
    self.broker.create_topic(self.source, **{'message.timestamp.type': 'LogAppendTime'})
    self.broker.create_topic(self.sink)
    read = self.read(config={'isolation.level': 'read_committed'}.items(), timestamp_policy=ReadFromKafka.log_append_time)

    def build(pipeline):
      grouped = (
          pipeline | read | beam.Map(lambda pair: pair).with_output_types(tuple[bytes, bytes])
          | beam.WindowInto(beam.window.FixedWindows(1)) | beam.GroupByKey())
      apart = grouped | beam.FlatMapTuple(lambda key, values: [(key, value) for value in values]).with_output_types(
          tuple[bytes, bytes])
      return apart | self.write()

    self.start(build)
    self.written_in_a_transaction(1, 0)
    for _ in range(3):
      # Longer than an idle partition holds the watermark up.
      self.written_in_a_transaction(5, 4)
    self.assertEqual(sorted(int(record.value) for record in self.broker.read(self.sink, self.sent)), list(range(self.sent)))

  def written_in_a_transaction(self, count, seconds):
    """Sends records in a transaction that is open for so long, and waits until something of them is written."""
    transaction = self.broker.begin('of-another', self.source, self.records(count, self.sent))
    time.sleep(seconds)
    transaction.commit_transaction(service.LIMIT)
    self.sent += count
    # What is late never comes.
    self.broker.produce(self.source, [(b'k', b'%d' % self.sent)])
    self.sent += 1
    newest = b'%d' % (self.sent - 1)
    service.wait_for('the newest record', lambda: newest in [record.value for record in self.broker.read_all(self.sink)])

  def test_bounded_read_ends_where_no_record_is(self):
    """The last offsets before it stops are an aborted transaction and its marker."""
    self.topics()
    self.broker.produce(self.source, self.records(10))
    self.broker.abort(self.source, self.records(5, 10))
    read = self.read(config={'isolation.level': 'read_committed'}.items())
    runner = StopAt(int(1000 * time.time()))
    options = kills.options(self.service, self._testMethodName, '--checkpointing_interval=-1')
    pipeline = beam.Pipeline(runner=runner, options=options)
    self.copy(pipeline, read)
    job = kills.Job(self.service, pipeline, None, self.seed)
    self.addCleanup(job.cancel)
    self.assertEqual(job.end(), 'DONE')
    self.check_numbered(self.records(10), self.broker.read_all(self.sink))

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
    self.written(10)
    self.check()

  def test_broker_that_is_away_while_partitions_are_looked_for(self):
    """What it does not say for a while is not gone."""
    self.topics()
    self.start(lambda pipeline: self.copy(pipeline, self.read(dynamic_read_poll_interval_seconds=1)))
    self.written(10)
    worker = self.worker()
    self.broker.pause()
    # Longer than one question may take.
    time.sleep(12)
    self.broker.wake()
    self.written(10)
    self.check()
    self.assertEqual(self.worker(), worker)


if __name__ == '__main__':
  unittest.main()
