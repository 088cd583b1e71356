//! `GET /metrics`: what a node knows of itself, for Prometheus.

use std::time::Duration;

use wal::NodeId;

use crate::Time;
use crate::config::Config;
use crate::shard::{DiskState, GroupStatus, Stage};

use super::exposition::{Exposition, Kind};
use super::status::{NewestSnapshot, PeerStatus, ShardStatus, disk_name};

/// Nanoseconds of a second.
const SECOND: f64 = 1e9;
/// Stages take from a microsecond to 17 seconds.
const STAGE_POWERS: std::ops::Range<u32> = 10..35;
/// Batches have from one to a million commands.
const COMMAND_POWERS: std::ops::Range<u32> = 1..21;
/// Appends have from one entry to some thousands, and from few bytes to 64 MiB.
const ENTRY_POWERS: std::ops::Range<u32> = 1..14;
const BYTE_POWERS: std::ops::Range<u32> = 6..27;

/// A metric of something: its name, what it is, what it means, and its value.
type Metric<T> = (&'static str, Kind, &'static str, fn(&T) -> Option<f64>);

/// All that there is to know, in the text format 0.0.4.
pub(super) fn text(config: &Config, now: Time, shards: &[ShardStatus]) -> String {
    let mut text = Exposition::default();
    node(&mut text, config, now, shards);
    groups(&mut text, shards);
    reachable(&mut text, config.node(), shards);
    followers(&mut text, shards);
    shard_metrics(&mut text, shards);
    peers(&mut text, shards);
    costs(&mut text, shards);
    limits(&mut text, config);
    text.finish()
}

fn node(text: &mut Exposition, config: &Config, now: Time, shards: &[ShardStatus]) {
    let (version, node) = (env!("CARGO_PKG_VERSION"), config.node_id.to_string());
    let labels = [
        ("version", version),
        ("cluster", config.cluster.id.as_str()),
        ("node", &node),
    ];
    text.family(
        "drakkar_build_info",
        Kind::Gauge,
        "Always 1; what runs, and as which node.",
    );
    text.sample(&labels, 1.0);
    text.family(
        "drakkar_uptime_seconds",
        Kind::Gauge,
        "Time since the node started.",
    );
    text.sample(&[], now.as_nanos() as f64 / SECOND);
    text.family(
        "drakkar_shards",
        Kind::Gauge,
        "Shards that the node should have.",
    );
    text.sample(&[], f64::from(config.cluster.shards));
    text.family(
        "drakkar_shards_answering",
        Kind::Gauge,
        "Shards that answered within a second.",
    );
    text.sample(&[], shards.len() as f64);
    text.family(
        "drakkar_log_durable",
        Kind::Gauge,
        "Whether a write counts only once it survives the loss of power; log.durable.",
    );
    text.sample(&[], flag(config.log_durable));
    text.family(
        "drakkar_storage_total_bytes",
        Kind::Gauge,
        "The size of the file system that the data directory is in.",
    );
    if let Ok(stat) = rustix::fs::statvfs(&config.data_dir) {
        let bytes = stat.f_blocks.saturating_mul(stat.f_frsize);
        for shard in shards {
            let number = shard.shard.to_string();
            text.sample(&[("shard", &number)], bytes as f64);
        }
    }
    if let Some(bytes) = resident_bytes() {
        text.family(
            "process_resident_memory_bytes",
            Kind::Gauge,
            "Memory that the process has, without what is swapped out.",
        );
        text.sample(&[], bytes as f64);
    }
}

/// As the kernel counts it; `None` if it does not say.
fn resident_bytes() -> Option<u64> {
    let statm = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = statm.split(' ').nth(1)?.parse().ok()?;
    Some(pages * rustix::param::page_size() as u64)
}

#[rustfmt::skip]
const GROUPS: &[Metric<GroupStatus>] = &[
    ("drakkar_raft_has_leader", Kind::Gauge, "Whether a leader of the group is known here.",
        |it| Some(flag(it.leader.is_some()))),
    ("drakkar_raft_is_leader", Kind::Gauge, "Whether this node leads the group.",
        |it| Some(flag(it.role == crate::raft::Role::Leader))),
    ("drakkar_raft_term", Kind::Gauge, "The group's term.", |it| Some(it.term.to_raw() as f64)),
    ("drakkar_raft_commit_index", Kind::Gauge, "Newest entry that is known to be committed.",
        |it| Some(it.commit.to_raw() as f64)),
    ("drakkar_raft_applied_index", Kind::Gauge, "Newest entry that was applied.",
        |it| Some(it.applied.to_raw() as f64)),
    ("drakkar_raft_last_index", Kind::Gauge, "Newest entry of the log.",
        |it| Some(it.last.to_raw() as f64)),
    ("drakkar_raft_persisted_index", Kind::Gauge, "Newest entry that is durable here.",
        |it| Some(it.persisted.to_raw() as f64)),
    ("drakkar_raft_floor_index", Kind::Gauge, "The log begins behind this entry.",
        |it| Some(it.floor.to_raw() as f64)),
    ("drakkar_raft_leader_changes_total", Kind::Counter,
        "Times that a leader of the group was found here, the one before or another.",
        |it| Some(it.leader_changes as f64)),
    ("drakkar_raft_campaigns_total", Kind::Counter,
        "Times that this node stood for election, or asked whether it should, because it heard no leader.",
        |it| Some(it.campaigns as f64)),
    ("drakkar_raft_voters", Kind::Gauge, "Members of the group that have a vote.",
        |it| Some(it.members.voters.len() as f64)),
    ("drakkar_raft_observers", Kind::Gauge, "Members of the group that hold data and have no vote.",
        |it| Some(it.members.observers.len() as f64)),
    ("drakkar_raft_truncations_total", Kind::Counter,
        "Times that uncommitted entries were dropped here because a leader's conflicted.",
        |it| Some(it.truncations as f64)),
    ("drakkar_raft_repairs_total", Kind::Counter,
        "Times that the replica got back what its disk had lost.",
        |it| Some(it.repairs as f64)),
    ("drakkar_keys", Kind::Gauge, "Keys of the group.", |it| Some(it.keys as f64)),
    ("drakkar_data_bytes", Kind::Gauge, "Memory that the group's data takes, roughly.",
        |it| Some(it.data_bytes as f64)),
    ("drakkar_pending_tasks", Kind::Gauge,
        "Requests that wait for their commit, a round of heartbeats or a leader; limits.pending_tasks may.",
        |it| Some(it.pending_requests as f64)),
    ("drakkar_pending_bytes", Kind::Gauge, "Their bytes; limits.pending_size may be.",
        |it| Some(it.pending_bytes as f64)),
    ("drakkar_replica_damaged", Kind::Gauge,
        "Whether the disk lost something of this replica, which is being repaired from its peers.",
        |it| Some(flag(it.damaged))),
    ("drakkar_replica_promises_lost", Kind::Gauge,
        "Whether this replica may have forgotten a vote, and says nothing until it knows which.",
        |it| Some(flag(it.promises_lost))),
    ("drakkar_snapshot_index", Kind::Gauge, "The last entry of the newest snapshot; 0 without one.",
        |it| Some(it.snapshot.to_raw() as f64)),
];

#[rustfmt::skip]
const SNAPSHOTS: &[Metric<NewestSnapshot>] = &[
    ("drakkar_snapshot_bytes", Kind::Gauge, "Size of the newest snapshot's file.",
        |it| Some(it.bytes as f64)),
    ("drakkar_snapshot_last_success_timestamp_seconds", Kind::Gauge,
        "Unix time at which the newest snapshot was begun.",
        |it| Some(it.unix_ms as f64 / 1000.0)),
];

fn groups(text: &mut Exposition, shards: &[ShardStatus]) {
    for (name, kind, help, value) in GROUPS {
        text.family(name, *kind, help);
        for shard in shards {
            for (status, _) in &shard.groups {
                group_sample(text, shard, status.group, value(status));
            }
        }
    }
    for (name, kind, help, value) in SNAPSHOTS {
        text.family(name, *kind, help);
        for shard in shards {
            for (&group, newest) in &shard.snapshots {
                group_sample(text, shard, group, value(newest));
            }
        }
    }
    text.family(
        "drakkar_snapshot_receive_bytes",
        Kind::Gauge,
        "What has come of a snapshot that is on its way here.",
    );
    for shard in shards {
        for (&group, received) in &shard.received {
            group_sample(text, shard, group, Some(received.bytes as f64));
        }
    }
}

fn group_sample(
    text: &mut Exposition,
    shard: &ShardStatus,
    group: wal::GroupId,
    value: Option<f64>,
) {
    let (group, shard) = (group.to_string(), shard.shard.to_string());
    if let Some(value) = value {
        text.sample(&[("group", &group), ("shard", &shard)], value);
    }
}

fn reachable(text: &mut Exposition, own: NodeId, shards: &[ShardStatus]) {
    text.family(
        "drakkar_raft_reachable_voters",
        Kind::Gauge,
        "Voters of the group that are connected to this node, itself counted if it has a vote.",
    );
    for shard in shards {
        let connected = |node| {
            let is_peer = |peer: &PeerStatus| peer.node == node && peer.connected;
            node == own || shard.peers.iter().any(is_peer)
        };
        for (status, _) in &shard.groups {
            let voters = status.members.voters.iter();
            let reachable = voters.filter(|voter| connected(NodeId::from_raw(voter.to_raw())));
            group_sample(text, shard, status.group, Some(reachable.count() as f64));
        }
    }
}

fn followers(text: &mut Exposition, shards: &[ShardStatus]) {
    text.family(
        "drakkar_raft_follower_lag_entries",
        Kind::Gauge,
        "Entries that a follower is not known to have, on the leader.",
    );
    for shard in shards {
        for (status, _) in &shard.groups {
            for (peer, matched) in &status.matched {
                let lag = status.last.to_raw().saturating_sub(matched.to_raw());
                let (group, peer) = (status.group.to_string(), peer.to_string());
                let number = shard.shard.to_string();
                let labels = [
                    ("group", group.as_str()),
                    ("peer", &peer),
                    ("shard", &number),
                ];
                text.sample(&labels, lag as f64);
            }
        }
    }
}

#[rustfmt::skip]
const SHARDS: &[Metric<ShardStatus>] = &[
    ("drakkar_client_connections", Kind::Gauge, "Connections of clients; limits.connections may be.",
        |it| Some(it.connections as f64)),
    ("drakkar_client_bytes", Kind::Gauge, "Memory of their buffers; limits.clients_size may be.",
        |it| Some(it.client_bytes as f64)),
    ("drakkar_requests_open", Kind::Gauge, "Requests that have not been answered yet.",
        |it| Some(it.requests as f64)),
    ("drakkar_busy_total", Kind::Counter, "Requests that were answered BUSY: too many waited.",
        |it| Some(it.accounts.busy as f64)),
    ("drakkar_disk_flush_seconds", Kind::Gauge, "How long a durable write takes lately, in the middle.",
        |it| it.disk.pace.latency().map(|it| it.as_secs_f64())),
    ("drakkar_disk_handovers_total", Kind::Counter, "Leaderships handed over because of the disk.",
        |it| Some(it.disk.handovers as f64)),
    ("drakkar_storage_free_bytes", Kind::Gauge, "What is free in the file system of the log.",
        |it| it.free_bytes.map(|it| it as f64)),
    ("drakkar_storage_log_bytes", Kind::Gauge, 
        "Size of all segments of the log; beyond log.size_target, or earlier where snapshots are small, it is cut.",
        |it| Some(it.log_bytes as f64)),
    ("drakkar_storage_log_segments", Kind::Gauge, "How many they are.",
        |it| Some(it.log_segments as f64)),
    ("drakkar_wal_flushes_total", Kind::Counter, "Durable writes of the log.",
        |it| Some(it.accounts.flushes as f64)),
    ("drakkar_wal_bytes_total", Kind::Counter, "Bytes that they wrote.",
        |it| Some(it.accounts.flush_bytes as f64)),
    ("drakkar_raft_entries_total", Kind::Counter, "Batches that became entries here, on leaders.",
        |it| Some(it.accounts.entries as f64)),
    ("drakkar_raft_commands_total", Kind::Counter, "Commands in them.",
        |it| Some(it.accounts.commands as f64)),
    ("drakkar_transport_messages_total", Kind::Counter, "Messages to peers.",
        |it| Some(it.accounts.messages as f64)),
    ("drakkar_snapshots_taken_total", Kind::Counter, "Snapshots that became durable here.",
        |it| Some(it.accounts.snapshots_taken as f64)),
    ("drakkar_snapshot_failures_total", Kind::Counter, "Snapshots that failed or were given up.",
        |it| Some(it.accounts.snapshots_failed as f64)),
    ("drakkar_snapshots_received_total", Kind::Counter, "Snapshots that came from peers.",
        |it| Some(it.accounts.snapshots_received as f64)),
];

fn shard_metrics(text: &mut Exposition, shards: &[ShardStatus]) {
    for (name, kind, help, value) in SHARDS {
        text.family(name, *kind, help);
        for shard in shards {
            if let Some(value) = value(shard) {
                text.sample(&[("shard", &shard.shard.to_string())], value);
            }
        }
    }
    text.family(
        "drakkar_disk_state",
        Kind::Gauge,
        "1 for the state that the shard's disk is in.",
    );
    for shard in shards {
        let number = shard.shard.to_string();
        for state in [
            DiskState::Well,
            DiskState::Slow,
            DiskState::Full,
            DiskState::Failed,
        ] {
            let labels = [("shard", number.as_str()), ("state", disk_name(state))];
            text.sample(&labels, flag(shard.disk.state == state));
        }
    }
}

#[rustfmt::skip]
const PEERS: &[Metric<PeerStatus>] = &[
    ("drakkar_transport_peer_connected", Kind::Gauge, "Whether this shard has a connection to the peer's.",
        |it| Some(flag(it.connected))),
    ("drakkar_transport_queue_bytes", Kind::Gauge, "What waits to be sent; limits.peer_queue_size may be.",
        |it| Some(it.queue_bytes as f64)),
    ("drakkar_transport_dropped_total", Kind::Counter,
        "Messages that were dropped because the queue was full or nobody was connected.",
        |it| Some(it.dropped as f64)),
];

fn peers(text: &mut Exposition, shards: &[ShardStatus]) {
    for (name, kind, help, value) in PEERS {
        text.family(name, *kind, help);
        for shard in shards {
            let number = shard.shard.to_string();
            for peer in &shard.peers {
                let node = peer.node.to_string();
                let labels = [("peer", node.as_str()), ("shard", &number)];
                value(peer)
                    .into_iter()
                    .for_each(|value| text.sample(&labels, value));
            }
        }
    }
}

fn costs(text: &mut Exposition, shards: &[ShardStatus]) {
    text.family(
        "drakkar_stage_seconds",
        Kind::Histogram,
        "Where a write's time goes; see drakkar status --stages.",
    );
    for shard in shards {
        let number = shard.shard.to_string();
        for stage in Stage::ALL {
            let labels = [("shard", number.as_str()), ("stage", stage.name())];
            text.histogram(&labels, shard.accounts.stage(stage), SECOND, STAGE_POWERS);
        }
    }
    text.family(
        "drakkar_raft_batch_commands",
        Kind::Histogram,
        "Commands of an entry.",
    );
    for shard in shards {
        let labels = [("shard", &*shard.shard.to_string())];
        text.histogram(
            &labels,
            &shard.accounts.commands_per_entry,
            1.0,
            COMMAND_POWERS,
        );
    }
    appends(text, shards);
    text.family(
        "drakkar_wal_flush_commands",
        Kind::Histogram,
        "Commands of a flush that has any.",
    );
    for shard in shards {
        let labels = [("shard", &*shard.shard.to_string())];
        text.histogram(
            &labels,
            &shard.accounts.commands_per_flush,
            1.0,
            COMMAND_POWERS,
        );
    }
}

fn appends(text: &mut Exposition, shards: &[ShardStatus]) {
    text.family(
        "drakkar_raft_batch_entries",
        Kind::Histogram,
        "Entries of an append to a follower that has any.",
    );
    for shard in shards {
        let labels = [("shard", &*shard.shard.to_string())];
        let entries = &shard.accounts.appends.entries;
        text.histogram(&labels, entries, 1.0, ENTRY_POWERS);
    }
    text.family(
        "drakkar_raft_batch_bytes",
        Kind::Histogram,
        "Payload of an append to a follower that has entries.",
    );
    for shard in shards {
        let labels = [("shard", &*shard.shard.to_string())];
        let bytes = &shard.accounts.appends.bytes;
        text.histogram(&labels, bytes, 1.0, BYTE_POWERS);
    }
    text.family(
        "drakkar_raft_append_rtt_seconds",
        Kind::Histogram,
        "How long an append takes until the follower says that its disk has it. Sampled.",
    );
    for shard in shards {
        let number = shard.shard.to_string();
        for (peer, times) in shard.accounts.appends.round_trips() {
            let peer = peer.to_string();
            let labels = [("peer", peer.as_str()), ("shard", &number)];
            text.histogram(&labels, times, SECOND, STAGE_POWERS);
        }
    }
}

fn limits(text: &mut Exposition, config: &Config) {
    let limits = &config.limits;
    text.family(
        "drakkar_limit_bytes",
        Kind::Gauge,
        "Configured limits, in bytes; 0: none.",
    );
    for (name, bytes) in [
        ("clients_size", limits.clients_bytes_max as u64),
        ("pending_size", limits.pending_bytes_max as u64),
        ("data_size", limits.data_bytes_max),
        ("output_size", limits.output_bytes_max as u64),
        ("request_size", limits.request_bytes_max as u64),
        ("value_size", limits.value_bytes_max as u64),
        ("peer_queue_size", limits.peer_queue_bytes_max as u64),
        ("mailbox_size", limits.mailbox_bytes_max as u64),
        ("log.size_target", config.log_bytes_target),
        ("log.cache_size", config.cache_bytes as u64),
        (
            "snapshot.memory_size",
            config.snapshot.memory_bytes_max as u64,
        ),
    ] {
        text.sample(&[("limit", name)], bytes as f64);
    }
    text.family(
        "drakkar_limit_count",
        Kind::Gauge,
        "Configured limits, in number.",
    );
    for (name, count) in [
        ("pending_tasks", limits.pending_requests_max),
        ("connections", limits.connections_max),
        (
            "requests_per_connection",
            limits.requests_per_connection_max,
        ),
    ] {
        text.sample(&[("limit", name)], count as f64);
    }
    text.family(
        "drakkar_limit_seconds",
        Kind::Gauge,
        "Configured limits of time.",
    );
    for (name, time) in [
        ("client.route_wait", config.route_wait),
        ("client.request_timeout", config.request_timeout),
        ("cluster.election_timeout", config.cluster.election_timeout),
    ] {
        let seconds: Duration = time;
        text.sample(&[("limit", name)], seconds.as_secs_f64());
    }
}

fn flag(set: bool) -> f64 {
    f64::from(u8::from(set))
}
