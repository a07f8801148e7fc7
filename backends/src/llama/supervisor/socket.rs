//! A folder only we can enter, for the workers' sockets.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;

/// Removed with everything in it when dropped.
#[derive(Debug)]
pub(super) struct Folder(PathBuf);

impl Folder {
    pub(super) fn create() -> std::io::Result<Self> {
        // Short: a Unix socket's path may have 107 bytes.
        let name = format!("spectra-{}-{:08x}", std::process::id(), RandomState::new().build_hasher().finish() >> 32);
        let path = std::env::temp_dir().join(name);
        std::fs::DirBuilder::new().mode(0o700).create(&path)?;
        Ok(Self(path))
    }

    /// Another path for every worker, so that a dying one cannot be mistaken for its successor.
    pub(super) fn socket(&self, generation: u64) -> PathBuf {
        self.0.join(format!("{generation}.sock"))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // Nobody is helped by knowing that a temporary folder stayed.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
