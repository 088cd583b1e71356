//! Requests that another node answers, of which more come at once than fit a frame between the two.

use std::time::Duration;

use wal::GroupId;

use crate::cluster::Cluster;

const VALUE_BYTES: usize = 256 << 10;
const CLIENTS: usize = 4;
const REQUESTS: usize = 40;

/// Keys that one group owns.
fn keys(cluster: &Cluster) -> (GroupId, Vec<String>) {
    let handle = cluster.node(1).handle();
    let group = handle.group_of(b"key");
    let keys = (0..).map(|number| format!("{{key}}{number}"));
    (group, keys.take(REQUESTS).collect())
}

#[test]
fn what_other_nodes_are_asked_and_answer_goes_in_as_many_frames_as_it_needs() {
    let cluster = Cluster::start_with("frames", 1, true, |options| {
        options.limits.value_bytes_max = VALUE_BYTES;
        options.limits.request_bytes_max = 2 * VALUE_BYTES;
        options.limits.frame_bytes_max = 2 << 20;
        // Nothing of this is about time: however slow the machine is, the leader stays and is waited for.
        options.cluster.election_timeout = Duration::from_secs(3);
        options.request_timeout = Duration::from_secs(120);
        options.route_wait = Duration::from_secs(120);
    });
    let (group, keys) = keys(&cluster);
    let leader = cluster.node(1).handle().leader(group);
    let leader = leader.expect("all nodes know the leaders").to_raw() as usize;
    // Each asks another node than the one that leads.
    let connect = |at: usize| cluster.connect((leader + at % 2) % 3 + 1);
    let mut clients: Vec<_> = (0..CLIENTS).map(connect).collect();
    let value = "v".repeat(VALUE_BYTES);
    let sets: String = keys
        .iter()
        .map(|key| {
            format!(
                "*3\r\n$3\r\nSET\r\n${}\r\n{key}\r\n${VALUE_BYTES}\r\n{value}\r\n",
                key.len()
            )
        })
        .collect();
    for client in &mut clients[..2] {
        client.send(&sets);
    }
    for client in &mut clients[..2] {
        client.expect(&"+OK\r\n".repeat(REQUESTS));
    }

    let gets: String = keys.iter().map(|key| format!("GET {key}\r\n")).collect();
    let many = format!("MGET {}\r\n", keys[..6].join(" "));
    let refused = format!("MGET {}\r\n", keys.join(" "));
    for client in &mut clients {
        client.send(&gets);
        client.send(&many);
        client.send(&refused);
        client.send("SET {key}0 x NX GET\r\n");
    }
    let bulk = format!("${VALUE_BYTES}\r\n{value}\r\n");
    for client in &mut clients {
        for _ in &keys {
            client.expect(&bulk);
        }
        client.expect(&format!("*6\r\n{}", bulk.repeat(6)));
        let limit = (2 << 20) - (64 << 10);
        client.expect(&format!(
            "-ERR the answer is larger than {limit} bytes (limits.frame_size, half of limits.output_size): \
             ask for fewer keys at once\r\n"
        ));
        client.expect(&bulk);
    }
}
