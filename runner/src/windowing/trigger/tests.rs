//! Tables of what each trigger does, and properties of all of them.

use proptest::prelude::*;

use super::*;
use Trigger::*;

/// A window under a trigger, driven by a script of words: `e` an element comes, `t5` the clock moves on by 5, `w` the
/// watermark passes the end. After each word the trigger is asked and, if it says so, fired.
struct Window {
    machine: TriggerMachine,
    state: TriggerState,
    look: Look,
}

impl Window {
    fn new(trigger: &Trigger, merging: bool) -> Window {
        let machine = TriggerMachine::new(trigger, merging);
        let state = machine.start();
        Window { machine, state, look: Look { now: Timestamp(1000), ended: false } }
    }

    /// What happened at each word: `.` nothing, `F` it fired, `X` it fired and finished. Nothing comes after that.
    fn play(&mut self, script: &str) -> String {
        let mut story = String::new();
        for word in script.split_whitespace() {
            if self.machine.is_finished(&self.state) {
                break;
            }
            match word.split_at(1) {
                ("e", "") => self.machine.on_element(&mut self.state, self.look),
                ("w", "") => self.look.ended = true,
                ("t", by) => self.look.now.0 += by.parse::<i64>().unwrap(),
                _ => panic!("no such word: {word}"),
            }
            let mut bytes = Vec::new();
            self.machine.encode(&self.state, &mut bytes);
            self.state = self.machine.decode(&bytes).unwrap();
            story.push(match self.machine.should_fire(&self.state, self.look) {
                false => '.',
                true => {
                    self.machine.on_fire(&mut self.state, self.look);
                    if self.machine.is_finished(&self.state) { 'X' } else { 'F' }
                }
            });
        }
        story
    }
}

fn play(trigger: &Trigger, script: &str) -> String {
    let story = Window::new(trigger, false).play(script);
    let merging = Window::new(trigger, true).play(script);
    assert_eq!(story, merging, "windows that could merge, but do not, are no different");
    story
}

/// Plays two windows, merges them, and plays the rest; `Err` if the merged window is finished at once.
fn merged(trigger: &Trigger, first: &str, second: &str, ended: bool, rest: &str) -> Result<String, ()> {
    let (mut a, mut b) = (Window::new(trigger, true), Window::new(trigger, true));
    a.play(first);
    b.look.now = a.look.now;
    b.play(second);
    let look = Look { now: b.look.now, ended };
    let state = a.machine.merge(&[a.state, b.state], look);
    let mut window = Window { machine: a.machine, state, look };
    if window.machine.is_finished(&window.state) { Err(()) } else { Ok(window.play(rest)) }
}

fn delay(by: i64) -> Trigger {
    AfterProcessingTime(vec![TimestampTransform::Delay(by)])
}

fn repeat(trigger: Trigger) -> Trigger {
    Repeat(Box::new(trigger))
}

fn end_of_window(early: Option<Trigger>, late: Option<Trigger>) -> Trigger {
    AfterEndOfWindow { early: early.map(Box::new), late: late.map(Box::new) }
}

fn or_finally(main: Trigger, until: Trigger) -> Trigger {
    OrFinally(Box::new(main), Box::new(until))
}

#[test]
fn the_default_fires_at_the_end_and_at_each_late_element() {
    assert_eq!(play(&Default, "e e w e e"), "..FFF");
}

#[test]
fn never_and_always() {
    assert_eq!(play(&Never, "e t100 w e"), "....");
    assert_eq!(play(&Always, "e e w e"), "FFFF");
}

#[test]
fn a_count_is_of_the_pane() {
    assert_eq!(play(&ElementCount(3), "e e e e"), "..X");
    assert_eq!(play(&repeat(ElementCount(2)), "e e e w e"), ".F..F");
}

#[test]
fn processing_time_is_reckoned_from_the_first_element_of_the_pane() {
    assert_eq!(play(&delay(10), "t50 e t5 e t4 t1 e"), ".....X");
    assert_eq!(play(&repeat(delay(10)), "e t9 e t1 t20 e t9 t1"), "...F...F");
    assert_eq!(play(&AfterSynchronizedProcessingTime, "t5 e"), ".X");
    assert_eq!(play(&repeat(AfterSynchronizedProcessingTime), "e e"), "FF");
    let trigger = repeat(AfterSynchronizedProcessingTime);
    let mut window = Window::new(&trigger, false);
    window.machine = TriggerMachine::settling(&trigger, false, 10);
    assert_eq!(window.play("e t9 t1 e t3 e t7"), "..F...F");
}

#[test]
fn processing_time_may_be_aligned() {
    let aligned =
        AfterProcessingTime(vec![TimestampTransform::Delay(1), TimestampTransform::AlignTo { period: 100, offset: 7 }]);
    assert_eq!(play(&aligned, "e t6 t1"), "..X", "from 1000, up to 1007");
    let steps = |time| reckon(&[TimestampTransform::AlignTo { period: 100, offset: 7 }], Timestamp(time)).0;
    assert_eq!([steps(7), steps(8), steps(6), steps(-94), steps(107)], [7, 107, 7, -93, 107]);
    assert_eq!(reckon(&[TimestampTransform::AlignTo { period: 0, offset: 7 }], Timestamp(5)), Timestamp(5));
    assert_eq!(reckon(&[TimestampTransform::Delay(i64::MAX)], Timestamp(5)), Timestamp::MAX);
}

#[test]
fn a_trigger_says_when_to_look_again() {
    let mut window = Window::new(&AfterAny(vec![delay(30), delay(10), ElementCount(5)]), false);
    let again = |window: &Window| window.machine.look_again(&window.state, window.look.now);
    assert_eq!(again(&window), None);
    window.play("e t3");
    assert_eq!(again(&window), Some(Timestamp(1010)));
    window.play("t7");
    assert_eq!(again(&window), None, "it has finished");
    let mut both = Window::new(&AfterAll(vec![delay(10), ElementCount(2)]), false);
    both.play("e t10");
    assert_eq!(again(&both), None, "that time has come; what it waits for is an element");
    assert_eq!(both.play("e"), "X");
}

#[test]
fn the_end_of_the_window_with_early_and_late_firings() {
    assert_eq!(play(&end_of_window(None, None), "e e w"), "..X");
    let early = end_of_window(Some(ElementCount(2)), None);
    assert_eq!(play(&early, "e e e w"), ".F.X");
    let late = end_of_window(None, Some(ElementCount(2)));
    assert_eq!(play(&late, "e e w e e e e"), "..F.F.F");
    let both = end_of_window(Some(delay(10)), Some(ElementCount(1)));
    assert_eq!(play(&both, "e t10 e t9 w e e"), ".F..FFF");
    assert_eq!(play(&end_of_window(Some(repeat(ElementCount(1))), None), "e e w"), "FFX");
}

#[test]
fn after_all_waits_for_the_last() {
    let all = AfterAll(vec![ElementCount(2), delay(10)]);
    assert_eq!(play(&all, "e e t9 t1"), "...X");
    assert_eq!(play(&all, "e t20 e"), "..X");
    assert_eq!(play(&repeat(all), "e e t10 e e t10"), "..F..F");
}

#[test]
fn after_any_takes_the_first() {
    let any = AfterAny(vec![ElementCount(3), delay(10)]);
    assert_eq!(play(&any, "e t10"), ".X");
    assert_eq!(play(&repeat(any), "e e e e t10 e e e"), "..F.F..F");
}

#[test]
fn after_each_goes_through_its_parts() {
    let each = AfterEach(vec![ElementCount(2), ElementCount(1), repeat(ElementCount(3))]);
    assert_eq!(Window::new(&each, false).play("e e e e e e e e e"), ".FF..F..F");
    assert_eq!(play(&AfterEach(vec![ElementCount(1), end_of_window(None, None)]), "e e w"), "F.X");
}

#[test]
fn or_finally_ends_with_the_second() {
    let until = or_finally(repeat(ElementCount(2)), ElementCount(5));
    assert_eq!(play(&until, "e e e e e e"), ".F.FX");
    assert_eq!(play(&or_finally(ElementCount(2), ElementCount(5)), "e e e"), ".X");
    assert_eq!(play(&repeat(or_finally(repeat(ElementCount(2)), ElementCount(3))), "e e e e e e"), ".FF.FF");
    assert_eq!(play(&or_finally(Default, delay(10)), "e w e t10"), ".FFX");
}

#[test]
fn counts_of_windows_that_merge_add_up() {
    assert_eq!(merged(&ElementCount(4), "e", "e e", false, "t0 e"), Ok(".X".into()));
    assert_eq!(merged(&repeat(ElementCount(2)), "e e e", "e", false, "t0"), Ok("F".into()));
}

#[test]
fn the_earliest_of_merged_delays_counts() {
    assert_eq!(merged(&delay(10), "e t4", "e", false, "t5 t1"), Ok(".X".into()));
}

#[test]
fn a_merged_window_that_has_not_ended_is_active_again() {
    let once = AfterEach(vec![end_of_window(None, None), ElementCount(1)]);
    assert_eq!(merged(&once, "e w", "e w", false, "w e"), Ok("FX".into()), "the end comes again");
    assert_eq!(merged(&once, "e w", "e w", true, "t0 e"), Ok(".X".into()), "it is over in both");
    let early = end_of_window(Some(ElementCount(2)), Some(ElementCount(1)));
    assert_eq!(merged(&early, "e w", "e", false, "e e w e"), Ok(".FFF".into()), "the count begins again");
    assert_eq!(merged(&early, "e w", "e", true, "t0 e"), Ok("FF".into()), "one had not fired its end");
    assert_eq!(merged(&early, "e w", "e w", true, "t0 e"), Ok(".F".into()));
}

#[test]
fn what_had_enough_in_one_window_has_enough_in_the_merged() {
    let each = AfterEach(vec![ElementCount(2), ElementCount(3)]);
    assert_eq!(merged(&each, "e e", "e", false, "e e"), Ok(".X".into()), "the second part has counted one element");
    assert_eq!(merged(&ElementCount(1), "e", "t0", false, ""), Err(()));
    assert_eq!(merged(&or_finally(repeat(ElementCount(9)), ElementCount(2)), "e", "e", false, "t0"), Ok("X".into()));
    assert_eq!(merged(&AfterAll(vec![ElementCount(3), delay(5)]), "e", "e e", false, "t4 t1"), Ok(".X".into()));
    assert_eq!(merged(&AfterAny(vec![ElementCount(3), delay(5)]), "e", "e e", false, "t0"), Ok("X".into()));
}

#[test]
fn closing_keeps_the_finished_bit() {
    let mut window = Window::new(&repeat(ElementCount(2)), false);
    window.play("e");
    window.machine.close(&mut window.state);
    assert!(window.machine.is_finished(&window.state));
}

#[test]
fn damaged_states_are_refused() {
    let machine = TriggerMachine::new(&AfterAny(vec![ElementCount(3), Never]), false);
    for bytes in [&[0, 0][..], &[0, 0, 0, 0], &[4, 0, 0], &[2, 1, 0, 0], &[0, 2], &[0, 2, 1, 2, 1], &[0x80; 12]] {
        assert_eq!(machine.decode(bytes), Err(DamagedState), "{bytes:?}");
    }
    assert!(machine.decode(&[0, 2, 1, 1]).is_ok());
}

fn any_trigger() -> impl Strategy<Value = Trigger> {
    let leaf = prop_oneof![
        Just(Default),
        Just(Never),
        Just(Always),
        Just(AfterSynchronizedProcessingTime),
        (1..4u32).prop_map(ElementCount),
        (0..20i64).prop_map(delay),
        Just(end_of_window(None, None)),
    ];
    leaf.prop_recursive(3, 12, 3, |inner| {
        let some = proptest::collection::vec(inner.clone(), 1..4);
        prop_oneof![
            some.clone().prop_map(AfterAll),
            some.clone().prop_map(AfterAny),
            some.prop_map(AfterEach),
            (proptest::option::of(inner.clone()), proptest::option::of(inner.clone()))
                .prop_map(|(early, late)| end_of_window(early, late)),
            (inner.clone(), inner.clone()).prop_map(|(main, until)| or_finally(main, until)),
            inner.prop_map(repeat),
        ]
    })
}

fn any_script() -> impl Strategy<Value = String> {
    let word = prop_oneof![4 => Just("e".to_string()), 2 => (0..15i64).prop_map(|by| format!("t{by}")), 1 => Just("w".to_string())];
    proptest::collection::vec(word, 0..25).prop_map(|words| words.join(" "))
}

proptest! {
    #[test]
    fn states_survive_their_encoding(trigger in any_trigger(), script in any_script(), merging in any::<bool>()) {
        let mut window = Window::new(&trigger, merging);
        window.play(&script);
        let mut bytes = Vec::new();
        window.machine.encode(&window.state, &mut bytes);
        prop_assert_eq!(window.machine.decode(&bytes), Ok(window.state));
    }

    #[test]
    fn elements_never_hold_back_a_firing(trigger in any_trigger(), script in any_script()) {
        let mut window = Window::new(&trigger, false);
        window.play(&script);
        if !window.machine.is_finished(&window.state) && window.machine.should_fire(&window.state, window.look) {
            window.machine.on_element(&mut window.state, window.look);
            prop_assert!(window.machine.should_fire(&window.state, window.look));
        }
    }

    #[test]
    fn looking_when_told_misses_no_firing(trigger in any_trigger(), script in any_script()) {
        let mut window = Window::new(&trigger, false);
        window.play(&script);
        // Between now and the time to look again, nothing becomes ready of itself.
        let until = window.machine.look_again(&window.state, window.look.now).unwrap_or(Timestamp(window.look.now.0 + 100));
        let before = window.machine.should_fire(&window.state, window.look);
        for now in window.look.now.0..until.0 {
            prop_assert_eq!(window.machine.should_fire(&window.state, Look { now: Timestamp(now), ..window.look }), before);
        }
    }

    #[test]
    fn any_windows_may_merge(trigger in any_trigger(), first in any_script(), second in any_script(), ended in any::<bool>()) {
        let _ = merged(&trigger, &first, &second, ended, "e t5 w e");
    }

    #[test]
    fn merging_with_a_window_that_saw_nothing_keeps_a_repeated_count(count in 1..5u32, elements in 0..9usize) {
        let trigger = repeat(ElementCount(count));
        let script = vec!["e"; elements].join(" ");
        let alone = Window::new(&trigger, true).play(&format!("{script} e e e e e"));
        let merged = merged(&trigger, &script, "", false, "e e e e e").unwrap();
        prop_assert_eq!(&alone[elements..], merged);
    }

    #[test]
    fn any_bytes_may_be_taken_for_a_state(trigger in any_trigger(), bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
        let machine = TriggerMachine::new(&trigger, false);
        if let Ok(state) = machine.decode(&bytes) {
            let look = Look { now: Timestamp(0), ended: true };
            machine.should_fire(&state, look);
        }
    }
}

#[test]
fn parts_of_a_late_trigger_that_had_finished_are_waited_for_again() {
    let late = || or_finally(delay(1), ElementCount(2));
    for trigger in [end_of_window(None, Some(late())), end_of_window(Some(late()), None)] {
        let mut window = Window::new(&trigger, false);
        if matches!(&trigger, AfterEndOfWindow { late: Some(_), .. }) {
            assert_eq!(window.play("w"), "F");
        }
        assert_eq!(window.play("e e e t1 e"), ".F.F.");
        let due = Timestamp(window.look.now.0 + 1);
        assert_eq!(window.machine.look_again(&window.state, window.look.now), Some(due));
    }
}
