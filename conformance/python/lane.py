"""One lane of a Python suite: runs the tests it is told to, one at a time, in this process.

    lane.py --list [--unskip] MODULES      prints the name of every test of MODULES, which commas part
    lane.py [--unskip] MODULES SECONDS     reads a name a line from stdin, answers each with a JSON line on stdout

With --unskip the tests are those that are marked to be skipped, and they are run.
What a test prints goes to stderr, so stdout carries answers only. A test that outlives SECONDS has the stacks of all
its threads written to stderr; it is the reader of the answers who ends the process, because Python cannot.
"""
import faulthandler
import importlib
import json
import os
import sys
import time
import traceback
import unittest


class Record(unittest.TestResult):
  """Keeps the verdict of one test and the last line of its first error."""

  verdict, why = 'PASS', ''

  def _failed(self, err):
    if self.verdict != 'FAIL':
      self.verdict = 'FAIL'
      self.why = ''.join(traceback.format_exception_only(err[0], err[1])).strip()
      traceback.print_exception(*err)

  def addError(self, test, err):
    self._failed(err)

  def addFailure(self, test, err):
    self._failed(err)

  def addSubTest(self, test, subtest, err):
    if err is not None:
      self._failed(err)

  def addSkip(self, test, reason):
    self.verdict, self.why = 'SKIP', reason

  def addExpectedFailure(self, test, err):
    self.verdict, self.why = 'SKIP', 'the SDK expects it to fail'

  def addUnexpectedSuccess(self, test):
    self.verdict = 'PASS'


def names(module, skipped_only):
  """The tests of a module. A class that it has from elsewhere is not its own."""
  for name, cls in sorted(vars(module).items()):
    if isinstance(cls, type) and issubclass(cls, unittest.TestCase) and cls.__module__ == module.__name__:
      for method in unittest.defaultTestLoader.getTestCaseNames(cls):
        if not skipped_only or getattr(getattr(cls, method), '__unittest_skip__', False):
          yield '%s.%s' % (name, method)


def unskipped(cls, method):
  """The test as it was before it was marked to be skipped."""
  marked = getattr(cls, method)
  original = getattr(marked, '__wrapped__', marked)
  original.__unittest_skip__ = False
  setattr(cls, method, original)
  return cls(method)


def run(modules, name, unskip):
  cls, method = name.split('.')
  record = Record()
  cls, = [found for found, of in ((getattr(module, cls, None), module.__name__) for module in modules)
          if found and found.__module__ == of]
  unittest.TestSuite([unskipped(cls, method) if unskip else cls(method)]).run(record)
  return record


def main(argv):
  sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
  answers = os.fdopen(os.dup(1), 'w', buffering=1)
  os.dup2(2, 1)
  listing, unskip = ('--list' in argv), ('--unskip' in argv)
  argv = [word for word in argv if not word.startswith('--')]
  if listing:
    for module in argv[0].split(','):
      for name in names(importlib.import_module(module), unskip):
        print(name, file=answers)
    return
  modules, seconds = [importlib.import_module(module) for module in argv[0].split(',')], float(argv[1])
  print(json.dumps({'ready': True}), file=answers)
  for line in iter(sys.stdin.readline, ''):
    name = line.strip()
    print('=== %s' % name, file=sys.stderr, flush=True)
    faulthandler.dump_traceback_later(seconds)
    start = time.monotonic()
    record = run(modules, name, unskip)
    faulthandler.cancel_dump_traceback_later()
    answer = {
        'name': name, 'verdict': record.verdict, 'ms': int(1000 * (time.monotonic() - start)), 'why': record.why[:2000]
    }
    print(json.dumps(answer), file=answers)


if __name__ == '__main__':
  main(sys.argv[1:])
  sys.stderr.flush()
  os._exit(0)  # a failed test may have left threads that would keep the process
