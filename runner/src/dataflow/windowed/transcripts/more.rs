//! More scenarios.

use super::*;

#[test]
fn what_waits_holds_the_output_watermark() {
    let held = |combiner| {
        let mut t = Transcript::fixed(10, Windowing { timestamp_combiner: combiner, ..strategy(Trigger::Default) });
        t.input(&[3, 5]);
        t.watermark(8);
        t.engine.output.0
    };
    assert_eq!(held(TimestampCombiner::Earliest), 3);
    assert_eq!(held(TimestampCombiner::Latest), 5);
    assert_eq!(held(TimestampCombiner::EndOfWindow), 8);
    let mut t = Transcript::fixed(10, discarding(Trigger::Never, 50));
    t.input(&[3]);
    t.watermark(40);
    assert_eq!(t.engine.output, Timestamp(9), "until it is emitted");
    assert_eq!(t.watermark(60), ["0..10 [3] @9 OnTime 0/0 last"]);
    assert_eq!(t.engine.output, Timestamp(60));
}

#[test]
fn late_data_holds_nothing() {
    let mut t = Transcript::fixed(10, discarding(repeat(count(2)), 50));
    t.watermark(20);
    assert_eq!(t.input(&[3]), NOTHING);
    assert_eq!(t.watermark(30), NOTHING);
    assert_eq!(t.engine.output, Timestamp(30));
    assert_eq!(t.input(&[4]), ["0..10 [3, 4] @9 Late 0/0"]);
    assert_eq!(t.input(&[5]), NOTHING);
    assert_eq!(t.end(), ["0..10 [5] @9 Late 1/1 last"]);
}

#[test]
fn empty_panes_come_where_they_are_asked_for() {
    let panes = |on_time, closing, lateness| {
        let trigger = end_of_window(Some(count(1)), Some(count(1)));
        let mut t = Transcript::fixed(10, Windowing { on_time, closing, ..discarding(trigger, lateness) });
        t.input(&[3]);
        let mut panes = t.watermark(10);
        panes.extend(t.end());
        panes
    };
    use ClosingBehavior::{EmitAlways, EmitIfNonempty};
    use OnTimeBehavior::{FireAlways, FireIfNonempty};
    assert_eq!(panes(FireIfNonempty, EmitIfNonempty, 5), NOTHING);
    assert_eq!(panes(FireAlways, EmitIfNonempty, 5), ["0..10 [] @9 OnTime 1/0"]);
    assert_eq!(panes(FireIfNonempty, EmitAlways, 5), ["0..10 [] @9 Late 1/0 last"]);
    assert_eq!(panes(FireAlways, EmitAlways, 5), ["0..10 [] @9 OnTime 1/0", "0..10 [] @9 Late 2/1 last"]);
    assert_eq!(panes(FireAlways, EmitIfNonempty, 0), ["0..10 [] @9 OnTime 1/0 last"]);
    assert_eq!(panes(FireIfNonempty, EmitIfNonempty, 0), NOTHING);
}

#[test]
fn a_count_is_exact() {
    let mut t = Transcript::fixed(10, discarding(repeat(count(2)), 0));
    assert_eq!(
        t.input(&[1, 12, 2, 3, 4, 13, 5]),
        ["0..10 [1, 2] @9 Early 0", "0..10 [3, 4] @9 Early 1", "10..20 [12, 13] @19 Early 0"]
    );
    assert_eq!(t.end(), ["0..10 [5] @9 OnTime 2/0 last", "10..20 [] @19 OnTime 1/0 last"]);
    let mut t = Transcript::new(Assign::Sessions(10), discarding(repeat(count(2)), 0));
    assert_eq!(t.input(&[1, 3, 5, 30, 7]), ["1..13 [1, 3] @12 Early 0", "1..17 [5, 7] @16 Early 0"]);
    t.end();
    t.assert_empty();
}

#[test]
fn processing_time_fires_windows() {
    let mut t = Transcript::fixed(10, accumulating(repeat(delay(100)), 0));
    assert_eq!(t.input(&[1, 2]), NOTHING);
    assert_eq!(t.clock(99), NOTHING);
    assert_eq!(t.input(&[3]), NOTHING);
    assert_eq!(t.clock(1), ["0..10 [1, 2, 3] @9 Early 0"]);
    assert_eq!(t.clock(500), NOTHING, "until another element comes");
    assert_eq!(t.input(&[4]), NOTHING);
    assert_eq!(t.engine.windows.next_due().unwrap(), Some(Timestamp(1700)));
    assert_eq!(t.clock(200), ["0..10 [1, 2, 3, 4] @9 Early 1"]);
    assert_eq!(t.input(&[5]), NOTHING);
    assert_eq!(t.end(), ["0..10 [1, 2, 3, 4, 5] @9 OnTime 2/0 last"]);
    assert_eq!(t.clock(1000), NOTHING);
    t.assert_empty();
}

#[test]
fn the_global_window_fires_by_count_and_at_the_end() {
    let mut t = Transcript::new(Assign::Global, discarding(repeat(count(2)), 0));
    assert_eq!(t.input(&[1]), NOTHING);
    assert_eq!(t.input(&[2]), ["[1, 2] @9223371950454775 Early 0"]);
    assert_eq!(t.watermark(1_000_000), NOTHING);
    assert_eq!(t.input(&[3, 4, 5]), ["[3, 4] @9223371950454775 Early 1"]);
    assert_eq!(t.input_of("other", &[6]), NOTHING);
    assert_eq!(t.end(), ["[5] @9223371950454775 OnTime 2/0 last", "other:[6] @9223371950454775 OnTime 0/0 last"]);
}

#[test]
fn sessions_that_merge_bring_everything_along() {
    let windowing = Windowing { timestamp_combiner: TimestampCombiner::Earliest, ..discarding(Trigger::Default, 100) };
    let mut t = Transcript::new(Assign::Sessions(10), windowing);
    t.input(&[1, 15, 40]);
    t.input(&[8]);
    t.watermark(7);
    assert_eq!(t.engine.output, Timestamp(1));
    assert_eq!(t.watermark(30), ["1..25 [1, 8, 15] @1 OnTime 0/0"]);
    assert_eq!(t.input(&[33]), NOTHING, "it makes the second session longer");
    assert_eq!(t.watermark(49), NOTHING);
    assert_eq!(t.input(&[24]), NOTHING, "the two become one, which has not ended");
    assert_eq!(t.watermark(50), ["1..50 [24, 33, 40] @33 OnTime 0/0"]);
    assert_eq!(t.end(), NOTHING);
    t.assert_empty();
}

#[test]
fn elements_follow_their_window_into_the_one_that_it_becomes() {
    let mut t = Transcript::new(Assign::Sessions(10), discarding(Trigger::Default, 0));
    t.input(&[1]);
    t.input(&[1, 5, 1, 15]);
    assert_eq!(t.end(), ["1..15 [1, 1, 1, 5] @14 OnTime 0/0 last", "15..25 [15] @24 OnTime 0/0 last"]);
    t.assert_empty();
}

#[test]
fn a_session_that_is_closed_merges_with_nothing() {
    let mut t = Transcript::new(Assign::Sessions(10), discarding(count(2), 0));
    assert_eq!(t.input(&[1, 3]), ["1..13 [1, 3] @12 Early 0 last"]);
    assert_eq!(t.input(&[5]), NOTHING, "a session of its own");
    assert_eq!(t.input(&[6]), ["5..16 [5, 6] @15 Early 0 last"]);
    assert_eq!(t.dropped(), (0, 0));
    assert_eq!(t.end(), NOTHING);
    t.assert_empty();
}

#[test]
fn large_groups_come_out_whole() {
    let values: Vec<i64> = ((1 << 41)..(1 << 41) + 300_000).collect();
    let mut t = Transcript::new(Assign::Global, accumulating(Trigger::Default, 0));
    for part in values.chunks(10_000) {
        assert_eq!(t.input(part), NOTHING);
    }
    let panes = t.end();
    assert_eq!(panes.len(), 1);
    assert!(panes[0] == format!("{values:?} @9223371950454775 OnTime 0/0 last"), "{:.200}", panes[0]);
    assert_eq!(t.iterables.len(), 1, "by reference");
    t.assert_empty();
}

#[test]
fn values_of_large_sessions_that_merge_are_kept() {
    let mut t = Transcript::new(Assign::Sessions(1000), accumulating(Trigger::Default, 0));
    let (left, right): (Vec<i64>, Vec<i64>) = ((0..2000).collect(), (5000..6999).collect());
    t.input(&left);
    t.input(&right);
    t.input(&(2500..5000).step_by(500).collect::<Vec<i64>>());
    let panes = t.end();
    let mut all = left;
    all.extend((2500..5000).step_by(500));
    all.extend(right);
    assert_eq!(panes.len(), 1);
    assert!(panes[0] == format!("0..7998 {all:?} @7997 OnTime 0/0 last"), "{:.200}", panes[0]);
    t.assert_empty();
}

#[test]
fn the_last_pane_of_an_upstream_window_is_no_early_one_here() {
    let synchronized = repeat(Trigger::AfterSynchronizedProcessingTime);
    let mut t = Transcript::settling(Assign::Fixed(10), accumulating(synchronized, 0), 5);
    assert_eq!(t.input(&[1]), NOTHING);
    assert_eq!(t.clock(4), NOTHING);
    assert_eq!(t.clock(1), ["0..10 [1] @9 Early 0"]);
    // The next pane comes when its window has ended, a moment before the watermark that says so.
    assert_eq!(t.input(&[1]), NOTHING);
    assert_eq!(t.watermark(10), ["0..10 [1, 1] @9 OnTime 1/0 last"]);
    assert_eq!(t.clock(5), NOTHING);
    t.assert_empty();
}

#[test]
fn without_room_nothing_is_lost() {
    let mut t = Transcript::fixed(10, discarding(repeat(Trigger::AfterSynchronizedProcessingTime), 0));
    let timestamps: Vec<i64> = (0..400).map(|at| at * 10).collect();
    let mut intake = t.batch("k", &timestamps);
    t.take(&mut intake);
    assert!(intake.is_over());
    t.out.room = Some(0);
    assert_eq!(t.engine.fire_touched(t.now, &mut t.out).unwrap(), Progress::Paused);
    t.out.room = None;
    assert_eq!(t.engine.fire_touched(t.now, &mut t.out).unwrap(), Progress::Done);
    assert_eq!(t.settle().len(), 400);
    t.engine.watermark = Timestamp(i64::MAX);
    t.out.room = Some(0);
    assert_eq!(t.engine.wake_by_watermark(t.now, &mut t.out).unwrap(), Progress::Paused);
    t.out.room = None;
    assert_eq!(t.end().len(), 400);
    t.assert_empty();
}

/// Windows that the SDK merges: here, all of a key.
#[test]
fn the_sdk_merges_custom_windows() {
    let mut t = Transcript::new(Assign::Fixed(10), accumulating(repeat(count(2)), 0));
    t.grouping.windowing.merging = Merging::Custom;
    t.engine.windows.windowing.merging = Merging::Custom;
    t.engine.windows.machine = TriggerMachine::new(&repeat(count(2)), true);
    let input = |t: &mut Transcript, timestamps: &[i64], expected: &[usize]| {
        let mut intake = t.batch("k", timestamps);
        let questions = t.engine.questions(&intake).unwrap();
        let asked: Vec<usize> = questions.iter().map(|question| question.windows().len()).collect();
        assert_eq!(asked, expected);
        let answers = questions.into_iter().map(|question| {
            let windows = question.windows();
            let all: BTreeMap<i64, i64> = windows
                .iter()
                .map(|window| IntervalWindow::decode(window).unwrap())
                .map(|window| (window.start.0, window.end.0))
                .collect();
            let start = *all.keys().next().unwrap();
            let end = *all.values().max().unwrap();
            let merged = IntervalWindow { start: Timestamp(start), end: Timestamp(end) }.encode();
            let merged: Merged = vec![(merged, (0..windows.len()).collect())];
            (question, merged)
        });
        let answers = answers.collect();
        t.engine.take(&mut intake, answers, t.now).unwrap();
        t.engine.fire_touched(t.now, &mut t.out).unwrap();
        t.settle()
    };
    assert_eq!(input(&mut t, &[3], &[1]), NOTHING);
    assert_eq!(input(&mut t, &[4], &[]), ["0..10 [3, 4] @9 Early 0"], "its window is known: nobody is asked");
    assert_eq!(input(&mut t, &[25], &[2]), NOTHING);
    assert_eq!(input(&mut t, &[15], &[2]), ["0..30 [3, 4, 15, 25] @29 Early 0"]);
    assert_eq!(t.end(), ["0..30 [3, 4, 15, 25] @29 OnTime 1/0 last"]);
    t.assert_empty();
}
