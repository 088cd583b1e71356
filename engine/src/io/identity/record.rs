//! The file `membership`: one `name = value` a line, the last one the CRC32C of all before.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Write as _};
use std::fs::{self, File, Metadata};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use net::peer::Standing;
use wal::{GroupId, LogIndex, ReplicaId, Term};

use super::IdentityError;
use crate::config::NodeAddress;
use crate::epoch::EPOCH_MAX;
use crate::raft::Membership;
use crate::shard::NewMembership;

const NAME: &str = "membership";
const FORMAT: u32 = 1;

/// One node of a membership and where its peers reach its first shard.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Member {
    pub node: u32,
    /// `host:port`
    pub address: String,
}

impl Member {
    pub fn of(node: &NodeAddress) -> Self {
        Self {
            node: node.id,
            address: format!("{}:{}", node.host, node.peer_port),
        }
    }
}

impl fmt::Display for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.node, self.address)
    }
}

/// Where a file is that is made with the directory: a copy of it is elsewhere, or younger.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    device: u64,
    inode: u64,
    /// When it was made, Unix nanoseconds; 0 if the file system does not say.
    born: u128,
}

impl Place {
    /// Of the file with this metadata.
    pub fn of(file: &Metadata) -> Self {
        let born = file.created().ok();
        let born = born.and_then(|born| born.duration_since(UNIX_EPOCH).ok());
        Self {
            device: file.dev(),
            inode: file.ino(),
            born: born.map_or(0, |born| born.as_nanos()),
        }
    }

    /// Whether both are the same file. The device's number says nothing where the file system tells
    /// when files were made: disks are numbered anew at each boot, and can be carried elsewhere.
    pub fn is(&self, other: &Self) -> bool {
        let same_device = self.device == other.device;
        self.inode == other.inode && self.born == other.born && (self.born > 0 || same_device)
    }

    fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split(' ');
        let place = Self {
            device: parts.next()?.parse().ok()?,
            inode: parts.next()?.parse().ok()?,
            born: parts.next()?.parse().ok()?,
        };
        parts.next().is_none().then_some(place)
    }

    /// For people.
    pub fn told(&self) -> String {
        let Self { device, inode, .. } = self;
        format!("inode {inode} of device {device:#x}")
    }
}

/// What a data directory came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    /// It began empty, or with an imported snapshot.
    New,
    /// It replaces one that was lost: what its log does not mention was lost with that.
    Rejoined,
    /// It begins empty in a cluster that has let this node's id in.
    Joining,
    /// An import was begun and has not ended.
    Importing,
}

/// A membership, and the entry that made it.
pub type Noted = (LogIndex, Term, Membership);

/// All that the file says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Of the data directory, as in the file `identity`.
    pub instance: u64,
    pub place: Place,
    pub condition: Condition,
    /// Rises with each repair that makes another membership.
    pub epoch: u64,
    /// Equal on all nodes whose membership was made by the same repair; 0 in epoch 0.
    pub origin: u64,
    /// Whether a peer has let the node in since the epoch began.
    pub formed: bool,
    /// By their numbers.
    pub members: Vec<Member>,
    /// Of an epoch that was made while nothing was lost: the nodes of the epoch before. Until a majority of
    /// these is seen to have left it, this node takes part in nothing.
    pub before: Vec<u32>,
    /// With whom the groups of this epoch were created, where members have come or gone since.
    pub founders: Vec<NodeAddress>,
    /// Where nodes are that came in since.
    pub listed: Vec<NodeAddress>,
    /// The newest members of each group that its replica here knew of: the entry that made them, and what
    /// that carries.
    pub noted: BTreeMap<GroupId, Noted>,
    /// Members of earlier epochs and such as have gone since, which never come back.
    pub removed: Vec<u32>,
    /// The instance of every node that this one has spoken to.
    pub known: BTreeMap<u32, u64>,
    /// Nodes' instances that were replaced, which never come back.
    pub replaced: Vec<(u32, u64)>,
    /// The newest entry that a survivor held of a group when the epoch began.
    pub newest: BTreeMap<GroupId, (LogIndex, Term)>,
}

impl Record {
    /// Of a directory that begins.
    pub fn new(instance: u64, place: Place, members: Vec<Member>) -> Self {
        Self {
            instance,
            place,
            condition: Condition::New,
            epoch: 0,
            origin: 0,
            formed: false,
            members,
            before: Vec::new(),
            founders: Vec::new(),
            listed: Vec::new(),
            noted: BTreeMap::new(),
            removed: Vec::new(),
            known: BTreeMap::new(),
            replaced: Vec::new(),
            newest: BTreeMap::new(),
        }
    }

    /// Whether a node is of the membership.
    pub fn has(&self, node: u32) -> bool {
        self.members.iter().any(|member| member.node == node)
    }

    /// The epoch of a repair begins: it names all members, and nothing is left of how they came and went.
    pub fn begin_epoch(&mut self, epoch: u64, members: Vec<Member>, removed: Vec<u32>) {
        self.epoch = epoch;
        self.members = members;
        self.removed = removed;
        self.before.clear();
        self.founders.clear();
        self.listed.clear();
        self.noted.clear();
        self.formed = false;
    }

    /// Takes what a replica here knows of its group's members now; `nodes` are those that the node was started
    /// with. Gives the addresses of all that are a member of any of so many groups.
    pub fn note(
        &mut self,
        memberships: &[NewMembership],
        nodes: &[NodeAddress],
        groups: u32,
    ) -> Vec<NodeAddress> {
        if self.founders.is_empty() {
            self.founders = nodes.to_vec();
        }
        for noted in memberships {
            for (replica, text) in &noted.membership.addresses {
                let Some(address) = NodeAddress::parse(replica.to_raw(), text) else {
                    continue; // whoever asked for the change was told
                };
                self.listed.retain(|it| it.id != address.id);
                self.listed.push(address);
            }
            match noted.since {
                LogIndex::ZERO => drop(self.noted.remove(&noted.group)),
                since => {
                    let made = (since, noted.term, noted.membership.clone());
                    self.noted.insert(noted.group, made);
                }
            }
        }
        let mut all = BTreeSet::new();
        for group in (0..groups).map(GroupId::from_raw) {
            match self.noted.get(&group) {
                Some((_, _, it)) => all.extend(it.members.all().map(ReplicaId::to_raw)),
                None => all.extend(self.founders.iter().map(|it| it.id)),
            }
        }
        let gone = self.members.iter().map(|it| it.node);
        let gone: Vec<u32> = gone.filter(|it| !all.contains(it)).collect();
        self.removed.extend(gone);
        let known = || nodes.iter().chain(&self.listed).chain(&self.founders);
        let addresses = all.iter().filter_map(|&id| known().find(|it| it.id == id));
        let addresses: Vec<NodeAddress> = addresses.cloned().collect();
        self.members = addresses.iter().map(Member::of).collect();
        addresses
    }

    /// Each noted membership: group, entry, its term, and its payload in hexadecimal digits.
    pub fn noted_lines(&self) -> impl Iterator<Item = String> {
        self.noted.iter().map(|(group, (since, term, membership))| {
            let bytes = membership.encode();
            let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            format!("{group} {} {} {hex}", since.to_raw(), term.to_raw())
        })
    }

    /// What peers are told.
    pub fn standing(&self) -> Standing {
        Standing {
            epoch: self.epoch,
            origin: self.origin,
            members: self.members.iter().map(|member| member.node).collect(),
        }
    }

    /// The record of a directory; `None` if it has none.
    pub fn read(directory: &Path) -> Result<Option<Self>, IdentityError> {
        let path = directory.join(NAME);
        match fs::read(&path) {
            // Bytes that are no text do not pass the check either.
            Ok(text) => Self::parse(&String::from_utf8_lossy(&text), &path).map(Some),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(failed("read", &path)(error)),
        }
    }

    /// Replaces the record of a directory; it is durable then.
    pub fn write(&self, directory: &Path) -> Result<(), IdentityError> {
        let (name, temporary) = (directory.join(NAME), directory.join("membership.new"));
        let mut file = File::create(&temporary).map_err(failed("create", &temporary))?;
        let written = file.write_all(self.text().as_bytes());
        let synced = written.and_then(|()| file.sync_all());
        synced.map_err(failed("write", &temporary))?;
        fs::rename(&temporary, &name).map_err(failed("rename", &temporary))?;
        let synced = File::open(directory).and_then(|directory| directory.sync_all());
        synced.map_err(failed("sync", directory))
    }

    fn text(&self) -> String {
        let Place {
            device,
            inode,
            born,
        } = self.place;
        let condition = match self.condition {
            Condition::New => "new",
            Condition::Rejoined => "rejoined",
            Condition::Joining => "joining",
            Condition::Importing => "importing",
        };
        let formed = if self.formed { "yes" } else { "no" };
        let mut text = format!(
            "format = {FORMAT}\ninstance = {:016x}\nplace = {device} {inode} {born}\n\
             condition = {condition}\nepoch = {}\norigin = {:016x}\nformed = {formed}\n",
            self.instance, self.epoch, self.origin
        );
        let mut line = |name: &str, value: fmt::Arguments<'_>| {
            writeln!(text, "{name} = {value}").expect("a string takes everything");
        };
        for Member { node, address } in &self.members {
            line("member", format_args!("{node} {address}"));
        }
        for node in &self.before {
            line("before", format_args!("{node}"));
        }
        for (name, nodes) in [("founder", &self.founders), ("listed", &self.listed)] {
            for node in nodes {
                line(name, format_args!("{} {}", node.id, node.text()));
            }
        }
        for noted in self.noted_lines() {
            line("noted", format_args!("{noted}"));
        }
        for node in &self.removed {
            line("removed", format_args!("{node}"));
        }
        for (node, instance) in &self.known {
            line("known", format_args!("{node} {instance:016x}"));
        }
        for (node, instance) in &self.replaced {
            line("replaced", format_args!("{node} {instance:016x}"));
        }
        for (group, (index, term)) in &self.newest {
            let (index, term) = (index.to_raw(), term.to_raw());
            line("newest", format_args!("{group} {index} {term}"));
        }
        let crc = crc32c::crc32c(text.as_bytes());
        text.push_str(&format!("crc = {crc:08x}\n"));
        text
    }

    fn parse(text: &str, path: &Path) -> Result<Self, IdentityError> {
        let path = path.to_owned();
        let Some((body, crc)) = text.rfind("crc = ").map(|at| text.split_at(at)) else {
            return Err(IdentityError::Damaged { path });
        };
        if crc != format!("crc = {:08x}\n", crc32c::crc32c(body.as_bytes())) {
            return Err(IdentityError::Damaged { path });
        }
        let lines = || body.lines().filter_map(|line| line.split_once(" = "));
        let format = lines().find(|(name, _)| *name == "format");
        let format = format.and_then(|(_, value)| value.parse().ok());
        match format {
            Some(FORMAT) => Self::parse_lines(lines()).ok_or(IdentityError::Damaged { path }),
            Some(found) => Err(IdentityError::Format {
                path,
                found,
                reads: FORMAT,
            }),
            None => Err(IdentityError::Damaged { path }),
        }
    }

    fn parse_lines<'a>(lines: impl Iterator<Item = (&'a str, &'a str)>) -> Option<Self> {
        let hex = |text: &str| u64::from_str_radix(text, 16).ok();
        let nothing = Place {
            device: 0,
            inode: 0,
            born: 0,
        };
        let mut record = Self::new(0, nothing, Vec::new());
        for (name, value) in lines {
            let pair = value.split_once(' ');
            match name {
                "format" => {}
                "instance" => record.instance = hex(value)?,
                "place" => record.place = Place::parse(value)?,
                "condition" => {
                    record.condition = match value {
                        "new" => Condition::New,
                        "rejoined" => Condition::Rejoined,
                        "joining" => Condition::Joining,
                        "importing" => Condition::Importing,
                        _ => return None,
                    }
                }
                "epoch" => {
                    record.epoch = value.parse().ok().filter(|&epoch| epoch <= EPOCH_MAX)?;
                }
                "origin" => record.origin = hex(value)?,
                "formed" => record.formed = value == "yes",
                "member" => record.members.push(Member {
                    node: pair?.0.parse().ok()?,
                    address: pair?.1.to_owned(),
                }),
                "before" => record.before.push(value.parse().ok()?),
                "founder" | "listed" => {
                    let node = NodeAddress::parse(pair?.0.parse().ok()?, pair?.1)?;
                    match name {
                        "founder" => record.founders.push(node),
                        _ => record.listed.push(node),
                    }
                }
                "noted" => {
                    let (group, noted) = parse_noted(value)?;
                    record.noted.insert(group, noted);
                }
                "removed" => record.removed.push(value.parse().ok()?),
                "known" => drop(record.known.insert(pair?.0.parse().ok()?, hex(pair?.1)?)),
                "replaced" => {
                    let (node, instance) = pair?;
                    record.replaced.push((node.parse().ok()?, hex(instance)?));
                }
                "newest" => {
                    let (group, entry) = pair?;
                    let (index, term) = entry.split_once(' ')?;
                    let group = GroupId::from_raw(group.parse().ok()?);
                    let index = LogIndex::from_raw(index.parse().ok()?);
                    let term = Term::from_raw(term.parse().ok()?);
                    record.newest.insert(group, (index, term));
                }
                // A newer build of the same format may say more.
                _ => {}
            }
        }
        Some(record)
    }
}

/// Reads a line of [`Record::noted_lines`].
pub fn parse_noted(line: &str) -> Option<(GroupId, Noted)> {
    let mut parts = line.split(' ');
    let mut number = || parts.next()?.parse::<u64>().ok();
    let group = GroupId::from_raw(u32::try_from(number()?).ok()?);
    let since = LogIndex::from_raw(number()?);
    let term = Term::from_raw(number()?);
    let membership = Membership::decode(&bytes_of(parts.next()?)?).ok()?;
    Some((group, (since, term, membership)))
}

/// Of pairs of hexadecimal digits.
fn bytes_of(hex: &str) -> Option<Vec<u8>> {
    let digit = |at: usize| char::from(hex.as_bytes()[at]).to_digit(16);
    let byte = |at: usize| u8::try_from(digit(at)? << 4 | digit(at + 1)?).ok();
    let even = hex.len().is_multiple_of(2);
    even.then(|| (0..hex.len()).step_by(2).map(byte).collect())?
}

pub(super) fn failed(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> IdentityError {
    let path: PathBuf = path.to_owned();
    move |error| IdentityError::Io { what, path, error }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_comes_back_and_no_flipped_bit_of_it_does() {
        let place = Place {
            device: 3,
            inode: 12,
            born: 1 << 70,
        };
        let member = |node| Member {
            node,
            address: format!("host{node}:7379"),
        };
        let record = Record {
            condition: Condition::Rejoined,
            epoch: 3,
            origin: 0xabc,
            formed: true,
            before: vec![1, 2, 3],
            removed: vec![4, 5],
            known: BTreeMap::from([(1, 11), (2, 22)]),
            replaced: vec![(1, 10)],
            newest: BTreeMap::from([(
                GroupId::from_raw(6),
                (LogIndex::from_raw(70), Term::from_raw(8)),
            )]),
            ..Record::new(77, place, vec![member(1), member(2)])
        };
        let text = record.text();
        let path = Path::new("membership");
        assert_eq!(Record::parse(&text, path).unwrap(), record);
        for at in 0..text.len() {
            let mut bytes = text.clone().into_bytes();
            bytes[at] ^= 1;
            let flipped = String::from_utf8_lossy(&bytes);
            assert!(Record::parse(&flipped, path).is_err(), "byte {at}");
            assert!(Record::parse(&text[..at], path).is_err(), "cut at {at}");
        }
    }

    #[test]
    fn a_copy_is_told_from_its_original_and_a_disk_may_get_another_number() {
        let place = |device, inode, born| Place {
            device,
            inode,
            born,
        };
        let own = place(1, 20, 300);
        assert!(own.is(&place(2, 20, 300)), "the disk was numbered anew");
        assert!(!own.is(&place(1, 21, 300)), "another file");
        assert!(!own.is(&place(1, 20, 301)), "younger");
        let ageless = place(1, 20, 0);
        assert!(ageless.is(&ageless));
        assert!(!ageless.is(&place(2, 20, 0)), "on another disk");
    }
}
