//! A descriptor pool as a flat list of facts, so that two pools are compared by comparing lists.

use std::collections::BTreeMap;

use prost_reflect::{
    DescriptorPool, DynamicMessage, EnumDescriptor, ExtensionDescriptor, FieldDescriptor, FileDescriptor,
    MessageDescriptor, ReflectMessage, ServiceDescriptor, Value,
};

/// What a pool declares, by the name of what is declared.
///
/// Left out are the order of declarations, which has no meaning, and file options, which tell other languages'
/// generators where their code goes.
pub(crate) type Facts = BTreeMap<String, String>;

/// The facts of the given files.
pub(crate) fn facts_of(files: impl Iterator<Item = FileDescriptor>) -> Facts {
    let mut facts = Facts::new();
    for file in files {
        let mut imports: Vec<_> = file.dependencies().map(|import| import.name().to_owned()).collect();
        imports.sort();
        let public = file.public_dependencies().len();
        let fact =
            format!("{:?}, package {}, imports {imports:?}, {public} public", file.syntax(), file.package_name());
        note(&mut facts, format!("file {}", file.name()), fact);
        file.messages().for_each(|message| message_facts(&message, &mut facts));
        file.enums().for_each(|declared| enum_facts(&declared, &mut facts));
        file.extensions().for_each(|extension| extension_facts(&extension, &mut facts));
        file.services().for_each(|service| service_facts(&service, &mut facts));
    }
    facts
}

/// One line for each fact that is only in one of the two, or not the same in both.
pub(crate) fn differences(ours: &Facts, theirs: &Facts) -> Vec<String> {
    let mut lines = Vec::new();
    for (name, fact) in ours {
        match theirs.get(name) {
            None => lines.push(format!("{name}: declared here only ({fact})")),
            Some(other) if other != fact => lines.push(format!("{name}: here {fact}; in Beam {other}")),
            Some(_) => {}
        }
    }
    for (name, fact) in theirs {
        if !ours.contains_key(name) {
            lines.push(format!("{name}: declared in Beam only ({fact})"));
        }
    }
    lines
}

fn note(facts: &mut Facts, name: String, fact: String) {
    let before = facts.insert(name.clone(), fact);
    assert!(before.is_none(), "{name} is declared twice");
}

fn message_facts(message: &MessageDescriptor, facts: &mut Facts) {
    let reserved: Vec<_> = message.reserved_ranges().collect();
    let names: Vec<_> = message.reserved_names().collect();
    let extensible: Vec<_> = message.extension_ranges().collect();
    let options = show_options(&message.options());
    note(
        facts,
        format!("message {}", message.full_name()),
        format!("reserved {reserved:?} {names:?}, extensible {extensible:?}, options {options}"),
    );
    for field in message.fields() {
        field_facts(&field, facts);
    }
    for oneof in message.oneofs() {
        let mut fields: Vec<_> = oneof.fields().map(|field| field.name().to_owned()).collect();
        fields.sort();
        let options = show_options(&oneof.options());
        note(
            facts,
            format!("oneof {}", oneof.full_name()),
            format!("{fields:?}, synthetic {}, options {options}", oneof.is_synthetic()),
        );
    }
    message.child_enums().for_each(|declared| enum_facts(&declared, facts));
    message.child_messages().for_each(|child| message_facts(&child, facts));
    message.child_extensions().for_each(|extension| extension_facts(&extension, facts));
}

fn field_facts(field: &FieldDescriptor, facts: &mut Facts) {
    let fact = format!(
        "number {}, {:?} {:?}, presence {}, packed {}, group {}, oneof {:?}, JSON {}, default {}, options {}",
        field.number(),
        field.cardinality(),
        field.kind(),
        field.supports_presence(),
        field.is_packed(),
        field.is_group(),
        field.containing_oneof().map(|oneof| oneof.name().to_owned()),
        field.json_name(),
        show(&field.default_value()),
        show_options(&field.options()),
    );
    note(facts, format!("field {}", field.full_name()), fact);
}

fn extension_facts(extension: &ExtensionDescriptor, facts: &mut Facts) {
    let fact = format!(
        "number {} of {}, {:?} {:?}, options {}",
        extension.number(),
        extension.containing_message().full_name(),
        extension.cardinality(),
        extension.kind(),
        show_options(&extension.options()),
    );
    note(facts, format!("extension {}", extension.full_name()), fact);
}

fn enum_facts(declared: &EnumDescriptor, facts: &mut Facts) {
    let reserved: Vec<_> = declared.reserved_ranges().collect();
    let names: Vec<_> = declared.reserved_names().collect();
    let options = show_options(&declared.options());
    note(
        facts,
        format!("enum {}", declared.full_name()),
        format!("reserved {reserved:?} {names:?}, default {}, options {options}", declared.default_value().name()),
    );
    for value in declared.values() {
        note(
            facts,
            format!("enum value {}.{}", declared.full_name(), value.name()),
            format!("number {}, options {}", value.number(), show_options(&value.options())),
        );
    }
}

fn service_facts(service: &ServiceDescriptor, facts: &mut Facts) {
    let options = show_options(&service.options());
    note(facts, format!("service {}", service.full_name()), format!("options {options}"));
    for method in service.methods() {
        let fact = format!(
            "{} (stream {}) to {} (stream {}), options {}",
            method.input().full_name(),
            method.is_client_streaming(),
            method.output().full_name(),
            method.is_server_streaming(),
            show_options(&method.options()),
        );
        note(facts, format!("method {}", method.full_name()), fact);
    }
}

/// All that the options state, extensions by their full name.
fn show_options(options: &DynamicMessage) -> String {
    let mut stated: Vec<_> =
        options.fields().map(|(field, value)| format!("{}={}", field.name(), show(value))).collect();
    let extensions = options.extensions();
    stated.extend(extensions.map(|(extension, value)| format!("({})={}", extension.full_name(), show(value))));
    stated.sort();
    format!("[{}]", stated.join(", "))
}

fn show(value: &Value) -> String {
    match value {
        Value::Message(message) => {
            // A list that holds nothing is the same as none.
            let stated = message.fields().map(|(field, value)| (field, show(value))).filter(|(_, shown)| shown != "[]");
            let fields: Vec<_> = stated.map(|(field, shown)| format!("{}={shown}", field.name())).collect();
            format!("{}{{{}}}", message.descriptor().name(), fields.join(", "))
        }
        Value::List(items) => {
            let items: Vec<_> = items.iter().filter(|item| !is_prose(item)).map(show).collect();
            format!("[{}]", items.join(", "))
        }
        other => format!("{other:?}"),
    }
}

/// A metric's description is text about the protocol and no part of it: ours are comments in our own words. Its other
/// annotations, such as the unit, do count.
fn is_prose(value: &Value) -> bool {
    value.as_message().is_some_and(|message| {
        message.descriptor().full_name() == "org.apache.beam.model.pipeline.v1.Annotation"
            && message.get_field_by_name("key").is_some_and(|key| key.as_str() == Some("description"))
    })
}

/// The files of a pool that belong to one of the packages.
pub(crate) fn files_in(pool: &DescriptorPool, packages: &[String]) -> Vec<FileDescriptor> {
    pool.files().filter(|file| packages.iter().any(|package| package == file.package_name())).collect()
}
