//! Starting a thread.

use std::io;
use std::thread;

/// Starts a thread that nobody joins. Boxed, what it runs is one type: what std wraps around each
/// is there once.
pub(crate) fn start(name: &str, run: Box<dyn FnOnce() + Send>) -> io::Result<()> {
    let builder = thread::Builder::new().name(name.to_owned());
    builder.spawn(run).map(drop)
}
