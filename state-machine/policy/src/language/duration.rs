//! Lengths of time as Go writes them (`time.ParseDuration`, `time.Duration.String`): policies use that spelling.

/// Nanoseconds, or what Go says of the text.
pub(crate) fn parse(text: &str) -> Result<i64, String> {
    let invalid = || format!("time: invalid duration {text:?}");
    let (negative, mut rest) = match text.as_bytes().first() {
        Some(b'-') => (true, &text[1..]),
        Some(b'+') => (false, &text[1..]),
        _ => (false, text),
    };
    if rest == "0" {
        return Ok(0);
    }
    if rest.is_empty() {
        return Err(invalid());
    }
    let mut total: f64 = 0.0;
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(|c| c.is_ascii_digit() || *c == b'.').count();
        let number: f64 = rest[..digits].parse().map_err(|_| invalid())?;
        rest = &rest[digits..];
        let letters = rest.find(|c: char| c == '.' || c.is_ascii_digit()).unwrap_or(rest.len());
        let (unit, after) = rest.split_at(letters);
        let nanos = match unit {
            "" => return Err(format!("time: missing unit in duration {text:?}")),
            "ns" => 1.0,
            "us" | "µs" | "μs" => 1e3,
            "ms" => 1e6,
            "s" => 1e9,
            "m" => 60e9,
            "h" => 3600e9,
            unit => return Err(format!("time: unknown unit {unit:?} in duration {text:?}")),
        };
        total += number * nanos;
        rest = after;
    }
    match total < i64::MAX as f64 {
        true => Ok(if negative { -(total as i64) } else { total as i64 }),
        false => Err(invalid()),
    }
}

/// Hours, minutes and seconds: `168h0m1s`.
pub(crate) fn show(nanos: i64) -> String {
    let sign = if nanos < 0 { "-" } else { "" };
    let total = nanos.unsigned_abs();
    let (secs, part) = (total / 1_000_000_000, total % 1_000_000_000);
    let (hours, minutes, secs) = (secs / 3600, secs / 60 % 60, secs % 60);
    let part = match part {
        0 => String::new(),
        part => format!(".{}", format!("{part:09}").trim_end_matches('0')),
    };
    match (hours, minutes) {
        (0, 0) => format!("{sign}{secs}{part}s"),
        (0, minutes) => format!("{sign}{minutes}m{secs}{part}s"),
        (hours, minutes) => format!("{sign}{hours}h{minutes}m{secs}{part}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spoken_as_go_speaks() {
        for (text, shown) in [
            ("-1m", "-1m0s"),
            ("200h", "200h0m0s"),
            ("168h0m1s", "168h0m1s"),
            ("1.5s", "1.5s"),
            ("0", "0s"),
            ("90m", "1h30m0s"),
        ] {
            assert_eq!(show(parse(text).unwrap()), shown);
        }
        assert_eq!(parse("abc").unwrap_err(), "time: invalid duration \"abc\"");
        assert_eq!(parse("").unwrap_err(), "time: invalid duration \"\"");
        assert_eq!(parse("5").unwrap_err(), "time: missing unit in duration \"5\"");
        assert_eq!(parse("5d").unwrap_err(), "time: unknown unit \"d\" in duration \"5d\"");
        assert_eq!(parse(".h").unwrap_err(), "time: invalid duration \".h\"");
        assert!(parse("99999999999999h").is_err());
    }
}
