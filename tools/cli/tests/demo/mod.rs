//! A cluster of three nodes as `drakkar demo` runs it.

use std::fs::{self, File};
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

const PAUSE: Duration = Duration::from_millis(50);
const STEPS: usize = 1200;

pub(crate) struct Demo {
    child: Child,
    pub(crate) port: u16,
    pub(crate) directory: PathBuf,
}

impl Demo {
    /// Three nodes, with these arguments besides.
    pub(crate) fn start(arguments: &[&str]) -> Self {
        let port = free_ports();
        let name = format!("drakkar-demo-{}-{port}", std::process::id());
        let directory = std::env::temp_dir().join(name);
        fs::create_dir_all(&directory).unwrap();
        let output = directory.join("demo.out");
        let child = Command::new(env!("CARGO_BIN_EXE_drakkar"))
            .args(["demo", "--base-port", &port.to_string(), "--dir"])
            .arg(&directory)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(File::create(&output).unwrap())
            .spawn()
            .unwrap();
        let mut demo = Self {
            child,
            port,
            directory,
        };
        for _ in 0..STEPS {
            let said = fs::read_to_string(&output).unwrap();
            if said.contains("every group has a leader") {
                return demo;
            }
            assert_eq!(demo.child.try_wait().unwrap(), None, "the demo ended");
            thread::sleep(PAUSE);
        }
        panic!("the demo does not start");
    }

    pub(crate) fn stop(mut self) {
        self.terminate();
        for _ in 0..STEPS {
            if let Some(status) = self.child.try_wait().unwrap() {
                assert_eq!(status.code(), Some(0), "the demo must end cleanly");
                return;
            }
            thread::sleep(PAUSE);
        }
        panic!("the demo does not stop");
    }

    fn terminate(&self) {
        let pid = Pid::from_raw(i32::try_from(self.child.id()).unwrap()).unwrap();
        // It may have ended.
        let _ = kill_process(pid, Signal::TERM);
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        // Its nodes die with it.
        drop(self.child.kill());
        drop(self.child.wait());
        drop(fs::remove_dir_all(&self.directory));
    }
}

/// The first of three ports whose companions, 2000 and 10000 above, are free too.
fn free_ports() -> u16 {
    let free = |port| TcpListener::bind(("127.0.0.1", port)).is_ok();
    for attempt in 0..500 {
        let number = (std::process::id() * 4 + attempt * 4) % 1900;
        let port = 8000 + u16::try_from(number).unwrap();
        let ports = [0, 2000, 10_000].map(|above| port + above);
        if ports.iter().all(|&port| (port..port + 3).all(free)) {
            return port;
        }
    }
    panic!("no free ports");
}
