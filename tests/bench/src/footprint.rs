//! What linking it costs: the size of the tool, the crates below it, the time of a cold build.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use crate::harness::{Bench, Bound};

pub fn run(bench: &mut Bench) {
    if bench.smoke {
        println!("  skipped: it builds everything several times");
        return;
    }
    for (features, most) in [
        (&["--no-default-features"][..], Bound::Below(9.0)),
        (&[], Bound::None),
    ] {
        let crates = crates_below(features) as f64;
        bench.figure(&name("crates below", features), crates, "", most);
    }
    for (features, panic, most) in [
        (&["--no-default-features"][..], "abort", Bound::Below(550.0)),
        (&["--no-default-features"], "unwind", Bound::None),
        (&[], "abort", Bound::None),
        (&[], "unwind", Bound::None),
    ] {
        let target = bench.scratch();
        let tool = build(features, panic, target.path(), "z");
        let size = std::fs::metadata(tool).expect("the tool").len() as f64 / 1024.0;
        let name = name(
            "stripped tool, opt-level z, panic",
            &[&[panic], features].concat(),
        );
        bench.figure(&name, size, "KiB", most);
    }
    for (features, most) in [
        (&["--no-default-features"][..], Bound::Below(15.0)),
        (&[], Bound::None),
    ] {
        let target = bench.scratch();
        let begin = Instant::now();
        build(features, "unwind", target.path(), "3");
        let took = begin.elapsed().as_secs_f64();
        bench.figure(&name("cold release build", features), took, "s", most);
    }
}

fn name(what: &str, features: &[&str]) -> String {
    let default = !features.contains(&"--no-default-features");
    let tls = if default { "with TLS" } else { "without TLS" };
    let rest = features.iter().filter(|word| !word.starts_with("--"));
    let rest: Vec<_> = rest.copied().collect();
    format!(
        "{what} {}{}{tls}",
        rest.join(" "),
        if rest.is_empty() { "" } else { ", " }
    )
}

fn build(features: &[&str], panic: &str, target: &Path, level: &str) -> PathBuf {
    let mut cargo = cargo();
    cargo
        .args(["build", "--release", "--bin", "weave-wal"])
        .args(features);
    cargo.env("CARGO_TARGET_DIR", target);
    cargo.env("CARGO_PROFILE_RELEASE_OPT_LEVEL", level);
    cargo.env("CARGO_PROFILE_RELEASE_PANIC", panic);
    cargo.env("CARGO_PROFILE_RELEASE_STRIP", "true");
    let output = cargo.output().expect("cargo");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    target.join("release/weave-wal")
}

fn crates_below(features: &[&str]) -> usize {
    let mut cargo = cargo();
    cargo.args([
        "tree",
        "--edges",
        "normal",
        "--prefix",
        "none",
        "--no-dedupe",
    ]);
    let output = cargo.args(features).output().expect("cargo");
    let text = String::from_utf8_lossy(&output.stdout);
    let names = text.lines().filter_map(|line| line.split(' ').next());
    let names: std::collections::BTreeSet<_> = names.filter(|name| !name.is_empty()).collect();
    names.len() - 1
}

fn cargo() -> Command {
    let mut cargo = Command::new("cargo");
    cargo.current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("../.."));
    cargo
}
