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
//! 7. *Everything is bounded:* memory, waits, requests. At a bound the caller gets a clear error.
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
//! ```json
//! {"type":"call_start","req":{"start":{"project_id":"my-team/my-app","id":"0198"}},"crc":"de9674f1"}
//! ```
//!
//! These are the files of Weave's own Python client, which can read them and be read; `crc` is
//! the CRC-32 of the bytes before `,"crc"`, and a line without it is good too.

mod age;
mod backoff;
mod base64;
mod batch;
mod budget;
mod checkpoint;
mod client;
mod config;
mod crc;
pub mod dead;
mod deadletter;
mod delivery;
mod desk;
mod directory;
mod drain;
mod environment;
mod error;
mod events;
mod eviction;
mod form;
#[cfg(fuzzing)]
#[doc(hidden)]
pub mod fuzzing;
mod holdoff;
mod http;
pub mod inspect;
mod lane;
mod lock;
mod log;
mod name;
mod orphans;
pub mod reader;
mod record;
mod replay;
mod report;
mod segment;
mod sender;
mod sys;
mod table;
mod v2;
mod whole;
mod window;
mod worker;

#[cfg(test)]
#[allow(dead_code)]
#[path = "cli/collector.rs"]
mod collector;
#[cfg(test)]
#[path = "cli/collector_tests.rs"]
mod collector_tests;

pub use client::{Client, Ticket};
pub use config::{Config, Durability, Storage, WhenFull};
pub use error::{Error, Result};
pub use record::{Fault, Kind, Record, parse};
pub use report::{Event, Receipt, Stats};
pub use sender::{Sender, Summary, Until};

/// What the command-line tool needs of the operating system. No part of the API.
#[doc(hidden)]
pub mod tool {
    pub use crate::sys::on_terminate;
}
