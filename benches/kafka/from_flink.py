#!/usr/bin/env python3
"""An unchanged pipeline of Flink's users, on Flink's job server and then on Ferrobeam: the output topics are the same.

    from_flink.py --java CLASS_PATH [--runner PATH] [--records N]

The program is `user_pipeline.py`. For Flink its Kafka is expanded and run by Java, of the class path (that of the Java suite);
Ferrobeam has it natively. KAFKA_JARS is the folder of the broker's jars. Prints what each wrote, and whether it is the same.
"""
import argparse
import collections
import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
sys.path += [str(HERE.parents[1] / 'conformance' / 'python'), str(HERE.parent / 'durability'), str(HERE.parent / 'compare')]
import broker  # pylint: disable=wrong-import-position
import compare  # pylint: disable=wrong-import-position
import figures  # pylint: disable=wrong-import-position
import service  # pylint: disable=wrong-import-position

SOURCE, PARTITIONS, KEYS = 'events', 2, 10
LIMIT = 240
# The command of a PROCESS environment.
BOOT = '''#!/bin/sh
exec "%s" "%s" "%s" "%s" "$@"
'''


class JavaExpansion:
  """The SDK's own expansion service, whose transforms run in harnesses that are processes."""

  def __init__(self, class_path, folder):
    boot = folder / 'boot'
    boot.write_text(BOOT % (sys.executable, HERE / 'java_harness.py', class_path, folder / 'harness.log'))
    boot.chmod(0o755)
    port = service.free_port()
    command = ['java', '-Xmx512m', '-cp', class_path, 'org.apache.beam.sdk.expansion.service.ExpansionService', str(port),
               '--javaClassLookupAllowlistFile=*', '--defaultEnvironmentType=PROCESS',
               '--defaultEnvironmentConfig=%s' % json.dumps({'command': str(boot)})]
    self._log = (folder / 'expansion.log').open('w')
    self._process = service.started(command, stdout=self._log, stderr=subprocess.STDOUT)
    service.wait_for('the expansion service', lambda: compare.answers(port))
    self.override = json.dumps({'sdks:java:io:expansion-service:shadowJar': 'localhost:%d' % port})

  def stop(self):
    self._process.kill()
    self._process.wait()


def events(records):
  """Events of some minutes that are past, in order."""
  chance = random.Random(1)
  begin = 1_700_000_000_000
  for number in range(records):
    key = chance.randrange(KEYS)
    yield dict(key=b'k%d' % key, value=b'%d' % number, partition=key % PARTITIONS, timestamp=begin + number * 120_000 // records)


def expected(records):
  counts = collections.Counter()
  for event in events(records):
    last = event['timestamp'] // 5000 * 5
    for start in (last, last - 5):
      counts[event['key'], start] += 1
  return {(key, b'%d %d' % (start, count)) for (key, start), count in counts.items()}


def run(name, command, environment, brokers, wanted, log):
  """What the program has written, when that is all, or when nothing comes any more."""
  sink = 'counts-%s' % name
  brokers.create_topic(sink, PARTITIONS)
  command = [word.replace('SINK', sink) for word in command]
  with log.open('w') as out:
    program = subprocess.Popen(command, env={**os.environ, **environment}, stdout=out, stderr=subprocess.STDOUT)
    try:
      written = lambda: {(record.key, record.value) for record in brokers.read_all(sink)}
      try:
        service.wait_for('all of the output', lambda: written() >= wanted or program.poll() is not None, LIMIT)
      except service.NeverCame:
        pass
      return collections.Counter((record.key, record.value) for record in brokers.read_all(sink))
    finally:
      program.send_signal(signal.SIGINT)
      try:
        program.wait(20)
      except subprocess.TimeoutExpired:
        program.kill()
        program.wait()


def main():
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--java', required=True)
  parser.add_argument('--runner', default=str(HERE.parents[1] / 'target' / 'release' / 'ferrobeam'))
  parser.add_argument('--records', type=int, default=20_000)
  settings = parser.parse_args()
  with tempfile.TemporaryDirectory(prefix='ferrobeam-from-flink-') as folder:
    folder = pathlib.Path(folder)
    brokers = broker.Broker()
    try:
      # The events are of long ago.
      brokers.create_topic(SOURCE, PARTITIONS, **{'retention.ms': -1})
      brokers.produce(SOURCE, list(events(settings.records)))
      wanted = expected(settings.records)
      program = [sys.executable, str(HERE / 'user_pipeline.py'), brokers.bootstrap, SOURCE, 'SINK', '--streaming',
                 '--checkpointing_interval=1000']
      expansion = JavaExpansion(settings.java, folder)
      try:
        with compare.serving('flink', None) as (endpoint, _):
          flags = ['--runner=PortableRunner', '--job_endpoint=%s' % endpoint, '--environment_type=LOOPBACK']
          overrides = {'BEAM_SERVICE_OVERRIDES': expansion.override}
          flink = run('flink', program + flags, overrides, brokers, wanted, folder / 'flink.log')
      finally:
        expansion.stop()
      ours = run('ferrobeam', [settings.runner, 'run', '--', *program], {}, brokers, wanted, folder / 'ferrobeam.log')
    finally:
      brokers.stop()
  for name, written in (('flink', flink), ('ferrobeam', ours)):
    figures.say(name, records=sum(written.values()), different=len(written), expected=len(wanted),
                as_expected=set(written) == wanted)
  figures.say('the same', same=flink == ours)
  return 0 if flink == ours and set(ours) == wanted else 1


if __name__ == '__main__':
  sys.exit(main())
