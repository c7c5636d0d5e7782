//! What the environment says: variables, and the API key that `wandb login` left in `~/.netrc`.
//!
//! Everything here asks a lookup, never the process, so that a test can be an environment.

use std::ffi::OsString;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use crate::error::Error;
use crate::name::shown;

/// The trace server of W&B's public cloud.
pub(crate) const DEFAULT_SERVER: &str = "https://trace.wandb.ai";

/// The API of W&B's public cloud, under whose name the key stands in `~/.netrc`.
const DEFAULT_BASE_URL: &str = "https://api.wandb.ai";

/// No real `~/.netrc` is longer; what is longer is not read further.
const NETRC_LIMIT: u64 = 1 << 20;

/// How to get a variable: `std::env::var_os`, or a test's own.
pub(crate) type Lookup<'a> = &'a dyn Fn(&str) -> Option<OsString>;

/// A variable's text. White space around it (a secret's final newline) does not count, and an
/// empty variable is one that is not set, as everywhere in a shell.
pub(crate) fn text(lookup: Lookup, name: &str) -> Result<Option<String>, Error> {
    let Some(value) = lookup(name) else {
        return Ok(None);
    };
    // The value is not shown: it may be the key.
    let value = value
        .into_string()
        .map_err(|_| Error::Config(format!("{name} is not UTF-8; set it again or unset it")))?;
    let value = value.trim();
    Ok((!value.is_empty()).then(|| value.to_owned()))
}

/// A switch, off unless it is set.
pub(crate) fn flag(lookup: Lookup, name: &str) -> Result<bool, Error> {
    let Some(value) = text(lookup, name)? else {
        return Ok(false);
    };
    match value.to_ascii_lowercase().as_str() {
        "1" | "true" | "yes" | "on" => Ok(true),
        "0" | "false" | "no" | "off" => Ok(false),
        _ => Err(Error::Config(format!(
            "{name} is {}, which is neither true (1, true, yes, on) nor false (0, false, no, off, \
             empty); set it to one of these or unset it",
            shown(&value)
        ))),
    }
}

/// A path, which need not be UTF-8 and is taken as it is.
pub(crate) fn path(lookup: Lookup, name: &str) -> Option<PathBuf> {
    let value = lookup(name)?;
    (!value.is_empty()).then(|| value.into())
}

/// The trace server's address.
pub(crate) fn server_url(lookup: Lookup) -> Result<String, Error> {
    if let Some(url) = text(lookup, "WF_TRACE_SERVER_URL")? {
        return Ok(url);
    }
    let base = base_url(lookup)?;
    if base == DEFAULT_BASE_URL {
        return Ok(DEFAULT_SERVER.to_owned());
    }
    Ok(format!("{base}/traces"))
}

/// The API key: the variable, else the password of W&B's machine in `~/.netrc` (or the file that
/// `NETRC` names).
pub(crate) fn api_key(lookup: Lookup) -> Result<Option<String>, Error> {
    if let Some(key) = text(lookup, "WANDB_API_KEY")? {
        return Ok(Some(key));
    }
    let file = path(lookup, "NETRC").or_else(|| Some(path(lookup, "HOME")?.join(".netrc")));
    let Some(netrc) = file.and_then(|file| read_netrc(&file)) else {
        return Ok(None);
    };
    let base = base_url(lookup)?;
    let machine = machine(&base);
    // An entry for this very port goes before one for the machine.
    Ok(netrc_password(&netrc, machine).or_else(|| netrc_password(&netrc, without_port(machine))))
}

fn base_url(lookup: Lookup) -> Result<String, Error> {
    let url = text(lookup, "WANDB_BASE_URL")?;
    let url = url.as_deref().unwrap_or(DEFAULT_BASE_URL);
    Ok(url.trim_end_matches('/').to_owned())
}

/// A missing, unreadable or odd file (a pipe would hang) is one without a key in it.
fn read_netrc(path: &Path) -> Option<String> {
    if !fs::metadata(path).ok()?.is_file() {
        return None;
    }
    let mut bytes = Vec::new();
    let file = fs::File::open(path).ok()?;
    file.take(NETRC_LIMIT).read_to_end(&mut bytes).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

/// `host:port` of an address.
fn machine(url: &str) -> &str {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    authority
        .rsplit_once('@')
        .map_or(authority, |(_, machine)| machine)
}

fn without_port(machine: &str) -> &str {
    match machine.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
        _ => machine,
    }
}

/// An address for a message: without the user and the password that somebody may have put there.
pub(crate) fn without_password(url: &str) -> String {
    let start = url.find("://").map_or(0, |at| at + 3);
    match url[start..].rsplit_once('@') {
        Some((_, machine)) => format!("{}(hidden)@{machine}", &url[..start]),
        None => url.to_owned(),
    }
}

/// The password that a netrc file has for a machine; of several the last, as Python's reader has
/// it. The `default` entry is for no one in particular and must not go to W&B.
pub(crate) fn netrc_password(netrc: &str, machine: &str) -> Option<String> {
    let mut words = Words { rest: netrc };
    let mut ours = false;
    let mut password = None;
    while let Some(word) = words.next() {
        match word.as_str() {
            "machine" => ours = words.value().eq_ignore_ascii_case(machine),
            "default" => ours = false,
            "login" | "user" | "account" => drop(words.value()),
            "password" => {
                let value = words.value();
                if ours && !value.is_empty() {
                    password = Some(value);
                }
            }
            "macdef" => words.skip_macro(),
            comment if comment.starts_with('#') => words.skip_line(),
            _ => {}
        }
    }
    password
}

/// The words of a netrc file: white space parts them, quotes hold them together, a backslash takes
/// the next character as it is.
struct Words<'a> {
    rest: &'a str,
}

impl Words<'_> {
    /// What follows a keyword; nothing if the file ends there.
    fn value(&mut self) -> String {
        self.next().unwrap_or_default()
    }

    fn skip_line(&mut self) {
        self.rest = self.rest.split_once('\n').map_or("", |(_, rest)| rest);
    }

    /// A macro goes on to the next empty line.
    fn skip_macro(&mut self) {
        self.skip_line();
        while !self.rest.is_empty() {
            let line = self.rest.lines().next().unwrap_or_default();
            self.skip_line();
            if line.is_empty() {
                return;
            }
        }
    }
}

impl Iterator for Words<'_> {
    type Item = String;

    fn next(&mut self) -> Option<String> {
        self.rest = self.rest.trim_start();
        let quoted = self.rest.starts_with('"');
        if self.rest.is_empty() {
            return None;
        }
        let mut chars = self.rest[usize::from(quoted)..].chars();
        let mut word = String::new();
        loop {
            self.rest = chars.as_str();
            match chars.next() {
                None => break,
                Some('"') if quoted => {
                    self.rest = chars.as_str();
                    break;
                }
                // A quote that is never closed ends with its line.
                Some('\n') => break,
                Some(end) if !quoted && end.is_whitespace() => break,
                Some('\\') => word.extend(chars.next()),
                Some(plain) => word.push(plain),
            }
        }
        Some(word)
    }
}

#[cfg(test)]
mod tests;
