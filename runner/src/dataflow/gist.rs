//! The gist of an error of user code: one line, for who reads that a bundle is run again.

/// So many characters say what happened.
const LONGEST: usize = 240;

/// The line of an SDK's error that says what went wrong: of a Python traceback the last exception, of Java's or Go's
/// errors the innermost cause, otherwise the first line.
pub(super) fn gist(message: &str) -> String {
    let lines: Vec<&str> = message.lines().map(str::trim_end).filter(|line| !line.is_empty()).collect();
    // What follows such a mark, and is no frame: those are indented.
    let after = |mark: &str| {
        let at = lines.iter().rposition(|line| line.trim_start() == mark)?;
        lines[at + 1..].iter().copied().find(|line| !line.starts_with(char::is_whitespace))
    };
    let of_python = after("Traceback (most recent call last):");
    let of_java = || lines.iter().rev().find_map(|line| line.strip_prefix("Caused by: "));
    let of_go = || after("caused by:");
    let line = of_python.or_else(of_java).or_else(of_go).or_else(|| lines.first().copied());
    shorten(line.unwrap_or("no reason was given").trim())
}

fn shorten(line: &str) -> String {
    match line.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}...", &line[..end]),
        None => line.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_every_sdks_errors_the_cause_is_told() {
        let python = "Traceback (most recent call last):\n  File \"common.py\", line 1498, in process\n    f(x)\n    ^^^^\n\
                      ValueError: boom\n\nDuring handling of the above exception, another exception occurred:\n\n\
                      Traceback (most recent call last):\n  File \"a.py\", line 7, in f\n    raise ValueError('boom')\n\
                      ValueError: boom [while running 'Break']\n\nin stage Break, on harness 1";
        let java = "org.apache.beam.sdk.util.UserCodeException: java.lang.IllegalStateException: boom\n\
                    \tat org.apache.beam.sdk.util.UserCodeException.wrap(UserCodeException.java:39)\n\
                    Caused by: java.lang.IllegalStateException: boom\n\tat Main.run(Main.java:7)\n\t... 9 more\n\n\
                    in stage Break, on harness 1";
        let go = "process bundle failed for instruction 1:4 using plan 2 : while executing Process for Plan[2]:\n\
                  2: Discard\n1: ParDo[main.breaks] Out:[2]\n\tcaused by:\nboom\n\nin stage Break, on harness 1";
        for (message, expected) in [
            (python, "ValueError: boom [while running 'Break']"),
            (java, "java.lang.IllegalStateException: boom"),
            (go, "boom"),
            (
                "harness 1 was lost while it ran a bundle: exit status 1",
                "harness 1 was lost while it ran a bundle: exit status 1",
            ),
            ("\n\n  first \nsecond", "first"),
            // Of a trace that was cut short.
            ("Traceback (most recent call last):\n  File", "Traceback (most recent call last):"),
            ("", "no reason was given"),
        ] {
            assert_eq!(gist(message), expected);
        }
    }

    #[test]
    fn a_gist_is_short_whatever_is_said() {
        let long = gist(&"é".repeat(100_000));
        assert_eq!(long.chars().count(), LONGEST + 3);
    }
}
