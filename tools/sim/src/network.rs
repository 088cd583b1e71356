//! A network that loses, delays, repeats, reorders and cuts.

use crate::faults::{Counters, Fault, Plan};
use crate::rng::Rng;

/// The links between the nodes, each way on its own.
pub(crate) struct Network {
    rng: Rng,
    /// `cut[from][to]`
    cut: Vec<Vec<bool>>,
    /// When the newest message of each link arrives, so that links keep order unless told not to.
    newest: Vec<Vec<u64>>,
    delay_max: u64,
    loss: u64,
    repeats: u64,
    reorders: u64,
}

/// The shortest way of a message, in nanoseconds.
const DELAY_MIN: u64 = 20_000;

impl Network {
    /// All links whole; rates as planned.
    pub(crate) fn new(rng: Rng, nodes: usize, plan: &Plan) -> Self {
        let rate = |fault, rate| if plan.has(fault) { rate } else { 0 };
        Self {
            rng,
            cut: vec![vec![false; nodes]; nodes],
            newest: vec![vec![0; nodes]; nodes],
            delay_max: plan.delay_max,
            loss: rate(Fault::Loss, plan.loss),
            repeats: rate(Fault::Duplication, plan.duplication),
            reorders: rate(Fault::Reordering, plan.reordering),
        }
    }

    /// When copies of a message sent now arrive: never, once or twice.
    pub(crate) fn send(
        &mut self,
        now: u64,
        from: usize,
        to: usize,
        counters: &mut Counters,
    ) -> [Option<u64>; 2] {
        if self.cut[from][to] {
            return [None; 2];
        }
        if self.rng.chance(self.loss) {
            counters.dropped += 1;
            return [None; 2];
        }
        let repeated = self.rng.chance(self.repeats);
        counters.duplicated += u64::from(repeated);
        [
            Some(self.arrival(now, from, to, counters)),
            repeated.then(|| self.arrival(now, from, to, counters)),
        ]
    }

    /// Whether a message under way may still arrive.
    pub(crate) fn passes(&self, from: usize, to: usize) -> bool {
        !self.cut[from][to]
    }

    fn arrival(&mut self, now: u64, from: usize, to: usize, counters: &mut Counters) -> u64 {
        let usual = now + self.rng.between(DELAY_MIN, self.delay_max);
        let newest = &mut self.newest[from][to];
        if self.rng.chance(self.reorders) {
            let late = usual + self.rng.between(0, self.delay_max * 20);
            counters.reordered += u64::from(late < *newest);
            // Not the newest: those behind it may overtake.
            counters.reordered += u64::from(late > usual + self.delay_max);
            return late;
        }
        *newest = usual.max(*newest + 1);
        *newest
    }

    /// Splits the nodes in two parts that do not hear each other.
    pub(crate) fn split(&mut self) {
        let nodes = self.cut.len();
        let side: Vec<bool> = loop {
            let side: Vec<bool> = (0..nodes).map(|_| self.rng.chance(500_000)).collect();
            if side.iter().any(|&left| left != side[0]) {
                break side;
            }
        };
        for from in 0..nodes {
            for to in 0..nodes {
                self.cut[from][to] = side[from] != side[to];
            }
        }
    }

    /// Cuts all links of a node.
    pub(crate) fn isolate(&mut self, victim: usize) {
        for (from, row) in self.cut.iter_mut().enumerate() {
            for (to, cut) in row.iter_mut().enumerate() {
                *cut = from != to && (from == victim || to == victim);
            }
        }
    }

    /// Cuts one direction: all that a node says, all that it should hear, or some
    /// links.
    pub(crate) fn split_one_way(&mut self, victim: usize) {
        let nodes = self.cut.len();
        self.heal();
        match self.rng.below(3) {
            0 => self.cut[victim] = (0..nodes).map(|to| to != victim).collect(),
            1 => (0..nodes).for_each(|from| self.cut[from][victim] = from != victim),
            _ => {
                let other = (victim + 1 + self.rng.index(nodes - 1)) % nodes;
                self.cut[victim][other] = true;
                for from in 0..nodes {
                    for to in 0..nodes {
                        self.cut[from][to] |=
                            from != to && !self.cut[to][from] && self.rng.chance(250_000);
                    }
                }
            }
        }
    }

    /// Every link is whole again.
    pub(crate) fn heal(&mut self) {
        for row in &mut self.cut {
            row.fill(false);
        }
    }

    /// From now on nothing goes wrong, and messages are quick.
    pub(crate) fn calm(&mut self) {
        self.heal();
        self.loss = 0;
        self.repeats = 0;
        self.reorders = 0;
        self.delay_max = self.delay_max.min(1_000_000);
    }

    /// Makes sure that the next message suffers a fault that is on and has not happened yet.
    pub(crate) fn insist(&mut self, plan: &Plan, counters: &Counters) {
        let raise = |rate: &mut u64, fault, happened| {
            if plan.has(fault) && happened == 0 {
                *rate = (*rate * 10).clamp(100_000, 300_000);
            }
        };
        raise(&mut self.loss, Fault::Loss, counters.dropped);
        raise(&mut self.repeats, Fault::Duplication, counters.duplicated);
        raise(&mut self.reorders, Fault::Reordering, counters.reordered);
    }
}
