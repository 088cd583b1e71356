//! The project's own tasks.
//!
//! `ci` is what every change must pass; `fix` repairs what can be repaired by machine; `tidy` checks
//! what neither compiler nor clippy know of; `header` writes the C header; `flame` draws where time goes.

mod header;
mod tidy;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Instant;

const USAGE: &str = "\
cargo xtask ci               everything that a change must pass
cargo xtask fix              format, and apply what clippy suggests
cargo xtask tidy             file sizes, words and I/O where they do not belong
cargo xtask header [--check] write engine/ffi/include/drakkar.h, or compare it
cargo xtask flame [WORKLOAD] where nodes spend their time under W2, or another workload";

/// One step of [`ci`]: its name, and the command line.
type Step = (&'static str, &'static [&'static str]);

const STEPS: &[Step] = &[
    ("format", &["cargo", "fmt", "--all", "--check"]),
    (
        "clippy",
        &[
            "cargo",
            "clippy",
            "--quiet",
            "--workspace",
            "--all-targets",
            "--",
            "-D",
            "warnings",
        ],
    ),
    (
        "the core without an operating system",
        &[
            "cargo",
            "check",
            "--quiet",
            "-p",
            "wal",
            "-p",
            "net",
            "-p",
            "engine",
            "--no-default-features",
        ],
    ),
    (
        "tests",
        &["cargo", "test", "--workspace", "--bins", "--lib", "--tests"],
    ),
    ("doc tests", &["cargo", "test", "--workspace", "--doc"]),
    // Always the same seeds, on fast machines too: what fails is the change, not the day. `cargo sim` by
    // itself looks elsewhere.
    (
        "simulator",
        &[
            "cargo",
            "sim",
            "--seconds",
            "60",
            "--runs",
            "1500",
            "--from",
            "0xd00000",
        ],
    ),
    ("faults of real kernels", &["cargo", "faults", "--short"]),
    (
        "fuzz smoke",
        &[
            "cargo",
            "run",
            "--quiet",
            "--profile",
            "sim",
            "--manifest-path",
            "fuzz/Cargo.toml",
            "--bin",
            "smoke",
        ],
    ),
];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let result = match arguments[..] {
        ["ci"] => ci(),
        ["fix"] => fix(),
        ["tidy"] => tidy::check(&root()),
        ["flame"] => flame("W2"),
        ["flame", workload] => flame(workload),
        ["header"] => header::write(&root()),
        ["header", "--check"] => header::check(&root()),
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(complaint) => {
            eprintln!("{complaint}");
            ExitCode::FAILURE
        }
    }
}

/// The root of the repository.
pub(crate) fn root() -> PathBuf {
    let own = Path::new(env!("CARGO_MANIFEST_DIR"));
    own.ancestors()
        .nth(2)
        .expect("xtask lies two folders deep")
        .to_owned()
}

/// Draws a flamegraph to `target/flame`, and prints the largest costs.
fn flame(workload: &str) -> Result<(), String> {
    let directory = root().join("target/flame");
    std::fs::create_dir_all(&directory)
        .map_err(|error| format!("{}: {error}", directory.display()))?;
    let svg = directory.join(format!("{workload}.svg"));
    let svg = svg
        .to_str()
        .ok_or("the path of the repository is no UTF-8")?;
    run(&[
        "cargo",
        "run",
        "--release",
        "--quiet",
        "--package",
        "drakkar-bench",
        "--",
        "run",
        workload,
        "--repeats",
        "1",
        "--flamegraph",
        svg,
    ])
}

fn ci() -> Result<(), String> {
    timed("tidy", || tidy::check(&root()))?;
    timed("header", || header::check(&root()))?;
    for (name, command) in STEPS {
        timed(name, || run(command))?;
    }
    println!("ci: everything passed");
    Ok(())
}

#[expect(
    clippy::disallowed_methods,
    reason = "a build tool tells how long its steps took"
)]
fn timed(name: &str, step: impl FnOnce() -> Result<(), String>) -> Result<(), String> {
    println!("ci: {name} …");
    let start = Instant::now();
    step().map_err(|complaint| format!("ci: {name} failed: {complaint}"))?;
    println!(
        "ci: {name} passed in {:.1} s",
        start.elapsed().as_secs_f64()
    );
    Ok(())
}

fn fix() -> Result<(), String> {
    run(&[
        "cargo",
        "clippy",
        "--workspace",
        "--all-targets",
        "--fix",
        "--allow-dirty",
    ])?;
    run(&["cargo", "fmt", "--all"])
}

fn run(command: &[&str]) -> Result<(), String> {
    let status = Command::new(command[0])
        .args(&command[1..])
        .current_dir(root())
        .status();
    match status {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("`{}` ended with {status}", command.join(" "))),
        Err(error) => Err(format!("cannot run `{}`: {error}", command.join(" "))),
    }
}
