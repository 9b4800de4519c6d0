//! What real servers answer at their worst, to the clients that are used in earnest: a small server of S3's and Google's
//! XML interfaces on this machine, with keys and a token that are fixed, so that no metadata address is asked for any.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::*;

/// What happens to a conditional write.
#[derive(Clone, Copy, Debug)]
enum Fault {
    /// It is stored, and the connection closed without an answer.
    StoredAndClosed,
    /// It is stored, and said to have failed.
    StoredAnd503,
    /// It is not stored, because of a conflict with another that is not there either.
    Conflict,
}

#[derive(Default)]
struct State {
    objects: BTreeMap<String, Bytes>,
    uploads: HashMap<String, BTreeMap<u32, Bytes>>,
    faults: VecDeque<Fault>,
    writes: u64,
}

/// The server; it ends with the runtime.
#[derive(Clone)]
pub(super) struct Server {
    address: std::net::SocketAddr,
    state: Arc<Mutex<State>>,
}

struct Request {
    method: String,
    key: String,
    query: HashMap<String, String>,
    conditional: bool,
    body: Bytes,
}

impl Server {
    pub(super) async fn start() -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let server = Server { address: listener.local_addr().expect("an address"), state: Arc::default() };
        let serving = server.clone();
        tokio::spawn(async move {
            while let Ok((connection, _)) = listener.accept().await {
                let server = serving.clone();
                tokio::spawn(async move { server.serve(connection).await });
            }
        });
        server
    }

    fn open(&self, url: &str, options: &[(&str, &str)]) -> Storage {
        let endpoint = format!("http://{}", self.address);
        let options = options.iter().fold(Options::none(), |options, (name, value)| {
            let value = if *value == "HERE" { endpoint.as_str() } else { *value };
            options.with(name, value).expect("once")
        });
        Storage::open_with(url, &options, limits()).expect("it opens")
    }

    pub(super) fn amazon(&self) -> Storage {
        let options = [
            ("AWS_ENDPOINT_URL", "HERE"),
            ("AWS_ALLOW_HTTP", "true"),
            ("AWS_REGION", "us-east-1"),
            ("AWS_ACCESS_KEY_ID", "test"),
            ("AWS_SECRET_ACCESS_KEY", "test"),
            ("AWS_DISABLE_BULK_DELETE", "true"),
        ];
        self.open("s3://bucket/amazon", &options)
    }

    pub(super) fn google(&self) -> Storage {
        let options = [("GOOGLE_BASE_URL", "HERE"), ("GOOGLE_ALLOW_HTTP", "true"), ("GOOGLE_BEARER_TOKEN", "test")];
        self.open("gs://bucket/google", &options)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn serve(&self, mut connection: TcpStream) {
        if let Some(request) = read(&mut connection).await
            && let Some(response) = self.answer(request)
        {
            let _ = connection.write_all(&response).await;
        }
    }

    /// `None`: the connection is closed.
    fn answer(&self, request: Request) -> Option<Vec<u8>> {
        let mut state = self.state();
        let Request { method, key, query, conditional, body } = request;
        if method == "GET" && query.contains_key("list-type") {
            return Some(response(200, 1, 0, list(&state, &query["prefix"]).as_bytes(), false));
        }
        state.writes += u64::from(method != "GET" && method != "HEAD");
        let version = state.writes;
        let ok = |body: &str| Some(response(200, version, body.len(), body.as_bytes(), false));
        let upload = query.get("uploadId").cloned();
        match (method.as_str(), upload) {
            ("GET" | "HEAD", _) => match state.objects.get(&key) {
                Some(object) => Some(response(200, 1, object.len(), object, method == "HEAD")),
                None => Some(response(404, 1, 0, b"", false)),
            },
            ("PUT", Some(upload)) => {
                let part = query["partNumber"].parse().expect("a number");
                state.uploads.entry(upload).or_default().insert(part, body);
                ok("")
            }
            ("PUT", None) => {
                let fault = if conditional { state.faults.pop_front() } else { None };
                let status = match fault {
                    Some(Fault::Conflict) => 409,
                    _ if conditional && state.objects.contains_key(&key) => 412,
                    _ => {
                        state.objects.insert(key, body);
                        200
                    }
                };
                match fault {
                    Some(Fault::StoredAndClosed) => None,
                    Some(Fault::StoredAnd503) => Some(response(503, version, 0, b"", false)),
                    _ => Some(response(status, version, 0, b"", false)),
                }
            }
            ("POST", None) => ok(&format!(
                "<InitiateMultipartUploadResult><UploadId>upload-{version}</UploadId></InitiateMultipartUploadResult>"
            )),
            ("POST", Some(upload)) => {
                let parts = state.uploads.remove(&upload).unwrap_or_default();
                let whole: Vec<u8> = parts.into_values().flatten().collect();
                state.objects.insert(key, whole.into());
                ok("<CompleteMultipartUploadResult><ETag>x</ETag></CompleteMultipartUploadResult>")
            }
            ("DELETE", Some(upload)) => {
                state.uploads.remove(&upload);
                Some(response(204, version, 0, b"", false))
            }
            ("DELETE", None) => {
                let status = if state.objects.remove(&key).is_some() { 204 } else { 404 };
                Some(response(status, version, 0, b"", false))
            }
            (method, _) => panic!("{method} is not served"),
        }
    }
}

fn list(state: &State, prefix: &str) -> String {
    let object = |(key, object): (&String, &Bytes)| {
        format!(
            "<Contents><Key>{key}</Key><Size>{}</Size><LastModified>2026-11-27T00:00:00.000Z</LastModified></Contents>",
            object.len()
        )
    };
    let found = state.objects.iter().filter(|(key, _)| key.starts_with(prefix));
    // Not in their order.
    format!("<ListBucketResult>{}</ListBucketResult>", found.rev().map(object).collect::<String>())
}

fn response(status: u16, version: u64, length: usize, body: &[u8], head: bool) -> Vec<u8> {
    let length = if head { length } else { body.len() };
    let header = format!(
        "HTTP/1.1 {status} x\r\ncontent-length: {length}\r\netag: \"{version}\"\r\nx-goog-generation: {version}\r\n\
         last-modified: Fri, 27 Nov 2026 00:00:00 GMT\r\nconnection: close\r\n\r\n"
    );
    [header.as_bytes(), if head { b"" } else { body }].concat()
}

async fn read(connection: &mut TcpStream) -> Option<Request> {
    let mut bytes = Vec::new();
    let end = loop {
        if connection.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
        if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            break end;
        }
    };
    let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
    let mut lines = head.lines();
    let mut first = lines.next()?.split(' ');
    let (method, target) = (first.next()?.to_owned(), first.next()?);
    let headers: HashMap<_, _> = lines
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| (name.to_ascii_lowercase(), value))
        .collect();
    let length: usize = headers.get("content-length").map_or(0, |length| length.parse().expect("a length"));
    let mut body = bytes[end + 4..].to_vec();
    while body.len() < length {
        if connection.read_buf(&mut body).await.ok()? == 0 {
            return None;
        }
    }
    let url = url::Url::parse("http://here").expect("a URL").join(target).expect("a path");
    let decoded =
        url::form_urlencoded::parse(url.path().replace('+', "%2B").as_bytes()).map(|(k, _)| k.into_owned()).next()?;
    let conditional = headers.contains_key("if-none-match")
        || headers.get("x-goog-if-generation-match").is_some_and(|generation| *generation == "0");
    Some(Request {
        method,
        key: decoded.strip_prefix("/bucket/").unwrap_or_default().to_owned(),
        query: url.query_pairs().into_owned().collect(),
        conditional,
        body: body.into(),
    })
}

/// The client sends a write again when it got no answer, and is told "already exists" of its own object.
#[tokio::test(flavor = "multi_thread")]
async fn a_writer_that_won_and_got_no_answer_learns_that_it_won() {
    for fault in [Fault::StoredAndClosed, Fault::StoredAnd503] {
        let server = Server::start().await;
        for storage in [server.amazon(), server.google()] {
            let body = Sealed::new(Nonce::new(), &"ours").expect("JSON");
            server.state().faults.push_back(fault);
            let claim = storage.create_once(&Key::test("m/1"), &body).await;
            assert!(matches!(claim, Claim::Won), "{fault:?} on {}: {claim:?}", storage.url());
            assert!(server.state().faults.is_empty());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_conflict_with_nobody_is_no_loss() {
    let server = Server::start().await;
    for storage in [server.amazon(), server.google()] {
        let body = Sealed::new(Nonce::new(), &"ours").expect("JSON");
        server.state().faults.push_back(Fault::Conflict);
        let claim = storage.create_once(&Key::test("m/1"), &body).await;
        assert!(matches!(claim, Claim::Won), "on {}: {claim:?}", storage.url());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_foreign_key_that_cannot_be_read_spoils_its_own_folder_only() {
    let server = Server::start().await;
    let storage = server.amazon();
    storage.put(&Key::test("f/1"), Bytes::new()).await.expect("written");
    storage.put(&Key::test("g/1"), Bytes::new()).await.expect("written");
    server.state().objects.insert("amazon/f//x".into(), Bytes::new());
    let error = storage.list(&Key::test("f")).await.expect_err("it hides what comes with it").to_string();
    assert!(error.contains("amazon/f//x") && error.contains("listing f"), "{error}");
    assert_eq!(storage.list(&Key::test("g")).await.expect("listed").len(), 1);
}
