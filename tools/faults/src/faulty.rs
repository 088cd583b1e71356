//! A device that fails on demand: qemu-storage-daemon shows an image as a file through FUSE, and its
//! driver blkdebug makes requests to that fail. A loop device and a file system lie on the file.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::machine::{command, die_with_us, persist, run};
use crate::trouble::Trouble;
use crate::volume::{Image, Kind, LoopDevice, Mount, make};

/// Longest wait for an answer of the daemon.
const PATIENCE: Duration = Duration::from_secs(10);

/// Which requests fail, with which error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    /// `write` or `flush`.
    pub(crate) request: &'static str,
    pub(crate) errno: i32,
    /// Only requests that touch this sector of 512 bytes.
    pub(crate) sector: Option<u64>,
    /// The first request fails and no other.
    pub(crate) once: bool,
}

/// The daemon, and the file in which it shows the image.
struct Daemon {
    child: Child,
    export: PathBuf,
    control: BufReader<UnixStream>,
}

impl Daemon {
    fn start(directory: &Path, image: &Path) -> Result<Self, Trouble> {
        let (export, socket) = (directory.join("export"), directory.join("qmp"));
        File::create(&export).map_err(Trouble::io("create", &export))?;
        let stderr = directory.join("daemon");
        let stderr = File::create(&stderr).map_err(Trouble::io("create", &stderr))?;
        let mut daemon = command("qemu-storage-daemon");
        daemon
            .arg("--blockdev")
            .arg(format!(
                "driver=file,node-name=plain,filename={}",
                image.display()
            ))
            .args([
                "--blockdev",
                "driver=raw,node-name=top,file=plain",
                "--export",
            ])
            .arg(format!(
                "type=fuse,id=export,node-name=top,mountpoint={},writable=on",
                export.display()
            ))
            .arg("--chardev")
            .arg(format!(
                "socket,id=control,path={},server=on,wait=off",
                socket.display()
            ))
            .args(["--monitor", "chardev=control"])
            .stdout(Stdio::null())
            .stderr(stderr);
        die_with_us(&mut daemon);
        let mut child = Ending(Some(
            daemon
                .spawn()
                .map_err(Trouble::io("start", Path::new("qemu-storage-daemon")))?,
        ));
        // It listens once the export is there.
        let stream = persist(50, || {
            UnixStream::connect(&socket).map_err(Trouble::io("connect to", &socket))
        })?;
        let timed = stream.set_read_timeout(Some(PATIENCE));
        timed.map_err(Trouble::io("set up", &socket))?;
        let mut daemon = Self {
            child: child.0.take().expect("nobody took it"),
            export,
            control: BufReader::new(stream),
        };
        daemon.answer()?;
        daemon.ask("qmp_capabilities", json!({}))?;
        Ok(daemon)
    }

    /// The next message that is no event.
    fn answer(&mut self) -> Result<Value, Trouble> {
        loop {
            let mut line = String::new();
            let read = self.control.read_line(&mut line);
            read.map_err(Trouble::io("hear from", Path::new("qemu-storage-daemon")))?;
            let message: Value = serde_json::from_str(&line).unwrap_or_default();
            if message.get("event").is_none() {
                return Ok(message);
            }
        }
    }

    fn ask(&mut self, what: &str, arguments: Value) -> Result<(), Trouble> {
        let request = json!({"execute": what, "arguments": arguments});
        let line = format!("{request}\n");
        let sent = self.control.get_mut().write_all(line.as_bytes());
        sent.map_err(Trouble::io("ask", Path::new("qemu-storage-daemon")))?;
        let answer = self.answer()?;
        if answer.get("return").is_none() {
            return Err(Trouble::Command {
                line: request.to_string(),
                said: answer.to_string(),
            });
        }
        Ok(())
    }

    /// Puts another node below the one that is exported.
    fn route(&mut self, node: &str) -> Result<(), Trouble> {
        let top = json!({"driver": "raw", "node-name": "top", "file": node});
        self.ask("blockdev-reopen", json!({"options": [top]}))
    }
}

/// A child that ends if it cannot be used.
struct Ending(Option<Child>);

impl Drop for Ending {
    fn drop(&mut self) {
        if let Some(mut child) = self.0.take() {
            drop(child.kill());
            drop(child.wait());
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        if let Some(pid) = pid {
            // It may have ended.
            let _ = kill_process(pid, Signal::TERM);
        }
        for _ in 0..50 {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        drop(self.child.kill());
        drop(self.child.wait());
        // What was killed leaves its export mounted.
        drop(run("umount", &["-l", &self.export.display().to_string()]));
    }
}

/// A file system on such a device.
pub(crate) struct FaultyVolume {
    // Dropped in this order.
    pub(crate) mount: Mount,
    _device: LoopDevice,
    daemon: Daemon,
    armed: bool,
    _image: Image,
}

impl FaultyVolume {
    pub(crate) fn create(directory: &Path, kind: Kind, bytes: u64) -> Result<Self, Trouble> {
        let image = Image::create(directory.join("image"), bytes)?;
        let daemon = Daemon::start(directory, &image.0)?;
        let device = LoopDevice::attach(&daemon.export)?;
        make(kind, &device.path)?;
        let mount = Mount::new(kind, &device.path, &directory.join("mounted"))?;
        Ok(Self {
            mount,
            _device: device,
            daemon,
            armed: false,
            _image: image,
        })
    }

    /// From now on requests fail.
    pub(crate) fn arm(&mut self, fault: Fault) -> Result<(), Trouble> {
        assert!(!self.armed, "one fault at a time");
        let mut rule = json!({
            "event": "none",
            "iotype": fault.request,
            "errno": fault.errno,
            "once": fault.once,
            "immediately": true,
        });
        if let Some(sector) = fault.sector {
            rule["sector"] = json!(sector);
        }
        let node = json!({
            "driver": "blkdebug",
            "node-name": "faulty",
            "image": "plain",
            "inject-error": [rule],
        });
        self.daemon.ask("blockdev-add", node)?;
        self.daemon.route("faulty")?;
        self.armed = true;
        Ok(())
    }

    /// From now on none does.
    pub(crate) fn heal(&mut self) -> Result<(), Trouble> {
        if std::mem::take(&mut self.armed) {
            self.daemon.route("plain")?;
            let node = json!({"node-name": "faulty"});
            self.daemon.ask("blockdev-del", node)?;
        }
        Ok(())
    }
}
