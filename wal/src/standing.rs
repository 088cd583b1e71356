//! How each group of a log stands. Every segment begins with it, so that nothing before the segment
//! is needed but the entries that are named there.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use crate::groups::Groups;
use crate::{Claim, GroupId, HardState, LogIndex, Record, ReplicaId, Term};

/// Everything the log holds of a group but its entries.
#[derive(Clone, Debug, Default)]
pub(crate) struct Standing {
    hard_state: HardState,
    floor: (LogIndex, Term),
    /// The newest entry; the floor if there is none above it.
    last: (LogIndex, Term),
    /// What is missing, as long as nobody wrote that it is there again.
    note: Option<Note>,
    /// Term and vote as this writer wrote them last.
    promised: Option<(Term, Option<ReplicaId>)>,
}

impl Standing {
    /// As replay found it.
    pub(crate) fn read(
        hard_state: HardState,
        floor: (LogIndex, Term),
        last: (LogIndex, Term),
        note: Option<Note>,
    ) -> Self {
        Self {
            hard_state,
            floor,
            last,
            note,
            promised: None,
        }
    }
}

/// What [`Record::Damaged`] says.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Note {
    pub(crate) claim: Option<Claim>,
    pub(crate) promises_lost: bool,
}

/// How the groups of a log stand.
#[derive(Debug, Default)]
pub(crate) struct Standings {
    groups: Groups<Standing>,
    damaged: usize,
    /// Groups that are not among these may be damaged as well, and nobody has said so yet.
    unnoted: bool,
}

impl Standings {
    pub(crate) fn new(groups: BTreeMap<GroupId, Standing>, unnoted: bool) -> Self {
        let damaged = groups.values().filter(|group| group.note.is_some());
        let damaged = damaged.count();
        Self {
            groups: groups.into(),
            damaged,
            unnoted,
        }
    }

    /// Whether a hard state holds a term or vote that this writer has not written yet.
    pub(crate) fn is_promise(&self, group: GroupId, state: HardState) -> bool {
        let known = self.groups.get(group);
        known.and_then(|known| known.promised) != Some((state.term, state.vote))
    }

    /// Whether any group misses something.
    pub(crate) fn is_damaged(&self) -> bool {
        self.damaged > 0 || self.unnoted
    }

    /// A record was laid out.
    pub(crate) fn take(&mut self, record: &Record) {
        match *record {
            Record::Entry { group, ref entry } => {
                self.of(group).last = (entry.index, entry.term);
            }
            Record::Patch { group, ref entry } => {
                let group = self.of(group);
                if entry.index >= group.last.0 {
                    group.last = (entry.index, entry.term);
                }
            }
            Record::HardState { group, state } => {
                let group = self.of(group);
                group.hard_state = state;
                group.promised = Some((state.term, state.vote));
            }
            Record::Floor { group, index, term } => {
                let group = self.of(group);
                group.floor = (index, term);
                group.last = if group.last.0 > index {
                    group.last
                } else {
                    (index, term)
                };
            }
            Record::Damaged {
                group,
                claim,
                promises_lost,
            } => self.note(
                group,
                Some(Note {
                    claim,
                    promises_lost,
                }),
            ),
            Record::Intact { group, .. } => self.note(group, None),
            Record::Contents { .. } => {}
        }
    }

    fn note(&mut self, group: GroupId, note: Option<Note>) {
        let noted = note.is_some();
        self.unnoted &= !noted;
        let before = core::mem::replace(&mut self.of(group).note, note);
        self.damaged = self.damaged + usize::from(noted) - usize::from(before.is_some());
    }

    fn of(&mut self, group: GroupId) -> &mut Standing {
        self.groups.of(group)
    }

    /// What a segment begins with.
    pub(crate) fn records(&self) -> Vec<Record> {
        let mut records = Vec::new();
        for (group, standing) in self.groups.iter() {
            let (index, term) = standing.floor;
            let last = standing.last.max((index, term));
            records.push(Record::HardState {
                group,
                state: standing.hard_state,
            });
            if index > LogIndex::ZERO {
                records.push(Record::Floor { group, index, term });
            }
            records.push(Record::Contents {
                group,
                first: index.next(),
                last: last.0,
                term: last.1,
                patched: false,
            });
            if let Some(note) = standing.note {
                records.push(Record::Damaged {
                    group,
                    claim: note.claim,
                    promises_lost: note.promises_lost,
                });
            }
        }
        records
    }
}
