//! Sizes and ages in the words that Docker uses.

/// Decimal units, as sizes of images are shown.
const DECIMAL: [&str; 7] = ["B", "kB", "MB", "GB", "TB", "PB", "EB"];

/// Binary units, as memory is shown.
const BINARY: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];

/// Returns a size with up to three significant digits: `0B`, `1.02kB`, `12.3MB`.
pub(crate) fn size(bytes: u64) -> String {
    significant(bytes, 3)
}

/// Returns a size with up to four significant digits, as summaries show it: `1.024kB`.
pub(crate) fn exact_size(bytes: u64) -> String {
    significant(bytes, 4)
}

#[expect(clippy::cast_precision_loss, reason = "only a few digits are shown")]
fn significant(bytes: u64, digits: i32) -> String {
    let (mut value, mut unit) = (bytes as f64, 0);
    let rounded = |value: f64| {
        let whole_digits = if value < 1.0 {
            1
        } else {
            value.log10().floor() as i32 + 1
        };
        let scale = 10_f64.powi((digits - whole_digits).max(0));
        (value * scale).round() / scale
    };
    // Rounding may reach the next unit: 999,999 bytes are `1MB`, not `1000kB`.
    while unit + 1 < DECIMAL.len() && rounded(value) >= 1000.0 {
        value /= 1000.0;
        unit += 1;
    }
    format!("{}{}", rounded(value), DECIMAL[unit])
}

/// Returns an amount of memory in binary units: `1.5MiB`.
#[expect(clippy::cast_precision_loss, reason = "only a few digits are shown")]
pub(crate) fn memory(bytes: u64) -> String {
    let (mut value, mut unit) = (bytes as f64, 0);
    while unit + 1 < BINARY.len() && value >= 1024.0 {
        value /= 1024.0;
        unit += 1;
    }
    format!("{}{}", (value * 1000.0).round() / 1000.0, BINARY[unit])
}

/// Returns an amount of memory with up to four significant digits, as `stats` shows it: `1.234GiB`.
#[expect(clippy::cast_precision_loss, reason = "only a few digits are shown")]
pub(crate) fn binary_size(bytes: u64) -> String {
    let (mut value, mut unit) = (bytes as f64, 0);
    while unit + 1 < BINARY.len() && value >= 1024.0 {
        value /= 1024.0;
        unit += 1;
    }
    let decimals = match value {
        1000.0.. => 0,
        100.0.. => 1,
        10.0.. => 2,
        _ => 3,
    };
    let scale = 10_f64.powi(decimals);
    format!("{}{}", (value * scale).round() / scale, BINARY[unit])
}

/// Returns a size with two decimals, as transfers show it: `75B`, `2.10kB`.
#[expect(clippy::cast_precision_loss, reason = "only a few digits are shown")]
pub(crate) fn transfer_size(bytes: u64) -> String {
    let (mut value, mut unit) = (bytes as f64, 0);
    while unit + 1 < DECIMAL.len() && value >= 999.995 {
        value /= 1000.0;
        unit += 1;
    }
    if unit == 0 {
        format!("{bytes}B")
    } else {
        format!("{value:.2}{}", DECIMAL[unit])
    }
}

/// Returns an age in words, without `ago`: `About a minute`, `3 weeks`.
pub(crate) fn age(seconds: i64) -> String {
    let minutes = seconds / 60;
    let hours = (seconds + 1800) / 3600;
    match (seconds, minutes, hours) {
        (..=0, ..) => "Less than a second".into(),
        (1, ..) => "1 second".into(),
        (..=59, ..) => format!("{seconds} seconds"),
        (_, 1, _) => "About a minute".into(),
        (_, ..=59, _) => format!("{minutes} minutes"),
        (.., 1) => "About an hour".into(),
        (.., ..=47) => format!("{hours} hours"),
        (.., ..=335) => format!("{} days", hours / 24),
        (.., ..=1439) => format!("{} weeks", hours / 24 / 7),
        (.., ..=17_519) => format!("{} months", hours / 24 / 30),
        _ => format!("{} years", seconds / 3600 / 24 / 365),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_has_four_digits() {
        for (bytes, text) in [
            (0, "0B"),
            (1023, "1023B"),
            (815_104, "796KiB"),
            (1_293_942, "1.234MiB"),
            (123_456_789, "117.7MiB"),
            (2 << 30, "2GiB"),
        ] {
            assert_eq!(binary_size(bytes), text);
        }
    }

    #[test]
    fn sizes_have_docker_s_digits() {
        for (bytes, text) in [
            (0, "0B"),
            (999, "999B"),
            (1000, "1kB"),
            (1024, "1.02kB"),
            (12_345, "12.3kB"),
            (123_456, "123kB"),
            (999_999, "1MB"),
            (7_050_000, "7.05MB"),
            (1_340_000_000, "1.34GB"),
            (u64::MAX, "18.4EB"),
        ] {
            assert_eq!(size(bytes), text);
        }
        assert_eq!(exact_size(1024), "1.024kB");
        assert_eq!(exact_size(41_230_000), "41.23MB");
    }

    #[test]
    fn memory_is_binary() {
        assert_eq!(memory(20 << 20), "20MiB");
        assert_eq!(memory(3 << 19), "1.5MiB");
    }

    #[test]
    fn transfers_have_two_decimals() {
        for (bytes, text) in [
            (0, "0B"),
            (75, "75B"),
            (2100, "2.10kB"),
            (10_100_000, "10.10MB"),
            (999_999, "1.00MB"),
        ] {
            assert_eq!(transfer_size(bytes), text);
        }
    }

    #[test]
    fn ages_have_docker_s_words() {
        let (minute, hour, day) = (60, 3600, 86_400);
        for (seconds, text) in [
            (0, "Less than a second"),
            (1, "1 second"),
            (59, "59 seconds"),
            (minute, "About a minute"),
            (119, "About a minute"),
            (2 * minute, "2 minutes"),
            (59 * minute + 59, "59 minutes"),
            (hour, "About an hour"),
            (hour + 29 * minute, "About an hour"),
            (hour + 30 * minute, "2 hours"),
            (47 * hour, "47 hours"),
            (2 * day, "2 days"),
            (13 * day, "13 days"),
            (14 * day, "2 weeks"),
            (59 * day, "8 weeks"),
            (60 * day, "2 months"),
            (700 * day, "23 months"),
            (731 * day, "2 years"),
        ] {
            assert_eq!(age(seconds), text, "{seconds}");
        }
    }
}
