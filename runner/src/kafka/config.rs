//! What users configure, as librdkafka has it.
//!
//! Pipelines bring the properties of Kafka's Java clients, because their SDKs' own IO is in Java. Most have the same name in
//! librdkafka; some have another, some mean nothing here, and some cannot be had. Properties of librdkafka itself are
//! taken as they are.

use std::collections::BTreeMap;
use std::path::Path;

use rdkafka::ClientConfig;
use rdkafka::types::RDKafkaConfRes;

/// Why a configuration cannot be used. Tells names of properties, and values only of those that are no secrets.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// It is needed.
    #[error("the property {0} is missing")]
    Missing(&'static str),
    /// Nothing like it can be done.
    #[error("the property {name} is not supported: {why}")]
    Unsupported {
        /// The property.
        name: String,
        /// What to do instead.
        why: &'static str,
    },
    /// librdkafka does not know it, or does not take its value.
    #[error("the property {name} is not accepted: {why}")]
    Refused {
        /// The property.
        name: String,
        /// librdkafka's words.
        why: String,
    },
    /// A reference to a secret that leads nowhere.
    #[error("the property {name} refers to {what}, which {why}")]
    Secret {
        /// The property.
        name: String,
        /// The reference, without its value.
        what: String,
        /// What is wrong with it.
        why: String,
    },
    /// It does not make a client.
    #[error("no Kafka client can be made: {0}")]
    Client(String),
}

/// Kilobytes that the consumer of a worker may fetch ahead, of all partitions.
const FETCHED_AHEAD: usize = 64 << 10;

/// A property of our own: set to `false`, a read goes on where data was lost, from the first record that is there, and without
/// partitions that are gone.
pub(super) const FAIL_ON_DATA_LOSS: &str = "ferrobeam.fail.on.data.loss";

/// See [`FAIL_ON_DATA_LOSS`].
pub(super) fn fails_on_data_loss(user: &BTreeMap<String, String>) -> bool {
    said(user, FAIL_ON_DATA_LOSS).is_none_or(|fails| fails.trim() != "false")
}

/// Where a partition begins of which nothing is known: `auto.offset.reset`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reset {
    Earliest,
    Latest,
    None,
}

impl Reset {
    fn of(value: &str) -> Option<Reset> {
        match value {
            "earliest" | "smallest" | "beginning" => Some(Reset::Earliest),
            "latest" | "largest" | "end" => Some(Reset::Latest),
            "none" | "error" => Some(Reset::None),
            _ => None,
        }
    }

    /// What a user says; otherwise the default of Kafka's own consumers.
    pub(super) fn said(user: &BTreeMap<String, String>) -> Reset {
        said(user, "auto.offset.reset").and_then(|said| Reset::of(&said)).unwrap_or(Reset::Latest)
    }
}

/// Who a configuration is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Consumer,
    Producer,
}

/// What becomes of a property of the Java clients.
enum Meaning {
    /// It has this name.
    Name(&'static str),
    /// It has no effect that shows: how a client batches its own polls, which class decodes.
    Nothing,
    /// This runner does it.
    Ours,
    No(&'static str),
}

/// Properties of the Java clients that librdkafka does not have by the same name and meaning.
fn meaning(role: Role, name: &str) -> Option<Meaning> {
    use Meaning::{Name, No, Nothing, Ours};
    Some(match name {
        "key.deserializer" | "value.deserializer" | "key.serializer" | "value.serializer" => Nothing,
        "max.poll.records"
        | "default.api.timeout.ms"
        | "auto.include.jmx.reporter"
        | "metric.reporters"
        | "metrics.num.samples"
        | "metrics.recording.level"
        | "metrics.sample.window.ms"
        | "max.block.ms"
        | "exclude.internal.topics"
        | "config.providers"
        | "enable.metrics.push"
        | "partition.assignment.strategy"
        | "group.instance.id"
        | "group.protocol"
        | "group.remote.assignor"
        | "partitioner.adaptive.partitioning.enable"
        | "metadata.recovery.strategy" => Nothing,
        "enable.auto.commit" | "auto.commit.interval.ms" | "enable.partition.eof" | "enable.auto.offset.store" => Ours,
        "transactional.id" => Ours,
        "fetch.max.wait.ms" => Name("fetch.wait.max.ms"),
        "receive.buffer.bytes" => Name("socket.receive.buffer.bytes"),
        "send.buffer.bytes" => Name("socket.send.buffer.bytes"),
        "max.request.size" => Name("message.max.bytes"),
        "socket.connection.setup.timeout.max.ms" => Name("socket.connection.setup.timeout.ms"),
        "request.timeout.ms" if role == Role::Consumer => Name("socket.timeout.ms"),
        "ssl.truststore.certificates" => Name("ssl.ca.pem"),
        "ssl.keystore.certificate.chain" => Name("ssl.certificate.pem"),
        "ssl.keystore.key" => Name("ssl.key.pem"),
        "ssl.protocol"
        | "ssl.enabled.protocols"
        | "ssl.truststore.type"
        | "ssl.keystore.type"
        | "ssl.truststore.password" => Nothing,
        "interceptor.classes" => No("interceptors are Java classes"),
        "sasl.client.callback.handler.class" | "sasl.login.callback.handler.class" | "sasl.login.class" => {
            No("it names a Java class; for tokens of an identity provider set sasl.oauthbearer.method=oidc")
        }
        "sasl.kerberos.service.name" => No("Kerberos is not built in"),
        _ => return None,
    })
}

/// Reads as librdkafka's configuration what a reader configures.
pub(super) fn consumer(user: &BTreeMap<String, String>) -> Result<ClientConfig, ConfigError> {
    let mut config = translate(Role::Consumer, user)?;
    // Partitions are assigned by the runner, offsets are its state, and where to start is found out before.
    config.set("enable.auto.commit", "false").set("enable.auto.offset.store", "false");
    config.set("enable.partition.eof", "true").set("auto.offset.reset", "error");
    // As Java's consumer has it, and every pipeline that was written for that.
    default(&mut config, user, "isolation.level", "read_uncommitted");
    // A queue that was full is filled again as soon as there is room.
    default(&mut config, user, "fetch.queue.backoff.ms", "10");
    default(&mut config, user, "fetch.wait.max.ms", "100");
    // librdkafka's consumers do not work without.
    if !config.config_map().contains_key("group.id") {
        config.set("group.id", "ferrobeam");
    }
    Ok(config)
}

/// Bounds what is fetched ahead of so many partitions, which comes on top of the job's budget of memory: librdkafka's own bound,
/// of 64 MiB, is for each partition that has a queue of its own.
pub(super) fn bound(config: &mut ClientConfig, user: &BTreeMap<String, String>, partitions: usize) {
    let kilobytes = (FETCHED_AHEAD / partitions.max(1)).clamp(512, 16 << 10);
    default(config, user, "queued.max.messages.kbytes", &kilobytes.to_string());
}

/// As [`consumer`], for a writer.
pub(super) fn producer(user: &BTreeMap<String, String>) -> Result<ClientConfig, ConfigError> {
    let mut config = translate(Role::Producer, user)?;
    // Keys go to the partitions that Java's producer sends them to.
    default(&mut config, user, "partitioner", "murmur2_random");
    if user.get("acks").is_none_or(|acks| matches!(acks.as_str(), "all" | "-1")) {
        default(&mut config, user, "enable.idempotence", "true");
    }
    default(&mut config, user, "queue.buffering.max.kbytes", "32768");
    default(&mut config, user, "linger.ms", "5");
    Ok(config)
}

/// The group whose offsets a reader starts from and commits, if the user names one.
pub(super) fn group(user: &BTreeMap<String, String>) -> Option<String> {
    said(user, "group.id").filter(|group| !group.is_empty())
}

/// The prefix that a user wants the ids of transactions to have.
pub(crate) fn transactional_prefix(user: &BTreeMap<String, String>) -> Option<String> {
    said(user, "transactional.id").filter(|prefix| !prefix.is_empty())
}

/// Whether a read commits to its group by itself: `enable.auto.commit`. That is known before any reference is followed, so it has to
/// be written out.
pub fn commits_by_itself(user: &BTreeMap<String, String>) -> Result<bool, ConfigError> {
    match user.get("enable.auto.commit").map(|commits| commits.trim()) {
        None | Some("false") => Ok(false),
        Some("true") => Ok(true),
        Some(_) => {
            let why = "it is to be true or false, written out".to_owned();
            Err(ConfigError::Refused { name: "enable.auto.commit".to_owned(), why })
        }
    }
}

/// A property, with what it refers to. One that leads nowhere has failed the client by then.
fn said(user: &BTreeMap<String, String>, name: &str) -> Option<String> {
    resolve(name, user.get(name)?).ok()
}

/// Whether a configuration of a reader can be used, as far as that can be told without a broker and without its secrets.
pub fn check_consumer(user: &BTreeMap<String, String>) -> Result<(), ConfigError> {
    // No client: that would have threads, and go and look for brokers.
    consumer(&without_secrets(user))?.create_native_config().map(drop).map_err(refused)
}

/// As [`check_consumer`], of a writer.
pub fn check_producer(user: &BTreeMap<String, String>) -> Result<(), ConfigError> {
    producer(&without_secrets(user))?.create_native_config().map(drop).map_err(refused)
}

/// What librdkafka says of a configuration. It may repeat a value, so that is left out where it may be a secret.
pub(super) fn refused(error: rdkafka::error::KafkaError) -> ConfigError {
    match error {
        rdkafka::error::KafkaError::ClientConfig(RDKafkaConfRes::RD_KAFKA_CONF_UNKNOWN, _, name, _) => {
            let why = "neither Kafka's clients nor librdkafka have one of this name".to_owned();
            ConfigError::Refused { name, why }
        }
        rdkafka::error::KafkaError::ClientConfig(_, why, name, _) => {
            let why = if is_secret(&name) { "its value is not what it should be".to_owned() } else { why };
            ConfigError::Refused { name, why }
        }
        other => ConfigError::Client(other.to_string()),
    }
}

/// Whether a property's value must not be shown.
fn is_secret(name: &str) -> bool {
    ["password", "secret", "jaas", "token", "ssl.key", "keystore.key"].iter().any(|part| name.contains(part))
}

fn default(config: &mut ClientConfig, user: &BTreeMap<String, String>, name: &str, value: &str) {
    if !user.contains_key(name) && !config.config_map().contains_key(name) {
        config.set(name, value);
    }
}

fn translate(role: Role, user: &BTreeMap<String, String>) -> Result<ClientConfig, ConfigError> {
    let mut config = ClientConfig::new();
    for (name, value) in user {
        let value = resolve(name, value)?;
        match name.as_str() {
            "sasl.jaas.config" => jaas(&value, &mut config)?,
            "ssl.truststore.location" => {
                pem_only(name, user.get("ssl.truststore.type"), &value)?;
                config.set("ssl.ca.location", value);
            }
            "ssl.keystore.location" if user.get("ssl.keystore.type").is_some_and(|kind| kind == "PEM") => {
                config.set("ssl.certificate.location", &*value).set("ssl.key.location", value);
            }
            "ssl.endpoint.identification.algorithm" if value.is_empty() => {
                config.set(name, "none");
            }
            FAIL_ON_DATA_LOSS if role == Role::Consumer => {
                if !matches!(value.trim(), "true" | "false") {
                    let why = "it is to be true or false".to_owned();
                    return Err(ConfigError::Refused { name: name.clone(), why });
                }
            }
            "auto.offset.reset" => {
                if Reset::of(&value).is_none() {
                    let why = format!("it is {value}: there are earliest, latest and none");
                    return Err(ConfigError::Refused { name: name.clone(), why });
                }
            }
            "partitioner.ignore.keys" => {
                if value != "false" {
                    let why = "records of a key go to one partition here; give them no key";
                    return Err(ConfigError::Unsupported { name: name.clone(), why });
                }
            }
            "buffer.memory" => {
                let kilobytes = value.parse::<u64>().map_err(|_| ConfigError::Refused {
                    name: name.clone(),
                    why: "it is to be a number of bytes".to_owned(),
                })?;
                config.set("queue.buffering.max.kbytes", (kilobytes / 1024).max(1).to_string());
            }
            "partitioner.class" => {
                config.set("partitioner", partitioner(&value)?);
            }
            _ => match meaning(role, name) {
                None => {
                    config.set(name, value);
                }
                Some(Meaning::Name(other)) => {
                    config.set(other, value);
                }
                Some(Meaning::Nothing | Meaning::Ours) => {}
                Some(Meaning::No(why)) => return Err(ConfigError::Unsupported { name: name.clone(), why }),
            },
        }
    }
    if !config.config_map().contains_key("bootstrap.servers")
        && !config.config_map().contains_key("metadata.broker.list")
    {
        return Err(ConfigError::Missing("bootstrap.servers"));
    }
    no_kerberos(&config)?;
    Ok(config)
}

/// Kerberos is not built in, and it is what a client takes that names no mechanism.
fn no_kerberos(config: &ClientConfig) -> Result<(), ConfigError> {
    let said = |name: &str| config.config_map().get(name).copied();
    let sasl = said("security.protocol").is_some_and(|protocol| protocol.to_ascii_uppercase().starts_with("SASL_"));
    let mechanism = said("sasl.mechanism").or_else(|| said("sasl.mechanisms"));
    if sasl && mechanism.is_none_or(|mechanism| mechanism == "GSSAPI") {
        return Err(ConfigError::Unsupported {
            name: "sasl.mechanism".to_owned(),
            why: "GSSAPI, which clients take when none is named, is Kerberos, and not built in: there are PLAIN, \
                  SCRAM-SHA-256, SCRAM-SHA-512 and OAUTHBEARER",
        });
    }
    Ok(())
}

fn pem_only(name: &str, kind: Option<&String>, path: &str) -> Result<(), ConfigError> {
    if kind.is_some_and(|kind| kind == "PEM") || (kind.is_none() && path.ends_with(".pem")) {
        return Ok(());
    }
    Err(ConfigError::Unsupported {
        name: name.to_owned(),
        why: "of truststores only PEM files can be read: export the certificates (keytool -exportcert -rfc) and set \
              ssl.truststore.type=PEM, or ssl.ca.location",
    })
}

fn partitioner(class: &str) -> Result<&'static str, ConfigError> {
    Ok(match class {
        "org.apache.kafka.clients.producer.internals.DefaultPartitioner"
        | "org.apache.kafka.clients.producer.UniformStickyPartitioner"
        | "org.apache.kafka.clients.producer.internals.BuiltInPartitioner" => "murmur2_random",
        "org.apache.kafka.clients.producer.RoundRobinPartitioner" => "random",
        _ => {
            return Err(ConfigError::Unsupported {
                name: "partitioner.class".to_owned(),
                why: "it names a Java class that is not one of Kafka's own; librdkafka's partitioner is set by `partitioner`",
            });
        }
    })
}

/// `org.apache.kafka.common.security.plain.PlainLoginModule required username="alice" password="secret";`
fn jaas(line: &str, config: &mut ClientConfig) -> Result<(), ConfigError> {
    let name = || "sasl.jaas.config".to_owned();
    let module = line.split_whitespace().next().unwrap_or_default();
    match module.rsplit('.').next().unwrap_or_default() {
        "PlainLoginModule" | "ScramLoginModule" => {
            for (key, property) in [("username", "sasl.username"), ("password", "sasl.password")] {
                let value = jaas_option(line, key)
                    .ok_or_else(|| ConfigError::Refused { name: name(), why: format!("it has no {key}=\"...\"") })?;
                config.set(property, value);
            }
            Ok(())
        }
        "OAuthBearerLoginModule" => {
            let options =
                [("clientId", "client.id"), ("clientSecret", "client.secret"), ("scope", "scope")].into_iter();
            let mut found = false;
            for (key, property) in options {
                if let Some(value) = jaas_option(line, key) {
                    config.set(format!("sasl.oauthbearer.{property}"), value);
                    found = true;
                }
            }
            if found {
                config.set("sasl.oauthbearer.method", "oidc");
            }
            Ok(())
        }
        _ => Err(ConfigError::Unsupported {
            name: name(),
            why: "of login modules PlainLoginModule, ScramLoginModule and OAuthBearerLoginModule are known",
        }),
    }
}

/// The value of `key="..."`, in which a backslash takes its meaning from the next character.
fn jaas_option(line: &str, key: &str) -> Option<String> {
    let mut rest = line;
    loop {
        let at = rest.find(key)?;
        let before = rest[..at].chars().next_back();
        let after = rest[at + key.len()..].trim_start();
        rest = &rest[at + key.len()..];
        if before.is_some_and(|c| !c.is_whitespace()) {
            continue;
        }
        let Some(value) = after.strip_prefix('=') else { continue };
        let value = value.trim_start();
        let Some(quoted) = value.strip_prefix('"') else {
            return Some(value.split([' ', ';', '\t']).next().unwrap_or_default().to_owned());
        };
        let mut result = String::new();
        let mut chars = quoted.chars();
        while let Some(next) = chars.next() {
            match next {
                '"' => return Some(result),
                '\\' => result.extend(chars.next()),
                _ => result.push(next),
            }
        }
        return None;
    }
}

/// A configuration whose references are not followed: the machine that checks it need not have what they lead to.
fn without_secrets(user: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    let refers = |value: &String| references(value).next().is_some();
    let kept = user.iter().filter(|(_, value)| !refers(value));
    kept.map(|(name, value)| (name.clone(), value.clone())).collect()
}

/// A reference to a secret, where it stands in a value.
struct Reference<'a> {
    /// With its braces.
    whole: &'a str,
    provider: &'a str,
    /// What stands behind the provider's name.
    place: &'a str,
}

/// `${env:NAME}` and the like.
fn references(value: &str) -> impl Iterator<Item = Reference<'_>> {
    let mut rest = value;
    std::iter::from_fn(move || {
        loop {
            let start = rest.find("${")?;
            let end = start + rest[start..].find('}')?;
            let whole = &rest[start..=end];
            rest = &rest[end + 1..];
            if let Some((provider, place)) = whole[2..whole.len() - 1].split_once(':')
                && matches!(provider, "env" | "file" | "directory")
            {
                return Some(Reference { whole, provider, place });
            }
        }
    })
}

/// Follows the references in a property's value, on the machine that it is used on.
fn resolve(name: &str, value: &str) -> Result<String, ConfigError> {
    let mut resolved = value.to_owned();
    for Reference { whole, provider, place } in references(value) {
        let failed = |why: String| ConfigError::Secret { name: name.to_owned(), what: whole.to_owned(), why };
        let cannot = |error: std::io::Error| failed(format!("cannot be read: {error}"));
        let secret = match provider {
            "env" => std::env::var(place).map_err(|_| failed("is not set".to_owned()))?,
            "directory" => {
                let (folder, file) = place.rsplit_once(':').ok_or_else(|| failed("names no file".to_owned()))?;
                let secret = std::fs::read_to_string(Path::new(folder).join(file)).map_err(cannot)?;
                secret.trim_end_matches(['\r', '\n']).to_owned()
            }
            _ => {
                let (path, key) = place.rsplit_once(':').ok_or_else(|| failed("names no key".to_owned()))?;
                let text = std::fs::read_to_string(path).map_err(cannot)?;
                let found = text.lines().filter(|line| !line.trim_start().starts_with('#')).find_map(|line| {
                    let (found, value) = line.split_once('=')?;
                    (found.trim() == key).then(|| value.trim().to_owned())
                });
                found.ok_or_else(|| failed("is not in the file".to_owned()))?
            }
        };
        resolved = resolved.replace(whole, &secret);
    }
    Ok(resolved)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn properties(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    fn get<'a>(config: &'a ClientConfig, name: &str) -> Option<&'a str> {
        config.config_map().get(name).copied()
    }

    #[test]
    fn a_name_that_is_no_property_and_kerberos_are_said_to_be() {
        let said = |pairs: &[(&str, &str)]| {
            let all = properties(&[&[("bootstrap.servers", "localhost:9")], pairs].concat());
            check_consumer(&all).expect_err("it cannot be used").to_string()
        };
        // The name is wrong, not the value, which is a secret and not shown.
        let misspelt = said(&[("sasl.jaas.confg", "hidden")]);
        assert!(misspelt.contains("sasl.jaas.confg") && misspelt.contains("of this name"), "{misspelt}");
        assert!(!misspelt.contains("hidden"), "{misspelt}");
        for pairs in [
            vec![("security.protocol", "SASL_SSL")],
            vec![("security.protocol", "SASL_PLAINTEXT"), ("sasl.mechanism", "GSSAPI")],
        ] {
            let kerberos = said(&pairs);
            assert!(kerberos.contains("Kerberos") && kerberos.contains("SCRAM-SHA-256"), "{kerberos}");
        }
    }

    #[test]
    fn properties_of_java_mean_what_they_mean_there() {
        let config = consumer(&properties(&[
            ("bootstrap.servers", "localhost:9"),
            ("group.id", "g"),
            ("auto.offset.reset", "earliest"),
            ("enable.auto.commit", "true"),
            ("max.poll.records", "500"),
            ("fetch.max.wait.ms", "250"),
            ("key.deserializer", "org.apache.kafka.common.serialization.ByteArrayDeserializer"),
            ("security.protocol", "SASL_PLAINTEXT"),
            ("sasl.mechanism", "SCRAM-SHA-256"),
            (
                "sasl.jaas.config",
                "org.apache.kafka.common.security.scram.ScramLoginModule required username=\"al\\\"ice\" password = \"s;e cret\";",
            ),
        ]))
        .unwrap();
        assert_eq!(get(&config, "fetch.wait.max.ms"), Some("250"));
        assert_eq!(get(&config, "auto.offset.reset"), Some("error"));
        assert_eq!(get(&config, "enable.auto.commit"), Some("false"));
        assert_eq!(get(&config, "isolation.level"), Some("read_uncommitted"));
        assert_eq!(get(&config, "sasl.username"), Some("al\"ice"));
        // What it shows of itself hides it.
        assert_eq!(config.get("sasl.password"), Some("s;e cret"));
        assert_eq!(get(&config, "max.poll.records"), None);
        let config = producer(&properties(&[("bootstrap.servers", "localhost:9"), ("acks", "1")])).unwrap();
        assert_eq!(get(&config, "partitioner"), Some("murmur2_random"));
        assert_eq!(get(&config, "enable.idempotence"), None);
    }

    #[test]
    fn what_cannot_be_had_is_named() {
        let said = |pairs: &[(&str, &str)]| {
            let mut all = properties(&[("bootstrap.servers", "localhost:9")]);
            all.extend(properties(pairs));
            check_consumer(&all).map_err(|error| error.to_string())
        };
        assert_eq!(said(&[("group.id", "g"), ("security.protocol", "SSL")]), Ok(()));
        assert_eq!(
            said(&[("no.such.property", "1")]).unwrap_err(),
            "the property no.such.property is not accepted: neither Kafka's clients nor librdkafka have one of this name"
        );
        let truststore = said(&[("ssl.truststore.location", "/keys/trust.jks")]).unwrap_err();
        assert!(
            truststore.contains("ssl.truststore.location is not supported: of truststores only PEM"),
            "{truststore}"
        );
        assert_eq!(said(&[(FAIL_ON_DATA_LOSS, "false")]), Ok(()));
        assert!(said(&[(FAIL_ON_DATA_LOSS, "no")]).unwrap_err().ends_with("it is to be true or false"));
        let word = |name: &str| {
            rdkafka::error::KafkaError::ClientConfig(
                RDKafkaConfRes::RD_KAFKA_CONF_INVALID,
                "hunter2 is no password".to_owned(),
                name.to_owned(),
                "hunter2".to_owned(),
            )
        };
        for name in ["sasl.password", "ssl.key.pem", "ssl.keystore.password", "sasl.oauthbearer.client.secret"] {
            assert!(!refused(word(name)).to_string().contains("hunter2"), "{name}");
        }
        assert!(refused(word("acks")).to_string().contains("hunter2"));
        assert_eq!(check_producer(&BTreeMap::new()).unwrap_err(), ConfigError::Missing("bootstrap.servers"));
    }

    #[test]
    fn secrets_come_from_the_environment_or_a_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("kafka.properties");
        std::fs::write(&path, "# password=no\npassword = hunter2\n").unwrap();
        std::fs::write(dir.path().join("user"), "alice\n").unwrap();
        let path = path.display();
        assert_eq!(resolve("sasl.password", &format!("${{file:{path}:password}}")).unwrap(), "hunter2");
        let folder = dir.path().display();
        let line = format!("module username=\"${{directory:{folder}:user}}\" password=\"${{file:{path}:password}}\";");
        assert_eq!(resolve("sasl.jaas.config", &line).unwrap(), "module username=\"alice\" password=\"hunter2\";");
        // Cargo sets it for every test.
        assert_eq!(resolve("client.id", "${env:CARGO_PKG_NAME}").unwrap(), "ferrobeam-runner");
        let missing = resolve("sasl.password", "${env:FERROBEAM_NO_SUCH_VARIABLE}").unwrap_err().to_string();
        assert_eq!(missing, "the property sasl.password refers to ${env:FERROBEAM_NO_SUCH_VARIABLE}, which is not set");
        // Of no provider that is known: it is a value like any other.
        assert_eq!(resolve("client.id", "a${b}c${d:e}").unwrap(), "a${b}c${d:e}");
        // Whoever checks a pipeline need not have its secrets.
        let config = [("bootstrap.servers", "localhost:9"), ("sasl.password", "${env:FERROBEAM_NO_SUCH_VARIABLE}")];
        assert_eq!(check_consumer(&properties(&config)), Ok(()));
    }
}
