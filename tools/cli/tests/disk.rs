//! Real processes on file systems of their own that become full or fail. Needs root, loop devices
//! and mkfs.ext4; says so and passes where there are none.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
#![expect(
    clippy::disallowed_methods,
    reason = "real processes are given real time"
)]

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use nodes::{Addresses, PATIENCE, PAUSE, Process, admin};
use rustix::fs::{FallocateFlags, fallocate, statvfs};
use serde_json::Value;

/// One cluster at a time.
static TURN: Mutex<()> = Mutex::new(());

const MIB: u64 = 1 << 20;
const SEGMENT_BYTES: u64 = 20 * MIB;
/// How often all nodes are started on full disks.
const FULL_STARTS: u16 = 5;

/// A small ext4 in a file.
struct Volume {
    image: PathBuf,
    path: PathBuf,
}

impl Volume {
    /// Nothing where a file system cannot be mounted.
    fn mount(name: &str, bytes: u64) -> Option<Self> {
        let name = format!("drakkar-disk-{name}-{}", std::process::id());
        let volume = Self {
            image: std::env::temp_dir().join(format!("{name}.img")),
            path: std::env::temp_dir().join(name),
        };
        fs::create_dir_all(&volume.path).unwrap();
        File::create(&volume.image).unwrap().set_len(bytes).unwrap();
        let made = Command::new("mkfs.ext4")
            .args(["-q", "-F", "-m", "0"])
            .arg(&volume.image)
            .output();
        let mounted = made.is_ok_and(|output| output.status.success()) && volume.mount_again();
        if !mounted {
            println!("skipped: no ext4 can be mounted here on a loop device");
        }
        mounted.then_some(volume)
    }

    fn free(&self) -> u64 {
        let stat = statvfs(&self.path).unwrap();
        stat.f_bavail * stat.f_frsize
    }

    /// Leaves so many bytes free.
    fn fill(&self, left: u64) {
        let file = File::create(self.path.join("filler")).unwrap();
        let bytes = self.free() - left;
        fallocate(&file, FallocateFlags::empty(), 0, bytes).unwrap();
    }

    /// Leaves nothing free, not even a block.
    fn fill_up(&self) {
        let mut options = File::options();
        let file = options.append(true).create(true);
        let mut file = file.open(self.path.join("rest")).unwrap();
        while file.write_all(&[1; 4096]).is_ok() {}
        file.sync_all().unwrap();
    }

    fn mount_again(&self) -> bool {
        let image = self.image.display().to_string();
        let options = ["-o", "loop,errors=remount-ro", &image];
        let command = Command::new("mount").args(options).arg(&self.path).output();
        command.is_ok_and(|output| output.status.success())
    }

    /// Nobody may use it. A kernel may need a moment to let go of the files of a node that has ended.
    fn unmount(&self) {
        let mut said = None;
        for _ in 0..100 {
            let output = Command::new("umount").arg(&self.path).output().unwrap();
            if output.status.success() {
                return;
            }
            said = Some(output);
            thread::sleep(Duration::from_millis(100));
        }
        panic!("{said:?}");
    }

    /// Puts it in order after a failure. Nobody may use it.
    fn repair(&self) {
        self.unmount();
        let checked = Command::new("e2fsck")
            .args(["-f", "-y"])
            .arg(&self.image)
            .output();
        // 1: errors were there and are corrected.
        let code = checked.unwrap().status.code();
        assert!(matches!(code, Some(0 | 1)), "e2fsck ends with {code:?}");
        assert!(self.mount_again(), "it was mounted before");
    }

    /// The same again, block by block, as a disk or a virtual machine is copied. Nobody may use it.
    fn copy(&self, name: &str) -> Self {
        let name = format!("drakkar-disk-{name}-{}", std::process::id());
        let copy = Self {
            image: std::env::temp_dir().join(format!("{name}.img")),
            path: std::env::temp_dir().join(name),
        };
        fs::create_dir_all(&copy.path).unwrap();
        self.unmount();
        let mut command = Command::new("cp");
        let command = command
            .arg("--sparse=always")
            .args([&self.image, &copy.image]);
        assert!(command.status().unwrap().success(), "cp");
        assert!(self.mount_again() && copy.mount_again());
        copy
    }

    /// From now on no write succeeds.
    fn fail(&self) -> bool {
        let device = Command::new("findmnt")
            .args(["-n", "-o", "SOURCE"])
            .arg(&self.path)
            .output()
            .unwrap();
        let device = String::from_utf8(device.stdout).unwrap();
        let name = device.trim().trim_start_matches("/dev/");
        let trigger = format!("/sys/fs/ext4/{name}/trigger_fs_error");
        fs::write(trigger, "a test lets the disk fail").is_ok()
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        // What is not mounted cannot be unmounted, and what is left behind is a temporary file.
        drop(Command::new("umount").arg("-l").arg(&self.path).output());
        drop(fs::remove_dir_all(&self.path));
        drop(fs::remove_file(&self.image));
    }
}

/// Three nodes and one group, which the first leads when it is well.
struct Cluster {
    addresses: Addresses,
    directories: [PathBuf; 3],
    processes: Vec<Process>,
}

impl Cluster {
    fn start(directories: [PathBuf; 3]) -> Self {
        let mut cluster = Self {
            addresses: Addresses::reserve(3).unwrap(),
            directories,
            processes: Vec::new(),
        };
        let members = cluster.addresses.members(&[1, 2, 3]);
        for (id, directory) in (1..).zip(&cluster.directories) {
            fs::create_dir_all(directory).unwrap();
            let config = format!(
                "[node]\nid = {id}\ndata_dir = \"{}\"\nany_file_system = true\n[cluster]\nid = \"disk\"\nshards = 1\n\
                 groups = 1\nelection_timeout = \"500ms\"\nheartbeat_interval = \"50ms\"\n\
                 [log]\nsegment_size = \"{SEGMENT_BYTES}B\"\n[client]\nproxy = true\nroute_wait = \"2s\"\n{members}",
                directory.join("data").display()
            );
            let mut file = File::create(directory.join("toml")).unwrap();
            file.write_all(config.as_bytes()).unwrap();
            file.sync_all().unwrap();
            cluster.processes.push(serve(directory));
        }
        cluster.until("the first node leads", |cluster| cluster.leads(1));
        cluster
    }

    fn until(&self, what: &str, mut is_so: impl FnMut(&Self) -> bool) {
        let start = Instant::now();
        while !is_so(self) {
            assert!(
                start.elapsed() < PATIENCE,
                "not so: {what}; {}",
                self.logs()
            );
            thread::sleep(PAUSE);
        }
        println!("{what} after {:?}", start.elapsed());
    }

    fn logs(&self) -> String {
        let said = |process: &Process| process.said() + "\n";
        self.processes.iter().map(said).collect()
    }

    fn status(&self, node: u16) -> Value {
        admin::status(self.addresses.admin(node)).unwrap_or_default()
    }

    /// What it answers who asks whether it is ready.
    fn ready(&self, node: u16) -> String {
        admin::get(self.addresses.admin(node), "/readyz").unwrap()
    }

    fn leads(&self, node: u16) -> bool {
        let status = self.status(node);
        status["groups"][0]["role"] == "leader"
    }

    /// Whether a node is connected to another.
    fn hears(&self, node: u16, other: u16) -> bool {
        let status = self.status(node);
        let peers = status["peers"].as_array().cloned().unwrap_or_default();
        let mut peers = peers.iter();
        peers.any(|peer| peer["node"] == other && peer["connected"] == true)
    }

    fn disk_is(&self, node: u16, state: &str) -> bool {
        let status = self.status(node);
        status["disks"][0]["state"] == state
    }

    fn client(&self, node: u16) -> Client {
        let stream = TcpStream::connect(("127.0.0.1", self.addresses.client(node))).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Client(BufReader::new(stream))
    }

    /// SIGTERM; the exit code.
    fn stop(&mut self, node: u16) -> Option<i32> {
        self.processes[usize::from(node) - 1].stop()
    }
}

fn serve(directory: &Path) -> Process {
    let program = Command::new(env!("CARGO_BIN_EXE_drakkar"));
    Process::serve(program, &directory.join("toml"), &directory.join("log")).unwrap()
}

struct Client(BufReader<TcpStream>);

impl Client {
    /// The first line of the answer, and what follows it in a bulk string.
    fn ask(&mut self, words: &[&str]) -> String {
        let mut request = format!("*{}\r\n", words.len());
        for word in words {
            request.push_str(&format!("${}\r\n{word}\r\n", word.len()));
        }
        self.0.get_mut().write_all(request.as_bytes()).unwrap();
        let mut line = String::new();
        self.0.read_line(&mut line).unwrap();
        let Some(length) = line.strip_prefix('$') else {
            return line.trim_end().to_owned();
        };
        let Ok(length) = length.trim_end().parse::<usize>() else {
            return "nil".to_owned();
        };
        let mut bytes = vec![0; length + 2];
        self.0.read_exact(&mut bytes).unwrap();
        bytes.truncate(length);
        String::from_utf8(bytes).unwrap()
    }

    /// Writes values of 60 kB, `{from}`, `{from + 1}` …, until one is refused or there are enough. What a busy
    /// machine has not done in time is asked for again.
    fn write(&mut self, from: usize, count: usize) -> (usize, String) {
        let start = Instant::now();
        for key in from..from + count {
            let value = format!("{key:0>60000}");
            let answer = loop {
                let answer = self.ask(&["SET", &format!("k{key}"), &value]);
                if !answer.starts_with("-TIMEOUT") || start.elapsed() > PATIENCE {
                    break answer;
                }
            };
            if answer != "+OK" {
                return (key, answer);
            }
        }
        (from + count, "+OK".to_owned())
    }

    fn verify(&mut self, keys: usize) {
        for key in 0..keys {
            let value = self.ask(&["GET", &format!("k{key}")]);
            assert!(value == format!("{key:0>60000}"), "k{key} is lost");
        }
    }
}

#[test]
fn full_disks_refuse_writes_answer_reads_and_recover_by_themselves() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(volume) = Volume::mount("full", 400 * MIB) else {
        return;
    };
    let directories = [1, 2, 3].map(|id| volume.path.join(format!("n{id}")));
    let empty = volume.free();
    let mut cluster = Cluster::start(directories);
    // What a node has begun it has space for: then all become full, and not only a majority.
    cluster.until("all nodes have two segments", |_| {
        empty - volume.free() >= 6 * SEGMENT_BYTES
    });
    volume.fill(30 * MIB);
    let mut client = cluster.client(1);
    let (written, refusal) = client.write(0, 2000);
    assert!(refusal.starts_with("-OOM "), "{refusal}");
    assert!(written > 0, "there was space at first");
    println!("{written} writes of 60 kB until: {refusal}");
    cluster.until("all disks are full", |cluster| {
        (1..=3).all(|node| cluster.disk_is(node, "disk-full"))
    });
    let ready = cluster.ready(1);
    assert!(ready.starts_with("HTTP/1.1 503 "), "{ready}");
    client.verify(written);
    assert!(volume.free() > 0, "a reserve is left");

    // A node also starts on a full disk.
    assert_eq!(cluster.stop(2), Some(0), "{}", cluster.logs());
    cluster.processes[1] = serve(&cluster.directories[1]);
    cluster.until("a node starts on a full disk", |cluster| {
        cluster.disk_is(2, "disk-full")
    });
    cluster.client(2).verify(written);

    // All of them, again and again, when not even the reserve is left.
    volume.fill_up();
    for start in 1..=FULL_STARTS {
        let began = Instant::now();
        for process in &mut cluster.processes {
            assert!(process.kill(), "a node has ended by itself");
        }
        cluster.processes = cluster.directories.iter().map(|it| serve(it)).collect();
        // What they give back is taken at once.
        cluster.until("all nodes know that their disks are full", |cluster| {
            volume.fill_up();
            (1..=3).all(|node| cluster.disk_is(node, "disk-full"))
        });
        cluster.until("a node leads", |cluster| {
            (1..=3).any(|node| cluster.leads(node))
        });
        let mut client = cluster.client(1 + start % 3);
        client.verify(written.min(3));
        let refusal = client.ask(&["SET", "full", "no"]);
        assert!(refusal.starts_with("-OOM "), "{refusal}");
        println!(
            "start {start}: {:?}, {} bytes free",
            began.elapsed(),
            volume.free()
        );
    }
    cluster.client(2).verify(written);
    let admin = format!("127.0.0.1:{}", cluster.addresses.admin(1));
    let mut asked = Command::new(env!("CARGO_BIN_EXE_drakkar"));
    let asked = asked.args(["snapshot", "create", "--endpoint", &admin]);
    let output = asked.output().unwrap();
    let said = format!("{output:?}");
    assert!(said.contains("bytes must be free"), "{said}");

    fs::remove_file(volume.path.join("rest")).unwrap();
    fs::remove_file(volume.path.join("filler")).unwrap();
    cluster.until("all disks have space again", |cluster| {
        (1..=3).all(|node| cluster.disk_is(node, "ok"))
    });
    // What the leader knows of the others' disks is as old as a heartbeat.
    cluster.until("writes are taken again", |cluster| {
        cluster.client(1).ask(&["SET", "again", "yes"]) == "+OK"
    });
    let mut client = cluster.client(1);
    let (written, answer) = client.write(written, 100);
    assert_eq!(answer, "+OK");
    client.verify(written);
    for node in 1..=3 {
        assert_eq!(cluster.stop(node), Some(0), "{}", cluster.logs());
    }
}

#[test]
fn logs_that_fill_their_disk_are_cut_by_snapshots_and_writes_go_on_by_themselves() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(volume) = Volume::mount("shortened", 400 * MIB) else {
        return;
    };
    let directories = [1, 2, 3].map(|id| volume.path.join(format!("n{id}")));
    let empty = volume.free();
    let cluster = Cluster::start(directories);
    cluster.until("all nodes have two segments", |_| {
        empty - volume.free() >= 6 * SEGMENT_BYTES
    });
    volume.fill(100 * MIB);
    // The same few keys again and again: more than the disk takes of that.
    let mut client = cluster.client(1);
    let mut refused = 0;
    for write in 0..2000 {
        let (key, value) = (format!("k{}", write % 20), format!("{write:0>60000}"));
        let start = Instant::now();
        loop {
            let answer = client.ask(&["SET", &key, &value]);
            if answer == "+OK" {
                break;
            }
            assert!(start.elapsed() < PATIENCE, "{answer}; {}", cluster.logs());
            refused += 1;
            thread::sleep(PAUSE);
        }
    }
    println!("{refused} refusals");
    let logs = cluster.logs();
    assert!(logs.contains("disk.full"), "{logs}");
    assert!(volume.free() > 0, "a reserve is left");
    for key in 0..20 {
        let value = client.ask(&["GET", &format!("k{key}")]);
        assert_eq!(value.parse::<usize>(), Ok(1980 + key), "k{key} is lost");
    }
}

#[test]
fn a_node_whose_disk_was_copied_block_by_block_ends_beside_its_original() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(volume) = Volume::mount("original", 200 * MIB) else {
        return;
    };
    let elsewhere = std::env::temp_dir().join(format!("drakkar-copied-{}", std::process::id()));
    let directories = [
        elsewhere.join("n1"),
        elsewhere.join("n2"),
        volume.path.join("n3"),
    ];
    let mut cluster = Cluster::start(directories);
    let (written, answer) = cluster.client(1).write(0, 10);
    assert_eq!(answer, "+OK");
    assert_eq!(cluster.stop(3), Some(0), "{}", cluster.logs());

    let copy = volume.copy("copy");
    cluster.processes[2] = serve(&cluster.directories[2]);
    cluster.until("the original is connected", |cluster| {
        [1, 2].iter().all(|&node| cluster.hears(3, node))
    });
    // On another host it would have the same address; here it is another one of this host.
    let directory = copy.path.join("n3");
    let config = fs::read_to_string(directory.join("toml")).unwrap();
    let config = config
        .replace(volume.path.to_str().unwrap(), copy.path.to_str().unwrap())
        .replace("[node]\n", "[node]\nlisten = \"127.0.0.9\"\n");
    fs::write(directory.join("toml"), config).unwrap();
    cluster.directories[2] = directory;
    cluster.processes.push(serve(&cluster.directories[2]));
    let code = cluster.processes[3].ended();
    let log = fs::read_to_string(cluster.directories[2].join("log")).unwrap();
    assert_eq!(code, Some(78), "{log}");
    assert!(log.contains("this is a copied data directory"), "{log}");
    // The original goes on.
    let mut client = cluster.client(3);
    client.verify(written);
    assert_eq!(client.ask(&["SET", "after", "it"]), "+OK");
    cluster.processes.pop();
    for node in 1..=3 {
        assert_eq!(cluster.stop(node), Some(0), "{}", cluster.logs());
    }
    drop(fs::remove_dir_all(elsewhere));
}

#[test]
fn a_leader_whose_disk_fails_hands_over_and_says_so() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(volume) = Volume::mount("failed", 200 * MIB) else {
        return;
    };
    let elsewhere = std::env::temp_dir().join(format!("drakkar-disks-{}", std::process::id()));
    let directories = [
        volume.path.join("n1"),
        elsewhere.join("n2"),
        elsewhere.join("n3"),
    ];
    let mut cluster = Cluster::start(directories);
    let (written, answer) = cluster.client(1).write(0, 50);
    assert_eq!(answer, "+OK");
    if !volume.fail() {
        println!("skipped: this kernel lets no ext4 fail on demand");
        return;
    }
    // It is not known what becomes of the write that meets the failure.
    let met = cluster.client(1).ask(&["SET", "meets", "it"]);
    println!("the write that met the failure: {met}");
    cluster.until("the disk has failed", |cluster| {
        cluster.disk_is(1, "disk-failed")
    });
    cluster.until("another leads", |cluster| {
        cluster.leads(2) || cluster.leads(3)
    });
    assert!(!cluster.leads(1));
    let ready = cluster.ready(1);
    assert!(ready.starts_with("HTTP/1.1 503 "), "{ready}");
    assert!(ready.contains("shard 0 is disk-failed"), "{ready}");
    // Through the node whose disk failed as well: it forwards.
    for node in 1..=3 {
        let mut client = cluster.client(node);
        client.verify(written);
        assert_eq!(client.ask(&["SET", "after", "it"]), "+OK");
    }
    assert_eq!(cluster.stop(1), Some(74), "{}", cluster.logs());

    volume.repair();
    cluster.processes[0] = serve(&cluster.directories[0]);
    cluster.until("the first node leads again", |cluster| cluster.leads(1));
    cluster.client(1).verify(written);
    assert_eq!(cluster.client(1).ask(&["GET", "after"]), "it");
    for node in 1..=3 {
        assert_eq!(cluster.stop(node), Some(0), "{}", cluster.logs());
    }
    drop(fs::remove_dir_all(elsewhere));
}
