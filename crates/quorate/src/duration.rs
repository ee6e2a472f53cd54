//! Lengths of time as people write them: `90s`, `15m`, `24h`, `7d`.

use quorate_state::ids::Millis;

/// Reads a length of time. For clap.
pub(crate) fn parse(text: &str) -> Result<Millis, String> {
    let wrong = || format!("`{text}` is no length of time: write a number and ms, s, m, h or d, as in 15m");
    let end = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
    let (number, unit) = text.split_at(end);
    let unit = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return Err(wrong()),
    };
    let number: Millis = number.parse().map_err(|_| wrong())?;
    number.checked_mul(unit).filter(|ms| *ms > 0).ok_or_else(wrong)
}

/// A time as people read it, UTC.
pub(crate) fn instant(ms: Millis) -> String {
    let seconds = i64::try_from(ms / 1_000).unwrap_or(i64::MAX);
    match time::OffsetDateTime::from_unix_timestamp(seconds) {
        Ok(at) if ms > 0 => {
            let (date, clock) = (at.date(), at.time());
            let (month, day) = (u8::from(date.month()), date.day());
            format!(
                "{}-{month:02}-{day:02} {:02}:{:02}:{:02}Z",
                date.year(),
                clock.hour(),
                clock.minute(),
                clock.second()
            )
        }
        _ => "-".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_length_for_a_moment() {
        let seeds = ["90s", "15m", "24h", "7d", "18446744073709551615ms"].map(|text| text.as_bytes().to_vec());
        let tried = crate::driver::fuzz("duration", seeds.to_vec(), |input| {
            let Ok(text) = core::str::from_utf8(input) else { return };
            match parse(text) {
                Ok(length) => {
                    assert!(length > 0, "{text:?} is no length of time");
                    assert_eq!(parse(&format!("{length}ms")), Ok(length), "{text:?}");
                }
                Err(why) => assert!(why.contains(text), "{why}"),
            }
        });
        assert!(tried > 0);
    }

    #[test]
    fn lengths() {
        assert_eq!(parse("90s"), Ok(90_000));
        assert_eq!(parse("24h"), Ok(86_400_000));
        for bad in ["", "5", "m", "-1s", "1w", "0s", "99999999999999999999d", "1 s"] {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn instants() {
        assert_eq!(instant(1_700_000_000_000), "2023-11-14 22:13:20Z");
        assert_eq!(instant(0), "-");
    }
}
