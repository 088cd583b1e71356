//! The keys of a load, and which node leads the slot of each.

use std::net::SocketAddr;
use std::sync::Arc;

use net::Slot;

use super::mix::{Chooser, Zipf};
use super::topology::Topology;
use super::{Choice, Load};

/// Bytes of a key: `key:` and eight digits.
pub(super) const KEY_BYTES: usize = 12;

/// Writes a key's bytes.
pub(super) fn write_key(mut number: u32, to: &mut [u8]) {
    assert_eq!(to.len(), KEY_BYTES, "a key has a fixed length");
    to[..4].copy_from_slice(b"key:");
    for digit in to[4..].iter_mut().rev() {
        *digit = b'0' + u8::try_from(number % 10).expect("a digit");
        number /= 10;
    }
}

/// The keys of a run, by the node that leads them.
#[derive(Clone, Debug)]
pub(crate) struct Keys {
    by_leader: Vec<(SocketAddr, Arc<[u32]>)>,
    topology: Arc<Topology>,
    /// Numbers from here on are not used.
    end: u32,
}

impl Keys {
    /// The keys from 0 up to `keys`.
    pub(crate) fn new(keys: u32, topology: &Topology) -> Self {
        let leaders = topology.leaders().into_iter();
        let mut by_leader: Vec<_> = leaders.map(|leader| (leader, Vec::new())).collect();
        for number in 0..keys {
            let leader = leader_of(topology, number);
            if let Some((_, numbers)) = by_leader
                .iter_mut()
                .find(|(found, _)| Some(*found) == leader)
            {
                numbers.push(number);
            }
        }
        by_leader.retain(|(_, numbers)| !numbers.is_empty());
        let shared = |(leader, numbers): (SocketAddr, Vec<u32>)| (leader, numbers.into());
        Self {
            by_leader: by_leader.into_iter().map(shared).collect(),
            topology: Arc::new(topology.clone()),
            end: keys,
        }
    }

    pub(super) fn by_leader(&self) -> &[(SocketAddr, Arc<[u32]>)] {
        &self.by_leader
    }

    /// What chooses keys for a connection to this leader.
    pub(super) fn chooser(&self, leader: SocketAddr, load: &Load, connection: usize) -> Chooser {
        let found = self.by_leader.iter().find(|(found, _)| *found == leader);
        let (_, numbers) = found.expect("only leaders of keys get connections");
        let zipf = (load.mix.choice != Choice::Uniform).then(|| Zipf::new(numbers.len()));
        let unused = Unused {
            topology: Arc::clone(&self.topology),
            leader,
            next: self.end + u32::try_from(connection).expect("few connections"),
            step: u32::try_from(load.connections).expect("few connections"),
        };
        let seed = load.seed.wrapping_mul(1_000_003) + connection as u64;
        Chooser::new(load.mix.choice, seed, Arc::clone(numbers), zipf, unused)
    }
}

fn leader_of(topology: &Topology, number: u32) -> Option<SocketAddr> {
    let mut key = [0; KEY_BYTES];
    write_key(number, &mut key);
    topology.leader(Slot::of(&key).number())
}

/// Keys that one connection may insert: no other one does.
#[derive(Clone, Debug)]
pub(super) struct Unused {
    topology: Arc<Topology>,
    leader: SocketAddr,
    next: u32,
    step: u32,
}

impl Unused {
    pub(super) fn next(&mut self) -> u32 {
        loop {
            let number = self.next;
            self.next += self.step;
            if leader_of(&self.topology, number) == Some(self.leader) {
                return number;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_its_number_in_eight_digits() {
        let mut key = [0; KEY_BYTES];
        write_key(1_234_567, &mut key);
        assert_eq!(&key, b"key:01234567");
        write_key(0, &mut key);
        assert_eq!(&key, b"key:00000000");
    }
}
