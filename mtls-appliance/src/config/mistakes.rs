//! What the operator got wrong, all of it, in a form that fits a screen.
//!
//! Shared with [`crate::registry`], whose files are read the same way.

use std::fmt;
use std::path::{Path, PathBuf};

/// Mistakes kept; those beyond are only counted.
const KEPT: usize = 500;
/// Mistakes printed, two lines each.
const SHOWN: usize = 10;

/// One mistake in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistake {
    /// The file it is in.
    pub file: PathBuf,
    /// Its line, counted from 1, where one is known.
    pub line: Option<usize>,
    /// The key, as in `tls.client_ca[0]`; empty when the file as a whole is meant.
    pub key: String,
    /// The value as typed, shortened; `None` where nothing was typed.
    pub value: Option<String>,
    /// What is wrong.
    pub problem: String,
    /// The way out.
    pub remedy: String,
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("  ")?;
        if let Some(line) = self.line {
            write!(f, "line {line}: ")?;
        }
        match (&*self.key, &self.value) {
            ("", _) => {}
            (key, Some(value)) => write!(f, "{key} = {value}: ")?,
            (key, None) => write!(f, "{key}: ")?,
        }
        write!(f, "{}\n      {}", self.problem, self.remedy)
    }
}

/// Every mistake that was found, in the order of the files and lines.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Mistakes {
    kept: Vec<Mistake>,
    more: usize,
}

impl Mistakes {
    /// A report of a single mistake about a whole file.
    pub(crate) fn about_file(file: &Path, problem: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::about_file_of("", file, problem, remedy)
    }

    /// A report of a single mistake about a file that the key `key` names.
    pub(crate) fn about_file_of(key: &str, file: &Path, problem: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::from(Mistake {
            file: file.to_owned(),
            line: None,
            key: key.to_owned(),
            value: None,
            problem: problem.into(),
            remedy: remedy.into(),
        })
    }

    /// Adds one.
    pub(crate) fn push(&mut self, mistake: Mistake) {
        if self.kept.len() < KEPT {
            self.kept.push(mistake);
        } else {
            self.more += 1;
        }
    }

    /// Adds those of another report.
    pub(crate) fn append(&mut self, other: Self) {
        self.more += other.more;
        for mistake in other.kept {
            self.push(mistake);
        }
    }

    /// Whether nothing is wrong.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.kept.is_empty()
    }

    /// How many were found.
    #[must_use]
    pub fn len(&self) -> usize {
        self.kept.len() + self.more
    }

    /// The mistakes; beyond the first 500 they are only counted.
    pub fn iter(&self) -> impl Iterator<Item = &Mistake> {
        self.kept.iter()
    }

    /// Sorts by line within each file, so that the report reads like the file.
    pub(crate) fn sort(&mut self) {
        // Stable: the order of the files and of mistakes on one line stays. What has no line comes last in its file.
        let mut files: Vec<PathBuf> = Vec::new();
        for mistake in &self.kept {
            if !files.contains(&mistake.file) {
                files.push(mistake.file.clone());
            }
        }
        self.kept.sort_by_key(|mistake| {
            (files.iter().position(|file| *file == mistake.file), mistake.line.unwrap_or(usize::MAX))
        });
    }
}

impl From<Mistake> for Mistakes {
    fn from(mistake: Mistake) -> Self {
        Self { kept: vec![mistake], more: 0 }
    }
}

impl fmt::Display for Mistakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut file: Option<&Path> = None;
        for mistake in self.kept.iter().take(SHOWN) {
            if file != Some(&mistake.file) {
                if file.is_some() {
                    f.write_str("\n")?;
                }
                let count = self.kept.iter().filter(|other| other.file == mistake.file).count();
                let noun = if count == 1 { "mistake" } else { "mistakes" };
                write!(f, "{}: {count} {noun}", mistake.file.display())?;
                file = Some(&mistake.file);
            }
            write!(f, "\n{mistake}")?;
        }
        match self.len().saturating_sub(SHOWN) {
            0 => Ok(()),
            more => write!(f, "\n  and {more} more"),
        }
    }
}

impl std::error::Error for Mistakes {}

#[cfg(test)]
mod tests {
    use super::*;

    fn mistake(file: &str, line: usize) -> Mistake {
        Mistake {
            file: file.into(),
            line: Some(line),
            key: "a.b".into(),
            value: Some("1".into()),
            problem: "is odd".into(),
            remedy: "make it even".into(),
        }
    }

    #[test]
    fn a_report_of_a_thousand_mistakes_fits_a_screen() {
        let mut mistakes = Mistakes::default();
        for line in 0..1000 {
            mistakes.push(mistake("f", line));
        }
        let text = mistakes.to_string();
        assert_eq!(mistakes.len(), 1000);
        assert!(text.lines().count() <= 24, "{text}");
        assert!(text.ends_with("and 990 more"), "{text}");
    }

    #[test]
    fn each_file_is_named_once_and_its_lines_are_in_order() {
        let mut mistakes = Mistakes::default();
        for (file, line) in [("b", 9), ("b", 2), ("a", 1)] {
            mistakes.push(mistake(file, line));
        }
        mistakes.sort();
        assert_eq!(
            mistakes.to_string(),
            "b: 2 mistakes\n  line 2: a.b = 1: is odd\n      make it even\n  line 9: a.b = 1: is odd\n      make it even\n\
             a: 1 mistake\n  line 1: a.b = 1: is odd\n      make it even"
        );
    }
}
