//! Messages of Protocol Buffers, by what a user gives of them: a file of descriptors, or their source.

use std::fs::File;
use std::io::Read;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ferrobeam_runner::kafka::ProtoMessage;
use prost::Message;
use prost_reflect::DescriptorPool;
use protox::file::{ChainFileResolver, FileResolver, GoogleFileResolver};

use super::configuration::ExpansionError;

/// The most bytes of descriptors.
const MOST_BYTES: u64 = 4 << 20;

/// The name that the source is compiled under.
const SOURCE: &str = "schema.proto";

/// The message of this name: in the descriptors at `path` (as `protoc --include_imports --descriptor_set_out` writes them), or
/// in the source `schema`.
pub(super) fn message(path: Option<&str>, schema: Option<&str>, name: &str) -> Result<ProtoMessage, ExpansionError> {
    let bytes = match (path, schema) {
        (Some(path), None) => of_file(path)?,
        (None, Some(schema)) => compiled(schema)?,
        (None, None) => {
            let what =
                "the format PROTO needs a schema, which is the source of a .proto file, or a file_descriptor_path";
            return Err(ExpansionError(what.to_owned()));
        }
        (Some(_), Some(_)) => {
            let what = "the format PROTO takes a schema or a file_descriptor_path, and here are both";
            return Err(ExpansionError(what.to_owned()));
        }
    };
    let pool = DescriptorPool::decode(&bytes[..])
        .map_err(|error| ExpansionError(format!("file_descriptor_path: these are no whole descriptors: {error}")))?;
    let all: Vec<String> = pool.all_messages().map(|message| message.full_name().to_owned()).collect();
    // By its last name too, if there is but one of that.
    let is_it = |full: &&String| *full == name || full.rsplit('.').next() == Some(name);
    let found = pool.get_message_by_name(name).map(|message| message.full_name().to_owned());
    let found = found.or_else(|| match all.iter().filter(is_it).collect::<Vec<_>>()[..] {
        [only] => Some(only.clone()),
        _ => None,
    });
    let name = found.ok_or_else(|| {
        ExpansionError(format!(
            "message_name: there is no single message {name}, of those there are {}",
            all.join(", ")
        ))
    })?;
    Ok(ProtoMessage { descriptors: STANDARD.encode(&bytes), name })
}

fn of_file(path: &str) -> Result<Vec<u8>, ExpansionError> {
    let refused = |what: String| ExpansionError(format!("file_descriptor_path: {path}: {what}"));
    let local = path.strip_prefix("file://").unwrap_or(path);
    if local.contains("://") {
        return Err(refused("it is read by the job service, from a local file: copy it there".to_owned()));
    }
    // Devices and pipes have no end, or none that comes.
    let metadata = std::fs::metadata(local).map_err(|error| refused(error.to_string()))?;
    if !metadata.is_file() {
        return Err(refused("it is no file".to_owned()));
    }
    let mut bytes = Vec::new();
    let file = File::open(local).map_err(|error| refused(error.to_string()))?;
    file.take(MOST_BYTES + 1).read_to_end(&mut bytes).map_err(|error| refused(error.to_string()))?;
    if bytes.len() as u64 > MOST_BYTES {
        return Err(refused(format!("it has more than the {MOST_BYTES} bytes that descriptors have at most")));
    }
    Ok(bytes)
}

/// The descriptors that a source comes to, with those of Google's that it imports.
fn compiled(source: &str) -> Result<Vec<u8>, ExpansionError> {
    let refused = |error: protox::Error| ExpansionError(format!("schema: {error}"));
    let mut files = ChainFileResolver::new();
    files.add(Source(source.to_owned()));
    files.add(GoogleFileResolver::new());
    let mut compiler = protox::Compiler::with_file_resolver(files);
    compiler.include_imports(true).open_file(SOURCE).map_err(refused)?;
    Ok(compiler.file_descriptor_set().encode_to_vec())
}

struct Source(String);

impl FileResolver for Source {
    fn open_file(&self, name: &str) -> Result<protox::file::File, protox::Error> {
        if name == SOURCE {
            return protox::file::File::from_source(name, &self.0);
        }
        Err(protox::Error::file_not_found(name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCHEMA: &str = r#"
        syntax = "proto3";
        package shop;
        import "google/protobuf/timestamp.proto";
        message Order { int64 id = 1; google.protobuf.Timestamp at = 2; }
    "#;

    #[test]
    fn a_message_is_found_by_its_name() {
        let by_source = message(None, Some(SCHEMA), "shop.Order").unwrap();
        assert_eq!(message(None, Some(SCHEMA), "Order").unwrap(), by_source);
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), STANDARD.decode(&by_source.descriptors).unwrap()).unwrap();
        let path = file.path().to_str().unwrap();
        assert_eq!(message(Some(path), None, "shop.Order").unwrap(), by_source);
        assert_eq!(message(Some(&format!("file://{path}")), None, "shop.Order").unwrap(), by_source);
    }

    #[test]
    fn what_is_wrong_is_named() {
        let said = |path, schema, name| message(path, schema, name).unwrap_err().to_string();
        assert!(said(None, Some(SCHEMA), "Other").starts_with("message_name: there is no single message Other"));
        assert!(said(None, Some("message {"), "A").starts_with("schema: "));
        assert!(said(None, Some("import \"other.proto\";"), "A").contains("other.proto"));
        assert!(said(None, None, "A").starts_with("the format PROTO needs a schema"));
        assert!(said(Some("gs://bucket/file"), None, "A").contains("copy it there"));
        assert!(said(Some("/dev/zero"), None, "A").ends_with("it is no file"));
        assert!(said(Some("/nowhere"), None, "A").starts_with("file_descriptor_path: /nowhere: "));
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), b"no descriptors").unwrap();
        assert!(said(file.path().to_str(), None, "A").contains("these are no whole descriptors"));
    }
}
