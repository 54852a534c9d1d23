//! The direction of dependencies, read from the sources.
//!
//! Each rule names a part of the tree and the paths that may not appear there.
//! Comments and the trailing `#[cfg(test)] mod` of a file are not read.

use std::fs;
use std::path::{Path, PathBuf};

/// A part of the tree and what its sources must not name.
struct Rule {
    name: &'static str,
    within: &'static [&'static str],
    except: &'static [&'static str],
    forbidden: &'static [&'static str],
}

/// The file formats: they know errors and one another, nothing else.
const FORMATS: &[&str] = &["src/sqlite", "src/ltx", "src/wal_reader.rs"];
const FORMAT_MODULES: &[&str] = &["error", "sqlite", "ltx", "wal_reader"];

const NETWORK: &[&str] =
    &["tokio", "futures_util", "async_trait", "reqwest", "object_store", "std::net", "async fn"];

const RULES: &[Rule] = &[
    Rule {
        name: "formats do no input or output of their own",
        within: FORMATS,
        except: &[],
        forbidden: &["tokio", "futures_util", "reqwest", "object_store", "std::net", "std::thread"],
    },
    Rule {
        name: "capture knows nothing of networks or async",
        within: &["src/capture", "src/ledger"],
        except: &[],
        forbidden: NETWORK,
    },
    Rule {
        name: "capture knows neither storage nor the uploader",
        within: &["src/capture", "src/ledger"],
        except: &[],
        forbidden: &["crate::replica_client", "crate::replica::", "crate::restore", "crate::plan"],
    },
    Rule {
        name: "the extension never names a backend or its libraries",
        within: &["sqlite-ext/src"],
        except: &[],
        forbidden: &[
            "replica_client::file",
            "replica_client::s3",
            "FileClient",
            "S3Client",
            "object_store",
            "reqwest",
        ],
    },
    Rule {
        name: "only the command line knows its libraries",
        within: &["src", "sqlite-ext/src"],
        except: &["src/cli", "src/main.rs"],
        forbidden: &["clap", "indicatif", "rusqlite"],
    },
    Rule {
        name: "only the command line prints",
        within: &["src", "sqlite-ext/src"],
        except: &["src/cli", "src/main.rs"],
        forbidden: &["println!", "eprintln!", "io::stdout", "io::stderr", "print!(", "eprint!("],
    },
    Rule {
        name: "the library reads the environment in one place and sets no process globals",
        within: &["src"],
        // ProcessEnv, behind the Env trait, for the credentials of replicas.
        except: &["src/cli", "src/main.rs", "src/replica_client/options.rs"],
        forbidden: &["env::var", "env::vars", "env::set_var", "panic::set_hook"],
    },
    Rule {
        name: "files are touched through os.rs",
        within: &["src", "sqlite-ext/src"],
        except: &["src/os.rs", "src/os", "src/cli", "src/main.rs"],
        // The type File may be passed about (see files_are_opened_by_os).
        forbidden: &[
            "use std::fs;",
            "fs::{self",
            "fs::read",
            "fs::write",
            "fs::rename",
            "fs::remove",
            "fs::create",
            "fs::metadata",
            "tokio::fs",
            "std::fs::OpenOptions",
        ],
    },
    Rule {
        name: "unsafe code lives in sqlite-ext/src/ffi",
        within: &["src", "sqlite-ext/src"],
        except: &["sqlite-ext/src/ffi"],
        forbidden: &["unsafe {", "unsafe fn", "unsafe impl", "unsafe extern", "allow(unsafe_code)"],
    },
];

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Every Rust source at or below `path`, sorted.
fn sources(path: &Path, found: &mut Vec<PathBuf>) {
    if path.is_file() {
        found.push(path.to_path_buf());
        return;
    }
    let Ok(entries) = fs::read_dir(path) else { return };
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    for path in paths {
        if path.is_dir() || path.extension().is_some_and(|ext| ext == "rs") {
            sources(&path, found);
        }
    }
}

fn all_sources() -> Vec<PathBuf> {
    let mut found = Vec::new();
    for top in ["src", "sqlite-ext", "tests", "benches"] {
        sources(&root().join(top), &mut found);
    }
    found
}

/// Path relative to the project, with forward slashes.
fn relative(path: &Path) -> String {
    path.strip_prefix(root()).unwrap().to_string_lossy().replace('\\', "/")
}

/// Whether `path` is test code by its place or name: a `tests` folder, `tests.rs`, `test_*.rs`.
fn is_test_file(path: &str) -> bool {
    path.split('/').any(|part| part == "tests" || part == "tests.rs" || part == "testing.rs")
        || path.rsplit('/').next().is_some_and(|name| name.starts_with("test_"))
        || path.ends_with("_test.rs")
        || path.ends_with("_tests.rs")
}

/// The lines of non-test code with comments taken off, numbered from 1.
fn code_lines(text: &str) -> Vec<(usize, String)> {
    let mut lines = Vec::new();
    let mut cfg_test = false;
    for (index, line) in text.lines().enumerate() {
        let code = line.split("//").next().unwrap_or_default().trim_end();
        if cfg_test && code.trim_start().starts_with("mod ") && code.ends_with('{') {
            break;
        }
        cfg_test = code.trim() == "#[cfg(test)]" || (cfg_test && code.trim().starts_with("#["));
        lines.push((index + 1, code.to_string()));
    }
    lines
}

/// Whether `code` has `word` with no identifier character before it.
fn names(code: &str, word: &str) -> bool {
    code.match_indices(word).any(|(at, _)| {
        let before = code[..at].chars().next_back();
        !before.is_some_and(|c| c.is_alphanumeric() || c == '_')
    })
}

fn violations(rule: &Rule, path: &str, text: &str) -> Vec<String> {
    let excepted = rule.except.iter().any(|part| within(path, part));
    if excepted || is_test_file(path) || !rule.within.iter().any(|part| within(path, part)) {
        return Vec::new();
    }
    let mut found = Vec::new();
    for (line, code) in code_lines(text) {
        for word in rule.forbidden.iter().filter(|word| names(&code, word)) {
            found.push(format!("{path}:{line}: `{word}`: {}", rule.name));
        }
    }
    found
}

fn within(path: &str, part: &str) -> bool {
    path == part || path.starts_with(&format!("{part}/"))
}

/// The modules that `crate::module` and `crate::{module, ..}` name in a line; types that the
/// root re-exports are left out.
fn root_modules(code: &str) -> Vec<String> {
    let mut modules = Vec::new();
    for (at, root) in code.match_indices("crate::") {
        let rest = &code[at + root.len()..];
        let list = rest.strip_prefix('{').map_or(rest, |list| list.trim_end_matches(['}', ';']));
        let items = if list.len() < rest.len() { list.split(',').collect() } else { vec![list] };
        for item in items {
            let ident = |c: &char| c.is_alphanumeric() || *c == '_';
            modules.push(item.trim().chars().take_while(ident).collect::<String>());
        }
    }
    modules.retain(|module| module.starts_with(char::is_lowercase));
    modules
}

#[test]
fn dependencies_point_one_way() {
    let mut found = Vec::new();
    for file in all_sources() {
        let path = relative(&file);
        let text = fs::read_to_string(&file).unwrap();
        for rule in RULES {
            found.extend(violations(rule, &path, &text));
        }
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn formats_use_only_formats_and_errors() {
    let mut found = Vec::new();
    for file in all_sources() {
        let path = relative(&file);
        if !FORMATS.iter().any(|part| within(&path, part)) || is_test_file(&path) {
            continue;
        }
        let text = fs::read_to_string(&file).unwrap();
        for (line, code) in code_lines(&text) {
            let unknown = root_modules(&code).into_iter();
            for module in unknown.filter(|module| !FORMAT_MODULES.contains(&module.as_str())) {
                found.push(format!("{path}:{line}: a format uses crate::{module}"));
            }
        }
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}

/// A source that imports `std::fs::File` passes files about but opens none.
#[test]
fn files_are_opened_by_os() {
    let mut found = Vec::new();
    for file in all_sources() {
        let path = relative(&file);
        if !within(&path, "src") || within(&path, "src/os") || within(&path, "src/os.rs") {
            continue;
        }
        let text = fs::read_to_string(&file).unwrap();
        let code: Vec<String> = code_lines(&text).into_iter().map(|(_, code)| code).collect();
        let imports = code.iter().any(|line| line.contains("use std::fs::"));
        let opens = code.iter().any(|line| {
            ["File::open(", "File::create(", "File::options("].iter().any(|w| names(line, w))
        });
        if imports && opens && !within(&path, "src/cli") && !is_test_file(&path) {
            found.push(path);
        }
    }
    assert!(found.is_empty(), "these open files themselves: {}", found.join(", "));
}

#[test]
fn sources_are_ascii() {
    let mut found = Vec::new();
    for file in all_sources() {
        let text = fs::read_to_string(&file).unwrap();
        for (index, line) in text.lines().enumerate().filter(|(_, line)| !line.is_ascii()) {
            found.push(format!("{}:{}: {line}", relative(&file), index + 1));
        }
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn files_leave_their_reader_room() {
    const LINES_MAX: usize = 800;
    let long: Vec<String> = all_sources()
        .into_iter()
        .map(|file| (relative(&file), fs::read_to_string(&file).unwrap().lines().count()))
        .filter(|(_, lines)| *lines > LINES_MAX)
        .map(|(path, lines)| format!("{path}: {lines} lines, at most {LINES_MAX}"))
        .collect();
    assert!(long.is_empty(), "{}", long.join("\n"));
}

#[test]
fn the_rules_can_fail() {
    assert_eq!(root_modules("use crate::{Error, os, ltx::Txid};"), ["os", "ltx"]);
    assert_eq!(root_modules("crate::clock::now(crate::Error)"), ["clock"]);
    let text =
        "use tokio::fs;\n// use clap;\nfn f() {}\n#[cfg(test)]\nmod tests {\n use clap;\n}\n";
    let found: Vec<String> =
        RULES.iter().flat_map(|rule| violations(rule, "src/capture/x.rs", text)).collect();
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(found.iter().all(|line| line.contains(":1:")), "{found:?}");
}
