//! `AUTH` and `HELLO`: who the client is and what it speaks.

use alloc::format;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;

use crate::resp::commands::error;
use crate::resp::encode::Version;
use crate::resp::number::parse_integer;
use crate::resp::view::ServerView;
use crate::{ErrorReply, Reply};

use super::Session;
use super::client::client_name;

/// The version of Redis whose replies these are: clients decide by it what they may ask for.
pub(super) const REDIS_VERSION: &str = "7.0.15";

const WRONG_PASSWORD: &str = "WRONGPASS invalid username-password pair or user is disabled.";
const NOT_AUTHENTICATED: &str = "NOAUTH HELLO must be called with the client already authenticated, \
     otherwise the HELLO <proto> AUTH <user> <pass> option can be used to authenticate the client \
     and select the RESP protocol version at the same time";
const NO_PASSWORD: &str = "ERR AUTH <password> called without any password configured for the \
     default user. Are you sure your configuration is correct?";

impl Session {
    pub(super) fn authenticate(
        &mut self,
        arguments: &[&[u8]],
        view: &ServerView<'_>,
    ) -> Result<Reply, Reply> {
        match *arguments {
            [_, _] if view.password.is_none() => Err(error(NO_PASSWORD)),
            [_, password] => self.check(b"default", password, view),
            [_, user, password] => self.check(user, password, view),
            _ => Err(ErrorReply::Syntax.into()),
        }
    }

    fn check(
        &mut self,
        user: &[u8],
        password: &[u8],
        view: &ServerView<'_>,
    ) -> Result<Reply, Reply> {
        let right = view
            .password
            .is_none_or(|right| equal_in_constant_time(right, password));
        if user == b"default" && right {
            self.authenticated = true;
            Ok(Reply::Ok)
        } else {
            Err(error(WRONG_PASSWORD))
        }
    }

    pub(super) fn hello(
        &mut self,
        arguments: &[&[u8]],
        view: &ServerView<'_>,
    ) -> Result<Reply, Reply> {
        let version = match arguments.get(1).map(|text| parse_integer(text)) {
            None => self.version,
            Some(None) => {
                return Err(error(
                    "ERR Protocol version is not an integer or out of range",
                ));
            }
            Some(Some(2)) => Version::Resp2,
            Some(Some(3)) => Version::Resp3,
            Some(Some(_)) => return Err(error("NOPROTO unsupported protocol version")),
        };
        let mut name = None;
        let mut options = arguments.get(2..).unwrap_or_default();
        while let [option, rest @ ..] = options {
            options = match rest {
                [user, password, rest @ ..] if option.eq_ignore_ascii_case(b"AUTH") => {
                    self.check(user, password, view)?;
                    rest
                }
                [wanted, rest @ ..] if option.eq_ignore_ascii_case(b"SETNAME") => {
                    name = Some(client_name(wanted)?);
                    rest
                }
                _ => {
                    let option = String::from_utf8_lossy(option);
                    return Err(error(format!(
                        "ERR Syntax error in HELLO option '{option}'"
                    )));
                }
            };
        }
        if view.password.is_some() && !self.authenticated {
            return Err(error(NOT_AUTHENTICATED));
        }
        if let Some(name) = name {
            self.identity.name = name;
        }
        self.version = version;
        Ok(self.greeting(view))
    }

    fn greeting(&self, view: &ServerView<'_>) -> Reply {
        let id = i64::try_from(self.id()).unwrap_or(i64::MAX);
        let proto = match self.version {
            Version::Resp2 => 2,
            Version::Resp3 => 3,
        };
        let mode = if view.cluster {
            "cluster"
        } else {
            "standalone"
        };
        Reply::Map(vec![
            (Reply::bulk("server"), Reply::bulk("redis")),
            (Reply::bulk("version"), Reply::bulk(REDIS_VERSION)),
            (Reply::bulk("proto"), Reply::Integer(proto)),
            (Reply::bulk("id"), Reply::Integer(id)),
            (Reply::bulk("mode"), Reply::bulk(mode)),
            (Reply::bulk("role"), Reply::bulk("master")),
            (Reply::bulk("modules"), Reply::Array(Vec::new())),
        ])
    }
}

/// Takes as long for a password that starts right as for any other of its length.
fn equal_in_constant_time(right: &[u8], given: &[u8]) -> bool {
    let differences = right.iter().zip(given).fold(0, |all, (a, b)| all | (a ^ b));
    right.len() == given.len() && core::hint::black_box(differences) == 0
}
