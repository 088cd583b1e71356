//! The files of a shard's snapshots, on the glommio executor that opened them, past every cache.
//!
//! A snapshot is written under a name that ends in `.part`, made durable, and only then given its own:
//! `<group>-<index>-<term>.snap`, index and term with 16 hexadecimal digits. What a crash or a failure
//! leaves is removed at the next occasion; the log is not touched by any of it.

mod error;
mod load;
mod part;
mod transfer;
mod whole;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use wal::{GroupId, LogIndex, Term};

use crate::snapshot::Header;
pub use error::SnapshotFileError;
pub use load::{Loaded, Refused, Restored};
pub use transfer::{Receiver, Writer};

/// How much is read or written at once.
const PIECE: usize = 512 << 10;

/// What the files of a shard's snapshots have in common.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// The id of the cluster; snapshots of another are refused. The instance in their headers is that of
    /// the data directory they were made in, so it differs from ours in those that were received.
    pub cluster: String,
    /// How many of each group are kept, at least 1.
    pub keep: usize,
    /// What stays free on the file system, for the log, when a snapshot is written.
    pub reserve_bytes: u64,
    /// The same while the log waits for more than that: a snapshot may let go of what the log holds.
    pub reserve_bytes_full: u64,
}

/// The snapshots of a shard. Clones are of the same.
#[derive(Clone)]
pub struct Snapshots(Rc<Shared>);

struct Shared {
    directory: PathBuf,
    options: Options,
    /// The log waits for space.
    full: Cell<bool>,
    state: RefCell<State>,
}

#[derive(Default)]
struct State {
    files: BTreeMap<Name, Condition>,
    /// Files that were begun and are no longer written.
    abandoned: Vec<PathBuf>,
    parts_begun: u64,
    loaded_bytes: u64,
}

/// What is known of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Condition {
    /// Nothing speaks against it.
    Usable,
    /// It was found to be damaged, or not to be ours.
    Refused,
}

/// What a file is called after.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Name {
    group: GroupId,
    index: LogIndex,
    term: Term,
}

impl Name {
    fn of(header: &Header) -> Self {
        Self {
            group: header.group,
            index: header.index,
            term: header.term,
        }
    }

    fn to_text(self) -> String {
        let (index, term) = (self.index.to_raw(), self.term.to_raw());
        format!("{}-{index:016x}-{term:016x}", self.group)
    }

    /// The name in a file's, if it is one that this build writes.
    fn parse(file: &str) -> Option<Self> {
        let mut parts = file.strip_suffix(".snap")?.split('-');
        let group = parts.next()?.parse().ok()?;
        let mut number = || u64::from_str_radix(parts.next()?, 16).ok();
        let name = Self {
            group: GroupId::from_raw(group),
            index: LogIndex::from_raw(number()?),
            term: Term::from_raw(number()?),
        };
        (format!("{}.snap", name.to_text()) == file).then_some(name)
    }
}

/// The file of a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SnapshotFile {
    pub group: GroupId,
    pub index: LogIndex,
    pub term: Term,
    pub bytes: u64,
    /// When it was written here, Unix milliseconds.
    pub unix_ms: u64,
    /// It was found to be damaged.
    pub refused: bool,
}

impl Snapshots {
    /// Opens the directory, makes it if there is none, and removes what was begun and not finished.
    ///
    /// # Panics
    ///
    /// If none should be kept.
    pub async fn open(directory: &Path, options: Options) -> Result<Self, SnapshotFileError> {
        assert!(options.keep > 0, "at least one snapshot is kept");
        let failed = |what| move |error| SnapshotFileError::io(what, directory, error);
        if !directory.exists() {
            std::fs::create_dir_all(directory).map_err(failed("make"))?;
            if let Some(parent) = directory.parent() {
                part::sync_directory(parent).await?;
            }
        }
        let mut state = State::default();
        for file in std::fs::read_dir(directory).map_err(failed("list"))? {
            let file = file.map_err(failed("list"))?.file_name();
            let Some(file) = file.to_str() else { continue };
            if let Some(name) = Name::parse(file) {
                state.files.insert(name, Condition::Usable);
            } else if file.ends_with(".part") {
                let path = directory.join(file);
                let removed = std::fs::remove_file(&path);
                removed.map_err(|error| SnapshotFileError::io("remove", &path, error))?;
            }
        }
        Ok(Self(Rc::new(Shared {
            directory: directory.to_owned(),
            options,
            full: Cell::new(false),
            state: RefCell::new(state),
        })))
    }

    /// The log waits for space, or does not any more.
    pub fn log_is_full(&self, full: bool) {
        self.0.full.set(full);
    }

    /// Whether a snapshot of so many bytes may be begun.
    pub(super) fn check_space(&self, bytes: u64) -> Result<(), SnapshotFileError> {
        self.0.check_space(&self.0.directory, bytes)
    }

    /// The snapshots of a group, the newest first; those that were refused are not among them.
    pub fn list(&self, group: GroupId) -> Vec<(LogIndex, Term)> {
        let names = self.0.usable(group);
        names.map(|name| (name.index, name.term)).collect()
    }

    /// A snapshot was found to be of no use: it is not listed any more.
    pub fn refuse(&self, group: GroupId, index: LogIndex, term: Term) {
        self.0.refuse(Name { group, index, term });
    }

    /// Whether a snapshot is there, and nothing speaks against it.
    pub fn has(&self, group: GroupId, index: LogIndex, term: Term) -> bool {
        let name = Name { group, index, term };
        self.0.state.borrow().files.get(&name) == Some(&Condition::Usable)
    }

    /// The file of a snapshot, whether it is there or not.
    pub fn path(&self, group: GroupId, index: LogIndex, term: Term) -> PathBuf {
        self.0.path(Name { group, index, term })
    }

    /// What to say of a snapshot that is not there.
    pub(super) fn gone(&self, group: GroupId, index: LogIndex, term: Term) -> SnapshotFileError {
        let path = self.path(group, index, term);
        SnapshotFileError::Gone { path }
    }

    /// Bytes that were read by all loads so far.
    pub fn loaded_bytes(&self) -> u64 {
        self.0.state.borrow().loaded_bytes
    }

    /// Bytes of all files.
    pub fn bytes(&self) -> u64 {
        self.files().iter().map(|file| file.bytes).sum()
    }

    /// All files that are there.
    pub fn files(&self) -> Vec<SnapshotFile> {
        let state = self.0.state.borrow();
        let files = state.files.iter().filter_map(|(&name, &condition)| {
            // One that cannot be looked at is found out when it is read.
            let found = std::fs::metadata(self.0.path(name)).ok()?;
            let modified = found.modified().ok()?;
            let since = modified.duration_since(std::time::UNIX_EPOCH);
            let unix_ms = since.map_or(0, |since| since.as_millis());
            Some(SnapshotFile {
                group: name.group,
                index: name.index,
                term: name.term,
                bytes: found.len(),
                unix_ms: u64::try_from(unix_ms).unwrap_or(0),
                refused: condition == Condition::Refused,
            })
        });
        files.collect()
    }

    /// The groups that have snapshots.
    pub fn groups(&self) -> Vec<GroupId> {
        let state = self.0.state.borrow();
        let mut groups: Vec<_> = state.files.keys().map(|name| name.group).collect();
        groups.dedup();
        groups
    }
}

impl Shared {
    fn path(&self, name: Name) -> PathBuf {
        self.directory.join(format!("{}.snap", name.to_text()))
    }

    /// Whether so many bytes can be written without what is to stay free.
    fn check_space(&self, path: &Path, bytes: u64) -> Result<(), SnapshotFileError> {
        let failed = |error| SnapshotFileError::io("look at", &self.directory, error);
        let stat = rustix::fs::statvfs(&self.directory);
        let stat = stat.map_err(|errno| failed(io::Error::from(errno)))?;
        let free = stat.f_bavail.saturating_mul(stat.f_frsize);
        let reserve_bytes = match self.full.get() {
            true => self.options.reserve_bytes_full,
            false => self.options.reserve_bytes,
        };
        let needed_bytes = bytes.saturating_add(reserve_bytes);
        if free < needed_bytes {
            return Err(SnapshotFileError::Full {
                path: path.to_owned(),
                needed_bytes,
                error: io::ErrorKind::StorageFull.into(),
            });
        }
        Ok(())
    }

    /// The newest first.
    fn usable(&self, group: GroupId) -> impl Iterator<Item = Name> + use<> {
        let state = self.state.borrow();
        let usable = |(&name, &condition): (&Name, &Condition)| {
            (name.group == group && condition == Condition::Usable).then_some(name)
        };
        let names: Vec<_> = state.files.iter().filter_map(usable).collect();
        names.into_iter().rev()
    }

    /// Notes that a file is of no use.
    fn refuse(&self, name: Name) {
        if let Some(condition) = self.state.borrow_mut().files.get_mut(&name) {
            *condition = Condition::Refused;
        }
    }

    /// Whether a header is what the file is called after, and of our cluster.
    fn check(&self, name: Name, path: &Path, header: &Header) -> Result<(), SnapshotFileError> {
        let path = path.to_owned();
        let (own, found) = (&self.options.cluster, &header.cluster);
        if own != found {
            return Err(SnapshotFileError::Foreign {
                path,
                own: own.clone(),
                found: found.clone(),
            });
        }
        if Name::of(header) != name {
            return Err(SnapshotFileError::Misnamed {
                path,
                group: header.group,
                index: header.index,
                term: header.term,
            });
        }
        Ok(())
    }

    /// Takes a file that is durable among the others, and removes those of its group that have become
    /// too many or had been refused. It does not matter much if that fails: the next one tries again.
    async fn publish(&self, new: Name) {
        let state = &self.state;
        state.borrow_mut().files.insert(new, Condition::Usable);
        let kept: Vec<_> = self.usable(new.group).take(self.options.keep).collect();
        let excess: Vec<_> = {
            let state = state.borrow();
            let names = state.files.keys().copied();
            names
                .filter(|name| name.group == new.group && !kept.contains(name))
                .collect()
        };
        for name in excess {
            if remove(&self.path(name)).await {
                state.borrow_mut().files.remove(&name);
            }
        }
    }

    /// Removes what was begun and is no longer written.
    async fn sweep(&self) {
        let abandoned = std::mem::take(&mut self.state.borrow_mut().abandoned);
        for path in abandoned {
            if !remove(&path).await {
                self.state.borrow_mut().abandoned.push(path);
            }
        }
    }
}

/// Whether the file is no longer there.
async fn remove(path: &Path) -> bool {
    match glommio::io::remove(path).await.map_err(io::Error::from) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            let path = path.display();
            tracing::warn!(event = "snapshot.not_removed", %path, reason = %error);
            false
        }
        _ => true,
    }
}
