//! A file as the server takes it: a form with the file's bytes in it (RFC 7578).

use crate::base64;
use crate::http::{Body, Request};
use crate::json::fields;
use crate::sys;

/// A `file_create` as a form (RFC 7578), its fields in the order that the server reads them.
pub(crate) fn file_request(req: &[u8]) -> std::result::Result<Request, String> {
    let fields = fields(req).map_err(|error| format!("not readable: {error}"))?;
    let text = |key: &str| -> std::result::Result<Option<String>, String> {
        match fields.get(key) {
            None => Ok(None),
            Some(raw) => serde_json::from_str(raw.get())
                .map_err(|error| format!("{key:?} is no text that can be sent: {error}")),
        }
    };
    let needed = |key: &str| text(key)?.ok_or_else(|| format!("a file record without {key:?}"));
    let content = match text("content_base64")? {
        Some(encoded) => {
            base64::decode(&encoded).ok_or("\"content_base64\" is not base64".to_owned())?
        }
        None => needed("content")?.into_bytes(),
    };
    let boundary = boundary(&content);
    let mut bytes = Vec::with_capacity(content.len() + 1024);
    let mut field = |name: &str, value: &str| {
        bytes.extend_from_slice(
            format!(
                "--{boundary}\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n"
            )
            .as_bytes(),
        );
    };
    field("project_id", &needed("project_id")?);
    if let Some(digest) = text("expected_digest")? {
        field("expected_digest", &digest);
    }
    let name = needed("name")?
        .replace('"', "%22")
        .replace('\r', "%0D")
        .replace('\n', "%0A");
    bytes.extend_from_slice(
        format!(
            "--{boundary}\r\nContent-Disposition: form-data; name=\"file\"; filename=\"{name}\"\r\n\
             Content-Type: application/octet-stream\r\n\r\n"
        )
        .as_bytes(),
    );
    bytes.extend_from_slice(&content);
    bytes.extend_from_slice(format!("\r\n--{boundary}--\r\n").as_bytes());
    Ok(Request {
        path: "/file/create".to_owned(),
        body: Body::Multipart { boundary, bytes },
        headers: Vec::new(),
    })
}

/// 128 random bits; that they stand in the content is as likely as a guessed key.
fn boundary(content: &[u8]) -> String {
    let fallback = u128::from(crate::record::crc::update(0, content)).to_be_bytes();
    let random: [u8; 16] = sys::random().unwrap_or(fallback);
    format!("{:032x}", u128::from_be_bytes(random))
}
