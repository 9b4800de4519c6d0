#!/usr/bin/env bash
# Beam's Java SDK 2.73.0 with its Kafka; the portable client 2.65.0.
# Guess: KafkaIO's sink that writes exactly once (`withEOS`) runs on every runner that has stable input, as its documentation
#   asks for no more, so a pipeline that leaves Flink's own runner for a portable one keeps it.
# Really: its validation knows a few runners by the name of their class. PortableRunner is none of them, whatever is behind it,
#   Flink's job server too: `run` raises before anything is submitted.
# Hurt: who moves a Java pipeline from FlinkRunner to any portable runner: the sink has to become `write()` without it, at least
#   once, or another one. The runner cannot help, since it is never asked.
set -euo pipefail
dir=$(mktemp -d); trap 'rm -rf "$dir"' EXIT; cd "$dir"
cat > pom.xml <<'XML'
<project>
  <modelVersion>4.0.0</modelVersion>
  <groupId>finding</groupId>
  <artifactId>finding</artifactId>
  <version>0</version>
  <dependencies>
    <dependency><groupId>org.apache.beam</groupId><artifactId>beam-sdks-java-core</artifactId><version>2.73.0</version></dependency>
    <dependency><groupId>org.apache.beam</groupId><artifactId>beam-runners-portability-java</artifactId><version>2.65.0</version></dependency>
    <dependency>
      <groupId>org.apache.beam</groupId><artifactId>beam-sdks-java-io-kafka</artifactId><version>2.73.0</version>
      <exclusions><exclusion><groupId>io.confluent</groupId><artifactId>*</artifactId></exclusion></exclusions>
    </dependency>
    <dependency><groupId>org.apache.kafka</groupId><artifactId>kafka-clients</artifactId><version>3.9.1</version></dependency>
  </dependencies>
</project>
XML
mvn -q -B dependency:copy-dependencies -DoutputDirectory=lib
cat > Finding.java <<'JAVA'
import org.apache.beam.sdk.Pipeline;
import org.apache.beam.sdk.io.kafka.KafkaIO;
import org.apache.beam.sdk.options.PipelineOptionsFactory;
import org.apache.beam.sdk.transforms.Create;
import org.apache.beam.sdk.values.KV;
import org.apache.kafka.common.serialization.StringSerializer;

public class Finding {
  public static void main(String[] args) {
    Pipeline pipeline =
        Pipeline.create(
            PipelineOptionsFactory.fromArgs("--runner=PortableRunner", "--jobEndpoint=localhost:1").create());
    pipeline
        .apply(Create.of(KV.of("key", "value")))
        .apply(
            KafkaIO.<String, String>write()
                .withBootstrapServers("localhost:1")
                .withTopic("topic")
                .withKeySerializer(StringSerializer.class)
                .withValueSerializer(StringSerializer.class)
                .withEOS(1, "group"));
    try {
      pipeline.run();
    } catch (UnsupportedOperationException refused) {
      System.out.println(refused.getMessage());
      System.exit(refused.getMessage().contains("PortableRunner is not a runner known to be compatible") ? 0 : 1);
    }
    System.exit(1);
  }
}
JAVA
javac -cp 'lib/*' Finding.java
java -cp "lib/*:." Finding 2> /dev/null
# Seen: org.apache.beam.runners.portability.PortableRunner is not a runner known to be compatible with Kafka exactly-once sink.
#   This implementation of exactly-once sink relies on specific checkpoint guarantees. [...]
