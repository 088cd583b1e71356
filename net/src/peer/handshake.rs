//! The handshake: who dials whom, in which formats, and what refuses it.

use alloc::string::{String, ToString};
use alloc::vec::Vec;

use super::reader::{Reader, push_blob};
use super::refusal::{Refusal, Refused, Standing};

/// In which state the dialling side comes.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manner {
    /// It has been let in before, by some peer.
    Usual = 0,
    /// Its data directory is new, and nobody has let it in yet.
    Fresh = 1,
    /// Its data was lost: it comes as a replica that lost everything, votes too, of every group.
    Rejoins = 2,
    /// It is no node: it wants to know who is there, and how the node that it names is known.
    Asks = 3,
}

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
    /// Drawn when the process started.
    pub start: u64,
    pub manner: Manner,
    pub standing: Standing,
}

/// What the other side answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HelloReply {
    Welcome {
        /// The format both will speak.
        version: u16,
        instance: u64,
        start: u64,
        manner: Manner,
    },
    /// Close, log the reason, try again much later.
    Refused(Refused),
}

/// A handshake whose bytes cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the handshake cannot be read: {what} is missing or damaged")]
pub struct HelloError {
    pub what: &'static str,
}

/// Texts of a handshake are no longer.
pub(super) const TEXT_BYTES_MAX: usize = 4096;

impl Manner {
    fn decode(raw: u8) -> Option<Self> {
        Some(match raw {
            0 => Self::Usual,
            1 => Self::Fresh,
            2 => Self::Rejoins,
            3 => Self::Asks,
            _ => return None,
        })
    }
}

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
        to.extend_from_slice(&self.start.to_le_bytes());
        to.push(self.manner as u8);
        self.standing.encode(to);
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
            start: reader.u64().ok_or(missing("the start"))?,
            manner: manner(reader).ok_or(missing("the manner"))?,
            standing: Standing::decode(reader).ok_or(missing("the membership"))?,
        })
    }

    /// Whether the side that is `here` (its own hello as it would send it, `to` the caller) lets
    /// the caller in, and the format both speak. `removed` are nodes that earlier epochs had.
    ///
    /// # Errors
    ///
    /// The first reason not to.
    pub fn admit(&self, here: &Self, removed: &[u32]) -> Result<u16, Refusal> {
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
        if self.manner == Manner::Asks {
            return Err(Refusal::Asked);
        }
        self.admit_to_membership(here, removed)?;
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

    fn admit_to_membership(&self, here: &Self, removed: &[u32]) -> Result<(), Refusal> {
        let (ours, theirs) = (&here.standing, &self.standing);
        let (caller, epoch) = (self.from, ours.epoch);
        let members = || ours.members.clone();
        let is_member = ours.members.contains(&caller);
        if !is_member && (theirs.epoch < epoch || removed.contains(&caller)) {
            let members = members();
            return Err(Refusal::Removed {
                caller,
                epoch,
                members,
            });
        }
        if theirs.epoch < epoch {
            let (theirs, members) = (theirs.epoch, members());
            return Err(Refusal::Fenced {
                caller,
                theirs,
                epoch,
                members,
            });
        }
        if theirs.epoch > epoch {
            return Err(Refusal::Behind {
                here: here.from,
                epoch,
                theirs: theirs.epoch,
            });
        }
        // The first epoch is made by configurations, which the fingerprint compares.
        if theirs.origin != ours.origin {
            return Err(Refusal::Origin {
                node: here.from,
                caller,
                epoch,
                here: ours.origin,
                theirs: theirs.origin,
            });
        }
        if !is_member {
            return Err(Refusal::UnknownNode { caller });
        }
        Ok(())
    }
}

impl HelloReply {
    /// Appends the body of a frame.
    pub fn encode(&self, to: &mut Vec<u8>) {
        match self {
            Self::Welcome {
                version,
                instance,
                start,
                manner,
            } => {
                to.push(1);
                to.push(*manner as u8);
                to.extend_from_slice(&version.to_le_bytes());
                to.extend_from_slice(&instance.to_le_bytes());
                to.extend_from_slice(&start.to_le_bytes());
            }
            Self::Refused(refused) => {
                to.push(0);
                refused.encode(to);
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
            Some(1) => Ok(Self::Welcome {
                manner: manner(reader).ok_or(missing("the manner"))?,
                version: reader.u16().ok_or(missing("the format"))?,
                instance: reader.u64().ok_or(missing("the instance"))?,
                start: reader.u64().ok_or(missing("the start"))?,
            }),
            Some(0) => Refused::decode(reader).map(Self::Refused).map_err(missing),
            _ => Err(missing("the verdict")),
        }
    }
}

fn manner(reader: &mut Reader<'_>) -> Option<Manner> {
    Manner::decode(reader.u8()?)
}

pub(super) fn text(reader: &mut Reader<'_>) -> Option<String> {
    let bytes = reader.blob()?;
    if bytes.len() > TEXT_BYTES_MAX {
        return None;
    }
    core::str::from_utf8(bytes).ok().map(ToString::to_string)
}

#[cfg(test)]
mod tests {
    use super::super::refusal::Cause;
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
            start: 11,
            manner: Manner::Usual,
            standing: Standing {
                epoch: 4,
                origin: 17,
                members: Vec::from([1, 2, 3]),
            },
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
                start: 6,
                manner: Manner::Rejoins,
            },
            HelloReply::Refused(Refused {
                cause: Cause::Fenced,
                standing: hello(1, 2).standing,
                known: 5,
                reason: "no".into(),
            }),
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
        assert_eq!(hello(1, 2).admit(&here, &[]), Ok(3));

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
                |h| h.from = 9,
                "replica 9 was removed: epoch 4 has the members [1, 2, 3]",
            ),
            (
                |h| (h.from, h.standing.epoch) = (4, 3),
                "replica 4 was removed: epoch 4 has",
            ),
            (
                |h| h.standing.epoch = 3,
                "node 1 is fenced: it comes from epoch 3, epoch 4 has the members [1, 2, 3]",
            ),
            (
                |h| h.standing.epoch = 5,
                "node 2 is behind: it is of epoch 4, the caller of epoch 5",
            ),
            (
                |h| h.standing.origin = 18,
                "import id mismatch: epoch 4 was made as 0000000000000011 on node 2 and as",
            ),
            (|h| h.manner = Manner::Asks, "the caller only asked"),
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
            let refusal = caller.admit(&here, &[9]).unwrap_err().to_string();
            assert!(refusal.starts_with(text), "{refusal}");
        }
    }
}
