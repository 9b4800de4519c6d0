//! What bundles of a stage take: something for the bundle, and something for each element.
//!
//! Who divides a bundle's time by its elements takes a cost of the bundle for one of the elements, makes bundles smaller,
//! finds elements still dearer, and ends with one element a bundle: a DoFn that sends what it has gathered somewhere in its
//! `finish_bundle`, for a second, would come to a standstill. So both costs are fitted to the latest bundles.

use std::time::Duration;

/// What a bundle counts for when the next one has ended.
const DECAY: f64 = 0.5;
/// Sizes must differ by so much, as a part of their mean, to tell the two costs apart.
const SPREAD: f64 = 0.1;
/// A bundle that takes what was expected, but for this part, changes nothing.
const TOLERANCE: f64 = 0.25;

/// See the module.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct BundleTimes {
    sums: Sums,
    /// None before there was a bundle.
    costs: Option<Costs>,
    /// Elements of the last bundle.
    last: f64,
}

/// Weighted sums over bundles, of their elements and seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Sums {
    weight: f64,
    elements: f64,
    seconds: f64,
    squares: f64,
    products: f64,
}

/// In seconds.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Costs {
    bundle: f64,
    element: f64,
    /// All bundles were of one size: nobody knows which of the two it is.
    guessed: bool,
}

impl BundleTimes {
    /// A bundle of so many elements took that long.
    pub(super) fn took(&mut self, elements: usize, took: Duration) {
        if elements == 0 {
            return;
        }
        let (elements, seconds) = (elements as f64, took.as_secs_f64());
        self.last = elements;
        self.sums = Sums {
            weight: self.sums.weight * DECAY + 1.0,
            elements: self.sums.elements * DECAY + elements,
            seconds: self.sums.seconds * DECAY + seconds,
            squares: self.sums.squares * DECAY + elements * elements,
            products: self.sums.products * DECAY + elements * seconds,
        };
        self.costs = Some(match (self.sums.fit(), self.costs) {
            (Some(costs), _) => costs,
            (None, Some(costs)) if costs.explain(elements, seconds) => costs,
            (None, _) => Costs { bundle: 0.0, element: seconds / elements, guessed: true },
        });
    }

    /// What one element takes, about.
    pub(super) fn of_element(&self) -> Duration {
        self.costs.map_or(Duration::ZERO, |costs| Duration::from_secs_f64(costs.element))
    }

    /// How many elements a bundle takes that is to be over in `goal`; where a bundle costs more than half of that by itself,
    /// in twice what it costs.
    pub(super) fn elements_in(&self, goal: Duration, limit: usize) -> usize {
        let Some(Costs { bundle, element, guessed }) = self.costs else { return limit };
        let goal = goal.as_secs_f64();
        let fit = (goal - bundle).max(bundle) / element;
        // No further than twice at once, unless that is safe whatever the bundle costs.
        let safe = goal * self.sums.elements / self.sums.seconds;
        let mut most = fit.min(safe.max(2.0 * self.last)).max(1.0);
        if guessed && (most - self.last).abs() < SPREAD * self.last {
            // Another size tells.
            most = self.last + (0.25 * self.last).max(1.0);
        }
        // Not a number where nothing took any time.
        if most.is_nan() || most >= limit as f64 { limit } else { (most as usize).clamp(1, limit) }
    }
}

impl Sums {
    /// None where all bundles were about the same size.
    fn fit(&self) -> Option<Costs> {
        let (elements, seconds) = (self.elements / self.weight, self.seconds / self.weight);
        let variance = self.squares / self.weight - elements * elements;
        if variance < (SPREAD * elements).powi(2) {
            return None;
        }
        let element = ((self.products / self.weight - elements * seconds) / variance).max(0.0);
        let bundle = seconds - element * elements;
        let element = if bundle >= 0.0 { element } else { seconds / elements };
        Some(Costs { bundle: bundle.max(0.0), element, guessed: false })
    }
}

impl Costs {
    fn explain(self, elements: f64, seconds: f64) -> bool {
        (self.bundle + self.element * elements - seconds).abs() <= TOLERANCE * seconds
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOAL: Duration = Duration::from_secs(1);
    const LIMIT: usize = 100_000;

    /// The sizes of bundles of elements that never run out, and the seconds of the last.
    fn course(bundle: f64, element: f64, first: usize, bundles: usize) -> (Vec<usize>, f64) {
        let mut times = BundleTimes::default();
        let (mut sizes, mut last) = (Vec::new(), 0.0);
        let mut size = first;
        for _ in 0..bundles {
            last = bundle + element * size as f64;
            times.took(size, Duration::from_secs_f64(last));
            sizes.push(size);
            size = times.elements_in(GOAL, LIMIT);
        }
        (sizes, last)
    }

    #[test]
    fn what_costs_the_bundle_is_no_reason_for_small_ones() {
        for bundle in [0.2, 1.2, 10.0] {
            for element in [0.0, 1e-5, 1e-3] {
                for first in [1, 60, 5000] {
                    let (sizes, seconds) = course(bundle, element, first, 60);
                    let fit = ((1.0 - bundle).max(bundle) / element).min(LIMIT as f64);
                    let worst = *sizes[30..].iter().min().expect("some");
                    assert!(
                        worst as f64 >= 0.3 * fit,
                        "{bundle} s and {element} s each, from {first}: {sizes:?}, fit for {fit}"
                    );
                    assert!(seconds <= 1.5 * (2.0 * bundle).max(1.0), "{seconds} s: {sizes:?}");
                }
            }
        }
    }

    #[test]
    fn elements_that_take_long_make_bundles_small_at_once() {
        let (sizes, seconds) = course(0.0, 0.05, 1000, 10);
        assert_eq!((sizes[1], seconds <= 1.2), (20, true), "{sizes:?}");
        // Though the bundle costs something, too.
        let (sizes, _) = course(0.3, 0.05, 1000, 10);
        assert!(sizes[2..].iter().all(|size| (10..=25).contains(size)), "{sizes:?}");
        // One that takes longer than a bundle should has one to itself, once that is certain.
        let (sizes, _) = course(0.0, 10.0, 1, 40);
        assert_eq!((sizes[1], sizes.iter().sum::<usize>()), (2, 41), "{sizes:?}");
    }

    #[test]
    fn what_grows_dearer_is_noticed() {
        let mut times = BundleTimes::default();
        let mut size = 100;
        for number in 0..40 {
            let element = if number < 20 { 1e-4 } else { 0.02 };
            times.took(size, Duration::from_secs_f64(0.01 + element * size as f64));
            size = times.elements_in(GOAL, LIMIT);
        }
        assert!((30..=60).contains(&size), "{size}");
        assert!(times.of_element() > Duration::from_millis(10), "{times:?}");
    }

    #[test]
    fn nothing_is_known_and_nothing_takes_time() {
        let mut times = BundleTimes::default();
        assert_eq!(times.elements_in(GOAL, 7), 7);
        times.took(0, GOAL);
        assert_eq!(times, BundleTimes::default());
        times.took(3, Duration::ZERO);
        assert_eq!(times.elements_in(GOAL, 7), 7);
        times.took(1, Duration::MAX / 4);
        assert!(times.elements_in(GOAL, 7) <= 2);
    }

    #[test]
    fn a_pipeline_that_idles_is_quick_when_much_comes() {
        let mut times = BundleTimes::default();
        for _ in 0..100 {
            times.took(1, Duration::from_millis(2));
        }
        assert!(times.elements_in(GOAL, LIMIT) >= 400);
        times.took(400, Duration::from_millis(10));
        assert!(times.elements_in(GOAL, LIMIT) >= 10_000);
    }
}
