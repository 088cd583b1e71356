//! `CONFIG`: what tools ask before they start, by its Redis name. Settings are changed elsewhere.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use crate::Reply;
use crate::resp::commands::{error, matches, wrong_arity};
use crate::resp::view::ServerView;

use super::subcommand;

const SUBCOMMANDS: &[(&str, i8)] = &[("get", -3), ("resetstat", 2), ("rewrite", 2), ("set", -4)];

/// Settings that hold for every server of this kind.
const FIXED: &[(&str, &str)] = &[
    ("appendonly", "yes"),
    ("cluster-allow-reads-when-down", "no"),
    ("cluster-require-full-coverage", "no"),
    ("databases", "1"),
    ("lfu-decay-time", "1"),
    ("lfu-log-factor", "10"),
    ("maxmemory-policy", "noeviction"),
    ("notify-keyspace-events", ""),
    ("save", ""),
    ("slowlog-log-slower-than", "-1"),
    ("slowlog-max-len", "0"),
    ("tcp-keepalive", "300"),
    ("timeout", "0"),
];

pub(super) fn config(arguments: &[&[u8]], view: &ServerView<'_>) -> Result<Reply, Reply> {
    let rest = &arguments[2..];
    match subcommand("config", SUBCOMMANDS, arguments)? {
        "get" => {
            let wanted = |name: &str| rest.iter().any(|pattern| matches(pattern, name.as_bytes()));
            let pair = |(name, value): (&str, String)| (Reply::bulk(name), Reply::bulk(value));
            let all = settings(view).into_iter();
            Ok(Reply::Map(
                all.filter(|(name, _)| wanted(name)).map(pair).collect(),
            ))
        }
        "set" => set(rest, view),
        "resetstat" => Ok(Reply::Ok),
        _ => Err(error("ERR The server is running without a config file")),
    }
}

fn settings(view: &ServerView<'_>) -> Vec<(&'static str, String)> {
    let fixed = FIXED.iter().map(|&(name, value)| (name, value.to_string()));
    let own = view.topology.endpoints.get(view.topology.own);
    let mut settings: Vec<_> = fixed.collect();
    settings.push((
        "cluster-enabled",
        if view.cluster { "yes" } else { "no" }.to_string(),
    ));
    let sync = if view.counters.volatile {
        "no"
    } else {
        "always"
    };
    settings.push(("appendfsync", sync.to_string()));
    settings.push(("maxclients", view.counters.clients_max.to_string()));
    settings.push(("maxmemory", view.counters.memory_bytes_max.to_string()));
    settings.push(("port", own.map_or(0, |own| own.port).to_string()));
    settings.sort_unstable();
    settings
}

/// Accepts a value that already holds: tools set what they rely on. Anything else is refused.
fn set(pairs: &[&[u8]], view: &ServerView<'_>) -> Result<Reply, Reply> {
    if !pairs.len().is_multiple_of(2) {
        return Err(wrong_arity("config|set"));
    }
    let settings = settings(view);
    for pair in pairs.chunks_exact(2) {
        let (wanted, value) = (pair[0], pair[1]);
        let known = settings
            .iter()
            .find(|(name, _)| wanted.eq_ignore_ascii_case(name.as_bytes()));
        let Some((name, current)) = known else {
            let wanted = String::from_utf8_lossy(wanted);
            return Err(error(format!(
                "ERR Unknown option or number of arguments for CONFIG SET - '{wanted}'"
            )));
        };
        if !value.eq_ignore_ascii_case(current.as_bytes()) {
            return Err(error(format!(
                "ERR CONFIG SET failed (possibly related to argument '{name}') - can't set \
                 immutable config"
            )));
        }
    }
    Ok(Reply::Ok)
}
