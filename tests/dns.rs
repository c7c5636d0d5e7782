//! A name server that never answers: it delays nobody but the delivery, and costs no thread for
//! each attempt. In a network namespace of its own, with a resolver's configuration of its own.
//! Needs root.
#![allow(missing_docs, unsafe_code, clippy::unwrap_used)]
#![cfg(target_os = "linux")]

#[path = "support/faults.rs"]
mod faults;
mod support;

use std::net::UdpSocket;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use faults::*;
use support::{Collector, LONG, config, start};
use weave_wal::{Client, Kind};

/// As long as glibc can be made to wait for one name: 150 s.
const RESOLVER: &str = "nameserver 127.0.0.1\noptions timeout:30 attempts:5\n";

/// Not a test of its own: what the started process does.
#[test]
fn part() {
    if std::env::var(PART).as_deref() == Ok("send-by-name") {
        send_by_name(PathBuf::from(std::env::var_os("ROOT").unwrap()));
    }
}

fn threads() -> usize {
    std::fs::read_dir("/proc/self/task").unwrap().count()
}

fn send_by_name(root: PathBuf) {
    let name_server = UdpSocket::bind("127.0.0.1:53").unwrap();
    let collector = Collector::start().unwrap();
    let url = format!("http://weave.test:{}", collector.port());
    let config = || {
        config(&root, &collector)
            .server(url.as_str())
            .request_timeout(Duration::from_secs(1))
    };
    let client = Client::open(config()).unwrap();
    let mut acknowledged = Vec::new();
    for n in 0..100 {
        let ticket = client.append(Kind::CallStart, &start(n)).unwrap();
        ticket.wait().unwrap();
        acknowledged.push(n);
    }
    let attempt = |times: u64| {
        let before = client.stats().requests;
        while client.stats().requests < before + times {
            // Whoever waits makes the thread try at once.
            client.flush(Duration::from_millis(20)).unwrap();
        }
        threads()
    };
    let few = attempt(3);
    let many = attempt(if thorough() { 12 } else { 4 });
    println!("threads after few and after many attempts: {few}, {many}");
    assert!(many <= few, "{few} threads, and then {many}");
    let error = client.stats().last_error.unwrap();
    assert!(error.contains("weave.test"), "{error}");

    let asked = Instant::now();
    let receipt = client.finish(Duration::from_millis(100));
    assert!(asked.elapsed() < LONG, "{:?}", asked.elapsed());
    assert_eq!((receipt.delivered, receipt.pending), (0, 100));

    std::thread::spawn(move || answer(&name_server));
    let client = Client::open(config()).unwrap();
    let ticket = client.append(Kind::CallStart, &start(100)).unwrap();
    ticket.wait().unwrap();
    acknowledged.push(100);
    assert!(client.finish(LONG).is_complete());
    let summary = support::send_to(&url, &root, LONG);
    assert_eq!(summary.pending, 0, "{summary:?}");
    support::tell("a name server that never answers", acknowledged, &collector);
}

/// The name server has come to life: every name is here.
fn answer(server: &UdpSocket) {
    let mut query = [0; 512];
    loop {
        let (length, from) = server.recv_from(&mut query).unwrap();
        let mut reply = query[..length].to_vec();
        let wants_ipv4 = reply[length - 4..] == [0, 1, 0, 1];
        // An answer, without an error, to one question.
        reply[2..4].copy_from_slice(&[0x81, 0x80]);
        reply[7] = u8::from(wants_ipv4);
        if wants_ipv4 {
            // The name in the question, an address, not to be kept.
            reply.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4, 127, 0, 0, 1]);
        }
        server.send_to(&reply, from).unwrap();
    }
}

#[test]
fn a_name_server_that_never_answers_delays_nothing_but_the_delivery() {
    let apart = ["--net", "--mount", "sh", "-c"];
    let loopback = "ip link set lo up && mount --bind /dev/null /etc/resolv.conf";
    let can = Command::new("unshare").args(apart).arg(loopback).output();
    if !can.is_ok_and(|output| output.status.success()) {
        support::skip("a network namespace can be made by root only, with ip and unshare");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let resolver = dir.path().join("resolv.conf");
    std::fs::write(&resolver, RESOLVER).unwrap();
    let part = play("send-by-name", &dir.path().join("wal"), "");
    let script =
        r#"ip link set lo up && mount --bind "$RESOLVER" /etc/resolv.conf && exec "$0" "$@""#;
    let mut command = started_by("unshare", &[&apart[..], &[script]].concat(), &part);
    command.env("RESOLVER", &resolver);
    let played = run(command);
    print!("{}", played.text);
    assert!(played.status.success(), "{}", played.errors);
}
