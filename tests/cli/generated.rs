//! Files that are made from the code are equal to what the code makes.
//! `NEXUSCTL_REGENERATE=1 cargo test --test cli generated` rewrites them.

use std::path::{Path, PathBuf};

use nexus::cli::completions::{Shell, script};

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Compares, or writes when asked to. Returns what is wrong.
fn keep(path: &Path, expected: &[u8], wrong: &mut Vec<String>) {
    if std::fs::read(path).is_ok_and(|found| found == expected) {
        return;
    }
    if std::env::var_os("NEXUSCTL_REGENERATE").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, expected).unwrap();
    } else {
        wrong.push(path.strip_prefix(root()).unwrap().display().to_string());
    }
}

/// Files in `dir` that nobody makes any more.
fn strangers(dir: &Path, known: &[PathBuf], wrong: &mut Vec<String>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if !known.contains(&path) {
            wrong.push(format!("{} is made by nothing", path.display()));
        }
    }
}

#[track_caller]
fn check(wrong: &[String]) {
    assert!(
        wrong.is_empty(),
        "out of date:\n  {}\nNEXUSCTL_REGENERATE=1 cargo test --test cli generated rewrites them",
        wrong.join("\n  ")
    );
}

#[test]
fn completions_are_what_the_command_prints() {
    let mut wrong = Vec::new();
    let dir = root().join("completions");
    let files: Vec<PathBuf> = Shell::ALL.iter().map(|shell| dir.join(shell.file_name())).collect();
    for (shell, file) in Shell::ALL.into_iter().zip(&files) {
        keep(file, &script(shell), &mut wrong);
    }
    strangers(&dir, &files, &mut wrong);
    check(&wrong);
}

#[test]
fn output_schemas_are_those_of_the_views() {
    let mut wrong = Vec::new();
    let dir = root().join("schemas/output");
    let schemas = nexus::cli::schemas::output();
    let files: Vec<PathBuf> =
        schemas.iter().map(|(kind, _)| dir.join(format!("{kind}.json"))).collect();
    for ((_, schema), file) in schemas.iter().zip(&files) {
        keep(file, format!("{schema:#}\n").as_bytes(), &mut wrong);
    }
    strangers(&dir, &files, &mut wrong);
    check(&wrong);
}

#[test]
fn file_schemas_are_those_of_the_specs() {
    let mut wrong = Vec::new();
    let dir = root().join("schemas/files");
    let schemas = nexus::cli::schemas::files();
    let files: Vec<PathBuf> =
        schemas.iter().map(|(kind, _)| dir.join(format!("{kind}.json"))).collect();
    for ((_, schema), file) in schemas.iter().zip(&files) {
        keep(file, format!("{schema:#}\n").as_bytes(), &mut wrong);
    }
    strangers(&dir, &files, &mut wrong);
    check(&wrong);
}
