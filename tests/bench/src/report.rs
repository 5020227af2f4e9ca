//! What is told to xtask.

use serde_json::json;

use crate::statistics::Summary;

/// A measured value: what was measured of whom, in which unit.
pub(crate) fn row(area: &str, name: &str, subject: &str, unit: &str, measured: Summary) {
    let Summary { median, spread } = measured;
    let row = json!({"area": area, "name": name, "subject": subject, "unit": unit, "value": median, "spread": spread});
    println!("{}", json!({ "row": row }));
}

/// What a reader of the rows has to know.
pub(crate) fn note(text: &str) {
    println!("{}", json!({ "note": text }));
}
