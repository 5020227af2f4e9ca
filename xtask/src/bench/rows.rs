//! What the measuring program prints, a JSON object a line.

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

/// One line.
#[derive(Debug, PartialEq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Line {
    /// Something measured.
    Row(Row),
    /// What a reader of the rows has to know.
    Note(String),
}

/// Something measured.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Row {
    /// Part of the benchmark.
    pub(crate) area: String,
    /// What was measured.
    pub(crate) name: String,
    /// Of whom.
    pub(crate) subject: String,
    /// In which unit.
    pub(crate) unit: String,
    /// The median of the rounds.
    pub(crate) value: f64,
    /// Their interquartile range.
    pub(crate) spread: f64,
}

impl Line {
    /// Reads a line.
    ///
    /// # Errors
    /// When it is anything else.
    pub(crate) fn parse(line: &str) -> Result<Self> {
        serde_json::from_str(line).with_context(|| format!("the benchmark printed `{line}`, which is no row"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_rows_and_notes() {
        let row = r#"{"row":{"area":"guard","name":"n","subject":"s","unit":"ns/packet","value":41.5,"spread":2}}"#;
        let Line::Row(row) = Line::parse(row).unwrap() else { panic!("no row") };
        assert_eq!((row.area.as_str(), row.subject.as_str(), row.value, row.spread), ("guard", "s", 41.5, 2.0));
        assert_eq!(Line::parse(r#"{"note":"busy"}"#).unwrap(), Line::Note("busy".into()));
    }

    #[test]
    fn names_a_line_that_is_neither() {
        for line in ["warming up", r#"{"row":{"area":"guard"}}"#] {
            assert!(Line::parse(line).unwrap_err().to_string().contains(line));
        }
    }
}
