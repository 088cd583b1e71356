//! Messages of consensus as frames carry them: numbers become coordinates only here.

use alloc::rc::Rc;
use alloc::vec::Vec;

use net::peer::{ElectorateBody, EntryHead, Envelope, MessageBody, Payloads};
use wal::{Entry, EntryKind, GroupId, LogIndex, Payload, ReplicaId, Term};

use crate::raft::{Electorate, Membership, Message, Pace};

/// The message without its payloads, which [`payloads`] yields in the order of the entries.
///
/// # Panics
///
/// If a payload is 4 GiB or longer: entries are bounded far below.
pub fn envelope(group: GroupId, message: &Message) -> Envelope {
    let body = match *message {
        Message::RequestVote {
            term,
            pre,
            last_index,
            last_term,
            transfer,
            life,
        } => MessageBody::RequestVote {
            term: term.to_raw(),
            pre,
            last_index: last_index.to_raw(),
            last_term: last_term.to_raw(),
            transfer,
            life,
        },
        Message::Vote {
            term,
            pre,
            granted,
            life,
        } => MessageBody::Vote {
            term: term.to_raw(),
            pre,
            granted,
            life,
        },
        Message::Append {
            term,
            previous_index,
            previous_term,
            commit,
            ref entries,
        } => MessageBody::Append {
            term: term.to_raw(),
            previous_index: previous_index.to_raw(),
            previous_term: previous_term.to_raw(),
            commit: commit.to_raw(),
            entries: entries.iter().map(head).collect(),
        },
        Message::Appended { term, matched } => MessageBody::Appended {
            term: term.to_raw(),
            matched: matched.to_raw(),
        },
        Message::Rejected {
            term,
            previous_index,
            hint_index,
            hint_term,
        } => MessageBody::Rejected {
            term: term.to_raw(),
            previous_index: previous_index.to_raw(),
            hint_index: hint_index.to_raw(),
            hint_term: hint_term.to_raw(),
        },
        Message::Heartbeat {
            term,
            commit,
            round,
        } => MessageBody::Heartbeat {
            term: term.to_raw(),
            commit: commit.to_raw(),
            round,
        },
        Message::HeartbeatAck { term, round, disk } => MessageBody::HeartbeatAck {
            term: term.to_raw(),
            round,
            disk: disk.to_raw(),
        },
        Message::Quiet { term, last } => MessageBody::Quiet {
            term: term.to_raw(),
            last: last.to_raw(),
        },
        Message::Pulse { groups } => MessageBody::Pulse { groups },
        Message::TimeoutNow { term } => MessageBody::TimeoutNow {
            term: term.to_raw(),
        },
        Message::Repair {
            term,
            round,
            after,
            after_term,
            held,
        } => MessageBody::Repair {
            term: term.to_raw(),
            round,
            after: after.to_raw(),
            after_term: after_term.to_raw(),
            held: held.map(|(index, term)| (index.to_raw(), term.to_raw())),
        },
        Message::Offer {
            term,
            index,
            index_term,
        } => MessageBody::Offer {
            term: term.to_raw(),
            index: index.to_raw(),
            index_term: index_term.to_raw(),
        },
        Message::Repaired {
            term,
            round,
            sure,
            leads,
            last,
            after,
            after_term,
            common,
            ref electorate,
            ref entries,
        } => MessageBody::Repaired {
            term: term.to_raw(),
            round,
            sure,
            leads,
            last: last.to_raw(),
            after: after.to_raw(),
            after_term: after_term.map(Term::to_raw),
            common: common.map(|(index, term)| (index.to_raw(), term.to_raw())),
            electorate: told(electorate),
            entries: entries.iter().map(head).collect(),
        },
    };
    Envelope {
        group: group.to_raw(),
        body,
    }
}

/// The payloads of a message's entries.
pub fn payloads(message: &Message) -> impl Iterator<Item = &Payload> {
    let entries: &[Entry] = match message {
        Message::Append { entries, .. } | Message::Repaired { entries, .. } => entries,
        _ => &[],
    };
    entries.iter().map(|entry| &entry.payload)
}

/// The message an envelope holds; `None` if it is none that this build knows.
pub fn message(envelope: Envelope, mut payloads: Payloads<'_>) -> Option<(GroupId, Message)> {
    let group = GroupId::from_raw(envelope.group);
    let message = match envelope.body {
        MessageBody::RequestVote {
            term,
            pre,
            last_index,
            last_term,
            transfer,
            life,
        } => Message::RequestVote {
            term: Term::from_raw(term),
            pre,
            last_index: LogIndex::from_raw(last_index),
            last_term: Term::from_raw(last_term),
            transfer,
            life,
        },
        MessageBody::Vote {
            term,
            pre,
            granted,
            life,
        } => Message::Vote {
            term: Term::from_raw(term),
            pre,
            granted,
            life,
        },
        MessageBody::Append {
            term,
            previous_index,
            previous_term,
            commit,
            entries,
        } => Message::Append {
            term: Term::from_raw(term),
            previous_index: LogIndex::from_raw(previous_index),
            previous_term: Term::from_raw(previous_term),
            commit: LogIndex::from_raw(commit),
            entries: entries_of(&entries, &mut payloads)?,
        },
        MessageBody::Appended { term, matched } => Message::Appended {
            term: Term::from_raw(term),
            matched: LogIndex::from_raw(matched),
        },
        MessageBody::Rejected {
            term,
            previous_index,
            hint_index,
            hint_term,
        } => Message::Rejected {
            term: Term::from_raw(term),
            previous_index: LogIndex::from_raw(previous_index),
            hint_index: LogIndex::from_raw(hint_index),
            hint_term: Term::from_raw(hint_term),
        },
        MessageBody::Heartbeat {
            term,
            commit,
            round,
        } => Message::Heartbeat {
            term: Term::from_raw(term),
            commit: LogIndex::from_raw(commit),
            round,
        },
        MessageBody::HeartbeatAck { term, round, disk } => Message::HeartbeatAck {
            term: Term::from_raw(term),
            round,
            disk: Pace::from_raw(disk),
        },
        MessageBody::Quiet { term, last } => Message::Quiet {
            term: Term::from_raw(term),
            last: LogIndex::from_raw(last),
        },
        MessageBody::Pulse { groups } => Message::Pulse { groups },
        MessageBody::TimeoutNow { term } => Message::TimeoutNow {
            term: Term::from_raw(term),
        },
        MessageBody::Repair {
            term,
            round,
            after,
            after_term,
            held,
        } => Message::Repair {
            term: Term::from_raw(term),
            round,
            after: LogIndex::from_raw(after),
            after_term: Term::from_raw(after_term),
            held: held.map(position),
        },
        MessageBody::Offer {
            term,
            index,
            index_term,
        } => Message::Offer {
            term: Term::from_raw(term),
            index: LogIndex::from_raw(index),
            index_term: Term::from_raw(index_term),
        },
        MessageBody::Repaired {
            term,
            round,
            sure,
            leads,
            last,
            after,
            after_term,
            common,
            electorate,
            entries,
        } => Message::Repaired {
            term: Term::from_raw(term),
            round,
            sure,
            leads,
            last: LogIndex::from_raw(last),
            after: LogIndex::from_raw(after),
            after_term: after_term.map(Term::from_raw),
            common: common.map(position),
            electorate: heard(electorate).into(),
            entries: entries_of(&entries, &mut payloads)?,
        },
    };
    Some((group, message))
}

fn told(electorate: &Electorate) -> ElectorateBody {
    let stamped = |list: &[(LogIndex, ReplicaId)]| {
        let list = list.iter();
        list.map(|(since, id)| (since.to_raw(), id.to_raw()))
            .collect()
    };
    let voters = electorate.voters.iter().map(|voter| voter.to_raw());
    ElectorateBody {
        since: electorate.since.to_raw(),
        newest: electorate.newest.to_raw(),
        voters: voters.collect(),
        others: stamped(&electorate.others),
        observers: stamped(&electorate.observers),
    }
}

fn heard(body: ElectorateBody) -> Electorate {
    let stamped = |list: Vec<(u64, u32)>| {
        let list = list.into_iter();
        list.map(|(since, id)| (LogIndex::from_raw(since), ReplicaId::from_raw(id)))
            .collect()
    };
    let voters = body.voters.into_iter().map(ReplicaId::from_raw);
    Electorate {
        since: LogIndex::from_raw(body.since),
        newest: LogIndex::from_raw(body.newest),
        voters: voters.collect(),
        others: stamped(body.others),
        observers: stamped(body.observers),
    }
}

fn head(entry: &Entry) -> EntryHead {
    EntryHead {
        term: entry.term.to_raw(),
        index: entry.index.to_raw(),
        kind: entry.kind as u8,
        length: u32::try_from(entry.payload.len()).expect("entries are bounded far below 4 GiB"),
    }
}

fn position((index, term): (u64, u64)) -> (LogIndex, Term) {
    (LogIndex::from_raw(index), Term::from_raw(term))
}

fn entries_of(heads: &[EntryHead], payloads: &mut Payloads<'_>) -> Option<Vec<Entry>> {
    heads.iter().map(|head| entry(head, payloads)).collect()
}

fn entry(head: &EntryHead, payloads: &mut Payloads<'_>) -> Option<Entry> {
    let kind = match head.kind {
        0 => EntryKind::Noop,
        1 => EntryKind::Batch,
        2 => EntryKind::Membership,
        _ => return None,
    };
    let payload = payloads.take(head.length);
    if kind == EntryKind::Membership && Membership::decode(payload).is_err() {
        return None;
    }
    Some(Entry {
        term: Term::from_raw(head.term),
        index: LogIndex::from_raw(head.index),
        kind,
        payload: Rc::from(payload),
    })
}
