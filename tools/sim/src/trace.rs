//! Tells what happens, to whoever wants to know.

use engine::raft::Message;
use wal::Record;

use crate::cluster::Cluster;

impl Cluster {
    /// Tells what happens, to whoever wants to know.
    pub(crate) fn tell(&self, what: impl FnOnce(&Self) -> String) {
        if self.told {
            let (seconds, micros) = (self.now / 1_000_000_000, self.now / 1_000 % 1_000_000);
            println!("{:>7} {seconds:>3}.{micros:06} {}", self.steps, what(self));
        }
    }
}

/// A message, in a line.
pub(crate) fn describe(message: &Message) -> String {
    match message {
        Message::Append {
            term,
            previous_index,
            previous_term,
            commit,
            entries,
        } => {
            let terms: Vec<u64> = entries.iter().map(|entry| entry.term.to_raw()).collect();
            format!(
                "Append term {term} behind {previous_index}/{previous_term} commit {commit} entries of terms {terms:?}"
            )
        }
        other => format!("{other:?}"),
    }
}

/// A record, in a few words.
pub(crate) fn describe_record(record: &Record) -> String {
    match record {
        Record::Entry { group, entry } | Record::Patch { group, entry } => {
            format!(
                "{group}:{}/{} {} bytes",
                entry.index,
                entry.term,
                entry.payload.len()
            )
        }
        Record::HardState { group, state } => {
            let vote = state.vote.map_or(0, |vote| vote.to_raw());
            format!(
                "{group}: term {} vote {vote} commit {}",
                state.term, state.commit
            )
        }
        Record::Floor { group, index, .. } => format!("{group}: floor {index}"),
        Record::Intact { group, index, .. } => format!("{group}: intact {index}"),
        Record::Contents { group, last, .. } => format!("{group}: up to {last} before"),
        Record::Damaged { group, .. } => format!("{group}: damaged"),
    }
}
