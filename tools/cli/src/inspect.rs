//! `drakkar inspect`: what the logs and snapshots of a data directory hold, and whether all of it is sound. Only
//! reads; the node does not run, unless `--live` says that it may.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Subcommand};
use engine::io::identity::{IdentityError, Record};
use serde_json::{Value, json};
use wal::io::{DataView, Identity, SegmentView, ViewError};
use wal::survey::{
    Condition, FlushFinding, GroupFinding, Role, SegmentFinding, Survey, Surveyed, Tail,
};
use wal::{Lost, Replay, SegmentId};

use crate::exit;
use crate::snapshot_files::{self, Finding};
use crate::status::columns;

/// How often a log is read again that looks damaged while its node writes it.
const LIVE_ATTEMPTS: u32 = 3;

#[derive(Subcommand)]
pub(crate) enum Verb {
    /// Shows segments, flushes, the records of each group, and all damage.
    Log {
        #[command(flatten)]
        options: Options,
        /// Lists every flush.
        #[arg(long)]
        flushes: bool,
    },
    /// Shows what snapshots are of, and whether they are whole: exit code 65 if one is not.
    Snapshot {
        /// A snapshot, or a directory with some.
        path: PathBuf,
        /// Prints JSON.
        #[arg(long)]
        json: bool,
    },
    /// Says whether identity, membership, logs and snapshots are sound: exit code 65 and the places if they are not.
    Verify {
        #[command(flatten)]
        options: Options,
    },
}

#[derive(Args)]
pub(crate) struct Options {
    /// The data directory of a node.
    directory: PathBuf,
    /// Reads although the node may be running.
    #[arg(long)]
    live: bool,
    /// Prints JSON.
    #[arg(long)]
    json: bool,
}

/// One shard's log.
struct Shard {
    number: u16,
    segments: Vec<(SegmentFinding, Vec<FlushFinding>)>,
    unreadable: Vec<(SegmentId, u64)>,
    found: Surveyed,
}

/// All of a data directory.
struct Report {
    identity: Result<(Identity, u64), ViewError>,
    /// What is wrong with the file that says who the members are.
    membership: Option<IdentityError>,
    /// Shards that have a log.
    shards: Vec<Shard>,
    /// Shards that the identity names and that have none.
    missing: Vec<u16>,
    snapshots: Vec<Finding>,
}

pub(crate) fn run(verb: &Verb) -> ExitCode {
    let (Verb::Log { options, .. } | Verb::Verify { options }) = verb else {
        let Verb::Snapshot { path, json } = verb else {
            unreachable!("there is no other verb")
        };
        return run_snapshots(path, *json);
    };
    let report = match survey(&options.directory, options.live) {
        Ok(report) => report,
        Err(error) => {
            let code = match error {
                ViewError::Locked { .. } => exit::REFUSED,
                ViewError::Empty { .. } => exit::NOT_FOUND,
                _ => exit::ERROR,
            };
            return exit::complain(code, &error);
        }
    };
    match verb {
        Verb::Log { flushes, .. } if options.json => println!("{}", report.json(*flushes)),
        Verb::Log { flushes, .. } => print!("{}", report.text(*flushes)),
        Verb::Verify { .. } if options.json => println!("{}", report.verdict_json()),
        _ => print!("{}", report.verdict()),
    }
    match verb {
        Verb::Verify { .. } if !report.is_sound() => ExitCode::from(exit::CORRUPT),
        _ => ExitCode::SUCCESS,
    }
}

fn run_snapshots(path: &Path, as_json: bool) -> ExitCode {
    let findings = match snapshot_files::find(path) {
        Ok(findings) => findings,
        Err(error) => {
            let complaint = format!("cannot look at {}: {error}", path.display());
            return exit::complain(exit::ERROR, &complaint);
        }
    };
    if findings.is_empty() {
        let complaint = format!("there are no snapshots in {}", path.display());
        return exit::complain(exit::NOT_FOUND, &complaint);
    }
    if as_json {
        let list: Vec<Value> = findings.iter().map(Finding::json).collect();
        println!("{}", Value::from(list));
    } else {
        print!("{}", snapshot_files::table(&findings));
    }
    if findings.iter().all(Finding::is_sound) {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(exit::CORRUPT)
    }
}

/// The snapshots of a data directory. Those of a running node may be replaced meanwhile.
fn survey_snapshots(directory: &Path, live: bool) -> Result<Vec<Finding>, ViewError> {
    let found = snapshot_files::find(directory).map_err(|error| ViewError::Io {
        what: "list the snapshots in",
        path: directory.to_owned(),
        error,
    })?;
    let is_there = |finding: &Finding| !live || finding.path.exists();
    Ok(found.into_iter().filter(is_there).collect())
}

fn survey(directory: &Path, live: bool) -> Result<Report, ViewError> {
    let view = DataView::open(directory, live)?;
    let logs = view.shards()?;
    let identity = view.identity();
    let instance = identity.as_ref().ok().map(|(_, instance)| *instance);
    let mut shards = Vec::new();
    for (number, path) in &logs {
        let mut shard = survey_shard(*number, path, instance, live)?;
        for _ in 1..LIVE_ATTEMPTS {
            if !live || shard.is_sound() {
                break;
            }
            // What the node was about to change may have looked like damage.
            shard = survey_shard(*number, path, instance, live)?;
        }
        shards.push(shard);
    }
    let named = identity.as_ref().map_or(0, |(identity, _)| identity.shards);
    let has = |shard: &u16| logs.iter().any(|(number, _)| number == shard);
    Ok(Report {
        identity,
        membership: check_membership(directory, !logs.is_empty()).err(),
        missing: (0..named).filter(|shard| !has(shard)).collect(),
        shards,
        snapshots: survey_snapshots(directory, live)?,
    })
}

/// Whether the file that says who the members are is whole. Where there are logs, there is one.
fn check_membership(directory: &Path, has_logs: bool) -> Result<(), IdentityError> {
    match Record::read(directory)? {
        None if has_logs => Err(IdentityError::Missing {
            path: directory.join("membership"),
        }),
        _ => Ok(()),
    }
}

fn survey_shard(
    number: u16,
    path: &Path,
    instance: Option<u64>,
    live: bool,
) -> Result<Shard, ViewError> {
    let mut firsts = Vec::new();
    for segment in SegmentView::list(path)? {
        firsts.push((segment, SegmentView::first_block(path, segment)?));
    }
    let blocks = firsts.iter().map(|(id, block)| (*id, block.as_slice()));
    let mut survey = Survey::new(instance, blocks.clone());
    let findings = survey.segments().to_vec();
    // A node may begin a spare segment at any time: what it says then is not of the log that is read.
    let counts = |role| role == Role::Live || (role == Role::Spare && !live);
    for finding in findings.iter().filter(|finding| counts(finding.role)) {
        survey.witness(finding.segment, &SegmentView::open(path, finding.segment)?);
    }
    let (mut segments, mut unreadable) = (Vec::new(), Vec::new());
    for finding in findings {
        let mut flushes = Vec::new();
        if finding.role == Role::Live {
            let bytes = SegmentView::open(path, finding.segment)?;
            let places = bytes.unreadable().iter();
            unreadable.extend(places.map(|&offset| (finding.segment, offset)));
            flushes = survey.segment(finding.segment, &bytes);
        }
        segments.push((finding, flushes));
    }
    // While a node writes, what is read at different moments does not fit together.
    if let (Some(instance), false) = (instance, live) {
        survey.missed(&missed(path, instance, blocks)?);
    }
    Ok(Shard {
        number,
        segments,
        unreadable,
        found: survey.finish(),
    })
}

/// What a start of the node would miss. Nothing if it would refuse the log: the survey says why.
fn missed<'a>(
    path: &Path,
    instance: u64,
    blocks: impl Iterator<Item = (SegmentId, &'a [u8])>,
) -> Result<Vec<Lost>, ViewError> {
    let options = wal::Options {
        // Nothing is written.
        segment_bytes: 1 << 20,
        instance,
    };
    let Ok(mut replay) = Replay::new(options, 0, blocks) else {
        return Ok(Vec::new());
    };
    while let Some(segment) = replay.next_segment() {
        if replay.segment(&SegmentView::open(path, segment)?).is_err() {
            return Ok(Vec::new());
        }
    }
    Ok(replay.finish().lost)
}

impl Report {
    fn is_sound(&self) -> bool {
        self.identity.is_ok()
            && self.membership.is_none()
            && self.missing.is_empty()
            && self.shards.iter().all(Shard::is_sound)
            && self.snapshots.iter().all(Finding::is_sound)
    }

    /// Every place that is not sound, in words.
    fn damage(&self) -> Vec<String> {
        let identity = self.identity.as_ref().err().map(ToString::to_string);
        let membership = self.membership.as_ref().map(ToString::to_string);
        let missing = self.missing.iter();
        let missing = missing.map(|shard| format!("shard {shard}: its directory is missing"));
        let shards = self.shards.iter().flat_map(|shard| {
            let damage = shard.damage();
            let line = |(_, _, what)| format!("shard {}: {what}", shard.number);
            damage.into_iter().map(line).collect::<Vec<_>>()
        });
        let snapshots = self.snapshots.iter().filter_map(Finding::damage);
        let files = identity.into_iter().chain(membership);
        let logs = files.chain(missing).chain(shards);
        logs.chain(snapshots).collect()
    }

    fn verdict(&self) -> String {
        let mut text = String::new();
        for line in self.damage() {
            text.push_str(&format!("damaged: {line}\n"));
        }
        if !self.snapshots.iter().all(Finding::is_sound) {
            text.push_str(DAMAGED_SNAPSHOT);
        }
        for shard in &self.shards {
            if let Some(torn) = shard.found.torn {
                text.push_str(&format!("shard {}: {}\n", shard.number, words(torn)));
            }
        }
        if self.is_sound() {
            let segments: usize = self.shards.iter().map(|shard| shard.segments.len()).sum();
            let flushes: usize = self.shards.iter().map(Shard::flushes).sum();
            let (shards, snapshots) = (self.shards.len(), self.snapshots.len());
            text.push_str(&format!(
                "sound: {shards} logs, {segments} segments, {flushes} flushes, {snapshots} snapshots\n"
            ));
        }
        text
    }

    fn verdict_json(&self) -> Value {
        let list = |shard: &Shard| {
            let (number, torn) = (shard.number, shard.torn_json());
            json!({ "shard": number, "flushes": shard.flushes(), "torn": torn, "damage": shard.damage_json() })
        };
        json!({
            "sound": self.is_sound(),
            "identity_error": self.identity.as_ref().err().map(ToString::to_string),
            "membership_error": self.membership.as_ref().map(ToString::to_string),
            "missing_shards": self.missing,
            "snapshots": self.snapshots.iter().map(Finding::json).collect::<Vec<_>>(),
            "shards": self.shards.iter().map(list).collect::<Vec<_>>(),
        })
    }

    fn text(&self, flushes: bool) -> String {
        let mut text = String::new();
        if let Ok((identity, instance)) = &self.identity {
            text.push_str(&format!(
                "node {} of cluster {} at {}: {} shards, instance {instance:016x}\n",
                identity.node, identity.cluster_id, identity.address, identity.shards
            ));
        }
        for shard in &self.shards {
            text.push_str(&format!("\nshard {}\n", shard.number));
            text.push_str(&shard.text(flushes));
        }
        text.push('\n');
        text.push_str(&self.verdict());
        text
    }

    fn json(&self, flushes: bool) -> Value {
        let identity = self.identity.as_ref().ok().map(|(identity, instance)| {
            json!({
                "cluster": identity.cluster_id,
                "node": identity.node.to_raw(),
                "address": identity.address,
                "shards": identity.shards,
                "instance": format!("{instance:016x}"),
            })
        });
        let shards = self.shards.iter().map(|shard| shard.json(flushes));
        json!({
            "sound": self.is_sound(),
            "identity": identity,
            "identity_error": self.identity.as_ref().err().map(ToString::to_string),
            "membership_error": self.membership.as_ref().map(ToString::to_string),
            "missing_shards": self.missing,
            "snapshots": self.snapshots.iter().map(Finding::json).collect::<Vec<_>>(),
            "shards": shards.collect::<Vec<_>>(),
        })
    }
}

/// What to do about one.
const DAMAGED_SNAPSHOT: &str = "A damaged snapshot is passed over: the node starts from the one before it, or is given a peer's, and \
    removes the file when its group's next snapshot is there. To be rid of it now, move it away while the node is stopped.\n";

const SEGMENTS: [&str; 8] = [
    "SEGMENT", "ROLE", "PREVIOUS", "ENDS AT", "FLUSHES", "FIRST", "LAST", "BYTES",
];
const GROUPS: [&str; 9] = [
    "GROUP", "ENTRIES", "FIRST", "LAST", "TERM", "VOTE", "COMMIT", "FLOOR", "TERMS",
];
const FLUSHES: [&str; 7] = [
    "FLUSH",
    "SEGMENT",
    "OFFSET",
    "BYTES",
    "DURABLE",
    "RECORDS",
    "CONDITION",
];

impl Shard {
    fn is_sound(&self) -> bool {
        self.found.flaws.is_empty() && self.unreadable.is_empty()
    }

    fn flushes(&self) -> usize {
        self.segments.iter().map(|(_, flushes)| flushes.len()).sum()
    }

    /// Segment, offset, and what is wrong there.
    fn damage(&self) -> Vec<(SegmentId, u64, String)> {
        let unreadable = self.unreadable.iter().map(|&(segment, offset)| {
            let what = format!("segment {segment} @{offset}: the device does not give this block");
            (segment, offset, what)
        });
        let flaws = self.found.flaws.iter().map(|flaw| {
            let (segment, offset) = flaw.place();
            (segment, offset, flaw.to_string())
        });
        unreadable.chain(flaws).collect()
    }

    fn damage_json(&self) -> Vec<Value> {
        let damage = self.damage().into_iter();
        let place = |(segment, offset, what): (SegmentId, u64, String)| json!({ "segment": segment.to_string(), "offset": offset, "what": what });
        damage.map(place).collect()
    }

    fn torn_json(&self) -> Option<Value> {
        let torn = self.found.torn?;
        let segment = torn.segment.to_string();
        Some(json!({ "segment": segment, "offset": torn.offset, "flush": torn.number.to_raw() }))
    }

    fn text(&self, flushes: bool) -> String {
        let mut segments = vec![SEGMENTS.map(str::to_owned).to_vec()];
        segments.extend(self.segments.iter().map(|one| segment_row(one).to_vec()));
        let mut groups = vec![GROUPS.map(str::to_owned).to_vec()];
        for (group, finding) in &self.found.groups {
            let mut row = vec![group.to_string()];
            row.extend(group_row(finding));
            groups.push(row);
        }
        let mut text = format!("{}\n{}", columns(&segments), columns(&groups));
        if flushes {
            let mut rows = vec![FLUSHES.map(str::to_owned).to_vec()];
            for (segment, flushes) in &self.segments {
                let row = |flush| flush_row(segment.segment, flush).to_vec();
                rows.extend(flushes.iter().map(row));
            }
            text.push_str(&format!("\n{}", columns(&rows)));
        }
        text
    }

    fn json(&self, with_flushes: bool) -> Value {
        let segments = self.segments.iter().map(|(segment, flushes)| {
            let numbers = [flushes.first(), flushes.last()].map(|one| one.map(|flush| flush.number.to_raw()));
            let mut value = json!({
                "segment": segment.segment.to_string(),
                "role": role(segment.role),
                "previous": segment.previous.map(|(previous, end)| json!({ "segment": previous.to_string(), "end": end })),
                "end": segment.end,
                "flushes": flushes.len(),
                "first_flush": numbers[0],
                "last_flush": numbers[1],
                "bytes": flushes.iter().map(|flush| flush.bytes).sum::<u64>(),
            });
            if with_flushes {
                value["flush_list"] = flushes.iter().map(flush_json).collect();
            }
            value
        });
        let groups = self.found.groups.iter().map(|(group, finding)| {
            let mut value = group_json(finding);
            value["group"] = json!(group.to_raw());
            value
        });
        json!({
            "shard": self.number,
            "segments": segments.collect::<Vec<_>>(),
            "groups": groups.collect::<Vec<_>>(),
            "last_flush": self.found.last_flush.to_raw(),
            "torn": self.torn_json(),
            "damage": self.damage_json(),
        })
    }
}

fn words(torn: Tail) -> String {
    let Tail {
        segment,
        offset,
        number,
    } = torn;
    format!(
        "torn tail: segment {segment} @{offset}: flush {number} was under way when the node stopped \
         and was not acknowledged; this is no damage"
    )
}

fn role(role: Role) -> &'static str {
    match role {
        Role::Live => "live",
        Role::Dead => "dead",
        Role::Spare => "spare",
    }
}

fn condition(condition: Condition) -> &'static str {
    match condition {
        Condition::Sound => "sound",
        Condition::Torn => "torn",
        Condition::Rotten => "rotten",
    }
}

/// A dash stands for what there is not.
fn or_dash(value: Option<impl ToString>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

fn segment_row((segment, flushes): &(SegmentFinding, Vec<FlushFinding>)) -> [String; 8] {
    let previous = segment
        .previous
        .map(|(previous, end)| format!("{previous} @{end}"));
    [
        segment.segment.to_string(),
        role(segment.role).to_owned(),
        or_dash(previous),
        or_dash(segment.end),
        flushes.len().to_string(),
        or_dash(flushes.first().map(|flush| flush.number)),
        or_dash(flushes.last().map(|flush| flush.number)),
        flushes
            .iter()
            .map(|flush| flush.bytes)
            .sum::<u64>()
            .to_string(),
    ]
}

fn flush_row(segment: SegmentId, flush: &FlushFinding) -> [String; 7] {
    [
        flush.number.to_string(),
        segment.to_string(),
        flush.offset.to_string(),
        flush.bytes.to_string(),
        flush.durable.to_string(),
        flush.records.to_string(),
        condition(flush.condition).to_owned(),
    ]
}

fn flush_json(flush: &FlushFinding) -> Value {
    json!({
        "flush": flush.number.to_raw(),
        "offset": flush.offset,
        "bytes": flush.bytes,
        "durable": flush.durable.to_raw(),
        "records": flush.records,
        "condition": condition(flush.condition),
    })
}

fn group_row(finding: &GroupFinding) -> [String; 8] {
    let state = finding.hard_state;
    let terms = finding.terms.iter();
    let terms: Vec<String> = terms
        .map(|(first, term)| format!("{term}@{first}"))
        .collect();
    [
        finding.entries.to_string(),
        or_dash(finding.range.map(|(first, _)| first)),
        or_dash(finding.range.map(|(_, last)| last)),
        or_dash(state.map(|state| state.term)),
        or_dash(state.and_then(|state| state.vote)),
        or_dash(state.map(|state| state.commit)),
        or_dash(finding.floor.map(|(floor, _)| floor)),
        terms.join(" "),
    ]
}

fn group_json(finding: &GroupFinding) -> Value {
    let terms = finding.terms.iter();
    let terms =
        terms.map(|(first, term)| json!({ "first": first.to_raw(), "term": term.to_raw() }));
    let state = finding.hard_state.map(|state| {
        json!({
            "term": state.term.to_raw(),
            "vote": state.vote.map(wal::ReplicaId::to_raw),
            "commit": state.commit.to_raw(),
        })
    });
    let claim = finding.claim.map(|claim| {
        json!({ "index": claim.index.map(wal::LogIndex::to_raw), "term": claim.term.to_raw() })
    });
    json!({
        "entries": finding.entries,
        "first": finding.range.map(|(first, _)| first.to_raw()),
        "last": finding.range.map(|(_, last)| last.to_raw()),
        "terms": terms.collect::<Vec<_>>(),
        "hard_state": state,
        "floor": finding.floor.map(|(index, term)| json!({ "index": index.to_raw(), "term": term.to_raw() })),
        "claim": claim,
    })
}
