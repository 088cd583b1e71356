//! The survivors of a lost majority become the membership, with what their own logs hold.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use clap::Args;
use engine::config::Config;
use engine::io::identity::{Census, EPOCH_MAX, Holding, Member, Record, check_stopped, hold};
use wal::{GroupId, LogIndex, Term};

use super::RepairError;
use super::newest::{self, Newest, PIPE, Plan, Purpose};
use crate::status::columns;
use crate::timestamp::Timestamp;

#[derive(Args)]
pub(crate) struct Options {
    /// The node's configuration (TOML). It may go on listing the lost nodes.
    #[arg(long)]
    pub(super) config: PathBuf,
    /// The nodes whose data are left, this one among them: the same list on each of them.
    #[arg(long, value_delimiter = ',', required = true)]
    survivors: Vec<u32>,
    /// Does it; without this, only says what would be done.
    #[arg(long)]
    apply: bool,
    /// Writes what this node holds to a file, for the other survivors; to the standard output with "-".
    #[arg(long, value_name = "FILE", conflicts_with = "apply")]
    write_plan: Option<PathBuf>,
    /// Files that the survivors wrote with --write-plan, all of them: the entries that any of them holds
    /// are then waited for. Needed from three survivors on. "-" reads them from the standard input.
    #[arg(long, value_delimiter = ',', value_name = "FILES")]
    plans: Vec<PathBuf>,
    /// Goes on although a majority of the old members answers. What they acknowledge is lost.
    #[arg(long)]
    ignore_live_quorum: bool,
}

/// The repair, as it follows from what is there.
struct Repair {
    epoch: u64,
    members: Vec<Member>,
    removed: Vec<u32>,
}

/// By the node that wrote each.
type Plans = BTreeMap<u32, Plan>;

pub(super) fn shrink(config: &Config, options: &Options) -> Result<String, RepairError> {
    let mut survivors = options.survivors.clone();
    survivors.sort_unstable();
    survivors.dedup();
    check_stopped(config)?;
    let Holding {
        directory,
        mut record,
    } = hold(config)?;
    let census = Census::take(config, record.epoch, &record.members);
    let Some(repair) = Repair::derive(config, &record, &survivors, &census)? else {
        return was_done(config, &record, &survivors, options);
    };
    if !options.ignore_live_quorum {
        census.check(1)?;
    }
    let own = newest::read(config, directory.path(), record.instance)?;
    check_damage(&own, &survivors)?;
    let purpose = Purpose {
        cluster: &config.cluster.id,
        epoch: repair.epoch,
        survivors: &survivors,
    };
    let node = config.node_id;
    let own = Plan {
        node,
        newest: own,
        done: false,
    };
    let text = own.text(&purpose);
    let plans = gather(own, &options.plans, &purpose)?;
    let told = tell(config, &record, &repair, &census, &plans);
    let complete = survivors.iter().all(|it| plans.contains_key(it));
    if let Some(path) = &options.write_plan
        && !hand_on(path, &text)?
    {
        eprintln!("{told}");
        return Ok(text);
    }
    if !options.apply {
        if options.plans.iter().any(|it| it == Path::new(PIPE)) {
            // Whoever pipes knows what is next.
            return Ok(told);
        }
        return Ok(format!(
            "{told}\nNothing was changed. Next:\n{}",
            steps(&options.config, &survivors, &options.plans, complete)
        ));
    }
    if survivors.len() > 2 && !complete {
        return Err(RepairError::PlansMissing);
    }
    let newest = target(&plans, complete);
    record.origin = origin(&purpose, &newest);
    record.newest = newest;
    record.epoch = repair.epoch;
    record.members = repair.members;
    record.removed = repair.removed;
    record.formed = false;
    record.known.retain(|node, _| survivors.contains(node));
    record.write(directory.path())?;
    Ok(format!(
        "{told}\nDone: node {node} is of epoch {}. Start it once all survivors are. Its configuration may go on \
         listing the others until you have time to delete them there; their data directories must not be used \
         any more: a node that comes with one is told that it was removed, and ends",
        repair.epoch
    ))
}

/// What to say where the repair was done before, and to hand on to those where it was not.
fn was_done(
    config: &Config,
    record: &Record,
    survivors: &[u32],
    options: &Options,
) -> Result<String, RepairError> {
    let (node, epoch) = (config.node_id, record.epoch);
    let told = format!("node {node} is of epoch {epoch} with these survivors already: start it");
    let Some(path) = &options.write_plan else {
        return Ok(told);
    };
    let newest = record.newest.iter().map(|(group, (index, term))| {
        let (index, term) = (*index, *term);
        let newest = Newest {
            index,
            term,
            ..Newest::default()
        };
        (*group, newest)
    });
    let plan = Plan {
        node,
        newest: newest.collect(),
        done: true,
    };
    let text = plan.text(&Purpose {
        cluster: &config.cluster.id,
        epoch,
        survivors,
    });
    if hand_on(path, &text)? {
        return Ok(told);
    }
    eprintln!("{told}");
    Ok(text)
}

/// Writes a plan to a file; says no if it is for the standard output.
fn hand_on(path: &Path, text: &str) -> Result<bool, RepairError> {
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

impl Repair {
    /// `None` if it was done before.
    fn derive(
        config: &Config,
        record: &Record,
        survivors: &[u32],
        census: &Census,
    ) -> Result<Option<Self>, RepairError> {
        let invalid = |why: String| RepairError::InvalidMembers { why };
        let current: Vec<u32> = record.members.iter().map(|it| it.node).collect();
        if current == survivors && record.epoch > 0 {
            return Ok(None);
        }
        if let Some(stranger) = survivors.iter().find(|it| !record.has(**it)) {
            return Err(invalid(format!(
                "node {stranger} is no member of epoch {}, which has {current:?}",
                record.epoch
            )));
        }
        if !survivors.contains(&config.node_id) {
            return Err(invalid(format!(
                "this is node {}, which is not among the survivors {survivors:?}",
                config.node_id
            )));
        }
        if current == survivors {
            return Err(invalid(
                "all members are named as survivors: start them, nothing is to be repaired".into(),
            ));
        }
        let epoch = match &census.newer {
            // Another survivor was started already.
            Some((_, it)) if it.standing.members == survivors => it.standing.epoch,
            Some((node, it)) => {
                return Err(RepairError::OtherRepair {
                    node: *node,
                    epoch: it.standing.epoch,
                    members: it.standing.members.clone(),
                });
            }
            None => record.epoch + 1,
        };
        if epoch > EPOCH_MAX {
            return Err(invalid(format!("no epoch is left after {}", record.epoch)));
        }
        let (members, lost): (Vec<Member>, Vec<Member>) = {
            let members = record.members.iter().cloned();
            members.partition(|member| survivors.contains(&member.node))
        };
        let mut removed = record.removed.clone();
        removed.extend(lost.iter().map(|member| member.node));
        Ok(Some(Self {
            epoch,
            members,
            removed,
        }))
    }
}

/// What is left to be done, to be typed as it is.
fn steps(config: &Path, survivors: &[u32], plans: &[PathBuf], complete: bool) -> String {
    let names = list(survivors);
    let each = match survivors {
        [only] => format!("On node {only}"),
        _ => format!("On each of the nodes {names}, while all of them are stopped"),
    };
    let words: Vec<String> = survivors.iter().map(ToString::to_string).collect();
    let file = match survivors {
        [_] => config.display().to_string(),
        _ => "FILE".to_owned(),
    };
    let command = format!(
        "drakkar repair shrink --config {file} --survivors {}",
        words.join(",")
    );
    let mut steps = Vec::new();
    let mut apply = format!("{command} --apply");
    if survivors.len() > 2 {
        let files: Vec<String> = match complete {
            true => plans.iter().map(|it| it.display().to_string()).collect(),
            false => words
                .iter()
                .map(|node| format!("node{node}.plan"))
                .collect(),
        };
        if !complete {
            steps.push(format!("{each}:\n     {command} --write-plan nodeN.plan"));
            steps.push(format!("Copy {} to each of them.", files.join(", ")));
        }
        apply.push_str(&format!(" --plans {}", files.join(",")));
    }
    steps.push(format!("{each}:\n     {apply}"));
    let whom = if survivors.len() > 1 {
        "them all"
    } else {
        "it"
    };
    steps.push(format!(
        "Start {whom}. What was lost stays away from the cluster."
    ));
    let numbered = steps.iter().zip(1..);
    let lines: Vec<String> = numbered
        .map(|(step, number)| format!("  {number}. {step}"))
        .collect();
    lines.join("\n")
}

/// A lone survivor waits for ever for what its disk has lost.
fn check_damage(own: &BTreeMap<GroupId, Newest>, survivors: &[u32]) -> Result<(), RepairError> {
    let damaged = own.iter().filter(|(_, newest)| newest.damaged);
    let groups: Vec<u32> = damaged.map(|(group, _)| group.to_raw()).collect();
    if survivors.len() == 1 && !groups.is_empty() {
        return Err(RepairError::DamagedAlone { groups });
    }
    Ok(())
}

/// The plans by node, this one's too.
fn gather(own: Plan, files: &[PathBuf], purpose: &Purpose<'_>) -> Result<Plans, RepairError> {
    let mut plans = BTreeMap::new();
    for path in files {
        let no = |why| RepairError::Plan {
            path: path.clone(),
            why,
        };
        for plan in Plan::read(path, purpose)? {
            if !purpose.survivors.contains(&plan.node) {
                return Err(no("it is of a node that is no survivor"));
            }
            if plan.node == own.node && plan.newest != own.newest {
                return Err(no("this node's log has changed since"));
            }
            plans.insert(plan.node, plan);
        }
    }
    plans.insert(own.node, own);
    Ok(plans)
}

/// The entries that all are told, and wait for. Where the repair was done before, they were told: the same
/// must be told to the others, or they would be of another origin.
fn target(plans: &Plans, complete: bool) -> BTreeMap<GroupId, (LogIndex, Term)> {
    let told = plans.values().find(|plan| plan.done);
    match told {
        Some(plan) => {
            let newest = plan.newest.iter();
            newest
                .map(|(group, it)| (*group, (it.index, it.term)))
                .collect()
        }
        None if complete => most(plans),
        None => BTreeMap::new(),
    }
}

/// Of each group, the newest entry that any of them holds.
fn most(plans: &Plans) -> BTreeMap<GroupId, (LogIndex, Term)> {
    let mut most = BTreeMap::new();
    for (group, newest) in plans.values().flat_map(|plan| &plan.newest) {
        let known: &mut (LogIndex, Term) = most.entry(*group).or_default();
        if (newest.term, newest.index) > (known.1, known.0) {
            *known = (newest.index, newest.term);
        }
    }
    most
}

/// The same on all survivors that were told the same (FNV-1a).
fn origin(purpose: &Purpose<'_>, newest: &BTreeMap<GroupId, (LogIndex, Term)>) -> u64 {
    let Purpose {
        cluster,
        epoch,
        survivors,
    } = purpose;
    let text = format!("shrink {cluster} {epoch} {survivors:?} {newest:?}");
    let add = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
    text.as_bytes().iter().fold(0xcbf2_9ce4_8422_2325, add)
}

fn list(nodes: &[u32]) -> String {
    let nodes: Vec<String> = nodes.iter().map(ToString::to_string).collect();
    if nodes.is_empty() {
        "none".to_owned()
    } else {
        nodes.join(", ")
    }
}

fn tell(
    config: &Config,
    record: &Record,
    repair: &Repair,
    census: &Census,
    plans: &Plans,
) -> String {
    let describe = |members: &[Member]| {
        let members: Vec<String> = members.iter().map(ToString::to_string).collect();
        members.join(", ")
    };
    let (before, after) = (record.members.len(), repair.members.len());
    let mut text = format!(
        "cluster {}, seen from node {}\n  now:  epoch {}, members {} (majority {})\n  then: epoch {}, members {} \
         (majority {})\n  answering of the old members: {}; silent: {}\n\n",
        config.cluster.id,
        config.node_id,
        record.epoch,
        describe(&record.members),
        before / 2 + 1,
        repair.epoch,
        describe(&repair.members),
        after / 2 + 1,
        list(&census.answering),
        list(&census.silent),
    );
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
    for (node, plan) in plans.iter().filter(|(_, plan)| !plan.done) {
        for (group, newest) in &plan.newest {
            rows.push(vec![
                node.to_string(),
                group.to_string(),
                newest.index.to_string(),
                newest.term.to_string(),
                newest.commit.to_string(),
                match newest.written_ms {
                    0 => "?".to_owned(),
                    written => Timestamp(written).to_string(),
                },
                if newest.damaged {
                    "lost entries"
                } else {
                    "whole"
                }
                .to_owned(),
            ]);
        }
    }
    text.push_str(&columns(&rows));
    text.push('\n');
    if after > before / 2 {
        text.push_str("Lost: nothing. The survivors are a majority, so one of them holds whatever was acknowledged.\n");
    } else {
        text.push_str("May be lost: writes that were acknowledged and that no survivor holds. In each group these lie behind the newest entry of all survivors:\n");
        for (group, (index, term)) in most(plans) {
            text.push_str(&format!(
                "  group {group}: behind entry {index} of term {term}\n"
            ));
        }
    }
    for (node, _) in plans.iter().filter(|(_, plan)| plan.done) {
        text.push_str(&format!("Done before: on node {node}.\n"));
    }
    let unseen: Vec<u32> = repair
        .members
        .iter()
        .map(|it| it.node)
        .filter(|it| !plans.contains_key(it))
        .collect();
    if !unseen.is_empty() {
        text.push_str(&format!(
            "Not seen from here: what node {} holds, which may be newer.\n",
            list(&unseen)
        ));
    }
    text.push_str("Kept: everything that a survivor holds of the newest log, acknowledged or not.");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_to_be_done_can_be_typed_as_it_is() {
        let file = Path::new("n.toml");
        let two = steps(file, &[1, 2], &[], false);
        assert_eq!(
            two,
            "  1. On each of the nodes 1, 2, while all of them are stopped:\n     \
             drakkar repair shrink --config FILE --survivors 1,2 --apply\n  \
             2. Start them all. What was lost stays away from the cluster."
        );
        let three = steps(file, &[1, 2, 3], &[], false);
        let lines: Vec<&str> = three.lines().map(str::trim).collect();
        assert_eq!(
            lines[1],
            "drakkar repair shrink --config FILE --survivors 1,2,3 --write-plan nodeN.plan"
        );
        assert_eq!(
            lines[2],
            "2. Copy node1.plan, node2.plan, node3.plan to each of them."
        );
        assert_eq!(
            lines[4],
            "drakkar repair shrink --config FILE --survivors 1,2,3 --apply --plans node1.plan,node2.plan,node3.plan"
        );
        let carried = steps(file, &[1, 2, 3], &["/tmp/a".into(), "/tmp/b".into()], true);
        assert!(
            carried.contains("--apply --plans /tmp/a,/tmp/b\n"),
            "{carried}"
        );
        assert!(!carried.contains("--write-plan"), "{carried}");
        let alone = steps(file, &[3], &[], true);
        let expected =
            "  1. On node 3:\n     drakkar repair shrink --config n.toml --survivors 3 --apply\n";
        assert!(alone.starts_with(expected), "{alone}");
        assert!(alone.contains("2. Start it."), "{alone}");
    }
}
