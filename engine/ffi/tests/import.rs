//! The import as a C program calls it, compiled with the committed header.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use engine::config::ClusterOptions;
use engine::io::identity::Member;
use engine::io::import::{Listed, Shipment, verify};
use engine::kv::Kv;
use engine::snapshot::{Compression, Encoder, Header, Membership, machine};
use engine::state_machine::StateMachine;
use nodes::{Addresses, Scratch};
use wal::{GroupId, LogIndex, Term};

/// The program, linked with the library that this test was built with.
fn compile(scratch: &Path) -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let library = test.parent().unwrap();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    let program = scratch.join("import");
    let compiled = Command::new("cc")
        .args(["-std=c99", "-Wall", "-Wextra", "-Werror", "-o"])
        .arg(&program)
        .arg(folder.join("tests/import.c"))
        .arg("-I")
        .arg(folder.join("include"))
        .arg(library.join("libdrakkar.so"))
        .arg(format!("-Wl,-rpath,{}", library.display()))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&compiled.stderr);
    assert!(compiled.status.success(), "{said}");
    program
}

/// An export of two groups that hold nothing, of a node that is gone.
fn export(to: &Path) {
    fs::create_dir(to).unwrap();
    let options = ClusterOptions {
        groups: 2,
        ..ClusterOptions::default()
    };
    let files = [0, 1].map(GroupId::from_raw).map(|group| {
        let header = Header {
            compression: Compression::Lz4,
            cluster: "embedded".into(),
            instance: 7,
            group,
            index: LogIndex::from_raw(5),
            term: Term::from_raw(1),
            membership: Membership::default(),
            machine: machine::KV,
            items: 0,
            created_unix_ms: 0,
        };
        let (mut bytes, mut chunk) = (Vec::new(), Vec::new());
        let mut encoder = Encoder::new(&header, &mut bytes);
        let mut kv = Kv::new(options.slots_of_group(group));
        kv.snapshot_begin();
        while kv.snapshot_next(1 << 20, &mut chunk) {}
        encoder.chunk(&chunk, &mut bytes);
        let _ = encoder.finish(&mut bytes);
        let name = format!("{group}-{:016x}-{:016x}.snap", 5, 1);
        fs::write(to.join(&name), bytes).unwrap();
        let (header, summary) = verify(&to.join(&name)).unwrap();
        Listed::new(name, &header, &summary)
    });
    let shipment = Shipment {
        cluster: "embedded".into(),
        epoch: 0,
        members: vec![Member {
            node: 1,
            address: "127.0.0.1:1".into(),
        }],
        removed: Vec::new(),
        groups: 2,
        files: files.to_vec(),
    };
    shipment.write(to).unwrap();
}

fn ends_with(output: &Output, code: i32, words: &str) {
    let said = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(code), "{said}");
    assert!(said.contains(words), "{said}");
}

#[test]
fn a_c_program_imports_an_export_and_is_told_why_it_cannot() {
    let scratch = Scratch::new("ffi-import");
    let [from, data, file] = ["from", "data", "node.toml"].map(|it| scratch.join(it));
    export(&from);
    // Nobody answers there.
    let addresses = Addresses::reserve(4).unwrap();
    fs::write(
        &file,
        format!(
            "[node]\nid = 4\ndata_dir = \"{}\"\nany_file_system = true\n[cluster]\nid = \"embedded\"\n\
             groups = 2\n{}",
            data.display(),
            addresses.members(&[4]),
        ),
    )
    .unwrap();
    let program = compile(scratch.path());
    let members = format!("4=127.0.0.1:{}", addresses.peer(4));
    let run = |from: &Path, members: &str| {
        let mut command = Command::new("timeout");
        command.arg("60").arg(&program).arg(&file).arg(from);
        command.args([members, "4"]).output().unwrap()
    };
    ends_with(
        &run(Path::new("/nonexistent"), &members),
        6,
        "PathNotExist: path does not exist",
    );
    ends_with(&run(&from, "5=127.0.0.1:9"), 6, "InvalidMembers: ");
    assert!(!data.exists(), "nothing was touched");
    ends_with(&run(&from, &members), 0, "epoch 1 again 0");
    let placed = data.join("shard-0/snapshots/1-0000000000000005-0000000000000001.snap");
    assert!(placed.exists());
    ends_with(&run(&from, &members), 0, "epoch 1 again 1");
    fs::write(from.join("2-0000000000000005-0000000000000001.snap"), "").unwrap();
    ends_with(&run(&from, &members), 6, "IncompleteSnapshot: ");
}
