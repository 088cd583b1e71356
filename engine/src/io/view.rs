//! What sessions are shown of the server: topology, groups, figures.

use net::resp::{
    Counters, Endpoint, EndpointId, GroupFacts, RaftFacts, RaftNode, SlotRange, Topology,
};
use wal::{GroupId, NodeId};

use crate::Time;
use crate::config::Config;
use crate::raft::Members;

use super::executor::Executor;
use super::status::role_name;

/// Which endpoint serves which slots. Endpoint `n * shards + s` is shard `s` of the `n`th node.
pub(super) fn topology(executor: &Executor) -> Topology {
    let config = &executor.config;
    let cluster = &config.cluster;
    let own = config.node();
    let mut endpoints = Vec::new();
    let nodes = executor.book.nodes();
    for node in nodes.iter() {
        for shard in 0..cluster.shards {
            let id = NodeId::from_raw(node.id);
            endpoints.push(Endpoint {
                id: EndpointId::of(u64::from(node.id), shard),
                host: node.host.clone(),
                port: node.client_port + shard,
                peer_port: node.peer_port + shard,
                connected: id == own || executor.link(id).is_some_and(|link| link.connected.get()),
            });
        }
    }
    let endpoint_of = |node: u32, shard: u16| {
        let position = nodes.iter().position(|address| address.id == node)?;
        Some(position * usize::from(cluster.shards) + usize::from(shard))
    };
    let ranges = (0..cluster.groups).map(GroupId::from_raw).map(|group| {
        let (start, end) = config.slots_of_group(group);
        let shard = config.shard_of_group(group);
        let leader = executor
            .routes
            .leader(group)
            .and_then(|node| endpoint_of(node.to_raw(), shard));
        let replicas = nodes
            .iter()
            .filter_map(|node| endpoint_of(node.id, shard))
            .filter(|&endpoint| Some(endpoint) != leader)
            .collect();
        SlotRange {
            start,
            end,
            leader,
            replicas,
        }
    });
    let ranges = ranges.collect();
    Topology {
        endpoints,
        // A node that has just left the book is about to end.
        own: endpoint_of(own.to_raw(), executor.index).unwrap_or_default(),
        ranges,
        epoch: executor.routes.epoch(),
    }
}

/// The groups of this shard.
pub(super) fn raft(executor: &Executor) -> RaftFacts {
    let config = &executor.config;
    let own = config.node();
    let statuses = executor.group_statuses();
    let votes = |node| votes(statuses.iter().map(|it| &it.members), node);
    let nodes = executor.book.nodes();
    let nodes = nodes.iter().map(|node| {
        let id = NodeId::from_raw(node.id);
        RaftNode {
            node: u64::from(node.id),
            connected: id == own || executor.link(id).is_some_and(|link| link.connected.get()),
            voting: votes(id),
            host: node.host.clone(),
            port: node.peer_port + executor.index,
        }
    });
    let nodes = nodes.collect();
    let voting = votes(own);
    let groups = statuses.into_iter().map(|status| GroupFacts {
        group: status.group.to_raw(),
        role: role_name(status.role),
        leader: status.leader.map(|node| u64::from(node.to_raw())),
        term: status.term.to_raw(),
        commit: status.commit.to_raw(),
        applied: status.applied.to_raw(),
        last: status.last.to_raw(),
        persisted: status.persisted.to_raw(),
        keys: status.keys,
        floor: status.floor.to_raw(),
        snapshot: status.snapshot.to_raw(),
        fetching: status.fetching.is_some(),
    });
    RaftFacts {
        node: u64::from(own.to_raw()),
        voting,
        nodes,
        groups: groups.collect(),
    }
}

/// Whether a node has a vote in all of these groups: who is let in, or goes, has one in some of them for a while.
fn votes<'a>(mut groups: impl Iterator<Item = &'a Members>, node: NodeId) -> bool {
    groups.all(|group| {
        let mut voters = group.voters.iter();
        voters.any(|voter| voter.to_raw() == node.to_raw())
    })
}

/// Figures that do not change.
pub(super) fn counters(config: &Config) -> Counters {
    Counters {
        version: env!("CARGO_PKG_VERSION"),
        process_id: std::process::id(),
        clients_max: config.limits.connections_max as u64,
        memory_bytes_max: config.limits.data_bytes_max,
        volatile: !config.log_durable,
        ..Counters::default()
    }
}

/// Figures that are looked up when somebody may ask for them.
pub(super) fn refresh_counters(
    executor: &Executor,
    now: Time,
    connections: usize,
    counters: &mut Counters,
) {
    counters.uptime_seconds = now.as_nanos() / 1_000_000_000;
    counters.connected_clients = connections as u64;
    counters.pending_requests = executor.open_requests() as u64;
}

#[cfg(test)]
mod tests {
    use wal::ReplicaId;

    use super::*;

    #[test]
    fn who_has_a_vote_in_every_group_votes() {
        let group = |voters: &[u32], observers: &[u32]| {
            let ids = |ids: &[u32]| ids.iter().copied().map(ReplicaId::from_raw).collect();
            Members {
                voters: ids(voters),
                observers: ids(observers),
            }
        };
        let groups = [group(&[1, 2, 4], &[]), group(&[1, 2, 3], &[4, 5])];
        let found = (1..=6).map(|node| votes(groups.iter(), NodeId::from_raw(node)));
        let expected = [true, true, false, false, false, false];
        assert!(found.eq(expected), "a vote in all groups is a vote");
    }
}
