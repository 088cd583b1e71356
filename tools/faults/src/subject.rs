//! The writer as a child process: what it said so far, and its end.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};

use crate::machine::{die_with_us, interrupted};
use crate::trouble::Trouble;

/// How often a wait looks whether the program is to end.
const STEP: Duration = Duration::from_millis(50);

/// What a writer said.
#[derive(Clone, Debug, Default)]
pub(crate) struct Heard {
    /// The last entry and the term that replay returned.
    pub(crate) found: Option<(u64, u64)>,
    /// Entries up to this one are durable, and the vote of this term.
    pub(crate) acked: u64,
    pub(crate) term: u64,
    pub(crate) full: bool,
    pub(crate) error: Option<String>,
    /// It wrote all that it was to write.
    pub(crate) done: bool,
    /// It closed its stdout: nothing will follow.
    pub(crate) ended: bool,
}

impl Heard {
    pub(crate) fn take(&mut self, line: &str) {
        let words: Vec<&str> = line.split(' ').collect();
        match words[..] {
            ["found", index, term] => self.found = index.parse().ok().zip(term.parse().ok()),
            ["ack", index, term] => {
                if let (Ok(index), Ok(term)) = (index.parse(), term.parse()) {
                    (self.acked, self.term) = (index, term);
                }
            }
            ["done"] => self.done = true,
            ["full"] => self.full = true,
            ["space"] => self.full = false,
            ["error", ..] => self.error = Some(line["error ".len()..].to_owned()),
            _ => {}
        }
    }
}

#[derive(Default)]
struct Ear {
    heard: Mutex<Heard>,
    changed: Condvar,
}

impl Ear {
    fn heard(&self) -> MutexGuard<'_, Heard> {
        self.heard.lock().expect("whoever holds it does not panic")
    }

    fn listen(&self, stdout: ChildStdout) {
        for line in BufReader::new(stdout).lines() {
            let Ok(line) = line else { break };
            self.heard().take(line.trim_end());
            self.changed.notify_all();
        }
        self.heard().ended = true;
        self.changed.notify_all();
    }
}

/// A writer that runs. It dies with this value.
pub(crate) struct Subject {
    child: Child,
    ear: Arc<Ear>,
    listener: Option<JoinHandle<()>>,
    errors: PathBuf,
}

impl Subject {
    /// Starts a writer on the log in `directory`. What it says on stderr goes to `errors`.
    pub(crate) fn start(
        directory: &Path,
        options: &[&str],
        errors: &Path,
    ) -> Result<Self, Trouble> {
        let program = std::env::current_exe().map_err(Trouble::io("find", Path::new("itself")))?;
        let mut command = Command::new(program);
        command.arg("writer").arg(directory).args(options);
        Self::spawn(command, errors)
    }

    /// The same for any program that speaks as the writer does.
    pub(crate) fn spawn(mut command: Command, errors: &Path) -> Result<Self, Trouble> {
        let stderr = File::create(errors).map_err(Trouble::io("create", errors))?;
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(stderr);
        die_with_us(&mut command);
        let program = Path::new(command.get_program()).to_owned();
        let mut child = command.spawn().map_err(Trouble::io("start", &program))?;
        let stdout = child.stdout.take().expect("it is a pipe");
        let ear = Arc::new(Ear::default());
        let listener = std::thread::spawn({
            let ear = ear.clone();
            move || ear.listen(stdout)
        });
        Ok(Self {
            child,
            ear,
            listener: Some(listener),
            errors: errors.to_owned(),
        })
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn heard(&self) -> Heard {
        self.ear.heard().clone()
    }

    /// Waits until what was heard is so; [`Trouble::Late`] if it is not within `patience`.
    pub(crate) fn wait_until(
        &self,
        what: &'static str,
        patience: Duration,
        is_so: impl Fn(&Heard) -> bool,
    ) -> Result<Heard, Trouble> {
        let start = Instant::now();
        let mut heard = self.ear.heard();
        while !is_so(&heard) {
            interrupted()?;
            if heard.ended || start.elapsed() > patience {
                return Err(Trouble::Late {
                    what,
                    patience,
                    heard: Box::new(heard.clone()),
                    stderr: self.stderr(),
                });
            }
            let waited = self.ear.changed.wait_timeout(heard, STEP);
            heard = waited.expect("whoever holds it does not panic").0;
        }
        Ok(heard.clone())
    }

    /// Lets it write for a while; less if it ends by itself.
    pub(crate) fn let_run(&self, time: Duration) -> Result<(), Trouble> {
        match self.wait_until("it ends", time, |heard| heard.ended) {
            Err(Trouble::Late { .. }) | Ok(_) => Ok(()),
            Err(trouble) => Err(trouble),
        }
    }

    /// SIGKILL; everything that it had said.
    pub(crate) fn kill(mut self) -> Heard {
        self.end();
        self.heard()
    }

    /// Waits for it to end by itself.
    pub(crate) fn outlive(mut self, patience: Duration) -> Result<(Heard, ExitStatus), Trouble> {
        self.wait_until("the writer ends", patience, |heard| heard.ended)?;
        let status = self.child.wait();
        let status = status.map_err(Trouble::io("wait for", Path::new("the writer")))?;
        Ok((self.heard(), status))
    }

    fn stderr(&self) -> String {
        let text = std::fs::read_to_string(&self.errors).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(5)..].join("; ")
    }

    fn end(&mut self) {
        // A User-Mode Linux is many processes. All of this fails only if they have ended.
        let group = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        if let (Some(group), Ok(None)) = (group, self.child.try_wait()) {
            let _ = kill_process_group(group, Signal::KILL);
        }
        drop(self.child.kill());
        drop(self.child.wait());
        if let Some(listener) = self.listener.take() {
            // A pipe keeps what was written into it by the dead.
            listener.join().expect("listening does not panic");
        }
    }
}

impl Drop for Subject {
    fn drop(&mut self) {
        self.end();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_that_was_cut_by_the_end_promises_nothing() {
        let mut heard = Heard::default();
        for line in [
            "found 0 0",
            "ack 12 3",
            "ack 1",
            "[    1.0] ack 99 9 of a kernel",
            "full",
        ] {
            heard.take(line);
        }
        assert_eq!(
            (heard.found, heard.acked, heard.term),
            (Some((0, 0)), 12, 3)
        );
        assert!(heard.full);
        heard.take("error cannot write: no");
        assert_eq!(heard.error.as_deref(), Some("cannot write: no"));
    }
}
