//! What a positional argument means: a replica URL or a database path.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::failure::Failure;
use crate::replica_client::{self, Env, ReplicaClient, ReplicaOptions, url};

/// Gives the replica of databases that are named by path.
pub(super) const URL_VARIABLE: &str = "LITESTREAM_REPLICA_URL";

/// A replica to read, and the database it belongs to if that was named.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Source {
    /// The replica's URL; may hold credentials.
    pub(super) url: String,
    /// The database's absolute path, when the argument was a path.
    pub(super) database: Option<PathBuf>,
}

impl Source {
    /// Reads a positional argument.
    ///
    /// # Errors
    /// When it is a path and no replica is configured for it.
    pub(super) fn resolve(argument: &str, env: &dyn Env) -> Result<Source, Failure> {
        if is_replica_url(argument) {
            return Ok(Source { url: argument.to_owned(), database: None });
        }
        let database = database_path(argument, env)?;
        match env.filled(URL_VARIABLE) {
            Some(template) => {
                Ok(Source { url: expand(&template, &database), database: Some(database) })
            }
            None => Err(Failure::usage(
                format!(
                    "no replica is known for {}: {URL_VARIABLE} is not set",
                    database.display()
                ),
                "litestream restore -o PATH s3://BUCKET/PATH",
            )),
        }
    }

    /// Connects to the replica.
    ///
    /// # Errors
    /// When the URL is wrong.
    pub(super) fn open(&self, env: Arc<dyn Env>) -> Result<Arc<dyn ReplicaClient>, Failure> {
        let options = ReplicaOptions { env, ..ReplicaOptions::default() };
        Ok(replica_client::open(&self.url, &options)?)
    }
}

fn is_replica_url(argument: &str) -> bool {
    url::is_url(argument) && strip_sqlite(argument).is_none()
}

/// The path in `sqlite://PATH`.
fn strip_sqlite(argument: &str) -> Option<&str> {
    argument.strip_prefix("sqlite://").or_else(|| argument.strip_prefix("sqlite3://"))
}

/// The absolute path that an argument names; `~` is the home directory.
///
/// # Errors
/// When it is empty.
pub(super) fn database_path(argument: &str, env: &dyn Env) -> Result<PathBuf, Failure> {
    let text = strip_sqlite(argument).unwrap_or(argument);
    let expanded = match (text.strip_prefix('~'), env.filled("HOME")) {
        (Some(rest), Some(home)) if rest.is_empty() || rest.starts_with('/') => home + rest,
        _ => text.to_owned(),
    };
    std::path::absolute(&expanded)
        .map_err(|e| Failure::new(format!("invalid database path {argument:?}: {e}")))
}

/// `{name}` becomes the file name, `{path}` the canonical path.
fn expand(template: &str, database: &Path) -> String {
    let canonical = canonical(database);
    let name = canonical.file_name().unwrap_or_default().to_string_lossy();
    template.replace("{name}", &name).replace("{path}", &canonical.to_string_lossy())
}

/// The canonical path, also of a file that does not exist any more.
fn canonical(path: &Path) -> PathBuf {
    path.canonicalize().unwrap_or_else(|_| match (path.parent(), path.file_name()) {
        (Some(dir), Some(name)) => dir.canonicalize().map_or(path.to_owned(), |d| d.join(name)),
        _ => path.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::replica_client::FixedEnv;

    #[test]
    fn urls_are_replicas_and_paths_need_one() {
        let none = FixedEnv::default();
        let source = Source::resolve("s3://bucket/app", &none).unwrap();
        assert_eq!((source.url.as_str(), source.database), ("s3://bucket/app", None));
        let failure = Source::resolve("/data/app.db", &none).unwrap_err();
        assert!(failure.message.contains("/data/app.db"), "{failure:?}");
        assert!(failure.message.contains(URL_VARIABLE), "{failure:?}");
    }

    #[test]
    fn placeholders_stand_for_the_database() {
        let env = FixedEnv::new([(URL_VARIABLE, "s3://b/{name}{path}"), ("HOME", "/nowhere/me")]);
        for (argument, url) in [
            ("/nowhere/x/app.db", "s3://b/app.db/nowhere/x/app.db"),
            ("~/app.db", "s3://b/app.db/nowhere/me/app.db"),
            ("sqlite:///nowhere/app.db", "s3://b/app.db/nowhere/app.db"),
        ] {
            assert_eq!(Source::resolve(argument, &env).unwrap().url, url);
        }
    }
}
