#!/usr/bin/env bash
# Kafka 4.4.0 (one node), confluent-kafka 2.12.2 (librdkafka 2.12.1).
# Guess: `consumer_lag` in librdkafka's statistics says how many records wait, so an alert on it finds a consumer that stands still.
# Really: under read_committed it counts to the last STABLE offset. Behind one open transaction everything that others have
#   committed since waits unread, and the lag is 1 (a transaction's marker) or 0.
# Hurt: monitoring: a producer that hangs in a transaction stops all readers of the partition, and every lag alert stays
#   green. Watch the high watermark less the position as well.
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
import json
import sys
import time
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

servers = {"bootstrap.servers": sys.argv[1], "log_level": 0}
admin = AdminClient(servers)
admin.create_topics([NewTopic("t", 1, 1)], operation_timeout=60)["t"].result(90)


def begun(transactional_id, records):
    producer = Producer({**servers, "transactional.id": transactional_id})
    producer.init_transactions(60)
    producer.begin_transaction()
    for _ in range(records):
        producer.produce("t", b"x")
    producer.flush(60)
    return producer


begun("first", 10).commit_transaction(60)
hanging = begun("hangs", 1)
begun("other", 1000).commit_transaction(60)
statistics = []
consumer = Consumer({
    **servers, "group.id": "g", "isolation.level": "read_committed", "auto.offset.reset": "earliest",
    "enable.auto.commit": False, "statistics.interval.ms": 200, "stats_cb": lambda text: statistics.append(json.loads(text))})
consumer.assign([TopicPartition("t", 0, 0)])
read, lag, high, deadline = 0, None, None, time.monotonic() + 90
# Waits for statistics that follow the commit of all that could be read and that know all that was written.
while time.monotonic() < deadline:
    message = consumer.poll(0.2)
    if message is not None and message.error() is None:
        read += 1
        if read == 10:
            consumer.commit(asynchronous=False)
    state = statistics[-1].get("topics", {}).get("t", {}).get("partitions", {}).get("0", {}) if statistics else {}
    if read >= 10 and state.get("hi_offset", 0) > 1000 and state.get("committed_offset", -1) >= 10 and state["consumer_lag"] != -1:
        lag, high = state["consumer_lag"], state["hi_offset"]
        break
print("read", read, "of 1010 committed records; high watermark", high, "- consumer_lag:", lag)
hanging.abort_transaction(60)
raise SystemExit(read != 10 or lag is None or lag > 5)
PYTHON
venv/bin/python finding.py "127.0.0.1:$port"
# Seen: read 10 of 1010 committed records; high watermark 1013 - consumer_lag: 1
