//! The scenarios of the Python SDK's trigger transcripts (`apache_beam/testing/data`), told again.

use super::*;

#[test]
fn fixed_windows_by_default() {
    let mut t = Transcript::fixed(10, accumulating(Trigger::Default, 0));
    assert_eq!(t.input(&[1, 2, 3, 10, 11]), NOTHING);
    assert_eq!(t.watermark(25), ["0..10 [1, 2, 3] @9 OnTime 0/0 last", "10..20 [10, 11] @19 OnTime 0/0 last"]);
    t.assert_empty();
}

#[test]
fn late_data_by_default() {
    let mut t = Transcript::fixed(10, accumulating(Trigger::Default, 100));
    assert_eq!(t.input(&[1, 2, 3, 10, 11, 25]), NOTHING);
    assert_eq!(
        t.watermark(100),
        ["0..10 [1, 2, 3] @9 OnTime 0/0", "10..20 [10, 11] @19 OnTime 0/0", "20..30 [25] @29 OnTime 0/0"]
    );
    assert_eq!(t.input(&[7]), ["0..10 [1, 2, 3, 7] @9 Late 1/1"]);
    assert_eq!(t.input(&[7, 8]), ["0..10 [1, 2, 3, 7, 7, 8] @9 Late 2/2"]);
    assert_eq!(t.end(), NOTHING);
    t.assert_empty();
}

#[test]
fn elements_of_expired_windows_are_dropped() {
    let trigger = end_of_window(Some(count(3)), Some(count(1)));
    let mut t = Transcript::fixed(10, accumulating(trigger, 20));
    assert_eq!(t.input(&[1, 2, 10, 11, 80, 81]), NOTHING);
    assert_eq!(
        t.watermark(100),
        ["0..10 [1, 2] @9 OnTime 0/0 last", "10..20 [10, 11] @19 OnTime 0/0 last", "80..90 [80, 81] @89 OnTime 0/0"]
    );
    assert_eq!(t.input(&[7, 8]), NOTHING);
    assert_eq!(t.input(&[17, 18]), NOTHING);
    assert_eq!(t.dropped(), (4, 0));
    assert_eq!(t.input(&[82]), ["80..90 [80, 81, 82] @89 Late 1/1"]);
}

#[test]
fn timestamps_are_combined() {
    let panes = |combiner| {
        let mut t = Transcript::fixed(10, Windowing { timestamp_combiner: combiner, ..strategy(Trigger::Default) });
        t.input(&[1, 2, 3, 10, 11, 25]);
        t.watermark(100)
    };
    assert_eq!(
        panes(TimestampCombiner::Earliest),
        [
            "0..10 [1, 2, 3] @1 OnTime 0/0 last",
            "10..20 [10, 11] @10 OnTime 0/0 last",
            "20..30 [25] @25 OnTime 0/0 last"
        ]
    );
    assert_eq!(
        panes(TimestampCombiner::Latest),
        [
            "0..10 [1, 2, 3] @3 OnTime 0/0 last",
            "10..20 [10, 11] @11 OnTime 0/0 last",
            "20..30 [25] @25 OnTime 0/0 last"
        ]
    );
}

#[test]
fn sessions_with_early_and_late_firings() {
    let trigger = end_of_window(Some(count(2)), Some(count(3)));
    let mut t = Transcript::new(Assign::Sessions(10), accumulating(trigger, 100));
    assert_eq!(t.input(&[1, 2]), ["1..12 [1, 2] @11 Early 0"]);
    assert_eq!(t.input(&[3]), NOTHING);
    assert_eq!(t.input(&[4]), ["1..14 [1, 2, 3, 4] @13 Early 0"], "a merged window's panes begin anew");
    assert_eq!(t.input(&[5]), NOTHING);
    assert_eq!(t.watermark(100), ["1..15 [1, 2, 3, 4, 5] @14 OnTime 0/0"]);
    assert_eq!(t.input(&[1]), NOTHING);
    assert_eq!(t.input(&[3, 4]), ["1..15 [1, 1, 2, 3, 3, 4, 4, 5] @14 Late 1/1"]);
    assert_eq!(t.end(), NOTHING);
    t.assert_empty();
}

#[test]
fn early_panes_that_discard() {
    let mut t = Transcript::fixed(10, discarding(end_of_window(Some(count(2)), None), 0));
    assert_eq!(t.input(&[1, 2]), ["0..10 [1, 2] @9 Early 0"]);
    assert_eq!(t.input(&[4]), NOTHING);
    assert_eq!(t.input(&[14]), NOTHING);
    assert_eq!(t.input(&[5]), ["0..10 [4, 5] @9 Early 1"]);
    assert_eq!(t.input(&[18]), ["10..20 [14, 18] @19 Early 0"]);
    assert_eq!(t.input(&[6]), NOTHING);
    assert_eq!(t.watermark(100), ["0..10 [6] @9 OnTime 2/0 last", "10..20 [] @19 OnTime 1/0 last"]);
}

#[test]
fn a_finished_trigger_closes_its_window() {
    let mut t = Transcript::fixed(10, discarding(count(2), 10));
    assert_eq!(t.input(&[1, 2, 3, 10, 11, 25]), ["0..10 [1, 2] @9 Early 0 last", "10..20 [10, 11] @19 Early 0 last"]);
    assert_eq!(t.dropped(), (0, 1));
    assert_eq!(t.input(&[4, 12, 13]), NOTHING);
    assert_eq!(t.dropped(), (0, 4));
    assert_eq!(t.watermark(19), NOTHING);
    assert_eq!(t.input(&[5]), NOTHING);
    assert_eq!(t.dropped(), (0, 5));
    assert_eq!(t.watermark(20), NOTHING);
    assert_eq!(t.input(&[5]), NOTHING);
    assert_eq!(t.dropped(), (1, 5), "by now it is forgotten");
    assert_eq!(t.watermark(39), NOTHING);
    assert_eq!(t.watermark(40), ["20..30 [25] @29 OnTime 0/0 last"], "what never fired comes out at the expiry");
    t.assert_empty();
}

#[test]
fn elements_behind_the_watermark_do_not_move_the_pane() {
    let earliest = Windowing { timestamp_combiner: TimestampCombiner::Earliest, ..strategy(Trigger::Default) };
    let mut t = Transcript::fixed(10, earliest.clone());
    t.watermark(5);
    t.input(&[2, 3, 7, 8]);
    assert_eq!(t.engine.output, Timestamp(5));
    assert_eq!(t.watermark(11), ["0..10 [2, 3, 7, 8] @7 OnTime 0/0 last"]);
    let mut t = Transcript::fixed(10, earliest);
    t.watermark(8);
    t.input(&[2, 3, 7]);
    assert_eq!(t.watermark(11), ["0..10 [2, 3, 7] @9 OnTime 0/0 last"]);
}
