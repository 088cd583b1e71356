//! One connection's conversation: what it said about itself, and where each of its commands goes.

mod client;
mod cluster;
mod config;
mod greeting;
mod info;
mod server;

use alloc::string::String;
use alloc::vec::Vec;

use crate::{Command, ErrorReply, Reply, Slot};

use super::commands::{self, Shape, Spec, Verb, error, unknown_subcommand, wrong_arity};
use super::encode::{Version, encode};
use super::view::ServerView;

use client::Identity;

/// What the node does about a command.
#[derive(Debug)]
#[must_use]
pub enum Action<'a> {
    /// Answer now, in order, in [`Session::version`].
    Reply(Reply),
    /// Nothing to answer.
    Nothing,
    /// Ask the group of `slot`; answer with `form`.
    Data {
        slot: Slot,
        command: Command<'a>,
        form: Form,
    },
    /// Ask every group of the cluster that [`Gather::asks`]; answer once, with what
    /// [`Gather::gather`] makes of their replies.
    EveryGroup {
        command: Command<'static>,
        gather: Gather,
        form: Form,
    },
    /// Answer a [`Reply::Text`] of [`Session::describe`] of every connection (or every one of this
    /// shard), those with these ids only unless empty.
    ListClients { ids: Vec<u64>, form: Form },
    /// Close the connection with this id, another one than this, and answer `Ok`, or
    /// [`Action::no_such_client`] if there is none.
    KillClient { id: u64, form: Form },
    /// Close once everything before, and this, has been sent.
    Close(Option<Reply>),
}

impl Action<'_> {
    /// The answer to [`Action::KillClient`] for an id that nobody has.
    pub fn no_such_client() -> Reply {
        error("ERR No such client")
    }
}

/// How the replies of all groups become one. The first error among them is the reply, if there is one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gather {
    /// The sum of the integers.
    Sum,
    /// The same of the groups that the client's endpoint leads: in cluster mode `DBSIZE` is of one
    /// endpoint, and clients add up those of all masters.
    SumLed,
    /// `OK`
    Ok,
    /// The same of the groups that the client's endpoint leads: in cluster mode `FLUSHALL` is of one
    /// endpoint, and clients give it to all masters. Refused where there is no such group.
    OkLed,
}

impl Gather {
    /// Whether a group is asked at all, that the client's endpoint leads or not.
    pub fn asks(self, led_here: bool) -> bool {
        led_here || !matches!(self, Self::SumLed | Self::OkLed)
    }

    /// The one reply.
    pub fn gather(self, replies: impl IntoIterator<Item = Reply>) -> Reply {
        let mut sum = 0i64;
        let mut groups = 0;
        for reply in replies {
            groups += 1;
            match reply {
                Reply::Error(error) => return Reply::Error(error),
                Reply::Integer(value) => sum = sum.saturating_add(value),
                _ => {}
            }
        }
        match self {
            Self::Sum | Self::SumLed => Reply::Integer(sum),
            Self::OkLed if groups == 0 => {
                error("READONLY You can't write against a read only replica.")
            }
            Self::Ok | Self::OkLed => Reply::Ok,
        }
    }
}

/// How a reply that comes later must look: as its command was asked, whatever was asked since.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Form {
    version: Version,
    /// The client wants no answer (`CLIENT REPLY`).
    silent: bool,
    shape: Shape,
}

impl Form {
    /// Appends the reply of the command this form came with.
    pub fn encode(self, reply: &Reply, out: &mut Vec<u8>) {
        if self.silent {
            return;
        }
        match (self.shape, reply) {
            (Shape::Flag, Reply::Ok) => encode(&Reply::Integer(1), self.version, out),
            (Shape::Flag, Reply::Nil) => encode(&Reply::Integer(0), self.version, out),
            (Shape::Count, Reply::Ok) => encode(&Reply::Integer(1), self.version, out),
            (Shape::Count, Reply::Error(_)) => encode(&Reply::Integer(0), self.version, out),
            (Shape::Same | Shape::Flag | Shape::Count, reply) => encode(reply, self.version, out),
        }
    }
}

/// Which commands get an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answers {
    On,
    Off,
    /// Not the next one.
    SkipNext,
    /// Not this one.
    Skip,
}

/// State of one client connection.
#[derive(Debug)]
pub struct Session {
    identity: Identity,
    version: Version,
    authenticated: bool,
    read_only: bool,
    answers: Answers,
}

impl Session {
    /// A new connection. `id` is unique in the node; the addresses are `ip:port` of the client and of
    /// the server.
    pub fn new(id: u64, address: String, local_address: String) -> Self {
        Self {
            identity: Identity::new(id, address, local_address),
            version: Version::Resp2,
            authenticated: false,
            read_only: false,
            answers: Answers::On,
        }
    }

    /// The number given to [`Session::new`].
    pub fn id(&self) -> u64 {
        self.identity.id
    }

    /// What the client speaks now.
    pub fn version(&self) -> Version {
        self.version
    }

    /// Whether the client accepts reads from a follower (`READONLY`).
    pub fn is_read_only(&self) -> bool {
        self.read_only
    }

    /// Decides about one command. No arguments: an empty line, which is ignored.
    pub fn handle<'a>(&mut self, arguments: &'a [&'a [u8]], view: &ServerView<'_>) -> Action<'a> {
        if arguments.is_empty() {
            return Action::Nothing;
        }
        if self.answers == Answers::On {
            self.decide(arguments, view)
        } else {
            self.handle_silently(arguments, view)
        }
    }

    /// Handles a command while `CLIENT REPLY` is not `ON`.
    #[cold]
    fn handle_silently<'a>(
        &mut self,
        arguments: &'a [&'a [u8]],
        view: &ServerView<'_>,
    ) -> Action<'a> {
        if self.answers == Answers::SkipNext {
            self.answers = Answers::Skip;
        }
        let action = self.decide(arguments, view);
        let silent = self.answers != Answers::On;
        if self.answers == Answers::Skip {
            self.answers = Answers::On;
        }
        match action {
            Action::Reply(_) if silent => Action::Nothing,
            Action::Close(_) if silent => Action::Close(None),
            action => action,
        }
    }

    #[inline]
    fn decide<'a>(&mut self, arguments: &'a [&'a [u8]], view: &ServerView<'_>) -> Action<'a> {
        self.identity.seen(view.unix_micros);
        let spec = match self.admit(arguments, view) {
            Ok(spec) => spec,
            Err(reply) => return Action::Reply(reply),
        };
        if spec.first_key == 0 {
            return self
                .answer(spec, arguments, view)
                .unwrap_or_else(Action::Reply);
        }
        let data = commands::data_command(spec, arguments, view.unix_micros / 1000);
        match data.and_then(|data| Ok((data, spec.slot(arguments, view)?))) {
            Ok(((command, shape), slot)) => Action::Data {
                slot,
                command,
                form: self.form(shape),
            },
            Err(error) => Action::Reply(error.into()),
        }
    }

    /// Whether there is such a command and the client may give it.
    #[inline]
    fn admit(&self, arguments: &[&[u8]], view: &ServerView<'_>) -> Result<&'static Spec, Reply> {
        let spec =
            commands::find(arguments[0]).ok_or_else(|| commands::unknown_command(arguments))?;
        if !spec.accepts(arguments.len()) {
            return Err(wrong_arity(spec.name));
        }
        if !self.authenticated && view.password.is_some() && !spec.flags.contains("no_auth") {
            return Err(error("NOAUTH Authentication required."));
        }
        Ok(spec)
    }

    /// A command that is not about one key.
    fn answer<'a>(
        &mut self,
        spec: &'static Spec,
        arguments: &'a [&'a [u8]],
        view: &ServerView<'_>,
    ) -> Result<Action<'a>, Reply> {
        let reply = match spec.verb {
            Verb::DbSize => {
                let gather = if view.cluster {
                    Gather::SumLed
                } else {
                    Gather::Sum
                };
                let form = self.form(Shape::Same);
                return Ok(Action::EveryGroup {
                    command: Command::Size,
                    gather,
                    form,
                });
            }
            Verb::FlushAll => return self.flush(arguments, view.cluster),
            Verb::Client => return self.client(arguments, view),
            Verb::Cluster => return self.cluster(arguments, view),
            Verb::Hostile => return Ok(Action::Close(None)),
            Verb::Quit => return Ok(Action::Close(Some(Reply::Ok))),
            Verb::Auth => self.authenticate(arguments, view)?,
            Verb::Hello => self.hello(arguments, view)?,
            Verb::Ping => ping(arguments)?,
            Verb::Echo => Reply::bulk(arguments[1]),
            Verb::Select => select(arguments[1], view)?,
            Verb::Reset => self.reset(),
            Verb::Asking => clustered(view)?,
            Verb::ReadOnly | Verb::ReadWrite => {
                let reply = clustered(view)?;
                self.read_only = spec.verb == Verb::ReadOnly;
                reply
            }
            Verb::Command => commands::answer_command(arguments),
            Verb::Config => config::config(arguments, view)?,
            Verb::Info => info::info(&arguments[1..], view),
            Verb::Time => server::time(view),
            Verb::LastSave => server::last_save(view),
            Verb::Role => server::role(view),
            Verb::Wait => server::wait(arguments, view)?,
            Verb::SlowLog => server::slow_log(arguments)?,
            Verb::Latency => server::latency(arguments)?,
            Verb::Memory => server::memory(arguments)?,
            Verb::Acl => server::acl(arguments, view)?,
            Verb::Function => server::function(arguments)?,
            verb => unreachable!("{verb:?} is a command on a key"),
        };
        Ok(Action::Reply(reply))
    }

    fn flush<'a>(&self, arguments: &[&[u8]], cluster: bool) -> Result<Action<'a>, Reply> {
        match arguments[1..] {
            [] => {}
            [how] if how.eq_ignore_ascii_case(b"SYNC") || how.eq_ignore_ascii_case(b"ASYNC") => {}
            _ => return Err(ErrorReply::Syntax.into()),
        }
        let form = self.form(Shape::Same);
        let gather = if cluster { Gather::OkLed } else { Gather::Ok };
        Ok(Action::EveryGroup {
            command: Command::Flush,
            gather,
            form,
        })
    }

    fn reset(&mut self) -> Reply {
        self.version = Version::Resp2;
        self.authenticated = false;
        self.read_only = false;
        self.answers = Answers::On;
        self.identity.name.clear();
        Reply::Status("RESET")
    }

    fn form(&self, shape: Shape) -> Form {
        Form {
            version: self.version,
            silent: self.answers != Answers::On,
            shape,
        }
    }
}

fn ping(arguments: &[&[u8]]) -> Result<Reply, Reply> {
    match arguments {
        [_] => Ok(Reply::Status("PONG")),
        [_, message] => Ok(Reply::bulk(*message)),
        _ => Err(wrong_arity("ping")),
    }
}

fn select(database: &[u8], view: &ServerView<'_>) -> Result<Reply, Reply> {
    match super::number::parse_integer(database) {
        None => Err(ErrorReply::NotAnInteger.into()),
        Some(..-0x8000_0000 | 0x8000_0000..) => Err(error(
            "ERR value is out of range, value must between -2147483648 and 2147483647",
        )),
        Some(0) => Ok(Reply::Ok),
        Some(_) if view.cluster => Err(error("ERR SELECT is not allowed in cluster mode")),
        Some(_) => Err(error("ERR DB index is out of range")),
    }
}

fn clustered(view: &ServerView<'_>) -> Result<Reply, Reply> {
    if view.cluster {
        Ok(Reply::Ok)
    } else {
        Err(error("ERR This instance has cluster support disabled"))
    }
}

/// The subcommand in `arguments[1]`, from a table of names and arities that count the container too.
/// `Err` is the answer if it is none of them, `HELP` included.
fn subcommand(
    container: &str,
    table: &[(&'static str, i8)],
    arguments: &[&[u8]],
) -> Result<&'static str, Reply> {
    let name = arguments[1];
    if arguments.len() == 2 && name.eq_ignore_ascii_case(b"HELP") {
        return Err(help(container, table));
    }
    let known = table
        .iter()
        .find(|(known, _)| name.eq_ignore_ascii_case(known.as_bytes()));
    let &(known, arity) = known.ok_or_else(|| unknown_subcommand(container, name))?;
    let wanted = usize::from(arity.unsigned_abs());
    let complete = if arity < 0 {
        arguments.len() >= wanted
    } else {
        arguments.len() == wanted
    };
    if complete {
        Ok(known)
    } else {
        Err(wrong_arity(&alloc::format!("{container}|{known}")))
    }
}

fn help(container: &str, table: &[(&'static str, i8)]) -> Reply {
    let container = container.to_ascii_uppercase();
    let title = alloc::format!("{container} <subcommand> [<arg> ...]. Subcommands are:");
    let names = table
        .iter()
        .map(|(name, _)| Reply::bulk(name.to_ascii_uppercase()));
    Reply::Array([Reply::bulk(title)].into_iter().chain(names).collect())
}
