//! A durable client log for W&B Weave traces, for programs without an async runtime.
//!
//! A record (a call that starts or ends, an object, a table, a file) is appended to a JSONL file
//! first and sent to the trace server from there. A crash, an OOM kill, a server that is away or
//! a wrong API key costs no record.
//!
//! ```no_run
//! use serde_json::json;
//! use std::time::Duration;
//! use weave_wal::Client;
//!
//! # fn main() -> weave_wal::Result<()> {
//! let client = Client::init("my-team/my-app")?; // from the environment
//! client.call_start(&json!({"id": "0198…", "op_name": "answer", "inputs": {"q": "?"}}))?;
//! client.call_end(&json!({"id": "0198…", "output": 42}))?.wait()?; // fsynced
//! let receipt = client.finish(Duration::from_secs(10));
//! assert!(receipt.is_complete());
//! # Ok(()) }
//! ```
//!
//! That is all it takes where the environment is set up as for Weave's Python client: a key in
//! `WANDB_API_KEY` or `~/.netrc`, and `WEAVE_ENABLE_WAL=true` for a log on disk. Everything can be
//! spelled out instead, or both mixed: [`Config::from_env`], then what is to be different.
//!
//! # What is promised
//!
//! 1. *Append means written.* When [`append`](Client::append) has returned, the process may die
//!    by any signal and the record is delivered later.
//! 2. *Sync means synced.* When [`Ticket::wait`] or [`Client::sync`] has returned, the record and
//!    its file's name survive a power loss.
//! 3. *A record leaves the disk in two ways only:* the server has answered 2xx to a request that
//!    held it, or it is in the dead-letter file, with the reason.
//! 4. *The network never delays an append or a sync.*
//! 5. *At least once, and nearly once.* A record is sent twice only if an answer was lost or a
//!    process died: at most the one batch in flight. Any number of processes may share a
//!    directory.
//! 6. *Corruption is contained:* quarantined with its offset and reason, never in the way of its
//!    neighbours.
//! 7. *Everything is bounded:* memory, the disk, waits, requests. At a bound the caller gets a clear
//!    error, and nothing that was accepted is lost.
//! 8. *Closing gives a receipt,* within its deadline.
//! 9. *Nothing leaks:* the key is in no file or message; files are private; no name escapes the
//!    root.
//!
//! # How it works
//!
//! ```text
//!  caller threads                the log (one mutex)              the thread, "weave-wal"
//!  append ── line ──▶  buffer of whole lines, open .jsonl  ◀── timed writes and syncs, rotation
//!  wait, sync: one syncs for all who wait                          │ synced bytes only
//!  flush, finish ── mpsc ─────────────────────────────────────▶   batches ── POST ──▶ server
//!                      <root>/<entity>/<project>/*.jsonl   ◀── checkpoint, dead letters, removal
//! ```
//!
//! Nobody hands a record to the thread and waits for it: the caller writes the line itself, under
//! a mutex that is never held across the network or an fsync. The thread keeps the timers and
//! delivers; a request runs on a short-lived thread of its own, so that the timers go on while a
//! server hangs.
//!
//! # What is on the disk
//!
//! ```text
//! .weave/wal/<entity>/<project>/
//!     01763820622123456789_5f0c…e1.jsonl       records, one a line
//!     01763820622123456789_5f0c…e1.lock        the writer's PID, locked while it lives
//!     01763820622123456789_5f0c…e1.checkpoint  decimal offset: all before it is delivered
//!     01763820622123456789_5f0c…e1.deadletter  refused and damaged records, with reasons
//! ```
//!
//! These are the files of Weave's own Python client, which can read them and be read. A line is one
//! record: its `type`, the request `req`, which reaches the server byte for byte as it stands there,
//! and `crc`, the CRC-32 (IEEE, as hexadecimal digits) of the line's bytes before `,"crc"`.
//!
//! ```
//! # use weave_wal::{Client, Config, Kind, inspect};
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let root = tempfile::tempdir()?;
//! let config = Config::new("my-team", "my-app").root(root.path()).sender(false);
//! let client = Client::open(config)?;
//! let req = r#"{"start":{"project_id":"my-team/my-app","id":"0198"}}"#;
//! client.append_raw(Kind::CallStart, serde_json::from_str(req)?)?;
//!
//! let log = &inspect::logs(root.path(), None, &mut |error| panic!("{error}"))?[0];
//! let line = format!(r#"{{"type":"call_start","req":{req},"crc":"de9674f1"}}"#) + "\n";
//! assert_eq!(std::fs::read_to_string(log)?, line);
//! # Ok(()) }
//! ```
//!
//! Any bytes can be read back. Here is a log to which everything has happened, line by line:
//!
//! ```
//! # use std::collections::BTreeMap;
//! # use weave_wal::inspect::{self, From, Item};
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let log = [
//!     // 0: as this crate writes it.
//!     r#"{"type":"call_end","req":{"end":{"id":"a"}},"crc":"f11b3e3c"}"#,
//!     // 62: as Python does, without a checksum.
//!     r#"{"type": "call_end", "req": {"end": {"id": "b"}}}"#,
//!     // 112: a flipped bit, an "i" for an "a". The line is put aside, its neighbours are not.
//!     r#"{"type":"call_end","req":{"end":{"id":"i"}},"crc":"f11b3e3c"}"#,
//!     // 174: what a power loss leaves of a page. Nothing to keep; what stands behind it is good.
//!     concat!("\0\0\0\0", r#"{"type":"call_end","req":{"end":{"id":"c"}}}"#),
//!     // 223: the writer died over its last line.
//!     r#"{"type":"call_end","req":{"en"#,
//! ];
//! # let root = tempfile::tempdir()?;
//! # let path = root.path().join("copy.jsonl");
//! std::fs::write(&path, log.join("\n"))?;
//! let mut seen = BTreeMap::new();
//! inspect::read(&path, From::Start, &mut |item| {
//!     match item {
//!         Item::Record { offset, req, .. } => seen.insert(offset, req),
//!         Item::Damage { offset, fault, .. } => seen.insert(offset, fault.to_string()),
//!         _ => None,
//!     };
//!     Ok(true)
//! })?;
//! let seen: Vec<(u64, &str)> = seen.iter().map(|(at, what)| (*at, what.as_str())).collect();
//! assert_eq!(seen, [
//!     (0, r#"{"end":{"id":"a"}}"#),
//!     (62, r#"{"end": {"id": "b"}}"#),
//!     (112, r#"damaged: the checksum of these bytes is 34af16d3, and "f11b3e3c" was written"#),
//!     (178, r#"{"end":{"id":"c"}}"#),
//!     (223, "torn: cut off before the end of the record"),
//! ]);
//! # Ok(()) }
//! ```
//!
//! The `.checkpoint` says how far such a file is delivered: `112` here means that the first two
//! records are. Where it is missing or nonsense, that is 0.
//!
//! # What becomes of a failure
//!
//! | what happened | what is done |
//! |---|---|
//! | no connection, a timeout, 408, 425, 429, 5xx, an answer that is not HTTP | the same batch again, after a growing wait or what `Retry-After` says, without an end |
//! | 401, 403, 404, 405, a redirect, a TLS or URL fault | everything is kept, [`Stats`] and [`Event::Paused`] say why, and it is tried again slowly |
//! | 400, 413, 422 and the like | the batch is halved until the one bad record stands alone; that goes to the dead-letter file |
//! | a write fails | the append returns the error; that record is not accepted, all others are kept |
//! | a sync fails | the file is never synced again; what was not synced is written to a new one |

// A record and its bytes.
mod base64;
mod json;
pub mod reader;
mod record;

// What is on the disk: which files there are, and who may touch them.
mod checkpoint;
mod deadletter;
mod directory;
mod lock;
mod name;
mod segment;

// In: what programs append, and the thread that looks after it.
mod client;
mod config;
mod log;
mod report;
mod worker;

// Out: a log is drained in batches, each delivered by requests, whoever has written it.
mod batch;
mod delivery;
mod drain;
mod http;
mod replay;
mod sender;

// What else is done with logs.
pub mod dead;
pub mod inspect;

// What all of them use.
mod error;
mod sys;
mod threads;

// Storage and servers that fail when they are told to.
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod faults;
#[cfg(fuzzing)]
#[doc(hidden)]
pub mod fuzzing;
#[cfg(test)]
mod rehearsal;

/// The examples of the README, for the compiler.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

#[cfg(test)]
#[allow(dead_code)]
#[path = "cli/collector.rs"]
mod collector;
#[cfg(test)]
#[path = "cli/collector_tests.rs"]
mod collector_tests;

pub use client::{Client, Ticket};
pub use config::Config;
pub use config::policy::{Durability, Storage, WhenFull};
pub use error::{Error, Result};
pub use record::{Fault, Kind, Record, parse};
pub use report::{Event, Receipt, Stats};
pub use sender::{Sender, Summary, Until};

/// What the command-line tool needs of the operating system. No part of the API.
#[doc(hidden)]
pub mod tool {
    pub use crate::sys::on_terminate;
}
