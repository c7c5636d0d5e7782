//! What an answer means, in a form that people can read and that tells no secrets.

use std::time::Duration;

/// No more than this of an answer is kept with a rejected record.
pub(crate) const MAX_DETAIL: usize = 1024;
/// No more than this of an answer is put into a message.
pub(crate) const MAX_QUOTE: usize = 200;

/// What became of a request.
#[derive(Debug)]
pub(crate) enum Answer {
    /// A status of 2xx. The body is what could be read of it, at most 64 KiB; not redacted.
    Delivered { body: Vec<u8> },
    /// Not now: the same again later. It may have been applied all the same.
    Retry {
        why: String,
        /// What the server asked for.
        after: Option<Duration>,
        /// The request was out and no answer came: it may have been applied. After a timeout
        /// below TLS minreq leaves a thread and a socket behind: back off far.
        unanswered: bool,
    },
    /// The configuration is wrong, not the request.
    Pause { why: String, status: Option<u16> },
    /// The server does not want this request.
    Reject {
        status: u16,
        /// The first 1 KiB of the answer, without control characters and the key.
        detail: String,
    },
}

/// The API key, in the two forms in which it could turn up in a text. No `Debug`.
pub(crate) struct Key {
    pub plain: String,
    /// Base64 of `api:` and the key.
    pub encoded: String,
}

/// What an answer with this status means. `after` is its `Retry-After`.
pub(crate) fn judge(
    key: Option<&Key>,
    url: &str,
    status: u16,
    body: &[u8],
    after: Option<Duration>,
) -> Answer {
    let says = match quote(key, body, MAX_QUOTE) {
        text if text.is_empty() => text,
        text => format!("; it says: {text}"),
    };
    let pause = |why: String| Answer::Pause {
        why: format!("{why}; everything is kept{says}"),
        status: Some(status),
    };
    match status {
        200..=299 => Answer::Delivered {
            body: body.to_vec(),
        },
        300..=399 => pause(format!(
            "{url} redirects elsewhere ({status}), which is not followed: check the server URL"
        )),
        401 if key.is_none() => pause(format!(
            "{url} wants an API key (401) and there is none: set WANDB_API_KEY"
        )),
        401 => pause(format!(
            "{url} refused the API key (401): check WANDB_API_KEY"
        )),
        403 => pause(format!(
            "{url} does not let this API key in (403): check the key and the project"
        )),
        404 | 405 => pause(format!(
            "{url} is not a trace server's address ({status}): check the server URL"
        )),
        407 => pause(format!(
            "a proxy on the way to {url} wants credentials (407): check the proxy settings"
        )),
        408 | 425 | 429 | 500..=599 => Answer::Retry {
            why: format!("{url} cannot take it now ({status}){says}"),
            after,
            unanswered: false,
        },
        400..=499 => Answer::Reject {
            status,
            detail: quote(key, body, MAX_DETAIL),
        },
        _ => retry(format!("{url} did not answer in HTTP (status {status})")),
    }
}

/// Foreign text made fit for a message: one line, short, without the key.
pub(crate) fn quote(key: Option<&Key>, bytes: &[u8], limit: usize) -> String {
    let mut text: String = String::from_utf8_lossy(bytes)
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    // Before it is cut, so that no half of the key is left over.
    if let Some(key) = key {
        text = text
            .replace(&key.encoded, "<hidden>")
            .replace(key.encoded.trim_end_matches('='), "<hidden>")
            .replace(&key.plain, "<hidden>");
    }
    let mut end = limit.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.truncate(end);
    text.trim().to_owned()
}

/// The status and body of the first answer in `bytes` that is not an interim one.
pub(crate) fn final_answer(mut bytes: &[u8]) -> Option<(u16, &[u8])> {
    loop {
        let end = bytes.windows(4).position(|four| four == b"\r\n\r\n")?;
        let head = std::str::from_utf8(&bytes[..end]).ok()?;
        let status = head.strip_prefix("HTTP/1.")?.split(' ').nth(1)?;
        let status = status.lines().next()?.parse().ok()?;
        bytes = &bytes[end + 4..];
        if !(100..200).contains(&status) {
            return Some((status, bytes));
        }
    }
}

/// Later; the server did not take it.
pub(crate) fn retry(why: String) -> Answer {
    Answer::Retry {
        why,
        after: None,
        unanswered: false,
    }
}

/// Later; the server may have taken it, but that is not known.
pub(crate) fn unanswered(why: String) -> Answer {
    Answer::Retry {
        why,
        after: None,
        unanswered: true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_a_key_is_not_left_over_where_a_text_is_cut() {
        let key = Key {
            plain: "0123456789".to_owned(),
            encoded: "YXBpOjAxMjM0NTY3ODk=".to_owned(),
        };
        let unpadded = key.encoded.trim_end_matches('=');
        for secret in [&key.plain, &key.encoded, unpadded] {
            for before in 0..=30 {
                let text = "x".repeat(before) + secret;
                let quoted = quote(Some(&key), text.as_bytes(), 20);
                assert!(!quoted.contains("01") && !quoted.contains("YX"), "{quoted}");
            }
        }
    }

    #[test]
    fn what_the_server_says_is_quoted_and_its_silence_is_not() {
        for (body, expected) in [
            (&b"full"[..], "u cannot take it now (503); it says: full"),
            (b" \n", "u cannot take it now (503)"),
        ] {
            let Answer::Retry { why, .. } = judge(None, "u", 503, body, None) else {
                panic!("503 means later");
            };
            assert_eq!(why, expected);
        }
    }

    #[test]
    fn foreign_text_is_one_short_line() {
        assert_eq!(quote(None, b"\x1b[1mA\r\nB\0\xff", 100), "[1mA  B \u{fffd}");
        assert_eq!(quote(None, "a\u{e9}".as_bytes(), 2), "a");
    }

    #[test]
    fn the_final_answer_is_behind_the_interim_ones() {
        let found = |text: &str| final_answer(text.as_bytes()).map(|(status, _)| status);
        assert_eq!(found("HTTP/1.1 200\r\n\r\n"), Some(200));
        assert_eq!(
            found("HTTP/1.1 103 -\r\nA: b\r\n\r\nHTTP/1.0 422 No\r\n\r\nwhy"),
            Some(422)
        );
        for nonsense in [
            "",
            "HTTP/1.1 200 OK\r\n",
            "HTTP/1.1 100 -\r\n\r\n",
            "x 200 OK\r\n\r\n",
        ] {
            assert_eq!(found(nonsense), None, "{nonsense:?}");
        }
    }
}
