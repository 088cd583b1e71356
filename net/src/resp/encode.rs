//! Replies as bytes, in the version of the protocol that the client asked for.

use alloc::vec::Vec;
use core::fmt::{self, Write};

use crate::{ErrorReply, Reply};

use super::number::push_integer;

/// Version of the protocol that a connection speaks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Version {
    #[default]
    Resp2,
    Resp3,
}

/// Appends a reply to what goes to the client.
pub fn encode(reply: &Reply, version: Version, out: &mut Vec<u8>) {
    match reply {
        Reply::Ok => out.extend_from_slice(b"+OK\r\n"),
        Reply::Status(text) => {
            out.push(b'+');
            out.extend_from_slice(text.as_bytes());
            out.extend_from_slice(b"\r\n");
        }
        Reply::Integer(value) => header(b':', *value, out),
        Reply::Bulk(bytes) => bulk(bytes, out),
        Reply::Text(text) => match version {
            Version::Resp2 => bulk(text.as_bytes(), out),
            Version::Resp3 => {
                header(b'=', length(text.len() + 4), out);
                out.extend_from_slice(b"txt:");
                out.extend_from_slice(text.as_bytes());
                out.extend_from_slice(b"\r\n");
            }
        },
        Reply::Nil => out.extend_from_slice(match version {
            Version::Resp2 => b"$-1\r\n",
            Version::Resp3 => b"_\r\n",
        }),
        Reply::Array(items) => {
            header(b'*', length(items.len()), out);
            for item in items {
                encode(item, version, out);
            }
        }
        Reply::Map(pairs) => {
            match version {
                Version::Resp2 => header(b'*', length(pairs.len() * 2), out),
                Version::Resp3 => header(b'%', length(pairs.len()), out),
            }
            for (key, value) in pairs {
                encode(key, version, out);
                encode(value, version, out);
            }
        }
        Reply::Error(error) => self::error(error, out),
    }
}

fn bulk(bytes: &[u8], out: &mut Vec<u8>) {
    out.reserve(bytes.len() + 16);
    header(b'$', length(bytes.len()), out);
    out.extend_from_slice(bytes);
    out.extend_from_slice(b"\r\n");
}

fn header(kind: u8, value: i64, out: &mut Vec<u8>) {
    out.push(kind);
    push_integer(value, out);
    out.extend_from_slice(b"\r\n");
}

fn length(length: usize) -> i64 {
    i64::try_from(length).expect("memory is smaller than 8 EiB")
}

fn error(error: &ErrorReply, out: &mut Vec<u8>) {
    out.push(b'-');
    write!(Line(out), "{error}").expect("writing to memory succeeds");
    out.extend_from_slice(b"\r\n");
}

/// Keeps a text on its line: what a client sent may come back inside an error.
struct Line<'a>(&'a mut Vec<u8>);

impl Write for Line<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let bytes = text.bytes();
        self.0.extend(bytes.map(|byte| {
            if matches!(byte, b'\r' | b'\n') {
                b' '
            } else {
                byte
            }
        }));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::String;
    use alloc::vec;

    #[test]
    fn replies_have_the_bytes_of_both_versions() {
        let map = Reply::Map(vec![(Reply::bulk(*b"a"), Reply::Integer(-1))]);
        let nested = Reply::Array(vec![Reply::Nil, Reply::Array(vec![]), Reply::Ok]);
        let hostile = ErrorReply::Other(String::from("ERR a\r\n+OK"));
        #[rustfmt::skip]
        let table: &[(Reply, &str, &str)] = &[
            (Reply::Ok, "+OK\r\n", "+OK\r\n"),
            (Reply::Status("PONG"), "+PONG\r\n", "+PONG\r\n"),
            (Reply::Integer(0), ":0\r\n", ":0\r\n"),
            (Reply::Integer(i64::MIN), ":-9223372036854775808\r\n", ":-9223372036854775808\r\n"),
            (Reply::bulk(*b""), "$0\r\n\r\n", "$0\r\n\r\n"),
            (Reply::bulk(*b"a\r\nb"), "$4\r\na\r\nb\r\n", "$4\r\na\r\nb\r\n"),
            (Reply::Text(String::from("hi")), "$2\r\nhi\r\n", "=6\r\ntxt:hi\r\n"),
            (Reply::Nil, "$-1\r\n", "_\r\n"),
            (map, "*2\r\n$1\r\na\r\n:-1\r\n", "%1\r\n$1\r\na\r\n:-1\r\n"),
            (nested, "*3\r\n$-1\r\n*0\r\n+OK\r\n", "*3\r\n_\r\n*0\r\n+OK\r\n"),
            (ErrorReply::Syntax.into(), "-ERR syntax error\r\n", "-ERR syntax error\r\n"),
            (hostile.into(), "-ERR a  +OK\r\n", "-ERR a  +OK\r\n"),
        ];
        for (reply, resp2, resp3) in table {
            for (version, bytes) in [(Version::Resp2, resp2), (Version::Resp3, resp3)] {
                let mut out = Vec::new();
                encode(reply, version, &mut out);
                assert_eq!(str::from_utf8(&out), Ok(*bytes), "{reply:?}");
            }
        }
    }
}
