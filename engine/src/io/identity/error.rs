//! Why a data directory is not the one that its configuration means.

use std::io;
use std::path::PathBuf;

use super::record::Member;

/// Why a node does not start in this data directory, or a repair does not touch it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IdentityError {
    #[error("cannot {what} {path}: {error}")]
    Io {
        what: &'static str,
        path: PathBuf,
        error: io::Error,
    },
    #[error(
        "{path} does not pass its check: restore the file, or empty the directory and run drakkar repair rejoin --config FILE"
    )]
    Damaged { path: PathBuf },
    #[error(
        "{path} is missing, and it says which epoch the logs beside it are of: restore the file, or empty the directory and run drakkar repair rejoin --config FILE"
    )]
    Missing { path: PathBuf },
    #[error("{path} has format {found}, this build reads {reads}: use the build that wrote it")]
    Format {
        path: PathBuf,
        found: u32,
        reads: u32,
    },
    #[error(
        "copied data directory: {path} was made as {found}, and is {here} now. A copy must never run beside its original, nor after it went on. If the node was stopped, then moved here, and the original is gone: drakkar repair moved --config FILE. Otherwise empty this directory and run drakkar repair rejoin --config FILE"
    )]
    Copied {
        path: PathBuf,
        found: String,
        here: String,
    },
    #[error(
        "data dir belongs to a cluster of {}, config lists {}: cluster.nodes cannot be changed while there is data. Restore the list; or change the membership with drakkar repair members, or after a loss with drakkar repair shrink or drakkar snapshot import",
        list(recorded),
        list(asked)
    )]
    Members {
        recorded: Vec<Member>,
        asked: Vec<Member>,
    },
    #[error(
        "replica {node} was removed: epoch {epoch} has the members {}. Its id never comes back",
        list(members)
    )]
    Removed {
        node: u32,
        epoch: u64,
        members: Vec<Member>,
    },
    #[error(
        "{path}: an import was begun and did not end. Run the same drakkar snapshot import again"
    )]
    Unfinished { path: PathBuf },
}

fn list(members: &[Member]) -> String {
    let members: Vec<String> = members.iter().map(ToString::to_string).collect();
    members.join(", ")
}
