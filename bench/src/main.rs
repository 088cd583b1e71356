#![doc = include_str!("../README.md")]

mod api;
mod cluster;
mod flamegraph;
mod flushes;
mod headline;
mod histogram;
mod load;
mod log;
mod options;
mod peers;
mod report;
mod results;
mod run;
mod soak;
mod soak_samples;
mod start;
mod usage;
mod yardstick;

use std::path::Path;
use std::process::ExitCode;

use clap::Parser;

use options::{Options, Part};
use results::Results;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let options = Options::parse();
    let result = match (&options.node, &options.part) {
        (Some(config), _) => api::serve(config),
        (None, Some(Part::Log(part))) => log::run(part),
        (None, Some(Part::Run(part))) => run::run(part),
        (None, Some(Part::Soak(part))) => soak::run(part),
        (None, Some(Part::Start(part))) => start::run(part),
        (None, Some(Part::Compare(part))) => run::compare(part),
        (None, Some(Part::CompareResults { before, after })) => compare_results(before, after),
        (None, Some(Part::Report { results, html })) => report::write(results, html),
        (None, None) => options.check().and_then(|()| headline::run(&options)),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(complaint) => {
            eprintln!("drakkar-bench: {complaint}");
            ExitCode::FAILURE
        }
    }
}

fn compare_results(before: &Path, after: &Path) -> Result<(), String> {
    let text = results::compare(&Results::read(before)?, &Results::read(after)?)?;
    print!("{text}");
    Ok(())
}
