//! Every scenario, in the order in which they are run: the cheap ones first.

mod full;
mod going_down;
mod kill;
mod read_error;

use crate::machine::Need;
use crate::scenario::Scenario;

const EXT4: Need = Need::Tool {
    program: "mkfs.ext4",
    package: "e2fsprogs",
};
const XFS: Need = Need::Tool {
    program: "mkfs.xfs",
    package: "xfsprogs",
};
const ON_EXT4: &[Need] = &[Need::Root, Need::Loop, EXT4];
const ON_XFS: &[Need] = &[Need::Root, Need::Loop, XFS];
const ON_EXT4_TRUNCATED: &[Need] = &[
    Need::Root,
    Need::Loop,
    EXT4,
    Need::Tool {
        program: "filefrag",
        package: "e2fsprogs",
    },
];

pub(crate) const ALL: &[Scenario] = &[
    Scenario {
        name: "kill",
        variant: "",
        about: "the writer is killed at any moment, also while it opens its log",
        needs: &[],
        rounds: 200,
        rounds_short: 40,
        run: kill::run,
    },
    Scenario {
        name: "full",
        variant: "ext4",
        about: "a small ext4 has no space for a segment, then has again",
        needs: ON_EXT4,
        rounds: 3,
        rounds_short: 1,
        run: full::on_ext4,
    },
    Scenario {
        name: "full",
        variant: "xfs",
        about: "the same on xfs",
        needs: ON_XFS,
        rounds: 3,
        rounds_short: 1,
        run: full::on_xfs,
    },
    Scenario {
        name: "read-error",
        variant: "",
        about: "the part of the device that holds the log cannot be read, then can again",
        needs: ON_EXT4_TRUNCATED,
        rounds: 5,
        rounds_short: 1,
        run: read_error::run,
    },
    Scenario {
        name: "going-down",
        variant: "ext4",
        about: "the file system is shut down under the writer: what it had not written is gone",
        needs: ON_EXT4,
        rounds: 60,
        rounds_short: 10,
        run: going_down::on_ext4,
    },
    Scenario {
        name: "going-down",
        variant: "xfs",
        about: "the same on xfs",
        needs: ON_XFS,
        rounds: 60,
        rounds_short: 10,
        run: going_down::on_xfs,
    },
];
