//! Threads: how one is started, and what one that has panicked leaves behind.

use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;

/// Starts a thread that nobody joins. Boxed, what it runs is one type: what std wraps around each
/// is there once.
pub(crate) fn start(name: &str, run: Box<dyn FnOnce() + Send>) -> io::Result<()> {
    let builder = thread::Builder::new().name(name.to_owned());
    builder.spawn(run).map(drop)
}

/// Locks a mutex, also one whose holder has panicked: what these guard is whole at any time.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
