#!/usr/bin/env python3
"""Times the same pipelines on Ferrobeam, Prism and Flink's job server, and on the Python SDK's own runner.

    compare.py [--rounds N] [--runner NAME]... [--case NAME]... [--sdk NAME]... [--ferrobeam PATH] [--out FILE]

A round starts each runner in turn, gives it one small job to warm up, and then one job of every case, each submitted by
a client process of its own; what counts is the time from submission to the end of the job, as the client sees it.
Rounds repeat the whole of that, so that a noisy minute falls on every runner. The table gives medians in seconds and,
in parentheses, how many times Ferrobeam's they are. User code runs in the client (LOOPBACK) throughout; every runner
has its own default parallelism. `fnapi-grpc` is the SDK's FnApiRunner with its data on gRPC, `fnapi-local` the same
without: the limit of what the Python harness allows.

Needs Python with apache-beam 2.77.0, Go 1.26, and for Flink JDK 17 and Maven. Downloads and programs are kept in
$FERROBEAM_CACHE, or the folder `ferrobeam` of the user's cache folder.
"""
import argparse
import contextlib
import json
import os
import pathlib
import signal
import socket
import statistics
import subprocess
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent
CACHE = pathlib.Path(
    os.environ.get('FERROBEAM_CACHE')
    or pathlib.Path(os.environ.get('XDG_CACHE_HOME') or pathlib.Path.home() / '.cache') / 'ferrobeam')
CASES = ['impulse', 'pardo', 'group', 'combine', 'reshuffle', 'side-input', 'state']
SERVERS = ['ferrobeam', 'prism', 'flink']
LIBRARIES = ['fnapi-grpc', 'fnapi-local']
# What cannot be measured, and why.
CANNOT = {('impulse', 'flink'): 'its job server throws, and never ends, a job without metrics'}
START_LIMIT, JOB_LIMIT = 120, 300


def say(*words):
  print(*words, file=sys.stderr, flush=True)


def free_ports(count):
  with contextlib.ExitStack() as held:
    sockets = [held.enter_context(socket.create_server(('127.0.0.1', 0))) for _ in range(count)]
    return [s.getsockname()[1] for s in sockets]


def answers(port):
  with contextlib.suppress(OSError), socket.create_connection(('127.0.0.1', port), timeout=1):
    return True
  return False


def go_program(package, name):
  """Compiles a Go package within our module, and returns the binary's path."""
  binary = CACHE / 'go' / name
  binary.parent.mkdir(parents=True, exist_ok=True)
  subprocess.run(['go', 'build', '-ldflags=-s -w', '-o', str(binary), package], cwd=HERE / 'go', check=True)
  return str(binary)


def flink_jars():
  jars, stamp = CACHE / 'flink' / 'lib', CACHE / 'flink' / '.made-from'
  recipe = (HERE / 'flink' / 'pom.xml').read_text()
  if not stamp.exists() or stamp.read_text() != recipe:
    say('downloading the Flink job server')
    subprocess.run([
        'mvn', '-B', '-q', '-f', str(HERE / 'flink' / 'pom.xml'), 'dependency:copy-dependencies',
        '-DincludeScope=runtime', '-DoutputDirectory=%s' % jars
    ], check=True)
    stamp.write_text(recipe)
  return jars


def server_command(runner, ferrobeam, flags=()):
  """The command that starts a runner's server, with flags of its own, and its job port."""
  job, artifact, expansion = map(str, free_ports(3))
  ports = ['--job-port', job, '--artifact-port', artifact, '--expansion-port', expansion]
  if runner == 'ferrobeam':
    return [ferrobeam, 'serve'] + ports + list(flags), int(job)
  if runner == 'prism':
    prism = go_program('github.com/apache/beam/sdks/v2/go/cmd/prism', 'prism')
    return [prism, '--job_port', job, '--serve_http=false', '--log_kind=text'], int(job)
  driver = 'org.apache.beam.runners.flink.FlinkJobServerDriver'
  # Flink's own scripts open these to it: on JDK 17 a job that keeps state of a splittable DoFn is started again for ever without.
  opens = ['--add-opens=java.base/%s=ALL-UNNAMED' % package for package in (
      'java.lang', 'java.lang.reflect', 'java.io', 'java.net', 'java.nio', 'java.text', 'java.time', 'java.util',
      'java.util.concurrent', 'java.util.concurrent.atomic', 'java.util.concurrent.locks')]
  return ['java', *opens, '-Dorg.slf4j.simpleLogger.defaultLogLevel=error', '-cp', '%s/*' % flink_jars(), driver
          ] + ports + ['--flink-master=[local]'], int(job)


@contextlib.contextmanager
def serving(runner, ferrobeam, flags=()):
  """Runs a runner's server; gives its endpoint and its process."""
  command, port = server_command(runner, ferrobeam, flags)
  log = CACHE / 'log' / ('compare-%s.log' % runner)
  log.parent.mkdir(parents=True, exist_ok=True)
  with open(log, 'w') as out:
    server = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out)
    try:
      deadline = time.monotonic() + START_LIMIT
      while not answers(port):
        if server.poll() is not None:
          raise RuntimeError('%s ended by itself: see %s' % (runner, log))
        if time.monotonic() > deadline:
          raise RuntimeError('%s does not answer port %d: see %s' % (runner, port, log))
        time.sleep(0.05)
      yield 'localhost:%d' % port, server.pid
    finally:
      server.terminate()
      try:
        server.wait(30)
      except subprocess.TimeoutExpired:
        server.kill()
        server.wait()


def client_command(sdk, case, runner, endpoint):
  if sdk == 'go':
    return [
        str(CACHE / 'go' / 'compare'), '--case', case, '--runner=universal', '--endpoint', endpoint,
        '--environment_type=LOOPBACK'
    ]
  where = [runner] if runner in LIBRARIES else ['endpoint', endpoint]
  return [sys.executable, str(HERE / 'pipelines.py'), case] + where


def measure(sdk, case, runner, limit, endpoint=None):
  """The seconds of one job, or None if it failed."""
  log = CACHE / 'log' / ('compare-client-%s-%s-%s.log' % (sdk, case, runner))
  log.parent.mkdir(parents=True, exist_ok=True)
  try:
    with open(log, 'w') as errors:
      client = subprocess.run(
          client_command(sdk, case, runner, endpoint), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors,
          timeout=limit, check=True, text=True)
    seconds = float(client.stdout.split()[-1])
    say('%-8s %-12s %-12s %8.3f s' % (sdk, case, runner, seconds))
    return seconds
  except (subprocess.SubprocessError, ValueError, IndexError) as error:
    say('%-8s %-12s %-12s FAILED: %s; see %s' % (sdk, case, runner, type(error).__name__, log))
    return None


def table(results, runners, sdks, cases):
  """Medians, and their ratios to Ferrobeam's where there is one."""
  lines = ['%-20s' % 'case' + ''.join('%22s' % runner for runner in runners)]
  for sdk in sdks:
    for case in cases:
      medians = {}
      for runner in runners:
        seconds = [s for s in results.get((sdk, case, runner), []) if s is not None]
        if seconds:
          medians[runner] = statistics.median(seconds)
      cells = []
      for runner in runners:
        cell = '-'
        if runner in medians:
          cell = '%.3f' % medians[runner]
          if runner != 'ferrobeam' and 'ferrobeam' in medians:
            cell += ' (%.2fx)' % (medians[runner] / medians['ferrobeam'])
        elif (sdk, case, runner) in results:
          cell = 'failed'
        failed = sum(s is None for s in results.get((sdk, case, runner), []))
        if failed and runner in medians:
          cell += ' !%d' % failed
        cells.append('%22s' % cell)
      lines.append('%-20s' % ('%s %s' % (sdk, case)) + ''.join(cells))
  return '\n'.join(lines)


def main():
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--rounds', type=int, default=3)
  parser.add_argument('--runner', action='append', choices=SERVERS + LIBRARIES, help='repeatable; default: all')
  parser.add_argument('--case', action='append', choices=CASES, help='repeatable; default: all')
  parser.add_argument('--sdk', action='append', choices=['python', 'go'], help='repeatable; default: both')
  parser.add_argument('--ferrobeam', default=str(HERE.parents[1] / 'target' / 'release' / 'ferrobeam'))
  parser.add_argument('--limit', type=float, default=JOB_LIMIT, help='seconds that a job may take')
  parser.add_argument('--out', help='append each measurement to this file, as a JSON line')
  options = parser.parse_args()
  runners = options.runner or SERVERS + LIBRARIES
  cases, sdks = options.case or CASES, options.sdk or ['python', 'go']
  if 'ferrobeam' in runners and not os.access(options.ferrobeam, os.X_OK):
    parser.error('%s is not there: cargo build --release' % options.ferrobeam)
  if 'go' in sdks:
    say('compiling the Go pipelines')
    go_program('.', 'compare')
  signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that servers are ended on the way out
  results = {}

  def keep(sdk, case, runner, seconds):
    results.setdefault((sdk, case, runner), []).append(seconds)
    if options.out:
      with open(options.out, 'a') as out:
        print(json.dumps({'sdk': sdk, 'case': case, 'runner': runner, 'seconds': seconds}), file=out)

  for number in range(options.rounds):
    say('round %d of %d' % (number + 1, options.rounds))
    for runner in runners:
      if runner in LIBRARIES:
        for case in cases if 'python' in sdks else []:
          keep('python', case, runner, measure('python', case, runner, options.limit))
        continue
      for sdk in sdks:
        with serving(runner, options.ferrobeam) as (endpoint, _):
          measure(sdk, 'pardo', runner, options.limit, endpoint)
          for case in cases:
            if (case, runner) in CANNOT:
              say('%-8s %-12s %-12s not measured: %s' % (sdk, case, runner, CANNOT[case, runner]))
              continue
            keep(sdk, case, runner, measure(sdk, case, runner, options.limit, endpoint))
  print(table(results, runners, sdks, cases))
  return 1 if any(s is None for (_, _, r), all_s in results.items() if r == 'ferrobeam' for s in all_s) else 0


if __name__ == '__main__':
  sys.exit(main())
