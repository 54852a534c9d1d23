//! Parameters of a replica URL: its query and what is given beside it.

use std::fmt::Display;

use percent_encoding::percent_decode_str;

use crate::error::{Error, ErrorKind, Result};

/// A parameter's two spellings. The first wins where both are given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Name(pub &'static str, pub &'static str);

/// Parameters by name; those beside the URL win over its query.
pub(super) struct Params {
    beside: Vec<(String, String)>,
    query: Vec<(String, String)>,
}

impl Params {
    /// Parses `query` (`a=b&c=d`, percent-encoded).
    pub(super) fn new(query: &str, beside: &[(String, String)]) -> Result<Params> {
        let mut pairs = Vec::new();
        for pair in query.split('&').filter(|p| !p.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            pairs.push((decode(name)?, decode(value)?));
        }
        Ok(Params { beside: beside.to_vec(), query: pairs })
    }

    /// Fails on the first name that `known` lacks.
    pub(super) fn refuse_unknown(&self, kind: &str, known: &[Name]) -> Result<()> {
        let names = self.beside.iter().chain(&self.query).map(|(name, _)| name.as_str());
        for name in names {
            if !known.iter().any(|k| k.0 == name || k.1 == name) {
                return Err(invalid(unknown_text(kind, name, known)));
            }
        }
        Ok(())
    }

    /// The value of `name`; an empty one counts as absent.
    pub(super) fn text(&self, name: Name) -> Option<&str> {
        let find = |pairs: &'_ [(String, String)], spelling: &str| {
            pairs.iter().position(|(k, v)| k == spelling && !v.is_empty())
        };
        for pairs in [&self.beside, &self.query] {
            for spelling in [name.0, name.1] {
                if let Some(i) = find(pairs, spelling) {
                    return Some(&pairs[i].1);
                }
            }
        }
        None
    }

    /// A boolean: true/1/t/yes or false/0/f/no in any case.
    pub(super) fn boolean(&self, name: Name) -> Result<Option<bool>> {
        let Some(text) = self.text(name) else { return Ok(None) };
        match text.to_ascii_lowercase().as_str() {
            "true" | "1" | "t" | "yes" => Ok(Some(true)),
            "false" | "0" | "f" | "no" => Ok(Some(false)),
            _ => Err(bad_value(name, text, "must be true or false")),
        }
    }

    /// A positive integer.
    pub(super) fn positive(&self, name: Name) -> Result<Option<u64>> {
        let Some(text) = self.text(name) else { return Ok(None) };
        match text.parse::<u64>() {
            Ok(n) if n > 0 => Ok(Some(n)),
            _ => Err(bad_value(name, text, "must be a positive integer")),
        }
    }
}

fn unknown_text(kind: &str, name: &str, known: &[Name]) -> String {
    let head = format!("unknown parameter {name:?} for a replica of type {kind}");
    if known.is_empty() {
        return format!("{head}: it takes none");
    }
    let names: Vec<&str> = known.iter().map(|k| k.0).collect();
    format!("{head}; known: {}", names.join(", "))
}

fn bad_value(name: Name, value: &str, rule: &str) -> Error {
    invalid(format!("invalid value for query parameter {:?}: {value:?} ({rule})", name.0))
}

/// An `InvalidInput` error.
pub(super) fn invalid(message: impl Display) -> Error {
    Error::new(ErrorKind::InvalidInput, message.to_string())
}

/// Percent-decodes `text`; a `%` without two hexadecimal digits and what is not
/// UTF-8 afterwards are refused.
pub(super) fn decode(text: &str) -> Result<String> {
    let well_formed = text.split('%').skip(1).all(|after| {
        after.as_bytes().get(..2).is_some_and(|hex| hex.iter().all(u8::is_ascii_hexdigit))
    });
    let decoded = percent_decode_str(text).decode_utf8();
    match decoded {
        Ok(decoded) if well_formed => Ok(decoded.into_owned()),
        _ => Err(invalid("replica URL: invalid percent-encoding (write a plain % as %25)")),
    }
}
