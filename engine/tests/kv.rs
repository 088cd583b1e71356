//! The state machine against a plain model of it, and told as conversations.

#[path = "kv/model.rs"]
mod model;
#[path = "kv/snapshot.rs"]
mod snapshot;
#[path = "kv/story.rs"]
mod story;

use engine::batch::{Batch, BatchBuilder};
use engine::kv::Kv;
use engine::state_machine::StateMachine;
use net::command::{Condition, Expiry, List, Unit};
use net::{Command, ErrorReply, Reply, SLOTS};

use model::Model;

const EVERY_SLOT: (u16, u16) = (0, SLOTS - 1);

/// Few keys, so that commands meet; some share a slot.
const KEYS: [&[u8]; 10] = [
    b"",
    b"a",
    b"b",
    b"{a}1",
    b"{a}2",
    b"{a}3",
    b"counter",
    b"a longer key than the others",
    b"\0\xff",
    b"z",
];

const VALUES: [&[u8]; 14] = [
    b"",
    b"0",
    b"1",
    b"-1",
    b"01",
    b"+1",
    b" 1",
    b"-0",
    b"41",
    b"9223372036854775807",
    b"-9223372036854775808",
    b"9223372036854775808",
    b"text",
    b"a value that is longer than a machine word",
];

const DELTAS: [i64; 7] = [0, 1, -1, 10, -100, i64::MAX, i64::MIN];

/// SplitMix64 (Steele, Lea, Flood 2014): a seed is a history.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    fn one_of<T: Copy>(&mut self, items: &[T]) -> T {
        let end = items.len() as u64;
        items[usize::try_from(self.below(end)).expect("a position")]
    }

    fn some_of<T: Copy>(&mut self, items: &[T]) -> Vec<T> {
        (0..self.below(4)).map(|_| self.one_of(items)).collect()
    }
}

fn set(random: &mut Random, clock: u64) -> Command<'static> {
    let expiry = match random.below(8) {
        0 => Expiry::Keep,
        1 => Expiry::After(1 + random.below(300)),
        2 => Expiry::At((clock + random.below(300)).saturating_sub(100)),
        3 => Expiry::After(u64::MAX),
        _ => Expiry::Never,
    };
    let conditions = [Condition::Always, Condition::Absent, Condition::Present];
    Command::Set {
        key: random.one_of(&KEYS),
        value: random.one_of(&VALUES),
        expiry,
        condition: random.one_of(&conditions),
        get: random.below(3) == 0,
    }
}

/// Gives one random command of any kind to `run`.
fn with_command(random: &mut Random, clock: u64, run: &mut dyn FnMut(&Command<'_>)) {
    let (key, value) = (random.one_of(&KEYS), random.one_of(&VALUES));
    let keys = random.some_of(&KEYS);
    let keys = List::Arguments(&keys);
    let unit = random.one_of(&[Unit::Seconds, Unit::Milliseconds]);
    let command = match random.below(24) {
        0..6 => set(random, clock),
        6 => Command::Delete { keys },
        7 => Command::Exists { keys },
        8..11 => {
            let delta = random.one_of(&DELTAS);
            Command::Increment { key, delta }
        }
        11..13 => {
            let bytes_max = random.one_of(&[8, 64]);
            Command::Append {
                key,
                value,
                bytes_max,
            }
        }
        13 => Command::Length { key },
        14 => Command::MultiGet { keys },
        15 => {
            let pairs = [key, value, random.one_of(&KEYS), random.one_of(&VALUES)];
            let pairs = List::Arguments(&pairs);
            return run(&Command::MultiSet { pairs });
        }
        16..19 => {
            let soon = random.below(400).cast_signed() - 50;
            let after_ms = random.one_of(&[soon, soon, soon, i64::MAX, i64::MIN]);
            Command::Expire { key, after_ms }
        }
        19 => Command::TimeToLive { key, unit },
        20 => Command::Persist { key },
        21 => Command::Type { key },
        22 if random.below(20) == 0 => Command::Flush,
        22 => Command::Get { key },
        _ => {
            let slot = net::Slot::of(key).number();
            random.one_of(&[Command::Size, Command::CountInSlot { slot }])
        }
    };
    run(&command);
}

fn apply(kv: &mut Kv, payload: &[u8]) -> Vec<Reply> {
    let mut replies = Vec::new();
    kv.apply(&Batch::access(payload).expect("just sealed"), &mut replies);
    replies
}

/// A state with the model's content that has lived through nothing else.
fn rebuilt(model: &Model) -> Kv {
    let mut builder = BatchBuilder::default();
    for (key, entry) in model.entries.iter().rev() {
        builder.push(&Command::Set {
            key,
            value: &entry.value,
            expiry: entry.due.map_or(Expiry::Never, Expiry::At),
            condition: Condition::Always,
            get: false,
        });
    }
    let mut kv = Kv::new(EVERY_SLOT);
    apply(&mut kv, &builder.seal(model.clock));
    kv
}

fn assert_shows(kv: &Kv, model: &mut Model, unix_ms: u64) {
    assert_eq!(kv.clock(), model.clock);
    assert_eq!(kv.keys(), model.entries.len() as u64);
    assert_eq!(kv.next_expiry(), model.next_expiry());
    for key in KEYS {
        let unit = Unit::Milliseconds;
        for command in [Command::Get { key }, Command::TimeToLive { key, unit }] {
            let expected = model.execute(unix_ms, &command);
            assert_eq!(
                kv.read(unix_ms, usize::MAX, &command),
                expected,
                "{command:?}"
            );
        }
    }
}

fn compare(seed: u64) {
    let mut random = Random(seed);
    let mut builder = BatchBuilder::default();
    let (mut one, mut other) = (Kv::new(EVERY_SLOT), Kv::new(EVERY_SLOT));
    let mut model = Model::default();
    let mut unix_ms = 1000;
    for batch in 0..60 {
        // A new leader's time may lie behind that of the one before.
        unix_ms = (unix_ms + random.below(120)).saturating_sub(30);
        model.advance(unix_ms);
        let mut expected = Vec::new();
        for _ in 0..random.below(12) {
            with_command(&mut random, unix_ms, &mut |command| {
                builder.push(command);
                expected.push((format!("{command:?}"), model.execute(0, command)));
            });
        }
        let payload = builder.seal(unix_ms);
        let replies = apply(&mut one, &payload);
        assert_eq!(replies.len(), expected.len());
        for (reply, (command, expected)) in replies.iter().zip(&expected) {
            assert_eq!(reply, expected, "seed {seed}, batch {batch}: {command}");
        }
        assert_eq!(replies, apply(&mut other, &payload));
        assert_shows(&one, &mut model, unix_ms + random.below(50));
        // Visits every slot, hence not each time.
        if batch % 20 == 19 {
            assert_eq!(one.hash(), other.hash(), "seed {seed}, batch {batch}");
            let same = rebuilt(&model).hash();
            assert_eq!(
                one.hash(),
                same,
                "seed {seed}, batch {batch}: history shows"
            );
        }
    }
}

#[test]
fn random_histories_give_what_the_model_gives() {
    for seed in 0..300 {
        compare(seed);
    }
}

fn state(commands: &[Command<'_>], stamp_ms: u64) -> Kv {
    let mut builder = BatchBuilder::default();
    commands.iter().for_each(|command| builder.push(command));
    let mut kv = Kv::new(EVERY_SLOT);
    apply(&mut kv, &builder.seal(stamp_ms));
    kv
}

fn plain_set<'a>(key: &'a [u8], value: &'a [u8], expiry: Expiry) -> Command<'a> {
    Command::Set {
        key,
        value,
        expiry,
        condition: Condition::Always,
        get: false,
    }
}

#[test]
fn states_that_differ_anywhere_have_different_hashes() {
    let never = Expiry::Never;
    let states = [
        state(&[], 5),
        state(&[], 6),
        state(&[plain_set(b"a", b"1", never)], 5),
        state(&[plain_set(b"a", b"2", never)], 5),
        state(&[plain_set(b"b", b"1", never)], 5),
        state(&[plain_set(b"a", b"1", Expiry::At(9))], 5),
        state(&[plain_set(b"a", b"1", Expiry::At(10))], 5),
        state(
            &[plain_set(b"a", b"1", never), plain_set(b"b", b"1", never)],
            5,
        ),
        state(
            &[plain_set(b"a", b"b", never), plain_set(b"b", b"a", never)],
            5,
        ),
        state(
            &[plain_set(b"a", b"a", never), plain_set(b"b", b"b", never)],
            5,
        ),
    ];
    for (position, one) in states.iter().enumerate() {
        for other in &states[..position] {
            assert_ne!(one.hash(), other.hash(), "state {position}");
        }
    }
}

#[test]
fn a_key_is_there_until_a_batch_carries_the_time_it_is_due() {
    let mut kv = state(&[plain_set(b"a", b"1", Expiry::After(100))], 1000);
    let (get, ttl) = (Command::Get { key: b"a" }, Unit::Milliseconds);
    let ttl = Command::TimeToLive {
        key: b"a",
        unit: ttl,
    };
    assert_eq!(kv.next_expiry(), Some(1100));
    assert_eq!(kv.read(1040, usize::MAX, &ttl), Reply::Integer(60));
    assert_eq!(
        kv.read(900, usize::MAX, &ttl),
        Reply::Integer(100),
        "readers may lag"
    );
    assert_eq!(kv.read(2000, usize::MAX, &get), Reply::bulk(*b"1"));
    assert_eq!(kv.read(2000, usize::MAX, &ttl), Reply::Integer(0));

    apply(&mut kv, &BatchBuilder::default().seal(1099));
    assert_eq!(kv.keys(), 1);
    apply(&mut kv, &BatchBuilder::default().seal(1100));
    assert_eq!((kv.keys(), kv.next_expiry()), (0, None));
    assert_eq!(kv.read(0, usize::MAX, &get), Reply::Nil);
}

#[test]
fn a_group_holds_its_slots_only_and_sees_nothing_in_others() {
    let slot = net::Slot::of(b"a").number();
    let mut kv = Kv::new((slot, slot));
    let mut builder = BatchBuilder::default();
    builder.push(&plain_set(b"a", b"1", Expiry::Never));
    builder.push(&plain_set(b"{a}b", b"2", Expiry::Never));
    apply(&mut kv, &builder.seal(1));
    assert_eq!(kv.read(1, usize::MAX, &Command::Size), Reply::Integer(2));
    for (asked, keys) in [(slot, 2), (slot - 1, 0), (slot + 1, 0)] {
        let command = Command::CountInSlot { slot: asked };
        assert_eq!(
            kv.read(1, usize::MAX, &command),
            Reply::Integer(keys),
            "slot {asked}"
        );
    }
    assert_eq!(
        kv.read(1, usize::MAX, &Command::Get { key: b"b" }),
        Reply::Nil
    );
}

#[test]
fn commands_that_cannot_be_read_are_refused_alike_and_change_nothing() {
    // The bytes of a batch that carries a command of no known opcode.
    let mut builder = BatchBuilder::default();
    builder.push(&Command::Size);
    let mut payload = builder.seal(1).to_vec();
    let size = payload.iter().position(|&byte| byte == 14).unwrap();
    payload[size] = 99;
    let payload = wal::Payload::from(payload);
    let mut kv = Kv::new(EVERY_SLOT);
    let expected = "ERR no command has the opcode 99";
    let [Reply::Error(error)] = &apply(&mut kv, &payload)[..] else {
        panic!("one error is expected");
    };
    assert_eq!(error.to_string(), expected);
    assert_eq!(kv.keys(), 0);
}

#[test]
fn append_stops_at_the_limit_that_came_with_it() {
    let mut kv = Kv::new(EVERY_SLOT);
    let mut append = |bytes_max| {
        let mut builder = BatchBuilder::default();
        builder.push(&Command::Append {
            key: b"k",
            value: b"four",
            bytes_max,
        });
        apply(&mut kv, &builder.seal(1)).remove(0)
    };
    assert_eq!(append(3), ErrorReply::StringTooLarge.into(), "a new value");
    assert_eq!(append(4), Reply::Integer(4));
    assert_eq!(append(7), ErrorReply::StringTooLarge.into());
    assert_eq!(append(8), Reply::Integer(8));
    assert_eq!(
        kv.read(0, usize::MAX, &Command::Length { key: b"k" }),
        Reply::Integer(8)
    );
}
