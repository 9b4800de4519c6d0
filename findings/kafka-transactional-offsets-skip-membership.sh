#!/usr/bin/env bash
# Kafka 4.4.0 (one node), confluent-kafka 2.12.2 (librdkafka 2.12.1).
# Guess: a consumer group guards its offsets: while it has members, who is not one cannot commit for it.
# Really: that holds for plain commits only (UNKNOWN_MEMBER_ID). The same offsets in a transaction of a stranger are taken, and
#   overwrite those of the live members.
# Hurt: whoever counts on group membership to fence a zombie of an exactly-once job, or shares a group name between a job and a
#   consumer: the positions jump without an error. Fencing is by transactional.id only.
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
from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

servers = {"bootstrap.servers": sys.argv[1], "log_level": 0}
admin = AdminClient(servers)
admin.create_topics([NewTopic("t", 1, 1)], operation_timeout=60)["t"].result(90)
member = Consumer({**servers, "group.id": "g", "enable.auto.commit": False, "session.timeout.ms": 45000})
member.subscribe(["t"])
deadline = time.monotonic() + 90
while not member.assignment() and time.monotonic() < deadline:
    member.poll(0.2)
member.commit(offsets=[TopicPartition("t", 0, 5)], asynchronous=False)
stranger = Consumer({**servers, "group.id": "g", "enable.auto.commit": False})
try:
    stranger.commit(offsets=[TopicPartition("t", 0, 100)], asynchronous=False)
    plain = "taken"
except KafkaException as error:
    plain = error.args[0].name()
print("plain commit of 100 by a stranger:", plain)
producer = Producer({**servers, "transactional.id": "x"})
producer.init_transactions(60)
producer.begin_transaction()
producer.send_offsets_to_transaction([TopicPartition("t", 0, 100)], stranger.consumer_group_metadata(), 60)
producer.commit_transaction(60)
member.poll(0.2)
offset = member.committed([TopicPartition("t", 0)], 60)[0].offset
print("the same in a transaction: taken; the member had committed 5 and now finds", offset,
      "- still assigned:", [p.partition for p in member.assignment()])
raise SystemExit(plain != "UNKNOWN_MEMBER_ID" or offset != 100 or not member.assignment())
PYTHON
venv/bin/python finding.py "127.0.0.1:$port"
# Seen:
#   plain commit of 100 by a stranger: UNKNOWN_MEMBER_ID
#   the same in a transaction: taken; the member had committed 5 and now finds 100 - still assigned: [0]
