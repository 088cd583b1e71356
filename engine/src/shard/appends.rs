//! What followers are sent, and how long an append takes to come back: one to each peer is watched at a time.

use alloc::collections::BTreeMap;
use core::time::Duration;

use wal::{GroupId, LogIndex, NodeId, Term};

use super::Histogram;
use crate::raft::Message;
use crate::time::Time;

/// Appends that carry entries, as leaders here sent them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Appends {
    /// Entries in each.
    pub entries: Histogram,
    /// Bytes of their payloads.
    pub bytes: Histogram,
    peers: BTreeMap<NodeId, Peer>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Peer {
    round_trips: Histogram,
    watched: Option<Watched>,
}

/// An append on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Watched {
    group: GroupId,
    term: Term,
    last: LogIndex,
    sent: Time,
}

impl Appends {
    /// For each peer, nanoseconds from the turn that sent an append until its answer was taken in: that the
    /// peer's disk has the entries is part of it. Of those that overlapped one is counted.
    pub fn round_trips(&self) -> impl Iterator<Item = (NodeId, &Histogram)> {
        let peers = self.peers.iter();
        peers.map(|(node, peer)| (*node, &peer.round_trips))
    }

    /// A message leaves. What is not answered for as long as `give_up` is watched no more.
    pub(super) fn sent(
        &mut self,
        (to, group, message): &(NodeId, GroupId, Message),
        now: Time,
        give_up: Duration,
    ) {
        let Message::Append { term, entries, .. } = message else {
            return;
        };
        let Some(last) = entries.last() else {
            return;
        };
        self.entries.record(entries.len() as u64);
        let bytes: usize = entries.iter().map(|entry| entry.payload.len()).sum();
        self.bytes.record(bytes as u64);
        let watched = &mut self.peers.entry(*to).or_default().watched;
        if watched.is_none_or(|it| now.since(it.sent) >= give_up) {
            *watched = Some(Watched {
                group: *group,
                term: *term,
                last: last.index,
                sent: now,
            });
        }
    }

    /// A message came.
    pub(super) fn received(&mut self, from: NodeId, group: GroupId, message: &Message, now: Time) {
        let &Message::Appended { term, matched } = message else {
            return;
        };
        let Some(peer) = self.peers.get_mut(&from) else {
            return;
        };
        let answers = |it: &mut Watched| it.group == group && it.term == term && it.last <= matched;
        if let Some(watched) = peer.watched.take_if(answers) {
            let nanos = now.since(watched.sent).as_nanos();
            let nanos = u64::try_from(nanos).unwrap_or(u64::MAX);
            peer.round_trips.record(nanos);
        }
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;

    use wal::{Entry, EntryKind, Payload};

    use super::*;

    const GIVE_UP: Duration = Duration::from_nanos(1000);

    fn append(to: u32, group: u32, indices: core::ops::Range<u64>) -> (NodeId, GroupId, Message) {
        let entry = |index| Entry {
            index: LogIndex::from_raw(index),
            term: Term::from_raw(3),
            kind: EntryKind::Batch,
            payload: Payload::from(alloc::vec![7; 10]),
        };
        let message = Message::Append {
            term: Term::from_raw(3),
            previous_index: LogIndex::from_raw(indices.start - 1),
            previous_term: Term::from_raw(3),
            commit: LogIndex::ZERO,
            entries: indices.map(entry).collect(),
        };
        (NodeId::from_raw(to), GroupId::from_raw(group), message)
    }

    #[test]
    fn appends_are_counted_and_one_to_each_peer_is_timed() {
        let mut appends = Appends::default();
        let send = |appends: &mut Appends, to, group, indices, now| {
            appends.sent(&append(to, group, indices), Time::from_nanos(now), GIVE_UP);
        };
        let answer = |appends: &mut Appends, from, group, term, matched, now| {
            let message = Message::Appended {
                term: Term::from_raw(term),
                matched: LogIndex::from_raw(matched),
            };
            let (from, group) = (NodeId::from_raw(from), GroupId::from_raw(group));
            appends.received(from, group, &message, Time::from_nanos(now));
        };
        let times = |appends: &Appends| -> Vec<(u32, u64, u64)> {
            let times = appends.round_trips();
            let times = times.map(|(node, it)| (node.to_raw(), it.count(), it.sum()));
            times.collect()
        };
        send(&mut appends, 2, 0, 5..5, 90); // only a commit
        assert_eq!((appends.entries.count(), times(&appends).len()), (0, 0));

        send(&mut appends, 2, 0, 5..8, 100);
        send(&mut appends, 2, 0, 8..9, 110); // overlaps
        send(&mut appends, 3, 0, 5..9, 110);
        assert_eq!((appends.entries.count(), appends.entries.sum()), (3, 8));
        assert_eq!((appends.bytes.count(), appends.bytes.sum()), (3, 80));
        answer(&mut appends, 2, 0, 3, 6, 150); // not all of it
        answer(&mut appends, 2, 1, 3, 9, 150); // of another group
        answer(&mut appends, 2, 0, 2, 9, 150); // of another term
        answer(&mut appends, 4, 0, 3, 9, 150); // nothing was sent there
        assert_eq!(times(&appends), [(2, 0, 0), (3, 0, 0)]);
        answer(&mut appends, 2, 0, 3, 7, 160);
        answer(&mut appends, 2, 0, 3, 8, 170);
        answer(&mut appends, 3, 0, 3, 8, 180);
        assert_eq!(times(&appends), [(2, 1, 60), (3, 1, 70)]);

        // One that is never answered stands in the way of others for so long only.
        send(&mut appends, 2, 1, 1..2, 200);
        send(&mut appends, 2, 0, 9..10, 1199);
        answer(&mut appends, 2, 0, 3, 9, 1199);
        assert_eq!(times(&appends)[0], (2, 1, 60));
        send(&mut appends, 2, 0, 10..11, 1200);
        answer(&mut appends, 2, 0, 3, 10, 1204);
        assert_eq!(times(&appends)[0], (2, 2, 64));
    }
}
