//! What kinds of requests a load consists of, and which keys they name.

use std::sync::Arc;

/// Shares of the kinds of requests: they add up to 1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Mix {
    pub(crate) reads: f64,
    pub(crate) updates: f64,
    /// Writes of keys that were not there.
    pub(crate) inserts: f64,
    /// Reads of a key, each followed by a write of it once it was answered: one operation.
    pub(crate) read_modify_writes: f64,
    pub(crate) choice: Choice,
}

/// How keys are chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Choice {
    Uniform,
    /// Few keys are chosen often: YCSB's scrambled Zipfian distribution with constant 0.99.
    Zipfian,
    /// Those that were inserted last are chosen most often: YCSB's latest distribution.
    Latest,
}

/// One kind of request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Read,
    Update,
    Insert,
    ReadModifyWrite,
}

impl Mix {
    /// Reads and updates of keys that are chosen uniformly.
    pub(crate) const fn uniform(reads: f64) -> Self {
        Self {
            reads,
            updates: 1.0 - reads,
            inserts: 0.0,
            read_modify_writes: 0.0,
            choice: Choice::Uniform,
        }
    }

    /// Whether keys must be there before the load begins.
    pub(crate) fn reads_at_all(&self) -> bool {
        self.reads > 0.0 || self.read_modify_writes > 0.0
    }

    pub(super) fn draw(&self, random: &mut Random) -> Kind {
        if self.updates >= 1.0 {
            return Kind::Update;
        }
        let mut share = random.share();
        for (part, kind) in [
            (self.reads, Kind::Read),
            (self.updates, Kind::Update),
            (self.inserts, Kind::Insert),
        ] {
            if share < part {
                return kind;
            }
            share -= part;
        }
        if self.read_modify_writes > 0.0 {
            Kind::ReadModifyWrite
        } else {
            Kind::Read
        }
    }
}

/// Marsaglia's xorshift: cheap, and the same for the same seed.
#[derive(Clone, Debug)]
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        Self(scramble(seed) | 1)
    }

    pub(super) fn draw(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 >> 11
    }

    /// Below `limit`.
    pub(super) fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.draw() % limit as u64).expect("below a usize")
    }

    /// From 0 up to, not including, 1.
    fn share(&mut self) -> f64 {
        self.draw() as f64 / (1_u64 << 53) as f64
    }
}

/// Spreads numbers that lie close together (the finaliser of splitmix64).
fn scramble(number: u64) -> u64 {
    let mut mixed = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// Ranks after Zipf's law, by the method of Gray and others (SIGMOD 1994), as YCSB draws them.
#[derive(Clone, Debug)]
pub(super) struct Zipf {
    items: usize,
    zeta: f64,
    zeta_of_two: f64,
}

const THETA: f64 = 0.99;

impl Zipf {
    pub(super) fn new(items: usize) -> Self {
        let mut zipf = Self {
            items: 0,
            zeta: 0.0,
            zeta_of_two: 1.0 + 0.5_f64.powf(THETA),
        };
        zipf.grow(items);
        zipf
    }

    /// There are so many items now.
    pub(super) fn grow(&mut self, items: usize) {
        for rank in self.items..items {
            self.zeta += 1.0 / ((rank + 1) as f64).powf(THETA);
        }
        self.items = items.max(self.items);
    }

    /// A rank below the number of items; 0 is drawn most often.
    #[expect(
        clippy::cast_possible_truncation,
        reason = "ranks are below the number of items"
    )]
    fn rank(&self, random: &mut Random) -> usize {
        let share = random.share();
        let scaled = share * self.zeta;
        if scaled < 1.0 {
            return 0;
        }
        if scaled < self.zeta_of_two {
            return 1.min(self.items - 1);
        }
        let items = self.items as f64;
        let alpha = 1.0 / (1.0 - THETA);
        let eta = (1.0 - (2.0 / items).powf(1.0 - THETA)) / (1.0 - self.zeta_of_two / self.zeta);
        let rank = items * (eta * share - eta + 1.0).powf(alpha);
        (rank as usize).min(self.items - 1)
    }
}

/// Chooses keys among those of one node, and new ones.
#[derive(Clone, Debug)]
pub(super) struct Chooser {
    pub(super) random: Random,
    choice: Choice,
    zipf: Option<Zipf>,
    /// Keys that were there at the start.
    numbers: Arc<[u32]>,
    inserted: Vec<u32>,
    /// Keys that this chooser alone may insert.
    unused: super::keys::Unused,
}

impl Chooser {
    pub(super) fn new(
        choice: Choice,
        seed: u64,
        numbers: Arc<[u32]>,
        zipf: Option<Zipf>,
        unused: super::keys::Unused,
    ) -> Self {
        assert!(!numbers.is_empty(), "a node without keys gets no load");
        Self {
            random: Random::new(seed),
            choice,
            zipf,
            numbers,
            inserted: Vec::new(),
            unused,
        }
    }

    fn at(&self, at: usize) -> u32 {
        match self.numbers.get(at) {
            Some(&number) => number,
            None => self.inserted[at - self.numbers.len()],
        }
    }

    /// A key that is there.
    pub(super) fn existing(&mut self) -> u32 {
        let count = self.numbers.len() + self.inserted.len();
        let at = match (self.choice, &self.zipf) {
            (Choice::Zipfian, Some(zipf)) => {
                let spread = scramble(zipf.rank(&mut self.random) as u64) % count as u64;
                usize::try_from(spread).expect("below a usize")
            }
            (Choice::Latest, Some(zipf)) => count - 1 - zipf.rank(&mut self.random),
            _ => self.random.below(count),
        };
        self.at(at)
    }

    /// A key that is not there yet.
    pub(super) fn inserted(&mut self) -> u32 {
        let number = self.unused.next();
        self.inserted.push(number);
        if let Some(zipf) = &mut self.zipf {
            zipf.grow(self.numbers.len() + self.inserted.len());
        }
        number
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_ranks_are_drawn_most_of_the_time() {
        let (zipf, mut random) = (Zipf::new(1000), Random::new(7));
        let draws = 100_000;
        let mut counts = vec![0; 1000];
        (0..draws).for_each(|_| counts[zipf.rank(&mut random)] += 1);
        // The first of 1,000 items has a share of 1 / zeta(1000, 0.99), about 0.13.
        let share = |count: i32| f64::from(count) / f64::from(draws);
        assert!((0.12..0.14).contains(&share(counts[0])), "{}", counts[0]);
        assert!(counts[0] > counts[1] && counts[1] > counts[10] && counts[10] > counts[500]);
    }

    #[test]
    fn kinds_come_in_their_shares() {
        let mix = Mix {
            reads: 0.5,
            updates: 0.2,
            inserts: 0.2,
            read_modify_writes: 0.1,
            choice: Choice::Uniform,
        };
        let mut random = Random::new(3);
        let drawn: Vec<Kind> = (0..10_000).map(|_| mix.draw(&mut random)).collect();
        let count = |kind| drawn.iter().filter(|&&drawn| drawn == kind).count();
        assert!((4_800..5_200).contains(&count(Kind::Read)));
        assert!((1_800..2_200).contains(&count(Kind::Update)));
        assert!((1_800..2_200).contains(&count(Kind::Insert)));
        assert!((800..1_200).contains(&count(Kind::ReadModifyWrite)));
    }
}
