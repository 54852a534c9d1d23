//! A YAML document as a tree whose nodes know their lines.
//!
//! Scalars stay text: what a text means is for the key that it belongs to.
//! Aliases and `<<` are resolved here. Everything is bounded, so that no file can
//! take the stack or the memory of a host.

use std::collections::HashMap;

use granit_parser::{Event, Parser, ScalarStyle, StrInput, Tag};

/// How deep lists and mappings may nest.
const DEPTH_MAX: usize = 32;
/// Nodes of a document, each alias counted with all that it stands for.
const NODES_MAX: usize = 100_000;
const CORE_TAGS: &str = "tag:yaml.org,2002:";

/// What is wrong, and in which line (from 1).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Problem {
    pub line: usize,
    pub text: String,
}

impl Problem {
    pub(super) fn new(line: usize, text: impl Into<String>) -> Problem {
        Problem { line, text: text.into() }
    }
}

/// A node and the line where it begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Node {
    pub line: usize,
    pub value: Value,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Value {
    /// `plain`: without quotes, so that it may be a number, a truth value or null.
    Scalar {
        text: String,
        plain: bool,
    },
    List(Vec<Node>),
    /// In the order of the file; a key may be there more than once.
    Map(Vec<Entry>),
}

/// A key and what it stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub key: String,
    /// Where the key is.
    pub line: usize,
    pub node: Node,
}

impl Node {
    /// Nothing, `~` or `null`.
    pub(super) fn is_null(&self) -> bool {
        matches!(&self.value, Value::Scalar { text, plain: true }
            if matches!(text.as_str(), "" | "~" | "null" | "Null" | "NULL"))
    }
}

/// Reads the only document of `text`; none when there is nothing in it.
pub(super) fn read(text: &str) -> Result<Option<Node>, Problem> {
    let mut reader =
        Reader { events: Parser::new_from_str(text), line: 1, anchors: HashMap::new(), nodes: 0 };
    let root = reader.document()?;
    loop {
        match reader.next()? {
            Event::StreamEnd => return Ok(root),
            Event::DocumentStart(..) => {
                return Err(reader.problem("a second document: all settings go into one"));
            }
            _ => {}
        }
    }
}

struct Reader<'a> {
    events: Parser<'a, StrInput<'a>>,
    /// Of the last event.
    line: usize,
    anchors: HashMap<usize, (Node, usize)>,
    nodes: usize,
}

impl<'a> Reader<'a> {
    fn problem(&self, text: impl Into<String>) -> Problem {
        Problem::new(self.line, text)
    }

    fn next(&mut self) -> Result<Event<'a>, Problem> {
        match self.events.next() {
            Some(Ok((event, span))) => {
                self.line = span.start.line();
                Ok(event)
            }
            Some(Err(e)) => {
                Err(Problem::new(e.marker().line(), format!("not valid YAML: {}", e.info())))
            }
            None => Ok(Event::StreamEnd),
        }
    }

    fn document(&mut self) -> Result<Option<Node>, Problem> {
        loop {
            match self.next()? {
                Event::StreamStart => {}
                Event::StreamEnd => return Ok(None),
                Event::DocumentStart(..) => break,
                _ => return Err(self.problem("not valid YAML: content outside of a document")),
            }
        }
        let event = self.next()?;
        self.node(event, 0).map(Some)
    }

    fn node(&mut self, event: Event<'a>, depth: usize) -> Result<Node, Problem> {
        if depth > DEPTH_MAX {
            return Err(self.problem(format!("nested more than {DEPTH_MAX} deep")));
        }
        self.count(1)?;
        let (line, before) = (self.line, self.nodes);
        let (anchor, value) = match event {
            Event::Scalar(text, style, anchor, tag) => {
                let quoted = style != ScalarStyle::Plain || self.is_string(tag.as_deref())?;
                (anchor, Value::Scalar { text: text.into_owned(), plain: !quoted })
            }
            Event::SequenceStart(_, anchor, tag) => {
                self.is_string(tag.as_deref())?;
                (anchor, Value::List(self.list(depth)?))
            }
            Event::MappingStart(_, anchor, tag) => {
                self.is_string(tag.as_deref())?;
                (anchor, Value::Map(self.map(depth)?))
            }
            Event::Alias(id) => return self.alias(id),
            _ => return Err(self.problem("not valid YAML: a value is missing")),
        };
        let node = Node { line, value };
        if anchor != 0 {
            self.anchors.insert(anchor, (node.clone(), self.nodes - before + 1));
        }
        Ok(node)
    }

    fn count(&mut self, nodes: usize) -> Result<(), Problem> {
        self.nodes = self.nodes.saturating_add(nodes);
        match self.nodes > NODES_MAX {
            true => Err(self.problem(format!("more than {NODES_MAX} values"))),
            false => Ok(()),
        }
    }

    /// What an anchor stands for, in the line of the alias.
    fn alias(&mut self, id: usize) -> Result<Node, Problem> {
        let Some((node, size)) = self.anchors.get(&id) else {
            return Err(self.problem("an alias within what it stands for"));
        };
        let (mut node, size) = (node.clone(), *size);
        self.count(size)?;
        node.line = self.line;
        Ok(node)
    }

    /// Whether a tag makes a scalar a string; other tags than YAML's own are refused.
    fn is_string(&self, tag: Option<&Tag>) -> Result<bool, Problem> {
        match tag.map(|tag| (tag.handle(), tag.suffix())) {
            None => Ok(false),
            Some((CORE_TAGS, suffix)) if suffix != "binary" => Ok(suffix == "str"),
            Some(("", "!") | ("!", "")) => Ok(true),
            Some(_) => Err(self.problem("tags have no meaning here")),
        }
    }

    fn list(&mut self, depth: usize) -> Result<Vec<Node>, Problem> {
        let mut items = Vec::new();
        loop {
            match self.next()? {
                Event::SequenceEnd => return Ok(items),
                event => items.push(self.node(event, depth + 1)?),
            }
        }
    }

    fn map(&mut self, depth: usize) -> Result<Vec<Entry>, Problem> {
        let (mut entries, mut merged) = (Vec::new(), Vec::new());
        loop {
            let event = self.next()?;
            if event == Event::MappingEnd {
                break;
            }
            let key = self.node(event, depth + 1)?;
            let Value::Scalar { text, plain } = key.value else {
                return Err(Problem::new(key.line, "a key must be a word"));
            };
            let event = self.next()?;
            let node = self.node(event, depth + 1)?;
            match plain && text == "<<" {
                true => self.merge(node, &mut merged)?,
                false => entries.push(Entry { key: text, line: key.line, node }),
            }
        }
        // What is merged in is weaker than the mapping's own keys, and what was
        // merged first is stronger than what came after.
        merged.retain(|m: &Entry| !entries.iter().any(|e: &Entry| e.key == m.key));
        merged.append(&mut entries);
        Ok(merged)
    }

    fn merge(&self, node: Node, merged: &mut Vec<Entry>) -> Result<(), Problem> {
        match node.value {
            Value::Map(entries) => {
                let first = merged.len();
                for entry in entries {
                    if !merged[..first].iter().any(|m| m.key == entry.key) {
                        merged.push(entry);
                    }
                }
                Ok(())
            }
            Value::List(nodes) if nodes.iter().all(|n| matches!(n.value, Value::Map(_))) => {
                nodes.into_iter().try_for_each(|node| self.merge(node, merged))
            }
            _ => Err(Problem::new(node.line, "<< takes a mapping or a list of mappings")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(text: &str) -> Vec<(String, usize, String)> {
        let Some(Node { value: Value::Map(entries), .. }) = read(text).unwrap() else {
            panic!("{text}")
        };
        let text = |node: Node| match node.value {
            Value::Scalar { text, plain } => format!("{text}{}", if plain { "" } else { "!" }),
            _ => "...".to_owned(),
        };
        entries.into_iter().map(|e| (e.key, e.line, text(e.node))).collect()
    }

    fn row(key: &str, line: usize, text: &str) -> (String, usize, String) {
        (key.to_owned(), line, text.to_owned())
    }

    #[test]
    fn keys_know_their_lines_and_scalars_their_quotes() {
        let text = "# comment\na: 1\nb: 'x'\n\nc: !!str 2\nd: [1]\ne:\n";
        let want = [
            row("a", 2, "1"),
            row("b", 3, "x!"),
            row("c", 5, "2!"),
            row("d", 6, "..."),
            row("e", 7, "~"),
        ];
        assert_eq!(entries(text), want);
        for empty in ["", "# nothing\n", "\n\n"] {
            assert_eq!(read(empty).unwrap(), None);
        }
        assert!(read("---\n").unwrap().unwrap().is_null());
    }

    #[test]
    fn merged_keys_are_weaker() {
        let text = "x: &x {a: 1, b: 2}\ny: &y {b: 3, c: 4}\nz: {<<: [*x, *y], a: 9}\n";
        let Some(Node { value: Value::Map(mut all), .. }) = read(text).unwrap() else { panic!() };
        let Value::Map(z) = all.remove(2).node.value else { panic!() };
        let mut z: Vec<String> = z
            .into_iter()
            .map(|e| match e.node.value {
                Value::Scalar { text, .. } => format!("{}={text}", e.key),
                _ => panic!(),
            })
            .collect();
        z.sort();
        assert_eq!(z, ["a=9", "b=2", "c=4"]);
    }

    #[test]
    fn what_cannot_be_read_has_a_line() {
        for (text, line, word) in [
            ("a: 1\n---\nb: 2\n", 2, "second document"),
            ("a: 1\nb: [1\n", 2, "not valid YAML"),
            ("a: 1\nb: *nobody\n", 2, "not valid YAML"),
            ("a: 1\n? [x]\n: 2\n", 2, "must be a word"),
            ("a: !secret x\n", 1, "tags"),
            ("a: {<<: 1}\n", 1, "<<"),
        ] {
            let problem = read(text).unwrap_err();
            assert_eq!(problem.line, line, "{text}: {problem:?}");
            assert!(problem.text.contains(word), "{text}: {problem:?}");
        }
    }

    #[test]
    fn bombs_are_refused() {
        let mut text = "a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n".to_owned();
        for n in 1..10 {
            let of = format!("*a{}", n - 1);
            text += &format!("a{n}: &a{n} [{}]\n", [of.as_str(); 10].join(","));
        }
        assert!(read(&text).unwrap_err().text.contains("more than 100000"));
        let deep = "[".repeat(2_000);
        assert!(read(&deep).is_err());
        let deep = "- ".repeat(20_000);
        assert!(read(&deep).is_err());
    }

    proptest::proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "[-a:&*{}<\\[\\],!'\"#|> \n\t%~?]{0,60}") {
            let _ = read(&text);
        }
    }
}
