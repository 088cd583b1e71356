//! `drakkar snapshot create` waits for what a node has not done by the end of its answer.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
#![expect(clippy::disallowed_methods, reason = "the node is a thread")]

use std::io::{Read, Write};
use std::net::TcpListener;
use std::process::Command;
use std::thread;

/// An admin port at which a snapshot of group 3 up to entry 70 is under way, and is there from this look at
/// the list on.
fn slow_node(looks: usize) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = listener.local_addr().unwrap().to_string();
    thread::spawn(move || {
        let mut looked = 0;
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let (mut request, mut byte) = (Vec::new(), [0]);
            while !request.ends_with(b"\r\n\r\n") && stream.read(&mut byte).unwrap() > 0 {
                request.push(byte[0]);
            }
            let request = String::from_utf8(request).unwrap();
            let file = |index| {
                format!(r#"{{"group":3,"index":{index},"term":1,"bytes":1,"refused":false}}"#)
            };
            let body = match request.split(" HTTP").next().unwrap() {
                "GET /v1/status" => r#"{"groups":[{"group":3,"applied":70}]}"#.to_owned(),
                "POST /v1/snapshots?group=3" => {
                    r#"{"snapshots":[{"group":3,"pending":true,"error":"not there yet"}]}"#
                        .to_owned()
                }
                "GET /v1/snapshots" => {
                    looked += 1;
                    let files = match looked < looks {
                        // The one before does not count.
                        true => file(12),
                        false => file(12) + "," + &file(71),
                    };
                    format!(
                        r#"{{"snapshots":[{files}],"under_way":[{{"group":3,"state_bytes":9}}]}}"#
                    )
                }
                other => panic!("{other}"),
            };
            let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len());
            stream.write_all((head + &body).as_bytes()).unwrap();
        }
    });
    endpoint
}

fn create(looks: usize, more: &[&str]) -> (Option<i32>, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_drakkar"));
    let endpoint = slow_node(looks);
    command.args([
        "snapshot",
        "create",
        "--group",
        "3",
        "--endpoint",
        &endpoint,
    ]);
    let output = command.args(more).output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    (output.status.code(), said.replace(&endpoint, "HERE"))
}

#[test]
fn a_snapshot_that_takes_long_is_waited_for() {
    let (code, said) = create(3, &[]);
    assert_eq!(code, Some(0), "{said}");
    assert!(
        said.lines().last().unwrap().ends_with("3      71"),
        "{said}"
    );
}

#[test]
fn a_snapshot_that_is_not_there_in_time_is_said_to_go_on() {
    let (code, said) = create(usize::MAX, &["--timeout", "1"]);
    assert_eq!(code, Some(5), "{said}");
    assert!(
        said.contains("it is not there in time and goes on"),
        "{said}"
    );
}
