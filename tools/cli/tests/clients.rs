//! `drakkar demo` as unchanged clients see it: redis-cli, redis-benchmark, redis-py. Says what it
//! skipped because the client is not installed.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod demo;

use std::process::{Command, Stdio};

use demo::Demo;

/// What a program prints, which must end well.
fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new("timeout")
        .args(["60", program])
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success() && !text.contains("ERR"),
        "{program} {arguments:?}: {}\n{text}\n{errors}",
        output.status
    );
    text
}

fn installed(program: &str, arguments: &[&str]) -> bool {
    let output = Command::new(program).args(arguments).output();
    let found = output.is_ok_and(|output| output.status.success());
    if !found {
        println!("SKIPPED: {program} {arguments:?} does not run here");
    }
    found
}

const PYTHON: &str = "
import sys, redis
port = int(sys.argv[1])
for client in (redis.RedisCluster(host='127.0.0.1', port=port), redis.Redis(port=port)):
    for i in range(200):
        assert client.set(f'py{i}', f'v{i}')
    for i in range(200):
        assert client.get(f'py{i}') == f'v{i}'.encode()
    client.delete('n')
    assert client.incr('n') == 1
    client.close()
print('done')
";

#[test]
fn unchanged_clients_work_with_the_demo() {
    let demo = Demo::start(&[]);
    let port = demo.port.to_string();
    if installed("redis-cli", &["--version"]) {
        for mode in [&["-p", &port][..], &["-c", "-p", &port][..]] {
            for key in ["a", "b", "c", "d", "e", "f"] {
                let ask = |words: &[&str]| run("redis-cli", &[mode, words].concat());
                assert_eq!(ask(&["SET", key, "value"]).trim(), "OK");
                assert_eq!(ask(&["GET", key]).trim(), "value");
                assert_eq!(ask(&["DEL", key]).trim(), "1");
            }
        }
    }
    if installed("redis-benchmark", &["--version"]) {
        let load = "-t set,get -P 16 -n 20000 -c 20 -q";
        let mut arguments = vec!["-p", port.as_str()];
        arguments.extend(load.split(' '));
        let plain = run("redis-benchmark", &arguments);
        assert!(plain.contains("GET: "), "{plain}");
        arguments.push("--cluster");
        let cluster = run("redis-benchmark", &arguments);
        assert!(cluster.contains("GET: "), "{cluster}");
    }
    let python = std::env::var("DRAKKAR_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    if installed(&python, &["-c", "import redis"]) {
        let said = run(&python, &["-c", PYTHON, &port]);
        assert_eq!(said.trim(), "done");
    }
    demo.stop();
}
