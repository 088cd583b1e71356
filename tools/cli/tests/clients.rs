//! `drakkar demo` as unchanged clients see it: redis-cli, redis-benchmark, redis-py. Says what it
//! skipped because the client is not installed.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs::{self, File};
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

const PAUSE: Duration = Duration::from_millis(50);
const STEPS: usize = 1200;

struct Demo {
    child: Child,
    port: u16,
    directory: PathBuf,
}

impl Demo {
    fn start() -> Self {
        let name = format!("drakkar-clients-{}", std::process::id());
        let directory = std::env::temp_dir().join(name);
        fs::create_dir_all(&directory).unwrap();
        let port = free_ports();
        let output = directory.join("demo.out");
        let child = Command::new(env!("CARGO_BIN_EXE_drakkar"))
            .args(["demo", "--base-port", &port.to_string(), "--dir"])
            .arg(&directory)
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

    /// What a program prints, which must end well.
    fn run(&self, program: &str, arguments: &[&str]) -> String {
        let output = Command::new("timeout")
            .args(["60", program])
            .args(arguments)
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success() && !text.contains("ERR"),
            "{program} {arguments:?}: {}\n{text}\n{errors}",
            output.status
        );
        text
    }

    fn stop(mut self) {
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

fn installed(program: &str, arguments: &[&str]) -> bool {
    let output = Command::new(program).args(arguments).output();
    let found = output.is_ok_and(|output| output.status.success());
    if !found {
        println!("SKIPPED: {program} {arguments:?} does not run here");
    }
    found
}

const PYTHON: &str = "
import sys, redis
port = int(sys.argv[1])
for client in (redis.RedisCluster(host='127.0.0.1', port=port), redis.Redis(port=port)):
    for i in range(200):
        assert client.set(f'py{i}', f'v{i}')
    for i in range(200):
        assert client.get(f'py{i}') == f'v{i}'.encode()
    client.delete('n')
    assert client.incr('n') == 1
    client.close()
print('done')
";

#[test]
fn unchanged_clients_work_with_the_demo() {
    let demo = Demo::start();
    let port = demo.port.to_string();
    if installed("redis-cli", &["--version"]) {
        for mode in [&["-p", &port][..], &["-c", "-p", &port][..]] {
            for key in ["a", "b", "c", "d", "e", "f"] {
                let ask = |words: &[&str]| demo.run("redis-cli", &[mode, words].concat());
                assert_eq!(ask(&["SET", key, "value"]).trim(), "OK");
                assert_eq!(ask(&["GET", key]).trim(), "value");
                assert_eq!(ask(&["DEL", key]).trim(), "1");
            }
        }
    }
    if installed("redis-benchmark", &["--version"]) {
        let load = "-t set,get -P 16 -n 20000 -c 20 -q";
        let mut arguments = vec!["-p", port.as_str()];
        arguments.extend(load.split(' '));
        let plain = demo.run("redis-benchmark", &arguments);
        assert!(plain.contains("GET: "), "{plain}");
        arguments.push("--cluster");
        let cluster = demo.run("redis-benchmark", &arguments);
        assert!(cluster.contains("GET: "), "{cluster}");
    }
    let python = std::env::var("DRAKKAR_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    if installed(&python, &["-c", "import redis"]) {
        let said = demo.run(&python, &["-c", PYTHON, &port]);
        assert_eq!(said.trim(), "done");
    }
    demo.stop();
}
