//! What a node writes with, and what it says about it: durable unless the operator chose otherwise, and
//! then it is said everywhere.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::Command;

use nodes::{Addresses, Answer, Client, PATIENCE, Process, Scratch, admin};
use rustix::fs::OFlags;

/// A node that is a cluster by itself.
struct Node {
    process: Process,
    addresses: Addresses,
    scratch: Scratch,
}

impl Node {
    /// Starts one with these keys in the section `[log]`, and waits until it takes writes.
    fn start(name: &str, keys: &str) -> Self {
        let addresses = Addresses::reserve(1).unwrap();
        let scratch = Scratch::new(&format!("durability-{name}"));
        let config = format!(
            "[node]\nid = 1\ndata_dir = \"{}\"\nany_file_system = true\n[cluster]\nid = \"durability\"\n\
             shards = 1\ngroups = 1\n[log]\nsegment_size = \"20MB\"\n{keys}\n{}",
            scratch.join("data").display(),
            addresses.members(&[1]),
        );
        let path = scratch.join("toml");
        fs::write(&path, config).unwrap();
        let program = Command::new(env!("CARGO_BIN_EXE_drakkar"));
        let mut node = Self {
            process: Process::serve(program, &path, &scratch.join("log")).unwrap(),
            addresses,
            scratch,
        };
        let mut client = Client::new(vec![node.addresses.client(1)], 0, PATIENCE);
        node.process.until("it takes writes", || {
            client.ask(&["SET", "begin", "1"]) == Some(Answer::Ok)
        });
        node
    }

    /// All that it answers a client before it closes.
    fn ask(&self, request: &str) -> String {
        let mut stream = TcpStream::connect(("127.0.0.1", self.addresses.client(1))).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    fn metrics(&self) -> String {
        admin::get(self.addresses.admin(1), "/metrics").unwrap()
    }

    /// What `drakkar` prints.
    fn drakkar(&self, arguments: &[&str]) -> String {
        let endpoint = format!("127.0.0.1:{}", self.addresses.admin(1));
        let mut command = Command::new(env!("CARGO_BIN_EXE_drakkar"));
        let output = command.args(arguments).args(["--endpoint", &endpoint]);
        String::from_utf8(output.output().unwrap().stdout).unwrap()
    }

    /// The flags that the kernel has for each segment the node appends to.
    fn flags(&self) -> Vec<OFlags> {
        let process = PathBuf::from(format!("/proc/{}", self.process.id()));
        let mut found = Vec::new();
        for file in fs::read_dir(process.join("fd")).unwrap() {
            let file = file.unwrap();
            let segment = || {
                let path = fs::read_link(file.path()).ok();
                path.filter(|path| path.extension().is_some_and(|it| it == "seg"))
            };
            let before = segment();
            let info = fs::read_to_string(process.join("fdinfo").join(file.file_name()));
            // Files are closed meanwhile, and others get their numbers.
            let Some(info) = info
                .ok()
                .filter(|_| before.is_some() && segment() == before)
            else {
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

const SETTINGS: &str = "INFO persistence\r\nCONFIG GET appendfsync\r\nQUIT\r\n";

#[test]
fn writes_are_durable_by_themselves_and_never_otherwise_in_silence() {
    let node = Node::start("on", "");
    let flags = node.flags();
    let durable = OFlags::DIRECT | OFlags::DSYNC;
    assert!(!flags.is_empty(), "no segment is open");
    assert!(flags.iter().all(|it| it.contains(durable)), "{flags:?}");
    let settings = node.ask(SETTINGS);
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
    assert!(
        !node.process.log().contains("node.not_durable"),
        "{}",
        node.process.log()
    );
    drop(node);

    let node = Node::start("off", "syncForce = false");
    let flags = node.flags();
    assert!(!flags.is_empty(), "no segment is open");
    let synced = |it: &OFlags| it.contains(OFlags::DSYNC);
    assert!(!flags.iter().any(synced), "{flags:?}");
    assert!(flags.iter().all(|it| it.contains(OFlags::DIRECT)));
    let settings = node.ask(SETTINGS);
    assert!(settings.contains("\r\ndurability:async\r\n"), "{settings}");
    assert!(settings.contains("\r\nno\r\n"), "{settings}");
    let metrics = node.metrics();
    assert!(metrics.contains("\ndrakkar_log_durable 0\n"), "{metrics}");
    let said = node.drakkar(&["config", "get", "durability"]);
    assert_eq!(said, "node 1  async\n");
    assert!(node.drakkar(&["status"]).contains("up, not durable"));
    let log = node.process.log();
    let warned = |line: &str| line.contains("WARN") && line.contains("node.not_durable");
    assert!(log.lines().any(warned), "{log}");
    let path = node.scratch.join("toml");
    let read = Command::new(env!("CARGO_BIN_EXE_drakkar"))
        .args(["config", "get", "durability", "--config"])
        .arg(path)
        .output();
    assert_eq!(read.unwrap().stdout, b"async\n");
}
