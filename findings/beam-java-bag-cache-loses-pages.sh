#!/usr/bin/env bash
# Beam's Java harness 2.73.0.
# Guess: the harness's state cache is transparent: with or without it a bag has the values that the runner holds.
# Really: if a bundle reads only the first page of a bag that has several (one `next()` will do) and then appends, the cache
#   drops the entry and at once stores "first page + the new value" as the WHOLE bag. Later bundles with the same cache token
#   never see the other pages; a bundle that clears and rewrites what it read loses them for good. (The source's
#   comment says that the entry goes on only if the whole was loaded: the `return` after `cache.remove` is missing.)
# Hurt: every runner that hands out cache tokens and answers bags in pages: data is lost though runner and state are right.
#   A runner can defend itself by a new token whenever a bag of several pages is appended to.
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
import java.util.List;
import java.util.concurrent.CompletableFuture;
import org.apache.beam.fn.harness.Cache;
import org.apache.beam.fn.harness.Caches;
import org.apache.beam.fn.harness.state.BagUserState;
import org.apache.beam.model.fnexecution.v1.BeamFnApi.StateAppendResponse;
import org.apache.beam.model.fnexecution.v1.BeamFnApi.StateGetResponse;
import org.apache.beam.model.fnexecution.v1.BeamFnApi.StateKey;
import org.apache.beam.model.fnexecution.v1.BeamFnApi.StateRequest;
import org.apache.beam.model.fnexecution.v1.BeamFnApi.StateResponse;
import org.apache.beam.sdk.coders.VarIntCoder;
import org.apache.beam.vendor.grpc.v1p69p0.com.google.protobuf.ByteString;

public class Finding {
  /** A runner's bag: the pages [1, 2] and [3, 4], and one more for each append. */
  static class Runner {
    final List<ByteString> pages =
        new ArrayList<>(List.of(ByteString.copyFrom(new byte[] {1, 2}), ByteString.copyFrom(new byte[] {3, 4})));

    CompletableFuture<StateResponse> handle(StateRequest.Builder request) {
      StateResponse.Builder response = StateResponse.newBuilder();
      if (request.hasAppend()) {
        pages.add(request.getAppend().getData());
        response.setAppend(StateAppendResponse.getDefaultInstance());
      } else {
        ByteString token = request.getGet().getContinuationToken();
        int page = token.isEmpty() ? 0 : Integer.parseInt(token.toStringUtf8());
        StateGetResponse.Builder get = StateGetResponse.newBuilder().setData(pages.get(page));
        if (page + 1 < pages.size()) {
          get.setContinuationToken(ByteString.copyFromUtf8(String.valueOf(page + 1)));
        }
        response.setGet(get);
      }
      return CompletableFuture.completedFuture(response.build());
    }
  }

  /** What a second bundle reads after a first one has looked at one value and appended 5. */
  static List<Integer> later(Cache<Object, Object> cache) throws Exception {
    Runner runner = new Runner();
    StateKey key = StateKey.newBuilder()
        .setBagUserState(StateKey.BagUserState.newBuilder().setTransformId("t").setUserStateId("bag")).build();
    BagUserState<Integer> first = new BagUserState<>(cache, runner::handle, "1", key, VarIntCoder.of());
    first.get().iterator().next();
    first.append(5);
    first.asyncClose();
    List<Integer> seen = new ArrayList<>();
    new BagUserState<>(cache, runner::handle, "2", key, VarIntCoder.of()).get().forEach(seen::add);
    return seen;
  }

  public static void main(String[] args) throws Exception {
    List<Integer> without = later(Caches.noop());
    List<Integer> with = later(Caches.eternal());
    System.out.println("a later bundle reads, without a cache: " + without + ", with one: " + with);
    System.exit(without.equals(List.of(1, 2, 3, 4, 5)) && with.equals(List.of(1, 2, 5)) ? 0 : 1);
  }
}
JAVA
java -cp 'lib/*' Finding.java 2>&1 | grep -v SLF4J
# Seen: a later bundle reads, without a cache: [1, 2, 3, 4, 5], with one: [1, 2, 5]
