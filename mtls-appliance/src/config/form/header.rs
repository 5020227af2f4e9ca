//! Injected fields: presets by name, and free ones.

use toml::Spanned;
use toml::de::DeValue;

use super::{Form, Words};
use crate::config::document::{Document, nearest};
use crate::identity::{Encoding, HeaderTemplate, PRESETS, Preset, TemplateError};

/// A preset's name.
pub(in crate::config) struct PresetName;

/// A preset, compared by name.
#[derive(Clone, Copy)]
pub(in crate::config) struct Chosen(pub(in crate::config) &'static Preset);

impl PartialEq for Chosen {
    fn eq(&self, other: &Self) -> bool {
        self.0.name == other.0.name
    }
}

impl Form for PresetName {
    type Value = Chosen;

    fn read(&self, key: &str, value: &Spanned<DeValue<'_>>, document: &mut Document<'_>) -> Option<Chosen> {
        let names: Vec<&str> = PRESETS.iter().map(|preset| preset.name).collect();
        let typed = document.text(key, value, "\"mydata\"")?;
        let found = PRESETS.iter().find(|preset| preset.name == typed);
        if found.is_none() {
            let remedy = match nearest(typed, &names) {
                Some(near) => format!("did you mean \"{near}\"?"),
                None => format!("possible: {}", names.join(", ")),
            };
            document.wrong(key, value.span(), "no such preset", remedy);
        }
        found.map(Chosen)
    }

    fn describe(&self) -> String {
        let names: Vec<String> = PRESETS.iter().map(|preset| format!("`\"{}\"`", preset.name)).collect();
        names.join(", ")
    }
}

/// `{ name, value, encoding }`.
pub(in crate::config) struct Header;

/// The keys of a header's table.
pub(in crate::config) const HEADER_KEYS: [&str; 3] = ["name", "value", "encoding"];

const ENCODINGS: Words<Encoding> = Words(&[
    ("percent", Encoding::Percent, "what is not printable ASCII, and `%`, as `%XX` of its UTF-8; the default"),
    ("utf8", Encoding::Utf8, "as it is; a control character refuses the connection"),
    ("base64", Encoding::Base64, "the whole value, Base64 of its UTF-8"),
]);

/// A template; no two are equal here, because equal *names* are looked for over presets and free fields together.
pub(in crate::config) struct Template(pub(in crate::config) HeaderTemplate);

impl PartialEq for Template {
    fn eq(&self, _: &Self) -> bool {
        false
    }
}

impl Form for Header {
    type Value = Template;

    fn read(&self, key: &str, value: &Spanned<DeValue<'_>>, document: &mut Document<'_>) -> Option<Template> {
        const EXAMPLE: &str = "{ name = \"X-Client-DN\", value = \"${subject.dn}\" }";
        let DeValue::Table(table) = value.get_ref() else {
            document.wrong_type(key, value, "a table", &format!("write it as {EXAMPLE}"));
            return None;
        };
        document.unknown_keys(key, table, &HEADER_KEYS, |_| None);
        let mut text = |name: &str| {
            let place = format!("{key}.{name}");
            let Some(typed) = table.get(name) else {
                document.missing(place, Some(value.span()), "is missing", format!("write it as in {EXAMPLE}"));
                return None;
            };
            document.text(&place, typed, "\"X-Client-DN\"").map(|text| (text, typed))
        };
        let (name, text) = (text("name"), text("value"));
        let encoding = match table.get("encoding") {
            None => Some(Encoding::Percent),
            Some(typed) => ENCODINGS.read(&format!("{key}.encoding"), typed, document),
        };
        let ((name, name_typed), (text, text_typed), encoding) = (name?, text?, encoding?);
        match HeaderTemplate::parse(name, text, encoding) {
            Ok(template) => Some(Template(template)),
            Err(error) => {
                let (part, typed) = match &error {
                    TemplateError::Name(_) => ("name", name_typed),
                    _ => ("value", text_typed),
                };
                document.wrong(format!("{key}.{part}"), typed.span(), error.to_string(), error.remedy());
                None
            }
        }
    }

    fn describe(&self) -> String {
        format!("`{{ name, value, encoding }}`; encoding: {}", ENCODINGS.describe())
    }
}
