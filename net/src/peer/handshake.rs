//! The handshake: who dials whom, in which formats, and what refuses it.

use alloc::string::{String, ToString};
use alloc::vec::Vec;

use super::reader::{Reader, push_blob};

/// What the dialling side says first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    pub cluster: String,
    /// The node that dials.
    pub from: u32,
    /// The node that it means to reach.
    pub to: u32,
    /// The shard that dials; it means to reach the one with the same number.
    pub shard: u32,
    /// The frame formats it speaks.
    pub version_min: u16,
    pub version_max: u16,
    /// Drawn when the dialling node's data directory was made.
    pub instance: u64,
    /// Hash of the options that must be equal on all nodes of a cluster.
    pub fingerprint: u64,
}

/// What the other side answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HelloReply {
    Welcome {
        /// The format both will speak.
        version: u16,
        instance: u64,
    },
    /// Close, log the reason, try again much later.
    Refused { reason: String },
}

/// Why a peer is not let in. Both sides log the text.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    #[error(
        "cluster id is '{here}' here, the caller says '{caller}': one of them has the wrong address or the wrong cluster.id"
    )]
    Cluster { here: String, caller: String },
    #[error(
        "this is node {here}, the caller wanted node {wanted}: check the nodes' hosts and peer ports"
    )]
    WrongNode { here: u32, wanted: u32 },
    #[error("node {caller} is not in this node's list of nodes")]
    UnknownNode { caller: u32 },
    #[error("a node with this node's own id {id} is calling: two nodes have the same node.id")]
    OwnId { id: u32 },
    #[error(
        "this is shard {here}, the caller wanted shard {wanted}: check cluster.shards and the peer ports"
    )]
    WrongShard { here: u32, wanted: u32 },
    #[error(
        "the caller speaks formats {min}-{max}, this build {here_min}-{here_max}: upgrade one release at a time"
    )]
    Version {
        min: u16,
        max: u16,
        here_min: u16,
        here_max: u16,
    },
    #[error(
        "options that must be the same on all nodes differ: compare the [cluster] sections of node {here} and node {caller}"
    )]
    Fingerprint { here: u32, caller: u32 },
    #[error(
        "node {caller} was seen with another data directory since this node started: a copy of it is running, or its data was lost and must not vote again under the same id"
    )]
    Instance { caller: u32 },
}

/// A handshake whose bytes cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the handshake cannot be read: {what} is missing or damaged")]
pub struct HelloError {
    pub what: &'static str,
}

const TEXT_BYTES_MAX: usize = 4096;

impl Hello {
    /// Appends the body of a frame.
    pub fn encode(&self, to: &mut Vec<u8>) {
        to.extend_from_slice(&self.from.to_le_bytes());
        to.extend_from_slice(&self.to.to_le_bytes());
        to.extend_from_slice(&self.shard.to_le_bytes());
        to.extend_from_slice(&self.version_min.to_le_bytes());
        to.extend_from_slice(&self.version_max.to_le_bytes());
        to.extend_from_slice(&self.instance.to_le_bytes());
        to.extend_from_slice(&self.fingerprint.to_le_bytes());
        push_blob(to, self.cluster.as_bytes());
    }

    /// Reads the body of a frame.
    ///
    /// # Errors
    ///
    /// Names the first field that is not there.
    pub fn decode(body: &[u8]) -> Result<Self, HelloError> {
        let reader = &mut Reader(body);
        let missing = |what| HelloError { what };
        Ok(Self {
            from: reader.u32().ok_or(missing("the sender"))?,
            to: reader.u32().ok_or(missing("the receiver"))?,
            shard: reader.u32().ok_or(missing("the shard"))?,
            version_min: reader.u16().ok_or(missing("the lowest format"))?,
            version_max: reader.u16().ok_or(missing("the highest format"))?,
            instance: reader.u64().ok_or(missing("the instance"))?,
            fingerprint: reader.u64().ok_or(missing("the fingerprint"))?,
            cluster: text(reader).ok_or(missing("the cluster id"))?,
        })
    }

    /// Whether the side that is `here` (its own hello as it would send it, `to` the caller) lets
    /// the caller in, and the format both speak.
    ///
    /// # Errors
    ///
    /// The first reason not to.
    pub fn admit(&self, here: &Self, nodes: &[u32]) -> Result<u16, Refusal> {
        if self.cluster != here.cluster {
            return Err(Refusal::Cluster {
                here: here.cluster.clone(),
                caller: self.cluster.clone(),
            });
        }
        if self.from == here.from {
            return Err(Refusal::OwnId { id: here.from });
        }
        if self.to != here.from {
            return Err(Refusal::WrongNode {
                here: here.from,
                wanted: self.to,
            });
        }
        if !nodes.contains(&self.from) {
            return Err(Refusal::UnknownNode { caller: self.from });
        }
        if self.shard != here.shard {
            return Err(Refusal::WrongShard {
                here: here.shard,
                wanted: self.shard,
            });
        }
        let version = self.version_max.min(here.version_max);
        if version < self.version_min || version < here.version_min {
            return Err(Refusal::Version {
                min: self.version_min,
                max: self.version_max,
                here_min: here.version_min,
                here_max: here.version_max,
            });
        }
        if self.fingerprint != here.fingerprint {
            return Err(Refusal::Fingerprint {
                here: here.from,
                caller: self.from,
            });
        }
        Ok(version)
    }
}

impl HelloReply {
    /// Appends the body of a frame.
    pub fn encode(&self, to: &mut Vec<u8>) {
        match self {
            Self::Welcome { version, instance } => {
                to.push(1);
                to.push(0);
                to.extend_from_slice(&version.to_le_bytes());
                to.extend_from_slice(&instance.to_le_bytes());
            }
            Self::Refused { reason } => {
                to.push(0);
                let mut end = reason.len().min(TEXT_BYTES_MAX);
                while !reason.is_char_boundary(end) {
                    end -= 1;
                }
                push_blob(to, &reason.as_bytes()[..end]);
            }
        }
    }

    /// Reads the body of a frame.
    ///
    /// # Errors
    ///
    /// Names the first field that is not there.
    pub fn decode(body: &[u8]) -> Result<Self, HelloError> {
        let reader = &mut Reader(body);
        let missing = |what| HelloError { what };
        match reader.u8() {
            Some(1) => {
                reader.u8().ok_or(missing("the format"))?;
                Ok(Self::Welcome {
                    version: reader.u16().ok_or(missing("the format"))?,
                    instance: reader.u64().ok_or(missing("the instance"))?,
                })
            }
            Some(0) => Ok(Self::Refused {
                reason: text(reader).ok_or(missing("the reason"))?,
            }),
            _ => Err(missing("the verdict")),
        }
    }
}

fn text(reader: &mut Reader<'_>) -> Option<String> {
    let bytes = reader.blob()?;
    if bytes.len() > TEXT_BYTES_MAX {
        return None;
    }
    core::str::from_utf8(bytes).ok().map(ToString::to_string)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hello(from: u32, to: u32) -> Hello {
        Hello {
            cluster: "test".into(),
            from,
            to,
            shard: 2,
            version_min: 1,
            version_max: 3,
            instance: 7 << 50,
            fingerprint: 99,
        }
    }

    #[test]
    fn a_handshake_comes_back_and_no_cut_of_it_does() {
        let mut bytes = Vec::new();
        hello(1, 2).encode(&mut bytes);
        assert_eq!(Hello::decode(&bytes), Ok(hello(1, 2)));
        for cut in 0..bytes.len() {
            assert!(Hello::decode(&bytes[..cut]).is_err(), "cut at {cut}");
        }
        for reply in [
            HelloReply::Welcome {
                version: 1,
                instance: 5,
            },
            HelloReply::Refused {
                reason: "no".into(),
            },
        ] {
            let mut bytes = Vec::new();
            reply.encode(&mut bytes);
            assert_eq!(HelloReply::decode(&bytes), Ok(reply.clone()));
            for cut in 0..bytes.len() {
                assert!(HelloReply::decode(&bytes[..cut]).is_err(), "cut at {cut}");
            }
        }
    }

    #[test]
    fn only_a_peer_of_the_same_cluster_shard_and_format_is_let_in() {
        let here = hello(2, 1);
        let nodes = [1, 2, 3];
        assert_eq!(hello(1, 2).admit(&here, &nodes), Ok(3));

        type Change = fn(&mut Hello);
        let table: &[(Change, &str)] = &[
            (
                |h| h.cluster = "other".into(),
                "cluster id is 'test' here, the caller says 'other'",
            ),
            (
                |h| h.from = 2,
                "a node with this node's own id 2 is calling",
            ),
            (|h| h.to = 3, "this is node 2, the caller wanted node 3"),
            (|h| h.from = 4, "node 4 is not in this node's list"),
            (
                |h| h.shard = 0,
                "this is shard 2, the caller wanted shard 0",
            ),
            (
                |h| (h.version_min, h.version_max) = (4, 5),
                "the caller speaks formats 4-5, this build 1-3",
            ),
            (
                |h| h.fingerprint = 0,
                "options that must be the same on all nodes differ",
            ),
        ];
        for (change, text) in table {
            let mut caller = hello(1, 2);
            change(&mut caller);
            let refusal = caller.admit(&here, &nodes).unwrap_err().to_string();
            assert!(refusal.starts_with(text), "{refusal}");
        }
    }
}
