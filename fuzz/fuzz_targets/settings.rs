//! Variables, `~/.netrc`, URLs, `Retry-After`: no text makes their readers panic, and what they
//! accept is what they promise.

#![no_main]

use libfuzzer_sys::fuzz_target;
use weave_wal::fuzzing;

fuzz_target!(|input: (&str, &str)| {
    let (text, other) = input;
    fuzzing::settings(text, other);
});
