//! The snapshots on a node's disk: whole files or none, until they rot.

use std::collections::BTreeMap;
use std::rc::Rc;

use engine::kv::Kv;
use engine::shard::{BegunSnapshot, Snapshot};
use engine::snapshot::{Compression, Decoder, Encoder, Event, Header, Membership, machine};
use engine::state_machine::StateMachine;
use wal::{GroupId, LogIndex, Term};

use crate::client::slots;
use crate::faults::Plan;
use crate::rng::Rng;

/// What a snapshot is called after.
pub(crate) type Name = (GroupId, LogIndex, Term);

const CHUNK_BYTES_MAX: usize = 1 << 20;

/// The files of a node's snapshots.
#[derive(Default)]
pub(crate) struct Shelf {
    files: BTreeMap<Name, Rc<Vec<u8>>>,
}

/// A snapshot that is being written. A crash takes it.
pub(crate) struct Part {
    pub(crate) name: Name,
    bytes: Vec<u8>,
    encoder: Encoder,
}

impl Part {
    pub(crate) fn begin(begun: &BegunSnapshot) -> Self {
        let header = Header {
            compression: Compression::None,
            cluster: "sim".to_owned(),
            instance: 1,
            group: begun.group,
            index: begun.index,
            term: begun.term,
            membership: Membership::of(begun.membership.0, &begun.membership.1),
            machine: machine::KV,
            items: begun.keys,
            created_unix_ms: begun.unix_ms,
        };
        let mut bytes = Vec::new();
        let encoder = Encoder::new(&header, &mut bytes);
        Self {
            name: (begun.group, begun.index, begun.term),
            bytes,
            encoder,
        }
    }

    pub(crate) fn chunk(&mut self, chunk: &[u8]) {
        if !chunk.is_empty() {
            self.encoder.chunk(chunk, &mut self.bytes);
        }
    }

    fn finish(mut self) -> (Name, Vec<u8>) {
        self.encoder.finish(&mut self.bytes);
        (self.name, self.bytes)
    }
}

impl Shelf {
    /// What somebody put into the directory of a node that had none.
    pub(crate) fn of_backup(files: Vec<(Name, Rc<Vec<u8>>)>) -> Self {
        Self {
            files: files.into_iter().collect(),
        }
    }

    /// All that is there.
    pub(crate) fn files(&self) -> impl Iterator<Item = (Name, Rc<Vec<u8>>)> + '_ {
        self.files
            .iter()
            .map(|(&name, bytes)| (name, bytes.clone()))
    }

    /// A snapshot is durable. The newest of its group are kept.
    pub(crate) fn keep(&mut self, part: Part, plan: &Plan) {
        let (name, bytes) = part.finish();
        self.store(name, Rc::new(bytes), plan);
    }

    fn store(&mut self, name: Name, bytes: Rc<Vec<u8>>, plan: &Plan) {
        self.files.insert(name, bytes);
        let excess: Vec<_> = self.of(name.0).skip(plan.snapshots_kept).collect();
        for name in excess {
            self.files.remove(&name);
        }
    }

    /// The bytes of a snapshot, if it is there.
    pub(crate) fn get(&self, name: Name) -> Option<Rc<Vec<u8>>> {
        self.files.get(&name).cloned()
    }

    /// Takes a snapshot that came from a peer, if it is whole.
    pub(crate) fn receive(
        &mut self,
        name: Name,
        bytes: &Rc<Vec<u8>>,
        plan: &Plan,
    ) -> Option<Snapshot> {
        let snapshot = restore(name, bytes)?;
        self.store(name, bytes.clone(), plan);
        Some(snapshot)
    }

    /// Restores the newest good snapshot of a group. Those that are not are removed; says how many.
    pub(crate) fn load(&mut self, group: GroupId) -> (Option<Snapshot>, u64) {
        let mut refused = 0;
        let names: Vec<_> = self.of(group).collect();
        for name in names {
            let restored = restore(name, &self.files[&name]);
            if restored.is_some() {
                return (restored, refused);
            }
            self.files.remove(&name);
            refused += 1;
        }
        (None, refused)
    }

    /// Flips a bit of a snapshot, more likely of the newest. Says whether there is any.
    pub(crate) fn rot(&mut self, rng: &mut Rng) -> bool {
        let names: Vec<_> = self.files.keys().copied().collect();
        let Some(&name) = names.get(rng.index(names.len().max(1))) else {
            return false;
        };
        let newest = self.of(name.0).next().expect("it has one");
        let name = if rng.chance(700_000) { newest } else { name };
        let file = Rc::make_mut(self.files.get_mut(&name).expect("it is there"));
        let at = rng.index(file.len());
        file[at] ^= 1 << rng.below(8);
        true
    }

    /// The newest first.
    fn of(&self, group: GroupId) -> impl Iterator<Item = Name> + '_ {
        let names = self.files.keys().rev().copied();
        names.filter(move |name| name.0 == group)
    }
}

fn restore((group, index, term): Name, bytes: &[u8]) -> Option<Snapshot> {
    let mut state = Kv::new(slots(group.to_raw()));
    let mut membership = None;
    let mut decoder = Decoder::new(CHUNK_BYTES_MAX);
    decoder.push(bytes);
    while let Some(event) = decoder.next().ok()? {
        match event {
            Event::Header(header) => {
                membership = header.membership.made().ok()?;
                let named = (header.group, header.index, header.term);
                if named != (group, index, term) {
                    return None;
                }
            }
            Event::Chunk(chunk) => state.restore(chunk).ok()?,
        }
    }
    decoder.finish().ok()?;
    state.restored().ok()?;
    Some(Snapshot {
        index,
        term,
        state,
        membership,
    })
}
