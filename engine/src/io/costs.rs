//! The answer of `GET /v1/stages`: where each shard's time goes.

use std::fmt::Write;

use wal::NodeId;

use crate::shard::{Accounts, Histogram, Stage};

use super::status::ShardStatus;

/// Every stage of every shard, in nanoseconds, and what went through.
pub(super) fn json(node: NodeId, shards: &[ShardStatus]) -> String {
    let shards: Vec<String> = shards
        .iter()
        .map(|status| shard_json(status.shard, &status.accounts))
        .collect();
    format!("{{\"node\":{node},\"shards\":[{}]}}", shards.join(","))
}

fn shard_json(shard: u16, accounts: &Accounts) -> String {
    let stages = Stage::ALL.map(|stage| {
        let (name, sample) = (stage.name(), stage.sample());
        let times = histogram_json("_ns", accounts.stage(stage));
        format!("{{\"stage\":\"{name}\",\"sample\":\"{sample}\",{times}}}")
    });
    let mut text = format!("{{\"shard\":{shard},\"stages\":[{}]", stages.join(","));
    for (name, histogram) in [
        ("commands_per_entry", &accounts.commands_per_entry),
        ("commands_per_flush", &accounts.commands_per_flush),
    ] {
        let figures = histogram_json("", histogram);
        write!(text, ",\"{name}\":{{{figures}}}").expect("writing to memory succeeds");
    }
    for (name, count) in [
        ("flushes", accounts.flushes),
        ("flush_bytes", accounts.flush_bytes),
        ("entries", accounts.entries),
        ("commands", accounts.commands),
        ("messages", accounts.messages),
        ("busy", accounts.busy),
        ("snapshots_taken", accounts.snapshots_taken),
        ("snapshots_failed", accounts.snapshots_failed),
        ("snapshots_received", accounts.snapshots_received),
    ] {
        write!(text, ",\"{name}\":{count}").expect("writing to memory succeeds");
    }
    text.push('}');
    text
}

fn histogram_json(unit: &str, histogram: &Histogram) -> String {
    format!(
        "\"count\":{},\"sum{unit}\":{},\"p50{unit}\":{},\"p99{unit}\":{},\"p999{unit}\":{},\"max{unit}\":{}",
        histogram.count(),
        histogram.sum(),
        histogram.quantile(500),
        histogram.quantile(990),
        histogram.quantile(999),
        histogram.max(),
    )
}
