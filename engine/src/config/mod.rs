//! Configuration: asked for ([`Options`]), then checked, and the type says which ([`Config`]).
//! What must be equal on all nodes ([`ClusterOptions`]) is apart from what concerns one process.

mod cluster;
mod memory;
mod snapshot;
mod voters;

use alloc::string::String;
use alloc::vec::Vec;
use core::net::IpAddr;
use core::ops::Deref;
use core::time::Duration;

use net::SLOTS;
use wal::{GroupId, NodeId};

pub use cluster::{ClusterOptions, NodeAddress};
pub use memory::{MemoryBound, MemoryPart};
pub use snapshot::{SnapshotOptions, SnapshotProfile};
pub use voters::VotersWarning;

use crate::shard::{Member, SnapshotPolicy};

/// How much of everything. What goes beyond is refused with an error that says so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    pub key_bytes_max: usize,
    pub value_bytes_max: usize,
    /// Arguments of one command.
    pub arguments_max: usize,
    /// One client's request.
    pub request_bytes_max: usize,
    /// One frame between two nodes.
    pub frame_bytes_max: usize,
    /// Client connections of one shard.
    pub connections_max: usize,
    /// Requests of one connection that wait for their answer; reading stops meanwhile.
    pub requests_per_connection_max: usize,
    /// Answers that one client has not read yet; it is disconnected beyond.
    pub output_bytes_max: usize,
    /// Buffers of all clients of one shard; who holds most is disconnected beyond.
    pub clients_bytes_max: usize,
    /// Requests of one group that are not committed yet; `BUSY` beyond.
    pub pending_bytes_max: usize,
    /// Their number; `BUSY` beyond.
    pub pending_requests_max: usize,
    /// Messages that wait for one peer; the oldest are dropped beyond.
    pub peer_queue_bytes_max: usize,
    /// Requests that wait to be taken by another shard; `BUSY` beyond.
    pub mailbox_bytes_max: usize,
    /// Memory that this node's data takes, roughly, beyond which writes that may add to it are refused
    /// where it leads; 0: no limit. Each shard has an equal share.
    pub data_bytes_max: u64,
}

/// What an operator may ask for: every default stated, nothing checked yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    pub cluster: ClusterOptions,
    /// Which of the cluster's nodes this process is.
    pub node_id: u32,
    pub data_dir: String,
    /// Whether the data directory may be on a file system that cannot promise durability.
    pub any_file_system: bool,
    /// Address to listen on, if not the node's host.
    pub listen: Option<IpAddr>,
    /// Cores the shards are pinned to, in turn. Empty: all there are.
    pub cores: Vec<u32>,
    /// Memory that the node touches before it serves, and keeps if its allocator keeps what it was given.
    pub memory_bytes_ready: u64,
    /// Whether it is counted how long each stage of a write takes.
    pub stages: bool,
    /// Size of a segment of the log. Space is reclaimed a whole segment at a time.
    pub segment_bytes: u64,
    /// Entries of a shard's groups that are kept in memory for followers.
    pub cache_bytes: usize,
    /// Beyond this, or earlier if snapshots are small, the groups that hold the oldest segments of a shard's
    /// log take snapshots and let all of it go that these hold. Four segments at least.
    pub log_bytes_target: u64,
    /// What a shard's log makes ready to be written when it begins, before the node serves.
    pub log_bytes_ready: u64,
    /// Whether what is written to the log counts only once it survives the loss of power.
    pub log_durable: bool,
    /// Whether entries leave the log once snapshots hold them. Otherwise the log grows until the disk is
    /// full, and what a replica got by a peer's snapshot is not in its log.
    pub delete_log_after_snapshot: bool,
    pub snapshot: SnapshotOptions,
    /// Whether a command for another shard or node is forwarded. Otherwise: `MOVED`.
    pub proxy: bool,
    /// How long a request waits for a leader to be known.
    pub route_wait: Duration,
    /// How long a write waits for its commit before its outcome is called unknown.
    pub request_timeout: Duration,
    pub limits: Limits,
}

/// Options that hold together. Having one is the proof: only [`Options::validate`] makes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config(Options);

/// Why options do not hold together, with what to change.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    #[error("cluster.id is empty: choose a name that no other cluster has")]
    ClusterId,
    #[error(
        "self id not found in servers list: {id}: add a [[cluster.nodes]] with id = {id}, or correct node.id"
    )]
    SelfNotFound { id: u32 },
    #[error("cluster.nodes is empty: list every node of the cluster, this one too")]
    NoNodes,
    #[error("duplicate server id: {id}")]
    DuplicateId { id: u32 },
    #[error(
        "duplicate server host: {endpoint} is used by node {first} ({first_use}) and node {second} ({second_use})"
    )]
    DuplicateEndpoint {
        endpoint: String,
        first: u32,
        first_use: &'static str,
        second: u32,
        second_use: &'static str,
    },
    #[error("node id 0 is reserved: number nodes from 1")]
    ReservedId,
    #[error("node {id}: host is empty")]
    Host { id: u32 },
    #[error(
        "node {id}: {name} {port} and the {shards} shards do not fit below port 65536, or it is 0"
    )]
    Port {
        id: u32,
        name: &'static str,
        port: u16,
        shards: u16,
    },
    #[error(
        "election_timeout must be >= 10 x heartbeat_interval, but is {election_timeout:?} with heartbeat_interval {heartbeat_interval:?}"
    )]
    ElectionTooEager {
        election_timeout: Duration,
        heartbeat_interval: Duration,
    },
    #[error("{name} must be between {min} and {max}, but is {found}")]
    Range {
        name: &'static str,
        min: u64,
        max: u64,
        found: u64,
    },
    #[error("log.segment_size must be a multiple of 4KiB, but is {found} bytes")]
    SegmentAlignment { found: u64 },
    #[error(
        "{large} ({large_bytes} bytes) must not be below {small} ({small_bytes} bytes): raise the former or lower the latter"
    )]
    Order {
        small: &'static str,
        small_bytes: u64,
        large: &'static str,
        large_bytes: u64,
    },
    #[error("node.data_dir is empty: name a directory on a file system with O_DIRECT")]
    DataDirectory,
}

impl ConfigError {
    /// Checks values, each with its name, the least and the most that it may be.
    fn check_ranges(ranges: &[(&'static str, u64, u64, u64)], errors: &mut Vec<Self>) {
        for &(name, min, max, found) in ranges {
            if found < min || found > max {
                errors.push(Self::Range {
                    name,
                    min,
                    max,
                    found,
                });
            }
        }
    }
}

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;

/// Bytes around the payloads in one flush, frame or request that limits on each other leave room for.
const OVERHEAD_BYTES: usize = 64 * KIB;
/// What a snapshot costs whatever its size is - its file is made, synced, and named -, as so many bytes.
const SNAPSHOT_COSTS_BYTES: u64 = MIB as u64;

impl Default for Limits {
    fn default() -> Self {
        Self {
            key_bytes_max: 64 * KIB,
            value_bytes_max: MIB,
            arguments_max: 64 * KIB,
            request_bytes_max: 4 * MIB,
            frame_bytes_max: 16 * MIB,
            connections_max: 10_000,
            requests_per_connection_max: 16 * KIB,
            output_bytes_max: 32 * MIB,
            clients_bytes_max: 512 * MIB,
            pending_bytes_max: 64 * MIB,
            // 128 pipelines of 1024, all for one group; some 200 bytes each beside what they carry.
            pending_requests_max: 128 * KIB,
            peer_queue_bytes_max: 32 * MIB,
            mailbox_bytes_max: 64 * MIB,
            data_bytes_max: 0,
        }
    }
}

impl Default for Options {
    fn default() -> Self {
        Self {
            cluster: ClusterOptions::default(),
            node_id: 0,
            data_dir: String::new(),
            any_file_system: false,
            listen: None,
            cores: Vec::new(),
            memory_bytes_ready: 0,
            stages: true,
            segment_bytes: 64 * MIB as u64,
            cache_bytes: 64 * MIB,
            log_bytes_target: 4096 * MIB as u64,
            log_bytes_ready: 0,
            log_durable: true,
            delete_log_after_snapshot: true,
            snapshot: SnapshotOptions::default(),
            proxy: false,
            route_wait: Duration::from_millis(1000),
            request_timeout: Duration::from_secs(10),
            limits: Limits::default(),
        }
    }
}

impl Options {
    /// Buffer of a client that sends and is told little.
    pub const CLIENT_BYTES_MIN: usize = 16 * KIB;

    /// Checks each value, alone and against the values it depends on.
    ///
    /// # Errors
    ///
    /// Everything that is wrong, not only the first.
    pub fn validate(self) -> Result<Config, Vec<ConfigError>> {
        let mut errors = Vec::new();
        self.cluster.check(self.node_id, &mut errors);
        self.check_sizes(&mut errors);
        if self.data_dir.is_empty() {
            errors.push(ConfigError::DataDirectory);
        }
        if errors.is_empty() {
            Ok(Config(self))
        } else {
            Err(errors)
        }
    }

    fn check_sizes(&self, errors: &mut Vec<ConfigError>) {
        let limits = &self.limits;
        let ranges: [(&'static str, u64, u64, u64); 13] = [
            (
                "limits.pending_tasks",
                1,
                16 * MIB as u64,
                limits.pending_requests_max as u64,
            ),
            ("log.size_target", 1, 1 << 50, self.log_bytes_target),
            ("log.ready_size", 0, 1 << 40, self.log_bytes_ready),
            ("node.ready_memory", 0, 1 << 40, self.memory_bytes_ready),
            (
                "log.segment_size",
                MIB as u64,
                4096 * MIB as u64,
                self.segment_bytes,
            ),
            (
                "limits.key_size",
                1,
                16 * MIB as u64,
                limits.key_bytes_max as u64,
            ),
            (
                "limits.value_size",
                1,
                512 * MIB as u64,
                limits.value_bytes_max as u64,
            ),
            (
                "limits.arguments",
                16,
                1024 * 1024,
                limits.arguments_max as u64,
            ),
            (
                "limits.frame_size",
                MIB as u64,
                1024 * MIB as u64,
                limits.frame_bytes_max as u64,
            ),
            (
                "limits.connections",
                1,
                1_000_000,
                limits.connections_max as u64,
            ),
            (
                "limits.requests_per_connection",
                1,
                1_000_000,
                limits.requests_per_connection_max as u64,
            ),
            (
                "client.request_timeout (in ms)",
                10,
                3_600_000,
                millis(self.request_timeout),
            ),
            (
                "client.route_wait (in ms)",
                0,
                3_600_000,
                millis(self.route_wait),
            ),
        ];
        ConfigError::check_ranges(&ranges, errors);
        self.snapshot.check(errors);
        if !self.segment_bytes.is_multiple_of(4096) {
            errors.push(ConfigError::SegmentAlignment {
                found: self.segment_bytes,
            });
        }
        let request = limits.request_bytes_max as u64;
        let room = request.saturating_add(OVERHEAD_BYTES as u64);
        let orders: [(&'static str, u64, &'static str, u64); 9] = [
            (
                "limits.output_size",
                limits.output_bytes_max as u64,
                "limits.clients_size",
                limits.clients_bytes_max as u64,
            ),
            (
                "16KiB for each of limits.connections",
                (limits.connections_max as u64).saturating_mul(Self::CLIENT_BYTES_MIN as u64),
                "limits.clients_size",
                limits.clients_bytes_max as u64,
            ),
            (
                "limits.value_size",
                limits.value_bytes_max as u64,
                "limits.request_size",
                request,
            ),
            (
                "limits.key_size",
                limits.key_bytes_max as u64,
                "limits.request_size",
                request,
            ),
            (
                "limits.request_size and its overhead",
                room,
                "limits.frame_size",
                limits.frame_bytes_max as u64,
            ),
            (
                // What is sent of a log at once, with a head around each entry.
                "two flushes of limits.request_size",
                2 * self.flush_bytes_max() as u64,
                "limits.frame_size",
                limits.frame_bytes_max as u64,
            ),
            (
                "limits.request_size",
                request,
                "limits.pending_size",
                limits.pending_bytes_max as u64,
            ),
            (
                "limits.request_size",
                request,
                "limits.output_size",
                limits.output_bytes_max as u64,
            ),
            (
                "limits.frame_size",
                limits.frame_bytes_max as u64,
                "limits.peer_queue_size",
                limits.peer_queue_bytes_max as u64,
            ),
        ];
        for (small, small_bytes, large, large_bytes) in orders {
            if large_bytes < small_bytes {
                errors.push(ConfigError::Order {
                    small,
                    small_bytes,
                    large,
                    large_bytes,
                });
            }
        }
        // The largest flush holds one request more than it aims for, in one segment.
        if self.segment_bytes < 4 * self.flush_bytes_max() as u64 {
            errors.push(ConfigError::Order {
                small: "four flushes of limits.request_size",
                small_bytes: 4 * self.flush_bytes_max() as u64,
                large: "log.segment_size",
                large_bytes: self.segment_bytes,
            });
        }
    }

    /// Payload of one flush beyond which the next one is used: a request always fits.
    fn flush_bytes_max(&self) -> usize {
        let quarter = usize::try_from(self.segment_bytes / 4).unwrap_or(usize::MAX);
        (self.limits.request_bytes_max + OVERHEAD_BYTES).max(quarter.min(MIB))
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

impl Config {
    /// Flushes of a shard on their way to the disk at once: two hide its latency, more only make them smaller.
    pub const FLUSHES_IN_FLIGHT_MAX: usize = 3;
    /// Payload on its way to one follower of a group.
    pub const WINDOW_BYTES_MAX: usize = 4 << 20;

    /// This node.
    pub fn node(&self) -> NodeId {
        NodeId::from_raw(self.node_id)
    }

    /// What acknowledged writes are: `durable`, or `async` if the loss of power can take them.
    pub fn durability(&self) -> &'static str {
        if self.log_durable { "durable" } else { "async" }
    }

    /// Where a node is; `None` if it is not of this cluster.
    pub fn address(&self, node: NodeId) -> Option<&NodeAddress> {
        self.cluster
            .nodes
            .iter()
            .find(|address| address.id == node.to_raw())
    }

    /// This node's own address.
    ///
    /// # Panics
    ///
    /// Never: validation found it.
    pub fn own_address(&self) -> &NodeAddress {
        self.address(self.node())
            .expect("validated: this node is in the list")
    }

    /// The group that owns a slot.
    pub fn group_of_slot(&self, slot: u16) -> GroupId {
        // The last group whose first slot, g * 16384 / n, is not beyond this one.
        let groups = self.cluster.groups;
        let above = (u32::from(slot) + 1) * groups;
        GroupId::from_raw((above - 1) / u32::from(SLOTS))
    }

    /// The slots a group owns, first and last.
    ///
    /// # Panics
    ///
    /// If there is no such group.
    pub fn slots_of_group(&self, group: GroupId) -> (u16, u16) {
        self.cluster.slots_of_group(group)
    }

    /// When a group takes snapshots, and what becomes of its log then.
    pub fn snapshot_policy(&self) -> SnapshotPolicy {
        self.snapshot.policy(!self.delete_log_after_snapshot)
    }

    /// The shard a group lives on, on every node.
    pub fn shard_of_group(&self, group: GroupId) -> u16 {
        let shard = group.to_raw() % u32::from(self.cluster.shards);
        u16::try_from(shard).expect("below the number of shards, a u16")
    }

    /// The groups of one shard, ascending.
    pub fn groups_of_shard(&self, shard: u16) -> impl Iterator<Item = GroupId> + use<> {
        let step = usize::from(self.cluster.shards);
        (u32::from(shard)..self.cluster.groups)
            .step_by(step)
            .map(GroupId::from_raw)
    }

    /// The members that groups are created with; replica ids are node ids.
    pub fn members(&self) -> Vec<Member> {
        self.cluster
            .founders()
            .iter()
            .map(|node| Member {
                replica: wal::ReplicaId::from_raw(node.id),
                node: NodeId::from_raw(node.id),
                voter: true,
            })
            .collect()
    }

    /// The node that should lead a group when all are well: leaders spread evenly.
    pub fn preferred_leader(&self, group: GroupId) -> NodeId {
        let nodes = self.cluster.founders();
        // Groups of one shard must not all prefer the same node.
        let turn = group.to_raw() / u32::from(self.cluster.shards)
            + group.to_raw() % u32::from(self.cluster.shards);
        NodeId::from_raw(nodes[turn as usize % nodes.len()].id)
    }

    /// The port on which a node serves clients of the shard that holds a group.
    pub fn client_port(&self, node: &NodeAddress, group: GroupId) -> u16 {
        node.client_port + self.shard_of_group(group)
    }

    /// Payload of one flush beyond which the next one is used.
    pub fn flush_bytes_max(&self) -> usize {
        self.0.flush_bytes_max()
    }

    /// Size of a shard's log beyond which snapshots are taken to shorten it, while the newest ones of its
    /// groups have this size. What is small is cheap to save, and a short log uses its files again before
    /// others have to be made.
    pub fn log_bytes_target(&self, groups: usize, snapshots_bytes: u64) -> u64 {
        let costs_bytes = snapshots_bytes.saturating_add(groups as u64 * SNAPSHOT_COSTS_BYTES);
        let worth = costs_bytes.saturating_mul(4);
        worth
            .max(8 * self.segment_bytes)
            .min(self.log_bytes_target)
            .max(4 * self.segment_bytes)
    }

    /// What the answer to one read may carry: between two nodes it goes in one frame, and there is room for
    /// another beside it before its client is disconnected.
    pub fn answer_bytes_max(&self) -> usize {
        let frame = self.limits.frame_bytes_max - OVERHEAD_BYTES;
        frame.min(self.limits.output_bytes_max / 2)
    }

    /// Payload of one entry beyond which a batch is sealed.
    pub fn batch_bytes_max(&self) -> usize {
        (self.0.flush_bytes_max() / 4).clamp(64 * KIB, 256 * KIB)
    }

    /// Equal on two nodes exactly if the options of their cluster are.
    pub fn fingerprint(&self) -> u64 {
        self.cluster.fingerprint()
    }
}

impl Deref for Config {
    type Target = Options;

    fn deref(&self) -> &Options {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_may_be_four_times_as_long_as_its_snapshots_within_what_is_configured() {
        let config = options().validate().unwrap();
        let mib = |bytes: u64| bytes / MIB as u64;
        assert_eq!(mib(config.log_bytes_target(6, 0)), 512, "eight segments");
        let snapshots = 200 * MIB as u64;
        assert_eq!(mib(config.log_bytes_target(6, snapshots)), 4 * 206);
        assert_eq!(mib(config.log_bytes_target(6, u64::MAX)), 4096);
        assert_eq!(mib(config.log_bytes_target(1000, 0)), 4000);
        let small = Options {
            log_bytes_target: 1,
            ..options()
        };
        let config = small.validate().unwrap();
        assert_eq!(mib(config.log_bytes_target(6, 0)), 256, "four segments");
    }

    fn options() -> Options {
        let node = |id: u32| NodeAddress {
            id,
            host: "127.0.0.1".into(),
            client_port: 6400 + 10 * u16::try_from(id).unwrap(),
            peer_port: 7400 + 10 * u16::try_from(id).unwrap(),
            admin_port: 0,
        };
        Options {
            cluster: ClusterOptions {
                id: "test".into(),
                nodes: [1, 2, 3].map(node).to_vec(),
                ..ClusterOptions::default()
            },
            node_id: 1,
            data_dir: "/data".into(),
            ..Options::default()
        }
    }

    #[test]
    fn what_does_not_hold_together_is_refused_in_words_that_help() {
        type Change = fn(&mut Options);
        let table: &[(Change, &str)] = &[
            (|o| o.node_id = 4, "self id not found in servers list: 4"),
            (|o| o.cluster.nodes[1].id = 1, "duplicate server id: 1"),
            (
                |o| o.cluster.nodes[1].client_port = 6410,
                "duplicate server host: 127.0.0.1:6410 is used by node 1 (client_port) and node 2 (client_port)",
            ),
            (
                |o| o.cluster.election_timeout = Duration::from_millis(500),
                "election_timeout must be >= 10 x heartbeat_interval, but is 500ms with heartbeat_interval 100ms",
            ),
            (|o| o.cluster.id.clear(), "cluster.id is empty"),
            (
                |o| o.cluster.shards = 0,
                "cluster.shards must be between 1 and 256, but is 0",
            ),
            (|o| o.cluster.nodes[2].peer_port = 0, "node 3: peer_port 0"),
            (
                |o| o.segment_bytes = (4 << 20) + 1,
                "log.segment_size must be a multiple of 4KiB",
            ),
            (
                |o| o.limits.frame_bytes_max = 1 << 20,
                "limits.frame_size (1048576 bytes) must not be below",
            ),
            (|o| o.data_dir.clear(), "node.data_dir is empty"),
            (
                |o| o.snapshot.keep = 0,
                "snapshot.keep must be between 1 and 100, but is 0",
            ),
            (
                |o| o.snapshot.fetch_bytes_per_second = 1000,
                "snapshot.fetch_rate (0, or more) must be between 1048576 and",
            ),
        ];
        for (change, text) in table {
            let mut options = options();
            change(&mut options);
            let errors = options.validate().unwrap_err();
            assert!(
                errors
                    .iter()
                    .any(|error| error.to_string().starts_with(text)),
                "{text}: {errors:?}"
            );
        }
    }

    #[test]
    fn all_that_is_wrong_is_reported_at_once() {
        let mut options = options();
        options.node_id = 9;
        options.cluster.groups = 0;
        options.data_dir.clear();
        assert_eq!(options.validate().unwrap_err().len(), 3);
    }

    #[test]
    fn every_slot_has_one_group_and_groups_know_their_slots() {
        for groups in [1, 2, 3, 5, 6, 7, 16, 1000, 16384] {
            let mut options = options();
            options.cluster.groups = groups;
            let config = options.validate().unwrap();
            let mut next = 0;
            for group in (0..groups).map(GroupId::from_raw) {
                let (first, last) = config.slots_of_group(group);
                assert_eq!(u32::from(first), next, "group {group} of {groups}");
                assert_eq!(config.group_of_slot(first), group, "of {groups}");
                assert_eq!(config.group_of_slot(last), group, "of {groups}");
                next = u32::from(last) + 1;
            }
            assert_eq!(next, u32::from(SLOTS));
        }
    }

    #[test]
    fn the_fingerprint_is_of_the_cluster_and_not_of_the_node() {
        let base = options().validate().unwrap().fingerprint();
        let mut other = options();
        other.node_id = 2;
        other.proxy = true;
        other.cluster.nodes.reverse();
        assert_eq!(other.clone().validate().unwrap().fingerprint(), base);
        other.cluster.groups = 7;
        assert_ne!(other.validate().unwrap().fingerprint(), base);
    }
}
