//! The survivors of a lost majority become the membership, with what their own logs hold.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use clap::Args;
use engine::config::Config;
use engine::io::identity::{Census, Holding, Member, Record, check_stopped, hold};
use wal::GroupId;

use super::newest::{self, Newest};
use super::plans::{Plan, Plans, Purpose, Steps, Target, hand_on, heading, origin, was_done};
use super::{RepairError, check_epoch};
use crate::status::columns;

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
        let own = Plan::done(config.node_id, &record);
        let out = options.write_plan.as_deref();
        return was_done(&own, &purpose(config, &survivors), "survivors", out);
    };
    if !options.ignore_live_quorum {
        census.check(1)?;
    }
    let own = newest::read(config, directory.path(), &record)?;
    check_damage(&own, &survivors)?;
    let purpose = purpose(config, &survivors);
    let node = config.node_id;
    let own = plan(node, &repair, own);
    let text = own.text(&purpose);
    let plans = Plans::gather(Some(own), &options.plans, &purpose)?;
    let told = tell(config, &record, &repair, &census, &plans);
    let complete = survivors.iter().all(|it| plans.has(*it));
    if let Some(path) = &options.write_plan
        && !hand_on(path, &text)?
    {
        eprintln!("{told}");
        return Ok(text);
    }
    if !options.apply {
        let steps = steps(&options.config, &survivors, &options.plans, complete);
        return Ok(steps.behind(told));
    }
    if survivors.len() > 2 && !complete {
        return Err(RepairError::PlansMissing);
    }
    let newest = match complete || plans.done().next().is_some() {
        true => plans.target(),
        false => Target::new(),
    };
    record.origin = origin(&purpose, repair.epoch, &newest);
    record.newest = newest;
    record.begin_epoch(repair.epoch, repair.members, repair.removed);
    record.known.retain(|node, _| survivors.contains(node));
    record.write(directory.path())?;
    Ok(format!(
        "{told}\nDone: node {node} is of epoch {}. Start it once all survivors are. Its configuration may go on \
         listing the others until you have time to delete them there; their data directories must not be used \
         any more: a node that comes with one is told that it was removed, and ends",
        repair.epoch
    ))
}

fn purpose<'a>(config: &'a Config, survivors: &'a [u32]) -> Purpose<'a> {
    Purpose {
        verb: "shrink",
        cluster: &config.cluster.id,
        members: survivors,
    }
}

fn plan(node: u32, repair: &Repair, newest: BTreeMap<GroupId, Newest>) -> Plan {
    Plan {
        node,
        epoch: repair.epoch,
        before: Vec::new(),
        removed: repair.removed.clone(),
        newest,
        done: false,
    }
}

/// What is left to be done. Two survivors must agree on everything, so neither has to know what the other holds.
fn steps<'a>(
    config: &Path,
    survivors: &'a [u32],
    plans: &'a [PathBuf],
    complete: bool,
) -> Steps<'a> {
    let words: Vec<String> = survivors.iter().map(ToString::to_string).collect();
    let file = match survivors {
        [_] => config.display().to_string(),
        _ => "FILE".to_owned(),
    };
    Steps {
        command: format!(
            "drakkar repair shrink --config {file} --survivors {}",
            words.join(",")
        ),
        holders: match survivors.len() {
            0..=2 => &[],
            _ => survivors,
        },
        members: survivors,
        plans,
        complete,
        last: "What was lost stays away from the cluster.",
    }
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
            Some((node, it)) => return Err(RepairError::other(*node, it)),
            None => record.epoch + 1,
        };
        check_epoch(epoch)?;
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

/// A lone survivor waits for ever for what its disk has lost.
fn check_damage(own: &BTreeMap<GroupId, Newest>, survivors: &[u32]) -> Result<(), RepairError> {
    let damaged = own.iter().filter(|(_, newest)| newest.damaged);
    let groups: Vec<u32> = damaged.map(|(group, _)| group.to_raw()).collect();
    if survivors.len() == 1 && !groups.is_empty() {
        return Err(RepairError::DamagedAlone { groups });
    }
    Ok(())
}

fn tell(
    config: &Config,
    record: &Record,
    repair: &Repair,
    census: &Census,
    plans: &Plans,
) -> String {
    let (before, after) = (record.members.len(), repair.members.len());
    let mut text = heading(config, record, (repair.epoch, &repair.members), census);
    text.push_str(&columns(&plans.rows()));
    text.push('\n');
    let came_together = record.formed || record.before.is_empty();
    // What an earlier repair waits for may have been acknowledged by members before that.
    if after > before / 2 && came_together && plans.hold(&record.newest) {
        text.push_str("Lost: nothing. The survivors are a majority, so one of them holds whatever was acknowledged.\n");
    } else {
        text.push_str("May be lost: writes that were acknowledged and that no survivor holds. In each group these lie behind the newest entry of all survivors:\n");
        for (group, (index, term)) in plans.most() {
            text.push_str(&format!(
                "  group {group}: behind entry {index} of term {term}\n"
            ));
        }
    }
    text.push_str(&plans.coverage(repair.members.iter().map(|it| it.node)));
    text.push_str("Kept: everything that a survivor holds of the newest log, acknowledged or not.");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_to_be_done_can_be_typed_as_it_is() {
        let file = Path::new("n.toml");
        let told = |survivors: &[u32], plans: &[PathBuf], complete| {
            steps(file, survivors, plans, complete).told()
        };
        let two = told(&[1, 2], &[], false);
        assert_eq!(
            two,
            "  1. On each of the nodes 1, 2, while all of them are stopped:\n     \
             drakkar repair shrink --config FILE --survivors 1,2 --apply\n  \
             2. Start them all. What was lost stays away from the cluster."
        );
        let three = told(&[1, 2, 3], &[], false);
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
        let carried = told(&[1, 2, 3], &["/tmp/a".into(), "/tmp/b".into()], true);
        assert!(
            carried.contains("--apply --plans /tmp/a,/tmp/b\n"),
            "{carried}"
        );
        assert!(!carried.contains("--write-plan"), "{carried}");
        let alone = told(&[3], &[], true);
        let expected =
            "  1. On node 3:\n     drakkar repair shrink --config n.toml --survivors 3 --apply\n";
        assert!(alone.starts_with(expected), "{alone}");
        assert!(alone.contains("2. Start it."), "{alone}");
    }
}
