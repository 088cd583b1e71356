//! Small questions about the server.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec;
use alloc::vec::Vec;

use crate::resp::commands::{TABLE, error};
use crate::resp::number::parse_integer;
use crate::resp::view::ServerView;
use crate::{ErrorReply, Reply};

use super::subcommand;

/// A number that grows with the data: the applied entries of this shard's groups.
pub(super) fn offset(view: &ServerView<'_>) -> i64 {
    let applied = view
        .raft
        .groups
        .iter()
        .fold(0u64, |sum, group| sum.saturating_add(group.applied));
    i64::try_from(applied).unwrap_or(i64::MAX)
}

pub(super) fn time(view: &ServerView<'_>) -> Reply {
    let (seconds, micros) = (view.unix_micros / 1_000_000, view.unix_micros % 1_000_000);
    Reply::Array(vec![
        Reply::bulk(seconds.to_string()),
        Reply::bulk(micros.to_string()),
    ])
}

/// Whatever was acknowledged is on disk, so the last save is now.
pub(super) fn last_save(view: &ServerView<'_>) -> Reply {
    Reply::Integer(i64::try_from(view.unix_micros / 1_000_000).unwrap_or(i64::MAX))
}

/// Whether the endpoint leads a group, or else one that leads a group it follows.
pub(super) fn master(view: &ServerView<'_>) -> Option<usize> {
    let ranges = &view.topology.ranges;
    let own = view.topology.own;
    if ranges.iter().any(|range| range.leader == Some(own)) {
        return None;
    }
    ranges
        .iter()
        .find(|range| range.replicas.contains(&own))
        .and_then(|range| range.leader)
}

pub(super) fn role(view: &ServerView<'_>) -> Reply {
    let offset = Reply::Integer(offset(view));
    match master(view) {
        None => Reply::Array(vec![
            Reply::bulk("master"),
            offset,
            Reply::Array(Vec::new()),
        ]),
        Some(master) => {
            let master = &view.topology.endpoints[master];
            Reply::Array(vec![
                Reply::bulk("slave"),
                Reply::bulk(master.host.as_bytes()),
                Reply::Integer(master.port.into()),
                Reply::bulk("connected"),
                offset,
            ])
        }
    }
}

/// An acknowledged write is on a quorum: on so many besides the leader.
pub(super) fn wait(arguments: &[&[u8]], view: &ServerView<'_>) -> Result<Reply, Reply> {
    parse_integer(arguments[1]).ok_or(ErrorReply::NotAnInteger)?;
    match parse_integer(arguments[2]) {
        None => return Err(error("ERR timeout is not an integer or out of range")),
        Some(..0) => return Err(error("ERR timeout is negative")),
        Some(_) => {}
    }
    let voters = view.raft.nodes.iter().filter(|node| node.voting).count();
    Ok(Reply::Integer(
        i64::try_from(voters / 2).expect("nodes are few"),
    ))
}

pub(super) fn slow_log(arguments: &[&[u8]]) -> Result<Reply, Reply> {
    let table = &[("get", -2), ("len", 2), ("reset", 2)];
    Ok(match subcommand("slowlog", table, arguments)? {
        "get" => match arguments.get(2).map(|count| parse_integer(count)) {
            None | Some(Some(-1..)) => Reply::Array(Vec::new()),
            Some(_) => return Err(error("ERR count should be greater than or equal to -1")),
        },
        "len" => Reply::Integer(0),
        _ => Reply::Ok,
    })
}

pub(super) fn latency(arguments: &[&[u8]]) -> Result<Reply, Reply> {
    let table = &[
        ("doctor", 2),
        ("histogram", -2),
        ("history", 3),
        ("latest", 2),
        ("reset", -2),
    ];
    Ok(match subcommand("latency", table, arguments)? {
        "doctor" => Reply::Text("No latency events are kept: see the metrics.\n".to_string()),
        "histogram" => Reply::Map(Vec::new()),
        "reset" => Reply::Integer(0),
        _ => Reply::Array(Vec::new()),
    })
}

pub(super) fn memory(arguments: &[&[u8]]) -> Result<Reply, Reply> {
    Ok(
        match subcommand("memory", &[("doctor", 2), ("purge", 2)], arguments)? {
            "doctor" => Reply::Text("Nothing to report: see the metrics.\n".to_string()),
            _ => Reply::Ok,
        },
    )
}

pub(super) fn function(arguments: &[&[u8]]) -> Result<Reply, Reply> {
    Ok(
        match subcommand("function", &[("flush", -2), ("list", -2)], arguments)? {
            "list" => Reply::Array(Vec::new()),
            _ => Reply::Ok,
        },
    )
}

/// There is one user.
pub(super) fn acl(arguments: &[&[u8]], view: &ServerView<'_>) -> Result<Reply, Reply> {
    let table = &[
        ("cat", -2),
        ("getuser", 3),
        ("list", 2),
        ("log", -2),
        ("users", 2),
        ("whoami", 2),
    ];
    Ok(match subcommand("acl", table, arguments)? {
        "whoami" => Reply::bulk("default"),
        "getuser" if arguments[2] != b"default" => Reply::Nil,
        "getuser" => user(view),
        "users" => Reply::Array(vec![Reply::bulk("default")]),
        "list" => {
            let password = if view.password.is_some() {
                ""
            } else {
                "nopass "
            };
            let line = format!("user default on {password}~* &* +@all");
            Reply::Array(vec![Reply::bulk(line)])
        }
        "log" => Reply::Array(Vec::new()),
        _ => categories(&arguments[2..])?,
    })
}

fn user(view: &ServerView<'_>) -> Reply {
    let bulks =
        |texts: &[&str]| Reply::Array(texts.iter().map(|&text| Reply::bulk(text)).collect());
    let flags = if view.password.is_some() {
        bulks(&["on"])
    } else {
        bulks(&["on", "nopass"])
    };
    Reply::Map(vec![
        (Reply::bulk("flags"), flags),
        (Reply::bulk("passwords"), bulks(&[])),
        (Reply::bulk("commands"), Reply::bulk("+@all")),
        (Reply::bulk("keys"), Reply::bulk("~*")),
        (Reply::bulk("channels"), Reply::bulk("&*")),
        (Reply::bulk("selectors"), bulks(&[])),
    ])
}

fn categories(of: &[&[u8]]) -> Result<Reply, Reply> {
    let bulks = |mut names: Vec<&'static str>| {
        names.sort_unstable();
        names.dedup();
        Reply::Array(names.into_iter().map(Reply::bulk).collect())
    };
    let categories = |spec: &'static crate::resp::commands::Spec| {
        spec.categories.split(' ').map(|category| &category[1..])
    };
    match of {
        [] => Ok(bulks(TABLE.iter().flat_map(categories).collect())),
        [wanted] => {
            let has = |category: &str| wanted.eq_ignore_ascii_case(category.as_bytes());
            let inside = TABLE.iter().filter(|spec| categories(spec).any(has));
            let names: Vec<_> = inside.map(|spec| spec.name).collect();
            if names.is_empty() {
                let wanted = String::from_utf8_lossy(wanted);
                return Err(error(format!("ERR Unknown category '{wanted}'")));
            }
            Ok(bulks(names))
        }
        _ => Err(ErrorReply::Syntax.into()),
    }
}
