//! A sync that really fails: ext4 on a device that has promised more room than there is. The kernel
//! tells it once and forgets the data; the log does not. Needs root.
#![allow(missing_docs, clippy::unwrap_used)]
#![cfg(target_os = "linux")]

#[path = "support/disk.rs"]
mod disk;
#[path = "support/faults.rs"]
mod faults;
mod support;

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

use disk::Disk;
use faults::{Tally, arrived, thorough};
use support::{Collector, files_with, start};
use weave_wal::{Client, Config, Durability, Kind};

/// What a program meets that syncs again after a failed sync. Returns what it had written.
fn sync_twice(path: &Path) -> Vec<u8> {
    let bytes = [b'p'; 64 << 10].to_vec();
    let mut file = File::create(path).unwrap();
    file.write_all(&bytes).unwrap();
    file.sync_data().unwrap_err();
    file.sync_data().unwrap();
    bytes
}

/// The appends of one run.
struct Run {
    client: Client,
    next: usize,
    accepted: Vec<usize>,
    refused: Vec<usize>,
}

impl Run {
    /// Appends some records, syncs them, and says whether all of that went well.
    fn append_and_sync(&mut self) -> weave_wal::Result<()> {
        let mut failed = Ok(());
        for n in self.next..self.next + 50 {
            match self.client.append(Kind::CallStart, &start(n)) {
                Ok(_) => self.accepted.push(n),
                Err(error) => {
                    self.refused.push(n);
                    failed = Err(error);
                }
            }
        }
        self.next += 50;
        self.client.sync().and(failed)
    }
}

#[test]
fn what_a_failed_sync_has_lost_is_written_anew() {
    if Disk::thin("wal").is_none() {
        support::skip("a file system can be made and mounted by root only");
        return;
    }
    let tally = Tally::default();
    let durabilities = [
        Durability::Written,
        Durability::Synced,
        Durability::Buffered,
    ];
    for trial in 0..if thorough() { 30 } else { 3 } {
        let disk = Disk::thin("wal/team/app").unwrap();
        let root = disk.mounted().join("wal");
        let durability = durabilities[trial % 3];
        let config = Config::new("team", "app").root(&root).sender(false);
        let client = Client::open(config.durability(durability)).unwrap();
        let mut run = Run {
            client,
            next: 0,
            accepted: Vec::new(),
            refused: Vec::new(),
        };
        for _ in 0..trial {
            run.append_and_sync().unwrap();
        }

        disk.fill();
        let probe = disk.mounted().join("probe");
        let lost = sync_twice(&probe);
        // What is left of a block that is there already may still take some.
        let failed = (0..10).find_map(|_| run.append_and_sync().err());
        let error = failed.unwrap();
        assert!(error.is_io(), "{error}");
        // Nor does it help to go on.
        for _ in 0..trial % 4 {
            run.append_and_sync().unwrap_err();
        }

        disk.make_room();
        run.append_and_sync()
            .or_else(|_| run.append_and_sync())
            .unwrap();
        let files = files_with(&root, "jsonl").len();
        assert!(files > 1, "it went on in the same file");
        let Run {
            client,
            accepted,
            refused,
            ..
        } = run;
        drop(client);
        disk.mount_again();
        assert_ne!(fs::read(&probe).unwrap_or_default(), lost);

        let collector = Collector::start().unwrap();
        let summary = support::send(&root, &collector);
        // What the failed sync has left of a line is no record.
        assert_eq!((summary.pending, summary.rejected), (0, 0), "{summary:?}");
        let arrived = arrived(&collector);
        for n in &refused {
            // Where it is the sync that failed, the record may have been written.
            let may_arrive = durability == Durability::Synced;
            assert!(may_arrive || !arrived.contains_key(n), "{n} was refused");
        }
        assert!(arrived.values().all(|count| *count == 1));
        tally.count(&accepted, &arrived);
    }
    tally.tell("a failed fsync on a device that has promised more room than there is");
}
