//! Exit codes: those of `serve` are of sysexits(3), so that a supervisor knows when not to retry.

use std::process::ExitCode;

/// Something went wrong.
pub(crate) const ERROR: u8 = 1;
/// A safety rule forbids it; the complaint names the flag that overrides it.
pub(crate) const REFUSED: u8 = 4;
/// It was not done in time, and may yet be.
pub(crate) const TIMEOUT: u8 = 5;
/// Nothing of what was asked for was found.
pub(crate) const NOT_FOUND: u8 = 6;
/// The words of the command line are not understood: by `serve`, and by all others.
const USAGE_OF_SERVE: u8 = 64;
pub(crate) const USAGE: u8 = 2;
/// A file that must be read is not there.
pub(crate) const NO_INPUT: u8 = 66;
/// The log does not hold what it held.
pub(crate) const CORRUPT: u8 = 65;
/// A defect of this program.
pub(crate) const INTERNAL: u8 = 70;
/// A disk failed while the node ran.
pub(crate) const IO_ERROR: u8 = 74;
/// The data directory cannot be opened.
pub(crate) const CANNOT_OPEN: u8 = 73;
/// What the machine lacks may be there later: a port, a ring.
pub(crate) const TEMPORARY: u8 = 75;
/// The configuration, or an identity that does not fit it.
pub(crate) const CONFIG: u8 = 78;

/// The code of a program that was run for this one, if it is one of these.
pub(crate) fn handed_on(code: Option<i32>) -> u8 {
    let ours = [
        REFUSED,
        NOT_FOUND,
        USAGE,
        NO_INPUT,
        CORRUPT,
        INTERNAL,
        IO_ERROR,
        CANNOT_OPEN,
        TEMPORARY,
        CONFIG,
    ];
    let code = code.and_then(|code| u8::try_from(code).ok());
    code.filter(|code| ours.contains(code)).unwrap_or(ERROR)
}

/// Says why, and ends with `code`.
pub(crate) fn complain(code: u8, complaint: &dyn std::fmt::Display) -> ExitCode {
    eprintln!("drakkar: {complaint}");
    ExitCode::from(code)
}

/// Prints the help that was asked for, or what is wrong with the command line.
pub(crate) fn explain(refusal: &clap::Error) -> ExitCode {
    // There is nobody to tell if the terminal is gone.
    let _ = refusal.print();
    let serves = std::env::args().nth(1).is_some_and(|verb| verb == "serve");
    match (refusal.use_stderr(), serves) {
        (false, _) => ExitCode::SUCCESS,
        (true, true) => ExitCode::from(USAGE_OF_SERVE),
        (true, false) => ExitCode::from(USAGE),
    }
}
