//! A stand-in for the Weave server on loopback. It answers as the real one does, remembers what
//! it applied, and misbehaves when told to. `weave-wal demo` and the tests deliver to it.

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

// By path, because this file itself is included by path from the tests.
#[path = "collector_wire.rs"]
mod wire;

pub use wire::Received;
use wire::{Request, Verdict};

/// What is done with a request.
#[derive(Debug, Clone)]
pub enum Mode {
    /// Applied and answered as the real server does.
    Accept,
    /// Not applied; this status, body and these headers are the answer.
    Status(u16, String, Vec<(String, String)>),
    /// Read, not applied, never answered.
    Hang,
    /// Applied, never answered.
    HangAfterApply,
    /// Read, not applied, the connection closed.
    DropBefore,
    /// Applied, the connection closed without an answer.
    DropAfter,
    /// Not applied; the answer is not HTTP.
    Garbage,
    /// Not applied; these bytes are the answer.
    Raw(Vec<u8>),
    /// `100 Continue` first, then as `Accept`.
    Continue100,
    /// As `Accept`, after this long.
    Slow(Duration),
    /// A request that contains the text is refused whole with the status; others as `Accept`.
    Poison(String, u16),
}

/// The server. Dropping it stops it.
pub struct Collector {
    shared: Arc<Shared>,
    port: u16,
    acceptor: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// Counts changes, so that a waiter misses none.
    version: u64,
    stopped: bool,
    mode: Option<Mode>,
    script: VecDeque<(Mode, usize)>,
    authorization: Option<String>,
    requests: BTreeMap<String, usize>,
    received: Vec<Received>,
    connections: BTreeMap<usize, TcpStream>,
}

impl Collector {
    /// Starts on a free port.
    pub fn start() -> io::Result<Self> {
        Self::start_on(0)
    }

    /// Starts on this port, remembering nothing.
    pub fn start_on(port: u16) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port))?;
        let port = listener.local_addr()?.port();
        let shared = Arc::<Shared>::default();
        let acceptor = Mutex::new(Some(listen(listener, &shared)?));
        Ok(Collector {
            shared,
            port,
            acceptor,
        })
    }

    /// Where it listens.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// The port it listens on, also while it is stopped.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// What to do with requests that no script covers.
    pub fn set_mode(&self, mode: Mode) {
        self.shared.change(|state| state.mode = Some(mode));
    }

    /// What to do with the next requests: each mode for so many of them.
    pub fn script(&self, script: Vec<(Mode, usize)>) {
        self.shared.change(|state| state.script.extend(script));
    }

    /// From now on a request without this API key is answered 401.
    pub fn set_key(&self, key: &str) {
        let expected = format!("Basic {}", wire::base64(format!("api:{key}").as_bytes()));
        self.shared
            .change(|state| state.authorization = Some(expected));
    }

    /// All that was applied, in that order.
    pub fn received(&self) -> Vec<Received> {
        self.shared.lock().received.clone()
    }

    /// How often each record, by kind and id, was applied.
    pub fn counts(&self) -> BTreeMap<(String, String), usize> {
        let mut counts = BTreeMap::new();
        for record in &self.shared.lock().received {
            let key = (record.kind.clone(), record.id.clone());
            *counts.entry(key).or_default() += 1;
        }
        counts
    }

    /// How many requests were read whole, whatever was done with them.
    pub fn requests(&self) -> usize {
        self.shared.lock().requests.values().sum()
    }

    /// The same for one path.
    pub fn requests_to(&self, path: &str) -> usize {
        let state = self.shared.lock();
        state.requests.get(path).copied().unwrap_or(0)
    }

    /// Waits until `condition` holds; false if it does not within `timeout`.
    pub fn wait_for(&self, condition: impl Fn(&Collector) -> bool, timeout: Duration) -> bool {
        let deadline = Instant::now() + timeout;
        loop {
            let version = self.shared.lock().version;
            if condition(self) {
                return true;
            }
            let unchanged = |state: &State| state.version == version;
            if !self.shared.wait_while(unchanged, Some(deadline)) {
                return condition(self);
            }
        }
    }

    /// Closes the listener and every connection, so that the port refuses. When this returns,
    /// nothing more is applied.
    pub fn stop(&self) {
        self.shared.change(|state| {
            state.stopped = true;
            for connection in state.connections.values() {
                let _ = connection.shutdown(Shutdown::Both);
            }
        });
        let acceptor = self.acceptor.lock().map(|mut acceptor| acceptor.take());
        if let Ok(Some(acceptor)) = acceptor {
            // It sits in accept(2); a last connection makes it look up.
            if TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).is_ok() {
                let _ = acceptor.join();
            }
        }
        let busy = |state: &State| !state.connections.is_empty();
        self.shared.wait_while(busy, None);
    }

    /// After `stop`: the same port again, and everything it remembers.
    pub fn restart(&self) -> io::Result<()> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, self.port))?;
        self.shared.change(|state| state.stopped = false);
        let thread = listen(listener, &self.shared)?;
        if let Ok(mut acceptor) = self.acceptor.lock() {
            *acceptor = Some(thread);
        }
        Ok(())
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.lock();
        state.version += 1;
        self.changed.notify_all();
        change(&mut state)
    }

    /// True once the condition holds no longer, false if the deadline comes first.
    fn wait_while(&self, holds: impl Fn(&State) -> bool, deadline: Option<Instant>) -> bool {
        let mut state = self.lock();
        while holds(&state) {
            let left = match deadline {
                Some(deadline) => deadline.saturating_duration_since(Instant::now()),
                None => Duration::from_secs(3600),
            };
            if left.is_zero() {
                return false;
            }
            let waited = self.changed.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }

    /// Sleeps, but not beyond `stop`.
    fn sleep(&self, duration: Option<Duration>) {
        let deadline = duration.map(|duration| Instant::now() + duration);
        self.wait_while(|state| !state.stopped, deadline);
    }

    fn next_mode(&self, path: &str) -> Mode {
        self.change(|state| {
            *state.requests.entry(path.to_owned()).or_default() += 1;
            while state.script.front().is_some_and(|(_, left)| *left == 0) {
                state.script.pop_front();
            }
            match state.script.front_mut() {
                Some((mode, left)) => {
                    *left -= 1;
                    mode.clone()
                }
                None => state.mode.clone().unwrap_or(Mode::Accept),
            }
        })
    }

    /// Applies what a healthy server would, and says what it would answer.
    fn apply(&self, verdict: Verdict) -> (u16, Value) {
        match verdict {
            Ok((records, answer)) => self.change(|state| {
                if state.stopped {
                    return (503, json!({"reason": "stopped"}));
                }
                state.received.extend(records);
                (200, answer)
            }),
            Err(refusal) => refusal,
        }
    }
}

fn listen(listener: TcpListener, shared: &Arc<Shared>) -> io::Result<JoinHandle<()>> {
    let shared = Arc::clone(shared);
    let accept = move || {
        for (id, stream) in listener.incoming().enumerate() {
            let Ok(stream) = stream else { continue };
            let Ok(handle) = stream.try_clone() else {
                continue;
            };
            let stopped = shared.change(|state| {
                state.connections.insert(id, handle);
                state.stopped
            });
            let on_thread = Arc::clone(&shared);
            let serve = move || {
                let _ = serve(&on_thread, &stream);
                on_thread.change(|state| state.connections.remove(&id));
            };
            if stopped || thread::Builder::new().spawn(serve).is_err() {
                shared.change(|state| state.connections.remove(&id));
            }
            if stopped {
                return;
            }
        }
    };
    thread::Builder::new()
        .name("collector".into())
        .spawn(accept)
}

/// One request, one answer, then the connection is closed.
fn serve(shared: &Shared, mut stream: &TcpStream) -> io::Result<()> {
    let Some(request) = Request::read(stream)? else {
        return Ok(());
    };
    let mode = shared.next_mode(&request.path);
    let verdict = request.judge(shared.lock().authorization.as_deref());
    match mode {
        Mode::Accept => {}
        Mode::Slow(duration) => shared.sleep(Some(duration)),
        Mode::Continue100 => stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?,
        Mode::Poison(text, status) => {
            if request.contains(&text) {
                let body = json!({"reason": "poisoned record"}).to_string();
                return wire::answer(stream, status, &[], body.as_bytes());
            }
        }
        Mode::Status(status, body, headers) => {
            return wire::answer(stream, status, &headers, body.as_bytes());
        }
        Mode::Garbage => return stream.write_all(b"\x16\x03\x01 this is not HTTP\r\n\r\n"),
        Mode::Raw(bytes) => return stream.write_all(&bytes),
        Mode::DropBefore => return Ok(()),
        Mode::Hang => {
            shared.sleep(None);
            return Ok(());
        }
        Mode::DropAfter => {
            shared.apply(verdict);
            return Ok(());
        }
        Mode::HangAfterApply => {
            shared.apply(verdict);
            shared.sleep(None);
            return Ok(());
        }
    }
    let (status, answer) = shared.apply(verdict);
    wire::answer(stream, status, &[], answer.to_string().as_bytes())
}
