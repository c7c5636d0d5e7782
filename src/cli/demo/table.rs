//! Counts what became of the acknowledged records, and prints it.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};
use std::path::Path;

use weave_wal::dead;

use super::collector::Received;
use super::writer::{self, Sample};

/// What a scene has done, and what it must have led to.
pub struct Story {
    /// The records whose append had returned `Ok`.
    pub acknowledged: Vec<Sample>,
    /// How many may arrive a second time.
    pub may_repeat: usize,
    /// How many dead letters there must be.
    pub dead_letters: usize,
    /// What happened, in a sentence.
    pub told: String,
}

/// A scene's line in the table.
pub struct Row {
    title: &'static str,
    acknowledged: usize,
    /// Different records that arrived.
    delivered: usize,
    /// Acknowledged, but neither arrived as they were nor in a dead-letter file.
    lost: usize,
    /// Arrivals beyond the first.
    duplicated: usize,
    dead_letters: usize,
    told: String,
    /// A promise that was not kept.
    broken: Option<String>,
}

impl Row {
    /// Counts what the server has received and what lies in the dead-letter files.
    pub fn count(
        title: &'static str,
        story: Story,
        received: &[Received],
        root: &Path,
    ) -> weave_wal::Result<Row> {
        let mut arrived: BTreeMap<String, Vec<&Received>> = BTreeMap::new();
        for record in received {
            let key = writer::key(&record.kind, &record.req)
                .unwrap_or_else(|| format!("unknown {}", record.id));
            arrived.entry(key).or_default().push(record);
        }
        let (dead_letters, dead) = dead_letters(root)?;
        let is_safe = |sample: &&Sample| {
            let key = sample.key();
            let whole = |record: &&Received| {
                sample.expected() == (record.req.clone(), record.bytes.as_slice())
            };
            let copies = arrived.get(&key);
            copies.is_some_and(|copies| copies.iter().all(whole)) || dead.contains(&key)
        };
        let safe = story.acknowledged.iter().filter(is_safe).count();
        let mut row = Row {
            title,
            acknowledged: story.acknowledged.len(),
            delivered: arrived.len(),
            lost: story.acknowledged.len() - safe,
            duplicated: received.len() - arrived.len(),
            dead_letters,
            told: story.told,
            broken: None,
        };
        row.broken = row.judge(story.may_repeat, story.dead_letters);
        Ok(row)
    }

    /// A scene that could not be played to its end.
    pub fn failed(title: &'static str, why: String) -> Row {
        Row {
            title,
            acknowledged: 0,
            delivered: 0,
            lost: 0,
            duplicated: 0,
            dead_letters: 0,
            told: String::new(),
            broken: Some(why),
        }
    }

    fn judge(&self, may_repeat: usize, dead_letters: usize) -> Option<String> {
        if self.lost > 0 {
            return Some(format!("{} acknowledged records are lost", self.lost));
        }
        if self.duplicated > may_repeat {
            return Some(format!(
                "{} records arrived twice, where {may_repeat} may",
                self.duplicated
            ));
        }
        (self.dead_letters != dead_letters).then(|| {
            format!(
                "{} dead letters, where {dead_letters} belong",
                self.dead_letters
            )
        })
    }
}

/// How many dead letters there are below a root, and the keys of the records in them.
fn dead_letters(root: &Path) -> weave_wal::Result<(usize, BTreeSet<String>)> {
    let (mut letters, mut keys) = (0, BTreeSet::new());
    for path in dead::files(root, None, &mut |_| ())? {
        dead::read(&path, &mut |_, letter| {
            letters += 1;
            let record = letter.record.as_deref().unwrap_or_default();
            // Damaged bytes have none.
            let record = weave_wal::parse(record.as_bytes()).ok();
            keys.extend(record.and_then(|record| writer::key(record.kind.as_str(), record.req)));
            Ok(true)
        })?;
    }
    Ok((letters, keys))
}

/// Prints the table, what happened in each scene, and the verdict. `true`: all is well.
pub fn print(rows: &[Row], out: &mut impl Write) -> io::Result<bool> {
    const HEAD: [&str; 5] = [
        "acknowledged",
        "delivered",
        "lost",
        "duplicated",
        "dead letters",
    ];
    let width = rows.iter().map(|row| row.title.len()).max().unwrap_or(0);
    write!(out, "\n   {:width$}", "")?;
    for name in HEAD {
        write!(out, "  {name}")?;
    }
    writeln!(out)?;
    for (number, row) in (1..).zip(rows) {
        write!(out, "{number}  {:width$}", row.title)?;
        let counts = [
            row.acknowledged,
            row.delivered,
            row.lost,
            row.duplicated,
            row.dead_letters,
        ];
        for (name, count) in HEAD.iter().zip(counts) {
            write!(out, "  {count:>width$}", width = name.len())?;
        }
        writeln!(out)?;
    }
    writeln!(out)?;
    for (number, row) in (1..).zip(rows) {
        let broken = row.broken.as_ref();
        let failed = broken.map(|why| format!("FAILED: {why}. "));
        let told = failed.unwrap_or_default() + &row.told;
        for (index, line) in wrapped(&told).iter().enumerate() {
            match index {
                0 => writeln!(out, "{number}  {line}")?,
                _ => writeln!(out, "   {line}")?,
            }
        }
    }
    writeln!(out, "\n{}", wrapped(&verdict(rows)).join("\n"))?;
    Ok(rows.iter().all(|row| row.broken.is_none()))
}

fn verdict(rows: &[Row]) -> String {
    let sum = |count: fn(&Row) -> usize| rows.iter().map(count).sum::<usize>();
    let (acknowledged, lost) = (sum(|row| row.acknowledged), sum(|row| row.lost));
    let broken = rows.iter().filter(|row| row.broken.is_some()).count();
    match (lost, broken) {
        (0, 0) => format!(
            "Nothing was lost: each of the {acknowledged} acknowledged records has arrived byte \
             for byte or is kept in a dead-letter file."
        ),
        (0, _) => format!("{broken} of {} scenes failed.", rows.len()),
        _ => format!("{lost} of {acknowledged} acknowledged records were LOST."),
    }
}

/// Lines that fit a terminal.
fn wrapped(text: &str) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.is_empty() => line.push_str(word),
            Some(line) if line.len() + 1 + word.len() <= 76 => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}
