//! Who of a membership still lives: a repair that gives up members must not run while they could go on
//! without it.

use std::collections::BTreeMap;

use net::peer::Standing;

use super::{Answered, Member, ask};
use crate::config::Config;

/// Members that are to be given up could go on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "of the {members} members of epoch {epoch}, {answering:?} answer: {}. To go on although they live, and let go what they hold: --ignore-live-quorum",
    if *.with_own {
        "with this node they are a majority, and lose nothing if this node is just started again"
    } else {
        "they are a majority, and lose nothing if they are left alone"
    }
)]
pub struct LiveQuorum {
    pub epoch: u64,
    pub members: usize,
    pub answering: Vec<u32>,
    /// Whether the node that asks is one more of them.
    pub with_own: bool,
}

/// Somebody speaks for a node that should be stopped.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a process answers at {address} for node {node}: stop it first")]
pub struct Running {
    pub node: u32,
    pub address: String,
}

/// Refuses if somebody speaks for this node.
///
/// # Errors
///
/// Where somebody does.
pub fn check_stopped(config: &Config) -> Result<(), Running> {
    let (node, own) = (config.node_id, config.own_address());
    let address = format!("{}:{}", own.host, own.peer_port);
    match ask(&config.cluster.id, node, node, &address) {
        Some(_) => Err(Running { node, address }),
        None => Ok(()),
    }
}

/// What the other members of an epoch answer.
#[derive(Clone, Debug)]
pub struct Census {
    pub epoch: u64,
    /// How many there are.
    pub members: usize,
    /// Who answers as a member of that epoch.
    pub answering: Vec<u32>,
    /// Who does not answer.
    pub silent: Vec<u32>,
    /// The newest epoch that somebody is of, if it is a newer one.
    pub newer: Option<(u32, Answered)>,
    /// Everybody who answers, and as what.
    pub heard: BTreeMap<u32, Standing>,
}

impl Census {
    /// Dials all members but this node; blocks for two seconds for each that does not answer.
    pub fn take(config: &Config, epoch: u64, members: &[Member]) -> Self {
        let mut census = Self {
            epoch,
            members: members.len(),
            answering: Vec::new(),
            silent: Vec::new(),
            newer: None,
            heard: BTreeMap::new(),
        };
        let own = config.node_id;
        for member in members.iter().filter(|member| member.node != own) {
            let answered = ask(&config.cluster.id, own, member.node, &member.address);
            if let Some(answered) = &answered {
                census.heard.insert(member.node, answered.standing.clone());
            }
            match answered {
                None => census.silent.push(member.node),
                Some(answered) if answered.standing.epoch > epoch => {
                    let newest = census.newer.as_ref();
                    let newest = newest.map_or(epoch, |(_, it)| it.standing.epoch);
                    if answered.standing.epoch > newest {
                        census.newer = Some((member.node, answered));
                    }
                }
                Some(_) => census.answering.push(member.node),
            }
        }
        census
    }

    /// Dials those that are to be members as well: they may be of a membership that nobody asked so far knows.
    pub fn ask_also(&mut self, config: &Config, members: &[Member]) {
        let own = config.node_id;
        for member in members {
            let asked = self.heard.contains_key(&member.node) || self.silent.contains(&member.node);
            if member.node == own || asked {
                continue;
            }
            if let Some(answered) = ask(&config.cluster.id, own, member.node, &member.address) {
                self.heard.insert(member.node, answered.standing);
            }
        }
    }

    /// Refuses if those that answer are a majority, together with this node if it is one of them (`with` is 1
    /// then, else 0).
    ///
    /// # Errors
    ///
    /// Who they are.
    pub fn check(&self, with: usize) -> Result<(), LiveQuorum> {
        if self.answering.len() + with > self.members / 2 && !self.answering.is_empty() {
            return Err(LiveQuorum {
                epoch: self.epoch,
                members: self.members,
                answering: self.answering.clone(),
                with_own: with > 0,
            });
        }
        Ok(())
    }

    /// Refuses if a majority answers of a membership that is newer than the one that was asked, and that
    /// `counts`: a repair that this node did not hear of brought them back.
    ///
    /// # Errors
    ///
    /// Who they are.
    pub fn check_newer(&self, counts: impl Fn(&Standing) -> bool) -> Result<(), LiveQuorum> {
        let newer = |it: &&Standing| it.epoch > self.epoch && counts(it);
        for standing in self.heard.values().filter(newer) {
            let of_it = |(node, it): &(&u32, &Standing)| {
                *it == standing && standing.members.contains(*node)
            };
            let answering: Vec<u32> = self
                .heard
                .iter()
                .filter(of_it)
                .map(|(node, _)| *node)
                .collect();
            if answering.len() > standing.members.len() / 2 {
                return Err(LiveQuorum {
                    epoch: standing.epoch,
                    members: standing.members.len(),
                    answering,
                    with_own: false,
                });
            }
        }
        Ok(())
    }
}
