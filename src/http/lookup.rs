//! Looking up the server's name, where that may hang.
//!
//! minreq looks the name up on the request's thread, which nothing can stop: when the request has
//! long timed out, the thread is still there, until the resolver has given up. With every attempt
//! there would be one more. So once a request has timed out, the name is looked up here first, by
//! one thread however many ask, and while that hangs no request goes out.

use std::net::{IpAddr, ToSocketAddrs};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Instant;

use crate::threads;

/// The name of one server.
pub(super) struct Lookup {
    host: String,
    port: u16,
    state: Mutex<State>,
    ended: Condvar,
}

#[derive(Default)]
struct State {
    /// The last request has timed out, and perhaps over the name.
    is_suspect: bool,
    is_running: bool,
}

impl Lookup {
    pub fn new(host: &str, port: u16) -> Arc<Lookup> {
        Arc::new(Lookup {
            host: host.to_owned(),
            port,
            state: Mutex::default(),
            ended: Condvar::new(),
        })
    }

    /// A request has timed out.
    pub fn suspect(&self) {
        let bare = self.host.trim_matches(['[', ']']);
        threads::lock(&self.state).is_suspect = bare.parse::<IpAddr>().is_err();
    }

    /// May a request go out? `false`: the name was still being looked up at the deadline.
    pub fn is_through(self: &Arc<Self>, deadline: Instant) -> bool {
        let mut state = threads::lock(&self.state);
        if !state.is_suspect {
            return true;
        }
        if !state.is_running {
            let lookup = Arc::clone(self);
            let run = move || {
                // What comes of it is for the request to find out, which asks again.
                let _ = (lookup.host.as_str(), lookup.port).to_socket_addrs();
                *threads::lock(&lookup.state) = State::default();
                lookup.ended.notify_all();
            };
            state.is_running = threads::start("weave-wal-name", Box::new(run)).is_ok();
        }
        let left = deadline.saturating_duration_since(Instant::now());
        let waited = self
            .ended
            .wait_timeout_while(state, left, |state| state.is_running);
        let (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        !state.is_running
    }
}
