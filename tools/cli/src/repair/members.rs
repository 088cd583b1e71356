//! Another list of members for a cluster that has lost nothing: nodes leave for good, and new ones come.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use clap::Args;
use engine::config::Config;
use engine::io::identity::{
    Census, Condition, Holding, IdentityError, Member, Record, Running, check_stopped, hold,
};
use engine::io::import::{check_configured, check_removed, parse_members, sorted};
use wal::GroupId;

use super::newest::{self, Newest};
use super::plans::{Plan, Plans, Purpose, Steps, hand_on, heading, list, origin, was_done};
use super::rejoin::{check_empty, clear};
use super::{RepairError, check_epoch};
use crate::status::columns;

#[derive(Args)]
pub(crate) struct Options {
    /// The node's configuration (TOML). It lists the members there will be, and may go on listing those that go.
    #[arg(long)]
    pub(super) config: PathBuf,
    /// All members there will be: node ids and peer addresses, ID=HOST:PORT. The same list on each of them.
    #[arg(long, value_delimiter = ',', required = true)]
    members: Vec<String>,
    /// Does it; without this, only says what would be done.
    #[arg(long)]
    apply: bool,
    /// Writes what this node holds to a file, for the other members; to the standard output with "-".
    #[arg(long, value_name = "FILE", conflicts_with = "apply")]
    write_plan: Option<PathBuf>,
    /// Files that the members that stay wrote with --write-plan, all of them. "-" reads them from the standard
    /// input.
    #[arg(long, value_delimiter = ',', value_name = "FILES")]
    plans: Vec<PathBuf>,
}

/// What is asked for, and where.
struct Order<'a> {
    config: &'a Config,
    options: &'a Options,
    /// By their numbers.
    list: Vec<Member>,
    nodes: &'a [u32],
}

/// Who stays, comes and goes.
struct Change {
    epoch: u64,
    before: Vec<u32>,
    stay: Vec<u32>,
    new: Vec<u32>,
    gone: Vec<u32>,
    /// Of this change and all before.
    removed: Vec<u32>,
}

pub(super) fn members(config: &Config, options: &Options) -> Result<String, RepairError> {
    let list = sorted(&parse_members(options.members.iter().map(String::as_str))?)?;
    let nodes: Vec<u32> = list.iter().map(|member| member.node).collect();
    let order = Order {
        config,
        options,
        list,
        nodes: &nodes,
    };
    check_stopped(config)?;
    let path = Path::new(&config.data_dir);
    match check_empty(path) {
        Ok(()) => order.begin(path),
        Err(RepairError::Holds { .. }) => order.change(),
        Err(error) => Err(error),
    }
}

impl Order<'_> {
    fn purpose(&self) -> Purpose<'_> {
        Purpose {
            verb: "members",
            cluster: &self.config.cluster.id,
            members: self.nodes,
        }
    }

    /// On a node that holds data.
    fn change(&self) -> Result<String, RepairError> {
        let (config, options) = (self.config, self.options);
        let node = config.node_id;
        let Holding { directory, record } = hold(config)?;
        if record.condition == Condition::Importing {
            let path = directory.path().to_owned();
            return Err(IdentityError::Unfinished { path }.into());
        }
        let current: Vec<u32> = record.members.iter().map(|it| it.node).collect();
        if current == self.nodes && !record.before.is_empty() {
            let own = Plan {
                before: record.before.clone(),
                ..Plan::done(node, &record)
            };
            let out = options.write_plan.as_deref();
            return was_done(&own, &self.purpose(), "members", out);
        }
        if !record.before.is_empty() && !record.formed {
            return Err(RepairError::NotCome {
                node,
                epoch: record.epoch,
                members: current,
            });
        }
        if !record.has(node) {
            return Err(RepairError::Removed {
                node,
                epoch: record.epoch,
                members: current,
            });
        }
        let change = Change::of(record.epoch + 1, current, record.removed.clone(), self)?;
        let census = Census::take(config, record.epoch, &record.members);
        self.check_others(&record, &change, &census)?;
        let newest = newest::read(config, directory.path(), &record)?;
        check_whole(node, &record, &newest)?;
        let own = Plan {
            node,
            epoch: change.epoch,
            before: change.before.clone(),
            removed: change.removed.clone(),
            newest,
            done: false,
        };
        let text = own.text(&self.purpose());
        let plans = Plans::gather(Some(own), &options.plans, &self.purpose())?;
        let told = tell(self, &record, &change, &census, &plans);
        if let Some(path) = &options.write_plan {
            return Ok(match hand_on(path, &text)? {
                true => self.ends(told, &change, &plans),
                false => {
                    eprintln!("{told}");
                    text
                }
            });
        }
        if !options.apply {
            return Ok(self.ends(told, &change, &plans));
        }
        let known = record.known.iter().map(|(node, it)| (*node, *it));
        let known = known.filter(|(node, _)| self.nodes.contains(node));
        let after = Record {
            condition: record.condition,
            known: known.collect(),
            replaced: record.replaced.clone(),
            ..self.record(&record, &change, &plans)?
        };
        after.write(directory.path())?;
        Ok(format!("{told}\n{}", self.done(&change)))
    }

    /// On a node that holds nothing, because it is new.
    fn begin(&self, path: &Path) -> Result<String, RepairError> {
        let (config, options) = (self.config, self.options);
        let node = config.node_id;
        let plans = Plans::gather(None, &options.plans, &self.purpose())?;
        let Some(known) = plans.any() else {
            check_configured(config, &self.list, &configured(config))?;
            return self.knows_nothing();
        };
        if known.before.contains(&node) {
            let epoch = known.epoch - 1;
            return Err(RepairError::NoData { node, epoch });
        }
        let mut removed = plans.removed();
        removed.retain(|it| !known.before.contains(it));
        let change = Change::of(known.epoch, known.before.clone(), removed, self)?;
        let told = format!(
            "node {node} is new in cluster {}: a member of epoch {}, with {}. It holds nothing and knows that: it \
             helps to elect only who holds all that those hold who stay, and is filled by them",
            config.cluster.id,
            change.epoch,
            list(self.nodes),
        );
        if let Some(out) = &options.write_plan {
            let text = self.nothing().text(&self.purpose());
            return Ok(match hand_on(out, &text)? {
                true => told,
                false => text,
            });
        }
        if !options.apply {
            return Ok(self.ends(told, &change, &plans));
        }
        change.check_complete(&plans)?;
        let Holding { directory, record } = hold(config)?;
        let after = self.record(&record, &change, &plans)?;
        clear(path)?;
        after.write(directory.path())?;
        Ok(format!("{told}\n{}", self.done(&change)))
    }

    /// Before any plan is there.
    fn knows_nothing(&self) -> Result<String, RepairError> {
        let node = self.config.node_id;
        if self.options.apply {
            return Err(RepairError::PlansNeeded);
        }
        let told = format!("node {node} holds nothing, so it is taken for a new one");
        match &self.options.write_plan {
            Some(out) if !hand_on(out, &self.nothing().text(&self.purpose()))? => {
                Ok(self.nothing().text(&self.purpose()))
            }
            Some(_) => Ok(told),
            None => Ok(format!(
                "{told}. Nothing was changed. Run this on a node that stays, which says what is next"
            )),
        }
    }

    /// The plan of a node that holds nothing.
    fn nothing(&self) -> Plan {
        Plan {
            node: self.config.node_id,
            epoch: 0,
            before: Vec::new(),
            removed: Vec::new(),
            newest: BTreeMap::new(),
            done: false,
        }
    }

    /// Refuses while one runs that is to stay, and beside those that are of another repair.
    fn check_others(
        &self,
        record: &Record,
        change: &Change,
        census: &Census,
    ) -> Result<(), RepairError> {
        if let Some((node, it)) = &census.newer {
            let standing = &it.standing;
            if (standing.epoch, standing.members.as_slice()) != (change.epoch, self.nodes) {
                return Err(RepairError::other(*node, it));
            }
        }
        let runs = |member: &&Member| {
            census.answering.contains(&member.node) && change.stay.contains(&member.node)
        };
        match record.members.iter().find(runs).cloned() {
            Some(Member { node, address }) => Err(Running { node, address }.into()),
            None => Ok(()),
        }
    }

    /// The record of a member of the new epoch.
    fn record(&self, now: &Record, change: &Change, plans: &Plans) -> Result<Record, RepairError> {
        change.check_complete(plans)?;
        let target = plans.target();
        let ahead = plans.ahead_of(&target);
        if !ahead.is_empty() {
            let done: Vec<u32> = plans.done().map(|plan| plan.node).collect();
            return Err(RepairError::WentOn {
                ahead,
                done,
                epoch: change.epoch - 1,
            });
        }
        Ok(Record {
            epoch: change.epoch,
            origin: origin(&self.purpose(), change.epoch, &target),
            before: change.before.clone(),
            removed: change.removed.clone(),
            newest: target,
            ..Record::new(now.instance, now.place, self.list.clone())
        })
    }

    /// What was told, and what is left to be done.
    fn ends(&self, told: String, change: &Change, plans: &Plans) -> String {
        let members: Vec<String> = self.list.iter().map(ToString::to_string).collect();
        let steps = Steps {
            command: format!(
                "drakkar repair members --config FILE --members {}",
                members.join(",")
            ),
            holders: &change.stay,
            members: self.nodes,
            plans: &self.options.plans,
            complete: change.check_complete(plans).is_ok(),
            last: "Those that go stay stopped, and away from the cluster.",
        };
        steps.behind(told)
    }

    fn done(&self, change: &Change) -> String {
        format!(
            "Done: node {} is of epoch {}. Start it once it is done on all others. They begin when a majority of \
             the members before is there",
            self.config.node_id, change.epoch
        )
    }
}

impl Change {
    fn of(
        epoch: u64,
        before: Vec<u32>,
        mut removed: Vec<u32>,
        order: &Order<'_>,
    ) -> Result<Self, RepairError> {
        let part = |nodes: &[u32], of: &[u32], is: bool| -> Vec<u32> {
            let nodes = nodes.iter().copied();
            nodes.filter(|node| of.contains(node) == is).collect()
        };
        let (stay, new) = (
            part(order.nodes, &before, true),
            part(order.nodes, &before, false),
        );
        let gone = part(&before, order.nodes, false);
        check_removed(&order.list, &removed)?;
        removed.extend(&gone);
        if new.is_empty() && gone.is_empty() {
            let why = "these are the members already: start them".to_owned();
            return Err(RepairError::InvalidMembers { why });
        }
        check_configured(order.config, &order.list, &removed)?;
        if stay.len() <= before.len() / 2 {
            return Err(RepairError::FewStay {
                epoch: epoch - 1,
                before,
                stay,
            });
        }
        check_epoch(epoch)?;
        Ok(Self {
            epoch,
            before,
            stay,
            new,
            gone,
            removed,
        })
    }

    /// All that stay must have said what they hold.
    fn check_complete(&self, plans: &Plans) -> Result<(), RepairError> {
        match self.stay.iter().all(|node| plans.has(*node)) {
            true => Ok(()),
            false => Err(RepairError::PlansNeeded),
        }
    }
}

fn configured(config: &Config) -> Vec<u32> {
    config.cluster.nodes.iter().map(|node| node.id).collect()
}

/// What a disk has lost, or what a node never had of what it must wait for, is not in its plan: then nobody could
/// tell whether the plans hold all that was acknowledged.
fn check_whole(
    node: u32,
    record: &Record,
    newest: &BTreeMap<GroupId, Newest>,
) -> Result<(), RepairError> {
    let lacks = |(group, own): &(&GroupId, &Newest)| {
        let awaited = record.newest.get(group).copied().unwrap_or_default();
        own.damaged || (own.term, own.index) < (awaited.1, awaited.0)
    };
    let groups = newest.iter().filter(lacks);
    let groups: Vec<u32> = groups.map(|(group, _)| group.to_raw()).collect();
    match groups.is_empty() {
        true => Ok(()),
        false => Err(RepairError::NotWhole { node, groups }),
    }
}

fn tell(
    order: &Order<'_>,
    record: &Record,
    change: &Change,
    census: &Census,
    plans: &Plans,
) -> String {
    let after = (change.epoch, order.list.as_slice());
    let mut text = heading(order.config, record, after, census);
    text.push_str(&columns(&plans.rows()));
    text.push_str(&format!(
        "\nStay: nodes {}. New, without data: {}. Gone, for ever: {}.\n",
        list(&change.stay),
        list(&change.new),
        list(&change.gone)
    ));
    let living: Vec<u32> = census.answering.clone();
    if !living.is_empty() {
        text.push_str(&format!(
            "Still running: node {}. Alone it acknowledges nothing, and it ends when it hears of this: stop it.\n",
            list(&living)
        ));
    }
    text.push_str(&plans.coverage(change.stay.iter().copied()));
    if change.check_complete(plans).is_ok() {
        for (node, groups) in plans.alone() {
            let groups: Vec<u32> = groups.iter().map(|it| it.to_raw()).collect();
            text.push_str(&format!(
                "Waited for: node {node}, which alone holds the newest entry of groups {groups:?}. They serve nothing \
                 until it was started with the new list.\n"
            ));
        }
    }
    text.push_str(
        "Lost: nothing. Those that stay are a majority, so one of them holds whatever was acknowledged.",
    );
    text
}

#[cfg(test)]
mod tests {
    use std::fs;

    use engine::io::identity::Place;
    use wal::{LogIndex, Term};

    use super::*;

    #[test]
    fn who_lost_something_or_waits_for_it_tells_nothing() {
        let path = std::env::temp_dir().join(format!("drakkar-whole-{}", std::process::id()));
        fs::write(&path, "").unwrap();
        let place = Place::of(&fs::metadata(&path).unwrap());
        fs::remove_file(&path).unwrap();
        let mut record = Record::new(5, place, Vec::new());
        let group = GroupId::from_raw(3);
        let holds = |index, term, damaged| {
            let newest = Newest {
                index: LogIndex::from_raw(index),
                term: Term::from_raw(term),
                damaged,
                ..Newest::default()
            };
            BTreeMap::from([(group, newest)])
        };
        let refusal = |record: &Record, newest| {
            let checked = check_whole(1, record, &newest);
            checked.map_err(|error| (error.code(), error.to_string()))
        };
        assert_eq!(refusal(&record, holds(9, 2, false)), Ok(()));
        let (code, damaged) = refusal(&record, holds(9, 2, true)).unwrap_err();
        assert!(
            damaged.contains("of groups [3]: start the nodes"),
            "{damaged}"
        );
        assert_eq!(code, 4);
        // What an earlier repair told it to wait for.
        let told = (LogIndex::from_raw(9), Term::from_raw(2));
        record.newest = BTreeMap::from([(group, told)]);
        assert_eq!(refusal(&record, holds(9, 2, false)), Ok(()));
        assert_eq!(refusal(&record, holds(1, 3, false)), Ok(()));
        assert!(refusal(&record, holds(8, 2, false)).is_err());
        assert!(refusal(&record, BTreeMap::from([(group, Newest::default())])).is_err());
    }
}
