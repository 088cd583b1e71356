//! A backup of a cluster that serves, and what comes back of it in another.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod demo;

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use demo::Demo;
use redis::Commands;
use redis::cluster::{ClusterClient, ClusterConnection};

const KEYS: usize = 500;

fn drakkar(arguments: &[&str]) -> Output {
    let program = env!("CARGO_BIN_EXE_drakkar");
    let mut command = Command::new("timeout");
    command.args(["120", program]).args(arguments);
    command.output().unwrap()
}

/// The same with something to read.
fn fed(arguments: &[&str], input: &[u8]) -> Output {
    let mut command = Command::new("timeout");
    command
        .args(["120", env!("CARGO_BIN_EXE_drakkar")])
        .args(arguments);
    let (input_end, output_end) = (Stdio::piped(), Stdio::piped());
    let mut child = command
        .stdin(input_end)
        .stdout(output_end)
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    // Who finds out that it is damaged reads no further.
    drop(stdin.write_all(input));
    drop(stdin);
    child.wait_with_output().unwrap()
}

fn connect(demo: &Demo) -> ClusterConnection {
    let client = ClusterClient::new([format!("redis://127.0.0.1:{}", demo.port)]).unwrap();
    client.get_connection().unwrap()
}

fn admin(demo: &Demo) -> String {
    let port = |node| format!("127.0.0.1:{}", demo.port + 2000 + node);
    [0, 1, 2].map(port).join(",")
}

fn value(key: usize) -> Vec<u8> {
    vec![u8::try_from(key % 251).unwrap(); key * 7 % 900]
}

fn ends_with(output: &Output, code: i32, words: &str) {
    let said = String::from_utf8_lossy(&output.stderr);
    let shown = format!("{said}{}", String::from_utf8_lossy(&output.stdout));
    assert_eq!(output.status.code(), Some(code), "{shown}");
    assert!(shown.contains(words), "{shown}");
}

fn damage(directory: &Path) {
    let mut files = fs::read_dir(directory)
        .unwrap()
        .map(|file| file.unwrap().path());
    let file = files.find(|file| file.extension().is_some_and(|it| it == "snap"));
    let file = file.unwrap();
    let mut bytes = fs::read(&file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 4;
    fs::write(file, bytes).unwrap();
}

/// What encrypts a stream, and what makes the stream of it again; without `openssl` it is only packed.
fn filter() -> [&'static str; 2] {
    match Command::new("openssl").arg("version").output() {
        Ok(_) => [
            "openssl enc -aes-256-ctr -pbkdf2 -pass pass:secret",
            "openssl enc -d -aes-256-ctr -pbkdf2 -pass pass:secret",
        ],
        Err(_) => ["gzip", "gzip -d"],
    }
}

/// A backup that is never on a disk as it is: the pipes that the README shows.
fn comes_back_through_a_filter(directory: &Path, endpoints: &str, to: &str) {
    let file = directory.join("backup.enc");
    let [forth, back] = filter();
    let shell = |line: &str| {
        let mut command = Command::new("timeout");
        command.args(["120", "bash", "-o", "pipefail", "-c", line]);
        command.env("drakkar", env!("CARGO_BIN_EXE_drakkar"));
        command.env("file", &file).env("endpoints", endpoints);
        command.env("to", to).output().unwrap()
    };
    let create = format!("$drakkar backup create --endpoint $endpoints --to - | {forth} > $file");
    ends_with(&shell(&create), 0, "501 keys");
    let verify = format!("{back} < $file | $drakkar backup verify --from -");
    ends_with(&shell(&verify), 0, "is sound");
    let restore = format!("{back} < $file | $drakkar backup restore --from - --to $to --over");
    ends_with(&shell(&restore), 0, "501 keys were written");
    let stored = fs::read(&file).unwrap();
    let plain = |it: &[u8]| it.windows(13).any(|part| part == b"MANIFEST.json");
    assert!(!plain(&stored), "it is stored as it is");
    // A pipe that breaks leaves something that is never taken for a backup.
    fs::write(&file, &stored[..stored.len() / 2]).unwrap();
    let cut = shell(&verify).status.code().unwrap();
    assert!(cut != 0, "half of a backup is sound");
}

#[test]
fn a_backup_comes_back_in_a_cluster_of_another_shape() {
    let source = Demo::start(&[]);
    let mut client = connect(&source);
    for key in 0..KEYS {
        let _: () = client.set(format!("key {key}"), value(key)).unwrap();
    }
    let _: () = client.set_ex("passing", "value", 3600).unwrap();
    let backup = source.directory.join("backup");
    let place = backup.to_str().unwrap();
    let endpoints = admin(&source);
    let create = ["backup", "create", "--endpoint", &endpoints, "--to", place];
    ends_with(&drakkar(&create), 0, "501 keys");
    ends_with(&drakkar(&create), 4, "not empty");
    ends_with(
        &drakkar(&["backup", "verify", "--from", place]),
        0,
        "is sound",
    );

    let status = ["dr", "status", "--endpoint", &endpoints, "--from", place];
    ends_with(&drakkar(&status), 0, "COMMITTED");
    let _: () = client.set("key 3", value(3)).unwrap();
    ends_with(&drakkar(&status), 0, "would be missing at most");
    let strict = [&status[..], &["--lag-max", "0"]].concat();
    ends_with(&drakkar(&strict), 4, "--lag-max allows 0 s");
    let machines = [&status[..], &["--lag-max", "86400", "--json"]].concat();
    ends_with(&drakkar(&machines), 0, "\"lag_entries\":");

    let target = Demo::start(&["--shards", "2", "--groups", "5"]);
    let to = format!("127.0.0.1:{}", target.port);
    let restore = ["backup", "restore", "--from", place, "--to", &to];
    ends_with(&drakkar(&restore), 0, "501 keys were written");
    ends_with(&drakkar(&restore), 4, "--over");
    let mut restored = connect(&target);
    for key in 0..KEYS {
        let found: Vec<u8> = restored.get(format!("key {key}")).unwrap();
        assert_eq!(found, value(key), "key {key}");
    }
    let left: i64 = restored.ttl("passing").unwrap();
    assert!((1..=3600).contains(&left), "{left} s are left");

    // The same as one archive, in a file and through pipes.
    let archive = source.directory.join("backup.tar");
    let file = archive.to_str().unwrap();
    let create = ["backup", "create", "--endpoint", &endpoints, "--to", file];
    ends_with(&drakkar(&create), 0, "501 keys");
    ends_with(&drakkar(&create), 4, "is there already");
    let verify = ["backup", "verify", "--from", file];
    ends_with(&drakkar(&verify), 0, "is sound");
    let piped = drakkar(&["backup", "create", "--endpoint", &endpoints, "--to", "-"]);
    assert_eq!(piped.status.code(), Some(0));
    let _: () = restored.set("key 7", "another").unwrap();
    let restore = ["backup", "restore", "--from", "-", "--to", &to, "--over"];
    ends_with(&fed(&restore, &piped.stdout), 0, "501 keys were written");
    let found: Vec<u8> = restored.get("key 7").unwrap();
    assert_eq!(found, value(7));
    let verify = ["backup", "verify", "--from", "-"];
    for bytes in [600, piped.stdout.len() / 2, piped.stdout.len() - 2000] {
        let cut = fed(&verify, &piped.stdout[..bytes]);
        let code = cut.status.code().unwrap();
        assert!([65, 66].contains(&code), "{code} for {bytes} bytes of it");
    }
    ends_with(&fed(&verify, &piped.stdout[..2000]), 65, "is cut off");
    // Behind the first name and the header of its snapshot. Where it was unpacked is of no use to anybody.
    let mut rotten = piped.stdout.clone();
    rotten[2000] ^= 1;
    let told = fed(&verify, &rotten);
    ends_with(&told, 65, "drakkar: the standard input: 0-");
    let told = String::from_utf8(told.stderr).unwrap();
    assert!(!told.contains("drakkar-backup-"), "{told}");
    let _: () = restored.set("key 7", "another").unwrap();
    comes_back_through_a_filter(source.directory.path(), &endpoints, &to);
    let found: Vec<u8> = restored.get("key 7").unwrap();
    assert_eq!(found, value(7));
    target.stop();

    let scratch = source.directory.join("scratch");
    let scratch = scratch.to_str().unwrap();
    let drill = ["dr", "drill", "--scratch", scratch, "--from", place];
    ends_with(
        &drakkar(&drill),
        0,
        "all 501 keys of cluster demo came back",
    );
    assert_eq!(fs::read_dir(scratch).unwrap().count(), 0, "all is removed");
    fs::write(source.directory.join("scratch/file"), "").unwrap();
    ends_with(&drakkar(&drill), 4, "not empty");
    fs::remove_file(source.directory.join("scratch/file")).unwrap();

    damage(&backup);
    ends_with(
        &drakkar(&[&drill[..], &["--json"]].concat()),
        65,
        "\"ok\":false",
    );
    ends_with(
        &drakkar(&["backup", "verify", "--from", place]),
        65,
        ".snap",
    );
    ends_with(
        &drakkar(&["backup", "verify", "--from", "/nonexistent"]),
        66,
        "no backup",
    );
    source.stop();
}
