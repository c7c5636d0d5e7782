//! `NO_PROXY` beside proxies named in lower case, which the HTTP client reads by itself, and the
//! demo, whose server no proxy can reach.

use std::env;
use std::ffi::OsStr;
use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

const NAMES: [(&str, &str); 3] = [
    ("http_proxy", "HTTP_PROXY"),
    ("https_proxy", "HTTPS_PROXY"),
    ("all_proxy", "ALL_PROXY"),
];

/// Begins anew with the upper-case names in place of the lower-case ones: these the HTTP client
/// would use whatever `NO_PROXY` says, those only weave-wal reads. Returns if there is no need, or
/// no way; then what cannot be done is said where the server's address is read.
pub(super) fn hide_from_http_client(args: &[impl AsRef<OsStr>]) {
    let is_set = |name: &str| env::var_os(name).is_some();
    let excepts = |value: &OsStr| value.is_empty() || is_set("no_proxy") || is_set("NO_PROXY");
    let lower = NAMES.map(|(lower, upper)| (lower, upper, env::var_os(lower)));
    let in_the_way = lower
        .iter()
        .any(|(_, _, value)| value.as_deref().is_some_and(excepts));
    let is_named = |(lower, upper): &(&str, &str)| is_set(lower) || is_set(upper);
    let is_demo = args.first().is_some_and(|name| name.as_ref() == "demo");
    let drops_all = is_demo && NAMES.iter().any(is_named);
    // In a CGI program the upper-case name is not read.
    if !drops_all && (!in_the_way || is_set("REQUEST_METHOD")) {
        return;
    }
    let begin = || -> io::Result<()> {
        let mut command = Command::new(env::current_exe()?);
        for (lower, upper, value) in lower {
            if drops_all {
                command.env_remove(lower).env_remove(upper);
            } else if let Some(value) = value {
                command.env_remove(lower).env(upper, value);
            }
        }
        Err(command.args(args).exec())
    };
    // Best effort, as said above.
    let _ = begin();
}
