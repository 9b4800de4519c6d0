"""Each measurement has a process of its own, so that none finds what another has left behind."""
import ctypes
import multiprocessing
import os
import signal
import sys
import tempfile
import traceback

import figures
import running

# Characters of the errors before a failure.
TOLD = 3000


def alone(function, *arguments):
  """What the function of a module returns, called in a new process, which ends with this one."""
  context = multiprocessing.get_context('spawn')
  receive, send = context.Pipe(duplex=False)
  process = context.Process(target=_answer, args=(send, function, arguments))
  process.start()
  send.close()
  try:
    value, error = receive.recv()
  except EOFError:
    value, error = None, 'its process ended without an answer'
  except BaseException:
    process.terminate()
    raise
  finally:
    # It stops what it has started before it ends.
    process.join(running.LIMIT)
    process.kill()
  if error:
    raise RuntimeError('%s.%s: %s' % (function.__module__, function.__name__, error))
  return value


def _answer(send, function, arguments):
  # What the SDK's workers say, such as of bundles that end with a job that is cancelled, matters when something fails.
  figures.WATCHED, sys.stderr = sys.stderr, tempfile.TemporaryFile('w+', prefix='durability-')
  ctypes.CDLL(None).prctl(running.service.PR_SET_PDEATHSIG, signal.SIGTERM)
  signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # So that services are stopped on the way out.
  value, error = None, 'it was interrupted'
  try:
    value, error = function(*arguments), None
  except Exception:  # pylint: disable=broad-exception-caught
    sys.stderr.seek(0)
    error = '%s\nIts errors before:\n%s' % (traceback.format_exc(), sys.stderr.read()[-TOLD:])
  finally:
    try:
      send.send((value, error))
    finally:
      os._exit(0)  # The loopback worker's threads would keep the process.
