//! How requests are written and answers found, for each protocol.

use super::etcd::Etcd;
use super::keys::{KEY_BYTES, write_key};
use super::replies::{Answer, Replies};

/// What servers speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    Redis,
    Etcd,
}

/// One connection's requests and answers. Requests are numbered from 0.
pub(super) enum Wire {
    Redis(Redis),
    Etcd(Box<Etcd>),
}

/// The Redis protocol: answers come in the order of the requests.
pub(super) struct Redis {
    get: Template,
    set: Template,
    replies: Replies,
    answered: u64,
}

/// A command of which only the key changes.
struct Template {
    bytes: Vec<u8>,
    key_at: usize,
}

impl Template {
    fn new(name: &str, value: Option<&[u8]>) -> Self {
        let arguments = if value.is_some() { 3 } else { 2 };
        let head = format!("*{arguments}\r\n$3\r\n{name}\r\n${KEY_BYTES}\r\n");
        let mut bytes = head.into_bytes();
        let key_at = bytes.len();
        bytes.extend_from_slice(&[b'0'; KEY_BYTES]);
        bytes.extend_from_slice(b"\r\n");
        if let Some(value) = value {
            bytes.extend_from_slice(format!("${}\r\n", value.len()).as_bytes());
            bytes.extend_from_slice(value);
            bytes.extend_from_slice(b"\r\n");
        }
        Self { bytes, key_at }
    }

    fn write(&self, number: u32, out: &mut Vec<u8>) {
        let at = out.len() + self.key_at;
        out.extend_from_slice(&self.bytes);
        write_key(number, &mut out[at..at + KEY_BYTES]);
    }
}

impl Wire {
    pub(super) fn new(protocol: Protocol, value: &[u8]) -> Self {
        match protocol {
            Protocol::Redis => Self::Redis(Redis {
                get: Template::new("GET", None),
                set: Template::new("SET", Some(value)),
                replies: Replies::default(),
                answered: 0,
            }),
            Protocol::Etcd => Self::Etcd(Box::new(Etcd::new(value))),
        }
    }

    /// Adds a request that reads a key, or writes it.
    pub(super) fn request(&mut self, number: u32, writes: bool, out: &mut Vec<u8>) {
        match self {
            Self::Redis(redis) if writes => redis.set.write(number, out),
            Self::Redis(redis) => redis.get.write(number, out),
            Self::Etcd(etcd) => etcd.request(number, writes, out),
        }
    }

    /// Adds what a server wants to hear before a request for a slot that is being moved to it.
    pub(super) fn ask(&mut self, out: &mut Vec<u8>) {
        assert!(
            matches!(self, Self::Redis(_)),
            "only Redis servers send clients elsewhere"
        );
        out.extend_from_slice(b"*1\r\n$6\r\nASKING\r\n");
    }

    /// Takes bytes as they come, and says of each request that was answered which one it was, and
    /// what was said. What has to be sent then goes to `out`.
    pub(super) fn feed(
        &mut self,
        bytes: &[u8],
        out: &mut Vec<u8>,
        mut ended: impl FnMut(u64, Answer),
    ) {
        match self {
            Self::Redis(redis) => {
                let answered = &mut redis.answered;
                redis.replies.feed(bytes, |answer| {
                    ended(*answered, answer);
                    *answered += 1;
                });
            }
            Self::Etcd(etcd) => etcd.feed(bytes, out, ended),
        }
    }

    /// Requests before this one have all been answered.
    pub(super) fn forget(&mut self, first: u64) {
        if let Self::Etcd(etcd) = self {
            etcd.forget(first);
        }
    }

    pub(super) fn first_error(&self) -> Option<&String> {
        match self {
            Self::Redis(redis) => redis.replies.first_error.as_ref(),
            Self::Etcd(etcd) => etcd.first_error.as_ref(),
        }
    }
}
