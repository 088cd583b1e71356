//! Fetches the snapshots that replicas here need from the peers that have them, each over a connection of
//! its own, and restores them.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::time::Duration;

use glommio::sync::Semaphore;
use glommio::timer::{sleep, timeout};
use net::peer::{FrameKind, FrameReader, Part, PartReply, PartRequest, frame};
use wal::GroupId;

use crate::Time;
use crate::kv::Kv;
use crate::shard::{FetchSnapshot, Input, Snapshot};

use super::executor::Executor;
use super::peer::{Link, PeerError, read_some};
use super::sender::PART_BYTES_MAX;
use super::snapshots::{Receiver, Restored, SnapshotFileError};
use super::socket::Socket;
use super::start::CHUNK_BYTES_MAX;
use super::status::{NewestSnapshot, Received};

/// Snapshots that a shard fetches at once; each takes a few MiB, and memory for its state.
const FETCHES_MAX: u64 = 2;
/// Requests on their way at once: while one is answered, the next is read there.
const REQUESTS_MAX: usize = 2;
/// Connections in a row that bring nothing before it is given up. The leader offers it again.
const ATTEMPTS_MAX: u32 = 4;
const BACK_OFF: Duration = Duration::from_millis(200);
const PART_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the first part of a snapshot is kept for another attempt.
const KEPT_FOR: Duration = Duration::from_secs(60);
/// A fetch that failed ends no sooner than this, because it may be asked for again at once.
const FAILURE_PAUSE: Duration = Duration::from_secs(1);

/// Why a snapshot was not fetched.
#[derive(Debug, thiserror::Error)]
enum FetchError {
    #[error("the connection to it: {0}")]
    Peer(#[from] PeerError),
    #[error("it has that snapshot no more")]
    Gone,
    #[error("it is no peer of this node")]
    Stranger,
    #[error("the snapshot had {before} bytes there, and has {now}")]
    Changed { before: u64, now: u64 },
    #[error(transparent)]
    File(#[from] SnapshotFileError),
}

/// What a shard receives from its peers.
pub(super) struct Fetcher {
    /// Who may fetch now.
    turns: Semaphore,
    /// When the next part may be asked for, so that it does not become faster than it may be.
    next_at: Cell<Time>,
    under_way: RefCell<BTreeMap<GroupId, Received>>,
    /// What has come of snapshots whose connection broke.
    kept: RefCell<BTreeMap<GroupId, Kept>>,
    fetches: Cell<u64>,
}

impl Default for Fetcher {
    fn default() -> Self {
        Self {
            turns: Semaphore::new(FETCHES_MAX),
            next_at: Cell::default(),
            under_way: RefCell::default(),
            kept: RefCell::default(),
            fetches: Cell::default(),
        }
    }
}

impl Fetcher {
    /// How far each fetch is that has begun.
    pub(super) fn under_way(&self) -> BTreeMap<GroupId, Received> {
        self.under_way.borrow().clone()
    }

    fn note(&self, group: GroupId, bytes: u64, total_bytes: u64) {
        let received = Received { bytes, total_bytes };
        self.under_way.borrow_mut().insert(group, received);
    }
}

struct Kept {
    fetch: FetchSnapshot,
    receiver: Receiver,
    /// Tells one attempt from another.
    number: u64,
}

impl Executor {
    /// Fetches a peer's snapshot.
    pub(super) fn fetch_snapshot(self: &Rc<Self>, fetch: FetchSnapshot) {
        self.taker.spawn(run(self.clone(), fetch));
    }
}

async fn run(executor: Rc<Executor>, fetch: FetchSnapshot) {
    let FetchSnapshot {
        group, from, index, ..
    } = fetch;
    let (shard, peer, index) = (executor.index, from.to_raw(), index.to_raw());
    let started = executor.origin.time();
    tracing::info!(event = "snapshot.fetching", shard, %group, peer, index);
    let fetched = executor.fetch(fetch).await;
    executor.fetcher.under_way.borrow_mut().remove(&group);
    let ms = executor.origin.millis_since(started);
    let input = match fetched {
        Ok((snapshot, newest)) => {
            let bytes = newest.bytes;
            tracing::info!(event = "snapshot.fetched", shard, %group, peer, index, bytes, ms);
            executor.taker.is_there(group, newest);
            executor
                .shard
                .borrow_mut()
                .accounts_mut()
                .snapshots_received += 1;
            Input::SnapshotFetched { group, snapshot }
        }
        Err(error) => {
            tracing::warn!(event = "snapshot.not_fetched", shard, %group, peer, index, reason = %error, ms);
            sleep(executor.jitter(FAILURE_PAUSE)).await;
            Input::SnapshotNotFetched { group }
        }
    };
    executor.step(executor.clock(), input);
}

impl Executor {
    async fn fetch(
        self: &Rc<Self>,
        fetch: FetchSnapshot,
    ) -> Result<(Snapshot, NewestSnapshot), FetchError> {
        let FetchSnapshot {
            group, index, term, ..
        } = fetch;
        let turn = self.fetcher.turns.acquire_permit(1).await;
        let _turn = turn.expect("the semaphore is never closed");
        if !self.snapshots.has(group, index, term) {
            let mut receiver = self.receiver(fetch).await?;
            if let Err(error) = self.transfer(fetch, &mut receiver).await {
                if let FetchError::Peer(_) = error {
                    self.keep(fetch, receiver);
                }
                return Err(error);
            }
            receiver.finish().await?;
        }
        let slots = self.config.slots_of_group(group);
        let loading = self
            .snapshots
            .load_one(group, index, term, Kv::new(slots), CHUNK_BYTES_MAX);
        let Restored {
            state,
            header,
            membership,
            summary,
        } = loading.await?;
        let newest = NewestSnapshot::of(&header, &summary);
        let snapshot = Snapshot {
            index,
            term,
            state,
            membership,
        };
        Ok((snapshot, newest))
    }

    /// Goes on with what was kept of the same snapshot, or begins.
    async fn receiver(&self, fetch: FetchSnapshot) -> Result<Receiver, SnapshotFileError> {
        let kept = self.fetcher.kept.borrow_mut().remove(&fetch.group);
        match kept {
            Some(kept) if kept.fetch == fetch => Ok(kept.receiver),
            _ => {
                let FetchSnapshot {
                    group, index, term, ..
                } = fetch;
                self.snapshots.receive(group, index, term).await
            }
        }
    }

    fn keep(self: &Rc<Self>, fetch: FetchSnapshot, receiver: Receiver) {
        let number = self.fetcher.fetches.get() + 1;
        self.fetcher.fetches.set(number);
        let kept = Kept {
            fetch,
            receiver,
            number,
        };
        self.fetcher.kept.borrow_mut().insert(fetch.group, kept);
        let executor = self.clone();
        self.taker.spawn(async move {
            sleep(KEPT_FOR).await;
            let mut kept = executor.fetcher.kept.borrow_mut();
            if kept.get(&fetch.group).is_some_and(|it| it.number == number) {
                kept.remove(&fetch.group);
            }
        });
    }

    /// Brings all of the snapshot into the receiver, over one connection or several.
    async fn transfer(
        &self,
        fetch: FetchSnapshot,
        receiver: &mut Receiver,
    ) -> Result<(), FetchError> {
        let link = self.link(fetch.from).ok_or(FetchError::Stranger)?;
        let mut attempts = 0;
        loop {
            let before = receiver.offset();
            let error = match self.pull(&link, fetch, receiver).await {
                Err(FetchError::Peer(error)) => error,
                ended => return ended,
            };
            attempts = match receiver.offset() > before {
                true => 1,
                false => attempts + 1,
            };
            if attempts >= ATTEMPTS_MAX {
                return Err(error.into());
            }
            sleep(self.jitter(BACK_OFF * 2_u32.pow(attempts))).await;
        }
    }

    /// The same over one connection.
    async fn pull(
        &self,
        link: &Link,
        fetch: FetchSnapshot,
        receiver: &mut Receiver,
    ) -> Result<(), FetchError> {
        let (socket, frames) = link.connect(self).await?;
        let mut pull = Pull {
            socket,
            frames,
            fetch,
            asked: VecDeque::new(),
            next: receiver.offset(),
            total_bytes: None,
        };
        let ended = self.pull_parts(&mut pull, receiver).await;
        pull.socket.close();
        ended
    }

    /// Waits until another part may be asked for.
    async fn wait_for_rate(&self) {
        let rate = self.config.snapshot.fetch_bytes_per_second;
        if rate == 0 {
            return;
        }
        let now = self.origin.time();
        let at = self.fetcher.next_at.get().max(now);
        let nanos = (PART_BYTES_MAX as u64).saturating_mul(1_000_000_000) / rate;
        self.fetcher
            .next_at
            .set(at.after(Duration::from_nanos(nanos)));
        sleep(at.since(now)).await;
    }

    async fn pull_parts(&self, pull: &mut Pull, receiver: &mut Receiver) -> Result<(), FetchError> {
        loop {
            self.wait_for_rate().await;
            pull.ask().await?;
            let (offset, bytes) = pull.part().await?;
            receiver.write(offset, &bytes).await?;
            let total_bytes = pull.total_bytes.unwrap_or_default();
            self.fetcher
                .note(pull.fetch.group, receiver.offset(), total_bytes);
            if receiver.offset() == total_bytes {
                return Ok(());
            }
            glommio::executor().yield_task_queue_now().await;
        }
    }
}

/// One connection that brings a snapshot.
struct Pull {
    socket: Socket,
    frames: FrameReader,
    fetch: FetchSnapshot,
    /// Offsets of the parts on their way.
    asked: VecDeque<u64>,
    /// Of the part to ask for next.
    next: u64,
    total_bytes: Option<u64>,
}

impl Pull {
    fn request(&self, offset: u64) -> PartRequest {
        let FetchSnapshot {
            group, index, term, ..
        } = self.fetch;
        PartRequest {
            group: group.to_raw(),
            index: index.to_raw(),
            term: term.to_raw(),
            offset,
            bytes: u32::try_from(PART_BYTES_MAX).expect("parts are short"),
        }
    }

    /// Asks for as many parts as may be on their way. How many there are comes with the first.
    async fn ask(&mut self) -> Result<(), PeerError> {
        let mut bytes = Vec::new();
        while self.asked.len() < REQUESTS_MAX
            && match self.total_bytes {
                None => self.asked.is_empty(),
                Some(total_bytes) => self.next < total_bytes,
            }
        {
            frame(FrameKind::SnapshotRequest, &mut bytes, |to| {
                self.request(self.next).encode(to);
            });
            self.asked.push_back(self.next);
            self.next += PART_BYTES_MAX as u64;
        }
        self.socket.write_all(&bytes).await?;
        Ok(())
    }

    /// The next part, and where it belongs.
    async fn part(&mut self) -> Result<(u64, Vec<u8>), FetchError> {
        let offset = self.asked.pop_front().ok_or(PeerError::Unasked)?;
        let request = self.request(offset);
        loop {
            if let Some(frame) = self.frames.next_frame().map_err(PeerError::from)? {
                if frame.kind != FrameKind::SnapshotPart {
                    return Err(PeerError::Unexpected { kind: frame.kind }.into());
                }
                let reply = PartReply::decode(frame.body).map_err(PeerError::from)?;
                if reply != request.answer(reply.part) {
                    return Err(PeerError::Unasked.into());
                }
                let Part::Bytes { total_bytes, bytes } = reply.part else {
                    return Err(FetchError::Gone);
                };
                let before = *self.total_bytes.get_or_insert(total_bytes);
                if before != total_bytes {
                    let now = total_bytes;
                    return Err(FetchError::Changed { before, now });
                }
                // What is shorter than it should be would leave a gap before the next.
                let wanted = (total_bytes - offset).min(PART_BYTES_MAX as u64);
                if bytes.len() as u64 != wanted {
                    return Err(PeerError::Unasked.into());
                }
                return Ok((offset, bytes.to_vec()));
            }
            let (socket, frames) = (&self.socket, &mut self.frames);
            let reading = async { Ok(read_some(socket, frames).await) };
            if !timeout(PART_TIMEOUT, reading)
                .await
                .map_err(PeerError::from)??
            {
                return Err(PeerError::Closed.into());
            }
        }
    }
}
