//! What is given beside a replica URL: parameters, environment, ownership.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::Arc;

use crate::clock::{Clock, Random, SeededRandom, SystemClock};
use crate::os::Access;

/// The environment, injected: the library reads no variable by itself.
pub trait Env: Send + Sync + Debug {
    /// The value of `name`; none when unset or not UTF-8.
    fn var(&self, name: &str) -> Option<String>;

    /// Every variable, for credential chains that look for names of their own.
    fn vars(&self) -> Vec<(String, String)>;

    /// A variable that is set and not empty.
    fn filled(&self, name: &str) -> Option<String> {
        self.var(name).filter(|v| !v.is_empty())
    }
}

/// The environment of this process, read at each look.
#[derive(Debug, Clone, Copy, Default)]
pub struct ProcessEnv;

impl Env for ProcessEnv {
    fn var(&self, name: &str) -> Option<String> {
        std::env::var(name).ok()
    }

    fn vars(&self) -> Vec<(String, String)> {
        let utf8 = |(k, v): (std::ffi::OsString, std::ffi::OsString)| {
            Some((k.into_string().ok()?, v.into_string().ok()?))
        };
        std::env::vars_os().filter_map(utf8).collect()
    }
}

/// A fixed set of variables; `Debug` prints only their names.
#[derive(Clone, Default)]
pub struct FixedEnv(BTreeMap<String, String>);

impl FixedEnv {
    /// The variables `vars` and no others.
    pub fn new<K: Into<String>, V: Into<String>>(vars: impl IntoIterator<Item = (K, V)>) -> Self {
        FixedEnv(vars.into_iter().map(|(k, v)| (k.into(), v.into())).collect())
    }
}

impl Debug for FixedEnv {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

impl Env for FixedEnv {
    fn var(&self, name: &str) -> Option<String> {
        self.0.get(name).cloned()
    }

    fn vars(&self) -> Vec<(String, String)> {
        self.0.clone().into_iter().collect()
    }
}

/// A pair of access keys; `Debug` shows neither.
#[derive(Clone, PartialEq, Eq)]
pub struct AccessKeys {
    /// The key's name.
    pub id: String,
    /// The key.
    pub secret: String,
}

impl Debug for AccessKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("AccessKeys(..)")
    }
}

/// What [`open`](super::open) takes beside the URL.
#[derive(Clone)]
pub struct ReplicaOptions {
    /// Parameters such as `endpoint` or `region`; they win over the same names
    /// in the URL's query. `Debug` prints only their names.
    pub parameters: Vec<(String, String)>,
    /// Keys that sign requests; without them the environment's.
    pub keys: Option<AccessKeys>,
    /// Where credentials and endpoints not given otherwise come from.
    pub env: Arc<dyn Env>,
    /// Modes and owner of files that a `file` replica creates.
    pub access: Access,
    /// Where the delays of retries pass.
    pub clock: Arc<dyn Clock>,
    /// Where the jitter of retries comes from.
    pub random: Arc<dyn Random>,
}

impl Default for ReplicaOptions {
    fn default() -> Self {
        ReplicaOptions {
            parameters: Vec::new(),
            keys: None,
            env: Arc::new(ProcessEnv),
            access: Access::PRIVATE,
            clock: Arc::new(SystemClock),
            random: Arc::new(SeededRandom::from_system()),
        }
    }
}

impl Debug for ReplicaOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names: Vec<&str> = self.parameters.iter().map(|(k, _)| k.as_str()).collect();
        f.debug_struct("ReplicaOptions")
            .field("parameters", &names)
            .field("access", &self.access)
            .finish_non_exhaustive()
    }
}
