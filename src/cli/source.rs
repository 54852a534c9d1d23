//! What a positional argument means: a replica URL or a database path.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::Context;
use super::config::ConfigFlags;
use super::failure::Failure;
use crate::config::fill_placeholders;
use crate::replica_client::{self, AccessKeys, Env, ReplicaClient, ReplicaOptions, url};

/// Gives the replica of databases that are named by path.
pub(super) const URL_VARIABLE: &str = "LITESTREAM_REPLICA_URL";

/// A replica to read, and the database it belongs to if that was named.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Source {
    /// The replica's URL; may hold credentials.
    pub(super) url: String,
    /// The database's absolute path, when the argument was a path.
    pub(super) database: Option<PathBuf>,
    /// What is given beside the URL.
    parameters: Vec<(String, String)>,
    keys: Option<AccessKeys>,
}

impl Source {
    fn of_url(url: String, database: Option<PathBuf>) -> Source {
        Source { url, database, parameters: Vec::new(), keys: None }
    }

    /// Reads a positional argument: a URL, or a database that the configuration
    /// file or else the environment has a replica for.
    ///
    /// # Errors
    /// When it is a path and no replica is configured for it.
    pub(super) fn resolve(
        argument: &str,
        flags: &ConfigFlags,
        context: &Context,
    ) -> Result<Source, Failure> {
        if is_replica_url(argument) {
            if flags.is_given() {
                return Err(Failure::new("cannot specify a replica URL and the -config flag"));
            }
            return Ok(Source::of_url(argument.to_owned(), None));
        }
        let database = database_path(argument, context)?;
        let file = flags.load_if_any(context)?;
        if let Some(settings) = file.as_ref().and_then(|file| file.find(&database, &canonical)) {
            return Ok(Source {
                url: settings.replica.url.clone(),
                database: Some(database),
                parameters: settings.replica.all_parameters()?,
                keys: settings.replica.keys,
            });
        }
        match (context.env.filled(URL_VARIABLE), file) {
            (Some(template), _) if !flags.is_given() => {
                let url = fill_placeholders(&template, &canonical(&database))?;
                Ok(Source::of_url(url, Some(database)))
            }
            (_, Some(file)) => Err(Failure::new(format!(
                "database not found in config: {} ({})",
                database.display(),
                file.path.display()
            ))),
            (_, None) => Err(Failure::usage(
                format!(
                    "no replica is known for {}: there is no configuration file, and \
                     {URL_VARIABLE} is not set",
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
        let options = ReplicaOptions {
            env,
            parameters: self.parameters.clone(),
            keys: self.keys.clone(),
            ..ReplicaOptions::default()
        };
        Ok(replica_client::open(&self.url, &options)?)
    }
}

fn is_replica_url(argument: &str) -> bool {
    let local = argument.starts_with("sqlite://") || argument.starts_with("sqlite3://");
    url::is_url(argument) && !local
}

/// The absolute path that an argument names, by the rules of the configuration
/// file.
///
/// # Errors
/// When it is empty.
pub(super) fn database_path(argument: &str, context: &Context) -> Result<PathBuf, Failure> {
    match argument {
        "" => Err(Failure::new("invalid database path: it is empty")),
        _ => Ok(context.around.path(argument)),
    }
}

/// The canonical path, also of a file that does not exist any more.
pub(super) fn canonical(path: &Path) -> PathBuf {
    path.canonicalize().unwrap_or_else(|_| match (path.parent(), path.file_name()) {
        (Some(dir), Some(name)) => dir.canonicalize().map_or(path.to_owned(), |d| d.join(name)),
        _ => path.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config_file::Surroundings;
    use crate::replica_client::FixedEnv;

    fn context(vars: &[(&str, &str)]) -> Context {
        let env: Arc<dyn Env> = Arc::new(FixedEnv::new(vars.iter().copied()));
        let around = Surroundings {
            env: Arc::clone(&env),
            expand_env: true,
            pid: 1,
            current_dir: "/nowhere".into(),
            home: Some("/nowhere/me".into()),
        };
        Context { env, around }
    }

    fn resolve(argument: &str, vars: &[(&str, &str)]) -> Result<Source, Failure> {
        Source::resolve(argument, &ConfigFlags::default(), &context(vars))
    }

    #[test]
    fn urls_are_replicas_and_paths_need_one() {
        let source = resolve("s3://bucket/app", &[]).unwrap();
        assert_eq!((source.url.as_str(), source.database), ("s3://bucket/app", None));
        let failure = resolve("/data/app.db", &[]).unwrap_err();
        assert!(failure.message.contains("/data/app.db"), "{failure:?}");
        assert!(failure.message.contains(URL_VARIABLE), "{failure:?}");
    }

    #[test]
    fn placeholders_stand_for_the_database() {
        for (argument, url) in [
            ("/nowhere/x/app.db", "s3://b/app.db/nowhere/x/app.db"),
            ("~/app.db", "s3://b/app.db/nowhere/me/app.db"),
            ("sqlite:///nowhere/app.db", "s3://b/app.db/nowhere/app.db"),
            ("/nowhere/50%.db", "s3://b/50%25.db/nowhere/50%25.db"),
        ] {
            let source = resolve(argument, &[(URL_VARIABLE, "s3://b/{name}{path}")]).unwrap();
            assert_eq!(source.url, url);
        }
    }
}
