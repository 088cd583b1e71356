//! What a node ends with when it cannot start: a supervisor must know when not to try again.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::rc::Rc;

use nodes::{Addresses, Process, Scratch, admin, until};

/// A cluster of one node, and what it leaves behind.
struct Place {
    scratch: Rc<Scratch>,
    addresses: Addresses,
}

impl Place {
    fn new() -> Self {
        Self {
            scratch: Rc::new(Scratch::new("exit")),
            addresses: Addresses::reserve(2).unwrap(),
        }
    }

    fn data(&self) -> PathBuf {
        self.scratch.join("data")
    }

    /// A configuration of node `id`, which is all of its cluster.
    fn config(&self, name: &str, id: u16, groups: u16) -> PathBuf {
        let path = self.scratch.join(name);
        let config = format!(
            "[node]\nid = {id}\ndata_dir = \"{}\"\nany_file_system = true\n[cluster]\nid = \"exit\"\n\
             shards = 1\ngroups = {groups}\n[log]\nsegment_size = \"20MB\"\n{}",
            self.data().display(),
            self.addresses.members(&[id]),
        );
        fs::write(&path, config).unwrap();
        path
    }

    fn serve(&self, config: &Path) -> Process {
        let log = config.with_extension("log");
        Process::serve(program(), config, &log).unwrap()
    }

    /// Starts a node and kills it once it serves.
    fn leave_data(&self, config: &Path) {
        let mut process = self.serve(config);
        self.until_it_serves(&mut process);
        assert!(process.kill());
        until(
            || self.addresses.are_free(1),
            || "its ports stay in use".to_owned(),
        );
    }

    /// Waits until node 1 leads its groups, which is in its log then.
    fn until_it_serves(&self, process: &mut Process) {
        process.until("it serves", || {
            let groups = admin::groups(self.addresses.admin(1));
            !groups.is_empty() && groups.iter().all(|group| group["role"] == "leader")
        });
    }

    /// How a start that cannot succeed ends: with this code, and these words.
    fn ends_with(&self, config: &Path, code: i32, words: &str) {
        let mut process = self.serve(config);
        let ended = process.ended();
        let complaint = process.said();
        assert_eq!(ended, Some(code), "{complaint}");
        let last = complaint.lines().last().unwrap_or_default();
        assert!(last.contains(words), "{complaint}");
    }
}

fn program() -> Command {
    Command::new(env!("CARGO_BIN_EXE_drakkar"))
}

#[test]
fn an_even_number_of_voters_is_warned_of_and_served() {
    let place = Place {
        scratch: Rc::new(Scratch::new("voters")),
        addresses: Addresses::reserve(4).unwrap(),
    };
    let config = place.config("toml", 1, 1);
    let text = fs::read_to_string(&config).unwrap();
    fs::write(&config, text + &place.addresses.members(&[2, 3, 4])).unwrap();
    let checked = program().args(["check", "--config"]).arg(&config).output();
    let checked = checked.unwrap();
    let said = String::from_utf8_lossy(&checked.stderr);
    let warning = "4 voters tolerate as many failures as 3";
    assert!(checked.status.success() && said.contains(warning), "{said}");
    let mut process = place.serve(&config);
    let log = config.with_extension("log");
    let log = || fs::read_to_string(&log).unwrap_or_default();
    process.until("it is ready", || log().contains("node.ready"));
    assert!(
        log().contains("voters.even") && log().contains(warning),
        "{}",
        log()
    );
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
    let mut program = program();
    program.current_dir(place.scratch.path());
    let log = place.scratch.join("log");
    let mut process = Process::serve(program, Path::new("toml"), &log).unwrap();
    place.until_it_serves(&mut process);
    assert!(place.data().join("identity").exists());
}

#[test]
fn a_configuration_that_is_not_there_ends_with_66() {
    let place = Place::new();
    place.ends_with(&place.scratch.join("toml"), 66, "cannot read");
    let rotten = place.scratch.join("rotten.toml");
    fs::write(&rotten, b"[node]\nid = \xff").unwrap();
    place.ends_with(&rotten, 78, "cannot read");
}

#[test]
fn a_directory_in_use_or_that_cannot_be_made_ends_with_73() {
    let place = Place::new();
    let config = place.config("toml", 1, 1);
    let mut first = place.serve(&config);
    place.until_it_serves(&mut first);
    // The same data by other ports.
    let mut other = Place::new();
    other.scratch = place.scratch.clone();
    let second = other.config("second", 1, 1);
    place.ends_with(&second, 73, "is in use by process");
    drop(first);

    let place = Place::new();
    fs::write(place.data(), "a file").unwrap();
    place.ends_with(&place.config("toml", 1, 1), 73, "lock");
}

#[test]
fn a_port_in_use_ends_with_75() {
    let place = Place::new();
    let config = place.config("toml", 1, 1);
    let _taken = TcpListener::bind(("127.0.0.1", place.addresses.client(1))).unwrap();
    place.ends_with(&config, 75, "cannot be listened on");
}

#[test]
fn a_configuration_that_fits_neither_itself_nor_the_data_ends_with_78() {
    let place = Place::new();
    let sound = place.config("toml", 1, 2);
    let broken = place.scratch.join("broken");
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

#[test]
fn a_repair_of_what_is_not_there_says_so_and_leaves_nothing() {
    let place = Place::new();
    let config = place.config("alone.toml", 1, 2);
    for (verb, code, words) in [
        ("rejoin", 4, "is the only one of its cluster"),
        ("moved", 66, "holds no data of a node"),
    ] {
        let words_given = ["repair", verb, "--config", config.to_str().unwrap()];
        let output = program().args(words_given).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{verb}: {said}");
        assert!(said.contains(words), "{verb}: {said}");
        assert!(!place.data().exists(), "{verb} made a directory");
    }
}
