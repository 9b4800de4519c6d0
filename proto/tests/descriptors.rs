//! Our declarations are those of Beam: every message, field, oneof, enum value, option, extension, service and method,
//! in both directions, compared with the descriptors in Beam's own Python package.
//!
//! The test needs that package, and fails without it. `PYTHON` names the interpreter; the default is `python3`.

mod facts;

use std::collections::BTreeSet;
use std::env;
use std::process::Command;

use facts::{Facts, differences, facts_of, files_in};
use ferrobeam_proto::{BEAM_VERSION, FILE_DESCRIPTOR_SET};
use prost::Message;
use prost_reflect::DescriptorPool;
use prost_types::FileDescriptorSet;

/// Runs the script in Beam's Python and returns the package's version and its descriptors.
fn beam_package() -> (String, DescriptorPool) {
    let python = env::var("PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let advice = format!(
        "This test compares with Beam's own package. Install it with `{python} -m pip install \
         apache-beam=={BEAM_VERSION}`, or let PYTHON name an interpreter that has it."
    );
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/beam_descriptors.py");
    let output = match Command::new(&python).arg(script).output() {
        Ok(output) => output,
        Err(error) => panic!("cannot run {python}: {error}. {advice}"),
    };
    if !output.status.success() {
        panic!("{python} {script} failed: {}\n{advice}", String::from_utf8_lossy(&output.stderr).trim());
    }
    let border = output.stdout.iter().position(|byte| *byte == b'\n').expect("the script prints a version first");
    let version = String::from_utf8_lossy(&output.stdout[..border]).into_owned();
    assert_eq!(version, BEAM_VERSION, "{python} has another version of apache-beam. {advice}");
    let pool = DescriptorPool::decode(&output.stdout[border + 1..]).expect("Beam's descriptors are well formed");
    (version, pool)
}

fn our_pool() -> DescriptorPool {
    DescriptorPool::decode(FILE_DESCRIPTOR_SET).expect("our descriptors are well formed")
}

/// The packages we declare.
fn our_packages(pool: &DescriptorPool) -> Vec<String> {
    let packages: BTreeSet<_> = pool.files().map(|file| file.package_name().to_owned()).collect();
    packages.into_iter().filter(|package| package.starts_with("org.apache.beam.")).collect()
}

fn our_facts(pool: &DescriptorPool) -> Facts {
    facts_of(files_in(pool, &our_packages(pool)).into_iter())
}

#[test]
fn declarations_are_those_of_beam() {
    let ours = our_pool();
    let (version, theirs) = beam_package();
    // By package and not by file name, so that a file which Beam adds to one of these packages is noticed.
    let theirs = facts_of(files_in(&theirs, &our_packages(&ours)).into_iter());
    let ours = our_facts(&ours);

    let found = differences(&ours, &theirs);
    assert!(found.is_empty(), "{} differences from Beam {version}:\n{}", found.len(), found.join("\n"));
}

#[test]
fn the_packages_are_those_of_the_runner() {
    let expected = ["expansion", "fn_execution", "interactive", "job_management", "pipeline"];
    assert_eq!(our_packages(&our_pool()), expected.map(|name| format!("org.apache.beam.model.{name}.v1")));
}

/// The facts after `edit` changed our declarations, against those before.
fn differences_after(edit: impl FnOnce(&mut FileDescriptorSet)) -> Vec<String> {
    // Decoded by prost, which drops extensions: so both sides have none.
    let mut set = FileDescriptorSet::decode(FILE_DESCRIPTOR_SET).expect("our descriptors are well formed");
    let before = DescriptorPool::from_file_descriptor_set(set.clone()).expect("unedited");
    edit(&mut set);
    let after = DescriptorPool::from_file_descriptor_set(set).expect("edits keep the declarations well formed");
    differences(&our_facts(&after), &our_facts(&before))
}

fn message<'a>(set: &'a mut FileDescriptorSet, name: &str) -> &'a mut prost_types::DescriptorProto {
    let mut messages = set.file.iter_mut().flat_map(|file| &mut file.message_type);
    messages.find(|message| message.name() == name).expect("a message of that name is declared")
}

#[test]
fn the_comparison_sees_every_kind_of_change() {
    assert_eq!(differences_after(|_| {}), Vec::<String>::new());

    type Edit = fn(&mut FileDescriptorSet);
    let edits: [(&str, Edit); 9] = [
        ("field number", |set| message(set, "Coder").field[0].number = Some(9)),
        ("field type", |set| {
            let field = &mut message(set, "StateGetResponse").field[1];
            field.set_type(prost_types::field_descriptor_proto::Type::String);
        }),
        ("field label", |set| {
            let field = &mut message(set, "FunctionSpec").field[0];
            field.set_label(prost_types::field_descriptor_proto::Label::Repeated);
        }),
        ("field name", |set| message(set, "Coder").field[0].name = Some("specification".to_owned())),
        ("a field too few", |set| drop(message(set, "PTransform").field.pop())),
        ("oneof", |set| {
            // Both alternatives leave the oneof that the message declares.
            let cut = message(set, "TimestampTransform");
            cut.field.iter_mut().for_each(|field| field.oneof_index = None);
            cut.oneof_decl.clear();
        }),
        ("a message too few", |set| {
            for file in &mut set.file {
                file.message_type.retain(|message| message.name() != "MavenPayload");
            }
        }),
        ("enum value", |set| message(set, "JobState").enum_type[0].value[3].number = Some(33)),
        ("streaming", |set| {
            let services = set.file.iter_mut().flat_map(|file| &mut file.service);
            for method in services.flat_map(|service| &mut service.method).filter(|method| method.name() == "Data") {
                method.server_streaming = Some(false);
            }
        }),
    ];
    for (name, edit) in edits {
        assert!(!differences_after(edit).is_empty(), "a changed {name} goes unnoticed");
    }
}

#[test]
fn the_comparison_sees_a_changed_urn() {
    for (from, to) in [
        ("beam:coder:kv:v1", "beam:coder:kw:v1"),
        ("9223371950454775", "9223371950454776"),
        ("beam:metric:element_count:v1", "beam:metric:element_count:v2"),
        ("process_metric", "process_matric"),
    ] {
        let mut bytes = FILE_DESCRIPTOR_SET.to_vec();
        let at = bytes.windows(from.len()).position(|window| window == from.as_bytes()).expect("stated somewhere");
        bytes[at..at + to.len()].copy_from_slice(to.as_bytes());
        let changed = DescriptorPool::decode(bytes.as_slice()).expect("as long as before");
        let found = differences(&our_facts(&changed), &our_facts(&our_pool()));
        assert_eq!(found.len(), 1, "{from} changed to {to}: {found:?}");
    }
}
