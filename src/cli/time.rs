//! Times as the command line reads and prints them.

use jiff::Timestamp;

use crate::error::{Error, ErrorKind, Result};

const NANOS_PER_MS: i128 = 1_000_000;

/// Parses the value of `-timestamp` to Unix milliseconds, rounded up, so that
/// "strictly before" keeps its meaning for files dated in milliseconds.
///
/// # Errors
/// `InvalidInput` when it is not RFC 3339 with an offset or `Z`.
pub(super) fn parse_timestamp(text: &str) -> Result<i64> {
    let parsed = is_rfc3339(text).then(|| text.parse::<Timestamp>().ok()).flatten();
    let nanos = parsed.ok_or_else(|| {
        Error::new(
            ErrorKind::InvalidInput,
            "invalid -timestamp, must specify in ISO 8601 format (e.g. 2000-01-01T00:00:00Z)",
        )
    })?;
    let nanos = nanos.as_nanosecond();
    let ms = nanos.div_euclid(NANOS_PER_MS) + i128::from(nanos.rem_euclid(NANOS_PER_MS) > 0);
    Ok(ms as i64)
}

/// Unix milliseconds as RFC 3339 in UTC, whole seconds.
pub(super) fn format_timestamp(ms: i64) -> String {
    let time = Timestamp::from_millisecond(ms.div_euclid(1000).saturating_mul(1000));
    crate::ltx::format_timestamp(time.unwrap_or_default().as_millisecond())
}

/// The shape `YYYY-MM-DDThh:mm:ss[.fraction](Z|+hh:mm|-hh:mm)`; the time
/// library reads more than that.
fn is_rfc3339(text: &str) -> bool {
    const SHAPE: &[u8] = b"0000-00-00T00:00:00";
    let Some((head, tail)) = text.as_bytes().split_at_checked(SHAPE.len()) else { return false };
    let fits = |(b, shape): (&u8, &u8)| match shape {
        b'0' => b.is_ascii_digit(),
        _ => b == shape,
    };
    let tail = match tail.strip_prefix(b".") {
        Some(rest) => {
            let digits = rest.iter().take_while(|b| b.is_ascii_digit()).count();
            if digits == 0 {
                return false;
            }
            &rest[digits..]
        }
        None => tail,
    };
    let offset = match tail {
        b"Z" => true,
        [b'+' | b'-', rest @ ..] => rest.len() == 5 && rest.iter().zip(b"00:00").all(fits),
        _ => false,
    };
    offset && head.iter().zip(SHAPE).all(fits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rfc_3339_with_fraction_and_offset() {
        assert_eq!(parse_timestamp("1970-01-01T00:00:01Z").unwrap(), 1_000);
        assert_eq!(parse_timestamp("1970-01-01T00:00:01.25Z").unwrap(), 1_250);
        assert_eq!(parse_timestamp("1970-01-01T02:00:01+02:00").unwrap(), 1_000);
        assert_eq!(parse_timestamp("1970-01-01T00:00:00.0000001Z").unwrap(), 1);
        assert_eq!(parse_timestamp("1969-12-31T23:59:59.9995Z").unwrap(), 0);
    }

    #[test]
    fn anything_else_is_refused() {
        for text in [
            "",
            "now",
            "2000-01-01",
            "2000-01-01T00:00:00",
            "2000-01-01 00:00:00Z",
            "2000-01-01T00:00:00.Z",
            "2000-01-01T00:00:00+0200",
            "2000-13-01T00:00:00Z",
            "2000-01-01T00:00:00Z[UTC]",
        ] {
            let e = parse_timestamp(text).unwrap_err();
            assert!(
                e.to_string().contains("invalid -timestamp, must specify in ISO 8601"),
                "{text}"
            );
        }
    }

    #[test]
    fn prints_whole_seconds() {
        assert_eq!(format_timestamp(1_999), "1970-01-01T00:00:01Z");
        assert_eq!(format_timestamp(-1), "1969-12-31T23:59:59Z");
    }
}
