//! The configuration file as operators write it, and what is said of mistakes in it.

#![cfg(feature = "io")]
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::time::Duration;

use engine::config::SnapshotOptions;
use engine::io::config_file::parse;
use engine::snapshot::Compression;

const GOOD: &str = r#"
    [cluster]
    id = "demo"
    shards = 2
    election_timeout = "2s"

    [[cluster.nodes]]
    id = 1
    host = "127.0.0.1"
    client_port = 6401
    peer_port = 7401
    admin_port = 8401

    [node]
    id = 1
    data_dir = "/var/lib/drakkar"
    any_file_system = true
    cores = [0, 1]
    ready_memory = "512MB"
    stages = false

    [log]
    segment_size = "64MB"

    [client]
    proxy = true
"#;

#[test]
fn a_file_becomes_a_configuration() {
    let config = parse(GOOD).unwrap();
    assert_eq!(config.cluster.shards, 2);
    assert!(config.any_file_system);
    assert!(!config.stages);
    assert_eq!(config.memory_bytes_ready, 512 << 20);
    assert_eq!(config.segment_bytes, 64 << 20);
    assert_eq!(
        config.route_wait,
        Duration::from_secs(2),
        "one election timeout"
    );
    assert_eq!(
        (config.proxy, config.cores.as_slice()),
        (true, [0, 1].as_slice())
    );
}

#[test]
fn snapshots_are_configured_by_our_names_and_by_those_of_others() {
    let ours = "[snapshot]\nentries = 10\nsize = \"1GB\"\ninterval = \"2h\"\nkeep = 3\n\
                compression = \"none\"\nmemory_size = \"64MB\"\nfetch_rate = \"8MB\"\n\
                at_close = false\nclose_wait = \"5s\"\n";
    let config = parse(&format!("{GOOD}{ours}")).unwrap();
    let expected = SnapshotOptions {
        entries: 10,
        bytes: 1 << 30,
        interval: Duration::from_secs(7200),
        keep: 3,
        compression: Compression::None,
        memory_bytes_max: 64 << 20,
        fetch_bytes_per_second: 8 << 20,
        at_close: false,
        close_wait: Duration::from_secs(5),
    };
    assert_eq!(config.snapshot, expected);
    let theirs = "[snapshot]\nsaveSnapshotSeconds = 60\nmaxKeepSnapshots = 1\n\
                  saveSnapshotWhenClose = false\n";
    let config = parse(&format!("{GOOD}{theirs}")).unwrap();
    assert_eq!(config.snapshot.interval, Duration::from_secs(60));
    assert_eq!((config.snapshot.keep, config.snapshot.at_close), (1, false));
    let errors = parse(&format!("{GOOD}{theirs}keep = 2\n")).unwrap_err();
    assert_eq!(
        errors[0].to_string(),
        "snapshot.maxKeepSnapshots and snapshot.keep are the same: keep one of them"
    );
}

#[test]
fn a_profile_says_how_often_snapshots_are_taken_and_figures_count_more() {
    let snapshot = |keys: &str| {
        let text = format!("{GOOD}[snapshot]\n{keys}\n");
        parse(&text).unwrap().snapshot.clone()
    };
    assert_eq!(
        snapshot("profile = \"default\""),
        SnapshotOptions::default()
    );
    let due = |it: SnapshotOptions| (it.entries, it.bytes >> 20, it.interval.as_secs());
    assert_eq!(due(snapshot("profile = \"frequent\"")), (0, 64, 600));
    assert_eq!(due(snapshot("profile = \"rare\"")), (0, 1024, 21_600));
    let own = snapshot("size = \"8MB\"\nprofile = \"rare\"\nentries = 10000");
    assert_eq!(due(own), (10_000, 8, 21_600));
    let wrong = parse(&format!("{GOOD}[snapshot]\nprofile = \"often\"\n"));
    let expected =
        "snapshot.profile: expected \"frequent\", \"default\" or \"rare\", found \"often\"";
    assert_eq!(wrong.unwrap_err()[0].to_string(), expected);
}

#[test]
fn logs_can_be_kept_by_our_name_and_by_that_of_others() {
    assert!(parse(GOOD).unwrap().delete_log_after_snapshot);
    for key in ["delete_after_snapshot", "deleteLogsAfterTakeSnapshot"] {
        let text = GOOD.replace("[log]", &format!("[log]\n{key} = false"));
        let config = parse(&text).unwrap();
        assert!(!config.delete_log_after_snapshot, "{key}");
        assert!(config.snapshot_policy().keeps_log, "{key}");
    }
}

#[test]
fn the_log_is_durable_unless_the_operator_says_otherwise_by_our_name_or_another() {
    assert!(parse(GOOD).unwrap().log_durable);
    let log = |keys: &str| parse(&GOOD.replace("[log]", &format!("[log]\n{keys}")));
    for key in ["durable", "syncForce"] {
        assert!(
            !log(&format!("{key} = false")).unwrap().log_durable,
            "{key}"
        );
        assert!(log(&format!("{key} = true")).unwrap().log_durable, "{key}");
        let off = log(&format!("{key} = \"off\"")).unwrap_err();
        let expected = format!("log.{key}: expected true or false, found \"off\"");
        assert_eq!(off[0].to_string(), expected);
    }
    assert_eq!(
        log("syncForce = true\ndurable = true").unwrap_err()[0].to_string(),
        "log.syncForce and log.durable are the same: keep one of them"
    );
}

#[test]
fn what_may_wait_is_limited_by_our_names_and_by_those_of_others() {
    for (key, expected) in [
        ("pending_tasks = 2000", (2000, 64 << 20)),
        ("max_pending_tasks = 50_000", (50_000, 64 << 20)),
        (
            "maxPendingTasks = 7\nmaxPendingTaskBytes = 268435456",
            (7, 256 << 20),
        ),
        (
            "pending_tasks = 9\nmax_pending_bytes = \"32MB\"",
            (9, 32 << 20),
        ),
    ] {
        let limits = parse(&format!("{GOOD}[limits]\n{key}\n"))
            .unwrap()
            .limits
            .clone();
        let found = (limits.pending_requests_max, limits.pending_bytes_max);
        assert_eq!(found, expected, "{key}");
    }
    let twice = format!("{GOOD}[limits]\npending_tasks = 9\nmax_pending_tasks = 9\n");
    assert_eq!(
        parse(&twice).unwrap_err()[0].to_string(),
        "limits.max_pending_tasks and limits.pending_tasks are the same: keep one of them"
    );
}

#[test]
fn mistakes_are_named_all_at_once_with_what_was_probably_meant() {
    let text = GOOD
        .replace("segment_size", "segmant_size")
        .replace("proxy = true", "proxy = \"yes\"\ndata_dir = \"x\"")
        .replace("\"2s\"", "\"2 fortnights\"")
        .replace("client_port = 6401\n", "");
    let errors: Vec<String> = parse(&text)
        .unwrap_err()
        .iter()
        .map(ToString::to_string)
        .collect();
    for expected in [
        "unknown key log.segmant_size: did you mean log.segment_size?",
        "unknown key client.data_dir: did you mean node.data_dir?",
        "client.proxy: expected true or false, found \"yes\"",
        "cluster.election_timeout: expected a duration such as \"100ms\" or \"10s\", found \"2 fortnights\"",
        "cluster.nodes[0].client_port is missing",
    ] {
        assert!(
            errors.iter().any(|error| error == expected),
            "{expected}: {errors:#?}"
        );
    }
}

#[test]
fn what_is_not_toml_is_said_with_its_place() {
    let errors = parse("[cluster\n").unwrap_err();
    assert!(
        errors[0]
            .to_string()
            .starts_with("not TOML: TOML parse error at line 1")
    );
}
