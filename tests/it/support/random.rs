//! Numbers that look random and are the same on every machine.

use std::str::FromStr;

/// xorshift64*.
pub(crate) struct Random(u64);

impl Random {
    /// A generator whose numbers the seed decides.
    pub(crate) fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// A number from 0 to below `limit`.
    pub(crate) fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % limit
    }

    /// One of several.
    pub(crate) fn of<'a, T>(&mut self, choices: &'a [T]) -> &'a T {
        &choices[self.below(choices.len())]
    }

    /// Bytes that cannot be compressed.
    pub(crate) fn bytes(&mut self, count: usize) -> Vec<u8> {
        (0..count).map(|_| self.below(256) as u8).collect()
    }
}

/// The number in an environment variable that makes a test longer or repeats one of its runs.
pub(crate) fn setting<T: FromStr>(name: &str, usual: T) -> T {
    std::env::var(name).map_or(usual, |text| {
        let number = text.parse().ok();
        number.unwrap_or_else(|| panic!("{name} must be a number, not {text:?}"))
    })
}

/// Whether tests are to take the sizes that take long (`RBUILD_TEST_LARGE=1`).
pub(crate) fn is_large() -> bool {
    setting("RBUILD_TEST_LARGE", 0) == 1
}
