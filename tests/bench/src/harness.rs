//! Interleaved rounds, medians and quartiles, and what has to hold.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Barrier;
use std::time::{Duration, Instant};

use tempfile::TempDir;

pub struct Bench {
    pub rounds: usize,
    /// Only to see that everything works: a hundredth of the work.
    pub smoke: bool,
    dir: PathBuf,
    /// Each demand: what, the least or the most, the measured.
    verdicts: Vec<(String, Bound, f64)>,
}

#[derive(Clone, Copy)]
pub enum Bound {
    AtLeast(f64),
    Below(f64),
    /// For comparison only.
    None,
}

/// One line of a contest: it does the work once and returns records per second.
pub struct Entrant<'a> {
    name: String,
    bound: Bound,
    run: Box<dyn FnMut() -> f64 + 'a>,
}

pub fn entrant<'a>(name: &str, bound: Bound, run: impl FnMut() -> f64 + 'a) -> Entrant<'a> {
    Entrant {
        name: name.to_owned(),
        bound,
        run: Box::new(run),
    }
}

impl Bench {
    pub fn new(rounds: usize, smoke: bool, dir: PathBuf) -> Bench {
        Bench {
            rounds,
            smoke,
            dir,
            verdicts: Vec::new(),
        }
    }

    pub fn amount(&self, full: usize) -> usize {
        if self.smoke {
            (full / 100).max(8)
        } else {
            full
        }
    }

    pub fn scratch(&self) -> TempDir {
        scratch(&self.dir)
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Runs all entrants in turn, round by round; the first one is the yardstick of the others.
    pub fn contest(&mut self, title: &str, unit: &str, mut entrants: Vec<Entrant<'_>>) {
        let mut rates = vec![Vec::new(); entrants.len()];
        let mut ratios = rates.clone();
        for round in 0..self.rounds {
            // Who begins changes, so that nobody always runs behind the same one.
            let mut results = vec![0.0; entrants.len()];
            for step in 0..entrants.len() {
                let at = (round + step) % entrants.len();
                self.let_the_disk_rest();
                results[at] = (entrants[at].run)();
            }
            for (at, result) in results.iter().enumerate() {
                rates[at].push(*result);
                ratios[at].push(result / results[0]);
            }
        }
        println!("\n{title}");
        println!("  {:<44} {:>12}  {:>6} [quartiles]", "", unit, "ratio");
        for (at, entrant) in entrants.iter().enumerate() {
            let rate = median(&mut rates[at]);
            let (low, middle, high) = quartiles(&mut ratios[at]);
            let mark = self.judge(&format!("{title}: {}", entrant.name), entrant.bound, middle);
            println!(
                "  {:<44} {rate:>12.0}  {middle:>6.2} [{low:.2} … {high:.2}]{mark}",
                entrant.name
            );
        }
    }

    /// What the one before has removed is given back to the device, which is not for the next one
    /// to wait for: with the file system's next commit, and then in the background, where nothing
    /// says when it is done.
    fn let_the_disk_rest(&self) {
        let marker = self.scratch();
        let synced = File::create(marker.path().join("marker")).and_then(|file| file.sync_all());
        let synced = synced.and_then(|()| File::open(&self.dir)?.sync_all());
        synced.expect("a sync");
        std::thread::sleep(Duration::from_millis(200));
    }

    /// One figure that stands for itself.
    pub fn figure(&mut self, name: &str, value: f64, unit: &str, bound: Bound) {
        let mark = self.judge(&format!("{name}, {unit}"), bound, value);
        println!("  {name:<60} {value:>10.3} {unit}{mark}");
    }

    fn judge(&mut self, what: &str, bound: Bound, value: f64) -> String {
        let text = match bound {
            Bound::None => return String::new(),
            Bound::AtLeast(least) => format!("at least {least}"),
            Bound::Below(most) => format!("below {most}"),
        };
        self.verdicts.push((what.to_owned(), bound, value));
        let holds = holds(bound, value);
        format!(
            "  {} ({text})",
            if holds { "holds" } else { "DOES NOT HOLD" }
        )
    }

    /// What has to hold, and what of it does.
    pub fn summary(&self) {
        println!("\n# what has to hold");
        for (what, bound, value) in &self.verdicts {
            let (sign, limit) = match bound {
                Bound::AtLeast(least) => (">=", least),
                Bound::Below(most) => ("<", most),
                Bound::None => continue,
            };
            let mark = if holds(*bound, *value) {
                "  ok"
            } else {
                "  NO"
            };
            println!("{mark}  {value:>9.3} {sign} {limit:<8} {what}");
        }
    }
}

fn holds(bound: Bound, value: f64) -> bool {
    match bound {
        Bound::AtLeast(least) => value >= least,
        Bound::Below(most) => value < most,
        Bound::None => true,
    }
}

pub fn scratch(dir: &Path) -> TempDir {
    tempfile::tempdir_in(dir).expect("a directory for the measurement")
}

/// Calls from several threads at once: `make` gives each its function. Calls per second, from the
/// first one's begin to the last one's end.
pub fn burst<A: FnMut()>(threads: usize, calls: usize, make: impl Fn() -> A + Sync) -> f64 {
    let (barrier, make) = (Barrier::new(threads), &make);
    let each = calls / threads;
    let spans: Vec<(Instant, Instant)> = std::thread::scope(|scope| {
        let run = || {
            let mut call = make();
            barrier.wait();
            let begin = Instant::now();
            (0..each).for_each(|_| call());
            (begin, Instant::now())
        };
        let running: Vec<_> = (0..threads).map(|_| scope.spawn(run)).collect();
        running
            .into_iter()
            .map(|one| one.join().expect("a measurement panicked"))
            .collect()
    });
    let begin = spans.iter().map(|span| span.0).min().expect("a thread");
    let end = spans.iter().map(|span| span.1).max().expect("a thread");
    (each * threads) as f64 / (end - begin).as_secs_f64()
}

/// One call every 200 microseconds: the median and the 99th percentile of its time, in us.
pub fn paced(calls: usize, mut call: impl FnMut()) -> (f64, f64) {
    let mut times: Vec<f64> = (0..calls)
        .map(|_| {
            std::thread::sleep(Duration::from_micros(200));
            let begin = Instant::now();
            call();
            begin.elapsed().as_nanos() as f64 / 1e3
        })
        .collect();
    times.sort_by(f64::total_cmp);
    (times[calls / 2], times[calls * 99 / 100])
}

pub fn median(values: &mut [f64]) -> f64 {
    quartiles(values).1
}

fn quartiles(values: &mut [f64]) -> (f64, f64, f64) {
    values.sort_by(f64::total_cmp);
    let at = |share: usize| values[(values.len() - 1) * share / 4];
    (at(1), at(2), at(3))
}
