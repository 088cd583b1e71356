//! The connections that this node dials, shard to shard. Each side dials for what it has to say: messages
//! and forwarded commands go out on a [`Link`], answers to forwarded commands come back on it.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::rc::Rc;
use std::time::Duration;

use glommio::net::TcpStream;
use glommio::timer::{sleep, timeout};
use net::peer::{
    Answers, Forward, FrameError, FrameKind, FrameReader, HelloError, HelloReply, MessagesError,
    Outgoing, PartError, RecordError, Refusal, Refused, Verdict, frame, push_forward,
};
use wal::{GroupId, NodeId};

use crate::Time;
use crate::config::{Limits, NodeAddress};
use crate::raft::Message;
use crate::shard::{Outcome, Token};
use crate::wire;

use super::executor::Executor;
use super::identity::Caller;
use super::signal::Signal;
use super::socket::Socket;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
pub(super) const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(2);
const SILENCE_MIN: Duration = Duration::from_secs(3);
const BACK_OFF_MIN: Duration = Duration::from_millis(20);
const BACK_OFF_MAX: Duration = Duration::from_millis(500);

/// Why a connection to or from a peer ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum PeerError {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("{0}")]
    Frame(#[from] FrameError),
    #[error("{0}")]
    Hello(#[from] HelloError),
    #[error("{0}")]
    Messages(#[from] MessagesError),
    #[error("{0}")]
    Record(#[from] RecordError),
    #[error("{0}")]
    Part(#[from] PartError),
    #[error("refused by the peer: {}", .0.reason)]
    Refused(Box<Refused>),
    #[error("refused: {0}")]
    Refusal(#[from] Refusal),
    #[error("the peer closed the connection")]
    Closed,
    #[error("the peer did not answer in time")]
    Silent,
    #[error("the peer sent a frame of kind {kind:?} where it does not belong")]
    Unexpected { kind: FrameKind },
    #[error("the peer sent a message that this build does not know")]
    Unknown,
    #[error("another process speaks for the peer since it was silent")]
    Superseded,
    #[error("the peer asked for a part of group {group}, which does not live on this shard")]
    Group { group: GroupId },
    #[error("the peer sent a part of a snapshot that nobody asked for")]
    Unasked,
}

impl<T> From<glommio::GlommioError<T>> for PeerError {
    fn from(error: glommio::GlommioError<T>) -> Self {
        match error {
            glommio::GlommioError::IoError(error) => Self::Io(error),
            glommio::GlommioError::TimedOut(_) => Self::Silent,
            other => Self::Io(io::Error::other(other.to_string())),
        }
    }
}

/// What this shard has to say to the same shard of one other node.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) node: NodeId,
    pub(super) address: NodeAddress,
    queue: RefCell<Queue>,
    bytes_max: usize,
    frame_bytes_max: usize,
    signal: Signal,
    pub(super) connected: Cell<bool>,
    broken: Cell<bool>,
    /// Something is to be said, if there is nothing else then so that the peer hears of this node.
    beat: Cell<bool>,
    pub(super) dropped: Cell<u64>,
    /// Forwarded requests and when they are given up, oldest first.
    waiting: RefCell<VecDeque<(Time, Token)>>,
}

#[derive(Debug, Default)]
struct Queue {
    messages: VecDeque<(GroupId, Message)>,
    /// Body of the next frame of forwarded commands.
    forwards: Vec<u8>,
    bytes: usize,
}

impl Link {
    pub(super) fn new(address: NodeAddress, limits: &Limits) -> Self {
        Self {
            node: NodeId::from_raw(address.id),
            address,
            queue: RefCell::default(),
            bytes_max: limits.peer_queue_bytes_max,
            frame_bytes_max: limits.frame_bytes_max,
            signal: Signal::default(),
            connected: Cell::new(false),
            broken: Cell::new(false),
            beat: Cell::new(false),
            dropped: Cell::new(0),
            waiting: RefCell::default(),
        }
    }

    pub(super) fn queue_bytes(&self) -> usize {
        self.queue.borrow().bytes
    }

    /// Queues a message; drops the oldest ones when the queue is full: consensus repeats what
    /// matters.
    pub(super) fn send(&self, group: GroupId, message: Message) {
        if !self.connected.get() {
            self.dropped.set(self.dropped.get() + 1);
            return;
        }
        let mut queue = self.queue.borrow_mut();
        queue.bytes += weight(&message);
        queue.messages.push_back((group, message));
        while queue.bytes > self.bytes_max && queue.messages.len() > 1 {
            if let Some((_, oldest)) = queue.messages.pop_front() {
                queue.bytes -= weight(&oldest);
                self.dropped.set(self.dropped.get() + 1);
            }
        }
        self.signal.raise();
    }

    /// Queues a command for the peer's shard; false if nobody is connected or too much waits.
    pub(super) fn forward(
        &self,
        token: Token,
        group: GroupId,
        command: &[u8],
        give_up: Time,
    ) -> bool {
        /// Around a command: more than its head, and what rounds it up.
        const HEAD_BYTES: usize = 64;
        let mut queue = self.queue.borrow_mut();
        // All that wait go in one frame.
        let frame_bytes = queue.forwards.len() + command.len() + HEAD_BYTES;
        let full = queue.bytes > self.bytes_max || frame_bytes > self.frame_bytes_max;
        if !self.connected.get() || full {
            return false;
        }
        let before = queue.forwards.len();
        let forward = Forward {
            request: token.0,
            group: group.to_raw(),
            command,
        };
        push_forward(&forward, &mut queue.forwards);
        queue.bytes += queue.forwards.len() - before;
        self.waiting.borrow_mut().push_back((give_up, token));
        self.signal.raise();
        true
    }

    /// Forwarded requests whose time is over; all of them when the connection is gone.
    pub(super) fn overdue(&self, now: Option<Time>, mut each: impl FnMut(Token)) {
        loop {
            let token = match self.waiting.borrow().front() {
                Some(&(at, token)) if now.is_none_or(|now| at <= now) => token,
                _ => return,
            };
            self.waiting.borrow_mut().pop_front();
            each(token);
        }
    }

    /// Forgets answered requests at the front, so that the list stays as long as what is open.
    fn forget_answered(&self, executor: &Executor) {
        let mut waiting = self.waiting.borrow_mut();
        while let Some(&(_, token)) = waiting.front()
            && !executor.is_open(token)
        {
            waiting.pop_front();
        }
    }

    /// Connects, says what there is to say, and connects again, for ever.
    pub(super) async fn run(self: Rc<Self>, executor: Rc<Executor>) {
        let mut back_off = BACK_OFF_MIN;
        let mut told = String::new();
        loop {
            let error = match self.connect(&executor).await {
                Ok((socket, frames)) => {
                    tracing::info!(
                        event = "peer.connected",
                        shard = executor.index,
                        peer = self.node.to_raw()
                    );
                    back_off = BACK_OFF_MIN;
                    told.clear();
                    self.talk(&executor, Rc::new(socket), frames).await
                }
                Err(error) => error,
            };
            self.connected.set(false);
            *self.queue.borrow_mut() = Queue::default();
            self.overdue(None, |token| executor.lost(token, self.node));
            let text = error.to_string();
            // Each reason once: a peer that is down is retried many times a minute.
            if text != told {
                tracing::warn!(event = "peer.disconnected", shard = executor.index, peer = self.node.to_raw(), reason = %text);
                told = text;
            }
            sleep(executor.jitter(back_off)).await;
            back_off = (back_off * 2).min(BACK_OFF_MAX);
        }
    }

    /// A connection to the peer's shard, which has let this one in.
    pub(super) async fn connect(
        &self,
        executor: &Executor,
    ) -> Result<(Socket, FrameReader), PeerError> {
        let port = self.address.peer_port + executor.index;
        let target = std::net::ToSocketAddrs::to_socket_addrs(&(self.address.host.as_str(), port))?
            .next()
            .ok_or(io::ErrorKind::NotFound)
            .map_err(io::Error::from)?;
        let stream = TcpStream::connect_timeout(target, CONNECT_TIMEOUT).await?;
        let socket = Socket::new(stream, executor.ring.clone());
        socket.give_up_after(silence_max(executor));
        let mut bytes = Vec::new();
        let hello = executor.hello(self.node);
        frame(FrameKind::Hello, &mut bytes, |to| hello.encode(to));
        socket.write_all(&bytes).await?;

        let mut frames = FrameReader::new(executor.config.limits.frame_bytes_max);
        let reply = timeout(HANDSHAKE_TIMEOUT, async {
            Ok(handshake(
                &socket,
                &mut frames,
                FrameKind::HelloReply,
                HelloReply::decode,
            )
            .await)
        })
        .await??;
        match reply {
            HelloReply::Welcome {
                instance,
                start,
                manner,
                ..
            } => {
                let callee = Caller {
                    node: self.node.to_raw(),
                    instance,
                    start,
                    manner,
                };
                let now = executor.origin.time();
                let register = &executor.register;
                register.meet(&callee, now, silence_max(executor))?;
                register.welcomed(callee.node)?;
                Ok((socket, frames))
            }
            HelloReply::Refused(refused) => {
                executor.refused(self.node, &refused);
                Err(PeerError::Refused(Box::new(refused)))
            }
        }
    }

    /// Until the connection ends.
    async fn talk(
        self: &Rc<Self>,
        executor: &Rc<Executor>,
        socket: Rc<Socket>,
        frames: FrameReader,
    ) -> PeerError {
        self.broken.set(false);
        self.connected.set(true);
        let failure = Rc::new(RefCell::new(None));
        let reader = glommio::spawn_local({
            let (link, executor, socket) = (self.clone(), executor.clone(), socket.clone());
            let failure = failure.clone();
            async move {
                let error = link.read_answers(&executor, &socket, frames).await;
                *failure.borrow_mut() = error.err();
                link.broken.set(true);
                link.signal.raise();
            }
        });
        let beating = glommio::spawn_local({
            let (link, interval) = (self.clone(), silence_max(executor) / 4);
            async move {
                loop {
                    sleep(interval).await;
                    link.beat.set(true);
                    link.signal.raise();
                }
            }
        });
        let error = self.write(executor, &socket).await;
        socket.close();
        reader.cancel().await;
        beating.cancel().await;
        let read = failure.borrow_mut().take();
        read.or(error.err()).unwrap_or(PeerError::Closed)
    }

    async fn write(&self, executor: &Executor, socket: &Socket) -> Result<(), PeerError> {
        let mut bytes = Vec::new();
        let mut outgoing = Outgoing::default();
        while !self.broken.get() {
            self.fill(executor, &mut outgoing, &mut bytes);
            if self.beat.replace(false) && bytes.is_empty() {
                // No commands.
                frame(FrameKind::Forward, &mut bytes, |_| ());
            }
            if bytes.is_empty() {
                self.signal.wait().await;
            } else {
                socket.write_all(&bytes).await?;
                bytes.clear();
                bytes.shrink_to(1 << 20);
            }
        }
        Ok(())
    }

    /// Moves what is queued into frames, as far as a few frames go.
    fn fill(&self, executor: &Executor, outgoing: &mut Outgoing, bytes: &mut Vec<u8>) {
        let frame_bytes_max = executor.config.limits.frame_bytes_max;
        let mut queue = self.queue.borrow_mut();
        if !queue.forwards.is_empty() {
            let forwards = std::mem::take(&mut queue.forwards);
            queue.bytes -= forwards.len();
            frame(FrameKind::Forward, bytes, |to| {
                to.extend_from_slice(&forwards)
            });
        }
        while bytes.len() < frame_bytes_max
            && let Some((group, message)) = queue.messages.pop_front()
        {
            let weight = weight(&message);
            queue.bytes -= weight;
            outgoing.push(wire::envelope(group, &message), wire::payloads(&message));
            // The next message might not fit any more: this frame is done.
            let next = queue
                .messages
                .front()
                .map_or(0, |(_, next)| self::weight(next));
            if outgoing.weight() + next > frame_bytes_max / 2 || queue.messages.is_empty() {
                frame(FrameKind::Messages, bytes, |to| outgoing.write(to));
            }
        }
        if !outgoing.is_empty() {
            frame(FrameKind::Messages, bytes, |to| outgoing.write(to));
        }
    }

    async fn read_answers(
        &self,
        executor: &Executor,
        socket: &Socket,
        mut frames: FrameReader,
    ) -> Result<(), PeerError> {
        loop {
            while let Some(frame) = frames.next_frame()? {
                if frame.kind != FrameKind::ForwardReply {
                    return Err(PeerError::Unexpected { kind: frame.kind });
                }
                for answer in Answers::new(frame.body) {
                    let answer = answer?;
                    executor.answered(Token(answer.request), self.node, outcome(answer.verdict));
                }
                self.forget_answered(executor);
                executor.settle.raise();
            }
            if !read_some(socket, &mut frames).await? {
                return Err(PeerError::Closed);
            }
        }
    }
}

/// The bytes a message takes on its way, nearly.
fn weight(message: &Message) -> usize {
    const ENVELOPE_BYTES: usize = 80;
    const HEAD_BYTES: usize = 32;
    wire::payloads(message)
        .map(|payload| payload.len().next_multiple_of(8) + HEAD_BYTES)
        .sum::<usize>()
        + ENVELOPE_BYTES
}

pub(super) async fn read_some(
    socket: &Socket,
    frames: &mut FrameReader,
) -> Result<bool, PeerError> {
    let bytes = socket.read(frames.space()).await?;
    frames.filled(bytes);
    Ok(bytes > 0)
}

pub(super) async fn handshake<T>(
    socket: &Socket,
    frames: &mut FrameReader,
    kind: FrameKind,
    decode: impl Fn(&[u8]) -> Result<T, HelloError>,
) -> Result<T, PeerError> {
    loop {
        if let Some(frame) = frames.next_frame()? {
            if frame.kind != kind {
                return Err(PeerError::Unexpected { kind: frame.kind });
            }
            return Ok(decode(frame.body)?);
        }
        if !read_some(socket, frames).await? {
            return Err(PeerError::Closed);
        }
    }
}

fn outcome(verdict: Verdict) -> Outcome {
    match verdict {
        Verdict::Reply(reply) => Outcome::Reply(reply),
        Verdict::Redirect { leader, command } => Outcome::Redirect {
            leader: NodeId::from_raw(leader),
            command,
        },
        Verdict::NoLeader => Outcome::NoLeader,
        Verdict::Busy => Outcome::Busy,
        Verdict::Unknown => Outcome::Unknown,
    }
}

/// How long a peer may acknowledge nothing before its connection is given up.
pub(super) fn silence_max(executor: &Executor) -> Duration {
    SILENCE_MIN.max(executor.config.cluster.election_timeout * 2)
}
