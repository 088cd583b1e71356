//! Memory that a node has ready before it serves, and keeps.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::process::Command;
use std::time::Duration;

use nodes::{Addresses, Answer, Client, PATIENCE, Process, Scratch};

const READY_MIB: u64 = 192;

/// Several times as long as an allocator waits before it gives back what nobody uses.
const A_WHILE: u32 = 40;

/// What a node that is a cluster by itself has in memory after a while, in MiB.
fn resident_after_a_while(name: &str, setting: &str) -> u64 {
    let addresses = Addresses::reserve(1).unwrap();
    let scratch = Scratch::new(&format!("memory-{name}"));
    let config = format!(
        "[node]\nid = 1\ndata_dir = \"{}\"\nany_file_system = true\n{setting}\n[cluster]\nid = \"memory\"\n\
         shards = 1\ngroups = 1\n[log]\nsegment_size = \"20MB\"\n{}",
        scratch.join("data").display(),
        addresses.members(&[1]),
    );
    let path = scratch.join("toml");
    fs::write(&path, config).unwrap();
    let program = Command::new(env!("CARGO_BIN_EXE_drakkar"));
    let mut process = Process::serve(program, &path, &scratch.join("log")).unwrap();
    let mut client = Client::new(vec![addresses.client(1)], 0, PATIENCE);
    // Larger than what allocators keep at hand: they look at what is unused.
    let value = "v".repeat(256 << 10);
    let mut write = || client.ask(&["SET", "key", &value]) == Some(Answer::Ok);
    process.until("it takes writes", &mut write);
    for _ in 0..A_WHILE {
        std::thread::sleep(Duration::from_millis(100));
        write();
    }
    let status = fs::read_to_string(format!("/proc/{}/status", process.id())).unwrap();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .unwrap();
    let kib: u64 = line.trim().trim_end_matches(" kB").parse().unwrap();
    kib >> 10
}

#[test]
fn memory_that_was_made_ready_stays() {
    let setting = format!("ready_memory = \"{READY_MIB}MB\"");
    let resident = resident_after_a_while("ready", &setting);
    assert!(resident >= READY_MIB, "{resident} MiB");
}

#[test]
fn a_node_takes_no_memory_that_it_was_not_told_to_take() {
    let resident = resident_after_a_while("plain", "");
    assert!(resident < READY_MIB, "{resident} MiB");
}
