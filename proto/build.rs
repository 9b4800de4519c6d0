//! Turns `beam/**.proto` into Rust: messages, clients and servers, and one constant for every URN that the protocol
//! states as an option of an enum value.
//!
//! The compiler is `protox`, so no machine needs a `protoc`. URNs are read from the compiled descriptors rather than
//! typed by hand: a constant cannot differ from the declaration that SDKs agree on.

use std::collections::BTreeMap;
use std::error::Error;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::{env, fs};

use prost_reflect::{
    DescriptorPool, DynamicMessage, EnumDescriptor, EnumValueDescriptor, MessageDescriptor, ReflectMessage, Value,
};

const ROOT: &str = "beam";
const PIPELINE_PACKAGE: &str = "org.apache.beam.model.pipeline.v1";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed={ROOT}");
    let out = PathBuf::from(env::var("OUT_DIR")?);
    let mut files = Vec::new();
    proto_files(Path::new(ROOT), &mut files)?;
    files.sort();

    let documented = compile(&files, true)?;
    generate(&documented, &out)?;

    // The embedded set goes without comments and source positions.
    let plain = compile(&files, false)?;
    fs::write(out.join("beam.fds"), plain.encode_file_descriptor_set())?;
    fs::write(out.join("urns.rs"), UrnModules::read(&plain.descriptor_pool())?.render())?;
    Ok(())
}

fn proto_files(dir: &Path, into: &mut Vec<PathBuf>) -> std::io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            proto_files(&path, into)?;
        } else if path.extension().is_some_and(|ext| ext == "proto") {
            into.push(path);
        }
    }
    Ok(())
}

fn compile(files: &[PathBuf], source_info: bool) -> Result<protox::Compiler, Box<dyn Error>> {
    let mut compiler = protox::Compiler::new([ROOT])?;
    compiler.include_imports(true).include_source_info(source_info);
    compiler.open_files(files)?;
    Ok(compiler)
}

/// Two passes, so that every package is one short module (`crate::pipeline`, `crate::job`, ...) instead of a leaf of a
/// tree six modules deep: the second pass finds the pipeline package's types by their path in this crate.
fn generate(compiler: &protox::Compiler, out: &Path) -> Result<(), Box<dyn Error>> {
    let all = compiler.file_descriptor_set();
    let mut pipeline = all.clone();
    pipeline.file.retain(|file| matches!(file.package(), PIPELINE_PACKAGE | "google.protobuf"));

    let (first, second) = (out.join("pipeline"), out.join("services"));
    fs::create_dir_all(&first)?;
    fs::create_dir_all(&second)?;
    builder().out_dir(first).compile_fds(pipeline)?;
    builder().out_dir(second).extern_path(format!(".{PIPELINE_PACKAGE}"), "crate::pipeline").compile_fds(all)?;
    Ok(())
}

/// `bytes::Bytes`, so that payloads and elements are shared and not copied; ordered maps, so that whoever walks a
/// pipeline walks it in the same order every time.
fn builder() -> tonic_prost_build::Builder {
    tonic_prost_build::configure().bytes(".").btree_map(".").emit_rerun_if_changed(false)
}

/// The constants of one enum.
#[derive(Default)]
struct UrnModule {
    doc: String,
    constants: Vec<Constant>,
}

struct Constant {
    name: String,
    doc: String,
    value: ConstantValue,
}

enum ConstantValue {
    Text(String),
    Integer(i64),
    Spec { urn: String, type_urn: String, required_labels: Vec<String> },
}

/// Modules by path: `["standard_ptransforms", "primitives"]`.
#[derive(Default)]
struct UrnModules(BTreeMap<Vec<String>, UrnModule>);

impl UrnModules {
    fn read(pool: &DescriptorPool) -> Result<Self, Box<dyn Error>> {
        let mut modules = Self::default();
        for file in pool.files().filter(|file| file.package_name().starts_with("org.apache.beam.")) {
            modules.read_enums(file.enums(), &[])?;
            for message in file.messages() {
                modules.read_message(&message, &[])?;
            }
        }
        Ok(modules)
    }

    fn read_message(&mut self, message: &MessageDescriptor, outer: &[String]) -> Result<(), Box<dyn Error>> {
        let mut path = outer.to_vec();
        path.push(snake(message.name()));
        self.read_enums(message.child_enums(), &path)?;
        for child in message.child_messages() {
            self.read_message(&child, &path)?;
        }
        Ok(())
    }

    /// A message with a single enum of constants gives that its own name; where there are several, each has a module
    /// within that of the message.
    fn read_enums(
        &mut self,
        declared: impl Iterator<Item = EnumDescriptor>,
        outer: &[String],
    ) -> Result<(), Box<dyn Error>> {
        let mut found = Vec::new();
        for declared in declared {
            let module = UrnModule::read(&declared)?;
            if !module.constants.is_empty() {
                found.push((snake(declared.name()), module));
            }
        }
        let alone = found.len() == 1 && !outer.is_empty();
        for (name, module) in found {
            let mut path = outer.to_vec();
            if !alone {
                path.push(name);
            }
            if self.0.insert(path.clone(), module).is_some() {
                return Err(format!("two enums would both become the module urns::{}", path.join("::")).into());
            }
        }
        Ok(())
    }

    fn render(&self) -> String {
        let mut out = String::new();
        self.render_below(&[], &mut out);
        out
    }

    fn render_below(&self, path: &[String], out: &mut String) {
        if let Some(module) = self.0.get(path) {
            module.render(out);
        }
        let mut children: Vec<&String> = self.0.keys().filter_map(|p| p.strip_prefix(path)?.first()).collect();
        children.dedup();
        for child in children {
            let mut below = path.to_vec();
            below.push(child.clone());
            let doc = match self.0.get(&below) {
                Some(module) => module.doc.clone(),
                None => format!("The enums of constants in `{child}`, each with a module of its own."),
            };
            let _ = writeln!(out, "/// {doc}\npub mod {child} {{");
            self.render_below(&below, out);
            let _ = writeln!(out, "}}");
        }
    }
}

impl UrnModule {
    fn read(declared: &EnumDescriptor) -> Result<Self, Box<dyn Error>> {
        let shown = declared.full_name().trim_start_matches(declared.package_name()).trim_start_matches('.');
        let mut constants = Vec::new();
        for value in declared.values() {
            if let Some(constant) = read_value(&value)? {
                let doc = format!("Stated by `{shown}.{}`.", value.name());
                constants.push(Constant { name: value.name().to_owned(), doc, value: constant });
            }
        }
        Ok(Self { doc: format!("Constants of the enum `{shown}`."), constants })
    }

    fn render(&self, out: &mut String) {
        for Constant { name, doc, value } in &self.constants {
            let _ = match value {
                ConstantValue::Text(text) => writeln!(out, "/// `{text}`. {doc}\npub const {name}: &str = {text:?};"),
                ConstantValue::Integer(number) => writeln!(out, "/// {doc}\npub const {name}: i64 = {number};"),
                ConstantValue::Spec { urn, type_urn, required_labels } => writeln!(
                    out,
                    "/// `{urn}`. {doc}\npub const {name}: crate::urns::MetricSpec = crate::urns::MetricSpec {{ \
                     urn: {urn:?}, type_urn: {type_urn:?}, required_labels: &{required_labels:?} }};",
                ),
            };
        }
        let Some(kind) = self.common_type() else { return };
        let names: Vec<&str> = self.constants.iter().map(|constant| constant.name.as_str()).collect();
        let _ = writeln!(
            out,
            "/// All of them, in the order of the enum.\npub const ALL: &[{kind}] = &[{}];",
            names.join(", ")
        );
    }

    fn common_type(&self) -> Option<&'static str> {
        let mut kinds = self.constants.iter().map(|constant| match constant.value {
            ConstantValue::Text(_) => "&str",
            ConstantValue::Integer(_) => "i64",
            ConstantValue::Spec { .. } => "crate::urns::MetricSpec",
        });
        let first = kinds.next()?;
        kinds.all(|kind| kind == first).then_some(first)
    }
}

/// What the options of an enum value state, if anything.
fn read_value(value: &EnumValueDescriptor) -> Result<Option<ConstantValue>, Box<dyn Error>> {
    let options = value.options();
    let mut found = None;
    for (extension, stated) in options.extensions() {
        let constant = match (extension.name(), stated) {
            ("beam_urn", Value::String(urn)) => ConstantValue::Text(urn.clone()),
            ("beam_constant", Value::String(text)) => match text.parse() {
                Ok(number) => ConstantValue::Integer(number),
                Err(_) => ConstantValue::Text(text.clone()),
            },
            ("label_props", Value::Message(props)) => ConstantValue::Text(text_field(props, "name")?),
            ("monitoring_info_spec", Value::Message(spec)) => ConstantValue::Spec {
                urn: text_field(spec, "urn")?,
                type_urn: text_field(spec, "type")?,
                required_labels: text_list_field(spec, "required_labels")?,
            },
            (other, _) => {
                return Err(format!("{}: the build does not know the option {other}", value.full_name()).into());
            }
        };
        if found.replace(constant).is_some() {
            return Err(format!("{} states two constants", value.full_name()).into());
        }
    }
    Ok(found)
}

fn text_field(message: &DynamicMessage, name: &str) -> Result<String, Box<dyn Error>> {
    match message.get_field_by_name(name).as_deref() {
        Some(Value::String(text)) => Ok(text.clone()),
        _ => Err(format!("{} has no string field {name}", message.descriptor().full_name()).into()),
    }
}

fn text_list_field(message: &DynamicMessage, name: &str) -> Result<Vec<String>, Box<dyn Error>> {
    let wrong = || format!("{} has no repeated string field {name}", message.descriptor().full_name());
    let field = message.get_field_by_name(name).ok_or_else(wrong)?;
    let list = field.as_list().ok_or_else(wrong)?;
    list.iter().map(|item| Ok(item.as_str().ok_or_else(wrong)?.to_owned())).collect()
}

/// `StandardPTransforms` becomes `standard_ptransforms`: a new word starts where a capital follows a small letter.
fn snake(name: &str) -> String {
    let mut out = String::new();
    let mut after_small = false;
    for c in name.chars() {
        if c.is_ascii_uppercase() && after_small {
            out.push('_');
        }
        after_small = !c.is_ascii_uppercase();
        out.push(c.to_ascii_lowercase());
    }
    out
}
