//! The keys of a file: what each holds, whether it does anything here, and how
//! mappings are read by them.

use super::scalar;
use super::yaml::{Entry, Node, Problem, Value as Yaml};

/// What a key holds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Kind {
    Text,
    Bool,
    Int,
    /// Nanoseconds.
    Duration(Bound),
    Bytes,
    Texts,
    Map(&'static [Key]),
    Maps(&'static [Key]),
}

/// What a duration must be.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Bound {
    None,
    NotNegative,
    Positive,
    Minute,
}

/// What comes of a key.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Use {
    Applied,
    /// Litestream's daemon does something with it, this library does not.
    Daemon,
    /// It never means anything any more.
    Obsolete,
    /// Nobody can give what it asks for.
    Refused(&'static str),
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Key {
    pub name: &'static str,
    pub kind: Kind,
    pub use_: Use,
}

const fn key(name: &'static str, kind: Kind) -> Key {
    Key { name, kind, use_: Use::Applied }
}

const fn daemon(name: &'static str, kind: Kind) -> Key {
    Key { name, kind, use_: Use::Daemon }
}

use Bound::{Minute, NotNegative, Positive};
use Kind::{Bool, Bytes, Duration, Int, Map, Maps, Text, Texts};

const AGE: Key = Key {
    name: "age",
    kind: Text,
    use_: Use::Refused(
        "age encryption is not supported, and ignoring it would store everything unencrypted: \
         remove the key, and use encryption of the storage (sse-kms-key-id, sse-customer-key)",
    ),
};

const SNAPSHOT: &[Key] =
    &[daemon("interval", Duration(Positive)), daemon("retention", Duration(Positive))];
const SOCKET: &[Key] = &[daemon("enabled", Bool), daemon("path", Text), daemon("permissions", Int)];
const LOGGING: &[Key] =
    &[daemon("level", Text), daemon("type", Text), daemon("stderr", Bool), daemon("source", Bool)];

/// Keys at the top of a file, besides the shared ones of replicas.
pub(super) const TOP: &[Key] = &[
    key("dbs", Maps(DB)),
    daemon("addr", Text),
    daemon("socket", Map(SOCKET)),
    daemon("levels", Maps(&[daemon("interval", Duration(Positive))])),
    daemon("snapshot", Map(SNAPSHOT)),
    daemon("validation", Map(&[daemon("interval", Duration(Bound::None))])),
    daemon("l0-retention", Duration(NotNegative)),
    daemon("l0-retention-check-interval", Duration(Positive)),
    daemon("verify-compaction", Bool),
    daemon("retention", Map(&[daemon("enabled", Bool)])),
    daemon("heartbeat-url", Text),
    daemon("heartbeat-interval", Duration(Minute)),
    daemon("exec", Text),
    daemon("logging", Map(LOGGING)),
    daemon("mcp-addr", Text),
    daemon("shutdown-sync-timeout", Duration(NotNegative)),
    daemon("shutdown-sync-interval", Duration(Positive)),
];

/// Keys of an entry of `dbs`.
pub(super) const DB: &[Key] = &[
    key("path", Text),
    key("dir", Text),
    key("pattern", Text),
    key("recursive", Bool),
    daemon("watch", Bool),
    daemon("snapshot", Map(SNAPSHOT)),
    key("meta-path", Text),
    key("meta-dir", Text),
    daemon("monitor-interval", Duration(Bound::None)),
    daemon("checkpoint-interval", Duration(Bound::None)),
    daemon("busy-timeout", Duration(Bound::None)),
    daemon("min-checkpoint-page-count", Int),
    daemon("truncate-page-n", Int),
    daemon("max-sync-wal-bytes", Int),
    daemon("restore-if-db-not-exists", Bool),
    key("replica", Map(REPLICA)),
    key("replicas", Maps(REPLICA)),
];

/// Keys of replicas that also stand at the top, for all replicas.
pub(super) const SHARED: &[Key] = &[
    key("sync-interval", Duration(Positive)),
    daemon("validation-interval", Duration(Bound::None)),
    daemon("max-sync-ltx-files", Int),
    daemon("auto-recover", Bool),
    key("access-key-id", Text),
    key("secret-access-key", Text),
    key("region", Text),
    key("bucket", Text),
    key("endpoint", Text),
    key("force-path-style", Bool),
    key("sign-payload", Bool),
    // No request of ours has that header, so that both values are kept to.
    key("sign-accept-encoding", Bool),
    key("require-content-md5", Bool),
    key("skip-verify", Bool),
    key("storage-class", Text),
    key("sse-customer-algorithm", Text),
    key("sse-customer-key", Text),
    key("sse-customer-key-path", Text),
    key("sse-kms-key-id", Text),
    key("account-name", Text),
    key("account-key", Text),
    key("sas-token", Text),
    key("host", Text),
    key("user", Text),
    key("password", Text),
    key("key-path", Text),
    key("concurrent-writes", Bool),
    key("jwt", Text),
    key("seed", Text),
    key("creds", Text),
    key("nkey", Text),
    key("username", Text),
    key("token", Text),
    key("tls", Bool),
    key("root-cas", Texts),
    key("client-cert", Text),
    key("client-key", Text),
    key("max-reconnects", Int),
    key("reconnect-wait", Duration(Bound::None)),
    key("timeout", Duration(Bound::None)),
    AGE,
];

/// Keys of one replica only.
const OWN: &[Key] = &[
    key("type", Text),
    key("path", Text),
    key("url", Text),
    Key { name: "name", kind: Text, use_: Use::Obsolete },
    key("part-size", Bytes),
    key("concurrency", Int),
    key("host-key", Text),
    key("webdav-url", Text),
    key("webdav-username", Text),
    key("webdav-password", Text),
];

const REPLICA: &[Key] = &joined();

const fn joined() -> [Key; OWN.len() + SHARED.len()] {
    let mut all = [AGE; OWN.len() + SHARED.len()];
    let mut n = 0;
    while n < OWN.len() {
        all[n] = OWN[n];
        n += 1;
    }
    while n < all.len() {
        all[n] = SHARED[n - OWN.len()];
        n += 1;
    }
    all
}

/// A value that fits its key.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    Text(String),
    Bool(bool),
    Int(i64),
    Nanos(i64),
    Bytes(u64),
    /// A list of texts, which no replica of ours takes.
    Texts,
    Map(Fields),
    Maps(Vec<Fields>),
}

/// Something that the owner of a file may want to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    /// In which line, from 1.
    pub line: usize,
    /// What.
    pub text: String,
}

/// A mapping whose keys are all known and whose values fit them. Keys without a
/// value are left out.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct Fields {
    pub line: usize,
    values: Vec<(&'static str, usize, Value)>,
}

impl Fields {
    fn get(&self, name: &str) -> Option<&(&'static str, usize, Value)> {
        self.values.iter().find(|(key, ..)| *key == name)
    }

    /// Names and lines of all that is set.
    pub(super) fn names(&self) -> impl Iterator<Item = (&'static str, usize)> {
        self.values.iter().map(|(name, line, _)| (*name, *line))
    }

    /// The line of a key, else that of the mapping.
    pub(super) fn line_of(&self, name: &str) -> usize {
        self.get(name).map_or(self.line, |(_, line, _)| *line)
    }

    /// A text that is not empty.
    pub(super) fn text(&self, name: &str) -> Option<&str> {
        match &self.get(name)?.2 {
            Value::Text(text) if !text.is_empty() => Some(text),
            _ => None,
        }
    }

    pub(super) fn bool(&self, name: &str) -> Option<bool> {
        match self.get(name)?.2 {
            Value::Bool(value) => Some(value),
            _ => None,
        }
    }

    pub(super) fn int(&self, name: &str) -> Option<i64> {
        match self.get(name)?.2 {
            Value::Int(value) => Some(value),
            _ => None,
        }
    }

    pub(super) fn bytes(&self, name: &str) -> Option<u64> {
        match self.get(name)?.2 {
            Value::Bytes(value) => Some(value),
            _ => None,
        }
    }

    pub(super) fn nanos(&self, name: &str) -> Option<i64> {
        match self.get(name)?.2 {
            Value::Nanos(value) => Some(value),
            _ => None,
        }
    }

    pub(super) fn map(&self, name: &str) -> Option<&Fields> {
        match &self.get(name)?.2 {
            Value::Map(fields) => Some(fields),
            _ => None,
        }
    }

    pub(super) fn maps(&self, name: &str) -> &[Fields] {
        match self.get(name) {
            Some((_, _, Value::Maps(items))) => items,
            _ => &[],
        }
    }

    /// Takes from `global` what is not set here and not empty; `skip-verify: true`
    /// in any case.
    pub(super) fn inherit(&mut self, global: &Fields) {
        for (name, line, value) in &global.values {
            let shared = SHARED.iter().any(|key| key.name == *name);
            let is_set = |(key, _, own): &(&str, usize, Value)| {
                key == name && !matches!(own, Value::Text(text) if text.is_empty())
            };
            let forced = *name == "skip-verify" && *value == Value::Bool(true);
            if shared && (forced || !self.values.iter().any(is_set)) {
                self.values.retain(|(key, ..)| key != name);
                self.values.push((name, *line, value.clone()));
            }
        }
    }
}

/// Reads mappings, and gathers notes.
#[derive(Default)]
pub(super) struct Reader {
    pub notes: Vec<Note>,
}

impl Reader {
    /// Reads the mapping at `place`, whose keys are all among `keys`.
    pub(super) fn fields(
        &mut self,
        node: &Node,
        keys: &[&[Key]],
        place: &str,
    ) -> Result<Fields, Problem> {
        let mut fields = Fields { line: node.line, values: Vec::new() };
        if node.is_null() {
            return Ok(fields);
        }
        let Yaml::Map(entries) = &node.value else {
            return Err(Problem::new(node.line, format!("{place}: expected keys and values")));
        };
        for entry in entries {
            let known = keys.iter().flat_map(|k| k.iter()).find(|k| k.name == entry.key);
            let Some(key) = known else { return Err(unknown(entry, keys, place)) };
            let path = match place {
                "" => key.name.to_owned(),
                _ => format!("{place}.{}", key.name),
            };
            let value = self.value(entry, key, &path)?;
            if fields.get(key.name).is_some() {
                self.note(entry.line, format!("{path} is given again; the last one counts"));
                fields.values.retain(|(name, ..)| *name != key.name);
            }
            if let Some(value) = value {
                fields.values.push((key.name, entry.line, value));
            }
        }
        Ok(fields)
    }

    fn note(&mut self, line: usize, text: String) {
        self.notes.push(Note { line, text });
    }

    fn value(&mut self, entry: &Entry, key: &Key, path: &str) -> Result<Option<Value>, Problem> {
        if let Use::Refused(why) = key.use_ {
            return Err(Problem::new(entry.line, format!("{path}: {why}")));
        }
        if entry.node.is_null() {
            return Ok(None);
        }
        let before = self.notes.len();
        let value = self.fitting(&entry.node, key, path)?;
        match key.use_ {
            Use::Daemon => {
                // One note for the mapping, none for each of its keys.
                self.notes.truncate(before);
                let text = format!("{path} concerns only Litestream's daemon: no effect here");
                self.note(entry.line, text);
            }
            Use::Obsolete => self.note(entry.line, format!("{path} has no meaning any more")),
            _ => {}
        }
        Ok(Some(value))
    }

    fn fitting(&mut self, node: &Node, key: &Key, path: &str) -> Result<Value, Problem> {
        let mismatch =
            |expected: &str| Problem::new(node.line, format!("{path}: expected {expected}"));
        match (key.kind, &node.value) {
            (Map(keys), _) => Ok(Value::Map(self.fields(node, &[keys], path)?)),
            (Maps(keys), Yaml::List(items)) => {
                let mut all = Vec::new();
                for (n, item) in items.iter().enumerate() {
                    let place = format!("{path}[{n}]");
                    if item.is_null() {
                        return Err(Problem::new(item.line, format!("{place} is empty")));
                    }
                    all.push(self.fields(item, &[keys], &place)?);
                }
                Ok(Value::Maps(all))
            }
            (Maps(_), _) => Err(mismatch("a list")),
            (Texts, Yaml::List(items)) => {
                match items.iter().all(|i| matches!(i.value, Yaml::Scalar { .. })) {
                    true => Ok(Value::Texts),
                    false => Err(mismatch("a list of texts")),
                }
            }
            (Texts, _) => Err(mismatch("a list of texts")),
            (_, Yaml::Scalar { text, plain }) => self.scalar(node.line, text, *plain, key, path),
            (Text, _) => Err(mismatch("a text")),
            _ => Err(mismatch("one value")),
        }
    }

    fn scalar(
        &mut self,
        line: usize,
        text: &str,
        plain: bool,
        key: &Key,
        path: &str,
    ) -> Result<Value, Problem> {
        let not = |what: &str| Problem::new(line, format!("{path}: not {what} (got {text:?})"));
        match key.kind {
            Bool => {
                let value = plain.then(|| scalar::boolean(text)).flatten();
                value.map(Value::Bool).ok_or_else(|| not("true or false"))
            }
            Int => {
                let value = plain.then(|| scalar::integer(text)).flatten();
                value.map(Value::Int).ok_or_else(|| not("a whole number"))
            }
            Bytes => {
                let value = scalar::bytes(text).map(Value::Bytes);
                value.ok_or_else(|| not("a size such as 5MB or 16MiB"))
            }
            Duration(bound) => {
                let nanos = scalar::duration_nanos(text)
                    .ok_or_else(|| not("a duration such as 250ms, 1s or 1h30m"))?;
                check(bound, nanos)
                    .map_err(|rule| Problem::new(line, format!("{path}: {rule} (got {text})")))?;
                if scalar::integer(text).is_some_and(|n| n != 0) {
                    let hint = format!("{path}: {text} without a unit is nanoseconds");
                    self.note(line, hint);
                }
                Ok(Value::Nanos(nanos))
            }
            _ => Ok(Value::Text(text.to_owned())),
        }
    }
}

fn check(bound: Bound, nanos: i64) -> Result<(), &'static str> {
    const MINUTE: i64 = 60_000_000_000;
    match bound {
        Positive if nanos <= 0 => Err("must be greater than 0"),
        NotNegative if nanos < 0 => Err("must not be negative"),
        Minute if nanos < MINUTE => Err("must be at least 1m"),
        _ => Ok(()),
    }
}

/// The error about a key that nobody knows.
///
/// A value can end up in the place of a key, so only what looks like a key is
/// repeated.
fn unknown(entry: &Entry, keys: &[&[Key]], place: &str) -> Problem {
    let like_a_key = entry.key.len() <= 40
        && entry.key.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
    let name = if like_a_key { format!("{:?}", entry.key) } else { "(not a word)".to_owned() };
    let at = if place.is_empty() { "the top level" } else { place };
    let hint = match OWN.iter().any(|k| k.name == entry.key) && place.is_empty() {
        true => "it belongs into a replica".to_owned(),
        false => {
            let names: Vec<&str> = keys.iter().flat_map(|k| k.iter()).map(|k| k.name).collect();
            format!("known: {}", names.join(", "))
        }
    };
    Problem::new(entry.line, format!("unknown key {name} at {at} ({hint})"))
}
