//! The server's URL and the API key, checked before anything is sent: minreq takes what it is
//! given, and guesses.

use crate::error::Error;

/// A URL that minreq reads as it is meant.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct ServerUrl {
    /// The whole of it, the scheme in lower case and without a `/` at the end.
    pub text: String,
    pub https: bool,
    pub host: String,
    pub port: u16,
}

impl ServerUrl {
    /// `http[s]://host[:port][/path]`. Messages show the URL only where it can hold no secret.
    pub(crate) fn parse(url: &str) -> Result<Self, Error> {
        let refuse = |why: &str| {
            Err(Error::Config(format!(
                "the server URL cannot be used: {why}; set it as in https://trace.wandb.ai"
            )))
        };
        if !url.bytes().all(|byte| byte.is_ascii_graphic()) {
            return refuse("it holds white space, control or non-ASCII characters");
        }
        let (https, rest) = match url.split_once("://") {
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("https") => (true, rest),
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("http") => (false, rest),
            _ => return refuse("it does not begin with http:// or https://"),
        };
        if rest.contains('@') {
            return refuse("it holds an `@`; a user name or password does not belong there");
        }
        if rest.contains(['?', '#']) {
            return refuse("it holds a query or a fragment");
        }
        let rest = rest.trim_end_matches('/');
        let authority = rest.split('/').next().unwrap_or_default();
        if authority.starts_with('[') {
            return refuse("IPv6 addresses are not supported, use a host name");
        }
        let (host, port) = match authority.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (authority, None),
        };
        if host.is_empty() {
            return refuse("it names no host");
        }
        if !host.bytes().all(is_host_byte) {
            return refuse("its host holds characters that no host name has");
        }
        let port = match port {
            None if https => 443,
            None => 80,
            Some(digits) => match digits.parse::<u16>() {
                Ok(port) if port > 0 && digits.bytes().all(|b| b.is_ascii_digit()) => port,
                _ => return refuse("its port is not a number from 1 to 65535"),
            },
        };
        Ok(ServerUrl {
            text: format!("http{}://{rest}", if https { "s" } else { "" }),
            https,
            host: host.to_owned(),
            port,
        })
    }
}

pub(crate) fn is_host_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_')
}

/// A key goes into a header as it is, so a line break in it would be a header of its own.
pub(crate) fn check_key(key: &str) -> Result<(), Error> {
    let fault = if key.is_empty() {
        "is empty"
    } else if !key.bytes().all(|byte| byte.is_ascii_graphic()) {
        "holds white space, control or non-ASCII characters"
    } else {
        return Ok(());
    };
    Err(Error::Config(format!(
        "the API key {fault} (not shown here): check WANDB_API_KEY, or the setting it came from, \
         for quotes and line breaks"
    )))
}

/// Would a message with this URL show the key? A short one is a stand-in, for a server that asks for
/// none.
pub(crate) fn holds_key(url: &str, key: &str) -> bool {
    key.len() >= 16 && url.contains(key)
}

/// Percent-encodes what may not stand in the path of a URL, so that no name can end the request
/// line or begin a query. `%` is taken to be the beginning of something encoded already.
pub(crate) fn encode_path(path: &str) -> String {
    let mut encoded = String::with_capacity(path.len());
    for byte in path.bytes() {
        if byte.is_ascii_alphanumeric() || b"/-._~!$&'()*+,;=:@%".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn refusal(url: &str) -> String {
        match ServerUrl::parse(url) {
            Err(Error::Config(message)) => message,
            other => panic!("{url:?} gave {other:?}"),
        }
    }

    #[test]
    fn scheme_host_and_port_are_found() {
        for (url, text, https, host, port) in [
            ("https://h", "https://h", true, "h", 443),
            ("http://h/", "http://h", false, "h", 80),
            (
                "HTTP://127.0.0.1:8900",
                "http://127.0.0.1:8900",
                false,
                "127.0.0.1",
                8900,
            ),
            (
                "https://a_b-c.d:1/traces//",
                "https://a_b-c.d:1/traces",
                true,
                "a_b-c.d",
                1,
            ),
        ] {
            let expected = ServerUrl {
                text: text.to_owned(),
                https,
                host: host.to_owned(),
                port,
            };
            assert_eq!(ServerUrl::parse(url).unwrap(), expected);
        }
    }

    #[test]
    fn a_url_that_minreq_would_misread_is_refused() {
        for (url, why) in [
            ("", "begin with"),
            ("trace.wandb.ai", "begin with"),
            ("ftp://h", "begin with"),
            ("http://", "no host"),
            ("http:///path", "no host"),
            ("http://:80", "no host"),
            ("http://h:", "port"),
            ("http://h:0", "port"),
            ("http://h:65536", "port"),
            ("http://h:+80", "port"),
            ("http://h:80:90", "port"),
            ("http://[::1]:80", "IPv6"),
            ("http://h?x=1", "query"),
            ("http://h/#x", "fragment"),
            ("http://h/a b", "white space"),
            (" http://h", "white space"),
            ("http://h\r\nX: y", "white space"),
            ("http://bücher.de", "non-ASCII"),
            ("http://a%20b", "host name"),
        ] {
            let message = refusal(url);
            assert!(message.contains(why), "{url:?}: {message}");
        }
    }

    #[test]
    fn a_password_in_the_url_is_refused_and_not_shown() {
        let message = refusal("https://me:secret@h");
        assert!(
            message.contains('@') && !message.contains("secret"),
            "{message}"
        );
    }

    #[test]
    fn a_key_that_cannot_stand_in_a_header_is_refused_and_not_shown() {
        assert!(check_key("0123abcdef").is_ok());
        for key in [
            "",
            "secret\n",
            "secret\r\nX: y",
            " secret",
            "sécret",
            "secret\u{7f}",
        ] {
            let message = check_key(key).unwrap_err().to_string();
            assert!(message.contains("WANDB_API_KEY"), "{message}");
            assert!(key.is_empty() || !message.contains(key), "{message}");
            assert!(!message.contains("secret"), "{message}");
        }
    }

    #[test]
    fn a_path_cannot_leave_its_place() {
        assert_eq!(encode_path("/call/upsert_batch"), "/call/upsert_batch");
        assert_eq!(encode_path("/v2/a b/c%20d/é"), "/v2/a%20b/c%20d/%C3%A9");
        assert_eq!(
            encode_path("/x?y#z HTTP/1.1\r\n"),
            "/x%3Fy%23z%20HTTP/1.1%0D%0A"
        );
    }

    proptest! {
        #[test]
        fn any_text_is_survived(url in ".{0,60}") {
            if let Ok(parsed) = ServerUrl::parse(&url) {
                prop_assert_eq!(&ServerUrl::parse(&parsed.text).unwrap(), &parsed);
            }
            prop_assert!(encode_path(&url).bytes().all(|byte| byte.is_ascii_graphic()));
        }
    }
}
