//! The configuration reference, generated from the tables that the parser reads.

use std::fmt::Write;

use super::keys::{self, Absent};
use crate::identity::{PRESETS, VARIABLES};

/// Every table and key with its form, default and meaning, then presets and variables, as Markdown.
#[must_use]
pub fn reference() -> String {
    let mut out = String::from("# Configuration\n");
    for (table, about) in keys::TABLES {
        let heading = if keys::declared_in(table).is_some() { format!("{table}.NAME") } else { table.to_owned() };
        // Writing to a String cannot fail.
        let _ = write!(out, "\n## `[{heading}]`\n\n{about}\n");
        if !keys::ALL.iter().any(|key| key.table() == table) {
            continue;
        }
        out.push_str("\n| key | value | default | meaning |\n|---|---|---|---|\n");
        for key in keys::ALL.iter().filter(|key| key.table() == table) {
            let default = match key.absent() {
                Absent::Required => "**needed**".to_owned(),
                Absent::Default(value) => format!("`{value}`"),
                Absent::Otherwise(what) => (*what).to_owned(),
            };
            let _ = writeln!(out, "| `{}` | {} | {default} | {} |", key.name(), key.describe(), key.meaning());
        }
    }
    out.push_str("\n## Presets\n");
    for preset in PRESETS {
        let _ = write!(out, "\n`{}`: {}.\n\n| field | value |\n|---|---|\n", preset.name, preset.meaning);
        for (name, value) in preset.fields {
            let _ = writeln!(out, "| `{name}` | `{value}` |");
        }
    }
    out.push_str(
        "\n## Variables\n\nWritten `${name}`; `$$` is a dollar sign.\n\n| variable | what it is |\n|---|---|\n",
    );
    for variable in VARIABLES {
        let _ = writeln!(out, "| `{}` | {} |", variable.name, variable.meaning);
    }
    out
}
