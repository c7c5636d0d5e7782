//! Reads a command's arguments: flags, options with a value, and what is neither.

use std::ffi::{OsStr, OsString};
use std::fmt::Display;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::str::FromStr;

use weave_wal::Error;

/// What a command understands, spelled as it is typed: `--json`, `--root`.
pub(crate) struct Known {
    /// These stand alone.
    pub(crate) flags: &'static [&'static str],
    /// These need a value: `--root DIR` or `--root=DIR`.
    pub(crate) options: &'static [&'static str],
    /// How many arguments may be neither.
    pub(crate) others: usize,
}

/// The arguments of one command. Of an option that is given twice the last counts.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Args {
    flags: Vec<&'static str>,
    options: Vec<(&'static str, OsString)>,
    others: Vec<OsString>,
}

impl Args {
    /// Reads all arguments. `--` ends the options; a lone `-` is none.
    pub(crate) fn read(
        known: &Known,
        args: impl IntoIterator<Item = OsString>,
    ) -> Result<Args, Error> {
        let mut args = args.into_iter();
        let mut read = Args::default();
        while let Some(arg) = args.next() {
            if arg == "--" {
                read.others.extend(args.by_ref());
            } else if arg.len() > 1 && arg.as_bytes().starts_with(b"-") {
                read.option(known, &arg, &mut args)?;
            } else {
                read.others.push(arg);
            }
        }
        match read.others.get(known.others) {
            Some(extra) => Err(Error::Config(format!("unexpected argument: {extra:?}"))),
            None => Ok(read),
        }
    }

    fn option(
        &mut self,
        known: &Known,
        arg: &OsStr,
        rest: &mut impl Iterator<Item = OsString>,
    ) -> Result<(), Error> {
        let mut parts = arg.as_bytes().splitn(2, |&byte| byte == b'=');
        let name = String::from_utf8_lossy(parts.next().unwrap_or_default());
        let attached = parts
            .next()
            .map(|value| OsStr::from_bytes(value).to_owned());
        if let Some(flag) = known.flags.iter().find(|&&flag| flag == name) {
            self.flags.push(flag);
            return match attached {
                Some(_) => Err(Error::Config(format!("{flag} takes no value"))),
                None => Ok(()),
            };
        }
        let Some(option) = known.options.iter().find(|&&option| option == name) else {
            let names = [known.flags, known.options].concat();
            return Err(unknown("option", &name, &names));
        };
        // A separate value that looks like an option is a forgotten one.
        let separate = || rest.next().filter(|v| !v.as_bytes().starts_with(b"--"));
        match attached.or_else(separate).filter(|value| !value.is_empty()) {
            Some(value) => self.options.push((option, value)),
            None => return Err(Error::Config(format!("{option} needs a value"))),
        }
        Ok(())
    }

    /// Was this flag given?
    pub(crate) fn flag(&self, name: &str) -> bool {
        self.flags.contains(&name)
    }

    /// An option's value as a path, which need not be UTF-8.
    pub(crate) fn path(&self, name: &str) -> Option<&Path> {
        let last = self.options.iter().rfind(|(known, _)| *known == name);
        last.map(|(_, value)| Path::new(value))
    }

    /// An option's value as what it stands for: a string, a number, a kind.
    pub(crate) fn value<T: FromStr<Err: Display>>(&self, name: &str) -> Result<Option<T>, Error> {
        let Some(value) = self.path(name) else {
            return Ok(None);
        };
        let refuse = |why: &dyn Display| Error::Config(format!("{name} {value:?}: {why}"));
        let text = value.to_str().ok_or_else(|| refuse(&"not UTF-8"))?;
        text.parse().map(Some).map_err(|why| refuse(&why))
    }

    /// What was neither flag nor option, in its order.
    pub(crate) fn others(&self) -> &[OsString] {
        &self.others
    }
}

/// As in "no such command: "stauts"; did you mean status?".
pub(crate) fn unknown(what: &str, name: &str, known: &[&str]) -> Error {
    let begun = |candidate: &&&str| name.len() > 2 && candidate.starts_with(name);
    // Of one or two characters everything is near.
    let near = |candidate: &&&str| distance(name, candidate) <= 2.min(name.len().saturating_sub(2));
    let nearest = || known.iter().filter(near).min_by_key(|c| distance(name, c));
    let hint = match known.iter().find(begun).or_else(nearest) {
        Some(meant) => format!("; did you mean {meant}?"),
        None => String::new(),
    };
    Error::Config(format!("no such {what}: {name:?}{hint}"))
}

/// How many characters to put in, take out or replace to make one word the other.
fn distance(one: &str, other: &str) -> usize {
    let mut row: Vec<usize> = (0..=other.chars().count()).collect();
    for (i, a) in one.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, b) in other.chars().enumerate() {
            let replaced = diagonal + usize::from(a != b);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[row.len() - 1]
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStringExt;

    use super::*;

    const KNOWN: Known = Known {
        flags: &["--json", "--watch", "-h"],
        options: &["--root", "--project", "--timeout"],
        others: 2,
    };

    fn read(line: &str) -> Result<Args, Error> {
        Args::read(&KNOWN, line.split_terminator(' ').map(OsString::from))
    }

    fn refusal(line: &str) -> String {
        read(line).unwrap_err().to_string()
    }

    #[test]
    fn flags_options_and_the_rest_are_told_apart() {
        let args = read("a --json --root dir --project=t/a=b - -h").unwrap();
        assert!(args.flag("--json") && args.flag("-h") && !args.flag("--watch"));
        assert_eq!(args.path("--root"), Some(Path::new("dir")));
        assert_eq!(args.value("--project").unwrap(), Some("t/a=b".to_owned()));
        assert_eq!(args.value::<u64>("--timeout").unwrap(), None);
        assert_eq!(args.others(), ["a", "-"]);
        assert_eq!(read("").unwrap(), Args::default());
    }

    #[test]
    fn two_dashes_end_the_options() {
        let args = read("--json -- --watch --").unwrap();
        assert_eq!(args.others(), ["--watch", "--"]);
        assert!(!args.flag("--watch"));
    }

    #[test]
    fn of_an_option_given_twice_the_last_counts() {
        let args = read("--timeout 1 --timeout=2 --json --json").unwrap();
        assert_eq!(args.value("--timeout").unwrap(), Some(2_u64));
    }

    #[test]
    fn an_option_without_its_value_is_refused() {
        for line in ["--root", "--root --json", "--root=", "--json --root --"] {
            assert_eq!(refusal(line), "--root needs a value");
        }
        assert_eq!(refusal("--json=1"), "--json takes no value");
        assert_eq!(
            read("--root=--json").unwrap().path("--root"),
            Some(Path::new("--json"))
        );
    }

    #[test]
    fn an_unknown_option_is_refused_with_the_nearest_known_one() {
        for (line, meant) in [
            ("--rot=x", "--root"),
            ("--jsno", "--json"),
            ("--proj", "--project"),
            ("-json", "--json"),
        ] {
            let message = refusal(line);
            assert!(
                message.ends_with(&format!("; did you mean {meant}?")),
                "{message}"
            );
        }
        assert_eq!(refusal("--frobnicate"), "no such option: \"--frobnicate\"");
        assert_eq!(refusal("-x"), "no such option: \"-x\"");
        assert_eq!(refusal("a b c"), "unexpected argument: \"c\"");
    }

    #[test]
    fn a_value_that_does_not_parse_is_refused_with_its_option() {
        let error = read("--timeout soon")
            .unwrap()
            .value::<u64>("--timeout")
            .unwrap_err();
        assert_eq!(
            error.to_string(),
            "--timeout \"soon\": invalid digit found in string"
        );
    }

    #[test]
    fn only_a_path_need_not_be_utf8() {
        let odd = OsString::from_vec(b"--root=\xff".to_vec());
        let args = Args::read(&KNOWN, [odd, OsString::from_vec(b"\xfe".to_vec())]).unwrap();
        assert_eq!(args.path("--root").unwrap().as_os_str().as_bytes(), b"\xff");
        let message = args.value::<String>("--root").unwrap_err().to_string();
        assert_eq!(message, "--root \"\\xFF\": not UTF-8");
        let odd = OsString::from_vec(b"--\xff".to_vec());
        assert!(Args::read(&KNOWN, [odd]).unwrap_err().is_config());
    }

    #[test]
    fn distance_counts_single_changes() {
        for (one, other, expected) in [
            ("", "", 0),
            ("", "ab", 2),
            ("kitten", "sitting", 3),
            ("é", "e", 1),
        ] {
            assert_eq!(distance(one, other), expected);
            assert_eq!(distance(other, one), expected);
        }
    }
}
