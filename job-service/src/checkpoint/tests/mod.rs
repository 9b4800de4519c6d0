//! Tests against real stores, and against one that fails.
//!
//! Most run on every store that is at hand: memory, a local folder, a small server of our own that the clients for
//! Amazon and Google talk to, and what `FERROBEAM_TEST_STORES` names: stores separated by `;`, each a URL and its
//! options separated by spaces. Each test works in a folder of its own there. For moto (`pip install 'moto[server]'`,
//! `moto_server -p 5555`) with a bucket `test`:
//!
//! ```text
//! FERROBEAM_TEST_STORES='s3://test AWS_ENDPOINT_URL=http://127.0.0.1:5555 AWS_ALLOW_HTTP=true AWS_REGION=us-east-1
//!   AWS_ACCESS_KEY_ID=test AWS_SECRET_ACCESS_KEY=test'
//! ```
//!
//! versitygw is the same with its own keys; azurite is `az://test` with `AZURE_STORAGE_USE_EMULATOR=true` and
//! `AZURE_ALLOW_HTTP=true`. Keys must be given: without them the client asks the cloud's metadata address.

mod files;
mod histories;
mod journal;
mod objects;
mod opening;
mod wire;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use object_store::memory::InMemory;

use super::faults::{Dice, Faulty, Rates};
use super::*;
use crate::job::{Generation, JobId};

/// Quick: tests wait for nobody.
fn limits() -> Limits {
    Limits { attempts: 4, pause: Duration::from_millis(1), operation: Duration::from_secs(60), ..Limits::default() }
}

fn job() -> JobId {
    JobId::named("job-1")
}

fn local(folder: &Path) -> Storage {
    let url = url::Url::from_directory_path(folder).expect("an absolute path");
    Storage::open_with(url.as_str(), &Options::none(), limits()).expect("it opens")
}

fn faulty(rates: Rates, seed: u64) -> (Storage, Storage) {
    let inner = Arc::new(InMemory::new());
    (Storage::over(Faulty::new(inner.clone(), rates, seed), limits()), Storage::over(inner, limits()))
}

/// A storage that fails, hangs and lies now and then, and the same one without that.
pub(crate) fn unreliable(seed: u64) -> (Storage, Storage) {
    let rates = Rates {
        fails: 200,
        done_but_failed: 100,
        lies_exists: 50,
        done_but_exists: 100,
        fails_puts_and_gets: 100,
        hangs: 10,
        yields: 2,
        ..Rates::default()
    };
    faulty(rates, seed)
}

async fn on_every_store<F: Future<Output = ()>>(test: impl Fn(Storage) -> F) {
    test(Storage::in_memory()).await;
    let folder = tempfile::tempdir().expect("a temporary directory");
    test(local(folder.path())).await;
    let server = wire::Server::start().await;
    test(server.amazon()).await;
    test(server.google()).await;
    let named = std::env::var("FERROBEAM_TEST_STORES").unwrap_or_default();
    for store in named.split(';').filter(|store| !store.trim().is_empty()) {
        let mut words = store.split_whitespace();
        let url = words.next().expect("a URL");
        let options = words.fold(Options::none(), |options, option| {
            let (name, value) = option.split_once('=').expect("NAME=value");
            options.with(name, value).expect("given once")
        });
        let storage = Storage::open_with(url, &options, limits()).expect("it opens");
        println!("on {url}");
        test(storage.within(&format!("test-{}", Nonce::new()))).await;
    }
}

fn manifest(writer: &Writer, epoch: Epoch, files: Vec<FileRef>) -> Manifest {
    Manifest {
        job: job(),
        name: "a job".into(),
        generation: writer.generation(),
        epoch,
        created: 0,
        kind: Kind::Checkpoint,
        key_groups: 65_536,
        shards: 1,
        plan: serde_json::Value::Null,
        operators: vec![Part { operator: "Count".into(), shard: 0, shards: 1, files, records: 0 }],
        metrics: None,
    }
}

async fn begin(storage: &Storage) -> Writer {
    Journal::of(storage, &job()).expect("a good id").begin(Generation(1)).await.expect("it begins")
}

async fn restore_point(storage: &Storage) -> Option<Epoch> {
    let journal = Journal::of(storage, &job()).expect("a good id");
    journal.newest().await.expect("it is read").manifest.map(|manifest| manifest.epoch)
}

/// Runs on one thread, so that a seed decides everything.
fn on_one_thread(test: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime").block_on(test);
}
