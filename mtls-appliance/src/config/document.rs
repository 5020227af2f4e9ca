//! A TOML file as the operator typed it: reading it within bounds, finding lines, noting mistakes.
//!
//! What the keys mean is left to the callers: `parse` for the configuration, [`crate::registry`] for its files.

use std::fs::File;
use std::io::Read;
use std::ops::Range;
use std::path::Path;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::mistakes::{Mistake, Mistakes};

/// Characters of a typed value that a report repeats.
const SHOWN_VALUE: usize = 60;

/// Reads a text file of at most `limit` bytes; `named_by` says where the operator gave its path.
pub(crate) fn read_text(path: &Path, limit: u64, named_by: &str) -> Result<String, Mistakes> {
    let cannot = |problem: String, remedy: String| Mistakes::about_file(path, problem, remedy);
    let unreadable = |error: std::io::Error| {
        cannot(
            format!("cannot be read: {error}"),
            format!("check the path given by {named_by} and that the appliance's user may read the file"),
        )
    };
    let file = File::open(path).map_err(unreadable)?;
    let metadata = file.metadata().map_err(unreadable)?;
    if metadata.is_dir() {
        return Err(cannot("is a folder".into(), format!("give the path of a file in {named_by}")));
    }
    let mut bytes = Vec::new();
    file.take(limit + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if u64::try_from(bytes.len()).unwrap_or(u64::MAX) > limit {
        return Err(cannot(
            format!("is larger than {limit} bytes"),
            format!("give the path of the right file in {named_by}, or split it"),
        ));
    }
    String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        let line = 1 + error.as_bytes().iter().take(at).filter(|byte| **byte == b'\n').count();
        cannot(format!("line {line} is not UTF-8"), "save the file as UTF-8".into())
    })
}

/// A file's text together with the mistakes noted so far.
pub(crate) struct Document<'t> {
    file: &'t Path,
    text: &'t str,
    line_starts: Vec<usize>,
    mistakes: Mistakes,
}

impl<'t> Document<'t> {
    /// Parses the syntax. Where that fails the values are not looked at: half a file would only bring false reports.
    pub(crate) fn parse(file: &'t Path, text: &'t str) -> Result<(Self, Spanned<DeTable<'t>>), Mistakes> {
        let line_starts = text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n').map(|(at, _)| at + 1).collect();
        let mut document = Self { file, text, line_starts, mistakes: Mistakes::default() };
        let (table, errors) = DeTable::parse_recoverable(text);
        for error in &errors {
            let line = error.span().map(|span| document.line(span.start));
            document.mistakes.push(Mistake {
                file: file.to_owned(),
                line,
                key: String::new(),
                value: None,
                problem: format!("not valid TOML: {}", error.message().replace('\n', ", ")),
                remedy: "correct the syntax; values are checked after that".into(),
            });
        }
        if errors.is_empty() { Ok((document, table)) } else { Err(document.into_mistakes()) }
    }

    /// The line of a byte offset, from 1.
    fn line(&self, offset: usize) -> usize {
        1 + self.line_starts.partition_point(|start| *start <= offset)
    }

    /// What was typed, shortened: of a list or table the first line, of a text all lines.
    fn typed(&self, span: Range<usize>) -> String {
        let text = self.text.get(span).unwrap_or_default();
        let is_text = text.starts_with(['"', '\'']);
        let first = if is_text { text } else { text.lines().next().unwrap_or_default().trim_end() };
        let mut shown = String::new();
        let mut cut = first.len() < text.trim_end().len();
        for (count, character) in first.chars().enumerate() {
            if count == SHOWN_VALUE {
                cut = true;
                break;
            }
            if character.is_control() { shown.extend(character.escape_default()) } else { shown.push(character) }
        }
        if cut {
            shown.push_str(" ...");
        }
        shown
    }

    /// Notes that the value at `span` is wrong.
    pub(crate) fn wrong(
        &mut self,
        key: impl Into<String>,
        span: Range<usize>,
        problem: impl Into<String>,
        remedy: impl Into<String>,
    ) {
        let (line, value) = (self.line(span.start), self.typed(span));
        self.push(Some(line), key, Some(value), problem, remedy);
    }

    /// Notes something about a key that has no value to show, near `span` where that is known.
    pub(crate) fn missing(
        &mut self,
        key: impl Into<String>,
        span: Option<Range<usize>>,
        problem: impl Into<String>,
        remedy: impl Into<String>,
    ) {
        let line = span.map(|span| self.line(span.start));
        self.push(line, key, None, problem, remedy);
    }

    fn push(
        &mut self,
        line: Option<usize>,
        key: impl Into<String>,
        value: Option<String>,
        problem: impl Into<String>,
        remedy: impl Into<String>,
    ) {
        self.mistakes.push(Mistake {
            file: self.file.to_owned(),
            line,
            key: key.into(),
            value,
            problem: problem.into(),
            remedy: remedy.into(),
        });
    }

    /// The string in `value`, or a note of what was found instead.
    pub(crate) fn text<'v>(&mut self, key: &str, value: &'v Spanned<DeValue<'_>>, example: &str) -> Option<&'v str> {
        let text = value.get_ref().as_str();
        if text.is_none() {
            self.wrong_type(key, value, "a string", &format!("put it in quotes, as in {example}"));
        }
        text
    }

    /// The elements of a list, or a note of what was found instead.
    pub(crate) fn list<'v, 'i>(
        &mut self,
        key: &str,
        value: &'v Spanned<DeValue<'i>>,
        example: &str,
    ) -> Option<&'v [Spanned<DeValue<'i>>]> {
        let DeValue::Array(items) = value.get_ref() else {
            self.wrong_type(key, value, "a list", &format!("put it in brackets, as in {example}"));
            return None;
        };
        Some(items)
    }

    /// Notes that a value has the wrong type.
    pub(crate) fn wrong_type(&mut self, key: &str, value: &Spanned<DeValue<'_>>, wanted: &str, remedy: &str) {
        let found = match value.get_ref() {
            DeValue::String(_) => "a string",
            DeValue::Integer(_) => "a whole number",
            DeValue::Float(_) => "a decimal number",
            DeValue::Boolean(_) => "true or false",
            DeValue::Datetime(_) => "a date",
            DeValue::Array(_) => "a list",
            DeValue::Table(_) => "a table",
        };
        self.wrong(key, value.span(), format!("{wanted} is wanted here, this is {found}"), remedy);
    }

    /// Notes each key of `table` that is not among `known`, with the likeliest intention.
    ///
    /// `elsewhere` may name the place where a key of that name does belong.
    pub(crate) fn unknown_keys(
        &mut self,
        path: &str,
        table: &DeTable<'_>,
        known: &[&str],
        elsewhere: impl Fn(&str) -> Option<String>,
    ) {
        for (name, value) in table {
            let name_text: &str = name.get_ref();
            if known.contains(&name_text) {
                continue;
            }
            let full = if path.is_empty() { name_text.to_owned() } else { format!("{path}.{name_text}") };
            let remedy = if let Some(near) = nearest(name_text, known) {
                format!("did you mean `{near}`?")
            } else if let Some(place) = elsewhere(name_text) {
                format!("did you mean `{place}`?")
            } else {
                format!("remove it; known here: {}", known.join(", "))
            };
            let what = if matches!(value.get_ref(), DeValue::Table(_)) { "no such table" } else { "no such key" };
            self.missing(full, Some(name.span()), what, remedy);
        }
    }

    /// The mistakes, in the order of the lines.
    pub(crate) fn into_mistakes(mut self) -> Mistakes {
        self.mistakes.sort();
        self.mistakes
    }

    /// Whether nothing is wrong so far.
    pub(crate) fn is_clean(&self) -> bool {
        self.mistakes.is_empty()
    }
}

/// The known word that `typed` most likely stands for, if one is near enough.
pub(crate) fn nearest<'k>(typed: &str, known: &[&'k str]) -> Option<&'k str> {
    let typed = typed.to_ascii_lowercase().replace('-', "_");
    known
        .iter()
        .map(|word| (distance(&typed, &word.to_ascii_lowercase().replace('-', "_")), *word))
        .filter(|(distance, word)| *distance <= 1 + word.len() / 4)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, word)| word)
}

/// Edit distance (insertions, deletions, replacements).
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().take(64).enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        for (cell, y) in row.iter_mut().skip(1).zip(&b) {
            let above = *cell;
            let here = (diagonal + usize::from(x != *y)).min(above + 1).min(left + 1);
            diagonal = above;
            left = here;
            *cell = here;
        }
        if let Some(first) = row.first_mut() {
            *first = i + 1;
        }
    }
    row.last().copied().unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_word_is_found_and_far_ones_are_not() {
        assert_eq!(nearest("adress", &["server_name", "address"]), Some("address"));
        assert_eq!(nearest("client-ca", &["client_ca", "key"]), Some("client_ca"));
        assert_eq!(nearest("banana", &["client_ca", "key"]), None);
        assert_eq!(distance("kitten", "sitting"), 3);
        assert_eq!(distance("", "abc"), 3);
    }

    #[test]
    fn lines_are_counted_from_one() {
        let text = "a = 1\nb = 2\n\nc = 3\n";
        let (document, table) = Document::parse(Path::new("f"), text).unwrap();
        let lines: Vec<usize> = table.get_ref().values().map(|value| document.line(value.span().start)).collect();
        assert_eq!(lines, [1, 2, 4]);
    }

    #[test]
    fn every_syntax_error_is_reported_and_none_shows_the_line_it_is_in() {
        let text = "a = \nsecret = hunter2\nb = [1\n";
        let Err(mistakes) = Document::parse(Path::new("f"), text) else { panic!("invalid TOML was accepted") };
        assert!(mistakes.len() >= 2, "{mistakes}");
        assert!(!mistakes.to_string().contains("hunter2"), "{mistakes}");
    }

    #[test]
    fn control_characters_and_length_of_a_shown_value_are_tamed() {
        let text = format!("a = \"\u{1b}[2J{}\"\n", "x".repeat(500)).replace('\u{1b}', "\\u001b");
        let (mut document, table) = Document::parse(Path::new("f"), &text).unwrap();
        let (_, value) = table.get_ref().iter().next().unwrap();
        document.wrong("a", value.span(), "p", "r");
        let shown = document.into_mistakes().to_string();
        assert!(shown.len() < 160, "{shown}");
        assert!(shown.bytes().all(|byte| byte >= b' ' || byte == b'\n'), "{shown:?}");
    }

    #[test]
    fn a_folder_a_missing_file_and_a_huge_file_are_told_apart() {
        let folder = std::env::temp_dir();
        assert!(read_text(&folder, 10, "--config").unwrap_err().to_string().contains("is a folder"));
        let absent = folder.join("no-such-file-here.toml");
        assert!(read_text(&absent, 10, "--config").unwrap_err().to_string().contains("cannot be read"));
        assert!(read_text(Path::new("/proc/self/environ"), 0, "--config").unwrap_err().to_string().contains("larger"));
    }
}
