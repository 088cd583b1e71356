//! What runs inside User-Mode Linux, as its first process. The host's files are its root; the disks
//! are images. Its power is cut by killing the process that is the kernel.

use std::ffi::CStr;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::rc::Rc;
use std::time::Duration;

use clap::Subcommand;
use rustix::mount::{MountFlags, mount};

use crate::machine::run as run_program;
use crate::mark::{DEVICE, Marker};
use crate::trouble::Trouble;
use crate::volume::Kind;
use crate::writer::{self, Voice};
use crate::{plain, verify};

/// Where the package user-mode-linux puts modules, by release of its kernel.
const MODULES: &str = "/usr/lib/uml/modules";

/// How often a log is opened while it is recorded.
const STARTS: u64 = 3;

#[derive(Subcommand)]
pub(crate) enum Task {
    /// Mounts the first disk, checks what was promised, and appends until the power is cut.
    Write {
        kind: Kind,
        mount: PathBuf,
        acked: u64,
        term: u64,
        /// What User-Mode Linux adds to its command line by itself.
        rest: Vec<String>,
    },
    /// Records on the second disk everything that is written to the first, until entry `last`. The
    /// log is opened several times on the way.
    Record {
        kind: Kind,
        mount: PathBuf,
        last: u64,
        /// Appends through plain writes instead of io_uring, and does not sync them.
        #[arg(long)]
        no_sync: bool,
        /// What User-Mode Linux adds to its command line by itself.
        rest: Vec<String>,
    },
}

/// The kernel panics when its first process ends, so this is the end of it in any case.
pub(crate) fn run(task: &Task) -> ExitCode {
    writer::end(serve(task).map_err(|trouble| trouble.to_string()))
}

fn serve(task: &Task) -> Result<(), Trouble> {
    mount_at("proc", Path::new("/proc"), c"proc")?;
    mount_at("sys", Path::new("/sys"), c"sysfs")?;
    match task {
        Task::Write {
            kind,
            mount,
            acked,
            term,
            ..
        } => {
            mount_at("/dev/ubda", mount, kind.mounted_as())?;
            let log = mount.join("log");
            let promised = verify::read_promised(&log, *acked, *term);
            promised.map_err(|flaw| Trouble::Flawed { round: 0, flaw })?;
            writer::run(&log, writer::LAST, Voice::default());
        }
        Task::Record {
            kind,
            mount,
            last,
            no_sync,
            ..
        } => {
            let marker = record_writes(*kind, mount)?;
            let log = mount.join("log");
            let voice = || Voice::marking(marker.clone());
            let wrote_all = match no_sync {
                true => plain::run(&log, *last, voice()) == ExitCode::SUCCESS,
                false => (1..=STARTS).all(|start| {
                    writer::run(&log, last * start / STARTS, voice()) == ExitCode::SUCCESS
                }),
            };
            if wrote_all {
                rustix::fs::sync();
                // Has the record's own head written.
                marker.mark("end")?;
                println!("done");
            }
        }
    }
    // The host cuts the power; it need not wait for ever.
    std::thread::sleep(Duration::from_secs(60));
    Ok(())
}

fn mount_at(device: &str, place: &Path, kind: &CStr) -> Result<(), Trouble> {
    let flags = MountFlags::NOATIME;
    mount(device, place, kind, flags, None)
        .map_err(|error| Trouble::io("mount", place)(error.into()))
}

/// Lays dm-log-writes over the first disk, its record on the second, and mounts it.
fn record_writes(kind: Kind, place: &Path) -> Result<Rc<Marker>, Trouble> {
    for module in ["dm-mod", "dm-log-writes"] {
        load(module)?;
    }
    let bytes = File::open("/dev/ubda").and_then(|mut disk| {
        use std::io::Seek;
        disk.seek(std::io::SeekFrom::End(0))
    });
    let bytes = bytes.map_err(Trouble::io("measure", Path::new("/dev/ubda")))?;
    let table = format!("0 {} log-writes /dev/ubda /dev/ubdb", bytes / 512);
    let options = ["--noudevsync", "--noudevrules"];
    run_program(
        "dmsetup",
        &[&["create", DEVICE], &options[..], &["--table", &table]].concat(),
    )?;
    mount_at("/dev/dm-0", place, kind.mounted_as())?;
    Marker::open().map(Rc::new)
}

fn load(module: &str) -> Result<(), Trouble> {
    let modules = Path::new(MODULES);
    let release = rustix::system::uname()
        .release()
        .to_string_lossy()
        .into_owned();
    let path = modules
        .join(release)
        .join(format!("kernel/drivers/md/{module}.ko"));
    let file = File::open(&path).map_err(Trouble::io("open", &path))?;
    match rustix::system::finit_module(&file, c"", 0) {
        Ok(()) | Err(rustix::io::Errno::EXIST) => Ok(()),
        Err(error) => Err(Trouble::io("load", &path)(error.into())),
    }
}
