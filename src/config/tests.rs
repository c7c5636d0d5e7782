use std::ffi::OsString;

use super::*;

fn config() -> Config {
    Config::new("my-team", "my-app")
}

fn from(variables: &[(&str, &str)]) -> Result<Config, Error> {
    Config::from_lookup("my-team/my-app", &|name| {
        let found = variables.iter().find(|(known, _)| *known == name);
        found.map(|(_, value)| OsString::from(value))
    })
}

fn refusal(config: Config) -> String {
    match config.check() {
        Err(Error::Config(message)) => message,
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_defaults_are_those_of_the_documentation() {
    let shown = format!("{:?}", config());
    assert_eq!(
        shown,
        "Config { entity: \"my-team\", project: \"my-app\", root: \".weave/wal\", \
         server: \"https://trace.wandb.ai\", api_key: None, storage: Disk, \
         durability: Written, sender: true, sync_interval: 100ms, segment_bytes: 67108864, \
         record_limit: 16777216, queue_records: 100000, queue_bytes: 8388608, \
         queue_wait: 5s, batch_records: 10000, batch_bytes: 4194304, \
         request_timeout: 30s, disk_budget: 4294967296, free_space_floor: None, \
         when_full: Reject, start_jitter: 2s, on_event: None }"
    );
    config().check().unwrap();
}

#[test]
fn every_option_sets_itself_and_nothing_else() {
    let all = config()
        .root("/wal")
        .server("http://localhost:1")
        .api_key("k")
        .storage(Storage::Memory)
        .durability(Durability::Synced)
        .sender(false)
        .sync_interval(Duration::from_secs(2))
        .segment_bytes(3)
        .record_limit(4)
        .queue_records(5)
        .queue_bytes(6)
        .queue_wait(Duration::from_secs(7))
        .batch_records(8)
        .batch_bytes(9)
        .request_timeout(Duration::from_secs(10))
        .disk_budget(11)
        .free_space_floor(12)
        .when_full(WhenFull::DropOldest)
        .start_jitter(Duration::from_secs(13))
        .on_event(|_| ());
    assert_eq!(
        format!("{all:?}"),
        "Config { entity: \"my-team\", project: \"my-app\", root: \"/wal\", \
         server: \"http://localhost:1\", api_key: Some(\"(hidden)\"), storage: Memory, \
         durability: Synced, sender: false, sync_interval: 2s, segment_bytes: 3, \
         record_limit: 4, queue_records: 5, queue_bytes: 6, queue_wait: 7s, \
         batch_records: 8, batch_bytes: 9, request_timeout: 10s, disk_budget: 11, \
         free_space_floor: Some(12), when_full: DropOldest, start_jitter: 13s, \
         on_event: Some(\"(a callback)\") }"
    );
    assert_eq!(all.api_key.as_deref(), Some("k"));
    all.check().unwrap();
}

#[test]
fn debug_output_never_has_the_key() {
    for (key, server) in [
        ("s3cret", "https://api:s3cret@host"),
        (
            "0123456789abcdef-s3cret",
            "https://host/0123456789abcdef-s3cret",
        ),
    ] {
        let config = config().api_key(key).server(server);
        for shown in [format!("{config:?}"), format!("{config:#?}")] {
            assert!(!shown.contains("s3cret"), "{shown}");
        }
    }
}

#[test]
fn a_name_that_is_no_directory_is_refused() {
    assert!(refusal(Config::new("..", "app")).contains("entity"));
    assert!(refusal(Config::new("team", "a/b")).contains("project"));
}

#[test]
fn limits_without_room_for_anything_are_refused_by_name() {
    for (config, name) in [
        (config().segment_bytes(0), "segment_bytes"),
        (config().record_limit(0), "record_limit"),
        (config().queue_records(0), "queue_records"),
        (config().queue_bytes(0), "queue_bytes"),
        (config().batch_records(0), "batch_records"),
        (config().batch_bytes(0), "batch_bytes"),
        (config().disk_budget(0), "disk_budget"),
        (config().start_jitter(Duration::MAX), "start_jitter"),
        (config().sync_interval(Duration::ZERO), "sync_interval"),
        (
            config().request_timeout(Duration::from_millis(999)),
            "request_timeout",
        ),
        (config().root(""), "root"),
        (config().api_key(""), "API key"),
        (config().api_key(" \n"), "API key"),
    ] {
        let message = refusal(config);
        assert!(message.contains(name), "{message}");
    }
}

#[test]
fn a_wait_has_an_end() {
    for (config, name) in [
        (config().sync_interval(Duration::MAX), "sync_interval"),
        (config().queue_wait(Duration::MAX), "queue_wait"),
        (config().request_timeout(Duration::MAX), "request_timeout"),
    ] {
        let message = refusal(config);
        assert!(message.starts_with(name), "{message}");
    }
    config().queue_wait(Duration::ZERO).check().unwrap();
    config().queue_wait(LONGEST_WAIT).check().unwrap();
}

#[test]
fn an_empty_environment_is_memory_and_the_public_cloud() {
    let config = from(&[]).unwrap();
    assert_eq!(config.storage, Storage::Memory);
    let expected = Config::new("my-team", "my-app").storage(Storage::Memory);
    assert_eq!(format!("{config:?}"), format!("{expected:?}"));
    config.check().unwrap();
}

#[test]
fn the_environment_sets_what_it_names() {
    let config = from(&[
        ("WEAVE_ENABLE_WAL", "True"),
        ("WEAVE_DISABLE_WAL_SENDER", "on"),
        ("WEAVE_WAL_DIR", "/var/wal"),
        ("WF_TRACE_SERVER_URL", "http://localhost:6345"),
        ("WANDB_API_KEY", "k"),
    ])
    .unwrap();
    let expected = Config::new("my-team", "my-app")
        .sender(false)
        .root("/var/wal")
        .server("http://localhost:6345")
        .api_key("k");
    assert_eq!(format!("{config:?}"), format!("{expected:?}"));
    assert_eq!(config.api_key, expected.api_key);
}

#[test]
fn an_empty_variable_counts_as_not_set() {
    let config = from(&[
        ("WEAVE_ENABLE_WAL", ""),
        ("WEAVE_DISABLE_WAL_SENDER", ""),
        ("WEAVE_WAL_DIR", ""),
        ("WF_TRACE_SERVER_URL", ""),
        ("WANDB_BASE_URL", ""),
        ("WANDB_API_KEY", ""),
    ])
    .unwrap();
    assert_eq!(format!("{config:?}"), format!("{:?}", from(&[]).unwrap()));
}

#[test]
fn an_environment_that_makes_no_sense_is_an_error_that_names_the_variable() {
    for name in ["WEAVE_ENABLE_WAL", "WEAVE_DISABLE_WAL_SENDER"] {
        let message = from(&[(name, "maybe")]).unwrap_err().to_string();
        assert!(
            message.contains(name) && message.contains("maybe"),
            "{message}"
        );
    }
    assert!(
        Config::from_lookup("my-app", &|_| None)
            .unwrap_err()
            .is_config()
    );
}

#[test]
fn names_of_choices_are_read_as_they_are_shown() {
    for storage in [Storage::Disk, Storage::Memory] {
        assert_eq!(storage.to_string().parse::<Storage>().unwrap(), storage);
    }
    for durability in [
        Durability::Buffered,
        Durability::Written,
        Durability::Synced,
    ] {
        assert_eq!(
            durability.to_string().parse::<Durability>().unwrap(),
            durability
        );
    }
    for when_full in [WhenFull::Reject, WhenFull::DropOldest] {
        assert_eq!(
            when_full.to_string().parse::<WhenFull>().unwrap(),
            when_full
        );
    }
    let message = "fsynced".parse::<Durability>().unwrap_err().to_string();
    assert_eq!(
        message,
        "no such durability: \"fsynced\"; it is one of buffered, written, synced"
    );
    assert!(Durability::Synced > Durability::Written && Durability::Written > Durability::Buffered);
}
