//! Puts files where a node looks for them. Can be begun again wherever it was broken off.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use super::ImportError;

fn failed(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> ImportError {
    let path: PathBuf = path.to_owned();
    move |error| ImportError::Io { what, path, error }
}

/// Moves the logs and snapshots of an epoch out of the way. They are kept: whoever has seen that nobody
/// misses anything deletes them.
pub(super) fn put_aside(directory: &Path, epoch: u64) -> Result<(), ImportError> {
    let aside = directory.join(format!("before-import-{epoch}"));
    let mut shards = Vec::new();
    for entry in fs::read_dir(directory).map_err(failed("list", directory))? {
        let entry = entry.map_err(failed("list", directory))?;
        if entry.file_name().to_string_lossy().starts_with("shard-") {
            shards.push(entry.file_name());
        }
    }
    for name in shards {
        let (from, to) = (directory.join(&name), aside.join(&name));
        if to.exists() {
            // An import that was broken off had put it aside: this is what that began.
            fs::remove_dir_all(&from).map_err(failed("remove", &from))?;
            continue;
        }
        fs::create_dir_all(&aside).map_err(failed("make", &aside))?;
        fs::rename(&from, &to).map_err(failed("move", &from))?;
    }
    if aside.exists() {
        sync(&aside)?;
    }
    sync(directory)
}

/// Copies the file of a snapshot to the directory of a shard, durably.
///
/// # Errors
///
/// [`ImportError::Io`].
///
/// # Panics
///
/// If the path does not end in a name.
pub fn place(snapshot: &Path, shard: &Path) -> Result<(), ImportError> {
    let directory = shard.join("snapshots");
    fs::create_dir_all(&directory).map_err(failed("make", &directory))?;
    let name = snapshot.file_name().expect("a file's path ends in a name");
    let to = directory.join(name);
    fs::copy(snapshot, &to).map_err(failed("copy", snapshot))?;
    sync(&to)?;
    sync(&directory)?;
    sync(shard)
}

/// Makes a file or a directory durable.
pub(super) fn sync(path: &Path) -> Result<(), ImportError> {
    let synced = File::open(path).and_then(|file| file.sync_all());
    synced.map_err(failed("sync", path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_import_that_is_begun_again_keeps_what_was_put_aside_first() {
        let name = format!("drakkar-placing-{}", std::process::id());
        let scratch = std::env::temp_dir().join(name);
        let (old, new) = (
            scratch.join("shard-0/old"),
            scratch.join("shard-0/snapshots"),
        );
        fs::create_dir_all(&old).unwrap();
        put_aside(&scratch, 4).unwrap();
        let snapshot = scratch.join("0-1-1.snap");
        fs::write(&snapshot, "bytes").unwrap();
        place(&snapshot, &scratch.join("shard-0")).unwrap();
        assert!(new.join("0-1-1.snap").exists());
        put_aside(&scratch, 4).unwrap();
        assert!(!new.exists(), "what was begun is gone");
        assert!(scratch.join("before-import-4/shard-0/old").exists());
        fs::remove_dir_all(&scratch).unwrap();
    }
}
