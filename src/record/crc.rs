//! CRC-32 (IEEE 802.3, as in zlib and gzip): by carry-less multiplication where the processor has
//! that, else several bytes at a time by tables.
//!
//! The multiplication replaces a block by a remainder that any bytes behind it see in the same way,
//! 64 bytes at a time, and in the end that remainder by the checksum. V. Gopal et al. (Intel), "Fast
//! CRC Computation for Generic Polynomials Using PCLMULQDQ Instruction", 2009, describe it.
//!
//! The technique of the tables is "slicing": one table for each byte of a slice, so that the
//! look-ups of one slice do not wait for each other. M. E. Kounavis and F. L. Berry (Intel), "Novel
//! Table Lookup-Based Algorithms for High-Performance CRC Generation", IEEE Transactions on
//! Computers 57(11), 2008, describe it for eight bytes; with sixteen it is the same with twice the
//! tables.

use crate::sys;

/// The polynomial, lowest bit first.
const POLYNOMIAL: u32 = 0xEDB8_8320;

/// What one multiplication takes.
#[cfg(target_arch = "x86_64")]
const BLOCK: usize = 16;

/// How many bytes the tables take at a time; each has a table of 1 KiB. Where the processor
/// multiplies, they are for less than two blocks: more of them would be for processors of before
/// 2010.
const SLICE: usize = if cfg!(target_arch = "x86_64") { 1 } else { 16 };

/// `TABLES[n][b]`: what the byte `b` does to the register when `n` more bytes follow it.
static TABLES: [[u32; 256]; SLICE] = tables();

const fn tables() -> [[u32; 256]; SLICE] {
    let mut tables = [[0; 256]; SLICE];
    let mut byte = 0;
    while byte < 256 {
        let mut register = byte as u32;
        let mut bit = 0;
        while bit < 8 {
            register = times_x(register);
            bit += 1;
        }
        tables[0][byte] = register;
        byte += 1;
    }
    let mut following = 1;
    while following < SLICE {
        let mut byte = 0;
        while byte < 256 {
            let before = tables[following - 1][byte];
            tables[following][byte] = (before >> 8) ^ tables[0][(before & 0xFF) as usize];
            byte += 1;
        }
        following += 1;
    }
    tables
}

/// What carries a block over `blocks` blocks: the factor for its first half, then for its second.
///
/// A half is 64 bits and the product of two numbers of 64 bits, lowest bit first, comes out one bit
/// off: hence the odd powers, and the shift in [`power_of_x`].
#[cfg(target_arch = "x86_64")]
pub(crate) const fn factors(blocks: u32) -> [u64; 2] {
    let bits = blocks * 8 * BLOCK as u32;
    [power_of_x(bits + 32), power_of_x(bits - 32)]
}

/// What takes 64 bits to the register: the factor for the first half of them, the polynomial, and
/// the quotient of `x^64` by it. The latter two have 33 bits, the lowest first.
#[cfg(target_arch = "x86_64")]
pub(crate) const fn reduction() -> [u64; 3] {
    let polynomial = (POLYNOMIAL as u64) << 1 | 1;
    // From `x^31` on: what is higher is only a shift.
    let (mut quotient, mut remainder) = (0, 1);
    let mut bit = 0;
    while bit < 33 {
        // The highest bit of what is left says whether the polynomial goes into it.
        quotient |= (remainder as u64 & 1) << bit;
        remainder = times_x(remainder);
        bit += 1;
    }
    [power_of_x(64), polynomial, quotient]
}

/// `x^n` modulo the polynomial.
#[cfg(target_arch = "x86_64")]
const fn power_of_x(n: u32) -> u64 {
    let mut power = 1 << 31;
    let mut step = 0;
    while step < n {
        power = times_x(power);
        step += 1;
    }
    (power as u64) << 1
}

const fn times_x(register: u32) -> u32 {
    let carry = register & 1;
    (register >> 1) ^ (POLYNOMIAL * carry)
}

/// The checksum of what `crc` is the checksum of, followed by `bytes`. That of nothing is 0.
pub(crate) fn update(crc: u32, bytes: &[u8]) -> u32 {
    match sys::multiply(!crc, bytes) {
        Some(register) => !register,
        None => by_tables(crc, bytes),
    }
}

/// The same for constants.
pub(crate) const fn by_tables(crc: u32, bytes: &[u8]) -> u32 {
    !register(!crc, bytes)
}

/// What `bytes` make of the register.
const fn register(mut register: u32, mut bytes: &[u8]) -> u32 {
    while let Some((slice, rest)) = bytes.split_first_chunk::<SLICE>() {
        let register_bytes = register.to_le_bytes();
        register = match register.checked_shr(8 * SLICE as u32) {
            Some(longer_than_a_slice) => longer_than_a_slice,
            None => 0,
        };
        let mut at = 0;
        while at < SLICE {
            let mut byte = slice[at];
            if at < register_bytes.len() {
                byte ^= register_bytes[at];
            }
            register ^= TABLES[SLICE - 1 - at][byte as usize];
            at += 1;
        }
        bytes = rest;
    }
    while let Some((byte, rest)) = bytes.split_first() {
        register = (register >> 8) ^ TABLES[0][((register ^ *byte as u32) & 0xFF) as usize];
        bytes = rest;
    }
    register
}

#[cfg(test)]
mod tests {
    use std::hint::black_box;
    use std::time::Instant;

    use proptest::prelude::*;

    use super::*;

    /// Straight from the definition: one bit at a time, no tables.
    fn bit_by_bit(bytes: &[u8]) -> u32 {
        let mut register = !0;
        for byte in bytes {
            register ^= u32::from(*byte);
            for _ in 0..8 {
                let carry = register & 1;
                register = (register >> 1) ^ (POLYNOMIAL * carry);
            }
        }
        !register
    }

    /// Bytes without a pattern, the same in every run.
    fn noise(len: usize) -> Vec<u8> {
        let mut state = 1u64;
        let mut next = || {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            (state >> 56) as u8
        };
        (0..len).map(|_| next()).collect()
    }

    #[test]
    fn the_published_check_value_is_met() {
        assert_eq!(update(0, b"123456789"), 0xCBF4_3926);
        assert_eq!(by_tables(0, b"123456789"), 0xCBF4_3926);
        assert_eq!(update(0, b""), 0);
    }

    #[test]
    fn every_length_agrees_with_the_definition() {
        let bytes = noise(600);
        for len in 0..=bytes.len() {
            let expected = bit_by_bit(&bytes[..len]);
            assert_eq!(update(0, &bytes[..len]), expected, "{len} bytes");
            assert_eq!(by_tables(0, &bytes[..len]), expected, "{len} bytes");
        }
    }

    #[test]
    fn a_checksum_can_be_continued_anywhere() {
        let bytes = noise(600);
        let whole = bit_by_bit(&bytes);
        for cut in 0..=bytes.len() {
            let (head, tail) = bytes.split_at(cut);
            assert_eq!(update(update(0, head), tail), whole, "cut at {cut}");
            assert_eq!(by_tables(update(0, head), tail), whole, "cut at {cut}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_agree_with_the_definition(
            bytes in prop::collection::vec(any::<u8>(), 0..600),
            cut in any::<prop::sample::Index>(),
        ) {
            let (head, tail) = bytes.split_at(cut.index(bytes.len() + 1));
            prop_assert_eq!(update(update(0, head), tail), bit_by_bit(&bytes));
        }
    }

    /// `cargo test --release --lib crc -- --ignored --nocapture`
    #[test]
    #[ignore = "a measurement"]
    fn throughput_beside_the_tables() {
        for len in [570, 64 << 10] {
            let bytes = noise(len);
            let rate = |checksum: fn(u32, &[u8]) -> u32| {
                let times = (16 << 20) / len;
                let begin = Instant::now();
                for _ in 0..times {
                    black_box(checksum(0, black_box(&bytes)));
                }
                (times * len) as f64 / begin.elapsed().as_secs_f64() / 1e9
            };
            let mut rounds: Vec<_> = (0..31).map(|_| (rate(by_tables), rate(update))).collect();
            rounds.sort_by(|a, b| (a.1 / a.0).total_cmp(&(b.1 / b.0)));
            let (tables, best) = rounds[rounds.len() / 2];
            let ratio = best / tables;
            println!("{len} bytes: tables {tables:.2} GB/s, {best:.2} GB/s, ratio {ratio:.1}");
        }
    }
}
