//! `CLUSTER`: the topology in the words of Redis Cluster.
//!
//! Every endpoint that leads something is a master. A replica is shown only if it leads nothing:
//! clients take an endpoint for one or the other.

use alloc::format;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use core::fmt::Write;

use crate::resp::commands::{Shape, error};
use crate::resp::number::parse_integer;
use crate::resp::view::{Endpoint, ServerView, SlotRange, Topology};
use crate::{Command, ErrorReply, Reply, SLOTS, Slot};

use super::{Action, Session, clustered, subcommand};

const SUBCOMMANDS: &[(&str, i8)] = &[
    ("count-failure-reports", 3),
    ("countkeysinslot", 3),
    ("info", 2),
    ("keyslot", 3),
    ("links", 2),
    ("myid", 2),
    ("nodes", 2),
    ("replicas", 3),
    ("shards", 2),
    ("slaves", 3),
    ("slots", 2),
];

impl Session {
    pub(super) fn cluster<'a>(
        &self,
        arguments: &[&[u8]],
        view: &ServerView<'_>,
    ) -> Result<Action<'a>, Reply> {
        let name = subcommand("cluster", SUBCOMMANDS, arguments)?;
        clustered(view)?;
        let topology = view.topology;
        let unix_ms = view.unix_micros / 1000;
        let reply = match name {
            "slots" => slots(topology),
            "shards" => shards(topology, view),
            "nodes" => Reply::Text(nodes(topology, unix_ms)),
            "info" => Reply::Text(state(topology)),
            "keyslot" => Reply::Integer(Slot::of(arguments[2]).number().into()),
            "myid" => match topology.endpoints.get(topology.own) {
                Some(own) => Reply::bulk(own.id.as_str()),
                None => return Err(error("NOCLUSTER No Raft Cluster")),
            },
            "links" => links(topology, unix_ms),
            "countkeysinslot" => {
                let slot = parse_integer(arguments[2]).ok_or(ErrorReply::NotAnInteger)?;
                let slot = u16::try_from(slot).ok().and_then(Slot::new);
                let slot = slot.ok_or_else(|| error("ERR Invalid slot"))?;
                let command = Command::CountInSlot {
                    slot: slot.number(),
                };
                return Ok(Action::Data {
                    slot,
                    command,
                    form: self.form(Shape::Same),
                });
            }
            "count-failure-reports" => {
                find(topology, arguments[2])?;
                Reply::Integer(0)
            }
            _ => replicas(topology, arguments[2], unix_ms)?,
        };
        Ok(Action::Reply(reply))
    }
}

/// Slots that lie together and are served by the same endpoints.
struct Stretch {
    start: u16,
    end: u16,
    master: usize,
    replicas: Vec<usize>,
}

fn stretches(topology: &Topology) -> Vec<Stretch> {
    let masters: Vec<usize> = topology
        .ranges
        .iter()
        .filter_map(|range| range.leader)
        .collect();
    let mut stretches: Vec<Stretch> = Vec::new();
    for SlotRange {
        start,
        end,
        leader,
        replicas,
    } in &topology.ranges
    {
        let Some(master) = *leader else { continue };
        let mut replicas = replicas.clone();
        replicas.retain(|replica| !masters.contains(replica));
        match stretches.last_mut() {
            Some(last)
                if last.end + 1 == *start && last.master == master && last.replicas == replicas =>
            {
                last.end = *end;
            }
            _ => stretches.push(Stretch {
                start: *start,
                end: *end,
                master,
                replicas,
            }),
        }
    }
    stretches
}

fn slots(topology: &Topology) -> Reply {
    let node = |index: usize| {
        let Endpoint { id, host, port, .. } = &topology.endpoints[index];
        Reply::Array(vec![
            Reply::bulk(host.as_bytes()),
            Reply::Integer((*port).into()),
            Reply::bulk(id.as_str()),
            Reply::Array(Vec::new()),
        ])
    };
    let stretch = |stretch: Stretch| {
        let mut parts = vec![
            Reply::Integer(stretch.start.into()),
            Reply::Integer(stretch.end.into()),
        ];
        parts.push(node(stretch.master));
        parts.extend(stretch.replicas.into_iter().map(node));
        Reply::Array(parts)
    };
    Reply::Array(stretches(topology).into_iter().map(stretch).collect())
}

fn shards(topology: &Topology, view: &ServerView<'_>) -> Reply {
    let stretches = stretches(topology);
    let offset = super::server::offset(view);
    let node = |index: usize, role: &str| {
        let Endpoint {
            id,
            host,
            port,
            connected,
            ..
        } = &topology.endpoints[index];
        let health = if *connected { "online" } else { "fail" };
        Reply::Map(vec![
            (Reply::bulk("id"), Reply::bulk(id.as_str())),
            (Reply::bulk("port"), Reply::Integer((*port).into())),
            (Reply::bulk("ip"), Reply::bulk(host.as_bytes())),
            (Reply::bulk("endpoint"), Reply::bulk(host.as_bytes())),
            (Reply::bulk("role"), Reply::bulk(role)),
            (Reply::bulk("replication-offset"), Reply::Integer(offset)),
            (Reply::bulk("health"), Reply::bulk(health)),
        ])
    };
    let shard = |master: usize| {
        let own = stretches.iter().filter(|stretch| stretch.master == master);
        let mut slots = Vec::new();
        let mut nodes = vec![node(master, "master")];
        let mut shown = Vec::new();
        for stretch in own {
            slots.push(Reply::Integer(stretch.start.into()));
            slots.push(Reply::Integer(stretch.end.into()));
            for &replica in &stretch.replicas {
                if !shown.contains(&replica) {
                    shown.push(replica);
                    nodes.push(node(replica, "replica"));
                }
            }
        }
        Reply::Map(vec![
            (Reply::bulk("slots"), Reply::Array(slots)),
            (Reply::bulk("nodes"), Reply::Array(nodes)),
        ])
    };
    let mut masters: Vec<usize> = stretches.iter().map(|stretch| stretch.master).collect();
    masters.sort_unstable();
    masters.dedup();
    Reply::Array(masters.into_iter().map(shard).collect())
}

/// The line of `CLUSTER NODES` of one endpoint, without a line end.
fn line(topology: &Topology, stretches: &[Stretch], index: usize, unix_ms: u64) -> String {
    let Endpoint {
        id,
        host,
        port,
        peer_port,
        connected,
    } = &topology.endpoints[index];
    let epoch = topology.epoch;
    let mine = index == topology.own;
    let master = stretches
        .iter()
        .find(|stretch| stretch.replicas.contains(&index));
    let mut flags = String::new();
    if mine {
        flags.push_str("myself,");
    }
    flags.push_str(if master.is_some() { "slave" } else { "master" });
    if !connected {
        flags.push_str(",fail?");
    }
    let master = master.map_or("-", |stretch| {
        topology.endpoints[stretch.master].id.as_str()
    });
    let heard = if mine || !connected { 0 } else { unix_ms };
    let link = if *connected {
        "connected"
    } else {
        "disconnected"
    };
    let id = id.as_str();
    let mut line =
        format!("{id} {host}:{port}@{peer_port} {flags} {master} 0 {heard} {epoch} {link}");
    for stretch in stretches.iter().filter(|stretch| stretch.master == index) {
        let Stretch { start, end, .. } = stretch;
        let written = if start == end {
            write!(line, " {start}")
        } else {
            write!(line, " {start}-{end}")
        };
        written.expect("writing to memory succeeds");
    }
    line
}

fn nodes(topology: &Topology, unix_ms: u64) -> String {
    let stretches = stretches(topology);
    let mut text = String::new();
    for index in 0..topology.endpoints.len() {
        text.push_str(&line(topology, &stretches, index, unix_ms));
        text.push('\n');
    }
    text
}

fn replicas(topology: &Topology, master: &[u8], unix_ms: u64) -> Result<Reply, Reply> {
    let master = find(topology, master)?;
    let stretches = stretches(topology);
    let mut of_master = stretches
        .iter()
        .filter(|stretch| stretch.master == master)
        .peekable();
    if of_master.peek().is_none() {
        return Err(error("ERR The specified node is not a master"));
    }
    let mut replicas: Vec<usize> = of_master.flat_map(|s| s.replicas.iter().copied()).collect();
    replicas.sort_unstable();
    replicas.dedup();
    let line = |index| Reply::bulk(line(topology, &stretches, index, unix_ms));
    Ok(Reply::Array(replicas.into_iter().map(line).collect()))
}

fn find(topology: &Topology, id: &[u8]) -> Result<usize, Reply> {
    let endpoints = topology.endpoints.iter();
    endpoints
        .enumerate()
        .find(|(_, endpoint)| endpoint.id.as_str().as_bytes() == id)
        .map_or_else(
            || {
                Err(error(format!(
                    "ERR Unknown node {}",
                    String::from_utf8_lossy(id)
                )))
            },
            |(index, _)| Ok(index),
        )
}

fn state(topology: &Topology) -> String {
    let slots = |led_only: bool| -> u32 {
        let ranges = topology
            .ranges
            .iter()
            .filter(|range| !led_only || range.leader.is_some());
        ranges
            .map(|range| u32::from(range.end - range.start) + 1)
            .sum()
    };
    let (assigned, served) = (slots(false), slots(true));
    let state = if served == u32::from(SLOTS) {
        "ok"
    } else {
        "fail"
    };
    let failed = assigned - served;
    let known = topology.endpoints.len();
    let mut masters: Vec<usize> = topology
        .ranges
        .iter()
        .filter_map(|range| range.leader)
        .collect();
    masters.sort_unstable();
    masters.dedup();
    let size = masters.len();
    let epoch = topology.epoch;
    format!(
        "cluster_state:{state}\r\ncluster_slots_assigned:{assigned}\r\ncluster_slots_ok:{served}\r\n\
         cluster_slots_pfail:0\r\ncluster_slots_fail:{failed}\r\ncluster_known_nodes:{known}\r\n\
         cluster_size:{size}\r\ncluster_current_epoch:{epoch}\r\ncluster_my_epoch:{epoch}\r\n\
         cluster_stats_messages_sent:0\r\ncluster_stats_messages_received:0\r\n\
         total_cluster_links_buffer_limit_exceeded:0\r\n"
    )
}

fn links(topology: &Topology, unix_ms: u64) -> Reply {
    let time = i64::try_from(unix_ms).unwrap_or(i64::MAX);
    let endpoints = topology.endpoints.iter().enumerate();
    let others = endpoints.filter(|&(index, other)| index != topology.own && other.connected);
    let link = |(_, other): (usize, &Endpoint)| {
        Reply::Map(vec![
            (Reply::bulk("direction"), Reply::bulk("to")),
            (Reply::bulk("node"), Reply::bulk(other.id.as_str())),
            (Reply::bulk("create-time"), Reply::Integer(time)),
            (Reply::bulk("events"), Reply::bulk("rw")),
            (Reply::bulk("send-buffer-allocated"), Reply::Integer(0)),
            (Reply::bulk("send-buffer-used"), Reply::Integer(0)),
        ])
    };
    Reply::Array(others.map(link).collect())
}
