//! What happens while records are delivered, as lines on standard error.

use std::path::Path;
use std::time::{Duration, Instant};

use weave_wal::Event;

use super::output::{age, count};

/// How long a message is not repeated.
const AGAIN: Duration = Duration::from_secs(60);

/// How many different messages are remembered.
const REMEMBERED: usize = 256;

/// Turns events into lines, but does not say the same thing again and again.
#[derive(Default)]
pub(super) struct Reporter {
    said: Vec<(String, Instant)>,
}

impl Reporter {
    /// The line for an event, if there is something new to say.
    pub(super) fn line(&mut self, event: &Event) -> Option<String> {
        let (line, what) = describe(event)?;
        let now = Instant::now();
        self.said.retain(|(_, at)| now - *at < AGAIN);
        if self.said.iter().any(|(said, _)| *said == what) {
            return None;
        }
        if self.said.len() >= REMEMBERED {
            self.said.clear();
        }
        self.said.push((what, now));
        Some(line)
    }
}

/// A line, and what in it makes it different from others of its sort: not the number of seconds,
/// not the place in a file.
fn describe(event: &Event) -> Option<(String, String)> {
    let place = |path: &Option<std::path::PathBuf>| {
        path.as_deref()
            .unwrap_or(Path::new("memory"))
            .display()
            .to_string()
    };
    Some(match event {
        Event::Retrying { why, after } => {
            let after = age(*after + Duration::from_millis(999));
            (
                format!("retrying in {after}: {why}"),
                format!("retrying {why}"),
            )
        }
        Event::Paused { why } => {
            let line = format!("paused: {why}");
            (line.clone(), line)
        }
        Event::Resumed => (
            "resumed: the server takes records again".to_owned(),
            String::new(),
        ),
        Event::DeadLettered { path, reason } => {
            let line = format!("rejected, kept in {}: {reason}", place(path));
            (line.clone(), line)
        }
        Event::Corrupt {
            path,
            offset,
            bytes,
            reason,
        } => {
            let (path, bytes) = (place(path), count(*bytes, "byte"));
            (
                format!(
                    "damaged, kept as a dead letter: {path}: offset {offset}: {reason} ({bytes})"
                ),
                format!("damaged {path} {reason}"),
            )
        }
        Event::Dropped {
            path,
            records,
            bytes,
        } => {
            let (records, bytes) = (count(*records, "record"), count(*bytes, "byte"));
            let line = format!(
                "dropped {records} to keep the disk budget: {} ({bytes})",
                path.display()
            );
            (line.clone(), line)
        }
        Event::Degraded { error } => (error.clone(), error.clone()),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_trouble_is_told_once() {
        let mut reporter = Reporter::default();
        let retrying = |why: &str, after| Event::Retrying {
            why: why.to_owned(),
            after: Duration::from_millis(after),
        };
        let line = reporter.line(&retrying("no connection", 1_500));
        assert_eq!(line.as_deref(), Some("retrying in 2 s: no connection"));
        assert_eq!(reporter.line(&retrying("no connection", 3_000)), None);
        assert!(reporter.line(&retrying("timeout", 1)).is_some());
        assert_eq!(reporter.line(&Event::Delivered { records: 1 }), None);
        assert!(reporter.line(&Event::Resumed).is_some());
    }

    #[test]
    fn different_troubles_without_end_are_not_all_remembered() {
        let mut reporter = Reporter::default();
        for n in 0..3 * REMEMBERED {
            let error = n.to_string();
            assert!(reporter.line(&Event::Degraded { error }).is_some());
        }
        assert!(reporter.said.len() <= REMEMBERED);
    }
}
