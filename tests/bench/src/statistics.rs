//! From the values of many rounds to the two that are told.

/// The middle of some values, and how far they are apart.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Summary {
    /// Half of the values are not above it.
    pub(crate) median: f64,
    /// The interquartile range: half of the values lie within one that wide.
    pub(crate) spread: f64,
}

impl Summary {
    /// `None` without values.
    pub(crate) fn of(mut values: Vec<f64>) -> Option<Self> {
        values.sort_unstable_by(f64::total_cmp);
        let spread = quantile(&values, 0.75)? - quantile(&values, 0.25)?;
        Some(Self { median: quantile(&values, 0.5)?, spread })
    }
}

/// The value below which that part of the sorted values lies, between two of them where it falls there.
pub(crate) fn quantile(sorted: &[f64], part: f64) -> Option<f64> {
    let at = part * sorted.len().checked_sub(1)? as f64;
    let (low, high) = (sorted.get(at.floor() as usize)?, sorted.get(at.ceil() as usize)?);
    Some(low + (high - low) * at.fract())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_value_or_between_the_two() {
        let median = |values: &[f64]| Summary::of(values.to_vec()).map(|summary| summary.median);
        assert_eq!(median(&[9.0, 1.0, 5.0]), Some(5.0));
        assert_eq!(median(&[4.0, 1.0, 2.0, 100.0]), Some(3.0));
        assert_eq!(median(&[7.0]), Some(7.0));
        assert_eq!(median(&[]), None);
    }

    #[test]
    fn the_spread_is_that_of_the_middle_half() {
        let spread = |values: &[f64]| Summary::of(values.to_vec()).map(|summary| summary.spread);
        assert_eq!(spread(&[1.0, 2.0, 3.0, 4.0, 1000.0]), Some(2.0));
        assert_eq!(spread(&[0.0, 10.0]), Some(5.0));
        assert_eq!(spread(&[3.0]), Some(0.0));
    }
}
