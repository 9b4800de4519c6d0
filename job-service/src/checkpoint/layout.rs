//! Names of objects: made here, read here, and nowhere else.

use std::fmt;

use super::{ContentHash, Epoch};
use crate::job::{Generation, JobId};

const GENERATIONS: &str = "generations";
const MANIFESTS: &str = "manifests";
const FILES: &str = "files";
const DIGITS: usize = 20;
const MAX_JOB: usize = 200;

/// An object's name below the root of a [`Storage`](super::Storage).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(String);

impl Key {
    /// As text, without a leading slash.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The last part.
    pub fn name(&self) -> &str {
        self.0.rsplit('/').next().unwrap_or_default()
    }

    pub(super) fn probe(name: &str) -> Key {
        Key(format!(".probe/{name}"))
    }

    #[cfg(test)]
    pub(super) fn test(name: &str) -> Key {
        Key(name.to_owned())
    }

    pub(super) fn listed(path: &str) -> Key {
        Key(path.to_owned())
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// A job id that cannot be a folder's name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the job id {0:?} cannot name a folder of checkpoints: it must be 1 to {MAX_JOB} letters, digits, '-', '_' or '.', \
     and begin with a letter or a digit"
)]
pub struct LayoutError(String);

/// Where a job's objects are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    job: String,
}

/// The parts of a file's key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileKey {
    /// Which epoch uploaded it.
    pub epoch: Epoch,
    /// What it holds.
    pub sha256: ContentHash,
}

impl Layout {
    /// Of this job.
    pub fn of(job: &JobId) -> Result<Layout, LayoutError> {
        let name = job.as_str();
        let good = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
        let first = name.as_bytes().first().is_some_and(u8::is_ascii_alphanumeric);
        if !first || name.len() > MAX_JOB || !name.bytes().all(good) {
            return Err(LayoutError(name.to_owned()));
        }
        Ok(Layout { job: name.to_owned() })
    }

    /// The folder of generations, of the journal, of files: each listed by itself, so that no foreign object spoils it.
    pub fn folders(&self) -> [Key; 3] {
        [self.generations(), self.manifests(), self.files()]
    }

    pub(super) fn generations(&self) -> Key {
        Key(format!("{}/{GENERATIONS}", self.job))
    }

    pub(super) fn manifests(&self) -> Key {
        Key(format!("{}/{MANIFESTS}", self.job))
    }

    pub(super) fn files(&self) -> Key {
        Key(format!("{}/{FILES}", self.job))
    }

    pub(super) fn generation(&self, generation: Generation) -> Key {
        Key(format!("{}/{:0DIGITS$}", self.generations(), generation.0))
    }

    /// The journal's entry of an epoch.
    pub fn manifest(&self, epoch: Epoch) -> Key {
        Key(format!("{}/{:0DIGITS$}", self.manifests(), epoch.0))
    }

    /// A file's object.
    pub fn file(&self, file: FileKey) -> Key {
        Key(format!("{}/{:0DIGITS$}-{}", self.files(), file.epoch.0, file.sha256))
    }
}

/// What a service keeps of its jobs beside their checkpoints: no job's folder begins with a dot.
#[derive(Clone, Copy, Debug)]
pub struct ServiceLayout;

impl ServiceLayout {
    /// The folder of all of it.
    pub(super) const FOLDER: &str = ".service";

    /// The folder of the terms of those that led.
    pub fn terms() -> Key {
        Key(".service/terms".to_owned())
    }

    /// A term.
    pub fn term(number: u64) -> Key {
        Key(format!("{}/{number:0DIGITS$}", ServiceLayout::terms()))
    }

    /// The folder of jobs: an object each.
    pub fn jobs() -> Key {
        Key(".service/jobs".to_owned())
    }

    /// What was submitted as a job.
    pub fn job(job: &JobId) -> Result<Key, LayoutError> {
        ServiceLayout::of("jobs", job)
    }

    /// The folder of how jobs ended: an object each.
    pub fn ends() -> Key {
        Key(".service/ends".to_owned())
    }

    /// How a job ended, as the leader of that number has it.
    pub fn end(job: &JobId, leader: u64) -> Result<Key, LayoutError> {
        let Layout { job } = Layout::of(job)?;
        Ok(Key(format!("{}/{job}-{leader:0DIGITS$}", ServiceLayout::ends())))
    }

    /// Of which job and leader an end is. `None`: not a name of ours, left alone.
    pub fn parse_end(key: &Key) -> Option<(JobId, u64)> {
        let (job, leader) = key.name().rsplit_once('-')?;
        let job = JobId::named(job);
        Layout::of(&job).ok()?;
        Some((job, digits(leader)?))
    }

    /// The folder of what happened to a job.
    pub fn history(job: &JobId) -> Result<Key, LayoutError> {
        ServiceLayout::of("history", job)
    }

    /// The folder of the jobs that have completed a checkpoint: an object each.
    pub fn checkpointed() -> Key {
        Key(".service/checkpointed".to_owned())
    }

    /// A job has completed a checkpoint.
    pub fn has_checkpoint(job: &JobId) -> Result<Key, LayoutError> {
        ServiceLayout::of("checkpointed", job)
    }

    /// The folder of the attempts to run a job.
    pub fn attempts(job: &JobId) -> Result<Key, LayoutError> {
        ServiceLayout::of("attempts", job)
    }

    /// An object of a folder of numbered ones.
    pub fn numbered(folder: &Key, number: u64) -> Key {
        Key(format!("{folder}/{number:0DIGITS$}"))
    }

    /// Where jobs' artifacts are, as files of epoch 0.
    pub fn artifacts() -> Layout {
        Layout { job: ".service/artifacts".to_owned() }
    }

    fn of(folder: &str, job: &JobId) -> Result<Key, LayoutError> {
        let Layout { job } = Layout::of(job)?;
        Ok(Key(format!(".service/{folder}/{job}")))
    }
}

/// The number that a key of `generations/` or `manifests/`, or of [`ServiceLayout::numbered`], ends with. `None`: not a name of ours, left alone.
pub(crate) fn parse_number(key: &Key) -> Option<u64> {
    digits(key.name())
}

/// A key of `files/`.
pub(crate) fn parse_file(key: &Key) -> Option<FileKey> {
    let (epoch, hash) = key.name().split_once('-')?;
    let sha256 = ContentHash::parse(hash).filter(|h| h.to_string() == hash)?;
    Some(FileKey { epoch: Epoch(digits(epoch)?), sha256 })
}

fn digits(text: &str) -> Option<u64> {
    (text.len() == DIGITS && text.bytes().all(|b| b.is_ascii_digit())).then(|| text.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout() -> Layout {
        Layout::of(&JobId::named("job-1")).expect("a good id")
    }

    #[test]
    fn keys_are_these_and_come_back() {
        let file = FileKey { epoch: Epoch(7), sha256: ContentHash::of(b"") };
        let keys = [layout().generation(Generation(3)), layout().manifest(Epoch(u64::MAX)), layout().file(file)];
        let [generation, manifest, data] = &keys;
        assert_eq!(generation.as_str(), "job-1/generations/00000000000000000003");
        assert_eq!(manifest.as_str(), "job-1/manifests/18446744073709551615");
        assert_eq!(
            data.as_str(),
            "job-1/files/00000000000000000007-e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
        );
        assert_eq!(parse_number(generation), Some(3));
        assert_eq!(parse_number(manifest), Some(u64::MAX));
        assert_eq!(parse_file(data), Some(file));
    }

    #[test]
    fn keys_sort_as_their_numbers_do() {
        let key = |n| layout().manifest(Epoch(n));
        assert!(key(9) < key(10) && key(10) < key(u64::MAX));
    }

    #[test]
    fn names_that_are_not_ours_are_not_read() {
        let hash = ContentHash::of(b"").to_string();
        for name in ["7", "99999999999999999999", "+0000000000000000007", "0000000000000000000a", ""] {
            assert_eq!(parse_number(&Key::test(name)), None, "{name}");
        }
        for name in [hash.clone(), format!("{:020}-{}", 7, hash.to_uppercase()), format!("{:020}-{}", 7, &hash[1..])] {
            assert_eq!(parse_file(&Key::test(&name)), None, "{name}");
        }
    }

    #[test]
    fn a_job_id_that_leads_elsewhere_is_refused() {
        for id in ["", ".", "..", "a/b", "../x", "a//b", "a#1", "a%2e", ".probe", "ü", &"x".repeat(201)] {
            assert!(Layout::of(&JobId::named(id)).is_err(), "{id:?}");
        }
        assert!(Layout::of(&JobId::named("word-count-0a.b_c")).is_ok());
    }

    #[test]
    fn no_key_is_the_folder_of_another() {
        let file = FileKey { epoch: Epoch(7), sha256: ContentHash::of(b"") };
        let other = Layout::of(&JobId::named("job")).expect("a good id");
        let keys = [
            layout().generation(Generation(3)),
            layout().manifest(Epoch(3)),
            layout().file(file),
            other.manifest(Epoch(3)),
            Key::probe("x"),
        ];
        for (a, b) in keys.iter().flat_map(|a| keys.iter().map(move |b| (a, b))) {
            assert!(!b.as_str().starts_with(&format!("{a}/")), "{a} is a folder of {b}");
        }
    }
}
