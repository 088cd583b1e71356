//! Who of a membership still lives: a repair that gives up members must not run while they could go on
//! without it.

use engine::config::Config;
use engine::io::identity::{Answered, Member, ask};

use super::RepairError;

/// What the other members of an epoch answer.
pub(crate) struct Census {
    pub(crate) epoch: u64,
    pub(crate) members: usize,
    /// Who answers as a member of that epoch.
    pub(crate) answering: Vec<u32>,
    pub(crate) silent: Vec<u32>,
    /// The newest epoch that somebody is of, if it is a newer one.
    pub(crate) newer: Option<(u32, Answered)>,
}

impl Census {
    /// Dials all members but this node.
    pub(crate) fn take(config: &Config, epoch: u64, members: &[Member]) -> Self {
        let mut census = Self {
            epoch,
            members: members.len(),
            answering: Vec::new(),
            silent: Vec::new(),
            newer: None,
        };
        let own = config.node_id;
        for member in members.iter().filter(|member| member.node != own) {
            match ask(&config.cluster.id, own, member.node, &member.address) {
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

    /// Refuses if those that answer are a majority, together with this node if it is one of them.
    pub(crate) fn check(&self, with: usize) -> Result<(), RepairError> {
        if self.answering.len() + with > self.members / 2 && !self.answering.is_empty() {
            return Err(RepairError::LiveQuorum {
                epoch: self.epoch,
                members: self.members,
                answering: self.answering.clone(),
            });
        }
        Ok(())
    }
}
