//! Replication: appends and their answers, heartbeats, reads, leadership transfer.

use alloc::vec::Vec;

use wal::{Entry, LogIndex, ReplicaId, Term};

use super::{Message, Mode, Outbox, Pace, Raft, Rejection, Role};

impl Raft {
    /// Sends every follower what it lacks and its window admits. With `tell_commit`, also tells
    /// those that lack nothing of a new commit; without, the commit rides on the next append.
    pub fn replicate(&mut self, tell_commit: bool, out: &mut Outbox) {
        if self.role != Role::Leader {
            return;
        }
        for position in 0..self.progress.len() {
            while self.send_append(position, false, out) {}
            let progress = &self.progress[position].1;
            if tell_commit
                && progress.commit_sent < self.commit
                && progress.may_send(self.settings.window)
            {
                self.send_append(position, true, out);
            }
        }
    }

    /// Whether a follower that could be told of a new commit has not been told of it.
    pub fn commit_is_untold(&self) -> bool {
        self.progress.iter().any(|(_, progress)| {
            progress.commit_sent < self.commit && progress.may_send(self.settings.window)
        })
    }

    /// Sends one append. Without `force` only if there are entries to send and the window admits
    /// them. Says whether it makes sense to try again at once.
    fn send_append(&mut self, position: usize, force: bool, out: &mut Outbox) -> bool {
        let last = self.log.last_index();
        let window = self.settings.window;
        let (to, progress) = &mut self.progress[position];
        let may_send = progress.may_send(window);
        let probing = matches!(progress.mode, Mode::Probe { .. });
        let something = progress.next <= last || (probing && progress.matched < last);
        if !(force || may_send && something) {
            return false;
        }
        let bytes_max = progress.room(window).min(self.settings.append_bytes_max);
        let (previous, next) = (progress.next.previous(), progress.next);
        let Some(previous_term) = self.log.term(previous) else {
            self.offer_snapshot(position, out);
            return false;
        };
        let entries = if !may_send || next > last {
            Vec::new()
        } else {
            match self.log.slice(next, last, bytes_max) {
                Some(entries) => entries,
                None if force => Vec::new(),
                None => return false, // only on disk: see `fetch_wanted`
            }
        };
        let sent_any = !entries.is_empty();
        let (commit, to) = (self.commit, *to);
        out.push((
            to,
            Self::append_message(self.term, previous, previous_term, commit, entries),
        ));
        let (_, Message::Append { entries, .. }) = &out[out.len() - 1] else {
            unreachable!()
        };
        let (_, progress) = &mut self.progress[position];
        progress.commit_sent = progress.commit_sent.max(commit);
        if sent_any || probing {
            let bytes = entries.iter().map(|entry| entry.payload.len().max(1)).sum();
            progress.sent(entries.last().map_or(previous, |entry| entry.index), bytes);
        }
        sent_any && !probing
    }

    fn append_message(
        term: Term,
        previous_index: LogIndex,
        previous_term: Term,
        commit: LogIndex,
        entries: Vec<Entry>,
    ) -> Message {
        Message::Append {
            term,
            previous_index,
            previous_term,
            commit,
            entries,
        }
    }

    /// A range that a follower or a damaged peer needs and that is only on disk: `(from, to)`,
    /// inclusive.
    pub fn fetch_wanted(&self) -> Option<(LogIndex, LogIndex)> {
        let last = self.log.last_index();
        let wanted = self.progress.iter().find_map(|(_, progress)| {
            let missing = progress.next <= last
                && progress.next > self.log.floor().0
                && self.log.cached(progress.next).is_none()
                && progress.may_send(self.settings.window);
            missing.then_some((progress.next, last))
        });
        wanted.or_else(|| self.question_wanted())
    }

    /// Entries that were fetched from the disk: sends them to the followers that need them.
    pub fn fetched(&mut self, entries: &[Entry], out: &mut Outbox) {
        self.answer_questions(entries, out);
        if self.role != Role::Leader || entries.is_empty() {
            return;
        }
        let first = entries[0].index;
        let window = self.settings.window;
        for (to, progress) in &mut self.progress {
            if progress.next < first || !progress.may_send(window) {
                continue;
            }
            let skip = usize::try_from(first.entries_until(progress.next)).unwrap_or(usize::MAX);
            let current = |entry: &Entry| self.log.term(entry.index) == Some(entry.term);
            let fresh: Vec<Entry> = entries
                .iter()
                .skip(skip)
                .take_while(|entry| current(entry))
                .cloned()
                .collect();
            let Some(last) = fresh.last().map(|entry| entry.index) else {
                continue;
            };
            let previous = progress.next.previous();
            let Some(previous_term) = self.log.term(previous) else {
                continue;
            };
            let bytes = fresh.iter().map(|entry| entry.payload.len().max(1)).sum();
            let message =
                Self::append_message(self.term, previous, previous_term, self.commit, fresh);
            out.push((*to, message));
            progress.sent(last, bytes);
        }
    }

    /// A leader's append (Raft figure 2, "AppendEntries, receiver implementation").
    pub(super) fn append(
        &mut self,
        from: ReplicaId,
        (previous_index, previous_term): (LogIndex, Term),
        commit: LogIndex,
        entries: Vec<Entry>,
        out: &mut Outbox,
    ) {
        if self.disk.has_failed() {
            return; // what cannot be kept must not gather in memory
        }
        if previous_index < self.commit {
            // What is committed cannot conflict: an old message, or a leader that probes too far back.
            let overlap = usize::try_from(previous_index.entries_until(self.commit));
            let fresh: Vec<Entry> = entries
                .into_iter()
                .skip(overlap.unwrap_or(usize::MAX))
                .collect();
            self.accept(self.commit, commit, fresh, out);
            return;
        }
        if self.log.term(previous_index) != Some(previous_term) {
            let (hint_index, hint_term) = self.log.conflict(previous_index, previous_term);
            let rejection = Message::Rejected {
                term: self.term,
                previous_index,
                hint_index,
                hint_term,
            };
            out.push((from, rejection));
            return;
        }
        self.accept(previous_index, commit, entries, out);
    }

    /// Takes entries that follow an entry both logs hold.
    fn accept(
        &mut self,
        previous: LogIndex,
        commit: LogIndex,
        entries: Vec<Entry>,
        out: &mut Outbox,
    ) {
        let mut matched = previous;
        for entry in entries {
            let in_order = Some(entry.term) >= self.log.term(matched) && entry.term <= self.term;
            if entry.index != matched.next() || !in_order {
                return; // no leader of ours sends this
            }
            matched = entry.index;
            match self.log.term(entry.index) {
                Some(term) if term == entry.term => continue,
                Some(_) => {
                    assert!(entry.index > self.commit, "a committed entry conflicts");
                    assert!(entry.index > self.verified, "a leader contradicts itself");
                    self.truncations += 1;
                    self.drop_from(entry.index);
                }
                None => {}
            }
            self.rewritten();
            self.hold(entry);
        }
        self.verified = self.verified.max(matched);
        self.advance_commit(commit.min(matched));
        self.answer_owed = true;
        self.speak(out);
    }

    /// Tells the leader how far this log is durable and equal to the leader's. Derived from the
    /// log as it is now, so that a write that was overtaken by a truncation acknowledges nothing.
    pub(super) fn acknowledge(&mut self, out: &mut Outbox) {
        if self.role != Role::Follower {
            return;
        }
        let Some(leader) = self.leader else { return };
        let matched = self.verified.min(self.log.persisted());
        let news = matched > self.acknowledged;
        let answer = self.answer_owed && matched == self.verified;
        if !news && !answer {
            return;
        }
        self.acknowledged = matched;
        self.answer_owed = self.answer_owed && matched < self.verified;
        out.push((
            leader,
            Message::Appended {
                term: self.term,
                matched,
            },
        ));
    }

    pub(super) fn appended(&mut self, from: ReplicaId, matched: LogIndex, out: &mut Outbox) {
        let last = self.log.last_index();
        if self.role != Role::Leader || matched > last {
            return;
        }
        let Some(progress) = self.peer_mut(from) else {
            return;
        };
        progress.acknowledge(matched);
        let caught_up = progress.matched == last;
        if matched > self.commit {
            self.commit_what_a_majority_holds();
        }
        if caught_up && self.transferring() == Some(from) {
            out.push((from, Message::TimeoutNow { term: self.term }));
        }
    }

    pub(super) fn rejected(
        &mut self,
        from: ReplicaId,
        rejected: LogIndex,
        (hint_index, hint_term): (LogIndex, Term),
        out: &mut Outbox,
    ) {
        if self.role != Role::Leader {
            return;
        }
        // Skips whole terms in which the logs cannot agree (Raft §5.3).
        let (hint, _) = self.log.conflict(hint_index, hint_term);
        let Some(progress) = self.peer_mut(from) else {
            return;
        };
        match progress.reject(rejected, hint) {
            Rejection::Old => return,
            Rejection::News => {}
            Rejection::Denial => {
                // If it forgot, it must know before it holds as much again: its log is not to be
                // trusted until then.
                let beat = self.heartbeat_to(from);
                out.push((from, beat));
                if let Some(progress) = self.peer_mut(from) {
                    progress.regress(hint.min(rejected.previous()));
                }
            }
        }
        let position = self.position(from);
        self.send_append(position, false, out);
    }

    /// Names what the replica has acknowledged, as far as that is committed.
    fn heartbeat_to(&self, to: ReplicaId) -> Message {
        Message::Heartbeat {
            term: self.term,
            commit: self.commit.min(self.peer(to).matched),
            round: self.rounds.started(),
        }
    }

    pub(super) fn heartbeat_answered(
        &mut self,
        from: ReplicaId,
        round: u64,
        disk: Pace,
        out: &mut Outbox,
    ) {
        if self.role != Role::Leader || round > self.rounds.started() {
            return;
        }
        let last = self.log.last_index();
        let Some(progress) = self.peer_mut(from) else {
            return;
        };
        progress.alive();
        progress.told = Some(disk);
        // Rounds that only ask for reads come often; what is lost is looked for once an interval.
        let asked = progress.round >= round;
        progress.round = progress.round.max(round);
        let lacks = progress.matched < last && !disk.has_failed();
        if lacks && (asked || matches!(progress.mode, Mode::Probe { .. })) {
            let position = self.position(from);
            self.send_append(position, true, out);
        }
        self.count_round();
    }

    fn position(&self, replica: ReplicaId) -> usize {
        let found = self.progress.iter().position(|(id, _)| *id == replica);
        found.expect("a leader knows every member")
    }

    fn count_round(&mut self) {
        let mut answered = Vec::with_capacity(self.members.voters.len());
        for &voter in &self.members.voters {
            let own = voter == self.id;
            answered.push(if own {
                self.rounds.started()
            } else {
                self.peer(voter).round
            });
        }
        self.rounds.answered(&mut answered);
    }

    /// Tells everyone that it leads.
    pub(super) fn heartbeat(&mut self, out: &mut Outbox) {
        self.heartbeat_deadline = self.now.after(self.settings.heartbeat_interval);
        let round = self.rounds.started();
        for (to, progress) in &mut self.progress {
            let commit = self.commit.min(progress.matched);
            progress.commit_sent = progress.commit_sent.max(commit);
            out.push((
                *to,
                Message::Heartbeat {
                    term: self.term,
                    commit,
                    round,
                },
            ));
        }
    }

    /// Sends a heartbeat now, whatever the time.
    pub fn beat(&mut self, out: &mut Outbox) {
        if self.role == Role::Leader {
            self.heartbeat(out);
        }
    }

    /// Starts a ReadIndex round (thesis §6.4): once [`Raft::round_confirmed`] reaches the number,
    /// a state that has applied up to the index answers linearizably. `None` until this leader has
    /// committed an entry of its own term: before, it may not know what is committed.
    pub fn start_read(&mut self, out: &mut Outbox) -> Option<(u64, LogIndex)> {
        if self.role != Role::Leader || self.log.term(self.commit) != Some(self.term) {
            return None;
        }
        self.wake(self.now);
        let round = self.rounds.start();
        let deadline = self.heartbeat_deadline;
        self.heartbeat(out);
        self.heartbeat_deadline = deadline;
        self.count_round();
        Some((round, self.commit))
    }

    /// The newest round that a majority has answered.
    pub fn round_confirmed(&self) -> u64 {
        self.rounds.confirmed()
    }

    /// Hands leadership over to `to` once it holds everything (thesis §3.10). Until then, and for
    /// at most an election timeout, proposals are refused.
    pub fn transfer(&mut self, to: ReplicaId, out: &mut Outbox) {
        if self.role != Role::Leader || to == self.id || !self.members.voters.contains(&to) {
            return;
        }
        if self.transferring() == Some(to) {
            return;
        }
        self.wake(self.now);
        self.transfer = Some((to, self.now.after(self.settings.election_timeout)));
        if self.peer(to).matched == self.log.last_index() {
            out.push((to, Message::TimeoutNow { term: self.term }));
        } else {
            let position = self.position(to);
            self.send_append(position, false, out);
        }
    }

    /// A message to `to` could not be delivered.
    pub fn unreachable(&mut self, to: ReplicaId) {
        if self.role == Role::Leader
            && let Some(progress) = self.peer_mut(to)
            && progress.mode == Mode::Replicate
        {
            progress.probe();
        }
    }

    /// Forgets payloads of entries up to `applied` that are durable: beyond `bytes_max`, and beyond `spare_max`
    /// those that no follower lacks. They stay on disk.
    pub fn evict(&mut self, applied: LogIndex, bytes_max: usize, spare_max: usize) {
        assert!(
            applied <= self.commit,
            "applied {applied} beyond commit {}",
            self.commit
        );
        let lacked = self.progress.iter().map(|(_, progress)| progress.matched);
        let spare = lacked.fold(applied, LogIndex::min);
        self.log.evict(spare, spare_max);
        self.log.evict(applied, bytes_max);
    }
}
