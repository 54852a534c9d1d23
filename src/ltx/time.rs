//! Timestamps as text.

use jiff::{Timestamp, Unit};

use crate::{Error, ErrorKind, Result};

/// Milliseconds since the Unix epoch as RFC 3339 in UTC (`Z`), trailing zeros
/// of the fraction dropped: the form of Go's `time.RFC3339Nano`, which object
/// metadata uses. Times outside jiff's years -9999 to 9999 are clamped.
pub fn format_timestamp(unix_ms: i64) -> String {
    let ts = Timestamp::from_millisecond(unix_ms).unwrap_or(if unix_ms < 0 {
        Timestamp::MIN
    } else {
        Timestamp::MAX
    });
    ts.to_string()
}

/// Parses any RFC 3339 time, whatever its offset and fraction, to milliseconds
/// since the Unix epoch, rounded down.
///
/// # Errors
///
/// `InvalidInput` that quotes the text.
pub fn parse_timestamp(text: &str) -> Result<i64> {
    let ts: Timestamp = text.trim().parse().map_err(|e| {
        let message = format!("invalid timestamp {text:?}, use RFC 3339 (2006-01-02T15:04:05Z)");
        Error::new(ErrorKind::InvalidInput, message).with_source(e)
    })?;
    let floor =
        jiff::TimestampRound::new().smallest(Unit::Millisecond).mode(jiff::RoundMode::Floor);
    Ok(ts.round(floor).unwrap_or(ts).as_millisecond())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn go_rfc3339_nano() {
        assert_eq!(format_timestamp(0), "1970-01-01T00:00:00Z");
        assert_eq!(format_timestamp(1_795_371_600_586), "2026-11-22T18:20:00.586Z");
        assert_eq!(format_timestamp(1_795_371_600_580), "2026-11-22T18:20:00.58Z");
        assert_eq!(format_timestamp(1_795_371_600_500), "2026-11-22T18:20:00.5Z");
        assert!(format_timestamp(i64::MAX).starts_with("9999-"));
        assert!(format_timestamp(i64::MIN).starts_with("-00"));
    }

    #[test]
    fn any_rfc3339() {
        let ms = 1_795_371_600_586;
        for text in [
            "2026-11-22T18:20:00.586Z",
            "2026-11-22T20:20:00.586+02:00",
            "2026-11-22T18:20:00.586999999Z",
        ] {
            assert_eq!(parse_timestamp(text).unwrap(), ms, "{text}");
        }
        assert_eq!(parse_timestamp("1969-12-31T23:59:59.9995Z").unwrap(), -1);
        for bad in ["", "yesterday", "2026-11-22", "2026-13-01T00:00:00Z"] {
            assert_eq!(parse_timestamp(bad).unwrap_err().kind(), ErrorKind::InvalidInput, "{bad}");
        }
    }
}
