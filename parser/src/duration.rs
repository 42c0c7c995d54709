//! Durations as Go writes them: `1m30s`, `1.5h`, `300ms`.

use nom::branch::alt;
use nom::bytes::complete::{tag, take_while1};
use nom::character::complete::{char, digit0, one_of};
use nom::combinator::{opt, value};
use nom::sequence::preceded;
use nom::{IResult, Parser};

use crate::text::quote;

const MICROSECOND: i64 = 1_000;
const MILLISECOND: i64 = 1_000 * MICROSECOND;
const SECOND: i64 = 1_000 * MILLISECOND;
const MINUTE: i64 = 60 * SECOND;
const HOUR: i64 = 60 * MINUTE;

/// Parses a duration to nanoseconds. The error is Go's text.
pub fn parse_duration(text: &str) -> Result<i64, String> {
    let invalid = || format!("time: invalid duration {}", quote(text));
    let (negative, mut rest) = sign(text);
    if rest == "0" {
        return Ok(0);
    }
    if rest.is_empty() {
        return Err(invalid());
    }
    // One more than the largest value fits: the most negative duration has no positive counterpart.
    let limit = 1_u64 << 63;
    let mut total: u64 = 0;
    while !rest.is_empty() {
        let (after, (whole, fraction)) = number(rest).map_err(|_| invalid())?;
        if whole.is_empty() && fraction.unwrap_or_default().is_empty() {
            return Err(invalid());
        }
        let (after, name) = unit_name(after);
        if name.is_empty() {
            return Err(format!("time: missing unit in duration {}", quote(text)));
        }
        let Some(unit) = unit(name) else {
            let name = quote(name);
            return Err(format!(
                "time: unknown unit {name} in duration {}",
                quote(text)
            ));
        };
        let part = nanoseconds(whole, fraction.unwrap_or_default(), unit).ok_or_else(invalid)?;
        total = total
            .checked_add(part)
            .filter(|sum| *sum <= limit)
            .ok_or_else(invalid)?;
        rest = after;
    }
    if negative {
        return Ok(0_i64.wrapping_sub_unsigned(total));
    }
    i64::try_from(total).map_err(|_| invalid())
}

fn sign(text: &str) -> (bool, &str) {
    let sign: IResult<&str, Option<char>> = opt(one_of("+-")).parse(text);
    match sign {
        Ok((rest, sign)) => (sign == Some('-'), rest),
        Err(_) => (false, text),
    }
}

/// Takes digits and, behind a dot, more digits.
fn number(input: &str) -> IResult<&str, (&str, Option<&str>)> {
    (digit0, opt(preceded(char('.'), digit0))).parse(input)
}

fn unit_name(input: &str) -> (&str, &str) {
    let name: IResult<&str, &str> = take_while1(|c: char| c != '.' && !c.is_ascii_digit())(input);
    name.unwrap_or((input, ""))
}

fn unit(name: &str) -> Option<i64> {
    let unit: IResult<&str, i64> = alt((
        value(1, tag("ns")),
        value(
            MICROSECOND,
            alt((tag("us"), tag("\u{b5}s"), tag("\u{3bc}s"))),
        ),
        value(MILLISECOND, tag("ms")),
        value(SECOND, tag("s")),
        value(MINUTE, tag("m")),
        value(HOUR, tag("h")),
    ))
    .parse(name);
    unit.ok()
        .filter(|(rest, _)| rest.is_empty())
        .map(|(_, unit)| unit)
}

fn nanoseconds(whole: &str, fraction: &str, unit: i64) -> Option<u64> {
    let unit = unit.unsigned_abs();
    let whole: u64 = if whole.is_empty() {
        0
    } else {
        whole.parse().ok()?
    };
    let whole = whole.checked_mul(unit)?;
    // 18 digits are far below a nanosecond even for hours; more would only overflow.
    let digits = &fraction[..fraction.len().min(18)];
    let numerator: u128 = if digits.is_empty() {
        0
    } else {
        digits.parse().ok()?
    };
    let denominator = 10_u128.pow(digits.len() as u32);
    let part = numerator * u128::from(unit) / denominator;
    whole.checked_add(u64::try_from(part).ok()?)
}

/// Formats nanoseconds as Go does: `5m0s`, `1.5s`, `300ms`, `0s`.
pub fn format_duration(ns: i64) -> String {
    let sign = if ns < 0 { "-" } else { "" };
    let magnitude = ns.unsigned_abs();
    let second = SECOND.unsigned_abs();
    if magnitude == 0 {
        return "0s".to_owned();
    }
    if magnitude < second {
        let (unit, name) = match magnitude {
            n if n < MICROSECOND.unsigned_abs() => (1, "ns"),
            n if n < MILLISECOND.unsigned_abs() => (MICROSECOND.unsigned_abs(), "\u{b5}s"),
            _ => (MILLISECOND.unsigned_abs(), "ms"),
        };
        return format!("{sign}{}{name}", decimal(magnitude, unit));
    }
    let seconds = decimal(magnitude % MINUTE.unsigned_abs(), second);
    let minutes = magnitude / MINUTE.unsigned_abs();
    match (minutes / 60, minutes % 60) {
        (0, 0) => format!("{sign}{seconds}s"),
        (0, minutes) => format!("{sign}{minutes}m{seconds}s"),
        (hours, minutes) => format!("{sign}{hours}h{minutes}m{seconds}s"),
    }
}

/// Formats `value / unit` without trailing zeros; `unit` is a power of ten.
fn decimal(value: u64, unit: u64) -> String {
    let (whole, part) = (value / unit, value % unit);
    if part == 0 {
        return whole.to_string();
    }
    let width = unit.ilog10() as usize;
    let digits = format!("{part:0width$}");
    format!("{whole}.{}", digits.trim_end_matches('0'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_go_reads_them() {
        for (text, ns) in [
            ("0", 0),
            ("5s", 5 * SECOND),
            ("1m30s", 90 * SECOND),
            ("1.5h", 90 * MINUTE),
            (".5s", SECOND / 2),
            ("1.s", SECOND),
            ("-2m", -2 * MINUTE),
            ("+3ns", 3),
            ("7us", 7_000),
            ("7µs", 7_000),
            ("7μs", 7_000),
            ("0.3333333333333333333333s", 333_333_333),
            ("9223372036854775807ns", i64::MAX),
            ("-9223372036854775808ns", i64::MIN),
        ] {
            assert_eq!(parse_duration(text), Ok(ns), "{text}");
        }
    }

    #[test]
    fn errors_are_those_of_go() {
        for (text, error) in [
            ("", r#"time: invalid duration """#),
            ("5", r#"time: missing unit in duration "5""#),
            ("x", r#"time: invalid duration "x""#),
            ("5y", r#"time: unknown unit "y" in duration "5y""#),
            (".s", r#"time: invalid duration ".s""#),
            ("-", r#"time: invalid duration "-""#),
            (
                "9223372036854775808ns",
                r#"time: invalid duration "9223372036854775808ns""#,
            ),
            ("99999999999h", r#"time: invalid duration "99999999999h""#),
        ] {
            assert_eq!(parse_duration(text), Err(error.to_owned()), "{text}");
        }
    }

    #[test]
    fn durations_are_written_as_go_writes_them() {
        for (ns, text) in [
            (0, "0s"),
            (1, "1ns"),
            (1_100, "1.1µs"),
            (2_200_000, "2.2ms"),
            (1_500 * MILLISECOND, "1.5s"),
            (5 * MINUTE, "5m0s"),
            (HOUR + 2 * MINUTE + 3 * SECOND, "1h2m3s"),
            (100 * HOUR, "100h0m0s"),
            (-SECOND, "-1s"),
            (i64::MIN, "-2562047h47m16.854775808s"),
        ] {
            assert_eq!(format_duration(ns), text);
        }
    }
}
