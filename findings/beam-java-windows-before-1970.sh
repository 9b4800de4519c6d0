#!/usr/bin/env bash
# Beam's Java SDK 2.73.0.
# Guess: fixed windows tile the whole of time: an element is in the one window with start <= time < end, before 1970 too; and
#   ten-second windows every five seconds are two for each element.
# Really: the remainder is only mended for times down to one size before the epoch. An element further back goes into the
#   fixed window that comes AFTER it, and gets a sliding window too many, one that does not hold it. (Python rounds down.)
# Hurt: historical data (birthdays, old filings) windowed by day or week: off by a window, other than the same pipeline in
#   Python; and a runner that checks start <= time < end, or derives a watermark hold from it.
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
  </dependencies>
</project>
XML
mvn -q -B dependency:copy-dependencies -DoutputDirectory=lib
cat > Finding.java <<'JAVA'
import java.util.ArrayList;
import java.util.List;
import org.apache.beam.sdk.transforms.windowing.FixedWindows;
import org.apache.beam.sdk.transforms.windowing.IntervalWindow;
import org.apache.beam.sdk.transforms.windowing.SlidingWindows;
import org.joda.time.Duration;
import org.joda.time.Instant;

public class Finding {
  static int outside;

  static String show(Instant time, Iterable<IntervalWindow> windows) {
    List<String> shown = new ArrayList<>();
    for (IntervalWindow window : windows) {
      boolean holds = !time.isBefore(window.start()) && time.isBefore(window.end());
      outside += holds ? 0 : 1;
      shown.add(window.start().getMillis() + ".." + window.end().getMillis() + (holds ? "" : " (without it)"));
    }
    return String.join(", ", shown);
  }

  public static void main(String[] args) {
    FixedWindows fixed = FixedWindows.of(Duration.standardSeconds(10));
    SlidingWindows sliding = SlidingWindows.of(Duration.standardSeconds(10)).every(Duration.standardSeconds(5));
    for (long millis : new long[] {12_000, -5_000, -12_000, -25_000}) {
      Instant time = new Instant(millis);
      System.out.println(millis + " fixed: " + show(time, List.of(fixed.assignWindow(time))));
      System.out.println(millis + " sliding: " + show(time, sliding.assignWindows(time)));
    }
    System.exit(outside == 3 ? 0 : 1);
  }
}
JAVA
java -cp 'lib/*' Finding.java
# Seen:
#   -5000 fixed: -10000..0
#   -5000 sliding: -5000..5000, -10000..0
#   -12000 fixed: -10000..0 (without it)
#   -12000 sliding: -10000..0 (without it), -15000..-5000, -20000..-10000
#   -25000 fixed: -20000..-10000 (without it)
#   -25000 sliding: -25000..-15000, -30000..-20000
