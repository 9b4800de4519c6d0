//! The processes of a job find each other: one TCP connection for each pair, checked before it carries anything.
//!
//! Every process listens; each dials those of lower index. Then, in fixed-size messages:
//!
//! | who | says |
//! |---|---|
//! | dialler | magic, protocol version, digest of the job's id, generation, from, to, a random number |
//! | listener | a verdict; if it is good, a random number of its own |
//! | dialler | its proof |
//! | listener | its proof |
//!
//! A proof is a digest over the job's token, both random numbers and everything said before, so that neither end gives
//! the token away to whoever happens to listen or dial, and no recorded conversation can be replayed. A process of an
//! earlier generation is told so; whoever does not speak the protocol is dropped after a while and disturbs nobody.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use sha2::{Digest, Sha256};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use crate::job::{Generation, same_secret};

const MAGIC: [u8; 8] = *b"ferrobm\0";
const VERSION: u32 = 1;
const HELLO: usize = 8 + 4 + 32 + 8 + 4 + 4 + 32;
/// How long one conversation may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// Who a process is among the processes of its job.
#[derive(Clone, Debug)]
pub struct Member {
    /// The job's id.
    pub job: String,
    /// Which attempt to run it.
    pub generation: Generation,
    /// Index of this process.
    pub index: u32,
    /// How many there are.
    pub processes: u32,
    /// What all of them know and nobody else.
    pub token: String,
}

/// Why two processes did not connect.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// The network failed.
    #[error("connecting to process {peer} of the job at {address}: {source}")]
    Io {
        /// The other process.
        peer: u32,
        /// Where it was looked for.
        address: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The other end said no.
    #[error("process {peer} of the job at {address} refused this process: {verdict}")]
    Refused {
        /// The other process.
        peer: u32,
        /// Where it is.
        address: String,
        /// Why.
        verdict: Verdict,
    },
    /// The other end does not know the token.
    #[error("whoever listens at {address} is not process {peer} of the job")]
    Impostor {
        /// The process that should be there.
        peer: u32,
        /// Where.
        address: String,
    },
    /// Not all came.
    #[error("process {0} of the job did not connect in time")]
    Absent(u32),
}

/// What a listener thinks of a dialler.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Welcome, if its proof is right.
    Good,
    /// It speaks something else.
    Protocol,
    /// It belongs to another job.
    Job,
    /// It belongs to an earlier attempt.
    Stale,
    /// It belongs to a later attempt, so the listener is the stale one.
    Future,
    /// It wants another process, or is none of the job's.
    Index,
    /// Its proof is wrong.
    Token,
}

impl Verdict {
    const ALL: [Verdict; 7] = [
        Verdict::Good,
        Verdict::Protocol,
        Verdict::Job,
        Verdict::Stale,
        Verdict::Future,
        Verdict::Index,
        Verdict::Token,
    ];

    fn from_byte(byte: u8) -> Verdict {
        Verdict::ALL.get(usize::from(byte)).copied().unwrap_or(Verdict::Protocol)
    }
}

impl std::fmt::Display for Verdict {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Verdict::Good => "it is welcome",
            Verdict::Protocol => "it speaks another protocol, or another version of it",
            Verdict::Job => "it belongs to another job",
            Verdict::Stale => "its generation is stale",
            Verdict::Future => "its generation is newer",
            Verdict::Index => "its index is not one that is expected",
            Verdict::Token => "its token is wrong",
        })
    }
}

impl Member {
    fn hello(&self, to: u32, nonce: &[u8; 32]) -> [u8; HELLO] {
        let mut hello = [0; HELLO];
        let parts: [&[u8]; 7] = [
            &MAGIC,
            &VERSION.to_le_bytes(),
            &Sha256::digest(self.job.as_bytes()),
            &self.generation.0.to_le_bytes(),
            &self.index.to_le_bytes(),
            &to.to_le_bytes(),
            nonce,
        ];
        let mut at = 0;
        for part in parts {
            hello[at..at + part.len()].copy_from_slice(part);
            at += part.len();
        }
        hello
    }

    /// What to think of a hello; for a good one, whose it is.
    fn judge(&self, hello: &[u8; HELLO]) -> (Verdict, u32) {
        let number = |at: usize| u32::from_le_bytes([hello[at], hello[at + 1], hello[at + 2], hello[at + 3]]);
        let mut generation = [0; 8];
        generation.copy_from_slice(&hello[44..52]);
        let generation = Generation(u64::from_le_bytes(generation));
        let (from, to) = (number(52), number(56));
        let verdict = if hello[..8] != MAGIC || number(8) != VERSION {
            Verdict::Protocol
        } else if hello[12..44] != *Sha256::digest(self.job.as_bytes()) {
            Verdict::Job
        } else if generation < self.generation {
            Verdict::Stale
        } else if generation > self.generation {
            Verdict::Future
        } else if to != self.index || from <= self.index || from >= self.processes {
            Verdict::Index
        } else {
            Verdict::Good
        };
        (verdict, from)
    }

    fn proof(&self, role: &[u8], hello: &[u8; HELLO], nonce: &[u8; 32]) -> [u8; 32] {
        let mut digest = Sha256::new();
        for part in [self.token.as_bytes(), role, hello, nonce, self.token.as_bytes()] {
            digest.update((part.len() as u64).to_le_bytes());
            digest.update(part);
        }
        digest.finalize().into()
    }

    /// Connects to every other process: `addresses` are theirs, by index. The result has `None` for this one.
    pub async fn connect(
        self,
        listener: TcpListener,
        addresses: &[String],
        deadline: Duration,
    ) -> Result<Vec<Option<std::net::TcpStream>>, ClusterError> {
        let this = Arc::new(self);
        let mut sockets: Vec<Option<TcpStream>> = (0..this.processes).map(|_| None).collect();
        let mut dialled = JoinSet::new();
        for (peer, address) in (0..this.index).zip(addresses.iter().cloned()) {
            let this = Arc::clone(&this);
            dialled.spawn(async move { this.dial(peer, address).await.map(|socket| (peer, socket)) });
        }
        let mut accepted = JoinSet::new();
        let deadline = tokio::time::Instant::now() + deadline;
        while sockets.iter().filter(|socket| socket.is_some()).count() + 1 < this.processes as usize {
            let (peer, socket) = tokio::select! {
                Some(dialled) = dialled.join_next() => match dialled {
                    Ok(connected) => connected?,
                    Err(_) => continue,
                },
                Some(greeted) = accepted.join_next() => match greeted {
                    Ok(Some(greeted)) => greeted,
                    _ => continue,
                },
                incoming = listener.accept() => {
                    if let Ok((socket, from)) = incoming {
                        let this = Arc::clone(&this);
                        accepted.spawn(async move { this.greet(socket, from).await });
                    }
                    continue;
                }
                () = tokio::time::sleep_until(deadline) => {
                    let absent = (0..this.processes).find(|i| *i != this.index && sockets[*i as usize].is_none());
                    return Err(ClusterError::Absent(absent.unwrap_or_default()));
                }
            };
            // The first that proved itself stays.
            sockets[peer as usize].get_or_insert(socket);
        }
        let blocking = |peer: usize, socket: TcpStream| {
            let converted =
                socket.into_std().and_then(|s| s.set_nonblocking(false).and(s.set_nodelay(true)).map(|()| s));
            converted.map_err(|source| ClusterError::Io { peer: peer as u32, address: String::new(), source })
        };
        sockets.into_iter().enumerate().map(|(peer, s)| s.map(|s| blocking(peer, s)).transpose()).collect()
    }

    async fn dial(&self, peer: u32, address: String) -> Result<TcpStream, ClusterError> {
        let talked = tokio::time::timeout(PATIENCE, async {
            let mut socket = TcpStream::connect(&address).await?;
            let hello = self.hello(peer, &nonce());
            socket.write_all(&hello).await?;
            let verdict = Verdict::from_byte(socket.read_u8().await?);
            if verdict != Verdict::Good {
                return Ok(Err(verdict));
            }
            let mut theirs = [0; 32];
            socket.read_exact(&mut theirs).await?;
            socket.write_all(&self.proof(b"dial", &hello, &theirs)).await?;
            let verdict = Verdict::from_byte(socket.read_u8().await?);
            if verdict != Verdict::Good {
                return Ok(Err(verdict));
            }
            let mut proof = [0; 32];
            socket.read_exact(&mut proof).await?;
            let genuine = same_secret(&proof, &self.proof(b"listen", &hello, &theirs));
            Ok(Ok((socket, genuine)))
        });
        let io = |source| ClusterError::Io { peer, address: address.clone(), source };
        let talked = talked.await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        match talked.map_err(io)? {
            Ok((socket, true)) => Ok(socket),
            Ok((_, false)) => Err(ClusterError::Impostor { peer, address }),
            Err(verdict) => Err(ClusterError::Refused { peer, address, verdict }),
        }
    }

    /// `None` for whoever did not prove to belong here.
    async fn greet(&self, mut socket: TcpStream, from: SocketAddr) -> Option<(u32, TcpStream)> {
        let talked = tokio::time::timeout(PATIENCE, async {
            let mut hello = [0; HELLO];
            socket.read_exact(&mut hello).await?;
            let (verdict, peer) = self.judge(&hello);
            if verdict != Verdict::Good {
                socket.write_u8(verdict as u8).await?;
                return Ok((verdict, peer));
            }
            let nonce = nonce();
            socket.write_all(&[&[Verdict::Good as u8], nonce.as_slice()].concat()).await?;
            let mut proof = [0; 32];
            socket.read_exact(&mut proof).await?;
            if !same_secret(&proof, &self.proof(b"dial", &hello, &nonce)) {
                socket.write_u8(Verdict::Token as u8).await?;
                return Ok((Verdict::Token, peer));
            }
            let answer = self.proof(b"listen", &hello, &nonce);
            socket.write_all(&[&[Verdict::Good as u8], answer.as_slice()].concat()).await?;
            io::Result::Ok((Verdict::Good, peer))
        });
        match talked.await {
            Ok(Ok((Verdict::Good, peer))) => Some((peer, socket)),
            Ok(Ok((verdict, _))) => {
                tracing::warn!(%from, "refused a connection of another process: {verdict}");
                None
            }
            Ok(Err(error)) => {
                tracing::warn!(%from, %error, "a connection of another process broke off");
                None
            }
            Err(_) => {
                tracing::warn!(%from, "a connection to a job process said nothing in time");
                None
            }
        }
    }
}

fn nonce() -> [u8; 32] {
    let mut nonce = [0; 32];
    nonce[..16].copy_from_slice(uuid::Uuid::new_v4().as_bytes());
    nonce[16..].copy_from_slice(uuid::Uuid::new_v4().as_bytes());
    nonce
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    fn member(index: u32, processes: u32) -> Member {
        Member { job: "job-1".into(), generation: Generation(5), index, processes, token: "secret".into() }
    }

    async fn listeners(count: u32) -> (Vec<TcpListener>, Vec<String>) {
        let mut listeners = Vec::new();
        for _ in 0..count {
            listeners.push(TcpListener::bind("127.0.0.1:0").await.expect("a free port"));
        }
        let address = |l: &TcpListener| l.local_addr().expect("it is bound").to_string();
        let addresses = listeners.iter().map(address).collect();
        (listeners, addresses)
    }

    /// Connects `count` processes, of which the ones in `with` are others than expected.
    async fn connect(count: u32) -> Vec<Vec<Option<std::net::TcpStream>>> {
        let (listeners, addresses) = listeners(count).await;
        let mut joined = JoinSet::new();
        for (index, listener) in (0..).zip(listeners) {
            let addresses = addresses.clone();
            joined.spawn(async move { (index, member(index, count).connect(listener, &addresses, LONG).await) });
        }
        let mut all: Vec<(u32, Vec<_>)> =
            joined.join_all().await.into_iter().map(|(i, sockets)| (i, sockets.expect("connected"))).collect();
        all.sort_by_key(|(index, _)| *index);
        all.into_iter().map(|(_, sockets)| sockets).collect()
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn every_pair_is_connected() {
        use std::io::{Read, Write};
        let mut all = connect(4).await;
        let pairs = (0..16_usize).map(|pair| (pair / 4, pair % 4, [pair as u8]));
        for (from, to, mark) in pairs {
            assert_eq!(all[from][to].is_none(), from == to);
            if from != to {
                all[from][to].as_mut().expect("connected").write_all(&mark).expect("sent");
                let mut got = [0];
                all[to][from].as_mut().expect("connected").read_exact(&mut got).expect("received");
                assert_eq!(got, mark);
            }
        }
    }

    /// What process 0 says to a dialler that calls itself process 1.
    async fn refusal(change: impl FnOnce(&mut Member)) -> ClusterError {
        let (mut listeners, addresses) = listeners(1).await;
        let listener = listeners.remove(0);
        let accepting = tokio::spawn(member(0, 2).connect(listener, &[], LONG));
        let mut dialler = member(1, 2);
        change(&mut dialler);
        let error = dialler.dial(0, addresses[0].clone()).await.expect_err("refused");
        // The listener still waits for the right one, which gets in.
        member(1, 2).dial(0, addresses[0].clone()).await.expect("the right one");
        let sockets = accepting.await.expect("no panic").expect("connected");
        assert!(sockets[1].is_some());
        error
    }

    #[tokio::test]
    async fn who_does_not_belong_is_told_why() {
        let refused = |error: ClusterError| match error {
            ClusterError::Refused { verdict, .. } => verdict,
            other => panic!("{other}"),
        };
        assert_eq!(refused(refusal(|m| m.generation = Generation(4)).await), Verdict::Stale);
        assert_eq!(refused(refusal(|m| m.generation = Generation(6)).await), Verdict::Future);
        assert_eq!(refused(refusal(|m| m.job = "job-2".into()).await), Verdict::Job);
        assert_eq!(refused(refusal(|m| m.token = "guessed".into()).await), Verdict::Token);
        assert_eq!(refused(refusal(|m| m.index = 7).await), Verdict::Index);
    }

    #[tokio::test]
    async fn nonsense_disturbs_nobody() {
        let (mut listeners, addresses) = listeners(1).await;
        let accepting = tokio::spawn(member(0, 2).connect(listeners.remove(0), &[], LONG));
        let mut silent = TcpStream::connect(&addresses[0]).await.expect("it listens");
        let mut web = TcpStream::connect(&addresses[0]).await.expect("it listens");
        web.write_all(&b"GET / HTTP/1.1\r\nHost: localhost\r\n".repeat(10)).await.expect("sent");
        assert_eq!(Verdict::from_byte(web.read_u8().await.expect("an answer")), Verdict::Protocol);
        member(1, 2).dial(0, addresses[0].clone()).await.expect("the right one");
        accepting.await.expect("no panic").expect("connected");
        let _ = silent.write_all(b"x").await;
    }

    #[tokio::test]
    async fn a_listener_without_the_token_is_found_out() {
        let (mut listeners, addresses) = listeners(1).await;
        let mut impostor = member(0, 2);
        impostor.token = "guessed".into();
        tokio::spawn(impostor.connect(listeners.remove(0), &[], LONG));
        // It cannot check the proof either, so it says no; had it said yes, its own proof would give it away.
        let error = member(1, 2).dial(0, addresses[0].clone()).await.expect_err("refused");
        assert!(matches!(error, ClusterError::Refused { verdict: Verdict::Token, .. }), "{error}");
    }

    #[tokio::test]
    async fn who_does_not_come_is_named() {
        let (mut listeners, _) = listeners(1).await;
        let error = member(0, 2).connect(listeners.remove(0), &[], Duration::ZERO).await.expect_err("nobody comes");
        assert!(matches!(error, ClusterError::Absent(1)), "{error}");
    }
}
