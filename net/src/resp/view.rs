//! What a session must know about its server to answer without it: filled by the node, borrowed by
//! every [`super::Session::handle`].

use alloc::string::String;
use alloc::vec::Vec;

use crate::{ErrorReply, Slot};

/// Name of an endpoint among Redis Cluster clients: 40 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EndpointId([u8; 40]);

impl EndpointId {
    /// The name of one shard of one node: the same wherever and whenever it is computed.
    pub fn of(node: u64, shard: u16) -> Self {
        let mut digits = [0u8; 40];
        for (block, digits) in digits.chunks_mut(8).enumerate() {
            let mut mixed = scramble(node ^ scramble(u64::from(shard) << 8 | block as u64));
            for digit in digits {
                *digit = b"0123456789abcdef"[(mixed & 15) as usize];
                mixed >>= 4;
            }
        }
        Self(digits)
    }

    /// The digits.
    pub fn as_str(&self) -> &str {
        str::from_utf8(&self.0).expect("hexadecimal digits are ASCII")
    }
}

impl core::fmt::Debug for EndpointId {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The finalizer of SplitMix64 (Steele, Lea, Flood 2014): every input bit reaches every output bit.
fn scramble(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

/// The client port of one shard of one node: what Redis Cluster clients call a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    pub id: EndpointId,
    /// An IP address that clients can reach. Never empty.
    pub host: String,
    pub port: u16,
    pub peer_port: u16,
    /// Whether this node hears from it; true for its own.
    pub connected: bool,
}

/// The slots of one group and the endpoints that hold it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlotRange {
    pub start: u16,
    /// The last slot.
    pub end: u16,
    /// Index in [`Topology::endpoints`]; `None` while nobody leads.
    pub leader: Option<usize>,
    /// The other members.
    pub replicas: Vec<usize>,
}

/// Who serves what.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Topology {
    /// All endpoints of the cluster.
    pub endpoints: Vec<Endpoint>,
    /// Index of the endpoint the client is connected to.
    pub own: usize,
    /// Ascending, without overlap, one for each group.
    pub ranges: Vec<SlotRange>,
    /// Grows whenever a leader changes; the sum of the groups' terms will do.
    pub epoch: u64,
}

impl Topology {
    /// The range that holds a slot.
    pub fn range_of(&self, slot: Slot) -> Option<&SlotRange> {
        let at = self
            .ranges
            .partition_point(|range| range.end < slot.number());
        self.ranges
            .get(at)
            .filter(|range| range.start <= slot.number())
    }

    /// Where a client should take a request for `slot`: an error reply to that effect.
    pub fn redirect(&self, slot: Slot) -> ErrorReply {
        let Some(range) = self.range_of(slot) else {
            return ErrorReply::SlotNotServed;
        };
        match range.leader {
            Some(leader) => self.moved(slot, leader),
            None => ErrorReply::NoLeader,
        }
    }

    /// Sends a client to an endpoint.
    pub fn moved(&self, slot: Slot, endpoint: usize) -> ErrorReply {
        let Endpoint { host, port, .. } = &self.endpoints[endpoint];
        ErrorReply::Moved {
            slot: slot.number(),
            host: host.clone(),
            port: *port,
        }
    }
}

/// Figures for `INFO`, of this node or of this shard: as exact as the node keeps them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    pub version: &'static str,
    pub process_id: u32,
    pub uptime_seconds: u64,
    pub connected_clients: u64,
    pub clients_max: u64,
    pub connections_received: u64,
    pub connections_rejected: u64,
    pub commands_processed: u64,
    pub bytes_in: u64,
    pub bytes_out: u64,
    pub keyspace_hits: u64,
    pub keyspace_misses: u64,
    pub expired_keys: u64,
    pub used_memory_bytes: u64,
    /// 0: no limit.
    pub memory_bytes_max: u64,
    /// Whether writes are acknowledged that the loss of power may take.
    pub volatile: bool,
    pub cpu_system_micros: u64,
    pub cpu_user_micros: u64,
    /// Requests waiting for their commit.
    pub pending_requests: u64,
    pub pending_bytes: u64,
}

/// A member of the cluster as `INFO raft` shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RaftNode {
    pub node: u64,
    pub connected: bool,
    pub voting: bool,
    pub host: String,
    pub port: u16,
}

/// One group as seen from here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GroupFacts {
    pub group: u32,
    /// `leader`, `follower`, `candidate`.
    pub role: &'static str,
    pub leader: Option<u64>,
    pub term: u64,
    pub commit: u64,
    pub applied: u64,
    pub last: u64,
    pub persisted: u64,
    pub keys: u64,
    /// The log starts behind this.
    pub floor: u64,
    /// The last entry of the newest snapshot; zero without one.
    pub snapshot: u64,
    /// A peer's snapshot is on its way.
    pub fetching: bool,
}

/// What `INFO raft` shows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RaftFacts {
    pub node: u64,
    pub voting: bool,
    pub nodes: Vec<RaftNode>,
    /// The groups of this shard.
    pub groups: Vec<GroupFacts>,
}

/// Everything a session may look at while it handles a command. Cheap to make: nothing is copied.
#[derive(Clone, Copy, Debug)]
pub struct ServerView<'a> {
    /// Whether clients are told of slots. Otherwise the node forwards, and keys of one command need
    /// only share a group.
    pub cluster: bool,
    /// Clients must say it before anything else.
    pub password: Option<&'a [u8]>,
    pub topology: &'a Topology,
    pub counters: &'a Counters,
    pub raft: &'a RaftFacts,
    /// Unix time in microseconds.
    pub unix_micros: u64,
}
