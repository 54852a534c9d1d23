//! Moments as people write them: RFC 3339, plain dates, relative to now.

use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use jiff::{Span, Timestamp, ToSpan};

use crate::error::{Error, ErrorKind, Result};

const NANOS_PER_MS: i128 = 1_000_000;

/// A moment and the text that names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Moment {
    /// Milliseconds since the Unix epoch, rounded up: "strictly before" keeps
    /// its meaning for files that are dated in milliseconds.
    pub ms: i64,
    /// The text as it was given when it holds its offset, else RFC 3339 in UTC.
    pub text: String,
}

/// Parses `text`; `None` is the newest state (`latest`, in any case).
///
/// Accepted are RFC 3339 with any offset and fraction, dates and times without
/// an offset (taken as UTC), `now`, `today` and `yesterday` (the same time of
/// day), and spans such as `5 minutes ago`, `an hour ago` or `1h 30m ago`,
/// counted back from `now_ms`, milliseconds since the Unix epoch.
///
/// # Errors
/// `InvalidInput` that quotes anything else.
pub fn parse(text: &str, now_ms: i64) -> Result<Option<Moment>> {
    let text = text.trim();
    if text.eq_ignore_ascii_case("latest") {
        return Ok(None);
    }
    if let Ok(time) = text.parse::<Timestamp>() {
        return Ok(Some(Moment { ms: millis(time), text: text.to_owned() }));
    }
    let time = civil(text).or_else(|| relative(text, now_ms)).ok_or_else(|| {
        Error::new(
            ErrorKind::InvalidInput,
            format!(
                "invalid timestamp (expected RFC3339 or relative time like '5 minutes ago'): {text}"
            ),
        )
    })?;
    Ok(Some(Moment { ms: millis(time), text: time.to_string() }))
}

fn millis(time: Timestamp) -> i64 {
    let nanos = time.as_nanosecond();
    let ms = nanos.div_euclid(NANOS_PER_MS) + i128::from(nanos.rem_euclid(NANOS_PER_MS) > 0);
    // jiff's years end at 9999, far below what an i64 holds.
    ms as i64
}

/// A date, or date and time, without an offset.
fn civil(text: &str) -> Option<Timestamp> {
    let time: DateTime = text.parse().ok()?;
    TimeZone::UTC.to_timestamp(time).ok()
}

fn relative(text: &str, now_ms: i64) -> Option<Timestamp> {
    let now = Timestamp::from_millisecond(now_ms).ok()?.to_zoned(TimeZone::UTC);
    let text = text.to_ascii_lowercase();
    let back = match text.as_str() {
        "now" | "today" => Span::new(),
        "yesterday" => 1.day(),
        text => {
            let count = ["an ", "a "].iter().find_map(|article| text.strip_prefix(article));
            let span: Span = match count {
                Some(unit) => format!("1 {unit}").parse(),
                None => text.parse(),
            }
            .ok()?;
            // A span without "ago" lies in the future: no state is there.
            span.is_negative().then(|| span.abs())?
        }
    };
    Some(now.checked_sub(back).ok()?.timestamp())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 2026-11-23T03:00:00Z
    const NOW: i64 = 1_795_402_800_000;
    const MINUTE: i64 = 60_000;
    const DAY: i64 = 24 * 60 * MINUTE;

    fn moment(text: &str) -> Moment {
        parse(text, NOW).unwrap().unwrap()
    }

    #[test]
    fn latest_is_no_moment() {
        for text in ["LATEST", "latest", " Latest "] {
            assert_eq!(parse(text, NOW).unwrap(), None);
        }
    }

    #[test]
    fn rfc_3339_keeps_its_text() {
        for text in
            ["2026-11-23T03:00:00Z", "2026-11-23T05:00:00+02:00", "2026-11-23T02:59:59.9995Z"]
        {
            assert_eq!(moment(text), Moment { ms: NOW, text: text.to_owned() });
        }
    }

    #[test]
    fn dates_without_an_offset_are_utc() {
        for text in ["2026-11-23 03:00", "2026-11-23T03:00:00", "2026-11-23 03:00:00.0"] {
            assert_eq!((moment(text).ms, &*moment(text).text), (NOW, "2026-11-23T03:00:00Z"));
        }
        assert_eq!(moment("2026-11-23").ms, NOW - 180 * MINUTE);
    }

    #[test]
    fn spans_count_back_from_now() {
        for (text, back) in [
            ("now", 0),
            ("5 minutes ago", 5 * MINUTE),
            ("5 Minutes Ago", 5 * MINUTE),
            ("2 hours ago", 120 * MINUTE),
            ("an hour ago", 60 * MINUTE),
            ("a day ago", DAY),
            ("1h 30m ago", 90 * MINUTE),
            ("1 hour, 30 minutes ago", 90 * MINUTE),
            ("2 weeks ago", 14 * DAY),
            ("1 month ago", 31 * DAY),
            ("yesterday", DAY),
        ] {
            assert_eq!(moment(text).ms, NOW - back, "{text}");
        }
        assert_eq!(moment("yesterday").text, "2026-11-22T03:00:00Z");
    }

    #[test]
    fn anything_else_is_quoted() {
        for text in ["", "soon", "5 minutes", "5 parsecs ago", "2026-13-01", "99999 years ago"] {
            let e = parse(text, NOW).unwrap_err();
            assert_eq!(e.kind(), ErrorKind::InvalidInput);
            assert!(e.to_string().ends_with(&format!("ago'): {text}")), "{e}");
        }
    }
}
