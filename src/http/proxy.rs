//! Which proxy the environment asks for. Pure: the variables come through a closure.
//!
//! The lower-case name goes first. `HTTP_PROXY` in upper case is not read in a CGI program, where it
//! is the client's `Proxy:` header. `NO_PROXY` lists where not to use one.

#[cfg(any(test, feature = "proxy"))]
use super::server_url::is_host_byte;
#[cfg(any(test, feature = "proxy"))]
use crate::error::Error;

/// Reads one environment variable.
pub(crate) type Env<'a> = &'a dyn Fn(&str) -> Option<String>;

/// The variable that names the proxy for this server, and its value, which may hold a password.
pub(crate) fn lookup(
    https: bool,
    host: &str,
    port: u16,
    env: Env,
) -> Option<(&'static str, String)> {
    let names: &[&'static str] = if https {
        &["https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"]
    } else if env("REQUEST_METHOD").is_none() {
        &["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"]
    } else {
        &["http_proxy", "all_proxy", "ALL_PROXY"]
    };
    let exceptions = env("no_proxy").or_else(|| env("NO_PROXY"));
    if exceptions.is_some_and(|list| is_excepted(&list, host, port)) {
        return None;
    }
    // The first one that is set decides; set to nothing, it means no proxy.
    let (variable, value) = names.iter().find_map(|name| Some((*name, env(name)?)))?;
    (!value.trim().is_empty()).then_some((variable, value))
}

/// Does this `NO_PROXY` list name the server? An entry is a host, which stands for the hosts
/// below it too, with or without a leading dot and a port; `*` is every host.
fn is_excepted(list: &str, host: &str, port: u16) -> bool {
    let host = host.trim_end_matches('.').to_ascii_lowercase();
    list.split([',', ' ', '\t'])
        .filter(|entry| !entry.is_empty())
        .any(|entry| {
            let (name, entry_port) = match entry.rsplit_once(':') {
                Some((name, number)) => (name, Some(number)),
                None => (entry, None),
            };
            let name = name.trim_matches('.').to_ascii_lowercase();
            let same_host = name == "*"
                || host
                    .strip_suffix(&name)
                    .is_some_and(|rest| rest.is_empty() || rest.ends_with('.'));
            let same_port = entry_port.is_none_or(|number| number.parse() == Ok(port));
            !name.is_empty() && same_host && same_port
        })
}

/// The variable that minreq itself would read for a request without a proxy of its own. It knows
/// no `NO_PROXY`, and it reads some of the names only.
#[cfg(any(test, feature = "proxy"))]
pub(crate) fn read_by_minreq(https: bool, env: Env) -> Option<&'static str> {
    let names: &[&'static str] = if https {
        &["https_proxy"]
    } else {
        &["http_proxy", "all_proxy"]
    };
    names.iter().copied().find(|name| env(name).is_some())
}

#[cfg(any(test, feature = "proxy"))]
/// The proxy as minreq takes it: `[user[:password]@]host:port`, the credentials decoded.
pub(crate) fn address(variable: &str, value: &str) -> Result<String, Error> {
    let unusable = |why: &str| {
        Err(Error::Config(format!(
            "{variable} cannot be used: {why}; set it to http://[user:password@]host:port, or \
                 unset it"
        )))
    };
    let value = value.trim();
    let rest = match value.split_once("://") {
        Some((scheme, rest)) if scheme.eq_ignore_ascii_case("http") => rest,
        Some(_) => return unusable("only proxies that speak plain HTTP are supported"),
        None => value,
    };
    let (credentials, place) = match rest.rsplit_once('@') {
        Some((credentials, place)) => (Some(credentials), place),
        None => (None, rest),
    };
    let (host, port) = match place.trim_end_matches('/').split_once(':') {
        Some((host, port)) => (host, port),
        // What curl and minreq take for it.
        None => (place.trim_end_matches('/'), "1080"),
    };
    if host.is_empty() || !host.bytes().all(is_host_byte) {
        return unusable("its host is not a host name or an IPv4 address");
    }
    let Some(port) = port.parse::<u16>().ok().filter(|port| *port > 0) else {
        return unusable("its port is not a number from 1 to 65535");
    };
    Ok(match credentials.map(percent_decoded) {
        Some(credentials) => format!("{credentials}@{host}:{port}"),
        None => format!("{host}:{port}"),
    })
}

#[cfg(any(test, feature = "proxy"))]
fn percent_decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let hex = after.get(..2).and_then(|two| std::str::from_utf8(two).ok());
        let decoded = hex
            .filter(|two| first == b'%' && two.bytes().all(|b| b.is_ascii_hexdigit()))
            .and_then(|two| u8::from_str_radix(two, 16).ok());
        bytes.push(decoded.unwrap_or(first));
        rest = if decoded.is_some() {
            &after[2..]
        } else {
            after
        };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(https: bool, host: &str, port: u16, vars: &[(&str, &str)]) -> Option<&'static str> {
        lookup(https, host, port, &set(vars)).map(|(variable, _)| variable)
    }

    fn set(vars: &[(&str, &str)]) -> impl Fn(&str) -> Option<String> {
        |name| {
            let found = vars.iter().find(|(var, _)| *var == name)?;
            Some(found.1.to_owned())
        }
    }

    #[test]
    fn the_scheme_chooses_the_variable_and_lower_case_goes_first() {
        let all = [
            ("HTTPS_PROXY", "a"),
            ("https_proxy", "b"),
            ("HTTP_PROXY", "c"),
            ("http_proxy", "d"),
            ("ALL_PROXY", "e"),
        ];
        assert_eq!(named(true, "h", 443, &all), Some("https_proxy"));
        assert_eq!(named(true, "h", 443, &all[..1]), Some("HTTPS_PROXY"));
        assert_eq!(named(false, "h", 80, &all), Some("http_proxy"));
        assert_eq!(named(false, "h", 80, &all[4..]), Some("ALL_PROXY"));
        assert_eq!(named(true, "h", 443, &[]), None);
    }

    #[test]
    fn http_proxy_in_upper_case_is_not_read_in_a_cgi_program() {
        let vars = [("HTTP_PROXY", "c"), ("REQUEST_METHOD", "GET")];
        assert_eq!(named(false, "h", 80, &vars), None);
        assert_eq!(named(false, "h", 80, &vars[..1]), Some("HTTP_PROXY"));
    }

    #[test]
    fn a_variable_set_to_nothing_means_no_proxy() {
        let vars = [("https_proxy", ""), ("ALL_PROXY", "e")];
        assert_eq!(named(true, "h", 443, &vars), None);
    }

    #[test]
    fn no_proxy_names_hosts_suffixes_and_ports() {
        for (list, excepted) in [
            ("*", true),
            ("other.org, example.com", true),
            (".example.com", true),
            ("api.example.com", true),
            ("API.Example.COM.", true),
            ("example.com:8443", true),
            ("example.com:443", false),
            ("ample.com", false),
            ("example.com.evil.org", false),
            (",, .", false),
            ("", false),
        ] {
            assert_eq!(
                is_excepted(list, "api.example.com", 8443),
                excepted,
                "{list}"
            );
        }
        let vars = [("https_proxy", "p"), ("NO_PROXY", "127.0.0.1")];
        assert_eq!(named(true, "127.0.0.1", 443, &vars), None);
        assert_eq!(named(true, "127.0.0.2", 443, &vars), Some("https_proxy"));
    }

    #[test]
    fn what_minreq_reads_by_itself_is_known() {
        let upper = [("HTTPS_PROXY", "p"), ("ALL_PROXY", "p")];
        assert_eq!(read_by_minreq(true, &set(&upper)), None);
        assert_eq!(read_by_minreq(false, &set(&upper)), None);
        let lower = [("https_proxy", "p"), ("all_proxy", "p")];
        assert_eq!(read_by_minreq(true, &set(&lower)), Some("https_proxy"));
        assert_eq!(read_by_minreq(false, &set(&lower)), Some("all_proxy"));
    }

    #[test]
    fn usual_ways_to_write_a_proxy_are_understood() {
        for (value, expected) in [
            ("http://proxy:3128", "proxy:3128"),
            ("HTTP://proxy:3128/", "proxy:3128"),
            ("proxy", "proxy:1080"),
            ("http://me:p%40ss%@10.0.0.1:80", "me:p@ss%@10.0.0.1:80"),
        ] {
            assert_eq!(address("HTTPS_PROXY", value).unwrap(), expected);
        }
    }

    #[test]
    fn an_unusable_proxy_is_refused_without_showing_its_credentials() {
        for value in [
            "https://me:secret@proxy:3128",
            "socks5://me:secret@proxy",
            "me:secret@",
            "me:secret@proxy:0",
            "me:secret@proxy:70000",
            "me:secret@[::1]:3128",
            "me:secret@pro xy:1",
        ] {
            let message = address("HTTPS_PROXY", value).unwrap_err().to_string();
            assert!(message.contains("HTTPS_PROXY"), "{message}");
            assert!(!message.contains("secret"), "{message}");
        }
    }
}
