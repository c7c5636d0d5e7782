//! What an append, a replay and an idle client cost, each beside the limit of this machine.
//!
//! ```sh
//! cargo run --release --manifest-path tests/bench/Cargo.toml -- [--smoke] [--rounds N] [--dir DIR] [PART…]
//! ```
//!
//! Absolute times mean nothing: in every round each line runs right after its yardstick, and what
//! counts is the ratio of the two. `--smoke` does a little of everything once, to see that it works.

mod append;
mod footprint;
mod hanging;
mod harness;
mod idle;
mod memory;
mod opening;
mod others;
mod python;
mod replay;
mod server;
mod synced;
mod workload;

use std::path::PathBuf;
use std::process::ExitCode;

use harness::Bench;

type Part = (&'static str, fn(&mut Bench));

const PARTS: [Part; 8] = [
    ("append", append::run),
    ("synced", synced::run),
    ("hanging", hanging::run),
    ("replay", replay::run),
    ("memory", memory::run),
    ("opening", opening::run),
    ("idle", idle::run),
    ("footprint", footprint::run),
];

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1);
    let (mut rounds, mut smoke, mut dir) = (7, false, std::env::temp_dir());
    let mut wanted = Vec::new();
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--child" => return memory::child(&args.collect::<Vec<_>>()),
            "--smoke" => smoke = true,
            "--rounds" => rounds = args.next().and_then(|n| n.parse().ok()).unwrap_or(rounds),
            "--dir" => dir = args.next().map_or(dir, PathBuf::from),
            part if PARTS.iter().any(|(name, _)| *name == part) => wanted.push(arg),
            _ => {
                let names: Vec<_> = PARTS.iter().map(|(name, _)| *name).collect();
                eprintln!("usage: [--smoke] [--rounds N] [--dir DIR] [PART…]; parts: {names:?}");
                return ExitCode::from(2);
            }
        }
    }
    // Before there is another thread.
    std::env::set_var("WALRUS_DATA_DIR", &dir);
    std::env::set_var("WALRUS_QUIET", "1");
    let mut bench = Bench::new(if smoke { 1 } else { rounds }, smoke, dir);
    for (name, run) in PARTS {
        if wanted.is_empty() || wanted.iter().any(|part| part == name) {
            println!("\n# {name}");
            run(&mut bench);
        }
    }
    bench.summary();
    ExitCode::SUCCESS
}
