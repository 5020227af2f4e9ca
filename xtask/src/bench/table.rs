//! Rows as a Markdown table: a line for what was measured, a column for each subject.

use super::rows::Row;

/// The table of one area; subjects and names in the order in which they were measured.
pub(crate) fn markdown(rows: &[Row], area: &str) -> String {
    let rows: Vec<&Row> = rows.iter().filter(|row| row.area == area).collect();
    let subjects = distinct(rows.iter().map(|row| row.subject.as_str()));
    let mut table =
        format!("| {area} | unit | {} |\n|---|---|{}\n", subjects.join(" | "), "---:|".repeat(subjects.len()));
    for name in distinct(rows.iter().map(|row| row.name.as_str())) {
        let of_name: Vec<_> = rows.iter().filter(|row| row.name == name).collect();
        let unit = of_name.first().map_or("", |row| row.unit.as_str());
        let cells: Vec<String> = subjects
            .iter()
            .map(|subject| {
                let row = of_name.iter().find(|row| row.subject == *subject);
                row.map(|row| format!("{} ({})", number(row.value), number(row.spread))).unwrap_or_default()
            })
            .collect();
        table += &format!("| {name} | {unit} | {} |\n", cells.join(" | "));
    }
    table
}

fn distinct<'a>(words: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    let mut distinct = Vec::new();
    for word in words {
        if !distinct.contains(&word) {
            distinct.push(word);
        }
    }
    distinct
}

/// With three digits where there are fewer before the point, and without idle ones behind it.
fn number(value: f64) -> String {
    let before = if value.abs() < 1.0 { 1 } else { value.abs().log10() as usize + 1 };
    let text = format!("{value:.*}", 3_usize.saturating_sub(before));
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(area: &str, name: &str, subject: &str, value: f64) -> Row {
        let text = |text: &str| text.to_owned();
        Row { area: text(area), name: text(name), subject: text(subject), unit: text("ns"), value, spread: 1.5 }
    }

    #[test]
    fn what_a_subject_was_not_measured_at_stays_empty() {
        let rows = [
            row("a", "pass", "ours", 40.0),
            row("a", "drop", "ours", 52.0),
            row("b", "x", "ours", 1.0),
            row("a", "drop", "peer", 31.0),
        ];
        assert_eq!(
            markdown(&rows, "a"),
            "| a | unit | ours | peer |\n|---|---|---:|---:|\n| pass | ns | 40 (1.5) |  |\n| drop | ns | 52 (1.5) | 31 (1.5) |\n"
        );
    }

    #[test]
    fn numbers_have_three_digits_at_most_behind_which_nothing_is_idle() {
        let numbers = [0.0, 0.25, 3.0, 3.456, 41.5, 41.55, 123.4, 98_765.4].map(number);
        assert_eq!(numbers, ["0", "0.25", "3", "3.46", "41.5", "41.5", "123", "98765"]);
    }
}
