//! `drakkar repair plan`: what an import needs on every machine, before anything is done on one.

use std::path::PathBuf;

use clap::Args;
use engine::io::identity::{LiveQuorum, Member, ask};
use engine::io::import::{Prospect, parse_members};
use serde_json::{Value, json};

use super::RepairError;
use crate::timestamp::Timestamp;

#[derive(Args)]
pub(crate) struct Options {
    #[command(flatten)]
    wanted: Wanted,
    /// Prints JSON.
    #[arg(long)]
    json: bool,
}

/// An import that is to be.
#[derive(Args)]
pub(crate) struct Wanted {
    /// The directory of an export.
    #[arg(long)]
    from: PathBuf,
    /// The members there will be: node ids and peer addresses, ID=HOST:PORT.
    #[arg(long, value_delimiter = ',', required = true)]
    members: Vec<String>,
    /// The epoch that the members will be of. By default the next after that of the export, and of those old
    /// members that answer.
    #[arg(long)]
    epoch: Option<u64>,
}

/// What is to be done, and what is known of those that it is done to.
pub(super) struct Plan<'a> {
    wanted: &'a Wanted,
    pub(super) prospect: Prospect,
    /// Old members that answer.
    answering: Vec<Member>,
}

pub(super) fn plan(options: &Options) -> Result<String, RepairError> {
    let plan = Plan::make(&options.wanted)?;
    Ok(match options.json {
        true => plan.json().to_string(),
        false => format!("{}\n4. Start them all.", plan.told()),
    })
}

/// Members in the words of a command line.
fn list(members: &[Member]) -> String {
    let words: Vec<String> = members.iter().map(ToString::to_string).collect();
    words.join(",")
}

impl<'a> Plan<'a> {
    /// Reads the export, and asks the old members.
    pub(super) fn make(wanted: &'a Wanted) -> Result<Self, RepairError> {
        let members = parse_members(wanted.members.iter().map(String::as_str))?;
        let mut prospect = Prospect::of(&wanted.from, &members, wanted.epoch)?;
        let old = &prospect.shipment.members;
        let mut answering = Vec::new();
        let mut epoch = prospect.imported.epoch;
        for member in old {
            let (cluster, node) = (&prospect.shipment.cluster, member.node);
            if let Some(answered) = ask(cluster, node, node, &member.address) {
                answering.push(member.clone());
                // It may have been repaired since the export.
                epoch = epoch.max(answered.standing.epoch + 1);
            }
        }
        if answering.len() > old.len() / 2 {
            return Err(LiveQuorum {
                epoch: prospect.shipment.epoch,
                members: old.len(),
                answering: answering.iter().map(|member| member.node).collect(),
                with_own: false,
            }
            .into());
        }
        if wanted.epoch.is_none() {
            prospect.imported.epoch = epoch;
        }
        Ok(Self {
            wanted,
            prospect,
            answering,
        })
    }

    /// Nodes that never come back.
    fn gone(&self) -> Vec<u32> {
        let shipment = &self.prospect.shipment;
        let old = shipment.members.iter().map(|member| member.node);
        let stays = |node: &u32| self.prospect.members.iter().any(|it| it.node == *node);
        let mut gone: Vec<u32> = old.chain(shipment.removed.iter().copied()).collect();
        gone.retain(|node| !stays(node));
        gone.sort_unstable();
        gone
    }

    fn was_member(&self, member: &Member) -> bool {
        let mut old = self.prospect.shipment.members.iter();
        old.any(|it| it.node == member.node)
    }

    /// What is run on the machine of a member, where the node's configuration is this.
    pub(super) fn command(&self, member: &Member, config: &str) -> String {
        let (prospect, from) = (&self.prospect, self.wanted.from.display());
        format!(
            "drakkar snapshot import --config {config} --from {from} --replica {} --members {} --epoch {}",
            member.node,
            list(&prospect.members),
            prospect.imported.epoch
        )
    }

    fn json(&self) -> Value {
        let done = self.prospect.imported;
        let steps = self.prospect.members.iter().map(|member| {
            json!({
                "node": member.node,
                "address": member.address,
                "new": !self.was_member(member),
                "command": self.command(member, "FILE"),
            })
        });
        json!({
            "snapshot": format!("{:016x}", done.snapshot),
            "members": format!("{:016x}", done.members),
            "epoch": done.epoch,
            "stop": self.answering.iter().map(|member| member.node).collect::<Vec<_>>(),
            "gone": self.gone(),
            "steps": steps.collect::<Vec<_>>(),
        })
    }

    /// All but the last step, which is to start the nodes.
    pub(super) fn told(&self) -> String {
        let Prospect {
            shipment,
            members,
            imported,
            headers,
        } = &self.prospect;
        let (cluster, epoch) = (&shipment.cluster, imported.epoch);
        let mut text = format!(
            "cluster {cluster}, as its export says\n  now:  epoch {}, members {}\n  then: epoch {epoch}, members {}\n",
            shipment.epoch,
            list(&shipment.members),
            list(members)
        );
        text.push_str(&format!("  gone: nodes {:?}, for ever\n", self.gone()));
        text.push_str("May be lost: what was written after\n");
        for header in headers {
            let taken = Timestamp(header.created_unix_ms);
            let (group, index) = (header.group, header.index);
            text.push_str(&format!("  group {group}: entry {index}, {taken}\n"));
        }
        match self.answering.as_slice() {
            [] => text
                .push_str("1. No old member answers. Make sure that none comes back by itself.\n"),
            living => {
                let living: Vec<String> = living.iter().map(ToString::to_string).collect();
                text.push_str(&format!(
                    "1. Stop those that answer: {}.\n",
                    living.join(", ")
                ));
            }
        }
        text.push_str(
            "2. List the members, and only them, in cluster.nodes of all configurations.\n",
        );
        let from = self.wanted.from.display();
        text.push_str(&format!(
            "3. Copy {from} to the machine of each member, and run there:\n"
        ));
        for member in members {
            let holds = match self.was_member(member) {
                true => format!("its data are put aside as before-import-{}", shipment.epoch),
                false => "new, with an empty data directory".to_owned(),
            };
            text.push_str(&format!("   node {} ({holds})\n", member.node));
            text.push_str(&format!("     {}\n", self.command(member, "FILE")));
        }
        text.push_str(&format!(
            "   Each must say: snapshot {:016x} with members {:016x}, epoch {epoch}.",
            imported.snapshot, imported.members
        ));
        text
    }
}
