//! What must be true at every moment, checked from outside with more than any node can see.

use std::collections::{BTreeMap, BTreeSet};

use engine::raft::{Message, Role};
use engine::shard::{Flush, GroupStatus};
use wal::{Entry, EntryKind, FlushNumber, GroupId, LogIndex, NodeId, Record, Term};

use crate::contents::{Change, Content, Contents, Found, apply, ends_log, position};
use crate::faults::{Counters, Plan};
use crate::memberships::{Memberships, Voters, voters_of};
use crate::node_log::{NodeLog, Seen};
use crate::rng;

/// A broken promise, in a sentence.
pub(crate) type Broken = String;

/// What the whole cluster did, group by group, and what is on each disk.
#[derive(Clone)]
pub(crate) struct Oracle {
    members: Vec<usize>,
    groups: Vec<Group>,
    logs: Vec<NodeLog>,
}

#[derive(Clone, Default)]
struct Group {
    /// Who led each term.
    leaders: BTreeMap<Term, usize>,
    /// What each `(index, term)` holds, and the term of the entry before it.
    entries: BTreeMap<(LogIndex, Term), Written>,
    /// Per index, from 1: what was applied there first.
    applied: Vec<Applied>,
    /// The furthest commit that any leader claimed.
    committed: LogIndex,
    /// Terms of which a leader has committed an entry.
    commits: BTreeSet<Term>,
    memberships: Memberships,
    /// The state after each index that was seen at rest, and who was seen.
    hashes: BTreeMap<LogIndex, (u64, usize)>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
struct Written {
    hash: u64,
    previous: Term,
}

#[derive(Clone, Copy)]
struct Applied {
    term: Term,
    /// The term that the first replica to apply it was in: it was committed in this or an earlier one.
    by: Term,
}

impl Oracle {
    /// Nothing has happened yet.
    pub(crate) fn new(plan: &Plan) -> Self {
        let Plan {
            nodes,
            groups,
            founders,
            ..
        } = *plan;
        let group = Group {
            memberships: Memberships::new((0..founders).collect()),
            ..Group::default()
        };
        let groups: Vec<_> = (0..groups).map(|_| group.clone()).collect();
        Self {
            members: (0..nodes).collect(),
            logs: vec![NodeLog::new(groups.len(), Vec::new()); nodes],
            groups,
        }
    }

    /// A node puts a flush on its way.
    pub(crate) fn flushed(
        &mut self,
        node: usize,
        flush: &Flush,
        counters: &mut Counters,
    ) -> Result<(), Broken> {
        let mut changes = Vec::with_capacity(flush.records.len());
        for record in &flush.records {
            let log = &mut self.logs[node];
            let change = match record {
                Record::Entry { group, entry } | Record::Patch { group, entry } => {
                    let content = log.placed.entry(*group).or_default();
                    let (terms, floor) = (&content.terms, content.floor);
                    let at = position(entry.index);
                    if entry.index.to_raw() > content.last() + 1 {
                        return Err(format!(
                            "node {} writes entry {} of group {group} behind entry {}",
                            node + 1,
                            entry.index,
                            terms.len()
                        ));
                    }
                    // What only ends a log that begins anew is no entry.
                    let marks = ends_log(&flush.records, *group, entry.index);
                    let follows = entry.index > floor.next();
                    if terms.get(at).is_some_and(|&old| old != entry.term) {
                        counters.truncations += 1;
                        let memberships = &self.groups[group.to_raw() as usize].memberships;
                        let held = |index| terms.get(position(index)).copied();
                        counters.undone_changes += memberships.undone(entry.index, held);
                    }
                    let written = Written {
                        hash: rng::hash(&entry.payload) ^ kind(entry.kind),
                        previous: at
                            .checked_sub(1)
                            .and_then(|at| terms.get(at))
                            .copied()
                            .unwrap_or_default(),
                    };
                    let entries = &mut self.groups[group.to_raw() as usize].entries;
                    let known = entries.get(&(entry.index, entry.term)).copied();
                    let first = known.unwrap_or(written);
                    if !marks && follows && known.is_none() {
                        entries.insert((entry.index, entry.term), written);
                    }
                    if !marks && known.is_none() && entry.kind == EntryKind::Membership {
                        counters.member_changes += 1;
                        self.changes_members(node, *group, entry)?;
                    }
                    let differs = first.hash != written.hash || follows && first != written;
                    if !marks && differs {
                        return Err(format!(
                            "logs of group {group} do not match at index {} term {}: node {} holds another entry, or the same behind another one",
                            entry.index,
                            entry.term,
                            node + 1
                        ));
                    }
                    if matches!(record, Record::Patch { .. }) {
                        Change::Patch(*group, entry.index, entry.term)
                    } else {
                        Change::Entry(*group, entry.index, entry.term)
                    }
                }
                Record::HardState { group, state } => {
                    let old = log.placed.entry(*group).or_default().state;
                    let revoted =
                        state.term == old.term && old.vote.is_some() && state.vote != old.vote;
                    if state.term < old.term || revoted {
                        return Err(format!(
                            "node {} goes from {old:?} to {state:?} in group {group}",
                            node + 1
                        ));
                    }
                    Change::HardState(*group, *state)
                }
                Record::Intact { group, .. } => {
                    log.damaged.retain(|damaged| damaged != group);
                    Change::Intact(*group)
                }
                // Where a log begins anew, the term before its first entry is only made up.
                Record::Floor { group, index, .. }
                    if ends_log(&flush.records, *group, index.next()) =>
                {
                    Change::Floor(*group, *index, Term::ZERO)
                }
                Record::Floor { group, index, term } => Change::Floor(*group, *index, *term),
                Record::Damaged { group, .. }
                    if !log.suspects.contains(group) && !log.unaware.contains(group) =>
                {
                    return Err(format!(
                        "node {} takes entries of group {group} for lost that never were",
                        node + 1
                    ));
                }
                Record::Contents { .. } | Record::Damaged { .. } => continue,
            };
            apply(&mut self.logs[node].placed, change);
            changes.push(change);
        }
        self.logs[node].pending.push_back((flush.number, changes));
        Ok(())
    }

    /// A node's flushes up to `number` are durable.
    pub(crate) fn durable(&mut self, node: usize, number: FlushNumber) {
        self.logs[node].durable(number);
    }

    /// A node says something: what it promises with that is durable.
    pub(crate) fn sent(
        &self,
        node: usize,
        to: NodeId,
        group: GroupId,
        message: &Message,
    ) -> Result<(), Broken> {
        self.logs[node].sent(node, to, group, message)
    }

    /// The furthest commit that any leader of the group claimed.
    pub(crate) fn committed(&self, group: GroupId) -> LogIndex {
        self.groups[group.to_raw() as usize].committed
    }

    /// Whether the node found damage when it last started, and what notes its end is not durable: after
    /// a crash it would find it again.
    pub(crate) fn is_damaged(&self, node: usize) -> bool {
        self.logs[node].is_damaged()
    }

    /// A node found this on its disk: all that was durable, and of the rest a beginning. Groups that
    /// are damaged and say so may hold less, and a lesser term or vote only if they know that too.
    pub(crate) fn recovered(
        &mut self,
        node: usize,
        found: &Found,
        damaged: &[GroupId],
        (suspects, forgetful): (Vec<GroupId>, &[GroupId]),
    ) -> Result<(), Broken> {
        self.logs[node].recovered(node, found, damaged, (suspects, forgetful))
    }

    /// A node finds less on its disk than was durable, and nothing there tells. Whether that costs only
    /// entries that a majority holds without it, and no promise: then it goes on from what it found.
    pub(crate) fn forgives(&mut self, node: usize, found: &Found) -> bool {
        let held = &self.logs[node].durable;
        if !self.members.contains(&node) || !held.keys().eq(found.keys()) {
            return false;
        }
        let lost = |(group, content): (&GroupId, &Content)| {
            let left = &found[group];
            let same = (left.state.term, left.state.vote, left.floor)
                == (content.state.term, content.state.vote, content.floor);
            if !same || !content.terms.starts_with(&left.terms) {
                return None;
            }
            let mut lost = (left.terms.len()..content.terms.len())
                .map(|at| self.holds_without(node, *group, at, content.terms[at]));
            let any = lost.len() > 0;
            lost.all(|held| held).then_some(any.then_some(*group))
        };
        let Some(lost) = held.iter().map(lost).collect::<Option<Vec<_>>>() else {
            return false;
        };
        let log = &mut self.logs[node];
        log.unaware.extend(lost.into_iter().flatten());
        log.durable = found.clone();
        log.pending.clear();
        true
    }

    /// Whether the disks of a majority hold the entry, without that of the node.
    fn holds_without(&self, node: usize, group: GroupId, at: usize, term: Term) -> bool {
        self.electorates(group).iter().all(|voters| {
            let others = voters.iter().filter(|&&other| other != node);
            let holders = others.filter(|&&other| self.logs[other].holds(group, at, term));
            holders.count() > voters.len() / 2
        })
    }

    fn electorates(&self, name: GroupId) -> Vec<Voters> {
        let group = &self.groups[name.to_raw() as usize];
        let applied = |(index, term): (LogIndex, Term)| {
            let applied = group.applied.get(position(index));
            applied.is_some_and(|applied| applied.term == term)
        };
        group.memberships.electorates(applied)
    }

    fn changes_members(&mut self, node: usize, name: GroupId, entry: &Entry) -> Result<(), Broken> {
        let nothing = Content::default();
        let content = self.logs[node].placed.get(&name).unwrap_or(&nothing);
        let group = &mut self.groups[name.to_raw() as usize];
        let holds = |(index, term): (LogIndex, Term)| {
            let held = content.terms.get(position(index)).copied();
            let applied = group.applied.get(position(index)).map(|it| it.term);
            // A snapshot stands for what was committed.
            held == Some(term) || held == Some(Term::ZERO) && applied == Some(term)
        };
        let began = group.commits.contains(&entry.term);
        let changed = group
            .memberships
            .change(entry, holds, group.committed, began);
        changed.map_err(|wrong| {
            format!(
                "node {} changes the members of group {name} at entry {} of term {}: {wrong}",
                node + 1,
                entry.index,
                entry.term
            )
        })
    }

    /// What [`Oracle::recovered`] checks, without taking it for what the node goes on from. Returns what it stands for.
    pub(crate) fn check(
        &self,
        node: usize,
        found: &Found,
        damaged: &[GroupId],
    ) -> Result<Contents, Broken> {
        self.logs[node].check(node, found, damaged)
    }

    /// A node's disk holds nothing any more.
    pub(crate) fn wiped(&mut self, node: usize, groups: Vec<GroupId>) {
        self.logs[node] = NodeLog::new(self.groups.len(), groups);
    }

    /// A lost majority was given up: the survivors hold of each group all that one of them applied and had
    /// on its disk, and that is how it goes on.
    pub(crate) fn go_on(
        &mut self,
        survivors: &[usize],
        newest: &BTreeMap<GroupId, (LogIndex, Term)>,
    ) -> Result<(), Broken> {
        self.members = survivors.to_vec();
        for (name, group) in (0..).map(GroupId::from_raw).zip(&mut self.groups) {
            let (last, term) = newest.get(&name).copied().unwrap_or_default();
            let contents = survivors.iter().map(|&node| &self.logs[node].placed);
            let logs = contents.filter_map(|placed| placed.get(&name));
            let mut logs = logs.filter(|log| log.last() >= last.to_raw());
            // Below the floor, and where a snapshot is all there is, nobody knows; it was committed.
            let ends_so = |log: &&Content| {
                let at = last
                    .to_raw()
                    .checked_sub(1)
                    .and_then(|at| usize::try_from(at).ok());
                let held = at.and_then(|at| log.terms.get(at));
                held.is_none_or(|&held| held == term || held == Term::ZERO)
            };
            let terms = logs.find(ends_so).map_or(&[][..], |log| &log.terms);
            let unknown = std::iter::repeat(&Term::ZERO);
            let same = group.applied.iter().zip(terms.iter().chain(unknown));
            let same = same.take_while(|&(it, &held)| held == it.term || held == Term::ZERO);
            let kept = same
                .count()
                .min(usize::try_from(last.to_raw()).expect("runs are short"));
            for &node in survivors {
                let log = &self.logs[node];
                let durable = log.durable.get(&name).map_or(0, Content::last);
                let applied = log.seen[name.to_raw() as usize].applied.to_raw();
                let held = applied.min(durable).min(group.applied.len() as u64);
                if held > kept as u64 {
                    return Err(format!(
                        "node {} survives, applied entry {held} of group {name} and had it on its disk, and nothing behind {kept} is kept",
                        node + 1
                    ));
                }
            }
            group.memberships.found_anew(survivors);
            group.applied.truncate(kept);
            let kept = LogIndex::from_raw(kept as u64);
            group.committed = group.committed.min(kept);
            group.hashes.retain(|&at, _| at <= kept);
        }
        Ok(())
    }

    /// Compares the state of a replica after an index with that of others after the same.
    pub(crate) fn compare(
        &mut self,
        node: usize,
        name: GroupId,
        (at, hash): (LogIndex, u64),
    ) -> Result<(), Broken> {
        let group = &mut self.groups[name.to_raw() as usize];
        let (first, who) = *group.hashes.entry(at).or_insert((hash, node));
        if first == hash {
            return Ok(());
        }
        Err(format!(
            "states of group {name} differ after index {at}: {first:#018x} on node {}, {hash:#018x} on node {}",
            who + 1,
            node + 1
        ))
    }

    /// Looks at a group of a node after a step.
    pub(crate) fn observe(
        &mut self,
        node: usize,
        status: &GroupStatus,
        counters: &mut Counters,
    ) -> Result<(), Broken> {
        let name = status.group;
        let seen = &mut self.logs[node].seen[name.to_raw() as usize];
        let now = Seen {
            leads: status.role == Role::Leader,
            term: status.term,
            commit: status.commit,
            applied: status.applied,
            persisted: status.persisted,
            last: status.last,
            checked: seen.checked,
        };
        let before = std::mem::replace(seen, now);
        if before == now && now.checked == now.applied.min(now.persisted) {
            return Ok(());
        }
        if now.applied > now.commit || now.commit > now.last {
            return Err(format!("node {} is confused: {status:?}", node + 1));
        }
        if now.term < before.term {
            return Err(format!(
                "term of group {name} ran backwards on node {}",
                node + 1
            ));
        }
        if now.persisted == now.last && !status.damaged {
            self.goes_by(node, status)?;
        }
        if now.leads {
            let began = !before.leads || now.term != before.term;
            if began {
                self.leads(node, status, counters)?;
            } else if now.commit > before.commit {
                self.commits(node, status)?;
            }
        }
        self.applies(node, status, counters)
    }

    /// A replica goes by the newest change of members that its log holds.
    fn goes_by(&self, node: usize, status: &GroupStatus) -> Result<(), Broken> {
        let nothing = Content::default();
        let content = self.logs[node].placed.get(&status.group);
        let terms = &content.unwrap_or(&nothing).terms;
        let group = &self.groups[status.group.to_raw() as usize];
        let held = |at| terms.get(position(at)).copied().unwrap_or_default();
        let newest = group.memberships.newest(held);
        let since = status.members_since;
        // A snapshot stands for entries that are not known one by one.
        let fits = since == LogIndex::ZERO
            || held(since) == Term::ZERO
            || group.memberships.knows((since, held(since)));
        if since < newest || !fits {
            return Err(format!(
                "node {} goes by the members of entry {since} of group {}, its log has a change at {newest}",
                node + 1,
                status.group
            ));
        }
        Ok(())
    }

    /// A node became leader of a term: nobody else did, and it holds all that was committed before.
    fn leads(
        &mut self,
        node: usize,
        status: &GroupStatus,
        counters: &mut Counters,
    ) -> Result<(), Broken> {
        let (name, term) = (status.group, status.term);
        let group = &mut self.groups[name.to_raw() as usize];
        let before = group.leaders.values().next_back().copied();
        counters.elections += 1;
        counters.leader_changes += u64::from(before.is_some_and(|before| before != node));
        let first = *group.leaders.entry(term).or_insert(node);
        if first != node {
            return Err(format!(
                "nodes {} and {} both lead group {name} in term {term}",
                first + 1,
                node + 1
            ));
        }
        let terms = &self.logs[node].placed.entry(name).or_default().terms;
        let lacks = group.applied.iter().zip(1u64..).find(|(applied, index)| {
            let index = LogIndex::from_raw(*index);
            // What it holds and has not yet handed to its disk is not known here.
            let held = match terms.get(position(index)) {
                Some(&Term::ZERO) => true, // a snapshot stands for it
                Some(held) => *held == applied.term,
                None => index <= status.last,
            };
            applied.by < term && !held
        });
        match lacks {
            Some((_, index)) => Err(format!(
                "node {} leads group {name} in term {term} without entry {index}, which was committed before",
                node + 1
            )),
            None => Ok(()),
        }
    }

    /// A leader moved its commit: onto an entry of its own term (Raft §5.4.2) that a quorum holds.
    fn commits(&mut self, node: usize, status: &GroupStatus) -> Result<(), Broken> {
        let (name, commit) = (status.group, status.commit);
        let group = &mut self.groups[name.to_raw() as usize];
        group.commits.insert(status.term);
        if commit <= group.committed {
            return Ok(());
        }
        group.committed = commit;
        let at = position(commit);
        let voters = voters_of(&status.members);
        let logs = voters.iter().map(|&member| &self.logs[member]);
        let holders = logs.filter(|log| {
            // What a damaged one lost, it may have acknowledged before; it votes for nobody without.
            log.damaged.contains(&name) || log.holds(name, at, status.term)
        });
        let holders = holders.count();
        if holders * 2 <= voters.len() {
            return Err(format!(
                "node {} commits entry {commit} of group {name} in term {}, and {holders} of {} disks hold it in that term",
                node + 1,
                status.term,
                voters.len()
            ));
        }
        Ok(())
    }

    /// What a node applied is what everyone applied there.
    fn applies(
        &mut self,
        node: usize,
        status: &GroupStatus,
        counters: &mut Counters,
    ) -> Result<(), Broken> {
        let name = status.group;
        let group = &mut self.groups[name.to_raw() as usize];
        let log = &mut self.logs[node];
        // The log on the disk tells what was applied as soon as it has caught up with memory.
        let until = status.applied.min(status.persisted);
        let checked = &mut log.seen[name.to_raw() as usize].checked;
        let Some(Content { terms, .. }) = log.durable.get(&name) else {
            return Ok(());
        };
        while *checked < until {
            let index = checked.next();
            let at = position(index);
            let Some(&term) = terms.get(at) else { break };
            match group.applied.get(at) {
                // A snapshot stands for it, and nobody was seen applying it yet.
                None if term == Term::ZERO => break,
                Some(_) if term == Term::ZERO => {}
                None => group.applied.push(Applied {
                    term,
                    by: status.term,
                }),
                Some(applied) if applied.term == term => {}
                Some(applied) => {
                    return Err(format!(
                        "node {} applied the entry of term {term} at index {index} of group {name}; others applied that of term {}",
                        node + 1,
                        applied.term
                    ));
                }
            }
            *checked = index;
            counters.applied += 1;
        }
        Ok(())
    }
}

fn kind(kind: EntryKind) -> u64 {
    rng::mix(kind as u64 + 1)
}
