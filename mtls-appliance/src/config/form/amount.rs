//! Numbers, times and sizes, each within bounds.

use std::time::Duration;

use toml::Spanned;
use toml::de::DeValue;

use super::Form;
use crate::config::document::Document;

/// A whole number within bounds, both included.
pub(in crate::config) struct Count {
    pub(in crate::config) least: u64,
    pub(in crate::config) most: u64,
}

impl Form for Count {
    type Value = u64;

    fn read(&self, key: &str, value: &Spanned<DeValue<'_>>, document: &mut Document<'_>) -> Option<u64> {
        let Self { least, most } = *self;
        let remedy = format!("give a number from {least} to {most}");
        let DeValue::Integer(integer) = value.get_ref() else {
            document.wrong_type(key, value, "a whole number", &format!("{remedy}, without quotes"));
            return None;
        };
        let number = i128::from_str_radix(integer.as_str(), integer.radix()).ok();
        let within = number.and_then(|number| u64::try_from(number).ok()).filter(|n| (least..=most).contains(n));
        if within.is_none() {
            let what = if number.is_none_or(|n| n > i128::from(most)) { "too large" } else { "too small" };
            document.wrong(key, value.span(), what, remedy);
        }
        within
    }

    fn describe(&self) -> String {
        format!("number from {} to {}", self.least, self.most)
    }
}

/// A span of time, as in `10s`, within bounds, both included.
pub(in crate::config) struct Span {
    pub(in crate::config) least: Duration,
    pub(in crate::config) most: Duration,
}

const TIME_UNITS: [(&str, u64); 4] = [("ms", 1), ("s", 1000), ("m", 60_000), ("h", 3_600_000)];

impl Form for Span {
    type Value = Duration;

    fn read(&self, key: &str, value: &Spanned<DeValue<'_>>, document: &mut Document<'_>) -> Option<Duration> {
        let text = document.text(key, value, "\"10s\"")?;
        let Some(milliseconds) = with_unit(text, &TIME_UNITS) else {
            let remedy = "give a whole number and a unit (ms, s, m, h), as in \"10s\"";
            document.wrong(key, value.span(), "not a span of time", remedy);
            return None;
        };
        let span = Duration::from_millis(milliseconds);
        if (self.least..=self.most).contains(&span) {
            return Some(span);
        }
        let what = match span {
            Duration::ZERO => "a deadline of zero would end everything at once",
            short if short < self.least => "too short",
            _ => "too long",
        };
        document.wrong(key, value.span(), what, format!("give a {}", self.describe().replace('`', "")));
        None
    }

    fn describe(&self) -> String {
        format!("time from `\"{}\"` to `\"{}\"`", shown_time(self.least), shown_time(self.most))
    }
}

fn shown_time(span: Duration) -> String {
    let milliseconds = u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
    shown(milliseconds, &TIME_UNITS)
}

/// A number of bytes, as in `64KiB`, within bounds, both included.
pub(in crate::config) struct Size {
    pub(in crate::config) least: u64,
    pub(in crate::config) most: u64,
    /// A word that may be said instead, and the number of bytes that it stands for.
    pub(in crate::config) or: Option<(&'static str, u64)>,
}

const SIZE_UNITS: [(&str, u64); 4] = [("B", 1), ("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30)];

impl Form for Size {
    type Value = u64;

    fn read(&self, key: &str, value: &Spanned<DeValue<'_>>, document: &mut Document<'_>) -> Option<u64> {
        let text = document.text(key, value, "\"64KiB\"")?;
        if let Some((_, bytes)) = self.or.filter(|(word, _)| text == *word) {
            return Some(bytes);
        }
        let Some(bytes) = with_unit(text, &SIZE_UNITS) else {
            let remedy = "give a whole number and a unit (B, KiB, MiB, GiB), as in \"64KiB\"";
            document.wrong(key, value.span(), "not a size", remedy);
            return None;
        };
        if (self.least..=self.most).contains(&bytes) {
            return Some(bytes);
        }
        let what = if bytes < self.least { "too small" } else { "too large" };
        document.wrong(key, value.span(), what, format!("give a {}", self.describe().replace('`', "")));
        None
    }

    fn describe(&self) -> String {
        let or = self.or.map(|(word, _)| format!(", or `\"{word}\"`")).unwrap_or_default();
        format!("size from `\"{}\"` to `\"{}\"`{or}", shown(self.least, &SIZE_UNITS), shown(self.most, &SIZE_UNITS))
    }
}

/// A whole number directly followed by one of `units`; in the smallest unit. `None` also where it does not fit.
fn with_unit(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at_checked(digits)?;
    let (_, factor) = units.iter().find(|(name, _)| *name == unit)?;
    number.parse::<u64>().ok()?.checked_mul(*factor)
}

/// In the largest unit that leaves no rest.
fn shown(amount: u64, units: &[(&str, u64)]) -> String {
    let (name, factor) =
        units.iter().rev().find(|(_, factor)| amount >= *factor && amount.is_multiple_of(*factor)).unwrap_or(&("", 1));
    format!("{}{name}", amount / factor)
}

/// A TCP port.
pub(in crate::config) const PORT: Count = Count { least: 1, most: 65_535 };

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_need_a_whole_number_and_a_known_unit() {
        assert_eq!(with_unit("500ms", &TIME_UNITS), Some(500));
        assert_eq!(with_unit("2m", &TIME_UNITS), Some(120_000));
        assert_eq!(with_unit("64KiB", &SIZE_UNITS), Some(65_536));
        for text in
            ["", "10", "s", "1.5s", "-1s", "10 s", "10S", "1e3s", "99999999999999999999s", "18446744073709551615h"]
        {
            assert_eq!(with_unit(text, &TIME_UNITS), None, "{text}");
        }
        for text in ["64kb", "64KB", "64Ki", "18446744073709551615GiB"] {
            assert_eq!(with_unit(text, &SIZE_UNITS), None, "{text}");
        }
    }

    #[test]
    fn amounts_are_shown_as_they_would_be_typed() {
        assert_eq!(shown(65_536, &SIZE_UNITS), "64KiB");
        assert_eq!(shown(1500, &TIME_UNITS), "1500ms");
        assert_eq!(shown(3_600_000, &TIME_UNITS), "1h");
    }
}
