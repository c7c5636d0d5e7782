//! `weave-wal status`: what is in the logs.

use std::time::{Duration, SystemTime};

use weave_wal::inspect::{self, FileStatus, ProjectStatus};

use super::args::{Args, Known};
use super::output::{Output, age, count, plain, quoted, size};
use super::{Command, Status, Trouble, Unread, root, root_exists};

pub(super) const COMMAND: Command = Command {
    name: "status",
    about: "Shows what is in the logs, project by project",
    usage: "[--root DIR] [--json]",
    details: "\
Shows each project's files, whether their writers are alive, what is pending and since when, and
the dead letters. The exit status is 1 if anything is pending, there are dead letters, or
something could not be read. It looks at the directory alone: no process has to be there.

Options:
  --root DIR          where the logs are
  --json              print one line of JSON instead of a table: projects, pending_records,
                      dead_records, pending_bytes, oldest_seconds (null: nothing is pending),
                      disk_bytes (what the disk budget counts)",
    example: "weave-wal status --root /var/lib/app/wal",
    known: Known {
        flags: &["--json", "--help", "-h"],
        options: &["--root"],
        others: 0,
    },
    run,
};

fn run(args: &Args) -> Result<Status, Trouble> {
    let root = root(args);
    let mut unread = Unread::default();
    let projects = match root_exists(&root)? {
        true => inspect::status(&root, &mut |error| unread.note(error)),
        false => Vec::new(),
    };
    let mut out = Output::stdout();
    if args.flag("--json") {
        out.line(json(&projects, inspect::disk_bytes(&root)));
    } else if !projects.is_empty() {
        table(&projects).iter().for_each(|line| out.line(line));
    }
    out.finish()?;
    let well = |project: &ProjectStatus| project.pending_bytes == 0 && project.dead_records == 0;
    Ok(Status::well_if(
        projects.iter().all(well) && unread.is_none(),
    ))
}

/// Keys are added, never taken away.
fn json(projects: &[ProjectStatus], disk_bytes: u64) -> String {
    let all: Vec<String> = projects.iter().map(project_json).collect();
    let oldest = projects.iter().filter_map(oldest).max();
    format!(
        "{{\"projects\":[{}],\"pending_records\":{},\"dead_records\":{},\"pending_bytes\":{},\
         \"oldest_seconds\":{},\"disk_bytes\":{disk_bytes}}}",
        all.join(","),
        projects.iter().map(|p| p.pending_records).sum::<u64>(),
        projects.iter().map(|p| p.dead_records).sum::<u64>(),
        projects.iter().map(|p| p.pending_bytes).sum::<u64>(),
        seconds(oldest),
    )
}

fn seconds(age: Option<Duration>) -> String {
    age.map_or("null".to_owned(), |age| age.as_secs().to_string())
}

fn project_json(project: &ProjectStatus) -> String {
    let files: Vec<String> = project.files.iter().map(file_json).collect();
    format!(
        "{{\"entity\":{},\"project\":{},\"dir\":{},\"files\":[{}],\"pending_records\":{},\
         \"dead_records\":{},\"pending_bytes\":{},\"oldest_seconds\":{}}}",
        quoted(&project.entity),
        quoted(&project.project),
        quoted(&project.dir.to_string_lossy()),
        files.join(","),
        project.pending_records,
        project.dead_records,
        project.pending_bytes,
        seconds(oldest(project)),
    )
}

fn file_json(file: &FileStatus) -> String {
    format!(
        "{{\"name\":{},\"bytes\":{},\"delivered_bytes\":{},\"pending_records\":{},\"writer\":\"{}\",\
         \"age_seconds\":{}}}",
        quoted(&file.name),
        file.bytes,
        file.delivered_bytes,
        file.pending_records,
        if file.writer_alive { "alive" } else { "gone" },
        seconds(file.begun.map(since)),
    )
}

fn table(projects: &[ProjectStatus]) -> Vec<String> {
    let titles = [
        "PROJECT",
        "FILES",
        "WRITERS",
        "PENDING",
        "SIZE",
        "OLDEST",
        "DEAD",
        "DIRECTORY",
    ];
    let mut rows = vec![titles.map(str::to_owned)];
    rows.extend(projects.iter().map(row));
    let widths: [usize; 8] = std::array::from_fn(|column| {
        let widths = rows.iter().map(|row| row[column].chars().count());
        widths.max().unwrap_or(0)
    });
    let pad = |row: &[String; 8]| {
        let cells = row.iter().zip(widths);
        let line: Vec<String> = cells
            .map(|(cell, width)| format!("{cell:<width$}"))
            .collect();
        line.join("  ").trim_end().to_owned()
    };
    rows.iter().map(pad).collect()
}

fn row(project: &ProjectStatus) -> [String; 8] {
    let alive = project
        .files
        .iter()
        .filter(|file| file.writer_alive)
        .count();
    let gone = project.files.len() - alive;
    let writers = match (alive, gone) {
        (0, 0) => "-".to_owned(),
        (0, _) => "gone".to_owned(),
        (_, 0) => "alive".to_owned(),
        _ => format!("{alive} alive, {gone} gone"),
    };
    [
        plain(&format!("{}/{}", project.entity, project.project)),
        project.files.len().to_string(),
        writers,
        count(project.pending_records, "record"),
        size(project.pending_bytes),
        oldest(project).map_or("-".to_owned(), age),
        project.dead_records.to_string(),
        plain(&project.dir.to_string_lossy()),
    ]
}

/// How old the oldest file is that is not delivered to its end.
fn oldest(project: &ProjectStatus) -> Option<Duration> {
    project.oldest().map(since)
}

fn since(begun: SystemTime) -> Duration {
    SystemTime::now().duration_since(begun).unwrap_or_default()
}
