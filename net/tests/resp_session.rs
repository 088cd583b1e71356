//! A connection's conversation: exact replies, and the commands it makes of what clients send.

use net::command::{Condition, Expiry, List, Unit};
use net::resp::{
    Action, Counters, Endpoint, EndpointId, GroupFacts, Limits, Parser, RaftFacts, RaftNode,
    ServerView, Session, SlotRange, Topology, encode,
};
use net::{Command, ErrorReply, Reply, Slot};

/// Three nodes of one shard; the third leads nothing.
fn topology() -> Topology {
    let endpoint = |node: u16| Endpoint {
        id: EndpointId::of(node.into(), 0),
        host: format!("10.0.0.{node}"),
        port: 6379,
        peer_port: 7379,
        connected: node != 3,
    };
    let range = |start, end, leader, replicas: [usize; 2]| SlotRange {
        start,
        end,
        leader: Some(leader),
        replicas: replicas.to_vec(),
    };
    Topology {
        endpoints: (1..=3).map(endpoint).collect(),
        own: 0,
        ranges: vec![
            range(0, 4095, 0, [1, 2]),
            range(4096, 8191, 0, [1, 2]),
            range(8192, 12287, 1, [0, 2]),
            range(12288, 16383, 0, [1, 2]),
        ],
        epoch: 9,
    }
}

struct Server {
    cluster: bool,
    password: Option<&'static [u8]>,
    topology: Topology,
    counters: Counters,
    raft: RaftFacts,
}

impl Server {
    fn new() -> Self {
        let node = |node: u64| RaftNode {
            node,
            connected: true,
            voting: true,
            host: format!("10.0.0.{node}"),
            port: 7379,
        };
        let group = GroupFacts {
            group: 4,
            role: "leader",
            leader: Some(1),
            term: 7,
            keys: 5,
            floor: 2,
            snapshot: 3,
            ..GroupFacts::default()
        };
        let raft = RaftFacts {
            node: 1,
            voting: true,
            nodes: (1..=3).map(node).collect(),
            groups: vec![group],
        };
        let counters = Counters {
            version: "1.2.3",
            ..Counters::default()
        };
        Self {
            cluster: true,
            password: None,
            topology: topology(),
            counters,
            raft,
        }
    }

    fn standalone() -> Self {
        Self {
            cluster: false,
            ..Self::new()
        }
    }

    fn view(&self) -> ServerView<'_> {
        ServerView {
            cluster: self.cluster,
            password: self.password,
            topology: &self.topology,
            counters: &self.counters,
            raft: &self.raft,
            unix_micros: 1_700_000_000_000_123,
        }
    }

    /// What a new client gets for inline commands; data commands answer `+DATA`, or nil if the key
    /// is `nil`.
    fn answers(&self, script: &str) -> String {
        let mut session = session();
        let mut parser = Parser::new(Limits::default());
        let mut out = Vec::new();
        let mut at = 0;
        let script = format!("{script}\n");
        while let Some(used) = parser
            .parse(&script.as_bytes()[at..])
            .expect("scripts are well-formed")
        {
            let arguments = parser.arguments(&script.as_bytes()[at..]);
            at += used;
            match session.handle(&arguments, &self.view()) {
                Action::Reply(reply) => encode(&reply, session.version(), &mut out),
                Action::Nothing => {}
                Action::Data { command, form, .. } => {
                    let absent = command == Command::Get { key: b"nil" };
                    let reply = if absent {
                        Reply::Nil
                    } else {
                        Reply::Status("DATA")
                    };
                    form.encode(&reply, &mut out);
                }
                Action::EveryGroup { gather, form, .. } => {
                    let replies = [Reply::Integer(2), Reply::Integer(3)];
                    form.encode(&gather.gather(replies), &mut out);
                }
                Action::ListClients { form, .. } => form.encode(&Reply::Status("LIST"), &mut out),
                Action::KillClient { id, form } => {
                    let reply = if id == 8 {
                        Reply::Ok
                    } else {
                        Action::no_such_client()
                    };
                    form.encode(&reply, &mut out);
                }
                Action::Close(reply) => {
                    if let Some(reply) = reply {
                        encode(&reply, session.version(), &mut out);
                    }
                    out.extend_from_slice(b"<closed>");
                    break;
                }
            }
        }
        String::from_utf8(out).expect("scripts are ASCII")
    }
}

fn session() -> Session {
    Session::new(7, "10.9.9.9:50000".into(), "10.0.0.1:6379".into())
}

/// Hands what a session makes of the words of `line` to `check`.
fn decide(server: &Server, line: &str, check: impl FnOnce(Action<'_>)) {
    let words: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
    check(session().handle(&words, &server.view()));
}

const HELLO_2: &str = "*14\r\n$6\r\nserver\r\n$5\r\nredis\r\n$7\r\nversion\r\n$6\r\n7.0.15\r\n\
    $5\r\nproto\r\n:2\r\n$2\r\nid\r\n:7\r\n$4\r\nmode\r\n$7\r\ncluster\r\n$4\r\nrole\r\n\
    $6\r\nmaster\r\n$7\r\nmodules\r\n*0\r\n";
const HELLO_3: &str = "%7\r\n$6\r\nserver\r\n$5\r\nredis\r\n$7\r\nversion\r\n$6\r\n7.0.15\r\n\
    $5\r\nproto\r\n:3\r\n$2\r\nid\r\n:7\r\n$4\r\nmode\r\n$7\r\ncluster\r\n$4\r\nrole\r\n\
    $6\r\nmaster\r\n$7\r\nmodules\r\n*0\r\n";

#[test]
fn replies_are_those_of_redis() {
    let hello_3 = |then: &str| format!("{HELLO_3}{then}");
    #[rustfmt::skip]
    let table: &[(&str, &str)] = &[
        ("ping", "+PONG\r\n"),
        ("PING hi", "$2\r\nhi\r\n"),
        ("ping a b", "-ERR wrong number of arguments for 'ping' command\r\n"),
        ("", ""),
        ("GET", "-ERR wrong number of arguments for 'get' command\r\n"),
        ("FOO", "-ERR unknown command 'FOO', with args beginning with: \r\n"),
        ("foo a 'b c'", "-ERR unknown command 'foo', with args beginning with: 'a' 'b c' \r\n"),
        ("foo \"a\\r\\nb\"", "-ERR unknown command 'foo', with args beginning with: 'a  b' \r\n"),
        ("MULTI", "-ERR unknown command 'MULTI', with args beginning with: \r\n"),
        ("client nope", "-ERR unknown subcommand 'nope'. Try CLIENT HELP.\r\n"),
        ("client setname", "-ERR wrong number of arguments for 'client|setname' command\r\n"),
        ("select 0", "+OK\r\n"),
        ("select 1", "-ERR SELECT is not allowed in cluster mode\r\n"),
        ("select x", "-ERR value is not an integer or out of range\r\n"),
        ("hello", HELLO_2),
        ("hello 2", HELLO_2),
        ("hello 3 SETNAME me\nclient getname", &hello_3("$2\r\nme\r\n")),
        ("hello 3\nget nil\nreset\nget nil", &hello_3("_\r\n+RESET\r\n$-1\r\n")),
        ("hello 4", "-NOPROTO unsupported protocol version\r\n"),
        ("hello x", "-ERR Protocol version is not an integer or out of range\r\n"),
        ("hello 3 foo", "-ERR Syntax error in HELLO option 'foo'\r\n"),
        ("hello 3 auth u p", "-WRONGPASS invalid username-password pair or user is disabled.\r\n"),
        ("auth p", "-ERR AUTH <password> called without any password configured for the default user. Are you sure your configuration is correct?\r\n"),
        ("auth a b c", "-ERR syntax error\r\n"),
        ("client id", ":7\r\n"),
        ("client getname\nclient setname a\nclient getname", "$-1\r\n+OK\r\n$1\r\na\r\n"),
        ("client setname 'a b'", "-ERR Client names cannot contain spaces, newlines or special characters.\r\n"),
        ("client setinfo lib-name x\nclient setinfo foo x", "+OK\r\n-ERR Unrecognized option 'foo'\r\n"),
        ("client maint_notifications on", "-ERR unknown subcommand 'maint_notifications'. Try CLIENT HELP.\r\n"),
        ("client kill id 8\nclient kill id 9", ":1\r\n:0\r\n"),
        ("client kill id 7\nping", ":1\r\n<closed>"),
        ("client kill 10.9.9.9:50000", "+OK\r\n<closed>"),
        ("client kill 10.9.9.9:1", "-ERR No such client\r\n"),
        ("client list", "+LIST\r\n"),
        ("quit\nping", "+OK\r\n<closed>"),
        ("POST / HTTP/1.1\nHost: x", "<closed>"),
        ("client reply off\nping\nget a\nclient reply on\nping", "+OK\r\n+PONG\r\n"),
        ("client reply skip\nget a\nping", "+PONG\r\n"),
        ("client reply skip\nfoo\nping", "+PONG\r\n"),
        ("client reply off\nquit", "<closed>"),
        ("setnx a b\nset a b", "+DATA\r\n+DATA\r\n"),
        ("dbsize\nflushall\nflushdb async\nflushall now", ":5\r\n+OK\r\n+OK\r\n-ERR syntax error\r\n"),
        ("time", "*2\r\n$10\r\n1700000000\r\n$3\r\n123\r\n"),
        ("lastsave", ":1700000000\r\n"),
        ("wait 1 0\nwait x 0\nwait 0 x\nwait 0 -1", ":1\r\n-ERR value is not an integer or out of range\r\n-ERR timeout is not an integer or out of range\r\n-ERR timeout is negative\r\n"),
        ("role", "*3\r\n$6\r\nmaster\r\n:0\r\n*0\r\n"),
        ("config get save", "*2\r\n$4\r\nsave\r\n$0\r\n\r\n"),
        ("config get nope", "*0\r\n"),
        ("config set nope 1", "-ERR Unknown option or number of arguments for CONFIG SET - 'nope'\r\n"),
        ("config set appendonly YES\nconfig set appendonly no", "+OK\r\n-ERR CONFIG SET failed (possibly related to argument 'appendonly') - can't set immutable config\r\n"),
        ("command getkeys mset a b c d", "*2\r\n$1\r\na\r\n$1\r\nc\r\n"),
        ("command getkeys ping x", "-ERR The command has no key arguments\r\n"),
        ("command info nope", "*1\r\n$-1\r\n"),
        ("command list filterby pattern p?ng", "*1\r\n$4\r\nping\r\n"),
        ("cluster keyslot foo", ":12182\r\n"),
        ("cluster countkeysinslot 16384", "-ERR Invalid slot\r\n"),
        ("slowlog len\nlatency latest\nfunction flush", ":0\r\n*0\r\n+OK\r\n"),
        ("mget a b", "-CROSSSLOT Keys in request don't hash to the same slot\r\n"),
    ];
    let server = Server::new();
    for &(script, expected) in table {
        assert_eq!(server.answers(script), expected, "{script:?}");
    }
}

#[test]
fn nothing_but_a_greeting_is_answered_before_the_password() {
    let refused = "-NOAUTH Authentication required.\r\n";
    let wrong = "-WRONGPASS invalid username-password pair or user is disabled.\r\n";
    let server = Server {
        password: Some(b"sesame"),
        ..Server::new()
    };
    #[rustfmt::skip]
    let table: &[(&str, String)] = &[
        ("ping\nget a\ninfo", refused.repeat(3)),
        ("auth sesam\nping", format!("{wrong}{refused}")),
        ("auth sesame\nping", "+OK\r\n+PONG\r\n".into()),
        ("auth default sesame\nget a", "+OK\r\n+DATA\r\n".into()),
        ("auth bob sesame", wrong.into()),
        ("auth sesame\nreset\nping", format!("+OK\r\n+RESET\r\n{refused}")),
        ("hello 3 auth default sesame\nping", format!("{HELLO_3}+PONG\r\n")),
        ("hello 3 auth default no\nping", format!("{wrong}{refused}")),
        ("quit", "+OK\r\n<closed>".into()),
    ];
    for (script, expected) in table {
        assert_eq!(server.answers(script), *expected, "{script:?}");
    }
    assert!(
        server
            .answers("hello 3")
            .starts_with("-NOAUTH HELLO must be called with")
    );
}

#[test]
fn without_cluster_mode_keys_need_only_share_a_group() {
    let server = Server::standalone();
    assert_eq!(
        Slot::of(b"foo").number() / 4096,
        Slot::of(b"a").number() / 4096 - 1
    );
    let disabled = "-ERR This instance has cluster support disabled\r\n";
    #[rustfmt::skip]
    let table: &[(&str, &str)] = &[
        ("cluster slots", disabled),
        ("readonly", disabled),
        ("select 1", "-ERR DB index is out of range\r\n"),
        ("mget foo a", "-CROSSSLOT Keys in request don't hash to the same slot\r\n"),
        ("mget foo d", "+DATA\r\n"),
    ];
    for &(script, expected) in table {
        assert_eq!(server.answers(script), expected, "{script:?}");
    }
}

#[test]
fn arguments_become_commands() {
    let set = |expiry, condition, get| Command::Set {
        key: b"k",
        value: b"v",
        expiry,
        condition,
        get,
    };
    let plain = |expiry| set(expiry, Condition::Always, false);
    let keys: &[&[u8]] = &[b"{k}1", b"{k}2"];
    let keys = List::Arguments(keys);
    #[rustfmt::skip]
    let table: &[(&str, Command<'_>)] = &[
        ("get k", Command::Get { key: b"k" }),
        ("SET k v", plain(Expiry::Never)),
        ("set k v ex 10", plain(Expiry::After(10_000))),
        ("set k v PX 10 NX get", set(Expiry::After(10), Condition::Absent, true)),
        ("set k v xx exat 10", set(Expiry::At(10_000), Condition::Present, false)),
        ("set k v pxat 10 pxat 11", plain(Expiry::At(11))),
        ("set k v KeepTTL", plain(Expiry::Keep)),
        ("setex k 10 v", plain(Expiry::After(10_000))),
        ("psetex k 10 v", plain(Expiry::After(10))),
        ("setnx k v", set(Expiry::Never, Condition::Absent, false)),
        ("getset k v", set(Expiry::Never, Condition::Always, true)),
        ("del {k}1 {k}2", Command::Delete { keys }),
        ("unlink {k}1 {k}2", Command::Delete { keys }),
        ("exists {k}1 {k}2", Command::Exists { keys }),
        ("touch {k}1 {k}2", Command::Exists { keys }),
        ("mget {k}1 {k}2", Command::MultiGet { keys }),
        ("mset {k}1 {k}2", Command::MultiSet { pairs: keys }),
        ("incr k", Command::Increment { key: b"k", delta: 1 }),
        ("decr k", Command::Increment { key: b"k", delta: -1 }),
        ("incrby k -5", Command::Increment { key: b"k", delta: -5 }),
        ("decrby k 5", Command::Increment { key: b"k", delta: -5 }),
        ("decrby k 9223372036854775807", Command::Increment { key: b"k", delta: -i64::MAX }),
        ("append k v", Command::Append { key: b"k", value: b"v", bytes_max: 512 << 20 }),
        ("strlen k", Command::Length { key: b"k" }),
        ("expire k -1", Command::Expire { key: b"k", after_ms: -1000 }),
        ("pexpire k 5", Command::Expire { key: b"k", after_ms: 5 }),
        ("ttl k", Command::TimeToLive { key: b"k", unit: Unit::Seconds }),
        ("pttl k", Command::TimeToLive { key: b"k", unit: Unit::Milliseconds }),
        ("persist k", Command::Persist { key: b"k" }),
        ("type k", Command::Type { key: b"k" }),
    ];
    for (line, expected) in table {
        decide(&Server::new(), line, |action| match action {
            Action::Data { slot, command, .. } => {
                assert_eq!(command, *expected, "{line}");
                assert_eq!(slot, Slot::of(b"k"), "{line}");
            }
            action => panic!("{line}: {action:?}"),
        });
    }
    decide(&Server::new(), "cluster countkeysinslot 5", |action| {
        assert!(
            matches!(action, Action::Data { slot, command: Command::CountInSlot { slot: 5 }, .. } if slot.number() == 5)
        );
    });
}

#[test]
fn arguments_that_do_not_fit_are_refused_as_by_redis() {
    let expire = |command| ErrorReply::InvalidExpire { command };
    let other = |text: &str| ErrorReply::Other(text.into());
    #[rustfmt::skip]
    let table: &[(&str, ErrorReply)] = &[
        ("set k v foo", ErrorReply::Syntax),
        ("set k v ex", ErrorReply::Syntax),
        ("set k v nx xx", ErrorReply::Syntax),
        ("set k v ex 1 px 1", ErrorReply::Syntax),
        ("set k v ex 1 keepttl", ErrorReply::Syntax),
        ("set k v keepttl ex 1", ErrorReply::Syntax),
        ("set k v ex x", ErrorReply::NotAnInteger),
        ("set k v ex 0", expire("set")),
        ("set k v px -1", expire("set")),
        ("set k v ex 9223372036854775807", expire("set")),
        ("set k v px 9223372036854775807", expire("set")),
        ("setex k 0 v", expire("setex")),
        ("psetex k 0 v", expire("psetex")),
        ("expire k x", ErrorReply::NotAnInteger),
        ("expire k 9223372036854775807", expire("expire")),
        ("pexpire k 9223372036854775807", expire("pexpire")),
        ("expire k 1 foo", other("ERR Unsupported option foo")),
        ("incrby k 01", ErrorReply::NotAnInteger),
        ("decrby k -9223372036854775808", other("ERR decrement would overflow")),
        ("mset a b c", other("ERR wrong number of arguments for 'mset' command")),
        ("mset a 1 b 2", ErrorReply::CrossSlot),
        ("del a b", ErrorReply::CrossSlot),
    ];
    for (line, expected) in table {
        decide(&Server::new(), line, |action| match action {
            Action::Reply(reply) => assert_eq!(reply, Reply::Error(expected.clone()), "{line}"),
            action => panic!("{line}: {action:?}"),
        });
    }
}

#[test]
fn the_topology_is_told_in_the_words_of_redis_cluster() {
    let server = Server::new();
    let [one, two, three] = [1, 2, 3].map(|node| EndpointId::of(node, 0).as_str().to_owned());
    let node =
        |host: u8, id: &str| format!("*4\r\n$8\r\n10.0.0.{host}\r\n:6379\r\n$40\r\n{id}\r\n*0\r\n");
    let entry = |start: u16, end: u16, nodes: [String; 2]| {
        format!("*4\r\n:{start}\r\n:{end}\r\n{}", nodes.concat())
    };
    // Neighbours of one leader are one entry; who leads anything is nobody's replica.
    let slots = [
        entry(0, 8191, [node(1, &one), node(3, &three)]),
        entry(8192, 12287, [node(2, &two), node(3, &three)]),
        entry(12288, 16383, [node(1, &one), node(3, &three)]),
    ];
    assert_eq!(
        server.answers("cluster slots"),
        format!("*3\r\n{}", slots.concat())
    );

    let nodes = format!(
        "{one} 10.0.0.1:6379@7379 myself,master - 0 0 9 connected 0-8191 12288-16383\n\
         {two} 10.0.0.2:6379@7379 master - 0 1700000000000 9 connected 8192-12287\n\
         {three} 10.0.0.3:6379@7379 slave,fail? {one} 0 0 9 disconnected\n"
    );
    assert_eq!(
        server.answers("cluster nodes"),
        format!("${}\r\n{nodes}\r\n", nodes.len())
    );
    assert_eq!(server.answers("cluster myid"), format!("$40\r\n{one}\r\n"));
    assert!(
        server
            .answers("cluster info")
            .contains("cluster_state:ok\r\n")
    );
    assert!(
        server
            .answers("cluster shards")
            .starts_with("*2\r\n*4\r\n$5\r\nslots\r\n*4\r\n:0\r\n:8191\r\n:12288\r\n")
    );
}

#[test]
fn a_range_without_a_leader_is_missing_and_the_cluster_fails() {
    let mut server = Server::new();
    server.topology.ranges[1].leader = None;
    let slots = server.answers("cluster slots");
    assert!(slots.starts_with("*3\r\n*4\r\n:0\r\n:4095\r\n"), "{slots}");
    assert!(!slots.contains(":8191\r\n"), "{slots}");
    let info = server.answers("cluster info");
    assert!(info.contains("cluster_state:fail\r\n"), "{info}");
    assert!(info.contains("cluster_slots_ok:12288\r\n"), "{info}");

    let slot = |number| Slot::new(number).unwrap();
    assert_eq!(server.topology.redirect(slot(4096)), ErrorReply::NoLeader);
    let moved = server.topology.redirect(slot(8192)).to_string();
    assert_eq!(moved, "MOVED 8192 10.0.0.2:6379");
    server.topology.ranges.pop();
    assert_eq!(
        server.topology.redirect(slot(16383)),
        ErrorReply::SlotNotServed
    );
}

#[test]
fn info_has_the_fields_that_tools_look_for() {
    let server = Server::new();
    let all = server.answers("info");
    for field in [
        "redis_version:",
        "redis_mode:cluster",
        "drakkar_version:1.2.3",
        "loading:0",
        "role:master",
        "connected_clients:0",
        "cluster_enabled:1",
        "db0:keys=5,expires=0",
        "raft_node_id:1",
        "raft_role:leader",
        "raft_current_term:7",
        "raft_num_voting_nodes:3",
        "raft_node1:id=2,state=connected,voting=yes,addr=10.0.0.2,port=7379",
        "raft_group4:role=leader,leader=1,term=7,commit=0,applied=0,last=0,persisted=0,keys=5,\
         floor=2,snapshot=3,fetching=0",
    ] {
        assert!(all.contains(&format!("\n{field}")), "{field} in {all}");
    }
    let raft = server.answers("info RAFT");
    assert!(
        raft.contains("\r\n# Raft\r\n") && !raft.contains("# Server"),
        "{raft}"
    );
    assert_eq!(server.answers("info nope"), "$0\r\n\r\n");
}

#[test]
fn a_reply_takes_the_form_its_command_was_asked_in() {
    let server = Server::new();
    let mut session = session();
    let view = server.view();
    let Action::Data { form, .. } = session.handle(&[b"setnx", b"k", b"v"], &view) else {
        panic!("a data command")
    };
    let Action::Reply(_) = session.handle(&[b"hello", b"3"], &view) else {
        panic!("a greeting")
    };
    let Action::Data { form: later, .. } = session.handle(&[b"get", b"k"], &view) else {
        panic!("a data command")
    };
    let bytes = |form: net::resp::Form, reply| {
        let mut out = Vec::new();
        form.encode(&reply, &mut out);
        String::from_utf8(out).unwrap()
    };
    assert_eq!(bytes(form, Reply::Ok), ":1\r\n");
    assert_eq!(bytes(form, Reply::Nil), ":0\r\n");
    assert_eq!(
        bytes(form, ErrorReply::Busy.into()),
        "-BUSY try again later\r\n"
    );
    assert_eq!(bytes(later, Reply::Nil), "_\r\n");
}

#[test]
fn what_a_client_says_about_itself_is_bounded() {
    let server = Server::new();
    let name = "n".repeat(1025);
    let expected = "-ERR Client names cannot be longer than 1024 bytes\r\n";
    assert_eq!(server.answers(&format!("client setname {name}")), expected);
    assert_eq!(server.answers(&format!("hello 3 setname {name}")), expected);
    let many = "get ".repeat(1025);
    let expected = "-ERR more than 1024 command names\r\n";
    assert_eq!(server.answers(&format!("command info {many}")), expected);
    assert_eq!(server.answers(&format!("command docs {many}")), expected);
}

#[test]
fn random_commands_never_panic() {
    let words: Vec<&[u8]> =
        "get set setex psetex setnx getset mget mset del exists expire pexpire \
        incrby decrby hello auth client cluster command config info select ping echo wait slowlog \
        latency memory acl function kill id list type reply on off skip setname setinfo lib-name \
        slots shards nodes keyslot countkeysinslot replicas getkeys docs count filterby pattern * \
        acl cat getuser default nx xx ex px exat pxat keepttl 0 1 -1 2 3 16384 9223372036854775807 \
        -9223372036854775808 help reset quit readonly tracking caching"
            .split(' ')
            .map(str::as_bytes)
            .chain([b"".as_slice(), b"\xff\0", b"{", b"{}", b"{a}"])
            .collect();
    let mut state = 88_172_645_463_325_252u64;
    let mut number = |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state % below as u64).unwrap()
    };
    let servers = [Server::new(), Server::standalone()];
    let mut sessions = [session(), session()];
    let mut out = Vec::new();
    for _ in 0..50_000 {
        let count = number(6);
        let arguments: Vec<&[u8]> = (0..count).map(|_| words[number(words.len())]).collect();
        for (server, session) in servers.iter().zip(&mut sessions) {
            if let Action::Reply(reply) = session.handle(&arguments, &server.view()) {
                out.clear();
                encode(&reply, session.version(), &mut out);
                assert!(out.ends_with(b"\r\n"));
            }
        }
    }
}
