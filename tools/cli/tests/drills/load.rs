//! A client that writes all the time, and knows what was acknowledged.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use nodes::{Answer, Client};

use crate::cluster::{Cluster, PATIENCE, PAUSE};

/// Writes until it is told to end.
pub(crate) struct Load {
    ends: Arc<AtomicBool>,
    writer: JoinHandle<Vec<u32>>,
}

impl Load {
    pub(crate) fn begin(cluster: &Cluster, nodes: &[u16]) -> Self {
        let ports = nodes.iter().map(|&node| port(&cluster.endpoint(node)));
        let mut client = Client::new(ports.collect(), 0, PATIENCE);
        let ends = Arc::new(AtomicBool::new(false));
        let writer = {
            let ends = ends.clone();
            thread::spawn(move || {
                let mut acknowledged = Vec::new();
                for number in 0.. {
                    if ends.load(Ordering::Relaxed) {
                        break;
                    }
                    let (key, value) = (format!("load{number}"), format!("value {number}"));
                    match client.ask(&["SET", &key, &value]) {
                        Some(Answer::Ok) => acknowledged.push(number),
                        _ => client.next_node(),
                    }
                }
                acknowledged
            })
        };
        Self { ends, writer }
    }

    /// The numbers of those writes that were acknowledged.
    pub(crate) fn end(self) -> Vec<u32> {
        self.ends.store(true, Ordering::Relaxed);
        self.writer.join().unwrap()
    }
}

/// Of an endpoint.
pub(crate) fn port(endpoint: &str) -> u16 {
    endpoint.rsplit(':').next().unwrap().parse().unwrap()
}

/// How many of these a node does not give as they were acknowledged.
pub(crate) fn lost(cluster: &Cluster, node: u16, acknowledged: &[u32]) -> usize {
    let mut client = Client::new(vec![port(&cluster.endpoint(node))], 0, PATIENCE);
    let mut is_lost = |number: u32| {
        let (key, begun) = (format!("load{number}"), Instant::now());
        loop {
            match client.ask(&["GET", &key]) {
                Some(Answer::Value(value)) => return value != format!("value {number}"),
                Some(Answer::Nil) => return true,
                answer => assert!(begun.elapsed() < PATIENCE, "{answer:?}"),
            }
            thread::sleep(PAUSE);
        }
    };
    acknowledged.iter().filter(|&&it| is_lost(it)).count()
}
