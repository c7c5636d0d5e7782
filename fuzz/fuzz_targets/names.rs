//! Names of entities, projects and files: what is accepted is one directory below another below
//! the root, no two of them meet, and a file belongs to the log whose name it has.

#![no_main]

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path};

use libfuzzer_sys::fuzz_target;
use weave_wal::fuzzing;

fuzz_target!(|input: (&str, &str, &str, &[u8])| {
    let (first, second, third, file) = input;
    let root = Path::new("/root/wal");

    let mut directories = Vec::new();
    for (entity, project) in [
        (first, second),
        (second, third),
        (third, first),
        (first, third),
    ] {
        if let Ok(path) = fuzzing::project_directory(root, entity, project) {
            let below: Vec<_> = path.components().skip(3).collect();
            let names = [entity, project].map(|name| Component::Normal(OsStr::new(name)));
            assert_eq!(below, names);
            assert!(!path.as_os_str().as_bytes().contains(&0));
            directories.push(((entity, project), path));
        }
    }
    for (one, path) in &directories {
        for (other, other_path) in &directories {
            assert_eq!(one == other, path == other_path);
        }
    }

    if let Ok((entity, project)) = fuzzing::split_project(first) {
        assert_eq!(format!("{entity}/{project}"), first);
        fuzzing::project_directory(root, &entity, &project).expect("both halves are checked");
    }

    if let Some(names) = fuzzing::file_names(OsStr::from_bytes(file)) {
        assert_eq!(names.len(), 4);
        for name in &names {
            let path = Path::new(name);
            assert_eq!(path.components().count(), 1);
            assert_eq!(path.file_name(), Some(&name[..]));
            assert_eq!(fuzzing::file_names(name).as_ref(), Some(&names));
        }
    }
});
