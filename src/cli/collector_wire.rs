//! The collector's side of HTTP and of the Weave protocol: bytes to a request, a request to what
//! it would apply and answer.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpStream};

use serde_json::value::RawValue;
use serde_json::{Value, json};

/// The real server's limit on a request body.
const MAX_BODY: u64 = 32 * 1024 * 1024;
const MAX_HEAD: u64 = 64 * 1024;

/// One record that was applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Received {
    /// `call_start`, `call_end`, `obj_create`, `table_create`, `table_create_from_digests` or
    /// `file_create`.
    pub kind: String,
    /// The call's id, the object's id, the table's digest or the file's name.
    pub id: String,
    /// `entity/project`.
    pub project: String,
    /// The record's `req`, byte for byte; of a file, its fields without its content.
    pub req: String,
    /// A file's content.
    pub bytes: Vec<u8>,
}

/// What a healthy server applies and answers, or the status and the answer of its refusal.
pub type Verdict = Result<Applied, (u16, Value)>;

type Applied = (Vec<Received>, Value);
type Object<'a> = BTreeMap<String, &'a RawValue>;

/// A request, read whole.
pub struct Request {
    method: String,
    pub path: String,
    headers: BTreeMap<String, String>,
    /// What `Content-Length` says, if it says something.
    length: Option<u64>,
    body: Vec<u8>,
}

impl Request {
    /// `None` if the other side hung up first.
    pub fn read(stream: &TcpStream) -> io::Result<Option<Self>> {
        let mut reader = BufReader::new(stream);
        let mut head = reader.by_ref().take(MAX_HEAD).lines();
        let first = head.next().transpose()?.unwrap_or_default();
        let mut words = first.split(' ').map(str::to_owned);
        let (Some(method), Some(path)) = (words.next(), words.next()) else {
            return Ok(None);
        };
        let mut headers = BTreeMap::new();
        for line in head {
            match line?.split_once(':') {
                Some((name, value)) => {
                    headers.insert(name.to_ascii_lowercase(), value.trim().to_owned())
                }
                None => break,
            };
        }
        let length = headers.get("content-length").and_then(|n| n.parse().ok());
        let mut body = Vec::new();
        let expected = length.filter(|length| *length <= MAX_BODY).unwrap_or(0);
        if reader.take(expected).read_to_end(&mut body)? as u64 != expected {
            return Ok(None);
        }
        Ok(Some(Request {
            method,
            path,
            headers,
            length,
            body,
        }))
    }

    /// Does the body contain this text?
    pub fn contains(&self, text: &str) -> bool {
        find(&self.body, text.as_bytes()).is_some()
    }

    /// What a healthy server does with it. `authorization` is what it must carry, if anything.
    pub fn judge(&self, authorization: Option<&str>) -> Verdict {
        match self.length {
            None => return refuse(411, "Content-Length is missing"),
            Some(length) if length > MAX_BODY => return refuse(413, "Request too large"),
            Some(_) => {}
        }
        let given = self.headers.get("authorization").map(String::as_str);
        if authorization.is_some_and(|expected| given != Some(expected)) {
            return refuse(401, "Invalid authentication credentials");
        }
        let content_type = self.headers.get("content-type").map_or("", String::as_str);
        let (essence, parameters) = content_type.split_once(';').unwrap_or((content_type, ""));
        let read = match self.path.as_str() {
            _ if self.method != "POST" => return refuse(405, "Method Not Allowed"),
            "/file/create" if essence.eq_ignore_ascii_case("multipart/form-data") => {
                file(&self.body, parameters)
            }
            "/file/create" => None,
            _ if !essence.eq_ignore_ascii_case("application/json") => None,
            "/call/upsert_batch" => calls(&self.body),
            "/obj/create" => object(&self.body),
            "/table/create" => table(&self.body),
            "/table/create_from_digests" => table_from_digests(&self.body),
            _ => return refuse(404, "Not Found"),
        };
        read.map_or_else(|| refuse(422, "the request cannot be understood"), Ok)
    }
}

fn refuse(status: u16, why: &str) -> Verdict {
    Err((status, json!({ "detail": why })))
}

/// Sends an answer and the end of the stream.
pub fn answer(
    mut stream: &TcpStream,
    status: u16,
    headers: &[(String, String)],
    body: &[u8],
) -> io::Result<()> {
    let mut head = format!(
        "HTTP/1.1 {status} -\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\
         Connection: close\r\n",
        body.len()
    );
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    stream.write_all(&[head.as_bytes(), b"\r\n", body].concat())?;
    stream.shutdown(Shutdown::Write)
}

/// `{"batch":[{"mode":"start","req":{"start":{…}}},…]}`, all or nothing.
fn calls(body: &[u8]) -> Option<Applied> {
    let whole: Object = serde_json::from_slice(body).ok()?;
    let batch: Vec<Object> = serde_json::from_str(whole.get("batch")?.get()).ok()?;
    let (mut records, mut answers) = (Vec::new(), Vec::new());
    for item in &batch {
        let (mode, req) = (text(item, "mode")?, item.get("req")?.get());
        let call = inner(&serde_json::from_str(req).ok()?, &mode)?;
        let record = Received::new(&format!("call_{mode}"), text(&call, "id")?, &call, req)?;
        answers.push(match mode.as_str() {
            "start" => json!({"id": record.id, "trace_id": text(&call, "trace_id")}),
            "end" => json!({}),
            _ => return None,
        });
        records.push(record);
    }
    Some((records, json!({ "res": answers })))
}

fn object(body: &[u8]) -> Option<Applied> {
    let object = inner(&serde_json::from_slice(body).ok()?, "obj")?;
    let id = text(&object, "object_id")?;
    let answer = json!({"digest": digest(body), "object_id": id});
    let record = Received::new("obj_create", id, &object, std::str::from_utf8(body).ok()?)?;
    Some((vec![record], answer))
}

fn table(body: &[u8]) -> Option<Applied> {
    let table = inner(&serde_json::from_slice(body).ok()?, "table")?;
    let rows: Vec<&RawValue> = serde_json::from_str(table.get("rows")?.get()).ok()?;
    let row_digests: Vec<String> = rows
        .iter()
        .map(|row| digest(row.get().as_bytes()))
        .collect();
    let id = digest(row_digests.concat().as_bytes());
    let answer = json!({"digest": id, "row_digests": row_digests});
    let record = Received::new("table_create", id, &table, std::str::from_utf8(body).ok()?)?;
    Some((vec![record], answer))
}

/// The same digest as one table of all the rows has.
fn table_from_digests(body: &[u8]) -> Option<Applied> {
    let whole: Object = serde_json::from_slice(body).ok()?;
    let rows: Vec<String> = serde_json::from_str(whole.get("row_digests")?.get()).ok()?;
    let id = digest(rows.concat().as_bytes());
    let answer = json!({ "digest": id });
    let kind = "table_create_from_digests";
    let record = Received::new(kind, id, &whole, std::str::from_utf8(body).ok()?)?;
    Some((vec![record], answer))
}

fn file(body: &[u8], parameters: &str) -> Option<Applied> {
    let parts = multipart(body, &parameter(parameters, "boundary")?)?;
    let field = |name: &str| {
        let part = parts.iter().find(|part| part.name == name)?;
        String::from_utf8(part.bytes.to_vec()).ok()
    };
    let content = parts.iter().find(|part| part.name == "file")?;
    let name = content.file_name.clone()?;
    let (project, expected) = (field("project_id")?, field("expected_digest"));
    let req = json!({"project_id": project, "name": name, "expected_digest": expected});
    let digest = expected.unwrap_or_else(|| digest(content.bytes));
    let record = Received {
        kind: "file_create".to_owned(),
        id: name,
        project,
        req: req.to_string(),
        bytes: content.bytes.to_vec(),
    };
    Some((vec![record], json!({ "digest": digest })))
}

impl Received {
    fn new(kind: &str, id: String, fields: &Object, req: &str) -> Option<Self> {
        Some(Received {
            kind: kind.to_owned(),
            id,
            project: text(fields, "project_id")?,
            req: req.to_owned(),
            bytes: Vec::new(),
        })
    }
}

fn text(object: &Object, name: &str) -> Option<String> {
    serde_json::from_str(object.get(name)?.get()).ok()
}

fn inner<'a>(object: &Object<'a>, name: &str) -> Option<Object<'a>> {
    let value: &'a RawValue = object.get(name)?;
    serde_json::from_str(value.get()).ok()
}

struct Part<'a> {
    name: String,
    file_name: Option<String>,
    bytes: &'a [u8],
}

/// RFC 7578: the parts between `--boundary` lines.
fn multipart<'a>(body: &'a [u8], boundary: &str) -> Option<Vec<Part<'a>>> {
    let delimiter = format!("\r\n--{boundary}");
    let mut rest = body.strip_prefix(&delimiter.as_bytes()[2..])?;
    let mut parts = Vec::new();
    while let Some(part) = rest.strip_prefix(b"\r\n") {
        let head_end = find(part, b"\r\n\r\n")?;
        let (head, content) = (&part[..head_end], &part[head_end + 4..]);
        let end = find(content, delimiter.as_bytes())?;
        let disposition = std::str::from_utf8(head).ok()?.lines().find_map(|line| {
            let (name, value) = line.split_once(':')?;
            let wanted = name.eq_ignore_ascii_case("content-disposition");
            value.split_once(';').filter(|_| wanted)
        })?;
        parts.push(Part {
            name: parameter(disposition.1, "name")?,
            file_name: parameter(disposition.1, "filename"),
            bytes: &content[..end],
        });
        rest = &content[end + delimiter.len()..];
    }
    rest.starts_with(b"--").then_some(parts)
}

/// The value of `name` in `a=b; c="d"`. Quoted, `\` stands before a literal character, and `%22`,
/// `%0D` and `%0A` are what browsers write for those that may not stand there.
fn parameter(mut list: &str, name: &str) -> Option<String> {
    loop {
        let (key, after) = list.trim_start_matches([' ', ';']).split_once('=')?;
        let mut value = String::new();
        let mut chars = after.char_indices();
        let quoted = after.starts_with('"');
        let end = loop {
            match chars.next() {
                Some((0, '"')) => {}
                Some((at, '"')) if quoted => break at + 1,
                Some((at, ';')) if !quoted => break at,
                Some((_, '\\')) if quoted => value.push(chars.next()?.1),
                Some((_, other)) => value.push(other),
                None if quoted => return None,
                None => break after.len(),
            }
        };
        if key.eq_ignore_ascii_case(name) {
            let value = value.replace("%22", "\"");
            return Some(value.replace("%0D", "\r").replace("%0A", "\n"));
        }
        list = &after[end..];
    }
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    if needle.is_empty() {
        return Some(0);
    }
    haystack.windows(needle.len()).position(|at| at == needle)
}

/// Not the real server's digest, but like it the same for the same bytes.
fn digest(bytes: &[u8]) -> String {
    let mut hasher = DefaultHasher::new();
    bytes.hash(&mut hasher);
    format!("{:016x}", hasher.finish())
}

/// RFC 4648, with padding.
pub fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let group = chunk
            .iter()
            .fold(0, |all, byte| (all << 8) | u32::from(*byte));
        let group = group << (8 * (3 - chunk.len()));
        for place in 0..4 {
            let index = (group >> (18 - 6 * place)) & 63;
            let padding = place > chunk.len();
            text.push(if padding {
                '='
            } else {
                char::from(ALPHABET[index as usize])
            });
        }
    }
    text
}
