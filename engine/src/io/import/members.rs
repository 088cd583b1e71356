//! The list of members that there will be, as an operator gives it to each of them.

use super::super::identity::Member;
use super::ImportError;
use crate::config::Config;

/// Reads a list of members: node ids and peer addresses, `ID=HOST:PORT`.
///
/// # Errors
///
/// If a word is something else.
pub fn parse_members<'a>(
    words: impl IntoIterator<Item = &'a str>,
) -> Result<Vec<Member>, ImportError> {
    let member = |word: &str| {
        let (node, address) = word.split_once('=')?;
        let (host, port) = address.rsplit_once(':')?;
        port.parse::<u16>().ok().filter(|_| !host.is_empty())?;
        let node = node.parse().ok()?;
        let address = address.to_owned();
        Some(Member { node, address })
    };
    let words = words.into_iter().map(|word| {
        let why = || format!("'{word}' is not ID=HOST:PORT");
        member(word).ok_or_else(|| ImportError::InvalidMembers { why: why() })
    });
    words.collect()
}

/// Refuses a list with a node that was removed.
///
/// # Errors
///
/// [`ImportError::RemovedNode`].
pub fn check_removed(members: &[Member], removed: &[u32]) -> Result<(), ImportError> {
    let mut nodes = members.iter().map(|member| member.node);
    match nodes.find(|node| removed.contains(node)) {
        Some(node) => Err(ImportError::RemovedNode { node }),
        None => Ok(()),
    }
}

/// The list of members, by their numbers.
///
/// # Errors
///
/// If a node is listed twice.
pub fn sorted(members: &[Member]) -> Result<Vec<Member>, ImportError> {
    let mut members = members.to_vec();
    members.sort();
    for pair in members.windows(2) {
        if pair[0].node == pair[1].node {
            let why = format!("{} is listed twice", pair[0].node);
            return Err(ImportError::InvalidMembers { why });
        }
    }
    Ok(members)
}

/// The list has this node at its address, and the configuration has the list and nobody else: who was
/// forgotten in one of them would be let in by some members only. It may go on listing nodes that are `gone`.
///
/// # Errors
///
/// [`ImportError::InvalidMembers`], with the first that differs.
pub fn check_configured(
    config: &Config,
    members: &[Member],
    gone: &[u32],
) -> Result<(), ImportError> {
    let invalid = |why: String| ImportError::InvalidMembers { why };
    let own = config.node_id;
    let address = |node: u32| {
        let mut nodes = config.cluster.nodes.iter();
        let node = nodes.find(|it| it.id == node)?;
        Some(format!("{}:{}", node.host, node.peer_port))
    };
    if members.iter().all(|member| member.node != own) {
        return Err(invalid(format!("this node, {own}, is not in the list")));
    }
    for member in members {
        match address(member.node) {
            Some(found) if found == member.address => {}
            Some(found) => {
                return Err(invalid(format!(
                    "node {} is at {} in the list, at {found} in the configuration",
                    member.node, member.address
                )));
            }
            None => {
                let node = member.node;
                return Err(invalid(format!(
                    "node {node} is not in cluster.nodes of the configuration"
                )));
            }
        }
    }
    let listed = |node: u32| members.iter().any(|member| member.node == node);
    let mut configured = config.cluster.nodes.iter();
    match configured.find(|node| !listed(node.id) && !gone.contains(&node.id)) {
        None => Ok(()),
        Some(node) => Err(invalid(format!(
            "node {} is in cluster.nodes of the configuration, and not in the list",
            node.id
        ))),
    }
}
