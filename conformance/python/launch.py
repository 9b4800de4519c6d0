"""Beam's own examples, and an ordinary Java pipeline, through `ferrobeam run`: what a first user does.

FERROBEAM is the program, GO_WORDCOUNT Beam's Go wordcount, compiled, JAVA_CLASS_PATH where the Java SDK and Words are. Each run starts a service of its own.
"""
import collections
import glob
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import unittest

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
      self.ferrobeam_run(command + ['--input', str(TEXT), '--output', folder + '/counts'] + list(flags))
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
