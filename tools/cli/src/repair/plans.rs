//! What the nodes of a repair hold, as each of them wrote it down for the others.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use engine::config::Config;
use engine::io::identity::{Census, Member, Record};
use serde_json::{Deserializer, Value, json};
use wal::{GroupId, LogIndex, Term};

use super::RepairError;
use super::newest::Newest;
use crate::timestamp::Timestamp;

/// In the place of a file: standard input or output.
pub(super) const PIPE: &str = "-";

/// The newest entry of each group that all members of an epoch are told.
pub(super) type Target = BTreeMap<GroupId, (LogIndex, Term)>;

/// Which repair a plan is of.
pub(super) struct Purpose<'a> {
    /// The command's verb.
    pub(super) verb: &'static str,
    pub(super) cluster: &'a str,
    /// The members that there will be.
    pub(super) members: &'a [u32],
}

/// What one node holds.
pub(super) struct Plan {
    pub(super) node: u32,
    /// The one that the repair makes.
    pub(super) epoch: u64,
    /// The members of the epoch that it ends, where all of them are asked what they hold.
    pub(super) before: Vec<u32>,
    /// The nodes that will never come back.
    pub(super) removed: Vec<u32>,
    pub(super) newest: BTreeMap<GroupId, Newest>,
    /// It has become a member of the new epoch already, with these as the newest entries of all.
    pub(super) done: bool,
}

impl Plan {
    /// Of a node where the repair was done before.
    pub(super) fn done(node: u32, record: &Record) -> Self {
        let newest = record.newest.iter().map(|(group, &(index, term))| {
            let newest = Newest {
                index,
                term,
                ..Newest::default()
            };
            (*group, newest)
        });
        Self {
            node,
            epoch: record.epoch,
            before: Vec::new(),
            removed: record.removed.clone(),
            newest: newest.collect(),
            done: true,
        }
    }

    /// As it is written to a file, or to whoever drives the repair.
    pub(super) fn text(&self, purpose: &Purpose<'_>) -> String {
        let groups = self.newest.iter().map(|(group, newest)| {
            json!({
                "group": group.to_raw(), "index": newest.index.to_raw(), "term": newest.term.to_raw(),
                "commit": newest.commit.to_raw(), "written_ms": newest.written_ms, "damaged": newest.damaged,
            })
        });
        let value = json!({
            "repair": purpose.verb, "cluster": purpose.cluster, "members": purpose.members,
            "epoch": self.epoch, "before": self.before, "removed": self.removed,
            "node": self.node, "done": self.done, "groups": groups.collect::<Vec<_>>(),
        });
        format!("{value:#}\n")
    }

    /// The plans in a file, or in what is piped in: one after another.
    fn read(path: &Path, purpose: &Purpose<'_>) -> Result<Vec<Self>, RepairError> {
        let no = |why| RepairError::Plan {
            path: path.to_owned(),
            why,
        };
        let text = match path == Path::new(PIPE) {
            true => io::read_to_string(io::stdin()),
            false => fs::read_to_string(path),
        };
        let text = text.map_err(|_| no("it cannot be read"))?;
        let mut plans = Vec::new();
        for value in Deserializer::from_str(&text).into_iter::<Value>() {
            let value = value.map_err(|_| no("it is no JSON"))?;
            let same = value["repair"] == purpose.verb
                && value["cluster"] == purpose.cluster
                && value["members"] == json!(purpose.members);
            if !same {
                return Err(no("it is for another repair, cluster or list"));
            }
            plans.push(Self::parse(&value).ok_or_else(|| no("fields are missing"))?);
        }
        Ok(plans)
    }

    /// Nothing if fields are missing.
    pub(super) fn parse(value: &Value) -> Option<Self> {
        let group = |value: &Value| {
            let group = GroupId::from_raw(u32::try_from(value["group"].as_u64()?).ok()?);
            let newest = Newest {
                index: LogIndex::from_raw(value["index"].as_u64()?),
                term: Term::from_raw(value["term"].as_u64()?),
                commit: LogIndex::from_raw(value["commit"].as_u64()?),
                written_ms: value["written_ms"].as_u64()?,
                damaged: value["damaged"].as_bool()?,
            };
            Some((group, newest))
        };
        let nodes = |value: &Value| {
            let nodes = value.as_array()?.iter();
            let nodes = nodes.map(|node| u32::try_from(node.as_u64()?).ok());
            nodes.collect::<Option<Vec<u32>>>()
        };
        let groups = value["groups"].as_array()?.iter().map(group);
        Some(Self {
            node: u32::try_from(value["node"].as_u64()?).ok()?,
            epoch: value["epoch"].as_u64()?,
            before: nodes(&value["before"])?,
            removed: nodes(&value["removed"])?,
            newest: groups.collect::<Option<_>>()?,
            done: value["done"].as_bool()?,
        })
    }
}

/// Writes a plan to a file; says no if it is for the standard output.
pub(super) fn hand_on(path: &Path, text: &str) -> Result<bool, RepairError> {
    if path == Path::new(PIPE) {
        return Ok(false);
    }
    let written = fs::write(path, text).map_err(|error| RepairError::Io {
        what: "write",
        path: path.to_owned(),
        error,
    });
    written.map(|()| true)
}

/// What to say where a repair was done before, and to hand on to those where it was not.
pub(super) fn was_done(
    own: &Plan,
    purpose: &Purpose<'_>,
    whom: &str,
    write_plan: Option<&Path>,
) -> Result<String, RepairError> {
    let (node, epoch) = (own.node, own.epoch);
    let told = format!("node {node} is of epoch {epoch} with these {whom} already: start it");
    let text = own.text(purpose);
    match write_plan {
        Some(path) if !hand_on(path, &text)? => {
            eprintln!("{told}");
            Ok(text)
        }
        _ => Ok(told),
    }
}

/// Of those that hold data, by node.
pub(super) struct Plans(BTreeMap<u32, Plan>);

impl Plans {
    /// Those in the files, and this node's own if it has one.
    pub(super) fn gather(
        own: Option<Plan>,
        files: &[PathBuf],
        purpose: &Purpose<'_>,
    ) -> Result<Self, RepairError> {
        let mut plans: BTreeMap<u32, Plan> = BTreeMap::new();
        for path in files {
            let no = |why| RepairError::Plan {
                path: path.clone(),
                why,
            };
            for plan in Plan::read(path, purpose)? {
                if !purpose.members.contains(&plan.node) {
                    return Err(no("it is of a node that is not in the list"));
                }
                if plan.newest.is_empty() && !plan.done {
                    continue; // of one that holds nothing
                }
                let known = own.as_ref().or(plans.values().next());
                if known
                    .is_some_and(|known| (known.epoch, &known.before) != (plan.epoch, &plan.before))
                {
                    return Err(no("it is of another epoch"));
                }
                if let Some(own) = &own
                    && plan.node == own.node
                    && plan.newest != own.newest
                {
                    return Err(no("this node's log has changed since"));
                }
                plans.insert(plan.node, plan);
            }
        }
        plans.extend(own.map(|own| (own.node, own)));
        Ok(Self(plans))
    }

    pub(super) fn has(&self, node: u32) -> bool {
        self.0.contains_key(&node)
    }

    /// Any of them: in what is the same in all, one is like another.
    pub(super) fn any(&self) -> Option<&Plan> {
        self.0.values().next()
    }

    /// The nodes that were made members of the new epoch before.
    pub(super) fn done(&self) -> impl Iterator<Item = &Plan> {
        self.0.values().filter(|plan| plan.done)
    }

    /// All that any of them knows to have been removed.
    pub(super) fn removed(&self) -> Vec<u32> {
        let mut removed: Vec<u32> = self.0.values().flat_map(|it| it.removed.clone()).collect();
        removed.sort_unstable();
        removed.dedup();
        removed
    }

    /// The entries that all are told, and wait for. Where the repair was done before, they were told: the same
    /// must be told to the others, or they would be of another origin.
    pub(super) fn target(&self) -> Target {
        match self.done().next() {
            Some(plan) => {
                let newest = plan.newest.iter();
                newest
                    .map(|(group, it)| (*group, (it.index, it.term)))
                    .collect()
            }
            None => self.most(),
        }
    }

    /// Of each group, the newest entry that any of them holds.
    pub(super) fn most(&self) -> Target {
        let mut most = Target::new();
        for (group, newest) in self.0.values().flat_map(|plan| &plan.newest) {
            let known: &mut (LogIndex, Term) = most.entry(*group).or_default();
            if (newest.term, newest.index) > (known.1, known.0) {
                *known = (newest.index, newest.term);
            }
        }
        most
    }

    /// Nodes that hold more than what all are told.
    pub(super) fn ahead_of(&self, target: &Target) -> Vec<u32> {
        let ahead = |plan: &&Plan| {
            plan.newest.iter().any(|(group, newest)| {
                let (index, term) = target.get(group).copied().unwrap_or_default();
                (newest.term, newest.index) > (term, index)
            })
        };
        self.0
            .values()
            .filter(ahead)
            .map(|plan| plan.node)
            .collect()
    }

    /// Nodes that alone hold what all are told of some groups: these wait for them.
    pub(super) fn alone(&self) -> BTreeMap<u32, Vec<GroupId>> {
        let mut alone: BTreeMap<u32, Vec<GroupId>> = BTreeMap::new();
        for (group, target) in self.target() {
            let holds = |plan: &&Plan| {
                let newest = plan.newest.get(&group).copied().unwrap_or_default();
                (newest.index, newest.term) == target
            };
            // What those hold that have done it is not in their plans.
            let mut holders = self.0.values().filter(|it| it.done || holds(it));
            if let Some(holder) = holders.next()
                && holders.next().is_none()
                && !holder.done
            {
                alone.entry(holder.node).or_default().push(group);
            }
        }
        alone
    }

    /// Whether they hold, all together, at least this.
    pub(super) fn hold(&self, awaited: &Target) -> bool {
        let most = self.most();
        awaited.iter().all(|(group, &(index, term))| {
            let (held, held_term) = most.get(group).copied().unwrap_or_default();
            (held_term, held) >= (term, index)
        })
    }

    /// Where it was done before, and of which of these nodes there is no plan.
    pub(super) fn coverage(&self, nodes: impl Iterator<Item = u32>) -> String {
        let mut text = String::new();
        for Plan { node, .. } in self.done() {
            text.push_str(&format!("Done before: on node {node}.\n"));
        }
        let unseen: Vec<u32> = nodes.filter(|node| !self.has(*node)).collect();
        if !unseen.is_empty() {
            text.push_str(&format!(
                "Not seen from here: what node {} holds, which may be newer.\n",
                list(&unseen)
            ));
        }
        text
    }

    /// What each holds, as rows of a table.
    pub(super) fn rows(&self) -> Vec<Vec<String>> {
        let heads = [
            "NODE",
            "GROUP",
            "NEWEST ENTRY",
            "TERM",
            "COMMITTED",
            "LAST WRITE",
            "DISK",
        ];
        let mut rows = vec![heads.map(str::to_owned).to_vec()];
        for (node, plan) in self.0.iter().filter(|(_, plan)| !plan.done) {
            for (group, newest) in &plan.newest {
                let written = match newest.written_ms {
                    0 => "?".to_owned(),
                    written => Timestamp(written).to_string(),
                };
                let disk = match newest.damaged {
                    true => "lost entries",
                    false => "whole",
                };
                rows.push(vec![
                    node.to_string(),
                    group.to_string(),
                    newest.index.to_string(),
                    newest.term.to_string(),
                    newest.commit.to_string(),
                    written,
                    disk.to_owned(),
                ]);
            }
        }
        rows
    }
}

/// The same on all members that were told the same (FNV-1a).
pub(super) fn origin(purpose: &Purpose<'_>, epoch: u64, newest: &Target) -> u64 {
    let Purpose {
        verb,
        cluster,
        members,
    } = purpose;
    let text = format!("{verb} {cluster} {epoch} {members:?} {newest:?}");
    let add = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
    text.as_bytes().iter().fold(0xcbf2_9ce4_8422_2325, add)
}

/// Nodes in words.
pub(super) fn list(nodes: &[u32]) -> String {
    let nodes: Vec<String> = nodes.iter().map(ToString::to_string).collect();
    if nodes.is_empty() {
        "none".to_owned()
    } else {
        nodes.join(", ")
    }
}

/// What was, what will be, and who of the old lives.
pub(super) fn heading(
    config: &Config,
    record: &Record,
    (epoch, members): (u64, &[Member]),
    census: &Census,
) -> String {
    let describe = |members: &[Member]| {
        let members: Vec<String> = members.iter().map(ToString::to_string).collect();
        members.join(", ")
    };
    let (before, after) = (record.members.len(), members.len());
    format!(
        "cluster {}, seen from node {}\n  now:  epoch {}, members {} (majority {})\n  then: epoch {epoch}, members {} \
         (majority {})\n  answering of the old members: {}; silent: {}\n\n",
        config.cluster.id,
        config.node_id,
        record.epoch,
        describe(&record.members),
        before / 2 + 1,
        describe(members),
        after / 2 + 1,
        list(&census.answering),
        list(&census.silent),
    )
}

/// What is left to be done, to be typed as it is.
pub(super) struct Steps<'a> {
    /// Without what differs from step to step.
    pub(super) command: String,
    /// Those whose plans the others need; none if nobody does.
    pub(super) holders: &'a [u32],
    pub(super) members: &'a [u32],
    /// The files that were given.
    pub(super) plans: &'a [PathBuf],
    /// Whether they are all that are needed.
    pub(super) complete: bool,
    pub(super) last: &'a str,
}

impl Steps<'_> {
    /// Behind what was told where nothing was done.
    pub(super) fn behind(&self, told: String) -> String {
        if self.plans.iter().any(|it| it == Path::new(PIPE)) {
            // Whoever pipes knows what is next.
            return told;
        }
        format!("{told}\nNothing was changed. Next:\n{}", self.told())
    }

    pub(super) fn told(&self) -> String {
        let each = |nodes: &[u32]| match nodes {
            [only] => format!("On node {only}"),
            _ => {
                let names = list(nodes);
                format!("On each of the nodes {names}, while all of them are stopped")
            }
        };
        let command = &self.command;
        let mut steps = Vec::new();
        let mut apply = format!("{command} --apply");
        if !self.holders.is_empty() {
            let given = self.complete && !self.plans.is_empty();
            let files: Vec<String> = match given {
                true => self
                    .plans
                    .iter()
                    .map(|it| it.display().to_string())
                    .collect(),
                false => {
                    let nodes = self.holders.iter();
                    nodes.map(|node| format!("node{node}.plan")).collect()
                }
            };
            if !given {
                let each = each(self.holders);
                steps.push(format!("{each}:\n     {command} --write-plan nodeN.plan"));
                let whom = match self.holders == self.members {
                    true => "each of them".to_owned(),
                    false => format!("each of the nodes {}", list(self.members)),
                };
                steps.push(format!("Copy {} to {whom}.", files.join(", ")));
            }
            apply.push_str(&format!(" --plans {}", files.join(",")));
        }
        steps.push(format!("{}:\n     {apply}", each(self.members)));
        let whom = if self.members.len() > 1 {
            "them all"
        } else {
            "it"
        };
        steps.push(format!("Start {whom}. {}", self.last));
        let numbered = steps.iter().zip(1..);
        let lines: Vec<String> = numbered
            .map(|(step, number)| format!("  {number}. {step}"))
            .collect();
        lines.join("\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(node: u32, index: u64, term: u64, done: bool) -> Plan {
        let newest = Newest {
            index: LogIndex::from_raw(index),
            term: Term::from_raw(term),
            ..Newest::default()
        };
        Plan {
            node,
            epoch: 3,
            before: vec![1, 2, 3],
            removed: vec![9],
            newest: BTreeMap::from([(GroupId::from_raw(0), newest)]),
            done,
        }
    }

    fn plans(all: Vec<Plan>) -> Plans {
        Plans(all.into_iter().map(|plan| (plan.node, plan)).collect())
    }

    fn purpose<'a>(members: &'a [u32]) -> Purpose<'a> {
        Purpose {
            verb: "members",
            cluster: "prod",
            members,
        }
    }

    #[test]
    fn all_are_told_the_newest_entry_that_one_holds_and_who_holds_more_is_known() {
        let told = |index, term| {
            let entry = (LogIndex::from_raw(index), Term::from_raw(term));
            Target::from([(GroupId::from_raw(0), entry)])
        };
        let both = plans(vec![plan(1, 90, 4, false), plan(2, 70, 5, false)]);
        assert_eq!(both.target(), told(70, 5), "the later term is newer");
        assert!(both.ahead_of(&both.target()).is_empty());
        // Where it was done, the others are told what was told there.
        let half = plans(vec![plan(1, 90, 4, true), plan(2, 90, 4, false)]);
        assert_eq!(half.target(), told(90, 4));
        assert!(half.ahead_of(&half.target()).is_empty());
        for (index, term) in [(91, 4), (1, 5)] {
            let went_on = plans(vec![plan(1, 90, 4, true), plan(2, index, term, false)]);
            assert_eq!(went_on.ahead_of(&went_on.target()), [2], "{index} {term}");
        }
    }

    #[test]
    fn who_alone_holds_what_is_waited_for_is_known() {
        let (group, none) = (GroupId::from_raw(0), BTreeMap::new());
        let alone = |all| plans(all).alone();
        let two = BTreeMap::from([(2, vec![group])]);
        assert_eq!(
            alone(vec![plan(1, 90, 4, false), plan(2, 91, 4, false)]),
            two
        );
        assert_eq!(
            alone(vec![plan(1, 90, 4, false), plan(2, 70, 5, false)]),
            two
        );
        assert_eq!(
            alone(vec![plan(1, 91, 4, false), plan(2, 91, 4, false)]),
            none
        );
        // What is told is what the one held that has done it; it may be the other as well.
        assert_eq!(
            alone(vec![plan(1, 91, 4, true), plan(2, 91, 4, false)]),
            none
        );

        let awaited = Target::from([(group, (LogIndex::from_raw(91), Term::from_raw(4)))]);
        for (index, term, holds) in [(91, 4, true), (1, 5, true), (90, 4, false), (99, 3, false)] {
            let plans = plans(vec![plan(1, index, term, false), plan(4, 5, 1, false)]);
            assert_eq!(plans.hold(&awaited), holds, "{index} {term}");
        }
        assert!(plans(Vec::new()).hold(&Target::new()));
    }

    #[test]
    fn a_plan_comes_back_and_one_of_another_repair_does_not() {
        let path = std::env::temp_dir().join(format!("drakkar-plans-{}", std::process::id()));
        let files = [path.clone()];
        let members = [1, 2, 4];
        let written = |plan: &Plan, purpose: &Purpose<'_>| {
            fs::write(&path, plan.text(purpose)).unwrap();
        };
        let gathered = |own: Option<Plan>, purpose: &Purpose<'_>| {
            Plans::gather(own, &files, purpose).map_err(|error| error.to_string())
        };
        written(&plan(2, 70, 5, false), &purpose(&members));
        let found = gathered(Some(plan(1, 9, 2, false)), &purpose(&members));
        let found = found.ok().unwrap();
        assert_eq!((found.has(1), found.has(2)), (true, true));
        assert_eq!(found.removed(), [9]);
        let refusal =
            |own: Plan, purpose: &Purpose<'_>| gathered(Some(own), purpose).err().unwrap();
        let other = refusal(plan(1, 9, 2, false), &purpose(&[1, 2]));
        assert!(other.contains("for another repair"), "{other}");
        let shrink = Purpose {
            verb: "shrink",
            ..purpose(&members)
        };
        let other = refusal(plan(1, 9, 2, false), &shrink);
        assert!(other.contains("for another repair"), "{other}");
        let later = Plan {
            epoch: 4,
            ..plan(1, 9, 2, false)
        };
        let other = refusal(later, &purpose(&members));
        assert!(other.contains("it is of another epoch"), "{other}");
        let went_on = refusal(plan(2, 71, 5, false), &purpose(&members));
        assert!(went_on.contains("log has changed since"), "{went_on}");
        written(&plan(3, 70, 5, false), &purpose(&members));
        let gone = refusal(plan(1, 9, 2, false), &purpose(&members));
        assert!(gone.contains("not in the list"), "{gone}");
        fs::remove_file(&path).unwrap();
    }

    #[test]
    fn what_is_told_or_who_is_a_member_makes_another_origin() {
        let told = plans(vec![plan(1, 90, 4, false)]).target();
        let more = plans(vec![plan(1, 91, 4, false)]).target();
        let own = origin(&purpose(&[1, 2, 4]), 1, &told);
        assert_eq!(own, origin(&purpose(&[1, 2, 4]), 1, &told));
        assert_ne!(own, origin(&purpose(&[1, 2, 5]), 1, &told));
        assert_ne!(own, origin(&purpose(&[1, 2, 4]), 2, &told));
        assert_ne!(own, origin(&purpose(&[1, 2, 4]), 1, &more));
    }
}
