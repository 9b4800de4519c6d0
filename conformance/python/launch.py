"""Beam's own examples, and an ordinary Java pipeline, through `ferrobeam run`: what a first user does.

FERROBEAM is the program, GO_WORDCOUNT Beam's Go wordcount, compiled, JAVA_CLASS_PATH where the Java SDK and Words are. Each run starts a service of its own.
"""
import collections
import glob
import os
import pathlib
import re
import signal
import subprocess
import sys
import tempfile
import time
import unittest

import service

TEXT = pathlib.Path(__file__).resolve().parents[2] / 'LICENSE'
PYTHON_WORDCOUNT = [sys.executable, '-m', 'apache_beam.examples.wordcount']
FAILING = '''
import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions

def divide(_):
  return 1 // 0

with beam.Pipeline(options=PipelineOptions()) as p:
  p | beam.Impulse() | beam.Map(divide)
'''

# Emits a number every few milliseconds, for ever; or never returns. What is emitted goes to the file. Drained, it emits
# three numbers more.
ENDLESS = '''
import sys, time
import apache_beam as beam
from apache_beam.io.restriction_trackers import OffsetRange, OffsetRestrictionTracker
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.transforms.core import RestrictionProvider

class Numbers(RestrictionProvider):
  def initial_restriction(self, element):
    return OffsetRange(0, 2**62)

  def create_tracker(self, restriction):
    return OffsetRestrictionTracker(restriction)

  def restriction_size(self, element, restriction):
    return 1.0

  def truncate(self, element, restriction):
    write('%d truncated' % restriction.start, path + '.truncated')
    return OffsetRange(restriction.start, restriction.start + 3)

class Count(beam.DoFn):
  @beam.DoFn.unbounded_per_element()
  def process(self, stuck, tracker=beam.DoFn.RestrictionParam(Numbers())):
    number = tracker.current_restriction().start
    while tracker.try_claim(number):
      yield number
      number += 1
      time.sleep(100000 if stuck else 0.005)

def write(number, path):
  with open(path, 'a') as file:
    file.write('%s\\n' % number)

path, stuck = sys.argv[1], sys.argv[2] == 'stuck'
with beam.Pipeline(options=PipelineOptions(sys.argv[3:])) as p:
  p | beam.Create([stuck], reshuffle=False) | beam.ParDo(Count()) | beam.Map(write, path)
'''

class Endless:
  """A pipeline without an end under `ferrobeam run`, with a process group of its own, as a shell gives it."""

  def __init__(self, test, mode, in_process=False, flags=(), options=()):
    folder = tempfile.TemporaryDirectory()
    test.addCleanup(folder.cleanup)
    self.test, self.folder = test, pathlib.Path(folder.name)
    command = [os.environ['FERROBEAM'], 'run', *flags, '--', sys.executable, '-c', ENDLESS, str(self.folder / 'numbers'), mode, *options]
    if in_process:
      command += service.process_environment(self.folder, first='echo $$ >> "%s"' % (self.folder / 'harnesses'))
    self.output = self.folder / 'output'
    with self.output.open('w') as output:
      self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
                                      start_new_session=True)
    test.addCleanup(self.kill)

  def kill(self):
    print(self.output.read_text())
    try:
      os.killpg(self.process.pid, signal.SIGKILL)
    except ProcessLookupError:
      pass
    self.process.wait()

  def numbers(self):
    file = self.folder / 'numbers'
    return [int(line) for line in file.read_text().splitlines()] if file.exists() else []

  def harnesses(self):
    file = self.folder / 'harnesses'
    return [int(line) for line in file.read_text().splitlines()] if file.exists() else []

  def wait_for(self, what, value):
    until = time.monotonic() + 60
    while time.monotonic() < until:
      found = value()
      if found:
        return found
      if self.process.poll() is not None:
        break
      time.sleep(0.05)
    self.test.fail('%s never came: %s' % (what, self.output.read_text()[-1500:]))

  def how_to_drain(self):
    """What the user is told to type."""
    told = lambda: re.search(r'`ferrobeam drain --endpoint (\S+) (\S+)`', self.output.read_text())
    return self.wait_for('the advice how to drain', told).groups()

  def ask(self, command, *flags):
    """`ferrobeam drain` or `ferrobeam cancel`, as far as it takes to end."""
    endpoint, job = self.how_to_drain()
    ended = subprocess.run([os.environ['FERROBEAM'], command, *flags, '--endpoint', endpoint, job], stdin=subprocess.DEVNULL,
                           stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False, timeout=60)
    self.test.assertEqual(ended.returncode, 0, ended.stdout)
    return ended.stdout

  def ended(self):
    return self.process.wait(timeout=60), self.output.read_text()


class Launch(unittest.TestCase):
  """Each test is a command that a user may type."""
  maxDiff = 2000

  def ferrobeam_run(self, command, expected=0):
    ended = subprocess.run([os.environ['FERROBEAM'], 'run', '--'] + command, stdin=subprocess.DEVNULL,
                           stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    print(ended.stdout)
    if expected == 0:
      self.assertEqual(ended.returncode, 0, ended.stdout[-1500:])
    else:
      self.assertNotEqual(ended.returncode, 0, ended.stdout[-1500:])
    return ended.stdout

  def counts(self, command, *flags):
    """Runs a wordcount and reads what it wrote."""
    with tempfile.TemporaryDirectory() as folder:
      output = self.ferrobeam_run(command + ['--input', str(TEXT), '--output', folder + '/counts'] + list(flags))
      self.assertNotRegex(output, r'\(id=\d+\).*\(id=\d+\)', 'a message came back as another message')
      return self.read(folder)

  def read(self, folder):
    lines = [line for name in glob.glob(folder + '/counts*') for line in pathlib.Path(name).read_text().splitlines()]
    counts = dict(line.rsplit(': ', 1) for line in lines)
    self.assertEqual(len(counts), len(lines), 'a word was counted twice')
    return {word: int(count) for word, count in counts.items()}

  def expected(self, pattern):
    return dict(collections.Counter(re.findall(pattern, TEXT.read_text())))

  def test_python_wordcount(self):
    self.assertEqual(self.counts(PYTHON_WORDCOUNT), self.expected(r"[\w\']+"))

  def test_python_wordcount_two_processes_two_workers(self):
    counts = self.counts(PYTHON_WORDCOUNT, '--ferrobeam_processes=2', '--parallelism=4')
    self.assertEqual(counts, self.expected(r"[\w\']+"))

  def test_go_wordcount(self):
    self.assertEqual(self.counts([os.environ['GO_WORDCOUNT']]), self.expected(r"[a-zA-Z]+(?:'[a-z])?"))

  def test_java_words(self):
    command = ['java', '-cp', os.environ['JAVA_CLASS_PATH'], 'Words']
    # Java's flags know one form only.
    with tempfile.TemporaryDirectory() as folder:
      self.ferrobeam_run(command + ['--input=%s' % TEXT, '--output=%s/counts' % folder])
      self.assertEqual(self.read(folder), self.expected('[a-zA-Z]+'))

  def test_failure_reaches_the_user(self):
    output = self.ferrobeam_run([sys.executable, '-c', FAILING], expected='failure')
    self.assertIn('ZeroDivisionError', output)
    self.assertIn('divide', output)

  def test_exit_code_of_a_command_that_is_no_pipeline(self):
    command = [sys.executable, '-c', 'import sys; sys.exit(7)']
    ended = subprocess.run([os.environ['FERROBEAM'], 'run', '--'] + command, stdin=subprocess.DEVNULL, check=False)
    self.assertEqual(ended.returncode, 7)

  def test_command_that_does_not_exist(self):
    output = self.ferrobeam_run(['/there/is/no/such/command'], expected='failure')
    self.assertIn('/there/is/no/such/command', output)

  def test_drained_pipeline_finishes_what_it_truncates_to(self):
    run = Endless(self, 'counting')
    run.wait_for('a number', lambda: len(run.numbers()) > 50)
    self.assertIn('DRAINED', run.ask('drain'))
    code, output = run.ended()
    # To be drained is not to fail, though Python's client raises an error.
    self.assertEqual(code, 0, output[-1500:])
    self.assertIn('is DRAINED', output)
    [truncated] = (run.folder / 'numbers.truncated').read_text().splitlines()
    self.assertEqual(run.numbers(), list(range(int(truncated.split()[0]) + 3)))

  def saved(self, *flags):
    """What `ferrobeam savepoint --stop` says of a job of `ferrobeam run`, and the manifest that it names."""
    run = Endless(self, 'counting', flags=flags, options=['--streaming', '--checkpointing_interval=200'])
    run.wait_for('a number', lambda: len(run.numbers()) > 50)
    said = run.ask('savepoint', '--stop')
    run.ended()
    return said, pathlib.Path(re.search('file://(.*)', said).group(1))

  def test_savepoint_that_outlives_the_command(self):
    folder = tempfile.TemporaryDirectory()
    self.addCleanup(folder.cleanup)
    said, manifest = self.saved('--checkpoint-storage', 'file://' + folder.name)
    self.assertNotIn('temporary', said)
    self.assertTrue(manifest.exists(), manifest)

  def test_savepoint_that_goes_with_the_command_is_told(self):
    said, manifest = self.saved()
    self.assertIn('temporary folder of the service, which goes with that', said)
    self.assertFalse(manifest.exists(), manifest)

  def test_cancel_ends_a_bundle_that_never_returns(self):
    run = Endless(self, 'stuck')
    run.wait_for('the number before it hangs', run.numbers)
    started = time.monotonic()
    self.assertIn('CANCELLED', run.ask('cancel'))
    self.assertLess(time.monotonic() - started, 20)
    code, output = run.ended()
    self.assertNotEqual(code, 0)
    self.assertIn('is CANCELLED', output)
    self.assertNotIn('is run again', output)

  def test_cancel_ends_a_process_that_never_returns(self):
    run = Endless(self, 'stuck', in_process=True)
    run.wait_for('the number before it hangs', run.numbers)
    self.assertIn('CANCELLED', run.ask('cancel'))
    self.assertEqual([pid for pid in run.harnesses() if os.path.exists('/proc/%d' % pid)], [])
    run.ended()

  def test_interrupt_ends_everything(self):
    run = Endless(self, 'stuck', in_process=True)
    run.wait_for('the number before it hangs', run.numbers)
    # As a terminal does it.
    os.killpg(run.process.pid, signal.SIGINT)
    code, output = run.ended()
    self.assertNotEqual(code, 0)
    self.assertIn('is CANCELLED', output)
    self.assertEqual([pid for pid in run.harnesses() if os.path.exists('/proc/%d' % pid)], [])
