//! The body of an answer, which may come slowly and need not end.

use std::io::{ErrorKind, Read};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Instant;

use crate::threads;

/// No more than this of an answer is read.
pub(super) const MAX_ANSWER: usize = 64 * 1024;

/// As much of a body as has come.
#[derive(Default)]
struct Body {
    state: Mutex<State>,
    ended: Condvar,
}

#[derive(Default)]
struct State {
    bytes: Vec<u8>,
    /// Nothing more comes, or nobody waits for it.
    has_ended: bool,
}

/// As much of an answer's body as comes before the deadline, the limit or a fault.
pub(super) fn read_body(
    answer: impl Read + Send + 'static,
    https: bool,
    deadline: Instant,
) -> Vec<u8> {
    let body = Arc::new(Body::default());
    let place = Arc::clone(&body);
    let read = move || {
        // The status is known; a panic over the body must not lose it.
        let _ = catch_unwind(AssertUnwindSafe(|| place.fill(answer)));
        threads::lock(&place.state).has_ended = true;
        place.ended.notify_all();
    };
    // Below TLS the deadline holds for each read(2) anew: a server that trickles the bytes of one
    // TLS record could hold us for ever. So someone else waits for them.
    if !https {
        read();
    } else if threads::start("weave-wal-body", Box::new(read)).is_err() {
        return Vec::new();
    }
    let left = deadline.saturating_duration_since(Instant::now());
    let waited = body
        .ended
        .wait_timeout_while(threads::lock(&body.state), left, |state| !state.has_ended);
    let (mut state, _) = waited.unwrap_or_else(PoisonError::into_inner);
    state.has_ended = true;
    std::mem::take(&mut state.bytes)
}

impl Body {
    /// Takes in what `answer` yields, up to the limit.
    fn fill(&self, mut answer: impl Read) {
        let mut left = MAX_ANSWER;
        let mut buffer = [0; 8192];
        while left > 0 {
            let room = left.min(buffer.len());
            let length = match answer.read(&mut buffer[..room]) {
                Ok(0) => return,
                Ok(length) => length,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(_) => return,
            };
            left -= length;
            let mut state = threads::lock(&self.state);
            if state.has_ended {
                return;
            }
            state.bytes.extend_from_slice(&buffer[..length]);
        }
    }
}
