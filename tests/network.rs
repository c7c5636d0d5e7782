//! What the network does below HTTP: connections reset before and after a request was applied,
//! nobody at the other end, an answer that never ends. Then it is repaired, and all has arrived.
#![allow(missing_docs, unsafe_code, clippy::unwrap_used)]
#![cfg(target_os = "linux")]

mod support;

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use support::{Collector, LONG, append_starts, arrived, config, start};
use weave_wal::{Client, Kind};

const RECORDS: usize = 20;

/// Closes a connection so that the other side gets a reset.
fn reset(stream: TcpStream) {
    let at_once = libc::linger {
        l_onoff: 1,
        l_linger: 0,
    };
    // SAFETY: the descriptor is open, and the option has the size that is said.
    let set = unsafe {
        libc::setsockopt(
            stream.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_LINGER,
            (&raw const at_once).cast(),
            size_of::<libc::linger>() as libc::socklen_t,
        )
    };
    assert_eq!(set, 0);
}

/// One whole request; `None` if the other side has gone before.
fn request(stream: &mut TcpStream) -> Option<Vec<u8>> {
    let (mut request, mut piece) = (Vec::new(), [0; 4096]);
    loop {
        let length = stream.read(&mut piece).ok().filter(|length| *length > 0)?;
        request.extend_from_slice(&piece[..length]);
        let text = String::from_utf8_lossy(&request);
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let mut lines = head.lines();
            let length = lines.find_map(|line| line.strip_prefix("Content-Length: "));
            if body.len() >= length.unwrap().parse().unwrap() {
                return Some(request);
            }
        }
    }
}

/// Has the collector apply a request, and returns its answer.
fn apply(collector: &Collector, request: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(("127.0.0.1", collector.port())).unwrap();
    stream.write_all(request).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    answer
}

/// A client writes while a fault is on that lets nothing through, and goes on when it is off.
/// `front` is where its requests go, `repair` ends the fault.
fn through(fault: &str, front: SocketAddr, collector: &Collector, repair: impl FnOnce()) -> usize {
    let dir = tempfile::tempdir().unwrap();
    let config = config(dir.path(), collector)
        .server(format!("http://{front}"))
        .request_timeout(Duration::from_secs(1));
    let client = Client::open(config).unwrap();
    append_starts(&client, 0..RECORDS / 2);
    while client.stats().requests == 0 {
        client.flush(Duration::from_millis(20)).unwrap();
    }
    for n in RECORDS / 2..RECORDS {
        let ticket = client.append(Kind::CallStart, &start(n)).unwrap();
        ticket.wait().unwrap();
    }
    assert_eq!(client.stats().delivered, 0, "{fault}");
    assert!(client.stats().last_error.is_some(), "{fault}");
    repair();
    let receipt = client.finish(LONG);
    assert!(receipt.is_complete(), "{fault}: {receipt:?}");
    support::tell(fault, 0..RECORDS, collector);
    arrived(collector).values().map(|count| count - 1).sum()
}

/// Ends a server's loop, also when the test fails.
struct End<'a>(&'a AtomicBool, SocketAddr);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
        // It sits in accept(2).
        let _ = TcpStream::connect_timeout(&self.1, LONG);
    }
}

/// A server before the collector that spoils connections until it is repaired.
fn spoiled(fault: &str, spoil: impl Fn(TcpStream, &Collector) + Sync) -> usize {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let collector = Collector::start().unwrap();
    let (repaired, ended) = (AtomicBool::new(false), AtomicBool::new(false));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for stream in listener.incoming().map(Result::unwrap) {
                if ended.load(Ordering::Relaxed) {
                    return;
                }
                match repaired.load(Ordering::Relaxed) {
                    true => serve(stream, &collector),
                    false => spoil(stream, &collector),
                }
            }
        });
        let repair = || repaired.store(true, Ordering::Relaxed);
        let _end = End(&ended, address);
        through(fault, address, &collector, repair)
    })
}

fn serve(mut stream: TcpStream, collector: &Collector) {
    if let Some(request) = request(&mut stream) {
        let _ = stream.write_all(&apply(collector, &request));
    }
}

#[test]
fn a_reset_before_the_request_was_applied_costs_nothing() {
    let at_once = |stream: TcpStream, _: &Collector| reset(stream);
    assert_eq!(spoiled("a reset at once", at_once), 0);
    let read = |mut stream: TcpStream, _: &Collector| {
        request(&mut stream);
        reset(stream);
    };
    assert_eq!(spoiled("a reset before it is applied", read), 0);
}

#[test]
fn a_reset_after_the_request_was_applied_repeats_that_batch() {
    let applied = AtomicBool::new(false);
    let once = |mut stream: TcpStream, collector: &Collector| {
        let request = request(&mut stream);
        if !applied.swap(true, Ordering::Relaxed) {
            apply(collector, &request.unwrap());
        }
        reset(stream);
    };
    let twice = spoiled("a reset after it is applied", once);
    assert!((1..=RECORDS / 2).contains(&twice), "{twice}");
}

#[test]
fn an_answer_that_trickles_in_repeats_that_batch() {
    let applied = AtomicBool::new(false);
    let slowly = |mut stream: TcpStream, collector: &Collector| {
        let request = request(&mut stream);
        if !applied.swap(true, Ordering::Relaxed) {
            apply(collector, &request.unwrap());
        }
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nX: ");
        // Until the client hangs up.
        while stream.write_all(b"x").is_ok() {
            std::thread::sleep(Duration::from_millis(20));
        }
    };
    let twice = spoiled("an answer that trickles in", slowly);
    assert!((1..=RECORDS / 2).contains(&twice), "{twice}");
}

/// From here on somebody takes the connections, but none that had come before.
fn take_over<'scope>(
    scope: &'scope std::thread::Scope<'scope, '_>,
    listener: &'scope TcpListener,
    collector: &'scope Collector,
    ended: &'scope AtomicBool,
) {
    listener.set_nonblocking(true).unwrap();
    while let Ok((stream, _)) = listener.accept() {
        let _ = stream.shutdown(Shutdown::Both);
    }
    listener.set_nonblocking(false).unwrap();
    scope.spawn(move || {
        for stream in listener.incoming().map(Result::unwrap) {
            if ended.load(Ordering::Relaxed) {
                return;
            }
            serve(stream, collector);
        }
    });
}

/// Nobody takes a connection; with a full queue not even the kernel does.
fn nobody_there(fault: &str, queue_is_full: bool) -> usize {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let mut waiting = Vec::new();
    if queue_is_full {
        // SAFETY: the descriptor is open; listening anew only changes the length of the queue.
        assert_eq!(unsafe { libc::listen(listener.as_raw_fd(), 0) }, 0);
        let soon = Duration::from_millis(200);
        while let Ok(stream) = TcpStream::connect_timeout(&address, soon) {
            waiting.push(stream);
        }
    }
    let collector = Collector::start().unwrap();
    let ended = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let repair = || {
            // SAFETY: as above.
            assert_eq!(unsafe { libc::listen(listener.as_raw_fd(), 100) }, 0);
            waiting.clear();
            take_over(scope, &listener, &collector, &ended);
        };
        let _end = End(&ended, address);
        through(fault, address, &collector, repair)
    })
}

#[test]
fn a_black_hole_before_accept_costs_nothing() {
    assert_eq!(nobody_there("a black hole before accept", true), 0);
}

#[test]
fn a_black_hole_after_accept_costs_nothing() {
    assert_eq!(nobody_there("a black hole after accept", false), 0);
}
