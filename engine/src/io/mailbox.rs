//! What other threads put before a shard. A letter wakes the shard only if it sleeps on its mailbox;
//! while it works, letters gather and are taken all at once.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::pipe::{PipeFlags, pipe_with};
use wal::io::Ring;
use wal::{GroupId, LogIndex, Term};

use crate::shard::{Outcome, Token};

use super::handle::{Commands, Completion};
use super::log_admin::LogAnswer;
use super::member_admin::{ChangeAnswer, Wish};
use super::snapshots::SnapshotFile;
use super::status::ShardStatus;
use super::taker::SnapshotAnswer;

/// One letter to a shard.
pub(super) enum Letter {
    /// Requests of clients that are connected to another shard of this node.
    Requests { from: u16, requests: Vec<Carried> },
    /// How requests that this shard sent ended.
    Answers(Vec<(Token, Outcome)>),
    /// Commands of an embedder.
    Commands {
        group: GroupId,
        commands: Commands,
        completion: Completion,
    },
    /// Asks for a snapshot of a group as it is now, or newer.
    Snapshot {
        group: GroupId,
        answer: SnapshotAnswer,
    },
    /// Asks which files of snapshots there are, and how far those are that are being taken.
    ListSnapshots(Box<dyn FnOnce(SnapshotsListed) + Send>),
    /// Asks for bytes of a snapshot's file, as they are.
    ReadSnapshot {
        place: SnapshotPlace,
        answer: Box<dyn FnOnce(Result<Vec<u8>, String>) + Send>,
    },
    /// Asks for committed entries of a group's log from one on, each as a record; as many as fit an
    /// answer, and none if the next is not there yet.
    ReadLog {
        group: GroupId,
        from: LogIndex,
        answer: LogAnswer,
    },
    /// Wants other members of a group.
    Members {
        group: GroupId,
        wish: Wish,
        answer: ChangeAnswer,
    },
    /// Asks how the shard is.
    Inspect(Box<dyn FnOnce(ShardStatus) + Send>),
    /// Finish and end.
    Stop,
    /// End at once: another shard failed.
    Abort,
}

/// The snapshots of a shard.
#[derive(Debug, Default)]
pub(super) struct SnapshotsListed {
    pub(super) files: Vec<SnapshotFile>,
    /// Groups whose snapshots are being taken, and how many bytes of their states are in them.
    pub(super) under_way: Vec<(GroupId, u64)>,
}

/// A part of a snapshot's file.
#[derive(Clone, Copy, Debug)]
pub(super) struct SnapshotPlace {
    pub(super) group: GroupId,
    pub(super) index: LogIndex,
    pub(super) term: Term,
    pub(super) offset: u64,
    pub(super) bytes: usize,
}

/// A request on its way between two shards.
#[derive(Debug)]
pub(super) struct Carried {
    /// The sender's name for it.
    pub(super) token: Token,
    pub(super) group: GroupId,
    /// Whether another node may be asked.
    pub(super) proxy: bool,
    /// In the encoding of [`net::Command`].
    pub(super) command: Vec<u8>,
}

impl Letter {
    /// What counts against the mailbox's limit: only what asks for work.
    fn bytes(&self) -> usize {
        match self {
            Self::Requests { requests, .. } => requests
                .iter()
                .map(|carried| carried.command.len() + size_of::<Carried>())
                .sum(),
            Self::Commands { commands, .. } => commands.bytes(),
            Self::Answers(_)
            | Self::Snapshot { .. }
            | Self::ListSnapshots(_)
            | Self::ReadSnapshot { .. }
            | Self::ReadLog { .. }
            | Self::Members { .. }
            | Self::Inspect(_)
            | Self::Stop
            | Self::Abort => 0,
        }
    }
}

impl fmt::Debug for Letter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Requests { .. } => "Requests",
            Self::Answers(_) => "Answers",
            Self::Commands { .. } => "Commands",
            Self::Snapshot { .. } => "Snapshot",
            Self::ListSnapshots(_) => "ListSnapshots",
            Self::ReadSnapshot { .. } => "ReadSnapshot",
            Self::ReadLog { .. } => "ReadLog",
            Self::Members { .. } => "Members",
            Self::Inspect(_) => "Inspect",
            Self::Stop => "Stop",
            Self::Abort => "Abort",
        })
    }
}

/// The letters of one shard.
#[derive(Debug)]
pub(super) struct Mailbox {
    inside: Mutex<Inside>,
    /// Where the shard's fiber hears that somebody rang, and where one rings: the ends of a pipe.
    bell: (OwnedFd, OwnedFd),
    bytes_max: usize,
    /// Of answers inside.
    answer_bytes: AtomicUsize,
}

#[derive(Debug, Default)]
struct Inside {
    letters: Vec<Letter>,
    bytes: usize,
    /// Whether the shard's fiber waits for the bell.
    asleep: bool,
    closed: bool,
}

impl Mailbox {
    pub(super) fn new(bytes_max: usize) -> io::Result<Self> {
        Ok(Self {
            inside: Mutex::default(),
            bell: pipe_with(PipeFlags::CLOEXEC)?,
            bytes_max,
            answer_bytes: AtomicUsize::new(0),
        })
    }

    /// Whether so many bytes of answers are inside that no more should be put in.
    pub(super) fn is_full_of_answers(&self) -> bool {
        self.answer_bytes.load(Ordering::Relaxed) > self.bytes_max
    }

    /// Puts a letter in, or gives it back if the box is full or its shard has ended.
    pub(super) fn post(&self, letter: Letter) -> Result<(), Letter> {
        let bytes = letter.bytes();
        let mut inside = self.lock();
        // One letter always fits, however large.
        let full = inside.bytes > 0 && inside.bytes + bytes > self.bytes_max;
        if inside.closed || (bytes > 0 && full) {
            return Err(letter);
        }
        if let Letter::Answers(answers) = &letter {
            let bytes = answers.iter().map(|(_, outcome)| outcome.held_bytes());
            self.answer_bytes.fetch_add(bytes.sum(), Ordering::Relaxed);
        }
        inside.letters.push(letter);
        inside.bytes += bytes;
        let asleep = std::mem::take(&mut inside.asleep);
        drop(inside);
        if asleep {
            rustix::io::write(&self.bell.1, &[0]).expect("both ends of the pipe are here");
        }
        Ok(())
    }

    /// Swaps all letters into `to`, which is empty; waits while there are none.
    pub(super) async fn take(&self, ring: &Ring, to: &mut Vec<Letter>) {
        assert!(to.is_empty(), "letters would be mixed up");
        while !self.swap(to) {
            let rung = ring.hear(self.bell.0.as_fd()).await;
            rung.expect("both ends of the pipe are here");
        }
    }

    /// False if there are none: the bell will be rung for the next one.
    pub(super) fn swap(&self, to: &mut Vec<Letter>) -> bool {
        let mut inside = self.lock();
        if inside.letters.is_empty() {
            inside.asleep = true;
            return false;
        }
        std::mem::swap(&mut inside.letters, to);
        inside.bytes = 0;
        self.answer_bytes.store(0, Ordering::Relaxed);
        true
    }

    /// Refuses further letters and drops those inside: their senders see them dropped.
    pub(super) fn close(&self) {
        let mut inside = self.lock();
        inside.closed = true;
        let letters = std::mem::take(&mut inside.letters);
        drop(inside);
        drop(letters);
    }

    fn lock(&self) -> MutexGuard<'_, Inside> {
        // Nothing that runs under the lock can leave the letters half moved.
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use net::Reply;

    use super::*;

    const BYTES_MAX: usize = 64 << 10;

    fn mailbox() -> Mailbox {
        Mailbox::new(BYTES_MAX).unwrap()
    }

    /// Requests of another shard: so many, each of a command of 1 KiB.
    fn requests(count: u64) -> Letter {
        let carried = |number| Carried {
            token: Token(number),
            group: GroupId::from_raw(0),
            proxy: false,
            command: vec![0; 1024],
        };
        Letter::Requests {
            from: 1,
            requests: (0..count).map(carried).collect(),
        }
    }

    #[test]
    fn letters_that_ask_for_work_come_back_when_the_box_is_full_and_go_in_when_it_was_emptied() {
        let mailbox = mailbox();
        let fits = BYTES_MAX / (4 * (1024 + size_of::<Carried>()));
        let taken = (0..1000).take_while(|_| mailbox.post(requests(4)).is_ok());
        assert_eq!(taken.count(), fits);
        let back = mailbox.post(requests(4)).unwrap_err();
        let Letter::Requests { requests: back, .. } = back else {
            panic!("{back:?} is another letter");
        };
        let tokens: Vec<u64> = back.iter().map(|it| it.token.0).collect();
        assert_eq!(tokens, [0, 1, 2, 3], "whoever asked can be told");
        // What others want of the shard, and what it is told, is not held up by requests.
        let (sender, receiver) = mpsc::channel();
        let inspect = move |status: ShardStatus| sender.send(status).unwrap();
        assert!(mailbox.post(Letter::Inspect(Box::new(inspect))).is_ok());
        assert!(mailbox.post(Letter::Stop).is_ok());
        let mut letters = Vec::new();
        assert!(mailbox.swap(&mut letters));
        assert_eq!(letters.len(), fits + 2);
        assert!(mailbox.post(requests(4)).is_ok(), "the box is empty");
        drop((letters, receiver));
    }

    #[test]
    fn one_letter_goes_in_however_large_and_none_beside_it() {
        let mailbox = mailbox();
        assert!(mailbox.post(requests(1000)).is_ok());
        assert!(mailbox.post(requests(1)).is_err());
    }

    #[test]
    fn answers_always_go_in_and_say_when_they_are_too_many() {
        let mailbox = mailbox();
        let answers = || {
            let outcome = Outcome::Reply(Reply::bulk([0; 1024]));
            Letter::Answers(vec![(Token(0), outcome)])
        };
        for _ in 0..BYTES_MAX / 1024 {
            assert!(mailbox.post(answers()).is_ok());
            assert!(!mailbox.is_full_of_answers());
        }
        assert!(mailbox.post(answers()).is_ok());
        assert!(mailbox.is_full_of_answers());
        assert!(
            mailbox.post(requests(1)).is_ok(),
            "these have a limit of their own"
        );
        assert!(mailbox.swap(&mut Vec::new()));
        assert!(!mailbox.is_full_of_answers());
    }

    #[test]
    fn nothing_goes_into_the_box_of_a_shard_that_has_ended() {
        let mailbox = mailbox();
        mailbox.close();
        assert!(mailbox.post(requests(1)).is_err());
        assert!(mailbox.post(Letter::Stop).is_err());
    }
}
