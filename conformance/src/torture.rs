//! Jobs whose processes are killed and paused at random, and what was lost, repeated or wrong at their end.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Args;
use serde::Deserialize;

use crate::suites::source_dir;
use crate::tools::python;
use crate::{cache, process};

/// How many jobs, and what is done to them.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// The `ferrobeam` to start, once a job
    #[arg(long)]
    pub serve: PathBuf,
    /// An argument for each service (repeatable)
    #[arg(long = "serve-arg", allow_hyphen_values = true)]
    pub serve_args: Vec<String>,
    /// How many jobs, each made from a seed of its own
    #[arg(long, default_value_t = 20)]
    pub seeds: u64,
    /// The first seed
    #[arg(long, default_value_t = 1)]
    pub from: u64,
    /// How often each job's processes are killed or paused
    #[arg(long, default_value_t = 10)]
    pub kills: u32,
    /// Of a thousand misfortunes, how many are pauses longer than a process's lease
    #[arg(long, default_value_t = 5)]
    pub pauses: u32,
    /// Jobs at once
    #[arg(long, default_value_t = 2)]
    pub at_once: usize,
    /// Seconds that a job may take, pauses and all
    #[arg(long, default_value_t = 900)]
    pub timeout: u64,
    /// No new job is begun after so many minutes
    #[arg(long)]
    pub minutes: Option<u64>,
}

/// What became of one job.
#[derive(Clone, Debug, Deserialize)]
struct Answer {
    seed: u64,
    hung: bool,
    #[serde(default)]
    why: String,
    kills: u64,
    harnesses: u64,
    services: u64,
    pauses: u64,
    state: String,
    compared: u64,
    lost: u64,
    repeated: u64,
    differences: Vec<String>,
    seconds: f64,
}

impl Answer {
    fn well(&self) -> bool {
        !self.hung && self.state == "DONE" && self.lost == 0 && self.repeated == 0 && self.compared > 0
    }
}

/// What all jobs came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Sums {
    jobs: u64,
    kills: u64,
    harnesses: u64,
    services: u64,
    pauses: u64,
    compared: u64,
    lost: u64,
    repeated: u64,
    hung: u64,
    failed: u64,
}

impl Sums {
    fn add(&mut self, answer: &Answer) {
        self.jobs += 1;
        self.kills += answer.kills;
        self.harnesses += answer.harnesses;
        self.services += answer.services;
        self.pauses += answer.pauses;
        self.compared += answer.compared;
        self.lost += answer.lost;
        self.repeated += answer.repeated;
        self.hung += u64::from(answer.hung);
        self.failed += u64::from(!answer.well());
    }

    fn line(&self) -> String {
        format!(
            "{} jobs, {} job processes, {} harnesses and {} services killed, {} paused; {} values compared, {} lost, {} repeated or \
             wrong; {} jobs hung, {} not as they should be",
            self.jobs,
            self.kills,
            self.harnesses,
            self.services,
            self.pauses,
            self.compared,
            self.lost,
            self.repeated,
            self.hung,
            self.failed
        )
    }
}

/// Runs the jobs; true when each was DONE and came to what it must.
pub fn run(options: &Options) -> Result<bool> {
    let program = options.serve.canonicalize().with_context(|| format!("{} is not there", options.serve.display()))?;
    let python = python(false)?;
    let logs = cache::run_logs()?;
    println!("logs: {}", logs.display());
    let start = Instant::now();
    let (next, end) = (AtomicU64::new(options.from), options.from + options.seeds);
    let (answered, answers) = mpsc::channel();
    let sums = thread::scope(|scope| -> Result<Sums> {
        for _ in 0..options.at_once.max(1) {
            let (answered, next, program, python, logs) = (answered.clone(), &next, &program, &python, &logs);
            scope.spawn(move || {
                loop {
                    let late = options.minutes.is_some_and(|m| start.elapsed() >= Duration::from_secs(60 * m));
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if late || seed >= end || answered.send(one(seed, options, program, python, logs)).is_err() {
                        return;
                    }
                }
            });
        }
        drop(answered);
        let mut sums = Sums::default();
        for answer in answers {
            let answer = answer?;
            sums.add(&answer);
            print(&answer);
        }
        Ok(sums)
    })?;
    println!("{} in {} s", sums.line(), start.elapsed().as_secs());
    Ok(sums.failed == 0 && sums.jobs > 0)
}

fn print(answer: &Answer) {
    println!(
        "{} seed {}: {}, {} kills, {} of harnesses, {} of services, {} pauses; {} values compared, {} lost, {} repeated or wrong; {:.0} s",
        if answer.well() { "WELL " } else { "WRONG" },
        answer.seed,
        if answer.hung { format!("HUNG ({})", answer.why) } else { answer.state.clone() },
        answer.kills,
        answer.harnesses,
        answer.services,
        answer.pauses,
        answer.compared,
        answer.lost,
        answer.repeated,
        answer.seconds
    );
    for difference in &answer.differences {
        println!("    {difference}");
    }
}

/// The job of one seed.
fn one(seed: u64, options: &Options, program: &Path, python: &Path, logs: &Path) -> Result<Answer> {
    let (log, out) = (logs.join(format!("torture-{seed}.log")), logs.join(format!("torture-{seed}.json")));
    let create = |path: &Path| File::create(path).with_context(|| format!("cannot write {}", path.display()));
    let mut child = Command::new(python)
        .arg(source_dir().join("python/torture.py"))
        .args([seed.to_string(), options.kills.to_string(), options.pauses.to_string()])
        .args(&options.serve_args)
        .env("FERROBEAM", program)
        .stdin(Stdio::null())
        .stdout(create(&out)?)
        .stderr(create(&log)?)
        .spawn()
        .context("cannot start a job")?;
    if process::wait(&mut child, Duration::from_secs(options.timeout))?.is_none() {
        // Its service ends with it.
        child.kill().context("cannot end a job")?;
        child.wait().context("cannot wait for a job")?;
        let (hung, why) = (true, format!("after {} s; see {}", options.timeout, log.display()));
        let (kills, harnesses, services, pauses, compared, lost, repeated) = (0, 0, 0, 0, 0, 0, 0);
        let (state, differences, seconds) = (String::new(), Vec::new(), options.timeout as f64);
        return Ok(Answer {
            seed,
            hung,
            why,
            kills,
            harnesses,
            services,
            pauses,
            state,
            compared,
            lost,
            repeated,
            differences,
            seconds,
        });
    }
    let text = std::fs::read_to_string(&out).with_context(|| format!("cannot read {}", out.display()))?;
    let last = text.lines().last().unwrap_or_default();
    ensure!(!last.is_empty(), "the job of seed {seed} said nothing: see {}", log.display());
    serde_json::from_str(last).with_context(|| format!("the job of seed {seed} said `{last}`: see {}", log.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(text: &str) -> Answer {
        serde_json::from_str(text).expect("an answer")
    }

    const WELL: &str = r#"{"seed": 1, "hung": false, "kills": 8, "harnesses": 1, "services": 2, "pauses": 0, "state": "DONE",
        "compared": 70, "lost": 0, "repeated": 0, "differences": [], "seconds": 13.3}"#;

    #[test]
    fn whatever_is_not_right_is_a_failure() {
        assert!(answer(WELL).well());
        for (right, wrong) in [
            (r#""lost": 0"#, r#""lost": 1"#),
            (r#""repeated": 0"#, r#""repeated": 1"#),
            (r#""compared": 70"#, r#""compared": 0"#),
            (r#""hung": false"#, r#""hung": true"#),
            ("DONE", "FAILED"),
        ] {
            assert!(!answer(&WELL.replace(right, wrong)).well(), "{wrong}");
        }
    }

    #[test]
    fn sums_count_everything() {
        let mut sums = Sums::default();
        sums.add(&answer(WELL));
        sums.add(&answer(&WELL.replace(r#""lost": 0"#, r#""lost": 3"#)));
        assert_eq!(
            sums.line(),
            "2 jobs, 16 job processes, 2 harnesses and 4 services killed, 0 paused; 140 values compared, 3 lost, 0 repeated or \
             wrong; 0 jobs hung, 1 not as they should be"
        );
    }
}
