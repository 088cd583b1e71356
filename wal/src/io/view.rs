//! A data directory and its logs as a reader sees them: nothing in it is made, changed or removed.

use std::fs::{self, File};
use std::io;
use std::ops::Deref;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use memmap2::Mmap;
use rustix::fs::{FlockOperation, flock};

use super::directory::{self, DirectoryError, IDENTITY, Identity, LOCK};
use crate::{BLOCK, SegmentId, UNREADABLE};

/// How much is read at once to find out what can be read.
const CHUNK: usize = 1 << 20;

/// Why a data directory cannot be looked at.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ViewError {
    #[error("cannot {what} {path}: {error}")]
    Io {
        what: &'static str,
        path: PathBuf,
        error: io::Error,
    },
    #[error(
        "{path} is in use by process {pid}: stop it first, or look at it while it is written with --live"
    )]
    Locked { path: PathBuf, pid: String },
    #[error("{path} holds no logs (shard-0, shard-1, ...): name the data directory of a node")]
    Empty { path: PathBuf },
    #[error(transparent)]
    Identity(#[from] DirectoryError),
}

/// A data directory that is only read. Unless its node may run meanwhile, no node can start in it
/// until this is dropped.
#[derive(Debug)]
pub struct DataView {
    path: PathBuf,
    _lock: Option<File>,
}

impl DataView {
    /// Opens a directory; refuses one that a node runs in unless `live`.
    pub fn open(path: &Path, live: bool) -> Result<Self, ViewError> {
        let lock = if live { None } else { lock(path)? };
        Ok(Self {
            path: path.to_owned(),
            _lock: lock,
        })
    }

    /// Whose data it is, and the instance that its segments carry.
    pub fn identity(&self) -> Result<(Identity, u64), ViewError> {
        let path = self.path.join(IDENTITY);
        let text = fs::read(&path).map_err(failed("read", &path))?;
        // Bytes that are no text do not pass the check either.
        Ok(directory::parse(&String::from_utf8_lossy(&text), &path)?)
    }

    /// The logs that there are, by shard.
    pub fn shards(&self) -> Result<Vec<(u16, PathBuf)>, ViewError> {
        let mut found = Vec::new();
        for name in names(&self.path)? {
            let number = name.strip_prefix("shard-");
            if let Some(shard) = number.and_then(|number| number.parse().ok()) {
                found.push((shard, self.path.join(name)));
            }
        }
        if found.is_empty() {
            let path = self.path.clone();
            return Err(ViewError::Empty { path });
        }
        found.sort_unstable();
        Ok(found)
    }
}

fn failed(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> ViewError {
    let path = path.to_owned();
    move |error| ViewError::Io { what, path, error }
}

fn names(path: &Path) -> Result<Vec<String>, ViewError> {
    let mut names = Vec::new();
    for entry in fs::read_dir(path).map_err(failed("list", path))? {
        let entry = entry.map_err(failed("list", path))?;
        names.extend(entry.file_name().into_string());
    }
    Ok(names)
}

/// Keeps nodes out. A copy of a directory may lack the file that they lock: nothing runs there.
fn lock(path: &Path) -> Result<Option<File>, ViewError> {
    let name = path.join(LOCK);
    let file = match File::open(&name) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed("open", &name)(error)),
    };
    match flock(&file, FlockOperation::NonBlockingLockShared) {
        Ok(()) => Ok(Some(file)),
        Err(rustix::io::Errno::WOULDBLOCK) => {
            let pid = fs::read_to_string(&name).map_err(failed("read", &name))?;
            Err(ViewError::Locked {
                path: path.to_owned(),
                pid: pid.trim().to_owned(),
            })
        }
        Err(error) => Err(failed("lock", &name)(error.into())),
    }
}

/// One segment's bytes, as the device gives them.
#[derive(Debug)]
pub struct SegmentView {
    bytes: Bytes,
    unreadable: Vec<u64>,
}

#[derive(Debug)]
enum Bytes {
    Mapped(Mmap),
    /// With holes that the device does not give.
    Copied(Vec<u8>),
}

impl SegmentView {
    /// The segments of a shard's directory, oldest first.
    pub fn list(directory: &Path) -> Result<Vec<SegmentId>, ViewError> {
        let names = names(directory)?;
        let number = |name: &String| u32::from_str_radix(name.strip_suffix(".seg")?, 16).ok();
        let mut found: Vec<u32> = names.iter().filter_map(number).collect();
        found.sort_unstable();
        Ok(found.into_iter().map(SegmentId::from_raw).collect())
    }

    /// The first block of a segment, or less of a shorter file.
    pub fn first_block(directory: &Path, segment: SegmentId) -> Result<Vec<u8>, ViewError> {
        let path = path(directory, segment);
        let file = File::open(&path).map_err(failed("open", &path))?;
        let mut block = vec![0; BLOCK];
        match read(&file, &mut block, 0) {
            Ok(bytes) => block.truncate(bytes),
            Err(_) => block.fill(UNREADABLE),
        }
        Ok(block)
    }

    /// Maps a segment. Blocks that cannot be read are noted and filled with what no check accepts.
    pub fn open(directory: &Path, segment: SegmentId) -> Result<Self, ViewError> {
        let path = path(directory, segment);
        let file = File::open(&path).map_err(failed("open", &path))?;
        let length = file.metadata().map_err(failed("look at", &path))?.len();
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        // To touch a page that the device does not give would end the process: read it first.
        if let Some(bytes) = readable(&file, length) {
            return Ok(bytes);
        }
        let bytes = map(&file).map_err(failed("map", &path))?;
        Ok(Self {
            bytes: Bytes::Mapped(bytes),
            unreadable: Vec::new(),
        })
    }

    /// Offsets of the blocks that the device does not give.
    pub fn unreadable(&self) -> &[u64] {
        &self.unreadable
    }
}

impl Deref for SegmentView {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.bytes {
            Bytes::Mapped(bytes) => bytes,
            Bytes::Copied(bytes) => bytes,
        }
    }
}

fn path(directory: &Path, segment: SegmentId) -> PathBuf {
    directory.join(format!("{segment}.seg"))
}

#[expect(
    unsafe_code,
    reason = "a mapping shows what others write to the file meanwhile"
)]
fn map(file: &File) -> io::Result<Mmap> {
    // SAFETY: only a node writes segments, and it never makes one shorter. Bytes that change under a
    // reader with `--live` are checked by their checksums like all others, and never trusted.
    unsafe { Mmap::map(file) }
}

/// Nothing if every byte of a file can be read; else a copy of those that can.
fn readable(file: &File, length: usize) -> Option<SegmentView> {
    let mut buffer = vec![0; CHUNK];
    let mut at = 0;
    while at < length {
        let chunk = &mut buffer[..CHUNK.min(length - at)];
        if read(file, chunk, at).is_err() {
            return Some(salvage(file, length));
        }
        at += chunk.len();
    }
    None
}

fn salvage(file: &File, length: usize) -> SegmentView {
    let mut bytes = vec![0; length];
    let mut unreadable = Vec::new();
    for (number, block) in bytes.chunks_mut(BLOCK).enumerate() {
        let at = number * BLOCK;
        if read(file, block, at).is_err() {
            block.fill(UNREADABLE);
            unreadable.push(at as u64);
        }
    }
    SegmentView {
        bytes: Bytes::Copied(bytes),
        unreadable,
    }
}

/// Fills a buffer from an offset on, or up to the end of the file.
fn read(file: &File, buffer: &mut [u8], at: usize) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read_at(&mut buffer[filled..], (at + filled) as u64) {
            Ok(0) => break,
            Ok(bytes) => filled += bytes,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}
