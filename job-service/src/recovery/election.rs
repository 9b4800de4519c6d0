//! Of the services on one storage, one leads: [`Election`].

use std::fs;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::time::Instant;

use super::SaveError;
use crate::checkpoint::{Claim, Key, Nonce, Sealed, ServiceLayout, Storage, parse_number, unseal};
use crate::job::secret;

/// Terms older than this many are removed.
const KEPT: u64 = 3;
/// Of a lease, a leader renews its term after one part of so many.
const PARTS: u32 = 4;

/// What a leader says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Term {
    /// Of this service and no other.
    id: String,
    /// Where its clients find it; for people.
    pub endpoint: String,
    /// Which process it is.
    process: Option<ProcessIdentity>,
    /// It has ended by itself: nobody need wait.
    #[serde(default)]
    ended: bool,
}

/// A process, told apart from every other of its machine's life.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct ProcessIdentity {
    /// Of the machine since it was started.
    boot: String,
    /// In which its id is one.
    namespace: String,
    id: u32,
    /// When it was started, in ticks since the machine was.
    started: u64,
}

impl ProcessIdentity {
    fn own() -> Option<ProcessIdentity> {
        let id = std::process::id();
        Some(ProcessIdentity { boot: boot()?, namespace: namespace()?, id, started: started(id)? })
    }

    /// Whether it certainly runs no more.
    fn is_gone(&self) -> bool {
        let here = boot().as_ref() == Some(&self.boot) && namespace().as_ref() == Some(&self.namespace);
        // A machine without `/proc` says nothing.
        here && started(std::process::id()).is_some() && started(self.id) != Some(self.started)
    }
}

fn boot() -> Option<String> {
    Some(fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?.trim().to_owned())
}

fn namespace() -> Option<String> {
    Some(fs::read_link("/proc/self/ns/pid").ok()?.to_string_lossy().into_owned())
}

/// When a process was started; none that is gone, or waits only to be seen as such.
fn started(id: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    if matches!(fields.next()?, "Z" | "X") {
        return None;
    }
    // Field 22 of all, the process's state being the third.
    fields.nth(18)?.parse().ok()
}

impl Term {
    /// Of this process.
    pub fn of_this_process(endpoint: String) -> Term {
        Term { id: secret(), endpoint, process: ProcessIdentity::own(), ended: false }
    }

    /// Whether the one who wrote it certainly leads no more.
    fn is_over(&self) -> bool {
        self.ended || self.process.as_ref().is_some_and(ProcessIdentity::is_gone)
    }
}

/// See the module.
#[derive(Debug)]
pub struct Election {
    storage: Storage,
    term: Term,
    lease: Duration,
}

/// The newest term, as far as it can be read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Newest {
    number: u64,
    term: Option<Term>,
}

impl Newest {
    /// Whether another may lead, who has seen this one unchanged for so long.
    fn may_be_replaced(&self, unchanged: Duration, lease: Duration) -> bool {
        self.number == 0 || unchanged >= lease || self.term.as_ref().is_some_and(Term::is_over)
    }
}

impl Election {
    /// For a service that says `term` of itself, on a storage. A leader that does not renew its term for as long as
    /// `lease` may be replaced.
    pub fn new(storage: Storage, term: Term, lease: Duration) -> Election {
        Election { storage, term, lease }
    }

    /// Returns when this service leads. `waits` is told of whom it waits for, once for each. Fails if the storage cannot be
    /// read at first; what fails later is tried again, for as long as it takes.
    pub async fn win(self, mut waits: impl FnMut(&Term)) -> Result<Leadership, SaveError> {
        let mut seen = (self.newest().await?, Instant::now());
        let mut told = None;
        loop {
            let (newest, since) = &seen;
            if newest.term.as_ref() == Some(&self.term) {
                // It was claimed, and that was told as failed.
                return Ok(Leadership { number: newest.number, election: self });
            }
            if let Some(other) = newest.term.as_ref().filter(|term| !term.is_over() && told.as_ref() != Some(&term.id))
            {
                waits(other);
                told = Some(other.id.clone());
            }
            let claimed = if newest.may_be_replaced(since.elapsed(), self.lease) {
                let number = newest.number.saturating_add(1);
                match self.claim(number, &self.term).await {
                    Ok(true) => {
                        self.forget_before(number).await;
                        return Ok(Leadership { election: self, number });
                    }
                    // Somebody was quicker.
                    Ok(false) => Ok(()),
                    Err(error) => Err(error),
                }
            } else {
                tokio::time::sleep(self.lease / (4 * PARTS)).await;
                Ok(())
            };
            let looked = match claimed {
                Ok(()) => self.newest().await,
                Err(error) => Err(error),
            };
            match looked {
                Ok(newest) if newest != seen.0 => seen = (newest, Instant::now()),
                Ok(_) => {}
                Err(error) => {
                    tracing::warn!(%error, "it cannot be told which service leads, and is looked again");
                    tokio::time::sleep(self.lease / PARTS).await;
                    // What happened to a claim is seen at once.
                    if let Ok(newest) = self.newest().await
                        && newest != seen.0
                    {
                        seen = (newest, Instant::now());
                    }
                }
            }
        }
    }

    async fn newest(&self) -> Result<Newest, SaveError> {
        newest(&self.storage).await
    }

    /// Removes terms that are old. One that stays does no harm.
    async fn forget_before(&self, number: u64) {
        let old = |key: &Key| parse_number(key).is_some_and(|old| old + KEPT <= number);
        let removed = match self.storage.list(&ServiceLayout::terms()).await {
            Ok(listed) => {
                let old: Vec<Key> = listed.into_iter().map(|it| it.key).filter(old).collect();
                self.storage.delete(&old).await
            }
            Err(error) => Err(error),
        };
        if let Err(error) = removed {
            tracing::debug!(%error, "old terms stay");
        }
    }

    /// Whether the number is this service's now: what stands there says so, whatever was said of writing it.
    async fn claim(&self, number: u64, term: &Term) -> Result<bool, SaveError> {
        let sealed = Sealed::new(Nonce::new(), term)?;
        let claimed = self.storage.create_once(&ServiceLayout::term(number), &sealed).await;
        // A number that was removed as an old one is free again for whoever slept for long.
        let newest = self.newest().await?;
        match claimed {
            _ if newest.number == number && newest.term.as_ref() == Some(term) => Ok(true),
            Claim::Won | Claim::Lost { .. } => Ok(false),
            Claim::Unknown(error) => Err(error.into()),
        }
    }
}

async fn newest(storage: &Storage) -> Result<Newest, SaveError> {
    let listed = storage.list(&ServiceLayout::terms()).await?;
    let Some((number, key)) = listed.into_iter().filter_map(|it| Some((parse_number(&it.key)?, it.key))).max() else {
        return Ok(Newest::default());
    };
    let term = match storage.get(&key, MAX_TERM).await {
        Ok(bytes) => unseal(&bytes).ok().map(|unsealed| unsealed.value),
        // It was removed as an old one, or cannot be read: who wrote it gets the whole lease.
        Err(error) if error.is_not_found() => None,
        Err(error) => return Err(error.into()),
    };
    Ok(Newest { number, term })
}

/// Tells whether a service still leads.
#[derive(Clone, Debug)]
pub struct Ballot {
    storage: Storage,
    id: String,
    leader: u64,
}

impl Ballot {
    /// Which leader of the storage it is, counted in terms: a later one has a greater number.
    pub fn leader(&self) -> u64 {
        self.leader
    }

    /// Whether no other service had taken over when this was asked.
    pub async fn leads(&self) -> Result<bool, SaveError> {
        let newest = newest(&self.storage).await?;
        Ok(newest.term.is_some_and(|term| term.id == self.id && !term.ended))
    }
}

/// Bytes of a term.
const MAX_TERM: u64 = 1 << 16;

/// Held by the service that leads.
#[derive(Debug)]
pub struct Leadership {
    election: Election,
    number: u64,
}

impl Leadership {
    /// To be asked whether it still leads.
    pub fn ballot(&self) -> Ballot {
        Ballot { storage: self.election.storage.clone(), id: self.election.term.id.clone(), leader: self.number }
    }

    /// Renews the term until another service has taken its place, and says so. Ends the term when `resigned` becomes true.
    ///
    /// A storage that cannot be written ends nothing: nobody else can write there either, or the one who can has taken its
    /// place, which is found when it answers again. Until then no checkpoint of this service is complete.
    pub async fn keep(mut self, mut resigned: watch::Receiver<bool>) -> Option<String> {
        let pause = self.election.lease / PARTS;
        loop {
            let resigns = tokio::select! {
                () = tokio::time::sleep(pause) => false,
                // One that nobody can ask any more does not resign.
                Ok(_) = resigned.wait_for(|resigned| *resigned) => true,
            };
            if resigns {
                let ended = Term { ended: true, ..self.election.term.clone() };
                if let Err(error) = self.election.claim(self.number + 1, &ended).await {
                    tracing::debug!(%error, "the next service waits for the end of the lease");
                }
                return None;
            }
            match self.election.claim(self.number + 1, &self.election.term).await {
                Ok(true) => {
                    self.number += 1;
                    // Others were removed when this service began to lead.
                    let old = ServiceLayout::term(self.number.saturating_sub(KEPT));
                    if let Err(error) = self.election.storage.delete(&[old]).await {
                        tracing::debug!(%error, "an old term stays");
                    }
                }
                Ok(false) => return Some("another service has taken over its jobs".to_owned()),
                Err(error) => {
                    tracing::warn!(%error, "the term of this service cannot be renewed, and is tried again");
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEASE: Duration = Duration::from_secs(8);

    fn term(name: &str) -> Term {
        Term::of_this_process(name.to_owned())
    }

    fn election(storage: &Storage, name: &str) -> Election {
        Election::new(storage.clone(), term(name), LEASE)
    }

    async fn win(storage: &Storage, name: &str) -> (Leadership, Vec<String>) {
        let mut waited = Vec::new();
        let leadership = election(storage, name).win(|term| waited.push(term.endpoint.clone())).await;
        (leadership.expect("a storage in memory"), waited)
    }

    #[test]
    fn who_may_lead_next() {
        let of = |term: Option<Term>| Newest { number: 3, term };
        let second = Duration::from_secs(1);
        assert!(Newest::default().may_be_replaced(Duration::ZERO, LEASE), "nobody leads");
        assert!(!of(Some(term("a"))).may_be_replaced(LEASE - second, LEASE));
        assert!(of(Some(term("a"))).may_be_replaced(LEASE, LEASE));
        assert!(of(Some(Term { ended: true, ..term("a") })).may_be_replaced(Duration::ZERO, LEASE));
        // One that cannot be read has its lease, too.
        assert!(!of(None).may_be_replaced(LEASE - second, LEASE) && of(None).may_be_replaced(LEASE, LEASE));
    }

    #[test]
    fn a_process_that_is_gone_does_not_lead() {
        let mut child = std::process::Command::new("sleep").arg("1000").spawn().expect("a program of every system");
        let own = ProcessIdentity::own().expect("this machine has /proc");
        let id = child.id();
        let process = ProcessIdentity { id, started: started(id).expect("it runs"), ..own.clone() };
        let of = |process: &ProcessIdentity| Term { process: Some(process.clone()), ..term("a") };
        assert!(!of(&process).is_over() && !of(&own).is_over());
        // Another that has its number by now.
        assert!(of(&ProcessIdentity { started: process.started + 1, ..process.clone() }).is_over());
        child.kill().expect("it runs");
        let deadline = std::time::Instant::now() + Duration::from_secs(60);
        while !of(&process).is_over() {
            assert!(std::time::Instant::now() < deadline, "it is gone, and waits to be seen");
        }
        child.wait().expect("it was killed");
        assert!(of(&process).is_over());
        for elsewhere in [
            ProcessIdentity { boot: "another".into(), ..process.clone() },
            ProcessIdentity { namespace: "another".into(), ..process },
        ] {
            assert!(!of(&elsewhere).is_over(), "nobody here knows");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn one_leads_and_the_next_waits_for_the_lease() {
        let storage = Storage::in_memory();
        let (first, waited) = win(&storage, "first").await;
        assert_eq!(waited, [""; 0]);
        let (_resign, resigned) = watch::channel(false);
        let keeping = tokio::spawn(first.keep(resigned));
        let begun = Instant::now();
        let second = tokio::spawn({
            let storage = storage.clone();
            async move { win(&storage, "second").await }
        });
        // While it renews its term, nobody else leads.
        tokio::time::sleep(10 * LEASE).await;
        assert!(!second.is_finished() && !keeping.is_finished());
        keeping.abort();
        let (second, waited) = second.await.expect("no panic");
        assert_eq!(waited, ["first"]);
        let after = begun.elapsed() - 10 * LEASE;
        assert!(after >= LEASE / 2 && after <= 2 * LEASE, "after {after:?}");
        assert!(second.number > 30);
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_resigns_is_followed_at_once() {
        let storage = Storage::in_memory();
        let (first, _) = win(&storage, "first").await;
        let (resign, resigned) = watch::channel(false);
        let keeping = tokio::spawn(first.keep(resigned));
        resign.send_replace(true);
        assert_eq!(keeping.await.expect("no panic"), None);
        let begun = Instant::now();
        let (_, waited) = win(&storage, "second").await;
        assert_eq!((begun.elapsed(), waited), (Duration::ZERO, vec![]));
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_slept_finds_that_it_was_replaced() {
        let storage = Storage::in_memory();
        let (first, _) = win(&storage, "first").await;
        // It sleeps, and the second leads for so long that the first one's next number is free again.
        let (second, _) = win(&storage, "second").await;
        let (_resign, resigned) = watch::channel(false);
        let keeping = tokio::spawn(second.keep(resigned.clone()));
        tokio::time::sleep(10 * LEASE).await;
        let why = first.keep(resigned).await.expect("it does not lead");
        assert!(why.contains("another service"), "{why}");
        assert!(!keeping.is_finished());
    }

    #[tokio::test(start_paused = true)]
    async fn of_many_at_once_one_wins() {
        let storage = Storage::in_memory();
        let mut waiting = tokio::task::JoinSet::new();
        for number in 0..20 {
            let storage = storage.clone();
            waiting.spawn(async move { win(&storage, &number.to_string()).await.0 });
        }
        waiting.join_next().await.expect("some").expect("no panic");
        tokio::time::sleep(LEASE / 2).await;
        assert!(waiting.try_join_next().is_none(), "two lead");
    }

    #[tokio::test(start_paused = true)]
    async fn a_storage_that_fails_and_lies_ends_no_term() {
        for seed in 0..20 {
            let (unreliable, storage) = crate::checkpoint::unreliable(seed);
            let first = loop {
                if let Ok(first) = election(&unreliable, "first").win(|_| {}).await {
                    break first;
                }
            };
            let (_resign, resigned) = watch::channel(false);
            let keeping = tokio::spawn(first.keep(resigned));
            tokio::time::sleep(100 * LEASE).await;
            assert!(!keeping.is_finished(), "seed {seed}: it took itself for replaced");
            keeping.abort();
            // What it had on its way may come yet; then another leads.
            let (second, _) = win(&storage, "second").await;
            assert!(second.number > 10, "seed {seed}: {}", second.number);
        }
    }
}
