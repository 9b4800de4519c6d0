//! `GetState`, and how long its answer may wait for the end of the job.
//!
//! Clients of Python, Go and TypeScript follow a stream. Java's asks again and again; see [`crate::job::Waiting`] for
//! which of its calls are held.

use std::net::SocketAddr;
use std::time::{Duration, Instant, SystemTime};

use tonic::Request;
use tonic::metadata::MetadataMap;

use crate::job::{Job, State};

/// The longest that an answer waits. Java's client gives a call a minute unless it is told otherwise.
const LONGEST: Duration = Duration::from_secs(58);
/// An answer comes so much before the client's deadline, or a quarter of a shorter one: a late one fails the program.
const MARGIN: Duration = Duration::from_secs(2);

/// One of Java's clients.
#[derive(Clone, Copy, Debug)]
pub(super) struct JavaClient {
    address: Option<SocketAddr>,
    patience: Duration,
}

impl JavaClient {
    /// The caller, if it is one.
    pub(super) fn of<T>(request: &Request<T>) -> Option<JavaClient> {
        let agent = request.metadata().get("user-agent")?.to_str().ok()?;
        let patience = patience(request.metadata());
        agent.starts_with("grpc-java").then(|| JavaClient { address: request.remote_addr(), patience })
    }

    /// The client is about to learn that its job was started. `ends`: the job's input does, of itself.
    pub(super) fn started(self, job: &Job, ends: bool) {
        self.started_at(job, ends, Instant::now());
    }

    /// The answer for the client: for one that waits, when the job has ended or its patience has.
    pub(super) async fn state(self, job: &Job) -> (State, SystemTime) {
        if let Some(patience) = self.patience_at(job, Instant::now()) {
            let mut changes = job.changes();
            let ended = async { while !job.state().0.is_terminal() && changes.changed().await.is_ok() {} };
            // Not an error: the answer is the state as it is then.
            let _ = tokio::time::timeout(patience, ended).await;
        }
        match job.state() {
            // It takes DRAINED for a state that it does not know, and would ask for ever.
            (State::Drained, since) => (State::Done, since),
            (state, since) => {
                if !state.is_terminal() {
                    self.answered_at(job, Instant::now());
                }
                (state, since)
            }
        }
    }

    fn started_at(self, job: &Job, ends: bool, now: Instant) {
        if ends {
            job.waiting().started(self.address, now);
        }
    }

    /// How long the answer to a call that comes now may wait for the job's end; `None`: not at all.
    fn patience_at(self, job: &Job, now: Instant) -> Option<Duration> {
        job.waiting().is_due(self.address, now).then_some(self.patience)
    }

    fn answered_at(self, job: &Job, now: Instant) {
        job.waiting().answered(self.address, now);
    }
}

fn patience(metadata: &MetadataMap) -> Duration {
    let timeout = metadata.get("grpc-timeout").and_then(|text| text.to_str().ok()).and_then(timeout);
    timeout.map_or(LONGEST, |timeout| (timeout - MARGIN.min(timeout / 4)).min(LONGEST))
}

/// Reads a `grpc-timeout`: up to eight digits and a unit.
fn timeout(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let amount = (digits.len() <= 8).then(|| digits.parse::<u32>().ok()).flatten()?;
    Some(match unit {
        "H" => Duration::from_secs(3600 * u64::from(amount)),
        "M" => Duration::from_secs(60 * u64::from(amount)),
        "S" => Duration::from_secs(amount.into()),
        "m" => Duration::from_millis(amount.into()),
        "u" => Duration::from_micros(amount.into()),
        "n" => Duration::from_nanos(amount.into()),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::job::{JobId, LogLimits, Submission};

    /// Between client and service, one way.
    const WAY: Duration = Duration::from_millis(1);
    /// What Java's client sleeps between two looks.
    const POLL_INTERVAL: Duration = Duration::from_secs(3);
    const SECOND: Duration = Duration::from_secs(1);

    /// A job that runs for so long, and clients of it: what each sees when, without waiting for it.
    struct Scene {
        job: Job,
        began: Instant,
        length: Duration,
    }

    impl Scene {
        /// `client` is told that the job was started.
        fn new(client: JavaClient, ends: bool, length: Duration) -> Scene {
            let submission = Submission {
                name: "test".into(),
                options: prost_types::Struct::default(),
                pipeline: Bytes::new(),
                unbounded: !ends,
            };
            let job = Job::new(JobId::named("test-1"), submission, SystemTime::now(), LogLimits::default());
            let began = Instant::now();
            client.started_at(&job, ends, began);
            Scene { job, began, length }
        }

        /// What a call of `getState()` at a time after the job's start gives, whether the job has ended, and when.
        fn get_state(&self, client: JavaClient, at: Duration) -> (bool, Duration) {
            let arrives = at + WAY;
            let patience = client.patience_at(&self.job, self.began + arrives);
            let answered = match patience {
                Some(patience) if arrives < self.length => self.length.min(arrives + patience),
                _ => arrives,
            };
            let ended = answered >= self.length;
            if !ended {
                client.answered_at(&self.job, self.began + answered);
            }
            (ended, answered + WAY)
        }

        /// How long after the job's end `waitUntilFinish()` returns that is called at a time after its start.
        fn lateness(&self, client: JavaClient, called: Duration) -> Duration {
            let mut at = called;
            loop {
                let (ended, answered) = self.get_state(client, at);
                if ended {
                    return answered - self.length;
                }
                at = answered + POLL_INTERVAL;
            }
        }
    }

    fn client(port: u16) -> JavaClient {
        let mut request = Request::new(());
        request.metadata_mut().insert("user-agent", "grpc-java-netty/1.69.0".parse().unwrap());
        request.metadata_mut().insert("grpc-timeout", "59998123u".parse().unwrap());
        let client = JavaClient::of(&request).expect("it says so");
        JavaClient { address: Some(SocketAddr::from(([127, 0, 0, 1], port))), ..client }
    }

    #[test]
    fn one_who_waits_learns_of_the_end_at_once_however_long_the_job_takes() {
        let lengths = (0..580).map(|tenths| SECOND * tenths / 10);
        for length in lengths.chain([70 * SECOND, 200 * SECOND, 3000 * SECOND]) {
            let late = Scene::new(client(1), true, length).lateness(client(1), WAY);
            assert!(late <= 3 * WAY, "a job of {length:?} is seen {late:?} after its end");
        }
    }

    #[test]
    fn one_who_comes_to_wait_later_sleeps_once_and_then_learns_of_the_end_at_once() {
        for ends in [true, false] {
            for length in (51..500).map(|tenths| SECOND * tenths / 10) {
                let late = Scene::new(client(1), ends, length).lateness(client(1), 2 * SECOND);
                assert!(late <= 3 * WAY, "a job of {length:?} is seen {late:?} after its end");
            }
        }
    }

    #[test]
    fn who_asks_by_himself_is_answered_at_once() {
        let scene = Scene::new(client(1), true, 60 * SECOND);
        let mut at = Duration::ZERO;
        let often = [SECOND; 7].into_iter().chain([SECOND / 10; 40]);
        for pause in often.chain([2 * SECOND, 5 * SECOND, SECOND / 10]) {
            at += pause;
            let (ended, answered) = scene.get_state(client(1), at);
            assert_eq!((ended, answered), (false, at + 2 * WAY), "{pause:?} after the call before");
            at = answered;
        }
        // Whether an unbounded job runs, one asks as soon as it is started.
        let scene = Scene::new(client(1), false, 60 * SECOND);
        assert_eq!(scene.get_state(client(1), WAY), (false, 3 * WAY));
    }

    #[test]
    fn who_asks_while_another_waits_is_answered_at_once() {
        let scene = Scene::new(client(1), true, 30 * SECOND);
        // Held until the end.
        assert_eq!(scene.get_state(client(1), WAY), (true, 30 * SECOND + WAY));
        for (port, at) in [(1, SECOND), (2, 2 * SECOND), (1, 6 * SECOND)] {
            assert_eq!(scene.get_state(client(port), at), (false, at + 2 * WAY));
        }
    }

    #[test]
    fn no_answer_comes_after_the_clients_deadline() {
        let scene = Scene::new(client(1), true, 600 * SECOND);
        let (ended, answered) = scene.get_state(client(1), WAY);
        assert!(!ended && answered < Duration::from_micros(59_998_123), "{answered:?}");
    }

    #[test]
    fn patience_is_shorter_than_the_deadline() {
        let of = |text: &str| {
            let mut metadata = MetadataMap::new();
            metadata.insert("grpc-timeout", text.parse().unwrap());
            patience(&metadata)
        };
        for (text, millis) in [
            ("60S", 58_000),
            ("59998123u", 57_998),
            ("2S", 1500),
            ("100m", 75),
            ("1H", 58_000),
            ("99999999H", 58_000),
            ("nonsense", 58_000),
            ("123456789S", 58_000),
            ("", 58_000),
            ("0n", 0),
        ] {
            assert_eq!(of(text).as_millis(), millis, "{text}");
        }
        assert_eq!(patience(&MetadataMap::new()), LONGEST);
        assert_eq!(timeout("5é"), None);
    }

    #[test]
    fn only_javas_client_is_one() {
        for agent in ["grpc-python/1.66.2 grpc-c/43.0.0 (linux; chttp2)", "grpc-go/1.80.0", "tonic/0.14"] {
            let mut request = Request::new(());
            request.metadata_mut().insert("user-agent", agent.parse().unwrap());
            assert!(JavaClient::of(&request).is_none(), "{agent}");
        }
    }
}
