//! The handle that a program holds: append, tickets, sync, flush, finish.

pub(crate) mod age;
pub(crate) mod events;
pub(crate) mod eviction;
mod open;
mod stats;

use std::fmt;
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::Value;
use serde_json::value::RawValue;

use self::events::Events;
use self::eviction::drop_oldest;
use crate::config::Config;
use crate::config::policy::WhenFull;
use crate::directory::Directory;
use crate::directory::budget::Budget;
use crate::error::{Error, Result};
use crate::json::{self, quoted};
use crate::log::{Log, Position};
use crate::record::{Kind, Line};
use crate::report::{Event, Receipt};
use crate::threads;
use crate::worker::desk::{Board, Flush, Message};

/// "For ever" is as good as a century, and no clock overflows.
const LONGEST: Duration = Duration::from_secs(100 * 365 * 86_400);

/// How long dropping a client waits for a disk that does not answer.
const LAST_SYNC: Duration = Duration::from_secs(if cfg!(test) { 1 } else { 10 });

/// An open log of one project, and the thread that delivers it.
///
/// Cheap to clone; all clones are one client. When the last one is dropped, what was appended is
/// synced to disk; the drop never waits for the network, and at most 10 s for a disk that hangs.
/// To learn what was delivered, call [`finish`](Self::finish).
///
/// ```no_run
/// use serde_json::json;
/// use std::time::Duration;
/// use weave_wal::{Client, Kind};
///
/// # fn main() -> weave_wal::Result<()> {
/// let client = Client::init("my-team/my-app")?;
/// let ticket = client.append(Kind::CallStart, &json!({"start": {"id": "0198…"}}))?;
/// ticket.wait()?; // on the disk
/// let receipt = client.finish(Duration::from_secs(10));
/// println!("{} delivered, {} still in {:?}", receipt.delivered, receipt.pending, receipt.dir);
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Client {
    inner: Arc<Inner>,
}

struct Inner {
    project_id: String,
    record_limit: usize,
    budget: Budget,
    when_full: WhenFull,
    log: Arc<Log>,
    board: Arc<Mutex<Board>>,
    events: Arc<Events>,
    /// What could last be said of the log, for when it cannot be asked.
    seen: Mutex<(Position, Option<Error>)>,
    directory: Option<Directory>,
    thread: Sender<Message>,
}

/// A record's place in the log. It outlives the client.
#[derive(Clone)]
pub struct Ticket {
    log: Arc<Log>,
    position: u64,
}

impl Ticket {
    /// Returns when the record, and its file's name, survive a power loss; with
    /// [`Storage::Memory`](crate::Storage::Memory) at once, for nothing there ever will.
    ///
    /// # Errors
    /// [`Error::Degraded`] or [`Error::Io`] if the disk cannot be written; [`Error::Forked`].
    pub fn wait(&self) -> Result<()> {
        self.log.check_process()?;
        self.log.sync_to(self.position)
    }
}

impl fmt::Debug for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ticket")
            .field("position", &self.position)
            .finish()
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("project_id", &self.inner.project_id)
            .field("directory", &self.inner.directory)
            .finish_non_exhaustive()
    }
}

impl Client {
    /// Opens a client for `entity/project` from the environment, as `weave.init()` does in
    /// Python. See [`Config::from_env`] for the variables.
    ///
    /// # Errors
    /// As [`Config::from_env`] and [`open`](Self::open).
    pub fn init(project: &str) -> Result<Client> {
        Client::open(Config::from_env(project)?)
    }

    /// Appends a record. When this returns, it is as safe as the client's
    /// [`Durability`](crate::Durability) says; by default the process may die at once and the
    /// record is delivered later. The [`Ticket`] can wait for more.
    ///
    /// # Errors
    /// The record was not accepted: [`Error::Record`] if it is no JSON object or too large,
    /// [`Error::QueueFull`], [`Error::NoRoom`] at the disk budget or the free-space floor,
    /// [`Error::Io`], [`Error::Degraded`], [`Error::Closed`], [`Error::Forked`]. With [`Durability::Synced`](crate::Durability::Synced) it may be only
    /// the sync that failed; then the record may be delivered all the same.
    pub fn append(&self, kind: Kind, req: &Value) -> Result<Ticket> {
        self.append_json(kind, &serialized("", req, "")?)
    }

    /// Appends a record whose bytes are kept as they are: big numbers, key order, escapes. (A
    /// newline between two tokens becomes a space, for a record is one line.)
    ///
    /// # Errors
    /// As [`append`](Self::append).
    pub fn append_raw(&self, kind: Kind, req: &RawValue) -> Result<Ticket> {
        self.append_json(kind, req.get().as_bytes())
    }

    /// Appends the start of a call; wraps it as `{"start": …}`.
    ///
    /// # Errors
    /// As [`append`](Self::append).
    pub fn call_start(&self, start: &Value) -> Result<Ticket> {
        self.append_wrapped(Kind::CallStart, "start", start)
    }

    /// Appends the end of a call; wraps it as `{"end": …}`.
    ///
    /// # Errors
    /// As [`append`](Self::append).
    pub fn call_end(&self, end: &Value) -> Result<Ticket> {
        self.append_wrapped(Kind::CallEnd, "end", end)
    }

    /// Appends an object; wraps it as `{"obj": …}`.
    ///
    /// # Errors
    /// As [`append`](Self::append).
    pub fn obj_create(&self, obj: &Value) -> Result<Ticket> {
        self.append_wrapped(Kind::ObjCreate, "obj", obj)
    }

    /// Appends a table; wraps it as `{"table": …}`.
    ///
    /// # Errors
    /// As [`append`](Self::append).
    pub fn table_create(&self, table: &Value) -> Result<Ticket> {
        self.append_wrapped(Kind::TableCreate, "table", table)
    }

    /// Appends a file of this client's project, with any bytes in it.
    ///
    /// # Errors
    /// As [`append`](Self::append).
    pub fn file_create(&self, name: &str, content: &[u8]) -> Result<Ticket> {
        let content = match std::str::from_utf8(content) {
            Ok(text) => format!("\"content\":{}", quoted(text)),
            Err(_) => format!("\"content_base64\":\"{}\"", crate::base64::encode(content)),
        };
        let req = format!(
            "{{\"project_id\":{},\"name\":{},{content},\"expected_digest\":null}}",
            quoted(&self.inner.project_id),
            quoted(name),
        );
        self.append_json(Kind::FileCreate, req.as_bytes())
    }

    /// Returns when everything appended so far is on the disk.
    ///
    /// # Errors
    /// As [`Ticket::wait`].
    pub fn sync(&self) -> Result<()> {
        self.inner.log.check_process()?;
        self.inner.log.sync()
    }

    /// Waits until everything appended so far is delivered, but not longer than `deadline` from
    /// now. It returns early if nothing can change before that.
    ///
    /// # Errors
    /// [`Error::Stopped`] if the client's thread is gone, [`Error::Forked`]. That records are
    /// still pending at the deadline is no error: the [`Receipt`] says so.
    pub fn flush(&self, deadline: Duration) -> Result<Receipt> {
        self.inner.log.check_process()?;
        self.ask(deadline, Message::Flush)
    }

    /// Ends the client: no more records, everything synced, delivered as far as possible within
    /// `deadline` from now. The [`Receipt`] says what was delivered and what is still on the disk.
    /// In a forked child it does nothing but say so.
    pub fn finish(&self, deadline: Duration) -> Receipt {
        if let Err(error) = self.inner.log.check_process() {
            return Receipt {
                error: Some(error.to_string()),
                ..Receipt::default()
            };
        }
        let until = Instant::now() + deadline.min(LONGEST);
        // The thread may come to it only after the deadline.
        self.inner.log.refuse();
        let left = || until.saturating_duration_since(Instant::now());
        // Whatever the thread is at, what is only buffered is in the file from here on.
        if self.inner.log.is_buffering() {
            self.inner.within(left(), Log::write);
        }
        let asked = self.ask(left(), Message::Finish);
        asked.unwrap_or_else(|stopped| {
            // The thread has ended, after an earlier `finish` perhaps. What can be done without it
            // is to make the records safe.
            self.inner.within(left(), |log| drop(log.close()));
            let receipt = self.inner.receipt();
            let error = receipt.error.unwrap_or_else(|| stopped.to_string());
            Receipt {
                error: (receipt.pending > 0).then_some(error),
                ..receipt
            }
        })
    }

    fn append_wrapped(&self, kind: Kind, key: &str, value: &Value) -> Result<Ticket> {
        let before = format!("{{\"{key}\":");
        self.append_json(kind, &serialized(&before, value, "}")?)
    }

    fn append_json(&self, kind: Kind, req: &[u8]) -> Result<Ticket> {
        self.inner.log.check_process()?;
        let line = Line::new(kind, req, self.inner.record_limit)?;
        self.inner.book(line.len() as u64)?;
        let appended = self.inner.log.append(&line);
        Ok(Ticket {
            position: appended.inspect_err(|_| self.inner.budget.unbook(line.len() as u64))?,
            log: Arc::clone(&self.inner.log),
        })
    }

    /// Asks the thread and waits for its answer, and for the event handler to have seen what led
    /// to it, but never beyond the deadline.
    fn ask(&self, wait: Duration, message: fn(Flush) -> Message) -> Result<Receipt> {
        let (_, position) = self.inner.log.accepted();
        let (reply, answer) = mpsc::channel();
        let wait = wait.min(LONGEST);
        let deadline = Instant::now() + wait;
        let flush = Flush {
            position,
            deadline,
            reply,
        };
        // If the thread is gone, so is the other end of this.
        let _ = self.inner.thread.send(message(flush));
        let receipt = match answer.recv_timeout(wait) {
            Err(mpsc::RecvTimeoutError::Disconnected) => {
                Err(Error::Stopped("it takes no more messages".to_owned()))
            }
            _ => Ok(self.inner.receipt()),
        };
        let left = deadline.saturating_duration_since(Instant::now());
        self.inner.events.wait(left);
        receipt
    }
}

impl Inner {
    /// Does with the log what a disk that hangs can hold up, but waits for it no longer than that.
    fn within(&self, deadline: Duration, work: fn(&Log)) {
        // Nothing is sent: the other end goes when it is done.
        let (open, closed) = mpsc::channel::<()>();
        let log = Arc::clone(&self.log);
        let run = move || {
            work(&log);
            drop(open);
        };
        match threads::start("weave-wal-close", Box::new(run)) {
            Ok(()) => drop(closed.recv_timeout(deadline.min(LONGEST))),
            // Without a thread there is nobody else to wait.
            Err(_) => work(&self.log),
        }
    }

    /// Books room on the disk for a record.
    fn book(&self, len: u64) -> Result<()> {
        let Some(directory) = &self.directory else {
            return Ok(());
        };
        let booked = self
            .budget
            .book(len, &mut |missing| self.make_room(directory, missing));
        booked.map_err(|no_room| match self.log.is_refusing() {
            true => Error::Closed,
            false => no_room,
        })
    }

    /// At the disk budget: drops the oldest file, if that is what was asked for. Was one dropped?
    fn make_room(&self, directory: &Directory, missing: u64) -> bool {
        // For a record that is refused anyway nothing is dropped.
        if self.when_full == WhenFull::Reject || self.log.is_refusing() {
            return false;
        }
        let mut trouble = |error: Error| {
            threads::lock(&self.board).last_error = Some(error.to_string());
        };
        let dropped = match drop_oldest(directory, missing, &mut trouble) {
            // The file that is being written may be large enough to be left for another one.
            Ok(None) if self.log.sync().is_ok() => drop_oldest(directory, missing, &mut trouble),
            dropped => dropped,
        };
        let discarded = match dropped {
            Ok(Some(discarded)) => discarded,
            Ok(None) => return false,
            Err(error) => {
                trouble(error);
                return false;
            }
        };
        let is_own = self.log.is_own(&discarded.name);
        let mut board = threads::lock(&self.board);
        board.dropped += discarded.records;
        board.own_records += if is_own { discarded.records } else { 0 };
        drop(board);
        if discarded.bytes > 0 {
            self.events.tell(Event::Dropped {
                path: discarded.path,
                records: discarded.records,
                bytes: discarded.bytes,
            });
        }
        true
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // In a forked child everything here is the parent's.
        if self.log.check_process().is_err() {
            return;
        }
        // Nobody is left to be told; what could not be synced stays in the file as written.
        self.within(LAST_SYNC, |log| drop(log.close()));
        let _ = self.thread.send(Message::Close);
    }
}

/// A value as JSON with something around it.
fn serialized(before: &str, value: &Value, after: &str) -> Result<Vec<u8>> {
    // As much as most requests take.
    let mut json = Vec::with_capacity(1 << 10);
    json.extend_from_slice(before.as_bytes());
    json::write(&mut json, value).map_err(|error| Error::Record(error.to_string()))?;
    json.extend_from_slice(after.as_bytes());
    Ok(json)
}

#[cfg(test)]
mod tests;
