//! `INFO`: figures in the sections and fields that Redis tools know, and those of RedisRaft.

use alloc::string::String;
use core::fmt::{self, Write};

use crate::Reply;
use crate::resp::view::ServerView;

use super::greeting::REDIS_VERSION;
use super::server::{master, offset};

type Section = fn(&ServerView<'_>, &mut String) -> fmt::Result;

const SECTIONS: &[(&str, Section)] = &[
    ("Server", server),
    ("Clients", clients),
    ("Memory", memory),
    ("Persistence", persistence),
    ("Stats", stats),
    ("Replication", replication),
    ("CPU", cpu),
    ("Cluster", cluster),
    ("Keyspace", keyspace),
    ("Raft", raft),
];

/// The sections named, or all of them.
pub(super) fn info(names: &[&[u8]], view: &ServerView<'_>) -> Reply {
    let all = [b"default".as_slice(), b"all", b"everything"];
    let named = |name: &[u8]| names.iter().any(|wanted| wanted.eq_ignore_ascii_case(name));
    let every = names.is_empty() || all.iter().any(|name| named(name));
    let mut text = String::new();
    for (name, section) in SECTIONS {
        if every || named(name.as_bytes()) {
            if !text.is_empty() {
                text.push_str("\r\n");
            }
            let written = write!(text, "# {name}\r\n").and_then(|()| section(view, &mut text));
            written.expect("writing to memory succeeds");
        }
    }
    Reply::Text(text)
}

fn server(view: &ServerView<'_>, to: &mut String) -> fmt::Result {
    let counters = view.counters;
    let mode = if view.cluster {
        "cluster"
    } else {
        "standalone"
    };
    let own = view.topology.endpoints.get(view.topology.own);
    write!(to, "redis_version:{REDIS_VERSION}\r\nredis_mode:{mode}\r\n")?;
    write!(to, "drakkar_version:{}\r\n", counters.version)?;
    write!(to, "arch_bits:64\r\nprocess_id:{}\r\n", counters.process_id)?;
    if let Some(own) = own {
        write!(
            to,
            "run_id:{}\r\ntcp_port:{}\r\n",
            own.id.as_str(),
            own.port
        )?;
    }
    write!(to, "server_time_usec:{}\r\n", view.unix_micros)?;
    let uptime = counters.uptime_seconds;
    write!(
        to,
        "uptime_in_seconds:{uptime}\r\nuptime_in_days:{}\r\n",
        uptime / 86_400
    )
}

fn clients(view: &ServerView<'_>, to: &mut String) -> fmt::Result {
    let counters = view.counters;
    write!(to, "connected_clients:{}\r\n", counters.connected_clients)?;
    write!(to, "cluster_connections:{}\r\n", connected(view))?;
    write!(
        to,
        "maxclients:{}\r\nblocked_clients:0\r\n",
        counters.clients_max
    )
}

fn connected(view: &ServerView<'_>) -> usize {
    view.raft
        .nodes
        .iter()
        .filter(|node| node.connected && node.node != view.raft.node)
        .count()
}

fn memory(view: &ServerView<'_>, to: &mut String) -> fmt::Result {
    let (used, limit) = (
        view.counters.used_memory_bytes,
        view.counters.memory_bytes_max,
    );
    write!(
        to,
        "used_memory:{used}\r\nused_memory_rss:{used}\r\nmaxmemory:{limit}\r\n"
    )?;
    write!(to, "maxmemory_policy:noeviction\r\n")
}

fn persistence(view: &ServerView<'_>, to: &mut String) -> fmt::Result {
    let now = view.unix_micros / 1_000_000;
    write!(
        to,
        "loading:0\r\nasync_loading:0\r\nrdb_changes_since_last_save:0\r\n"
    )?;
    write!(
        to,
        "rdb_bgsave_in_progress:0\r\nrdb_last_save_time:{now}\r\n"
    )?;
    write!(
        to,
        "rdb_last_bgsave_status:ok\r\naof_enabled:1\r\naof_rewrite_in_progress:0\r\n"
    )?;
    let durability = match view.counters.volatile {
        false => "durable",
        true => "async",
    };
    write!(
        to,
        "aof_last_write_status:ok\r\ndurability:{durability}\r\n"
    )
}

fn stats(view: &ServerView<'_>, to: &mut String) -> fmt::Result {
    let counters = view.counters;
    write!(
        to,
        "total_connections_received:{}\r\n",
        counters.connections_received
    )?;
    write!(
        to,
        "total_commands_processed:{}\r\n",
        counters.commands_processed
    )?;
    write!(to, "total_net_input_bytes:{}\r\n", counters.bytes_in)?;
    write!(to, "total_net_output_bytes:{}\r\n", counters.bytes_out)?;
    write!(
        to,
        "rejected_connections:{}\r\n",
        counters.connections_rejected
    )?;
    write!(
        to,
        "expired_keys:{}\r\nevicted_keys:0\r\n",
        counters.expired_keys
    )?;
    write!(to, "keyspace_hits:{}\r\n", counters.keyspace_hits)?;
    write!(to, "keyspace_misses:{}\r\n", counters.keyspace_misses)?;
    write!(to, "pending_requests:{}\r\n", counters.pending_requests)?;
    write!(to, "pending_bytes:{}\r\n", counters.pending_bytes)
}

fn replication(view: &ServerView<'_>, to: &mut String) -> fmt::Result {
    let offset = offset(view);
    match master(view) {
        None => write!(
            to,
            "role:master\r\nconnected_slaves:{}\r\n",
            connected(view)
        )?,
        Some(master) => {
            let master = &view.topology.endpoints[master];
            write!(to, "role:slave\r\nmaster_host:{}\r\n", master.host)?;
            write!(
                to,
                "master_port:{}\r\nmaster_link_status:up\r\n",
                master.port
            )?;
            write!(to, "slave_repl_offset:{offset}\r\nconnected_slaves:0\r\n")?;
        }
    }
    write!(to, "master_repl_offset:{offset}\r\n")
}

fn cpu(view: &ServerView<'_>, to: &mut String) -> fmt::Result {
    let parts = |micros: u64| (micros / 1_000_000, micros % 1_000_000);
    let (system, system_micros) = parts(view.counters.cpu_system_micros);
    let (user, user_micros) = parts(view.counters.cpu_user_micros);
    write!(to, "used_cpu_sys:{system}.{system_micros:06}\r\n")?;
    write!(to, "used_cpu_user:{user}.{user_micros:06}\r\n")
}

fn cluster(view: &ServerView<'_>, to: &mut String) -> fmt::Result {
    write!(to, "cluster_enabled:{}\r\n", u8::from(view.cluster))
}

fn keyspace(view: &ServerView<'_>, to: &mut String) -> fmt::Result {
    let keys = view
        .raft
        .groups
        .iter()
        .fold(0u64, |sum, group| sum.saturating_add(group.keys));
    if keys > 0 {
        write!(to, "db0:keys={keys},expires=0,avg_ttl=0\r\n")?;
    }
    Ok(())
}

/// The fields of RedisRaft, which has one group, for the first group; then a line for each.
fn raft(view: &ServerView<'_>, to: &mut String) -> fmt::Result {
    let raft = view.raft;
    let voting = raft.nodes.iter().filter(|node| node.voting).count();
    write!(to, "raft_node_id:{}\r\nraft_state:up\r\n", raft.node)?;
    if let Some(first) = raft.groups.first() {
        write!(to, "raft_role:{}\r\n", first.role)?;
    }
    write!(to, "raft_is_voting:{}\r\n", yes_or_no(raft.voting))?;
    if let Some(first) = raft.groups.first() {
        write!(to, "raft_leader_id:{}\r\n", Known(first.leader))?;
        write!(to, "raft_current_term:{}\r\n", first.term)?;
    }
    write!(to, "raft_num_nodes:{}\r\n", raft.nodes.len())?;
    write!(to, "raft_num_voting_nodes:{voting}\r\n")?;
    let others = raft.nodes.iter().filter(|node| node.node != raft.node);
    for (number, node) in others.enumerate() {
        let state = if node.connected {
            "connected"
        } else {
            "disconnected"
        };
        let (number, id, voting) = (number + 1, node.node, yes_or_no(node.voting));
        write!(
            to,
            "raft_node{number}:id={id},state={state},voting={voting},"
        )?;
        write!(to, "addr={},port={}\r\n", node.host, node.port)?;
    }
    write!(to, "raft_num_groups:{}\r\n", raft.groups.len())?;
    for group in &raft.groups {
        write!(to, "raft_group{}:role={},", group.group, group.role)?;
        write!(to, "leader={},term={},", Known(group.leader), group.term)?;
        write!(to, "commit={},applied={},", group.commit, group.applied)?;
        write!(to, "last={},persisted={},", group.last, group.persisted)?;
        write!(to, "keys={},floor={},", group.keys, group.floor)?;
        let (snapshot, fetching) = (group.snapshot, u8::from(group.fetching));
        write!(to, "snapshot={snapshot},fetching={fetching}\r\n")?;
    }
    Ok(())
}

fn yes_or_no(yes: bool) -> &'static str {
    if yes { "yes" } else { "no" }
}

/// A node's id, or -1 as RedisRaft writes it if there is none.
struct Known(Option<u64>);

impl fmt::Display for Known {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(id) => write!(f, "{id}"),
            None => f.write_str("-1"),
        }
    }
}
