//! One shard on its thread: fibers bring inputs, one fiber settles the shard after each burst of
//! them and hands out what it wants done.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use glommio::Task;
use glommio::timer::Timer;
use net::Command;
use wal::io::{Log, LogError, Ring};
use wal::{GroupId, LogIndex, NodeId};

use crate::config::Config;
use crate::raft::{self, Change, ChangeError};
use crate::shard::{GroupNews, Input, NewMembership, Outcome, Output, Shard, Stage, Token};
use crate::{Clock, Time};

use super::book::Book;
use super::client::Clients;
use super::clock::Origin;
use super::disk::Disk;
use super::fetcher::Fetcher;
use super::identity::Register;
use super::mailbox::{Carried, Mailbox};
use super::node::Fate;
use super::parked::Parked;
use super::peer::Link;
use super::requests::{Asker, Request, Requests};
use super::routes::Routes;
use super::signal::Signal;
use super::snapshots::Snapshots;
use super::socket::Socket;
use super::stages::{Sampler, Turn};
use super::status::{PeerStatus, ShardStatus};
use super::taker::Taker;

/// Shortest time the driving fiber sleeps.
const WAIT_MIN: Duration = Duration::from_micros(50);

/// What the fibers of one shard share.
pub(super) struct Executor {
    pub(super) config: Arc<Config>,
    pub(super) index: u16,
    /// Drawn when the data directory was made.
    pub(super) instance: u64,
    pub(super) origin: Origin,
    pub(super) settle: Signal,
    pub(super) clients: Clients,
    pub(super) routes: Arc<Routes>,
    pub(super) mailboxes: Arc<[Mailbox]>,
    pub(super) book: Arc<Book>,
    pub(super) links: RefCell<BTreeMap<NodeId, Rc<Link>>>,
    /// What runs them.
    pub(super) dialling: RefCell<BTreeMap<NodeId, Task<()>>>,
    /// Of the book that they are of.
    pub(super) links_version: Cell<u64>,
    pub(super) shard: RefCell<Shard>,
    output: RefCell<Output>,
    pub(super) ring: Rc<Ring>,
    pub(super) log: Rc<Log>,
    pub(super) snapshots: Snapshots,
    pub(super) taker: Taker,
    pub(super) fetcher: Fetcher,
    pub(super) requests: RefCell<Requests>,
    pub(super) parked: RefCell<Parked>,
    /// A request has been parked.
    pub(super) parking: Signal,
    /// Letters being written, by shard.
    pub(super) carried: RefCell<Vec<Vec<Carried>>>,
    pub(super) answers: RefCell<Vec<Vec<(Token, Outcome)>>>,
    groups: Vec<GroupId>,
    /// Groups whose repair was told.
    repairing: RefCell<BTreeSet<GroupId>>,
    pub(super) register: Arc<Register>,
    /// Connections that peers have dialled.
    pub(super) dialled: RefCell<Vec<Weak<Socket>>>,
    random: Cell<u64>,
    pub(super) stopping: Cell<bool>,
    pub(super) ended: Signal,
    pub(super) sampler: Sampler,
    pub(super) fate: Arc<Fate>,
}

/// What the thread that opens the node gives to each shard.
#[derive(Clone, Debug)]
pub(super) struct Shared {
    pub(super) config: Arc<Config>,
    pub(super) instance: u64,
    pub(super) register: Arc<Register>,
    pub(super) origin: Origin,
    pub(super) book: Arc<Book>,
    pub(super) routes: Arc<Routes>,
    pub(super) mailboxes: Arc<[Mailbox]>,
    pub(super) fate: Arc<Fate>,
}

impl Executor {
    pub(super) fn new(shared: Shared, index: u16, mut shard: Shard, disk: Disk, seed: u64) -> Self {
        let config = shared.config;
        shard.accounts_mut().counts_only = !config.stages;
        let sampler = Sampler::new(config.stages);
        let shards = usize::from(config.cluster.shards);
        Self {
            clients: Clients::new(&config, index),
            groups: config.groups_of_shard(index).collect(),
            config,
            index,
            instance: shared.instance,
            origin: shared.origin,
            settle: Signal::default(),
            routes: shared.routes,
            mailboxes: shared.mailboxes,
            book: shared.book,
            links: RefCell::default(),
            dialling: RefCell::default(),
            links_version: Cell::new(0),
            shard: RefCell::new(shard),
            output: RefCell::default(),
            ring: disk.ring,
            log: disk.log,
            snapshots: disk.snapshots,
            taker: Taker::new(disk.newest),
            fetcher: Fetcher::default(),
            requests: RefCell::default(),
            parked: RefCell::default(),
            parking: Signal::default(),
            carried: RefCell::new((0..shards).map(|_| Vec::new()).collect()),
            answers: RefCell::new((0..shards).map(|_| Vec::new()).collect()),
            repairing: RefCell::default(),
            register: shared.register,
            dialled: RefCell::default(),
            random: Cell::new(seed | 1),
            stopping: Cell::new(false),
            ended: Signal::default(),
            sampler,
            fate: shared.fate,
        }
    }

    pub(super) fn clock(&self) -> Clock {
        self.origin.clock()
    }

    /// Gives the shard an input; what comes of it is handed out when the burst ends.
    pub(super) fn step(&self, clock: Clock, input: Input<'_>) {
        let output = &mut *self.output.borrow_mut();
        self.shard.borrow_mut().step(clock, input, output);
        self.settle.raise();
    }

    /// Takes a request to its group, wherever that is. Another node is asked only if `proxy`.
    pub(super) fn request(
        &self,
        clock: Clock,
        asker: Asker,
        group: GroupId,
        proxy: bool,
        mut command: Command<'_>,
    ) {
        if let Command::Append { bytes_max, .. } = &mut command {
            // What others allow is theirs; each node that it passes may allow less.
            *bytes_max = (*bytes_max).min(self.config.limits.value_bytes_max as u64);
        }
        let token = self.requests.borrow_mut().insert(Request {
            asker,
            group,
            write: command.is_write(),
            proxy,
            hops: 0,
            asked: None,
            until: None,
        });
        let home = self.config.shard_of_group(group);
        if home == self.index {
            let input = Input::Request {
                group,
                token,
                command,
            };
            self.step(clock, input);
        } else {
            let mut encoded = Vec::new();
            command.encode(&mut encoded);
            self.carried.borrow_mut()[usize::from(home)].push(Carried {
                token,
                group,
                proxy,
                command: encoded,
            });
            self.settle.raise();
        }
    }

    /// The same for a command that was encoded by another thread or node.
    pub(super) fn request_encoded(
        &self,
        clock: Clock,
        asker: Asker,
        group: GroupId,
        proxy: bool,
        command: &[u8],
    ) {
        match Command::decode(command) {
            Ok(command) if group.to_raw() < self.config.cluster.groups => {
                self.request(clock, asker, group, proxy, command);
            }
            // Only a build with other commands could have sent it: nothing happened.
            _ => self.deliver(asker, Outcome::NoLeader, false),
        }
    }

    /// Whether this endpoint is the master of a group's slots, as clients are told.
    pub(super) fn leads_here(&self, group: GroupId) -> bool {
        self.config.shard_of_group(group) == self.index
            && self.shard.borrow().leader(group) == Some(self.config.node())
    }

    pub(super) fn open_requests(&self) -> usize {
        self.requests.borrow().len()
    }

    pub(super) fn is_open(&self, token: Token) -> bool {
        self.requests.borrow_mut().get_mut(token).is_some()
    }

    /// Settles the shard whenever there was an input or its time has come.
    pub(super) async fn drive(self: Rc<Self>) {
        let mut timer: Option<(Time, Timer)> = None;
        let mut output = Output::default();
        loop {
            poll_fn(|context| {
                let rang = match &mut timer {
                    Some((_, timer)) => Pin::new(timer).poll(context).is_ready(),
                    None => false,
                };
                if rang {
                    timer = None;
                }
                if self.settle.poll(context).is_ready() || rang {
                    Poll::Ready(())
                } else {
                    Poll::Pending
                }
            })
            .await;
            self.follow_book();
            let clock = self.clock();
            let mut turn = self.sampler.turn(clock.now);
            let wake_at = self.settle_shard(clock, &mut turn, &mut output);
            self.hand_out(&mut turn, &mut output);
            self.give_up_overdue(clock.now);
            self.post_letters();
            timer = match (timer.take(), wake_at) {
                (_, None) => None,
                // It rings too early at worst.
                (Some((at, timer)), Some(wake_at)) if at <= wake_at && at > clock.now => {
                    Some((at, timer))
                }
                // Never at once: the thread must get back to its reactor, or it sees no completion.
                (_, Some(wake_at)) => {
                    let wait = wake_at.since(clock.now).max(WAIT_MIN);
                    Some((wake_at, Timer::new(wait)))
                }
            };
        }
    }

    fn settle_shard(&self, clock: Clock, turn: &mut Turn, output: &mut Output) -> Option<Time> {
        let mut shard = self.shard.borrow_mut();
        let mut gathered = self.output.borrow_mut();
        if gathered.wake_at.is_some_and(|at| at <= clock.now) {
            shard.step(clock, Input::Wake, &mut gathered);
        }
        if turn.sampled {
            let mut lap = |stage| turn.lap(stage, self.origin.time());
            shard.settle_watched(clock, &mut gathered, &mut lap);
        } else {
            shard.settle(clock, &mut gathered);
        }
        shard.accounts_mut().messages += gathered.messages.len() as u64;
        // The lists change places, so that both keep their memory.
        std::mem::swap(&mut *gathered, output);
        gathered.wake_at = output.wake_at;
        output.wake_at
    }

    fn hand_out(self: &Rc<Self>, turn: &mut Turn, output: &mut Output) {
        if !output.memberships.is_empty()
            && let Err(reason) = self.note(&std::mem::take(&mut output.memberships))
        {
            // What follows from them must not be: not in the log, and not with others.
            self.disk_failed(Input::ReadFailed, LogError::Beside { reason });
            output.flushes.clear();
            output.messages.clear();
        }
        for flush in output.flushes.drain(..) {
            self.append(flush, turn);
        }
        for read in output.reads.drain(..) {
            self.read(read);
        }
        for begun in output.snapshots.drain(..) {
            self.take_snapshot(begun);
        }
        for fetch in output.fetches.drain(..) {
            self.fetch_snapshot(fetch);
        }
        // What is asked of the ring first leaves first, each frame some ten microseconds before the next: a
        // client that waits alone does not wait for the frames that tell followers of its commit.
        let replies_first = output.replies.len() < output.messages.len();
        if replies_first {
            self.reply(turn, output);
        }
        let links = self.links.borrow();
        for (node, group, message) in output.messages.drain(..) {
            match links.get(&node) {
                Some(link) if self.register.speaks() => link.send(group, message),
                Some(link) => link.dropped.set(link.dropped.get() + 1),
                None => {} // it has come so lately, or is gone so long, that nobody here knows where it is
            }
        }
        drop(links);
        for news in output.news.drain(..) {
            self.tell(news);
        }
        if !replies_first {
            self.reply(turn, output);
        }
    }

    fn reply(&self, turn: &Turn, output: &mut Output) {
        if turn.sampled {
            turn.account(self.shard.borrow_mut().accounts_mut());
            if !output.replies.is_empty() {
                self.sampler.answered(turn.started);
            }
        }
        for (token, outcome) in output.replies.drain(..) {
            self.finish(token, outcome);
        }
    }

    /// Makes durable who is in groups from now on, and dials who is new.
    fn note(self: &Rc<Self>, memberships: &[NewMembership]) -> Result<(), String> {
        for noted in memberships {
            let (group, since) = (noted.group, noted.since.to_raw());
            let raft::Members { voters, observers } = &noted.membership.members;
            tracing::info!(event = "group.members", shard = self.index, %group, since, ?voters, ?observers);
        }
        let nodes = self.register.note(memberships)?;
        self.book.set(nodes);
        self.follow_book();
        Ok(())
    }

    /// Changes who is in a group that is led here.
    pub(super) fn change_members(
        &self,
        group: GroupId,
        change: &Change,
    ) -> Result<LogIndex, ChangeError> {
        let output = &mut *self.output.borrow_mut();
        let changed = (self.shard.borrow_mut()).change_members(group, change, output);
        self.settle.raise();
        changed
    }

    /// Counts one passage of a stage.
    pub(super) fn account(&self, stage: Stage, took: Duration) {
        self.shard.borrow_mut().accounts_mut().record(stage, took);
    }

    /// Hands over, finishes what was begun, and ends.
    pub(super) async fn stop(self: Rc<Self>) {
        self.step(self.clock(), Input::Drain);
        // Leaderships move within a few round trips, or not at all.
        let handing_over = self
            .origin
            .time()
            .after(self.config.cluster.election_timeout * 2);
        let finishing = self.origin.time().after(self.config.request_timeout);
        loop {
            let now = self.origin.time();
            let leads = now < handing_over && self.leads_any();
            let waits = now < finishing && self.requests.borrow().len() > 0;
            if !leads && !waits {
                break;
            }
            glommio::timer::sleep(Duration::from_millis(5)).await;
        }
        // Long enough for the last answers to leave.
        self.clients.finish().await;
        self.snapshot_at_close().await;
        self.ended.raise();
    }

    fn leads_any(&self) -> bool {
        if self.links.borrow().is_empty() {
            return false;
        }
        let shard = self.shard.borrow();
        let own = Some(self.config.node());
        self.groups.iter().any(|&group| shard.leader(group) == own)
    }

    pub(super) async fn ended(&self) {
        self.ended.wait().await;
    }

    /// Tells other threads who leads a group, and the log whether it is whole.
    fn tell(&self, news: GroupNews) {
        let GroupNews {
            group,
            leader,
            damaged,
        } = news;
        self.routes.set(group, leader);
        let mut told = self.repairing.borrow_mut();
        if damaged && told.insert(group) {
            if self.group_status(group).is_some_and(|status| status.lost) {
                tracing::error!(
                    event = "group.lost",
                    shard = self.index,
                    %group,
                    "the disk lost something of this group, and no other node has it: the group serves \
                     nothing any more. If the data directory was copied, use the copy; else restore a \
                     backup into a new cluster (drakkar backup restore)"
                );
                return;
            }
            tracing::warn!(
                event = "group.damaged",
                shard = self.index,
                %group,
                "the disk lost something of this replica; it is being repaired from its peers"
            );
        } else if !damaged && told.remove(&group) {
            tracing::info!(event = "group.intact", shard = self.index, %group);
        }
    }

    /// Of a group of this shard, while there is one.
    pub(super) fn group_status(&self, group: GroupId) -> Option<crate::shard::GroupStatus> {
        self.shard.borrow().group_status(group)
    }

    pub(super) fn group_statuses(&self) -> Vec<crate::shard::GroupStatus> {
        self.shard.borrow().status()
    }

    pub(super) fn status(&self) -> ShardStatus {
        let mut accounts = Box::new(self.shard.borrow().accounts().clone());
        accounts.flush_bytes = self.log.appended_bytes();
        let shard = self.shard.borrow();
        let groups = shard
            .status()
            .into_iter()
            .map(|status| {
                let hash = shard.hash(status.group).unwrap_or_default();
                (status, hash)
            })
            .collect();
        let links = self.links.borrow();
        let peers = links.values().map(|link| PeerStatus {
            node: link.node,
            connected: link.connected.get(),
            queue_bytes: link.queue_bytes(),
            dropped: link.dropped.get(),
        });
        ShardStatus {
            shard: self.index,
            groups,
            peers: peers.collect(),
            connections: self.clients.len(),
            client_bytes: self.clients.held_bytes(),
            requests: self.requests.borrow().len(),
            disk: shard.disk(),
            free_bytes: self.log.free_bytes(),
            snapshots: self.taker.newest(),
            received: self.fetcher.under_way(),
            log_segments: self.log.segments(),
            log_bytes: self.log_bytes(),
            accounts,
        }
    }

    /// Between half and all of `duration`: nodes that lost each other do not all return at once.
    pub(super) fn jitter(&self, duration: Duration) -> Duration {
        // xorshift64 (Marsaglia 2003).
        let mut x = self.random.get();
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        self.random.set(x);
        let share = u32::try_from(x & 0xffff).expect("masked to 16 bits");
        duration / 2 + duration / 2 * share / 0x1_0000
    }
}
