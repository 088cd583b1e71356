//! Three whole nodes in one process, on loopback, with real logs in a directory of their own.
#![cfg(feature = "io")]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "node/answers.rs"]
mod answers;
#[path = "node/cluster.rs"]
mod cluster;
#[path = "node/metrics.rs"]
mod metrics;
#[path = "node/snapshots.rs"]
mod snapshots;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::mpsc;
use std::thread;

use engine::io::Commands;
use engine::shard::Outcome;
use net::command::Command;
use net::{ErrorReply, Reply};
use wal::GroupId;

use cluster::{Cluster, PATIENCE, PAUSE, set};

#[test]
fn any_node_answers_for_all_when_it_is_a_proxy() {
    let cluster = Cluster::start("proxy", 2, true);
    let mut first = cluster.connect(1);
    // Keys of every group, so on every shard and with leaders on every node.
    for number in 0..40 {
        first.ask(&format!("SET key{number} value{number}"), "+OK\r\n");
    }
    for (node, shard) in [(1, 0), (2, 0), (2, 1), (3, 1)] {
        let mut client = cluster.connect_shard(node, shard);
        let mut requests = String::new();
        let mut answers = String::new();
        for number in 0..40 {
            requests += &format!("GET key{number}\r\nPING\r\n");
            let value = format!("value{number}");
            answers += &format!("${}\r\n{value}\r\n+PONG\r\n", value.len());
        }
        client.send(&requests);
        client.expect(&answers);
        client.ask("DBSIZE", ":40\r\n");
    }
    // Of the largest value allowed, which no replica lets grow, 16 bytes are missing.
    let part = "x".repeat(61_680);
    for parts in 1..=17 {
        let bytes = parts * part.len();
        first.ask(&format!("APPEND large {part}"), &format!(":{bytes}\r\n"));
    }
    let refusal = "-ERR string exceeds maximum allowed size (limits.value_size)\r\n";
    first.ask(&format!("APPEND large {}", "x".repeat(17)), refusal);
    first.ask("STRLEN large", ":1048560\r\n");
    first.ask("FLUSHALL", "+OK\r\n");
    cluster.connect(3).ask("DBSIZE", ":0\r\n");
}

#[test]
fn a_client_is_sent_to_the_leader_when_its_node_is_no_proxy() {
    let cluster = Cluster::start("moved", 1, false);
    let leader = cluster
        .node(1)
        .handle()
        .leader(cluster.node(1).handle().group_of(b"key"));
    let leader = leader.unwrap().to_raw() as usize;
    let other = leader % 3 + 1;
    let port = cluster.options.cluster.nodes[leader - 1].client_port;
    let mut client = cluster.connect(other);
    let slot = net::Slot::of(b"key").number();
    client.ask("SET key 1", &format!("-MOVED {slot} 127.0.0.1:{port}\r\n"));
    let mut client = cluster.connect(leader);
    client.ask("SET key 1", "+OK\r\n");
    client.ask("INCR key", ":2\r\n");
    client.ask("CLUSTER KEYSLOT key", &format!(":{slot}\r\n"));
}

#[test]
fn endpoints_that_are_no_proxies_count_and_flush_what_they_lead() {
    let cluster = Cluster::start("endpoints", 2, false);
    let handle = cluster.node(1).handle();
    // Leaderships do not move any more once they are where they should be.
    let settled = || {
        let mut groups = (0..4).map(GroupId::from_raw);
        groups.all(|group| {
            let preferred = Some(handle.config().preferred_leader(group));
            (1..=3).all(|node| cluster.node(node).handle().leader(group) == preferred)
        })
    };
    let waited = (0..PATIENCE).find(|_| {
        let settled = settled();
        if !settled {
            thread::sleep(PAUSE);
        }
        settled
    });
    assert!(waited.is_some(), "leaderships do not settle");
    let keys = 40;
    for number in 0..keys {
        let key = format!("key{number}");
        let group = handle.group_of(key.as_bytes());
        let reply = handle.execute(group, &set(key.as_bytes(), b"value"));
        assert_eq!(reply, Ok(Reply::Ok));
    }
    let endpoints = || (1..=3).flat_map(|node| [(node, 0), (node, 1)]);
    let size = |(node, shard)| -> i64 {
        let line = cluster.connect_shard(node, shard).line("DBSIZE");
        line.trim_start_matches(':').trim_end().parse().unwrap()
    };
    let sizes: Vec<i64> = endpoints().map(size).collect();
    assert_eq!(sizes.iter().sum::<i64>(), keys, "{sizes:?}");
    let (at, full) = endpoints()
        .zip(&sizes)
        .find(|(_, size)| **size > 0)
        .unwrap();
    let (empty, _) = endpoints()
        .zip(&sizes)
        .find(|(_, size)| **size == 0)
        .unwrap();
    let flush = |(node, shard)| cluster.connect_shard(node, shard).line("FLUSHALL");
    let refused = "-READONLY You can't write against a read only replica.\r\n";
    assert_eq!(flush(empty), refused);
    assert_eq!(flush(at), "+OK\r\n");
    let left: i64 = endpoints().map(size).sum();
    assert_eq!(left, keys - full, "only what it leads is gone");
}

#[test]
fn hostile_bytes_get_an_error_and_a_closed_connection() {
    let cluster = Cluster::start("hostile", 1, true);
    let mut client = cluster.connect(1);
    client.send("*1\r\n!4\r\nPING\r\n");
    client.expect("-ERR Protocol error: expected '$', got '!'\r\n");
    assert_eq!(client.0.read(&mut [0]).unwrap(), 0);
    cluster.connect(1).ask("PING", "+PONG\r\n");
}

#[test]
fn strangers_at_the_peer_port_are_few_and_say_little() {
    let cluster = Cluster::start("strangers", 1, true);
    let port = cluster.options.cluster.nodes[0].peer_port;
    let connect = || {
        let stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        let patience = Some(std::time::Duration::from_secs(60));
        stream.set_read_timeout(patience).unwrap();
        stream
    };
    let ends = |mut stream: TcpStream| matches!(stream.read(&mut [0]), Ok(0) | Err(_));
    // Of what it says is only the head there: nothing is kept for the rest.
    let mut frame = Vec::new();
    net::peer::frame(net::peer::FrameKind::Hello, &mut frame, |to| {
        to.resize(to.len() + (1 << 20), 0);
    });
    let mut stranger = connect();
    stranger.write_all(&frame[..32]).unwrap();
    assert!(ends(stranger));
    // More than are heard at once; those who are heard must not be silent for long.
    let strangers: Vec<_> = (0..200).map(|_| connect()).collect();
    assert!(strangers.into_iter().all(ends));
    cluster.connect(1).ask("SET key value", "+OK\r\n");
}

#[test]
fn an_embedder_reaches_every_group_through_any_node() {
    let cluster = Cluster::start("embedder", 2, false);
    let handle = cluster.node(2).handle();
    let (sender, receiver) = mpsc::channel();
    let mut submitted = 0;
    for group in (0..4).map(GroupId::from_raw) {
        let mut commands = Commands::default();
        for number in 0..100u32 {
            let key = format!("key{number}").into_bytes();
            if handle.group_of(&key) == group {
                commands.push(&set(&key, b"value"));
                submitted += 1;
            }
        }
        let sender = sender.clone();
        let completion = move |outcomes: Vec<Outcome>| sender.send(outcomes).unwrap();
        handle.submit(group, commands, completion).unwrap();
    }
    drop(sender);
    let outcomes: Vec<Outcome> = receiver.iter().flatten().collect();
    assert_eq!(outcomes, vec![Outcome::Reply(Reply::Ok); submitted]);
    for id in 1..=3 {
        let handle = cluster.node(id).handle();
        for key in [b"key1".as_slice(), b"key50", b"key99"] {
            let read = handle.execute(handle.group_of(key), &Command::Get { key });
            assert_eq!(read, Ok(Reply::bulk(*b"value")));
        }
    }
    let wrong = handle.execute(
        handle.group_of(b"key1"),
        &Command::Increment {
            key: b"key1",
            delta: 1,
        },
    );
    assert_eq!(wrong, Err(ErrorReply::NotAnInteger));
}

#[test]
fn what_was_acknowledged_is_there_after_a_stop_and_a_start() {
    let mut cluster = Cluster::start("restart", 2, true);
    let mut client = cluster.connect(1);
    for number in 0..200 {
        client.ask(&format!("SET key{number} {number}"), "+OK\r\n");
    }
    drop(client);
    cluster.stop_all();
    cluster.start_all();
    let mut client = cluster.connect(3);
    for number in 0..200 {
        let text = number.to_string();
        client.ask(
            &format!("GET key{number}"),
            &format!("${}\r\n{text}\r\n", text.len()),
        );
    }
    client.ask("DBSIZE", ":200\r\n");
}

#[test]
fn a_node_that_stops_hands_over_and_the_others_serve() {
    let mut cluster = Cluster::start("handover", 1, true);
    cluster.connect(2).ask("SET key before", "+OK\r\n");
    let stopping = cluster.nodes[0].take().unwrap();
    stopping.stop();
    assert_eq!(stopping.wait(), Ok(()));
    drop(stopping);
    let mut client = cluster.connect(2);
    for _ in 0..PATIENCE {
        if client.line("SET key after") == "+OK\r\n" {
            return client.ask("GET key", "$5\r\nafter\r\n");
        }
        thread::sleep(PAUSE);
    }
    panic!(
        "the other two do not serve: {:?}",
        cluster.node(2).handle().status()
    );
}

#[test]
fn the_admin_port_tells_of_groups_and_readiness() {
    let cluster = Cluster::start("admin", 2, true);
    let port = cluster.options.cluster.nodes[0].admin_port;
    let get = |path: &str| {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nConnection: close\r\n\r\n").unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        text
    };
    assert!(get("/healthz").starts_with("HTTP/1.1 200 OK\r\n"));
    assert!(get("/readyz").contains("[+]leaders ok"));
    assert!(get("/nothing").starts_with("HTTP/1.1 404 "));
    let status = get("/v1/status");
    let body = status.split_once("\r\n\r\n").unwrap().1;
    let json: serde_json::Value = serde_json::from_str(body).unwrap();
    assert_eq!(json["node"], 1);
    let groups = json["groups"].as_array().unwrap();
    assert_eq!(groups.len(), 4);
    assert!(
        groups.iter().all(|group| group["leader"].is_u64()),
        "{json}"
    );
}

#[test]
fn the_admin_port_says_so_to_whom_it_has_no_room_for_and_serves_when_others_have_left() {
    let cluster = Cluster::start("admin-full", 1, true);
    let port = cluster.options.cluster.nodes[0].admin_port;
    let connect = || {
        let stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        let patience = Some(std::time::Duration::from_secs(60));
        stream.set_read_timeout(patience).unwrap();
        stream
    };
    let ask = || {
        let mut stream = connect();
        write!(stream, "GET /healthz HTTP/1.1\r\nConnection: close\r\n\r\n").unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        text
    };
    assert!(ask().starts_with("HTTP/1.1 200 "));
    // Those that are silent for ten seconds are let go: on a slow machine the first of them before the last
    // has come.
    let mut silent = Vec::new();
    let refused = (0..10).find_map(|_| {
        silent.extend((0..64).map(|_| connect()));
        Some(ask()).filter(|answer| answer.starts_with("HTTP/1.1 503 "))
    });
    let refused = refused.expect("more connections than there is room for");
    assert!(
        refused.ends_with("64 connections are open already\n"),
        "{refused}"
    );
    drop(silent);
    for _ in 0..PATIENCE {
        if ask().starts_with("HTTP/1.1 200 ") {
            return;
        }
        thread::sleep(PAUSE);
    }
    panic!("the admin port does not serve any more");
}
