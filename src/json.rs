//! JSON without trees: objects are read into members that keep their bytes, and written as text.

use std::collections::BTreeMap;

use serde_json::value::RawValue;

/// The members of an object.
pub(crate) type Fields<'a> = BTreeMap<String, &'a RawValue>;

/// Reads an object. The error says why it is none.
pub(crate) fn fields(json: &[u8]) -> Result<Fields<'_>, String> {
    let json = std::str::from_utf8(json).map_err(|_| "not UTF-8")?;
    serde_json::from_str(json).map_err(|error| error.to_string())
}

/// A member that is text. `None`: there is none, or it is something else.
pub(crate) fn text(fields: &Fields<'_>, key: &str) -> Option<String> {
    serde_json::from_str(fields.get(key)?.get()).ok()
}

/// A member that is a whole number.
pub(crate) fn number(fields: &Fields<'_>, key: &str) -> Option<u64> {
    fields.get(key)?.get().parse().ok()
}

/// Text as a JSON string.
pub(crate) fn quoted(text: &str) -> String {
    // There is no text that cannot be one.
    serde_json::to_string(text).unwrap_or_default()
}

/// Texts as a JSON array.
pub(crate) fn list(texts: &[impl AsRef<str>]) -> String {
    let quoted: Vec<String> = texts.iter().map(|text| quoted(text.as_ref())).collect();
    format!("[{}]", quoted.join(","))
}
