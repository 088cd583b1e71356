//! What kind of file system a directory is on: durable writes mean nothing on some, and on others
//! they depend on machines that a node cannot see.

use std::borrow::Cow;
use std::io;
use std::path::Path;

/// The file system under a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileSystem {
    /// As mount(8) calls it, or its number in hexadecimal.
    pub name: Cow<'static, str>,
    pub kind: FileSystemKind,
}

/// Where a file system keeps what it is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileSystemKind {
    /// On a device of this machine, as far as can be told.
    Local,
    /// On other machines: what a sync promises is theirs, and so is the lock of the directory.
    Network,
    /// In memory: nothing survives a loss of power.
    Memory,
    /// A process decides, perhaps with a network behind it.
    UserSpace,
}

impl FileSystemKind {
    /// The word for it, as in a sentence.
    pub fn name(self) -> &'static str {
        match self {
            Self::Local => "a local file system",
            Self::Network => "a network file system",
            Self::Memory => "in memory",
            Self::UserSpace => "a file system in user space, perhaps with a network behind it",
        }
    }
}

/// `f_type` of statfs(2): the number, the name, the kind.
const KNOWN: &[(u32, &str, FileSystemKind)] = &[
    (0x0000_ef53, "ext2/ext3/ext4", FileSystemKind::Local),
    (0x5846_5342, "xfs", FileSystemKind::Local),
    (0x9123_683e, "btrfs", FileSystemKind::Local),
    (0xf2f5_2010, "f2fs", FileSystemKind::Local),
    (0x2fc1_2fc1, "zfs", FileSystemKind::Local),
    (0xca45_1a4e, "bcachefs", FileSystemKind::Local),
    (0x794c_7630, "overlay", FileSystemKind::Local),
    (0x0102_1994, "tmpfs", FileSystemKind::Memory),
    (0x8584_58f6, "ramfs", FileSystemKind::Memory),
    (0x0000_6969, "nfs", FileSystemKind::Network),
    (0x0000_517b, "smb", FileSystemKind::Network),
    (0xfe53_4d42, "smb2", FileSystemKind::Network),
    (0xff53_4d42, "cifs", FileSystemKind::Network),
    (0x00c3_6400, "ceph", FileSystemKind::Network),
    (0x0102_1997, "9p", FileSystemKind::Network),
    (0x5346_414f, "afs", FileSystemKind::Network),
    (0x7375_7245, "coda", FileSystemKind::Network),
    (0x0bd0_0bd0, "lustre", FileSystemKind::Network),
    (0x0116_1970, "gfs2", FileSystemKind::Network),
    (0x7461_636f, "ocfs2", FileSystemKind::Network),
    (0x6573_5546, "fuse", FileSystemKind::UserSpace),
];

impl FileSystem {
    /// The file system that `path` is on, or would be on once it is made.
    ///
    /// # Errors
    ///
    /// What the kernel says of the nearest directory that exists.
    pub fn of(path: &Path) -> io::Result<Self> {
        let path = std::path::absolute(path)?;
        let mut ancestors = path.ancestors();
        let existing = ancestors.find(|path| path.exists());
        let stat = rustix::fs::statfs(existing.unwrap_or(Path::new("/")))?;
        // The kernel's numbers have 32 bits, whatever the width of the field.
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "the upper half is sign"
        )]
        let number = stat.f_type as u32;
        Ok(Self::from_number(number))
    }

    fn from_number(number: u32) -> Self {
        let known = KNOWN.iter().find(|(known, ..)| *known == number);
        known.map_or_else(
            || Self {
                name: format!("{number:#x}").into(),
                kind: FileSystemKind::Local,
            },
            |&(_, name, kind)| Self {
                name: name.into(),
                kind,
            },
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn network_memory_and_user_space_are_told_from_local() {
        #[rustfmt::skip]
        let table = [
            (0x6969,      "nfs",            FileSystemKind::Network),
            (0xff53_4d42, "cifs",           FileSystemKind::Network),
            (0x0102_1994, "tmpfs",          FileSystemKind::Memory),
            (0x6573_5546, "fuse",           FileSystemKind::UserSpace),
            (0xef53,      "ext2/ext3/ext4", FileSystemKind::Local),
            (0x1234_abcd, "0x1234abcd",     FileSystemKind::Local),
        ];
        for (number, name, kind) in table {
            let found = FileSystem::from_number(number);
            assert_eq!((&*found.name, found.kind), (name, kind));
        }
    }

    #[test]
    fn no_number_means_two_things() {
        let mut numbers: Vec<u32> = KNOWN.iter().map(|(number, ..)| *number).collect();
        numbers.sort_unstable();
        numbers.dedup();
        assert_eq!(numbers.len(), KNOWN.len());
    }

    #[test]
    fn a_directory_that_is_not_there_yet_is_where_its_parent_is() {
        let here = FileSystem::of(Path::new(".")).unwrap();
        assert_eq!(FileSystem::of(Path::new("./none/of/these")).unwrap(), here);
    }
}
