//! A directory for as long as it is needed.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

/// A directory of its own among the temporary ones. It goes away with all that is in it.
#[derive(Debug)]
pub struct Scratch(PathBuf);

impl Scratch {
    /// Named after what it is for, and after this process.
    ///
    /// # Panics
    ///
    /// If it cannot be made.
    pub fn new(name: &str) -> Self {
        static SCRATCHES: AtomicU32 = AtomicU32::new(0);
        let number = SCRATCHES.fetch_add(1, Ordering::Relaxed);
        let name = format!("drakkar-{name}-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        // What an earlier process with the same number left behind.
        drop(fs::remove_dir_all(&path));
        fs::create_dir_all(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        Self(path)
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// A place in it.
    pub fn join(&self, name: impl AsRef<Path>) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What is left behind is temporary.
        drop(fs::remove_dir_all(&self.0));
    }
}
