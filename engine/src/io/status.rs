//! How a node is doing, as its admin port and its embedder see it.

use std::collections::BTreeMap;
use std::fmt::Write;

use wal::{GroupId, LogIndex, NodeId, ReplicaId};

use crate::config::Config;
use crate::raft::{Members, Role};
use crate::shard::{Accounts, DiskState, DiskStatus, GroupStatus};

/// One shard.
#[derive(Clone, Debug)]
pub struct ShardStatus {
    pub shard: u16,
    /// Each group with how far it has applied its log and the hash of the state that led to.
    pub groups: Vec<(GroupStatus, (LogIndex, u64))>,
    /// The newest good snapshot of each group that has one.
    pub snapshots: BTreeMap<GroupId, NewestSnapshot>,
    /// Snapshots that are coming from peers.
    pub received: BTreeMap<GroupId, Received>,
    pub peers: Vec<PeerStatus>,
    pub connections: usize,
    /// Memory of their buffers.
    pub client_bytes: usize,
    /// Requests that have not been answered yet.
    pub requests: usize,
    pub disk: DiskStatus,
    /// What is free in the file system of the log; `None` if it does not say.
    pub free_bytes: Option<u64>,
    pub log_segments: usize,
    /// Of all segments; those that wait to be used again do not count.
    pub log_bytes: u64,
    /// What it did since the start, and how long that took.
    pub accounts: Box<Accounts>,
}

/// How far a snapshot has come from a peer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Received {
    pub bytes: u64,
    pub total_bytes: u64,
}

/// The newest snapshot of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NewestSnapshot {
    /// The last entry that it is of.
    pub index: LogIndex,
    /// Of its file.
    pub bytes: u64,
    /// When it was begun, on whichever node that was.
    pub unix_ms: u64,
}

/// The connection to one peer.
#[derive(Clone, Debug)]
pub struct PeerStatus {
    pub node: NodeId,
    pub connected: bool,
    /// Bytes that wait to be sent.
    pub queue_bytes: usize,
    /// Messages that were dropped because the queue was full or nobody was connected.
    pub dropped: u64,
}

/// The name of a role in status and metrics.
pub fn role_name(role: Role) -> &'static str {
    match role {
        Role::Follower => "follower",
        Role::PreCandidate => "pre-candidate",
        Role::Candidate => "candidate",
        Role::Leader => "leader",
    }
}

/// The name of a disk's state in status and metrics.
pub(super) fn disk_name(state: DiskState) -> &'static str {
    match state {
        DiskState::Well => "ok",
        DiskState::Slow => "disk-slow",
        DiskState::Full => "disk-full",
        DiskState::Failed => "disk-failed",
    }
}

/// The answer of `GET /v1/status`.
pub(super) fn json(config: &Config, shards: &[ShardStatus]) -> String {
    let mut text = format!(
        "{{\"cluster\":{},\"node\":{},\"durability\":\"{}\",\"shards\":{},",
        quote(&config.cluster.id),
        config.node_id,
        config.durability(),
        shards.len()
    );
    let write = &mut text;
    let groups = shards.iter().flat_map(|shard| {
        let number = shard.shard;
        shard.groups.iter().map(move |(status, hash)| {
            let newest = shard.snapshots.get(&status.group);
            let received = shard.received.get(&status.group).copied();
            group_json(number, status, *hash, newest, received.unwrap_or_default())
        })
    });
    let mut groups: Vec<(u32, String)> = groups.collect();
    groups.sort();
    let groups: Vec<String> = groups.into_iter().map(|(_, text)| text).collect();
    let peers: Vec<String> = shards
        .iter()
        .flat_map(|shard| shard.peers.iter().map(|peer| peer_json(shard.shard, peer)))
        .collect();
    let disks: Vec<String> = shards.iter().map(disk_json).collect();
    let connections: usize = shards.iter().map(|shard| shard.connections).sum();
    let requests: usize = shards.iter().map(|shard| shard.requests).sum();
    write!(
        write,
        "\"connections\":{connections},\"requests\":{requests},\"disks\":[{}],\"groups\":[{}],\
         \"peers\":[{}]}}",
        disks.join(","),
        groups.join(","),
        peers.join(","),
    )
    .expect("writing to memory succeeds");
    text
}

fn disk_json(status: &ShardStatus) -> String {
    let DiskStatus {
        state,
        pace,
        handovers,
    } = status.disk;
    let number = |number: Option<u128>| number.map_or("null".to_owned(), |n| n.to_string());
    format!(
        "{{\"shard\":{},\"state\":\"{}\",\"flush_micros\":{},\"handovers\":{handovers},\
         \"free_bytes\":{},\"log_segments\":{},\"log_bytes\":{}}}",
        status.shard,
        disk_name(state),
        number(pace.latency().map(|latency| latency.as_micros())),
        number(status.free_bytes.map(u128::from)),
        status.log_segments,
        status.log_bytes,
    )
}

fn group_json(
    shard: u16,
    status: &GroupStatus,
    hash: (LogIndex, u64),
    newest: Option<&NewestSnapshot>,
    received: Received,
) -> (u32, String) {
    let snapshot = newest.map_or_else(
        || "null".to_owned(),
        |it| {
            let (index, bytes, unix_ms) = (it.index, it.bytes, it.unix_ms);
            format!("{{\"index\":{index},\"bytes\":{bytes},\"unix_ms\":{unix_ms}}}")
        },
    );
    let fetching = status.fetching.map(|index| {
        let Received { bytes, total_bytes } = received;
        format!("{{\"index\":{index},\"bytes\":{bytes},\"total_bytes\":{total_bytes}}}")
    });
    let fetching = fetching.unwrap_or_else(|| "null".to_owned());
    let leader = status
        .leader
        .map_or_else(|| "null".to_owned(), |node| node.to_string());
    let waits_for: Vec<String> = status.waits_for.iter().map(ToString::to_string).collect();
    let matched: Vec<String> = status
        .matched
        .iter()
        .map(|(node, index)| format!("{{\"node\":{node},\"matched\":{index}}}"))
        .collect();
    let list = |replicas: &[ReplicaId]| -> String {
        let ids: Vec<String> = replicas.iter().map(ToString::to_string).collect();
        ids.join(",")
    };
    let Members { voters, observers } = &status.members;
    let (voters, observers) = (list(voters), list(observers));
    let text = format!(
        "{{\"group\":{},\"shard\":{shard},\"role\":\"{}\",\"leader\":{leader},\"term\":{},\
         \"commit\":{},\"applied\":{},\"last\":{},\"persisted\":{},\"keys\":{},\
         \"floor\":{},\"snapshot\":{snapshot},\"fetching\":{fetching},\"health\":\"{}\",\"repairs\":{},\"waits_for\":[{}],\"state_hash\":{{\"index\":{},\"hash\":\"{:016x}\"}},\"followers\":[{}],\
         \"voters\":[{voters}],\"observers\":[{observers}],\"members_since\":{}}}",
        status.group,
        role_name(status.role),
        status.term,
        status.commit,
        status.applied,
        status.last,
        status.persisted,
        status.keys,
        status.floor,
        health(status),
        status.repairs,
        waits_for.join(","),
        hash.0,
        hash.1,
        matched.join(","),
        status.members_since,
    );
    (status.group.to_raw(), text)
}

/// Whether a replica holds all that it may have acknowledged and promised.
fn health(status: &GroupStatus) -> &'static str {
    if status.lost {
        return "lost";
    }
    match (status.damaged, status.promises_lost) {
        (false, _) => "intact",
        (true, false) => "repairing",
        (true, true) => "asking-for-terms",
    }
}

fn peer_json(shard: u16, peer: &PeerStatus) -> String {
    format!(
        "{{\"shard\":{shard},\"node\":{},\"connected\":{},\"queue_bytes\":{},\"dropped\":{}}}",
        peer.node, peer.connected, peer.queue_bytes, peer.dropped,
    )
}

/// A JSON string.
pub(super) fn quote(text: &str) -> String {
    let mut quoted = String::from("\"");
    for character in text.chars() {
        match character {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            c if c < ' ' => {
                write!(quoted, "\\u{:04x}", u32::from(c)).expect("writing to memory succeeds");
            }
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_becomes_a_json_string_whatever_is_in_it() {
        assert_eq!(quote("a\"b\\c\n\u{e4}"), "\"a\\\"b\\\\c\\u000a\u{e4}\"");
    }
}
