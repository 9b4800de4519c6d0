//! The coders against Beam's own vectors: every example of `standard_coders.yaml` in the installed Python SDK that has
//! a nested encoding must be walked to exactly its end.

use std::collections::BTreeMap;
use std::process::Command;

use ferrobeam_proto::urns::standard_coders as urns;
use ferrobeam_runner::element::{ElementCoder, ElementError, WireCoder};
use ferrobeam_runner::time::Timestamp;
use ferrobeam_runner::windowing::WindowCoder;
use serde_json::Value;

/// Prints the file as JSON, with the encodings as lists of bytes.
const PRINT: &str = r#"
import json, os, apache_beam, yaml
path = os.path.join(os.path.dirname(apache_beam.__file__), "portability", "api", "standard_coders.yaml")
sections = []
for section in yaml.safe_load_all(open(path, encoding="utf-8")):
    section["examples"] = [[list(k.encode("latin-1")), v] for k, v in section["examples"].items()]
    section["coder"].pop("payload", None)
    sections.append(section)
print(json.dumps(sections))
"#;

fn sections() -> Vec<Value> {
    let python = std::env::var("PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let output = Command::new(&python).args(["-c", PRINT]).output().expect("Python must be installed for this test");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{python} must have apache-beam and PyYAML for this test:\n{errors}");
    serde_json::from_slice(&output.stdout).expect("the script prints JSON")
}

/// What the runner sees of a coder; a coder that it does not know is in a length prefix.
fn wire(coder: &Value) -> Option<WireCoder> {
    let component = |index: usize| wire(&coder["components"][index]).map(Box::new);
    Some(match coder["urn"].as_str()? {
        urns::BYTES | urns::STRING_UTF8 | urns::LENGTH_PREFIX => WireCoder::Prefixed,
        urns::BOOL => WireCoder::Bool,
        urns::VARINT => WireCoder::VarInt,
        urns::DOUBLE => WireCoder::Double,
        urns::KV => WireCoder::Kv(component(0)?, component(1)?),
        urns::ITERABLE => WireCoder::Iterable(component(0)?),
        urns::STATE_BACKED_ITERABLE => WireCoder::StateBackedIterable(component(0)?),
        urns::NULLABLE => WireCoder::Nullable(component(0)?),
        urns::SHARDED_KEY => WireCoder::ShardedKey(component(0)?),
        urns::GLOBAL_WINDOW => WireCoder::GlobalWindow,
        urns::INTERVAL_WINDOW => WireCoder::IntervalWindow,
        urns::CUSTOM_WINDOW => WireCoder::CustomWindow(component(0)?),
        _ => return None,
    })
}

fn window(coder: &Value) -> Option<WindowCoder> {
    match wire(coder)? {
        WireCoder::GlobalWindow => Some(WindowCoder::Global),
        WireCoder::IntervalWindow => Some(WindowCoder::Interval),
        WireCoder::CustomWindow(window) => Some(WindowCoder::Custom(window)),
        _ => None,
    }
}

fn bytes(example: &Value) -> Vec<u8> {
    let bytes = example[0].as_array().expect("a list of bytes");
    bytes.iter().map(|byte| byte.as_u64().and_then(|byte| u8::try_from(byte).ok()).expect("a byte")).collect()
}

/// The end of the encoding is found, whatever follows, and not before it is there.
fn check(what: &str, encoded: &[u8], skip: impl Fn(&[u8]) -> Result<usize, ElementError>) {
    assert_eq!(skip(encoded), Ok(encoded.len()), "{what}: {encoded:?}");
    let followed = [encoded, &[0xff; 9]].concat();
    assert_eq!(skip(&followed), Ok(encoded.len()), "{what}: {encoded:?}, followed by more");
    for end in 0..encoded.len() {
        assert_eq!(skip(&encoded[..end]), Err(ElementError::Incomplete), "{what}: {encoded:?} up to {end}");
    }
}

#[test]
fn beams_vectors_are_walked() {
    let mut checked: BTreeMap<String, usize> = BTreeMap::new();
    for section in sections() {
        let coder = &section["coder"];
        let urn = coder["urn"].as_str().expect("a coder has a URN");
        // Elements on the data channel are nested; the outer form of a value never reaches the runner.
        if section["nested"] == Value::Bool(false) {
            continue;
        }
        for example in section["examples"].as_array().expect("examples") {
            let encoded = bytes(example);
            if urn == urns::WINDOWED_VALUE {
                let value = wire(&coder["components"][0]).expect("a known value coder");
                let window = window(&coder["components"][1]).expect("a known window coder");
                let element = ElementCoder { value, window };
                check(urn, &encoded, |bytes| element.skip(bytes));
                let view = element.parse(&encoded).expect("a whole element");
                assert_eq!(Some(view.timestamp.0), example[1]["timestamp"].as_i64());
                assert_eq!(Some(view.windows.len()), example[1]["windows"].as_array().map(Vec::len));
                let ends: Vec<Timestamp> = view
                    .windows
                    .clone()
                    .map(|window| element.window.max_timestamp(window).expect("a window"))
                    .collect();
                for (end, window) in ends.iter().zip(example[1]["windows"].as_array().expect("windows")) {
                    let expected = window["end"].as_i64().map_or(Timestamp::END_OF_GLOBAL_WINDOW.0, |end| end - 1);
                    assert_eq!(end.0, expected);
                }
                assert_eq!(view.pane, [0x0f]);
                assert_eq!(element.value.skip(view.value), Ok(view.value.len()));
            } else if let Some(wire) = wire(coder) {
                check(urn, &encoded, |bytes| wire.skip(bytes));
                if let WireCoder::Kv(key, value) = &wire {
                    let (left, right) = wire.key_value(&encoded).expect("a pair");
                    assert_eq!((key.skip(left), value.skip(right)), (Ok(left.len()), Ok(right.len())));
                }
            } else {
                continue;
            }
            *checked.entry(urn.to_owned()).or_default() += 1;
        }
    }
    // The vectors have examples of all that the runner walks, but for length prefixes.
    let walked = [
        urns::BYTES,
        urns::STRING_UTF8,
        urns::KV,
        urns::BOOL,
        urns::VARINT,
        urns::DOUBLE,
        urns::ITERABLE,
        urns::STATE_BACKED_ITERABLE,
        urns::NULLABLE,
        urns::SHARDED_KEY,
        urns::GLOBAL_WINDOW,
        urns::INTERVAL_WINDOW,
        urns::CUSTOM_WINDOW,
        urns::WINDOWED_VALUE,
    ];
    for urn in walked {
        assert!(checked.contains_key(urn), "no example of {urn} was checked");
    }
}
