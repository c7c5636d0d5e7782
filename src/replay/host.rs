//! Where a replay runs: on a client's own thread, or on the one that runs a sender.

use std::time::Duration;

use crate::http::{Answer, Request};
use crate::report::Event;

/// What the replay needs of the thread that it runs on.
pub(crate) trait Host {
    /// Sends a request and returns its answer, however long that takes. `meanwhile` is done while
    /// the request is out.
    fn exchange(&mut self, request: Request, meanwhile: &mut dyn FnMut()) -> Answer;
    /// Passes something on that somebody may want to know.
    fn tell(&mut self, event: Event);
    /// The server has asked for a pause: everybody who sends to it should know.
    fn hold_off(&mut self, _wait: Duration) {}
    /// How long the server still wants nothing to be sent, as it may have told somebody else.
    fn held_off(&mut self) -> Option<Duration> {
        None
    }
}
