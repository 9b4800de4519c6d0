#!/usr/bin/env bash
# Kafka 4.4.0 (one node), confluent-kafka 2.12.2 (librdkafka 2.12.1).
# Guess: a transaction that was given offsets and has committed has stored them; what is no offset is refused.
# Really: the position of a consumer that was assigned at the end of a partition and has read nothing is no number but -1001.
#   send_offsets_to_transaction takes it, the commit is Ok, the output is committed, and no offset is stored. A plain
#   commit of the same says _NO_OFFSET.
# Hurt: consume-transform-produce loops that commit `position()`: after the first quiet epoch nothing is stored, and a restart
#   begins wherever auto.offset.reset says. Commit the assigned offset until a record came.
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
from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

servers = {"bootstrap.servers": sys.argv[1], "log_level": 0}
admin = AdminClient(servers)
admin.create_topics([NewTopic("t", 1, 1), NewTopic("out", 1, 1)], operation_timeout=60)["t"].result(90)
consumer = Consumer({**servers, "group.id": "g", "enable.auto.commit": False, "enable.partition.eof": True})
consumer.assign([TopicPartition("t", 0, 0)])
for _ in range(450):
    if consumer.poll(0.2) is not None:
        break  # The end of the partition.
position = consumer.position([TopicPartition("t", 0)])
print("position of a consumer that is at the end:", position[0].offset)
try:
    consumer.commit(offsets=position, asynchronous=False)
    plain = "taken"
except KafkaException as error:
    plain = error.args[0].name()
print("plain commit of it:", plain)
producer = Producer({**servers, "transactional.id": "x"})
producer.init_transactions(60)
producer.begin_transaction()
producer.produce("out", b"x")
producer.send_offsets_to_transaction(position, consumer.consumer_group_metadata(), 60)
producer.commit_transaction(60)
stored = consumer.committed([TopicPartition("t", 0)], 60)[0].offset
print("the same in a transaction: sent and committed; stored:", stored)
raise SystemExit((position[0].offset, plain, stored) != (-1001, "_NO_OFFSET", -1001))
PYTHON
venv/bin/python finding.py "127.0.0.1:$port"
# Seen:
#   position of a consumer that is at the end: -1001
#   plain commit of it: _NO_OFFSET
#   the same in a transaction: sent and committed; stored: -1001
