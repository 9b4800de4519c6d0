#!/usr/bin/env bash
# Beam's Java harness 2.73.0.
# Guess: a runner that gives back, byte for byte, what was appended to multimap state has done its part.
# Really: SetState is a multimap to `Void`, whose coder writes nothing: each value of the set is appended as ZERO bytes, and
#   `contains` asks whether at least one value can be decoded, for which the decoder wants at least one byte there. With
#   the appended bytes given back a set contains nothing in the next bundle, while its keys are all listed. The
#   runner has to answer some byte for each empty append; its content is not looked at.
# Hurt: authors of runners with multimap state: `contains` and `addIfAbsent` are wrong across bundles, and nothing else is.
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
    <dependency><groupId>org.apache.beam</groupId><artifactId>beam-sdks-java-harness</artifactId><version>2.73.0</version></dependency>
    <dependency><groupId>com.github.jbellis</groupId><artifactId>jamm</artifactId><version>0.4.0</version></dependency>
  </dependencies>
</project>
XML
mvn -q -B dependency:copy-dependencies -DoutputDirectory=lib
cat > Finding.java <<'JAVA'
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.CompletableFuture;
import org.apache.beam.fn.harness.Caches;
import org.apache.beam.fn.harness.state.MultimapUserState;
import org.apache.beam.model.fnexecution.v1.BeamFnApi.StateAppendResponse;
import org.apache.beam.model.fnexecution.v1.BeamFnApi.StateClearResponse;
import org.apache.beam.model.fnexecution.v1.BeamFnApi.StateGetResponse;
import org.apache.beam.model.fnexecution.v1.BeamFnApi.StateKey;
import org.apache.beam.model.fnexecution.v1.BeamFnApi.StateRequest;
import org.apache.beam.model.fnexecution.v1.BeamFnApi.StateResponse;
import org.apache.beam.sdk.coders.StringUtf8Coder;
import org.apache.beam.sdk.coders.VoidCoder;
import org.apache.beam.vendor.grpc.v1p69p0.com.google.protobuf.ByteString;

public class Finding {
  /** A runner's multimap, which may put one byte in the place of an append of none. */
  static class Runner {
    final Map<ByteString, ByteString> values = new HashMap<>();
    final boolean mark;
    int appendedBytes;

    Runner(boolean mark) {
      this.mark = mark;
    }

    CompletableFuture<StateResponse> handle(StateRequest.Builder request) {
      StateResponse.Builder response = StateResponse.newBuilder();
      StateKey key = request.getStateKey();
      ByteString mapKey = key.getMultimapUserState().getMapKey();
      if (request.hasAppend()) {
        ByteString data = request.getAppend().getData();
        appendedBytes += data.size();
        values.merge(mapKey, mark && data.isEmpty() ? ByteString.copyFrom(new byte[1]) : data, ByteString::concat);
        response.setAppend(StateAppendResponse.getDefaultInstance());
      } else if (request.hasClear()) {
        values.remove(mapKey);
        response.setClear(StateClearResponse.getDefaultInstance());
      } else if (key.hasMultimapKeysUserState()) {
        ByteString keys = values.keySet().stream().reduce(ByteString.EMPTY, ByteString::concat);
        response.setGet(StateGetResponse.newBuilder().setData(keys));
      } else {
        response.setGet(StateGetResponse.newBuilder().setData(values.getOrDefault(mapKey, ByteString.EMPTY)));
      }
      return CompletableFuture.completedFuture(response.build());
    }

    /** The set as the harness binds it, in one bundle. */
    MultimapUserState<String, Void> set(String instruction) {
      StateKey key = StateKey.newBuilder().setMultimapKeysUserState(
          StateKey.MultimapKeysUserState.newBuilder().setTransformId("t").setUserStateId("set")).build();
      return new MultimapUserState<>(
          Caches.noop(), this::handle, instruction, key, StringUtf8Coder.of(), VoidCoder.of());
    }
  }

  static boolean containsInTheNextBundle(boolean mark) throws Exception {
    Runner runner = new Runner(mark);
    MultimapUserState<String, Void> set = runner.set("1");
    set.put("a", null);
    set.asyncClose();
    List<String> keys = new ArrayList<>();
    runner.set("2").keys().forEach(keys::add);
    boolean contains = runner.set("2").get("a").iterator().hasNext();
    System.out.println((mark ? "one byte for it: " : "given back as sent: ") + runner.appendedBytes + " bytes appended, keys "
        + keys + ", contains a: " + contains + ", contains b: " + runner.set("2").get("b").iterator().hasNext());
    return contains;
  }

  public static void main(String[] args) throws Exception {
    boolean plain = containsInTheNextBundle(false);
    boolean marked = containsInTheNextBundle(true);
    System.exit(!plain && marked ? 0 : 1);
  }
}
JAVA
java -cp 'lib/*' Finding.java 2>&1 | grep -v SLF4J
# Seen:
#   given back as sent: 0 bytes appended, keys [a], contains a: false, contains b: false
#   one byte for it: 0 bytes appended, keys [a], contains a: true, contains b: false
