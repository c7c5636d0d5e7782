//! A table too large for one request: its rows in chunks, then the table from their digests.
//!
//! The server has the same table afterwards as if it had come whole.

use serde_json::value::RawValue;

use crate::batch::{Verdict, json};
use crate::delivery::{Delivery, Stop, unsendable};
use crate::http::{Answer, Request};
use crate::json::{fields, list};

/// The largest chunk that the server takes, without what stands around the rows.
const CHUNK: usize = 10 << 20;

/// As many rows as have their digests in what is read of an answer.
const ROWS: usize = 900;

/// A table's request, taken apart.
struct Table<'a> {
    project_id: &'a str,
    expected_digest: &'a str,
    rows: Vec<&'a RawValue>,
}

impl<'a> Table<'a> {
    fn read(req: &'a [u8]) -> Result<Table<'a>, String> {
        let not_readable = |error: String| format!("not readable: {error}");
        let outer = fields(req).map_err(not_readable)?;
        let table = outer.get("table").ok_or("there is no \"table\" in it")?;
        let fields = fields(table.get().as_bytes()).map_err(not_readable)?;
        let needed = |key: &str| {
            let field = fields.get(key).map(|field| field.get());
            field.ok_or_else(|| format!("a table without {key:?}"))
        };
        Ok(Table {
            project_id: needed("project_id")?,
            expected_digest: needed("expected_digest").unwrap_or("null"),
            rows: serde_json::from_str(needed("rows")?)
                .map_err(|error| not_readable(error.to_string()))?,
        })
    }

    /// The request for the rows from `first` on, and how many it holds: at least one.
    fn chunk(&self, first: usize, limit: usize) -> (Request, usize) {
        let mut body = format!(
            "{{\"table\":{{\"project_id\":{},\"rows\":[",
            self.project_id
        );
        let mut taken = 0;
        for row in self.rows[first..].iter().take(ROWS) {
            let row = row.get();
            if taken > 0 && body.len() + row.len() + 4 > limit {
                break;
            }
            if taken > 0 {
                body.push(',');
            }
            body.push_str(row);
            taken += 1;
        }
        body.push_str("]}}");
        (json("/table/create", body.into_bytes()), taken)
    }

    /// The request that makes one table of all rows.
    fn whole(&self, digests: &[String]) -> Request {
        let body = format!(
            "{{\"project_id\":{},\"row_digests\":{},\"expected_digest\":{}}}",
            self.project_id,
            list(digests),
            self.expected_digest
        );
        json("/table/create_from_digests", body.into_bytes())
    }
}

impl Delivery<'_> {
    /// Sends a table in parts, or whole where the server does not put tables together.
    pub(crate) fn large_table(&mut self, index: usize) -> Result<Verdict, Stop> {
        let req = self.batch.req(self.source, index)?;
        let in_parts = match Table::read(&req) {
            Ok(table) => self.in_parts(&table)?,
            Err(reason) => return Ok(unsendable(reason)),
        };
        match in_parts {
            Some(verdict) => Ok(verdict),
            None => self.send(json("/table/create", req)),
        }
    }

    /// A part that is refused refuses the table. `None`: this server, an older one, only takes
    /// tables whole.
    fn in_parts(&mut self, table: &Table<'_>) -> Result<Option<Verdict>, Stop> {
        let mut digests: Vec<String> = Vec::with_capacity(table.rows.len());
        while digests.len() < table.rows.len() {
            let (request, rows) = table.chunk(digests.len(), self.body_limit.min(CHUNK));
            // A part that is taken ends no backoff: all begins with it again if the next one fails.
            let body = match self.carry(request, 1)? {
                Answer::Reject { status, detail } => {
                    self.answered = true;
                    return Ok(Some(self.refuse(status, detail)));
                }
                Answer::Delivered { body } => body,
                _ => Vec::new(),
            };
            match row_digests(&body) {
                Some(of_rows) if of_rows.len() == rows => digests.extend(of_rows),
                Some(of_rows) if of_rows.is_empty() => return Ok(None),
                _ => {
                    return Err(Stop::Retry {
                        why: "the server does not say which rows of a table it has taken"
                            .to_owned(),
                        after: None,
                        unanswered: true,
                    });
                }
            }
        }
        match self.send(table.whole(&digests)) {
            // It has just taken parts: its address is right.
            Err(Stop::Pause {
                status: Some(404 | 405),
                ..
            }) => Ok(None),
            sent => sent.map(Some),
        }
    }
}

/// The digests in the answer to a part; none if there are none in it. `None`: it is not readable,
/// perhaps because it was cut off.
fn row_digests(answer: &[u8]) -> Option<Vec<String>> {
    match fields(answer).ok()?.get("row_digests") {
        Some(digests) => serde_json::from_str(digests.get()).ok(),
        None => Some(Vec::new()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::Body;

    fn text(request: Request) -> String {
        match request.body {
            Body::Json(body) => String::from_utf8(body).unwrap(),
            Body::Multipart { .. } => panic!("a form"),
        }
    }

    #[test]
    fn chunks_hold_all_rows_once_in_order_and_keep_their_bytes() {
        let rows: Vec<String> = (0..2_000)
            .map(|n| format!("{{\"n\":{n}.10,\"s\":\"\\ud800\"}}"))
            .collect();
        let req = format!(
            "{{\"table\":{{\"rows\":[{}],\"project_id\":\"e/p\"}}}}",
            rows.join(" , ")
        );
        let table = Table::read(req.as_bytes()).unwrap();
        let (mut first, mut seen) = (0, Vec::new());
        while first < rows.len() {
            let (request, taken) = table.chunk(first, 5_000);
            let body = text(request);
            assert!(body.len() <= 5_000);
            let inner = body
                .strip_prefix("{\"table\":{\"project_id\":\"e/p\",\"rows\":[")
                .unwrap();
            seen.push(inner.strip_suffix("]}}").unwrap().to_owned());
            first += taken;
        }
        assert_eq!(seen.join(","), rows.join(","));
        assert_eq!(table.chunk(0, usize::MAX).1, ROWS);
    }

    #[test]
    fn a_row_above_the_limit_is_a_chunk_of_its_own() {
        let req = br#"{"table":{"project_id":"e/p","rows":[{"a":"0123456789"},{"b":1}]}}"#;
        let table = Table::read(req).unwrap();
        assert_eq!(table.chunk(0, 20).1, 1);
        assert_eq!(table.chunk(1, 20).1, 1);
    }

    #[test]
    fn what_is_no_table_is_told_apart() {
        for req in [
            r#"{}"#,
            r#"{"table":1}"#,
            r#"{"table":{"project_id":"e/p"}}"#,
        ] {
            assert!(Table::read(req.as_bytes()).is_err(), "{req}");
        }
    }
}
