//! One connection of a client, to one node after another.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

/// What a node answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// A word such as `OK`.
    Ok,
    /// There is no such key.
    Nil,
    /// A value, or a number.
    Value(String),
    /// The whole line, with its sign.
    Error(String),
}

/// A client that knows the nodes of a cluster, and speaks to one of them at a time.
#[derive(Debug)]
pub struct Client {
    ports: Vec<u16>,
    node: usize,
    patience: Duration,
    stream: Option<BufReader<TcpStream>>,
}

impl Client {
    /// Begins with the `first` of these ports on loopback, and waits so long for an answer.
    pub fn new(ports: Vec<u16>, first: usize, patience: Duration) -> Self {
        assert!(!ports.is_empty(), "a client needs a node");
        Self {
            ports,
            node: first,
            patience,
            stream: None,
        }
    }

    /// Asks the next node from now on.
    pub fn next_node(&mut self) {
        self.node += 1;
        self.stream = None;
    }

    /// Nothing if there was no answer: then nobody knows what happened.
    pub fn ask(&mut self, words: &[&str]) -> Option<Answer> {
        let answer = self.exchange(words);
        if answer.is_none() {
            self.stream = None;
        }
        answer
    }

    fn exchange(&mut self, words: &[&str]) -> Option<Answer> {
        let stream = match &mut self.stream {
            Some(stream) => stream,
            none => {
                let port = self.ports[self.node % self.ports.len()];
                let stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
                stream.set_read_timeout(Some(self.patience)).ok()?;
                none.insert(BufReader::new(stream))
            }
        };
        let mut request = format!("*{}\r\n", words.len());
        for word in words {
            request.push_str(&format!("${}\r\n{word}\r\n", word.len()));
        }
        stream.get_mut().write_all(request.as_bytes()).ok()?;
        let mut line = String::new();
        stream.read_line(&mut line).ok()?;
        let line = line.strip_suffix("\r\n")?;
        match line.split_at_checked(1)? {
            ("+", _) => Some(Answer::Ok),
            ("$", "-1") | ("_", "") => Some(Answer::Nil),
            (":", number) => Some(Answer::Value(number.to_owned())),
            ("$", length) => {
                let mut bytes = vec![0; length.parse::<usize>().ok()? + 2];
                stream.read_exact(&mut bytes).ok()?;
                bytes.truncate(bytes.len() - 2);
                String::from_utf8(bytes).ok().map(Answer::Value)
            }
            ("-", _) => Some(Answer::Error(line.to_owned())),
            _ => None,
        }
    }
}
