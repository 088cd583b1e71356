//! What goes wrong: with the log, which is what this program looks for, or with the machine.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::subject::Heard;
use crate::verify::Flaw;

/// Why a scenario did not come to its end.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Trouble {
    #[error("cannot {what} {path}: {error}")]
    Io {
        what: &'static str,
        path: PathBuf,
        error: io::Error,
    },
    #[error("`{line}` failed: {said}")]
    Command { line: String, said: String },
    #[error(
        "it is not so that {what}, waited for up to {patience:?}; heard {heard:?}; stderr: {stderr}"
    )]
    Late {
        what: &'static str,
        patience: Duration,
        heard: Box<Heard>,
        stderr: String,
    },
    #[error("round {round}: {flaw}")]
    Flawed { round: u32, flaw: Flaw },
    #[error("round {round}: {what}; heard {heard:?}")]
    Wrong {
        round: u32,
        what: &'static str,
        heard: Box<Heard>,
    },
    #[error("{what}; the ends of the nodes' logs:\n{logs}")]
    Cluster { what: String, logs: String },
    /// The fault that was to be injected did not show: the scenario proves nothing.
    #[error("nothing was tested: {what}")]
    Vacuous { what: String },
    #[error("interrupted")]
    Interrupted,
}

impl Trouble {
    pub(crate) fn io(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |error| Self::Io { what, path, error }
    }
}
