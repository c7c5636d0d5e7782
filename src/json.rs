//! JSON without trees: objects are read into members that keep their bytes, and written as text.

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
