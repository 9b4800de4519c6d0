//! A part of a checkpoint on disk: what one operator saved on one worker.
//!
//! A part is a folder without folders in it:
//!
//! | file | what |
//! |---|---|
//! | `head.json` | [`PartHead`], as JSON |
//! | `carried` | input that was carried over the border, if there is some: see below |
//! | `entries` | the ordered store, if it was in memory (`state::memory`) |
//! | `CURRENT`, `MANIFEST-*`, `OPTIONS-*`, `*.sst`, `*.log` | the ordered store, if it was in RocksDB: one of its checkpoints |
//!
//! `carried` begins with eight bytes, `ferroca1`. A record is a batch: the watermark that it is held at, the time by the
//! wall clock (milliseconds since the Unix epoch) before which it must not run or `i64::MIN`, its least timestamp, the number
//! of its elements and their bytes, eight bytes each; then the end of each element, four bytes each; then the elements.
//! All numbers are little endian. [`PartHead::carried`] counts the records, so a file that was cut short is an error.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::element::Batch;
use crate::kafka::SavedPositions;
use crate::time::Timestamp;

/// The version of the layout that this build writes, and the greatest that it reads.
pub const FORMAT: u32 = 1;

/// The file that says what a part is: [`PartHead`].
pub const HEAD: &str = "head.json";
const CARRIED: &str = "carried";
const CARRIED_MAGIC: &[u8; 8] = b"ferroca1";
/// Bytes of a record's numbers.
const RECORD: usize = 40;

/// A part that was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// The name of the operator, unique in its job and the same for as long as the pipeline names its transforms the same.
    pub operator: String,
    /// Which of the job's workers it is of.
    pub shard: u32,
    /// How many workers there were.
    pub shards: u32,
    /// Its folder.
    pub folder: PathBuf,
    /// Records of the store and of the carried input, where they were counted.
    pub records: Option<u64>,
}

/// What kind of operator saved a part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PartKind {
    /// A stage without keys: what it carried.
    Stage,
    /// A stage with keyed state or timers: its store, and what it carried.
    Keyed,
    /// A grouping by key and window: its store.
    Grouping,
    /// The table of a side input: its store and its windows.
    SideInput,
    /// A Kafka source: how far it has read.
    KafkaRead,
    /// A Kafka sink: what it has to write when the checkpoint is durable.
    KafkaWrite,
}

impl std::fmt::Display for PartKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            PartKind::Stage => "stage without keys",
            PartKind::Keyed => "stage with keyed state",
            PartKind::Grouping => "grouping",
            PartKind::SideInput => "side input",
            PartKind::KafkaRead => "Kafka source",
            PartKind::KafkaWrite => "Kafka sink",
        })
    }
}

/// A cell of user state or a timer family, by the names that the pipeline has for them.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct CellName {
    /// The unique name of the transform.
    pub transform: String,
    /// The name of the state or timer family in the transform.
    pub cell: String,
    /// What it is encoded with and how it is addressed, in words: another description is another cell.
    pub form: String,
}

/// What stands in `head.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartHead {
    /// The version of the layout: [`FORMAT`].
    pub format: u32,
    /// As in [`Part`].
    pub operator: String,
    /// What saved it.
    pub kind: PartKind,
    /// The epoch that was stepped to: all effects of those before are in here.
    pub epoch: u64,
    /// As in [`Part`].
    pub shard: u32,
    /// As in [`Part`].
    pub shards: u32,
    /// The input watermark that the operator had worked off, in milliseconds; `i64::MIN` before anything is known.
    pub watermark: i64,
    /// The output watermark that it had reached.
    pub output: i64,
    /// Cells of user state by the number that the store's keys have for them.
    pub cells: Vec<CellName>,
    /// Timer families, likewise.
    pub timers: Vec<CellName>,
    /// How the operator's input is encoded, keyed and windowed and when it fires, in words: state written under another
    /// description is not read.
    pub form: String,
    /// Whether there is a store.
    pub has_store: bool,
    /// Records in `carried`.
    pub carried: u64,
    /// Of a Kafka source.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub positions: Option<SavedPositions>,
    /// Of a Kafka sink that writes in transactions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sink: Option<SavedSink>,
}

/// What a Kafka sink saves beside the records that it carries.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedSink {
    /// The `transactional.id` that they are written under, and the group whose offset tells whether they were: the epoch of
    /// the last checkpoint that was, for partition 0 of the sink's topic.
    pub transactional_id: String,
    /// That topic.
    pub topic: String,
}

impl PartHead {
    /// Of an operator that has nothing but what it carries.
    pub(crate) fn of(kind: PartKind) -> PartHead {
        PartHead {
            format: FORMAT,
            operator: String::new(),
            kind,
            epoch: 0,
            shard: 0,
            shards: 0,
            watermark: i64::MIN,
            output: i64::MIN,
            cells: Vec::new(),
            timers: Vec::new(),
            form: String::new(),
            has_store: false,
            carried: 0,
            positions: None,
            sink: None,
        }
    }

    /// Whether nothing is in it that anybody would take over.
    pub(crate) fn is_empty(&self) -> bool {
        let read_nothing = self.positions.as_ref().is_none_or(|positions| positions.partitions.is_empty());
        !self.has_store && self.carried == 0 && read_nothing
    }

    /// Reads the head of the part in a folder.
    pub fn read(folder: &Path) -> io::Result<PartHead> {
        let bytes = std::fs::read(folder.join(HEAD))?;
        #[derive(Deserialize)]
        struct Version {
            format: u32,
        }
        let version: Version = serde_json::from_slice(&bytes)?;
        if version.format > FORMAT {
            let what = format!(
                "it is of version {} of the layout, and this build reads versions up to {FORMAT}",
                version.format
            );
            return Err(io::Error::new(io::ErrorKind::InvalidData, what));
        }
        Ok(serde_json::from_slice(&bytes)?)
    }

    /// Writes it into its folder, which is there.
    pub(super) fn write(&self, folder: &Path) -> io::Result<()> {
        std::fs::write(folder.join(HEAD), serde_json::to_vec_pretty(self)?)
    }
}

/// Input that an operator carried over a border.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CarriedBatch {
    /// The watermark that it is held at.
    pub(crate) watermark: i64,
    /// Not to be run before this time by the wall clock.
    pub(crate) due: Option<Timestamp>,
    pub(crate) batch: Batch,
}

/// Writes the file of carried input.
pub(crate) struct CarriedWriter {
    file: Option<BufWriter<File>>,
    path: PathBuf,
    count: u64,
}

impl CarriedWriter {
    pub(super) fn new(folder: &Path) -> CarriedWriter {
        CarriedWriter { file: None, path: folder.join(CARRIED), count: 0 }
    }

    /// Appends a record.
    pub(crate) fn push(&mut self, carried: &CarriedBatch) -> io::Result<()> {
        let file = match &mut self.file {
            Some(file) => file,
            none => {
                let mut file = BufWriter::new(File::create_new(&self.path)?);
                file.write_all(CARRIED_MAGIC)?;
                none.insert(file)
            }
        };
        let CarriedBatch { watermark, due, batch } = carried;
        let numbers = [
            *watermark,
            due.map_or(i64::MIN, |due| due.0),
            batch.min_timestamp().0,
            batch.len() as i64,
            batch.data().len() as i64,
        ];
        for number in numbers {
            file.write_all(&number.to_le_bytes())?;
        }
        for end in batch.ends() {
            file.write_all(&end.to_le_bytes())?;
        }
        file.write_all(batch.data())?;
        self.count += 1;
        Ok(())
    }

    pub(super) fn finish(self) -> io::Result<u64> {
        if let Some(file) = self.file {
            file.into_inner().map_err(io::IntoInnerError::into_error)?;
        }
        Ok(self.count)
    }
}

/// Reads the carried input of a part.
pub(crate) fn read_carried(
    folder: &Path,
    head: &PartHead,
    mut see: impl FnMut(CarriedBatch) -> io::Result<()>,
) -> io::Result<()> {
    if head.carried == 0 {
        return Ok(());
    }
    let bad = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_owned());
    let file = File::open(folder.join(CARRIED))?;
    let mut left = file.metadata()?.len();
    let mut file = BufReader::new(file);
    let mut take = |length: u64| {
        left = left.checked_sub(length).ok_or_else(|| bad("a record is cut short"))?;
        let mut bytes = vec![0; length as usize];
        file.read_exact(&mut bytes)?;
        Ok::<_, io::Error>((bytes, left))
    };
    let (magic, mut rest) = take(CARRIED_MAGIC.len() as u64)?;
    if magic != CARRIED_MAGIC {
        return Err(bad("it is no file of carried input, or one of another version"));
    }
    for _ in 0..head.carried {
        let (numbers, _) = take(RECORD as u64)?;
        let number = |at: usize| {
            let mut word = [0; 8];
            word.copy_from_slice(&numbers[at * 8..at * 8 + 8]);
            i64::from_le_bytes(word)
        };
        let (count, length) = (number(3) as u64, number(4) as u64);
        let (ends, _) = take(count.checked_mul(4).ok_or_else(|| bad("a record has too many elements"))?)?;
        let ends: Vec<u32> =
            ends.chunks_exact(4).map(|end| u32::from_le_bytes([end[0], end[1], end[2], end[3]])).collect();
        let data;
        (data, rest) = take(length)?;
        if !ends.is_sorted() || ends.last().map_or(0, |end| u64::from(*end)) != length {
            return Err(bad("the ends of a record's elements do not fit their bytes"));
        }
        let due = Some(number(1)).filter(|due| *due != i64::MIN).map(Timestamp);
        let batch = Batch::new(Bytes::from(data), ends, Timestamp(number(2)));
        see(CarriedBatch { watermark: number(0), due, batch })?;
    }
    if rest == 0 { Ok(()) } else { Err(bad("bytes stand behind the last record")) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn head(carried: u64) -> PartHead {
        PartHead {
            format: FORMAT,
            operator: "a/b".into(),
            kind: PartKind::Keyed,
            epoch: 7,
            shard: 1,
            shards: 2,
            watermark: i64::MIN,
            output: 5,
            cells: vec![CellName { transform: "a".into(), cell: "count".into(), form: "bag".into() }],
            timers: vec![],
            form: "kv(bytes, bytes)".into(),
            has_store: true,
            carried,
            positions: None,
            sink: None,
        }
    }

    fn carried() -> impl Strategy<Value = CarriedBatch> {
        let elements = proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..9), 1..5);
        (elements, any::<i64>(), proptest::option::of(0..i64::MAX)).prop_map(|(elements, watermark, due)| {
            let mut end = 0;
            let ends: Vec<u32> = elements
                .iter()
                .map(|element| {
                    end += element.len() as u32;
                    end
                })
                .collect();
            let batch = Batch::new(elements.concat().into(), ends, Timestamp(watermark));
            CarriedBatch { watermark, due: due.map(Timestamp), batch }
        })
    }

    fn read(folder: &Path, count: u64) -> io::Result<Vec<CarriedBatch>> {
        let mut found = Vec::new();
        read_carried(folder, &head(count), |carried| {
            found.push(carried);
            Ok(())
        })?;
        Ok(found)
    }

    proptest! {
        #[test]
        fn carried_input_survives_and_what_is_cut_is_an_error(all in proptest::collection::vec(carried(), 0..6), flip: (usize, u8)) {
            let dir = tempfile::tempdir().unwrap();
            let mut writer = CarriedWriter::new(dir.path());
            all.iter().for_each(|carried| writer.push(carried).unwrap());
            let count = writer.finish().unwrap();
            prop_assert_eq!(&read(dir.path(), count).unwrap(), &all);
            let path = dir.path().join(CARRIED);
            let Ok(whole) = std::fs::read(&path) else { return Ok(()) };
            for length in 0..whole.len() {
                std::fs::write(&path, &whole[..length]).unwrap();
                prop_assert!(read(dir.path(), count).is_err(), "{} of {}", length, whole.len());
            }
            // Whatever stands there, it neither panics nor allocates what is not there.
            let mut damaged = whole.clone();
            damaged[flip.0 % whole.len()] ^= flip.1;
            std::fs::write(&path, &damaged).unwrap();
            let _ = read(dir.path(), count);
        }
    }

    #[test]
    fn a_head_survives_and_a_later_version_is_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        head(3).write(dir.path()).unwrap();
        assert_eq!(PartHead::read(dir.path()).unwrap(), head(3));
        let later = PartHead { format: FORMAT + 1, ..head(3) };
        later.write(dir.path()).unwrap();
        let error = PartHead::read(dir.path()).unwrap_err().to_string();
        assert_eq!(error, "it is of version 2 of the layout, and this build reads versions up to 1");
    }
}
