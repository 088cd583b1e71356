//! What a node writes with, and what it says about it: durable unless the operator chose otherwise, and
//! then it is said everywhere.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
#![expect(
    clippy::disallowed_methods,
    reason = "real processes are given real time"
)]

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use ports::Ports;
use rustix::fs::OFlags;

const PAUSE: Duration = Duration::from_millis(20);
const PATIENCE: Duration = Duration::from_secs(120);

/// A node that is a cluster by itself.
struct Node {
    _ports: Ports,
    child: Child,
    port: u16,
    directory: PathBuf,
}

impl Node {
    /// Starts one with these keys in the section `[log]`, and waits until it takes writes.
    fn start(name: &str, keys: &str) -> Self {
        let ports = Ports::reserve(3).unwrap();
        let port = ports.first();
        let name = format!("drakkar-durability-{name}-{}", std::process::id());
        let directory = std::env::temp_dir().join(name);
        fs::create_dir_all(&directory).unwrap();
        let config = format!(
            "[node]\nid = 1\ndata_dir = \"{}\"\nany_file_system = true\n[cluster]\nid = \"durability\"\n\
             shards = 1\ngroups = 1\n[log]\nsegment_size = \"20MB\"\n{keys}\n\
             [[cluster.nodes]]\nid = 1\nhost = \"127.0.0.1\"\nclient_port = {port}\npeer_port = {}\n\
             admin_port = {}\n",
            directory.join("data").display(),
            port + 1,
            port + 2,
        );
        fs::write(directory.join("toml"), config).unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_drakkar"))
            .args(["serve", "--config"])
            .arg(directory.join("toml"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(directory.join("log")).unwrap())
            .spawn()
            .unwrap();
        let node = Self {
            _ports: ports,
            child,
            port,
            directory,
        };
        let start = Instant::now();
        while !node.ask(0, "SET begin 1\r\nQUIT\r\n").starts_with("+OK") {
            assert!(start.elapsed() < PATIENCE, "{}", node.log());
            thread::sleep(PAUSE);
        }
        node
    }

    fn log(&self) -> String {
        fs::read_to_string(self.directory.join("log")).unwrap()
    }

    /// All that one of its ports answers before it closes; nothing if it does not listen.
    fn ask(&self, port: u16, request: &str) -> String {
        let Ok(mut stream) = TcpStream::connect(("127.0.0.1", self.port + port)) else {
            return String::new();
        };
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut answer = String::new();
        let sent = stream.write_all(request.as_bytes());
        // What a node that begins or ends leaves open is asked again.
        let _ = sent.and_then(|()| stream.read_to_string(&mut answer));
        answer
    }

    fn metrics(&self) -> String {
        let request = "GET /metrics HTTP/1.1\r\nhost: n\r\nconnection: close\r\n\r\n";
        self.ask(2, request)
    }

    /// What `drakkar` prints.
    fn drakkar(&self, arguments: &[&str]) -> String {
        let endpoint = format!("127.0.0.1:{}", self.port + 2);
        let mut command = Command::new(env!("CARGO_BIN_EXE_drakkar"));
        let output = command.args(arguments).args(["--endpoint", &endpoint]);
        String::from_utf8(output.output().unwrap().stdout).unwrap()
    }

    /// The flags that the kernel has for each segment the node appends to.
    fn flags(&self) -> Vec<OFlags> {
        let process = PathBuf::from(format!("/proc/{}", self.child.id()));
        let mut found = Vec::new();
        for file in fs::read_dir(process.join("fd")).unwrap() {
            let file = file.unwrap();
            let segment = fs::read_link(file.path())
                .is_ok_and(|path| path.extension().is_some_and(|it| it == "seg"));
            let info = fs::read_to_string(process.join("fdinfo").join(file.file_name()));
            // Files are closed meanwhile.
            let Some(info) = info.ok().filter(|_| segment) else {
                continue;
            };
            let line = info.lines().find_map(|line| line.strip_prefix("flags:"));
            let flags = u32::from_str_radix(line.unwrap().trim(), 8).unwrap();
            let flags = OFlags::from_bits_retain(flags);
            // What a segment is made with is open for writing alone.
            if flags.contains(OFlags::RDWR) {
                found.push(flags);
            }
        }
        found
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // Both fail only if it has ended.
        drop(self.child.kill());
        drop(self.child.wait());
        drop(fs::remove_dir_all(&self.directory));
    }
}

const SETTINGS: &str = "INFO persistence\r\nCONFIG GET appendfsync\r\nQUIT\r\n";

#[test]
fn writes_are_durable_by_themselves_and_never_otherwise_in_silence() {
    let node = Node::start("on", "");
    let flags = node.flags();
    let durable = OFlags::DIRECT | OFlags::DSYNC;
    assert!(!flags.is_empty(), "no segment is open");
    assert!(flags.iter().all(|it| it.contains(durable)), "{flags:?}");
    let settings = node.ask(0, SETTINGS);
    assert!(
        settings.contains("\r\ndurability:durable\r\n"),
        "{settings}"
    );
    assert!(settings.contains("\r\nalways\r\n"), "{settings}");
    let metrics = node.metrics();
    assert!(metrics.contains("\ndrakkar_log_durable 1\n"), "{metrics}");
    let said = node.drakkar(&["config", "get", "durability"]);
    assert_eq!(said, "node 1  durable\n");
    assert!(!node.drakkar(&["status"]).contains("not durable"));
    assert!(!node.log().contains("node.not_durable"), "{}", node.log());
    drop(node);

    let node = Node::start("off", "syncForce = false");
    let flags = node.flags();
    assert!(!flags.is_empty(), "no segment is open");
    let synced = |it: &OFlags| it.contains(OFlags::DSYNC);
    assert!(!flags.iter().any(synced), "{flags:?}");
    assert!(flags.iter().all(|it| it.contains(OFlags::DIRECT)));
    let settings = node.ask(0, SETTINGS);
    assert!(settings.contains("\r\ndurability:async\r\n"), "{settings}");
    assert!(settings.contains("\r\nno\r\n"), "{settings}");
    let metrics = node.metrics();
    assert!(metrics.contains("\ndrakkar_log_durable 0\n"), "{metrics}");
    let said = node.drakkar(&["config", "get", "durability"]);
    assert_eq!(said, "node 1  async\n");
    assert!(node.drakkar(&["status"]).contains("up, not durable"));
    let log = node.log();
    let warned = |line: &str| line.contains("WARN") && line.contains("node.not_durable");
    assert!(log.lines().any(warned), "{log}");
    let path = node.directory.join("toml");
    let read = Command::new(env!("CARGO_BIN_EXE_drakkar"))
        .args(["config", "get", "durability", "--config"])
        .arg(path)
        .output();
    assert_eq!(read.unwrap().stdout, b"async\n");
}
