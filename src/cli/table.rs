//! Column tables for people.

use std::fmt::Write;

/// Spaces between columns.
const GAP: usize = 2;

/// Lays out a header and rows: columns left-aligned and padded to their widest
/// cell, the last one unpadded, each line ended. `indent` precedes each line.
pub(super) fn render(indent: &str, header: &[&str], rows: &[Vec<String>]) -> String {
    let mut widths: Vec<usize> = header.iter().map(|h| h.chars().count()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut out = String::new();
    write_row(&mut out, indent, header.iter().copied(), &widths);
    for row in rows {
        write_row(&mut out, indent, row.iter().map(String::as_str), &widths);
    }
    out
}

fn write_row<'a>(
    out: &mut String,
    indent: &str,
    cells: impl Iterator<Item = &'a str>,
    widths: &[usize],
) {
    out.push_str(indent);
    for (n, cell) in cells.enumerate() {
        // Writing to a string cannot fail.
        let _ = match n + 1 == widths.len() {
            true => writeln!(out, "{cell}"),
            false => write!(out, "{cell:<width$}", width = widths[n] + GAP),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let rows = [vec!["1".into(), "a".into()], vec!["long cell".into(), "b".into()]];
        let text = render("", &["n", "what"], &rows);
        assert_eq!(text, "n          what\n1          a\nlong cell  b\n");
        assert_eq!(render("  ", &["n", "what"], &[]), "  n  what\n");
    }
}
