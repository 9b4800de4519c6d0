//! Every constant that the protocol states is generated, once, with the value that it states.

use std::collections::{BTreeMap, BTreeSet};

use ferrobeam_proto::{FILE_DESCRIPTOR_SET, urns};
use prost_reflect::{DescriptorPool, EnumDescriptor, Value};

/// The `ALL` of each generated module, by the enum it comes from.
fn generated() -> BTreeMap<&'static str, Vec<String>> {
    macro_rules! table {
        ($($name:literal => $($path:ident)::+,)*) => {
            BTreeMap::from([$(($name, urns::$($path::)+ALL.iter().map(|value| Shown::shown(value)).collect())),*])
        };
    }
    table! {
        "Annotations.Enum" => annotations,
        "BeamConstants.Constants" => beam_constants,
        "CommitManifestResponse.Constants" => commit_manifest_response,
        "ExpansionMethods.Enum" => expansion_methods,
        "FixedWindowsPayload.Enum" => fixed_windows_payload,
        "FnApiTransforms.Runner" => fn_api_transforms,
        "GlobalWindowsPayload.Enum" => global_windows_payload,
        "LogicalTypes.Enum" => logical_types,
        "ManagedTransforms.Urns" => managed_transforms,
        "MonitoringInfo.MonitoringInfoLabels" => monitoring_info,
        "MonitoringInfoSpecs.Enum" => monitoring_info_specs,
        "MonitoringInfoTypeUrns.Enum" => monitoring_info_type_urns,
        "SessionWindowsPayload.Enum" => session_windows_payload,
        "SlidingWindowsPayload.Enum" => sliding_windows_payload,
        "StandardArtifacts.Roles" => standard_artifacts::roles,
        "StandardArtifacts.Types" => standard_artifacts::types,
        "StandardCoders.Enum" => standard_coders,
        "StandardDisplayData.DisplayData" => standard_display_data,
        "StandardEnvironments.Environments" => standard_environments,
        "StandardPTransforms.CombineComponents" => standard_ptransforms::combine_components,
        "StandardPTransforms.Composites" => standard_ptransforms::composites,
        "StandardPTransforms.DeprecatedPrimitives" => standard_ptransforms::deprecated_primitives,
        "StandardPTransforms.GroupIntoBatchesComponents" => standard_ptransforms::group_into_batches_components,
        "StandardPTransforms.Primitives" => standard_ptransforms::primitives,
        "StandardPTransforms.SplittableParDoComponents" => standard_ptransforms::splittable_par_do_components,
        "StandardProtocols.Enum" => standard_protocols,
        "StandardRequirements.Enum" => standard_requirements,
        "StandardResourceHints.Enum" => standard_resource_hints,
        "StandardRunnerProtocols.Enum" => standard_runner_protocols,
        "StandardSideInputTypes.Enum" => standard_side_input_types,
        "StandardUserStateTypes.Enum" => standard_user_state_types,
    }
}

/// A constant of any of the generated types, written the same way as the option it comes from.
trait Shown {
    fn shown(&self) -> String;
}

impl Shown for &str {
    fn shown(&self) -> String {
        (*self).to_owned()
    }
}

impl Shown for i64 {
    fn shown(&self) -> String {
        self.to_string()
    }
}

impl Shown for urns::MetricSpec {
    fn shown(&self) -> String {
        format!("{} {} {}", self.urn, self.type_urn, self.required_labels.join(","))
    }
}

/// What the enum's values state, read from the descriptors without the help of the build.
fn stated(declared: &EnumDescriptor) -> Vec<String> {
    let text = |message: &prost_reflect::DynamicMessage, name: &str| {
        message.get_field_by_name(name).and_then(|value| value.as_str().map(str::to_owned)).expect("a string")
    };
    let mut all = Vec::new();
    for value in declared.values() {
        for (_, option) in value.options().extensions() {
            all.push(match option {
                Value::String(stated) => stated.clone(),
                Value::Message(label) if label.get_field_by_name("name").is_some() => text(label, "name"),
                Value::Message(spec) => {
                    let labels = spec.get_field_by_name("required_labels").expect("a field of every spec");
                    let labels: Vec<_> = labels.as_list().expect("a list").iter().filter_map(Value::as_str).collect();
                    format!("{} {} {}", text(spec, "urn"), text(spec, "type"), labels.join(","))
                }
                other => panic!("{} has an option of an unexpected kind: {other:?}", value.full_name()),
            });
        }
    }
    all
}

#[test]
fn every_stated_constant_is_generated() {
    let pool = DescriptorPool::decode(FILE_DESCRIPTOR_SET).expect("our descriptors are well formed");
    let generated = generated();
    let mut seen = BTreeSet::new();
    for declared in pool.all_enums() {
        let stated = stated(&declared);
        if stated.is_empty() {
            continue;
        }
        let name = declared.full_name().trim_start_matches(declared.package_name()).trim_start_matches('.').to_owned();
        assert_eq!(generated.get(name.as_str()), Some(&stated), "constants of {name}");
        seen.insert(name);
    }
    assert_eq!(seen.len(), generated.len(), "enums that state constants: {seen:?}");
}

#[test]
fn constants_have_their_names_and_types() {
    let primitive: &str = urns::standard_ptransforms::primitives::PAR_DO;
    assert_eq!(primitive, "beam:transform:pardo:v1");
    let end: i64 = urns::beam_constants::GLOBAL_WINDOW_MAX_TIMESTAMP_MILLIS;
    assert_eq!(end, 9_223_371_950_454_775);
    let elements = urns::monitoring_info_specs::ELEMENT_COUNT;
    assert_eq!(elements.urn, "beam:metric:element_count:v1");
    assert_eq!(elements.type_urn, urns::monitoring_info_type_urns::SUM_INT64_TYPE);
    assert_eq!(elements.required_labels, [urns::monitoring_info::PCOLLECTION]);
}

#[test]
fn a_urn_means_one_thing() {
    let all = generated();
    let mut meaning = BTreeMap::new();
    for (name, constants) in &all {
        for urn in constants.iter().filter(|constant| constant.starts_with("beam:")) {
            assert_eq!(meaning.insert(urn, name), None, "{urn} is stated twice");
        }
    }
}
