//! What a node ends with when it cannot start: a supervisor must know when not to try again.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
#![expect(
    clippy::disallowed_methods,
    reason = "real processes are given real time"
)]

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use ports::{Ports, is_free};
use serde_json::Value;

const PAUSE: Duration = Duration::from_millis(20);
const PATIENCE: Duration = Duration::from_secs(120);

/// A cluster of one node, and what it leaves behind.
struct Place {
    directory: PathBuf,
    _ports: Ports,
    base: u16,
}

impl Place {
    fn new() -> Self {
        static PLACES: AtomicU16 = AtomicU16::new(0);
        let number = PLACES.fetch_add(1, Ordering::Relaxed);
        let name = format!("drakkar-exit-{}-{number}", std::process::id());
        let directory = std::env::temp_dir().join(name);
        fs::create_dir_all(&directory).unwrap();
        let ports = Ports::reserve(3).unwrap();
        Self {
            directory,
            base: ports.first(),
            _ports: ports,
        }
    }

    fn data(&self) -> PathBuf {
        self.directory.join("data")
    }

    /// A configuration of node `id`, which is all of its cluster.
    fn config(&self, name: &str, id: u16, groups: u16) -> PathBuf {
        let path = self.directory.join(name);
        let config = format!(
            "[node]\nid = {id}\ndata_dir = \"{}\"\nany_file_system = true\n[cluster]\nid = \"exit\"\n\
             shards = 1\ngroups = {groups}\n[log]\nsegment_size = \"20MB\"\n[[cluster.nodes]]\nid = {id}\n\
             host = \"127.0.0.1\"\nclient_port = {}\npeer_port = {}\nadmin_port = {}\n",
            self.data().display(),
            self.base,
            self.base + 1,
            self.base + 2
        );
        fs::write(&path, config).unwrap();
        path
    }

    fn serve(&self, config: &PathBuf) -> Child {
        let mut command = Command::new(env!("CARGO_BIN_EXE_drakkar"));
        command.args(["serve", "--config"]).arg(config);
        let command = command.stdin(Stdio::null()).stdout(Stdio::null());
        command.stderr(Stdio::piped()).spawn().unwrap()
    }

    /// Starts a node and kills it once it serves.
    fn leave_data(&self, config: &PathBuf) {
        let mut child = self.serve(config);
        self.until_it_serves(&mut child);
        child.kill().unwrap();
        child.wait().unwrap();
        // The kernel closes what io_uring held a little later.
        let start = Instant::now();
        while !(self.base..self.base + 3).all(is_free) {
            assert!(start.elapsed() < PATIENCE, "its ports stay in use");
            thread::sleep(PAUSE);
        }
    }

    /// Waits until the node leads its groups, which is in its log then.
    fn until_it_serves(&self, child: &mut Child) {
        let start = Instant::now();
        while !self.leads() {
            assert!(start.elapsed() < PATIENCE, "it does not serve");
            assert_eq!(child.try_wait().unwrap(), None, "it has ended");
            thread::sleep(PAUSE);
        }
    }

    fn leads(&self) -> bool {
        let mut text = String::new();
        let asked = TcpStream::connect(("127.0.0.1", self.base + 2)).and_then(|mut stream| {
            stream.set_read_timeout(Some(PATIENCE))?;
            stream.write_all(b"GET /v1/status HTTP/1.1\r\nhost: n\r\nconnection: close\r\n\r\n")?;
            stream.read_to_string(&mut text)
        });
        let status = text.split_once("\r\n\r\n").map(|(_, body)| body);
        let status: Value = serde_json::from_str(status.unwrap_or_default()).unwrap_or_default();
        let groups = status["groups"].as_array().cloned().unwrap_or_default();
        asked.is_ok() && groups.iter().all(|group| group["role"] == "leader") && !groups.is_empty()
    }

    /// How a start that cannot succeed ends: with this code, and these words.
    fn ends_with(&self, config: &PathBuf, code: i32, words: &str) {
        let mut child = self.serve(config);
        let start = Instant::now();
        while child.try_wait().unwrap().is_none() {
            if start.elapsed() > PATIENCE {
                child.kill().unwrap();
            }
            thread::sleep(PAUSE);
        }
        let output = child.wait_with_output().unwrap();
        let complaint = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{complaint}");
        assert!(complaint.contains(words), "{complaint}");
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.directory));
    }
}

#[test]
fn what_was_damaged_ends_with_65() {
    let place = Place::new();
    let config = place.config("toml", 1, 1);
    place.leave_data(&config);
    let identity = place.data().join("identity");
    let text = fs::read_to_string(&identity).unwrap();
    fs::write(&identity, text.replace("node = 1", "node = 2")).unwrap();
    place.ends_with(&config, 65, "does not pass its check");
}

#[test]
fn a_data_directory_may_be_named_from_where_the_node_starts() {
    let place = Place::new();
    let config = place.config("toml", 1, 1);
    let text = fs::read_to_string(&config).unwrap();
    let absolute = place.data().display().to_string();
    fs::write(&config, text.replace(&absolute, "data")).unwrap();
    let mut child = Command::new(env!("CARGO_BIN_EXE_drakkar"))
        .args(["serve", "--config", "toml"])
        .current_dir(&place.directory)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    place.until_it_serves(&mut child);
    assert!(place.data().join("identity").exists());
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn a_configuration_that_is_not_there_ends_with_66() {
    let place = Place::new();
    place.ends_with(&place.directory.join("toml"), 66, "cannot read");
}

#[test]
fn a_directory_in_use_or_that_cannot_be_made_ends_with_73() {
    let place = Place::new();
    let config = place.config("toml", 1, 1);
    let mut first = place.serve(&config);
    place.until_it_serves(&mut first);
    // The same data by other ports.
    let mut other = Place::new();
    let own = std::mem::replace(&mut other.directory, place.directory.clone());
    let second = other.config("second", 1, 1);
    place.ends_with(&second, 73, "is in use by process");
    other.directory = own;
    first.kill().unwrap();
    first.wait().unwrap();

    let place = Place::new();
    fs::write(place.data(), "a file").unwrap();
    place.ends_with(&place.config("toml", 1, 1), 73, "lock");
}

#[test]
fn a_port_in_use_ends_with_75() {
    let place = Place::new();
    let config = place.config("toml", 1, 1);
    let _taken = TcpListener::bind(("127.0.0.1", place.base)).unwrap();
    place.ends_with(&config, 75, "cannot be listened on");
}

#[test]
fn a_configuration_that_fits_neither_itself_nor_the_data_ends_with_78() {
    let place = Place::new();
    let sound = place.config("toml", 1, 2);
    let broken = place.directory.join("broken");
    let text = fs::read_to_string(&sound).unwrap();
    fs::write(&broken, text.replace("shards = 1", "shards = 0")).unwrap();
    place.ends_with(&broken, 78, "cluster.shards");

    place.leave_data(&sound);
    let other_node = place.config("other", 2, 2);
    place.ends_with(&other_node, 78, "data dir belongs to node 1");
    let fewer_groups = place.config("fewer", 1, 1);
    place.ends_with(&fewer_groups, 78, "cannot be changed while there is data");
}

#[test]
fn words_that_are_not_understood_end_with_64() {
    let output = Command::new(env!("CARGO_BIN_EXE_drakkar"))
        .args(["serve", "--fast"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(64));
}
