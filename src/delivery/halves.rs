//! The request for halves of calls: any halves of any calls, in any order.

use crate::batch::json;
use crate::http::Request;
use crate::record::Kind;

/// Where it goes.
pub(crate) const HALVES: &str = "/call/upsert_batch";

const BEGIN: &[u8] = br#"{"batch":["#;
const END: &[u8] = b"]}";

/// More than a half takes in a request beyond its own bytes.
pub(crate) const FRAME: usize = 40;

/// Such a request being put together.
#[derive(Debug)]
pub(crate) struct Halves {
    body: Vec<u8>,
    count: usize,
}

impl Halves {
    /// Has room for so many bytes, frames included.
    pub fn with_room(bytes: usize) -> Halves {
        let mut body = Vec::with_capacity(BEGIN.len() + bytes + END.len());
        body.extend_from_slice(BEGIN);
        Halves { body, count: 0 }
    }

    pub fn count(&self) -> usize {
        self.count
    }

    pub fn push(&mut self, kind: Kind, req: &[u8]) {
        if self.count > 0 {
            self.body.push(b',');
        }
        self.count += 1;
        let before: &[u8] = match kind {
            Kind::CallStart => br#"{"mode":"start","req":"#,
            _ => br#"{"mode":"end","req":"#,
        };
        self.body.extend_from_slice(before);
        self.body.extend_from_slice(req);
        self.body.push(b'}');
    }

    pub fn into_request(mut self) -> Request {
        self.body.extend_from_slice(END);
        json(HALVES, self.body)
    }
}
