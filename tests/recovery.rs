//! What is found again after a crash: torn, damaged, foreign and half-delivered files.
#![allow(missing_docs, unsafe_code, clippy::unwrap_used)]

mod support;

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use support::*;
use weave_wal::{Client, Kind};

/// A log that a writer has left behind, as one file's content.
fn left_behind(dir: &Path, records: usize) -> PathBuf {
    let client = writer(dir);
    append_starts(&client, 0..records);
    drop(client);
    files_with(dir, "jsonl").remove(0)
}

/// A file in a project directory as some other program might have left it.
fn plant(root: &Path, name: &str, content: &[u8]) -> PathBuf {
    let dir = root.join("team/app");
    fs::create_dir_all(&dir).unwrap();
    let path = dir.join(name);
    fs::write(&path, content).unwrap();
    path
}

#[test]
fn every_whole_record_before_a_cut_arrives_and_none_is_invented() {
    let source = tempfile::tempdir().unwrap();
    let whole = fs::read(left_behind(source.path(), 3)).unwrap();
    let collector = Collector::start().unwrap();
    let mut expected = 0;
    for cut in 0..=whole.len() {
        let dir = quick_dir();
        plant(dir.path(), "1_a.jsonl", &whole[..cut]);
        let summary = send(dir.path(), &collector);
        // A last line that lacks nothing but its newline is whole.
        let lines = whole[..cut].iter().filter(|&&byte| byte == b'\n').count();
        let records = lines + usize::from(whole.get(cut) == Some(&b'\n'));
        let at_line_start = cut == 0 || whole[cut - 1] == b'\n';
        let torn = !at_line_start && whole.get(cut) != Some(&b'\n');
        assert_eq!(summary.delivered as usize, records, "cut at {cut}");
        assert_eq!(summary.corrupt, u64::from(torn), "cut at {cut}");
        assert_eq!(files_with(dir.path(), "jsonl").len(), 0);
        assert_eq!(
            files_with(dir.path(), "deadletter").len(),
            usize::from(torn)
        );
        expected += records;
    }
    assert_eq!(collector.received().len(), expected);
}

#[test]
fn damage_is_quarantined_and_its_neighbours_arrive() {
    let (dir, collector) = (tempfile::tempdir().unwrap(), Collector::start().unwrap());
    let path = left_behind(dir.path(), 5);
    let mut lines: Vec<Vec<u8>> = fs::read(&path)
        .unwrap()
        .split_inclusive(|&byte| byte == b'\n')
        .map(<[u8]>::to_vec)
        .collect();
    lines[1][40] ^= 1;
    lines.insert(3, b"\xff not json\n".to_vec());
    lines.insert(4, vec![0; 5_000]);
    lines.insert(5, b"{\"type\":\"call_update\",\"req\":{}}\n".to_vec());
    fs::write(&path, lines.concat()).unwrap();
    let summary = send(dir.path(), &collector);
    assert_eq!(
        (summary.delivered, summary.corrupt, summary.pending),
        (4, 3, 0)
    );
    let letters = fs::read_to_string(&files_with(dir.path(), "deadletter")[0]).unwrap();
    let letters: Vec<serde_json::Value> = letters
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let offsets: Vec<_> = letters.iter().map(|letter| &letter["offset"]).collect();
    assert_eq!(offsets[0], lines[0].len());
    assert!(
        letters[2]["reason"]
            .as_str()
            .unwrap()
            .contains("call_update")
    );
    assert!(letters.iter().all(|letter| letter["record"].is_null()));
}

#[test]
fn a_torn_tail_of_a_live_file_is_left_alone_until_it_is_whole() {
    let (dir, collector) = (tempfile::tempdir().unwrap(), Collector::start().unwrap());
    let mut log = String::new();
    for n in 0..3 {
        log += &format!(
            "{}\n",
            serde_json::json!({"type": "call_start", "req": start(n)})
        );
    }
    let (first, rest) = log.split_at(log.len() - 20);
    let path = plant(dir.path(), "1_python.jsonl", first.as_bytes());
    // Python's lock: a PID, no flock. Ours lives.
    plant(
        dir.path(),
        "1_python.lock",
        std::process::id().to_string().as_bytes(),
    );
    let summary = send(dir.path(), &collector);
    assert_eq!(
        (summary.delivered, summary.corrupt, summary.pending),
        (2, 0, 0)
    );
    assert!(path.exists());
    let mut file = fs::OpenOptions::new().append(true).open(&path).unwrap();
    file.write_all(rest.as_bytes()).unwrap();
    drop(file);
    assert_eq!(send(dir.path(), &collector).delivered, 1);
    assert!(path.exists());
    fs::remove_file(path.with_extension("lock")).unwrap();
    assert_eq!(send(dir.path(), &collector).delivered, 0);
    assert!(files(dir.path()).is_empty());
    assert_each_start_once(&collector, 0..3);
}

#[test]
fn a_checkpoint_inside_a_line_goes_back_to_the_lines_start() {
    let (dir, collector) = (tempfile::tempdir().unwrap(), Collector::start().unwrap());
    let path = left_behind(dir.path(), 3);
    let line = fs::read(&path).unwrap().len() / 3;
    fs::write(path.with_extension("checkpoint"), (line + 5).to_string()).unwrap();
    assert_eq!(send(dir.path(), &collector).delivered, 2);
    assert_each_start_once(&collector, 1..3);
}

#[test]
fn a_checkpoint_that_is_nonsense_sends_everything_again() {
    for nonsense in ["", "-1", "abc", "1e3", "\0\0\0\0"] {
        let (dir, collector) = (tempfile::tempdir().unwrap(), Collector::start().unwrap());
        let path = left_behind(dir.path(), 3);
        fs::write(path.with_extension("checkpoint"), nonsense).unwrap();
        assert_eq!(send(dir.path(), &collector).delivered, 3);
    }
}

#[test]
fn both_layouts_are_found_and_pythons_records_arrive_unchanged() {
    let (dir, collector) = (tempfile::tempdir().unwrap(), Collector::start().unwrap());
    let line = format!(
        r#"{{"type":"call_end","req":{{"end":{{"project_id":"{PROJECT}","id":"{}","n":18446744073709551616,"s":"\ud83d"}}}}}}"#,
        id(1)
    );
    let client = dir.path().join("team/app").join("ab".repeat(32));
    fs::create_dir_all(&client).unwrap();
    fs::write(
        client.join("00000000000000000001_x.jsonl"),
        format!("{line}\n"),
    )
    .unwrap();
    let summary = send(dir.path(), &collector);
    assert!(summary.is_complete(), "{summary:?}");
    assert!(line.contains(&collector.received()[0].req));
    assert!(files(dir.path()).is_empty());
}

#[test]
fn what_is_no_plain_file_is_never_touched() {
    let (dir, collector) = (tempfile::tempdir().unwrap(), Collector::start().unwrap());
    let outside = tempfile::tempdir().unwrap();
    let target = outside.path().join("target.jsonl");
    fs::write(&target, "not a log\n").unwrap();
    let path = left_behind(dir.path(), 1);
    let project = path.parent().unwrap();
    std::os::unix::fs::symlink(&target, project.join("0_link.jsonl")).unwrap();
    fs::create_dir(project.join("0_dir.jsonl")).unwrap();
    let fifo = project.join("0_fifo.jsonl");
    let name = std::ffi::CString::new(fifo.to_str().unwrap()).unwrap();
    // Not by a process: between its fork and its exec it would hold other tests' locks.
    // SAFETY: the name is a C string that lives until the call returns.
    assert_eq!(unsafe { libc::mkfifo(name.as_ptr(), 0o600) }, 0);
    let summary = send(dir.path(), &collector);
    assert_eq!((summary.delivered, summary.pending), (1, 0), "{summary:?}");
    assert!(summary.unread.unwrap().contains("0_link"));
    assert_eq!(fs::read_to_string(&target).unwrap(), "not a log\n");
    assert!(fifo.exists());
}

#[test]
fn a_log_behind_a_link_is_left_alone_and_told() {
    for extension in ["jsonl", "deadletter"] {
        for client in ["", "client"] {
            let (dir, collector) = (tempfile::tempdir().unwrap(), Collector::start().unwrap());
            let outside = tempfile::tempdir().unwrap();
            let path = left_behind(outside.path(), 1);
            let place = dir.path().join("team/app").join(client);
            fs::create_dir_all(&place).unwrap();
            let link = place.join(format!("a.{extension}"));
            std::os::unix::fs::symlink(&path, &link).unwrap();
            let nothing = place.join(format!("b.{extension}"));
            std::os::unix::fs::symlink("nowhere", nothing).unwrap();
            let summary = send(dir.path(), &collector);
            assert!(!summary.is_complete(), "{summary:?}");
            assert_eq!(summary.delivered, 0);
            let mut told = Vec::new();
            let mut unread = |error: weave_wal::Error| told.push(error.to_string());
            weave_wal::inspect::status(dir.path(), &mut unread);
            assert_eq!(told, summary.unread.into_iter().collect::<Vec<_>>());
            assert!(told[0].contains(link.to_str().unwrap()), "{told:?}");
            assert!(path.exists());
        }
    }
}

#[test]
fn a_directory_behind_a_link_is_left_alone_and_told() {
    let (dir, collector) = (tempfile::tempdir().unwrap(), Collector::start().unwrap());
    let outside = tempfile::tempdir().unwrap();
    let path = left_behind(outside.path(), 1);
    let link = dir.path().join("team");
    std::os::unix::fs::symlink(path.parent().unwrap().parent().unwrap(), &link).unwrap();
    let summary = send(dir.path(), &collector);
    assert!(!summary.is_complete(), "{summary:?}");
    let why = summary.unread.unwrap();
    assert!(why.contains(link.to_str().unwrap()), "{why}");
    assert!(path.exists());
    // Whoever asks for another project has nothing to do with it.
    left_behind(&dir.path().join("other"), 1);
    let mut unread = |error| panic!("{error}");
    weave_wal::inspect::logs(dir.path(), Some("other/team"), &mut unread).unwrap();
}

#[test]
fn a_directory_whose_name_is_no_text_is_delivered() {
    use std::os::unix::ffi::OsStrExt;
    let (dir, collector) = (tempfile::tempdir().unwrap(), Collector::start().unwrap());
    let path = left_behind(dir.path(), 1);
    let project = path.parent().unwrap();
    let odd = project.with_file_name(std::ffi::OsStr::from_bytes(b"app\xff"));
    fs::rename(project, odd).unwrap();
    assert_eq!(send(dir.path(), &collector).delivered, 1);
}

#[test]
fn a_file_that_is_being_written_by_our_client_is_delivered_and_not_removed() {
    let (dir, collector) = (tempfile::tempdir().unwrap(), Collector::start().unwrap());
    let client = writer(dir.path());
    append_starts(&client, 0..10);
    assert_eq!(send(dir.path(), &collector).delivered, 10);
    assert_eq!(files_with(dir.path(), "jsonl").len(), 1);
    append_starts(&client, 10..20);
    drop(client);
    assert_eq!(send(dir.path(), &collector).delivered, 10);
    assert!(files(dir.path()).is_empty(), "{:?}", files(dir.path()));
    assert_each_start_once(&collector, 0..20);
}

#[test]
fn senders_and_a_client_on_one_directory_send_nothing_twice() {
    let (dir, collector) = (tempfile::tempdir().unwrap(), Collector::start().unwrap());
    for round in 0..10 {
        let client = writer(dir.path());
        append_starts(&client, round * 20..round * 20 + 20);
    }
    let client = Client::open(config(dir.path(), &collector)).unwrap();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| send(dir.path(), &collector));
        }
        append_starts(&client, 200..400);
    });
    assert!(client.finish(LONG).is_complete());
    send(dir.path(), &collector);
    assert_each_start_once(&collector, 0..400);
    assert!(files(dir.path()).is_empty(), "{:?}", files(dir.path()));
}

#[test]
fn a_paused_client_leaves_its_files_to_whoever_can_deliver_them() {
    let (dir, collector) = (tempfile::tempdir().unwrap(), Collector::start().unwrap());
    collector.set_key("secret-key");
    let blind = config(dir.path(), &collector).api_key("wrong-key");
    let client = Client::open(blind).unwrap();
    append_starts(&client, 0..10);
    let paused = client.flush(Duration::from_secs(1)).unwrap();
    assert_eq!(paused.pending, 10);
    assert_eq!(send(dir.path(), &collector).pending, 0);
    client.append(Kind::CallStart, &start(10)).unwrap();
    drop(client);
    assert_eq!(send(dir.path(), &collector).pending, 0);
    assert_each_start_once(&collector, 0..11);
    assert!(files(dir.path()).is_empty());
}

#[test]
fn a_line_far_above_the_limit_is_one_damage_and_kept_in_pieces() {
    let (dir, collector) = (quick_dir(), Collector::start().unwrap());
    let path = left_behind(dir.path(), 2);
    let lines = fs::read(&path).unwrap();
    let (first, second) = lines.split_at(lines.len() / 2);
    let long = [b"{\"a\":\"", vec![b'x'; 65 << 20].as_slice(), b"\"}\n"].concat();
    fs::write(&path, [first, &long, second].concat()).unwrap();
    let summary = send(dir.path(), &collector);
    assert_eq!((summary.delivered, summary.corrupt), (2, 1));
    let letters = fs::read_to_string(&files_with(dir.path(), "deadletter")[0]).unwrap();
    let mut next = first.len();
    for line in letters.lines() {
        let letter: serde_json::Value = serde_json::from_str(line).unwrap();
        assert_eq!(letter["offset"], next);
        let encoded = letter["raw_base64"].as_str().unwrap();
        let padding = encoded.bytes().filter(|&byte| byte == b'=').count();
        next += encoded.len() / 4 * 3 - padding;
    }
    // All of it but its newline.
    assert_eq!(next, first.len() + long.len() - 1);
}

#[test]
fn a_checkpoint_before_nul_bytes_is_behind_its_record() {
    let (dir, collector) = (tempfile::tempdir().unwrap(), Collector::start().unwrap());
    let path = left_behind(dir.path(), 2);
    let mut log = fs::read(&path).unwrap();
    let line = log.len() / 2;
    log[line - 1] = 0;
    log[2 * line - 1] = 0;
    log.extend([0; 4096]);
    fs::write(&path, &log).unwrap();
    fs::write(path.with_extension("checkpoint"), (line - 1).to_string()).unwrap();
    let summary = send(dir.path(), &collector);
    assert_eq!((summary.delivered, summary.corrupt), (1, 0));
    assert_each_start_once(&collector, 1..2);
    assert!(files(dir.path()).is_empty());
}

#[test]
fn a_checkpoint_beyond_the_end_of_a_live_file_hides_nothing_that_comes() {
    let (dir, collector) = (tempfile::tempdir().unwrap(), Collector::start().unwrap());
    let client = writer(dir.path());
    append_starts(&client, 0..2);
    let path = files_with(dir.path(), "jsonl").remove(0);
    fs::write(path.with_extension("checkpoint"), "500").unwrap();
    send(dir.path(), &collector);
    append_starts(&client, 2..10);
    drop(client);
    send(dir.path(), &collector);
    assert_each_start_once(&collector, 0..10);
}

#[test]
fn a_checkpoint_beyond_the_end_of_a_dead_file_leaves_nothing_pending() {
    let (dir, collector) = (tempfile::tempdir().unwrap(), Collector::start().unwrap());
    // A copy: the client's own thread, which may outlive the client by a moment, knows the original
    // and would remove it as well.
    let source = tempfile::tempdir().unwrap();
    let original = left_behind(source.path(), 2);
    let name = original.file_name().unwrap().to_str().unwrap();
    let path = plant(dir.path(), name, &fs::read(&original).unwrap());
    fs::write(path.with_extension("checkpoint"), "99999").unwrap();
    let summary = send(dir.path(), &collector);
    assert_eq!((summary.delivered, summary.pending), (0, 0));
    assert!(files(dir.path()).is_empty());
}

#[test]
fn what_comes_after_somebody_has_changed_the_file_of_a_client_arrives() {
    let changes: [fn(&Path); 2] = [
        |log| fs::write(log, "").unwrap(),
        |log| {
            let mut file = fs::OpenOptions::new().append(true).open(log).unwrap();
            file.write_all(b"no record\n").unwrap();
        },
    ];
    for change in changes {
        let (dir, collector) = (tempfile::tempdir().unwrap(), Collector::start().unwrap());
        let client = Client::open(config(dir.path(), &collector)).unwrap();
        append_starts(&client, 0..10);
        assert_eq!(client.flush(LONG).unwrap().pending, 0);
        change(&files_with(dir.path(), "jsonl")[0]);
        append_starts(&client, 10..20);
        let receipt = client.finish(LONG);
        assert!(receipt.is_complete(), "{receipt:?}");
        assert_each_start_once(&collector, 0..20);
        assert!(files(dir.path()).is_empty(), "{:?}", files(dir.path()));
    }
}

#[test]
fn what_others_have_delivered_for_a_client_that_only_writes_is_not_pending() {
    for are_some_removed in [false, true] {
        let (dir, collector) = (tempfile::tempdir().unwrap(), Collector::start().unwrap());
        let config = config(dir.path(), &collector).sender(false);
        let client = Client::open(config.segment_bytes(700)).unwrap();
        append_starts(&client, 0..10);
        client.sync().unwrap();
        if are_some_removed {
            // The file before is full, and this is the next one.
            append_starts(&client, 10..11);
            client.sync().unwrap();
            append_starts(&client, 11..20);
        }
        assert_eq!(send(dir.path(), &collector).pending, 0);
        let receipt = client.finish(LONG);
        assert_eq!(receipt.pending, 0, "{receipt:?}");
        assert!(files(dir.path()).is_empty(), "{:?}", files(dir.path()));
    }
}

#[test]
fn what_cannot_be_looked_at_at_the_end_is_not_taken_for_delivered() {
    let dir = tempfile::tempdir().unwrap();
    let client = writer(dir.path());
    append_starts(&client, 0..3);
    client.sync().unwrap();
    let project = dir.path().join("team/app");
    fs::rename(&project, dir.path().join("team/elsewhere")).unwrap();
    fs::write(&project, "no directory").unwrap();
    let receipt = client.finish(LONG);
    assert_eq!(receipt.pending, 3, "{receipt:?}");
}
