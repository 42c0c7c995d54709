//! Serialises byte strings that are mostly text: as a JSON string where they are UTF-8, else as an
//! array of numbers. `serde`'s own form refuses a path that is not UTF-8.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::PathBuf;

use serde::de::{SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// What is a plain string of bytes.
pub(crate) trait Bytes {
    fn as_bytes(&self) -> &[u8];
    fn from_bytes(bytes: Vec<u8>) -> Self;
}

impl Bytes for OsString {
    fn as_bytes(&self) -> &[u8] {
        self.as_os_str().as_bytes()
    }

    fn from_bytes(bytes: Vec<u8>) -> Self {
        Self::from_vec(bytes)
    }
}

impl Bytes for PathBuf {
    fn as_bytes(&self) -> &[u8] {
        self.as_os_str().as_bytes()
    }

    fn from_bytes(bytes: Vec<u8>) -> Self {
        OsString::from_vec(bytes).into()
    }
}

impl Bytes for Vec<u8> {
    fn as_bytes(&self) -> &[u8] {
        self
    }

    fn from_bytes(bytes: Vec<u8>) -> Self {
        bytes
    }
}

struct Ref<'a>(&'a [u8]);

impl Serialize for Ref<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match std::str::from_utf8(self.0) {
            Ok(text) => serializer.serialize_str(text),
            Err(_) => serializer.collect_seq(self.0),
        }
    }
}

struct Owned(Vec<u8>);

impl<'de> Deserialize<'de> for Owned {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct BytesVisitor;
        impl<'de> Visitor<'de> for BytesVisitor {
            type Value = Owned;

            fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                formatter.write_str("a string or an array of bytes")
            }

            fn visit_str<E>(self, text: &str) -> Result<Owned, E> {
                Ok(Owned(text.into()))
            }

            fn visit_string<E>(self, text: String) -> Result<Owned, E> {
                Ok(Owned(text.into_bytes()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Owned, A::Error> {
                let mut bytes = Vec::new();
                while let Some(byte) = items.next_element()? {
                    bytes.push(byte);
                }
                Ok(Owned(bytes))
            }
        }
        deserializer.deserialize_any(BytesVisitor)
    }
}

pub(crate) fn serialize<T: Bytes, S: Serializer>(
    value: &T,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    Ref(value.as_bytes()).serialize(serializer)
}

pub(crate) fn deserialize<'de, T: Bytes, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<T, D::Error> {
    Ok(T::from_bytes(Owned::deserialize(deserializer)?.0))
}

/// The same for a list.
pub(crate) mod list {
    use super::{Bytes, Deserialize as _, Deserializer, Owned, Ref, Serializer};

    pub(crate) fn serialize<T: Bytes, S: Serializer>(
        values: &[T],
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(values.iter().map(|value| Ref(value.as_bytes())))
    }

    pub(crate) fn deserialize<'de, T: Bytes, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Vec<T>, D::Error> {
        let values = Vec::<Owned>::deserialize(deserializer)?;
        Ok(values
            .into_iter()
            .map(|value| T::from_bytes(value.0))
            .collect())
    }
}

/// The same for a value that may be absent.
pub(crate) mod option {
    use super::{Bytes, Deserialize as _, Deserializer, Owned, Ref, Serialize as _, Serializer};

    #[expect(clippy::ref_option, reason = "the signature that serde(with) calls")]
    pub(crate) fn serialize<T: Bytes, S: Serializer>(
        value: &Option<T>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        value
            .as_ref()
            .map(|value| Ref(value.as_bytes()))
            .serialize(serializer)
    }

    pub(crate) fn deserialize<'de, T: Bytes, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<T>, D::Error> {
        let value = Option::<Owned>::deserialize(deserializer)?;
        Ok(value.map(|value| T::from_bytes(value.0)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::{Mount, MountSource};

    #[test]
    fn paths_and_content_survive_whatever_their_bytes() {
        let mount = Mount {
            target: PathBuf::from_bytes(vec![b'/', 0xff, b'"']),
            source: MountSource::Bind {
                source: "/a\nb".into(),
                subpath: Some(PathBuf::from_bytes(vec![0x80])),
            },
            readonly: true,
        };
        let json = serde_json::to_string(&mount).unwrap();
        assert_eq!(serde_json::from_str::<Mount>(&json).unwrap(), mount);
    }
}
