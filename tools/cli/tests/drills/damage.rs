//! Every file that a node keeps, damaged while it is stopped: it serves what the others have, or says what is
//! wrong and what to do.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Instant;

use crate::cluster::{Cluster, PATIENCE, PAUSE};

/// What happens to a file.
#[derive(Clone, Copy, Debug)]
enum Harm {
    /// A bit turns over, at so many hundredths of what was written.
    Flip(usize),
    /// The file ends there.
    Cut(usize),
    Delete,
}

const HARMS: [Harm; 6] = [
    Harm::Flip(0),
    Harm::Flip(40),
    Harm::Flip(99),
    Harm::Cut(50),
    Harm::Cut(0),
    Harm::Delete,
];
/// How a configuration is damaged: it has no checksum, so another value that is valid is another order.
const HARMS_OF_ORDERS: [Harm; 3] = [Harm::Cut(50), Harm::Cut(0), Harm::Delete];

/// A file before something happened to it.
struct Whole {
    path: PathBuf,
    bytes: Vec<u8>,
    away: PathBuf,
}

impl Whole {
    /// `away` is a place on the same disk.
    fn harm(path: &Path, harm: Harm, away: &Path) -> Self {
        let bytes = fs::read(path).unwrap();
        let used = bytes.iter().rposition(|&byte| byte != 0).unwrap_or(0);
        let place = |hundredths| used * hundredths / 100;
        match harm {
            Harm::Flip(at) if bytes.is_empty() => assert!(at < 100),
            Harm::Flip(at) => {
                let mut damaged = bytes.clone();
                damaged[place(at)] ^= 0x10;
                fs::write(path, damaged).unwrap();
            }
            Harm::Cut(at) => fs::write(path, &bytes[..place(at)]).unwrap(),
            // The file itself may come back, as it was.
            Harm::Delete => fs::rename(path, away).unwrap(),
        }
        Self {
            path: path.to_owned(),
            bytes,
            away: away.to_owned(),
        }
    }

    fn restore(self) {
        if self.away.exists() {
            fs::rename(self.away, &self.path).unwrap();
        } else {
            fs::write(&self.path, self.bytes).unwrap();
        }
    }
}

/// Files of one kind in a node's data, the oldest first.
fn files(cluster: &Cluster, folder: &str, is_it: impl Fn(&str) -> bool) -> Vec<PathBuf> {
    let entries = fs::read_dir(cluster.data(3).join(folder)).unwrap();
    let paths = entries.map(|entry| entry.unwrap().path());
    let named = |path: &PathBuf| is_it(path.file_name().unwrap().to_str().unwrap());
    let mut paths: Vec<PathBuf> = paths.filter(|path| path.is_file() && named(path)).collect();
    paths.sort();
    paths
}

fn segments(cluster: &Cluster) -> Vec<PathBuf> {
    files(cluster, "shard-0", |name| name.ends_with(".seg"))
}

fn snapshots(cluster: &Cluster, group: u32) -> Vec<PathBuf> {
    let group = format!("{group}-");
    files(cluster, "shard-0/snapshots", |name| {
        name.starts_with(&group)
    })
}

/// Three nodes with some segments and snapshots each, of which the third is not running.
fn filled() -> Cluster {
    let mut cluster = Cluster::new(
        "delete_after_snapshot = false\n[limits]\nvalue_size = \"64KB\"\nrequest_size = \"256KB\"",
    );
    for node in 1..=3 {
        cluster.configure(node, &[1, 2, 3]);
        let config = cluster.config(node);
        let text = fs::read_to_string(&config).unwrap();
        fs::write(&config, text.replace("\"20MB\"", "\"2MB\"")).unwrap();
        cluster.run(node);
    }
    cluster.await_leaders(&[1, 2, 3]);
    let endpoint = cluster.admin(3);
    let create = ["snapshot", "create", "--endpoint", &endpoint];
    for round in 0..2 {
        big(&cluster, &round.to_string());
        cluster.await_equal(3, 1);
        cluster.says(&create, 0, "SNAPSHOT");
    }
    cluster.write(1, "key", 20);
    cluster.await_equal(3, 1);
    cluster.kill(3);
    cluster
}

/// More than a segment holds.
fn big(cluster: &Cluster, name: &str) {
    let value = "v".repeat(50_000);
    for key in 0..60 {
        cluster.set(1, &format!("big{key} {name}"), &value);
    }
}

/// Starts the third node and waits until it has what the others have (`None`), or has ended: with this code
/// and these words.
fn outcome(cluster: &mut Cluster) -> Option<(i32, String)> {
    cluster.run(3);
    let states = |cluster: &Cluster, node| -> Vec<_> {
        let groups = cluster.groups(node).into_iter();
        groups.map(|it| it["state_hash"].clone()).collect()
    };
    let start = Instant::now();
    loop {
        let groups = cluster.groups(3);
        let is_whole = !groups.is_empty() && groups.iter().all(|it| it["health"] == "intact");
        if is_whole && states(cluster, 3) == states(cluster, 1) {
            return None;
        }
        if let Some(code) = cluster.exited(3) {
            let log = cluster.log(3);
            return Some((code, log.lines().last().unwrap_or_default().to_owned()));
        }
        assert!(
            start.elapsed() < PATIENCE,
            "{groups:#?}\n{}",
            cluster.log(3)
        );
        thread::sleep(PAUSE);
    }
}

/// What a damaged file may lead to.
struct Expected {
    /// It may be repaired, or not matter.
    serves: bool,
    /// How the node may end, and what it must say then.
    ends: &'static [(i32, &'static str)],
}

const REPAIRED: Expected = Expected {
    serves: true,
    ends: &[],
};
const REFUSED: Expected = Expected {
    serves: false,
    ends: &[(65, "drakkar repair rejoin")],
};

/// Damages a file in every way, one after the other; `find` gives it, as what is there may have changed.
fn try_all(
    cluster: &mut Cluster,
    what: &str,
    harms: &[Harm],
    expected: &Expected,
    find: impl Fn(&Cluster) -> PathBuf,
) {
    let away = cluster.directory().join("away");
    for &harm in harms {
        let path = find(cluster);
        let whole = Whole::harm(&path, harm, &away);
        let outcome = outcome(cluster);
        println!(
            "    {what}, {harm:?}: {}",
            match &outcome {
                None => "serves what the others have".to_owned(),
                Some((code, _)) => format!("ends with {code}"),
            }
        );
        match outcome {
            None => {
                assert!(expected.serves, "{what} {harm:?}: it serves all the same");
                cluster.kill(3);
                // What comes back when a node has gone on without it is for another test.
                drop(fs::remove_file(&away));
            }
            Some((code, words)) => {
                cluster.end(3);
                let mut ends = expected.ends.iter();
                let is_one = ends.any(|(of, words_of)| *of == code && words.contains(words_of));
                assert!(is_one, "{what} {harm:?} ends with {code}: {words}");
                whole.restore();
            }
        }
    }
    let after = outcome(cluster);
    assert!(after.is_none(), "{what}: it is whole, and ends: {after:?}");
    cluster.kill(3);
}

#[test]
fn each_file_of_a_node_may_be_damaged_and_it_is_repaired_or_says_what_to_do() {
    let mut cluster = filled();
    let cluster = &mut cluster;
    let data = cluster.data(3);
    let in_data = |name: &str| {
        let path = data.join(name);
        move |_: &Cluster| path.clone()
    };
    try_all(cluster, "identity", &HARMS, &REFUSED, in_data("identity"));
    try_all(
        cluster,
        "membership",
        &HARMS,
        &REFUSED,
        in_data("membership"),
    );
    let lock = Expected {
        serves: true,
        // It is what a copy is known by.
        ends: &[(78, "drakkar repair moved")],
    };
    try_all(cluster, "lock", &HARMS, &lock, in_data("lock"));
    let config = Expected {
        serves: false,
        ends: &[(66, "cannot read"), (78, "n3.toml")],
    };
    let find = |cluster: &Cluster| cluster.config(3);
    try_all(cluster, "configuration", &HARMS_OF_ORDERS, &config, find);
    for (what, place) in [("oldest", 0), ("middle", 50), ("newest", 100)] {
        let what = format!("{what} segment");
        big(cluster, &what);
        try_all(cluster, &what, &HARMS, &REPAIRED, |cluster| {
            let mut segments = segments(cluster);
            // What a peer's snapshot replaced is not kept.
            assert!(!segments.is_empty(), "there is a log");
            segments.remove((segments.len() - 1) * place / 100)
        });
    }
    for group in 0..2 {
        for (what, is_newest) in [("older", false), ("newest", true)] {
            let what = format!("{what} snapshot");
            try_all(cluster, &what, &HARMS, &REPAIRED, |cluster| {
                let found = snapshots(cluster, group);
                let path = if is_newest {
                    found.last()
                } else {
                    found.first()
                };
                path.unwrap_or_else(|| panic!("{what} of {group}: none"))
                    .clone()
            });
        }
    }
}

#[test]
fn what_was_left_behind_or_strayed_into_a_nodes_directory_is_in_nobodys_way() {
    let mut cluster = Cluster::start("");
    cluster.write(1, "key", 20);
    cluster.await_equal(3, 1);
    let endpoint = cluster.admin(3);
    let create = ["snapshot", "create", "--endpoint", &endpoint];
    cluster.says(&create, 0, "SNAPSHOT");
    cluster.kill(3);
    let data = cluster.data(3);
    // Newer than all that is to come, by its name.
    let stray = data.join("shard-0/snapshots/0-00000000ffffffff-0000000000000009.snap");
    for name in [
        "identity.new",
        "membership.new",
        "shard-0/00000099.part",
        "shard-0/snapshots/0-00000000fffffffe-0000000000000009.part",
        "notes.txt",
    ] {
        fs::write(data.join(name), [7; 8192]).unwrap();
    }
    fs::write(&stray, [7; 8192]).unwrap();
    let verify = ["inspect", "verify", data.to_str().unwrap()];
    let told = cluster.says(&verify, 65, "move it away while the node is stopped");
    assert!(told.contains(stray.to_str().unwrap()), "{told}");

    let refused = outcome(&mut cluster);
    assert!(refused.is_none(), "{refused:?}");
    let log = fs::read_to_string(cluster.directory().join("n3.log")).unwrap();
    assert!(log.contains("snapshot.refused"), "{log}");
    cluster.write(1, "key", 20);
    cluster.await_equal(3, 1);
    cluster.says(&create, 0, "SNAPSHOT");
    assert!(!stray.exists(), "it is removed with the next snapshot");
    cluster.end(3);
    cluster.says(&verify, 0, "sound");
}
