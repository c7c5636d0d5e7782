//! Many processes and one server: a thousand that come back after an outage, and what processes
//! below one root leave to each other.
#![allow(missing_docs, dead_code, clippy::unwrap_used)]

mod support;

/// The clients' own: it reads no clock and makes no random numbers.
#[path = "../src/replay/backoff.rs"]
mod backoff;

use std::collections::BinaryHeap;
use std::fmt::Write;
use std::fs;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use backoff::Backoff;
use support::*;
use weave_wal::Client;

const CLIENTS: usize = 1_000;
const MILLISECOND: Duration = Duration::from_millis(1);
/// The server is away for so long.
const OUTAGE: Duration = Duration::from_secs(300);
/// Back again, it answers so many requests a second, and the others with 503.
const CAPACITY: usize = 100;

/// How a client waits.
enum Manner {
    /// As this crate does.
    Ours(Backoff),
    /// As a loop with a sleep in it does.
    Every(Duration),
}

/// What a simulated fleet came to.
struct Recovery {
    /// Requests in each second since the outage began.
    requests: Vec<usize>,
    /// When each client had delivered.
    delivered: Vec<Duration>,
}

impl Recovery {
    /// Requests that found no server.
    fn in_vain(&self) -> usize {
        self.requests[..OUTAGE.as_secs() as usize].iter().sum()
    }

    /// The largest number of requests in one second, from some time on.
    fn peak(&self, from: Duration) -> usize {
        let from = from.as_secs() as usize;
        self.requests[from..].iter().copied().max().unwrap()
    }

    /// How long after the outage all had delivered.
    fn recovered(&self) -> Duration {
        *self.delivered.iter().max().unwrap() - OUTAGE
    }

    /// Requests after the outage, beside one for each client.
    fn refused(&self) -> usize {
        let after: usize = self.requests[OUTAGE.as_secs() as usize..].iter().sum();
        after - CLIENTS
    }
}

/// Numbers that look random and are the same in every run (SplitMix64).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

/// Every client loses the server within the first second, with a batch at hand, and tries until
/// that is delivered. `told`: what the server says to those that it does not serve.
fn simulate(manner: impl Fn() -> Manner, told: Option<Duration>) -> Recovery {
    let mut random = Random(7);
    let mut clients: Vec<Manner> = (0..CLIENTS).map(|_| manner()).collect();
    let mut attempts: BinaryHeap<_> = (0..CLIENTS)
        .map(|client| {
            let at = MILLISECOND * (random.next() % 1_000) as u32;
            std::cmp::Reverse((at, client))
        })
        .collect();
    let mut recovery = Recovery {
        requests: vec![0; OUTAGE.as_secs() as usize],
        delivered: vec![Duration::MAX; CLIENTS],
    };
    let mut served = (0, 0);
    while let Some(std::cmp::Reverse((at, client))) = attempts.pop() {
        let second = at.as_secs() as usize;
        if recovery.requests.len() <= second {
            recovery.requests.resize(second + 1, 0);
        }
        recovery.requests[second] += 1;
        if served.0 != second {
            served = (second, 0);
        }
        let is_up = at >= OUTAGE;
        if is_up && served.1 < CAPACITY {
            served.1 += 1;
            recovery.delivered[client] = at;
            continue;
        }
        let wait = match (&mut clients[client], told) {
            (Manner::Ours(backoff), Some(asked)) => backoff.asked(asked, random.next()),
            (Manner::Ours(backoff), None) => backoff.next(random.next()),
            (Manner::Every(_), Some(asked)) => asked,
            (Manner::Every(interval), None) => *interval,
        };
        attempts.push(std::cmp::Reverse((at + wait, client)));
    }
    recovery
}

fn ours() -> Manner {
    Manner::Ours(Backoff::transient())
}

fn naive() -> Manner {
    Manner::Every(Duration::from_secs(5))
}

fn row(name: &str, recovery: &Recovery) -> String {
    format!(
        "{name:<34}{:>10}{:>14}{:>18}{:>14}{:>14}",
        recovery.peak(Duration::ZERO),
        recovery.in_vain(),
        recovery.peak(OUTAGE),
        recovery.refused(),
        format!("{} s", recovery.recovered().as_secs_f64().ceil()),
    )
}

#[test]
fn a_thousand_clients_come_back_without_a_stampede() {
    let (ours_back, naive_back) = (simulate(ours, None), simulate(naive, None));
    let told = Some(Duration::from_secs(30));
    let (ours_told, naive_told) = (simulate(ours, told), simulate(naive, told));
    println!(
        "\n{CLIENTS} clients, a server that is away for {} s and then answers {CAPACITY} requests a second\n",
        OUTAGE.as_secs()
    );
    println!(
        "{:<34}{:>10}{:>14}{:>18}{:>14}{:>14}",
        "", "peak/s", "in vain", "peak/s after it", "refused", "all back in"
    );
    for (name, recovery) in [
        ("every 5 s", &naive_back),
        ("full jitter", &ours_back),
        ("every 5 s, told Retry-After: 30", &naive_told),
        ("full jitter, told Retry-After: 30", &ours_told),
    ] {
        println!("{}", row(name, recovery));
        assert!(recovery.delivered.iter().all(|at| *at >= OUTAGE));
    }
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("fleet.svg");
    fs::write(&path, plot(&naive_back, &ours_back)).unwrap();
    println!("\nthe request rate over time: {}", path.display());

    // All at once, again and again, against a rate that the server can answer.
    assert_eq!(naive_back.peak(OUTAGE), CLIENTS);
    assert!(
        ours_back.peak(OUTAGE) <= CAPACITY,
        "{}",
        ours_back.peak(OUTAGE)
    );
    assert_eq!(ours_back.refused(), 0);
    assert!(naive_back.refused() > 4 * CLIENTS);
    assert!(ours_back.recovered() <= Duration::from_secs(30));
    assert!(ours_back.recovered() < naive_back.recovered());
    assert!(2 * ours_back.in_vain() < naive_back.in_vain());
    // Those who were told the same do not come back in the same second.
    assert!(ours_told.peak(OUTAGE) <= naive_told.peak(OUTAGE) / 5);
}

const WIDTH: f64 = 900.0;
const HEIGHT: f64 = 220.0;
const LEFT: f64 = 60.0;

/// Two panels, one above the other, with the same axes.
fn plot(naive: &Recovery, ours: &Recovery) -> String {
    let seconds = naive.requests.len().max(ours.requests.len());
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{}\" height=\"{}\" \
         font-family=\"sans-serif\" font-size=\"13\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n",
        WIDTH + LEFT + 30.0,
        2.0 * (HEIGHT + 70.0),
    );
    let panels = [
        (naive, "every 5 s", "#b03a2e"),
        (
            ours,
            "weave-wal: exponential backoff, full jitter",
            "#1f618d",
        ),
    ];
    for (index, (recovery, title, colour)) in panels.into_iter().enumerate() {
        let top = 40.0 + index as f64 * (HEIGHT + 70.0);
        panel(&mut svg, recovery, seconds, top, title, colour);
    }
    svg + "</svg>\n"
}

fn panel(
    svg: &mut String,
    recovery: &Recovery,
    seconds: usize,
    top: f64,
    title: &str,
    colour: &str,
) {
    let x = |second: f64| LEFT + second / seconds as f64 * WIDTH;
    let y = |requests: f64| top + HEIGHT - requests / CLIENTS as f64 * HEIGHT;
    let (back, bottom) = (x(OUTAGE.as_secs_f64()), y(0.0));
    writeln!(
        svg,
        "<rect x=\"{LEFT}\" y=\"{top}\" width=\"{}\" height=\"{HEIGHT}\" fill=\"#eeeeee\"/>\n\
         <text x=\"{LEFT}\" y=\"{}\">{title}: requests a second (grey: no server)</text>",
        back - LEFT,
        top - 10.0
    )
    .unwrap();
    for requests in [0, CAPACITY, CLIENTS / 2, CLIENTS] {
        let at = y(requests as f64);
        writeln!(
            svg,
            "<line x1=\"{LEFT}\" y1=\"{at}\" x2=\"{}\" y2=\"{at}\" stroke=\"#cccccc\"/>\
             <text x=\"{}\" y=\"{}\" text-anchor=\"end\">{requests}</text>",
            LEFT + WIDTH,
            LEFT - 6.0,
            at + 4.0
        )
        .unwrap();
    }
    for second in (0..=seconds).step_by(60) {
        writeln!(
            svg,
            "<text x=\"{}\" y=\"{}\" text-anchor=\"middle\">{second} s</text>",
            x(second as f64),
            bottom + 18.0
        )
        .unwrap();
    }
    let bars: String = recovery
        .requests
        .iter()
        .enumerate()
        .map(|(second, &requests)| {
            format!(
                "M{:.1} {bottom}V{:.1}",
                x(second as f64 + 0.5),
                y(requests as f64)
            )
        })
        .collect();
    writeln!(
        svg,
        "<path d=\"{bars}\" stroke=\"{colour}\" stroke-width=\"{:.2}\" fill=\"none\"/>",
        WIDTH / seconds as f64
    )
    .unwrap();
}

/// The file in which processes below one root tell each other what the server has asked for.
fn hold_off(root: &Path) -> std::path::PathBuf {
    root.join(".retry_after")
}

fn until(root: &Path) -> f64 {
    let content = fs::read_to_string(hold_off(root)).unwrap();
    content.split(' ').next().unwrap().parse().unwrap()
}

fn now() -> f64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_secs_f64()
}

#[test]
fn what_the_server_asks_of_one_all_below_the_root_do() {
    use std::os::unix::fs::PermissionsExt;
    let (dir, collector) = (tempfile::tempdir().unwrap(), Collector::start().unwrap());
    let busy = vec![("Retry-After".to_owned(), "3000".to_owned())];
    collector.script(vec![(Mode::Status(503, String::new(), busy), 1)]);
    let one = Client::open(config(dir.path(), &collector)).unwrap();
    append_starts(&one, 0..5);
    assert!(collector.wait_for(|collector| collector.requests() == 1, LONG));
    while !hold_off(dir.path()).exists() {
        std::thread::yield_now();
    }
    assert!((until(dir.path()) - now() - 3000.0).abs() < 60.0);
    let mode = fs::metadata(hold_off(dir.path())).unwrap().permissions();
    assert_eq!(mode.mode() & 0o777, 0o600);
    // Another client, another project and the tool's sender: none of them sends anything.
    let other = Client::open(config(dir.path(), &collector)).unwrap();
    append_starts(&other, 5..10);
    let project = weave_wal::Config::new("team", "other")
        .root(dir.path())
        .server(collector.url());
    let project = Client::open(project).unwrap();
    append_starts(&project, 10..15);
    for client in [&other, &project] {
        let receipt = client.flush(LONG).unwrap();
        assert_eq!(receipt.pending, 5);
        assert!(receipt.error.unwrap().contains("asked to wait"));
        assert!(client.stats().next_attempt.unwrap() > Duration::from_secs(2_900));
    }
    let summary = send_to(&collector.url(), dir.path(), Duration::from_secs(1));
    assert_eq!((summary.requests, summary.delivered), (0, 0));
    assert_eq!(collector.requests(), 1);
    // It is not for another server.
    let elsewhere = Collector::start().unwrap();
    let free = Client::open(config(dir.path(), &elsewhere).start_jitter(Duration::MAX / 4));
    assert!(free.is_err(), "a jitter without end is refused");
    let free = Client::open(config(dir.path(), &elsewhere)).unwrap();
    append_starts(&free, 15..20);
    assert_eq!(free.flush(LONG).unwrap().pending, 0);
    drop((one, other, project, free));
    // Past, or too far ahead to be true, it stops nobody.
    for line in ["1000.0", "99999999999.0"] {
        fs::write(
            hold_off(dir.path()),
            format!("{line} {}\n", collector.url()),
        )
        .unwrap();
        let client = Client::open(config(dir.path(), &collector)).unwrap();
        append_starts(&client, 20..21);
        assert_eq!(client.finish(LONG).pending, 0);
    }
}

/// Logs of earlier processes, one record each.
fn leave(root: &Path, numbers: std::ops::Range<usize>) {
    for n in numbers {
        append_starts(&writer(root), n..n + 1);
    }
}

#[test]
fn leftovers_are_adopted_by_one_client_and_by_another_when_that_is_gone() {
    let (dir, collector) = (quick_dir(), Collector::start().unwrap());
    leave(dir.path(), 0..20);
    collector.set_mode(Mode::Hang);
    let clients: Vec<_> = (0..8)
        .map(|_| {
            let config = config(dir.path(), &collector).request_timeout(LONG);
            Client::open(config.start_jitter(MILLISECOND)).unwrap()
        })
        .collect();
    let with_leftovers = || {
        let holds = |client: &&Client| client.stats().leftover_files > 0;
        clients.iter().filter(holds).count()
    };
    assert!(collector.wait_for(|collector| collector.requests() > 0, LONG));
    // Each has had its turn by the time that it has looked at its own records again.
    for (n, client) in clients.iter().enumerate() {
        append_starts(client, 100 + n..101 + n);
    }
    assert!(collector.wait_for(|collector| collector.requests() >= clients.len(), LONG));
    assert!(with_leftovers() <= 1, "{}", with_leftovers());
    let leftovers_at_once = collector.requests() - (clients.len() - 1);
    assert!(leftovers_at_once <= 2, "{leftovers_at_once}");
    collector.set_mode(Mode::Accept);
    drop(clients);
    collector.stop();
    collector.restart().unwrap();
    // The one who had adopted them is gone: the next client goes on.
    let heir = Client::open(config(dir.path(), &collector).start_jitter(MILLISECOND)).unwrap();
    let all = |collector: &Collector| collector.counts().len() == 28;
    assert!(collector.wait_for(all, LONG));
    assert_eq!(heir.finish(LONG).pending, 0);
    assert!(send(dir.path(), &collector).is_complete());
}

#[test]
fn own_records_do_not_wait_for_the_jitter_and_leftovers_do() {
    let (dir, collector) = (quick_dir(), Collector::start().unwrap());
    leave(dir.path(), 0..1);
    let day = Duration::from_secs(86_400);
    // One in a million times a random part of a day is less than a tenth of a second.
    let client = Client::open(config(dir.path(), &collector).start_jitter(day)).unwrap();
    append_starts(&client, 1..6);
    assert_eq!(client.flush(LONG).unwrap().pending, 0);
    assert_each_start_once(&collector, 1..6);
    assert!(client.finish(LONG).is_complete());
    assert_each_start_once(&collector, 1..6);
    assert!(send(dir.path(), &collector).is_complete());
    assert_each_start_once(&collector, 0..6);
}

#[test]
fn while_own_records_flow_leftovers_get_their_turn_but_not_more() {
    let (dir, collector) = (quick_dir(), Collector::start().unwrap());
    leave(dir.path(), 0..10);
    // Own records wait, enough for many batches, long before the first is through.
    collector.set_mode(Mode::Slow(20 * MILLISECOND));
    let config = config(dir.path(), &collector)
        .start_jitter(MILLISECOND)
        .batch_records(10);
    let client = Client::open(config).unwrap();
    append_starts(&client, 100..500);
    client.sync().unwrap();
    let all = |collector: &Collector| collector.counts().len() == 410;
    assert!(collector.wait_for(all, 2 * LONG));
    let is_leftover = |record: &collector::Received| record.id < id(100);
    let received = collector.received();
    let places: Vec<_> = (0..received.len())
        .filter(|&at| is_leftover(&received[at]))
        .collect();
    // Between two leftovers there are own batches for as long as there are own records.
    let own = |record: &collector::Received| !is_leftover(record);
    let (first, last) = (
        received.iter().position(own).unwrap(),
        received.iter().rposition(own).unwrap(),
    );
    let early: Vec<_> = places
        .into_iter()
        .filter(|&at| at > first && at < last)
        .collect();
    let gaps: Vec<_> = early.windows(2).map(|pair| pair[1] - pair[0] - 1).collect();
    assert!(gaps.iter().all(|&gap| gap >= 10), "{gaps:?}");
    assert!(early.len() >= 3, "leftovers starve: {early:?}");
    assert!(client.finish(LONG).is_complete());
}
