//! What linking it costs: the size of the tool, the crates below it, the time of a cold build.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use crate::harness::{Bench, Bound};

/// Tells the linker to leave out the unwind tables and to pack the relocations.
const LINK_SMALL: &str = "-Clink-arg=-Wl,-Ttests/small.ld,-zpack-relative-relocs";

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
    for (features, flags, most) in [
        (
            &["--no-default-features"][..],
            &[LINK_SMALL][..],
            Bound::Below(550.0),
        ),
        (&["--no-default-features"], &[], Bound::None),
        (&[], &[LINK_SMALL], Bound::None),
        (&[], &[], Bound::None),
    ] {
        let target = bench.scratch();
        let tool = build("small", features, flags, target.path());
        let size = std::fs::metadata(tool).expect("the tool").len() as f64 / 1024.0;
        let what = match flags {
            [] => "small tool",
            _ => "smallest tool",
        };
        bench.figure(&name(what, features), size, "KiB", most);
    }
    for (features, most) in [
        (&["--no-default-features"][..], Bound::Below(15.0)),
        (&[], Bound::None),
    ] {
        let target = bench.scratch();
        let begin = Instant::now();
        build("release", features, &[], target.path());
        let took = begin.elapsed().as_secs_f64();
        bench.figure(&name("cold release build", features), took, "s", most);
    }
}

fn name(what: &str, features: &[&str]) -> String {
    match features {
        [] => format!("{what}, with TLS and demo"),
        _ => format!("{what}, without TLS"),
    }
}

fn build(profile: &str, features: &[&str], flags: &[&str], target: &Path) -> PathBuf {
    let mut cargo = cargo();
    cargo.args(["rustc", "--bin", "weave-wal", "--profile", profile]);
    cargo.args(features).arg("--").args(flags);
    cargo.env("CARGO_TARGET_DIR", target);
    let output = cargo.output().expect("cargo");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    target.join(profile).join("weave-wal")
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
