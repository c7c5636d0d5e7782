//! What came out of a fault: how much was acknowledged, lost, duplicated.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::{Collector, id};

/// What some trials came to.
#[derive(Default)]
pub struct Tally {
    trials: AtomicUsize,
    acknowledged: AtomicUsize,
    lost: AtomicUsize,
    duplicated: AtomicUsize,
}

impl Tally {
    /// Counts one trial: what was acknowledged, and how often each record has arrived.
    pub fn count(&self, acknowledged: &[usize], arrived: &BTreeMap<usize, usize>) {
        let lost = acknowledged.iter().filter(|n| !arrived.contains_key(n));
        let duplicated: usize = arrived.values().map(|count| count - 1).sum();
        self.trials.fetch_add(1, Ordering::Relaxed);
        self.acknowledged
            .fetch_add(acknowledged.len(), Ordering::Relaxed);
        self.lost.fetch_add(lost.count(), Ordering::Relaxed);
        self.duplicated.fetch_add(duplicated, Ordering::Relaxed);
    }

    pub fn trials(&self) -> usize {
        self.trials.load(Ordering::Relaxed)
    }

    pub fn acknowledged(&self) -> usize {
        self.acknowledged.load(Ordering::Relaxed)
    }

    /// Prints the sum. Nothing may have been lost.
    pub fn tell(&self, fault: &str) {
        let get = |number: &AtomicUsize| number.load(Ordering::Relaxed);
        println!(
            "counted: {fault}: {} trials, {} acknowledged, {} lost, {} duplicated",
            get(&self.trials),
            get(&self.acknowledged),
            get(&self.lost),
            get(&self.duplicated)
        );
        assert_eq!(get(&self.lost), 0, "{fault}");
    }
}

/// Counts one trial and prints it.
pub fn tell(fault: &str, acknowledged: impl IntoIterator<Item = usize>, collector: &Collector) {
    let acknowledged: Vec<_> = acknowledged.into_iter().collect();
    let tally = Tally::default();
    tally.count(&acknowledged, &arrived(collector));
    tally.tell(fault);
}

/// How often each numbered start has arrived. Nothing else may have.
pub fn arrived(collector: &Collector) -> BTreeMap<usize, usize> {
    let counts = collector.counts();
    let number = |(kind, id_text): &(String, String)| {
        assert_eq!(kind, "call_start");
        let digits = id_text.rsplit('-').next().unwrap();
        let n = usize::from_str_radix(digits, 16).unwrap();
        assert_eq!(id(n), *id_text);
        n
    };
    counts
        .iter()
        .map(|(key, &count)| (number(key), count))
        .collect()
}
