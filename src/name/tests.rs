use std::os::unix::ffi::OsStringExt;
use std::path::Component;

use proptest::prelude::*;

use super::*;

fn refused(name: &str) -> String {
    match check_entity_or_project("entity", name) {
        Err(Error::Config(message)) => message,
        other => panic!("{name:?}: {other:?}"),
    }
}

fn parse(name: &str) -> Option<(String, Extension)> {
    FileName::parse(OsStr::new(name)).map(|(name, extension)| (name.to_string(), extension))
}

#[test]
fn names_that_are_not_one_plain_directory_are_refused() {
    for name in [
        "", ".", "..", "/", "a/b", "../up", "a\\b", "a\0b", "a\nb", "a\x7fb", "a\u{85}b", " a",
        "a ", "a\u{a0}",
    ] {
        refused(name);
    }
    refused(&"x".repeat(256));
}

#[test]
fn ordinary_and_odd_but_plain_names_are_taken() {
    for name in [
        "my-team", "a b", "...", ".hidden", "Zürich", "模型", "a.jsonl", "-x", "~",
    ] {
        check_entity_or_project("project", name).unwrap();
    }
    check_entity_or_project("project", &"x".repeat(255)).unwrap();
}

#[test]
fn a_refusal_shows_the_name_escaped_and_shortened() {
    let message = refused("a\u{1b}[2Jb");
    assert!(
        message.contains(r#"entity name "a\u{1b}[2Jb""#),
        "{message}"
    );
    assert!(!message.contains('\u{1b}'));
    let message = refused(&"\n".repeat(100_000));
    assert!(message.len() < 500, "{} bytes", message.len());
    assert!(message.contains("…\""));
}

#[test]
fn a_project_is_written_with_exactly_one_slash() {
    let (entity, project) = split_project("my-team/my app").unwrap();
    assert_eq!((&*entity, &*project), ("my-team", "my app"));
    for id in ["", "my-app", "a/b/c", "a//b", "//", "a/b/"] {
        let message = split_project(id).unwrap_err().to_string();
        assert!(message.contains("write it as entity/project"), "{message}");
    }
}

#[test]
fn both_halves_of_a_project_are_checked() {
    for (id, what) in [
        ("/", "entity"),
        ("/b", "entity"),
        ("a/", "project"),
        ("../b", "entity"),
        ("a/..", "project"),
    ] {
        let message = split_project(id).unwrap_err().to_string();
        assert!(message.contains(&format!("the {what} name")), "{message}");
    }
}

#[test]
fn a_new_name_has_twenty_digits_and_thirty_two_hex() {
    let name = FileName::new(1_763_820_622_123_456_789, [0x5f; 16]);
    assert_eq!(
        name.to_string(),
        "01763820622123456789_5f5f5f5f5f5f5f5f5f5f5f5f5f5f5f5f"
    );
    assert_eq!(FileName::new(0, [0; 16]).to_string().len(), 53);
    assert_eq!(FileName::new(u64::MAX, [255; 16]).to_string().len(), 53);
}

#[test]
fn a_log_that_somebody_renamed_is_still_a_log() {
    assert_eq!(
        parse("rescued.jsonl"),
        Some(("rescued".into(), Extension::Jsonl))
    );
    assert_eq!(parse("a.b.jsonl"), Some(("a.b".into(), Extension::Jsonl)));
    assert_eq!(
        parse("x.jsonl.lock"),
        Some(("x.jsonl".into(), Extension::Lock))
    );
    let latin1 = OsString::from_vec(b"caf\xe9.jsonl".to_vec());
    let (name, extension) = FileName::parse(&latin1).unwrap();
    assert_eq!(name.with(extension), latin1);
}

#[test]
fn temporary_hidden_and_foreign_files_are_none_of_ours() {
    for name in [
        "",
        ".",
        "..",
        ".jsonl",
        "..jsonl",
        ".x.jsonl",
        "jsonl",
        "x",
        "x.",
        "x.json",
        "x.JSONL",
        "x.jsonl.tmp",
        "x.checkpoint~",
        "a/b.jsonl",
        "../b.jsonl",
        "a\0.jsonl",
    ] {
        assert_eq!(parse(name), None, "{name:?}");
    }
}

proptest! {
    #[test]
    fn an_accepted_name_is_one_directory_below_the_root(entity in any::<String>(), project in ".{0,300}") {
        let (Ok(()), Ok(())) = (
            check_entity_or_project("entity", &entity),
            check_entity_or_project("project", &project),
        ) else {
            return Ok(());
        };
        let path = Path::new("/root").join(&entity).join(&project);
        let parts: Vec<_> = path.components().skip(2).collect();
        prop_assert_eq!(parts, [
            Component::Normal(OsStr::new(&entity)),
            Component::Normal(OsStr::new(&project)),
        ]);
    }

    #[test]
    fn dangerous_pieces_never_leave_the_root(pieces in prop::collection::vec(
        prop::sample::select(vec!["..", ".", "/", "\\", "a", " ", "\0", "\n", "é"]), 0..5,
    )) {
        let name = pieces.concat();
        if check_entity_or_project("entity", &name).is_ok() {
            let path = Path::new("/root").join(&name);
            let parts: Vec<_> = path.components().skip(2).collect();
            prop_assert_eq!(parts, [Component::Normal(OsStr::new(&name))]);
        }
    }

    #[test]
    fn a_project_that_is_taken_apart_is_the_same_put_together(id in "[^\u{0}]{0,5}/?[a-z./]{0,5}") {
        if let Ok((entity, project)) = split_project(&id) {
            prop_assert_eq!(format!("{entity}/{project}"), id);
        }
    }

    #[test]
    fn a_file_name_is_read_back_as_what_it_was_made_from(time: u64, random: [u8; 16]) {
        let name = FileName::new(time, random);
        for extension in Extension::ALL {
            let file = name.with(extension);
            prop_assert_eq!(FileName::parse(&file), Some((name.clone(), extension)));
        }
    }

    #[test]
    fn whatever_is_parsed_is_written_the_same(bytes: Vec<u8>, extension in 0..4_usize) {
        let mut file = bytes;
        file.extend_from_slice(b".");
        file.extend_from_slice(Extension::ALL[extension].as_str().as_bytes());
        let file = OsString::from_vec(file);
        if let Some((name, extension)) = FileName::parse(&file) {
            prop_assert_eq!(name.with(extension), file.clone());
            prop_assert_eq!(Path::new(&file).components().count(), 1);
        }
    }

    #[test]
    fn two_logs_never_share_a_name_and_sort_by_time(
        one: (u64, [u8; 16]), other: (u64, [u8; 16]),
    ) {
        let (a, b) = (FileName::new(one.0, one.1), FileName::new(other.0, other.1));
        prop_assert_eq!(a.cmp(&b), one.cmp(&other));
        prop_assert_eq!(a.to_string().cmp(&b.to_string()), one.cmp(&other));
    }
}
