//! What Drakkar is compared with, started from the system's packages: durable, on the same disk, and
//! loaded by the same generator.

mod etcd;
mod redis;

use std::fs::File;
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use clap::ValueEnum;
use ports::Ports;

use crate::load::{Protocol, now};

/// A system to compare with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Peer {
    /// One Redis that makes every write durable before it answers; it is not replicated.
    Redis,
    /// Three etcd nodes, as they come.
    Etcd,
}

impl Peer {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Redis => "redis",
            Self::Etcd => "etcd",
        }
    }

    pub(crate) fn protocol(self) -> Protocol {
        match self {
            Self::Redis => Protocol::Redis,
            Self::Etcd => Protocol::Etcd,
        }
    }

    fn program(self) -> &'static str {
        match self {
            Self::Redis => "redis-server",
            Self::Etcd => "etcd",
        }
    }

    fn package(self) -> &'static str {
        match self {
            Self::Redis => "redis-server",
            Self::Etcd => "etcd-server",
        }
    }

    /// What it is, with its version.
    ///
    /// # Errors
    ///
    /// When it is not installed, with the words for that.
    pub(crate) fn describe(self) -> Result<String, String> {
        let output = Command::new(self.program()).arg("--version").output();
        let output = output.map_err(|error| {
            format!(
                "{} cannot be run ({error}): install it, for instance with \
                 `apt-get install {}`; Drakkar alone is measured by `run`",
                self.program(),
                self.package()
            )
        })?;
        let text = String::from_utf8_lossy(&output.stdout);
        let version = text.lines().next().unwrap_or_default();
        Ok(match self {
            Self::Redis => format!("{version}; one process, appendfsync always, not replicated"),
            Self::Etcd => format!("{version}; three nodes"),
        })
    }

    /// Starts it with its data below `dir`, and waits until it answers.
    pub(crate) fn start(self, dir: &Path) -> Result<Servers, String> {
        let directory = dir.join(format!("{}-{}", self.name(), std::process::id()));
        std::fs::create_dir_all(&directory)
            .map_err(|error| format!("{}: {error}", directory.display()))?;
        let mut servers = Servers {
            children: Vec::new(),
            ports: Vec::new(),
            directory,
            addresses: Vec::new(),
        };
        match self {
            Self::Redis => redis::start(&mut servers)?,
            Self::Etcd => etcd::start(&mut servers)?,
        }
        Ok(servers)
    }
}

/// Processes that end, and whose data goes away, when this is dropped.
pub(crate) struct Servers {
    children: Vec<Child>,
    ports: Vec<Ports>,
    directory: PathBuf,
    /// Where clients connect.
    pub(crate) addresses: Vec<SocketAddr>,
}

impl Servers {
    pub(crate) fn pids(&self) -> Vec<u32> {
        self.children.iter().map(Child::id).collect()
    }

    /// The first of so many ports that are theirs.
    fn reserve(&mut self, count: u16) -> Result<u16, String> {
        let ports = Ports::reserve(count).map_err(|refusal| refusal.to_string())?;
        let first = ports.first();
        self.ports.push(ports);
        Ok(first)
    }

    /// Starts one process in a directory of its own; what it prints goes to a file there.
    fn spawn(&mut self, name: &str, command: &mut Command) -> Result<(), String> {
        let log = self.directory.join(format!("{name}.log"));
        let failed = |error: std::io::Error| format!("{name}: {error}");
        let log = File::create(log).map_err(failed)?;
        command
            .stdin(Stdio::null())
            .stdout(log.try_clone().map_err(failed)?)
            .stderr(log);
        self.children.push(command.spawn().map_err(failed)?);
        Ok(())
    }

    /// Waits until `ready` says so, and complains with what was printed last if it never does.
    fn wait_until(&mut self, mut ready: impl FnMut(SocketAddr) -> bool) -> Result<(), String> {
        let deadline = now() + Duration::from_secs(30);
        while !self.addresses.iter().all(|&address| ready(address)) {
            let ended = self
                .children
                .iter_mut()
                .any(|child| !matches!(child.try_wait(), Ok(None)));
            if ended || now() > deadline {
                return Err(format!("it did not start: {}", self.last_words()));
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        Ok(())
    }

    fn last_words(&self) -> String {
        let entries = std::fs::read_dir(&self.directory)
            .into_iter()
            .flatten()
            .flatten();
        let logs = entries.filter(|entry| entry.path().extension() == Some("log".as_ref()));
        let texts = logs.filter_map(|entry| std::fs::read_to_string(entry.path()).ok());
        let lines = texts.filter_map(|text| text.lines().last().map(str::to_owned));
        lines.collect::<Vec<_>>().join("; ")
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        for child in &mut self.children {
            // Both fail only if the process has ended already.
            drop(child.kill());
            drop(child.wait());
        }
        if let Err(error) = std::fs::remove_dir_all(&self.directory) {
            eprintln!("cannot remove {}: {error}", self.directory.display());
        }
    }
}

/// A connection to a server that is starting.
fn connect(address: SocketAddr) -> Option<TcpStream> {
    let patience = Duration::from_secs(1);
    let stream = TcpStream::connect_timeout(&address, patience).ok()?;
    stream.set_read_timeout(Some(patience)).ok()?;
    Some(stream)
}
