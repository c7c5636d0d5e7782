//! The record that everything is measured with, and clients to append it to.

use std::path::Path;

use serde_json::value::RawValue;
use serde_json::Value;
use weave_wal::{Client, Config, Durability, Kind};

/// A line of the log with its newline, as long as that of a usual call's start.
pub const LINE: usize = 570;

/// The start of a call with some input: its line takes [`LINE`] bytes.
pub fn request() -> Value {
    let mut request = with_input(0);
    let missing = LINE - line(&request).len();
    request = with_input(missing);
    request
}

fn with_input(len: usize) -> Value {
    let word = "the quick brown fox jumps over the lazy dog and ";
    let question: String = word.chars().cycle().take(len).collect();
    serde_json::json!({"start": {
        "project_id": "bench/log", "id": "0198f3a2-7c1d-7e40-9b52-3f6a8d21c001",
        "trace_id": "0198f3a2-7c1d-7e40-9b52-3f6a8d21c002", "parent_id": null,
        "op_name": "weave:///bench/log/op/answer:v1", "started_at": "2026-01-01T12:00:00.000000Z",
        "attributes": {"weave": {"client_version": "0.1.0", "source": "rust"}},
        "inputs": {"question": question, "temperature": 0.25, "limit": 128}}})
}

/// The bytes that the log holds for a request; the digits of the checksum do not matter here.
pub fn line(request: &Value) -> Vec<u8> {
    let line = format!("{{\"type\":\"call_start\",\"req\":{request},\"crc\":\"00000000\"}}\n");
    line.into_bytes()
}

pub fn raw() -> Box<RawValue> {
    serde_json::value::to_raw_value(&request()).expect("a request is JSON")
}

/// A client that only logs.
pub fn writer(root: &Path, durability: Durability) -> Client {
    open(config(root, durability).sender(false))
}

pub fn config(root: &Path, durability: Durability) -> Config {
    Config::new("bench", "log")
        .root(root)
        .durability(durability)
}

pub fn open(config: Config) -> Client {
    Client::open(config).expect("a client")
}

/// Appends the same request again and again.
pub fn appender<'a>(client: &'a Client, raw: &'a RawValue) -> impl FnMut() + 'a {
    move || {
        client.append_raw(Kind::CallStart, raw).expect("an append");
    }
}
