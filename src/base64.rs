//! Base64 with the standard alphabet and padding (RFC 4648, section 4).

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// What stands in [`VALUES`] for a byte outside the alphabet.
const NONE: u8 = 0xFF;

/// The alphabet the other way round.
static VALUES: [u8; 256] = values();

const fn values() -> [u8; 256] {
    let mut values = [NONE; 256];
    let mut value = 0;
    while value < ALPHABET.len() {
        values[ALPHABET[value] as usize] = value as u8;
        value += 1;
    }
    values
}

/// `bytes` as base64 text.
pub(crate) fn encode(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(encoded_len(bytes.len()));
    for quad in quads(bytes) {
        text.extend(quad.map(char::from));
    }
    text
}

/// The bytes that `text` stands for, or `None` if it is not what [`encode`] makes of anything:
/// other letters, white space, missing padding or stray bits in front of it.
pub(crate) fn decode(text: &str) -> Option<Vec<u8>> {
    let text = text.as_bytes();
    if text.len() % 4 != 0 {
        return None;
    }
    let letters = match text {
        [letters @ .., b'=', b'='] | [letters @ .., b'='] => letters,
        letters => letters,
    };
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3);
    for quad in letters.chunks(4) {
        let mut bits = 0;
        for letter in quad {
            let value = VALUES[usize::from(*letter)];
            if value == NONE {
                return None;
            }
            bits = bits << 6 | u32::from(value);
        }
        // Left-aligned in 24 bits: two letters are one byte, three are two, four are three.
        bits <<= 6 * (4 - quad.len());
        let [_, decoded @ ..] = bits.to_be_bytes();
        let (decoded, stray) = decoded.split_at(quad.len() - 1);
        if stray.iter().any(|byte| *byte != 0) {
            return None;
        }
        bytes.extend_from_slice(decoded);
    }
    Some(bytes)
}

const fn encoded_len(bytes: usize) -> usize {
    bytes.div_ceil(3) * 4
}

/// Three bytes become four letters; the last one or two become two or three and padding.
fn quads(bytes: &[u8]) -> impl Iterator<Item = [u8; 4]> + '_ {
    bytes.chunks(3).map(|chunk| {
        let mut three = [0; 3];
        three[..chunk.len()].copy_from_slice(chunk);
        let [a, b, c] = three;
        let letter = |value: u8| ALPHABET[usize::from(value & 63)];
        let mut quad = [
            letter(a >> 2),
            letter(a << 4 | b >> 4),
            letter(b << 2 | c >> 6),
            letter(c),
        ];
        quad[chunk.len() + 1..].fill(b'=');
        quad
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_vectors_of_the_rfc_hold_both_ways() {
        let vectors: [(&[u8], &str); 8] = [
            (b"", ""),
            (b"f", "Zg=="),
            (b"fo", "Zm8="),
            (b"foo", "Zm9v"),
            (b"foob", "Zm9vYg=="),
            (b"fooba", "Zm9vYmE="),
            (b"foobar", "Zm9vYmFy"),
            (b"\xfb\xef\xff", "++//"),
        ];
        for (bytes, text) in vectors {
            assert_eq!(encode(bytes), text);
            assert_eq!(decode(text).as_deref(), Some(bytes));
        }
    }

    #[test]
    fn what_no_encoder_writes_is_not_decoded() {
        let texts = [
            "Zg", "Zg=", "Zg===", "=", "==", "====", "Z===", "Zg==Zg==", "Zm9v\n", " Zm9", "Zm-_",
            "Zh==", "Zm9=", "Zm=v", "Zmäv",
        ];
        for text in texts {
            assert_eq!(decode(text), None, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn what_is_encoded_comes_back(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            let text = encode(&bytes);
            prop_assert_eq!(decode(&text), Some(bytes));
        }

        #[test]
        fn what_is_decoded_was_the_only_spelling(text in "[A-Za-z0-9+/]{0,8}={0,2}") {
            if let Some(bytes) = decode(&text) {
                prop_assert_eq!(encode(&bytes), text);
            }
        }
    }
}
