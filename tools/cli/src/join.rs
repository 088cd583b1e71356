//! A node that begins empty in a cluster that runs.

use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use engine::config::{Config, NodeAddress};
use engine::io::identity::{self, Joined, Member, parse_noted};
use serde_json::Value;

use crate::{exit, http, serve};

/// Between two looks whether the node was let in.
const PAUSE: Duration = Duration::from_millis(500);

/// Makes the node's data directory, if there is none, as a member tells at its admin endpoint. Waits until the
/// cluster has let the node in.
pub(crate) fn join(config: &Config, endpoint: &str) -> Result<(), ExitCode> {
    match identity::is_new(config) {
        Ok(true) => {}
        Ok(false) => return Ok(()),
        Err(error) => {
            let error = error.into();
            return Err(exit::complain(serve::code_of(&error), &error));
        }
    }
    let mut told = String::new();
    let cluster = loop {
        let waits = match membership(endpoint) {
            Ok((cluster, _)) if cluster != config.cluster.id => {
                let own = &config.cluster.id;
                let why = format!("{endpoint} is of cluster {cluster}, the configuration of {own}");
                return Err(exit::complain(exit::CONFIG, &why));
            }
            Ok((_, joined)) if joined.removed.contains(&config.node_id) => {
                let node = config.node_id;
                let why =
                    format!("replica {node} was removed, and its id never comes back: use another");
                return Err(exit::complain(exit::CONFIG, &why));
            }
            Ok((_, joined)) if joined.members.iter().any(|it| it.node == config.node_id) => {
                break joined;
            }
            Ok(_) => format!("waiting for drakkar member add --node {}", config.node_id),
            Err(why) => format!("waiting for {endpoint}: {why}"),
        };
        if waits != told {
            tracing::info!(event = "node.joins", "{waits}");
            told = waits;
        }
        thread::sleep(PAUSE);
    };
    identity::join(config, &cluster).map_err(|error| exit::complain(serve::code_of(&error), &error))
}

/// The cluster of a node, and what it says of its members.
pub(crate) fn membership(endpoint: &str) -> Result<(String, Joined), String> {
    let body = http::get(endpoint, "/v1/membership")?;
    let answer: Value =
        serde_json::from_str(&body).map_err(|error| format!("it answered no JSON: {error}"))?;
    let joined =
        parse(&answer).ok_or("it does not say who founded the cluster: it runs an older build")?;
    Ok((
        answer["cluster"].as_str().unwrap_or_default().to_owned(),
        joined,
    ))
}

fn parse(answer: &Value) -> Option<Joined> {
    let number = |value: &Value| u32::try_from(value.as_u64()?).ok();
    let port = |value: &Value| u16::try_from(value.as_u64()?).ok();
    let list = |name: &str| answer[name].as_array();
    let address = |it: &Value| {
        Some(NodeAddress {
            id: number(&it["id"])?,
            host: it["host"].as_str()?.to_owned(),
            client_port: port(&it["client_port"])?,
            peer_port: port(&it["peer_port"])?,
            admin_port: port(&it["admin_port"])?,
        })
    };
    let noted = |it: &Value| parse_noted(it.as_str()?);
    let member = |it: &Value| {
        Some(Member {
            node: number(&it["node"])?,
            address: it["address"].as_str()?.to_owned(),
        })
    };
    Some(Joined {
        epoch: answer["epoch"].as_u64()?,
        origin: u64::from_str_radix(answer["origin"].as_str()?, 16).ok()?,
        members: list("members")?.iter().map(member).collect::<Option<_>>()?,
        removed: list("removed")?.iter().map(number).collect::<Option<_>>()?,
        founders: list("founders")?
            .iter()
            .map(address)
            .collect::<Option<_>>()?,
        listed: list("listed")?.iter().map(address).collect::<Option<_>>()?,
        noted: list("noted")?.iter().map(noted).collect::<Option<_>>()?,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// As a node answers that was founded as node 1, with one that came and one that went.
    fn answer() -> Value {
        let address = |id: u32| json!({"id": id, "host": "h", "client_port": 1, "peer_port": 2, "admin_port": 0});
        json!({
            "cluster": "prod", "node": 1, "instance": "01", "epoch": 2, "origin": "00000000000000ff",
            "members": [{"node": 1, "address": "h:2"}, {"node": 4, "address": "h:2"}],
            "removed": [3], "founders": [address(1)], "listed": [address(4)], "noted": [],
        })
    }

    #[test]
    fn what_a_node_says_of_its_cluster_is_read() {
        let joined = parse(&answer()).unwrap();
        assert_eq!((joined.epoch, joined.origin), (2, 255));
        let members: Vec<u32> = joined.members.iter().map(|it| it.node).collect();
        assert_eq!((&members[..], &joined.removed[..]), (&[1, 4][..], &[3][..]));
        let founders: Vec<u32> = joined.founders.iter().map(|it| it.id).collect();
        let listed: Vec<u32> = joined.listed.iter().map(|it| it.id).collect();
        assert_eq!((&founders[..], &listed[..]), (&[1][..], &[4][..]));
        assert_eq!(joined.listed[0].peer_port, 2);
    }

    #[test]
    fn an_answer_that_lacks_something_or_has_nonsense_is_none() {
        let spoilt = [
            "epoch", "origin", "members", "removed", "founders", "listed", "noted",
        ];
        for name in spoilt {
            for value in [Value::Null, json!("no number"), json!([{"node": -1}])] {
                let mut answer = answer();
                answer[name] = value;
                assert!(parse(&answer).is_none(), "{name}: {answer}");
            }
        }
        let mut answer = answer();
        answer["listed"][0]["peer_port"] = json!(70_000);
        assert!(parse(&answer).is_none());
    }
}
