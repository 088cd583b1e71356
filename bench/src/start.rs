//! How long a node takes to start from snapshots, beside how long the disk takes to give their bytes.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command as Process, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use clap::Args;
use engine::config::Config;
use engine::io::{Commands, Handle, Node, config_file};
use engine::shard::Outcome;
use net::command::{Condition, Expiry};
use net::{Command, Reply};
use ports::Ports;
use rustix::fs::OFlags;
use wal::GroupId;

use crate::load::now;

const MIB: f64 = (1 << 20) as f64;
/// Commands given to a group at once, and how many of such are under way for each.
const BATCH: usize = 256;
const UNDER_WAY: usize = 32;
/// To be asked for when the node serves.
const ASKED: u64 = 1000;
const PATIENCE: Duration = Duration::from_secs(60);
const READ_BYTES: usize = 1 << 20;
const ALIGNMENT: usize = 4096;

/// Starts a node with many keys in its snapshots, again and again, in turns with a plain read of the same
/// files.
#[derive(Clone, Debug, Args)]
pub(crate) struct StartOptions {
    /// Keys of 16 bytes.
    #[arg(long, default_value_t = 10_000_000)]
    keys: u64,
    /// Of each value, which cannot be compressed.
    #[arg(long, default_value_t = 100)]
    value_bytes: usize,
    /// Shards of the node, each with a group.
    #[arg(long, default_value_t = 4)]
    shards: u16,
    /// How often it is started, and the files are read.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Where the data are; a temporary directory below it is removed at the end.
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Writes the keys to a node of this configuration: what this program starts.
    #[arg(long, hide = true)]
    fill: Option<PathBuf>,
    /// Starts a node of this configuration: what this program starts.
    #[arg(long, hide = true)]
    open: Option<PathBuf>,
}

pub(crate) fn run(options: &StartOptions) -> Result<(), String> {
    match (&options.fill, &options.open) {
        (Some(config), _) => fill(config, options),
        (None, Some(config)) => open(config, options),
        (None, None) => measure(options),
    }
}

/// A directory that goes away.
struct Place(PathBuf);

impl Drop for Place {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            eprintln!("cannot remove {}: {error}", self.0.display());
        }
    }
}

/// A process that ends with whoever started it.
struct Started(Child);

impl Drop for Started {
    fn drop(&mut self) {
        // Both fail only if it has ended already.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

fn measure(options: &StartOptions) -> Result<(), String> {
    let base = options.dir.clone().unwrap_or_else(std::env::temp_dir);
    let name = format!("drakkar-bench-start-{}", std::process::id());
    let place = Place(base.join(name));
    let text = |error: io::Error| error.to_string();
    std::fs::create_dir_all(&place.0).map_err(text)?;
    let config = place.0.join("toml");
    let ports = Ports::reserve(2 * options.shards + 1);
    let ports = ports.map_err(|refusal| refusal.to_string())?;
    std::fs::write(&config, config_text(options, &place.0, ports.first())).map_err(text)?;
    let begun = now();
    child("--fill", &config, options)?.hear("filled")?;
    eprintln!(
        "{} keys written and in snapshots after {:.1} s",
        options.keys,
        begun.elapsed().as_secs_f64()
    );
    let files = snapshots(&place.0.join("data")).map_err(text)?;
    let bytes: u64 = files.iter().map(|(_, bytes)| bytes).sum();
    println!(
        "{} keys of 16 + {} bytes in {} snapshots, {:.0} MiB; {} shards",
        options.keys,
        options.value_bytes,
        files.len(),
        bytes as f64 / MIB,
        options.shards,
    );
    println!("  round  loaded  serves     keys/s    MiB/s  plain read    MiB/s  of the read");
    let mut serves = Vec::new();
    let mut reads = Vec::new();
    for round in 1..=options.rounds {
        let begun = now();
        let mut node = child("--open", &config, options)?;
        node.hear("opened")?;
        let loaded = begun.elapsed().as_secs_f64();
        node.hear("serves")?;
        let served = begun.elapsed().as_secs_f64();
        drop(node);
        let begun = now();
        let read = read_plainly(&files).map_err(text)?;
        if read != bytes {
            return Err(format!("the files had {bytes} bytes and have {read}"));
        }
        let read = begun.elapsed().as_secs_f64();
        println!(
            "{}",
            line(
                &round.to_string(),
                (loaded, served, read),
                options.keys,
                bytes
            )
        );
        serves.push((loaded, served));
        reads.push(read);
    }
    serves.sort_by(|a, b| a.1.total_cmp(&b.1));
    reads.sort_by(f64::total_cmp);
    let (loaded, served) = serves[serves.len() / 2];
    let read = reads[reads.len() / 2];
    println!(
        "{}",
        line("median", (loaded, served, read), options.keys, bytes)
    );
    Ok(())
}

/// A row of the table.
fn line(name: &str, (loaded, served, read): (f64, f64, f64), keys: u64, bytes: u64) -> String {
    let mib = bytes as f64 / MIB;
    format!(
        "{name:>7} {loaded:>6.2}s {served:>6.2}s {:>10.0} {:>8.0} {read:>10.2}s {:>8.0} {:>11.0} %",
        keys as f64 / served,
        mib / served,
        mib / read,
        100.0 * read / served,
    )
}

fn config_text(options: &StartOptions, directory: &Path, first: u16) -> String {
    let shards = options.shards;
    format!(
        "[node]\nid = 1\ndata_dir = \"{}\"\n[cluster]\nid = \"start\"\nshards = {shards}\ngroups = {shards}\n\
         [snapshot]\nkeep = 1\nsize = \"0b\"\ninterval = \"0s\"\nat_close = false\n[client]\nrequest_timeout = \"60s\"\n\
         [[cluster.nodes]]\nid = 1\nhost = \"127.0.0.1\"\nclient_port = {first}\npeer_port = {}\n\
         admin_port = {}\n",
        directory.join("data").display(),
        first + shards,
        first + 2 * shards,
    )
}

/// This program, in one of its other roles.
fn child(role: &str, config: &Path, options: &StartOptions) -> Result<Heard, String> {
    let program = std::env::current_exe().map_err(|error| error.to_string())?;
    let mut command = Process::new(program);
    command.arg("start").arg(role).arg(config);
    command.args(["--keys", &options.keys.to_string()]);
    command.args(["--value-bytes", &options.value_bytes.to_string()]);
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|error| error.to_string())?;
    let output = child.stdout.take().ok_or("it has no output")?;
    Ok(Heard {
        _child: Started(child),
        lines: io::BufReader::new(output),
    })
}

/// A process that says how far it is.
struct Heard {
    _child: Started,
    lines: io::BufReader<std::process::ChildStdout>,
}

impl Heard {
    /// Waits for a line.
    fn hear(&mut self, expected: &str) -> Result<(), String> {
        let mut line = String::new();
        let read = io::BufRead::read_line(&mut self.lines, &mut line);
        read.map_err(|error| error.to_string())?;
        match line.trim_end() {
            found if found == expected => Ok(()),
            found => Err(format!("the node said {found:?} instead of {expected:?}")),
        }
    }
}

fn say(word: &str) -> Result<(), String> {
    let mut out = io::stdout();
    let said = writeln!(out, "{word}").and_then(|()| out.flush());
    said.map_err(|error| error.to_string())
}

fn node(config: &Path) -> Result<Node, String> {
    let text = std::fs::read_to_string(config).map_err(|error| error.to_string())?;
    let config: Config = config_file::parse(&text)
        .map_err(|errors| errors.iter().map(|e| format!("{e}\n")).collect::<String>())?;
    Node::open(config).map_err(|error| error.to_string())
}

fn key(number: u64) -> [u8; 16] {
    let mut key = *b"key:000000000000";
    let mut left = number;
    for digit in key[4..].iter_mut().rev() {
        *digit = b'0' + (left % 10) as u8;
        left /= 10;
    }
    key
}

/// Bytes that look like noise, the same for the same key (SplitMix64).
fn value(number: u64, bytes: usize) -> Vec<u8> {
    let mut state = number;
    let mut next = || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)).to_le_bytes()
    };
    let words = std::iter::repeat_with(&mut next).flatten();
    words.take(bytes).collect()
}

/// Waits until the node leads all of its groups.
fn lead(handle: &Handle) -> Result<(), String> {
    let deadline = now() + PATIENCE;
    let groups = (0..handle.config().cluster.groups).map(GroupId::from_raw);
    for group in groups {
        while handle.leader(group).is_none() {
            if now() > deadline {
                return Err(format!("group {group} has no leader"));
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }
    Ok(())
}

fn fill(config: &Path, options: &StartOptions) -> Result<(), String> {
    let node = node(config)?;
    let handle = node.handle();
    lead(&handle)?;
    let groups = handle.config().cluster.groups;
    let (sender, receiver) = mpsc::channel();
    let mut open: Vec<Commands> = (0..groups).map(|_| Commands::default()).collect();
    let mut under_way = 0;
    let await_one = || match receiver.recv_timeout(PATIENCE) {
        Ok(None) => Ok(()),
        Ok(Some(bad)) => Err(format!("a write ended with {bad:?}")),
        Err(_) => Err("a write is not answered".to_owned()),
    };
    let give = |group: u32, commands: Commands| {
        let sender = sender.clone();
        let done = move |outcomes: Vec<Outcome>| {
            let mut bad = outcomes.into_iter();
            let bad = bad.find(|it| *it != Outcome::Reply(Reply::Ok));
            // Nobody waits any more after an error.
            let _ = sender.send(bad);
        };
        // A refusal is completed as busy.
        drop(handle.submit(GroupId::from_raw(group), commands, done));
    };
    for number in 0..options.keys {
        let key = key(number);
        let group = handle.group_of(&key).to_raw();
        let commands = &mut open[group as usize];
        commands.push(&Command::Set {
            key: &key,
            value: &value(number, options.value_bytes),
            expiry: Expiry::Never,
            condition: Condition::Always,
            get: false,
        });
        if commands.len() == BATCH {
            give(group, std::mem::take(commands));
            under_way += 1;
        }
        if under_way == UNDER_WAY {
            await_one()?;
            under_way -= 1;
        }
    }
    for (group, commands) in (0..).zip(open) {
        give(group, commands);
        under_way += 1;
    }
    (0..under_way).try_for_each(|_| await_one())?;
    for group in (0..groups).map(GroupId::from_raw) {
        let taken = handle.take_snapshot(group, Duration::from_secs(600));
        taken.map_err(|error| format!("group {group}: {error}"))?;
    }
    node.stop();
    node.wait().map_err(|error| error.to_string())?;
    say("filled")
}

/// Opens the node, says when it has loaded and when it serves, and waits to be ended.
fn open(config: &Path, options: &StartOptions) -> Result<(), String> {
    let node = node(config)?;
    say("opened")?;
    let handle = node.handle();
    lead(&handle)?;
    let step = (options.keys / ASKED).max(1);
    for number in (0..options.keys).step_by(usize::try_from(step).unwrap_or(1)) {
        let key = key(number);
        let found = handle.execute(handle.group_of(&key), &Command::Get { key: &key });
        let expected = Reply::Bulk(value(number, options.value_bytes));
        if found.as_ref() != Ok(&expected) {
            return Err(format!("key {number}: {found:?}"));
        }
    }
    say("serves")?;
    loop {
        std::thread::sleep(PATIENCE);
    }
}

/// The snapshots below a data directory, and their sizes.
fn snapshots(data: &Path) -> io::Result<Vec<(PathBuf, u64)>> {
    let mut files = Vec::new();
    for shard in std::fs::read_dir(data)? {
        let directory = shard?.path().join("snapshots");
        if !directory.is_dir() {
            continue;
        }
        for file in std::fs::read_dir(directory)? {
            let path = file?.path();
            if path.extension().is_some_and(|it| it == "snap") {
                files.push((path.clone(), path.metadata()?.len()));
            }
        }
    }
    files.sort();
    Ok(files)
}

/// Reads files one after the other, past every cache: how many bytes.
fn read_plainly(files: &[(PathBuf, u64)]) -> io::Result<u64> {
    let mut memory = vec![0; READ_BYTES + ALIGNMENT];
    let skip = memory.as_ptr().align_offset(ALIGNMENT);
    let buffer = &mut memory[skip..skip + READ_BYTES];
    let direct = i32::try_from(OFlags::DIRECT.bits()).expect("a flag of open(2) is an int");
    let mut all = 0;
    for (path, _) in files {
        let file = File::options().read(true).custom_flags(direct).open(path)?;
        let mut at = 0;
        loop {
            let read = file.read_at(buffer, at)?;
            at += read as u64;
            if read < READ_BYTES {
                break;
            }
        }
        all += at;
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_have_16_bytes_and_values_are_the_same_each_time() {
        assert_eq!(&key(9_999_999), b"key:000009999999");
        assert_eq!(value(7, 100).len(), 100);
        assert_eq!(value(7, 100), value(7, 100));
        assert_ne!(value(7, 100), value(8, 100));
    }
}
