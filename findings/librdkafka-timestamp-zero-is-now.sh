#!/usr/bin/env bash
# Kafka 4.4.0 (one node), confluent-kafka 2.12.2 (librdkafka 2.12.1).
# Guess: a record that is produced with the timestamp 0 has that timestamp, as one with 1 has 1, and as Java's producer writes it.
# Really: to librdkafka 0 is no timestamp, and the record gets the time of the clock; there is no error.
# Hurt: whoever copies records from topic to topic with their timestamps, or writes what happened at the beginning of Unix time:
#   the copy is of today, so it is kept for longer or is in another window.
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
PROPERTIES
java -cp 'lib/*' kafka.tools.StorageTool format -t AAAAAAAAQACAAAAAAAAAAQ -c server.properties > broker.log 2>&1
java -Xmx512m -cp 'lib/*' kafka.Kafka server.properties >> broker.log 2>&1 & broker=$!
cat > finding.py <<'PYTHON'
import sys
import time
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

servers = {"bootstrap.servers": "127.0.0.1:%s" % sys.argv[1], "log_level": 0}
admin = AdminClient(servers)
admin.create_topics([NewTopic("t", 1, 1, config={"retention.ms": "-1"})], operation_timeout=60)["t"].result(90)
producer = Producer(servers)
before = int(time.time() * 1000)
given = [0, 1, 1000]
failed = []
for timestamp in given:
    producer.produce("t", b"%d" % timestamp, timestamp=timestamp, on_delivery=lambda error, _: error and failed.append(error))
producer.flush(60)
consumer = Consumer({**servers, "group.id": "g"})
consumer.assign([TopicPartition("t", 0, 0)])
found = [consumer.poll(60).timestamp()[1] for _ in given]
words = ["now" if timestamp >= before else timestamp for timestamp in found]
print("produced with", given, "errors", failed, "and read with", words)
raise SystemExit(words != ["now", 1, 1000] or bool(failed))
PYTHON
venv/bin/python finding.py "$port"
# Seen:
#   produced with [0, 1, 1000] errors [] and read with ['now', 1, 1000]
