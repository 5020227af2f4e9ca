//! Reading what test programs print: libtest's form, which the end-to-end tests share.

/// What was read so far.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Reading {
    /// Tests that passed.
    pub(crate) passed: u64,
    /// Tests that failed.
    pub(crate) failed: u64,
    /// Tests that the programs count as ignored, whether with a reason below or not.
    pub(crate) ignored: u64,
    /// How many programs came to their summary.
    pub(crate) summaries: u64,
    /// Whether these are the end-to-end tests, the same on every kernel.
    pub(crate) end_to_end: bool,
    /// The names of failed tests.
    pub(crate) failures: Vec<String>,
    /// Tests that could not run where they were, and why.
    pub(crate) skips: Vec<Skip>,
}

/// A test that could not run, in its own words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Skip {
    /// The test.
    pub(crate) name: String,
    /// Why.
    pub(crate) reason: String,
}

impl Reading {
    /// Takes one line of output.
    pub(crate) fn line(&mut self, line: &str) {
        let line = without_colours(line);
        if let Some(counts) = line.split_once("test result: ").map(|(_, rest)| rest) {
            self.passed += count(counts, "passed");
            self.failed += count(counts, "failed");
            self.ignored += count(counts, "ignored");
            self.summaries += 1;
        } else if let Some((_, rest)) = line.split_once("skipped: ") {
            // May stand behind the beginning of a line that the runner was about to print.
            if let Some((name, reason)) = rest.split_once(": ") {
                self.skips.push(Skip { name: name.trim().to_owned(), reason: reason.trim().to_owned() });
            }
        } else if let Some(name) = line.strip_prefix("test ").and_then(|rest| rest.strip_suffix("FAILED")) {
            self.failures.push(name.trim_end_matches([' ', '.']).to_owned());
        }
    }
}

/// The number before a word: `ok. 12 passed; 0 failed; ...`.
fn count(counts: &str, word: &str) -> u64 {
    let words: Vec<&str> = counts.split([' ', ';']).filter(|word| !word.is_empty()).collect();
    words.windows(2).find(|pair| pair[1] == word).and_then(|pair| pair[0].parse().ok()).unwrap_or(0)
}

/// The line without a terminal's colour sequences.
fn without_colours(line: &str) -> String {
    let mut plain = String::with_capacity(line.len());
    let mut characters = line.chars();
    while let Some(character) = characters.next() {
        if character == '\u{1b}' {
            characters.by_ref().find(|c| c.is_ascii_alphabetic());
        } else {
            plain.push(character);
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reading(output: &str) -> Reading {
        let mut reading = Reading::default();
        output.lines().for_each(|line| reading.line(line));
        reading
    }

    #[test]
    fn adds_up_the_summaries_of_several_programs() {
        let reading = reading(
            "test a ... ok\ntest result: ok. 12 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished\n\
             test b::c ... FAILED\ntest result: \u{1b}[31mFAILED\u{1b}[0m. 2 passed; 1 failed; 0 ignored; 0 measured",
        );
        assert_eq!((reading.passed, reading.failed, reading.ignored, reading.summaries), (14, 1, 1, 2));
        assert_eq!(reading.failures, ["b::c"]);
    }

    #[test]
    fn finds_a_skip_behind_the_beginning_of_another_line() {
        let reading = reading("test x ... skipped: calls::get: no XDP: permission denied\n");
        let skip = Skip { name: "calls::get".into(), reason: "no XDP: permission denied".into() };
        assert_eq!(reading.skips, [skip]);
    }
}
