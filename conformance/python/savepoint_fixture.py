"""Makes the savepoints that stay in the repository, which every later build must restore: `durable.py` sees to that.

    savepoint_fixture.py

FERROBEAM is the program. One savepoint has its state in memory and one in RocksDB, and both are of the version of the
format that the program writes. They go to `conformance/fixtures`, each as a storage has it, with a file of JSON beside
it that says what the job was. None takes the place of one that is there: what jobs were once saved as, stays.

A savepoint is restored into the pieces that it names. So these keep the names of their transforms, cells and timers,
and their coders; a label that Beam makes of a line number will not do where there is state.
"""
import ctypes
import getpass
import json
import os
import pathlib
import shutil
import socket
import subprocess
import sys
import tempfile
import time

import apache_beam as beam

import kills
import pieces
import service

FIXTURES = pathlib.Path(__file__).resolve().parents[1] / 'fixtures'

PIECES = ['state', 'windows', 'sliding', 'sessions', 'panes', 'accumulating', 'side', 'latest', 'copying']
# By state backend. Files of RocksDB are larger: so that what stays is small, there is less in them.
SHAPES = {
    'memory': {'parts': 2, 'count': 600, 'batch': 25},
    'rocksdb': {'parts': 1, 'count': 600, 'batch': 25},
}
# Where sources wait for a first savepoint, with which the second shares files of RocksDB, and where for that one: in
# the middle of a window and of a session, and after numbers that came too late.
FIRST, SECOND = (1, 24), (15, 24)
# How often sources are called while they wait, before what they emitted has settled.
CALLS = 40
# Seconds until a timer in processing time fires: after the savepoint, and long before it is restored.
FLUSH = 30
NEVER = 3_600_000

# Operators without whose state it would be worth less.
WANTED = {
    'stage main numbers (2)': 'what sources deferred',
    'stage copying/copies': 'what a DoFn between others deferred',
    'stage side/beside': 'what waits for a side input',
    'side input python_side_input0 of side/beside, as iterable': 'a side input that grows by windows',
    'side input python_side_input0 of latest/beside, as iterable': 'a side input of latest values',
    'stage state/ParDo(Remember)': 'state of every kind, and timers',
    'group windows/GroupByKey': 'fixed windows',
    'group sliding/CombinePerKey(sum)': 'sliding windows',
    'group sessions/GroupByKey': 'sessions',
    'group panes/GroupByKey': 'panes',
    'group accumulating/GroupByKey': 'panes that accumulate',
}

CLONE_NEWUTS = 0x04000000


class Savepoint:
  """One that stays."""

  def __init__(self, name):
    self.folder = FIXTURES / name
    self.facts = json.loads((FIXTURES / ('%s.json' % name)).read_text())

  def context(self, folder):
    """Of the pieces that it was made of, with what they had written; sources wait where they stood."""
    context = context_of(folder, self.facts['pieces'], **self.facts['shape'])
    context.hold(0, 1)
    for line in self.facts['written']:
      pieces.write(context.written, line)
    return context

  def put(self, storage):
    """Copies it to a storage; gives the path that a job starts from."""
    job = pathlib.Path(storage) / self.facts['job']
    shutil.copytree(self.folder, job)
    return path_of(job, self.facts['epoch'])


def path_of(job, epoch):
  return 'file://%s/manifests/%020d' % (job, epoch)


def context_of(folder, names, **more):
  return pieces.Context(str(folder), [piece for piece in pieces.ALL if piece.name in names], **more)


def stands(context, held):
  """Where each source waits; none, if one does not yet."""
  last = dict(call.split() for call in pieces.read(context.calls))
  numbers = {part: int(number) for part, number in last.items() if part != pieces.COPYING}
  return numbers if len(numbers) == len(context.parts) + 2 and min(numbers.values()) >= held else {}


def savepoint(serving, job, held):
  """Takes one when all that was emitted has settled; gives where sources stand, and the folder and epoch."""
  service.wait_for('the end of input for now', lambda: stands(job.context, held))
  assert job.worked(CALLS), '\n'.join(job.messages())
  name = job.result._job_id  # pylint: disable=protected-access
  command = [os.environ['FERROBEAM'], 'savepoint', '--endpoint', serving.endpoint, name]
  path = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, check=True).stdout.strip()
  folder, _, epoch = path.removeprefix('file://').partition('/manifests/')
  return stands(job.context, held), pathlib.Path(folder), int(epoch)


def entry_of(path):
  """What an entry of a journal says."""
  return json.loads(path.read_text())['entry']


def copy(source, epoch, to):
  """Copies a savepoint of a job as if it were the only one; gives its manifest."""
  manifests, manifest = [], None
  for path in sorted((source / 'manifests').iterdir()):
    entry = entry_of(path)
    if int(path.name) == epoch:
      manifest = entry['checkpoint']
    if 'marker' in entry or int(path.name) == epoch:
      manifests.append(path)
  for folder, paths in [('generations', (source / 'generations').iterdir()), ('manifests', manifests),
                        ('files', [file_of(source, file) for part in manifest['operators'] for file in part['files']])]:
    (to / folder).mkdir(parents=True)
    for path in paths:
      shutil.copy(path, to / folder / path.name)
  return manifest


def file_of(folder, file):
  return folder / 'files' / ('%020d-%s' % (file['epoch'], file['sha256']))


def heads(folder, manifest):
  """Of each part of an operator, what is known of it without its state."""
  for part in manifest['operators']:
    for file in part['files']:
      if file['name'] == 'head.json':
        yield part, json.loads(file_of(folder, file).read_text())


def names_of_this_machine():
  folders = [tempfile.gettempdir(), pathlib.Path.home(), FIXTURES.parents[1]]
  return [*map(str, folders), socket.gethostname(), getpass.getuser()]


def check(folder, manifest, backend, unwanted):
  """It has all that is wanted, and none of the words that are not."""
  full = set()
  for part, head in heads(folder, manifest):
    # Records in RocksDB are not counted.
    if part['records'] or head['has_store'] and backend == 'rocksdb':
      full.add(part['operator'])
  missing = {name: what for name, what in WANTED.items() if name not in full}
  assert not missing, 'it lacks %s of %s' % (missing, sorted(full))
  for path in folder.rglob('*'):
    found = [word for word in unwanted if path.is_file() and word.encode() in path.read_bytes()]
    assert not found, '%s has %s' % (path, found)


def make(backend, into):
  """Makes one in a new folder; gives its manifest, and what stays to be known of it."""
  serving = service.Service()
  try:
    context = context_of(serving.folder, PIECES, flush=FLUSH, **SHAPES[backend])
    context.hold(*FIRST)
    options = ['--streaming', '--checkpointing_interval=%d' % NEVER, '--parallelism=1', '--state_backend=%s' % backend]
    pipeline = beam.Pipeline(options=kills.options(serving, 'savepoint', *options))
    context.build(pipeline)
    job = kills.Job(serving, pipeline, context, 0)
    savepoint(serving, job, context.count * FIRST[0] // FIRST[1])
    begun = time.monotonic()
    context.hold(*SECOND)
    stood, folder, epoch = savepoint(serving, job, context.count * SECOND[0] // SECOND[1])
    assert time.monotonic() < begun + FLUSH, 'timers have fired before the savepoint'
    written = pieces.read(context.written)
    manifest = copy(folder, epoch, into)
    job.cancel()
    job.end()
  finally:
    serving.stop()
  return manifest, {
      'job': manifest['job'],
      'epoch': epoch,
      'made': time.strftime('%Y-%m-%d', time.gmtime(manifest['created'] // 1000)),
      'beam': beam.__version__,
      'state_backend': backend,
      'parallelism': manifest['shards'],
      'pieces': PIECES,
      'shape': SHAPES[backend],
      'stood': stood,
      'written': written,
  }


def format_of(folder, manifest):
  """The version of the format."""
  version, = {head['format'] for _, head in heads(folder, manifest)}
  return version


def rename_host(name):
  """Has the host another name for this process and those that it starts: RocksDB writes it into its files."""
  libc = ctypes.CDLL(None, use_errno=True)
  if libc.unshare(CLONE_NEWUTS):
    sys.exit('the host cannot be given another name: %s' % os.strerror(ctypes.get_errno()))
  socket.sethostname(name)


def main():
  unwanted = names_of_this_machine()
  rename_host('fixture')
  FIXTURES.mkdir(exist_ok=True)
  for backend in SHAPES:
    with tempfile.TemporaryDirectory() as folder:
      made = pathlib.Path(folder) / 'made'
      manifest, facts = make(backend, made)
      check(made, manifest, backend, unwanted)
      name = 'savepoint-v%d-%s' % (format_of(made, manifest), backend)
      assert not (FIXTURES / name).exists(), '%s is there, and stays' % name
      shutil.copytree(made, FIXTURES / name)
    (FIXTURES / ('%s.json' % name)).write_text(json.dumps(facts, indent=2) + '\n')
    sizes = [path.stat().st_size for path in (FIXTURES / name).rglob('*') if path.is_file()]
    print('%s: %d files, %d bytes' % (name, len(sizes), sum(sizes)))


if __name__ == '__main__':
  main()
