//! A backup as one stream: a tar archive of the snapshots, and of the manifest behind them. What has no
//! manifest at its end was cut off.

use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use tar::{Archive, Builder, Header};

use super::BackupError;
use super::create::{Scope, gather};
use super::manifest::{Manifest, NAME};

/// Names the standard input or output.
const STREAM: &str = "-";

/// Whether a backup is to be written as one file, or to the standard output.
pub(super) fn is_archive(to: &Path) -> bool {
    to == Path::new(STREAM) || to.extension().is_some_and(|it| it == "tar")
}

/// Whether the archive is the standard output, which nothing else may be written to.
pub(super) fn is_stream(to: &Path) -> bool {
    to == Path::new(STREAM)
}

/// Copies every group's snapshot into an archive: one group at a time lies in a temporary directory
/// before, so that only what was checked leaves, and its length is known.
pub(super) fn create(endpoints: &[String], scope: Scope, to: &Path) -> Result<String, BackupError> {
    let io = |error| BackupError::Io {
        path: to.to_owned(),
        error,
    };
    if is_stream(to) {
        let mut stream = BufWriter::new(io::stdout().lock());
        let manifest = write(endpoints, scope, &mut stream)?;
        stream.flush().map_err(io)?;
        return Ok(manifest.told("was written as a stream"));
    }
    if to.exists() {
        let path = to.to_owned();
        return Err(BackupError::Exists { path });
    }
    let part = to.with_extension("tar.part");
    let mut file = BufWriter::new(File::create(&part).map_err(io)?);
    let manifest = write(endpoints, scope, &mut file)?;
    let file = file.into_inner().map_err(|error| io(error.into_error()))?;
    file.sync_all().map_err(io)?;
    fs::rename(&part, to).map_err(io)?;
    Ok(manifest.told(&format!("is in {}", to.display())))
}

fn write(endpoints: &[String], scope: Scope, to: &mut impl Write) -> Result<Manifest, BackupError> {
    let spool = Spool::new()?;
    let mut archive = Builder::new(to);
    let manifest = gather(endpoints, scope, &spool.0, |file| {
        for listed in [Some(&file.snapshot), file.log.as_ref()]
            .into_iter()
            .flatten()
        {
            let path = spool.0.join(&listed.name);
            let appended = File::open(&path).and_then(|mut file| {
                append(&mut archive, &listed.name, listed.bytes, &mut file)?;
                fs::remove_file(&path)
            });
            appended.map_err(|error| BackupError::Io { path, error })?;
        }
        Ok(())
    })?;
    let text = manifest.text();
    let ended = append(&mut archive, NAME, text.len() as u64, &mut text.as_bytes())
        .and_then(|()| archive.finish());
    ended.map_err(|error| BackupError::Io {
        path: STREAM.into(),
        error,
    })?;
    Ok(manifest)
}

fn append(
    archive: &mut Builder<impl Write>,
    name: &str,
    bytes: u64,
    from: &mut impl Read,
) -> io::Result<()> {
    let mut header = Header::new_ustar();
    header.set_size(bytes);
    header.set_mode(0o640);
    archive.append_data(&mut header, name, from)
}

/// Where the files of a backup are: in its directory, or unpacked from its archive for as long as this
/// lives.
pub(crate) struct Files {
    directory: PathBuf,
    /// What was unpacked there, in the words of who named it.
    archive: Option<(String, Spool)>,
}

impl Files {
    pub(crate) fn of(from: &Path) -> Result<Self, BackupError> {
        if from.is_dir() {
            let directory = from.to_owned();
            return Ok(Self {
                directory,
                archive: None,
            });
        }
        let spool = Spool::new()?;
        let unpacked = match is_stream(from) {
            true => unpack(io::stdin().lock(), &spool.0),
            false => File::open(from).and_then(|file| unpack(BufReader::new(file), &spool.0)),
        };
        unpacked.map_err(|error| {
            let (path, what) = (from.to_owned(), error.to_string());
            match error.kind() {
                io::ErrorKind::NotFound => BackupError::Manifest { path, reason: what },
                _ => BackupError::Damaged { path, what },
            }
        })?;
        let name = match is_stream(from) {
            true => "the standard input".to_owned(),
            false => from.display().to_string(),
        };
        Ok(Self {
            directory: spool.0.clone(),
            archive: Some((name, spool)),
        })
    }

    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    /// A file of the backup as people can find it: where an archive was unpacked is gone when they look.
    pub(crate) fn known_as(&self, path: PathBuf) -> PathBuf {
        let within = path.strip_prefix(&self.directory);
        match (&self.archive, within) {
            (Some((name, _)), Ok(file)) if file.as_os_str().is_empty() => name.into(),
            (Some((name, _)), Ok(file)) => format!("{name}: {}", file.display()).into(),
            _ => path,
        }
    }

    pub(super) fn explain(&self, error: BackupError) -> BackupError {
        match error {
            BackupError::Damaged { path, what } => {
                let path = self.known_as(path);
                BackupError::Damaged { path, what }
            }
            BackupError::Manifest { path, reason } => {
                let path = self.known_as(path);
                BackupError::Manifest { path, reason }
            }
            error => error,
        }
    }
}

/// Unpacks plain files; a name from elsewhere must not lead elsewhere.
fn unpack(from: impl Read, to: &Path) -> io::Result<()> {
    for entry in Archive::new(from).entries()? {
        let mut entry = entry.map_err(|error| {
            let why = format!("the archive is cut off or damaged, or it is none: {error}");
            io::Error::new(error.kind(), why)
        })?;
        let name = entry.path()?.into_owned();
        let plain = name.file_name().is_some_and(|file| name == Path::new(file));
        if !plain || !entry.header().entry_type().is_file() {
            let odd = format!("{} does not belong into a backup", name.display());
            return Err(io::Error::new(io::ErrorKind::InvalidData, odd));
        }
        let mut file = File::create_new(to.join(&name))?;
        io::copy(&mut entry, &mut file)?;
    }
    Ok(())
}

/// A temporary directory; gone when this is dropped.
struct Spool(PathBuf);

impl Spool {
    fn new() -> Result<Self, BackupError> {
        let path = std::env::temp_dir().join(format!("drakkar-backup-{}", std::process::id()));
        match fs::create_dir(&path) {
            Ok(()) => Ok(Self(path)),
            Err(error) => Err(BackupError::Io { path, error }),
        }
    }
}

impl Drop for Spool {
    fn drop(&mut self) {
        // What stays is a temporary file.
        drop(fs::remove_dir_all(&self.0));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn archive(name: &[u8]) -> Vec<u8> {
        let mut header = Header::new_ustar();
        header.as_mut_bytes()[..name.len()].copy_from_slice(name);
        header.set_size(1);
        header.set_entry_type(tar::EntryType::Regular);
        header.set_cksum();
        let mut builder = Builder::new(Vec::new());
        builder.append(&header, b"x".as_slice()).unwrap();
        builder.into_inner().unwrap()
    }

    #[test]
    fn what_is_unpacked_stays_in_its_directory() {
        let directory = std::env::temp_dir().join(format!("drakkar-unpack-{}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        unpack(archive(b"plain.snap").as_slice(), &directory).unwrap();
        for name in [b"../escaped".as_slice(), b"/tmp/escaped", b"deeper/file"] {
            let error = unpack(archive(name).as_slice(), &directory).unwrap_err();
            assert!(error.to_string().contains("does not belong"), "{error}");
        }
        let again = unpack(archive(b"plain.snap").as_slice(), &directory);
        assert!(again.is_err(), "a file is in an archive once");
        assert_eq!(fs::read_dir(&directory).unwrap().count(), 1);
        fs::remove_dir_all(directory).unwrap();
    }
}
