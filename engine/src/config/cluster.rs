//! What must be equal on all nodes of a cluster, and how it is compared.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::time::Duration;

use net::SLOTS;
use wal::GroupId;

use super::{ConfigError, millis};

/// One node as its peers and clients reach it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeAddress {
    pub id: u32,
    /// Name or address that peers and clients connect to.
    pub host: String,
    /// Shard `s` serves clients on `client_port + s`.
    pub client_port: u16,
    /// Shard `s` talks to its peers on `peer_port + s`.
    pub peer_port: u16,
    /// HTTP: status and health. Zero: off.
    pub admin_port: u16,
}

impl NodeAddress {
    /// In one line, as entries of a log and data directories keep it.
    pub fn text(&self) -> String {
        let Self {
            host,
            client_port,
            peer_port,
            admin_port,
            ..
        } = self;
        format!("{host} {client_port} {peer_port} {admin_port}")
    }

    /// Reads what [`NodeAddress::text`] wrote.
    pub fn parse(id: u32, text: &str) -> Option<Self> {
        let mut parts = text.split(' ');
        let host = parts.next().filter(|host| !host.is_empty())?;
        let mut port = || parts.next()?.parse::<u16>().ok();
        let address = Self {
            id,
            host: host.to_string(),
            client_port: port().filter(|&port| port > 0)?,
            peer_port: port().filter(|&port| port > 0)?,
            admin_port: port()?,
        };
        parts.next().is_none().then_some(address)
    }
}

/// What must be equal on all nodes of a cluster: compared by [`Config::fingerprint`] whenever two
/// nodes meet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterOptions {
    /// Tells clusters apart that could reach each other by mistake.
    pub id: String,
    pub nodes: Vec<NodeAddress>,
    /// With whom the groups were created, if members have come and gone since; else all nodes. Never read from
    /// a file: the data directory knows.
    pub founders: Vec<NodeAddress>,
    /// Threads of each node. Group `g` lives on shard `g % shards` of every node.
    pub shards: u16,
    /// Raft groups; group `g` of `n` owns slots `g * 16384 / n` up to the next group's first.
    pub groups: u32,
    /// Silence after which a follower stands for election; the wait is drawn from 1-2 times this.
    pub election_timeout: Duration,
    /// How often a leader speaks when it has nothing to say.
    pub heartbeat_interval: Duration,
}

impl Default for ClusterOptions {
    fn default() -> Self {
        Self {
            id: String::new(),
            nodes: Vec::new(),
            founders: Vec::new(),
            shards: 1,
            groups: 6,
            election_timeout: Duration::from_millis(1000),
            heartbeat_interval: Duration::from_millis(100),
        }
    }
}

impl ClusterOptions {
    /// The slots a group owns, first and last.
    ///
    /// # Panics
    ///
    /// If there is no such group.
    pub fn slots_of_group(&self, group: GroupId) -> (u16, u16) {
        let (g, n) = (group.to_raw(), self.groups);
        assert!(g < n, "group {g} of {n}");
        let first = |g: u32| g * u32::from(SLOTS) / n;
        let slot = |raw: u32| u16::try_from(raw).expect("slots are below 16384");
        (slot(first(g)), slot(first(g + 1) - 1))
    }

    pub(super) fn check(&self, node_id: u32, errors: &mut Vec<ConfigError>) {
        if self.id.is_empty() {
            errors.push(ConfigError::ClusterId);
        }
        let ranges = [
            ("cluster.shards", 1, 256, u64::from(self.shards)),
            (
                "cluster.groups",
                1,
                u64::from(SLOTS),
                u64::from(self.groups),
            ),
            (
                "cluster.heartbeat_interval (in ms)",
                1,
                60_000,
                millis(self.heartbeat_interval),
            ),
        ];
        ConfigError::check_ranges(&ranges, errors);
        if self.election_timeout < self.heartbeat_interval * 10 {
            errors.push(ConfigError::ElectionTooEager {
                election_timeout: self.election_timeout,
                heartbeat_interval: self.heartbeat_interval,
            });
        }
        if self.nodes.is_empty() {
            errors.push(ConfigError::NoNodes);
        } else if !self.nodes.iter().any(|node| node.id == node_id) {
            errors.push(ConfigError::SelfNotFound { id: node_id });
        }
        self.check_nodes(errors);
    }

    fn check_nodes(&self, errors: &mut Vec<ConfigError>) {
        let mut endpoints: Vec<(String, u16, u32, &'static str)> = Vec::new();
        for (at, node) in self.nodes.iter().enumerate() {
            let id = node.id;
            if id == 0 {
                errors.push(ConfigError::ReservedId);
            }
            if self.nodes[..at].iter().any(|other| other.id == id) {
                errors.push(ConfigError::DuplicateId { id });
            }
            if node.host.is_empty() {
                errors.push(ConfigError::Host { id });
            }
            let ports = [
                ("client_port", node.client_port, self.shards),
                ("peer_port", node.peer_port, self.shards),
                (
                    "admin_port",
                    node.admin_port,
                    u16::from(node.admin_port != 0),
                ),
            ];
            for (name, port, count) in ports {
                let shards = self.shards;
                let optional = name == "admin_port";
                if (port == 0 && !optional) || port.checked_add(count.saturating_sub(1)).is_none() {
                    errors.push(ConfigError::Port {
                        id,
                        name,
                        port,
                        shards,
                    });
                    continue;
                }
                for port in port..=port.saturating_add(count.saturating_sub(1)) {
                    if port != 0 {
                        endpoints.push((node.host.clone(), port, id, name));
                    }
                }
            }
        }
        // Endpoints sort by address; the sort is stable, so nodes stay in their order.
        endpoints.sort_by(|a, b| (&a.0, a.1).cmp(&(&b.0, b.1)));
        for pair in endpoints.windows(2) {
            let [
                (host, port, first, first_use),
                (other, same, second, second_use),
            ] = pair
            else {
                continue;
            };
            if host == other && port == same {
                errors.push(ConfigError::DuplicateEndpoint {
                    endpoint: format!("{host}:{port}"),
                    first: *first,
                    first_use,
                    second: *second,
                    second_use,
                });
            }
        }
    }

    /// Equal on two nodes exactly if the options of their cluster are (FNV-1a over their text).
    /// With whom the groups were created.
    pub fn founders(&self) -> &[NodeAddress] {
        if self.founders.is_empty() {
            &self.nodes
        } else {
            &self.founders
        }
    }

    pub(super) fn fingerprint(&self) -> u64 {
        let mut hash = Fnv::new();
        hash.add(&self.id);
        for number in [
            u64::from(self.shards),
            u64::from(self.groups),
            millis(self.election_timeout),
            millis(self.heartbeat_interval),
        ] {
            hash.add(&number.to_string());
        }
        let mut nodes: Vec<&NodeAddress> = self.founders().iter().collect();
        nodes.sort_by_key(|node| node.id);
        for node in nodes {
            hash.add(&node.host);
            hash.add(&format!(
                "{} {} {}",
                node.id, node.client_port, node.peer_port
            ));
        }
        hash.0
    }
}

struct Fnv(u64);

impl Fnv {
    fn new() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }

    fn add(&mut self, text: &str) {
        // A byte that is in no text ends each, so that texts do not run together.
        for byte in text.bytes().chain([0xff]) {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }
}
