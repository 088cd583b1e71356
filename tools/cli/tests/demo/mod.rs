//! A cluster of three nodes as `drakkar demo` runs it.

use std::fs::{self, File};
use std::process::{Child, Command, Stdio};

use nodes::{Scratch, until};
use ports::Ports;
use rustix::process::{Pid, Signal, kill_process};

pub(crate) struct Demo {
    _ports: Ports,
    child: Child,
    pub(crate) port: u16,
    pub(crate) directory: Scratch,
}

impl Demo {
    /// Three nodes, with these arguments besides.
    pub(crate) fn start(arguments: &[&str]) -> Self {
        // Each shard of a node has ports of its own.
        let mut options = arguments.iter().skip_while(|it| **it != "--shards");
        let shards: u16 = options.nth(1).map_or(1, |it| it.parse().unwrap());
        let ports = Ports::reserve_at(3 * shards, &[0, 2000, 10_000]).unwrap();
        let port = ports.first();
        let directory = Scratch::new("demo");
        let output = directory.join("demo.out");
        let child = Command::new(env!("CARGO_BIN_EXE_drakkar"))
            .args(["demo", "--base-port", &port.to_string(), "--dir"])
            .arg(directory.path())
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
        let said = || fs::read_to_string(&output).unwrap();
        let leads = || {
            assert_eq!(demo.child.try_wait().unwrap(), None, "the demo ended");
            said().contains("every group has a leader")
        };
        until(leads, said);
        demo
    }

    pub(crate) fn stop(mut self) {
        self.terminate();
        let mut ended = None;
        let ends = || {
            ended = self.child.try_wait().unwrap();
            ended.is_some()
        };
        until(ends, || "the demo does not stop".to_owned());
        let code = ended.and_then(|status| status.code());
        let said = fs::read_to_string(self.directory.join("demo.out")).unwrap();
        assert_eq!(code, Some(0), "the demo must end cleanly: {said}");
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
    }
}
