//! Where template sets lie: folders given at run time, then those built in.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::Context as _;

include!(concat!(env!("OUT_DIR"), "/templates.rs"));

/// The texts of a set by their name inside it; empty when there is no such set.
pub fn texts(name: &str, folders: &[PathBuf]) -> anyhow::Result<BTreeMap<String, String>> {
    for folder in folders {
        let dir = folder.join(name);
        if dir.join("template.toml").is_file() {
            let mut found = BTreeMap::new();
            collect(&dir, &dir, &mut found)?;
            return Ok(found);
        }
    }
    let prefix = format!("{name}/");
    let built_in = EMBEDDED.iter().filter_map(|(path, text)| Some((path.strip_prefix(&prefix)?, text)));
    Ok(built_in.map(|(path, text)| (path.to_owned(), (*text).to_owned())).collect())
}

fn collect(root: &Path, dir: &Path, found: &mut BTreeMap<String, String>) -> anyhow::Result<()> {
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            collect(root, &path, found)?;
        } else {
            let name = path.strip_prefix(root)?.to_string_lossy().replace('\\', "/");
            found.insert(name, std::fs::read_to_string(&path).with_context(|| path.display().to_string())?);
        }
    }
    Ok(())
}

/// The names of all sets: of the folders given, then built in.
pub fn names(folders: &[PathBuf]) -> Vec<String> {
    let listed = folders.iter().filter_map(|folder| std::fs::read_dir(folder).ok()).flatten().flatten();
    let own = listed.filter(|entry| entry.path().join("template.toml").is_file());
    let mut names: Vec<String> = own.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.extend(EMBEDDED.iter().filter_map(|(path, _)| path.strip_suffix("/template.toml")).map(str::to_owned));
    names.dedup();
    names
}
