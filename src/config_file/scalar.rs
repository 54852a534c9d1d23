//! What the texts of a file mean, by the kind of their key.

use std::time::Duration;

const NANOS_PER_SECOND: f64 = 1e9;
/// Units of durations, in nanoseconds.
const DURATION_UNITS: [(&str, f64); 8] = [
    ("ns", 1.0),
    ("us", 1e3),
    ("\u{b5}s", 1e3),
    ("\u{3bc}s", 1e3),
    ("ms", 1e6),
    ("s", NANOS_PER_SECOND),
    ("m", 60.0 * NANOS_PER_SECOND),
    ("h", 3600.0 * NANOS_PER_SECOND),
];

/// YAML 1.1's truth values; quoted ones are texts.
pub(super) fn boolean(text: &str) -> Option<bool> {
    match text {
        "true" | "True" | "TRUE" | "yes" | "Yes" | "YES" | "on" | "On" | "ON" => Some(true),
        "false" | "False" | "FALSE" | "no" | "No" | "NO" | "off" | "Off" | "OFF" => Some(false),
        _ => None,
    }
}

/// An integer: decimal, `0x`, `0o`, `0b`, or octal by a leading zero.
pub(super) fn integer(text: &str) -> Option<i64> {
    let text = text.replace('_', "");
    let (sign, digits) = match text.strip_prefix('-') {
        Some(rest) => (-1, rest),
        None => (1, text.strip_prefix('+').unwrap_or(&text)),
    };
    let radixes = [("0x", 16), ("0o", 8), ("0b", 2)];
    let prefixed = radixes.iter().find_map(|(p, radix)| Some((digits.strip_prefix(p)?, *radix)));
    let (digits, radix) = prefixed.unwrap_or_else(|| match digits.strip_prefix('0') {
        Some(octal) if !octal.is_empty() => (octal, 8),
        _ => (digits, 10),
    });
    if digits.starts_with(['+', '-']) {
        return None;
    }
    Some(sign * i64::from_str_radix(digits, radix).ok()?)
}

/// A duration in nanoseconds: `1h30m`, `-1s`, `1.5h`, or a bare number of
/// nanoseconds.
pub(super) fn duration_nanos(text: &str) -> Option<i64> {
    if let Some(nanos) = integer(text) {
        return Some(nanos);
    }
    let (sign, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (-1.0, rest),
        None => (1.0, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest.is_empty() {
        return None;
    }
    let mut total = 0.0;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let number: f64 = rest[..end].parse().ok()?;
        rest = &rest[end..];
        let end = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
        let scale = match DURATION_UNITS.iter().find(|(unit, _)| *unit == &rest[..end]) {
            Some((_, scale)) => *scale,
            // A bare number with a fraction.
            None if end == 0 && total == 0.0 => 1.0,
            None => return None,
        };
        total += number * scale;
        rest = &rest[end..];
    }
    let nanos = (sign * total).trunc();
    (nanos.abs() < i64::MAX as f64).then_some(nanos as i64)
}

/// A size in bytes: `5MB`, `5 MiB`, `1,048,576`, `1.5GB`.
pub(super) fn bytes(text: &str) -> Option<u64> {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.' && c != ',');
    let (number, unit) = text.split_at(end.unwrap_or(text.len()));
    let number: f64 = number.replace(',', "").parse().ok()?;
    let unit = unit.trim().to_ascii_lowercase();
    let scale = match unit.strip_suffix('b').unwrap_or(&unit) {
        "" => 1.0,
        "k" => 1e3,
        "m" => 1e6,
        "g" => 1e9,
        "t" => 1e12,
        "p" => 1e15,
        "e" => 1e18,
        "ki" => 2f64.powi(10),
        "mi" => 2f64.powi(20),
        "gi" => 2f64.powi(30),
        "ti" => 2f64.powi(40),
        "pi" => 2f64.powi(50),
        "ei" => 2f64.powi(60),
        _ => return None,
    };
    let bytes = number * scale;
    (bytes.is_finite() && bytes < i64::MAX as f64).then_some(bytes as u64)
}

/// A duration that is known to be positive.
pub(super) fn to_duration(nanos: i64) -> Duration {
    Duration::from_nanos(nanos.unsigned_abs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_as_go_writes_them() {
        const SECOND: i64 = 1_000_000_000;
        for (text, nanos) in [
            ("300ms", 300_000_000),
            ("1.5h", 5_400 * SECOND),
            ("1h30m", 5_400 * SECOND),
            ("-1s", -SECOND),
            ("+1s", SECOND),
            ("5", 5),
            ("0", 0),
            ("1.5", 1),
            ("10us", 10_000),
            ("10\u{b5}s", 10_000),
        ] {
            assert_eq!(duration_nanos(text), Some(nanos), "{text}");
        }
        for bad in ["", "-", "1d", "1w", "s", "1s2", "1 s", "one", "1e3s", "9999999999h", "."] {
            assert_eq!(duration_nanos(bad), None, "{bad}");
        }
    }

    #[test]
    fn sizes_truth_and_numbers() {
        for (text, size) in [
            ("5MB", 5_000_000),
            ("5 MiB", 5 << 20),
            (" 1,048,576 ", 1 << 20),
            ("1.5k", 1_500),
            ("7b", 7),
            ("16", 16),
        ] {
            assert_eq!(bytes(text), Some(size), "{text}");
        }
        for bad in ["", "MB", "-1", "1x", "1.2.3", "16EiB"] {
            assert_eq!(bytes(bad), None, "{bad}");
        }
        assert_eq!((boolean("yes"), boolean("Off"), boolean("y")), (Some(true), Some(false), None));
        for (text, n) in [("0600", 384), ("600", 600), ("1_000", 1000), ("0x1F", 31), ("-3", -3)] {
            assert_eq!(integer(text), Some(n), "{text}");
        }
        for bad in ["", "1.5", "0x", "08", "--1", "1a", "0-1"] {
            assert_eq!(integer(bad), None, "{bad}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_text_makes_them_panic(text in "[-+0-9a-zA-Z._, \u{b5}]{0,24}") {
            let _ = (boolean(&text), integer(&text), duration_nanos(&text), bytes(&text));
        }
    }
}
