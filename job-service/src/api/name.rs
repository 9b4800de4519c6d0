//! What to call a job whose client does not say.
//!
//! Python's client calls every job "job", and Go's numbers them by the clock. Such a job is called by the transforms at
//! the top of its pipeline and a number of this service's, as in `Read-Split-Count-Write-3`.

use ferrobeam_proto::pipeline::{PTransform, Pipeline};

/// About so many characters tell a pipeline from others.
const LONGEST: usize = 40;
/// Most characters of one transform's name.
const LONGEST_PART: usize = 16;

/// The name that the client chose: the one in the options, or else the one of the request.
pub(super) fn chosen(in_options: Option<&str>, in_request: &str) -> Option<String> {
    [in_options.unwrap_or_default(), in_request].into_iter().find(|name| is_chosen(name)).map(str::to_owned)
}

fn is_chosen(name: &str) -> bool {
    let number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let of_go = name.strip_prefix("go-job-").and_then(|rest| rest.split_once('-'));
    !matches!(name.trim(), "" | "job") && !of_go.is_some_and(|(count, time)| number(count) && number(time))
}

/// A name for the `number`th pipeline that has none.
pub(super) fn made(pipeline: &Pipeline, number: u64) -> String {
    let mut parts: Vec<String> = top(pipeline).map(|transform| part(&transform.unique_name)).collect();
    parts.retain(|part| !part.is_empty());
    parts.dedup();
    // Where a pipeline ends tells as much as where it begins.
    let last = if parts.len() > 1 { parts.pop() } else { None };
    let room = LONGEST.saturating_sub(last.as_ref().map_or(0, |last| last.len() + 1));
    let mut name = String::new();
    for part in &parts {
        if !name.is_empty() && name.len() + 1 + part.len() > room {
            break;
        }
        join(&mut name, part);
    }
    join(&mut name, last.as_deref().unwrap_or_default());
    if name.is_empty() {
        name.push_str("pipeline");
    }
    format!("{name}-{number}")
}

/// The transforms that the user sees at the top. Python's client puts them into one of its own, which has no name.
fn top(pipeline: &Pipeline) -> impl Iterator<Item = &PTransform> {
    let find = |id: &String| pipeline.components.as_ref()?.transforms.get(id);
    let roots = &pipeline.root_transform_ids;
    let ids = match &roots[..] {
        [id] => find(id).filter(|root| is_nameless(root, id)).map_or(roots, |root| &root.subtransforms),
        _ => roots,
    };
    ids.iter().filter_map(find)
}

fn is_nameless(root: &PTransform, id: &str) -> bool {
    !root.subtransforms.is_empty() && (root.unique_name.is_empty() || root.unique_name == id)
}

fn join(name: &mut String, part: &str) {
    if !name.is_empty() && !part.is_empty() {
        name.push('-');
    }
    name.push_str(part);
}

/// Of a transform's name, such as `[7]: Map(<lambda at a.py:3>)`, what somebody would call it.
fn part(unique_name: &str) -> String {
    // Notebooks put the number of the cell first.
    let name =
        unique_name.split_once("]: ").filter(|(cell, _)| cell.starts_with('[')).map_or(unique_name, |(_, name)| name);
    let name = name.split('(').next().unwrap_or_default();
    let mut kept = String::new();
    for word in name.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty()) {
        join(&mut kept, word);
    }
    kept.truncate(LONGEST_PART);
    kept.trim_end_matches('-').to_owned()
}

#[cfg(test)]
mod tests {
    use ferrobeam_proto::pipeline::Components;

    use super::*;

    fn pipeline(roots: &[&str]) -> Pipeline {
        let transform =
            |name: &&str| (format!("id of {name}"), PTransform { unique_name: (*name).into(), ..Default::default() });
        Pipeline {
            components: Some(Components { transforms: roots.iter().map(transform).collect(), ..Default::default() }),
            root_transform_ids: roots.iter().map(|name| format!("id of {name}")).collect(),
            ..Default::default()
        }
    }

    #[test]
    fn a_name_that_means_something_is_kept() {
        for (in_options, in_request, expected) in [
            (Some("Word Count"), "job", Some("Word Count")),
            (None, "wordcount-me-1128010203-ab12", Some("wordcount-me-1128010203-ab12")),
            (Some(""), "mine", Some("mine")),
            (Some("job"), "mine", Some("mine")),
            (None, "go-job-example", Some("go-job-example")),
            (None, "go-job-1-1764288000000000000", None),
            (Some("go-job-1-1764288000000000000"), "go-job-1-1764288000000000000", None),
            (None, "job", None),
            (None, " ", None),
        ] {
            assert_eq!(chosen(in_options, in_request).as_deref(), expected, "{in_options:?} {in_request:?}");
        }
    }

    #[test]
    fn a_job_without_a_name_is_called_by_its_transforms() {
        for (roots, expected) in [
            (
                &["Read", "Split", "PairWithOne", "GroupAndSum", "Format", "Write"][..],
                "Read-Split-PairWithOne-GroupAndSum-Write-7",
            ),
            (&["Create", "Map(<lambda at a.py:3>)", "Map(f)"], "Create-Map-7"),
            (&["[12]: Create", "[13]: beam.Count/Per"], "Create-beam-Count-Per-7"),
            (
                &["A transform with a very long name", "Another that is just as long as it"],
                "A-transform-with-Another-that-is-7",
            ),
            (&["Only"], "Only-7"),
            (&["(?)", "日本"], "pipeline-7"),
            (&[], "pipeline-7"),
        ] {
            assert_eq!(made(&pipeline(roots), 7), expected);
        }
        for name in ["", "root"] {
            let mut of_python = pipeline(&["Read", "Write"]);
            let subtransforms = std::mem::replace(&mut of_python.root_transform_ids, vec!["root".into()]);
            let root = PTransform { unique_name: name.into(), subtransforms, ..Default::default() };
            of_python.components.as_mut().unwrap().transforms.insert("root".into(), root);
            assert_eq!(made(&of_python, 2), "Read-Write-2");
        }
        let mut dangling = pipeline(&["Read"]);
        dangling.root_transform_ids.push("none such".into());
        assert_eq!(made(&dangling, 1), "Read-1");
        assert_eq!(made(&Pipeline::default(), 1), "pipeline-1");
    }
}
