//! Files on disk: whole or not at all, never over somebody's work, and known again after a crash.
//!
//! The manifest is written *before* the file is renamed into place. Killed between the two, the next run finds a
//! record without its file and writes it again; killed after, it finds the file with the recorded hash and is done.
//! A file whose hash is not the recorded one was edited by somebody.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::check;
use crate::plan::{NOTES, Plan};

/// When a file that is already there may be replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Overwrite {
    /// Never touch a file that was there before.
    Never,
    /// Only what we wrote and nobody edited, or what is a placeholder.
    IfUnchanged,
    /// Always, after a copy into `.spectra/backup/`.
    Always,
}

/// Who wrote a file's text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    Model,
    Template,
}

/// What the manifest knows about a file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// Hex, of the file as we wrote it.
    pub sha256: String,
    /// Of the text it replaces, ours too: still on disk when a rewrite was killed half way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous_sha256: Option<String>,
    pub source: Source,
    /// The model was asked in vain and a template stands in.
    #[serde(default)]
    pub degraded: bool,
    #[serde(default)]
    pub attempts: u32,
    #[serde(default)]
    pub model: String,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    pub service_name: String,
    pub request: String,
    /// The plan is a template set's, in place of one that the model could not make.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub plan_in_place: bool,
    pub files: BTreeMap<String, Entry>,
}

/// What lies at a planned path, and so what may be done there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// Nothing, or our own text that a killed run was about to replace.
    Absent,
    /// Ours, as we left it.
    Finished,
    /// Somebody's text: kept.
    Kept,
    /// Not ours (or edited), and may be replaced.
    Replaceable,
}

/// A service's folder with its manifest.
#[derive(Debug)]
pub struct Folder {
    root: PathBuf,
    overwrite: Overwrite,
    pub manifest: Manifest,
}

impl Entry {
    /// A record to be completed by [`Folder::write`].
    pub fn new(source: Source) -> Self {
        Self { sha256: String::new(), previous_sha256: None, source, degraded: false, attempts: 0, model: String::new() }
    }
}

impl Folder {
    /// Opens (not yet creates) a service's folder, and reads what an earlier run left.
    ///
    /// # Errors
    /// An unreadable or foreign manifest.
    pub fn open(root: &Path, overwrite: Overwrite) -> anyhow::Result<Self> {
        let mut folder = Self { root: root.to_owned(), overwrite, manifest: Manifest::default() };
        if let Some(text) = read(&folder.notes("manifest.json"))? {
            folder.manifest =
                serde_json::from_str(&text).with_context(|| format!("{} is damaged", folder.notes("manifest.json").display()))?;
        }
        Ok(folder)
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The plan an earlier run stored, if any.
    pub fn stored_plan(&self) -> anyhow::Result<Option<Plan>> {
        let Some(text) = read(&self.notes("plan.json"))? else {
            return Ok(None);
        };
        Ok(Some(Plan::parse(&text).context("the stored plan does not hold")?))
    }

    /// Stores the plan and starts (or goes on with) the manifest; clears what a killed run left half written.
    pub fn begin(&mut self, plan: &Plan, request: &str, plan_in_place: bool) -> anyhow::Result<()> {
        // What lies in there is deleted: it must be ours, not what a link points to.
        for notes in [self.root.join(NOTES), self.notes("tmp")] {
            if notes.is_symlink() {
                bail!("{} is a link; our notes are kept in the service's own folder", notes.display());
            }
        }
        fs::create_dir_all(self.notes("tmp"))?;
        for left in fs::read_dir(self.notes("tmp"))?.flatten() {
            fs::remove_file(left.path())?;
        }
        self.manifest.service_name.clone_from(&plan.service_name);
        request.clone_into(&mut self.manifest.request);
        self.manifest.plan_in_place = plan_in_place;
        self.place(&self.notes("plan.json"), &(serde_json::to_string_pretty(plan)? + "\n"))?;
        self.save()
    }

    /// What lies at a planned path under the policy.
    ///
    /// # Errors
    /// A path that leads outside the folder through a symlink, or cannot be read.
    pub fn state(&self, path: &str) -> anyhow::Result<State> {
        let full = self.inside(path)?;
        if fs::symlink_metadata(&full).is_ok_and(|meta| meta.is_dir()) {
            bail!("{path} is a folder on disk and a file in the plan");
        }
        let Some(bytes) = read_bytes(&full)? else {
            return Ok(State::Absent);
        };
        let found = hash(&bytes);
        match self.manifest.files.get(path) {
            Some(entry) if entry.sha256 == found => return Ok(State::Finished),
            Some(entry) if entry.previous_sha256.as_ref() == Some(&found) => {
                return Ok(State::Absent);
            }
            _ => {}
        }
        Ok(match self.overwrite {
            Overwrite::Always => State::Replaceable,
            Overwrite::Never => State::Kept,
            Overwrite::IfUnchanged => match String::from_utf8(bytes) {
                Ok(text) if is_placeholder(path, &text) => State::Replaceable,
                _ => State::Kept,
            },
        })
    }

    /// A file's text as it is on disk, if need be with marks for what is not text.
    pub fn text(&self, path: &str) -> anyhow::Result<Option<String>> {
        Ok(read_bytes(&self.inside(path)?)?.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()))
    }

    /// Writes a file, whole or not at all, with its record first. Refuses what [`Folder::state`] says is kept.
    pub fn write(&mut self, path: &str, text: &str, mut entry: Entry) -> anyhow::Result<()> {
        let full = self.inside(path)?;
        match self.state(path)? {
            State::Kept => bail!("{path} is somebody's work and stays as it is"),
            State::Replaceable if self.overwrite == Overwrite::Always => self.back_up(path, &full)?,
            _ => {}
        }
        entry.sha256 = hash(text.as_bytes());
        let ours = self.manifest.files.get(path).map(|entry| entry.sha256.clone());
        let there = read_bytes(&full)?.map(|bytes| hash(&bytes));
        entry.previous_sha256 = there.filter(|there| Some(there) == ours.as_ref() && *there != entry.sha256);
        self.manifest.files.insert(path.to_owned(), entry);
        self.save()?;
        self.place(&full, text)
    }

    fn back_up(&self, path: &str, full: &Path) -> anyhow::Result<()> {
        let copy = (0..).map(|n: u32| self.notes(&format!("backup/{path}.{n}"))).find(|copy| !copy.exists());
        if let Some(copy) = copy {
            fs::create_dir_all(copy.parent().unwrap_or(&self.root))?;
            fs::copy(full, copy)?;
        }
        Ok(())
    }

    fn save(&self) -> anyhow::Result<()> {
        self.place(&self.notes("manifest.json"), &(serde_json::to_string_pretty(&self.manifest)? + "\n"))
    }

    /// Temp file in our notes (same file system), synced, then renamed over the target.
    fn place(&self, target: &Path, text: &str) -> anyhow::Result<()> {
        let mut temp = tempfile::NamedTempFile::new_in(self.notes("tmp"))?;
        temp.write_all(text.as_bytes())?;
        temp.as_file().sync_all()?;
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt as _;
            // A temp file is private; a service's file is not.
            temp.as_file().set_permissions(fs::Permissions::from_mode(0o644))?;
        }
        if let Some(parent) = target.parent() {
            fs::create_dir_all(parent)?;
        }
        temp.persist(target).with_context(|| format!("writing {}", target.display()))?;
        Ok(())
    }

    fn notes(&self, name: &str) -> PathBuf {
        self.root.join(NOTES).join(name)
    }

    /// The full path, after a look that no existing part of it is a symlink to elsewhere.
    fn inside(&self, path: &str) -> anyhow::Result<PathBuf> {
        let full = self.root.join(path);
        let Ok(root) = self.root.canonicalize() else {
            return Ok(full);
        };
        let existing = full.ancestors().find(|part| fs::symlink_metadata(part).is_ok());
        let real = existing.map(Path::canonicalize).transpose();
        match real {
            Ok(Some(real)) if real.starts_with(&root) => Ok(full),
            _ => bail!("{path} leads outside {} through a link", self.root.display()),
        }
    }
}

fn is_placeholder(path: &str, text: &str) -> bool {
    let empty_on_purpose = path.ends_with("__init__.py");
    (text.trim().is_empty() && !empty_on_purpose) || check::placeholder(path, text).is_some()
}

fn read_bytes(path: &Path) -> anyhow::Result<Option<Vec<u8>>> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(err) if matches!(err.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory) => Ok(None),
        Err(err) => Err(err).with_context(|| format!("reading {}", path.display())),
    }
}

fn read(path: &Path) -> anyhow::Result<Option<String>> {
    let bytes = read_bytes(path)?;
    bytes.map(|bytes| String::from_utf8(bytes).with_context(|| format!("{} is not text", path.display()))).transpose()
}

fn hash(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn entry() -> Entry {
        Entry::new(Source::Model)
    }

    fn begun(root: &Path, overwrite: Overwrite) -> Folder {
        let files = json!([{"path": "app/main.py", "priority": "critical", "purpose": "x"}]);
        let plan = Plan::parse(&json!({"service_name": "a-b", "files_to_create": files}).to_string()).unwrap();
        let mut folder = Folder::open(root, overwrite).unwrap();
        folder.begin(&plan, "a request", false).unwrap();
        folder
    }

    #[test]
    fn policies_over_what_is_there() {
        let real = "app = 1\n";
        let check = |overwrite: Overwrite, there: &str, want: State| {
            let dir = tempfile::tempdir().unwrap();
            let mut folder = begun(dir.path(), overwrite);
            fs::create_dir_all(dir.path().join("app")).unwrap();
            fs::write(dir.path().join("app/main.py"), there).unwrap();
            assert_eq!(folder.state("app/main.py").unwrap(), want, "{overwrite:?} {there:?}");
            let written = folder.write("app/main.py", "app = 2\n", entry());
            assert_eq!(written.is_ok(), want != State::Kept);
            let now = fs::read_to_string(dir.path().join("app/main.py")).unwrap();
            assert_eq!(now, if want == State::Kept { there } else { "app = 2\n" });
            let copy = dir.path().join(".spectra/backup/app/main.py.0");
            assert_eq!(copy.exists(), overwrite == Overwrite::Always);
        };
        check(Overwrite::Never, real, State::Kept);
        check(Overwrite::Never, "# TODO\n", State::Kept);
        check(Overwrite::IfUnchanged, real, State::Kept);
        check(Overwrite::IfUnchanged, "# TODO\n", State::Replaceable);
        check(Overwrite::IfUnchanged, "", State::Replaceable);
        check(Overwrite::Always, real, State::Replaceable);
    }

    #[test]
    fn our_own_file_is_known_until_edited() {
        let dir = tempfile::tempdir().unwrap();
        begun(dir.path(), Overwrite::IfUnchanged).write("app/main.py", "app = 1\n", entry()).unwrap();
        let mut folder = Folder::open(dir.path(), Overwrite::IfUnchanged).unwrap();
        assert_eq!(folder.state("app/main.py").unwrap(), State::Finished);
        folder.write("app/main.py", "app = 2\n", entry()).unwrap();
        fs::write(dir.path().join("app/main.py"), "app = 3\n").unwrap();
        assert_eq!(folder.state("app/main.py").unwrap(), State::Kept);
        assert_eq!(folder.stored_plan().unwrap().unwrap().service_name, "a-b");
    }

    #[test]
    fn a_rewrite_killed_before_the_rename_is_still_ours() {
        let dir = tempfile::tempdir().unwrap();
        let mut folder = begun(dir.path(), Overwrite::IfUnchanged);
        folder.write("app/main.py", "app = 1\n", entry()).unwrap();
        folder.write("app/main.py", "app = 2\n", entry()).unwrap();
        fs::write(dir.path().join("app/main.py"), "app = 1\n").unwrap();
        assert_eq!(folder.state("app/main.py").unwrap(), State::Absent);
    }

    #[cfg(unix)]
    #[test]
    fn links_do_not_lead_outside() {
        let (dir, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let mut folder = begun(dir.path(), Overwrite::Always);
        std::os::unix::fs::symlink(elsewhere.path(), dir.path().join("app")).unwrap();
        assert!(folder.state("app/main.py").is_err());
        assert!(folder.write("app/main.py", "x", entry()).is_err());
        fs::remove_file(dir.path().join("app")).unwrap();
        fs::create_dir(dir.path().join("app")).unwrap();
        std::os::unix::fs::symlink(elsewhere.path().join("new.py"), dir.path().join("app/main.py")).unwrap();
        assert!(folder.write("app/main.py", "x", entry()).is_err());
        assert!(!elsewhere.path().join("new.py").exists());

        // Our own notes are cleared at the start: never what a link there points to.
        let theirs = elsewhere.path().join("theirs.txt");
        fs::write(&theirs, "x").unwrap();
        fs::remove_dir_all(dir.path().join(".spectra/tmp")).unwrap();
        std::os::unix::fs::symlink(elsewhere.path(), dir.path().join(".spectra/tmp")).unwrap();
        let plan = folder.stored_plan().unwrap().unwrap();
        assert!(folder.begin(&plan, "a request", false).is_err());
        assert!(theirs.exists());
    }
}
