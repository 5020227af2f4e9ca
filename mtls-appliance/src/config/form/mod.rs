//! The kinds of value that a key can take: how each is read, and how the reference describes it.
//!
//! What every kind needs is here; the kinds themselves are in `amount`, `header`,
//! `origin`, `text` and `word`.

mod amount;
mod header;
mod origin;
mod text;
mod word;

use toml::Spanned;
use toml::de::DeValue;

use super::document::{Document, nearest};

pub(super) use amount::{Count, PORT, Size, Span};
pub(super) use header::{Header, PresetName};
pub(super) use origin::{HEALTH_PATH, HOST_PATTERN, ORIGIN_NAME, OriginServerForm, RouteForm, UPGRADE};
pub(super) use text::{
    ADDRESS, DROP_REASON, GUARDED_ADDRESS, INTERFACE, MANAGEMENT, PATH, PIN, PIN_DIR, REMOVED_NAME, SERVER_NAME,
};
pub(super) use word::{ATTACH, EKU, GUARD, OFFLOAD, POOL, VERIFY, VERSIONS, VerifyWord};

/// A kind of value.
pub(super) trait Form: Sync {
    /// What it becomes.
    type Value;
    /// Reads it, or notes what is wrong.
    fn read(&self, key: &str, value: &Spanned<DeValue<'_>>, document: &mut Document<'_>) -> Option<Self::Value>;
    /// For the reference.
    fn describe(&self) -> String;
}

/// Why a text is not of its kind, and the way out.
pub(super) struct Wrong {
    problem: String,
    remedy: String,
}

fn wrong<T>(problem: impl Into<String>, remedy: impl Into<String>) -> Result<T, Wrong> {
    Err(Wrong { problem: problem.into(), remedy: remedy.into() })
}

/// A string with a meaning.
pub(super) struct Text<T: 'static> {
    what: &'static str,
    example: &'static str,
    parse: fn(&str) -> Result<T, Wrong>,
}

impl<T> Text<T> {
    /// What a text stands for that was not typed into a file.
    pub(super) fn of(&self, text: &str) -> Result<T, String> {
        (self.parse)(text).map_err(|Wrong { problem, remedy }| format!("{problem}; {remedy}"))
    }
}

impl<T> Form for Text<T> {
    type Value = T;

    fn read(&self, key: &str, value: &Spanned<DeValue<'_>>, document: &mut Document<'_>) -> Option<T> {
        let text = document.text(key, value, self.example)?;
        match (self.parse)(text) {
            Ok(parsed) => Some(parsed),
            Err(Wrong { problem, remedy }) => {
                document.wrong(key, value.span(), problem, remedy);
                None
            }
        }
    }

    fn describe(&self) -> String {
        format!("{}, as in `{}`", self.what, self.example)
    }
}

/// A list; its items are read one by one, so that each mistake is reported.
pub(super) struct List<F> {
    pub(super) item: F,
    /// How many there may be.
    pub(super) most: usize,
    pub(super) may_be_empty: bool,
    pub(super) example: &'static str,
}

/// As many as a list may have where nothing else bounds it.
pub(super) const MANY: usize = 1000;

impl<F: Form> Form for List<F>
where
    F::Value: PartialEq,
{
    type Value = Vec<F::Value>;

    fn read(&self, key: &str, value: &Spanned<DeValue<'_>>, document: &mut Document<'_>) -> Option<Self::Value> {
        let items = document.list(key, value, self.example)?;
        if items.is_empty() && !self.may_be_empty {
            document.wrong(
                key,
                value.span(),
                "the list is empty",
                format!("give at least one, as in {}", self.example),
            );
            return None;
        }
        if items.len() > self.most {
            document.wrong(key, value.span(), format!("more than {} entries", self.most), "shorten the list");
            return None;
        }
        let mut read: Vec<F::Value> = Vec::new();
        let mut complete = true;
        for (at, item) in items.iter().enumerate() {
            let place = format!("{key}[{at}]");
            match self.item.read(&place, item, document) {
                Some(value) if read.contains(&value) => {
                    document.wrong(place, item.span(), "is in the list twice", "remove one of the two");
                    complete = false;
                }
                Some(value) => read.push(value),
                None => complete = false,
            }
        }
        complete.then_some(read)
    }

    fn describe(&self) -> String {
        let bound = if self.most == MANY { String::new() } else { format!(" of at most {}", self.most) };
        format!("list{bound}: {}", self.item.describe())
    }
}

/// One of a few words.
pub(super) struct Words<T: 'static>(pub(super) &'static [(&'static str, T, &'static str)]);

impl<T: Copy + Sync> Form for Words<T> {
    type Value = T;

    fn read(&self, key: &str, value: &Spanned<DeValue<'_>>, document: &mut Document<'_>) -> Option<T> {
        let words: Vec<&str> = self.0.iter().map(|(word, ..)| *word).collect();
        let choice = words.iter().map(|word| format!("\"{word}\"")).collect::<Vec<_>>().join(", ");
        let typed = document.text(key, value, &choice)?;
        if let Some((_, meant, _)) = self.0.iter().find(|(word, ..)| *word == typed) {
            return Some(*meant);
        }
        let remedy = match nearest(typed, &words) {
            Some(near) => format!("did you mean \"{near}\"? Possible: {choice}"),
            None => format!("possible: {choice}"),
        };
        document.wrong(key, value.span(), "no such choice", remedy);
        None
    }

    fn describe(&self) -> String {
        let words: Vec<String> = self.0.iter().map(|(word, _, meaning)| format!("`\"{word}\"` ({meaning})")).collect();
        words.join(", ")
    }
}

/// `true` or `false`.
pub(super) struct Flag;

impl Form for Flag {
    type Value = bool;

    fn read(&self, key: &str, value: &Spanned<DeValue<'_>>, document: &mut Document<'_>) -> Option<bool> {
        let flag = value.get_ref().as_bool();
        if flag.is_none() {
            document.wrong_type(key, value, "true or false", "write true or false, without quotes");
        }
        flag
    }

    fn describe(&self) -> String {
        "`true` or `false`".to_owned()
    }
}
