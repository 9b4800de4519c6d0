#!/usr/bin/env python3
"""Takes guards out of the code, one at a time, and shows that the test of each then fails.

    guards.py [--list] [--only FAULT]...

For each guard the code of this checkout's last commit is built without it, in a copy of its own, and the guard's test is run:
it has to fail. At the end stands how many did. FERROBEAM is not needed; KAFKA_JARS is the folder of a broker's jars. It takes
minutes a guard, and is no part of the tests. That each guard is in the code as it stands here is one (`Guards`).
"""
import argparse
import collections
import os
import pathlib
import subprocess
import sys
import time
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]
CACHE = pathlib.Path(
    os.environ.get('FERROBEAM_CACHE')
    or pathlib.Path(os.environ.get('XDG_CACHE_HOME') or pathlib.Path.home() / '.cache') / 'ferrobeam')

# What a guard is against, the name of its test, and the edits that take it out. A test is `module.Class.test`, or the name of
# one of the runner's own.
Guard = collections.namedtuple('Guard', 'fault test edits')
# A file, the text that is once in it, and what stands there instead.
Edit = collections.namedtuple('Edit', 'file old new')

KAFKA = 'runner/src/kafka/'
TRANSACTIONS = KAFKA + 'transactions.rs'
WRITER = KAFKA + 'writer.rs'
BEGIN, THREAD = KAFKA + 'reader/begin.rs', KAFKA + 'reader/thread.rs'
SINK, SOURCE = 'runner/src/dataflow/kafka/write.rs', 'runner/src/dataflow/kafka/read.rs'
HANDLE = 'runner/src/checkpoint/handle.rs'
SUPERVISOR = 'job-service/src/supervisor/'

SINKS, SOURCES = 'kafka_sink_faults.SinkFaults.test_', 'kafka_source_faults.SourceFaults.test_'
NO_RECOVERY = Edit(SINK, 'recoveries.push(Recovery {', 'drop(Recovery {')
FENCED = 'Err(Fault::Fenced(why)) => {\n                    fenced += 1;'

GUARDS = [
    Guard('1 a transaction older than its timeout', SINKS + 'transaction_that_took_too_long', [
        Edit(TRANSACTIONS, FENCED, 'Err(Fault::Fenced(_)) if true => return Ok(()),\n' + FENCED),
    ]),
    Guard("2 a timeout above the broker's", SINKS + 'transaction_timeout_above_the_brokers', [
        Edit(TRANSACTIONS, 'Code::InvalidTransactionTimeout => ', 'Code::InvalidTransactionTimeout if false => '),
    ]),
    Guard('3 a commit that comes late', SINKS + 'commit_that_comes_late', [
        Edit(TRANSACTIONS, 'self.is_suspect = may_have_been_sent_again(begun.elapsed());', 'let _ = begun;'),
    ]),
    Guard('4 death between checkpoint and transaction', SINKS + 'death_between_the_checkpoint_and_the_transaction', [
        Edit(TRANSACTIONS, 'transactions.write(epoch, &records)?;', 'let _ = epoch;'),
    ]),
    Guard('4 written before it is durable', SOURCES + 'nothing_is_told_before_the_manifest', [
        Edit(SINK, 'if durable < saved.epoch {', 'if durable == u64::MAX {'),
    ]),
    Guard('5 ids of two jobs', SINKS + 'two_copies_of_a_job', [
        Edit(SINK, '-{transform:016x}-{worker}", job.settings.job)', '-{transform:016x}-{worker}", "job")'),
    ]),
    Guard('5 ids of two sinks', SINKS + 'two_sinks_of_a_job', [
        Edit(SINK, 'xxh3_64(sink.name.as_bytes())', 'xxh3_64(b"sink")'),
    ]),
    Guard('6 ids that a rescale retired', SINKS + 'rescaled_with_transactions_in_doubt', [
        Edit(SINK, 'part.head.shard as usize % shards == shard', 'part.head.shard as usize == shard && shards > 0'),
    ]),
    Guard('7 a transaction of a killed process', SINKS + 'transaction_that_was_left_open_holds_no_reader_up', [
        NO_RECOVERY,
        Edit(SINK, 'let prefix = transactional_prefix(', 'let unlike = std::process::id();\n    let prefix = transactional_prefix('),
        Edit(SINK, '{transform:016x}-{worker}"', '{transform:016x}-{worker}-{unlike}"'),
    ]),
    Guard('7 a transaction of a job that failed', SINKS + 'failure_leaves_no_transaction_open', [
        Edit(TRANSACTIONS, 'Err(Fault::Final(why)) => {\n                    self.abort();\n', 'Err(Fault::Final(why)) => {\n'),
    ]),
    Guard('8 the epoch is read before the id is taken', SINKS + 'offset_of_an_open_transaction', [
        Edit(TRANSACTIONS, 'self.producer.init_transactions(CALL).map_err(|error| fault(&error, "init_transactions"))?;', ''),
        Edit(TRANSACTIONS, '            _ => None,\n        };\n        Ok(())', '            _ => None,\n        };\n'
             '        self.producer.init_transactions(CALL).map_err(|error| fault(&error, "init_transactions"))'),
    ]),
    Guard('9 errors of delivery, in transactions', SINKS + 'record_that_is_too_large', [
        Edit(WRITER, 'if let Some(failure) = &producer.context().deliveries().failure {\n            return Err(failure.clone().into());',
             'if let (Some(failure), false) = (&producer.context().deliveries().failure, true) {\n'
             '            return Err(failure.clone().into());'),
    ]),
    Guard('9 errors of delivery, at least once', SINKS + 'record_that_is_too_large_at_least_once', [
        Edit(WRITER, 'if let Some(failure) = &deliveries.failure {', 'if let (Some(failure), false) = (&deliveries.failure, true) {'),
    ]),
    Guard('9 errors of delivery, without checkpoints', SINKS + 'record_that_is_too_large_without_checkpoints', [
        Edit(WRITER, 'if let Some(failure) = &deliveries.failure {', 'if let (Some(failure), false) = (&deliveries.failure, true) {'),
    ]),
    Guard('10 a producer that is fenced', SINKS + 'producer_that_is_fenced', [
        Edit(TRANSACTIONS, FENCED, FENCED.replace('+= 1', '+= FENCED_AT_MOST + 1')),
    ]),
    Guard('10 a commit whose answer was lost', SINKS + 'commit_whose_answer_was_lost', [
        Edit(TRANSACTIONS, 'if this.epoch.is_some_and(&is_there) { Ok(()) } else { this.transaction(epoch, records) }',
             'this.transaction(epoch, records)'),
    ]),
    Guard('11 an offset that expired', SINKS + 'epoch_that_the_broker_forgot', [
        Edit(TRANSACTIONS, 'None if records.iter().all(FrozenQueue::is_empty) => {}', 'None if !records.is_empty() => {}'),
    ]),
    Guard('11 an offset that would expire', 'an_epoch_is_committed_again_long_before_brokers_forget_it', [
        Edit(TRANSACTIONS, 'committed_since >= COMMIT_AGAIN', 'committed_since >= COMMIT_AGAIN * 100'),
    ]),
    Guard('12 a sink topic that is not there', SINKS + 'topic_that_is_not_there', [
        Edit(TRANSACTIONS, 'Code::UnknownTopicOrPartition => {', 'Code::UnknownTopicOrPartition if false => {'),
    ]),
    Guard('13 a topic made anew while down', SOURCES + 'topic_that_was_made_anew_while_the_job_was_down', [
        Edit(BEGIN, '&& was != is', '&& was != is && was.is_empty()'),
    ]),
    Guard('13 a topic made anew while running', SOURCES + 'topic_that_was_made_anew_while_the_job_slept', [
        Edit(THREAD, '        self.check_ids()?;\n', ''),
    ]),
    Guard('13 a topic deleted', SOURCES + 'topic_that_is_deleted_while_the_job_runs', [
        Edit(THREAD, 'self.lost(format!("{name} is not there any more"))?;', ''),
    ]),
    Guard('13 records removed while down', SOURCES + 'records_that_retention_removed', [
        Edit(BEGIN, 'position.offset < low {', 'position.offset < low.min(0) {'),
    ]),
    Guard('13 records removed while running', SOURCES + 'records_that_retention_removed_while_the_job_slept', [
        Edit(THREAD, 'Some(Code::AutoOffsetReset | Code::OffsetOutOfRange) => {',
             'Some(Code::AutoOffsetReset | Code::OffsetOutOfRange) if self.stopped => {'),
        Edit(THREAD, '            Some(code) if partitions::passes(&error) => {',
             '            Some(Code::AutoOffsetReset | Code::OffsetOutOfRange) => Ok(()),\n'
             '            Some(code) if partitions::passes(&error) => {'),
    ]),
    Guard('14 partitions added while running', 'kafka_io.Reads.test_new_partitions_are_found', [
        Edit(THREAD, 'self.partitions().starts_of_new(&mine)?', 'self.partitions().starts(&mine)?'),
    ]),
    Guard('14 partitions added while down', SOURCES + 'partitions_added_while_the_job_was_down', [
        Edit(BEGIN, 'let Some(saved) = &saved else { return false };',
             'let Some(saved) = saved.as_ref().filter(|saved| saved.is_empty()) else { return false };'),
    ]),
    Guard('15 offsets committed too early', SOURCES + 'nothing_is_told_before_the_manifest', [
        Edit(HANDLE, 'Some(on) => on.inner().effects.entry(epoch).or_default().push(effect),', 'Some(_) => effect.finalize(),'),
    ]),
    Guard('16 a transaction of nothing', SINKS + 'idle_job_writes_nothing', [
        Edit(TRANSACTIONS, 'if records.iter().all(FrozenQueue::is_empty) && !is_due(self.committed.elapsed()) {',
             'if is_due(self.committed.elapsed()) {'),
    ]),
    Guard('17 an id that expired', SINKS + 'transactional_id_that_the_broker_forgot', [
        Edit(TRANSACTIONS, 'Err(Fault::Passing(why)) if !self.leaving.requested() => why,',
             'Err(Fault::Passing(message)) => return Err(KafkaFailure { message, may_pass: true }),'),
        Edit(TRANSACTIONS, FENCED, FENCED.replace('+= 1', '+= FENCED_AT_MOST + 1')),
    ]),
    Guard('18 a bounded read whose end is no record', SOURCES + 'bounded_read_ends_where_no_record_is', [
        Edit(THREAD, 'partition.ended |= partition.stop.is_some();', ''),
    ]),
    Guard('19 a producer that is left behind', SINKS + 'no_producer_is_left_behind', [
        Edit(TRANSACTIONS, 'self.producer = made.map_err(|failure| Fault::Final(failure.message))?;',
             'let made = made.map_err(|failure| Fault::Final(failure.message))?;\n'
             '        std::mem::forget(std::mem::replace(&mut self.producer, made));'),
    ]),
    Guard('20 a broker that is briefly away', SOURCES + 'broker_that_is_away_while_partitions_are_looked_for', [
        Edit(THREAD, 'Ok(None) | Err(Trouble::NoTopic(_)) => return Ok(()),',
             'Ok(None) => return Err(Trouble::Passing("no answer".to_owned())),\n            Err(Trouble::NoTopic(_)) => return Ok(()),'),
    ]),
    Guard('20 a restart while the broker is away', SOURCES + 'restart_while_the_broker_is_away', [
        Edit(SOURCE, 'if reached <= self.epoch || self.failed || !self.positions.has_looked {', 'if reached <= self.epoch || self.failed {'),
    ]),
    Guard('21 a damaged checkpoint', SINKS + 'latest_checkpoint_is_damaged', [
        Edit(SUPERVISOR + 'manifests.rs', 'let taken = Epoch(writer.next().0.saturating_sub(1));',
             'let taken = restorable.as_ref().map_or(Epoch(0), |restorable| restorable.epoch);'),
    ]),
    Guard('what waits for a broker', SINKS + 'what_waits_for_a_broker_is_bounded', [
        Edit(SINK, 'AHEAD.saturating_mul(self.job.budget.limit())', 'usize::MAX'),
    ]),
    Guard('what waits for checkpoints that fail', SINKS + 'what_waits_for_checkpoints_that_fail_is_bounded', [
        Edit(SINK, 'self.flow.hold_sources(given_up > ', 'self.flow.hold_sources(self.failed && given_up > '),
    ]),
    Guard('a transaction of a job that is cancelled', SINKS + 'cancelled_in_the_middle_of_a_transaction', [
        Edit('job-service/src/process/work.rs', '        leaving.request();\n', ''),
    ]),
    Guard('a record that is refused among many', SINKS + 'record_that_is_too_large_among_many', [
        Edit(TRANSACTIONS, 'first.filter(WriteError::is_final)', 'first.filter(|_| false)'),
        Edit(TRANSACTIONS, 'told if told.is_final() => for_good(&told),', '_ if self.leaving.requested() => Fault::Leaving,'),
    ]),
    Guard('a storage that was set back', SINKS + 'storage_that_was_set_back', [
        Edit(TRANSACTIONS, 'map_or(first_epoch, |known| known.min(first_epoch))', 'unwrap_or(first_epoch)'),
    ]),
    Guard('an open transaction and the watermark', SOURCES + 'nothing_is_late_because_a_transaction_was_open', [
        Edit(KAFKA + 'native.rs', 'RD_KAFKA_ISOLATION_LEVEL_READ_UNCOMMITTED', 'RD_KAFKA_ISOLATION_LEVEL_READ_COMMITTED'),
    ]),
    Guard('a checkpoint of a job that cannot run', 'durable.Durable.test_checkpoint_of_a_job_that_cannot_run_any_more', [
        Edit(SUPERVISOR + 'checkpoints.rs', 'State::Cancelled => self.disturbed || ', 'State::Cancelled => '),
    ]),
]


class Guards(unittest.TestCase):
  """The list is true."""

  def test_every_guard_is_in_the_code(self):
    for guard in GUARDS:
      for edit in guard.edits:
        self.assertEqual((ROOT / edit.file).read_text().count(edit.old), 1, '%s: %s in %s' % (guard.fault, edit.old, edit.file))


class Copy:
  """The last commit, in a folder of its own that is always the same: what did not change is not built again."""

  def __init__(self):
    self.folder = CACHE / 'guards' / 'tree'
    if not self.folder.exists():
      subprocess.run(['git', 'clone', '-q', str(ROOT), str(self.folder)], check=True)
    commit = subprocess.run(['git', 'rev-parse', 'HEAD'], cwd=ROOT, check=True, capture_output=True, text=True).stdout.strip()
    self.git('fetch', '-q', str(ROOT), commit)
    self.git('checkout', '-q', '--force', commit)
    self.target = CACHE / 'guards' / 'target'

  def git(self, *command):
    subprocess.run(['git', *command], cwd=self.folder, check=True)

  def cargo(self, *command):
    """Whether it succeeds, and what it says."""
    environment = {**os.environ, 'CARGO_TARGET_DIR': str(self.target)}
    ended = subprocess.run(['cargo', *command, '--profile', 'ci', '-q'], cwd=self.folder, env=environment, text=True,
                           stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    return ended.returncode == 0, ended.stdout

  def without(self, guard):
    for edit in guard.edits:
      file = self.folder / edit.file
      text = file.read_text()
      assert text.count(edit.old) == 1, '%s is not once in %s' % (edit.old, edit.file)
      file.write_text(text.replace(edit.old, edit.new))

  def run(self, test):
    """Whether a test passes, and what it says."""
    if '.' not in test:
      return self.cargo('test', '-p', 'ferrobeam-runner', '--lib', '--', test)
    built, said = self.cargo('build', '-p', 'ferrobeam-job-service')
    assert built, said
    environment = {**os.environ, 'FERROBEAM': str(self.target / 'ci' / 'ferrobeam')}
    try:
      ended = subprocess.run([sys.executable, '-m', 'unittest', test], cwd=self.folder / 'conformance' / 'python', text=True,
                             env=environment, timeout=600, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    except subprocess.TimeoutExpired:
      return False, 'it does not end'
    return ended.returncode == 0, ended.stdout


def last_line(said):
  lines = [line for line in said.splitlines() if 'Error' in line or 'panicked' in line or 'does not end' in line]
  return lines[-1].strip()[:150] if lines else said.strip()[-150:]


def main():
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--list', action='store_true')
  parser.add_argument('--only', action='append', help='faults whose names begin so')
  settings = parser.parse_args()
  wanted = [guard for guard in GUARDS if not settings.only or any(guard.fault.startswith(only) for only in settings.only)]
  if settings.list:
    for guard in wanted:
      print('%-48s %s' % (guard.fault, guard.test))
    return 0
  copy, noticed = Copy(), 0
  for guard in wanted:
    begun = time.monotonic()
    copy.git('checkout', '-q', '--force', 'HEAD', '--', '.')
    copy.without(guard)
    passed, said = copy.run(guard.test)
    noticed += not passed
    how = 'NOT NOTICED' if passed else 'noticed: %s' % last_line(said)
    print('%-48s %s (%d s)' % (guard.fault, how, time.monotonic() - begun), flush=True)
  copy.git('checkout', '-q', '--force', 'HEAD', '--', '.')
  print('%d of %d guards are noticed when they are gone' % (noticed, len(wanted)))
  return 0 if noticed == len(wanted) else 1


if __name__ == '__main__':
  sys.exit(main())
