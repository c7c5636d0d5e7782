//! The most memory a client ever takes, measured in a process of its own.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use weave_wal::{Durability, Kind};

use crate::harness::{Bench, Bound};
use crate::server::{dead, Hanging, Sink};
use crate::workload;

const TEN_GIB: u64 = 10 << 30;

pub fn run(bench: &mut Bench) {
    let limit = Bound::Below(32.0);
    for (what, server) in [
        ("200 MB/s of appends, a dead server", dead()),
        ("the same, a server that hangs", Hanging::start().url),
    ] {
        let peak = measure(bench, "appends", &server);
        bench.figure(&format!("peak RSS: {what}"), peak, "MiB", limit);
    }
    for (what, server) in [
        ("a backlog of 10 GiB, a dead server", dead()),
        ("a backlog of 10 GiB, delivered", Sink::start().url),
    ] {
        let peak = measure(bench, "backlog", &server);
        bench.figure(&format!("peak RSS: {what}"), peak, "MiB", limit);
    }
}

fn measure(bench: &Bench, what: &str, server: &str) -> f64 {
    let dir = bench.scratch();
    let seconds = if bench.smoke { "1" } else { "10" };
    let bytes = if bench.smoke { TEN_GIB / 100 } else { TEN_GIB };
    if what == "backlog" {
        backlog(dir.path(), bytes);
    }
    let program = std::env::current_exe().expect("this program");
    let mut child = Command::new(program);
    child
        .arg("--child")
        .arg(what)
        .arg(dir.path())
        .arg(server)
        .arg(seconds);
    let output = child.output().expect("a child");
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}{errors}");
    print!("  {text}");
    let kib = text
        .rsplit(' ')
        .next()
        .and_then(|kib| kib.trim().parse::<f64>().ok());
    kib.expect("a figure") / 1024.0
}

/// 100,000 records, then a hole; readers skip its NUL bytes.
pub fn backlog(root: &Path, bytes: u64) {
    let dir = root.join("bench/log");
    std::fs::create_dir_all(&dir).expect("a directory");
    let name = format!("{:020}_{:032x}.jsonl", 1, 1);
    let mut file = File::create(dir.join(name)).expect("a file");
    let line = format!(
        "{{\"type\":\"call_start\",\"req\":{}}}\n",
        workload::request()
    );
    for _ in 0..10 {
        file.write_all(line.repeat(10_000).as_bytes())
            .expect("a write");
    }
    file.write_all_at(b"\n", bytes - 1).expect("a write");
}

pub fn child(args: &[String]) -> ExitCode {
    let [what, dir, server, seconds] = args else {
        return ExitCode::from(2);
    };
    let span = Duration::from_secs(seconds.parse().expect("seconds"));
    let config = workload::config(Path::new(dir), Durability::Written).server(server);
    let client = workload::open(config);
    if what == "appends" {
        let raw = workload::raw();
        let mut append = workload::appender(&client, &raw);
        let (begin, mut appended) = (Instant::now(), 0);
        let mut slowest = Duration::ZERO;
        while begin.elapsed() < span {
            // 200 MB/s, in steps of a millisecond.
            let due = (begin.elapsed().as_secs_f64() * 200e6) as usize / workload::LINE;
            while appended < due {
                let one = Instant::now();
                append();
                slowest = slowest.max(one.elapsed());
                appended += 1;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        let rate = (appended * workload::LINE) as f64 / begin.elapsed().as_secs_f64() / 1e6;
        print!("{rate:.0} MB/s appended, the slowest append {slowest:.1?}, ");
    } else {
        let ticket = client
            .append_raw(Kind::CallStart, &workload::raw())
            .expect("an append");
        ticket.wait().expect("a sync");
        // The backlog is delivered, or as much of it as comes within the time.
        let begin = Instant::now();
        while begin.elapsed() < span && client.stats().delivered < 100_001 {
            std::thread::sleep(Duration::from_millis(10));
        }
        let delivered = client.stats().delivered;
        std::thread::sleep(Duration::from_millis(500));
        print!("{delivered} records delivered, ");
    }
    client.finish(Duration::ZERO);
    let status = std::fs::read_to_string("/proc/self/status").expect("/proc");
    let peak = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .expect("VmHWM");
    println!("peak RSS in KiB {}", peak.trim().trim_end_matches(" kB"));
    ExitCode::SUCCESS
}
