import java.util.Map;
import java.util.concurrent.atomic.AtomicLong;
import org.apache.beam.sdk.Pipeline;
import org.apache.beam.sdk.io.kafka.KafkaIO;
import org.apache.beam.sdk.options.Default;
import org.apache.beam.sdk.options.PipelineOptionsFactory;
import org.apache.beam.sdk.options.StreamingOptions;
import org.apache.beam.sdk.transforms.DoFn;
import org.apache.beam.sdk.transforms.ParDo;
import org.apache.beam.sdk.values.KV;
import org.apache.beam.sdk.values.PCollection;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;
import org.apache.kafka.common.serialization.ByteArraySerializer;

/**
 * Reads a topic by the SDK's own splittable DoFn, and copies it to another if one is named. The harness is this process, by
 * LOOPBACK, so it can tell when it has seen so many records: `seconds` are those since the first of them.
 */
public final class Sdf {
  private static final AtomicLong SEEN = new AtomicLong();
  private static volatile long first;

  private Sdf() {}

  /** What is measured. */
  public interface Options extends StreamingOptions {
    String getBootstrap();

    void setBootstrap(String servers);

    String getFrom();

    void setFrom(String topic);

    @Default.String("")
    String getTo();

    void setTo(String topic);

    long getRecords();

    void setRecords(long records);
  }

  static class Count extends DoFn<KV<byte[], byte[]>, KV<byte[], byte[]>> {
    private final long records;

    Count(long records) {
      this.records = records;
    }

    @ProcessElement
    public void process(@Element KV<byte[], byte[]> record, OutputReceiver<KV<byte[], byte[]>> output) {
      long seen = SEEN.incrementAndGet();
      if (seen == 1) {
        first = System.nanoTime();
      }
      if (seen == records) {
        System.out.printf("{\"records\": %d, \"seconds\": %f}%n", seen, (System.nanoTime() - first) / 1e9);
      }
      output.output(record);
    }
  }

  public static void main(String[] args) {
    Options options = PipelineOptionsFactory.fromArgs(args).withValidation().as(Options.class);
    options.setStreaming(true);
    Pipeline pipeline = Pipeline.create(options);
    PCollection<KV<byte[], byte[]>> read =
        pipeline
            .apply(
                KafkaIO.<byte[], byte[]>read()
                    .withBootstrapServers(options.getBootstrap())
                    .withTopic(options.getFrom())
                    .withKeyDeserializer(ByteArrayDeserializer.class)
                    .withValueDeserializer(ByteArrayDeserializer.class)
                    .withConsumerConfigUpdates(Map.of("auto.offset.reset", "earliest"))
                    .withoutMetadata())
            .apply(ParDo.of(new Count(options.getRecords())));
    if (!options.getTo().isEmpty()) {
      read.apply(
          KafkaIO.<byte[], byte[]>write()
              .withBootstrapServers(options.getBootstrap())
              .withTopic(options.getTo())
              .withKeySerializer(ByteArraySerializer.class)
              .withValueSerializer(ByteArraySerializer.class));
    }
    pipeline.run().waitUntilFinish();
  }
}
