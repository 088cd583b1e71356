//! `drakkar serve` as a process.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::Instant;

use rustix::process::{Pid, Signal, kill_process};

use crate::{PATIENCE, PAUSE};

/// Of a log, in a message.
const LINES: usize = 12;

/// A node's process, which is killed when this is dropped.
#[derive(Debug)]
pub struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Has a program serve with a configuration. What it says is appended to `log`.
    pub fn serve(program: Command, config: &Path, log: &Path) -> io::Result<Self> {
        Self::serve_with(program, config, log, &[])
    }

    /// The same with more words.
    pub fn serve_with(
        mut program: Command,
        config: &Path,
        log: &Path,
        more: &[&str],
    ) -> io::Result<Self> {
        let said = File::options().create(true).append(true).open(log)?;
        program.args(["serve", "--config"]).arg(config).args(more);
        program.stdin(Stdio::null()).stdout(Stdio::null());
        Ok(Self {
            child: program.stderr(said).spawn()?,
            log: log.to_owned(),
        })
    }

    /// The number of the process.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// How it has ended, if it has.
    pub fn status(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// SIGKILL. Whether it still ran: a node that ended by itself has failed.
    pub fn kill(&mut self) -> bool {
        let ran = self.status().is_none();
        // Both fail only if it has ended.
        drop(self.child.kill());
        drop(self.child.wait());
        ran
    }

    /// SIGTERM, which may come too late.
    pub fn terminate(&self) {
        let _ = kill_process(Pid::from_child(&self.child), Signal::TERM);
    }

    /// SIGTERM, and the exit code.
    #[track_caller]
    pub fn stop(&mut self) -> Option<i32> {
        self.terminate();
        self.ended()
    }

    /// The exit code of a node that ends; nothing if a signal ended it.
    ///
    /// # Panics
    ///
    /// If it does not end in time; it is killed then.
    #[track_caller]
    pub fn ended(&mut self) -> Option<i32> {
        let start = Instant::now();
        loop {
            if let Some(status) = self.status() {
                return status.code();
            }
            if start.elapsed() > PATIENCE {
                self.kill();
                panic!("it does not end: {}", self.said());
            }
            thread::sleep(PAUSE);
        }
    }

    /// Waits until something is so while it runs.
    ///
    /// # Panics
    ///
    /// If it is not so in time, or the node ends.
    #[track_caller]
    pub fn until(&mut self, what: &str, mut is_so: impl FnMut() -> bool) {
        let start = Instant::now();
        while !is_so() {
            let status = self.status();
            assert!(status.is_none(), "{what}: {status:?}: {}", self.said());
            let late = start.elapsed() > PATIENCE;
            assert!(!late, "not in time: {what}: {}", self.said());
            thread::sleep(PAUSE);
        }
    }

    /// All of its log.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// The end of its log.
    pub fn said(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(LINES)..].join("\n")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}
