//! Signals of `STOPSIGNAL`.

/// Names without `SIG`, except for the real-time signals.
const NAMES: &[&str] = &[
    "ABRT", "ALRM", "BUS", "CHLD", "CLD", "CONT", "FPE", "HUP", "ILL", "INT", "IO", "IOT", "KILL",
    "PIPE", "POLL", "PROF", "PWR", "QUIT", "SEGV", "STKFLT", "STOP", "SYS", "TERM", "TRAP", "TSTP",
    "TTIN", "TTOU", "URG", "USR1", "USR2", "VTALRM", "WINCH", "XCPU", "XFSZ",
];

/// Checks that a word is the number or name of a signal. The error is `BuildKit`'s text.
///
/// Names are accepted in any case, with or without `SIG`; any number but 0 is accepted.
pub fn check_signal(signal: &str) -> Result<(), String> {
    let known = if let Ok(number) = signal.parse::<i64>() {
        number != 0
    } else {
        let upper = signal.to_uppercase();
        let name = upper.strip_prefix("SIG").unwrap_or(&upper);
        NAMES.contains(&name) || is_real_time(name)
    };
    if known {
        Ok(())
    } else {
        Err(format!("invalid signal: {signal}"))
    }
}

/// `RTMIN`, `RTMIN+1` to `RTMIN+15`, `RTMAX-14` to `RTMAX-1`, `RTMAX`.
fn is_real_time(name: &str) -> bool {
    let within = |digits: &str, last: u32| {
        let canonical = !digits.starts_with(['0', '+']);
        canonical
            && digits
                .parse::<u32>()
                .is_ok_and(|number| (1..=last).contains(&number))
    };
    match (name.strip_prefix("RTMIN"), name.strip_prefix("RTMAX")) {
        (Some(""), _) | (_, Some("")) => true,
        (Some(rest), _) => rest
            .strip_prefix('+')
            .is_some_and(|digits| within(digits, 15)),
        (_, Some(rest)) => rest
            .strip_prefix('-')
            .is_some_and(|digits| within(digits, 14)),
        (None, None) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals() {
        for signal in [
            "SIGUSR1",
            "term",
            "9",
            "RTMIN+3",
            "sigrtmax-14",
            "RTMIN",
            "-3",
            "+9",
            "100",
        ] {
            assert_eq!(check_signal(signal), Ok(()), "{signal}");
        }
        for signal in [
            "FOO",
            "TERM x",
            "0",
            "",
            "RTMIN+16",
            "RTMIN+03",
            "RTMAX+1",
            "SIG",
            "SIGSIGHUP",
        ] {
            assert_eq!(
                check_signal(signal),
                Err(format!("invalid signal: {signal}"))
            );
        }
    }
}
