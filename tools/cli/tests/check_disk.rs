//! What `drakkar check disk` says of real directories, and that `serve` refuses those where durable
//! writes are not.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

fn drakkar(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_drakkar"));
    command.args(arguments).output().unwrap()
}

/// A directory that is removed with its value.
struct Directory(PathBuf);

impl Directory {
    fn new(parent: &Path, name: &str) -> Self {
        let path = parent.join(format!("drakkar-check-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn text(&self) -> &str {
        self.0.to_str().unwrap()
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.0));
    }
}

/// Where files are in memory, if there is such a place.
fn memory() -> Option<&'static Path> {
    let path = Path::new("/dev/shm");
    let mounts = fs::read_to_string("/proc/mounts").unwrap_or_default();
    let found = mounts.lines().any(|line| line.contains(" /dev/shm tmpfs "));
    if !found {
        eprintln!("skipped: /dev/shm is no tmpfs on this machine");
    }
    found.then_some(path)
}

#[test]
fn a_disk_is_measured_and_nothing_stays_behind() {
    // Next to the program, not in /tmp, which is in memory on some machines.
    let beside = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let directory = Directory::new(beside, "measured");
    let output = drakkar(&["check", "disk", directory.text(), "--json"]);
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(found["free_bytes"].as_u64().unwrap() <= found["total_bytes"].as_u64().unwrap());
    let writes = &found["durable_write"];
    if writes["works"] == true {
        assert!(
            writes["median_us"].as_u64() <= writes["p99_us"].as_u64(),
            "{found}"
        );
        assert!(
            writes["p99_us"].as_u64() <= writes["max_us"].as_u64(),
            "{found}"
        );
    }
    if found["file_system"]["kind"] == "local" && writes["works"] == true {
        assert_eq!(output.status.code(), Some(0), "{found}");
    }
    assert_eq!(
        fs::read_dir(&directory.0).unwrap().count(),
        0,
        "a file was left"
    );

    let text = drakkar(&["check", "disk", directory.text()]);
    let text = String::from_utf8(text.stdout).unwrap();
    for line in [
        "file system",
        "free",
        "direct I/O",
        "durable write",
        "verdict",
    ] {
        assert!(
            text.lines().any(|found| found.starts_with(line)),
            "no {line}: {text}"
        );
    }
}

#[test]
fn what_is_no_directory_is_an_error_and_no_arguments_are_a_wrong_use() {
    assert_eq!(
        drakkar(&["check", "disk", "/none/such"]).status.code(),
        Some(1)
    );
    assert_eq!(drakkar(&["check"]).status.code(), Some(2));
    assert_eq!(drakkar(&["check", "disk"]).status.code(), Some(2));
}

#[test]
fn memory_is_called_so_and_refused() {
    let Some(memory) = memory() else { return };
    let directory = Directory::new(memory, "refused");
    let output = drakkar(&["check", "disk", directory.text(), "--json"]);
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(found["file_system"]["name"], "tmpfs");
    assert_eq!(found["verdict"], "refused");
    assert_eq!(output.status.code(), Some(4));

    let data = directory.0.join("data");
    let config = directory.0.join("node.toml");
    let text = format!(
        "[node]\nid = 1\ndata_dir = \"{}\"\n[cluster]\nid = \"c\"\n[[cluster.nodes]]\nid = 1\n\
         host = \"127.0.0.1\"\nclient_port = 1\npeer_port = 2\nadmin_port = 3\n",
        data.display()
    );
    fs::write(&config, text).unwrap();
    let output = drakkar(&["serve", "--config", config.to_str().unwrap()]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(78), "{said}");
    assert!(
        said.contains("tmpfs") && said.contains("node.any_file_system"),
        "{said}"
    );
    assert!(!data.exists(), "refused, but made");
}
