//! Whether a file is a whole snapshot. Only reads.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use crate::snapshot::{ALIGNMENT, Header, SnapshotError, Summary, Verifier};

const PIECE: usize = 1 << 20;

/// Why a file is no snapshot.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Flaw {
    #[error("cannot read it: {0}")]
    Io(#[from] io::Error),
    #[error("{0}")]
    Damaged(#[from] SnapshotError),
    #[error("it is {bytes} bytes long, which is no multiple of {ALIGNMENT}")]
    Length { bytes: u64 },
    #[error(
        "it has the name of another snapshot: it is of group {group}, index {index}, term {term}"
    )]
    Misnamed { group: u32, index: u64, term: u64 },
}

/// Reads every byte of a file; blocks.
///
/// # Errors
///
/// Why it is no snapshot, or not the one that its name says.
pub fn verify(path: &Path) -> Result<(Header, Summary), Flaw> {
    let mut file = File::open(path)?;
    let mut verifier = Verifier::new();
    let mut piece = vec![0; PIECE];
    let mut bytes = 0;
    loop {
        let read = file.read(&mut piece)?;
        if read == 0 {
            break;
        }
        bytes += read as u64;
        verifier.push(&piece[..read])?;
    }
    let header = verifier.header().cloned();
    let summary = verifier.finish()?;
    let header = header.expect("a whole snapshot has one");
    if !bytes.is_multiple_of(ALIGNMENT as u64) {
        return Err(Flaw::Length { bytes });
    }
    let (index, term) = (header.index.to_raw(), header.term.to_raw());
    let name = format!("{}-{index:016x}-{term:016x}", header.group);
    if path.file_stem().is_none_or(|stem| stem != name.as_str()) {
        let group = header.group.to_raw();
        return Err(Flaw::Misnamed { group, index, term });
    }
    Ok((header, summary))
}
