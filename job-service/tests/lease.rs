//! Whoever works for a service that has fallen silent ends by itself.

mod support;

use std::net::SocketAddr;
use std::time::Duration;

use ferrobeam_job_service::ServiceConfig;
use ferrobeam_job_service::agent::{Agent, AgentConfig};
use ferrobeam_job_service::control::{JoinError, join};
use ferrobeam_proto::job::job_state::Enum as State;
use support::*;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot, watch};

/// Passes on what is sent to it and back, until it is told to be silent: then it keeps every connection and says nothing.
struct Proxy {
    address: SocketAddr,
    silent: watch::Sender<bool>,
}

impl Proxy {
    async fn start(to: SocketAddr) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let (silent, told) = watch::channel(false);
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                let told = told.clone();
                tokio::spawn(async move {
                    let far = TcpStream::connect(to).await.expect("the service listens");
                    let ((near_in, near_out), (far_in, far_out)) = (near.into_split(), far.into_split());
                    tokio::join!(pass(near_in, far_out, told.clone()), pass(far_in, near_out, told));
                });
            }
        });
        Proxy { address, silent }
    }
}

async fn pass(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin, told: watch::Receiver<bool>) {
    let mut piece = vec![0; 1 << 16];
    let mut silent = told.clone();
    loop {
        let length = tokio::select! {
            read = from.read(&mut piece) => match read {
                Ok(length @ 1..) => length,
                _ => return,
            },
            _ = silent.wait_for(|silent| *silent) => break,
        };
        if to.write_all(&piece[..length]).await.is_err() {
            return;
        }
    }
    // The other end's TCP is answered, and nothing else.
    let _kept = to;
    while let Ok(1..) = from.read(&mut piece).await {}
}

fn agent(service: SocketAddr, work_root: &tempfile::TempDir) -> AgentConfig {
    AgentConfig {
        program: env!("CARGO_BIN_EXE_ferrobeam").into(),
        service: format!("http://{service}"),
        host: "127.0.0.1".into(),
        work_root: work_root.path().to_owned(),
        spares: 0,
        // Short, and still longer than a busy machine lets anybody wait for an answer.
        lease: Duration::from_secs(4),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_whose_service_is_silent_ends_by_itself() {
    let silent = Silent::new();
    let (service, mut client) = serve(ServiceConfig { capacity: 0, ..config() }).await;
    let proxy = Proxy::start(service.job_address()).await;
    // The agent has another way to the service, so that only the process is cut off.
    let work_root = tempfile::tempdir().expect("a folder");
    let (orders, taken) = mpsc::unbounded_channel();
    let (ended, mut ends) = mpsc::unbounded_channel();
    let agents = service.supervisor().agents();
    let id = agents.join("127.0.0.1".into(), 1, orders);
    let running = tokio::spawn(Agent::new(agent(proxy.address, &work_root)).run(taken, ended));

    let job = submit(&mut client, silent.pipeline()).await;
    let _called = silent.called();
    proxy.silent.send_replace(true);
    let end = tokio::time::timeout(PATIENCE, ends.recv()).await.expect("it ends by itself").expect("the agent works");
    assert!(end.how.contains("exit code 1") && end.how.contains("lost the job service"), "{}", end.how);
    agents.ended(id, end);
    let said = said(&mut client, &job).await;
    let error = said.iter().find(|line| line.starts_with("JOB_MESSAGE_ERROR")).expect("a reason");
    assert!(error.contains("lost the job service"), "{error}");
    assert_eq!(said.last().map(String::as_str), Some("FAILED"));
    agents.leave(id);
    running.await.expect("no panic");
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_whose_service_is_silent_ends_its_processes_and_itself() {
    let silent = Silent::new();
    let (service, mut client) = serve(ServiceConfig { capacity: 0, ..config() }).await;
    let proxy = Proxy::start(service.job_address()).await;
    let work_root = tempfile::tempdir().expect("a folder");
    let (joined, has_joined) = oneshot::channel();
    let agent = agent(proxy.address, &work_root);
    let running = tokio::spawn(join(agent, 1, String::new(), move || joined.send(()).expect("the test waits")));
    has_joined.await.expect("it joins");
    let job = submit(&mut client, silent.pipeline()).await;
    let _called = silent.called();
    proxy.silent.send_replace(true);
    let ended = tokio::time::timeout(PATIENCE, running).await.expect("it ends by itself").expect("no panic");
    assert!(matches!(ended, Err(JoinError::Gone { .. })), "{ended:?}");
    assert!(is_empty(work_root.path()));
    // The service does not know yet.
    reaches(&mut client, &job, State::Starting).await;
    for id in service.supervisor().agents().ids() {
        service.supervisor().agents().leave(id);
    }
    assert_eq!(states(&mut client, &job).await.last(), Some(&State::Failed));
    service.stop().await;
}
