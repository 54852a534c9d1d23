//! What the program says about itself.

use super::{Context, config};

/// Stands in a help text for the configuration file that is used now.
const CONFIG: &str = "{CONFIG}";

/// `text` with the configuration file that the process would use.
pub(super) fn with_config(text: &str, context: &Context) -> String {
    text.replace(CONFIG, &config::default_path(context.env.as_ref()))
}

/// The usage screen.
pub(super) const USAGE: &str = "\
litestream restores, lists and inspects SQLite databases replicated to object storage.

Usage:

\tlitestream <command> [flags] [arguments]

The commands are:

\tdatabases   list the databases of a configuration file
\tltx         list the LTX files of a replica
\trestore     rebuild a database from its replica
\tstatus      show how far databases are replicated
\tverify      compare a database with its replica
\tversion     print the version
";

pub(super) const DATABASES: &str = "\
The databases command lists the databases that a configuration file declares.

Usage:

\tlitestream databases [flags]

Flags:

\t-config PATH
\t    the configuration file; default: {CONFIG}
\t-json
\t    print a JSON array
\t-no-expand-env
\t    leave $NAME in the configuration file as it is

Examples:

\t$ litestream databases -config /path/to/litestream.yml
";

pub(super) const RESTORE: &str = "\
The restore command rebuilds a database from its replica.

Usage:

\tlitestream restore [flags] DB_PATH
\tlitestream restore [flags] REPLICA_URL

Arguments:

\tDB_PATH      the database; its replica is the one that the configuration file
\t             names for it, else the one that LITESTREAM_REPLICA_URL gives
\t             ({name} and {path} stand for its file name and path)
\tREPLICA_URL  file:///PATH or s3://BUCKET/PATH; needs -o

Flags:

\t-o PATH
\t    where the database goes; default: DB_PATH
\t-txid TXID
\t    restore exactly through this transaction (16 hex digits)
\t-timestamp TIME
\t    restore the state before this time (RFC 3339)
\t-parallelism N
\t    downloads under way at once, 1 to 64; default: 8
\t-if-db-not-exists
\t    do nothing when the output exists
\t-if-replica-exists
\t    do nothing when there is nothing to restore
\t-force
\t    replace an existing database, once the new one is complete and checked
\t-integrity-check none|quick|full
\t    check the database before it is put in place; default: quick
\t-dry-run
\t    print the files that would be read, write nothing
\t-json
\t    print the result as JSON
\t-config PATH
\t    the configuration file; default: {CONFIG}
\t-no-expand-env
\t    leave $NAME in the configuration file as it is

Examples:

\t# Rebuild a database from S3.
\t$ litestream restore -o app.db s3://bucket/app

\t# The state of yesterday evening, beside the present one.
\t$ litestream restore -o old.db -timestamp 2026-01-31T18:00:00Z s3://bucket/app
";

pub(super) const LTX: &str = "\
The ltx command lists the LTX files of a replica.

Usage:

\tlitestream ltx [flags] DB_PATH
\tlitestream ltx [flags] REPLICA_URL

Flags:

\t-level N|all
\t    the level to list, 0 to 9; default: 0
\t-json
\t    print a JSON array
\t-config PATH
\t    the configuration file that names the replica of DB_PATH; default: {CONFIG}
\t-no-expand-env
\t    leave $NAME in the configuration file as it is

Examples:

\t# The snapshots of a replica.
\t$ litestream ltx -level 9 s3://bucket/app
";

pub(super) const STATUS: &str = "\
The status command shows how far databases are replicated, from what the
replicating process last wrote beside each. It asks no storage.

Usage:

\tlitestream status [flags] [DB_PATH|DIRECTORY...]

Without a path: every database of the configuration file.

Flags:

\t-json
\t    print a JSON array
\t-config PATH
\t    the configuration file; default: {CONFIG}
\t-no-expand-env
\t    leave $NAME in the configuration file as it is

Examples:

\t# Every replicated database of a directory.
\t$ litestream status /var/lib/app
";

pub(super) const VERIFY: &str = "\
The verify command compares a database with its replica, page by page. It reads
the whole replica as a stream, writes nothing, and takes no lock: others may
write the database meanwhile, with or without replicating it.

Usage:

\tlitestream verify [flags] DB_PATH [REPLICA_URL]

The replica's state is the one that the local state says storage acknowledged,
else the newest. Pages that were written since are followed through the files
that the replica gets meanwhile and compared again; pages that never stand still
are counted.

The exit code is 0 when every page is equal, 2 when pages differ (the first are
named), 3 when commits wait for storage still, so that it cannot be told, and 1
when it could not be found out.

Flags:

\t-timeout DURATION
\t    how long commits may take to reach storage; default: 10s
\t-parallelism N
\t    downloads under way at once, 1 to 64; default: 8
\t-meta-path DIR
\t    where the files beside the database are; default: LITESTREAM_META_PATH,
\t    else .NAME-litestream beside it
\t-config PATH
\t    the configuration file; default: {CONFIG}
\t-no-expand-env
\t    do not expand environment variables in it
\t-json
\t    print the result as JSON

Examples:

\t$ litestream verify app.db s3://bucket/app
";

pub(super) const VERSION: &str = "\
The version command prints the version.

Usage:

\tlitestream version [-verbose]
";
