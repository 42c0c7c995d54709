//! SHA-256 digests as typed values: blobs, layers and chains cannot be mixed up.
//!
//! A digest is parsed at the edge and then carried as 32 bytes; only this module turns one into
//! text, and nothing that is not a digest ever becomes a path below `blobs/` or `trees/`.

use std::fmt;
use std::io::{self, Write};
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::digest::common::hazmat::{SerializableState, SerializedState};
use sha2::{Digest as _, Sha256};

/// Why a text is not a digest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not a digest of the form sha256:<64 lower-case hex digits>")]
pub struct ParseDigestError {
    /// What was given, shortened and escaped for display.
    pub text: String,
}

/// Digest of some bytes: a blob, a manifest, a config, a cache key.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest([u8; 32]);

/// Digest of a layer's *uncompressed* tar: what `rootfs.diff_ids` of an image config lists.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DiffId(Digest);

/// Identity of a stack of layers, as the OCI image specification computes it from diff IDs.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChainId(Digest);

const ALGORITHM: &str = "sha256:";

impl Digest {
    /// Returns the digest with these 32 bytes.
    pub const fn from_bytes(bytes: [u8; 32]) -> Digest {
        Digest(bytes)
    }

    /// Returns the SHA-256 of `bytes`.
    pub fn of(bytes: &[u8]) -> Digest {
        Digest(Sha256::digest(bytes).into())
    }

    /// Returns the 32 bytes of the digest.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Returns the 64 lower-case hex digits, without the algorithm.
    pub fn hex(&self) -> String {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let mut text = String::with_capacity(64);
        for byte in self.0 {
            text.push(char::from(DIGITS[usize::from(byte >> 4)]));
            text.push(char::from(DIGITS[usize::from(byte & 15)]));
        }
        text
    }

    /// Parses 64 lower-case hex digits without an algorithm, as they stand in file names.
    pub fn from_hex(text: &str) -> Result<Digest, ParseDigestError> {
        let refuse = || ParseDigestError { text: shown(text) };
        let digits = text.as_bytes();
        if digits.len() != 64 {
            return Err(refuse());
        }
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
            let (Some(high), Some(low)) = (nibble(pair[0]), nibble(pair[1])) else {
                return Err(refuse());
            };
            *byte = high << 4 | low;
        }
        Ok(Digest(bytes))
    }
}

/// Value of one lower-case hex digit.
fn nibble(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    }
}

/// Shortens and escapes a hostile text so that it can stand in an error message.
fn shown(text: &str) -> String {
    let mut shown: String = text
        .chars()
        .take(80)
        .flat_map(char::escape_default)
        .collect();
    if text.chars().nth(80).is_some() {
        shown.push('…');
    }
    shown
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(ALGORITHM)?;
        f.write_str(&self.hex())
    }
}

impl FromStr for Digest {
    type Err = ParseDigestError;

    fn from_str(text: &str) -> Result<Digest, ParseDigestError> {
        let hex = text
            .strip_prefix(ALGORITHM)
            .ok_or_else(|| ParseDigestError { text: shown(text) })?;
        Digest::from_hex(hex).map_err(|_| ParseDigestError { text: shown(text) })
    }
}

impl DiffId {
    /// Wraps the digest of an uncompressed layer tar.
    pub const fn from_digest(digest: Digest) -> DiffId {
        DiffId(digest)
    }

    /// Returns the plain digest.
    pub const fn digest(&self) -> &Digest {
        &self.0
    }
}

impl ChainId {
    /// Wraps a digest that is known to identify a chain.
    pub const fn from_digest(digest: Digest) -> ChainId {
        ChainId(digest)
    }

    /// Returns the plain digest.
    pub const fn digest(&self) -> &Digest {
        &self.0
    }

    /// Computes the chain ID of layers given bottom first; an empty stack has none.
    ///
    /// OCI image specification, config, "Layer ChainID": the first layer's chain ID is its diff
    /// ID, each further one is the digest of `<chain below> <diff ID>`.
    pub fn of(layers: &[DiffId]) -> Option<ChainId> {
        let (first, rest) = layers.split_first()?;
        let chain = rest.iter().fold(first.0, |below, layer| {
            Digest::of(format!("{below} {layer}").as_bytes())
        });
        Some(ChainId(chain))
    }
}

/// Text forms and conversions that all digest types share.
macro_rules! digest_text {
    ($name:ident) => {
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<$name, D::Error> {
                let text = String::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

/// What a newtype over [`Digest`] adds to [`digest_text`].
macro_rules! digest_newtype {
    ($name:ident) => {
        digest_text!($name);

        impl $name {
            /// Returns the 64 lower-case hex digits, without the algorithm.
            pub fn hex(&self) -> String {
                self.0.hex()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }

        impl FromStr for $name {
            type Err = ParseDigestError;

            fn from_str(text: &str) -> Result<$name, ParseDigestError> {
                text.parse().map($name)
            }
        }

        impl From<$name> for Digest {
            fn from(id: $name) -> Digest {
                id.0
            }
        }
    };
}

digest_text!(Digest);
digest_newtype!(DiffId);
digest_newtype!(ChainId);

/// A running SHA-256.
#[derive(Clone, Default)]
pub struct Hasher(Sha256);

impl Hasher {
    /// Starts with nothing hashed.
    pub fn new() -> Hasher {
        Hasher::default()
    }

    /// Hashes some more bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// Returns the digest of all bytes so far.
    pub fn finish(self) -> Digest {
        Digest(self.0.finalize().into())
    }

    /// What is needed to go on later: of a length that is always the same.
    pub(crate) fn state(&self) -> Vec<u8> {
        self.0.serialize().to_vec()
    }

    /// Goes on from a [`state`](Hasher::state); none if it is not one.
    pub(crate) fn from_state(state: &[u8]) -> Option<Hasher> {
        let state: &SerializedState<Sha256> = state.try_into().ok()?;
        Sha256::deserialize(state).ok().map(Hasher)
    }
}

/// Writes through to `W` and hashes and counts what passed.
pub struct DigestWriter<W> {
    inner: W,
    hasher: Hasher,
    bytes: u64,
}

impl<W: Write> DigestWriter<W> {
    /// Wraps a writer; nothing is hashed yet.
    pub fn new(inner: W) -> DigestWriter<W> {
        DigestWriter {
            inner,
            hasher: Hasher::new(),
            bytes: 0,
        }
    }

    /// Goes on after bytes that the inner writer has already and that are hashed.
    pub(crate) fn after(inner: W, hasher: Hasher, bytes: u64) -> DigestWriter<W> {
        DigestWriter {
            inner,
            hasher,
            bytes,
        }
    }

    /// Returns how many bytes the inner writer has taken.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Ends the stream: the inner writer, the digest of what it took, and how many bytes.
    pub fn finish(self) -> (W, Digest, u64) {
        (self.inner, self.hasher.finish(), self.bytes)
    }
}

impl<W: Write> Write for DigestWriter<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = self.inner.write(bytes)?;
        self.hasher.update(&bytes[..taken]);
        self.bytes += taken as u64;
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EMPTY: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn empty_input_has_the_known_digest() {
        assert_eq!(Digest::of(b"").to_string(), EMPTY);
        assert_eq!(EMPTY.parse(), Ok(Digest::of(b"")));
        assert_eq!(format!("{:?}", Digest::of(b"")), EMPTY);
    }

    #[test]
    fn only_the_exact_form_is_parsed() {
        let hex = &EMPTY[7..];
        for bad in [
            String::new(),
            hex.to_owned(),
            format!("sha256:{}", hex.to_uppercase()),
            format!("sha512:{hex}"),
            format!("sha256:{}", &hex[1..]),
            format!("sha256:{hex}0"),
            format!(" sha256:{hex}"),
            "sha256:../../../etc/passwd".to_owned(),
            format!("sha256:{}\n", &hex[1..]),
            format!("sha256:{}é", &hex[2..]),
        ] {
            assert!(bad.parse::<Digest>().is_err(), "{bad:?} was accepted");
        }
    }

    #[test]
    fn chain_ids_follow_the_image_specification() {
        let layer = |n: u8| DiffId::from_digest(Digest::of(&[n]));
        assert_eq!(ChainId::of(&[]), None);
        assert_eq!(
            ChainId::of(&[layer(1)]).map(Digest::from_chain),
            Some(Digest::of(&[1])),
            "a single layer's chain is the layer"
        );
        let two = Digest::of(format!("{} {}", layer(1), layer(2)).as_bytes());
        let three = Digest::of(format!("{two} {}", layer(3)).as_bytes());
        assert_eq!(
            ChainId::of(&[layer(1), layer(2), layer(3)]).map(Digest::from_chain),
            Some(three)
        );
    }

    impl Digest {
        fn from_chain(chain: ChainId) -> Digest {
            chain.0
        }
    }

    #[test]
    fn the_writer_hashes_what_passed() {
        let mut writer = DigestWriter::new(Vec::new());
        writer.write_all(b"ab").unwrap();
        writer.write_all(b"c").unwrap();
        let (inner, digest, bytes) = writer.finish();
        assert_eq!((inner.as_slice(), bytes), (b"abc".as_slice(), 3));
        assert_eq!(digest, Digest::of(b"abc"));
    }

    #[test]
    fn json_form_is_the_text() {
        let id = DiffId::from_digest(Digest::of(b""));
        assert_eq!(serde_json::to_string(&id).unwrap(), format!("\"{EMPTY}\""));
        assert_eq!(
            serde_json::from_str::<DiffId>(&format!("\"{EMPTY}\"")).unwrap(),
            id
        );
        assert!(serde_json::from_str::<DiffId>("\"sha256:0\"").is_err());
    }
}
