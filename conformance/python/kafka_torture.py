#!/usr/bin/env python3
"""Records through a stateful, windowed pipeline, from topic to topic, while everything is killed: each has to come out once.

    kafka_torture.py [--seeds FIRST[-LAST]] [--minutes N] [--rate N] [--pipeline python|go|yaml] [--option NAME=VALUE]

A producer writes so many records a second to four partitions. Every 5 to 20 seconds, by the seed, a job process, the harness, the
service or the broker is killed, or restarted, or stopped for a while. At the end each key has to have all of its numbers, once;
and each window of each key its count, once. FERROBEAM is the program, KAFKA_JARS the folder of the broker's jars, GO_KAFKA
Go's program.
"""
import argparse
import collections
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time

import apache_beam as beam
import confluent_kafka
from apache_beam.io.kafka import ReadFromKafka, WriteToKafka
from apache_beam.transforms.window import FixedWindows

import broker
import kills
import service
from numbered import Number

PARTITIONS = 4
KEYS = 500
WINDOW = 5
SOURCE, SINK, WINDOWS = 'source', 'sink', 'windows'
# Seconds for what is left when nothing is killed any more.
LAST = 600


class Count(beam.DoFn):
  """A window of a key, with the number of its records."""

  def process(self, group, window=beam.DoFn.WindowParam):
    yield group[0], b'%d %d' % (window.start.seconds(), group[1])


def build(pipeline, brokers, serving):
  config = {'bootstrap.servers': brokers.bootstrap}
  write = lambda topic: WriteToKafka(config, topic, expansion_service=serving.expansion)
  pairs = tuple[bytes, bytes]
  records = (
      pipeline | ReadFromKafka({**config, 'auto.offset.reset': 'earliest'}, [SOURCE], expansion_service=serving.expansion,
                               timestamp_policy=ReadFromKafka.log_append_time)
      | 'typed' >> beam.Map(lambda pair: pair).with_output_types(pairs))
  records | beam.ParDo(Number()).with_output_types(pairs) | 'numbered' >> write(SINK)  # pylint: disable=expression-not-assigned
  (  # pylint: disable=expression-not-assigned
      records | beam.WindowInto(FixedWindows(WINDOW)) | beam.combiners.Count.PerKey()
      | beam.ParDo(Count()).with_output_types(pairs) | 'counted' >> write(WINDOWS))


YAML = '''
pipeline:
  type: chain
  transforms:
    - type: ReadFromKafka
      config: {topic: source, format: RAW, bootstrap_servers: BOOTSTRAP, auto_offset_reset_config: earliest}
    - type: WriteToKafka
      config: {topic: sink, format: RAW, bootstrap_servers: BOOTSTRAP}
options:
  streaming: true
'''


class Feed(threading.Thread):
  """Writes records at a rate, through whatever happens to the broker."""

  def __init__(self, brokers, rate, seconds):
    super().__init__(daemon=True)
    self.brokers, self.rate, self.seconds = brokers, rate, seconds
    self.sent = collections.Counter()
    self.failed = []

  def run(self):
    producer = confluent_kafka.Producer(self.brokers._options(  # pylint: disable=protected-access
        enable_idempotence=True, message_timeout_ms=LAST * 1000, linger_ms=20, queue_buffering_max_messages=0))
    begun, number = time.time(), 0
    while time.time() < begun + self.seconds:
      while number < (time.time() - begun) * self.rate:
        key = b'k%d' % (number % KEYS)
        value = b'%d' % self.sent[key]
        self.sent[key] += 1
        producer.produce(SOURCE, key=key, value=value, on_delivery=self.told)
        number += 1
      producer.poll(0.005)
    left = producer.flush(LAST)
    if left:
      self.failed.append('%d were not written' % left)

  def told(self, error, _):
    if error:
      self.failed.append(error)


def differences(what, found, expected):
  return ['%s, %s %d: %d times instead of %d' % (at[0], what, at[1], found[at], expected[at])
          for at in found.keys() | expected.keys() if found[at] != expected[at]]


class Torture:
  """One run."""

  def __init__(self, settings, seed):
    self.settings, self.random = settings, random.Random(seed)
    self.done = collections.Counter()
    self.brokers = broker.Broker()
    # By the time that the broker says: what waits for the broker in the feed would be late.
    self.brokers.create_topic(SOURCE, PARTITIONS, **{'message.timestamp.type': 'LogAppendTime'})
    for topic in (SINK, WINDOWS):
      self.brokers.create_topic(topic, PARTITIONS)
    self.serving = service.Service()
    self.client = None

  def start(self):
    options = ['--checkpointing_interval=%d' % self.settings.interval, '--parallelism=2', *self.settings.option]
    processes = self.serving.process_environment()
    if self.settings.pipeline == 'python':
      pipeline = beam.Pipeline(options=kills.options(
          self.serving, 'torture', '--streaming', *processes, *options))
      build(pipeline, self.brokers, self.serving)
      self.client = pipeline.run()
      return
    if self.settings.pipeline == 'go':
      program = os.environ['GO_KAFKA']
      command = [program, '--runner=universal', '--endpoint=%s' % self.serving.endpoint, '--bootstrap=%s' %
                 self.brokers.bootstrap, '--expansion_addr=%s' % self.serving.expansion, '--from=' + SOURCE, '--to=' + SINK,
                 '--async', *service.go_environment(self.serving.folder, program)]
      command += ['--experiments=' + ','.join(option.lstrip('-') for option in options)]
    else:
      with tempfile.NamedTemporaryFile('w', suffix='.yaml', delete=False) as file:
        file.write(YAML.replace('BOOTSTRAP', self.brokers.bootstrap))
      command = [sys.executable, '-m', 'apache_beam.yaml.main', '--yaml_pipeline_file=' + file.name, '--runner=PortableRunner',
                 '--job_endpoint=%s' % self.serving.endpoint, *processes, *options]
    overrides = json.dumps({'sdks:java:io:expansion-service:shadowJar': self.serving.expansion})
    self.client = service.started(command, env={**os.environ, 'BEAM_SERVICE_OVERRIDES': overrides})

  # What is done to it.

  def kill_worker(self):
    workers = self.serving.workers()
    return bool(workers) and service.kill(self.random.choice(workers))

  def kill_harness(self):
    harnesses = self.serving.harnesses()
    return bool(harnesses) and service.kill(self.random.choice(harnesses))

  def pause_worker(self):
    workers = self.serving.workers()
    if not workers:
      return False
    worker = self.random.choice(workers)
    os.kill(worker, signal.SIGSTOP)
    time.sleep(self.random.uniform(0.5, 8))
    os.kill(worker, signal.SIGCONT)
    return True

  def kill_service(self):
    self.serving.kill()
    self.serving.start()
    self.serving.wait()
    return True

  def kill_broker(self):
    self.brokers.kill()
    self.brokers.start()
    return True

  def restart_broker(self):
    self.brokers.terminate()
    self.brokers.start()
    return True

  def run(self):
    """What is wrong, as lines."""
    self.start()
    feed = Feed(self.brokers, self.settings.rate, self.settings.minutes * 60)
    feed.start()
    deeds = [self.kill_worker, self.kill_worker, self.kill_harness, self.pause_worker, self.kill_service, self.kill_broker,
             self.restart_broker]
    while feed.is_alive():
      feed.join(self.random.uniform(5, 20))
      if feed.is_alive():
        deed = self.random.choice(deeds)
        if deed():
          self.done[deed.__name__] += 1
          print('%s: %s' % (time.strftime('%H:%M:%S'), deed.__name__), flush=True)
    if feed.failed:
      return ['the feed: %s' % feed.failed[:3]]
    wrong = self.check_numbers(feed)
    if self.settings.pipeline == 'python':
      wrong += self.check_windows(feed)
    return wrong

  def consume(self, topic, see, enough):
    """Shows all records of a topic to `see`, until that is `enough`, and a while longer."""
    consumer = confluent_kafka.Consumer(self.brokers._options(  # pylint: disable=protected-access
        group_id='check', isolation_level=broker.COMMITTED, enable_auto_commit=False))
    consumer.assign([confluent_kafka.TopicPartition(topic, at, confluent_kafka.OFFSET_BEGINNING) for at in range(PARTITIONS)])
    until, quiet = time.monotonic() + LAST, None
    while time.monotonic() < until and (quiet is None or time.monotonic() < quiet + 5):
      for message in consumer.consume(10000, 0.2):
        if not message.error():
          see(message)
      if quiet is None and enough():
        quiet = time.monotonic()
    consumer.close()
    return quiet is not None

  def check_numbers(self, feed):
    """Each number of a key is there once, and so is each place that its records took. Beam promises no order."""
    numbers, places = collections.Counter(), collections.Counter()
    total = sum(feed.sent.values())
    seen = 0

    def see(message):
      nonlocal seen
      seen += 1
      # Rows of values have no key.
      key = None if self.settings.pipeline == 'yaml' else message.key()
      number, *place = message.value().rstrip(b'!').split()
      numbers[key, int(number)] += 1
      if place:
        places[key, int(place[0])] += 1

    whole = self.consume(SINK, see, lambda: seen >= total)
    expected = collections.Counter()
    for key, count in feed.sent.items():
      key = None if self.settings.pipeline == 'yaml' else key
      expected.update((key, number) for number in range(count))
    wrong = differences('number', numbers, expected)
    if self.settings.pipeline == 'python':
      wrong += differences('place', places, expected)
    print('numbers: %d of %d records, %d wrong' % (seen, total, len(wrong)), flush=True)
    return wrong if whole or wrong else ['not everything came within %d s' % LAST]

  def check_windows(self, feed):
    found, wrong, expected = {}, [], collections.Counter()

    def sent(message):
      expected[message.key(), message.timestamp()[1] // 1000 // WINDOW * WINDOW] += 1

    def see(message):
      start, count = map(int, message.value().split())
      if (message.key(), start) in found:
        wrong.append('%s, window %d: twice' % (message.key(), start))
      found[message.key(), start] = count

    total = sum(feed.sent.values())
    self.consume(SOURCE, sent, lambda: expected.total() >= total)
    self.consume(WINDOWS, see, lambda: len(found) >= len(expected))
    wrong += ['%s, window %d: %s instead of %s' % (*at, found.get(at), expected.get(at))
              for at in found.keys() | expected.keys() if found.get(at) != expected.get(at)]
    print('windows: %d of %d, %d wrong' % (len(found), len(expected), len(wrong)), flush=True)
    return wrong

  def stop(self):
    if isinstance(self.client, subprocess.Popen):
      self.client.kill()
    self.serving.stop()
    self.brokers.stop()


def main():
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--seeds', default='1')
  parser.add_argument('--minutes', type=float, default=10)
  parser.add_argument('--rate', type=int, default=10_000)
  parser.add_argument('--interval', type=int, default=1000, help='milliseconds between checkpoints')
  parser.add_argument('--pipeline', choices=['python', 'go', 'yaml'], default='python')
  parser.add_argument('--option', action='append', default=[], help='of the job, --NAME=VALUE')
  settings = parser.parse_args()
  first, _, last = settings.seeds.partition('-')
  bad = 0
  for seed in range(int(first), int(last or first) + 1):
    torture = Torture(settings, seed)
    try:
      wrong = torture.run()
    finally:
      torture.stop()
    print('seed %d: %s; %s' % (seed, dict(torture.done), '\n'.join(wrong[:20]) or 'every record once'), flush=True)
    bad += bool(wrong)
  return bad


if __name__ == '__main__':
  status = main()
  sys.stdout.flush()
  os._exit(1 if status else 0)  # harnesses' threads would keep the process
