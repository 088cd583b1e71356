//! Looks, before anything starts, whether this machine lets a node run, and says what to change.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use wal::io::{FileSystem, FileSystemKind};

/// What glommio locks for the rings of one shard, and what it refuses to start without.
const MEMLOCK_BYTES: u64 = 512 * 1024;
/// How often a port that is taken is tried again, and after which pause: a second together.
const PORT_TRIES: u32 = 50;
const PORT_PAUSE: Duration = Duration::from_millis(20);

/// Why this machine does not let a node run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PreflightError {
    #[error(
        "io_uring is switched off on this machine (kernel.io_uring_disabled = {value}). Allow it: sysctl -w kernel.io_uring_disabled=0, and keep it in /etc/sysctl.d/"
    )]
    UringDisabled { value: String },
    #[error(
        "io_uring is forbidden to this process (io_uring_setup: {source}). In a container, its seccomp profile must allow io_uring_setup, io_uring_enter and io_uring_register: docker run --security-opt seccomp=unconfined, or a profile that adds them; under systemd, look at SystemCallFilter="
    )]
    UringForbidden { source: io::Error },
    #[error(
        "io_uring does not exist in this kernel (io_uring_setup: {source}): Linux 5.11 or newer is needed"
    )]
    UringMissing { source: io::Error },
    #[error(
        "this process may lock only {limit} bytes of memory, a node needs {needed} for its rings. Raise the limit: ulimit -l {needed_kib}, LimitMEMLOCK={needed} in the systemd unit, docker run --ulimit memlock={needed}, or 'memlock' in /etc/security/limits.conf"
    )]
    Memlock {
        limit: u64,
        needed: u64,
        needed_kib: u64,
    },
    #[error("{what} {address} cannot be listened on: {source}{hint}")]
    Listen {
        what: &'static str,
        address: String,
        hint: &'static str,
        source: io::Error,
    },
    /// What is written durably there may be lost with the power, or with another machine.
    #[error(
        "node.data_dir {path} is on {name}, {}: an acknowledged write could be lost there. Choose a directory on a local disk (ext4, xfs), or set node.any_file_system = true if this data may be lost",
        kind.name()
    )]
    FileSystem {
        path: PathBuf,
        name: String,
        kind: FileSystemKind,
    },
    #[error("host '{host}' has no address: {source}")]
    Host { host: String, source: io::Error },
}

/// Checks io_uring and the memory that may be locked; raises the soft limit as far as allowed.
pub(super) fn check(shards: u16) -> Result<(), PreflightError> {
    check_uring()?;
    let needed = MEMLOCK_BYTES * u64::from(shards).max(1);
    let limit = getrlimit(Resource::Memlock);
    // No limit at all is `None`.
    if limit.current.is_some_and(|current| current < needed) {
        let raised = Rlimit {
            current: limit.maximum,
            maximum: limit.maximum,
        };
        // A refusal leaves the limit as it is, which the next lines look at.
        let _ = setrlimit(Resource::Memlock, raised);
    }
    match getrlimit(Resource::Memlock).current {
        Some(limit) if limit < needed => Err(PreflightError::Memlock {
            limit,
            needed,
            needed_kib: needed / 1024,
        }),
        _ => Ok(()),
    }
}

/// Refuses a data directory where durable writes are not.
pub(super) fn check_file_system(path: &Path) -> Result<(), PreflightError> {
    match FileSystem::of(path) {
        Ok(FileSystem { name, kind }) if kind != FileSystemKind::Local => {
            Err(PreflightError::FileSystem {
                path: path.to_owned(),
                name: name.into_owned(),
                kind,
            })
        }
        // What cannot be looked at is said better by who opens it.
        _ => Ok(()),
    }
}

fn check_uring() -> Result<(), PreflightError> {
    let switch = std::fs::read_to_string("/proc/sys/kernel/io_uring_disabled");
    if let Ok(value) = switch {
        let value = value.trim().to_owned();
        // 1 leaves it to privileged processes: the probe below tells whether this is one.
        if value == "2" {
            return Err(PreflightError::UringDisabled { value });
        }
    }
    match probe_uring() {
        Ok(()) => Ok(()),
        Err(source) if source.raw_os_error() == Some(rustix::io::Errno::NOSYS.raw_os_error()) => {
            Err(PreflightError::UringMissing { source })
        }
        Err(source) if source.kind() == io::ErrorKind::PermissionDenied => {
            Err(PreflightError::UringForbidden { source })
        }
        // Anything else is no refusal; the executors will say more when they start.
        Err(_) => Ok(()),
    }
}

#[expect(
    unsafe_code,
    reason = "asking the kernel for a ring is a raw system call"
)]
fn probe_uring() -> io::Result<()> {
    let mut parameters = rustix::io_uring::io_uring_params::default();
    // SAFETY: the parameters are valid for the duration of the call, and the ring it returns is
    // closed unused.
    let ring = unsafe { rustix::io_uring::io_uring_setup(1, &mut parameters) };
    ring.map(drop).map_err(io::Error::from)
}

/// The address a node listens on: the one given, or that of its host.
pub(super) fn listen_address(host: &str, listen: Option<IpAddr>) -> Result<IpAddr, PreflightError> {
    if let Some(address) = listen {
        return Ok(address);
    }
    let refused = |source| PreflightError::Host {
        host: host.to_owned(),
        source,
    };
    let mut found = (host, 0).to_socket_addrs().map_err(refused)?;
    found
        .next()
        .map(|address| address.ip())
        .ok_or_else(|| refused(io::ErrorKind::NotFound.into()))
}

/// Listens, or says who to look for.
pub(super) fn listen(
    what: &'static str,
    ip: IpAddr,
    port: u16,
) -> Result<TcpListener, PreflightError> {
    let address = SocketAddr::new(ip, port);
    bind(address).map_err(|source| PreflightError::Listen {
        what,
        address: address.to_string(),
        hint: match source.kind() {
            io::ErrorKind::AddrInUse => {
                ": another process listens there (ss -ltnp shows which); stop it or change the port"
            }
            io::ErrorKind::AddrNotAvailable => {
                ": no interface of this machine has that address; set node.listen"
            }
            io::ErrorKind::PermissionDenied => {
                ": ports below 1024 need CAP_NET_BIND_SERVICE; choose a higher one"
            }
            _ => "",
        },
        source,
    })
}

/// A process that was killed is gone before its ring is: until the kernel has cancelled what the ring
/// was accepting, the port stays taken. A node that is started again at once waits for that.
fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    for _ in 0..PORT_TRIES {
        match TcpListener::bind(address) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                std::thread::sleep(PORT_PAUSE);
            }
            outcome => return outcome,
        }
    }
    TcpListener::bind(address)
}

/// The cores this process may run on, ascending.
pub(super) fn cores() -> Vec<usize> {
    match rustix::thread::sched_getaffinity(None) {
        Ok(set) => (0..rustix::thread::CpuSet::MAX_CPU)
            .filter(|&core| set.is_set(core))
            .collect(),
        Err(_) => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_busy_port_is_said_with_the_way_to_find_its_owner() {
        let ip = IpAddr::from([127, 0, 0, 1]);
        let first = listen("client port", ip, 0).unwrap();
        let port = first.local_addr().unwrap().port();
        let error = listen("client port", ip, port).unwrap_err().to_string();
        assert!(error.starts_with(&format!(
            "client port 127.0.0.1:{port} cannot be listened on"
        )));
        assert!(error.contains("ss -ltnp"), "{error}");
    }

    #[test]
    fn this_process_may_run_somewhere() {
        assert!(!cores().is_empty());
    }
}
