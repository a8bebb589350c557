//! The house rules that a compiler does not check: which room may import which, which files are
//! pure, and who may name the terminal, the AMQP client or SQL.

use std::fs;
use std::path::{Path, PathBuf};

/// One Rust file: where it is (from the top of the package, with `/`) and what it says.
struct File {
    path: String,
    text: String,
}

impl File {
    /// `topology` for `src/topology/plan.rs`; `None` for `src/lib.rs` and `src/main.rs`.
    fn room(&self) -> Option<&str> {
        self.path.strip_prefix("src/")?.split_once('/').map(|(room, _)| room)
    }

    /// `plan` for `src/topology/plan.rs`.
    fn stem(&self) -> &str {
        let name = self.path.rsplit('/').next().unwrap_or_default();
        name.strip_suffix(".rs").unwrap_or(name)
    }

    /// What the file decides about, when its name or a folder's says so: `plan` for
    /// `src/topology/plan.rs` and for `src/topology/plan/queues.rs`. Its tests may do as they like.
    fn decision(&self) -> Option<&str> {
        if self.stem() == "tests" || self.stem() == "testing" {
            return None;
        }
        let below_room = self.path.strip_prefix("src/")?.split('/').skip(1);
        below_room.map(|part| part.strip_suffix(".rs").unwrap_or(part)).find(|p| PURE.contains(p))
    }

    /// Number and text of each line of code: comments blanked, string contents kept.
    fn code(&self) -> impl Iterator<Item = (usize, &str)> {
        self.text.lines().enumerate().map(|(index, line)| {
            let end = comment_start(line).unwrap_or(line.len());
            (index + 1, &line[..end])
        })
    }

    /// As [`File::code`], up to the test module at the end of the file.
    fn code_before_tests(&self) -> impl Iterator<Item = (usize, &str)> {
        self.code().take_while(|(_, line)| line.trim() != "#[cfg(test)]")
    }
}

/// Where a `//` comment begins, if it does not stand inside a string.
fn comment_start(line: &str) -> Option<usize> {
    let mut in_string = false;
    let mut escaped = false;
    let bytes = line.as_bytes();
    for (index, byte) in bytes.iter().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            b'/' if !in_string && bytes.get(index + 1) == Some(&b'/') => return Some(index),
            _ => {}
        }
    }
    None
}

fn rust_files(folder: &str) -> Vec<File> {
    fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(folder).expect("a folder of the package") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                walk(&path, found);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    let top = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut paths = Vec::new();
    walk(&top.join(folder), &mut paths);
    paths.sort();
    paths
        .into_iter()
        .map(|path| File {
            text: fs::read_to_string(&path).expect("a readable source file"),
            path: path.strip_prefix(top).expect("below the package").to_string_lossy().into_owned(),
        })
        .collect()
}

/// The rooms in the order of `src/lib.rs`: each may import those before it.
fn rooms(lib: &str) -> Vec<String> {
    lib.lines()
        .filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';'))
        .map(str::to_owned)
        .collect()
}

/// Names that follow `crate::` in a line of code.
fn crate_paths(line: &str) -> impl Iterator<Item = &str> {
    line.split("crate::").skip(1).map(|rest| {
        let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
        &rest[..end]
    })
}

/// Lines of `file` that reach into a room below its own.
fn arrows_back(file: &File, rooms: &[String]) -> Vec<String> {
    let Some(own) = file.room() else { return Vec::new() };
    let Some(own_place) = rooms.iter().position(|room| room == own) else {
        return vec![format!("{}: the room `{own}` is not in src/lib.rs", file.path)];
    };
    let mut found = Vec::new();
    for (number, line) in file.code() {
        for target in crate_paths(line) {
            let place = rooms.iter().position(|room| room == target);
            match place {
                Some(place) if place <= own_place => {}
                Some(_) => {
                    found.push(format!("{}:{number}: {own} must not know {target}", file.path));
                }
                None => found.push(format!("{}:{number}: no room `{target}`", file.path)),
            }
        }
    }
    found
}

/// Lines of `file` that climb out of their room by `super::`.
fn climbs_out(file: &File) -> Vec<String> {
    let depth = file.path.matches('/').count() - usize::from(file.stem() == "mod");
    file.code_before_tests()
        .filter(|(_, line)| file.room().is_some() && line.contains(&"super::".repeat(depth)))
        .map(|(number, _)| {
            format!("{}:{number}: write crate::room::… across rooms, not super::", file.path)
        })
        .collect()
}

const PURE: [&str; 8] =
    ["spec", "model", "lint", "plan", "machine", "routing", "filter", "fingerprint"];

/// What a pure file must not say.
const IMPURE: [&str; 12] = [
    "async ",
    ".await",
    "std::fs",
    "std::env",
    "std::net",
    "std::process",
    "tokio::",
    "SystemTime",
    "Instant",
    "SystemClock",
    "dyn Clock",
    "fastrand::",
];

fn impurities(file: &File) -> Vec<String> {
    if file.decision().is_none() {
        return Vec::new();
    }
    mentions(file.code_before_tests(), file, &IMPURE, "a pure file must not say")
}

fn mentions<'a>(
    lines: impl Iterator<Item = (usize, &'a str)>,
    file: &File,
    words: &[&str],
    why: &str,
) -> Vec<String> {
    lines
        .flat_map(|(number, line)| {
            words
                .iter()
                .filter(|word| line.contains(*word))
                .map(move |word| format!("{}:{number}: {why} `{}`", file.path, word.trim()))
        })
        .collect()
}

/// Words, and the places that alone may say them.
const RESERVED: [(&[&str], &[&str]); 7] = [
    (&["lapin::", "reqwest::", "amq_protocol"], &["src/broker/rabbitmq/"]),
    (
        &["clap::", "comfy_table", "indicatif", "std::env::", "println!", "eprintln!"],
        &["src/cli/", "src/main.rs"],
    ),
    (&["tokio::signal"], &["src/cli/"]),
    // Frames are drawn anywhere in their room; a terminal is taken in one place.
    (&["ratatui"], &["src/dashboard/", "src/cli/dlq/browse.rs"]),
    (&["crossterm"], &["src/cli/dlq/browse.rs"]),
    (
        &["INSERT INTO", "DELETE FROM", "CREATE TABLE", "\"SELECT ", "PRAGMA "],
        &["src/storage/", "/store.rs", "/store/"],
    ),
    // The types of a transaction; its SQL stays in store.rs.
    (&["rusqlite"], &["src/storage/", "src/broker/embedded/", "/store.rs", "/store/"]),
];

fn trespasses(file: &File) -> Vec<String> {
    // A test that starts itself as another process hands it its orders by environment.
    if file.stem() == "tests" || file.stem().ends_with("_tests") {
        return Vec::new();
    }
    RESERVED
        .iter()
        .filter(|(_, places)| !places.iter().any(|place| file.path.contains(place)))
        .flat_map(|(words, _)| {
            mentions(file.code_before_tests(), file, words, "this place must not name")
        })
        .collect()
}

#[track_caller]
fn check(findings: &[String]) {
    assert!(findings.is_empty(), "{} findings:\n{}", findings.len(), findings.join("\n"));
}

#[test]
fn every_room_imports_only_rooms_above_it() {
    let rooms = rooms(include_str!("../src/lib.rs"));
    assert!(rooms.len() > 5, "src/lib.rs lists its rooms as `pub mod name;`");
    let files = rust_files("src");
    check(&files.iter().flat_map(|file| arrows_back(file, &rooms)).collect::<Vec<_>>());
    check(&files.iter().flat_map(climbs_out).collect::<Vec<_>>());
}

#[test]
fn every_folder_of_src_is_a_room() {
    let rooms = rooms(include_str!("../src/lib.rs"));
    let files = rust_files("src");
    for room in &rooms {
        assert!(files.iter().any(|file| file.room() == Some(room)), "the room `{room}` is empty");
    }
    for file in &files {
        if let Some(room) = file.room() {
            assert!(rooms.iter().any(|known| known == room), "`{room}` is not in src/lib.rs");
        }
    }
}

#[test]
fn the_two_brokers_do_not_know_each_other() {
    let files = rust_files("src");
    let strays = files.iter().flat_map(|file| {
        let foreign = match () {
            () if file.path.starts_with("src/broker/rabbitmq/") => "embedded::",
            () if file.path.starts_with("src/broker/embedded/") => "rabbitmq::",
            () => return Vec::new(),
        };
        mentions(file.code(), file, &[foreign], "one implementation must not name the other:")
    });
    check(&strays.collect::<Vec<_>>());
}

#[test]
fn files_named_after_decisions_are_pure() {
    check(&rust_files("src").iter().flat_map(impurities).collect::<Vec<_>>());
}

#[test]
fn reserved_words_stay_in_their_rooms() {
    check(&rust_files("src").iter().flat_map(trespasses).collect::<Vec<_>>());
}

#[test]
fn every_file_says_what_it_is_for() {
    let files = rust_files("src").into_iter().chain(rust_files("tests"));
    let silent = files.filter(|file| !file.text.starts_with("//!")).map(|file| file.path);
    check(&silent.collect::<Vec<_>>());
}

/// The checks above find what they are made to find.
#[test]
fn each_check_fails_on_what_it_forbids() {
    let rooms = ["base".to_owned(), "broker".to_owned(), "cli".to_owned()];
    let file = |path: &str, text: &str| File { path: path.to_owned(), text: text.to_owned() };

    let back = file("src/base/id.rs", "use crate::broker::Broker;");
    assert_eq!(arrows_back(&back, &rooms), ["src/base/id.rs:1: base must not know broker"]);
    let hidden = file("src/base/id.rs", "fn f() { crate::cli::run() }");
    assert_eq!(arrows_back(&hidden, &rooms).len(), 1);
    let remark = file("src/base/id.rs", "// crate::cli is elsewhere");
    assert_eq!(arrows_back(&remark, &rooms).len(), 0);
    let lost = file("src/attic/id.rs", "");
    assert_eq!(arrows_back(&lost, &rooms).len(), 1);

    assert_eq!(climbs_out(&file("src/base/id.rs", "use super::super::broker;")).len(), 1);
    assert_eq!(climbs_out(&file("src/base/id.rs", "use super::time;")).len(), 0);
    assert_eq!(climbs_out(&file("src/base/mod.rs", "use super::broker;")).len(), 1);

    assert_eq!(impurities(&file("src/topology/plan.rs", "async fn plan() {}")).len(), 1);
    assert_eq!(impurities(&file("src/topology/apply.rs", "async fn apply() {}")).len(), 0);
    assert_eq!(impurities(&file("src/topology/plan/mod.rs", "async fn plan() {}")).len(), 1);
    assert_eq!(impurities(&file("src/topology/lint/queues.rs", "fn now(c: &dyn Clock)")).len(), 1);
    assert_eq!(impurities(&file("src/topology/plan/tests.rs", "async fn plan() {}")).len(), 0);
    assert_eq!(impurities(&file("src/cli/topology/live.rs", "async fn plan() {}")).len(), 0);
    let tests = "fn plan() {}\n#[cfg(test)]\nmod tests { async fn f() {} }";
    assert_eq!(impurities(&file("src/topology/plan.rs", tests)).len(), 0);

    assert_eq!(trespasses(&file("src/delivery/publish.rs", "use lapin::Channel;")).len(), 1);
    assert_eq!(trespasses(&file("src/broker/rabbitmq/mod.rs", "use lapin::Channel;")).len(), 0);
    assert_eq!(trespasses(&file("src/project/check.rs", "println!(\"done\")")).len(), 1);
    assert_eq!(trespasses(&file("src/broker/embedded/queue.rs", "\"SELECT 1\"")).len(), 1);
    assert_eq!(trespasses(&file("src/broker/embedded/store.rs", "\"SELECT 1\"")).len(), 0);
}
