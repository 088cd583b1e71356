//! A file system of its own, on a loop device over a file. It goes away with its value.

use std::ffi::CStr;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use rustix::fs::{FallocateFlags, fallocate, statvfs};

use crate::machine::{persist, run};
use crate::trouble::Trouble;

/// So much is filled block by block: to allocate it at once takes space of its own.
const SMALL_BYTES: u64 = 1 << 20;

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Kind {
    Ext4,
    Xfs,
}

impl Kind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Ext4 => "ext4",
            Self::Xfs => "xfs",
        }
    }

    /// The name for mount(2).
    pub(crate) fn mounted_as(self) -> &'static CStr {
        match self {
            Self::Ext4 => c"ext4",
            Self::Xfs => c"xfs",
        }
    }

    /// Smallest that mkfs makes, in bytes.
    pub(crate) fn bytes_min(self) -> u64 {
        match self {
            Self::Ext4 => 64 << 20,
            Self::Xfs => 304 << 20,
        }
    }
}

/// Makes a file system on a device or in a file.
pub(crate) fn make(kind: Kind, device: &Path) -> Result<(), Trouble> {
    let device = device.display().to_string();
    match kind {
        Kind::Ext4 => {
            // The kernel must not write behind our back when the disk is tampered with.
            let whole = "lazy_itable_init=0,lazy_journal_init=0";
            run("mkfs.ext4", &["-q", "-F", "-m", "0", "-E", whole, &device])?
        }
        Kind::Xfs => run("mkfs.xfs", &["-q", "-f", &device])?,
    };
    Ok(())
}

/// A loop device over a file.
pub(crate) struct LoopDevice {
    pub(crate) path: PathBuf,
}

impl LoopDevice {
    pub(crate) fn attach(file: &Path) -> Result<Self, Trouble> {
        let file = file.display().to_string();
        // Another process may take the free one that was found.
        let found = persist(10, || {
            run("losetup", &["--find", "--show", "--direct-io=off", &file])
        })?;
        Ok(Self {
            path: found.trim().into(),
        })
    }
}

impl Drop for LoopDevice {
    fn drop(&mut self) {
        drop(run(
            "losetup",
            &["--detach", &self.path.display().to_string()],
        ));
    }
}

/// A mounted file system; unmounted, it can be mounted again.
pub(crate) struct Mount {
    kind: Kind,
    device: PathBuf,
    pub(crate) path: PathBuf,
    mounted: bool,
}

impl Mount {
    pub(crate) fn new(kind: Kind, device: &Path, path: &Path) -> Result<Self, Trouble> {
        std::fs::create_dir_all(path).map_err(Trouble::io("create", path))?;
        let mut mount = Self {
            kind,
            device: device.to_owned(),
            path: path.to_owned(),
            mounted: false,
        };
        mount.mount()?;
        Ok(mount)
    }

    pub(crate) fn mount(&mut self) -> Result<(), Trouble> {
        self.mount_with("rw")
    }

    pub(crate) fn mount_with(&mut self, options: &str) -> Result<(), Trouble> {
        assert!(!self.mounted, "it is not mounted twice");
        let (device, path) = (self.device.display(), self.path.display());
        let (device, path) = (device.to_string(), path.to_string());
        // An error of the device that was just healed may still be on its way.
        let words = ["-t", self.kind.name(), "-o", options, &device, &path];
        persist(10, || run("mount", &words))?;
        self.mounted = true;
        Ok(())
    }

    pub(crate) fn unmount(&mut self) -> Result<(), Trouble> {
        // The kernel may still close the files of a process that was killed.
        persist(50, || run("umount", &[&self.path.display().to_string()]))?;
        self.mounted = false;
        Ok(())
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        if self.mounted && self.unmount().is_err() {
            drop(run("umount", &["-l", &self.path.display().to_string()]));
        }
    }
}

/// A file system in a file.
pub(crate) struct Volume {
    // Dropped in this order.
    pub(crate) mount: Mount,
    /// Detached when the file system is gone.
    device: LoopDevice,
    pub(crate) image: Image,
}

/// A sparse file that holds a file system.
pub(crate) struct Image(pub(crate) PathBuf);

impl Image {
    pub(crate) fn create(path: PathBuf, bytes: u64) -> Result<Self, Trouble> {
        let made = File::create(&path).and_then(|file| file.set_len(bytes));
        made.map_err(Trouble::io("create", &path))?;
        Ok(Self(path))
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        drop(std::fs::remove_file(&self.0));
    }
}

impl Volume {
    /// Makes and mounts a file system of so many bytes; its files lie in `directory`.
    pub(crate) fn create(directory: &Path, kind: Kind, bytes: u64) -> Result<Self, Trouble> {
        let image = Image::create(directory.join("image"), bytes)?;
        let device = LoopDevice::attach(&image.0)?;
        make(kind, &device.path)?;
        let mount = Mount::new(kind, &device.path, &directory.join("mounted"))?;
        Ok(Self {
            mount,
            device,
            image,
        })
    }

    /// A directory for a log on it.
    pub(crate) fn log(&self) -> PathBuf {
        self.mount.path.join("log")
    }

    /// As control groups name it.
    pub(crate) fn device_number(&self) -> Result<String, Trouble> {
        let path = &self.device.path;
        let stat = rustix::fs::stat(path).map_err(std::io::Error::from);
        let number = stat.map_err(Trouble::io("look at", path))?.st_rdev;
        let (major, minor) = (rustix::fs::major(number), rustix::fs::minor(number));
        Ok(format!("{major}:{minor}"))
    }

    pub(crate) fn remount(&mut self) -> Result<(), Trouble> {
        self.mount.unmount()?;
        self.mount.mount()
    }

    pub(crate) fn free(&self) -> Result<u64, Trouble> {
        let stat = statvfs(&self.mount.path).map_err(std::io::Error::from);
        let stat = stat.map_err(Trouble::io("look at", &self.mount.path))?;
        Ok(stat.f_bavail * stat.f_frsize)
    }

    /// Leaves so many bytes free.
    pub(crate) fn fill(&self, left: u64) -> Result<(), Trouble> {
        let path = self.filler();
        let bytes = self.free()?.saturating_sub(left);
        let file = File::create(&path).map_err(Trouble::io("create", &path))?;
        let filled = fallocate(&file, FallocateFlags::empty(), 0, bytes);
        filled.map_err(|error| Trouble::io("fill", &path)(error.into()))
    }

    /// Leaves nothing free, as far as files can take it.
    pub(crate) fn fill_up(&self) -> Result<(), Trouble> {
        self.fill(SMALL_BYTES)?;
        let path = self.rest();
        let mut file = File::create(&path).map_err(Trouble::io("create", &path))?;
        while file.write_all(&[1; 512]).is_ok() {}
        // What it could not keep stays free.
        drop(file.sync_all());
        Ok(())
    }

    /// Undoes [`Volume::fill`] and [`Volume::fill_up`].
    pub(crate) fn relieve(&self) -> Result<(), Trouble> {
        drop(std::fs::remove_file(self.rest()));
        let path = self.filler();
        std::fs::remove_file(&path).map_err(Trouble::io("remove", &path))
    }

    fn rest(&self) -> PathBuf {
        self.mount.path.join("rest")
    }

    fn filler(&self) -> PathBuf {
        self.mount.path.join("filler")
    }

    /// `{EXT4,XFS}_IOC_GOINGDOWN`: from now on nothing reaches the device. What the file system still
    /// had in memory is gone as in a power cut; `journal`: its journal is written first.
    pub(crate) fn go_down(&self, journal: bool) -> Result<(), Trouble> {
        const GOINGDOWN: rustix::ioctl::Opcode = 0x8004_587d;
        const LOG_FLUSH: u32 = 1;
        const NO_LOG_FLUSH: u32 = 2;
        let path = &self.mount.path;
        let root = File::open(path).map_err(Trouble::io("open", path))?;
        let mode = if journal { LOG_FLUSH } else { NO_LOG_FLUSH };
        #[expect(unsafe_code, reason = "no safe call wraps this ioctl")]
        // SAFETY: the kernel reads one u32 behind the pointer, which the setter keeps valid.
        let outcome = unsafe {
            rustix::ioctl::ioctl(&root, rustix::ioctl::Setter::<GOINGDOWN, u32>::new(mode))
        };
        outcome.map_err(|error| Trouble::io("take down", path)(error.into()))
    }
}

/// Where the last extent of a file begins on its device, in bytes: its first block may lie alone.
pub(crate) fn place_of(file: &Path) -> Result<u64, Trouble> {
    let listed = run("filefrag", &["-e", "-b1", &file.display().to_string()])?;
    // `   1:     4096.. 1048575:    4491264..   5535743: 1044480:    8918016: last,eof`
    let last = listed.lines().rev().find_map(|line| {
        let mut columns = line.split(':');
        columns.next()?.trim().parse::<u32>().ok()?;
        columns.nth(1)?.split("..").next()?.trim().parse().ok()
    });
    last.ok_or(Trouble::Command {
        line: format!("filefrag -e -b1 {}", file.display()),
        said: listed,
    })
}
