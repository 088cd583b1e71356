//! Repair of a replica whose disk lost what it had acknowledged (Alagappan et al., "Protocol-Aware
//! Recovery for Consensus-Based Storage", FAST 2018, adapted).
//!
//! The log of a damaged replica ends before the first entry that is gone. What it may have
//! acknowledged behind that is its *claim*: the index and term of its newest entry. Until its log
//! reaches the claim again, the replica
//!
//! 1. compares candidates with the claim, not with what is left of its log, so that no candidate
//!    wins its vote that lacks an entry it acknowledged;
//! 2. does not stand for election: it could only overwrite what it forgot;
//! 3. acknowledges only what it holds.
//!
//! A leader repairs it as it repairs any follower that lags. Without a leader it asks its peers, and
//! names the end of the gap, or the first entry behind it, that it held: a peer whose log held an
//! entry of the same term held the same entries up to there (Raft §5.3, log matching), so its
//! entries fill the gap. Readable entries behind the gap are *spares*: they join the log once what is before them is
//! there, and they repair others meanwhile. If each entry is readable somewhere, the replicas so
//! complete each other, and one can be elected.
//!
//! A replica that may have forgotten a vote or a term says nothing at all until it knows a term that
//! none of its votes is above: `inquiry.rs` tells how it finds one.
//!
//! What a disk lost so that nothing on it tells, a start takes for never written. The leader that
//! the replica had acknowledged it to tells with its heartbeats: from then on the replica is damaged
//! like others.
//!
//! Answers to questions of an earlier start are ignored: what a leader of the claim's term held then
//! may be less than was acknowledged since.

use alloc::collections::VecDeque;
use alloc::vec::Vec;

use wal::{Claim, Damage, Entry, LogIndex, ReplicaId, Term};

use super::inquiry::{Electorate, Inquiry};
use super::{Message, Outbox, Raft, Role};
use crate::time::Time;

/// Entries of one answer: about so much payload.
const ANSWER_BYTES_MAX: usize = 1 << 20;

/// What a damaged replica does not hold and may have promised.
#[derive(Debug)]
pub(super) struct Repair {
    claim: Option<Claim>,
    /// What is lost is not known: it may have replaced entries that are still there.
    stale: bool,
    /// The claim is the end of the log that the spares belong to.
    named: bool,
    /// The last entry of each gap, as far as known.
    gap_ends: VecDeque<(LogIndex, Term)>,
    spares: VecDeque<Entry>,
    /// What the log held up to here was committed.
    committed: LogIndex,
    /// The log up to here is known to be what it was before the damage.
    proven: Option<LogIndex>,
    /// While promises may be missing.
    pub(super) inquiry: Option<Inquiry>,
    /// Numbers the questions: only answers to these count.
    round: u64,
    pub(super) ask_at: Time,
    /// The log says so already.
    noted: bool,
    /// The entries from here on were not appended by a leader, but put back.
    put_back: Option<LogIndex>,
}

/// A peer's question that waits for entries from the disk.
#[derive(Debug)]
pub(super) struct Question {
    from: ReplicaId,
    round: u64,
    after: LogIndex,
    common: (LogIndex, Term),
}

impl Repair {
    /// The first entry behind `last` that the log is known to have held before the damage, and
    /// whether it was the log that its readable part belongs to.
    fn held(&self, last: LogIndex) -> Option<((LogIndex, Term), bool)> {
        let end = self.gap_ends.iter().find(|end| end.0 > last).copied();
        let spare = self.spares.front();
        let spare = spare.map(|spare| (spare.index, spare.term));
        if let Some(held) = [end, spare].into_iter().flatten().min() {
            return Some((held, true));
        }
        let claim = self.claim?;
        Some(((claim.index?, claim.term), self.named))
    }
}

impl Raft {
    /// The replica is damaged as replay says.
    pub fn damaged(mut self, damage: Damage) -> Self {
        let Damage {
            claim,
            named,
            gap_ends,
            spares,
            committed,
            promises_lost,
        } = damage;
        assert!(
            claim.is_some() || promises_lost,
            "damage that misses nothing"
        );
        self.repair = Some(Repair {
            claim,
            stale: claim.is_some_and(|claim| claim.index.is_none()),
            named,
            gap_ends: gap_ends.into(),
            spares: spares.into(),
            committed,
            proven: Some(self.log.last_index()),
            inquiry: promises_lost.then(|| Inquiry::new(self.electorate())),
            round: self.life,
            ask_at: self.now,
            noted: false,
            put_back: None,
        });
        self.fit_to_snapshot();
        self
    }

    /// The leader of this term says that this replica acknowledged everything up to `index`. What of that
    /// is not there, the disk has lost so that nothing told: a start took the rest for all there was.
    pub(super) fn hear_of_acknowledged(&mut self, index: LogIndex) {
        if index <= self.log.last_index() || self.repair.is_some() {
            return;
        }
        self.repair = Some(Repair {
            // Its term is not known, and that of the leader is none too small.
            claim: Some(Claim {
                index: Some(index),
                term: self.term,
            }),
            stale: false,
            named: false,
            gap_ends: VecDeque::new(),
            spares: VecDeque::new(),
            committed: self.commit,
            proven: None,
            inquiry: None,
            round: self.life,
            ask_at: self.now,
            noted: false,
            put_back: None,
        });
    }

    /// A log that was begun anew behind a snapshot goes on with spares only if the snapshot is known to
    /// end in the log that they belong to: what that held there was committed, as all is that a snapshot
    /// holds; or it held an entry of the same term, which are all one leader's, so it held those before.
    pub(super) fn fit_to_snapshot(&mut self) {
        let floor = self.log.floor();
        let Some(repair) = self.repair.as_mut().filter(|_| self.log.begins_anew()) else {
            return;
        };
        let spares = repair.spares.iter().map(|spare| (spare.index, spare.term));
        let mut held = spares.chain(repair.gap_ends.iter().copied());
        let same = held.any(|(index, term)| index >= floor.0 && term == floor.1);
        if !(same || floor.0 <= repair.committed) {
            self.rewritten();
            return;
        }
        repair.spares.retain(|spare| spare.index > floor.0);
        repair.gap_ends.retain(|&(index, _)| index > floor.0);
        repair.put_back = Some(floor.0.next());
        self.log.keep_what_follows();
        self.use_spares();
    }

    /// Whether something that it may have acknowledged or promised is missing.
    pub fn is_damaged(&self) -> bool {
        self.repair.is_some()
    }

    /// The newest entry of a damaged replica: what its log has to reach.
    pub fn claim(&self) -> Option<Claim> {
        self.repair.as_ref()?.claim
    }

    /// Whether entries behind the commit may be such as had been replaced before the damage.
    pub(super) fn may_be_stale(&self) -> bool {
        self.repair.as_ref().is_some_and(|repair| repair.stale)
    }

    /// Whether it may have forgotten a term or a vote.
    pub fn promises_lost(&self) -> bool {
        let repair = self.repair.as_ref();
        repair.is_some_and(|repair| repair.inquiry.is_some())
    }

    /// Whether a log ending in `(index, term)` holds all that this replica may have acknowledged, as
    /// far as Raft §5.4.1 can tell.
    pub(super) fn is_up_to_date(&self, index: LogIndex, term: Term) -> bool {
        let claimed = self.claim().is_none_or(|claim| {
            let claimed = claim.index.unwrap_or(LogIndex::from_raw(u64::MAX));
            (term, index) >= (claim.term, claimed)
        });
        claimed && self.log.is_up_to_date(index, term)
    }

    /// Asks the others for what is missing, now and then.
    pub(super) fn tick_repair(&mut self, out: &mut Outbox) {
        let Some(repair) = &mut self.repair else {
            return;
        };
        if self.now < repair.ask_at {
            return;
        }
        repair.ask_at = self.now.after(self.settings.heartbeat_interval * 2);
        self.conclude_terms(out);
        self.ask_all(out);
    }

    fn ask_all(&self, out: &mut Outbox) {
        let mut all: Vec<ReplicaId> = self.members.all().collect();
        all.extend(self.asked_for_terms());
        all.retain(|&to| to != self.id);
        all.sort_unstable();
        all.dedup();
        for to in all {
            self.ask(to, out);
        }
    }

    pub(super) fn ask(&self, to: ReplicaId, out: &mut Outbox) {
        let Some(repair) = &self.repair else { return };
        let after = if repair.stale {
            self.commit.max(self.verified)
        } else {
            self.log.last_index()
        };
        let question = Message::Repair {
            term: self.term,
            round: repair.round,
            after,
            after_term: self.log.term(after).unwrap_or_default(),
            held: repair.held(self.log.last_index()).map(|(held, _)| held),
        };
        out.push((to, question));
    }

    /// A damaged replica asks.
    pub(super) fn repair_asked(
        &mut self,
        (from, round): (ReplicaId, u64),
        term: Term,
        (after, after_term): (LogIndex, Term),
        held: Option<(LogIndex, Term)>,
        out: &mut Outbox,
    ) {
        if self.role == Role::Leader && term > self.term {
            // It listens to no leader of this term, and will never stand for election itself.
            self.become_follower(term, None);
        }
        if self.role == Role::Leader
            && let Some(progress) = self.peer_mut(from)
        {
            progress.regress(after);
        }
        if after < self.log.floor().0 {
            self.offer(from, out);
        }
        let known = self.log.term(after);
        let fits = known.is_none_or(|term| term == after_term) && !self.promises_lost();
        let common = held.filter(|_| fits).and_then(|held| self.common(held));
        let Some(common) = common.filter(|&(index, _)| after < index) else {
            self.answer((from, round), after, None, Vec::new(), out);
            return;
        };
        if after >= self.log.last_index() {
            let spares = self.spares_behind(after, common.0);
            self.answer((from, round), after, Some(common), spares, out);
            return;
        }
        let to = common.0.min(self.log.last_index());
        match self.log.slice(after.next(), to, ANSWER_BYTES_MAX) {
            Some(entries) => self.answer((from, round), after, Some(common), entries, out),
            None if after >= self.log.floor().0 => {
                self.questions.retain(|question| question.from != from);
                self.questions.push(Question {
                    from,
                    round,
                    after,
                    common,
                });
            }
            None => self.answer((from, round), after, None, Vec::new(), out),
        }
    }

    /// How far this log, as it was when last whole, was equal to one that held the entry: all
    /// entries of a term are one leader's, so two logs with entries of the same term are equal up to
    /// the last that both hold.
    fn common(&self, (index, term): (LogIndex, Term)) -> Option<(LogIndex, Term)> {
        let in_log = self.log.conflict(self.log.last_index(), term);
        let mut newest = (in_log.1 == term && in_log.0 > LogIndex::ZERO).then_some(in_log.0);
        if let Some(repair) = &self.repair
            && repair.proven == Some(self.log.last_index())
        {
            let named = repair.claim.filter(|_| repair.named);
            let named = named.filter(|claim| claim.term == term);
            let spares = repair.spares.iter().filter(|entry| entry.term == term);
            let spares = spares.map(|entry| entry.index).max();
            newest = newest.max(named.and_then(|claim| claim.index)).max(spares);
        }
        newest.map(|newest| (newest.min(index), term))
    }

    fn spares_behind(&self, after: LogIndex, to: LogIndex) -> Vec<Entry> {
        let Some(repair) = &self.repair else {
            return Vec::new();
        };
        let mut next = after.next();
        let mut bytes = 0;
        let behind = repair
            .spares
            .iter()
            .skip_while(|entry| entry.index <= after);
        let run = behind.take_while(|entry| {
            let fits = bytes < ANSWER_BYTES_MAX && entry.index == next && entry.index <= to;
            bytes += entry.payload.len();
            next = next.next();
            fits
        });
        run.cloned().collect()
    }

    fn answer(
        &self,
        (to, round): (ReplicaId, u64),
        after: LogIndex,
        common: Option<(LogIndex, Term)>,
        entries: Vec<Entry>,
        out: &mut Outbox,
    ) {
        let answer = Message::Repaired {
            term: self.term,
            round,
            sure: !self.promises_lost(),
            leads: self.role == Role::Leader,
            last: self.log.last_index(),
            after,
            after_term: self.log.term(after),
            common,
            electorate: self.electorate().into(),
            entries,
        };
        out.push((to, answer));
    }

    /// The range that peers' questions need from the disk.
    pub(super) fn question_wanted(&self) -> Option<(LogIndex, LogIndex)> {
        let durable = self.log.persisted();
        let mut firsts = self.questions.iter().map(|it| it.after.next());
        let first = firsts.find(|&first| first <= durable)?;
        Some((first, durable))
    }

    /// The log begins later: nobody can read for a peer what has left it. Who asks again is offered
    /// the snapshot.
    pub(super) fn forget_questions(&mut self) {
        let floor = self.log.floor().0;
        self.questions.retain(|question| question.after >= floor);
    }

    /// Entries that were fetched from the disk answer the question that asked for them.
    pub(super) fn answer_questions(&mut self, entries: &[Entry], out: &mut Outbox) {
        let current = |entry: &&Entry| self.log.term(entry.index) == Some(entry.term);
        let Some(first) = entries.first() else { return };
        let Some(at) = self
            .questions
            .iter()
            .position(|question| question.after.next() == first.index)
        else {
            return;
        };
        let question = self.questions.remove(at);
        if self.common(question.common) != Some(question.common) {
            return;
        }
        let wanted = entries.iter().take_while(current);
        let wanted = wanted.take_while(|entry| entry.index <= question.common.0);
        let wanted = wanted.cloned().collect();
        self.answer(
            (question.from, question.round),
            question.after,
            Some(question.common),
            wanted,
            out,
        );
    }

    /// A peer answers.
    pub(super) fn repaired(&mut self, from: ReplicaId, answer: Answer, out: &mut Outbox) {
        let term = self.term;
        if self.disk.has_failed() {
            return; // what cannot be kept repairs nothing
        }
        let Some(repair) = &mut self.repair else {
            return;
        };
        if answer.round != repair.round {
            return;
        }
        if let Some(inquiry) = &mut repair.inquiry {
            // Even of one that was not asked: all that the log knows may have left.
            inquiry.hear(&answer.electorate);
            if self.asked_for_terms().contains(&from)
                && let Some(inquiry) = self.repair.as_mut().and_then(|it| it.inquiry.as_mut())
            {
                inquiry.answered(from, answer.sure, answer.term);
            }
            self.conclude_terms(out);
            return;
        }
        if let Some(claim) = &mut repair.claim
            && claim.index.is_none()
            && answer.leads
            && (answer.term, claim.term) == (term, term)
        {
            // All entries of a term are its leader's: what is missing lies in its log by now.
            claim.index = Some(answer.last);
        }
        if self.fill(&answer) {
            self.ask(from, out);
        }
        self.heal();
    }

    /// Takes entries that were in this log before the damage; says whether there were any.
    fn fill(&mut self, answer: &Answer) -> bool {
        let Some(repair) = &mut self.repair else {
            return false;
        };
        let last = self.log.last_index();
        let Some((((end, end_term), own), common)) = repair.held(last).zip(answer.common) else {
            return false;
        };
        if common.1 != end_term || common.0 > end {
            return false;
        }
        let unchanged = own && repair.proven == Some(last);
        let fits = unchanged || answer.after_term == self.log.term(last);
        if self.role != Role::Follower || answer.after != last || !fits {
            return false;
        }
        for entry in &answer.entries {
            let in_order = entry.index == self.log.last_index().next()
                && entry.term >= self.log.last_term()
                && entry.index <= common.0
                && entry.term <= end_term;
            if !in_order {
                break; // no replica of ours sends this
            }
            self.hold(entry.clone());
        }
        if self.log.last_index() == last {
            return false;
        }
        if let Some(repair) = &mut self.repair {
            repair.put_back.get_or_insert(last.next());
        }
        if unchanged {
            self.use_spares();
        }
        true
    }

    /// Appends the spares that follow a log that is known to be what it was.
    fn use_spares(&mut self) {
        while let Some(repair) = &mut self.repair {
            let next = self.log.last_index().next();
            let fits = |spare: &&Entry| spare.index <= next;
            if repair.spares.front().filter(fits).is_none() {
                repair.proven = Some(self.log.last_index());
                return;
            }
            let spare = repair.spares.pop_front().expect("just seen");
            if spare.index == next {
                self.hold(spare);
            }
        }
    }

    /// Whether the entry was put back by the repair: what the disk holds above it stays.
    pub fn is_put_back(&self, index: LogIndex) -> bool {
        let from = self.repair.as_ref().and_then(|repair| repair.put_back);
        from.is_some_and(|from| index >= from)
    }

    /// A leader changed the log: it is no longer what it was before the damage.
    pub(super) fn rewritten(&mut self) {
        if let Some(repair) = &mut self.repair {
            repair.proven = None;
            repair.put_back = None;
            repair.gap_ends.clear();
            repair.spares.clear();
        }
    }

    /// Once a term is known that no forgotten vote is above, promises can be made again.
    fn conclude_terms(&mut self, out: &mut Outbox) {
        let known = self.electorate();
        if let Some(inquiry) = self.repair.as_mut().and_then(|it| it.inquiry.as_mut()) {
            inquiry.hear(&known);
        }
        let asked = self.asked_for_terms();
        let Some(repair) = &mut self.repair else {
            return;
        };
        let Some(inquiry) = &mut repair.inquiry else {
            return;
        };
        let second = inquiry.begin_second(&asked);
        let conclusion = inquiry.conclusion(self.id, &asked);
        if second {
            repair.round = repair.round.wrapping_add(1);
            self.ask_all(out);
        }
        let Some(newest) = conclusion else { return };
        let newest = newest.max(self.term).max(self.log.last_term());
        if newest > self.term {
            self.become_follower(newest, None);
        }
        // A vote for itself, which it never asks anyone to count, gives this term to nobody.
        self.vote = self.vote.or(Some(self.id));
        let repair = self.repair.as_mut().expect("just seen");
        repair.inquiry = None;
        if let Some(claim) = &mut repair.claim
            && claim.index.is_none()
        {
            claim.term = claim.term.max(newest);
        }
        self.heal();
    }

    /// Ends the repair once all that was claimed is durable again.
    pub(super) fn heal(&mut self) {
        let Some(repair) = &mut self.repair else {
            return;
        };
        // While terms may be forgotten, the term of an unknown claim is not known either.
        if repair.inquiry.is_some() {
            return;
        }
        let durable = self.log.persisted();
        let durable_term = self.log.term(durable).unwrap_or_default();
        if let Some(claim) = repair.claim {
            // With a term above, it is the log of a leader that holds all that was committed.
            let index = claim.index.unwrap_or(LogIndex::from_raw(u64::MAX));
            if (durable_term, durable) >= (claim.term, index) {
                repair.claim = None;
                repair.spares.clear();
            }
        }
        if repair.claim.is_none() {
            self.repair = None;
            self.intact_owed = true;
            self.repairs += 1;
            self.rest();
        }
    }

    /// What the next flush must say of the repair, before its entries.
    pub fn take_note(&mut self) -> Option<RepairNote> {
        if !self.has_note() {
            return None;
        }
        if let Some(repair) = &mut self.repair {
            repair.noted = true;
            return self.standing_note();
        }
        self.intact_owed = false;
        let index = self.log.persisted();
        let term = self.log.term(index).unwrap_or_default();
        Some(RepairNote::Ended { index, term })
    }

    /// What every flush with something of a damaged replica says before it. Without that, a start that cannot
    /// read the first that said so would take what was put back for the end of the log.
    pub fn standing_note(&self) -> Option<RepairNote> {
        let repair = self.repair.as_ref()?;
        Some(RepairNote::Begun {
            claim: repair.claim,
            promises_lost: repair.inquiry.is_some(),
        })
    }

    pub(super) fn has_note(&self) -> bool {
        match &self.repair {
            Some(repair) => !repair.noted,
            // While promises are under way, the note could become durable before them.
            None => self.intact_owed && self.promises.are_settled(),
        }
    }
}

/// What a damaged replica writes to its log about itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RepairNote {
    /// It stands like this. Written before anything else, and again with all that it writes: another start in the
    /// middle of the repair would otherwise take a log that is half repaired for a whole one.
    Begun {
        claim: Option<Claim>,
        promises_lost: bool,
    },
    /// Up to here, all that it may have acknowledged or promised is there again.
    Ended { index: LogIndex, term: Term },
}

/// What a peer answered.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) term: Term,
    pub(super) round: u64,
    pub(super) sure: bool,
    pub(super) leads: bool,
    pub(super) last: LogIndex,
    pub(super) after: LogIndex,
    pub(super) after_term: Option<Term>,
    pub(super) common: Option<(LogIndex, Term)>,
    pub(super) electorate: Electorate,
    pub(super) entries: Vec<Entry>,
}
