//! What a client tells about itself: statistics, receipts, events.

use std::path::PathBuf;
use std::time::Duration;

/// What a client has done so far, as [`Client::stats`](crate::Client::stats) returns it.
///
/// All counts are since the client was opened. "Own" records are those appended through this
/// client; leftovers of earlier processes are counted where it says so.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Own records accepted.
    pub appended: u64,
    /// Bytes of the lines of these records.
    pub appended_bytes: u64,
    /// Bytes of these that were written to the log file.
    pub written_bytes: u64,
    /// Bytes of these that were synced to disk.
    pub synced_bytes: u64,
    /// Own records that are neither delivered nor rejected yet.
    pub pending: u64,
    /// Bytes of own records that are neither delivered nor rejected yet.
    pub pending_bytes: u64,
    /// For how long the oldest record that is pending has been; for leftovers, since their file
    /// was begun. `None`: nothing is pending.
    pub oldest_pending: Option<Duration>,
    /// Log files of earlier processes that this client has found and not delivered yet.
    pub leftover_files: u64,
    /// Records the server has answered with 2xx, leftovers included.
    pub delivered: u64,
    /// Records that the server refused, leftovers included. They went to a dead-letter file, if there
    /// is one.
    pub rejected: u64,
    /// Damaged places that were quarantined in a dead-letter file.
    pub corrupt: u64,
    /// Records that this client has dropped at the disk budget, leftovers included; only with
    /// [`WhenFull::DropOldest`](crate::WhenFull::DropOldest).
    pub dropped: u64,
    /// Records sent again because the answer to a request was lost, each time counted: as many may
    /// have reached the server twice.
    pub resent: u64,
    /// Requests sent, failed ones included.
    pub requests: u64,
    /// Requests that failed and are tried again.
    pub retries: u64,
    /// Bytes that wait for a write or a sync, of
    /// [`Config::queue_bytes`](crate::Config::queue_bytes).
    pub queue_bytes: u64,
    /// Bytes that log and dead-letter files took below the root when this client last measured
    /// that, before an append; of [`Config::disk_budget`](crate::Config::disk_budget).
    pub disk_bytes: u64,
    /// Events that the callback has not seen, because it was 1,000 events behind.
    pub events_missed: u64,
    /// How often the event callback has panicked.
    pub event_panics: u64,
    /// The last thing that went wrong, if anything has.
    pub last_error: Option<String>,
    /// Why nothing is being sent: the configuration is wrong and somebody has to look.
    pub paused: Option<String>,
    /// How long until the next request is tried, after a failed one.
    pub next_attempt: Option<Duration>,
}

/// What became of the records, as `flush` and `finish` tell it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Receipt {
    /// Records delivered since the client was opened, leftovers included.
    pub delivered: u64,
    /// Own records that are not delivered yet. With [`Storage::Disk`](crate::Storage::Disk) they
    /// are kept below [`dir`](Self::dir) and delivered by the next client or `weave-wal send`.
    pub pending: u64,
    /// Records that the server refused since the client was opened. They are kept in dead-letter
    /// files below [`dir`](Self::dir); with [`Storage::Memory`](crate::Storage::Memory) they are gone,
    /// and only the [event](Event::DeadLettered) has told why.
    pub rejected: u64,
    /// Damaged places that were quarantined since the client was opened.
    pub corrupt: u64,
    /// Records dropped at the disk budget since the client was opened.
    pub dropped: u64,
    /// Where the records are kept; `None` with [`Storage::Memory`](crate::Storage::Memory).
    pub dir: Option<PathBuf>,
    /// The last thing that went wrong, if records are pending; or that this is a forked child.
    pub error: Option<String>,
}

impl Receipt {
    /// Was everything delivered, with nothing pending and nothing rejected, damaged or dropped? In a
    /// forked child, where nobody can say: no.
    pub fn is_complete(&self) -> bool {
        let is_settled = self.pending == 0 && self.error.is_none();
        is_settled && self.rejected == 0 && self.corrupt == 0 && self.dropped == 0
    }
}

/// Something that happened, for [`Config::on_event`](crate::Config::on_event).
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// The server has taken these records.
    Delivered {
        /// How many.
        records: u64,
    },
    /// A request failed for now; the same records are sent again.
    Retrying {
        /// What failed.
        why: String,
        /// How long until the next attempt.
        after: Duration,
    },
    /// The configuration is wrong: nothing is sent until a slow probe succeeds. All is kept.
    Paused {
        /// What is wrong, and what to do.
        why: String,
    },
    /// Sending works again.
    Resumed,
    /// The server refused a record; it is in the dead-letter file, if there is one.
    DeadLettered {
        /// The dead-letter file; `None` with memory storage, where the record is gone.
        path: Option<PathBuf>,
        /// Why it was refused.
        reason: String,
    },
    /// Damaged bytes were found and put into the dead-letter file.
    Corrupt {
        /// The damaged file; `None` with memory storage.
        path: Option<PathBuf>,
        /// Where in the file, in bytes.
        offset: u64,
        /// How many bytes.
        bytes: u64,
        /// What is wrong with them.
        reason: String,
    },
    /// A log file that was not delivered to its end was removed, because the disk budget was used
    /// up and the client was told to drop the oldest.
    Dropped {
        /// The log file. Its dead letters stay.
        path: PathBuf,
        /// Good records in it that were not delivered.
        records: u64,
        /// Bytes in it that were not delivered.
        bytes: u64,
    },
    /// Storage fails (see [`Error::Degraded`](crate::Error::Degraded)), or another process delivers a
    /// log of this client. All is kept, and tried again.
    Degraded {
        /// What fails.
        error: String,
    },
}
