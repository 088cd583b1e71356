//! The parser against every split of the bytes, and against bytes that no client should send.

use net::resp::{Limits, Parser};

/// Everything a connection yields: its commands, then the error that ends it, if there is one.
#[derive(Debug, PartialEq)]
struct Outcome {
    commands: Vec<Vec<Vec<u8>>>,
    error: Option<String>,
}

/// Feeds `pieces` one after the other to a connection's buffer, as reads from a socket would.
fn feed<'a>(limits: Limits, pieces: impl IntoIterator<Item = &'a [u8]>) -> Outcome {
    let mut parser = Parser::new(limits);
    let mut buffer: Vec<u8> = Vec::new();
    let mut commands = Vec::new();
    for piece in pieces {
        buffer.extend_from_slice(piece);
        let mut at = 0;
        loop {
            match parser.parse(&buffer[at..]) {
                Ok(Some(used)) => {
                    let arguments = parser.arguments(&buffer[at..]);
                    commands.push(arguments.iter().map(|argument| argument.to_vec()).collect());
                    assert!(used > 0 && at + used <= buffer.len());
                    at += used;
                }
                Ok(None) => break,
                Err(error) => {
                    return Outcome {
                        commands,
                        error: Some(error.to_string()),
                    };
                }
            }
        }
        buffer.drain(..at);
    }
    Outcome {
        commands,
        error: None,
    }
}

fn small() -> Limits {
    Limits {
        bulk_bytes: 100,
        arguments: 12,
        inline_bytes: 64,
        command_bytes: 400,
    }
}

fn numbers(seed: u64) -> impl FnMut(u64) -> u64 {
    let mut state = seed | 1;
    move |below| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.wrapping_mul(0x2545_f491_4f6c_dd1d) % below
    }
}

#[test]
fn commands_are_found_with_their_arguments() {
    #[rustfmt::skip]
    let table: &[(&str, &[&[&str]])] = &[
        ("*1\r\n$4\r\nPING\r\n", &[&["PING"]]),
        ("*2\r\n$3\r\nGET\r\n$0\r\n\r\n", &[&["GET", ""]]),
        ("*2\r\n$3\r\nGET\r\n$5\r\na\r\n*b\r\nPING\n", &[&["GET", "a\r\n*b"], &["PING"]]),
        ("*0\r\n*-1\r\n\r\n \t\r\n", &[&[], &[], &[], &[]]),
        ("PING\r\nPING\n  get  a\tb \r\n", &[&["PING"], &["PING"], &["get", "a", "b"]]),
        (r#"set k "a b\n\x41\xzz\"" 'c d\'e\n'"#, &[]),
        ("set k \"a b\\n\\x41\\xzz\\\"\" 'c d\\'e\\n'\n", &[&["set", "k", "a b\nAxzz\"", "c d'e\\n"]]),
        ("a\"b c\"\n", &[&["ab c"]]),
        ("a \"\" ''\n", &[&["a", "", ""]]),
        ("get a\0b c\n", &[&["get", "a"]]),
        ("*10\r\n$1\r\na\r\n$1\r\nb\r\n$1\r\nc\r\n$1\r\nd\r\n$1\r\ne\r\n$1\r\nf\r\n$1\r\ng\r\n$1\r\nh\r\n$1\r\ni\r\n$1\r\nj\r\n",
            &[&["a", "b", "c", "d", "e", "f", "g", "h", "i", "j"]]),
    ];
    for (bytes, expected) in table {
        let outcome = feed(Limits::default(), [bytes.as_bytes()]);
        assert_eq!(outcome.error, None, "{bytes:?}");
        let found: Vec<Vec<&str>> = (outcome.commands.iter())
            .map(|command| {
                command
                    .iter()
                    .map(|part| str::from_utf8(part).unwrap())
                    .collect()
            })
            .collect();
        assert_eq!(found, *expected, "{bytes:?}");
    }
}

#[test]
fn protocol_errors_have_the_texts_of_redis() {
    let line = "x".repeat(65);
    let header = format!("*{}\r\n", "1".repeat(70));
    let bulk_header = format!("*1\r\n${}", "1".repeat(70));
    let many = "*12\r\n".to_owned() + "$90\r\n" + &"y".repeat(90);
    let long = "*12\r\n".to_owned() + &("$90\r\n".to_owned() + &"y".repeat(90) + "\r\n").repeat(12);
    #[rustfmt::skip]
    let table: &[(&str, Option<&str>)] = &[
        ("*1\r\n+OK\r\n", Some("expected '$', got '+'")),
        ("*1\r\n\r\n", Some("expected '$', got '\r'")),
        ("*x\r\n", Some("invalid multibulk length")),
        ("*\r\n", Some("invalid multibulk length")),
        ("*01\r\n", Some("invalid multibulk length")),
        ("*13\r\n", Some("invalid multibulk length")),
        ("*9223372036854775807\r\n", Some("invalid multibulk length")),
        ("*9223372036854775808\r\n", Some("invalid multibulk length")),
        ("*-9223372036854775808\r\n", None),
        ("*1\r\n$-1\r\n", Some("invalid bulk length")),
        ("*1\r\n$101\r\n", Some("invalid bulk length")),
        ("*1\r\n$9223372036854775807\r\n", Some("invalid bulk length")),
        ("*1\r\n$a\r\n", Some("invalid bulk length")),
        ("*1\r\n$\r\n", Some("invalid bulk length")),
        ("get \"a\n", Some("unbalanced quotes in request")),
        ("get 'a\n", Some("unbalanced quotes in request")),
        ("get 'a'b\n", Some("unbalanced quotes in request")),
        ("get \"a\\\"\n", Some("unbalanced quotes in request")),
        (&line, Some("too big inline request")),
        (&header, Some("too big mbulk count string")),
        (&bulk_header, Some("too big bulk count string")),
        (&many, None),
        (&long, Some("command exceeds 400 bytes")),
    ];
    for &(bytes, text) in table {
        let outcome = feed(small(), [bytes.as_bytes()]);
        let expected = text.map(|text| format!("ERR Protocol error: {text}"));
        assert_eq!(outcome.error, expected, "{bytes:?}");
    }
}

#[test]
fn every_split_in_two_and_single_bytes_yield_the_same_as_the_whole() {
    let fine =
        b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$4\r\na\r\nb\r\n*0\r\nget \"a b\" 'c'\r\n\r\n*-1\r\n\
        *1\r\n$0\r\n\r\nPING\n*2\r\n$4\r\nECHO\r\n$2\r\n\r\n\r\n";
    let endings: &[&[u8]] = &[
        b"",
        b"*1\r\n+O\r\n",
        b"*x\r\n",
        b"*1\r\n$-1\r\n",
        b"get \"\n",
        b"*2\r\n$4\r\nPI",
        &[b'x'; 70],
        &[b'*'; 70],
    ];
    for ending in endings {
        let bytes = [fine, *ending].concat();
        let whole = feed(small(), [&bytes[..]]);
        assert_eq!(whole.commands.len(), 8, "{ending:?}");
        for at in 0..=bytes.len() {
            let (head, tail) = bytes.split_at(at);
            assert_eq!(
                feed(small(), [head, tail]),
                whole,
                "split at {at}, {ending:?}"
            );
        }
        assert_eq!(feed(small(), bytes.chunks(1)), whole, "{ending:?}");
        assert_eq!(feed(small(), bytes.chunks(3)), whole, "{ending:?}");
    }
}

#[test]
fn a_long_line_in_single_bytes_is_not_read_again_and_again() {
    // 64 KiB in single bytes: 2 G steps if each rescanned the line, which no test would survive.
    let mut bytes = vec![b'x'; 64 << 10];
    bytes.push(b'\n');
    let outcome = feed(Limits::default(), bytes.chunks(1));
    assert_eq!(outcome.commands.len(), 1);
    assert_eq!(outcome.error, None);
}

#[test]
fn random_bytes_yield_the_same_however_they_are_cut_and_never_panic() {
    let words: &[&[u8]] = &[
        b"*",
        b"$",
        b"\r\n",
        b"\n",
        b"\r",
        b"0",
        b"1",
        b"2",
        b"3",
        b"-1",
        b"PING",
        b"\"",
        b"'",
        b"\\",
        b"\\x",
        b" ",
        b"\0",
        b"\xff",
        b"*1\r\n$1\r\na\r\n",
        b"*2\r\n",
        b"$3\r\nabc\r\n",
        b"*3\r\n$3\r\nSET\r\n",
        b"99999999999999999999",
        b"$100\r\n",
    ];
    for seed in 1..=3000 {
        let mut number = numbers(seed * 0x9e37_79b9);
        let mut bytes = Vec::new();
        for _ in 0..number(40) {
            let word = words[usize::try_from(number(words.len() as u64)).unwrap()];
            bytes.extend_from_slice(word);
        }
        let whole = feed(small(), [&bytes[..]]);
        assert_eq!(
            feed(small(), bytes.chunks(1)),
            whole,
            "seed {seed}: {bytes:?}"
        );
        let cut = usize::try_from(number(bytes.len() as u64 + 1)).unwrap();
        let (head, tail) = bytes.split_at(cut);
        assert_eq!(
            feed(small(), [head, tail]),
            whole,
            "seed {seed} cut {cut}: {bytes:?}"
        );
    }
}
