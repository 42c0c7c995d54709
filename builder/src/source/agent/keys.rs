//! Private keys in OpenSSH's own format, and signing with them.

use std::path::{Path, PathBuf};

use base64::Engine as _;
use ring::rand::SystemRandom;
use ring::rsa::{KeyPairComponents, PublicKeyComponents};
use ring::signature::{self, EcdsaKeyPair, Ed25519KeyPair, RsaKeyPair};

use super::{Reader, put};
use crate::error::BuildError;

/// Largest key file that is read.
const LARGEST: u64 = 64 << 10;

const BEGIN: &str = "-----BEGIN OPENSSH PRIVATE KEY-----";
const END: &str = "-----END OPENSSH PRIVATE KEY-----";

/// Flags of a request for a signature: which hash an RSA key is to be used with.
const RSA_SHA2_256: u32 = 2;
const RSA_SHA2_512: u32 = 4;

/// A key that signs.
pub(super) struct Key {
    /// The public key as it goes over the wire.
    pub(super) public: Vec<u8>,
    pub(super) comment: String,
    pair: Pair,
}

enum Pair {
    Ed25519(Box<Ed25519KeyPair>),
    Ecdsa(&'static str, Box<EcdsaKeyPair>),
    Rsa(Box<RsaKeyPair>),
}

/// Why a key file is of no use.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
enum KeyError {
    #[error("it is not a private key in OpenSSH's format")]
    Format,
    #[error("it is protected by a passphrase")]
    Encrypted,
    #[error("keys of the kind `{0}` are not supported")]
    Kind(String),
    #[error("the key in it is not valid")]
    Invalid,
}

/// Reads the keys of several files.
pub(super) fn read_all(files: &[PathBuf]) -> Result<Vec<Key>, BuildError> {
    let mut keys = Vec::with_capacity(files.len());
    for file in files {
        keys.push(read(file)?);
    }
    Ok(keys)
}

fn read(path: &Path) -> Result<Key, BuildError> {
    let failed = || format!("could not use the SSH key `{}`", path.display());
    let bytes = std::fs::metadata(path)
        .and_then(|metadata| {
            if metadata.len() > LARGEST {
                return Err(std::io::Error::other("the file is too large for a key"));
            }
            std::fs::read(path)
        })
        .map_err(|error| BuildError::io(failed(), &error))?;
    parse(&String::from_utf8_lossy(&bytes)).map_err(|error| {
        let help = match error {
            KeyError::Encrypted => "add it to an agent with `ssh-add` and use `--ssh default`",
            KeyError::Format => "`ssh-keygen -p -f FILE` writes a key in OpenSSH's format",
            _ => "use a key of the kind ed25519, or an agent with `--ssh default`",
        };
        BuildError::io(failed(), &error).with_help(help)
    })
}

fn parse(text: &str) -> Result<Key, KeyError> {
    let body = text
        .split_once(BEGIN)
        .and_then(|(_, rest)| rest.split_once(END))
        .map(|(body, _)| body.split_whitespace().collect::<String>())
        .ok_or(KeyError::Format)?;
    let bytes = base64::engine::general_purpose::STANDARD
        .decode(body)
        .map_err(|_| KeyError::Format)?;
    let rest = bytes
        .strip_prefix(b"openssh-key-v1\0".as_slice())
        .ok_or(KeyError::Format)?;
    let mut reader = Reader(rest);
    let mut string = || reader.string().ok_or(KeyError::Format);
    let (cipher, _derivation, _options) = (string()?, string()?, string()?);
    if cipher != b"none" {
        return Err(KeyError::Encrypted);
    }
    if reader.number() != Some(1) {
        return Err(KeyError::Format);
    }
    let public = reader.string().ok_or(KeyError::Format)?.to_vec();
    let private = reader.string().ok_or(KeyError::Format)?;
    let mut private = Reader(private);
    let (first, second) = (private.number(), private.number());
    if first.is_none() || first != second {
        return Err(KeyError::Format);
    }
    let mut string = || private.string().ok_or(KeyError::Format);
    let kind = string()?;
    let pair = match kind {
        b"ssh-ed25519" => ed25519(string()?, string()?)?,
        b"ecdsa-sha2-nistp256" | b"ecdsa-sha2-nistp384" => {
            let (curve, point, secret) = (string()?, string()?, string()?);
            ecdsa(curve, point, secret)?
        }
        b"ssh-rsa" => rsa(&[
            string()?,
            string()?,
            string()?,
            string()?,
            string()?,
            string()?,
        ])?,
        kind => return Err(KeyError::Kind(String::from_utf8_lossy(kind).into_owned())),
    };
    let comment = String::from_utf8_lossy(string()?).into_owned();
    Ok(Key {
        public,
        comment,
        pair,
    })
}

fn ed25519(public: &[u8], secret: &[u8]) -> Result<Pair, KeyError> {
    let seed = secret.get(..32).ok_or(KeyError::Invalid)?;
    Ed25519KeyPair::from_seed_and_public_key(seed, public)
        .map(|pair| Pair::Ed25519(Box::new(pair)))
        .map_err(|_| KeyError::Invalid)
}

fn ecdsa(curve: &[u8], point: &[u8], secret: &[u8]) -> Result<Pair, KeyError> {
    let (name, algorithm, size) = match curve {
        b"nistp256" => (
            "ecdsa-sha2-nistp256",
            &signature::ECDSA_P256_SHA256_FIXED_SIGNING,
            32,
        ),
        b"nistp384" => (
            "ecdsa-sha2-nistp384",
            &signature::ECDSA_P384_SHA384_FIXED_SIGNING,
            48,
        ),
        _ => return Err(KeyError::Invalid),
    };
    let secret = unsigned(secret);
    let missing = size - secret.len().min(size);
    let mut padded = vec![0; missing];
    padded.extend_from_slice(secret);
    EcdsaKeyPair::from_private_key_and_public_key(algorithm, &padded, point, &SystemRandom::new())
        .map(|pair| Pair::Ecdsa(name, Box::new(pair)))
        .map_err(|_| KeyError::Invalid)
}

/// From modulus, public exponent, private exponent, inverse of the second prime, and the primes.
fn rsa(numbers: &[&[u8]; 6]) -> Result<Pair, KeyError> {
    let [modulus, exponent, secret, inverse, first, second] = numbers.map(unsigned);
    // RFC 8017, section 3.2.
    let secret_first = remainder(secret, &minus_one(first));
    let secret_second = remainder(secret, &minus_one(second));
    let components = KeyPairComponents {
        public_key: PublicKeyComponents {
            n: modulus,
            e: exponent,
        },
        d: secret,
        p: first,
        q: second,
        dP: unsigned(&secret_first),
        dQ: unsigned(&secret_second),
        qInv: inverse,
    };
    RsaKeyPair::from_components(&components)
        .map(|pair| Pair::Rsa(Box::new(pair)))
        .map_err(|_| KeyError::Invalid)
}

/// A number without leading zeros.
fn unsigned(number: &[u8]) -> &[u8] {
    let start = number.iter().position(|byte| *byte != 0);
    &number[start.unwrap_or(number.len())..]
}

fn minus_one(odd: &[u8]) -> Vec<u8> {
    let mut number = odd.to_vec();
    if let Some(last) = number.last_mut() {
        // Primes above 2 are odd.
        *last &= 0xfe;
    }
    number
}

/// The remainder of a division of big-endian numbers, bit by bit.
fn remainder(number: &[u8], divisor: &[u8]) -> Vec<u8> {
    // One byte more: twice a remainder does not fit into the divisor's length.
    let mut divisor_wide = vec![0; 1];
    divisor_wide.extend_from_slice(divisor);
    let mut rest = vec![0_u8; divisor_wide.len()];
    if divisor.iter().all(|byte| *byte == 0) {
        return rest;
    }
    for byte in number {
        for bit in (0..8).rev() {
            let mut carry = (byte >> bit) & 1;
            for digit in rest.iter_mut().rev() {
                let next = *digit >> 7;
                *digit = (*digit << 1) | carry;
                carry = next;
            }
            if rest >= divisor_wide {
                let mut borrow = 0;
                for (digit, less) in rest.iter_mut().zip(&divisor_wide).rev() {
                    let value = i16::from(*digit) - i16::from(*less) - borrow;
                    borrow = i16::from(value < 0);
                    *digit = value.rem_euclid(256) as u8;
                }
            }
        }
    }
    rest
}

impl Key {
    /// Signs, and returns the signature in the form of the wire (RFC 4253, section 6.6).
    pub(super) fn sign(&self, data: &[u8], flags: u32) -> Option<Vec<u8>> {
        let random = SystemRandom::new();
        let (name, value) = match &self.pair {
            Pair::Ed25519(pair) => ("ssh-ed25519", pair.sign(data).as_ref().to_vec()),
            Pair::Ecdsa(name, pair) => {
                let fixed = pair.sign(&random, data).ok()?;
                let (r, s) = fixed.as_ref().split_at(fixed.as_ref().len() / 2);
                let mut value = Vec::new();
                put_number(&mut value, r);
                put_number(&mut value, s);
                (*name, value)
            }
            Pair::Rsa(pair) => {
                let (name, padding): (_, &dyn signature::RsaEncoding) = if flags & RSA_SHA2_512 != 0
                {
                    ("rsa-sha2-512", &signature::RSA_PKCS1_SHA512)
                } else if flags & RSA_SHA2_256 != 0 {
                    ("rsa-sha2-256", &signature::RSA_PKCS1_SHA256)
                } else {
                    // SHA-1: no server takes it any more.
                    return None;
                };
                let mut value = vec![0; pair.public().modulus_len()];
                pair.sign(padding, &random, data, &mut value).ok()?;
                (name, value)
            }
        };
        let mut signature = Vec::new();
        put(&mut signature, name.as_bytes());
        put(&mut signature, &value);
        Some(signature)
    }
}

/// Appends a positive number of the SSH encoding.
fn put_number(to: &mut Vec<u8>, number: &[u8]) {
    let number = unsigned(number);
    let mut bytes = Vec::with_capacity(number.len() + 1);
    if number.first().is_some_and(|byte| byte & 0x80 != 0) {
        bytes.push(0);
    }
    bytes.extend_from_slice(number);
    put(to, &bytes);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remainders_are_those_of_ordinary_numbers() {
        for (number, divisor) in [
            (1_000_003_u64, 997_u64),
            (255, 256),
            (0, 3),
            (u64::MAX, 12345),
        ] {
            let rest = remainder(&number.to_be_bytes(), &divisor.to_be_bytes());
            let mut wide = [0; 9];
            wide.copy_from_slice(&rest);
            assert_eq!(wide[0], 0);
            assert_eq!(
                u64::from_be_bytes(wide[1..].try_into().unwrap()),
                number % divisor
            );
        }
    }

    #[test]
    fn what_is_no_key_is_told() {
        assert_eq!(parse("hello").err(), Some(KeyError::Format));
        let encode = |bytes: &[u8]| {
            let body = base64::engine::general_purpose::STANDARD.encode(bytes);
            format!("{BEGIN}\n{body}\n{END}\n")
        };
        assert_eq!(
            parse(&encode(b"openssh-key-v1\0")).err(),
            Some(KeyError::Format)
        );
        let mut locked = b"openssh-key-v1\0".to_vec();
        for part in [b"aes256-ctr".as_slice(), b"bcrypt", b""] {
            put(&mut locked, part);
        }
        assert_eq!(parse(&encode(&locked)).err(), Some(KeyError::Encrypted));
    }
}
