//! Environment variables and paths in the texts of a file.

use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use crate::error::Result;
use crate::os;
use crate::replica_client::{Env, ProcessEnv};

/// What a configuration file takes from the process that reads it.
#[derive(Debug, Clone)]
pub struct Surroundings {
    /// Where the values of `$NAME` come from.
    pub env: Arc<dyn Env>,
    /// Whether `$NAME` and `${NAME}` are replaced.
    pub expand_env: bool,
    /// What `$PID` stands for.
    pub pid: u32,
    /// Where relative paths begin.
    pub current_dir: PathBuf,
    /// What `~` stands for.
    pub home: Option<PathBuf>,
}

impl Surroundings {
    /// Those of this process.
    ///
    /// # Errors
    /// When the working directory is gone.
    pub fn of_process() -> Result<Surroundings> {
        let env = ProcessEnv;
        let home = os::home_dir().or_else(|| env.filled("HOME").map(PathBuf::from));
        Ok(Surroundings {
            env: Arc::new(env),
            expand_env: true,
            pid: std::process::id(),
            current_dir: os::current_dir()?,
            home,
        })
    }

    /// The absolute, cleaned path that `text` names: `sqlite://PATH`, `~`,
    /// `~/PATH`, relative or absolute.
    pub fn path(&self, text: &str) -> PathBuf {
        let schemes = ["sqlite://", "sqlite3://"];
        let text = schemes.iter().find_map(|s| text.strip_prefix(s)).unwrap_or(text);
        let home = text.strip_prefix('~').filter(|rest| rest.is_empty() || rest.starts_with('/'));
        let path = match (home, &self.home) {
            (Some(rest), Some(home)) => home.join(rest.trim_start_matches('/')),
            _ => PathBuf::from(text),
        };
        clean(&self.current_dir.join(path))
    }

    fn variable(&self, name: &str) -> String {
        match name {
            "PID" => self.pid.to_string(),
            _ => self.env.var(name).unwrap_or_default(),
        }
    }

    /// Replaces `$NAME` and `${NAME}`, if that is wanted; unset variables are empty.
    ///
    /// There is no way to write a plain `$` before a name: `$$` is a variable too,
    /// and none that anybody sets. `${` without an end, and `${}`, vanish.
    pub(super) fn expand(&self, text: &str) -> String {
        if !self.expand_env {
            return text.to_owned();
        }
        let mut out = String::with_capacity(text.len());
        let mut rest = text;
        while let Some(at) = rest.find('$') {
            out.push_str(&rest[..at]);
            let after = &rest[at + 1..];
            rest = match reference(after) {
                Reference::Name { name, length } => {
                    out.push_str(&self.variable(name));
                    &after[length..]
                }
                Reference::Malformed { length } => &after[length..],
                Reference::None => {
                    out.push('$');
                    after
                }
            };
        }
        out + rest
    }
}

/// What stands behind a `$`, and how many bytes of it belong to it.
enum Reference<'a> {
    Name { name: &'a str, length: usize },
    Malformed { length: usize },
    None,
}

fn reference(after: &str) -> Reference<'_> {
    let one = |c: char| c.is_ascii_digit() || "*#$@!?-".contains(c);
    if let Some(braced) = after.strip_prefix('{') {
        return match braced.find('}') {
            Some(0) => Reference::Malformed { length: 2 },
            Some(end) => Reference::Name { name: &braced[..end], length: end + 2 },
            None => Reference::Malformed { length: 1 },
        };
    }
    if after.starts_with(one) {
        return Reference::Name { name: &after[..1], length: 1 };
    }
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    match after.find(|c| !word(c)).unwrap_or(after.len()) {
        0 => Reference::None,
        length => Reference::Name { name: &after[..length], length },
    }
}

/// An absolute path without `.`, `..` and empty components.
fn clean(path: &Path) -> PathBuf {
    let mut out = PathBuf::from("/");
    for component in path.components() {
        match component {
            Component::ParentDir => {
                out.pop();
            }
            Component::Normal(name) => out.push(name),
            _ => {}
        }
    }
    out
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::replica_client::FixedEnv;

    /// Surroundings of no process in particular.
    pub(crate) fn around(vars: &[(&str, &str)]) -> Surroundings {
        Surroundings {
            env: Arc::new(FixedEnv::new(vars.iter().copied())),
            expand_env: true,
            pid: 77,
            current_dir: "/cwd".into(),
            home: Some("/home/me".into()),
        }
    }

    #[test]
    fn variables_are_replaced_as_litestream_does() {
        let here = around(&[("A", "1"), ("AB", "2"), ("PID", "no"), ("E", "")]);
        for (text, want) in [
            ("$A ${A}b $AB $A-b", "1 1b 2 1-b"),
            ("$PID ${PID}", "77 77"),
            ("[$NONE][${NONE}][$E]", "[][][]"),
            ("a$$b $1 $* $#", "ab   "),
            ("${A:-x}|${A }|", "||"),
            ("x${}y $ z$", "xy $ z$"),
            ("x${A y", "xA y"),
            ("$\u{e9} 100$%", "$\u{e9} 100$%"),
        ] {
            assert_eq!(here.expand(text), want, "{text}");
        }
        let plain = Surroundings { expand_env: false, ..here };
        assert_eq!(plain.expand("$A"), "$A");
    }

    #[test]
    fn paths_become_absolute() {
        let here = around(&[]);
        for (text, want) in [
            ("/a//b/../c/", "/a/c"),
            ("a.db", "/cwd/a.db"),
            ("../a.db", "/a.db"),
            ("~", "/home/me"),
            ("~/a.db", "/home/me/a.db"),
            ("~bob/x", "/cwd/~bob/x"),
            ("sqlite:///x.db", "/x.db"),
            ("sqlite3://~/x.db", "/home/me/x.db"),
        ] {
            assert_eq!(here.path(text), PathBuf::from(want), "{text}");
        }
        let homeless = Surroundings { home: None, ..here };
        assert_eq!(homeless.path("~/x"), PathBuf::from("/cwd/~/x"));
    }

    proptest::proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "[${}A:a-\u{e9}~/. ]{0,40}") {
            let here = around(&[("A", "$A")]);
            let _ = (here.expand(&text), here.path(&text));
        }
    }
}
