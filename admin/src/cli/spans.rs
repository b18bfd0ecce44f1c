//! Spans as Prometheus writes them: `30m`, `1h30m`, `90d`, `1y`.

use std::time::Duration;

/// Units from long to short, in seconds; milliseconds are handled apart.
const UNITS: [(&str, u64); 6] =
    [("y", 365 * 86_400), ("w", 7 * 86_400), ("d", 86_400), ("h", 3_600), ("m", 60), ("s", 1)];

/// Reads a span; each unit at most once, from long to short.
pub fn parse(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is not a span; write for example 30m, 24h, 90d or 1y");
    let mut rest = text.trim();
    if rest == "0" {
        return Ok(Duration::ZERO);
    }
    let mut total = Duration::ZERO;
    let mut units = &UNITS[..];
    while !rest.is_empty() {
        let digits = rest.find(|letter: char| !letter.is_ascii_digit()).ok_or_else(wrong)?;
        let count: u64 = rest[..digits].parse().map_err(|_| wrong())?;
        rest = &rest[digits..];
        let part = match rest.strip_prefix("ms") {
            Some(after) => {
                (rest, units) = (after, &[]);
                Some(Duration::from_millis(count))
            }
            None => {
                let at = units.iter().position(|(unit, _)| rest.starts_with(unit)).ok_or_else(wrong)?;
                let (unit, seconds) = units[at];
                (rest, units) = (&rest[unit.len()..], &units[at + 1..]);
                count.checked_mul(seconds).map(Duration::from_secs)
            }
        };
        total = part.and_then(|part| total.checked_add(part)).ok_or_else(wrong)?;
    }
    match total.is_zero() {
        true => Err(wrong()),
        false => Ok(total),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans() {
        for (text, seconds) in
            [("30m", 1800), ("1h30m", 5400), ("90d", 7_776_000), ("1y", 31_536_000), ("0", 0), ("2w", 1_209_600)]
        {
            assert_eq!(parse(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        assert_eq!(parse("1s500ms"), Ok(Duration::from_millis(1500)));
        for text in ["", "h", "1", "1x", "30m1h", "1h1h", "-1h", "1.5h", "99999999999999999999y", "999999999999999999y"]
        {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
