"""One lane of a Python suite: runs the tests it is told to, one at a time, in this process.

    lane.py --list MODULE               prints the name of every test of MODULE
    lane.py MODULE SECONDS              reads a name a line from stdin, answers each with a JSON line on stdout

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


def names(module):
  for name, cls in sorted(vars(module).items()):
    if isinstance(cls, type) and issubclass(cls, unittest.TestCase) and cls.__module__ == module.__name__:
      for method in unittest.defaultTestLoader.getTestCaseNames(cls):
        yield '%s.%s' % (name, method)


def run(module, name):
  cls, method = name.split('.')
  record = Record()
  unittest.TestSuite([getattr(module, cls)(method)]).run(record)
  return record


def main(argv):
  sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
  answers = os.fdopen(os.dup(1), 'w', buffering=1)
  os.dup2(2, 1)
  if argv[0] == '--list':
    for name in names(importlib.import_module(argv[1])):
      print(name, file=answers)
    return
  module, seconds = importlib.import_module(argv[0]), float(argv[1])
  print(json.dumps({'ready': True}), file=answers)
  for line in iter(sys.stdin.readline, ''):
    name = line.strip()
    print('=== %s' % name, file=sys.stderr, flush=True)
    faulthandler.dump_traceback_later(seconds)
    start = time.monotonic()
    record = run(module, name)
    faulthandler.cancel_dump_traceback_later()
    answer = {
        'name': name, 'verdict': record.verdict, 'ms': int(1000 * (time.monotonic() - start)), 'why': record.why[:2000]
    }
    print(json.dumps(answer), file=answers)


if __name__ == '__main__':
  main(sys.argv[1:])
  sys.stderr.flush()
  os._exit(0)  # a failed test may have left threads that would keep the process
