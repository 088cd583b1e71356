//! Snapshots that are taken, lost, damaged and loaded by whole nodes.

use std::path::PathBuf;
use std::time::Duration;

use wal::{GroupId, LogIndex};

use crate::cluster::{Client, Cluster};

const PATIENCE: Duration = Duration::from_secs(20);

fn groups() -> impl Iterator<Item = GroupId> {
    (0..4).map(GroupId::from_raw)
}

fn fill(client: &mut Client, round: u32) {
    for key in 0..100 {
        client.ask(&format!("SET key{key} {round}-{key}"), "+OK\r\n");
    }
}

#[track_caller]
fn expect_filled(client: &mut Client, round: u32) {
    for key in 0..100 {
        let value = format!("{round}-{key}");
        let answer = format!("${}\r\n{value}\r\n", value.len());
        client.ask(&format!("GET key{key}"), &answer);
    }
    client.ask("DBSIZE", ":100\r\n");
}

/// Values that do not compress.
fn fill_random(client: &mut Client, round: u64, bytes: usize) {
    let mut random = round;
    for key in 0..100 {
        let mut value = String::new();
        while value.len() < bytes {
            random = random
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            value.push_str(&format!("{:08x}", random >> 32));
        }
        client.ask(&format!("SET random{key} {value}"), "+OK\r\n");
    }
}

/// Of every group on every node that runs; of which entries, by group, on the first of them.
fn snapshot_all(cluster: &Cluster) -> Vec<LogIndex> {
    cluster.await_equal_states();
    let up = (1..=3).filter(|id| cluster.nodes[id - 1].is_some());
    let taken = up.map(|id| {
        let handle = cluster.node(id).handle();
        let taken = groups().map(|group| handle.take_snapshot(group, PATIENCE).unwrap());
        taken.collect()
    });
    let taken: Vec<Vec<LogIndex>> = taken.collect();
    taken[0].clone()
}

/// The files of a group's snapshots on a node with one shard, the oldest first.
fn files(cluster: &Cluster, id: usize, group: GroupId) -> Vec<PathBuf> {
    let directory = cluster.directory_of(id).join("shard-0/snapshots");
    let files = std::fs::read_dir(directory).unwrap();
    let mut files: Vec<_> = files
        .map(|file| file.unwrap().path())
        .filter(|path| {
            let name = path.file_name().unwrap().to_str().unwrap();
            name.starts_with(&format!("{group}-")) && name.ends_with(".snap")
        })
        .collect();
    files.sort();
    files
}

fn flip_a_byte(path: &PathBuf, at: usize) {
    let mut bytes = std::fs::read(path).unwrap();
    let at = at % bytes.len();
    bytes[at] ^= 0x40;
    std::fs::write(path, bytes).unwrap();
}

#[test]
fn snapshots_let_the_log_go_and_are_what_the_next_start_begins_with() {
    let mut cluster = Cluster::start("snapshots", 2, true);
    let mut client = cluster.connect(1);
    fill(&mut client, 1);
    let first = snapshot_all(&cluster);
    fill(&mut client, 2);
    let second = snapshot_all(&cluster);
    for (group, (&first, &second)) in groups().zip(first.iter().zip(&second)) {
        assert!(first < second, "group {group}: {first} and {second}");
        let (status, _) = cluster.status(1, group);
        assert_eq!(status.snapshot, second, "group {group}");
        assert_eq!(status.floor, first, "the one before stays usable");
        let again = cluster.node(1).handle().take_snapshot(group, PATIENCE);
        assert_eq!(again, Ok(status.applied), "there is nothing new");
    }
    fill(&mut client, 3);
    drop(client);
    cluster.stop_all();
    cluster.start_all();
    for (group, &second) in groups().zip(&second) {
        assert_eq!(cluster.status(1, group).0.snapshot, second, "group {group}");
    }
    expect_filled(&mut cluster.connect(2), 3);
    cluster.await_equal_states();
}

#[test]
fn a_damaged_snapshot_is_refused_and_the_one_before_is_used() {
    let mut cluster = Cluster::start("refused", 1, true);
    let mut client = cluster.connect(1);
    fill(&mut client, 1);
    let first = snapshot_all(&cluster);
    fill(&mut client, 2);
    snapshot_all(&cluster);
    drop(client);
    cluster.stop_all();
    for group in groups() {
        let files = files(&cluster, 1, group);
        assert_eq!(files.len(), 2, "{files:?}");
        flip_a_byte(&files[1], 1000 * (1 + group.to_raw() as usize));
    }
    cluster.start_all();
    for (group, &first) in groups().zip(&first) {
        let (status, _) = cluster.status(1, group);
        assert_eq!(status.snapshot, first, "group {group}");
        assert!(!status.damaged, "the log holds what follows");
    }
    cluster.await_equal_states();
    expect_filled(&mut cluster.connect(1), 2);
}

#[test]
fn a_node_that_was_away_longer_than_the_log_is_kept_gets_a_snapshot() {
    let mut cluster = Cluster::start("away", 1, true);
    let mut client = cluster.connect(1);
    fill(&mut client, 1);
    cluster.await_equal_states();
    cluster.stop(3);
    fill_random(&mut client, 1, 60_000);
    snapshot_all(&cluster);
    fill(&mut client, 2);
    let second = snapshot_all(&cluster);
    fill(&mut client, 3);
    cluster.start_node(3);
    cluster.await_equal_states();
    for (group, &second) in groups().zip(&second) {
        let (status, _) = cluster.status(3, group);
        assert!(status.snapshot >= second, "group {group}: {status:?}");
        assert_eq!(status.fetching, None);
    }
    // It is a replica like any other: what it got is on its disk.
    cluster.stop(3);
    cluster.start_node(3);
    cluster.await_equal_states();
    cluster.kill(1);
    cluster.await_leaders(3);
    let mut client = cluster.connect(3);
    client.ask("DBSIZE", ":200\r\n");
    client.ask("GET key7", "$3\r\n3-7\r\n");
}

#[test]
fn a_replica_whose_snapshots_are_lost_says_so_and_gets_a_peers() {
    let mut cluster = Cluster::start("lost", 1, true);
    let mut client = cluster.connect(1);
    fill(&mut client, 1);
    snapshot_all(&cluster);
    fill(&mut client, 2);
    snapshot_all(&cluster);
    drop(client);
    cluster.stop_all();
    let damaged = groups().next().unwrap();
    for file in files(&cluster, 2, damaged) {
        flip_a_byte(&file, 5000);
    }
    for id in [2, 1, 3] {
        cluster.start_node(id);
        if id == 2 {
            let (status, _) = cluster.status(2, damaged);
            assert!(status.damaged, "{status:?}");
            assert_eq!(status.applied, LogIndex::ZERO);
        }
    }
    cluster.await_leaders(1);
    // A peer offers its snapshot when somebody writes, or asks it.
    let mut client = cluster.connect(1);
    fill(&mut client, 3);
    cluster.await_equal_states();
    cluster.wait_until("it is not whole again", |cluster| {
        let (status, _) = cluster.status(2, damaged);
        !status.damaged
    });
    expect_filled(&mut cluster.connect(2), 3);
}
