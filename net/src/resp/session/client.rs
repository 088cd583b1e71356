//! `CLIENT`: what a connection says about itself.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use crate::resp::commands::{Shape, error};
use crate::resp::encode::Version;
use crate::resp::number::parse_integer;
use crate::resp::view::ServerView;
use crate::{ErrorReply, Reply};

use super::{Action, Answers, Session, subcommand};

/// What a connection may say about itself is kept as long as it lasts.
const NAME_BYTES_MAX: usize = 1024;

const SUBCOMMANDS: &[(&str, i8)] = &[
    ("caching", 3),
    ("getname", 2),
    ("getredir", 2),
    ("id", 2),
    ("info", 2),
    ("kill", -3),
    ("list", -2),
    ("no-evict", 3),
    ("no-touch", 3),
    ("reply", 3),
    ("setinfo", 4),
    ("setname", 3),
    ("tracking", -3),
    ("unblock", -3),
    ("unpause", 2),
];

/// What `CLIENT LIST` shows of a connection.
#[derive(Debug)]
pub(super) struct Identity {
    pub(super) id: u64,
    address: String,
    local_address: String,
    pub(super) name: String,
    library: String,
    library_version: String,
    /// Unix time of the first command; 0 before it.
    since_micros: u64,
    /// Unix time of the last command.
    seen_micros: u64,
}

impl Identity {
    pub(super) fn new(id: u64, address: String, local_address: String) -> Self {
        Self {
            id,
            address,
            local_address,
            name: String::new(),
            library: String::new(),
            library_version: String::new(),
            since_micros: 0,
            seen_micros: 0,
        }
    }

    pub(super) fn seen(&mut self, unix_micros: u64) {
        if self.since_micros == 0 {
            self.since_micros = unix_micros;
        }
        self.seen_micros = unix_micros;
    }
}

impl Session {
    /// The line of `CLIENT LIST` for this connection, its line end included.
    pub fn describe(&self, unix_micros: u64) -> String {
        let Identity {
            id,
            address,
            local_address,
            name,
            library,
            library_version,
            ..
        } = &self.identity;
        let seconds_since = |micros: u64| unix_micros.saturating_sub(micros) / 1_000_000;
        let age = seconds_since(self.identity.since_micros);
        let idle = seconds_since(self.identity.seen_micros);
        let flags = if self.read_only { "r" } else { "N" };
        let resp = match self.version {
            Version::Resp2 => 2,
            Version::Resp3 => 3,
        };
        format!(
            "id={id} addr={address} laddr={local_address} fd=0 name={name} age={age} idle={idle} \
             flags={flags} db=0 sub=0 psub=0 ssub=0 multi=-1 qbuf=0 qbuf-free=0 argv-mem=0 \
             multi-mem=0 rbs=0 rbp=0 obl=0 oll=0 omem=0 tot-mem=0 events=r cmd=client user=default \
             redir=-1 resp={resp} lib-name={library} lib-ver={library_version}\n"
        )
    }

    pub(super) fn client<'a>(
        &mut self,
        arguments: &[&[u8]],
        view: &ServerView<'_>,
    ) -> Result<Action<'a>, Reply> {
        let rest = &arguments[2..];
        let reply = match subcommand("client", SUBCOMMANDS, arguments)? {
            "id" => Reply::Integer(i64::try_from(self.id()).unwrap_or(i64::MAX)),
            "getname" if self.identity.name.is_empty() => Reply::Nil,
            "getname" => Reply::bulk(self.identity.name.as_bytes()),
            "setname" => {
                self.identity.name = client_name(rest[0])?;
                Reply::Ok
            }
            "setinfo" => self.set_info(rest[0], rest[1])?,
            "info" => Reply::Text(self.describe(view.unix_micros)),
            "list" => return self.list(rest),
            "kill" => return self.kill(rest),
            "reply" => return self.set_answers(rest[0]),
            "no-evict" | "no-touch" => on_or_off(rest[0]).map(|_| Reply::Ok)?,
            "tracking" if on_or_off(rest[0])? => {
                return Err(error("ERR Client tracking is not supported"));
            }
            "caching" => {
                let text = "ERR CLIENT CACHING can be called only when the client is in tracking \
                     mode with OPTIN or OPTOUT mode enabled";
                return Err(error(text));
            }
            "unblock" => Reply::Integer(0), // nobody ever waits
            "getredir" => Reply::Integer(-1),
            _ => Reply::Ok,
        };
        Ok(Action::Reply(reply))
    }

    fn set_info(&mut self, option: &[u8], value: &[u8]) -> Result<Reply, Reply> {
        let (name, place) = if option.eq_ignore_ascii_case(b"LIB-NAME") {
            ("lib-name", &mut self.identity.library)
        } else if option.eq_ignore_ascii_case(b"LIB-VER") {
            ("lib-ver", &mut self.identity.library_version)
        } else {
            let option = String::from_utf8_lossy(option);
            return Err(error(format!("ERR Unrecognized option '{option}'")));
        };
        *place = printable(name, value)?;
        Ok(Reply::Ok)
    }

    fn list<'a>(&self, filter: &[&[u8]]) -> Result<Action<'a>, Reply> {
        let ids = match filter {
            [] => Vec::new(),
            [by, kind] if by.eq_ignore_ascii_case(b"TYPE") => {
                if kind.eq_ignore_ascii_case(b"NORMAL") {
                    Vec::new()
                } else {
                    let known = ["master", "replica", "slave", "pubsub"];
                    let kind = String::from_utf8_lossy(kind);
                    if known.iter().any(|known| kind.eq_ignore_ascii_case(known)) {
                        return Ok(Action::Reply(Reply::Text(String::new())));
                    }
                    return Err(error(format!("ERR Unknown client type '{kind}'")));
                }
            }
            [by, ids @ ..] if by.eq_ignore_ascii_case(b"ID") && !ids.is_empty() => {
                // Ids that nobody can have are found with nobody.
                let ids = ids.iter().map(|text| parse_integer(text));
                let ids = ids.map(|id| id.map(|id| u64::try_from(id).unwrap_or(0)));
                ids.collect::<Option<_>>()
                    .ok_or_else(|| error("ERR Invalid client ID"))?
            }
            _ => return Err(ErrorReply::Syntax.into()),
        };
        Ok(Action::ListClients {
            ids,
            form: self.form(Shape::Same),
        })
    }

    fn kill<'a>(&self, filter: &[&[u8]]) -> Result<Action<'a>, Reply> {
        // The old form names an address and answers OK, the new one counts.
        let old = filter.len() == 1;
        let own = match filter {
            [address] => *address == self.identity.address.as_bytes(),
            [by, address] if by.eq_ignore_ascii_case(b"ADDR") => {
                *address == self.identity.address.as_bytes()
            }
            [by, id] if by.eq_ignore_ascii_case(b"ID") => {
                let text = "ERR client-id should be greater than 0";
                let id = client_id(id).ok_or_else(|| error(text))?;
                if id != self.id() {
                    return Ok(Action::KillClient {
                        id,
                        form: self.form(Shape::Count),
                    });
                }
                true
            }
            _ => return Err(ErrorReply::Syntax.into()),
        };
        match (own, old) {
            (true, true) => Ok(Action::Close(Some(Reply::Ok))),
            (true, false) => Ok(Action::Close(Some(Reply::Integer(1)))),
            (false, true) => Err(Action::no_such_client()),
            (false, false) => Ok(Action::Reply(Reply::Integer(0))),
        }
    }

    fn set_answers<'a>(&mut self, how: &[u8]) -> Result<Action<'a>, Reply> {
        if how.eq_ignore_ascii_case(b"ON") {
            self.answers = Answers::On;
            return Ok(Action::Reply(Reply::Ok));
        }
        if how.eq_ignore_ascii_case(b"OFF") {
            self.answers = Answers::Off;
        } else if how.eq_ignore_ascii_case(b"SKIP") {
            if self.answers != Answers::Off {
                self.answers = Answers::SkipNext;
            }
        } else {
            return Err(ErrorReply::Syntax.into());
        }
        Ok(Action::Nothing)
    }
}

fn client_id(text: &[u8]) -> Option<u64> {
    parse_integer(text)
        .and_then(|id| u64::try_from(id).ok())
        .filter(|&id| id > 0)
}

fn on_or_off(text: &[u8]) -> Result<bool, Reply> {
    if text.eq_ignore_ascii_case(b"ON") {
        Ok(true)
    } else if text.eq_ignore_ascii_case(b"OFF") {
        Ok(false)
    } else {
        Err(ErrorReply::Syntax.into())
    }
}

/// A name that a client gives itself.
pub(super) fn client_name(name: &[u8]) -> Result<String, Reply> {
    printable("Client names", name)
}

/// A text that keeps `CLIENT LIST` readable. `what` is how the refusal calls it.
fn printable(what: &str, text: &[u8]) -> Result<String, Reply> {
    if text.len() > NAME_BYTES_MAX {
        return Err(error(format!(
            "ERR {what} cannot be longer than {NAME_BYTES_MAX} bytes"
        )));
    }
    if !text.iter().all(|byte| (b'!'..=b'~').contains(byte)) {
        return Err(error(format!(
            "ERR {what} cannot contain spaces, newlines or special characters."
        )));
    }
    Ok(String::from_utf8_lossy(text).into_owned())
}
