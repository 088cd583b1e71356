//! The commands that exist: names, arity, flags and where their keys are. One table drives the
//! errors, `COMMAND` and the way to the code.

mod catalog;
mod grammar;
mod table;

pub(super) use catalog::{answer_command, matches};
pub(super) use grammar::{Shape, data_command};
pub(super) use table::{Spec, TABLE, Verb, find};

use alloc::borrow::Cow;
use alloc::format;
use alloc::string::String;

use crate::{ErrorReply, Reply, Slot};

use super::view::ServerView;

/// Characters of the arguments that an error repeats.
const ECHO_MAX: usize = 128;

impl Spec {
    /// Whether a command with so many arguments, its name included, is complete.
    pub(super) fn accepts(&self, count: usize) -> bool {
        let wanted = usize::from(self.arity.unsigned_abs());
        if self.arity < 0 {
            count >= wanted
        } else {
            count == wanted
        }
    }

    /// The keys of a command that [`Spec::accepts`] its arguments.
    pub(super) fn keys<'s, 'a>(
        &self,
        arguments: &'s [&'a [u8]],
    ) -> impl Iterator<Item = &'a [u8]> + use<'s, 'a> {
        let keys = match self.first_key {
            0 => &[],
            first => {
                let end = match self.last_key {
                    last @ 0.. => usize::from(last.unsigned_abs()) + 1,
                    last => arguments.len() + 1 - usize::from(last.unsigned_abs()),
                };
                &arguments[usize::from(first)..end]
            }
        };
        keys.iter()
            .copied()
            .step_by(usize::from(self.key_step).max(1))
    }

    /// The slot of all keys of a command. Without cluster mode, that of the first key: the others
    /// need only lie in the same group.
    pub(super) fn slot(
        &self,
        arguments: &[&[u8]],
        view: &ServerView<'_>,
    ) -> Result<Slot, ErrorReply> {
        let mut keys = self.keys(arguments).map(Slot::of);
        let first = keys.next().expect("a data command has a key");
        let together = |slot: Slot| {
            let range = || view.topology.range_of(first);
            let shared = |start, end| (start..=end).contains(&slot.number());
            slot == first
                || !view.cluster && range().is_some_and(|range| shared(range.start, range.end))
        };
        if keys.all(together) {
            Ok(first)
        } else {
            Err(ErrorReply::CrossSlot)
        }
    }
}

/// The name was not found in the table.
pub(super) fn unknown_command(arguments: &[&[u8]]) -> Reply {
    let (name, arguments) = arguments.split_first().expect("a command has a name");
    let mut beginning = String::new();
    for argument in arguments {
        if beginning.len() >= ECHO_MAX {
            break;
        }
        let room = ECHO_MAX - beginning.len();
        beginning.push_str(&format!("'{}' ", echo(argument, room)));
    }
    let name = echo(name, ECHO_MAX);
    error(format!(
        "ERR unknown command '{name}', with args beginning with: {beginning}"
    ))
}

pub(super) fn wrong_arity(name: &str) -> Reply {
    error(format!(
        "ERR wrong number of arguments for '{name}' command"
    ))
}

pub(super) fn unknown_subcommand(container: &str, name: &[u8]) -> Reply {
    let container = container.to_ascii_uppercase();
    let name = echo(name, ECHO_MAX);
    error(format!(
        "ERR unknown subcommand '{name}'. Try {container} HELP."
    ))
}

/// An error with this whole line.
pub(super) fn error(text: impl Into<String>) -> Reply {
    Reply::Error(ErrorReply::Other(text.into()))
}

fn echo(argument: &[u8], bytes_max: usize) -> Cow<'_, str> {
    // A NUL ends it, as Redis prints it as a C string.
    let end = argument
        .iter()
        .position(|&byte| byte == 0)
        .unwrap_or(argument.len());
    String::from_utf8_lossy(&argument[..end.min(bytes_max)])
}
