#![doc = include_str!("../README.md")]
#![expect(
    clippy::disallowed_methods,
    reason = "real kernels and real processes are given real time"
)]

mod block;
mod faulty;
mod guest;
mod load;
mod machine;
mod mark;
mod nodes;
mod plain;
mod record;
mod scenario;
mod scenarios;
mod story;
mod subject;
mod trouble;
mod uml;
mod verify;
mod volume;
mod writer;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use scenario::{Row, Scenario, Verdict, heading};
use trouble::Trouble;
use writer::Voice;

/// Runs the log under the faults of real kernels, and checks that nothing acknowledged is lost.
#[derive(Parser)]
#[command(
    name = "drakkar-faults",
    version,
    args_conflicts_with_subcommands = true
)]
struct Arguments {
    /// Scenarios to run, by the name before the slash or by the whole; all of them if none is named.
    scenarios: Vec<String>,
    /// About a minute: fewer scenarios, fewer rounds.
    #[arg(long)]
    short: bool,
    /// Rounds of each scenario, instead of its own number.
    #[arg(long)]
    rounds: Option<u32>,
    /// Decides when faults strike, as far as this program decides.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Where to put images and logs; the system's temporary directory by default.
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Names the scenarios and says what each does and needs.
    #[arg(long)]
    list: bool,
    #[command(subcommand)]
    inner: Option<Inner>,
}

/// What this program starts itself.
#[derive(Subcommand)]
enum Inner {
    /// Appends to a log and says what is durable.
    #[command(hide = true)]
    Writer {
        directory: PathBuf,
        /// Ends after this entry: a writer that nobody stops must not fill a disk.
        #[arg(long, default_value_t = writer::LAST)]
        last: u64,
        /// Plain writes, and none of them is made durable.
        #[arg(long)]
        no_sync: bool,
        /// Lets the log grow without end.
        #[arg(long)]
        keep_all: bool,
    },
    /// Is the first process of a User-Mode Linux.
    #[command(hide = true, subcommand)]
    Guest(guest::Task),
    /// Says what a log holds.
    #[command(hide = true)]
    Verify {
        directory: PathBuf,
        /// Entries up to this one were acknowledged.
        #[arg(long, default_value_t = 0)]
        acked: u64,
    },
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match &arguments.inner {
        Some(Inner::Writer {
            directory,
            last,
            no_sync,
            keep_all,
        }) => {
            let write = if *no_sync { plain::run } else { writer::run };
            let voice = Voice::hoarding(*keep_all);
            return write(directory, *last, voice);
        }
        Some(Inner::Guest(task)) => return guest::run(task),
        Some(Inner::Verify { directory, acked }) => return verify_alone(directory, *acked),
        None => {}
    }
    let chosen = match choose(&arguments.scenarios) {
        Ok(chosen) => chosen,
        Err(unknown) => {
            eprintln!("drakkar-faults: no scenario is called {unknown}; --list names them");
            return ExitCode::from(2);
        }
    };
    if arguments.list {
        for scenario in chosen {
            println!("{:<20} {}", scenario.title(), scenario.about);
        }
        return ExitCode::SUCCESS;
    }
    match play(&arguments, &chosen) {
        Ok(rows) => conclude(&rows),
        Err(trouble) => {
            eprintln!("drakkar-faults: {trouble}");
            ExitCode::FAILURE
        }
    }
}

fn verify_alone(directory: &Path, acked: u64) -> ExitCode {
    match verify::describe(directory, acked) {
        Ok(contents) => {
            println!("{contents}");
            ExitCode::SUCCESS
        }
        Err(flaw) => {
            println!("{flaw}");
            ExitCode::FAILURE
        }
    }
}

fn choose(names: &[String]) -> Result<Vec<&'static Scenario>, String> {
    let fits = |scenario: &Scenario, name: &str| name == scenario.name || name == scenario.title();
    for name in names {
        if !scenarios::ALL.iter().any(|scenario| fits(scenario, name)) {
            return Err(name.clone());
        }
    }
    let named =
        |scenario: &&Scenario| names.is_empty() || names.iter().any(|name| fits(scenario, name));
    Ok(scenarios::ALL.iter().filter(named).collect())
}

fn play(arguments: &Arguments, chosen: &[&Scenario]) -> Result<Vec<Row>, Trouble> {
    machine::watch_signals().map_err(Trouble::io("handle", Path::new("signals")))?;
    let parent = arguments.dir.clone().unwrap_or_else(std::env::temp_dir);
    let parent = parent.join(format!("drakkar-faults-{}", std::process::id()));
    std::fs::create_dir_all(&parent).map_err(Trouble::io("create", &parent))?;
    let mut rows = Vec::new();
    for scenario in chosen {
        let own = if arguments.short {
            scenario.rounds_short
        } else {
            scenario.rounds
        };
        if own == 0 {
            continue;
        }
        eprintln!("{} …", scenario.title());
        let rounds = arguments.rounds.unwrap_or(own).max(1);
        let row = scenario.play(&parent, rounds, arguments.seed);
        eprintln!("{row}");
        let ended = matches!(row.verdict, Verdict::Failed(Trouble::Interrupted));
        rows.push(row);
        if ended {
            break;
        }
    }
    // Empty by now, unless something is still mounted there.
    drop(std::fs::remove_dir(&parent));
    Ok(rows)
}

fn conclude(rows: &[Row]) -> ExitCode {
    println!("{}", heading());
    for row in rows {
        println!("{row}");
    }
    if rows
        .iter()
        .any(|row| matches!(row.verdict, Verdict::Failed(_)))
    {
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}
