//! User-Mode Linux: a kernel that is a process, with this program as its first process and the host's
//! files as its root. To kill it is to cut its power: what its file systems held in memory is gone.

use std::path::{Path, PathBuf};

use crate::machine::{Need, command};
use crate::scenario::Stage;
use crate::subject::Subject;
use crate::trouble::Trouble;
use crate::volume::{Image, Kind, make};

pub(crate) const UML: Need = Need::Tool {
    program: "linux.uml",
    package: "user-mode-linux",
};
/// Starts a kernel that does what [`crate::guest::Task`] says. What it prints is heard as a writer is.
pub(crate) fn boot(stage: &Stage, disks: &[&Path], task: &[String]) -> Result<Subject, Trouble> {
    let program = std::env::current_exe().map_err(Trouble::io("find", Path::new("itself")))?;
    let mut uml = command("linux.uml");
    uml.args([
        "mem=256M",
        "root=/dev/root",
        "rootfstype=hostfs",
        "rootflags=/",
        "rw",
    ])
    .args(["quiet", "con=null", "con0=null,fd:1"])
    .arg(format!("init={}", program.display()))
    // It keeps its sockets there.
    .env("HOME", &stage.directory);
    for (letter, disk) in ('a'..).zip(disks) {
        uml.arg(format!("ubd{letter}={}", disk.display()));
    }
    uml.args(["--", "guest"]).args(task);
    Subject::spawn(uml, &stage.errors())
}

/// A file system for a guest, made without root: small, as it may be copied often.
pub(crate) fn disk(stage: &Stage, kind: Kind) -> Result<Image, Trouble> {
    let image = Image::create(stage.directory.join("disk"), kind.bytes_min())?;
    make(kind, &image.0)?;
    Ok(image)
}

/// Where a guest mounts it.
pub(crate) fn mount_point(stage: &Stage) -> Result<PathBuf, Trouble> {
    let path = stage.directory.join("guest");
    std::fs::create_dir_all(&path).map_err(Trouble::io("create", &path))?;
    Ok(path)
}
