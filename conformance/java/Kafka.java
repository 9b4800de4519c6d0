import java.nio.charset.StandardCharsets;
import java.util.Map;
import org.apache.beam.sdk.Pipeline;
import org.apache.beam.sdk.coders.VarIntCoder;
import org.apache.beam.sdk.io.kafka.KafkaIO;
import org.apache.beam.sdk.options.PipelineOptionsFactory;
import org.apache.beam.sdk.options.StreamingOptions;
import org.apache.beam.sdk.state.StateSpec;
import org.apache.beam.sdk.state.StateSpecs;
import org.apache.beam.sdk.state.ValueState;
import org.apache.beam.sdk.transforms.DoFn;
import org.apache.beam.sdk.transforms.ParDo;
import org.apache.beam.sdk.values.KV;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;
import org.apache.kafka.common.serialization.ByteArraySerializer;

/** A pipeline of a Java user, with the SDK's own Kafka: it numbers the records of each key, on their way to another topic. */
public final class Kafka {
  private Kafka() {}

  /** What the user says on the command line. */
  public interface Options extends StreamingOptions {
    String getBootstrap();

    void setBootstrap(String servers);

    String getFrom();

    void setFrom(String topic);

    String getTo();

    void setTo(String topic);
  }

  /** Says the number behind the value. */
  static class Number extends DoFn<KV<byte[], byte[]>, KV<byte[], byte[]>> {
    @StateId("count")
    private final StateSpec<ValueState<Integer>> spec = StateSpecs.value(VarIntCoder.of());

    @ProcessElement
    public void process(
        @Element KV<byte[], byte[]> record,
        @StateId("count") ValueState<Integer> count,
        OutputReceiver<KV<byte[], byte[]>> output) {
      Integer before = count.read();
      int number = before == null ? 0 : before;
      count.write(number + 1);
      String value = new String(record.getValue(), StandardCharsets.UTF_8) + " " + number;
      output.output(KV.of(record.getKey(), value.getBytes(StandardCharsets.UTF_8)));
    }
  }

  public static void main(String[] args) {
    Options options = PipelineOptionsFactory.fromArgs(args).withValidation().as(Options.class);
    options.setStreaming(true);
    Pipeline pipeline = Pipeline.create(options);
    pipeline
        .apply(
            KafkaIO.<byte[], byte[]>read()
                .withBootstrapServers(options.getBootstrap())
                .withTopic(options.getFrom())
                .withKeyDeserializer(ByteArrayDeserializer.class)
                .withValueDeserializer(ByteArrayDeserializer.class)
                .withConsumerConfigUpdates(Map.of("auto.offset.reset", "earliest"))
                .withoutMetadata())
        .apply(ParDo.of(new Number()))
        .apply(
            KafkaIO.<byte[], byte[]>write()
                .withBootstrapServers(options.getBootstrap())
                .withTopic(options.getTo())
                .withKeySerializer(ByteArraySerializer.class)
                .withValueSerializer(ByteArraySerializer.class));
    pipeline.run().waitUntilFinish();
  }
}
