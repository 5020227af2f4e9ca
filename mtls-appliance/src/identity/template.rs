//! One field to inject: its name, and the template from which its value is made.
//!
//! Nothing that comes out can break the line: literal text is checked when the configuration is read, values are
//! encoded or refused when they are put in.

use thiserror::Error;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::field_name::{FieldNameError, check_injected_name};
use super::variables::{Facts, VARIABLES, Variable};

/// Longest template text, in bytes.
const TEXT_LIMIT: usize = 1024;

/// How a value that is not plain ASCII is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    /// `percent`: what is not printable ASCII, and `%` itself, as `%XX` of its UTF-8.
    Percent,
    /// `utf8`: as it is; a value with a control character is refused.
    Utf8,
    /// `base64`: the whole value, Base64 of its UTF-8.
    Base64,
}

/// One field to inject: its name and the template of its value.
#[derive(Debug, Clone)]
pub struct HeaderTemplate {
    /// A valid HTTP field name.
    pub name: String,
    pieces: Vec<Piece>,
    encoding: Encoding,
}

#[derive(Debug, Clone)]
enum Piece {
    Literal(String),
    Variable(&'static Variable),
}

/// Why a template is refused.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum TemplateError {
    /// The name.
    #[error(transparent)]
    Name(#[from] FieldNameError),
    /// Nothing would ever come out.
    #[error("the value is empty")]
    Empty,
    /// Longer than 1024 bytes.
    #[error("the value has more than {TEXT_LIMIT} bytes")]
    TooLong,
    /// Not in [`VARIABLES`].
    #[error("there is no variable `${{{0}}}`")]
    UnknownVariable(String),
    /// `${` without `}`.
    #[error("`${{` has no closing `}}`")]
    Unclosed,
    /// `$` before anything but `{` and `$`.
    #[error("a single `$`")]
    LoneDollar,
    /// In literal text.
    #[error("{0:?} cannot stand in a field value")]
    Control(char),
    /// In literal text that is sent in percent encoding.
    #[error("{0:?} is not ASCII")]
    NotAscii(char),
    /// Receivers remove it (RFC 9110 5.5).
    #[error("a space at the beginning or end")]
    OuterSpace,
}

impl TemplateError {
    /// The way out.
    #[must_use]
    pub fn remedy(&self) -> String {
        match self {
            Self::Name(error) => error.remedy().to_owned(),
            Self::Empty => "write text or a variable such as ${subject.dn}".to_owned(),
            Self::TooLong => "shorten it, or split it over several fields".to_owned(),
            Self::UnknownVariable(name) => {
                let known: Vec<&str> = VARIABLES.iter().map(|variable| variable.name).collect();
                match crate::config::document::nearest(name, &known) {
                    Some(near) => format!("did you mean ${{{near}}}?"),
                    None => format!("known: {}", known.join(", ")),
                }
            }
            Self::Unclosed => "close it, or write $$ for a dollar sign".to_owned(),
            Self::LoneDollar => "write ${name} for a variable, $$ for a dollar sign".to_owned(),
            Self::Control(_) => "remove it".to_owned(),
            Self::NotAscii(_) => "remove it, or set encoding = \"utf8\" or \"base64\"".to_owned(),
            Self::OuterSpace => "remove it".to_owned(),
        }
    }
}

/// A value with a control character that its encoding cannot express.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ControlCharacter;

impl HeaderTemplate {
    /// Reads a template.
    ///
    /// # Errors
    /// When the name cannot be injected or the text is no template.
    pub fn parse(name: &str, value: &str, encoding: Encoding) -> Result<Self, TemplateError> {
        check_injected_name(name)?;
        if value.is_empty() {
            return Err(TemplateError::Empty);
        }
        if value.len() > TEXT_LIMIT {
            return Err(TemplateError::TooLong);
        }
        if value.starts_with(' ') || value.ends_with(' ') {
            return Err(TemplateError::OuterSpace);
        }
        if let Some(control) = value.chars().find(|character| character.is_control()) {
            return Err(TemplateError::Control(control));
        }
        if encoding == Encoding::Percent
            && let Some(other) = value.chars().find(|character| !character.is_ascii())
        {
            return Err(TemplateError::NotAscii(other));
        }
        Ok(Self { name: name.to_owned(), pieces: pieces(value)?, encoding })
    }

    /// The value for these facts: no CR, LF, NUL or other control character, no space at either end.
    pub(super) fn render(&self, facts: Facts<'_>) -> Result<Vec<u8>, ControlCharacter> {
        let mut out = String::new();
        for piece in &self.pieces {
            match piece {
                Piece::Literal(text) => out.push_str(text),
                Piece::Variable(variable) => {
                    let value = (variable.value)(facts);
                    if self.encoding == Encoding::Percent && !variable.plain {
                        percent(&value, &mut out);
                    } else {
                        out.push_str(&value);
                    }
                }
            }
        }
        let rendered = match self.encoding {
            Encoding::Percent => outer_spaces_encoded(out),
            Encoding::Utf8 => out.trim_matches(' ').to_owned(),
            Encoding::Base64 if out.is_empty() => out,
            Encoding::Base64 => STANDARD.encode(out),
        };
        if rendered.chars().any(char::is_control) { Err(ControlCharacter) } else { Ok(rendered.into_bytes()) }
    }
}

/// Splits a template at its variables.
fn pieces(value: &str) -> Result<Vec<Piece>, TemplateError> {
    let mut pieces = Vec::new();
    let mut literal = String::new();
    let mut rest = value;
    while let Some((before, after)) = rest.split_once('$') {
        literal.push_str(before);
        if let Some(after) = after.strip_prefix('$') {
            literal.push('$');
            rest = after;
        } else if let Some(after) = after.strip_prefix('{') {
            let (name, after) = after.split_once('}').ok_or(TemplateError::Unclosed)?;
            let variable = VARIABLES
                .iter()
                .find(|variable| variable.name == name)
                .ok_or_else(|| TemplateError::UnknownVariable(name.to_owned()))?;
            if !literal.is_empty() {
                pieces.push(Piece::Literal(std::mem::take(&mut literal)));
            }
            pieces.push(Piece::Variable(variable));
            rest = after;
        } else {
            return Err(TemplateError::LoneDollar);
        }
    }
    literal.push_str(rest);
    if !literal.is_empty() {
        pieces.push(Piece::Literal(literal));
    }
    Ok(pieces)
}

/// Appends `value` with `%` and everything but printable ASCII as `%XX`.
fn percent(value: &str, out: &mut String) {
    for byte in value.bytes() {
        match byte {
            b'%' | ..b' ' | 0x7f.. => {
                out.push('%');
                for digit in [byte >> 4, byte & 15] {
                    out.extend(char::from_digit(u32::from(digit), 16).map(|digit| digit.to_ascii_uppercase()));
                }
            }
            printable => out.push(char::from(printable)),
        }
    }
}

/// Encodes a space at either end, which a receiver would take away (RFC 9110 5.5).
fn outer_spaces_encoded(mut value: String) -> String {
    if value.ends_with(' ') {
        value.pop();
        value.push_str("%20");
    }
    if value.starts_with(' ') {
        value.replace_range(..1, "%20");
    }
    value
}
