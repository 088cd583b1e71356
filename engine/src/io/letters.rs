//! What the shards of a node and its other threads write to each other: requests for groups that live
//! elsewhere, their answers, and what the admin port and the embedder want to know.

use std::rc::Rc;

use crate::shard::Outcome;

use super::executor::Executor;
use super::handle::Batch;
use super::mailbox::{Carried, Letter, SnapshotPlace, SnapshotsListed};
use super::requests::Asker;

impl Executor {
    pub(super) fn post_letters(&self) {
        for (shard, carried) in self.carried.borrow_mut().iter_mut().enumerate() {
            if carried.is_empty() {
                continue;
            }
            let requests = std::mem::take(carried);
            let letter = Letter::Requests {
                from: self.index,
                requests,
            };
            if let Err(Letter::Requests { requests, .. }) = self.mailboxes[shard].post(letter) {
                for carried in requests {
                    self.finish(carried.token, Outcome::Busy);
                }
            }
        }
        for (shard, answers) in self.answers.borrow_mut().iter_mut().enumerate() {
            if !answers.is_empty() {
                let letter = Letter::Answers(std::mem::take(answers));
                // A shard that has ended has no clients left that wait.
                drop(self.mailboxes[shard].post(letter));
            }
        }
    }

    /// Takes letters out of this shard's mailbox, for ever.
    pub(super) async fn read_mail(self: Rc<Self>) {
        let mut letters = Vec::new();
        loop {
            self.mailboxes[usize::from(self.index)]
                .take(&self.ring, &mut letters)
                .await;
            for letter in letters.drain(..) {
                self.open(letter);
                glommio::yield_if_needed().await;
            }
        }
    }

    fn open(self: &Rc<Self>, letter: Letter) {
        let clock = self.clock();
        match letter {
            Letter::Requests { from, requests } => {
                for carried in requests {
                    let asker = Asker::Shard {
                        from,
                        token: carried.token,
                    };
                    let Carried { group, proxy, .. } = carried;
                    self.request_encoded(clock, asker, group, proxy, &carried.command);
                }
            }
            Letter::Answers(answers) => {
                for (token, outcome) in answers {
                    let request = self.requests.borrow_mut().remove(token);
                    if let Some(request) = request {
                        self.deliver(request.asker, outcome, request.write);
                    }
                }
            }
            Letter::Commands {
                group,
                commands,
                completion,
            } => {
                let batch = Rc::new(Batch::new(commands.len(), completion));
                for (at, command) in commands.iter().enumerate() {
                    let batch = batch.clone();
                    let asker = Asker::Embedder { batch, at };
                    self.request_encoded(clock, asker, group, true, command);
                }
            }
            Letter::Snapshot { group, answer } => self.ask_for_snapshot(group, answer),
            Letter::ListSnapshots(answer) => answer(SnapshotsListed {
                files: self.snapshots.files(),
                under_way: self.taker.written(),
            }),
            Letter::ReadSnapshot { place, answer } => {
                let snapshots = self.snapshots.clone();
                glommio::spawn_local(async move {
                    let SnapshotPlace {
                        group,
                        index,
                        term,
                        offset,
                        bytes,
                    } = place;
                    let read = snapshots.read(group, index, term, offset, bytes).await;
                    answer(read.map_err(|error| error.to_string()));
                })
                .detach();
            }
            Letter::ReadLog {
                group,
                from,
                answer,
            } => self.read_log(group, from, answer),
            Letter::Members {
                group,
                wish,
                answer,
            } => answer(self.change(group, &wish)),
            Letter::Inspect(answer) => answer(self.status()),
            Letter::Stop => {
                if !self.stopping.replace(true) {
                    glommio::spawn_local(self.clone().stop()).detach();
                }
            }
            Letter::Abort => self.ended.raise(),
        }
    }
}
