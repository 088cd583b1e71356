//! What the log of one node holds by its flushes: what the node says, and what it finds when it starts, is held
//! against that.

use std::collections::{BTreeMap, VecDeque};

use engine::raft::Message;
use wal::{FlushNumber, GroupId, LogIndex, NodeId, ReplicaId, Term};

use crate::contents::{Change, Content, Contents, Found, apply, same};
use crate::node::node_id;
use crate::oracle::Broken;

/// What a node's log holds: as durable, and with everything that is on its way.
#[derive(Clone, Default)]
pub(crate) struct NodeLog {
    pub(crate) durable: Contents,
    pub(crate) pending: VecDeque<(FlushNumber, Vec<Change>)>,
    pub(crate) placed: Contents,
    /// Per group: how it stood in this life of the node.
    pub(crate) seen: Vec<Seen>,
    /// Groups under repair, until a flush with the end of it is on its way.
    pub(crate) damaged: Vec<GroupId>,
    /// Groups that the last start took for damaged.
    pub(crate) suspects: Vec<GroupId>,
    /// Groups of which something was lost so that only others know of it.
    pub(crate) unaware: Vec<GroupId>,
    /// The floor that each group was last given: a start that cannot read it begins at an older one, and a
    /// later one may read it, of a flush that has turned up in its place.
    floors: BTreeMap<GroupId, LogIndex>,
}

/// How a replica stood when it was last looked at.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) leads: bool,
    pub(crate) term: Term,
    pub(crate) commit: LogIndex,
    pub(crate) applied: LogIndex,
    pub(crate) persisted: LogIndex,
    pub(crate) last: LogIndex,
    /// Applied, and compared with others, up to here.
    pub(crate) checked: LogIndex,
}

impl NodeLog {
    /// Of a disk that holds nothing. Groups that are `damaged` once held something there.
    pub(crate) fn new(groups: usize, damaged: Vec<GroupId>) -> Self {
        Self {
            damaged,
            seen: vec![Seen::default(); groups],
            ..Self::default()
        }
    }

    /// Whether the disk holds the entry of a term at a position.
    pub(crate) fn holds(&self, group: GroupId, at: usize, term: Term) -> bool {
        let content = self.durable.get(&group);
        content.is_some_and(|content| content.terms.get(at) == Some(&term))
    }

    /// Flushes up to `number` are durable.
    pub(crate) fn durable(&mut self, number: FlushNumber) {
        while self
            .pending
            .front()
            .is_some_and(|(flush, _)| *flush <= number)
        {
            let (_, changes) = self.pending.pop_front().expect("just seen");
            for change in changes {
                if let Change::Floor(group, index, _) = change {
                    self.floors.insert(group, index);
                }
                apply(&mut self.durable, change);
            }
        }
    }

    /// The node says something: what it promises with that is durable.
    pub(crate) fn sent(
        &self,
        node: usize,
        to: NodeId,
        group: GroupId,
        message: &Message,
    ) -> Result<(), Broken> {
        let nothing = Default::default();
        let content = self.durable.get(&group).unwrap_or(&nothing);
        let state = content.state;
        let voted = |term, vote: NodeId| {
            let vote = Some(ReplicaId::from_raw(vote.to_raw()));
            state.term > term || (state.term, state.vote) == (term, vote)
        };
        let kept = match *message {
            Message::Vote {
                term,
                pre: false,
                granted: true,
                ..
            } => voted(term, to),
            Message::RequestVote {
                term, pre: false, ..
            } => voted(term, node_id(node)),
            Message::Appended { matched, .. } => content.last() >= matched.to_raw(),
            _ => true,
        };
        if kept {
            return Ok(());
        }
        Err(format!(
            "node {} says {message:?} in group {group}, and its disk holds {state:?} and {} entries",
            node + 1,
            content.last()
        ))
    }

    /// Whether the last start found damage, and what notes its end is not durable.
    pub(crate) fn is_damaged(&self) -> bool {
        let NodeLog {
            damaged, pending, ..
        } = self;
        let mut pending = pending.iter().flat_map(|(_, changes)| changes);
        !damaged.is_empty() || pending.any(|change| matches!(change, Change::Intact(_)))
    }

    /// The node found this on its disk, and goes on from it.
    pub(crate) fn recovered(
        &mut self,
        node: usize,
        found: &Found,
        damaged: &[GroupId],
        (suspects, forgetful): (Vec<GroupId>, &[GroupId]),
    ) -> Result<(), Broken> {
        let held = self.check(node, found, damaged)?;
        for group in damaged.iter().filter(|group| !forgetful.contains(group)) {
            let promise = |contents: &Contents| {
                let content = contents.get(group);
                content.map_or((Term::ZERO, None), |it| (it.state.term, it.state.vote))
            };
            let (before, now) = (promise(&self.durable), promise(found));
            let kept = now.0 > before.0 || now == before || now.0 == before.0 && before.1.is_none();
            if !kept {
                return Err(format!(
                    "node {} forgot {before:?} of group {group}, and takes {now:?} for all that it promised",
                    node + 1
                ));
            }
        }
        *self = Self {
            placed: held.clone(),
            durable: held,
            damaged: damaged.to_vec(),
            suspects,
            unaware: std::mem::take(&mut self.unaware),
            floors: std::mem::take(&mut self.floors),
            pending: VecDeque::new(),
            seen: vec![Seen::default(); self.seen.len()],
        };
        Ok(())
    }

    /// What [`NodeLog::recovered`] checks. Returns what `found` stands for.
    pub(crate) fn check(
        &self,
        node: usize,
        found: &Found,
        damaged: &[GroupId],
    ) -> Result<Contents, Broken> {
        // What an interrupted repair had put back may close a gap, with entries behind it.
        let unknown: Vec<_> = self.damaged.iter().chain(damaged).collect();
        let mut held = self.durable.clone();
        for group in &unknown {
            // From here on it stands for what it found, and for what it writes.
            let content = found.get(group).cloned().unwrap_or_default();
            held.insert(**group, content);
        }
        for (group, content) in &mut held {
            let floor = found.get(group).map_or(LogIndex::ZERO, |found| found.floor);
            if floor > content.floor && self.floors.get(group) == Some(&floor) {
                content.floor = floor;
            }
        }
        let mut pending = self.pending.iter();
        while !same(&held, found) {
            let Some((_, changes)) = pending.next() else {
                let differs = |(group, content): (&GroupId, &Content)| {
                    let found = found.get(group).cloned().unwrap_or_default();
                    let tell = |content: &Content| {
                        let Content { state, floor, .. } = content;
                        format!("{state:?}, entries behind {floor} up to {}", content.last())
                    };
                    let (durable, found) = (tell(content), tell(&found));
                    format!("group {group}: {durable} was durable, found {found}; ")
                };
                let differences: String = self.durable.iter().map(differs).collect();
                return Err(format!(
                    "node {} forgot what was durable: {differences}",
                    node + 1
                ));
            };
            let known = changes.iter();
            known
                .filter(|change| !unknown.contains(&&change.group()))
                .for_each(|change| apply(&mut held, *change));
        }
        Ok(held)
    }
}
