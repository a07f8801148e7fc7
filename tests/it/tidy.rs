//! The house rules no compiler checks: which crate may depend on which, links that lead somewhere, words that stay out.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Each crate and the crates of ours it may use; the picture in ARCHITECTURE.md, as data.
const MAY_USE: &[(&str, &[&str])] = &[
    ("config", &[]),
    ("backends", &["spectra-config"]),
    ("router", &["spectra-config", "spectra-backends"]),
    ("gateway", &["spectra-config", "spectra-backends", "spectra-router"]),
    ("tests", &["spectra-config", "spectra-backends", "spectra-router", "spectra-gateway"]),
    // The first customer: it lives on the HTTP interface like everyone else.
    ("orchestrator", &[]),
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().unwrap()
}

/// The tracked files as (name, text), or none outside a git checkout. Files that are not UTF-8 are left out.
fn tracked() -> Vec<(String, String)> {
    let listed = Command::new("git").args(["ls-files", "-z"]).current_dir(root()).output();
    let Some(listed) = listed.ok().filter(|out| out.status.success()) else {
        println!("skipped: not a git checkout");
        return Vec::new();
    };
    String::from_utf8(listed.stdout)
        .unwrap()
        .split_terminator('\0')
        .filter_map(|name| Some((name.to_owned(), fs::read_to_string(root().join(name)).ok()?)))
        .collect()
}

/// Every dependency of a manifest that is a crate of ours, whatever table it stands in.
fn our_dependencies(manifest: &toml::Table) -> Vec<String> {
    let mut found = Vec::new();
    let mut tables: Vec<&toml::Table> = vec![manifest];
    if let Some(targets) = manifest.get("target").and_then(toml::Value::as_table) {
        tables.extend(targets.values().filter_map(toml::Value::as_table));
    }
    for table in tables {
        for kind in ["dependencies", "dev-dependencies", "build-dependencies"] {
            let names = table.get(kind).and_then(toml::Value::as_table).into_iter().flatten();
            for (name, value) in names {
                let package = value.get("package").and_then(toml::Value::as_str).unwrap_or(name);
                if package.starts_with("spectra-") {
                    found.push(package.to_owned());
                }
            }
        }
    }
    found
}

#[test]
fn crates_depend_only_on_the_crates_above_them() {
    let allowed: BTreeMap<_, _> = MAY_USE.iter().copied().collect();
    let workspace: toml::Table = fs::read_to_string(root().join("Cargo.toml")).unwrap().parse().unwrap();
    for member in workspace["workspace"]["members"].as_array().unwrap() {
        let member = member.as_str().unwrap();
        let may_use = allowed.get(member).unwrap_or_else(|| panic!("say in MAY_USE what the new crate `{member}` may depend on"));
        let manifest = fs::read_to_string(root().join(member).join("Cargo.toml")).unwrap();
        for used in our_dependencies(&manifest.parse().unwrap()) {
            assert!(may_use.contains(&used.as_str()), "`{member}` may not depend on `{used}`; see the plan in ARCHITECTURE.md");
        }
    }
}

#[test]
fn our_dependencies_are_found_in_every_table() {
    let manifest = "
        [dependencies]
        serde = '1'
        spectra-config = { path = '../config' }
        [dev-dependencies]
        other = { package = 'spectra-router', path = '../router' }
        [target.'cfg(unix)'.dependencies]
        spectra-gateway.workspace = true
    ";
    let mut found = our_dependencies(&manifest.parse().unwrap());
    found.sort();
    assert_eq!(found, ["spectra-config", "spectra-gateway", "spectra-router"]);
}

#[test]
fn links_in_markdown_lead_to_files() {
    let checked = Command::new("python3").arg(root().join("scripts/check-docs")).output();
    let Ok(checked) = checked else {
        println!("skipped: no python3");
        return;
    };
    let said = String::from_utf8_lossy(&checked.stdout).into_owned() + &String::from_utf8_lossy(&checked.stderr);
    assert!(checked.status.success(), "{said}");
}

/// Text that must not be in any tracked file, and why. Written in halves, or this file would be the first to fail.
fn unwanted() -> Vec<(String, &'static str)> {
    let host = "packages are named, hosts are not: pip, npm and cargo may be pointed at a mirror";
    vec![
        (["#[al", "low("].concat(), "use #[expect(.., reason = \"…\")]"),
        (["#![al", "low("].concat(), "use #![expect(.., reason = \"…\")]"),
        (["npmjs", ".org"].concat(), host),
        (["pypi", ".org"].concat(), host),
        (["pythonhosted", ".org"].concat(), host),
        (["deb.debian", ".org"].concat(), host),
    ]
}

#[test]
fn unwanted_text_stays_out() {
    let unwanted = unwanted();
    let workplace = ["/wo", "rk/"].concat();
    let mut found = Vec::new();
    for (name, text) in tracked() {
        for (number, line) in text.lines().enumerate() {
            let mut report = |what: &str, why: &str| found.push(format!("{name}:{}: `{what}`: {why}", number + 1));
            for (what, why) in &unwanted {
                if line.contains(what.as_str()) {
                    report(what, why);
                }
            }
            if is_absolute_path(line, &workplace) {
                report(&workplace, "a path of one machine; use a path relative to the repository");
            }
        }
    }
    assert!(found.is_empty(), "\n{}", found.join("\n"));
}

/// Whether `path` stands in the line as the start of an absolute path, not inside a longer one such as `/home/work/`.
fn is_absolute_path(line: &str, path: &str) -> bool {
    line.match_indices(path)
        .any(|(at, _)| !line[..at].chars().next_back().is_some_and(|before| before.is_alphanumeric() || "._-/~}".contains(before)))
}

#[test]
fn absolute_paths_are_told_from_parts_of_longer_ones() {
    let path = ["/wo", "rk/"].concat();
    for (line, expected) in [
        (format!("see {path}x"), true),
        (format!("\"{path}x\""), true),
        (path.clone(), true),
        (format!("/home/me{path}x"), false),
        (format!("../..{path}x"), false),
        ("homework/".to_owned(), false),
    ] {
        assert_eq!(is_absolute_path(&line, &path), expected, "{line}");
    }
}
