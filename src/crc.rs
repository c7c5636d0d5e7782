//! CRC-32 (IEEE 802.3, as in zlib and gzip), sixteen bytes at a time.
//!
//! The technique is "slicing": one table for each byte of a block, so that the look-ups of one
//! block do not wait for each other. M. E. Kounavis and F. L. Berry (Intel), "Novel Table
//! Lookup-Based Algorithms for High-Performance CRC Generation", IEEE Transactions on Computers
//! 57(11), 2008, describe it for eight bytes; with sixteen it is the same with twice the tables.

/// The polynomial, lowest bit first.
const POLYNOMIAL: u32 = 0xEDB8_8320;

const BLOCK: usize = 16;

/// `TABLES[n][b]`: what the byte `b` does to the register when `n` more bytes follow it.
static TABLES: [[u32; 256]; BLOCK] = tables();

const fn tables() -> [[u32; 256]; BLOCK] {
    let mut tables = [[0; 256]; BLOCK];
    let mut byte = 0;
    while byte < 256 {
        let mut register = byte as u32;
        let mut bit = 0;
        while bit < 8 {
            let carry = register & 1;
            register = (register >> 1) ^ (POLYNOMIAL * carry);
            bit += 1;
        }
        tables[0][byte] = register;
        byte += 1;
    }
    let mut following = 1;
    while following < BLOCK {
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

/// The checksum of what `crc` is the checksum of, followed by `bytes`. That of nothing is 0.
pub(crate) const fn update(crc: u32, mut bytes: &[u8]) -> u32 {
    let mut register = !crc;
    while let Some((block, rest)) = bytes.split_first_chunk::<BLOCK>() {
        let register_bytes = register.to_le_bytes();
        register = 0;
        let mut at = 0;
        while at < BLOCK {
            let mut byte = block[at];
            if at < register_bytes.len() {
                byte ^= register_bytes[at];
            }
            register ^= TABLES[BLOCK - 1 - at][byte as usize];
            at += 1;
        }
        bytes = rest;
    }
    while let Some((byte, rest)) = bytes.split_first() {
        register = (register >> 8) ^ TABLES[0][((register ^ *byte as u32) & 0xFF) as usize];
        bytes = rest;
    }
    !register
}

#[cfg(test)]
mod tests {
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

    #[test]
    fn the_published_check_value_is_met() {
        assert_eq!(update(0, b"123456789"), 0xCBF4_3926);
        assert_eq!(update(0, b""), 0);
    }

    proptest! {
        #[test]
        fn the_tables_agree_with_the_definition(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            prop_assert_eq!(update(0, &bytes), bit_by_bit(&bytes));
        }

        #[test]
        fn a_checksum_can_be_continued_anywhere(
            bytes in prop::collection::vec(any::<u8>(), 0..200),
            cut in any::<prop::sample::Index>(),
        ) {
            let (head, tail) = bytes.split_at(cut.index(bytes.len() + 1));
            prop_assert_eq!(update(update(0, head), tail), update(0, &bytes));
        }
    }
}
