//! `drakkar dr ship`: another cluster is kept equal to this one. What was committed since the last round is
//! fetched, put down in a directory, applied to a copy of the state, and then the keys that it changed are
//! written to the standby as they are now: a value or a deletion, never a difference. So whatever was
//! interrupted can be done again.

pub(super) mod book;
mod history;
mod standby;

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::ExitCode;
use std::thread::sleep;
use std::time::Duration;

use clap::Args;

use super::BackupError;
use super::create::{Source, leaders};
use super::log::Copying;
use crate::endpoints::Endpoints;
use crate::exit;
use book::{Book, LOCK, Shipped};
use history::History;
use standby::Standby;

/// A leader may change while its group is read, or its log be cut.
const FETCHES: usize = 5;
const PAUSE: Duration = Duration::from_millis(250);

#[derive(Args)]
pub(crate) struct Options {
    #[command(flatten)]
    endpoints: Endpoints,
    /// Client endpoints of the standby (host:port); one is enough.
    #[arg(long, value_delimiter = ',', required = true)]
    to: Vec<String>,
    /// Where what the standby holds is remembered: a directory, made if there is none, on this machine, with room
    /// for twice the data.
    #[arg(long)]
    state: PathBuf,
    /// Seconds between the end of a round and the next.
    #[arg(long, value_name = "SECONDS", default_value_t = 5)]
    every: u64,
    /// Ends after one round.
    #[arg(long)]
    once: bool,
    /// Empties a standby that holds keys, when nothing was shipped to it from this state.
    #[arg(long)]
    over: bool,
    /// Reads every key back from the standby before the first round, and writes again what differs.
    #[arg(long)]
    check: bool,
}

/// Why nothing is shipped.
#[derive(Debug, thiserror::Error)]
enum ShipError {
    #[error(transparent)]
    Backup(#[from] BackupError),
    #[error("another `drakkar dr ship` uses {state}")]
    Locked { state: PathBuf },
    #[error(
        "the standby holds {keys} keys, and {state} says of nothing that it was shipped: name the state that \
         it was shipped from; or say --over, which empties the standby first"
    )]
    Holds { keys: u64, state: PathBuf },
    #[error("{address} is a node of the cluster that is shipped: --to must name the standby")]
    Itself { address: String },
    #[error(
        "{state} is of cluster {expected} with {groups} groups, and {found} with {found_groups} answers"
    )]
    OtherCluster {
        state: PathBuf,
        expected: String,
        groups: usize,
        found: String,
        found_groups: usize,
    },
    #[error(
        "the standby holds {found} keys, it was left with {expected}: somebody else has written to it, or it was \
         replaced. To make it equal again: a new --state, and --over, which empties it first"
    )]
    Touched { expected: u64, found: u64 },
    #[error(
        "group {group} does not continue what was shipped of it: entry {index} of term {term} is not in its history \
         ({found}). The cluster lost it in a repair, or is another of the same name. The standby keeps what it has; \
         to give that up: a new --state, and --over, which empties the standby first"
    )]
    Diverged {
        group: u64,
        index: u64,
        term: u64,
        found: String,
    },
}

impl ShipError {
    fn code(&self) -> u8 {
        match self {
            Self::Backup(error) => error.code(),
            _ => exit::REFUSED,
        }
    }

    /// Whether another round may go better: nothing was decided, and what is in memory is sound.
    fn passes(&self) -> bool {
        matches!(
            self,
            Self::Backup(
                BackupError::Unreachable { .. }
                    | BackupError::NoLeader { .. }
                    | BackupError::Group { .. }
                    | BackupError::Cluster(_)
            )
        )
    }
}

impl From<redis::RedisError> for ShipError {
    fn from(error: redis::RedisError) -> Self {
        Self::Backup(error.into())
    }
}

pub(super) fn run(options: &Options) -> ExitCode {
    let complain = |error: ShipError| exit::complain(error.code(), &error);
    let mut ship = match Ship::open(options) {
        Ok(ship) => ship,
        Err(error) => return complain(error),
    };
    loop {
        match ship.round() {
            Ok(told) if told.entries > 0 || options.once => println!("{}", ship.told(&told)),
            Ok(_) => {}
            Err(error) if options.once || !error.passes() => return complain(error),
            Err(error) => eprintln!("drakkar: {error}; the next round is in {} s", options.every),
        }
        if options.once {
            return ExitCode::SUCCESS;
        }
        sleep(Duration::from_secs(options.every));
    }
}

/// What a round did.
#[derive(Default)]
struct Told {
    entries: u64,
    keys: u64,
}

struct Ship<'a> {
    options: &'a Options,
    _lock: File,
    /// Nothing until it is known which cluster is shipped.
    book: Option<Book>,
    /// In the order of the groups.
    histories: Vec<History>,
    /// Connected to when it is needed.
    standby: Option<Standby>,
    /// The standby is to be read back yet.
    check: bool,
}

impl<'a> Ship<'a> {
    fn open(options: &'a Options) -> Result<Self, ShipError> {
        let state = &options.state;
        let io = |error| BackupError::Io {
            path: state.clone(),
            error,
        };
        fs::create_dir_all(state).map_err(io)?;
        let lock = File::create(state.join(LOCK)).map_err(io)?;
        if lock.try_lock().is_err() {
            let state = state.clone();
            return Err(ShipError::Locked { state });
        }
        let book = Book::read(state)?;
        let mut histories = Vec::new();
        match &book {
            Some(book) => {
                book.sweep()?;
                for shipped in &book.groups {
                    histories.push(History::load(state, shipped)?);
                }
            }
            // Files of others would be swept away.
            None if !Book::is_absent(state)? => {
                let path = state.clone();
                return Err(BackupError::NotEmpty { path }.into());
            }
            None => {}
        }
        Ok(Self {
            options,
            _lock: lock,
            book,
            histories,
            standby: None,
            check: options.check,
        })
    }

    fn round(&mut self) -> Result<Told, ShipError> {
        let done = self.attempt();
        if done.is_err() {
            self.standby = None;
        }
        done
    }

    fn attempt(&mut self) -> Result<Told, ShipError> {
        let standby = match &mut self.standby {
            Some(standby) => standby,
            none => none.insert(Standby::connect(&self.options.to)?),
        };
        let mut told = Told::default();
        if let Some(book) = &mut self.book {
            // What was fetched before is there, even if the cluster is gone.
            for (history, shipped) in self.histories.iter_mut().zip(&mut book.groups) {
                if history.last > shipped.sent {
                    told.add(history, shipped, standby)?;
                }
            }
            if told.entries > 0 {
                book.write()?;
            }
            if self.check {
                let mut differing = 0;
                for history in &mut self.histories {
                    differing += history.compare(standby)?;
                    history.send(standby)?;
                }
                match differing {
                    0 => println!("all keys of the standby are as they were left"),
                    _ => {
                        println!("{differing} keys of the standby differed, and were written again")
                    }
                }
            }
            standby.check(&mut self.histories)?;
        }
        self.check = false;
        let (cluster, sources) = leaders(&self.options.endpoints.endpoint)?;
        if self.book.is_none() {
            self.begin(&cluster, &sources)?;
        }
        let (Some(book), Some(standby)) = (&mut self.book, &mut self.standby) else {
            unreachable!("both were made above");
        };
        if book.cluster != cluster || book.groups.len() != sources.len() {
            return Err(ShipError::OtherCluster {
                state: self.options.state.clone(),
                expected: book.cluster.clone(),
                groups: book.groups.len(),
                found: cluster,
                found_groups: sources.len(),
            });
        }
        for (at, history) in self.histories.iter_mut().enumerate() {
            let endpoints = &self.options.endpoints.endpoint;
            let until = fetch(endpoints, &sources, book, at, history)?;
            if history.last > book.groups[at].sent {
                // Before the standby hears of it: whoever goes on from here must know what it may have heard.
                book.write()?;
                told.add(history, &mut book.groups[at], standby)?;
            }
            let shipped = &mut book.groups[at];
            shipped.until_unix_ms = shipped.until_unix_ms.max(until);
            if shipped.is_long() {
                let state = history.write(&self.options.state, shipped)?;
                shipped.parts = vec![state];
            }
        }
        book.write()?;
        book.sweep()?;
        Ok(told)
    }

    /// Makes sure that nothing but this is written to the standby.
    fn begin(&mut self, cluster: &str, sources: &[Source]) -> Result<(), ShipError> {
        let standby = self.standby.as_mut().expect("it is connected");
        for source in sources {
            if let Some(address) = standby.is_also(source)? {
                return Err(ShipError::Itself { address });
            }
        }
        let keys = standby.settled(|_| true)?;
        if keys > 0 && !self.options.over {
            let state = self.options.state.clone();
            return Err(ShipError::Holds { keys, state });
        }
        if keys > 0 {
            standby.empty()?;
            println!("the standby was emptied of {keys} keys");
        }
        let groups = sources.iter().map(|source| Shipped::new(source.group));
        let book = Book::new(&self.options.state, cluster, groups.collect());
        book.write()?;
        self.histories = book
            .groups
            .iter()
            .map(|it| History::new(it.group))
            .collect();
        self.book = Some(book);
        Ok(())
    }

    fn told(&self, told: &Told) -> String {
        let Told { entries, keys } = told;
        let groups = self.book.iter().flat_map(|book| &book.groups);
        let groups: Vec<String> = groups
            .map(|it| format!("{}:{}", it.group, it.sent))
            .collect();
        format!(
            "shipped {entries} entries that changed {keys} keys: the standby is at {}",
            groups.join(",")
        )
    }
}

impl Told {
    fn add(
        &mut self,
        history: &mut History,
        shipped: &mut Shipped,
        standby: &mut Standby,
    ) -> Result<(), ShipError> {
        self.keys += history.send(standby)?;
        self.entries += history.last - shipped.sent;
        shipped.was_sent(history.last, history.clock());
        Ok(())
    }
}

/// Puts down what is new in a group, and applies it; until when all that was written is there.
fn fetch(
    endpoints: &[String],
    sources: &[Source],
    book: &mut Book,
    at: usize,
    history: &mut History,
) -> Result<u64, ShipError> {
    let mut fetched = fetch_from(&sources[at], book, at, history);
    for _ in 1..FETCHES {
        if !matches!(fetched, Err(ShipError::Backup(BackupError::Group { .. }))) {
            break;
        }
        sleep(PAUSE);
        let (_, sources) = leaders(endpoints)?;
        fetched = sources
            .get(at)
            .map_or(fetched, |source| fetch_from(source, book, at, history));
    }
    fetched
}

fn fetch_from(
    source: &Source,
    book: &mut Book,
    at: usize,
    history: &mut History,
) -> Result<u64, ShipError> {
    let groups = book.groups.len() as u64;
    let (cluster, directory) = (book.cluster.clone(), book.directory.clone());
    let copying = Copying::new(source, &cluster, groups)?;
    let (known, shipped) = (history.last, &mut book.groups[at]);
    if copying.end < known {
        return Err(history.diverged(&format!("it ends with entry {}", copying.end)));
    }
    // A new leader may not know yet how much of its log is committed.
    if copying.last < known {
        return Ok(0);
    }
    if known > copying.floor {
        history.continues(&copying.entry(known)?)?;
    }
    if copying.last == known && history.has_state() {
        return Ok(copying.settled_ms.unwrap_or(0));
    }
    let (mut parts, until) = if history.has_state() && known >= copying.floor {
        let (log, clock) = copying.entries(known, &directory)?;
        (vec![log], copying.settled_ms.unwrap_or(clock))
    } else {
        let file = copying.copy(&directory)?;
        let until = file.until_unix_ms.unwrap_or(0);
        history.is_succeeded(&file.snapshot.name)?;
        let (group, keys) = (source.group, file.snapshot.items);
        let entries = file.log.as_ref().map_or(0, |log| log.items);
        eprintln!(
            "group {group}: a state of {keys} keys was fetched, and {entries} entries behind it"
        );
        (
            std::iter::once(file.snapshot).chain(file.log).collect(),
            until,
        )
    };
    for part in &parts {
        history.add(&directory, part, shipped.sent)?;
    }
    shipped.parts.append(&mut parts);
    Ok(until)
}
