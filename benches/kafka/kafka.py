#!/usr/bin/env python3
"""What reading from Kafka and writing to it costs, beside a bare loop on librdkafka that does the same.

    kafka.py [--runner PATH] [--loop PATH] [--records N] [--bytes N] [--rounds N] [--java CLASS_PATH [--sdf-records N]]

Each program has one core (`taskset -c 0`), and the broker the other. The same topic is read to its end and thrown away, or
copied to another topic: by the loop, and by a pipeline of Python's `ReadFromKafka` and `WriteToKafka` without user code,
without checkpoints and with one a second (exactly once). What a program needs to start is not counted: a read is timed
against one of a single record, a copy by the times at which the broker appended its first and its last record. With `--java`, where the Java SDK with its Kafka is, the same is done by the SDK's own splittable DoFn in Java: on Ferrobeam, and
on Flink's job server, whose processes have the core, too; of fewer records, since it takes longer. Prints
a line of JSON for each figure: medians of rounds. KAFKA_JARS is the folder of the broker's jars.
"""
import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import time

import apache_beam as beam
from apache_beam.io.kafka import ReadFromKafka, WriteToKafka

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path += [str(ROOT / 'conformance' / 'python'), str(ROOT / 'benches' / 'durability')]
import broker  # pylint: disable=wrong-import-position
import figures  # pylint: disable=wrong-import-position
import kills  # pylint: disable=wrong-import-position
import sdf  # pylint: disable=wrong-import-position
import service  # pylint: disable=wrong-import-position

PARTITIONS = 4
SOURCE = 'source'


def pin(pid, core):
  subprocess.run(['taskset', '-a', '-c', '-p', str(core), str(pid)], check=True, stdout=subprocess.DEVNULL)


def fill(brokers, records, size):
  """A topic of so many records, of so many bytes of value."""
  brokers.create_topic(SOURCE, PARTITIONS)
  value = os.urandom(size)
  for start in range(0, records, 100_000):
    end = min(start + 100_000, records)
    brokers.produce(SOURCE, [(b'key-%08d' % number, value) for number in range(start, end)])


def looped(settings, brokers, *command):
  ended = subprocess.run(
      ['taskset', '-c', '0', settings.loop, command[0], brokers.bootstrap, *command[1:]], check=True, capture_output=True)
  return json.loads(ended.stdout)


def run(serving, name, build, *options):
  pipeline = beam.Pipeline(options=kills.options(serving, name, *options))
  build(pipeline)
  begun = time.monotonic()
  result = pipeline.run()
  while result._job_service and not kills_over(serving, result):  # pylint: disable=protected-access
    time.sleep(0.02)
  return time.monotonic() - begun, result


def kills_over(serving, result):
  job = kills.Job.__new__(kills.Job)
  job.service, job.result = serving, result
  return job.over()


def reader(settings, serving, brokers, records):
  config = {'bootstrap.servers': brokers.bootstrap, 'auto.offset.reset': 'earliest'}
  return ReadFromKafka(config, [SOURCE], max_num_records=records, expansion_service=serving.expansion)


def read(settings, serving, brokers, records):
  """Seconds of a job that reads so many."""
  build = lambda pipeline: pipeline | reader(settings, serving, brokers, records)
  seconds, _ = run(serving, 'read', build, '--checkpointing_interval=-1', '--parallelism=1')
  return seconds


def appended(brokers, topic):
  """Seconds from the first record to the last, by the broker's clock."""
  times = [record.timestamp for record in brokers.read_all(topic)]
  return (max(times) - min(times)) / 1000, len(times)


def sink(brokers, name):
  brokers.create_topic(name, PARTITIONS, **{'message.timestamp.type': 'LogAppendTime'})
  return name


def copy(settings, serving, brokers, name, *options):
  """Records a second of a job that copies."""
  to = sink(brokers, name)
  build = lambda pipeline: (
      pipeline | reader(settings, serving, brokers, settings.records)
      | WriteToKafka({'bootstrap.servers': brokers.bootstrap}, to, expansion_service=serving.expansion))
  run(serving, name, build, '--parallelism=1', *options)
  seconds, count = appended(brokers, to)
  assert count == settings.records, '%d of %d' % (count, settings.records)
  brokers.delete_topic(to)
  return count / seconds


def cancel_all(settings, endpoint):
  """Their client is gone, and with it their harness."""
  listed = subprocess.run([settings.runner, 'jobs', '--json', '--endpoint=%s' % endpoint], check=True, capture_output=True)
  for job in json.loads(listed.stdout):
    if job['state'] not in kills.OVER:
      subprocess.run([settings.runner, 'cancel', '--endpoint=%s' % endpoint, job['id']], check=True, capture_output=True)


def by_sdf(settings, serving, brokers, program, found):
  """The SDK's own way, on Ferrobeam and on Flink."""
  for name in ('Ferrobeam', 'Flink'):
    for what in ('read', 'copy'):
      flink = sdf.Flink() if name == 'Flink' else None
      endpoint = flink.endpoint if flink else serving.endpoint
      try:
        if what == 'read':
          rate = program.read(endpoint, brokers, settings.sdf_records)
        else:
          to = sink(brokers, 'sdf-%s-%d' % (name, len(found.get('SDF copy, ' + name, []))))
          program.copy(endpoint, brokers, settings.sdf_records, to)
          seconds, count = appended(brokers, to)
          rate = count / seconds
          brokers.delete_topic(to)
        found.setdefault('SDF %s, %s' % (what, name), []).append(rate)
      finally:
        if flink:
          flink.stop()
        else:
          cancel_all(settings, endpoint)


def main():
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--runner', default=str(ROOT / 'target' / 'release' / 'ferrobeam'))
  parser.add_argument('--loop', default=str(ROOT / 'target' / 'release' / 'kafka_loop'))
  parser.add_argument('--records', type=int, default=2_000_000)
  parser.add_argument('--bytes', type=int, default=100)
  parser.add_argument('--rounds', type=int, default=3)
  parser.add_argument('--java', help="where the Java SDK and its Kafka are: measures the SDK's own way, too")
  parser.add_argument('--sdf-records', type=int, default=200_000)
  settings = parser.parse_args()
  os.environ['FERROBEAM'] = settings.runner
  brokers = broker.Broker()
  pin(brokers._process.pid, 1)  # pylint: disable=protected-access
  serving = service.Service()
  pin(serving._process.pid, 0)  # pylint: disable=protected-access
  for pid in serving.all_processes():
    pin(pid, 0)
  os.sched_setaffinity(0, {1})
  try:
    fill(brokers, settings.records, settings.bytes)
    found = {}
    program = sdf.Program(settings.java) if settings.java else None
    for number in range(settings.rounds):
      loop = looped(settings, brokers, 'read', SOURCE)
      found.setdefault('loop read', []).append(loop['records'] / loop['seconds'])
      start = read(settings, serving, brokers, 1)
      all_of_it = read(settings, serving, brokers, settings.records)
      found.setdefault('read', []).append(settings.records / (all_of_it - start))
      to = sink(brokers, 'loop-%d' % number)
      looped(settings, brokers, 'copy', SOURCE, to)
      seconds, count = appended(brokers, to)
      brokers.delete_topic(to)
      found.setdefault('loop copy', []).append(count / seconds)
      for name, options in [('copy', ['--checkpointing_interval=-1']), ('copy exactly once', ['--checkpointing_interval=1000'])]:
        rate = copy(settings, serving, brokers, '%s-%d' % (name.replace(' ', '-'), number), *options)
        found.setdefault(name, []).append(rate)
      if program:
        by_sdf(settings, serving, brokers, program, found)
      figures.told({name: round(rates[-1]) for name, rates in found.items()})
    for name, rates in found.items():
      rate = statistics.median(rates)
      of = lambda other: statistics.median(found[other])
      if name.startswith('SDF'):
        more = {'native_is_times': of(name.split()[1].rstrip(',')) / rate}
      else:
        more = {} if name.startswith('loop') else {'of_the_loop': rate / of('loop ' + name.split()[0])}
      figures.say(name, records_a_second=rate, rounds=rates, **more)
  finally:
    serving.stop()
    brokers.stop()


if __name__ == '__main__':
  main()
  os._exit(0)
