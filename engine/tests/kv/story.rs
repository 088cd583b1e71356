//! Conversations with the state machine, as a client has them: `kv/*.txt`.
//!
//! A paragraph is commands, a line of dashes, and the answers, one line each. `wait` lets milliseconds
//! pass. After an intended change: `UPDATE_EXPECT=1 cargo test -p engine --test kv`, then read the diff.

use std::fmt::Write;
use std::fs;
use std::path::Path;

use engine::batch::BatchBuilder;
use engine::kv::Kv;
use engine::state_machine::StateMachine;
use net::resp::{Action, Counters, RaftFacts, ServerView, Session, SlotRange, Topology};
use net::{Command, Reply};

use super::{EVERY_SLOT, apply};

/// A group that owns every slot, its only client, and the time.
struct Story {
    kv: Kv,
    session: Session,
    topology: Topology,
    unix_ms: u64,
}

impl Story {
    fn new() -> Self {
        let (start, end) = EVERY_SLOT;
        let every = SlotRange {
            start,
            end,
            leader: None,
            replicas: Vec::new(),
        };
        Self {
            kv: Kv::new(EVERY_SLOT),
            session: Session::new(1, "client".into(), "server".into()),
            topology: Topology {
                endpoints: Vec::new(),
                own: 0,
                ranges: vec![every],
                epoch: 0,
            },
            unix_ms: 1_000_000,
        }
    }

    fn run(&mut self, line: &str) -> String {
        let words = words(line);
        if let [b"wait", ms] = words[..] {
            let ms = str::from_utf8(ms).expect("digits");
            self.unix_ms += ms.parse::<u64>().expect("milliseconds");
            apply(&mut self.kv, &BatchBuilder::default().seal(self.unix_ms));
            return format!("{} keys", self.kv.keys());
        }
        let (counters, raft) = (Counters::default(), RaftFacts::default());
        let view = ServerView {
            cluster: false,
            password: None,
            topology: &self.topology,
            counters: &counters,
            raft: &raft,
            unix_micros: self.unix_ms * 1000,
        };
        let (reply, form) = match self.session.handle(&words, &view) {
            Action::Reply(Reply::Error(error)) => return format!("(error) {error}"),
            Action::Data { command, form, .. } => (self.execute(&command), form),
            Action::EveryGroup { command, form, .. } => (self.execute(&command), form),
            action => panic!("{line}: {action:?} is no matter of the state machine"),
        };
        let mut bytes = Vec::new();
        form.encode(&reply, &mut bytes);
        let mut lines = bytes.split_inclusive(|&byte| byte == b'\n');
        let mut shown = String::new();
        show(&mut lines, &mut shown);
        shown
    }

    fn execute(&mut self, command: &Command<'_>) -> Reply {
        if !command.is_write() {
            return self.kv.read(self.unix_ms, usize::MAX, command);
        }
        let mut builder = BatchBuilder::default();
        builder.push(command);
        let mut replies = apply(&mut self.kv, &builder.seal(self.unix_ms));
        replies.pop().expect("one reply for one command")
    }
}

/// Splits at spaces; a word may stand in quotes.
fn words(line: &str) -> Vec<&[u8]> {
    let mut words = Vec::new();
    let mut rest = line.trim();
    while !rest.is_empty() {
        let (word, behind) = match rest.strip_prefix('"') {
            Some(quoted) => quoted.split_once('"').expect("a quote is closed"),
            None => rest.split_once(' ').unwrap_or((rest, "")),
        };
        words.push(word.as_bytes());
        rest = behind.trim_start();
    }
    words
}

/// Writes a RESP2 reply as a person reads it. Strings of the stories hold no line breaks.
fn show<'a>(lines: &mut impl Iterator<Item = &'a [u8]>, to: &mut String) {
    let line = lines.next().expect("a reply is whole").trim_ascii_end();
    let line = str::from_utf8(line).expect("the stories are text");
    match line.split_at(1) {
        ("$" | "*", "-1") => to.push_str("(nil)"),
        ("$", _) => {
            let text = lines.next().expect("a string follows its length");
            let text = str::from_utf8(text.trim_ascii_end()).expect("the stories are text");
            write!(to, "{text:?}").expect("a string takes text");
        }
        ("*", count) => {
            to.push('[');
            for item in 0..count.parse::<usize>().expect("a count") {
                to.push_str(if item == 0 { "" } else { " " });
                show(lines, to);
            }
            to.push(']');
        }
        ("-", error) => write!(to, "(error) {error}").expect("a string takes text"),
        (_, rest) => to.push_str(rest),
    }
}

/// The file with the answers that the state machine gives.
fn retold(script: &str) -> String {
    let mut story = Story::new();
    let mut retold = String::new();
    for paragraph in script.split("\n\n") {
        let (told, _) = paragraph.split_once("----").unwrap_or((paragraph, ""));
        let told = told.trim_end();
        let commands: Vec<&str> = told.lines().filter(|line| !line.starts_with('#')).collect();
        writeln!(retold, "{told}").expect("a string takes text");
        if !commands.is_empty() {
            retold.push_str("----\n");
        }
        for command in commands {
            writeln!(retold, "{}", story.run(command)).expect("a string takes text");
        }
        retold.push('\n');
    }
    retold.truncate(retold.trim_end().len());
    retold.push('\n');
    retold
}

#[test]
fn stories_are_told_as_they_are_written() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/kv");
    let mut told = 0;
    for file in fs::read_dir(folder).unwrap() {
        let path = file.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "txt") {
            let script = fs::read_to_string(&path).unwrap();
            expect_test::expect_file![path].assert_eq(&retold(&script));
            told += 1;
        }
    }
    assert_eq!(told, 3);
}
