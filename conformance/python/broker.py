"""A Kafka broker of a test's own, which may be killed, and a thin client of it.

    broker.py

starts one, tries it, and prints what takes how long. KAFKA_JARS is the folder of its jars.
"""
import collections
import contextlib
import os
import pathlib
import random
import secrets
import signal
import socket
import struct
import subprocess
import tempfile
import time

import confluent_kafka
from confluent_kafka import admin

import service
from service import LIMIT, wait_for

# A node is its own controller. All but the ports and the folder; a test may say otherwise.
PROPERTIES = {
    'process.roles': 'broker,controller',
    'node.id': 1,
    'controller.listener.names': 'CONTROLLER',
    'listener.security.protocol.map': 'PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT',
    'auto.create.topics.enable': 'false',
    'num.partitions': 1,
    'offsets.topic.replication.factor': 1,
    'offsets.topic.num.partitions': 4,
    'transaction.state.log.replication.factor': 1,
    'transaction.state.log.min.isr': 1,
    'transaction.state.log.num.partitions': 4,
    'group.initial.rebalance.delay.ms': 0,
    # On a busy machine a node fences itself: the default is 9 s. See `_unregister`.
    'broker.session.timeout.ms': 120000,
    # By default it is a quarter of the heap.
    'log.cleaner.dedupe.buffer.size': 2 << 20,
}
JVM = ['-Xms128m', '-Xmx512m', '-XX:+UseSerialGC', '-XX:TieredStopAtLevel=1', '-XX:-UsePerfData',
       '-XX:+ExitOnOutOfMemoryError']
LOGGING = '''rootLogger.level=warn
rootLogger.appenderRef.out.ref=out
appender.out.type=Console
appender.out.name=out
appender.out.layout.type=PatternLayout
appender.out.layout.pattern=%d{HH:mm:ss.SSS} %p %c{1} %m%n
'''
COMMITTED, UNCOMMITTED = 'read_committed', 'read_uncommitted'
LEVELS = {
    COMMITTED: confluent_kafka.IsolationLevel.READ_COMMITTED,
    UNCOMMITTED: confluent_kafka.IsolationLevel.READ_UNCOMMITTED,
}

JARS, OLDEST_JARS = 'KAFKA_JARS', 'KAFKA_OLDEST_JARS'
ZOOKEEPER_SESSION = 2000

UNREGISTER_BROKER = 64
NO_ERROR, BROKER_ID_NOT_REGISTERED = 0, 102

# Null and empty are not the same, in keys, values and headers. No headers are an empty list; a timestamp is in ms.
Record = collections.namedtuple('Record', 'topic partition offset key value headers timestamp')


def lasting_port():
  """A free port that stays free while the broker is away.

  It is none of those that the system gives to connections. A client that tries such a port again and again is one day
  given that very port: it is connected to itself then, and the broker cannot come back.
  """
  first = int(pathlib.Path('/proc/sys/net/ipv4/ip_local_port_range').read_text().split()[0])
  while True:
    port = random.randrange(10000, first)
    with contextlib.suppress(OSError), socket.socket() as found:
      found.bind(('127.0.0.1', port))
      return port


class Broker:
  """A broker in a folder of its own. Server properties, as keywords, are beside or instead of ours.

  With `listeners`, it has those beside the one that it has anyway, which is for tests.
  """

  def __init__(self, listeners=None, **properties):
    self._temporary = tempfile.TemporaryDirectory(prefix='ferrobeam-kafka-')
    self.folder = pathlib.Path(self._temporary.name)
    self.log = self.folder / 'log'
    (self.folder / 'temp').mkdir()
    (self.folder / 'log4j2.properties').write_text(LOGGING)
    self._properties = self.folder / 'server.properties'
    port, self._controller = lasting_port(), lasting_port()
    self.bootstrap = 'localhost:%d' % port
    own = {**self._own(port), 'log.dirs': self.folder / 'data'}
    if listeners:
      own = listeners.added_to(own)
    own.update(properties)
    self._properties.write_text(''.join('%s=%s\n' % property for property in own.items()))
    self._format(listeners.formatting() if listeners else [])
    self.start()

  def _own(self, port):
    """Properties of the broker on a port."""
    return {
        **PROPERTIES,
        'listeners': 'PLAINTEXT://localhost:%d,CONTROLLER://localhost:%d' % (port, self._controller),
        'advertised.listeners': 'PLAINTEXT://localhost:%d' % port,
        'controller.quorum.voters': '1@localhost:%d' % self._controller,
    }

  def _format(self, more):
    cluster = '--cluster-id=%s' % secrets.token_urlsafe(16)
    self._run('kafka.tools.StorageTool', 'format', cluster, '--config=%s' % self._properties, *more)
    assert self._process.wait(LIMIT) == 0, 'no storage: %s' % self._end_of_log()

  def _run(self, *command, jars=JARS):
    # What a codec unpacks there would stay when it is killed.
    own = ['-Djava.io.tmpdir=%s' % (self.folder / 'temp')]
    own += ['-Dlog4j2.configurationFile=%s' % (self.folder / 'log4j2.properties')]
    java = ['java'] + JVM + own + ['-cp', os.path.join(os.environ[jars], '*')]
    with self.log.open('a') as log:
      self._process = service.started(java + list(command), stdout=log, stderr=subprocess.STDOUT, cwd=self.folder)

  def start(self):
    """Starts it, or starts it again where it was. Returns when it answers and leads all partitions.

    It ends with the thread that calls this, as the system sees parents.
    """
    killed = self._process.poll() == -signal.SIGKILL
    self._run('kafka.Kafka', str(self._properties))
    if killed:
      wait_for('the controller', lambda: self.check_alive() or self._unregister())
    client = self._admin()
    wait_for('the broker', lambda: self.check_alive() or self._answers(client))

  def _unregister(self):
    """Whether the controller has forgotten the broker that was killed: it takes no other while its session lasts."""
    # The kind, version and number of the request, no name of a client, the broker's id; zeros are empty lists of tags.
    request = struct.pack('>hhihxix', UNREGISTER_BROKER, 0, 1, -1, PROPERTIES['node.id'])
    try:
      with socket.create_connection(('localhost', self._controller), 1) as connection:
        connection.sendall(struct.pack('>i', len(request)) + request)
        # The answer's length, the number of the request, tags, how long to wait, and the error.
        *_, error = struct.unpack('>iixih', connection.makefile('rb').read(15))
    except (OSError, struct.error):
      return False
    return error in (NO_ERROR, BROKER_ID_NOT_REGISTERED)

  def _answers(self, client):
    """Whether it is there and leads all partitions, which it may say too early."""
    try:
      seen = client.list_topics(timeout=1)
      return bool(seen.brokers) and all(self._ends(client, partitions_of(topic)) for topic in seen.topics.values())
    except confluent_kafka.KafkaException:
      return False

  def kill(self):
    self._process.kill()
    self._process.wait()

  def terminate(self):
    """Asks it to end."""
    self._process.terminate()
    self._process.wait(LIMIT)

  def pause(self):
    """Stops it as a machine does that is suspended."""
    self._process.send_signal(signal.SIGSTOP)

  def wake(self):
    self._process.send_signal(signal.SIGCONT)

  def stop(self):
    """Ends it, whatever its state, and removes its folder."""
    self.kill()
    self._temporary.cleanup()

  def check_alive(self):
    """Fails if it has ended."""
    assert self._process.poll() is None, 'the broker ended: %s' % self._end_of_log()

  def _end_of_log(self):
    return self.log.read_text()[-3000:]

  def _options(self, **options):
    # The log of librdkafka tells of every attempt to connect.
    always = {'bootstrap.servers': self.bootstrap, 'reconnect.backoff.max.ms': 200, 'log_level': 0}
    return {**always, **{name.replace('_', '.'): value for name, value in options.items()}}

  def _admin(self):
    return admin.AdminClient(self._options())

  def _consumer(self, **options):
    # No group is joined, but there must be one.
    return contextlib.closing(confluent_kafka.Consumer(self._options(**{'group_id': 'test', **options})))

  def create_topic(self, name, partitions=1, **config):
    client = self._admin()
    topic = admin.NewTopic(name, partitions, 1, config={name: str(value) for name, value in config.items()})
    client.create_topics([topic], operation_timeout=LIMIT)[name].result()
    wait_for('topic %s' % name, lambda: name in client.list_topics(timeout=LIMIT).topics)
    self.end_offsets(name)

  def add_partitions(self, name, partitions):
    """A topic has so many now."""
    client = self._admin()
    client.create_partitions([admin.NewPartitions(name, partitions)], operation_timeout=LIMIT)[name].result()
    wait_for('%d partitions' % partitions, lambda: len(self.end_offsets(name)) == partitions)

  def delete_records(self, topic, partition, before):
    """Removes the first records of a partition, as retention does."""
    client = self._admin()
    at = confluent_kafka.TopicPartition(topic, partition, before)
    client.delete_records([at], operation_timeout=LIMIT)[at].result()

  def delete_group(self, group):
    """Forgets its offsets, as brokers do after `offsets.retention.minutes`."""
    client = self._admin()
    client.delete_consumer_groups([group])[group].result()

  def allow(self, user, *rights):
    """Of each right: the kind of what it is a right to, the beginning of its name, and what may be done with it."""
    client = self._admin()
    kinds = {'topic': admin.ResourceType.TOPIC, 'group': admin.ResourceType.GROUP,
             'transactional_id': admin.ResourceType.TRANSACTIONAL_ID}
    bindings = [
        admin.AclBinding(kinds[kind], name, admin.ResourcePatternType.PREFIXED, 'User:%s' % user, '*',
                         admin.AclOperation[operation.upper()], admin.AclPermissionType.ALLOW)
        for kind, name, operation in rights]
    for future in client.create_acls(bindings).values():
      future.result()

  def groups(self):
    """The groups that have offsets."""
    client = self._admin()
    return [group.group_id for group in client.list_consumer_groups().result().valid]

  def fence(self, transactional_id):
    """Becomes the producer with this id, and leaves."""
    producer = confluent_kafka.Producer(self._options(transactional_id=transactional_id))
    producer.init_transactions(LIMIT)

  def abort(self, topic, records):
    """Writes records in a transaction, which is then aborted."""
    self.begin('aborted', topic, records).abort_transaction(LIMIT)

  def begin(self, transactional_id, topic, records, **options):
    """A producer with an open transaction that has these records."""
    producer = confluent_kafka.Producer(self._options(transactional_id=transactional_id, **options))
    producer.init_transactions(LIMIT)
    producer.begin_transaction()
    for key, value in records:
      producer.produce(topic, key=key, value=value)
    producer.flush(LIMIT)
    return producer

  def settle(self, transactional_id, topic, epoch, records=(), commit=True):
    """Becomes the producer of a sink, and commits an epoch as its sinks do: as the offset of partition 0, of the group that has the
    name of the id. Or leaves that open, for ten minutes, and gives the producer."""
    producer = self.begin(transactional_id, topic, records, transaction_timeout_ms=600000)
    with self._consumer(group_id=transactional_id) as group:
      offset = confluent_kafka.TopicPartition(topic, 0, epoch)
      producer.send_offsets_to_transaction([offset], group.consumer_group_metadata(), LIMIT)
    if commit:
      producer.commit_transaction(LIMIT)
    return producer

  def delete_topic(self, name):
    client = self._admin()
    client.delete_topics([name], operation_timeout=LIMIT)[name].result()
    wait_for('the end of topic %s' % name, lambda: name not in client.list_topics(timeout=LIMIT).topics)

  def produce(self, topic, records, restarts=False):
    """Writes pairs of a key and a value, or dicts with what `Producer.produce` takes. All are acknowledged then.

    Fails if the broker is killed meanwhile, unless `restarts` says that it may be: that costs half a second.
    """
    errors = []
    sure = {'enable_idempotence': True} if restarts else {'retries': 0}
    producer = confluent_kafka.Producer(
        self._options(queue_buffering_max_messages=0, message_timeout_ms=LIMIT * 1000, **sure))
    for record in records:
      if not isinstance(record, dict):
        record = dict(zip(('key', 'value'), record))
      producer.produce(topic, on_delivery=lambda error, _: error and errors.append(error), **record)
      producer.poll(0)
    left = producer.flush(LIMIT)
    assert not left and not errors, '%d of the records were not written: %s' % (left + len(errors), errors[:3])

  def _partitions(self, client, topic):
    return partitions_of(client.list_topics(timeout=LIMIT).topics[topic])

  def _ends(self, client, partitions, isolation=COMMITTED):
    asked = {partition: admin.OffsetSpec.latest() for partition in partitions}
    answers = client.list_offsets(asked, isolation_level=LEVELS[isolation], request_timeout=LIMIT)
    return {partition.partition: answer.result().offset for partition, answer in answers.items()}

  def end_offsets(self, topic, isolation=COMMITTED):
    """Where each partition ends: for readers of what is committed, at the first open transaction.

    Shortly after the commit of a transaction that is still where it began.
    """
    client, failures = self._admin(), []

    def ends():
      try:
        return self._ends(client, self._partitions(client, topic), isolation)
      except confluent_kafka.KafkaException as failed:
        # There are many codes for a broker that is not quite there.
        failures[:] = [failed]
        return None

    try:
      return wait_for('the ends of %s' % topic, ends)
    except service.NeverCame as never:
      raise service.NeverCame('%s: %s' % (never, failures)) from None

  def committed(self, group, topic):
    """The offsets of a group by partition; partitions without one are left out."""
    with self._consumer(group_id=group, isolation_level=COMMITTED) as consumer:
      found = consumer.committed(self._partitions(consumer, topic), timeout=LIMIT)
    for partition in found:
      if partition.error:
        raise confluent_kafka.KafkaException(partition.error)
    return {partition.partition: partition.offset for partition in found if partition.offset >= 0}

  def read_all(self, topic, isolation=COMMITTED):
    """All records, by partition and offset, up to where the partitions end now, as `end_offsets` says it."""
    return self.read(topic, 0, isolation=isolation)

  def read(self, topic, count, limit=LIMIT, isolation=COMMITTED):
    """All records, by partition and offset, as soon as there are so many."""
    records = []
    # Offsets are passed, not counted: those of markers and of aborted and compacted records have no record.
    reached = {}
    until = time.monotonic() + limit
    with self._consumer(isolation_level=isolation, enable_partition_eof=True, enable_auto_commit=False,
                        auto_offset_reset='error', fetch_wait_max_ms=20) as consumer:
      while True:
        ends = self.end_offsets(topic, isolation)
        added = [partition for partition in ends if partition not in reached]
        if added:
          reached.update((partition, 0) for partition in added)
          with contextlib.suppress(confluent_kafka.KafkaException):
            consumer.list_topics(timeout=1)  # Else it takes half a second to find out who leads.
          begin = confluent_kafka.OFFSET_BEGINNING
          consumer.incremental_assign([confluent_kafka.TopicPartition(topic, partition, begin) for partition in added])
        while any(reached[partition] < end for partition, end in ends.items()):
          if time.monotonic() > until:
            raise service.NeverCame('the end of %s, for %d s: %s of %s' % (topic, limit, reached, ends))
          for message in consumer.consume(1000, 0.1):
            reached[message.partition()] = passed(message)
            if not message.error():
              records.append(record_of(message))
        found = [record for record in records if record.offset < ends[record.partition]]
        if len(found) >= count:
          return sorted(found, key=lambda record: (record.partition, record.offset))
        if time.monotonic() > until:
          raise service.NeverCame('%d records in %s, for %d s: %d' % (count, topic, limit, len(found)))
        time.sleep(0.02)


class OldestBroker(Broker):
  """Kafka 0.11, the first with transactions, and its ZooKeeper. KAFKA_OLDEST_JARS is the folder of their jars."""

  def _own(self, port):
    named = ('transaction.', 'offsets.topic.', 'group.', 'log.', 'auto.', 'num.')
    return {
        **{name: value for name, value in PROPERTIES.items() if name.startswith(named)},
        'broker.id': PROPERTIES['node.id'],
        'listeners': 'PLAINTEXT://localhost:%d' % port,
        'zookeeper.connect': 'localhost:%d' % self._controller,
        # One that was killed is there for others until then.
        'zookeeper.session.timeout.ms': ZOOKEEPER_SESSION,
        'zookeeper.connection.timeout.ms': 1000 * LIMIT,
    }

  def _format(self, more):
    self._run('org.apache.zookeeper.server.ZooKeeperServerMain', str(self._controller), str(self.folder / 'zookeeper'),
              jars=OLDEST_JARS)
    self._zookeeper = self._process
    wait_for('ZooKeeper', lambda: service.listens(self._zookeeper.pid))

  def start(self):
    self._run('kafka.Kafka', str(self._properties), jars=OLDEST_JARS)
    client = self._admin()
    wait_for('the broker', lambda: self.check_alive() or self._answers(client))

  def kill(self):
    super().kill()
    time.sleep(2 * ZOOKEEPER_SESSION / 1000)

  def stop(self):
    self._process.kill()
    self._zookeeper.kill()
    self._zookeeper.wait()
    super().stop()


def partitions_of(topic):
  return [confluent_kafka.TopicPartition(topic.topic, partition) for partition in sorted(topic.partitions)]


def passed(message):
  """The offset up to which a partition is read: by a record, or by the word that it ends there."""
  error = message.error()
  if not error:
    return message.offset() + 1
  if error.code() != confluent_kafka.KafkaError._PARTITION_EOF:
    raise confluent_kafka.KafkaException(error)
  return message.offset()


def record_of(message):
  return Record(message.topic(), message.partition(), message.offset(), message.key(), message.value(),
                message.headers() or [], message.timestamp()[1])


def main():
  last = time.monotonic()

  def took(what):
    nonlocal last
    now = time.monotonic()
    print('%-36s %5.2f s' % (what, now - last), flush=True)
    last = now

  broker = Broker()
  took('a new broker')
  try:
    broker.create_topic('tried', 3)
    took('a topic of 3 partitions')
    keys = [None, b'', b'key']
    sent = [{'key': keys[i % 3], 'value': [b'%d' % i, None, b''][i // 3 % 3], 'partition': i % 3, 'timestamp': 1000 + i,
             'headers': [('h', b'%d' % i), ('h', None), ('', b'')]} for i in range(10)]
    broker.produce('tried', sent)
    took('10 records')
    broker.kill()
    broker.start()
    took('killed and started again')
    read = broker.read_all('tried')
    took('read again')
    seen = [dict((name, getattr(record, name)) for name in sent[0]) for record in read]
    assert sorted(seen, key=lambda record: record['timestamp']) == sent, seen
    assert broker.end_offsets('tried') == {0: 4, 1: 3, 2: 3}
    took('the ends of the partitions')
    broker.terminate()
    broker.start()
    took('ended and started again')
    assert broker.read('tried', 10) == read
    took('read again')
    assert broker.committed('nobody', 'tried') == {}
    took('no offsets of a group')
    broker.delete_topic('tried')
    took('the topic deleted')
  finally:
    broker.stop()
  took('stopped')


if __name__ == '__main__':
  main()
