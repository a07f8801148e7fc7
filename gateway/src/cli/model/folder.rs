//! The folder models are kept in: which one it is, what is in it, and the record beside each file of where it came from.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use anyhow::Context;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::source::{REGISTRY, is_file_name, known};

/// What `compare` says of a file that is not what was pulled.
pub const DAMAGED: &str = "DAMAGED: spectra model pull --force";

/// A folder of models; it need not exist yet.
#[derive(Debug, Clone)]
pub struct Folder(PathBuf);

/// What was pulled: kept as `.FILE.json` beside the model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    pub source: String,
    pub sha256: String,
    pub bytes: u64,
}

/// A model that is here.
#[derive(Debug)]
pub struct Installed {
    pub path: PathBuf,
    pub bytes: u64,
    pub record: Option<Record>,
}

impl Installed {
    /// The name the registry knows it by, else its file name.
    pub fn name(&self) -> &str {
        let file = self.path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        REGISTRY.iter().find(|known| known.file == file).map_or(file, |known| known.name)
    }
}

/// The folders that are looked into, in order; see [`super::locate`].
pub fn candidates(beside: Option<&Path>) -> Vec<PathBuf> {
    if let Some(only) = std::env::var_os("SPECTRA_MODELS").filter(|value| !value.is_empty()) {
        return vec![only.into()];
    }
    let mut folders: Vec<PathBuf> = beside.map(|beside| beside.join("models")).into_iter().collect();
    folders.push(PathBuf::from("models"));
    folders.extend(data_folder());
    folders.dedup();
    folders
}

/// The folder that is pulled into: the first of [`candidates`] that exists, else the last of them.
pub fn for_writing(beside: Option<&Path>) -> PathBuf {
    let folders = candidates(beside);
    let chosen = folders.iter().find(|folder| folder.is_dir()).or(folders.last());
    chosen.cloned().unwrap_or_else(|| PathBuf::from("models"))
}

fn data_folder() -> Option<PathBuf> {
    let absolute = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let data = absolute("XDG_DATA_HOME").or_else(|| Some(absolute("HOME")?.join(".local/share")))?;
    Some(data.join("spectra/models"))
}

impl Folder {
    pub fn new(path: PathBuf) -> Self {
        Self(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Where the file of this name is, or would be.
    pub fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// A file beside it that is not a model: hidden, so that `*.gguf` means models.
    pub fn beside(&self, name: &str, ending: &str) -> PathBuf {
        self.0.join(format!(".{name}.{ending}"))
    }

    /// The model's file, by the registry's name, by file name, or by file name without `.gguf`.
    pub fn find(&self, name: &str) -> Option<PathBuf> {
        let file = known(name).map_or(name, |known| known.file);
        let spellings = [file.to_owned(), format!("{file}.gguf")];
        spellings.into_iter().filter(|file| is_file_name(file)).map(|file| self.file(&file)).find(|path| path.is_file())
    }

    /// Every `*.gguf` in the folder, by name; none if there is no folder.
    pub fn installed(&self) -> anyhow::Result<Vec<Installed>> {
        let entries = match fs::read_dir(&self.0) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error).with_context(|| format!("reading {}", self.0.display())),
        };
        let mut found = Vec::new();
        for entry in entries {
            let path = entry?.path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default().to_owned();
            if path.extension().is_some_and(|ending| ending == "gguf") && is_file_name(&name) && path.is_file() {
                found.push(Installed { bytes: fs::metadata(&path)?.len(), record: self.record(&name), path });
            }
        }
        found.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(found)
    }

    /// What was recorded when the file was pulled; None if it was put there by hand or its size has changed since.
    pub fn record(&self, name: &str) -> Option<Record> {
        let record: Record = serde_json::from_slice(&fs::read(self.beside(name, "json")).ok()?).ok()?;
        (fs::metadata(self.file(name)).ok()?.len() == record.bytes).then_some(record)
    }

    /// Records where a file came from.
    pub fn write_record(&self, name: &str, record: &Record) -> anyhow::Result<()> {
        let path = self.beside(name, "json");
        fs::write(&path, serde_json::to_vec_pretty(record)?).with_context(|| format!("writing {}", path.display()))
    }

    /// Removes a model, its record and an unfinished pull of it; false if there was none of these.
    pub fn remove(&self, name: &str) -> anyhow::Result<bool> {
        let file = match (self.find(name), known(name)) {
            (Some(path), _) => path.file_name().and_then(|name| name.to_str()).unwrap_or(name).to_owned(),
            (None, Some(known)) => known.file.to_owned(),
            (None, None) => name.to_owned(),
        };
        if !is_file_name(&file) {
            return Ok(false);
        }
        let mut removed = false;
        let leftovers = ["json", "part", "part.json", "lock"].map(|ending| self.beside(&file, ending));
        for path in std::iter::once(self.file(&file)).chain(leftovers) {
            match fs::remove_file(&path) {
                Ok(()) => removed = true,
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error).with_context(|| path.display().to_string()),
            }
        }
        Ok(removed)
    }
}

/// Reads the file again: whether it still is what was pulled.
pub fn compare(model: &Installed) -> anyhow::Result<&'static str> {
    let Some(record) = &model.record else { return Ok("(nothing recorded to compare with)") };
    Ok(if sha256_of(&model.path)? == record.sha256 { "intact" } else { DAMAGED })
}

/// The file's sha256 in lowercase hexadecimal.
pub fn sha256_of(path: &Path) -> anyhow::Result<String> {
    let read = || -> io::Result<String> {
        let mut file = File::open(path)?;
        let mut hash = Sha256::new();
        let mut buffer = vec![0; 1 << 20];
        loop {
            match file.read(&mut buffer)? {
                0 => return Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()),
                n => hash.update(buffer.get(..n).unwrap_or_default()),
            }
        }
    };
    read().with_context(|| format!("reading {}", path.display()))
}
