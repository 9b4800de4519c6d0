#!/usr/bin/env bash
# Kafka 4.4.0 (one node), confluent-kafka 2.12.2 (librdkafka 2.12.1).
# Guess: when commit_transaction has returned without an error, that transaction is over: nothing that was sent for it can do
#   anything any more. And what abort_transaction has given up, no reader of committed records sees.
# Really: when a connection breaks before the commit is answered, librdkafka sends the request again by itself, with the same
#   producer epoch, and says nothing of it. The first of the two may come later, out of some buffer on its way: the broker
#   takes it for the commit of the transaction that is open by then. What that has so far is committed; its own end is then
#   refused with INVALID_TXN_STATE, be it a commit or an abort.
# Hurt: whoever writes exactly once by transactions one after another. A new producer (init_transactions, which makes the epoch
#   greater) after each commit that took as long as a retry does helps; Java's clients since 4.0 have a new epoch for each
#   transaction by themselves (KIP-890).
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
read -r port control relayed relay < <(python3 -c '
import socket
sockets = [socket.socket() for _ in range(4)]
for s in sockets: s.bind(("127.0.0.1", 0))
print(*(s.getsockname()[1] for s in sockets))')
cat > server.properties <<PROPERTIES
process.roles=broker,controller
node.id=1
listeners=PLAINTEXT://127.0.0.1:$port,CONTROLLER://127.0.0.1:$control,RELAYED://127.0.0.1:$relayed
advertised.listeners=PLAINTEXT://127.0.0.1:$port,RELAYED://127.0.0.1:$relay
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,RELAYED:PLAINTEXT
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
import socket
import struct
import sys
import threading
import time
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

END_TXN = 26
port, relayed, relay = (int(word) for word in sys.argv[1:])
late = []


def pass_on(source, target, requests):
    stream = source.makefile("rb")
    while head := stream.read(4):
        frame = stream.read(*struct.unpack(">i", head))
        # The connection breaks with the first commit, which is still on its way.
        if requests and struct.unpack(">h", frame[:2])[0] == END_TXN and not late:
            late.append(head + frame)
            break
        target.sendall(head + frame)
    for each in source, target:
        try:
            each.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass


def serve():
    listening = socket.create_server(("127.0.0.1", relay))
    while True:
        client, _ = listening.accept()
        broker = socket.create_connection(("127.0.0.1", relayed))
        for ends in (client, broker, True), (broker, client, False):
            threading.Thread(target=pass_on, args=ends, daemon=True).start()


def committed():
    consumer = Consumer({**servers, "group.id": "g", "isolation.level": "read_committed", "enable.partition.eof": True})
    consumer.assign([TopicPartition("t", 0, 0)])
    values = []
    while True:
        message = consumer.poll(60)
        if message.error():
            return values
        values.append(message.value().decode())


servers = {"bootstrap.servers": "127.0.0.1:%d" % port, "log_level": 0}
admin = AdminClient(servers)
admin.create_topics([NewTopic("t", 1, 1)], operation_timeout=60)["t"].result(90)
threading.Thread(target=serve, daemon=True).start()
producer = Producer({"bootstrap.servers": "127.0.0.1:%d" % relay, "transactional.id": "x", "log_level": 0})
producer.init_transactions(60)
producer.begin_transaction()
producer.produce("t", "first")
producer.commit_transaction(60)
print("the first transaction is committed; requests that are still on their way:", len(late))
producer.begin_transaction()
producer.produce("t", "second")
producer.flush(60)
with socket.create_connection(("127.0.0.1", relayed)) as connection:
    connection.sendall(late[0])
    *_, error = struct.unpack(">iiih", connection.makefile("rb").read(14))
print("the late one comes, and is answered with error", error)
try:
    producer.abort_transaction(60)
    print("the second transaction is aborted")
except Exception as raised:
    print("aborting the second transaction:", raised)
time.sleep(1)
seen = committed()
print("readers of what is committed see:", seen)
raise SystemExit(seen != ["first", "second"])
PYTHON
venv/bin/python finding.py "$port" "$relayed" "$relay"
# Seen:
#   the first transaction is committed; requests that are still on their way: 1
#   the late one comes, and is answered with error 0
#   aborting the second transaction: KafkaError{FATAL,code=INVALID_TXN_STATE,val=48,...}
#   readers of what is committed see: ['first', 'second']
