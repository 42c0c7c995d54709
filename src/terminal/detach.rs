//! The keys that let go of a container which goes on.

use crate::failure::Failure;

/// Ctrl-P, Ctrl-Q.
const USUAL: [u8; 2] = [16, 17];

/// A sequence of keys, and how much of it was typed.
#[derive(Debug, Clone)]
pub(crate) struct DetachKeys {
    keys: Vec<u8>,
    typed: usize,
}

/// What was typed.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Typed {
    /// For the container.
    pub(crate) bytes: Vec<u8>,
    /// The sequence is complete; what came behind it is lost.
    pub(crate) detach: bool,
}

impl DetachKeys {
    /// A container that is not let go of by keys.
    pub(crate) fn none() -> DetachKeys {
        DetachKeys {
            keys: Vec::new(),
            typed: 0,
        }
    }

    /// `--detach-keys`: letters, and `ctrl-` with a letter or one of `@ [ \\ ] ^ _`, with commas between.
    pub(crate) fn of_option(text: Option<&str>) -> Result<DetachKeys, Failure> {
        let keys = match text {
            None => USUAL.to_vec(),
            Some("") => Vec::new(),
            Some(text) => text.split(',').map(key).collect::<Result<_, _>>()?,
        };
        Ok(DetachKeys { keys, typed: 0 })
    }

    /// Takes bytes; the beginning of a sequence is held back until it is known what it is.
    pub(crate) fn take(&mut self, bytes: &[u8]) -> Typed {
        if self.keys.is_empty() {
            return Typed {
                bytes: bytes.to_vec(),
                detach: false,
            };
        }
        let mut passed = Vec::with_capacity(bytes.len());
        for &byte in bytes {
            if byte != self.keys[self.typed] {
                passed.extend_from_slice(&self.keys[..self.typed]);
                self.typed = 0;
            }
            if byte == self.keys[self.typed] {
                self.typed += 1;
            } else {
                passed.push(byte);
            }
            if self.typed == self.keys.len() {
                self.typed = 0;
                return Typed {
                    bytes: passed,
                    detach: true,
                };
            }
        }
        Typed {
            bytes: passed,
            detach: false,
        }
    }
}

fn key(text: &str) -> Result<u8, Failure> {
    let unknown = || {
        Failure::new(format!("invalid detach keys: unknown character: '{text}'"))
            .hint("a key is a letter or ctrl- and a letter, such as `ctrl-p,ctrl-q`")
    };
    match text.as_bytes() {
        [letter] => Ok(*letter),
        [b'c', b't', b'r', b'l', b'-', letter] => match letter {
            b'a'..=b'z' => Ok(letter - b'a' + 1),
            b'@' => Ok(0),
            b'['..=b'_' => Ok(letter - b'[' + 27),
            _ => Err(unknown()),
        },
        _ => Err(unknown()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn typed(keys: Option<&str>, pieces: &[&[u8]]) -> (Vec<u8>, bool) {
        let mut keys = DetachKeys::of_option(keys).unwrap();
        let mut all = Vec::new();
        for piece in pieces {
            let Typed { bytes, detach } = keys.take(piece);
            all.extend(bytes);
            if detach {
                return (all, true);
            }
        }
        (all, false)
    }

    #[test]
    fn keys_are_noticed_and_everything_else_passes() {
        assert_eq!(typed(None, &[b"ab\x10\x11c"]), (b"ab".to_vec(), true));
        assert_eq!(typed(None, &[b"a\x10", b"\x11"]), (b"a".to_vec(), true));
        assert_eq!(typed(None, &[b"\x10x"]), (b"\x10x".to_vec(), false));
        assert_eq!(typed(None, &[b"\x10\x10\x11"]), (b"\x10".to_vec(), true));
        assert_eq!(typed(Some("ctrl-],q"), &[b"\x1dq"]), (Vec::new(), true));
        assert_eq!(
            typed(Some(""), &[b"\x10\x11"]),
            (b"\x10\x11".to_vec(), false)
        );
    }

    #[test]
    fn wrong_keys_are_refused() {
        for wrong in ["ctrl-", "ctrl-A", "ab", "a,,b", "alt-x"] {
            assert!(DetachKeys::of_option(Some(wrong)).is_err(), "{wrong}");
        }
    }
}
