//! The connections that peers dial: whom they are let in as, and what comes on them.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use glommio::net::TcpListener;
use glommio::timer::{sleep, timeout};
use net::peer::{
    Forwards, FrameKind, FrameReader, Hello, HelloReply, Messages, PartRequest, Refusal, VERSION,
    Verdict, frame, push_answer,
};
use wal::{GroupId, NodeId};

use crate::config::Limits;
use crate::shard::{Input, Outcome};
use crate::wire;

use super::executor::Executor;
use super::identity::Presence;
use super::peer::{HANDSHAKE_TIMEOUT, PeerError, handshake, read_some, silence_max};
use super::requests::Asker;
use super::sender::Sender;
use super::signal::Signal;
use super::socket::Socket;

fn verdict(outcome: Outcome) -> Verdict {
    match outcome {
        Outcome::Reply(reply) => Verdict::Reply(reply),
        Outcome::Redirect { leader, command } => Verdict::Redirect {
            leader: leader.to_raw(),
            command,
        },
        Outcome::NoLeader => Verdict::NoLeader,
        Outcome::Busy => Verdict::Busy,
        Outcome::Unknown => Verdict::Unknown,
    }
}

/// A connection that a peer dialled.
#[derive(Debug)]
pub(super) struct Inbound {
    answers: RefCell<Bodies>,
    /// The next part of a snapshot, in its frame.
    part: RefCell<Vec<u8>>,
    signal: Signal,
    /// The part is on its way, or will never be.
    part_taken: Signal,
    closed: Cell<bool>,
}

/// Answers that wait to be sent, as bodies of frames.
#[derive(Debug)]
struct Bodies {
    waiting: VecDeque<Vec<u8>>,
    /// Of all that wait.
    bytes: usize,
    /// Beyond which answers that carry much are told without it.
    bytes_max: usize,
    body_bytes_max: usize,
}

impl Bodies {
    fn new(limits: &Limits) -> Self {
        Self {
            waiting: VecDeque::new(),
            bytes: 0,
            bytes_max: limits.peer_queue_bytes_max,
            body_bytes_max: limits.frame_bytes_max,
        }
    }

    fn push(&mut self, request: u64, outcome: Outcome, write: bool) {
        /// Around what an answer carries: more than its head, the text of an error, and what rounds it up.
        const HEAD_BYTES: usize = 1024;
        let outcome = match self.bytes > self.bytes_max {
            true => outcome.without_bytes(write),
            false => outcome,
        };
        let expected = outcome.held_bytes() + HEAD_BYTES;
        let fits = |body: &&mut Vec<u8>| body.len() + expected <= self.body_bytes_max;
        let mut fresh = Vec::new();
        let body = match self.waiting.back_mut().filter(fits) {
            Some(body) => body,
            None => &mut fresh,
        };
        let before = body.len();
        push_answer(request, &verdict(outcome), body);
        self.bytes += body.len() - before;
        if !fresh.is_empty() {
            self.waiting.push_back(fresh);
        }
    }

    fn next(&mut self) -> Option<Vec<u8>> {
        let body = self.waiting.pop_front()?;
        self.bytes -= body.len();
        Some(body)
    }
}

impl Inbound {
    fn new(limits: &Limits) -> Self {
        Self {
            answers: RefCell::new(Bodies::new(limits)),
            part: RefCell::default(),
            signal: Signal::default(),
            part_taken: Signal::default(),
            closed: Cell::new(false),
        }
    }

    /// Queues the answer to a forwarded command, which was a write or not.
    pub(super) fn answer(&self, request: u64, outcome: Outcome, write: bool) {
        if !self.closed.get() {
            self.answers.borrow_mut().push(request, outcome, write);
            self.signal.raise();
        }
    }

    /// Sends a part of a snapshot; done once it is on its way, so that only one waits here.
    async fn send_part(&self, frame: Vec<u8>) {
        *self.part.borrow_mut() = frame;
        self.signal.raise();
        while !self.part.borrow().is_empty() && !self.closed.get() {
            self.part_taken.wait().await;
        }
    }
}

/// Longest handshake of somebody who was not let in yet.
const HELLO_BYTES_MAX: usize = 64 << 10;
/// Connections at once of those who were not let in yet.
const STRANGERS_MAX: usize = 64;

/// A connection whose other end was not let in yet; counted while it lives.
struct Stranger(Rc<Cell<usize>>);

impl Stranger {
    /// `None` if there are too many.
    fn new(count: &Rc<Cell<usize>>) -> Option<Self> {
        if count.get() >= STRANGERS_MAX {
            return None;
        }
        count.set(count.get() + 1);
        Some(Self(count.clone()))
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

/// Lets peers in, for ever.
pub(super) async fn accept(executor: Rc<Executor>, listener: TcpListener) {
    let strangers = Rc::new(Cell::new(0));
    loop {
        match listener.accept().await {
            Ok(stream) => {
                let executor = executor.clone();
                let socket = Socket::new(stream, executor.ring.clone());
                let Some(stranger) = Stranger::new(&strangers) else {
                    tracing::warn!(
                        event = "peer.too_many",
                        shard = executor.index,
                        from = socket.peer(),
                        strangers_max = STRANGERS_MAX,
                    );
                    socket.close();
                    continue;
                };
                glommio::spawn_local(serve(executor, socket, stranger)).detach();
            }
            Err(error) => {
                tracing::warn!(event = "peer.accept_failed", shard = executor.index, %error);
                sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

async fn serve(executor: Rc<Executor>, socket: Socket, stranger: Stranger) {
    socket.give_up_after(silence_max(&executor));
    let socket = Rc::new(socket);
    executor.dialled(&socket);
    let inbound = Rc::new(Inbound::new(&executor.config.limits));
    let welcomed = welcome(&executor, &socket).await;
    drop(stranger);
    let error = match welcomed {
        Ok((from, presence, frames)) => {
            let writer = glommio::spawn_local(write_answers(inbound.clone(), socket.clone()));
            let ended = listen(&executor, &inbound, (from, &presence), &socket, frames).await;
            inbound.closed.set(true);
            writer.cancel().await;
            ended
        }
        Err(error) => Err(error),
    };
    socket.close();
    match error {
        Err(PeerError::Closed | PeerError::Refusal(Refusal::Asked)) | Ok(()) => {}
        Err(error) => {
            tracing::warn!(event = "peer.rejected", shard = executor.index, from = socket.peer(), reason = %error);
        }
    }
}

/// The handshake of the side that was dialled: the peer's node, and what it said since.
async fn welcome(
    executor: &Executor,
    socket: &Socket,
) -> Result<(NodeId, Arc<Presence>, FrameReader), PeerError> {
    let mut frames = FrameReader::new(HELLO_BYTES_MAX);
    let hello: Hello = timeout(HANDSHAKE_TIMEOUT, async {
        Ok(handshake(socket, &mut frames, FrameKind::Hello, Hello::decode).await)
    })
    .await??;
    let admitted = executor.admit(&hello);
    frames.admit(executor.config.limits.frame_bytes_max);
    let reply = match &admitted {
        Ok((version, _)) => HelloReply::Welcome {
            version: *version,
            instance: executor.instance,
            start: executor.register.start,
            manner: executor.register.manner(),
        },
        Err(refusal) => HelloReply::Refused(executor.refuse(hello.from, refusal)),
    };
    let mut bytes = Vec::new();
    frame(FrameKind::HelloReply, &mut bytes, |to| reply.encode(to));
    socket.write_all(&bytes).await?;
    let (version, presence) = admitted?;
    assert!(version <= VERSION, "admitted a format this build lacks");
    Ok((NodeId::from_raw(hello.from), presence, frames))
}

/// Takes in what a peer says, until it ends.
async fn listen(
    executor: &Rc<Executor>,
    inbound: &Rc<Inbound>,
    (from, presence): (NodeId, &Presence),
    socket: &Socket,
    mut frames: FrameReader,
) -> Result<(), PeerError> {
    let mut sender = Sender::default();
    loop {
        let mut clock = executor.clock();
        presence.hear(clock.now);
        if presence.is_superseded() {
            return Err(PeerError::Superseded);
        }
        while let Some(frame) = frames.next_frame()? {
            match frame.kind {
                FrameKind::Messages => {
                    for (envelope, payloads) in Messages::access(frame.body)?.iter() {
                        let (group, message) =
                            wire::message(envelope, payloads).ok_or(PeerError::Unknown)?;
                        let input = Input::Message {
                            from,
                            group,
                            message,
                        };
                        executor.step(clock, input);
                    }
                }
                FrameKind::Forward => {
                    for forward in Forwards::new(frame.body) {
                        let forward = forward?;
                        let asker = Asker::Peer {
                            inbound: inbound.clone(),
                            request: forward.request,
                        };
                        let group = GroupId::from_raw(forward.group);
                        executor.request_encoded(clock, asker, group, false, forward.command);
                    }
                }
                // Who asks for more than it takes is not read meanwhile.
                FrameKind::SnapshotRequest => {
                    let request = PartRequest::decode(frame.body)?;
                    let part = sender.read(executor, &request).await?;
                    inbound.send_part(part).await;
                    clock = executor.clock();
                }
                kind => return Err(PeerError::Unexpected { kind }),
            }
        }
        if !read_some(socket, &mut frames).await? {
            return Err(PeerError::Closed);
        }
        glommio::yield_if_needed().await;
    }
}

async fn write_answers(inbound: Rc<Inbound>, socket: Rc<Socket>) {
    let mut bytes = Vec::new();
    loop {
        bytes.clear();
        bytes.append(&mut inbound.part.borrow_mut());
        inbound.part_taken.raise();
        let answers = inbound.answers.borrow_mut().next();
        if let Some(answers) = answers {
            frame(FrameKind::ForwardReply, &mut bytes, |to| {
                to.extend_from_slice(&answers)
            });
        }
        if bytes.is_empty() {
            inbound.signal.wait().await;
            continue;
        }
        if socket.write_all(&bytes).await.is_err() {
            // The reading side sees it too and ends the connection.
            inbound.closed.set(true);
            inbound.part_taken.raise();
            socket.close();
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use net::Reply;
    use net::peer::Answers;

    use super::*;

    const BODY_BYTES: usize = 4096;
    const QUEUE_BYTES: usize = 1 << 16;

    fn bodies() -> Bodies {
        Bodies::new(&Limits {
            frame_bytes_max: BODY_BYTES,
            peer_queue_bytes_max: QUEUE_BYTES,
            ..Limits::default()
        })
    }

    fn value() -> Outcome {
        Outcome::Reply(Reply::bulk([7; 1000]))
    }

    #[test]
    fn so_many_strangers_are_heard_at_once_and_no_more() {
        let count = Rc::default();
        let strangers: Vec<_> = (0..200).map_while(|_| Stranger::new(&count)).collect();
        assert_eq!(strangers.len(), STRANGERS_MAX);
        assert!(Stranger::new(&count).is_none());
        drop(strangers);
        assert_eq!(count.get(), 0);
        assert!(Stranger::new(&count).is_some());
    }

    #[test]
    fn answers_leave_in_order_and_each_body_fits_a_frame() {
        let mut bodies = bodies();
        let outcomes = [value(), Outcome::Reply(Reply::Ok), value()];
        for (request, outcome) in (0..).zip(outcomes.iter().cycle().take(30)) {
            bodies.push(request, outcome.clone(), false);
        }
        let mut requests = Vec::new();
        while let Some(body) = bodies.next() {
            assert!(body.len() <= BODY_BYTES, "{} bytes", body.len());
            requests.extend(Answers::new(&body).map(|answer| answer.unwrap().request));
        }
        assert_eq!(requests, (0..30).collect::<Vec<_>>());
        assert_eq!(bodies.bytes, 0);
    }

    #[test]
    fn a_peer_that_takes_no_answers_is_told_without_values_what_became_of_its_requests() {
        let mut bodies = bodies();
        for request in 0..1000 {
            bodies.push(request, value(), request % 2 == 0);
        }
        bodies.push(1000, Outcome::Reply(Reply::Ok), true);
        let command = vec![0; 500];
        let leader = NodeId::from_raw(2);
        bodies.push(1001, Outcome::Redirect { leader, command }, true);
        assert!(bodies.bytes < QUEUE_BYTES + 1000 * 64, "{}", bodies.bytes);
        let mut told = Vec::new();
        while let Some(body) = bodies.next() {
            told.extend(Answers::new(&body).map(|answer| answer.unwrap().verdict));
        }
        let values = told
            .iter()
            .take_while(|it| matches!(it, Verdict::Reply(Reply::Bulk(_))));
        assert!(values.count() * 1000 >= QUEUE_BYTES - 2000);
        assert_eq!(
            told[998..],
            [
                Verdict::Unknown,
                Verdict::Busy,
                Verdict::Reply(Reply::Ok),
                Verdict::Busy
            ]
        );
    }
}
