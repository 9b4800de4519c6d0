#!/usr/bin/env bash
# RocksDB 11.8.1 (by its Java binding; the engine's behaviour, the same from Rust).
# Guess: SST files never change, so a file name that a checkpoint store already has need not be uploaded again; and if two
#   histories could be mixed, the DB's identity would tell them apart.
# Really: file numbers go on from the restored checkpoint, so each attempt that starts from it writes the same names and sizes
#   with other content, and all attempts carry the same DB id, as they got it from the checkpoint's MANIFEST.
# Hurt: incremental checkpoints that deduplicate by name, size or DB id: after a restore a failed attempt's (or a
#   zombie's) file is taken for the new one. Name uploads by content, or by an attempt of your own.
set -euo pipefail
dir=$(mktemp -d); trap 'rm -rf "$dir"' EXIT; cd "$dir"
cat > pom.xml <<'XML'
<project>
  <modelVersion>4.0.0</modelVersion>
  <groupId>finding</groupId>
  <artifactId>finding</artifactId>
  <version>0</version>
  <dependencies>
    <dependency><groupId>org.rocksdb</groupId><artifactId>rocksdbjni</artifactId><version>11.8.1</version></dependency>
  </dependencies>
</project>
XML
mvn -q -B dependency:copy-dependencies -DoutputDirectory=lib
cat > Finding.java <<'JAVA'
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.TreeMap;
import java.util.stream.Stream;
import org.rocksdb.Checkpoint;
import org.rocksdb.FlushOptions;
import org.rocksdb.Options;
import org.rocksdb.RocksDB;

public class Finding {
  /** Opens `from`, writes `value`, takes a checkpoint to `to`. */
  static void attempt(String from, String value, String to) throws Exception {
    try (Options options = new Options().setCreateIfMissing(true); RocksDB db = RocksDB.open(options, from)) {
      db.put("key".getBytes(), value.getBytes());
      try (FlushOptions flush = new FlushOptions(); Checkpoint checkpoint = Checkpoint.create(db)) {
        db.flush(flush);
        checkpoint.createCheckpoint(to);
      }
    }
  }

  static TreeMap<String, byte[]> tables(String dir) throws Exception {
    TreeMap<String, byte[]> tables = new TreeMap<>();
    try (Stream<Path> files = Files.list(Path.of(dir))) {
      for (Path file : files.filter(f -> f.toString().endsWith(".sst")).toList()) {
        tables.put(file.getFileName().toString(), Files.readAllBytes(file));
      }
    }
    return tables;
  }

  static void copy(String from, String to) throws Exception {
    Files.createDirectory(Path.of(to));
    try (Stream<Path> files = Files.list(Path.of(from))) {
      for (Path file : files.toList()) {
        Files.copy(file, Path.of(to, file.getFileName().toString()));
      }
    }
  }

  public static void main(String[] args) throws Exception {
    RocksDB.loadLibrary();
    attempt("db", "zero", "checkpoint");
    copy("checkpoint", "first");
    copy("checkpoint", "second");
    attempt("first", "one", "first-checkpoint");
    attempt("second", "two", "second-checkpoint");
    TreeMap<String, byte[]> first = tables("first-checkpoint");
    TreeMap<String, byte[]> second = tables("second-checkpoint");
    int sameNameOtherBytes = 0;
    int sameSizeToo = 0;
    for (String name : first.keySet()) {
      byte[] other = second.get(name);
      if (other != null && !Arrays.equals(first.get(name), other)) {
        sameNameOtherBytes++;
        sameSizeToo += first.get(name).length == other.length ? 1 : 0;
      }
    }
    String a = Files.readString(Path.of("first", "IDENTITY"));
    String b = Files.readString(Path.of("second", "IDENTITY"));
    System.out.println("two attempts from one checkpoint hold " + first.keySet() + " and " + second.keySet() + ": "
        + sameNameOtherBytes + " of one name and other bytes, " + sameSizeToo + " of one size as well; same DB id: " + a.equals(b));
    System.exit(sameNameOtherBytes > 0 && sameSizeToo > 0 && a.equals(b) ? 0 : 1);
  }
}
JAVA
java -cp 'lib/*' Finding.java
# Seen: two attempts from one checkpoint hold [000009.sst, 000017.sst] and [000009.sst, 000017.sst]: 1 of one name and other
#   bytes, 1 of one size as well; same DB id: true
