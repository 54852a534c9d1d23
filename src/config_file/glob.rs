//! Patterns for the names of files: `*`, `?`, `[a-z]`, `[^a-z]`, and `\` before
//! a character that is meant literally.

/// A pattern that was found to be well-formed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pattern(Vec<Part>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    /// Any number of characters.
    Star,
    /// One character of any kind.
    Any,
    One(char),
    /// One character that is, or with `not` is not, in one of the ranges.
    Class {
        not: bool,
        ranges: Vec<(char, char)>,
    },
}

impl Pattern {
    /// Parses a pattern; none when a bracket or an escape is not ended.
    pub(super) fn parse(text: &str) -> Option<Pattern> {
        let mut parts = Vec::new();
        let mut chars = text.chars();
        while let Some(c) = chars.next() {
            parts.push(match c {
                '*' => Part::Star,
                '?' => Part::Any,
                '\\' => Part::One(chars.next()?),
                '[' => class(&mut chars)?,
                c => Part::One(c),
            });
        }
        Some(Pattern(parts))
    }

    /// Whether the pattern fits all of `name`.
    pub(super) fn fits(&self, name: &str) -> bool {
        let name: Vec<char> = name.chars().collect();
        // reachable[n]: the parts so far fit the first n characters.
        let mut reachable = vec![false; name.len() + 1];
        reachable[0] = true;
        for part in &self.0 {
            let mut next = vec![false; name.len() + 1];
            if *part == Part::Star {
                let first = reachable.iter().position(|r| *r).unwrap_or(reachable.len());
                next[first..].fill(true);
            } else {
                for (n, c) in name.iter().enumerate() {
                    next[n + 1] = reachable[n] && part.takes(*c);
                }
            }
            reachable = next;
        }
        reachable[name.len()]
    }
}

impl Part {
    fn takes(&self, c: char) -> bool {
        match self {
            Part::Star | Part::Any => true,
            Part::One(one) => *one == c,
            Part::Class { not, ranges } => {
                ranges.iter().any(|(low, high)| (*low..=*high).contains(&c)) != *not
            }
        }
    }
}

/// The rest of a class, whose `[` was read.
fn class(chars: &mut std::str::Chars<'_>) -> Option<Part> {
    let mut rest = chars.clone();
    let not = rest.as_str().starts_with('^');
    if not {
        rest.next();
    }
    let mut ranges = Vec::new();
    loop {
        let low = match rest.next()? {
            ']' if !ranges.is_empty() => break,
            ']' | '-' => return None,
            '\\' => rest.next()?,
            c => c,
        };
        let mut high = low;
        if rest.as_str().starts_with('-') {
            rest.next();
            high = match rest.next()? {
                ']' | '-' => return None,
                '\\' => rest.next()?,
                c => c,
            };
        }
        ranges.push((low, high));
    }
    *chars = rest;
    Some(Part::Class { not, ranges })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_fit_whole_names() {
        for (pattern, name, fits) in [
            ("*.db", "a.db", true),
            ("*.db", ".db", true),
            ("*.db", "a.db2", false),
            ("a*b*c", "aXbYbZc", true),
            ("a*b*c", "aXbY", false),
            ("?.db", "\u{e9}.db", true),
            ("?.db", "ab.db", false),
            ("[a-c0].db", "b.db", true),
            ("[a-c0].db", "d.db", false),
            ("[^a-c].db", "d.db", true),
            ("\\*.db", "*.db", true),
            ("\\*.db", "a.db", false),
            ("[\\]].db", "].db", true),
            ("*", "", true),
            ("{a,b}", "a", false),
        ] {
            assert_eq!(Pattern::parse(pattern).unwrap().fits(name), fits, "{pattern} {name}");
        }
        for bad in ["[", "[]", "[a", "[a-", "[a-]", "\\", "[-a]", "[]a]"] {
            assert_eq!(Pattern::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn many_stars_take_no_exponential_time() {
        let pattern = Pattern::parse(&("a*".repeat(50) + "b")).unwrap();
        assert!(!pattern.fits(&"a".repeat(2_000)));
    }
}
