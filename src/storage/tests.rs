//! The state file under failures, kills and company.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use rusqlite::Connection;

use super::*;

const FIRST: &str = "CREATE TABLE number(n INTEGER PRIMARY KEY, pad BLOB) STRICT";
const ONE: &[Room] = &[Room { name: "numbers", migrations: &[FIRST] }];
const TWO: &[Room] = &[Room {
    name: "numbers",
    migrations: &[FIRST, "ALTER TABLE number ADD COLUMN name TEXT NOT NULL DEFAULT 'none'"],
}];

fn open(path: &Path) -> Arc<StateFile> {
    StateFile::open(path, ONE, Options::default()).unwrap()
}

fn insert(file: &StateFile, n: i64, pad: i64) -> Result<(), StorageError> {
    let path = file.path().to_owned();
    file.write_blocking(Durability::Disk, move |connection| {
        connection
            .execute("INSERT INTO number(n, pad) VALUES(?, zeroblob(?))", (n, pad))
            .map(|_| ())
            .map_err(|error| StorageError::from_sqlite(&path, &error))
    })
}

fn numbers(file: &StateFile) -> Vec<i64> {
    file.read(|connection| {
        let mut statement = connection.prepare("SELECT n FROM number ORDER BY n").unwrap();
        let rows = statement.query_map([], |row| row.get(0)).unwrap();
        Ok::<_, StorageError>(rows.map(Result::unwrap).collect())
    })
    .unwrap()
}

#[test]
fn what_was_written_is_there_after_opening_again() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("deep/er/state.db");
    let file = open(&path);
    insert(&file, 1, 0).unwrap();
    let id = file.id().to_owned();
    drop(file);
    let file = open(&path);
    assert_eq!((numbers(&file), file.id()), (vec![1], id.as_str()));
}

#[cfg(unix)]
#[test]
fn only_the_owner_can_read() {
    use std::os::unix::fs::PermissionsExt;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("private/state.db");
    let _file = open(&path);
    let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(path.parent().unwrap()), mode(&path)), (0o700, 0o600));
    assert_eq!(mode(&directory.path().join("private/state.db-wal")), 0o600);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_fails_takes_nobody_with_it() {
    let directory = tempfile::tempdir().unwrap();
    let file = open(&directory.path().join("state.db"));
    let mut waiting = Vec::new();
    for n in 0..200_i64 {
        let file = Arc::clone(&file);
        waiting.push(tokio::spawn(async move {
            file.clone()
                .write(Durability::Disk, move |connection| {
                    connection
                        .execute("INSERT INTO number(n) VALUES(?)", [n])
                        .map_err(|error| file.fault(&error))?;
                    if n % 3 == 0 {
                        return Err(StorageError::open(Path::new("x"), &"changed its mind"));
                    }
                    Ok(n)
                })
                .await
        }));
    }
    for (n, task) in (0..).zip(waiting) {
        match task.await.unwrap() {
            Ok(value) => assert_eq!(value, n),
            Err(error) => {
                assert_eq!(n % 3, 0);
                assert!(error.to_string().contains("changed its mind"));
            }
        }
    }
    let expected: Vec<i64> = (0..200).filter(|n| n % 3 != 0).collect();
    assert_eq!(numbers(&file), expected);
}

#[test]
fn a_newer_file_is_refused_and_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("state.db");
    drop(StateFile::open(&path, TWO, Options::default()).unwrap());
    let error = StateFile::open(&path, ONE, Options::default()).unwrap_err();
    assert!(matches!(error, StorageError::Newer { found: 2, known: 1, .. }), "{error}");
    drop(StateFile::open(&path, TWO, Options::default()).unwrap());
}

#[test]
fn a_process_that_runs_stops_writing_once_the_file_is_newer() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("state.db");
    let old = open(&path);
    insert(&old, 1, 0).unwrap();
    let new = StateFile::open(&path, TWO, Options::default()).unwrap();
    assert!(matches!(insert(&old, 2, 0), Err(StorageError::Newer { .. })));
    insert(&new, 3, 0).unwrap();
    assert_eq!(numbers(&new), [1, 3]);
}

#[test]
fn an_older_file_is_copied_and_migrated() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("state.db");
    let file = open(&path);
    insert(&file, 7, 0).unwrap();
    drop(file);
    let file = StateFile::open(&path, TWO, Options::default()).unwrap();
    let name: String = file
        .read(|connection| {
            Ok::<_, StorageError>(
                connection.query_row("SELECT name FROM number", [], |row| row.get(0)).unwrap(),
            )
        })
        .unwrap();
    assert_eq!(name, "none");
    let copy: Vec<PathBuf> = std::fs::read_dir(directory.path())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.to_string_lossy().contains(".before-"))
        .collect();
    assert_eq!(copy.len(), 1);
    let old = Connection::open(&copy[0]).unwrap();
    let row: (i64, i64) = old
        .query_row(
            "SELECT n, (SELECT format FROM storage_room WHERE name = 'numbers') FROM number",
            [],
            |row| Ok((row.get(0)?, row.get(1)?)),
        )
        .unwrap();
    assert_eq!(row, (7, 1));
}

#[test]
fn what_is_no_state_file_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let text = directory.path().join("text");
    std::fs::write(&text, "not a database, but long enough to be looked at as one. ".repeat(40))
        .unwrap();
    let other = directory.path().join("other.db");
    Connection::open(&other).unwrap().execute_batch("CREATE TABLE t(a)").unwrap();
    for path in [&text, &other] {
        let before = std::fs::read(path).unwrap();
        let error = StateFile::open(path, ONE, Options::default()).unwrap_err();
        assert!(matches!(error, StorageError::Foreign { .. }), "{error}");
        assert_eq!(std::fs::read(path).unwrap().len(), before.len());
    }
    let error = StateFile::open(directory.path(), ONE, Options::default()).unwrap_err();
    assert!(matches!(error, StorageError::Open { .. }), "{error}");
}

#[test]
fn a_full_file_refuses_clearly_and_goes_on_when_there_is_room() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("state.db");
    let options = Options { max_pages: Some(64), ..Options::default() };
    let file = StateFile::open(&path, ONE, options).unwrap();
    let mut kept = Vec::new();
    let error = loop {
        let n = i64::try_from(kept.len()).unwrap();
        match insert(&file, n, 20_000) {
            Ok(()) => kept.push(n),
            Err(error) => break error,
        }
    };
    assert!(matches!(error, StorageError::Full { .. }), "{error}");
    assert!(kept.len() > 5);
    assert_eq!(numbers(&file), kept);
    file.write_blocking(Durability::Disk, |connection| {
        connection.execute("DELETE FROM number", []).unwrap();
        Ok::<_, StorageError>(())
    })
    .unwrap();
    insert(&file, 1, 20_000).unwrap();
    assert_eq!(numbers(&file), [1]);
}

#[test]
fn a_file_that_others_hold_is_busy_in_time() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("state.db");
    let options = Options { timeout: Duration::from_millis(200), ..Options::default() };
    let file = StateFile::open(&path, ONE, options).unwrap();
    let other = Connection::open(&path).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let error = insert(&file, 1, 0).unwrap_err();
    assert!(matches!(error, StorageError::Busy { .. }), "{error}");
    other.execute_batch("ROLLBACK").unwrap();
    insert(&file, 1, 0).unwrap();
}

const CHILD_ROLE: &str = "NEXUS_STORAGE_CHILD";

fn spawn(role: &str, path: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "storage::tests::child", "--nocapture"])
        .env(CHILD_ROLE, role)
        .env("NEXUS_STORAGE_PATH", path)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// Not a test by itself: what the children of the tests below do.
#[test]
#[expect(clippy::disallowed_methods, reason = "a child of a test is told its role by environment")]
fn child() {
    let Ok(role) = std::env::var(CHILD_ROLE) else { return };
    let file = open(Path::new(&std::env::var("NEXUS_STORAGE_PATH").unwrap()));
    let mut out = std::io::stdout();
    match role.as_str() {
        // Writes from several threads at once, so that batches have several requests.
        "write" => std::thread::scope(|scope| {
            for thread in 0..8_i64 {
                let file = &file;
                scope.spawn(move || {
                    for n in 0.. {
                        let number = n * 8 + thread;
                        insert(file, number, 3000).unwrap();
                        writeln!(std::io::stdout(), "\nkept {number}").unwrap();
                    }
                });
            }
        }),
        "count" => {
            for _ in 0..100 {
                file.write_blocking(Durability::Process, |connection| {
                    let n: i64 = connection
                        .query_row("SELECT coalesce(max(n), 0) FROM number", [], |row| row.get(0))
                        .unwrap();
                    connection.execute("INSERT INTO number(n) VALUES(?)", [n + 1]).unwrap();
                    Ok::<_, StorageError>(())
                })
                .unwrap();
            }
        }
        "hold" => {
            let session = file.begin_session().unwrap();
            writeln!(out, "\nkept {}", session.id()).unwrap();
            std::thread::park();
        }
        other => panic!("{other}"),
    }
}

fn kept(line: &str) -> Option<i64> {
    line.strip_prefix("kept ")?.parse().ok()
}

#[test]
fn a_kill_in_the_middle_of_group_commits_loses_nothing_that_was_answered() {
    for kill_after in [1, 40, 150] {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state.db");
        let mut child = spawn("write", &path);
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut answered = Vec::new();
        for line in lines.map_while(Result::ok) {
            answered.extend(kept(&line));
            if answered.len() == kill_after {
                child.kill().unwrap();
            }
        }
        child.wait().unwrap();
        assert!(answered.len() >= kill_after);
        let file = open(&path);
        let found = numbers(&file);
        let lost: Vec<_> = answered.iter().filter(|n| !found.contains(n)).collect();
        assert!(lost.is_empty(), "{lost:?}");
        let sound: String = file
            .read(|connection| {
                Ok::<_, StorageError>(
                    connection.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap(),
                )
            })
            .unwrap();
        assert_eq!(sound, "ok");
        insert(&file, -1, 0).unwrap();
    }
}

#[test]
fn processes_share_the_file_without_losing_a_write() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("state.db");
    let children: Vec<Child> = (0..4).map(|_| spawn("count", &path)).collect();
    for mut child in children {
        assert!(child.wait().unwrap().success());
    }
    assert_eq!(numbers(&open(&path)), (1..=400).collect::<Vec<i64>>());
}

#[test]
fn a_session_ends_with_its_process_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("state.db");
    let file = open(&path);
    let mine = file.begin_session().unwrap();
    let mut child = spawn("hold", &path);
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let theirs = lines.map_while(Result::ok).find_map(|line| kept(&line)).unwrap();
    let dead = |file: &Arc<StateFile>| {
        let again = Arc::clone(file);
        file.write_blocking(Durability::Process, move |connection| again.dead_sessions(connection))
            .unwrap()
    };
    assert_eq!(dead(&file), Vec::<i64>::new());
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(dead(&file), [theirs]);
    assert!(file.is_session_alive(mine.id()));
    let forgotten = Arc::clone(&file);
    file.write_blocking(Durability::Process, move |connection| {
        forgotten.forget_session(connection, theirs)
    })
    .unwrap();
    let id = mine.id();
    drop(mine);
    assert_eq!(dead(&file), [id]);
}
