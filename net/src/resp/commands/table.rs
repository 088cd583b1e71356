//! The table itself and the way from a name to its row.

/// What a command does here. Several names may share one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::resp) enum Verb {
    // On data.
    Append,
    Decr,
    DecrBy,
    Delete,
    Exists,
    Expire,
    Get,
    GetSet,
    Incr,
    IncrBy,
    MultiGet,
    MultiSet,
    Persist,
    PExpire,
    PSetEx,
    PTtl,
    Set,
    SetEx,
    SetNx,
    Strlen,
    Ttl,
    Type,
    // On all data.
    DbSize,
    FlushAll,
    // On the connection and the server.
    Acl,
    Asking,
    Auth,
    Client,
    Cluster,
    Command,
    Config,
    Echo,
    Function,
    Hello,
    Hostile,
    Info,
    LastSave,
    Latency,
    Memory,
    Ping,
    Quit,
    ReadOnly,
    ReadWrite,
    Reset,
    Role,
    Select,
    SlowLog,
    Time,
    Wait,
}

/// One row: see `COMMAND` in the Redis command reference for the meaning of the fields.
#[derive(Debug)]
pub(in crate::resp) struct Spec {
    /// In lower case.
    pub(in crate::resp) name: &'static str,
    pub(in crate::resp) verb: Verb,
    /// Arguments including the name; at least so many if negative.
    pub(in crate::resp) arity: i8,
    /// Separated by spaces.
    pub(in crate::resp) flags: &'static str,
    /// 0: no keys.
    pub(in crate::resp) first_key: u8,
    /// From the end if negative.
    pub(in crate::resp) last_key: i8,
    pub(in crate::resp) key_step: u8,
    /// Separated by spaces.
    pub(in crate::resp) categories: &'static str,
    pub(in crate::resp) group: &'static str,
    pub(in crate::resp) since: &'static str,
    pub(in crate::resp) summary: &'static str,
}

macro_rules! table {
    ($($name:literal $verb:ident $arity:literal $keys:tt $flags:literal $categories:literal
       $group:literal $since:literal $summary:literal;)*) => {
        /// Every command, by name.
        pub(in crate::resp) const TABLE: &[Spec] = &[$(Spec {
            name: $name,
            verb: Verb::$verb,
            arity: $arity,
            flags: $flags,
            first_key: $keys.0,
            last_key: $keys.1,
            key_step: $keys.2,
            categories: $categories,
            group: $group,
            since: $since,
            summary: $summary,
        }),*];
    };
}

const NO_KEYS: (u8, i8, u8) = (0, 0, 0);
const ONE_KEY: (u8, i8, u8) = (1, 1, 1);
const ALL_KEYS: (u8, i8, u8) = (1, -1, 1);
const PAIRS: (u8, i8, u8) = (1, -1, 2);

#[rustfmt::skip]
table! {
    "acl" Acl -2 NO_KEYS "admin noscript loading stale" "@admin @slow @dangerous" "server" "6.0.0" "Shows who the client is.";
    "append" Append 3 ONE_KEY "write denyoom fast" "@write @string @fast" "string" "2.0.0" "Appends to the value of a key, or creates it.";
    "asking" Asking 1 NO_KEYS "fast" "@fast @connection" "cluster" "3.0.0" "Accepted; slots do not move between nodes.";
    "auth" Auth -2 NO_KEYS "noscript loading stale fast no_auth allow_busy" "@fast @connection" "connection" "1.0.0" "Says the password.";
    "client" Client -2 NO_KEYS "noscript loading stale" "@slow @connection" "connection" "2.4.0" "Shows and changes client connections.";
    "cluster" Cluster -2 NO_KEYS "loading stale" "@slow" "cluster" "3.0.0" "Shows who serves which slots.";
    "command" Command -1 NO_KEYS "loading stale" "@slow @connection" "server" "2.8.13" "Describes the commands.";
    "config" Config -2 NO_KEYS "admin noscript loading stale" "@admin @slow @dangerous" "server" "2.0.0" "Shows settings by their Redis names.";
    "dbsize" DbSize 1 NO_KEYS "readonly fast" "@keyspace @read @fast" "server" "1.0.0" "Counts the keys of this node, or of the cluster if it is a proxy.";
    "decr" Decr 2 ONE_KEY "write denyoom fast" "@write @string @fast" "string" "1.0.0" "Takes one from an integer.";
    "decrby" DecrBy 3 ONE_KEY "write denyoom fast" "@write @string @fast" "string" "1.0.0" "Takes a number from an integer.";
    "del" Delete -2 ALL_KEYS "write" "@keyspace @write @slow" "generic" "1.0.0" "Deletes keys and counts those that existed.";
    "echo" Echo 2 NO_KEYS "loading stale fast" "@fast @connection" "connection" "1.0.0" "Answers with its argument.";
    "exists" Exists -2 ALL_KEYS "readonly fast" "@keyspace @read @fast" "generic" "1.0.0" "Counts the keys that exist.";
    "expire" Expire -3 ONE_KEY "write fast" "@keyspace @write @fast" "generic" "1.0.0" "Lets a key expire after seconds.";
    "flushall" FlushAll -1 NO_KEYS "write" "@keyspace @write @slow @dangerous" "server" "1.0.0" "Deletes all keys of this node, or of the cluster if it is a proxy.";
    "flushdb" FlushAll -1 NO_KEYS "write" "@keyspace @write @slow @dangerous" "server" "1.0.0" "Deletes all keys of this node, or of the cluster if it is a proxy.";
    "function" Function -2 NO_KEYS "noscript" "@slow @scripting" "scripting" "7.0.0" "There are no functions: only FLUSH and LIST.";
    "get" Get 2 ONE_KEY "readonly fast" "@read @string @fast" "string" "1.0.0" "Returns the value of a key.";
    "getset" GetSet 3 ONE_KEY "write denyoom fast" "@write @string @fast" "string" "1.0.0" "Sets a key and returns its value of before.";
    "hello" Hello -1 NO_KEYS "noscript loading stale fast no_auth allow_busy" "@fast @connection" "connection" "6.0.0" "Chooses the version of the protocol.";
    "host:" Hostile -1 NO_KEYS "loading stale" "@fast" "connection" "3.0.0" "Closes the connection of an HTTP client.";
    "incr" Incr 2 ONE_KEY "write denyoom fast" "@write @string @fast" "string" "1.0.0" "Adds one to an integer.";
    "incrby" IncrBy 3 ONE_KEY "write denyoom fast" "@write @string @fast" "string" "1.0.0" "Adds a number to an integer.";
    "info" Info -1 NO_KEYS "loading stale" "@slow @dangerous" "server" "1.0.0" "Shows figures about the server.";
    "lastsave" LastSave 1 NO_KEYS "loading stale fast" "@admin @fast @dangerous" "server" "1.0.0" "Unix time: every acknowledged write is saved.";
    "latency" Latency -2 NO_KEYS "admin noscript loading stale" "@admin @slow @dangerous" "server" "2.8.13" "No latency events are kept.";
    "memory" Memory -2 NO_KEYS "readonly" "@read @slow" "server" "4.0.0" "Shows memory figures.";
    "mget" MultiGet -2 ALL_KEYS "readonly fast" "@read @string @fast" "string" "1.0.0" "Returns the values of keys.";
    "mset" MultiSet -3 PAIRS "write denyoom" "@write @string @slow" "string" "1.0.1" "Sets keys to values, all at once.";
    "persist" Persist 2 ONE_KEY "write fast" "@keyspace @write @fast" "generic" "2.2.0" "Lets a key not expire.";
    "pexpire" PExpire -3 ONE_KEY "write fast" "@keyspace @write @fast" "generic" "2.6.0" "Lets a key expire after milliseconds.";
    "ping" Ping -1 NO_KEYS "fast" "@fast @connection" "connection" "1.0.0" "Answers.";
    "post" Hostile -1 NO_KEYS "loading stale" "@fast" "connection" "3.0.0" "Closes the connection of an HTTP client.";
    "psetex" PSetEx 4 ONE_KEY "write denyoom" "@write @string @slow" "string" "2.6.0" "Sets a key that expires after milliseconds.";
    "pttl" PTtl 2 ONE_KEY "readonly fast" "@keyspace @read @fast" "generic" "2.6.0" "Returns how many milliseconds a key has left.";
    "quit" Quit -1 NO_KEYS "noscript loading stale fast no_auth allow_busy" "@fast @connection" "connection" "1.0.0" "Closes the connection.";
    "readonly" ReadOnly 1 NO_KEYS "loading stale fast" "@fast @connection" "cluster" "3.0.0" "Lets this connection read from followers.";
    "readwrite" ReadWrite 1 NO_KEYS "loading stale fast" "@fast @connection" "cluster" "3.0.0" "Lets this connection read from leaders only.";
    "reset" Reset 1 NO_KEYS "noscript loading stale fast no_auth allow_busy" "@fast @connection" "connection" "6.2.0" "Makes the connection as new.";
    "role" Role 1 NO_KEYS "noscript loading stale fast" "@admin @fast @dangerous" "server" "2.8.12" "Says whether this endpoint leads.";
    "select" Select 2 NO_KEYS "loading stale fast" "@fast @connection" "connection" "1.0.0" "Accepts database 0, the only one.";
    "set" Set -3 ONE_KEY "write denyoom" "@write @string @slow" "string" "1.0.0" "Sets a key to a value.";
    "setex" SetEx 4 ONE_KEY "write denyoom" "@write @string @slow" "string" "2.0.0" "Sets a key that expires after seconds.";
    "setnx" SetNx 3 ONE_KEY "write denyoom fast" "@write @string @fast" "string" "1.0.0" "Sets a key that does not exist.";
    "slowlog" SlowLog -2 NO_KEYS "admin loading stale" "@admin @slow @dangerous" "server" "2.2.12" "No slow commands are kept.";
    "strlen" Strlen 2 ONE_KEY "readonly fast" "@read @string @fast" "string" "2.2.0" "Returns the length of a value.";
    "time" Time 1 NO_KEYS "loading stale fast" "@fast" "server" "2.6.0" "Returns the server's time.";
    "touch" Exists -2 ALL_KEYS "readonly fast" "@keyspace @read @fast" "generic" "3.2.1" "Counts the keys that exist.";
    "ttl" Ttl 2 ONE_KEY "readonly fast" "@keyspace @read @fast" "generic" "1.0.0" "Returns how many seconds a key has left.";
    "type" Type 2 ONE_KEY "readonly fast" "@keyspace @read @fast" "generic" "1.0.0" "Returns the type of a value.";
    "unlink" Delete -2 ALL_KEYS "write fast" "@keyspace @write @fast" "generic" "4.0.0" "Deletes keys and counts those that existed.";
    "wait" Wait 3 NO_KEYS "noscript" "@slow @connection" "generic" "3.0.0" "Returns how many replicas hold every acknowledged write.";
}

/// Longest name, so that a longer one is not looked at.
const NAME_MAX: usize = 9;
/// Twice the table and more, so that a probe ends soon.
const INDEX_SIZE: usize = 256;
const NOBODY: u8 = u8::MAX;

const _: () = assert!(TABLE.len() < NOBODY as usize);
const _: () = assert!(TABLE.len() * 2 <= INDEX_SIZE);

/// Rows by the hash of their names, with linear probing.
static INDEX: [u8; INDEX_SIZE] = {
    let mut index = [NOBODY; INDEX_SIZE];
    let mut row = 0u8;
    while (row as usize) < TABLE.len() {
        let name = TABLE[row as usize].name.as_bytes();
        assert!(name.len() <= NAME_MAX, "NAME_MAX is the longest name");
        let mut at = bucket(fold(name));
        while index[at] != NOBODY {
            at = (at + 1) % INDEX_SIZE;
        }
        index[at] = row;
        row += 1;
    }
    index
};

/// The last eight letters of the name in lower case. Other bytes may look like letters.
const fn fold(name: &[u8]) -> u64 {
    let mut folded = 0u64;
    let mut at = 0;
    while at < name.len() {
        folded = folded << 8 | (name[at] | 0x20) as u64;
        at += 1;
    }
    folded
}

const fn bucket(folded: u64) -> usize {
    (folded.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as usize
}

/// The row of a name in any case.
#[inline]
pub(in crate::resp) fn find(name: &[u8]) -> Option<&'static Spec> {
    if name.is_empty() || name.len() > NAME_MAX {
        return None;
    }
    let mut at = bucket(fold(name));
    loop {
        let spec = TABLE.get(usize::from(INDEX[at]))?;
        if spec.name.as_bytes().eq_ignore_ascii_case(name) {
            return Some(spec);
        }
        at = (at + 1) % INDEX_SIZE;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_found_in_any_case_and_nothing_else_is() {
        for spec in TABLE {
            assert_eq!(
                find(spec.name.as_bytes()).map(|found| found.name),
                Some(spec.name)
            );
            let upper = spec.name.to_ascii_uppercase();
            assert_eq!(
                find(upper.as_bytes()).map(|found| found.name),
                Some(spec.name)
            );
        }
        for name in [
            "",
            "g",
            "gett",
            "hget",
            "eval",
            "\0et",
            "7et",
            "a name that is far too long",
        ] {
            assert!(find(name.as_bytes()).is_none(), "{name:?}");
        }
        assert!(TABLE.is_sorted_by_key(|spec| spec.name));
    }
}
