//! What a connection's bytes cost: a pipeline of commands, found, understood and answered.

mod setup;

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use net::Reply;
use net::resp::{
    Action, Counters, Limits, Parser, RaftFacts, ServerView, Session, Topology, Version, encode,
};

/// Commands that a client sends at once.
const PIPELINE: usize = 128;

fn pipeline(arguments: impl Fn(usize) -> Vec<Vec<u8>>) -> Vec<u8> {
    let mut bytes = Vec::new();
    for number in 0..PIPELINE {
        let arguments = arguments(number);
        bytes.extend(format!("*{}\r\n", arguments.len()).into_bytes());
        for argument in arguments {
            bytes.extend(format!("${}\r\n", argument.len()).into_bytes());
            bytes.extend(argument);
            bytes.extend(b"\r\n");
        }
    }
    bytes
}

fn key(number: usize) -> Vec<u8> {
    format!("key:{number:08}").into_bytes()
}

fn pipelines() -> [(&'static str, Vec<u8>); 3] {
    let set = |bytes| pipeline(|number| vec![b"SET".to_vec(), key(number), vec![b'v'; bytes]]);
    let get = pipeline(|number| vec![b"GET".to_vec(), key(number)]);
    [("SET 64B", set(64)), ("SET 256B", set(256)), ("GET", get)]
}

/// Finds the commands and their arguments.
fn parse(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("resp/parse");
    group.throughput(Throughput::Elements(PIPELINE as u64));
    for (name, bytes) in pipelines() {
        group.bench_function(BenchmarkId::from_parameter(name), |bencher| {
            let mut parser = Parser::new(Limits::default());
            bencher.iter(|| {
                let mut at = 0;
                while let Some(used) = parser.parse(&bytes[at..]).expect("they are commands") {
                    black_box(parser.arguments(&bytes[at..]).len());
                    at += used;
                }
                assert_eq!(at, bytes.len());
            });
        });
    }
    group.finish();
}

/// The same, and makes commands of them that a group can be asked.
fn understand(criterion: &mut Criterion) {
    let (topology, counters, raft) = (
        Topology::default(),
        Counters::default(),
        RaftFacts::default(),
    );
    let view = ServerView {
        cluster: true,
        password: None,
        topology: &topology,
        counters: &counters,
        raft: &raft,
        unix_micros: 0,
    };
    let mut group = criterion.benchmark_group("resp/understand");
    group.throughput(Throughput::Elements(PIPELINE as u64));
    for (name, bytes) in pipelines() {
        group.bench_function(BenchmarkId::from_parameter(name), |bencher| {
            let mut parser = Parser::new(Limits::default());
            let (client, server) = ("127.0.0.1:50000".into(), "127.0.0.1:6379".into());
            let mut session = Session::new(1, client, server);
            bencher.iter(|| {
                let mut at = 0;
                while let Some(used) = parser.parse(&bytes[at..]).expect("they are commands") {
                    let arguments = parser.arguments(&bytes[at..]);
                    let action = session.handle(&arguments, &view);
                    assert!(matches!(action, Action::Data { .. }));
                    black_box(&action);
                    at += used;
                }
            });
        });
    }
    group.finish();
}

/// Writes the replies of a pipeline.
fn answer(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("resp/answer");
    group.throughput(Throughput::Elements(PIPELINE as u64));
    for (name, reply) in [("OK", Reply::Ok), ("256B", Reply::bulk([b'v'; 256]))] {
        group.bench_function(BenchmarkId::from_parameter(name), |bencher| {
            let mut out = Vec::new();
            bencher.iter(|| {
                out.clear();
                for _ in 0..PIPELINE {
                    encode(black_box(&reply), Version::Resp2, &mut out);
                }
                black_box(&out);
            });
        });
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = setup::short();
    targets = parse, understand, answer
}
criterion_main!(benches);
