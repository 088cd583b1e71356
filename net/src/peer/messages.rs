//! Messages of consensus: a list archived with rkyv, behind it the entries' payloads as they are.

use alloc::rc::Rc;
use alloc::vec::Vec;

use rkyv::rancor;
use rkyv::{Archive, Deserialize, Serialize};

use super::reader::Reader;

/// One message to a replica of one group.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct Envelope {
    pub group: u32,
    pub body: MessageBody,
}

/// The messages of `engine::raft`, as raw numbers.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub enum MessageBody {
    RequestVote {
        term: u64,
        pre: bool,
        last_index: u64,
        last_term: u64,
        transfer: bool,
        life: u64,
    },
    Vote {
        term: u64,
        pre: bool,
        granted: bool,
        life: u64,
    },
    Append {
        term: u64,
        previous_index: u64,
        previous_term: u64,
        commit: u64,
        entries: Vec<EntryHead>,
    },
    Appended {
        term: u64,
        matched: u64,
    },
    Rejected {
        term: u64,
        previous_index: u64,
        hint_index: u64,
        hint_term: u64,
    },
    Heartbeat {
        term: u64,
        commit: u64,
        round: u64,
    },
    HeartbeatAck {
        term: u64,
        round: u64,
        disk: u32,
    },
    TimeoutNow {
        term: u64,
    },
    Repair {
        term: u64,
        round: u64,
        after: u64,
        after_term: u64,
        /// Index and term.
        held: Option<(u64, u64)>,
    },
    Repaired {
        term: u64,
        round: u64,
        sure: bool,
        leads: bool,
        last: u64,
        after: u64,
        after_term: Option<u64>,
        common: Option<(u64, u64)>,
        electorate: ElectorateBody,
        entries: Vec<EntryHead>,
    },
    Offer {
        term: u64,
        index: u64,
        index_term: u64,
    },
    Quiet {
        term: u64,
        last: u64,
    },
    Pulse {
        groups: u32,
    },
}

/// Who has a vote, as far as a replica knows.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
pub struct ElectorateBody {
    /// The entry that made the newest committed membership, and that of the newest of all.
    pub since: u64,
    pub newest: u64,
    /// Of the former.
    pub voters: Vec<u32>,
    /// Of others, each with the entry.
    pub others: Vec<(u64, u32)>,
    pub observers: Vec<(u64, u32)>,
}

/// An entry without its payload, which lies behind the list, in the order of the heads.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub struct EntryHead {
    pub term: u64,
    pub index: u64,
    pub kind: u8,
    /// Of the payload, in bytes.
    pub length: u32,
}

/// Why the body of a frame of messages cannot be read although its checksum is right.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MessagesError {
    #[error("the list of messages is cut short")]
    Short,
    #[error("the list of messages is not one that this build can read")]
    Archive,
    #[error("entries of {announced} bytes were announced, {found} follow")]
    Payloads { announced: u64, found: u64 },
}

/// Collects messages and writes them as the body of one frame. Reuse it: it keeps its memory.
#[derive(Debug, Default)]
pub struct Outgoing {
    envelopes: Vec<Envelope>,
    /// Copied once, to where they leave from.
    payloads: Vec<Rc<[u8]>>,
    /// Theirs, each rounded up.
    payloads_bytes: usize,
}

impl Outgoing {
    /// Adds a message. `payloads` are those of its entries, in order and as long as the heads say.
    pub fn push<'a>(
        &mut self,
        envelope: Envelope,
        payloads: impl IntoIterator<Item = &'a Rc<[u8]>>,
    ) {
        self.envelopes.push(envelope);
        for payload in payloads {
            self.payloads_bytes += payload.len().next_multiple_of(8);
            self.payloads.push(payload.clone());
        }
    }

    /// Whether nothing was added.
    pub fn is_empty(&self) -> bool {
        self.envelopes.is_empty()
    }

    /// The bytes of the body so far, nearly.
    pub fn weight(&self) -> usize {
        const ENVELOPE_BYTES: usize = 64;
        self.payloads_bytes + self.envelopes.len() * ENVELOPE_BYTES
    }

    /// Appends the body of a frame and forgets the messages.
    pub fn write(&mut self, to: &mut Vec<u8>) {
        let archive = rkyv::to_bytes::<rancor::Error>(&self.envelopes)
            .expect("a list of numbers is archived in memory, which cannot fail");
        let length = u32::try_from(archive.len()).expect("frames are bounded far below 4 GiB");
        to.reserve(16 + archive.len() + self.payloads_bytes);
        to.extend_from_slice(&length.to_le_bytes());
        to.extend_from_slice(&[0; 4]);
        to.extend_from_slice(&archive);
        to.resize(
            to.len() + archive.len().next_multiple_of(8) - archive.len(),
            0,
        );
        for payload in self.payloads.drain(..) {
            to.extend_from_slice(&payload);
            let padding = payload.len().next_multiple_of(8) - payload.len();
            to.extend_from_slice(&[0; 8][..padding]);
        }
        self.envelopes.clear();
        self.payloads_bytes = 0;
    }
}

/// The body of a frame of messages, checked.
pub struct Messages<'a> {
    envelopes: &'a rkyv::vec::ArchivedVec<ArchivedEnvelope>,
    payloads: &'a [u8],
}

impl<'a> Messages<'a> {
    /// Checks the list and that the payloads are as long as it says. `body` must start 8-byte
    /// aligned, as [`super::FrameReader`] lays it.
    ///
    /// # Errors
    ///
    /// When the bytes are not what [`Outgoing::write`] wrote: close the connection.
    pub fn access(body: &'a [u8]) -> Result<Self, MessagesError> {
        let reader = &mut Reader(body);
        let length = reader.u32().ok_or(MessagesError::Short)? as usize;
        reader.u32().ok_or(MessagesError::Short)?;
        let archive = reader.bytes(length).ok_or(MessagesError::Short)?;
        reader
            .bytes(length.next_multiple_of(8) - length)
            .ok_or(MessagesError::Short)?;
        let envelopes =
            rkyv::access::<rkyv::vec::ArchivedVec<ArchivedEnvelope>, rancor::Error>(archive)
                .map_err(|_| MessagesError::Archive)?;

        let announced: u64 = envelopes.iter().map(payload_bytes).sum();
        let found = reader.0.len() as u64;
        if announced != found {
            return Err(MessagesError::Payloads { announced, found });
        }
        Ok(Self {
            envelopes,
            payloads: reader.0,
        })
    }

    /// The messages in order, each with the payloads of its entries.
    pub fn iter(&self) -> impl Iterator<Item = (Envelope, Payloads<'a>)> {
        let mut rest = self.payloads;
        self.envelopes.iter().map(move |archived| {
            let bytes = usize::try_from(payload_bytes(archived))
                .expect("the sum of all was compared with a length in memory");
            let (head, tail) = rest.split_at(bytes);
            rest = tail;
            let envelope = rkyv::deserialize::<Envelope, rancor::Error>(archived)
                .expect("a checked archive of numbers becomes the numbers");
            (envelope, Payloads(head))
        })
    }
}

/// The payloads of one message's entries: ask with the length of each head in order.
#[derive(Clone, Copy, Debug)]
pub struct Payloads<'a>(&'a [u8]);

impl<'a> Payloads<'a> {
    /// The next payload.
    ///
    /// # Panics
    ///
    /// When asked for more than the heads announced.
    pub fn take(&mut self, length: u32) -> &'a [u8] {
        let length = length as usize;
        let (padded, rest) = self.0.split_at(length.next_multiple_of(8));
        self.0 = rest;
        &padded[..length]
    }
}

fn payload_bytes(envelope: &ArchivedEnvelope) -> u64 {
    match &envelope.body {
        ArchivedMessageBody::Append { entries, .. }
        | ArchivedMessageBody::Repaired { entries, .. } => entries
            .iter()
            .map(|head| u64::from(head.length.to_native()).next_multiple_of(8))
            .sum(),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rkyv::util::AlignedVec;

    fn sample() -> Vec<(Envelope, Vec<&'static [u8]>)> {
        let head = |index, length| EntryHead {
            term: 3,
            index,
            kind: 1,
            length,
        };
        let append = MessageBody::Append {
            term: 3,
            previous_index: 6,
            previous_term: 2,
            commit: 5,
            entries: [head(7, 5), head(8, 0), head(9, 8)].to_vec(),
        };
        let bodies = [
            (append, [b"hello".as_slice(), b"", b"8 bytes!"].to_vec()),
            (MessageBody::TimeoutNow { term: 9 }, Vec::new()),
            (
                MessageBody::RequestVote {
                    term: 4,
                    pre: true,
                    last_index: 10,
                    last_term: 3,
                    transfer: false,
                    life: 1 << 63 | 1,
                },
                Vec::new(),
            ),
        ];
        bodies
            .into_iter()
            .zip(1..)
            .map(|((body, payloads), group)| (Envelope { group, body }, payloads))
            .collect()
    }

    fn written() -> AlignedVec<16> {
        let mut outgoing = Outgoing::default();
        for (envelope, payloads) in sample() {
            let payloads: Vec<Rc<[u8]>> = payloads.into_iter().map(Rc::from).collect();
            outgoing.push(envelope, &payloads);
        }
        let mut bytes = Vec::new();
        outgoing.write(&mut bytes);
        assert!(outgoing.is_empty());
        let mut aligned = AlignedVec::new();
        aligned.extend_from_slice(&bytes);
        aligned
    }

    #[test]
    fn messages_come_back_with_their_payloads() {
        let bytes = written();
        let messages = Messages::access(&bytes).unwrap();
        let back: Vec<_> = messages
            .iter()
            .map(|(envelope, mut payloads)| {
                let taken: Vec<_> = match &envelope.body {
                    MessageBody::Append { entries, .. } => entries
                        .iter()
                        .map(|head| payloads.take(head.length))
                        .collect(),
                    _ => Vec::new(),
                };
                (envelope, taken)
            })
            .collect();
        assert_eq!(back, sample());
    }

    #[test]
    fn cut_or_damaged_lists_never_panic() {
        let bytes = written();
        for cut in 0..bytes.len() {
            let mut short = AlignedVec::<16>::new();
            short.extend_from_slice(&bytes[..cut]);
            assert!(Messages::access(&short).is_err(), "cut at {cut}");
        }
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            if let Ok(messages) = Messages::access(&damaged) {
                // A flip that passes the structure (the checksum of the frame would have caught
                // it) must still be safe to walk.
                for (envelope, mut payloads) in messages.iter() {
                    if let MessageBody::Append { entries, .. } = envelope.body {
                        for head in entries {
                            payloads.take(head.length);
                        }
                    }
                }
            }
        }
    }
}
