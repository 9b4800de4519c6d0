#!/usr/bin/env bash
# Kafka 4.4.0 (one node), confluent-kafka 2.12.2 (librdkafka 2.12.1).
# Guess: topics have ids since Kafka 2.8, so an offset of a topic that was deleted and made anew is refused, or at least told.
# Really: offsets are of a name. A consumer that goes on at 500 gets records 500 to 999 of the new topic, and no error; the first 500
#   are skipped. Only a topic that is shorter than the offset is told, and only where auto.offset.reset is `error`. The id is there
#   to be asked for (DescribeTopics), and it is another.
# Hurt: whoever keeps offsets outside Kafka (checkpoints, exports): after a topic was made anew they lose its first records in
#   silence. Keep the topic's id beside the offset, and compare.
set -euo pipefail
dir=$(mktemp -d); broker=; cd "$dir"
trap '[ -z "$broker" ] || { kill -9 "$broker" && wait "$broker"; } 2> /dev/null || true; rm -rf "$dir"' EXIT
cat > pom.xml <<'XML'
<project>
  <modelVersion>4.0.0</modelVersion>
  <groupId>finding</groupId>
  <artifactId>finding</artifactId>
  <version>0</version>
  <dependencies>
    <dependency><groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId><version>4.4.0</version></dependency>
  </dependencies>
</project>
XML
mvn -q -B dependency:copy-dependencies -DoutputDirectory=lib
python3 -m venv venv
venv/bin/pip install --quiet confluent-kafka==2.12.2
read -r port control < <(python3 -c '
import socket
sockets = [socket.socket() for _ in range(2)]
for s in sockets: s.bind(("127.0.0.1", 0))
print(*(s.getsockname()[1] for s in sockets))')
cat > server.properties <<PROPERTIES
process.roles=broker,controller
node.id=1
listeners=PLAINTEXT://127.0.0.1:$port,CONTROLLER://127.0.0.1:$control
controller.listener.names=CONTROLLER
controller.quorum.voters=1@127.0.0.1:$control
log.dirs=$dir/logs
offsets.topic.replication.factor=1
offsets.topic.num.partitions=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=1
broker.session.timeout.ms=120000
PROPERTIES
java -cp 'lib/*' kafka.tools.StorageTool format -t AAAAAAAAQACAAAAAAAAAAQ -c server.properties > broker.log 2>&1
java -Xmx512m -cp 'lib/*' kafka.Kafka server.properties >> broker.log 2>&1 & broker=$!
cat > finding.py <<'PYTHON'
import sys
import time
from confluent_kafka import Consumer, Producer, TopicCollection, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

servers = {"bootstrap.servers": sys.argv[1], "log_level": 0}
admin = AdminClient(servers)


def make(count):
    """The topic, with so many records, and its id."""
    for _ in range(100):
        try:
            admin.create_topics([NewTopic("t", 1, 1)], operation_timeout=60)["t"].result(90)
            break
        except Exception:
            time.sleep(0.2)  # The one before is still being deleted.
    producer = Producer(servers)
    for number in range(count):
        producer.produce("t", b"%d" % number, partition=0)
    assert producer.flush(60) == 0
    return str(admin.describe_topics(TopicCollection(["t"]), request_timeout=60)["t"].result(90).topic_id)


def go_on(offset):
    """The first and the last record from an offset on, and the errors."""
    consumer = Consumer({**servers, "group.id": "g", "enable.partition.eof": True, "auto.offset.reset": "error"})
    consumer.assign([TopicPartition("t", 0, offset)])
    values, errors, until = [], [], time.time() + 60
    while time.time() < until:
        message = consumer.poll(0.2)
        if message is None:
            continue
        if message.error():
            if message.error().name() != "_PARTITION_EOF":
                errors.append(message.error().name())
            break
        values.append(int(message.value()))
    consumer.close()
    return values[:1] + values[-1:], errors


first = make(500)
admin.delete_topics(["t"], operation_timeout=60)["t"].result(90)
second = make(1000)
longer = go_on(500)
admin.delete_topics(["t"], operation_timeout=60)["t"].result(90)
make(10)
shorter = go_on(500)
print("the new topic has 1,000 records; going on at 500 gives the first and the last of:", *longer)
print("the new topic has 10; going on at 500 gives:", *shorter)
print("the ids are", "the same" if first == second else "not the same")
raise SystemExit(longer != ([500, 999], []) or shorter != ([], ["_AUTO_OFFSET_RESET"]) or first == second)
PYTHON
venv/bin/python finding.py "127.0.0.1:$port"
# Seen:
#   the new topic has 1,000 records; going on at 500 gives the first and the last of: [500, 999] []
#   the new topic has 10; going on at 500 gives: [] ['_AUTO_OFFSET_RESET']
#   the ids are not the same
