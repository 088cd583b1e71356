//! Every scenario, in the order in which they are run: the cheap ones first.

mod crash_states;
mod device_error;
mod full;
mod going_down;
mod kill;
mod kill_installs;
mod kill_nodes;
mod power_cut;
mod read_error;
mod rot_leaders;
mod rot_node;
mod rot_nodes;
mod slow;

use crate::machine::Need;
use crate::scenario::Scenario;
use crate::uml::UML;

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

const QSD: Need = Need::Tool {
    program: "qemu-storage-daemon",
    package: "qemu-utils",
};
const FUSE: Need = Need::File {
    path: "/dev/fuse",
    what: "FUSE",
};
const FAULTY_EXT4: &[Need] = &[Need::Root, Need::Loop, QSD, FUSE, EXT4];
const FAULTY_XFS: &[Need] = &[Need::Root, Need::Loop, QSD, FUSE, XFS];
const THROTTLED: &[Need] = &[
    Need::Root,
    Need::Loop,
    EXT4,
    Need::File {
        path: slow::BLKIO,
        what: "the blkio controller of cgroup v1",
    },
];

const DMSETUP: Need = Need::Tool {
    program: "dmsetup",
    package: "dmsetup",
};
const RECORDED_EXT4: &[Need] = &[UML, Need::Root, Need::Loop, DMSETUP, EXT4];
const RECORDED_XFS: &[Need] = &[UML, Need::Root, Need::Loop, DMSETUP, XFS];

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
        name: "kill-nodes",
        variant: "",
        about: "one, two or three nodes of a real cluster are killed while it is written to",
        needs: &[Need::Drakkar],
        rounds: 200,
        rounds_short: 3,
        run: kill_nodes::run,
    },
    Scenario {
        name: "rot-nodes",
        variant: "",
        about: "logs of one or two nodes of a real cluster rot while all are down",
        needs: &[Need::Drakkar],
        rounds: 30,
        rounds_short: 2,
        run: rot_nodes::run,
    },
    Scenario {
        name: "rot-node",
        variant: "",
        about: "the log of one node rots or becomes an old copy of itself while the others are written to",
        needs: &[Need::Drakkar],
        rounds: 30,
        rounds_short: 4,
        run: rot_node::run,
    },
    Scenario {
        name: "rot-leaders",
        variant: "",
        about: "logs of one or two nodes rot, and leaders are killed or stand still while they are repaired",
        needs: &[Need::Drakkar],
        rounds: 30,
        rounds_short: 2,
        run: rot_leaders::run,
    },
    Scenario {
        name: "kill-installs",
        variant: "",
        about: "a node that takes snapshots from the others is killed meanwhile, or who sends them",
        needs: &[Need::Drakkar],
        rounds: 15,
        rounds_short: 1,
        run: kill_installs::run,
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
    Scenario {
        name: "write-error",
        variant: "ext4",
        about: "every write to the device fails",
        needs: FAULTY_EXT4,
        rounds: 10,
        rounds_short: 1,
        run: device_error::writes_on_ext4,
    },
    Scenario {
        name: "write-error",
        variant: "xfs",
        about: "the same on xfs",
        needs: FAULTY_XFS,
        rounds: 10,
        rounds_short: 1,
        run: device_error::writes_on_xfs,
    },
    Scenario {
        name: "write-error",
        variant: "once",
        about: "one write fails, those behind it do not",
        needs: FAULTY_EXT4,
        rounds: 10,
        rounds_short: 0,
        run: device_error::one_write,
    },
    Scenario {
        name: "flush-error",
        variant: "ext4",
        about: "one flush of the device's cache fails, those behind it do not",
        needs: FAULTY_EXT4,
        rounds: 10,
        rounds_short: 1,
        run: device_error::flush_on_ext4,
    },
    Scenario {
        name: "flush-error",
        variant: "xfs",
        about: "the same on xfs",
        needs: FAULTY_XFS,
        rounds: 10,
        rounds_short: 1,
        run: device_error::flush_on_xfs,
    },
    Scenario {
        name: "sector-error",
        variant: "",
        about: "one sector of a segment cannot be written",
        needs: FAULTY_EXT4,
        rounds: 10,
        rounds_short: 1,
        run: device_error::one_sector,
    },
    Scenario {
        name: "slow",
        variant: "",
        about: "a device takes 40 writes a second for a while, and the writer is killed then",
        needs: THROTTLED,
        rounds: 5,
        rounds_short: 0,
        run: slow::run,
    },
    Scenario {
        name: "power-cut",
        variant: "ext4",
        about: "User-Mode Linux is killed under the writer: its page cache and journal are gone",
        needs: &[UML, EXT4],
        rounds: 20,
        rounds_short: 2,
        run: power_cut::on_ext4,
    },
    Scenario {
        name: "power-cut",
        variant: "xfs",
        about: "the same on xfs",
        needs: &[UML, XFS],
        rounds: 20,
        rounds_short: 0,
        run: power_cut::on_xfs,
    },
    Scenario {
        name: "crash-states",
        variant: "ext4",
        about: "disks that kept what they confirmed and any part of the rest",
        needs: RECORDED_EXT4,
        rounds: 200,
        rounds_short: 10,
        run: crash_states::on_ext4,
    },
    Scenario {
        name: "crash-states",
        variant: "xfs",
        about: "the same on xfs",
        needs: RECORDED_XFS,
        rounds: 200,
        rounds_short: 10,
        run: crash_states::on_xfs,
    },
    Scenario {
        name: "crash-states",
        variant: "no-sync",
        about: "the negative control: a writer that does not sync, which must lose data",
        needs: RECORDED_EXT4,
        rounds: 60,
        rounds_short: 10,
        run: crash_states::without_sync,
    },
];
