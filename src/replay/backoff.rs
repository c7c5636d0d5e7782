//! How long to wait before the next attempt: exponential, with full jitter.

use std::time::Duration;

/// The "full jitter" of *Exponential Backoff And Jitter* (AWS Architecture Blog, 2015): uniform
/// between nothing and a ceiling that doubles with every attempt. Many processes that lost the
/// same server do not come back to it in step.
///
/// It reads no clock and makes no random numbers: both come from the caller.
#[derive(Debug, Clone)]
pub(crate) struct Backoff {
    base: Duration,
    cap: Duration,
    attempts: u32,
}

impl Backoff {
    /// The first wait is at most `base`, no wait is longer than `cap`.
    pub(crate) fn new(base: Duration, cap: Duration) -> Self {
        Backoff {
            base,
            cap,
            attempts: 0,
        }
    }

    /// For failures that may pass by themselves.
    pub(crate) fn transient() -> Self {
        Backoff::new(Duration::from_millis(1000), Duration::from_secs(30))
    }

    /// For looking whether somebody has mended the configuration.
    pub(crate) fn probe() -> Self {
        Backoff::new(Duration::from_secs(2), Duration::from_secs(60))
    }

    /// The wait when the server has asked for one: that, and then some, up to half as long again.
    /// All who were told the same must not come back in the same moment.
    pub(crate) fn asked(&mut self, asked: Duration, random: u64) -> Duration {
        let ceiling = (asked / 2).min(self.cap);
        asked + self.next(random).max(uniform(ceiling, random))
    }

    /// The wait before the next attempt, in `(0, min(cap, base * 2^attempts)]`, where `random`
    /// is any uniformly distributed number.
    pub(crate) fn next(&mut self, random: u64) -> Duration {
        let ceiling = self.ceiling();
        self.attempts = self.attempts.saturating_add(1);
        uniform(ceiling, random)
    }

    /// Something worked: the next wait is a short one again.
    pub(crate) fn reset(&mut self) {
        self.attempts = 0;
    }

    /// How many waits there have been since the last `reset`.
    #[cfg(test)]
    pub(crate) fn attempts(&self) -> u32 {
        self.attempts
    }

    fn ceiling(&self) -> Duration {
        let factor = 1_u128.checked_shl(self.attempts).unwrap_or(u128::MAX);
        let ceiling = self.base.as_nanos().saturating_mul(factor);
        let nanos = u64::try_from(ceiling.min(self.cap.as_nanos()));
        Duration::from_nanos(nanos.unwrap_or(u64::MAX))
    }
}

/// A wait in `(0, ceiling]`, where `random` is any uniformly distributed number.
pub(crate) fn uniform(ceiling: Duration, random: u64) -> Duration {
    let ceiling = u64::try_from(ceiling.as_nanos()).unwrap_or(u64::MAX);
    let nanos = (u128::from(ceiling) * (u128::from(random) + 1)) >> 64;
    // Below 2^64, as the ceiling is; never 0, so that a wait is always a wait.
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(ceiling).max(1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const BASE: Duration = Duration::from_millis(100);
    const CAP: Duration = Duration::from_secs(60);

    fn after(attempts: u32, base: Duration, cap: Duration) -> Backoff {
        Backoff {
            base,
            cap,
            attempts,
        }
    }

    #[test]
    fn the_ceiling_doubles_until_the_cap() {
        let mut backoff = Backoff::new(BASE, Duration::from_millis(700));
        let longest: Vec<_> = (0..5).map(|_| backoff.next(u64::MAX).as_millis()).collect();
        assert_eq!(longest, [100, 200, 400, 700, 700]);
    }

    #[test]
    fn reset_starts_over() {
        let mut backoff = Backoff::new(BASE, CAP);
        backoff.next(7);
        backoff.next(7);
        assert_eq!(backoff.attempts(), 2);
        backoff.reset();
        assert_eq!(backoff.attempts(), 0);
        assert_eq!(backoff.next(u64::MAX), BASE);
    }

    #[test]
    fn those_who_were_told_the_same_come_back_spread_over_half_as_long_again() {
        let asked = Duration::from_secs(30);
        let wait = |random| Backoff::transient().asked(asked, random);
        assert!(wait(0) > asked && wait(0) < asked + Duration::from_millis(1));
        assert_eq!(wait(u64::MAX), asked + asked / 2);
        assert!(
            Backoff::transient()
                .asked(Duration::from_secs(3600), u64::MAX)
                .as_secs()
                <= 3630
        );
        // For a moment there is the backoff.
        let mut backoff = after(3, BASE, CAP);
        assert_eq!(backoff.asked(Duration::ZERO, u64::MAX), 8 * BASE);
    }

    #[test]
    fn waits_are_spread_evenly_below_the_ceiling() {
        const STEPS: u64 = 1000;
        for attempts in [0, 3, 9, 40] {
            let ceiling = after(attempts, BASE, CAP).next(u64::MAX);
            let sum: Duration = (0..STEPS)
                .map(|step| after(attempts, BASE, CAP).next(step * (u64::MAX / STEPS)))
                .sum();
            let mean = sum.as_secs_f64() / STEPS as f64;
            let half = ceiling.as_secs_f64() / 2.0;
            assert!((mean - half).abs() < half / 100.0, "{mean} is not {half}");
        }
    }

    #[test]
    fn absurd_settings_do_not_overflow() {
        for duration in [Duration::ZERO, Duration::MAX] {
            let mut backoff = after(u32::MAX, duration, duration);
            assert!(backoff.next(0) > Duration::ZERO);
            assert!(backoff.next(u64::MAX) > Duration::ZERO);
            assert_eq!(backoff.attempts(), u32::MAX);
        }
    }

    proptest! {
        #[test]
        fn a_wait_is_above_zero_and_within_base_doubled_and_cap(
            base in 1_u64..1 << 40, cap in 1_u64..1 << 50, attempts in 0_u32..200, random: u64,
        ) {
            let (base, cap) = (Duration::from_nanos(base), Duration::from_nanos(cap));
            let wait = after(attempts, base, cap).next(random);
            let doubled = base.as_nanos().saturating_mul(1_u128 << attempts.min(64));
            prop_assert!(wait > Duration::ZERO);
            prop_assert!(wait.as_nanos() <= doubled.min(cap.as_nanos()));
        }

        #[test]
        fn a_larger_random_number_never_waits_shorter(attempts in 0_u32..64, one: u64, two: u64) {
            let (low, high) = (one.min(two), one.max(two));
            let wait = |random| after(attempts, BASE, CAP).next(random);
            prop_assert!(wait(low) <= wait(high));
        }
    }
}
