//! Signals by name and number.

use rbuild_parser::check_signal;

use crate::failure::Failure;

/// Names by number, from 1 on; they are the same on all architectures that Linux images are made for.
const NAMES: [&str; 31] = [
    "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2",
    "PIPE", "ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG",
    "XCPU", "XFSZ", "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
];

/// First and last real-time signal, as the C library has them.
const REAL_TIME: (i32, i32) = (34, 64);

/// The number of a signal that is given as `TERM`, `SIGTERM`, `15` or `RTMIN+1`.
pub(crate) fn number(signal: &str) -> Result<i32, Failure> {
    let invalid = || Failure::new(format!("invalid signal: {signal}"));
    if let Ok(number) = signal.parse::<i32>() {
        return if (1..=REAL_TIME.1).contains(&number) {
            Ok(number)
        } else {
            Err(invalid())
        };
    }
    check_signal(signal).map_err(Failure::new)?;
    let upper = signal.to_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let alias = match name {
        "IOT" => "ABRT",
        "CLD" => "CHLD",
        "POLL" => "IO",
        "UNUSED" => "SYS",
        name => name,
    };
    if let Some(index) = NAMES.iter().position(|known| *known == alias) {
        return Ok(index as i32 + 1);
    }
    let offset = |digits: &str, sign: char| {
        if digits.is_empty() {
            Some(0)
        } else {
            digits.strip_prefix(sign)?.parse::<i32>().ok()
        }
    };
    let (first, last) = REAL_TIME;
    let number = match (name.strip_prefix("RTMIN"), name.strip_prefix("RTMAX")) {
        (Some(digits), _) => offset(digits, '+').map(|offset| first + offset),
        (_, Some(digits)) => offset(digits, '-').map(|offset| last - offset),
        _ => None,
    };
    number.ok_or_else(invalid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_have_names_and_numbers() {
        for (text, want) in [
            ("TERM", 15),
            ("SIGTERM", 15),
            ("sigkill", 9),
            ("9", 9),
            ("SIGSYS", 31),
            ("RTMIN", 34),
            ("RTMIN+3", 37),
            ("RTMAX-1", 63),
        ] {
            assert_eq!(number(text).unwrap(), want, "{text}");
        }
        for text in ["", "0", "65", "-1", "NOPE", "SIG"] {
            assert!(number(text).is_err(), "{text}");
        }
    }
}
