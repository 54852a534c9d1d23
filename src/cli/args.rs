//! Go-style flags: `-k v`, `-k=v`, one dash or two, booleans only as `-k` or
//! `-k=false`; parsing stops at the first positional or at `--`.
//!
//! The words are rewritten to `--k=v` and handed to clap, which knows the
//! flags of each command and checks their values.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Arg, Command, Parser};

/// Words that Go takes as a boolean.
const TRUE: [&str; 6] = ["1", "t", "T", "true", "TRUE", "True"];
const FALSE: [&str; 6] = ["0", "f", "F", "false", "FALSE", "False"];

/// What a command line asks for.
#[derive(Debug)]
pub(super) enum Request<T> {
    /// The command with these arguments.
    Run(T),
    /// Its help.
    Help,
}

/// Parses the words behind a command's name.
///
/// # Errors
/// The flag parser's message, for people.
pub(super) fn parse<T: Parser>(words: &[OsString]) -> Result<Request<T>, String> {
    let command = T::command();
    let Some(canonical) = canonical(&command, words)? else { return Ok(Request::Help) };
    match T::try_parse_from(canonical) {
        Ok(args) => Ok(Request::Run(args)),
        Err(e) => Err(message(&e)),
    }
}

/// The words as clap understands them; none when help is asked for.
fn canonical(command: &Command, words: &[OsString]) -> Result<Option<Vec<OsString>>, String> {
    let mut out = vec![OsString::from(command.get_name())];
    let mut words = words.iter();
    while let Some(word) = words.next() {
        if word == "--" {
            break;
        }
        let Some(flag) = flag_text(word) else {
            // The first positional: all that follows is positional too.
            out.push("--".into());
            out.push(word.clone());
            out.extend(words.cloned());
            return Ok(Some(out));
        };
        let (name, value) = split(flag, word)?;
        let Some(arg) = command.get_arguments().find(|a| a.get_long() == Some(name)) else {
            return match name {
                "h" | "help" => Ok(None),
                _ => Err(format!("flag provided but not defined: -{name}")),
            };
        };
        let value = match value {
            Some(value) if is_bool(arg) => bool_word(name, &value)?.into(),
            Some(value) => value,
            None if is_bool(arg) => "true".into(),
            None => {
                words.next().cloned().ok_or_else(|| format!("flag needs an argument: -{name}"))?
            }
        };
        let mut canonical = OsString::from(format!("--{name}="));
        canonical.push(value);
        out.push(canonical);
    }
    out.push("--".into());
    out.extend(words.cloned());
    Ok(Some(out))
}

/// The bytes behind the dashes of a flag; `-` alone is a positional.
fn flag_text(word: &OsStr) -> Option<&[u8]> {
    let flag = word.as_bytes().strip_prefix(b"-")?;
    (!flag.is_empty()).then(|| flag.strip_prefix(b"-").unwrap_or(flag))
}

fn split<'a>(flag: &'a [u8], word: &OsStr) -> Result<(&'a str, Option<OsString>), String> {
    let at = flag.iter().position(|&b| b == b'=');
    let name = std::str::from_utf8(&flag[..at.unwrap_or(flag.len())]).unwrap_or_default();
    if name.is_empty() || name.starts_with('-') {
        return Err(format!("bad flag syntax: {}", word.display()));
    }
    Ok((name, at.map(|at| OsString::from_vec(flag[at + 1..].to_vec()))))
}

/// A flag that never takes the next word.
fn is_bool(arg: &Arg) -> bool {
    arg.get_num_args().is_some_and(|n| n.min_values() == 0)
}

fn bool_word(name: &str, value: &OsStr) -> Result<&'static str, String> {
    match value.to_str() {
        Some(v) if TRUE.contains(&v) => Ok("true"),
        Some(v) if FALSE.contains(&v) => Ok("false"),
        _ => Err(format!(
            "invalid boolean value {:?} for -{name}: parse error",
            value.display().to_string()
        )),
    }
}

fn message(e: &clap::Error) -> String {
    let context = |kind| match e.get(kind) {
        Some(ContextValue::String(s)) => s.clone(),
        _ => String::new(),
    };
    match e.kind() {
        ErrorKind::ValueValidation | ErrorKind::InvalidValue => {
            let arg = context(ContextKind::InvalidArg);
            let name = arg.trim_start_matches('-').split(['=', ' ']).next().unwrap_or_default();
            let cause =
                std::error::Error::source(e).map_or("parse error".into(), |s| s.to_string());
            let value = context(ContextKind::InvalidValue);
            format!("invalid value {value:?} for flag -{name}: {cause}")
        }
        ErrorKind::UnknownArgument | ErrorKind::TooManyValues => "too many arguments".to_owned(),
        ErrorKind::ArgumentConflict => {
            let arg = context(ContextKind::InvalidArg);
            format!(
                "flag given more than once: {}",
                arg.split(['=', ' ']).next().unwrap_or_default()
            )
        }
        _ => e
            .to_string()
            .lines()
            .next()
            .unwrap_or_default()
            .trim_start_matches("error: ")
            .to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Parser, PartialEq)]
    #[command(name = "t", args_override_self = true, disable_help_flag = true)]
    struct Flags {
        #[arg(long, num_args = 0..=1, require_equals = true, default_value_t = false, default_missing_value = "true", action = clap::ArgAction::Set)]
        json: bool,
        #[arg(long, default_value_t = 8)]
        parallelism: usize,
        #[arg(long)]
        o: Option<String>,
        rest: Vec<String>,
    }

    fn run(line: &str) -> Result<Flags, String> {
        let words: Vec<OsString> = line.split_whitespace().map(OsString::from).collect();
        match parse::<Flags>(&words)? {
            Request::Run(flags) => Ok(flags),
            Request::Help => Err("help".into()),
        }
    }

    #[test]
    fn one_dash_or_two_and_both_ways_to_give_a_value() {
        for line in ["-o x -json a", "--o=x --json a", "-o=x -json=true -- a", "-json=1 --o x a"] {
            let flags = run(line).unwrap();
            assert_eq!((flags.json, flags.o.as_deref()), (true, Some("x")), "{line}");
            assert_eq!(flags.rest, ["a"], "{line}");
        }
        assert_eq!(run("-o -json").unwrap().o.as_deref(), Some("-json"));
    }

    #[test]
    fn booleans_never_take_the_next_word() {
        let flags = run("-json false").unwrap();
        assert!(flags.json);
        assert_eq!(flags.rest, ["false"]);
        assert!(!run("-json=F").unwrap().json);
        assert!(run("-json=no").unwrap_err().contains("invalid boolean value \"no\" for -json"));
    }

    #[test]
    fn flags_end_at_the_first_positional() {
        assert_eq!(run("a -json").unwrap().rest, ["a", "-json"]);
        assert_eq!(run("- -o").unwrap().rest, ["-", "-o"]);
        assert_eq!(run("-o x -- -json").unwrap().rest, ["-json"]);
    }

    #[test]
    fn the_last_of_a_repeated_flag_counts() {
        assert_eq!(run("-o a -o b -json -json=false").unwrap().o.as_deref(), Some("b"));
    }

    #[test]
    fn bad_words_are_named() {
        assert_eq!(run("-nope").unwrap_err(), "flag provided but not defined: -nope");
        assert_eq!(run("-j").unwrap_err(), "flag provided but not defined: -j");
        assert_eq!(run("-o").unwrap_err(), "flag needs an argument: -o");
        assert_eq!(run("---o x").unwrap_err(), "bad flag syntax: ---o");
        let bad = run("-parallelism many").unwrap_err();
        assert!(bad.starts_with("invalid value \"many\" for flag -parallelism: "), "{bad}");
    }

    #[test]
    fn help_is_a_request() {
        for line in ["-h", "-help", "--help", "-json --help a"] {
            assert_eq!(run(line).unwrap_err(), "help", "{line}");
        }
    }
}
