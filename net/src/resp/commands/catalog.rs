//! `COMMAND`: the table as clients read it, to learn where keys are.

use alloc::format;
use alloc::vec;
use alloc::vec::Vec;

use crate::Reply;

use super::{Spec, TABLE, error, find, unknown_subcommand, wrong_arity};

/// Names in one request. A description is far longer than a name: without a limit, few bytes in would
/// be many bytes out.
const NAMES_MAX: usize = 1024;

/// Answers `COMMAND` and its subcommands.
pub(in crate::resp) fn answer_command(arguments: &[&[u8]]) -> Reply {
    let Some((&name, rest)) = arguments[1..].split_first() else {
        return Reply::Array(TABLE.iter().map(info).collect());
    };
    let is = |other: &str| name.eq_ignore_ascii_case(other.as_bytes());
    if is("COUNT") {
        if !rest.is_empty() {
            return wrong_arity("command|count");
        }
        Reply::Integer(i64::try_from(TABLE.len()).expect("the table is small"))
    } else if is("INFO") {
        if rest.is_empty() {
            return Reply::Array(TABLE.iter().map(info).collect());
        }
        if rest.len() > NAMES_MAX {
            return too_many_names();
        }
        Reply::Array(
            rest.iter()
                .map(|name| find(name).map_or(Reply::Nil, info))
                .collect(),
        )
    } else if is("DOCS") {
        if rest.is_empty() {
            return Reply::Map(TABLE.iter().map(docs).collect());
        }
        if rest.len() > NAMES_MAX {
            return too_many_names();
        }
        Reply::Map(
            rest.iter()
                .filter_map(|name| find(name))
                .map(docs)
                .collect(),
        )
    } else if is("LIST") {
        list(rest)
    } else if is("GETKEYS") {
        if rest.len() < 2 {
            return wrong_arity("command|getkeys");
        }
        keys(rest)
    } else {
        unknown_subcommand("command", name)
    }
}

fn too_many_names() -> Reply {
    error(format!("ERR more than {NAMES_MAX} command names"))
}

fn info(spec: &'static Spec) -> Reply {
    let words = |text: &'static str| Reply::Array(text.split(' ').map(Reply::Status).collect());
    Reply::Array(vec![
        Reply::bulk(spec.name),
        Reply::Integer(spec.arity.into()),
        words(spec.flags),
        Reply::Integer(spec.first_key.into()),
        Reply::Integer(spec.last_key.into()),
        Reply::Integer(spec.key_step.into()),
        words(spec.categories),
        Reply::Array(Vec::new()), // tips
        Reply::Array(Vec::new()), // key specifications
        Reply::Array(Vec::new()), // subcommands
    ])
}

fn docs(spec: &'static Spec) -> (Reply, Reply) {
    let pair = |name: &str, text: &str| (Reply::bulk(name), Reply::bulk(text));
    let fields = vec![
        pair("summary", spec.summary),
        pair("since", spec.since),
        pair("group", spec.group),
    ];
    (Reply::bulk(spec.name), Reply::Map(fields))
}

fn list(filter: &[&[u8]]) -> Reply {
    let names = |wanted: &dyn Fn(&Spec) -> bool| {
        Reply::Array(
            TABLE
                .iter()
                .filter(|spec| wanted(spec))
                .map(|spec| Reply::bulk(spec.name))
                .collect(),
        )
    };
    let [by, kind, value] = filter else {
        return if filter.is_empty() {
            names(&|_| true)
        } else {
            crate::ErrorReply::Syntax.into()
        };
    };
    if !by.eq_ignore_ascii_case(b"FILTERBY") {
        return crate::ErrorReply::Syntax.into();
    }
    if kind.eq_ignore_ascii_case(b"MODULE") {
        names(&|_| false)
    } else if kind.eq_ignore_ascii_case(b"ACLCAT") {
        names(&|spec| {
            let mut categories = spec.categories.split(' ');
            categories.any(|category| category.as_bytes()[1..].eq_ignore_ascii_case(value))
        })
    } else if kind.eq_ignore_ascii_case(b"PATTERN") {
        names(&|spec| matches(value, spec.name.as_bytes()))
    } else {
        crate::ErrorReply::Syntax.into()
    }
}

/// Whether `text` fits a pattern of letters, `?` and `*`, in any case.
pub(in crate::resp) fn matches(pattern: &[u8], text: &[u8]) -> bool {
    // Where to go on after the last star, should the rest not fit.
    let (mut at, mut read) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while read < text.len() {
        match pattern.get(at) {
            Some(b'*') => {
                star = Some((at + 1, read));
                at += 1;
                continue;
            }
            Some(&byte) if byte == b'?' || byte.eq_ignore_ascii_case(&text[read]) => {
                at += 1;
                read += 1;
                continue;
            }
            Some(_) | None => {}
        }
        let Some((behind, tried)) = star else {
            return false;
        };
        star = Some((behind, tried + 1));
        (at, read) = (behind, tried + 1);
    }
    pattern[at..].iter().all(|&byte| byte == b'*')
}

fn keys(command: &[&[u8]]) -> Reply {
    let Some(spec) = find(command[0]) else {
        return error("ERR Invalid command specified");
    };
    if spec.first_key == 0 {
        return error("ERR The command has no key arguments");
    }
    if !spec.accepts(command.len()) {
        return error("ERR Invalid number of arguments specified for command");
    }
    Reply::Array(spec.keys(command).map(Reply::bulk).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_as_in_a_shell() {
        #[rustfmt::skip]
        let table: &[(&str, &str, bool)] = &[
            ("*", "", true), ("*", "get", true), ("", "", true), ("", "a", false),
            ("GET", "get", true), ("g?t", "get", true), ("g?", "get", false),
            ("*et", "get", true), ("s*e*", "setex", true), ("s*e*z", "setex", false),
            ("a*a*a*a*b", "aaaaaaaaaaaaaaaa", false), ("**t", "get", true), ("get*", "get", true),
        ];
        for &(pattern, text, fits) in table {
            assert_eq!(
                matches(pattern.as_bytes(), text.as_bytes()),
                fits,
                "{pattern} {text}"
            );
        }
    }
}
