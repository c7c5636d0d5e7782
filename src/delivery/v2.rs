//! Weave's second protocol for calls: whole calls, where the first one takes halves.
//!
//! A project that was first written to through v2 refuses halves. There a call whose start and
//! end are both at hand goes to `calls/complete`; one that is still running goes to `call/start`
//! and later to `call/end`. Sending twice is not harmless there: a completed call sent again is
//! counted twice, and a start sent after its end loses the end. So after an answer that was lost
//! the server is asked first what it has.

use std::hash::{DefaultHasher, Hash, Hasher};

use crate::batch::json;
use crate::http::{Body, Request};
use crate::json::{Fields, fields, list, number, quoted, text};
use crate::record::Kind;

/// The `error_code` of a refusal, a 400, when a project takes whole calls only.
pub(crate) const REQUIRED: &str = "CALLS_COMPLETE_MODE_REQUIRED";

/// Is this such a refusal? Where a record is quoted, in a string, its quotes are escaped.
pub(crate) fn is_required(status: u16, detail: &str) -> bool {
    let is_value = |rest: &str| {
        let value = rest.trim_start().strip_prefix(':').map(str::trim_start);
        value.is_some_and(|value| value.starts_with(&format!("\"{REQUIRED}\"")))
    };
    status == 400 && detail.split("\"error_code\"").skip(1).any(is_value)
}

/// How many calls are asked for at once: their answer, up to 1 KiB for each, fits into what is
/// read of one.
pub(crate) const ASKED_AT_ONCE: usize = 50;

/// How many calls are counted at once: the server takes no more.
pub(crate) const COUNTED_AT_ONCE: usize = 1000;

/// What tells one half of a call from another's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Half {
    pub kind: Kind,
    pub project: String,
    /// A start without an id gets one from the server, and no end can belong to it.
    pub id: Option<String>,
    pub trace_id: Option<String>,
}

/// What the server knows of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Known {
    Started,
    Ended,
}

impl Half {
    /// Reads a `call_start` or `call_end` request.
    pub fn read(kind: Kind, req: &[u8]) -> Result<Half, String> {
        let fields = inside(kind, req)?;
        let text = |key| text(&fields, key);
        let project = text("project_id").ok_or("it names no project_id")?;
        place(&project)?;
        Ok(Half {
            kind,
            project,
            id: text("id"),
            trace_id: text("trace_id"),
        })
    }

    /// The request for this half alone.
    pub fn request(&self, req: Vec<u8>) -> Result<Request, String> {
        let end = match self.kind {
            Kind::CallStart => "start",
            _ => "end",
        };
        let mut request = post(&self.project, &format!("call/{end}"), req)?;
        let trace_id = self.trace_id.clone();
        request
            .headers
            .extend(trace_id.map(|trace_id| ("X-Weave-Trace-Id", trace_id)));
        Ok(request)
    }
}

/// Appends a whole call: the fields of both halves, the end's before the start's unless it is
/// null. Values keep their bytes.
pub(crate) fn push_merged(start: &[u8], end: &[u8], body: &mut Vec<u8>) -> Result<(), String> {
    let mut merged = inside(Kind::CallStart, start)?;
    for (key, value) in inside(Kind::CallEnd, end)? {
        if value.get() != "null" || !merged.contains_key(&key) {
            merged.insert(key, value);
        }
    }
    for (n, (key, value)) in merged.iter().enumerate() {
        body.push(if n == 0 { b'{' } else { b',' });
        body.extend_from_slice(quoted(key).as_bytes());
        body.push(b':');
        body.extend_from_slice(value.get().as_bytes());
    }
    body.push(b'}');
    Ok(())
}

/// The request for whole calls of one project, written as `{"batch":[…]}`.
pub(crate) fn complete(project: &str, body: Vec<u8>) -> Result<Request, String> {
    post(project, "calls/complete", body)
}

/// Asks what the server has of these calls.
pub(crate) fn question(project: &str, ids: &[&str]) -> Request {
    let columns = ",\"columns\":[\"id\",\"ended_at\"]";
    json("/calls/stream_query", of_calls(project, ids, columns))
}

/// Asks how many of these calls the server has.
pub(crate) fn how_many(project: &str, ids: &[&str]) -> Request {
    json("/calls/query_stats", of_calls(project, ids, ""))
}

fn of_calls(project: &str, ids: &[&str], more: &str) -> Vec<u8> {
    let (project, ids) = (quoted(project), list(ids));
    format!("{{\"project_id\":{project},\"filter\":{{\"call_ids\":{ids}}}{more}}}").into_bytes()
}

/// Reads the answer to [`question`], one JSON object a line; a call can be there more than once, and
/// an object without an id is none. `None`: it is not readable, perhaps because it was cut off.
pub(crate) fn known(answer: &[u8]) -> Option<Vec<(String, Known)>> {
    let lines = answer.split(|&byte| byte == b'\n');
    lines
        .filter(|line| !line.trim_ascii().is_empty())
        .filter_map(|line| {
            let Ok(fields) = fields(line) else {
                return Some(None);
            };
            let id = text(&fields, "id")?;
            let ended = fields.get("ended_at").is_some_and(|at| at.get() != "null");
            Some(Some((
                id,
                if ended { Known::Ended } else { Known::Started },
            )))
        })
        .collect()
}

/// Reads the answer to [`how_many`]. `None`: it is not one, perhaps because it was cut off.
/// `Some(None)`: it is whole, and there is no count in it.
pub(crate) fn counted(answer: &[u8]) -> Option<Option<u64>> {
    Some(number(&fields(answer).ok()?, "count"))
}

/// `{"start": {…}}` or `{"end": {…}}`: what is inside.
fn inside(kind: Kind, req: &[u8]) -> Result<Fields<'_>, String> {
    let key = match kind {
        Kind::CallStart => "start",
        _ => "end",
    };
    let outer = fields(req).map_err(|error| format!("not readable: {error}"))?;
    let inner = outer
        .get(key)
        .ok_or_else(|| format!("there is no {key:?} in it"))?;
    fields(inner.get().as_bytes()).map_err(|error| format!("{key:?} is no object: {error}"))
}

fn post(project: &str, route: &str, body: Vec<u8>) -> Result<Request, String> {
    let (entity, name) = place(project)?;
    Ok(Request {
        path: format!("/v2/{entity}/{name}/{route}"),
        headers: vec![("X-Weave-Retry-Id", retry_id(&body))],
        body: Body::Json(body),
    })
}

/// The entity and the name of a project. They become part of a path: nothing in them may lead
/// elsewhere.
fn place(project: &str) -> Result<(&str, &str), String> {
    let is_plain = |part: &str| {
        !part.is_empty() && part != "." && part != ".." && !part.contains(['/', '?', '#', '%'])
    };
    let parts = project.split_once('/');
    let plain = parts.filter(|(entity, name)| is_plain(entity) && is_plain(name));
    plain.ok_or_else(|| format!("{project:?} is no entity/project"))
}

/// The same for every attempt to send the same, even by another process, and for nothing else:
/// made from the body, in the form of a UUID.
fn retry_id(body: &[u8]) -> String {
    let half = |seed: u8| {
        let mut hasher = DefaultHasher::new();
        (seed, body).hash(&mut hasher);
        hasher.finish()
    };
    let bits = u128::from(half(0)) << 64 | u128::from(half(1));
    // Version 8: made as the maker sees fit (RFC 9562).
    let bits = bits & !(0xf << 76 | 0xc << 60) | 0x8 << 76 | 0x8 << 60;
    let hex = format!("{bits:032x}");
    let groups = [
        &hex[..8],
        &hex[8..12],
        &hex[12..16],
        &hex[16..20],
        &hex[20..],
    ];
    groups.join("-")
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: &[u8] = br#"{"start":{"project_id":"e/p","id":"1","trace_id":"t","started_at":"2026","n":12345678901234567890123,"x":1}}"#;
    const END: &[u8] =
        br#"{"end":{"project_id":"e/p","id":"1","started_at":null,"output":"\ud800","x":2}}"#;

    #[test]
    fn a_whole_call_has_the_fields_of_both_halves_and_their_bytes() {
        let mut body = Vec::new();
        push_merged(START, END, &mut body).unwrap();
        let text = String::from_utf8(body).unwrap();
        let fields: Fields<'_> = serde_json::from_str(&text).unwrap();
        let value = |key: &str| fields[key].get();
        assert_eq!(value("n"), "12345678901234567890123");
        assert_eq!(value("output"), r#""\ud800""#);
        assert_eq!(value("started_at"), r#""2026""#);
        assert_eq!(value("x"), "2");
        assert_eq!(fields.len(), 7);
    }

    #[test]
    fn the_retry_id_belongs_to_the_body() {
        let id = |body: &[u8]| {
            post("e/p", "call/end", body.to_vec()).unwrap().headers[0]
                .1
                .clone()
        };
        assert_eq!(id(START), id(START));
        assert_ne!(id(START), id(END));
        let id = id(START);
        let lengths: Vec<_> = id.split('-').map(str::len).collect();
        assert_eq!(lengths, [8, 4, 4, 4, 12]);
        assert_eq!(&id[14..15], "8");
        assert_ne!(&id[..8], "00000000", "both halves of it are used");
        assert!("89ab".contains(&id[19..20]));
    }

    #[test]
    fn a_project_in_a_record_leads_nowhere_else() {
        for project in ["e", "../p", "e/..", "e/p/q", "e/p?x", "", "/", "e/%2e%2e"] {
            assert!(post(project, "call/end", Vec::new()).is_err(), "{project}");
        }
        let half = Half::read(Kind::CallStart, START).unwrap();
        let request = half.request(START.to_vec()).unwrap();
        assert_eq!(request.path, "/v2/e/p/call/start");
        assert!(
            request
                .headers
                .contains(&("X-Weave-Trace-Id", "t".to_owned()))
        );
    }

    #[test]
    fn an_answer_tells_which_calls_have_ended() {
        let answer = b"{\"id\":\"a\",\"ended_at\":null}\n{\"id\":\"b\",\"ended_at\":\"2026\"}\n";
        let known = known(answer).unwrap();
        assert_eq!(known[0], ("a".to_owned(), Known::Started));
        assert_eq!(known[1], ("b".to_owned(), Known::Ended));
        assert_eq!(super::known(b"<html>"), None);
        assert_eq!(super::known(b"{\"id\":\"a\"}\n{\"id\":"), None);
        assert_eq!(super::known(b"{}\n"), Some(Vec::new()));
        assert_eq!(super::known(b""), Some(Vec::new()));
        assert_eq!(counted(b"{\"count\":3,\"has_more\":false}"), Some(Some(3)));
        assert_eq!(counted(b"{}"), Some(None));
        assert_eq!(counted(b"{\"count\":"), None);
    }
}
