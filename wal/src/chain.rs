//! The segments of a log in their order, as their headers link them.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use crate::lives::{Lives, Rest};
use crate::recovered::ReplayError;
use crate::segment::{FORMAT, FirstBlock, Link, SegmentHeader};
use crate::{FlushNumber, SegmentId};

/// A segment that is part of the log.
#[derive(Debug)]
pub(crate) struct Part {
    pub(crate) id: SegmentId,
    /// `None`: unreadable.
    pub(crate) first_flush: Option<FlushNumber>,
    /// Its first block was never written, or decayed to zeroes.
    pub(crate) unwritten: bool,
    /// Where what is valid of it ends, if the segment behind says so.
    pub(crate) end: Option<u64>,
    /// How long it was made, if its header says so.
    pub(crate) bytes: Option<u32>,
    /// The flush it begins with, once that was read.
    pub(crate) opened_by: Option<FlushNumber>,
    /// Starts that went on in it.
    pub(crate) lives: Lives,
    /// Where another could, whatever lies before.
    pub(crate) rest: Option<Rest>,
}

/// What was before the oldest segment that is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Before {
    Nothing,
    /// Segments that are gone: where it starts, with this flush, it says how everything stood.
    Gone {
        first: FlushNumber,
    },
    Unknown,
}

/// The segments of a log.
#[derive(Debug)]
pub(crate) struct Chain {
    /// Oldest first.
    pub(crate) parts: Vec<Part>,
    /// Files that hold nothing of the log any more.
    pub(crate) dead: Vec<SegmentId>,
    /// The newest of all files.
    pub(crate) newest: SegmentId,
    pub(crate) before: Before,
}

impl Chain {
    /// Follows the links from the newest segment back. Where a link cannot be read, or leads to a
    /// file that is not there, the next older file is taken: dead ones are removed at each start.
    pub(crate) fn new<'a>(
        instance: u64,
        firsts: impl IntoIterator<Item = (SegmentId, &'a [u8])>,
    ) -> Result<Self, ReplayError> {
        let firsts = firsts.into_iter();
        let headers: BTreeMap<SegmentId, FirstBlock> = firsts
            .map(|(segment, block)| (segment, SegmentHeader::decode(segment, block)))
            .collect();
        let newest = headers.last_key_value().map(|(&segment, _)| segment);
        let mut chain = Self {
            parts: Vec::new(),
            dead: Vec::new(),
            newest: newest.unwrap_or(SegmentId::from_raw(0)),
            before: Before::Nothing,
        };
        let mut wanted: Option<Link> = None;
        let mut linked = true;
        for (&segment, first) in headers.iter().rev() {
            let end = match wanted {
                Some(link) if link.segment < segment => {
                    chain.dead.push(segment);
                    continue;
                }
                Some(link) if link.segment == segment => Some(link.end),
                // The file that the link names is missing.
                Some(_) => None,
                None if chain.parts.is_empty() || !linked => None,
                None => {
                    chain.dead.push(segment);
                    continue;
                }
            };
            let mut part = Part {
                id: segment,
                first_flush: None,
                unwritten: false,
                end,
                bytes: None,
                opened_by: None,
                lives: Lives::default(),
                rest: None,
            };
            wanted = None;
            linked = false;
            match first {
                FirstBlock::Unwritten => part.unwritten = true,
                FirstBlock::Header(header) => {
                    check_instance(header, instance)?;
                    part.first_flush = Some(header.first_flush);
                    part.bytes = Some(header.bytes);
                    wanted = header.previous;
                    linked = true;
                }
                FirstBlock::Rotten => {}
                &FirstBlock::Format(found) => {
                    return Err(ReplayError::Format {
                        segment,
                        found,
                        supported: FORMAT,
                    });
                }
            }
            chain.parts.push(part);
        }
        chain.parts.reverse();
        chain.before = match chain.parts.first().map(|part| part.first_flush) {
            Some(Some(first)) if wanted.is_some() => Before::Gone { first },
            Some(None) => Before::Unknown,
            _ => Before::Nothing,
        };
        Ok(chain)
    }
}

fn check_instance(header: &SegmentHeader, expected: u64) -> Result<(), ReplayError> {
    if header.instance == expected {
        return Ok(());
    }
    Err(ReplayError::Instance {
        segment: header.id,
        found: header.instance,
        expected,
    })
}
