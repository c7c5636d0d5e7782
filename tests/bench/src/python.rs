//! Weave's own Python writer and sender, where they are installed.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::harness::scratch;

pub struct Python {
    python: PathBuf,
    client: PathBuf,
}

impl Python {
    /// `BENCH_PYTHON` and `BENCH_WEAVE` (a directory with the package `weave`), or what
    /// `tests/weave/setup.sh` has installed.
    pub fn find() -> Option<Python> {
        let cache = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.cache");
        let place = |variable, usual: &str| {
            std::env::var_os(variable).map_or(cache.join(usual), PathBuf::from)
        };
        let found = Python {
            python: place("BENCH_PYTHON", "weave-venv/bin/python"),
            client: place("BENCH_WEAVE", "weave-client"),
        };
        if found.python.exists() && found.client.join("weave").exists() {
            return Some(found);
        }
        println!("\n  skipped: Weave for Python is not here; tests/weave/setup.sh installs it");
        None
    }

    /// Records per second, written without an fsync.
    pub fn write(&self, dir: &Path, records: usize) -> f64 {
        let dir = scratch(dir);
        let request = crate::workload::request().to_string();
        self.run(&[
            "write",
            &dir.path().to_string_lossy(),
            &records.to_string(),
            &request,
        ])
    }

    /// Records per second, sent from a directory of logs.
    pub fn send(&self, dir: &Path, url: &str, records: usize) -> f64 {
        self.run(&["send", &dir.to_string_lossy(), &records.to_string(), url])
    }

    fn run(&self, args: &[&str]) -> f64 {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("weave_python.py");
        let mut command = Command::new(&self.python);
        command.arg(script).args(args);
        command
            .env("PYTHONPATH", &self.client)
            .env("WEAVE_SENTRY_ENV", "never");
        let output = command.output().expect("Python");
        let text = String::from_utf8_lossy(&output.stdout);
        let rate = text
            .lines()
            .last()
            .and_then(|line| line.trim().parse().ok());
        rate.unwrap_or_else(|| panic!("{text}{}", String::from_utf8_lossy(&output.stderr)))
    }
}
