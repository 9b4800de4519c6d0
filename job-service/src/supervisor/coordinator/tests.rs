//! Scripts against golden texts, and what holds whatever happens.
//!
//! A script has an event a line, its time first. Changed golden texts are reviewed and accepted with `cargo insta`, or
//! `INSTA_UPDATE=always`.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::num::NonZeroUsize;

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

type E = Event<String>;

/// Plays a script whose first line are the settings.
fn play(script: &str) -> String {
    let mut lines = script.lines().map(str::trim).filter(|line| !line.is_empty());
    let mut coordinator = Coordinator::new(settings(lines.next().expect("settings")));
    let mut played = String::new();
    for line in lines {
        writeln!(played, "{line}").expect("text");
        let (time, event) = line.split_once(' ').unwrap_or((line, "woken"));
        for decision in coordinator.step(time.parse().expect("a time"), event_of(event)) {
            writeln!(played, "    {}", told(&decision)).expect("text");
        }
    }
    played
}

fn settings(line: &str) -> Settings {
    let mut settings =
        Settings { interval: 1000, timeout: 5000, min_pause: 0, tolerated: Some(0), retained: NonZeroUsize::MIN };
    for word in line.split_whitespace() {
        let (name, value) = word.split_once('=').expect("NAME=VALUE");
        let number = value.parse().unwrap_or(0);
        match name {
            "interval" => settings.interval = number,
            "timeout" => settings.timeout = number,
            "pause" => settings.min_pause = number,
            "tolerated" => settings.tolerated = value.parse().ok(),
            "retained" => settings.retained = value.parse().expect("not zero"),
            other => panic!("{other}"),
        }
    }
    settings
}

fn event_of(text: &str) -> E {
    let words: Vec<&str> = text.split_whitespace().collect();
    let number = |at: usize| words[at].parse().expect("a number");
    let epoch = |at: usize| Epoch(words[at].parse().expect("an epoch"));
    let rest = |at: usize| words[at..].join(" ");
    match words[0] {
        "woken" => Event::Woken,
        "started" => Event::Started { processes: number(1), taken: if words.len() > 2 { epoch(3) } else { Epoch(0) } },
        "saved" => Event::Saved { epoch: epoch(1), process: number(3), parts: format!("part of {}", words[3]) },
        "failed" => Event::SaveFailed { epoch: epoch(1), process: number(3), why: rest(4) },
        "written" => Event::ManifestWritten { epoch: epoch(1) },
        "unwritten" => Event::ManifestFailed { epoch: epoch(1), why: rest(2), certain: true },
        "unknown" => Event::ManifestFailed { epoch: epoch(1), why: rest(2), certain: false },
        "savepoint" => Event::SavepointAsked { stop: false },
        "savepoint-and-stop" => Event::SavepointAsked { stop: true },
        "drain" => Event::Drain,
        "stop" => Event::Stop,
        "lost" => Event::ProcessLost,
        other => panic!("{other}"),
    }
}

fn told(decision: &Decision<String>) -> String {
    let kind = |purpose: &Purpose| if *purpose == Purpose::Savepoint { "savepoint" } else { "checkpoint" };
    match decision {
        Decision::Begin { epoch, purpose } => format!("begin {} {epoch}", kind(purpose)),
        Decision::Commit { epoch, parts, .. } => format!("write the manifest of {epoch}: {}", parts.join(", ")),
        Decision::Committed { epoch, purpose } => format!("committed {} {epoch}", kind(purpose)),
        Decision::Aborted { epoch, purpose, why } => format!("aborted {} {epoch}: {why}", kind(purpose)),
        Decision::Discard { epoch } => format!("discard {epoch}"),
        Decision::FailJob { why } => format!("fail the job: {}", why.replace('\n', "|")),
        Decision::StopJob => "stop the job".to_owned(),
        Decision::WakeAt { time } => format!("wake at {time}"),
    }
}

macro_rules! scripts {
    ($($name:ident: $script:literal)*) => {$(
        #[test]
        fn $name() {
            insta::assert_snapshot!(play($script));
        }
    )*};
}

scripts! {
    one_after_the_other: "interval=1000 retained=2
        0 started 2
        999
        1000
        1010 saved 1 by 1
        1020 saved 1 by 1
        1030 saved 1 by 7
        1040 saved 1 by 0
        1050 written 1
        2000
        2010 saved 2 by 0
        2020 saved 2 by 1
        3500
        3600 written 2
        3610 saved 3 by 0
        3620 saved 3 by 1
        3630 written 3
        4600
        4610 stop
        9999"
    a_pause_after_a_long_one: "interval=1000 pause=400
        0 started 1
        1000
        2900 saved 1 by 0
        3000 written 1
        3399
        3400"
    the_first_failure_fails_the_job: "interval=1000 tolerated=0
        0 started 2
        1000
        1010 saved 1 by 0
        1020 failed 1 by 1 disk full
        1030 saved 1 by 1
        5000"
    failures_in_a_row_are_counted: "interval=1000 timeout=500 tolerated=1
        0 started 2
        1000
        1100 saved 1 by 1
        1500
        2000
        2010 saved 2 by 0
        2020 saved 2 by 1
        2030 written 2
        3000
        3500
        4000
        4010 saved 4 by 0
        4020 saved 4 by 1
        4030 unwritten 4 403 Forbidden
        5000"
    any_number_of_failures: "interval=1000 tolerated=any
        0 started 1
        1000
        1010 failed 1 by 0 no
        2000
        2010 failed 2 by 0 no
        3000
        3010 failed 3 by 0 no
        4000"
    a_job_stops_with_its_savepoint: "interval=1000 retained=1
        0 started 2
        10 savepoint-and-stop
        20 saved 1 by 0
        30 saved 1 by 1
        1500 written 1
        1600 saved 2 by 1
        1700 saved 2 by 0
        1800"

    a_job_that_does_not_settle_stops_all_the_same: "interval=1000 retained=1
        0 started 1
        10 savepoint-and-stop
        20 saved 1 by 0
        30 written 1
        4000
        6000"

    a_process_that_is_lost_while_the_job_stops_does_not_bring_it_back: "interval=1000 retained=1
        0 started 1
        10 savepoint-and-stop
        20 saved 1 by 0
        30 written 1
        40 lost
        50"

    who_asks_for_the_stop_while_another_savepoint_is_taken_gets_one_of_his_own: "interval=1000 retained=1
        0 started 1
        10 savepoint
        15 savepoint-and-stop
        20 saved 1 by 0
        30 written 1
        40 saved 2 by 0
        50 written 2
        60 saved 3 by 0"

    a_stop_that_was_asked_of_an_attempt_that_is_lost_is_forgotten: "interval=1000 retained=1
        0 started 1
        10 savepoint-and-stop
        15 lost
        20 started 1
        30 savepoint
        40 saved 2 by 0
        50 written 2
        60"

    a_job_goes_on_whose_savepoint_failed: "interval=1000 retained=1
        0 started 1
        10 savepoint-and-stop
        20 failed 1 by 0 no room
        1000
        1010 saved 2 by 0
        1020 written 2"

    a_savepoint_does_not_wait_for_its_time: "interval=1000 pause=300
        0 savepoint
        100 started 1
        150 savepoint
        160 saved 1 by 0
        170 written 1
        180 failed 2 by 0 no
        1100
        1110 savepoint
        1120 saved 3 by 0
        1130 written 3
        1140 saved 4 by 0
        1150 written 4
        2100"
    a_lost_process_ends_what_is_under_way: "interval=1000
        0 started 2
        1000
        1010 saved 1 by 0
        1020 lost
        1030 saved 1 by 1
        1040 lost
        5000
        6000 started 2
        7000
        7010 saved 1 by 0
        7020 saved 2 by 0"
    a_manifest_outlives_the_attempt: "interval=1000
        0 started 1
        1000
        1010 saved 1 by 0
        1020 lost
        1030 started 1
        2500
        2510 written 1
        2520 savepoint"
    nobody_knows_whether_it_is_written: "interval=1000
        0 started 1
        1000
        1010 saved 1 by 0
        1020 unknown 1 connection reset
        1030 written 1
        1040 lost
        2000 started 1 from 1
        3000
        3010 saved 2 by 0
        8000
        9000 started 1 from 17
        10000"
    a_drain_is_in_a_hurry: "interval=60000 pause=500
        0 started 1
        1000 drain
        1010 saved 1 by 0
        1020 drain
        1030 written 1
        1530
        1540 saved 2 by 0
        1550 written 2
        2050"
}

/// What a random event is about.
#[derive(Clone, Debug)]
enum Step {
    Wait,
    Started { processes: u32, ahead: Option<u64> },
    Saved { process: u32, behind: u64 },
    SaveFailed { process: u32, behind: u64 },
    Written { behind: u64 },
    Unwritten { behind: u64, certain: bool },
    Savepoint,
    Drain,
    Stop,
    Lost,
}

fn steps() -> impl Strategy<Value = Vec<(u64, Step)>> {
    let behind = || prop_oneof![6 => Just(0_u64), 1 => 1_u64..3];
    let step = prop_oneof![
        4 => Just(Step::Wait),
        2 => (1_u32..4, proptest::option::of(0_u64..4)).prop_map(|(processes, ahead)| Step::Started { processes, ahead }),
        12 => (0_u32..4, behind()).prop_map(|(process, behind)| Step::Saved { process, behind }),
        1 => (0_u32..4, behind()).prop_map(|(process, behind)| Step::SaveFailed { process, behind }),
        4 => behind().prop_map(|behind| Step::Written { behind }),
        1 => (behind(), any::<bool>()).prop_map(|(behind, certain)| Step::Unwritten { behind, certain }),
        1 => Just(Step::Savepoint),
        1 => Just(Step::Drain),
        1 => Just(Step::Stop),
        1 => Just(Step::Lost),
    ];
    let pause = prop_oneof![4 => 0_u64..50, 1 => 0_u64..3000];
    vec((pause, step), 0..120)
}

/// Watches the decisions as those who carry them out would.
#[derive(Default)]
struct Observer {
    greatest: u64,
    /// What is under way, and who has saved.
    open: Option<(Epoch, BTreeSet<u32>)>,
    /// Its manifest is being written.
    writing: bool,
    /// 0: no attempt runs.
    processes: u32,
    /// The attempt of what is under way is over.
    orphaned: bool,
    committed: Vec<Epoch>,
    discarded: Vec<Epoch>,
}

impl Observer {
    fn before(&mut self, event: &E) {
        match event {
            Event::Started { processes, taken } => {
                self.orphaned = true;
                self.processes = *processes;
                self.greatest = self.greatest.max(taken.0);
            }
            Event::Stop | Event::ProcessLost => (self.orphaned, self.processes) = (true, 0),
            Event::Saved { process, epoch, .. } if *process < self.processes => {
                if let Some((open, saved)) = &mut self.open
                    && open == epoch
                {
                    saved.insert(*process);
                }
            }
            _ => {}
        }
    }

    fn after(&mut self, now: u64, event: &E, decisions: &[Decision<String>], writing: bool) {
        let mut wake = None;
        for decision in decisions {
            assert_eq!(wake, None, "the time to wake at comes last");
            match decision {
                Decision::Begin { epoch, .. } => {
                    assert_eq!(self.open, None, "two under way");
                    assert!(epoch.0 > self.greatest, "{epoch} after {}", self.greatest);
                    assert!(self.processes > 0, "nobody to begin");
                    self.greatest = epoch.0;
                    (self.open, self.writing, self.orphaned) = (Some((*epoch, BTreeSet::new())), false, false);
                }
                Decision::Commit { epoch, parts, .. } => {
                    let (open, saved) = self.open.as_ref().expect("something is under way");
                    assert_eq!((open, saved.len(), parts.len()), (epoch, self.processes as usize, saved.len()));
                    self.writing = true;
                }
                Decision::Committed { epoch, .. } => {
                    assert!(matches!(event, Event::ManifestWritten { epoch: written } if written == epoch));
                    assert!(self.writing && self.open.take().is_some_and(|(open, _)| open == *epoch));
                    self.committed.push(*epoch);
                }
                Decision::Aborted { epoch, .. } => {
                    assert!(self.open.take().is_some_and(|(open, _)| open == *epoch));
                    assert!(!self.writing || matches!(event, Event::ManifestFailed { certain: true, .. }));
                }
                Decision::FailJob { .. } | Decision::StopJob => (self.processes, self.open) = (0, None),
                Decision::Discard { epoch } => self.discarded.push(*epoch),
                Decision::WakeAt { time } => wake = Some(*time),
            }
        }
        // Nobody is told of the fate of a manifest whose attempt is over and whose fate is not known.
        if self.orphaned && self.writing && !writing {
            self.open = None;
        }
        assert_eq!(self.open.is_some() && self.writing, writing);
        let waits = self.processes > 0 || self.open.is_some();
        assert_eq!(wake.is_some(), waits, "{decisions:?}");
        assert!(wake.is_none_or(|time| time > now), "it would be woken over and over");
    }
}

proptest! {
    #[test]
    fn whatever_happens(
        steps in steps(),
        (interval, timeout, min_pause) in (10_u64..400, 10_u64..400, 0_u64..400),
        tolerated in proptest::option::of(0_u32..3),
        retained in 1_usize..4,
    ) {
        let retained = NonZeroUsize::new(retained).expect("not zero");
        let mut coordinator = Coordinator::new(Settings { interval, timeout, min_pause, tolerated, retained });
        let mut observer = Observer::default();
        let mut now = 0;
        for (pause, step) in steps {
            now += pause;
            let epoch = |behind: u64| Epoch(observer.greatest.saturating_sub(behind));
            let event = match step {
                Step::Wait => Event::Woken,
                Step::Started { processes, ahead } => {
                    Event::Started { processes, taken: ahead.map_or(Epoch(0), |ahead| Epoch((observer.greatest + ahead).saturating_sub(2))) }
                }
                Step::Saved { process, behind } => Event::Saved { process, epoch: epoch(behind), parts: "part".into() },
                Step::SaveFailed { process, behind } => {
                    Event::SaveFailed { process, epoch: epoch(behind), why: "no".into() }
                }
                Step::Written { behind } => Event::ManifestWritten { epoch: epoch(behind) },
                Step::Unwritten { behind, certain } => {
                    Event::ManifestFailed { epoch: epoch(behind), why: "no".into(), certain }
                }
                Step::Savepoint => Event::SavepointAsked { stop: false },
                Step::Drain => Event::Drain,
                Step::Stop => Event::Stop,
                Step::Lost => Event::ProcessLost,
            };
            observer.before(&event);
            let decisions = coordinator.step(now, event.clone());
            observer.after(now, &event, &decisions, coordinator.is_writing());
        }
        // Of those that were committed the oldest go first, and the latest stay.
        prop_assert!(observer.discarded.is_sorted());
        prop_assert!(observer.committed.last().is_none_or(|last| !observer.discarded.contains(last)));
    }
}
