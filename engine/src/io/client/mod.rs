//! Client connections: one fiber reads and parses in place, another writes whole batches of answers.
//! What it is owed is in [`super::answers`].

use std::cell::{Cell, RefCell};
use std::fmt;
use std::rc::Rc;
use std::time::Duration;

use glommio::net::TcpListener;
use glommio::timer::sleep;
use net::resp::{Action, Form, Limits, Parser, ServerView, Session, Version, encode};
use net::{Command, ErrorReply, Reply};

use crate::config::{self, Config, Options};
use crate::shard::{Outcome, Stage};
use crate::{Clock, Time};

mod clients;

use super::answers::{Answers, Look, Next, State};
use super::clock::unix_micros;
use super::executor::Executor;
use super::requests::Asker;
use super::signal::Signal;
use super::socket::Socket;
pub(super) use clients::Clients;

const BUFFER_BYTES_MIN: usize = Options::CLIENT_BYTES_MIN;
/// The most that one look at a connection takes of requests that wait there: what is taken together shares
/// batches and flushes, and keeps the thread from others meanwhile.
const BURST_BYTES_MAX: usize = 256 * 1024;
/// Longest line without a length in front of it.
const INLINE_BYTES_MAX: usize = 64 * 1024;
/// How long a client that is owed more than it may be can go on without taking any of it.
const TAKES_NOTHING_MAX: Duration = Duration::from_secs(10);

/// One client.
pub(super) struct Connection {
    socket: Socket,
    session: RefCell<Session>,
    owed: RefCell<Answers>,
    out: RefCell<Vec<u8>>,
    /// Wakes the fiber that writes.
    written: Signal,
    /// Wakes the fiber that reads when it waits for answers to leave.
    room: Signal,
    /// Close once all that was asked has been answered.
    closing: Cell<bool>,
    /// Nothing can be written any more.
    dead: Cell<bool>,
    /// It is owed more than it may be, and watched whether it takes any of it.
    watched: Cell<bool>,
    /// How long each value of an answer may be, judged by those before: so many of its requests are taken at
    /// a time that their answers find room.
    value_bytes: Cell<usize>,
    /// When an answer was known that is followed until it is written.
    followed: Cell<Option<Time>>,
    /// Memory of the buffers for what is read, and for what is being written.
    input_bytes: Cell<usize>,
    writing_bytes: Cell<usize>,
    /// What of this connection is in `held_bytes`, which is that of all.
    counted: Cell<usize>,
    held_bytes: Rc<Cell<usize>>,
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection")
            .field("socket", &self.socket)
            .finish_non_exhaustive()
    }
}

impl Connection {
    fn new(socket: Socket, id: u64, value_bytes: usize, held_bytes: Rc<Cell<usize>>) -> Self {
        let session = Session::new(id, socket.peer(), socket.local());
        Self {
            socket,
            session: RefCell::new(session),
            owed: RefCell::default(),
            out: RefCell::default(),
            written: Signal::default(),
            room: Signal::default(),
            closing: Cell::new(false),
            dead: Cell::new(false),
            watched: Cell::new(false),
            value_bytes: Cell::new(value_bytes),
            followed: Cell::new(None),
            input_bytes: Cell::new(0),
            writing_bytes: Cell::new(0),
            counted: Cell::new(0),
            held_bytes,
        }
    }

    /// Counts the memory of its buffers and answers anew.
    fn count(&self) {
        let bytes = match self.dead.get() {
            true => 0,
            false => {
                let buffers = self.input_bytes.get() + self.writing_bytes.get();
                buffers + self.out.borrow().capacity() + self.owed.borrow().held_bytes()
            }
        };
        let before = self.counted.replace(bytes);
        self.held_bytes.set(self.held_bytes.get() + bytes - before);
    }

    /// Follows an answer that was known at a time until it is written.
    pub(super) fn follow(&self, known: Time) {
        self.followed.set(Some(known));
    }

    /// The outcome of a command, or of one group's part of it.
    pub(super) fn answer(
        self: &Rc<Self>,
        sequence: u64,
        outcome: Outcome,
        write: bool,
        config: &Config,
    ) {
        let limits = &config.limits;
        // A quarter: the buffer of answers may double.
        let full = self.held_bytes.get() > limits.clients_bytes_max / 4
            && self.owed_bytes() > limits.output_bytes_max;
        let outcome = match full {
            true => outcome.without_bytes(write),
            false => outcome,
        };
        let mut owed = self.owed.borrow_mut();
        let due = owed.give(sequence, |slot| {
            let reply = reply(outcome, slot, config);
            // What nobody will take is not kept.
            match self.dead.get() && reply.held_bytes() > 0 {
                true => Reply::Nil,
                false => reply,
            }
        });
        if due {
            self.write_ready(&mut owed);
            drop(owed);
            self.check_output(config.limits.output_bytes_max);
        }
    }

    /// An answer that needed no group.
    fn answer_here(&self, reply: Reply, version: Version) {
        let mut owed = self.owed.borrow_mut();
        if owed.is_empty() {
            encode(&reply, version, &mut self.out.borrow_mut());
            self.written.raise();
        } else {
            owed.push(Look::Version(version), 1, State::Ready(reply));
        }
    }

    /// A later answer that is known already.
    fn answer_form(&self, reply: Reply, form: Form) {
        let mut owed = self.owed.borrow_mut();
        owed.push(Look::Form(form), 1, State::Ready(reply));
        self.write_ready(&mut owed);
    }

    fn write_ready(&self, owed: &mut Answers) {
        let out = &mut *self.out.borrow_mut();
        let before = owed.len();
        while let Some(Next {
            look,
            values,
            reply,
        }) = owed.next()
        {
            let start = out.len();
            match look {
                // Nobody will take it.
                _ if self.dead.get() => {}
                Look::Form(form) => form.encode(&reply, out),
                Look::Version(version) => encode(&reply, version, out),
            }
            let expected = self.value_bytes.get();
            // Many values tell more than one.
            let less = expected - expected / (8 >> (values - 1).min(2));
            self.value_bytes.set(less.max((out.len() - start) / values));
        }
        if owed.len() < before {
            self.written.raise();
            self.room.raise();
        }
    }

    /// Bytes of answers that wait.
    fn owed_bytes(&self) -> usize {
        self.out.borrow().len() + self.owed.borrow().held_bytes()
    }

    /// Counts what it holds, and watches a client that is owed more than it may be.
    fn check_output(self: &Rc<Self>, bytes_max: usize) {
        self.count();
        let beyond = self.owed_bytes() > bytes_max && !self.dead.get();
        if beyond && !self.watched.replace(true) {
            glommio::spawn_local(watch(self.clone(), bytes_max)).detach();
        }
    }

    fn die(&self) {
        self.dead.set(true);
        self.closing.set(true);
        *self.out.borrow_mut() = Vec::new();
        self.owed.borrow_mut().forget();
        self.count();
        self.socket.close();
        self.written.raise();
        self.room.raise();
    }

    /// Whether an answer is still to be given or written.
    fn owes(&self) -> bool {
        !self.dead.get() && (!self.out.borrow().is_empty() || !self.owed.borrow().is_empty())
    }
}

/// What a client is told of an outcome.
fn reply(outcome: Outcome, slot: u16, config: &Config) -> Reply {
    let error = match outcome {
        Outcome::Reply(reply) => return reply,
        Outcome::NoLeader => ErrorReply::NoLeader,
        Outcome::Busy => ErrorReply::Busy,
        Outcome::Unknown => ErrorReply::OutcomeUnknown,
        Outcome::Redirect { leader, .. } => match config.address(leader) {
            Some(address) => ErrorReply::Moved {
                slot,
                host: address.host.clone(),
                port: config.client_port(address, config.group_of_slot(slot)),
            },
            None => ErrorReply::NoLeader,
        },
    };
    Reply::Error(error)
}

/// Lets clients in until it is cancelled.
pub(super) async fn accept(executor: Rc<Executor>, listener: TcpListener) {
    loop {
        match listener.accept().await {
            Ok(stream) => {
                let socket = Socket::new(stream, executor.ring.clone());
                let clients = &executor.clients;
                clients.seen.borrow_mut().counters.connections_received += 1;
                if clients.len() >= executor.config.limits.connections_max {
                    clients.seen.borrow_mut().counters.connections_rejected += 1;
                    glommio::spawn_local(refuse(socket)).detach();
                    continue;
                }
                let connection = Rc::new(Connection::new(
                    socket,
                    clients.next_id(),
                    executor.config.limits.value_bytes_max,
                    clients.held_bytes.clone(),
                ));
                glommio::spawn_local(serve(executor.clone(), connection)).detach();
            }
            Err(error) => {
                tracing::warn!(event = "client.accept_failed", shard = executor.index, %error);
                sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

async fn refuse(socket: Socket) {
    // The client may be gone already.
    drop(
        socket
            .write_all(b"-ERR max number of clients reached\r\n")
            .await,
    );
    socket.close();
}

async fn serve(executor: Rc<Executor>, connection: Rc<Connection>) {
    let id = connection.session.borrow().id();
    let clients = &executor.clients;
    clients
        .connections
        .borrow_mut()
        .insert(id, connection.clone());
    let writer = glommio::spawn_local(write(executor.clone(), connection.clone()));
    if let Err(error) = read(&executor, &connection).await {
        tracing::debug!(event = "client.lost", id, %error);
        connection.die();
    }
    connection.closing.set(true);
    connection.written.raise();
    writer.await;
    connection.socket.close();
    // It holds nothing any more, and counts for nothing.
    connection.dead.set(true);
    connection.count();
    clients.connections.borrow_mut().remove(&id);
}

/// Writes what has gathered, all of it at once.
async fn write(executor: Rc<Executor>, connection: Rc<Connection>) {
    let mut bytes = Vec::new();
    while !connection.dead.get() {
        std::mem::swap(&mut bytes, &mut *connection.out.borrow_mut());
        if bytes.is_empty() {
            if connection.closing.get() && !connection.owes() {
                return;
            }
            connection.written.wait().await;
            continue;
        }
        connection.writing_bytes.set(bytes.capacity());
        connection.count();
        // There is room for more now, although there may be nothing more to be answered.
        connection.room.raise();
        let followed = connection.followed.take();
        if connection.socket.write_all(&bytes).await.is_err() {
            connection.die();
        } else if let Some(known) = followed {
            executor.account(Stage::Reply, executor.origin.time().since(known));
        }
        bytes.clear();
        bytes.shrink_to(executor.clients.kept_bytes(&executor.config));
    }
}

/// Disconnects a client that takes nothing of what it is owed, until that is no more than it may be.
async fn watch(connection: Rc<Connection>, bytes_max: usize) {
    let mut taken = connection.socket.sent();
    loop {
        sleep(TAKES_NOTHING_MAX).await;
        if connection.dead.get() || connection.owed_bytes() <= bytes_max {
            break connection.watched.set(false);
        }
        let before = std::mem::replace(&mut taken, connection.socket.sent());
        if taken == before {
            tracing::warn!(event = "client.slow", from = connection.socket.peer());
            break connection.die();
        }
    }
}

/// Reads and understands what the client sends, until it ends, or must end.
async fn read(executor: &Rc<Executor>, connection: &Rc<Connection>) -> std::io::Result<()> {
    let limits = &executor.config.limits;
    let mut parser = Parser::new(Limits {
        bulk_bytes: limits.key_bytes_max.max(limits.value_bytes_max),
        arguments: limits.arguments_max,
        inline_bytes: INLINE_BYTES_MAX,
        command_bytes: limits.request_bytes_max,
    });
    let mut buffer = vec![0; BUFFER_BYTES_MIN];
    let mut end = 0;
    loop {
        if connection.input_bytes.replace(buffer.len()) != buffer.len() {
            connection.count();
            executor.clients.relieve(limits.clients_bytes_max);
        }
        let bytes = connection.socket.read(&mut buffer[end..]).await?;
        let more_waits = end + bytes == buffer.len();
        if bytes == 0 || executor.stopping.get() || connection.closing.get() {
            return Ok(());
        }
        executor.clients.seen.borrow_mut().counters.bytes_in += bytes as u64;
        end += bytes;
        let mut start = 0;
        loop {
            start += understand(executor, connection, &mut parser, &buffer[start..end]);
            if connection.closing.get() {
                return Ok(());
            }
            if !is_full(executor, connection) {
                break;
            }
            connection.room.wait().await;
        }
        buffer.copy_within(start..end, 0);
        end -= start;
        let kept_bytes = executor.clients.kept_bytes(&executor.config);
        let burst = more_waits && buffer.len() * 2 <= kept_bytes.min(BURST_BYTES_MAX);
        if end == buffer.len() || burst {
            // Doubles only as the client really sends; the parser's limits bound it.
            buffer.resize(buffer.len() * 2, 0);
        } else if end == 0 && buffer.len() > kept_bytes {
            buffer.truncate(BUFFER_BYTES_MIN);
            buffer.shrink_to_fit();
        }
        glommio::yield_if_needed().await;
    }
}

fn is_full(executor: &Executor, connection: &Connection) -> bool {
    let limits = &executor.config.limits;
    let owed = connection.owed.borrow();
    let expected = owed.values().saturating_mul(connection.value_bytes.get());
    let held = connection.out.borrow().len() + owed.held_bytes();
    owed.len() >= limits.requests_per_connection_max
        || held.saturating_add(expected) > limits.output_bytes_max / 2
}

/// Takes whole commands from the start of `bytes`: how many bytes they were.
fn understand(
    executor: &Rc<Executor>,
    connection: &Rc<Connection>,
    parser: &mut Parser,
    bytes: &[u8],
) -> usize {
    let clock = executor.clock();
    executor.clients.refresh(executor, clock.now);
    let now_micros = unix_micros();
    let mut used = 0;
    let mut commands = 0;
    while !connection.closing.get() && !is_full(executor, connection) {
        match parser.parse(&bytes[used..]) {
            Ok(Some(length)) => {
                let arguments = parser.arguments(&bytes[used..]);
                handle(executor, connection, clock, now_micros, &arguments);
                used += length;
                commands += 1;
            }
            Ok(None) => break,
            Err(error) => {
                let version = connection.session.borrow().version();
                connection.answer_here(error.into(), version);
                connection.closing.set(true);
            }
        }
    }
    if commands > 0 && executor.sampler.burst() {
        executor.account(Stage::Parse, executor.origin.time().since(clock.now));
    }
    executor
        .clients
        .seen
        .borrow_mut()
        .counters
        .commands_processed += commands;
    used
}

fn handle(
    executor: &Rc<Executor>,
    connection: &Rc<Connection>,
    clock: Clock,
    now_micros: u64,
    arguments: &[&[u8]],
) {
    let clients = &executor.clients;
    let mut session = connection.session.borrow_mut();
    let action = {
        let seen = clients.seen.borrow();
        let view = ServerView {
            cluster: true,
            password: None,
            topology: &seen.topology,
            counters: &seen.counters,
            raft: &seen.raft,
            unix_micros: now_micros,
        };
        session.handle(arguments, &view)
    };
    let version = session.version();
    drop(session);
    match action {
        Action::Reply(reply) => connection.answer_here(reply, version),
        Action::Nothing => {}
        Action::Data {
            slot,
            command,
            form,
        } => {
            if let Some(refusal) = beyond_limits(&executor.config.limits, &command) {
                return connection.answer_form(refusal, form);
            }
            let config = &executor.config;
            let group = config.group_of_slot(slot.number());
            let state = State::Slot(slot.number());
            let values = match command {
                Command::MultiGet { keys } => keys.len().max(1),
                _ => 1,
            };
            let asker = asker(connection, Look::Form(form), values, state);
            executor.request(clock, asker, group, config.proxy, command);
        }
        Action::EveryGroup {
            command,
            gather,
            form,
        } => {
            // A proxy stands for the whole cluster, to clients that know no other node.
            let asked = |&group: &wal::GroupId| {
                executor.config.proxy || gather.asks(executor.leads_here(group))
            };
            let groups = (0..executor.config.cluster.groups).map(wal::GroupId::from_raw);
            let groups: Vec<wal::GroupId> = groups.filter(asked).collect();
            if groups.is_empty() {
                return connection.answer_form(gather.gather([]), form);
            }
            let state = State::Groups {
                missing: groups.len(),
                gather,
                replies: Vec::new(),
            };
            let asker = asker(connection, Look::Form(form), 1, state);
            for group in groups {
                executor.request(clock, asker.clone(), group, true, command);
            }
        }
        Action::ListClients { ids, form } => {
            let connections = clients.connections.borrow();
            let lines: String = connections
                .iter()
                .filter(|(id, _)| ids.is_empty() || ids.contains(id))
                .map(|(_, other)| other.session.borrow().describe(now_micros))
                .collect();
            connection.answer_form(Reply::Text(lines), form);
        }
        Action::KillClient { id, form } => {
            let other = clients.connections.borrow().get(&id).cloned();
            let reply = match other {
                Some(other) => {
                    other.die();
                    Reply::Ok
                }
                None => Action::no_such_client(),
            };
            connection.answer_form(reply, form);
        }
        Action::Close(reply) => {
            if let Some(reply) = reply {
                connection.answer_here(reply, version);
            }
            connection.closing.set(true);
        }
    }
}

fn asker(connection: &Rc<Connection>, look: Look, values: usize, state: State) -> Asker {
    let sequence = connection.owed.borrow_mut().push(look, values, state);
    Asker::Client {
        connection: connection.clone(),
        sequence,
    }
}

/// The refusal of a command with a key or a value that is too long.
fn beyond_limits(limits: &config::Limits, command: &Command<'_>) -> Option<Reply> {
    let longest = |items: &mut dyn Iterator<Item = &[u8]>| items.map(<[u8]>::len).max();
    let (key, value) = match *command {
        Command::Set { key, value, .. } | Command::Append { key, value, .. } => {
            (key.len(), value.len())
        }
        Command::MultiSet { pairs } => {
            let keys = longest(&mut pairs.iter().step_by(2)).unwrap_or_default();
            let values = longest(&mut pairs.iter().skip(1).step_by(2));
            (keys, values.unwrap_or_default())
        }
        Command::Delete { keys } | Command::Exists { keys } | Command::MultiGet { keys } => {
            (longest(&mut keys.iter()).unwrap_or_default(), 0)
        }
        Command::Get { key }
        | Command::Increment { key, .. }
        | Command::Length { key }
        | Command::Expire { key, .. }
        | Command::TimeToLive { key, .. }
        | Command::Persist { key }
        | Command::Type { key } => (key.len(), 0),
        Command::Size | Command::Flush | Command::CountInSlot { .. } => (0, 0),
    };
    let beyond = [
        ("key", key, limits.key_bytes_max),
        ("value", value, limits.value_bytes_max),
    ];
    let (what, bytes, limit) = beyond.into_iter().find(|(_, bytes, limit)| bytes > limit)?;
    let text = format!("ERR {what} of {bytes} bytes is longer than the limit of {limit}");
    Some(Reply::Error(ErrorReply::Other(text)))
}

#[cfg(test)]
mod tests {
    use net::command::{Condition, Expiry, List};

    use super::*;

    #[test]
    fn every_key_and_value_is_held_to_its_limit() {
        let limits = config::Limits {
            key_bytes_max: 4,
            value_bytes_max: 6,
            ..config::Limits::default()
        };
        let set = |key, value| Command::Set {
            key,
            value,
            expiry: Expiry::Never,
            condition: Condition::Always,
            get: false,
        };
        let pairs = |items| Command::MultiSet {
            pairs: List::Arguments(items),
        };
        let keys = |items| Command::Delete {
            keys: List::Arguments(items),
        };
        let key = Some("ERR key of 5 bytes is longer than the limit of 4");
        let value = Some("ERR value of 7 bytes is longer than the limit of 6");
        let table: &[(Command<'_>, Option<&str>)] = &[
            (set(b"1234", b"123456"), None),
            (set(b"12345", b"1"), key),
            (set(b"1", b"1234567"), value),
            (pairs(&[b"1234", b"123456", b"1", b"1"]), None),
            (pairs(&[b"1", b"1", b"12345", b"1"]), key),
            (pairs(&[b"1", b"1", b"1", b"1234567"]), value),
            (keys(&[b"1", b"12345"]), key),
            (Command::Get { key: b"12345" }, key),
            (Command::Size, None),
        ];
        for (command, expected) in table {
            let refusal = beyond_limits(&limits, command);
            let text = refusal.map(|refusal| match refusal {
                Reply::Error(error) => error.to_string(),
                other => panic!("{other:?}"),
            });
            assert_eq!(text.as_deref(), *expected, "{command:?}");
        }
    }
}
