#!/usr/bin/env bash
# RocksDB 11.8.1 (by its Java binding; the engine's behaviour, the same from Rust).
# Guess: a WriteBatch is atomic, and so a checkpoint holds all of it or nothing, in all column families.
# Really: with the WAL off a checkpoint flushes one column family after the other while writers go on, so it holds one family
#   from before a batch and the other from after it. It opens without a complaint. `set_atomic_flush(true)` (or the WAL) mends
#   it.
# Hurt: stream processors, which turn the WAL off because they take checkpoints: a restored state has half of an update.
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
import java.nio.ByteBuffer;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.atomic.AtomicBoolean;
import java.util.concurrent.atomic.AtomicLong;
import org.rocksdb.Checkpoint;
import org.rocksdb.ColumnFamilyDescriptor;
import org.rocksdb.ColumnFamilyHandle;
import org.rocksdb.DBOptions;
import org.rocksdb.RocksDB;
import org.rocksdb.WriteBatch;
import org.rocksdb.WriteOptions;

public class Finding {
  static final byte[] KEY = "n".getBytes();

  static List<ColumnFamilyDescriptor> families() {
    return List.of(new ColumnFamilyDescriptor(RocksDB.DEFAULT_COLUMN_FAMILY), new ColumnFamilyDescriptor("b".getBytes()));
  }

  static byte[] bytes(long n) {
    return ByteBuffer.allocate(8).putLong(n).array();
  }

  static DBOptions options(boolean atomicFlush) {
    return new DBOptions().setCreateIfMissing(true).setCreateMissingColumnFamilies(true).setAtomicFlush(atomicFlush);
  }

  /** How many of ten checkpoints, taken while batches write one number into both families, hold two numbers. */
  static int torn(String name, boolean atomicFlush, boolean log) throws Exception {
    int torn = 0;
    List<ColumnFamilyHandle> handles = new ArrayList<>();
    AtomicBoolean stop = new AtomicBoolean();
    AtomicLong written = new AtomicLong();
    try (DBOptions options = options(atomicFlush); RocksDB db = RocksDB.open(options, name, families(), handles)) {
      Thread writer = new Thread(() -> {
        try (WriteOptions noLog = new WriteOptions().setDisableWAL(!log)) {
          for (long n = 1; !stop.get(); n++) {
            try (WriteBatch batch = new WriteBatch()) {
              for (ColumnFamilyHandle handle : handles) {
                batch.put(handle, KEY, bytes(n));
                batch.put(handle, bytes(n % 5000), new byte[1000]);
              }
              db.write(noLog, batch);
            }
            written.set(n);
          }
        } catch (Exception e) {
          throw new IllegalStateException(e);
        }
      });
      writer.start();
      try (Checkpoint checkpoint = Checkpoint.create(db)) {
        for (int i = 0; i < 10; i++) {
          for (long next = written.get() + 500; written.get() < next; ) {
            Thread.onSpinWait();
          }
          checkpoint.createCheckpoint(name + "-" + i);
        }
      } finally {
        stop.set(true);
        writer.join();
      }
      handles.forEach(ColumnFamilyHandle::close);
    }
    for (int i = 0; i < 10; i++) {
      List<ColumnFamilyHandle> restored = new ArrayList<>();
      try (DBOptions options = options(atomicFlush); RocksDB db = RocksDB.open(options, name + "-" + i, families(), restored)) {
        long a = ByteBuffer.wrap(db.get(restored.get(0), KEY)).getLong();
        long b = ByteBuffer.wrap(db.get(restored.get(1), KEY)).getLong();
        torn += a == b ? 0 : 1;
        restored.forEach(ColumnFamilyHandle::close);
      }
    }
    return torn;
  }

  public static void main(String[] args) throws Exception {
    int plain = torn("plain", false, false);
    int atomic = torn("atomic", true, false);
    int log = torn("log", false, true);
    System.out.println("torn of 10 checkpoints: WAL off " + plain + ", WAL off and atomic flush " + atomic + ", WAL on " + log);
    System.exit(plain > 0 && atomic == 0 && log == 0 ? 0 : 1);
  }
}
JAVA
java -cp 'lib/*' Finding.java
# Seen: torn of 10 checkpoints: WAL off 10, WAL off and atomic flush 0, WAL on 0
