"""What a job with checkpoints comes to when its processes are killed is what it comes to undisturbed.

Each test has a service of its own (FERROBEAM is the program), so that it knows whose processes it kills. When it kills
is random, from a seed that is printed; DURABLE_SEED sets it.
"""
import collections
import json
import os
import random
import re
import shutil
import tempfile
import unittest

import apache_beam as beam
from apache_beam.portability import common_urns
from apache_beam.testing.test_stream import TestStream
from apache_beam.testing.util import assert_that, equal_to
from apache_beam.transforms.window import TimestampedValue

import kills
import pieces
import savepoint_fixture
import service


def some_pieces(*names):
  return [piece for piece in pieces.ALL if piece.name in names]


class Finalized(beam.DoFn):
  """Writes down what it processes, and what of that is final."""
  def __init__(self, path, name):
    self.path, self.name = path, name

  def process(self, pair, finalizer=beam.DoFn.BundleFinalizerParam):
    line = '%s %s-%d' % (self.name, *pair)
    pieces.write(self.path, 'processed %s' % line)
    finalizer.register(lambda: pieces.write(self.path, 'final %s' % line))
    yield pair


class StableParDo(beam.ParDo):
  """What Java's `@RequiresStableInput` is: the Python SDK has no word for it."""
  def to_runner_api_parameter(self, context, **more):
    urn, payload = super().to_runner_api_parameter(context, **more)
    payload.requires_stable_input = True
    context.add_requirement(common_urns.requirements.REQUIRES_STABLE_INPUT.urn)
    return urn, payload


class Told(beam.DoFn):
  """Writes down what it is given."""
  def __init__(self, path):
    self.path = path

  def process(self, token):
    pieces.write(self.path, token)
    yield token


class Durable(unittest.TestCase):
  """The tests."""
  maxDiff = 2000

  def setUp(self):
    self.seed = int(os.environ.get('DURABLE_SEED', random.randrange(1 << 30)))
    print('%s: DURABLE_SEED=%d' % (self.id(), self.seed), flush=True)
    folder = tempfile.TemporaryDirectory()
    self.addCleanup(folder.cleanup)
    self.folder = folder.name
    self.service = service.Service()
    self.addCleanup(self.service.stop)

  def job(self, build, context, *options, streaming=True):
    options = (['--streaming'] if streaming else []) + list(options)
    pipeline = beam.Pipeline(options=kills.options(self.service, self._testMethodName, *options))
    build(pipeline)
    job = kills.Job(self.service, pipeline, context, self.seed)
    self.addCleanup(job.cancel)
    return job

  def run_killed(self, context, *options, times=3, victims=None, streaming=True):
    """Runs it to its end, and kills now and then; what it comes to must be right."""
    job = self.job(context.build, context, *options, streaming=streaming)
    job.disturb(times, victims)
    return self.check(job, context)

  def check(self, job, context):
    """The job ends well, having been killed, and what it comes to is right."""
    self.check_undisturbed(job, context)
    self.assertGreater(job.kills, 0, 'it was over before it was killed')
    return job

  def check_undisturbed(self, job, context):
    context.release()
    if job.end() != 'DONE':
      self.fail('%s: %s' % (job.end(), '\n'.join(job.messages())[-4000:]))
    compared, lost, repeated = context.results()
    self.assertEqual((lost[:5], repeated[:5]), ([], []), 'DURABLE_SEED=%d' % self.seed)
    print('%s: %d kills, %d values compared' % (self.id(), job.kills, compared), flush=True)

  def assert_went_on(self, job):
    """It was restarted from checkpoints."""
    went_on = [text for text in job.messages() if text.startswith('the job goes on from checkpoint')]
    self.assertGreater(len(went_on), 0, 'it never went on from a checkpoint')

  def context(self, *names, **more):
    return pieces.Context(self.folder, some_pieces(*names), **dict(dict(count=1200), **more))

  def test_what_is_lost_or_repeated_is_noticed(self):
    """Without this, the others might compare nothing."""
    for piece in pieces.ALL:
      if isinstance(piece, (pieces.Panes, pieces.Latest)):
        continue
      context = pieces.Context(self.folder, [piece], count=400)
      collected = collections.defaultdict(list)
      for key, value in piece.expected([(part, number) for part in context.parts for number in range(400)]):
        collected[key].append(value)
      self.assertEqual(self.noticed(context, collected), (0, 0), piece.name)
      one = collected['p0' if 'p0' in collected else 'k0']
      lost = one.pop()
      self.assertEqual(self.noticed(context, collected), (1, 0), piece.name)
      one += [lost, lost]
      self.assertEqual(self.noticed(context, collected), (0, 1), piece.name)

  def test_wrong_panes_are_noticed(self):
    pairs = [('p0', number) for number in range(0, 9 * pieces.KEYS, pieces.KEYS)]
    names = sorted(pieces.named(pairs))
    early, late = [0, 0, 'EARLY', True, names[:4]], [0, 1, 'ON_TIME', False, names[4:]]
    after = [0, 2, 'LATE', False, []]
    for panes, lost, repeated in [([early, late], 0, 0), ([early, late, after], 0, 0), ([late], 4, 2), ([early], 5, 1),
                                  ([early, late, late], 0, 7), ([early, late[:4] + [names]], 0, 4)]:
      noticed = pieces.Panes().differences(pairs, {'k0': list(map(json.dumps, panes))})
      self.assertEqual(tuple(map(len, noticed)), (lost, repeated), panes)

  def noticed(self, context, collected):
    with open(context.written, 'w') as file:
      for key, values in collected.items():
        print(context.pieces[0].name, key, json.dumps(sorted(values)), sep='\t', file=file)
    return tuple(map(len, context.results()[1:]))

  # What there is to save.

  def test_state_and_timers(self):
    self.assert_went_on(self.run_killed(self.context('state')))

  def test_groupings(self):
    context = self.context('windows', 'sliding', 'sessions', 'panes', 'accumulating')
    self.assert_went_on(self.run_killed(context))

  def test_side_inputs(self):
    self.assert_went_on(self.run_killed(self.context('side', 'latest')))

  def test_sources_go_on_where_they_were(self):
    context = self.context('stateless')
    job = self.job(context.build, context)
    self.assertTrue(job.worked(12))
    # The second begins after the first.
    self.assertTrue(job.worked(0, checkpoints=2))
    job.kill()
    before = context.progress()
    self.check(job, context)
    self.assert_went_on(job)
    self.assertNotIn(0, [int(call.split()[1]) for call in pieces.read(context.calls)[before:]])

  def test_rocksdb(self):
    self.assert_went_on(self.run_killed(self.context('state', 'windows'), '--state_backend=rocksdb'))

  def test_bounded_input(self):
    context = self.context('state', 'windows', 'side', count=800, source_fn=pieces.BoundedSource)
    self.assert_went_on(self.run_killed(context, streaming=False))

  def test_metrics_count_once(self):
    context = self.context('state', count=800)
    job = self.run_killed(context)
    count = len(context.parts) * context.count
    self.assertEqual(job.counters('remembered'), [[count], [count]])

  # Who is killed.

  def test_one_of_two_processes(self):
    context = self.context('state', 'windows', 'side', count=800)
    job = self.run_killed(context, '--ferrobeam_processes=2', '--parallelism=2')
    self.assert_went_on(job)

  def test_harness_process(self):
    context = self.context('state', 'windows', count=800)
    environment = self.service.process_environment()
    job = self.run_killed(context, *environment, times=2, victims=self.service.harnesses)
    count = len(context.parts) * context.count
    self.assertEqual(job.counters('remembered'), [[count], [count]])

  def test_harness_of_a_worker_pool(self):
    pool = service.Pool()
    self.addCleanup(pool.stop)
    context = self.context('state', 'windows', count=800)
    job = self.run_killed(context, *pool.environment, times=2, victims=pool.harnesses)
    count = len(context.parts) * context.count
    self.assertEqual(job.counters('remembered'), [[count], [count]])

  def job_of_a_pool(self):
    """A worker pool, and a job of its harnesses that has saved something and is held in the middle."""
    pool = service.Pool()
    self.addCleanup(pool.stop)
    context = self.context('state', 'windows', count=800)
    job = self.job(context.build, context, *pool.environment)
    context.hold(1, 2)
    self.assertTrue(job.worked(2, checkpoints=2))
    return pool, context, job

  def test_worker_pool_that_comes_back(self):
    """A job that has a checkpoint waits for it, longer than one that has none."""
    pool, context, job = self.job_of_a_pool()
    pool.stop()
    job.kills += 1
    self.assertFalse(self.away(job, 15), 'it ended without its pool')
    pool.start()
    self.check(job, context)
    self.assertTrue(any('worker pool' in text and 'The job is run again' in text for text in job.messages()))

  def test_checkpoint_of_a_job_that_cannot_run_any_more(self):
    """Its harnesses are gone for good. Who cancels it to start another from its checkpoint still has that."""
    pool, context, job = self.job_of_a_pool()
    pool.stop()
    job.kill()
    job_id = job.result._job_id  # pylint: disable=protected-access
    cancelled = self.service.ask('cancel', job_id)
    self.assertEqual((cancelled.returncode, cancelled.stdout), (0, '%s CANCELLED\n' % job_id))
    option, = re.findall(r'--savepoint_path=\S+', cancelled.stderr)
    pool.start()
    another = self.job(context.build, context, *pool.environment, option)
    self.check_undisturbed(another, context)
    self.assert_went_on(another)

  def away(self, job, seconds):
    """Whether it ends within so many seconds."""
    try:
      return bool(service.wait_for('its end', job.over, seconds))
    except service.NeverCame:
      return False

  def test_process_with_its_harnesses(self):
    context = self.context('state', count=800)
    self.assert_went_on(self.run_killed(context, *self.service.process_environment(), times=2))

  # The service itself.

  def test_service(self):
    context = self.context('state', 'windows', 'side')
    job = self.job(context.build, context)
    for at in range(3):
      context.hold(at + 1, 4)
      self.assertTrue(job.worked(job.random.randint(0, 8), checkpoints=1))
      self.service.kill()
      job.kills += 1
      self.service.start()
      self.service.wait()
    self.check(job, context)
    self.assertEqual(job.states(), ['STOPPED', 'STARTING', 'RUNNING', 'DONE'])
    self.assertIn('the job service that had the job is gone, and this one goes on with it', job.messages())
    self.assert_went_on(job)
    count = len(context.parts) * context.count
    self.assertEqual(job.counters('remembered'), [[count], [count]])

  def test_service_that_is_stopped_leaves_its_jobs_to_the_next(self):
    context = self.context('state', count=800)
    job = self.job(context.build, context)
    context.hold(1, 2)
    self.assertTrue(job.worked(2, checkpoints=1))
    self.service.terminate()
    job.kills += 1
    self.assertIn('jobs stay, for the next service', self.service.log.read_text())
    self.service.start()
    self.service.wait()
    self.check(job, context)
    self.assertEqual(job.states(), ['STOPPED', 'STARTING', 'RUNNING', 'DONE'])

  def test_service_that_finds_no_checkpoints_does_not_begin_again(self):
    context = self.context('state', count=800)
    job = self.job(context.build, context)
    context.hold(1, 2)
    self.assertTrue(job.worked(2, checkpoints=2))
    processes = self.service.all_processes()
    self.service.kill()
    service.wait_for('the end of its processes', lambda: not any(map(service.alive, processes)))
    for folder in self.service.storage.glob('test*'):
      shutil.rmtree(folder)
    before = context.progress()
    self.service.start()
    self.service.wait()
    context.release()
    self.assertEqual(job.end(), 'FAILED')
    self.assertIn('none of its checkpoints', job.messages()[-1])
    self.assertEqual(context.progress(), before)

  def test_second_service_goes_on(self):
    second = service.Service(storage=self.service.storage)
    self.addCleanup(second.stop)
    context = self.context('state', 'windows')
    job = self.job(context.build, context)
    context.hold(1, 3)
    self.assertTrue(job.worked(2, checkpoints=2))
    self.assertFalse(second.is_listening(), 'two services have the jobs')
    self.service.kill()
    second.wait()
    job.kills += 1
    job.move(second)
    context.hold(2, 3)
    self.assertTrue(job.worked(2, checkpoints=1))
    # The first comes back, and waits for the second.
    self.service.start()
    self.assertTrue(job.worked(0, checkpoints=3))
    self.assertFalse(self.service.is_listening(), 'two services have the jobs')
    self.check(job, context)
    self.assert_went_on(job)

  def test_service_that_slept_is_replaced(self):
    """What it does when it wakes changes nothing: the second has the jobs."""
    second = service.Service(storage=self.service.storage)
    self.addCleanup(second.stop)
    context = self.context('state', 'windows')
    job = self.job(context.build, context)
    context.hold(1, 3)
    self.assertTrue(job.worked(2, checkpoints=1))
    self.service.pause()
    second.wait()
    job.kills += 1
    job.move(second)
    context.hold(2, 3)
    self.assertTrue(job.worked(2, checkpoints=1))
    self.service.wake()
    self.assertEqual(self.service.ends(), 1)
    self.assertIn('the service has ended, and its jobs go on elsewhere', self.service.log.read_text())
    self.check(job, context)

  # Savepoints of each version of the format, which stay in the repository: `savepoint_fixture.py` makes them.

  def test_savepoint_of_version_1_memory(self):
    self.restore('savepoint-v1-memory')

  def test_savepoint_of_version_1_rocksdb(self):
    self.restore('savepoint-v1-rocksdb')

  def restore(self, name):
    """Another job goes on with it, on another number of workers, where its sources stood."""
    saved = savepoint_fixture.Savepoint(name)
    context = saved.context(self.folder)
    options = ['--savepoint_path=%s' % saved.put(self.folder), '--state_backend=%s' % saved.facts['state_backend']]
    job = self.job(context.build, context, '--parallelism=%d' % (saved.facts['parallelism'] + 2), *options)
    # Of each key one timer was due long ago.
    job.reached(lambda: job.counters('flushed')[0] == [pieces.KEYS])
    self.check_undisturbed(job, context)
    first = {}
    for part, number in map(str.split, pieces.read(context.calls)):
      if part in saved.facts['stood']:
        first.setdefault(part, int(number))
    self.assertEqual(first, saved.facts['stood'])

  # What waits for checkpoints.

  def test_finalization(self):
    """What is final is not processed again. Who is killed between the two may never tell what is final."""
    path = self.folder + '/finalized'
    context = self.context('stateless')

    def build(pipeline):
      source = context.source

      def finalized(*arguments, **named):
        return (
            source(*arguments, **named) | 'read' >> beam.ParDo(Finalized(path, 'read')) | beam.Reshuffle()
            | 'behind' >> beam.ParDo(Finalized(path, 'behind')))

      context.source = finalized
      context.build(pipeline)

    job = self.job(build, context)
    final = lambda: sum(line.startswith('final') for line in pieces.read(path))
    for at in range(3):
      before = final()
      context.hold(at + 1, 4)
      if not job.reached(lambda before=before: final() > before) or not job.worked(job.random.randint(0, 8)):
        break
      job.kill()
      pieces.write(path, 'killed')
    self.check(job, context)
    self.assert_went_on(job)
    finals, last, deaths = collections.Counter(), {}, 0
    for line in pieces.read(path):
      what, _, element = line.partition(' ')
      deaths += what == 'killed'
      finals[element] += what == 'final'
      if what == 'processed':
        self.assertEqual(finals[element], 0, '%s was final, and is processed again' % element)
        last[element] = deaths
    del finals['']
    self.assertEqual([element for element, times in finals.items() if times > 1], [], 'final more than once')
    self.assertEqual(len(last), 2 * 2 * context.count)
    # Those that were processed since the last death.
    self.assertEqual([element for element in last if last[element] == deaths and not finals[element]], [])

  def test_stable_input(self):
    """What a DoFn that asks for stable input has seen, it sees again, and nothing else instead."""
    drawn, told = self.folder + '/drawn', self.folder + '/told'
    context = self.context(count=1200)

    def draw(pair):
      token = '%s-%d %d' % (*pair, random.SystemRandom().randrange(1 << 60))
      pieces.write(drawn, token)
      return token

    def build(pipeline):
      context.build(pipeline)
      numbers = context.source('random', context.parts, context.batch, context.pause)
      (  # pylint: disable=expression-not-assigned
          numbers | beam.Map(draw) | StableParDo(Told(told)) | beam.Map(lambda token: tuple(token.split(' ')))
          | beam.MapTuple(lambda number, token: (number, token)).with_output_types(tuple[str, str])
          | beam.ParDo(pieces.Collect('stable', context.written)))

    tokens = lambda path: [tuple(line.split(' ')) for line in pieces.read(path)]
    context.hold(1, 6)
    job = self.job(build, context)
    self.assertTrue(job.worked(0, checkpoints=1))
    for at in range(4):
      before = len(tokens(told))
      context.hold(at + 2, 6)
      if not job.reached(lambda before=before: len(tokens(told)) > before) or not job.worked(job.random.randint(0, 2)):
        break
      job.kill()
    self.check(job, context)
    self.assert_went_on(job)
    everything = {'%s-%d' % (part, number) for part in context.parts for number in range(context.count)}
    seen = collections.defaultdict(set)
    for number, token in tokens(told):
      seen[number].add(token)
    self.assertEqual({number: found for number, found in seen.items() if len(found) > 1}, {})
    self.assertEqual(seen.keys(), everything)
    # Had nothing been done again, nothing would be shown.
    self.assertGreater(len(tokens(told)), len(everything), 'no stable input was given again')
    self.assertGreater(len(tokens(drawn)), len(everything), 'nothing was drawn again')
    collected = dict(line.split('\t')[1:] for line in pieces.read(context.written))
    self.assertEqual(collected, {number: '["%s"]' % token for number, (token, ) in seen.items()})

  # What is no reason to start again.

  def test_failing_user_code(self):
    context = self.context('stateless', count=1200)

    def refuse(pair):
      if pair[1] == 900:
        raise ValueError('number 900 is refused')
      return pair

    def build(pipeline):
      context.build(pipeline)
      numbers = context.source('again', context.parts, context.batch, context.pause)
      numbers | beam.Map(refuse)  # pylint: disable=pointless-statement

    job = self.job(build, context)
    self.assertTrue(job.worked(2, checkpoints=1))
    job.kill()
    context.release()
    self.assertEqual(job.end(), 'FAILED')
    messages = job.messages()
    self.assertIn('ValueError: number 900 is refused', '\n'.join(messages))
    self.assertEqual(sum('The job is run again from' in text for text in messages), 1)

  def test_test_stream_takes_no_checkpoints(self):
    stream = TestStream()
    for number in range(20):
      stream.add_elements([TimestampedValue(('key', number), number)]).advance_watermark_to(number)
    stream.advance_watermark_to_infinity()

    def build(pipeline):
      grouped = pipeline | stream | beam.Map(lambda pair: pair) | beam.WindowInto(
          beam.window.FixedWindows(10)) | beam.GroupByKey() | beam.MapTuple(lambda key, values: (key, sorted(values)))
      assert_that(grouped, equal_to([('key', list(range(10))), ('key', list(range(10, 20)))]))

    job = self.job(build, None)
    self.assertEqual(job.end(), 'DONE')
    self.assertEqual(self.service.checkpoint(), 0)
    self.assertIn('the job takes no checkpoints: a TestStream', '\n'.join(job.messages()))


if __name__ == '__main__':
  unittest.main()
