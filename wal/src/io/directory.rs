//! A node's data directory: one process at a time, one identity for ever.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

use crate::NodeId;

pub(super) const LOCK: &str = "lock";
pub(super) const IDENTITY: &str = "identity";
const FORMAT: u32 = 1;

/// Whose data a directory holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    pub cluster_id: String,
    pub node: NodeId,
    /// Where the node's peers reach it.
    pub address: String,
    /// Logs in the directory, one for each shard.
    pub shards: u16,
}

/// Why a data directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DirectoryError {
    #[error("cannot {what} {path}: {error}")]
    Io {
        what: &'static str,
        path: PathBuf,
        error: io::Error,
    },
    #[error(
        "{path} is in use by process {pid}: stop it first, or give this node a directory of its own"
    )]
    Locked { path: PathBuf, pid: String },
    #[error(
        "{path} does not pass its check: restore the file, or empty the directory and run drakkar repair rejoin --config FILE"
    )]
    Damaged { path: PathBuf },
    #[error(
        "{path} has format {found}, this build reads {FORMAT}: use the build that wrote it, or a newer one"
    )]
    Format { path: PathBuf, found: u32 },
    #[error(
        "{path} has logs but no identity file: restore the file, or empty the directory and run drakkar repair rejoin --config FILE"
    )]
    Anonymous { path: PathBuf },
    #[error(
        "data dir belongs to cluster {found}, config says {asked}: use the right directory or cluster id"
    )]
    Cluster { found: String, asked: String },
    #[error(
        "data dir belongs to node {found}, config says {asked}: use the right directory or node id"
    )]
    Node { found: NodeId, asked: NodeId },
    #[error(
        "data dir belongs to {found}, config says {asked}: restore the old address; or, if the node \
         has moved, run drakkar repair moved --config FILE on it and change its address in the \
         configurations of all nodes"
    )]
    Address { found: String, asked: String },
    #[error(
        "data dir has {found} shards, config says {asked}: the number of shards cannot be changed \
         while there is data"
    )]
    Shards { found: u16, asked: u16 },
}

/// A data directory that this process owns until it is dropped.
#[derive(Debug)]
pub struct DataDirectory {
    path: PathBuf,
    instance: u64,
    lock: File,
}

impl DataDirectory {
    /// Opens a directory for `identity`, creating it if there is none. Blocks on the file system.
    pub fn open(path: &Path, identity: &Identity) -> Result<Self, DirectoryError> {
        if !path.exists() {
            let mut builder = fs::DirBuilder::new();
            builder
                .recursive(true)
                .mode(0o700)
                .create(path)
                .map_err(failed("create", path))?;
        }
        let lock = lock(path)?;
        let file = path.join(IDENTITY);
        let instance = match fs::read_to_string(&file) {
            Ok(text) => check(&text, &file, identity)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                if path.join("shard-0").exists() {
                    return Err(DirectoryError::Anonymous {
                        path: path.to_owned(),
                    });
                }
                create(path, identity)?
            }
            Err(error) => return Err(failed("read", &file)(error)),
        };
        Ok(Self {
            path: path.to_owned(),
            instance,
            lock,
        })
    }

    /// Gives the directory of a stopped node another address. Blocks on the file system.
    ///
    /// # Errors
    ///
    /// If it is not the directory of `identity`, but for the address.
    pub fn readdress(path: &Path, identity: &Identity) -> Result<Self, DirectoryError> {
        let file = path.join(IDENTITY);
        let lock = lock(path)?;
        let text = fs::read_to_string(&file).map_err(failed("read", &file))?;
        let (found, instance) = parse(&text, &file)?;
        let moved = Identity {
            address: found.address,
            ..identity.clone()
        };
        check(&text, &file, &moved)?;
        write(path, identity, instance)?;
        drop(lock);
        Self::open(path, identity)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Of a file that is made with the directory, is never replaced, and tells it from copies.
    pub fn lock_metadata(&self) -> io::Result<fs::Metadata> {
        self.lock.metadata()
    }

    /// Drawn when the directory was made: its logs carry it, those of others are refused.
    pub fn instance(&self) -> u64 {
        self.instance
    }

    /// Where the log of a shard lies.
    pub fn shard(&self, shard: u16) -> PathBuf {
        self.path.join(format!("shard-{shard}"))
    }
}

fn failed(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> DirectoryError {
    let path = path.to_owned();
    move |error| DirectoryError::Io { what, path, error }
}

fn lock(path: &Path) -> Result<File, DirectoryError> {
    let name = path.join(LOCK);
    let mut options = File::options();
    let file = options
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(&name);
    let mut file = file.map_err(failed("open", &name))?;
    if let Err(error) = flock(&file, FlockOperation::NonBlockingLockExclusive) {
        if error != rustix::io::Errno::WOULDBLOCK {
            return Err(failed("lock", &name)(error.into()));
        }
        let mut pid = String::new();
        file.read_to_string(&mut pid)
            .map_err(failed("read", &name))?;
        return Err(DirectoryError::Locked {
            path: path.to_owned(),
            pid: pid.trim().to_owned(),
        });
    }
    // Over what is there: a block that is given back may be gone when it is needed, on a full disk.
    let pid = format!("{}\n", std::process::id());
    let written = file.write_all_at(pid.as_bytes(), 0);
    written.map_err(failed("write", &name))?;
    let bytes = pid.len() as u64;
    file.set_len(bytes).map_err(failed("truncate", &name))?;
    Ok(file)
}

/// The identity file: one `name = value` a line, the last one the CRC32C of all before.
fn create(path: &Path, identity: &Identity) -> Result<u64, DirectoryError> {
    let mut bytes = [0; 8];
    let urandom = Path::new("/dev/urandom");
    let random = File::open(urandom).and_then(|mut file| file.read_exact(&mut bytes));
    random.map_err(failed("read", urandom))?;
    let instance = u64::from_le_bytes(bytes);
    write(path, identity, instance)?;
    Ok(instance)
}

fn write(path: &Path, identity: &Identity, instance: u64) -> Result<(), DirectoryError> {
    let Identity {
        cluster_id,
        node,
        address,
        shards,
    } = identity;
    let mut text = format!(
        "format = {FORMAT}\ncluster = {cluster_id}\nnode = {node}\naddress = {address}\n\
         shards = {shards}\ninstance = {instance:016x}\n"
    );
    let crc = crc32c::crc32c(text.as_bytes());
    text.push_str(&format!("crc = {crc:08x}\n"));

    let (name, temporary) = (path.join(IDENTITY), path.join("identity.new"));
    let mut file = File::create(&temporary).map_err(failed("create", &temporary))?;
    let written = file
        .write_all(text.as_bytes())
        .and_then(|()| file.sync_all());
    written.map_err(failed("write", &temporary))?;
    fs::rename(&temporary, &name).map_err(failed("rename", &temporary))?;
    let synced = File::open(path).and_then(|directory| directory.sync_all());
    synced.map_err(failed("sync", path))
}

fn check(text: &str, path: &Path, identity: &Identity) -> Result<u64, DirectoryError> {
    let (found, instance) = parse(text, path)?;
    if found.cluster_id != identity.cluster_id {
        return Err(DirectoryError::Cluster {
            found: found.cluster_id,
            asked: identity.cluster_id.clone(),
        });
    }
    if found.node != identity.node {
        return Err(DirectoryError::Node {
            found: found.node,
            asked: identity.node,
        });
    }
    if found.address != identity.address {
        return Err(DirectoryError::Address {
            found: found.address,
            asked: identity.address.clone(),
        });
    }
    if found.shards != identity.shards {
        return Err(DirectoryError::Shards {
            found: found.shards,
            asked: identity.shards,
        });
    }
    Ok(instance)
}

/// Whose data a directory holds, and its instance.
pub(super) fn parse(text: &str, path: &Path) -> Result<(Identity, u64), DirectoryError> {
    let damaged = || DirectoryError::Damaged {
        path: path.to_owned(),
    };
    let end = text.rfind("crc = ").ok_or_else(damaged)?;
    let crc = format!("crc = {:08x}", crc32c::crc32c(&text.as_bytes()[..end]));
    if text[end..].trim_end() != crc {
        return Err(damaged());
    }
    let value = |name: &str| {
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(" = "));
        line.ok_or_else(damaged)
    };
    let format = value("format")?.parse().map_err(|_| damaged())?;
    if format != FORMAT {
        return Err(DirectoryError::Format {
            path: path.to_owned(),
            found: format,
        });
    }
    let identity = Identity {
        cluster_id: value("cluster")?.to_owned(),
        node: NodeId::from_raw(value("node")?.parse().map_err(|_| damaged())?),
        address: value("address")?.to_owned(),
        shards: value("shards")?.parse().map_err(|_| damaged())?,
    };
    let instance = u64::from_str_radix(value("instance")?, 16).map_err(|_| damaged())?;
    Ok((identity, instance))
}
