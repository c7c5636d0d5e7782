//! The crates that people would take instead for the log.

use std::io::Write;
use std::path::Path;
use std::sync::Mutex;

use okaywal::{LogVoid, WriteAheadLog};
use queue_file::QueueFile;
use tracing_appender::non_blocking::NonBlockingBuilder;
use walrus_rust::{FsyncSchedule, ReadConsistency, Walrus};

use crate::harness::{burst, entrant, scratch, Bound, Entrant};

/// Those that have each record in the file when the call returns.
pub fn written<'a>(
    dir: &'a Path,
    threads: usize,
    records: usize,
    line: &'a [u8],
) -> Vec<Entrant<'a>> {
    vec![
        entrant("yaque", Bound::None, move || {
            let dir = scratch(dir);
            let sender = yaque::Sender::open(dir.path().join("queue")).expect("a queue");
            let sender = Mutex::new(sender);
            burst(threads, records, || {
                || {
                    sender
                        .lock()
                        .expect("no panic")
                        .try_send(line)
                        .map_err(drop)
                        .expect("a send")
                }
            })
        }),
        entrant("queue-file, without syncs", Bound::None, move || {
            let dir = scratch(dir);
            queue_file(dir.path(), false, threads, records, line)
        }),
        entrant("walrus-rust, NoFsync", Bound::None, move || {
            let dir = scratch(dir);
            walrus(dir.path(), FsyncSchedule::NoFsync, threads, records, line)
        }),
    ]
}

/// Those that have each record on the disk when the call returns.
pub fn synced<'a>(
    dir: &'a Path,
    threads: usize,
    records: usize,
    line: &'a [u8],
) -> Vec<Entrant<'a>> {
    vec![
        entrant("okaywal", Bound::None, move || {
            let dir = scratch(dir);
            let log = WriteAheadLog::recover(dir.path().join("log"), LogVoid).expect("a log");
            let rate = burst(threads, records, || {
                || {
                    let mut entry = log.begin_entry().expect("an entry");
                    entry.write_chunk(line).expect("a chunk");
                    entry.commit().expect("a commit");
                }
            });
            log.shutdown().expect("a shutdown");
            rate
        }),
        entrant("queue-file", Bound::None, move || {
            let dir = scratch(dir);
            queue_file(dir.path(), true, threads, records, line)
        }),
        entrant("walrus-rust, SyncEach", Bound::None, move || {
            let dir = scratch(dir);
            walrus(dir.path(), FsyncSchedule::SyncEach, threads, records, line)
        }),
    ]
}

/// Hands each record to a thread by a channel.
pub fn tracing_appender(dir: &Path, threads: usize, records: usize, line: &[u8]) -> f64 {
    let dir = scratch(dir);
    let file = crate::append::new_file(dir.path());
    let (writer, _guard) = NonBlockingBuilder::default().lossy(false).finish(file);
    burst(threads, records, || {
        let mut writer = writer.clone();
        move || writer.write_all(line).expect("a write")
    })
}

fn queue_file(dir: &Path, syncs: bool, threads: usize, records: usize, line: &[u8]) -> f64 {
    let mut queue = QueueFile::open(dir.join("queue")).expect("a queue");
    queue.set_sync_writes(syncs);
    let queue = Mutex::new(queue);
    burst(threads, records, || {
        || queue.lock().expect("no panic").add(line).expect("an add")
    })
}

fn walrus(dir: &Path, sync: FsyncSchedule, threads: usize, records: usize, line: &[u8]) -> f64 {
    // With the data directory that `main` has set, this is `dir`.
    let key = dir
        .file_name()
        .and_then(|name| name.to_str())
        .expect("a name");
    let consistency = ReadConsistency::StrictlyAtOnce;
    let log = Walrus::with_consistency_and_schedule_for_key(key, consistency, sync).expect("a log");
    let rate = burst(threads, records, || {
        || log.append_for_topic("records", line).expect("an append")
    });
    drop(log);
    rate
}
