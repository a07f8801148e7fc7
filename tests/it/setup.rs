//! `scripts/setup --check` on machines that lack something: it names it, says how to get it, and changes nothing.

use std::collections::BTreeSet;
use std::env;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Output};

/// Runs the script in an empty checkout, on a PATH without the programs in `missing`.
fn setup(arguments: &[&str], missing: &[&str]) -> Output {
    let repository = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let machine = tempfile::tempdir().unwrap();
    let (checkout, programs) = (machine.path().join("checkout"), machine.path().join("bin"));
    fs::create_dir_all(checkout.join("scripts")).unwrap();
    fs::create_dir(&programs).unwrap();
    fs::copy(repository.join("scripts/setup"), checkout.join("scripts/setup")).unwrap();
    fs::copy(repository.join("Cargo.toml"), checkout.join("Cargo.toml")).unwrap();
    let mut known = BTreeSet::new();
    for folder in env::split_paths(&env::var_os("PATH").unwrap()) {
        for program in fs::read_dir(folder).into_iter().flatten().flatten() {
            let name = program.file_name();
            if !missing.iter().any(|missing| name == **missing) && known.insert(name.clone()) {
                symlink(program.path(), programs.join(name)).unwrap();
            }
        }
    }
    let ran = Command::new(checkout.join("scripts/setup"))
        .args(arguments)
        .env("PATH", &programs)
        .env_remove("CMAKE")
        .env_remove("CXX")
        .output()
        .unwrap();
    assert!(!checkout.join(".tools").exists(), "--check changed something");
    ran
}

#[test]
fn setup_check_names_what_is_missing() {
    for (missing, expected) in [
        (&["cmake"][..], "MISSING  cmake     get it with: "),
        (&["c++", "g++", "clang++"], "MISSING  compiler  get it with: "),
        (&["make"], "MISSING  make      get it with: "),
        (&["python3"], "MISSING  pip       get it with: "),
        (&["cargo"], "no Rust: install it with rustup"),
    ] {
        let ran = setup(&["--check"], missing);
        let said = String::from_utf8_lossy(&ran.stdout).into_owned() + &String::from_utf8_lossy(&ran.stderr);
        assert_eq!(ran.status.code(), Some(1), "{missing:?}: {said}");
        assert!(said.contains(expected), "{missing:?}: {said}");
    }
}

#[test]
fn setup_check_offers_a_way_without_root() {
    let said = setup(&["--check"], &["cmake", "apt-get", "dnf", "pacman", "apk", "zypper", "brew"]).stdout;
    let said = String::from_utf8_lossy(&said).into_owned();
    assert!(said.contains("cmake     get it with: scripts/setup --wheels (PyPI: cmake=="), "{said}");
}

#[test]
fn setup_refuses_options_it_does_not_know() {
    let ran = setup(&["--chekc"], &[]);
    assert_eq!(ran.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&ran.stderr).contains("usage: scripts/setup"));
}
