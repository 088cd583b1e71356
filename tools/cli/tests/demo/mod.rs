//! A cluster of three nodes as `drakkar demo` runs it.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use ports::Ports;
use rustix::process::{Pid, Signal, kill_process};

const PAUSE: Duration = Duration::from_millis(50);
const STEPS: usize = 1200;

pub(crate) struct Demo {
    _ports: Ports,
    child: Child,
    pub(crate) port: u16,
    pub(crate) directory: PathBuf,
}

impl Demo {
    /// Three nodes, with these arguments besides.
    pub(crate) fn start(arguments: &[&str]) -> Self {
        let ports = Ports::reserve_at(3, &[0, 2000, 10_000]).unwrap();
        let port = ports.first();
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
            _ports: ports,
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
