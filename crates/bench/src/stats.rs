//! Medians, and how sure they are, from few rounds and without a model of the noise.

use serde::Serialize;

/// A median of rounds, with an interval between two of the sorted values.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct Estimate {
    pub(crate) median: f64,
    pub(crate) low: f64,
    pub(crate) high: f64,
    /// How probable it is that the interval covers the true median, whatever the distribution (from order statistics). Few
    /// rounds cannot give more.
    pub(crate) coverage: f64,
}

/// What an interval should cover.
const WANTED: f64 = 0.95;

impl Estimate {
    /// Of values in any order; none of no values, or where one is no number.
    pub(crate) fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut sorted: Vec<f64> = values.into_iter().collect();
        if sorted.iter().any(|v| !v.is_finite()) {
            return None;
        }
        sorted.sort_by(f64::total_cmp);
        let n = sorted.len();
        let at = |i: usize| sorted.get(i).copied();
        let middle = n / 2;
        let median =
            if n.is_multiple_of(2) { f64::midpoint(at(middle.checked_sub(1)?)?, at(middle)?) } else { at(middle)? };
        // The innermost pair that is still wide enough; the outermost where none is.
        let cut = (1..middle).take_while(|cut| coverage(n, *cut) >= WANTED).last().unwrap_or(0);
        Some(Self { median, low: at(cut)?, high: at(n - 1 - cut)?, coverage: coverage(n, cut) })
    }

    /// With so many digits as the numbers deserve.
    pub(crate) fn show(&self) -> String {
        format!("{} [{} to {}]", digits(self.median), digits(self.low), digits(self.high))
    }
}

/// Three digits, and no more behind the point than that.
pub(crate) fn digits(x: f64) -> String {
    match x.abs() {
        a if a >= 100.0 => format!("{x:.0}"),
        a if a >= 10.0 => format!("{x:.1}"),
        a if a >= 1.0 => format!("{x:.2}"),
        _ => format!("{x:.3}"),
    }
}

/// How probable it is that the median of a distribution lies between the values `cut` from either end of `n` sorted draws: that
/// neither `cut` draws or fewer lie below it, nor above (David and Nagaraja, Order Statistics, section 7.1).
fn coverage(n: usize, cut: usize) -> f64 {
    let mut ways = 1.0;
    let mut tail = 0.0;
    let half_to_n = 0.5_f64.powi(i32::try_from(n).unwrap_or(i32::MAX));
    for k in 0..=cut {
        tail += ways * half_to_n;
        let (n, k) = (u32::try_from(n).unwrap_or(u32::MAX), u32::try_from(k).unwrap_or(u32::MAX));
        ways *= f64::from(n - k) / f64::from(k + 1);
    }
    1.0 - 2.0 * tail
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_interval_is_that_of_the_tables() {
        // The classical ranks for 95 %: n=10 takes the 2nd and the 9th (0.979), n=15 the 4th and the 12th (0.965).
        let of = |n: u32| Estimate::of((1..=n).map(f64::from)).unwrap();
        let ten = of(10);
        assert_eq!((ten.median, ten.low, ten.high), (5.5, 2.0, 9.0));
        assert!((ten.coverage - 0.978_5).abs() < 1e-3, "{ten:?}");
        let fifteen = of(15);
        assert_eq!((fifteen.median, fifteen.low, fifteen.high), (8.0, 4.0, 12.0));
        // Five rounds cannot give 95 %, and it says so.
        let five = of(5);
        assert_eq!((five.low, five.high), (1.0, 5.0));
        assert!((five.coverage - 0.937_5).abs() < 1e-9, "{five:?}");
    }

    #[test]
    fn what_is_no_number_has_no_estimate() {
        assert_eq!(Estimate::of([1.0, f64::NAN]), None);
        assert_eq!(Estimate::of([]), None);
    }

    /// A ratio of medians would say 1 here: every round is twice as good, and the rounds differ.
    #[test]
    fn ratios_are_taken_round_by_round() {
        let (ours, theirs) = ([2.0, 20.0, 200.0], [1.0, 10.0, 100.0]);
        let ratio = Estimate::of(ours.iter().zip(theirs).map(|(a, b)| a / b)).unwrap();
        assert_eq!((ratio.median, ratio.low, ratio.high), (2.0, 2.0, 2.0));
    }
}
