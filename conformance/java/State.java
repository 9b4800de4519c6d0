import com.fasterxml.jackson.databind.ObjectMapper;
import java.io.File;
import java.util.ArrayList;
import java.util.Collections;
import java.util.List;
import java.util.Set;
import java.util.concurrent.ConcurrentHashMap;
import org.apache.beam.runners.portability.PortableRunner;
import org.apache.beam.sdk.Pipeline;
import org.apache.beam.sdk.coders.KvCoder;
import org.apache.beam.sdk.coders.SerializableCoder;
import org.apache.beam.sdk.coders.StringUtf8Coder;
import org.apache.beam.sdk.coders.VarIntCoder;
import org.apache.beam.sdk.options.ExperimentalOptions;
import org.apache.beam.sdk.options.PipelineOptions;
import org.apache.beam.sdk.options.PipelineOptionsFactory;
import org.apache.beam.sdk.options.PortablePipelineOptions;
import org.apache.beam.sdk.options.SdkHarnessOptions;
import org.apache.beam.sdk.options.StreamingOptions;
import org.apache.beam.sdk.state.BagState;
import org.apache.beam.sdk.state.CombiningState;
import org.apache.beam.sdk.state.MapState;
import org.apache.beam.sdk.state.MultimapState;
import org.apache.beam.sdk.state.OrderedListState;
import org.apache.beam.sdk.state.SetState;
import org.apache.beam.sdk.state.StateSpec;
import org.apache.beam.sdk.state.StateSpecs;
import org.apache.beam.sdk.state.ValueState;
import org.apache.beam.sdk.testing.TestStream;
import org.apache.beam.sdk.transforms.DoFn;
import org.apache.beam.sdk.transforms.ParDo;
import org.apache.beam.sdk.transforms.Reshuffle;
import org.apache.beam.sdk.transforms.Sum;
import org.apache.beam.sdk.values.KV;
import org.apache.beam.sdk.values.TimestampedValue;
import org.joda.time.Instant;

/** Does the steps of a scenario of state.py, which says what they are, and prints what they read. */
public final class State {
  private State() {}

  static final Set<String> FAILED = ConcurrentHashMap.newKeySet();
  static final List<String> READ = Collections.synchronizedList(new ArrayList<>());

  static void failOnce(String step) {
    if (FAILED.add(step)) {
      throw new IllegalStateException("this is to happen once");
    }
  }

  static String spelled(String text) {
    int times = text.indexOf('*');
    return times < 0 ? text : text.substring(0, times).repeat(Integer.parseInt(text.substring(times + 1)));
  }

  static String shown(String value) {
    return value.length() < 100 ? value : value.charAt(0) + "*" + value.length();
  }

  static String listed(Iterable<String> values) {
    List<String> shown = new ArrayList<>();
    values.forEach(value -> shown.add(shown(value)));
    Collections.sort(shown);
    return "[" + String.join(", ", shown) + "]";
  }

  /** Does the operations of a step, and tells what it reads. */
  static class Apply extends DoFn<KV<String, String>, String> {
    @StateId("value") private final StateSpec<ValueState<String>> value = StateSpecs.value(StringUtf8Coder.of());
    @StateId("sum") private final StateSpec<CombiningState<Long, long[], Long>> sum = StateSpecs.combining(Sum.ofLongs());
    @StateId("bag") private final StateSpec<BagState<String>> bag = StateSpecs.bag(StringUtf8Coder.of());
    @StateId("set") private final StateSpec<SetState<String>> set = StateSpecs.set(StringUtf8Coder.of());
    @StateId("list") private final StateSpec<OrderedListState<String>> list = StateSpecs.orderedList(StringUtf8Coder.of());
    @StateId("map") private final StateSpec<MapState<String, String>> map =
        StateSpecs.map(StringUtf8Coder.of(), StringUtf8Coder.of());
    @StateId("multimap") private final StateSpec<MultimapState<String, String>> multimap =
        StateSpecs.multimap(StringUtf8Coder.of(), StringUtf8Coder.of());
    // No runner knows these coders.
    @StateId("numbers") private final StateSpec<MultimapState<String, Integer>> numbers =
        StateSpecs.multimap(StringUtf8Coder.of(), VarIntCoder.of());
    @StateId("opaque") private final StateSpec<MultimapState<String, String>> opaque =
        StateSpecs.multimap(StringUtf8Coder.of(), SerializableCoder.of(String.class));

    @ProcessElement
    public void process(
        @Element KV<String, String> element,
        OutputReceiver<String> out,
        @StateId("value") ValueState<String> value,
        @StateId("sum") CombiningState<Long, long[], Long> sum,
        @StateId("bag") BagState<String> bag,
        @StateId("set") SetState<String> set,
        @StateId("list") OrderedListState<String> list,
        @StateId("map") MapState<String, String> map,
        @StateId("multimap") MultimapState<String, String> multimap,
        @StateId("numbers") MultimapState<String, Integer> numbers,
        @StateId("opaque") MultimapState<String, String> opaque) {
      String[] step = element.getValue().split(";");
      for (int index = 1; index < step.length; index++) {
        if (step[index].equals("fail")) {
          failOnce(element.getKey() + " " + step[0]);
          continue;
        }
        if (step[index].equals("fail_later")) {
          out.output(element.getKey() + " " + step[0] + " fail");
          continue;
        }
        String[] words = step[index].split(" ");
        String[] operation = words[0].split("\\.");
        String read;
        switch (operation[0]) {
          case "value": read = value(value, operation[1], words); break;
          case "sum": read = sum(sum, operation[1], words); break;
          case "bag": read = bag(bag, operation[1], words); break;
          case "set": read = set(set, operation[1], words); break;
          case "list": read = list(list, operation[1], words); break;
          case "map": read = map(map, operation[1], words); break;
          case "multimap": read = multimap(multimap, operation[1], words, word -> spelled(word)); break;
          case "opaque": read = multimap(opaque, operation[1], words, word -> spelled(word)); break;
          case "numbers": read = multimap(numbers, operation[1], words, Integer::valueOf); break;
          default: throw new IllegalArgumentException(words[0]);
        }
        if (words[0].endsWith("?")) {
          out.output(element.getKey() + " " + step[0] + "." + (index - 1) + " " + step[index] + " -> " + read);
        }
      }
    }

    static String value(ValueState<String> value, String operation, String[] words) {
      switch (operation) {
        case "write": value.write(words[1]); return null;
        case "clear": value.clear(); return null;
        case "read?": return value.read() == null ? "nothing" : value.read();
        default: throw new IllegalArgumentException(operation);
      }
    }

    static String sum(CombiningState<Long, long[], Long> sum, String operation, String[] words) {
      switch (operation) {
        case "add": sum.add(Long.valueOf(words[1])); return null;
        case "clear": sum.clear(); return null;
        case "read?": return String.valueOf(sum.read());
        default: throw new IllegalArgumentException(operation);
      }
    }

    static String bag(BagState<String> bag, String operation, String[] words) {
      switch (operation) {
        case "add": case "big": bag.add(spelled(words[1])); return null;
        case "clear": bag.clear(); return null;
        case "empty?": return String.valueOf(bag.isEmpty().read());
        case "read?": return listed(bag.read());
        default: throw new IllegalArgumentException(operation);
      }
    }

    static String set(SetState<String> set, String operation, String[] words) {
      switch (operation) {
        case "add": set.add(words[1]); return null;
        case "remove": set.remove(words[1]); return null;
        case "clear": set.clear(); return null;
        case "has?": return String.valueOf(set.contains(words[1]).read());
        case "read?": return listed(set.read());
        default: throw new IllegalArgumentException(operation);
      }
    }

    static String list(OrderedListState<String> list, String operation, String[] words) {
      switch (operation) {
        case "add": case "big": list.add(TimestampedValue.of(spelled(words[2]), at(words[1]))); return null;
        case "clear": list.clear(); return null;
        case "clear_range": list.clearRange(at(words[1]), at(words[2])); return null;
        case "read?": return entries(list.read());
        case "range?": return entries(list.readRange(at(words[1]), at(words[2])));
        default: throw new IllegalArgumentException(operation);
      }
    }

    static Instant at(String sortKey) {
      return new Instant(Long.parseLong(sortKey));
    }

    static String entries(Iterable<TimestampedValue<String>> entries) {
      List<TimestampedValue<String>> sorted = new ArrayList<>();
      entries.forEach(sorted::add);
      sorted.sort((a, b) -> {
        int order = a.getTimestamp().compareTo(b.getTimestamp());
        return order != 0 ? order : a.getValue().compareTo(b.getValue());
      });
      List<String> shown = new ArrayList<>();
      sorted.forEach(entry -> shown.add(entry.getTimestamp().getMillis() + "=" + shown(entry.getValue())));
      return String.join(", ", shown);
    }

    static String map(MapState<String, String> map, String operation, String[] words) {
      switch (operation) {
        case "put": case "big": map.put(words[1], spelled(words[2])); return null;
        case "remove": map.remove(words[1]); return null;
        case "clear": map.clear(); return null;
        case "get?": String value = map.get(words[1]).read(); return listed(value == null ? List.of() : List.of(value));
        case "keys?": return listed(map.keys().read());
        case "entries?":
          List<String> entries = new ArrayList<>();
          map.entries().read().forEach(entry -> entries.add(entry.getKey() + "=" + shown(entry.getValue())));
          return listed(entries);
        default: throw new IllegalArgumentException(operation);
      }
    }

    static <T> String multimap(
        MultimapState<String, T> map, String operation, String[] words, java.util.function.Function<String, T> of) {
      List<String> read = new ArrayList<>();
      switch (operation) {
        case "put": case "big": map.put(words[1], of.apply(words[2])); return null;
        case "remove": map.remove(words[1]); return null;
        case "clear": map.clear(); return null;
        case "has?": return String.valueOf(map.containsKey(words[1]).read());
        case "keys?": return listed(map.keys().read());
        case "get?":
          map.get(words[1]).read().forEach(value -> read.add(String.valueOf(value)));
          return listed(read);
        case "entries?":
          map.entries().read().forEach(entry -> read.add(entry.getKey() + "=" + shown(String.valueOf(entry.getValue()))));
          return listed(read);
        default: throw new IllegalArgumentException(operation);
      }
    }
  }

  /** Hands on what was read; fails at the end of a bundle that is to, once, when what is before it is done. */
  static class FailLater extends DoFn<String, String> {
    private transient String failing;

    @StartBundle
    public void start() {
      failing = null;
    }

    @ProcessElement
    public void process(@Element String line, OutputReceiver<String> out) {
      if (line.endsWith(" fail")) {
        failing = line;
      } else {
        out.output(line);
      }
    }

    @FinishBundle
    public void finish() {
      if (failing != null) {
        failOnce(failing);
      }
    }
  }

  static class Keep extends DoFn<String, Void> {
    @ProcessElement
    public void process(@Element String line) {
      READ.add(line);
    }
  }

  public static void main(String[] args) throws Exception {
    PipelineOptions options = PipelineOptionsFactory.create();
    options.as(SdkHarnessOptions.class).setMaxCacheMemoryUsageMb(Integer.parseInt(args[0]));
    options.as(StreamingOptions.class).setStreaming(true);
    options.setRunner(PortableRunner.class);
    options.as(ExperimentalOptions.class).setExperiments(List.of("beam_fn_api"));
    PortablePipelineOptions portable = options.as(PortablePipelineOptions.class);
    portable.setJobEndpoint(args[1]);
    portable.setDefaultEnvironmentType("LOOPBACK");
    portable.setFilesToStage(List.of());

    TestStream.Builder<KV<String, String>> stream =
        TestStream.create(KvCoder.of(StringUtf8Coder.of(), StringUtf8Coder.of()));
    for (String[][] event : new ObjectMapper().readValue(new File(args[2]), String[][][].class)) {
      List<KV<String, String>> steps = new ArrayList<>();
      for (String[] step : event) {
        steps.add(KV.of(step[0], step[1]));
      }
      @SuppressWarnings({"unchecked", "rawtypes"})
      KV<String, String>[] rest = steps.subList(1, steps.size()).toArray(new KV[0]);
      stream = stream.addElements(steps.get(0), rest);
    }
    Pipeline pipeline = Pipeline.create(options);
    pipeline
        .apply(stream.advanceWatermarkToInfinity())
        .apply(ParDo.of(new Apply()))
        .apply(ParDo.of(new FailLater()))
        .apply(Reshuffle.viaRandomKey())
        .apply(ParDo.of(new Keep()));
    pipeline.run().waitUntilFinish();
    READ.forEach(System.out::println);
    System.out.flush();
    // What the SDK's harness leaves behind would keep the process.
    Runtime.getRuntime().halt(0);
  }
}
