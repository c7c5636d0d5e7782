//! Events on their way to the program's handler, which may be slow, hang or panic.
//!
//! The client's thread only puts an event into a bounded queue. A short-lived thread hands the
//! queue to the handler, one event after the other, and ends when the queue is empty. So a handler
//! that never returns costs its program the events behind it, and nothing else.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::{self, ThreadId};
use std::time::{Duration, Instant};

use crate::config::OnEvent;
use crate::report::Event;
use crate::threads;

/// How many events wait for the handler; those beyond are counted, not kept.
const WAITING: usize = 1_000;

/// How long `flush` and `finish` wait at most for a handler that is slow.
const COURTESY: Duration = Duration::from_secs(1);

/// The events of one client.
pub(crate) struct Events {
    handler: Option<OnEvent>,
    queue: Mutex<Queue>,
    told_all: Condvar,
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<Event>,
    /// A thread is at it, or has been started.
    running: bool,
    teller: Option<ThreadId>,
    counts: Counts,
}

/// What went wrong with the handler.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Counts {
    /// Events that found the queue full.
    pub missed: u64,
    /// Times that the handler has panicked.
    pub panics: u64,
}

impl Events {
    pub fn new(handler: Option<OnEvent>) -> Arc<Events> {
        Arc::new(Events {
            handler,
            queue: Mutex::default(),
            told_all: Condvar::new(),
        })
    }

    /// Passes an event on; never waits for the handler.
    pub fn tell(self: &Arc<Self>, event: Event) {
        if self.handler.is_none() {
            return;
        }
        let mut queue = threads::lock(&self.queue);
        if queue.waiting.len() >= WAITING {
            queue.counts.missed += 1;
            return;
        }
        queue.waiting.push_back(event);
        if std::mem::replace(&mut queue.running, true) {
            return;
        }
        drop(queue);
        let events = Arc::clone(self);
        if threads::start("weave-wal-event", Box::new(move || events.run())).is_err() {
            // The next event tries to start one again.
            threads::lock(&self.queue).running = false;
        }
    }

    /// Waits until the handler has seen what was told so far: within the deadline, and not for
    /// long. A handler that asks for this itself is not waited for.
    pub fn wait(&self, deadline: Duration) {
        let until = Instant::now() + deadline.min(COURTESY);
        let mut queue = threads::lock(&self.queue);
        while queue.running && queue.teller != Some(thread::current().id()) {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            let waited = self.told_all.wait_timeout(queue, left);
            queue = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    pub fn counts(&self) -> Counts {
        threads::lock(&self.queue).counts
    }

    fn run(&self) {
        threads::lock(&self.queue).teller = Some(thread::current().id());
        loop {
            let mut queue = threads::lock(&self.queue);
            let (Some(event), Some(handler)) = (queue.waiting.pop_front(), &self.handler) else {
                queue.running = false;
                queue.teller = None;
                drop(queue);
                self.told_all.notify_all();
                return;
            };
            drop(queue);
            if let Err(payload) = catch_unwind(AssertUnwindSafe(|| handler(&event))) {
                // Dropping it could panic as well.
                std::mem::forget(payload);
                threads::lock(&self.queue).counts.panics += 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    fn delivered(records: u64) -> Event {
        Event::Delivered { records }
    }

    #[test]
    fn events_come_one_by_one_in_order() {
        let (seen, told) = mpsc::channel();
        let events = Events::new(Some(Arc::new(move |event: &Event| {
            seen.send(event.clone()).unwrap();
        })));
        (0..100).for_each(|n| events.tell(delivered(n)));
        for n in 0..100 {
            assert_eq!(told.recv().unwrap(), delivered(n));
        }
        assert_eq!(events.counts(), Counts::default());
    }

    #[test]
    fn a_handler_that_panics_is_called_again_and_counted() {
        let events = Events::new(Some(Arc::new(|_: &Event| panic!("as the test asked"))));
        (0..3).for_each(|n| events.tell(delivered(n)));
        while events.counts().panics < 3 {
            thread::yield_now();
        }
    }

    #[test]
    fn behind_a_handler_that_hangs_events_are_bounded_and_the_rest_is_counted() {
        let (release, hanging) = mpsc::channel::<()>();
        let hanging = Mutex::new(hanging);
        let (entered, begun) = mpsc::channel();
        let events = Events::new(Some(Arc::new(move |_: &Event| {
            entered.send(()).unwrap();
            let _ = hanging.lock().unwrap().recv();
        })));
        events.tell(delivered(0));
        begun.recv().unwrap();
        (0..WAITING as u64 + 7).for_each(|n| events.tell(delivered(n)));
        assert_eq!(events.counts().missed, 7);
        drop(release);
    }

    #[test]
    fn a_handler_that_waits_for_itself_does_not_wait() {
        let place: Arc<Mutex<Option<Arc<Events>>>> = Arc::default();
        let (passed, done) = mpsc::channel();
        let inside = Arc::clone(&place);
        let events = Events::new(Some(Arc::new(move |_: &Event| {
            let events = inside.lock().unwrap().clone().unwrap();
            events.wait(Duration::MAX);
            passed.send(threads::lock(&events.queue).running).unwrap();
        })));
        *place.lock().unwrap() = Some(Arc::clone(&events));
        events.tell(delivered(1));
        assert!(done.recv().unwrap(), "it waited for its own end");
        place.lock().unwrap().take();
    }
}
