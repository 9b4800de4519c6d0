//! What a checkpoint consists of: one small object that names all others.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::layout::FileKey;
use super::sealed::{Nonce, Sealed, Unsealing, unseal};
use super::{ContentHash, Epoch};
use crate::job::{Generation, JobId};

/// An entry that is longer is none: a guard for whoever reads it, far beyond what a job of thousands of stages writes.
pub(super) const MAX_ENTRY: u64 = 256 << 20;
/// Files beyond this are no files.
const MAX_FILE: u64 = 1 << 46;
const MAX_SHARDS: u32 = 1 << 16;
const MAX_KEY_GROUPS: u32 = 1 << 20;
const MAX_FILE_NAME: usize = 255;
const MAX_NAME: usize = 1 << 16;

/// An entry of the journal.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Entry {
    /// A checkpoint.
    Checkpoint(Manifest),
    /// An epoch without one.
    Marker(Marker),
}

/// Takes up an epoch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Marker {
    /// Whose job.
    #[serde(with = "job_id")]
    pub job: JobId,
    /// Which attempt wrote it.
    #[serde(with = "number")]
    pub generation: Generation,
    /// Where.
    pub epoch: Epoch,
    /// Why.
    pub reason: Reason,
}

/// Why an epoch has no checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Reason {
    /// An attempt began: no earlier one writes behind it. Never collected.
    Begun,
    /// The checkpoint was given up.
    Abandoned,
}

/// Whether a checkpoint is collected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// When enough newer ones are there.
    Checkpoint,
    /// Never: a user asked for it.
    Savepoint,
}

/// A whole checkpoint. Compatible changes do not exist: another field is another format.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Whose.
    #[serde(with = "job_id")]
    pub job: JobId,
    /// What the job's user calls it.
    pub name: String,
    /// Which attempt made it.
    #[serde(with = "number")]
    pub generation: Generation,
    /// Which.
    pub epoch: Epoch,
    /// When, in milliseconds since 1970. For people: nothing is decided by it.
    pub created: u64,
    /// Whether it may be collected.
    pub kind: Kind,
    /// Into how many groups keys are hashed.
    pub key_groups: u32,
    /// How many workers the job had.
    pub shards: u32,
    /// What the runner needs to see whether a plan fits.
    pub plan: serde_json::Value,
    /// The state.
    pub operators: Vec<Part>,
    /// The metrics committed with it.
    pub metrics: Option<FileRef>,
}

/// The state of one worker of one operator.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Part {
    /// The operator's stable name. Beam's names hold slashes; this one is never a path.
    pub operator: String,
    /// Which worker's.
    pub shard: u32,
    /// Of how many.
    pub shards: u32,
    /// Its files.
    pub files: Vec<FileRef>,
    /// How many records they hold.
    pub records: u64,
}

/// A file of a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileRef {
    /// What it is called in its folder.
    pub name: String,
    /// What it holds.
    #[serde(with = "hash")]
    pub sha256: ContentHash,
    /// How long it is.
    pub bytes: u64,
    /// Which epoch uploaded it: part of its key.
    pub epoch: Epoch,
}

impl FileRef {
    /// What its object's key is made of.
    pub fn key(&self) -> FileKey {
        FileKey { epoch: self.epoch, sha256: self.sha256 }
    }
}

/// Why an object is no entry of the journal.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    /// Its bytes.
    #[error(transparent)]
    Bytes(#[from] Unsealing),
    /// Its values. One of our mistakes if we are to write it.
    #[error("it says {what}: {value}")]
    Value {
        /// What is wrong.
        what: &'static str,
        /// With what.
        value: String,
    },
}

fn wrong<T>(what: &'static str, value: impl ToString) -> Result<T, ManifestError> {
    Err(ManifestError::Value { what, value: value.to_string() })
}

impl Entry {
    /// As bytes, if it is as it must be.
    pub fn seal(&self, nonce: Nonce) -> Result<Sealed, ManifestError> {
        self.validate()?;
        Ok(Sealed::new(nonce, self)?)
    }

    /// The entry of `epoch` of `job`, and which writing it is.
    pub fn read(bytes: &[u8], job: &JobId, epoch: Epoch) -> Result<(Entry, Nonce), ManifestError> {
        let unsealed = unseal::<Entry>(bytes)?;
        let entry = unsealed.value;
        entry.validate()?;
        if entry.job() != job {
            return wrong("that it is of another job", entry.job());
        }
        if entry.epoch() != epoch {
            return wrong("that it is of another epoch", entry.epoch());
        }
        Ok((entry, unsealed.nonce))
    }

    /// Whose.
    pub fn job(&self) -> &JobId {
        match self {
            Entry::Checkpoint(manifest) => &manifest.job,
            Entry::Marker(marker) => &marker.job,
        }
    }

    /// Which attempt wrote it.
    pub fn generation(&self) -> Generation {
        match self {
            Entry::Checkpoint(manifest) => manifest.generation,
            Entry::Marker(marker) => marker.generation,
        }
    }

    /// Where.
    pub fn epoch(&self) -> Epoch {
        match self {
            Entry::Checkpoint(manifest) => manifest.epoch,
            Entry::Marker(marker) => marker.epoch,
        }
    }

    fn validate(&self) -> Result<(), ManifestError> {
        match self {
            Entry::Checkpoint(manifest) => manifest.validate(),
            Entry::Marker(_) => Ok(()),
        }
    }
}

impl Manifest {
    /// Every file that it names.
    pub fn files(&self) -> impl Iterator<Item = &FileRef> {
        self.operators.iter().flat_map(|part| &part.files).chain(&self.metrics)
    }

    /// Whether every value is within its bounds, and every operator has all its parts, once.
    pub fn validate(&self) -> Result<(), ManifestError> {
        if self.name.len() > MAX_NAME {
            return wrong("a name that is too long", format!("{} bytes", self.name.len()));
        }
        if !(1..=MAX_KEY_GROUPS).contains(&self.key_groups) {
            return wrong("a number of key groups out of bounds", self.key_groups);
        }
        if !(1..=MAX_SHARDS).contains(&self.shards) {
            return wrong("a number of workers out of bounds", self.shards);
        }
        let mut operators = BTreeMap::<&str, (u32, BTreeSet<u32>)>::new();
        for part in &self.operators {
            if part.operator.is_empty() || part.operator.len() > MAX_NAME {
                return wrong("an operator's name that is empty or too long", &part.operator);
            }
            if !(1..=self.shards).contains(&part.shards) || part.shard >= part.shards {
                return wrong(
                    "a part out of bounds",
                    format!("{} of {} of {:?}, with {} workers", part.shard, part.shards, part.operator, self.shards),
                );
            }
            let (shards, present) = operators.entry(&part.operator).or_insert((part.shards, BTreeSet::new()));
            if *shards != part.shards {
                return wrong("two numbers of parts for one operator", format!("{:?}", part.operator));
            }
            if !present.insert(part.shard) {
                return wrong("a part twice", format!("{} of {:?}", part.shard, part.operator));
            }
            let mut names = BTreeSet::new();
            for file in &part.files {
                self.validate_file(file)?;
                if !names.insert(&file.name) {
                    return wrong("a file twice", format!("{} of {:?}", file.name, part.operator));
                }
            }
        }
        for (operator, (shards, present)) in &operators {
            // All are below `shards`, and none is there twice.
            if present.len() as u64 != u64::from(*shards) {
                return wrong("less than all parts", format!("{} of {shards} of {operator:?}", present.len()));
            }
        }
        self.metrics.iter().try_for_each(|file| self.validate_file(file))?;
        let mut lengths = BTreeMap::new();
        for file in self.files() {
            if *lengths.entry(file.key()).or_insert(file.bytes) != file.bytes {
                return wrong("two lengths of one content", file.sha256);
            }
        }
        Ok(())
    }

    fn validate_file(&self, file: &FileRef) -> Result<(), ManifestError> {
        if !is_file_name(&file.name) {
            return wrong("a file's name that is none", format!("{:?}", file.name));
        }
        if file.bytes > MAX_FILE {
            return wrong("a file's length out of bounds", file.bytes);
        }
        if file.epoch > self.epoch {
            return wrong("a file of a later epoch", file.epoch);
        }
        Ok(())
    }
}

/// Whether a file may be written under this name in a folder of ours.
pub(super) fn is_file_name(name: &str) -> bool {
    let good = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    !name.is_empty() && name.len() <= MAX_FILE_NAME && name.bytes().all(good) && name != "." && name != ".."
}

mod job_id {
    use super::*;

    pub(super) fn serialize<S: Serializer>(id: &JobId, to: S) -> Result<S::Ok, S::Error> {
        id.as_str().serialize(to)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<JobId, D::Error> {
        String::deserialize(from).map(JobId::named)
    }
}

mod number {
    use super::*;

    pub(super) fn serialize<S: Serializer>(generation: &Generation, to: S) -> Result<S::Ok, S::Error> {
        generation.0.serialize(to)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Generation, D::Error> {
        u64::deserialize(from).map(Generation)
    }
}

mod hash {
    use super::*;

    pub(super) fn serialize<S: Serializer>(hash: &ContentHash, to: S) -> Result<S::Ok, S::Error> {
        hash.to_string().serialize(to)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<ContentHash, D::Error> {
        let text = String::deserialize(from)?;
        ContentHash::parse(&text).ok_or_else(|| serde::de::Error::custom("a SHA-256 has 64 hexadecimal digits"))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn file(name: &str) -> FileRef {
        FileRef { name: name.into(), sha256: ContentHash::of(name.as_bytes()), bytes: 10, epoch: Epoch(3) }
    }

    fn part(operator: &str, shard: u32, shards: u32) -> Part {
        let files = vec![file("000015.sst"), file("CURRENT")];
        Part { operator: operator.into(), shard, shards, files, records: 7 }
    }

    fn manifest() -> Manifest {
        Manifest {
            job: JobId::named("job-1"),
            name: "a job".into(),
            generation: Generation(2),
            epoch: Epoch(4),
            created: 1_700_000_000_000,
            kind: Kind::Checkpoint,
            key_groups: 65_536,
            shards: 2,
            plan: serde_json::json!({"stages": ["Read/Impulse"], "ratio": 0.1}),
            operators: vec![part("Count/Par:\u{e4}", 0, 2), part("Count/Par:\u{e4}", 1, 2), part("side", 0, 1)],
            metrics: Some(file("metrics")),
        }
    }

    fn sealed() -> Vec<u8> {
        Entry::Checkpoint(manifest()).seal(Nonce::new()).expect("it is good").bytes().to_vec()
    }

    fn read(bytes: &[u8]) -> Result<Entry, ManifestError> {
        Entry::read(bytes, &JobId::named("job-1"), Epoch(4)).map(|(entry, _)| entry)
    }

    /// The format. Whoever must change this text writes another format number and still reads this one.
    #[test]
    fn the_format_is_this() {
        let mut manifest = manifest();
        manifest.operators = vec![Part { files: vec![file("CURRENT")], ..part("side", 0, 1) }];
        let text = serde_json::to_string(&Entry::Checkpoint(manifest)).expect("it is JSON");
        let expected = concat!(
            r#"{"checkpoint":{"job":"job-1","name":"a job","generation":2,"epoch":4,"created":1700000000000,"#,
            r#""kind":"checkpoint","key_groups":65536,"shards":2,"plan":{"ratio":0.1,"stages":["Read/Impulse"]},"#,
            r#""operators":[{"operator":"side","shard":0,"shards":1,"files":[{"name":"CURRENT","#,
            r#""sha256":"e3cc57e193d6512e6debf0e925febe757e87e85d66150a2f212aa8641940b027","bytes":10,"epoch":3}],"#,
            r#""records":7}],"metrics":{"name":"metrics","#,
            r#""sha256":"177a7ea3611fe6b138557deaf44941614b66c0ece1766308044c8b65c8ba2123","bytes":10,"epoch":3}}}"#,
        );
        assert_eq!(text, expected);
        let marker =
            Marker { job: JobId::named("j"), generation: Generation(1), epoch: Epoch(0), reason: Reason::Begun };
        let text = serde_json::to_string(&Entry::Marker(marker)).expect("it is JSON");
        assert_eq!(text, r#"{"marker":{"job":"j","generation":1,"epoch":0,"reason":"begun"}}"#);
    }

    #[test]
    fn an_entry_comes_back_as_it_was() {
        assert_eq!(read(&sealed()), Ok(Entry::Checkpoint(manifest())));
    }

    #[test]
    fn an_entry_of_elsewhere_is_refused() {
        let bytes = sealed();
        assert!(Entry::read(&bytes, &JobId::named("job-2"), Epoch(4)).is_err());
        assert!(Entry::read(&bytes, &JobId::named("job-1"), Epoch(5)).is_err());
    }

    #[test]
    fn a_manifest_that_says_what_cannot_be_is_refused() {
        type Change = (&'static str, fn(&mut Manifest));
        let changes: [Change; 20] = [
            ("name", |m| m.operators[0].files[0].name = "../x".into()),
            ("name", |m| m.operators[0].files[0].name = "a/b".into()),
            ("name", |m| m.operators[0].files[0].name = "/etc/passwd".into()),
            ("name", |m| m.operators[0].files[0].name = "..".into()),
            ("name", |m| m.operators[0].files[0].name = ".".into()),
            ("name", |m| m.operators[0].files[0].name = String::new()),
            ("name", |m| m.operators[0].files[0].name = "a\\b".into()),
            ("name", |m| m.operators[0].files[0].name = "a\0b".into()),
            ("name", |m| m.operators[0].files[0].name = "a#1".into()),
            ("name", |m| m.metrics = Some(FileRef { name: "x".repeat(256), ..file("x") })),
            ("length", |m| m.operators[0].files[0].bytes = u64::MAX),
            ("lengths", |m| m.operators[0].files[0].bytes = 11),
            ("later epoch", |m| m.operators[0].files[0].epoch = Epoch(5)),
            ("file twice", |m| m.operators[0].files[1].name = "000015.sst".into()),
            ("part twice", |m| m.operators[1].shard = 0),
            ("out of bounds", |m| m.operators[1].shard = 2),
            ("out of bounds", |m| m.shards = 1),
            ("less than all", |m| drop(m.operators.remove(1))),
            ("two numbers", |m| m.operators[1] = Part { shard: 0, shards: 1, ..m.operators[1].clone() }),
            ("key groups", |m| m.key_groups = 0),
        ];
        for (what, change) in changes {
            let mut changed = manifest();
            change(&mut changed);
            let error = Entry::Checkpoint(changed.clone()).seal(Nonce::new()).expect_err(what).to_string();
            assert!(error.contains(what), "{what}: {error}");
            let written = Sealed::new(Nonce::new(), &Entry::Checkpoint(changed)).expect("it is JSON");
            assert!(read(written.bytes()).is_err(), "{what} is read");
        }
    }

    #[test]
    fn another_field_is_another_format() {
        let mut value = serde_json::to_value(Entry::Checkpoint(manifest())).expect("it is JSON");
        value["checkpoint"]["more"] = 1.into();
        let written = Sealed::new(Nonce::new(), &value).expect("it is JSON");
        let error = read(written.bytes()).expect_err("unknown").to_string();
        assert!(error.contains("more"), "{error}");
    }

    #[test]
    fn a_cut_anywhere_is_an_error() {
        let bytes = sealed();
        for length in 0..bytes.len() {
            assert!(read(&bytes[..length]).is_err(), "{length} of {} bytes are read", bytes.len());
        }
    }

    #[test]
    fn a_bit_flipped_anywhere_is_an_error() {
        let bytes = sealed();
        for (at, bit) in (0..bytes.len()).flat_map(|at| (0..8).map(move |bit| (at, bit))) {
            let mut flipped = bytes.clone();
            flipped[at] ^= 1 << bit;
            assert!(read(&flipped).is_err(), "bit {bit} of byte {at} is flipped and not noticed");
        }
    }

    proptest! {
        #[test]
        fn no_edit_is_read(at in any::<prop::sample::Index>(), cut in 0_usize..40, put in prop::collection::vec(any::<u8>(), 0..40)) {
            let bytes = sealed();
            let at = at.index(bytes.len());
            let mut edited = bytes[..at].to_vec();
            edited.extend(&put);
            edited.extend(&bytes[(at + cut).min(bytes.len())..]);
            prop_assert!(edited == bytes || read(&edited).is_err());
        }

        #[test]
        fn nothing_else_panics(bytes in prop::collection::vec(any::<u8>(), 0..400), text in "\\PC{0,200}") {
            prop_assert!(read(&bytes).is_err());
            prop_assert!(read(text.as_bytes()).is_err());
            // Whole, but any JSON.
            let sealed = Sealed::new(Nonce::new(), &text).expect("it is JSON");
            prop_assert!(read(sealed.bytes()).is_err());
        }
    }
}
