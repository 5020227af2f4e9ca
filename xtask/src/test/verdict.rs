//! What all stages together amount to: the counts of the last line, and which skips are failures.

use std::fmt;

use super::libtest::{Reading, Skip};

/// One stage: the unit tests, or the end-to-end tests on one kernel.
#[derive(Debug, Clone)]
pub(crate) struct Stage {
    /// What a person calls it.
    pub(crate) name: String,
    /// How it went.
    pub(crate) outcome: Outcome,
}

/// How a stage went.
#[derive(Debug, Clone)]
pub(crate) enum Outcome {
    /// It came to its end.
    Ran(Reading),
    /// It was not begun, for this reason.
    Skipped(String),
    /// It did not come to its end, for this reason; what it had said until then counts.
    Broke(Reading, String),
}

/// The counts of the last line.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    /// Tests that passed.
    pub(crate) passed: u64,
    /// Tests that failed, stages that broke, and skips where none is allowed.
    pub(crate) failed: u64,
    /// Tests and stages that did not run.
    pub(crate) skipped: u64,
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} passed, {} failed", self.passed, self.failed)?;
        if self.skipped > 0 {
            write!(f, ", {} skipped", self.skipped)?;
        }
        Ok(())
    }
}

/// Counts everything; with `strict`, a skip that no other stage makes up for is a failure. Returns the counts and, for
/// people, a line for every failure and skip.
pub(crate) fn sum(stages: &[Stage], strict: bool) -> (Counts, Vec<String>) {
    let mut counts = Counts::default();
    let mut lines = Vec::new();
    for stage in stages {
        match &stage.outcome {
            Outcome::Skipped(reason) => {
                lines.push(skip(&mut counts, strict, &stage.name, reason));
            }
            Outcome::Ran(reading) => add(&mut counts, &mut lines, stages, stage, reading, strict),
            Outcome::Broke(reading, reason) => {
                add(&mut counts, &mut lines, stages, stage, reading, strict);
                counts.failed += 1;
                lines.push(format!("failed: {}: {reason}", stage.name));
            }
        }
    }
    (counts, lines)
}

fn add(counts: &mut Counts, lines: &mut Vec<String>, stages: &[Stage], stage: &Stage, reading: &Reading, strict: bool) {
    counts.passed += reading.passed;
    counts.failed += reading.failed;
    lines.extend(reading.failures.iter().map(|name| format!("failed: {}: {name}", stage.name)));
    for Skip { name, reason } in &reading.skips {
        match stages.iter().find(|other| other.name != stage.name && other.ran(name)) {
            Some(other) => {
                counts.skipped += 1;
                lines.push(format!("skipped: {}: {name}: {reason} (it ran on {})", stage.name, other.name));
            }
            None => lines.push(skip(counts, strict, &format!("{}: {name}", stage.name), reason)),
        }
    }
    // Ignored without a word: marked so in the source.
    counts.skipped += reading.ignored.saturating_sub(reading.skips.len() as u64);
}

/// Counts what ran nowhere, and says so.
fn skip(counts: &mut Counts, strict: bool, what: &str, reason: &str) -> String {
    if strict {
        counts.failed += 1;
        format!("failed: {what}: skipped, and with CI=true that is a failure: {reason}")
    } else {
        counts.skipped += 1;
        format!("skipped: {what}: {reason}")
    }
}

impl Stage {
    /// Whether this stage of end-to-end tests ran the test that another could not.
    fn ran(&self, test: &str) -> bool {
        match &self.outcome {
            Outcome::Ran(reading) => reading.end_to_end && !reading.skips.iter().any(|skip| skip.name == test),
            Outcome::Skipped(_) | Outcome::Broke(..) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ran(name: &str, passed: u64, failed: u64, skips: &[&str]) -> Stage {
        let skips: Vec<Skip> =
            skips.iter().map(|name| Skip { name: (*name).to_owned(), reason: "no kernel TLS".to_owned() }).collect();
        let ignored = skips.len() as u64;
        let reading = Reading { passed, failed, ignored, summaries: 1, end_to_end: true, skips, ..Reading::default() };
        Stage { name: name.to_owned(), outcome: Outcome::Ran(reading) }
    }

    #[test]
    fn the_last_line_names_skips_only_when_there_are_any() {
        let (counts, _) = sum(&[ran("a", 3, 0, &[]), ran("b", 2, 1, &[])], true);
        assert_eq!(counts.to_string(), "5 passed, 1 failed");
        let (counts, _) = sum(&[ran("a", 3, 0, &["x"])], false);
        assert_eq!(counts.to_string(), "3 passed, 0 failed, 1 skipped");
    }

    #[test]
    fn in_strict_mode_a_skip_is_a_failure_unless_the_test_ran_elsewhere() {
        let alone = [ran("native", 3, 0, &["x"])];
        assert_eq!(sum(&alone, true).0, Counts { passed: 3, failed: 1, skipped: 0 });
        let covered = [ran("native", 3, 0, &["x"]), ran("6.1", 4, 0, &[])];
        assert_eq!(sum(&covered, true).0, Counts { passed: 7, failed: 0, skipped: 1 });
        let nowhere = [ran("native", 3, 0, &["x"]), ran("6.1", 4, 0, &["x"])];
        assert_eq!(sum(&nowhere, true).0.failed, 2);
    }

    #[test]
    fn a_stage_that_broke_or_was_not_begun_does_not_pass_in_strict_mode() {
        let stages = [
            Stage { name: "unit".into(), outcome: Outcome::Broke(Reading::default(), "does not build".into()) },
            Stage { name: "native".into(), outcome: Outcome::Skipped("not root".into()) },
        ];
        assert_eq!(sum(&stages, true).0, Counts { passed: 0, failed: 2, skipped: 0 });
        assert_eq!(sum(&stages, false).0, Counts { passed: 0, failed: 1, skipped: 1 });
    }
}
