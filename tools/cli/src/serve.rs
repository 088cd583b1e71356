//! One node: from its configuration to its end.

use std::io::IsTerminal;
use std::panic::{Location, PanicHookInfo};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use engine::config::{Config, VotersWarning};
use engine::io::identity::IdentityError;
use engine::io::snapshots::SnapshotFileError;
use engine::io::{Node, NodeError, OpenError, PreflightError, config_file};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use tracing_subscriber::EnvFilter;
use wal::ReplayError;
use wal::io::{DirectoryError, LogError};

use crate::{exit, join, memory};

/// Reads a configuration, or says everything that is wrong with it.
pub(crate) fn read(path: &Path) -> Result<Config, ExitCode> {
    let text = std::fs::read_to_string(path).map_err(|error| {
        let code = match error.kind() {
            // It is there, and no text.
            std::io::ErrorKind::InvalidData => exit::CONFIG,
            _ => exit::NO_INPUT,
        };
        exit::complain(
            code,
            &format_args!("cannot read {}: {error}", path.display()),
        )
    })?;
    config_file::parse(&text).map_err(|errors| {
        let path = path.display();
        let errors: Vec<String> = errors.iter().map(ToString::to_string).collect();
        for error in &errors {
            eprintln!("{path}: {error}");
        }
        match errors.last().is_some_and(|last| last.contains('\n')) {
            // The last line is what is read first.
            true => exit::complain(
                exit::CONFIG,
                &format_args!("{path} cannot be read, as is said above"),
            ),
            false => ExitCode::from(exit::CONFIG),
        }
    })
}

pub(crate) fn check(path: &Path) -> ExitCode {
    match read(path) {
        Ok(config) => {
            let cluster = &config.cluster;
            println!(
                "{} is sound: node {} of {} in cluster {}, {} shards, {} groups",
                path.display(),
                config.node_id,
                cluster.nodes.len(),
                cluster.id,
                cluster.shards,
                cluster.groups,
            );
            for warning in VotersWarning::of(cluster.nodes.len()) {
                eprintln!("warning: if all nodes vote: {warning}");
            }
            ExitCode::SUCCESS
        }
        Err(code) => code,
    }
}

pub(crate) fn serve(path: &Path, join: Option<&str>) -> ExitCode {
    log_to_stderr();
    end_on_panic();
    let config = match read(path) {
        Ok(config) => config,
        Err(code) => return code,
    };
    if config.memory_bytes_ready > 0 {
        // Or it would be given back a second later.
        memory::keep_all();
    }
    // Before the node runs, so that no signal is lost.
    let mut signals = match Signals::new([SIGTERM, SIGINT]) {
        Ok(signals) => signals,
        Err(error) => return exit::complain(exit::INTERNAL, &error),
    };
    if let Some(endpoint) = join
        && let Err(code) = join::join(&config, endpoint)
    {
        return code;
    }
    let node = match Node::open(config) {
        Ok(node) => Arc::new(node),
        Err(error) => {
            tracing::error!(event = "not_started", "{error}");
            return ExitCode::from(code_of(&error));
        }
    };
    tracing::info!(event = "serving", "the node serves");
    let stopping = node.clone();
    #[expect(clippy::disallowed_methods, reason = "it only waits for signals")]
    std::thread::spawn(move || {
        for signal in signals.forever() {
            tracing::info!(event = "stopping", signal, "handing over and stopping");
            stopping.stop();
        }
    });
    match node.wait() {
        Ok(()) => {
            tracing::info!(event = "stopped", "the node has stopped");
            ExitCode::SUCCESS
        }
        Err(error) => {
            tracing::error!(event = "failed", "{error}");
            ExitCode::from(match error {
                NodeError::Disk { .. } => exit::IO_ERROR,
                NodeError::Refused { .. } => exit::CONFIG,
                _ => exit::INTERNAL,
            })
        }
    }
}

pub(crate) fn code_of(error: &OpenError) -> u8 {
    match error {
        OpenError::Preflight(PreflightError::FileSystem { .. }) => exit::CONFIG,
        OpenError::DataDirectory(error) => match error {
            DirectoryError::Damaged { .. } | DirectoryError::Anonymous { .. } => exit::CORRUPT,
            DirectoryError::Io { .. } | DirectoryError::Locked { .. } => exit::CANNOT_OPEN,
            // Whose it is and what the configuration says are two things.
            _ => exit::CONFIG,
        },
        OpenError::Identity(error) => match error {
            IdentityError::Damaged { .. } | IdentityError::Missing { .. } => exit::CORRUPT,
            IdentityError::Io { .. } => exit::CANNOT_OPEN,
            _ => exit::CONFIG,
        },
        OpenError::Groups { .. } => exit::CONFIG,
        OpenError::Snapshots { error, .. } => match error {
            SnapshotFileError::Full { .. } => exit::TEMPORARY,
            // A limit is too low for what is there.
            SnapshotFileError::Damaged { .. } => exit::CONFIG,
            _ => exit::CANNOT_OPEN,
        },
        OpenError::Log { error, .. } => match error {
            LogError::Full { .. } => exit::TEMPORARY,
            LogError::Replay(ReplayError::Format { .. } | ReplayError::Instance { .. }) => {
                exit::CONFIG
            }
            LogError::Replay(_) | LogError::Record { .. } => exit::CORRUPT,
            _ => exit::CANNOT_OPEN,
        },
        _ => exit::TEMPORARY,
    }
}

/// Lines for people on a terminal, JSON for machines elsewhere. `RUST_LOG` chooses levels.
fn log_to_stderr() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        // A log that cannot be written, on a full disk, must not end the node by a panic.
        .log_internal_errors(false)
        .with_writer(std::io::stderr);
    if std::io::stderr().is_terminal() {
        builder.init();
    } else {
        builder.json().init();
    }
}

/// A shard that failed an assertion must not leave its node half alive.
fn end_on_panic() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if is_missed_by_nobody(panic) {
            return;
        }
        report(panic);
        std::process::exit(exit::INTERNAL.into());
    }));
}

/// A helper thread of glommio panics if the shard that asked it for something has ended meanwhile.
fn is_missed_by_nobody(panic: &PanicHookInfo<'_>) -> bool {
    let said = panic.payload().downcast_ref::<&str>();
    let of_glommio = |place: &Location<'_>| place.file().contains("glommio");
    said == Some(&"failed to send response") && panic.location().is_some_and(of_glommio)
}

#[cfg(test)]
mod tests {
    #![expect(
        clippy::disallowed_methods,
        reason = "threads are what may end in a panic"
    )]

    use std::process::{Command, Stdio};
    use std::time::Duration;

    use glommio::LocalExecutorBuilder;

    /// Set in the process that is to panic.
    const PANICS: &str = "DRAKKAR_TEST_PANICS";

    #[test]
    fn a_thread_that_panics_ends_the_process_with_70() {
        if std::env::var_os(PANICS).is_some() {
            super::end_on_panic();
            let thread = std::thread::spawn(|| panic!("as a failed assertion would"));
            // Not reached: the others do not go on without it.
            drop(thread.join());
            return;
        }
        let name = "serve::tests::a_thread_that_panics_ends_the_process_with_70";
        assert_eq!(code_of(name), Some(70));
    }

    #[test]
    fn a_helper_whose_shard_has_ended_does_not() {
        if std::env::var_os(PANICS).is_some() {
            super::end_on_panic();
            let shard = LocalExecutorBuilder::default().spawn(|| async {
                let asks = async {
                    let slow = || std::thread::sleep(Duration::from_millis(100));
                    glommio::executor().spawn_blocking(slow).await;
                };
                glommio::spawn_local(asks).detach();
                glommio::timer::sleep(Duration::from_millis(20)).await;
            });
            shard.unwrap().join().unwrap();
            std::thread::sleep(Duration::from_millis(200));
            return;
        }
        let name = "serve::tests::a_helper_whose_shard_has_ended_does_not";
        assert_eq!(code_of(name), Some(0));
    }

    /// With what a process ends that runs this test alone.
    fn code_of(test: &str) -> Option<i32> {
        let mut again = Command::new(std::env::current_exe().unwrap());
        again.args(["--exact", test]).env(PANICS, "1");
        let status = again.stdout(Stdio::null()).stderr(Stdio::null()).status();
        status.unwrap().code()
    }
}
