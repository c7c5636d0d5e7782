use std::os::unix::ffi::OsStringExt;
use std::process::Command;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use proptest::prelude::*;

use super::*;

/// An environment of these variables and no others.
fn of<'a>(variables: &'a [(&'a str, &'a str)]) -> impl Fn(&str) -> Option<OsString> + 'a {
    move |name| {
        let found = variables.iter().find(|(known, _)| *known == name);
        found.map(|(_, value)| value.into())
    }
}

fn server(variables: &[(&str, &str)]) -> String {
    server_url(&of(variables)).unwrap()
}

/// The key found with this netrc file and these other variables.
fn key(netrc: &str, others: &[(&str, &str)]) -> Option<String> {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), netrc).unwrap();
    let mut variables = vec![("NETRC", file.path().to_str().unwrap())];
    variables.extend(others);
    api_key(&of(&variables)).unwrap()
}

fn password(netrc: &str) -> Option<String> {
    netrc_password(netrc, "api.wandb.ai")
}

#[test]
fn a_switch_is_off_unless_it_says_on() {
    for (value, expected) in [
        ("1", true),
        ("true", true),
        ("TRUE", true),
        ("Yes", true),
        ("on", true),
        (" true\n", true),
        ("0", false),
        ("False", false),
        ("NO", false),
        ("off", false),
        ("", false),
        (" ", false),
    ] {
        assert_eq!(
            flag(&of(&[("X", value)]), "X").unwrap(),
            expected,
            "{value:?}"
        );
    }
    assert!(!flag(&of(&[]), "X").unwrap());
}

#[test]
fn a_switch_that_says_neither_is_an_error_that_names_it() {
    for value in ["2", "ture", "enabled", "yes please", "ｔrue"] {
        let error = flag(&of(&[("WEAVE_ENABLE_WAL", value)]), "WEAVE_ENABLE_WAL").unwrap_err();
        assert!(error.is_config());
        assert!(
            error.to_string().starts_with("WEAVE_ENABLE_WAL is \""),
            "{error}"
        );
    }
}

#[test]
fn a_value_that_is_not_utf8_is_an_error_that_does_not_show_it() {
    let lookup = |_: &str| Some(OsString::from_vec(b"secret\xff".to_vec()));
    let error = api_key(&lookup).unwrap_err().to_string();
    assert!(error.starts_with("WANDB_API_KEY is not UTF-8"), "{error}");
    assert!(!error.contains("secret"), "{error}");
    assert_eq!(path(&lookup, "X").unwrap().as_os_str().len(), 7);
}

#[test]
fn the_server_is_the_trace_server_variable_then_the_base_url_then_the_public_cloud() {
    let (trace, base) = ("WF_TRACE_SERVER_URL", "WANDB_BASE_URL");
    assert_eq!(server(&[]), "https://trace.wandb.ai");
    assert_eq!(server(&[(trace, ""), (base, "")]), "https://trace.wandb.ai");
    assert_eq!(
        server(&[(base, "https://api.wandb.ai/")]),
        "https://trace.wandb.ai"
    );
    assert_eq!(
        server(&[(base, "https://wb.example")]),
        "https://wb.example/traces"
    );
    assert_eq!(
        server(&[(base, "https://wb.example//")]),
        "https://wb.example/traces"
    );
    let both = [
        (trace, "http://localhost:6345/x"),
        (base, "https://wb.example"),
    ];
    assert_eq!(server(&both), "http://localhost:6345/x");
}

#[test]
fn the_variable_goes_before_the_netrc_file_unless_it_is_empty() {
    let netrc = "machine api.wandb.ai login user password from-file";
    let found = key(netrc, &[("WANDB_API_KEY", "from-variable\n")]);
    assert_eq!(found.as_deref(), Some("from-variable"));
    assert_eq!(
        key(netrc, &[("WANDB_API_KEY", " ")]).as_deref(),
        Some("from-file")
    );
}

#[test]
fn the_netrc_file_is_found_in_the_home_directory() {
    let home = tempfile::tempdir().unwrap();
    let variables = [("HOME", home.path().to_str().unwrap())];
    assert_eq!(api_key(&of(&variables)).unwrap(), None);
    let netrc = "machine api.wandb.ai\n  login user\n  password k3y\n";
    fs::write(home.path().join(".netrc"), netrc).unwrap();
    assert_eq!(api_key(&of(&variables)).unwrap().as_deref(), Some("k3y"));
}

#[test]
fn a_netrc_file_that_cannot_be_read_has_no_key() {
    let directory = tempfile::tempdir().unwrap();
    for odd in [
        directory.path(),
        Path::new("/dev/zero"),
        Path::new("/no/such/file"),
    ] {
        let variables = [("NETRC", odd.to_str().unwrap())];
        assert_eq!(api_key(&of(&variables)).unwrap(), None, "{odd:?}");
    }
    assert_eq!(api_key(&of(&[])).unwrap(), None);
}

#[test]
fn a_netrc_that_is_a_pipe_does_not_hang() {
    let directory = tempfile::tempdir().unwrap();
    let pipe = directory.path().join("netrc");
    let made = Command::new("mkfifo").arg(&pipe).status().unwrap();
    assert!(made.success());
    let (answer, answered) = mpsc::channel();
    thread::spawn(move || answer.send(read_netrc(&pipe)));
    assert_eq!(answered.recv_timeout(Duration::from_secs(10)), Ok(None));
}

#[test]
fn an_own_server_has_its_own_key_and_an_entry_with_the_port_goes_first() {
    let netrc = "machine api.wandb.ai password public\n\
                 machine wb.example password host\n\
                 machine wb.example:8080 password port\n";
    for (base, expected) in [
        ("https://wb.example", Some("host")),
        ("https://WB.example/path", Some("host")),
        ("https://someone:else@wb.example:443/", Some("host")),
        ("http://wb.example:8080", Some("port")),
        ("wb.example", Some("host")),
        ("https://other.example", None),
        ("", Some("public")),
        ("://", None),
    ] {
        let found = key(netrc, &[("WANDB_BASE_URL", base)]);
        assert_eq!(found.as_deref(), expected, "{base:?}");
    }
}

#[test]
fn the_password_of_another_machine_or_of_none_in_particular_is_not_taken() {
    assert_eq!(password("machine github.com login me password other"), None);
    assert_eq!(password("default login me password other"), None);
    let netrc = "machine api.wandb.ai login user\ndefault password other";
    assert_eq!(password(netrc), None);
    let netrc = "machine api.wandb.ai login user\nmachine other.example password other";
    assert_eq!(password(netrc), None);
}

#[test]
fn keywords_are_values_where_a_value_is_due() {
    let netrc = "machine api.wandb.ai login password password machine";
    assert_eq!(password(netrc).as_deref(), Some("machine"));
    let netrc = "machine api.wandb.ai account default password #1";
    assert_eq!(password(netrc).as_deref(), Some("#1"));
}

#[test]
fn macros_and_comments_are_skipped() {
    let ours = "machine api.wandb.ai password yes\n";
    for other in [
        "# machine api.wandb.ai password no\n",
        "#machine api.wandb.ai password no",
        "machine api.wandb.ai # password no\n",
        "macdef init\nmachine api.wandb.ai password no\n",
        "macdef init\r\npassword no\r\n\r\nmachine x password no\r\n",
    ] {
        let found = password(&format!("{ours}{other}"));
        assert_eq!(found.as_deref(), Some("yes"), "{other}");
        let found = password(&format!("{other}\n{ours}"));
        assert_eq!(found.as_deref(), Some("yes"), "{other}");
    }
}

#[test]
fn quotes_hold_words_together() {
    let netrc = r#"machine "api.wandb.ai" password "a b\"c""#;
    assert_eq!(password(netrc).as_deref(), Some("a b\"c"));
    let netrc = "machine api.wandb.ai password \"never closed\nmachine other password no";
    assert_eq!(password(netrc).as_deref(), Some("never closed"));
}

#[test]
fn of_two_entries_the_last_counts_and_an_empty_password_is_none() {
    let netrc = "machine api.wandb.ai password old\r\nmachine api.wandb.ai password new\r\n";
    assert_eq!(password(netrc).as_deref(), Some("new"));
    assert_eq!(password("machine api.wandb.ai password \"\""), None);
    assert_eq!(password("machine api.wandb.ai password"), None);
    assert_eq!(password("machine"), None);
    let cut_off = "machine api.wandb.ai password kept machine";
    assert_eq!(password(cut_off).as_deref(), Some("kept"));
}

#[test]
fn an_address_is_shown_without_its_password() {
    for (url, expected) in [
        ("https://api:k3y@host/x", "https://(hidden)@host/x"),
        ("https://api:k/3y@host", "https://(hidden)@host"),
        ("api:k3y@host", "(hidden)@host"),
        ("https://host:1/x", "https://host:1/x"),
    ] {
        assert_eq!(without_password(url), expected);
    }
}

proptest! {
    #[test]
    fn any_text_is_read_to_its_end(netrc in "[machinepsword \\n\"\\\\#é]{0,60}", machine: String) {
        let words = Words { rest: &netrc };
        prop_assert!(words.count() <= netrc.len());
        netrc_password(&netrc, &machine);
    }

    #[test]
    fn a_quoted_password_is_read_back(secret in "[^\n]{1,40}") {
        let escaped = secret.replace('\\', r"\\").replace('"', r#"\""#);
        let netrc = format!("machine m\npassword \"{escaped}\"\nmachine n password no");
        prop_assert_eq!(netrc_password(&netrc, "m"), Some(secret));
    }

    #[test]
    fn no_address_makes_it_stumble(url: String) {
        without_port(machine(&url));
        without_password(&url);
    }
}
