//! Keys, as Tailscale writes them: a prefix, a colon, lower-case hex (`types/key`).

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Why a text is not a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyError {
    /// The prefix a key of this kind starts with.
    pub expected: &'static str,
}

impl fmt::Display for KeyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "not a key of the form {}:<64 hex digits>", self.expected)
    }
}

impl std::error::Error for KeyError {}

macro_rules! public_key {
    ($(#[$doc:meta])* $name:ident, $prefix:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name(pub [u8; 32]);

        impl $name {
            /// What the text form starts with.
            pub const PREFIX: &'static str = $prefix;

            /// Absent keys travel as zeros.
            pub fn is_zero(&self) -> bool {
                self.0 == [0; 32]
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(concat!($prefix, ":"))?;
                f.write_str(&hex::encode(self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($prefix, ":{}"), &hex::encode(&self.0[..4]))
            }
        }

        impl FromStr for $name {
            type Err = KeyError;

            fn from_str(text: &str) -> Result<Self, KeyError> {
                let error = KeyError { expected: $prefix };
                let digits = text.strip_prefix(concat!($prefix, ":")).ok_or(error.clone())?;
                let mut bytes = [0; 32];
                hex::decode_to_slice(digits, &mut bytes).map_err(|_| error)?;
                Ok($name(bytes))
            }
        }

        /// Text for people (JSON), bytes for the log.
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                if serializer.is_human_readable() {
                    serializer.collect_str(self)
                } else {
                    serializer.serialize_bytes(&self.0)
                }
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Visitor;
                impl<'de> de::Visitor<'de> for Visitor {
                    type Value = $name;
                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        f.write_str(concat!("a key of the form ", $prefix, ":<64 hex digits>"))
                    }
                    fn visit_str<E: de::Error>(self, text: &str) -> Result<$name, E> {
                        text.parse().map_err(E::custom)
                    }
                    fn visit_bytes<E: de::Error>(self, bytes: &[u8]) -> Result<$name, E> {
                        bytes.try_into().map($name).map_err(|_| E::custom("a key has 32 bytes"))
                    }
                }
                if deserializer.is_human_readable() {
                    deserializer.deserialize_str(Visitor)
                } else {
                    deserializer.deserialize_bytes(Visitor)
                }
            }
        }
    };
}

public_key!(
    /// One installation of a client; proved by Noise. Also the type of our own Noise key.
    MachineKey, "mkey"
);
public_key!(
    /// A node's WireGuard key: its identity in a tailnet; changes with each re-authentication.
    NodeKey, "nodekey"
);
public_key!(
    /// A node's path-discovery key: new with each start of the client.
    DiscoKey, "discokey"
);
public_key!(
    /// A node's tailnet-lock key.
    NlKey, "nlpub"
);
public_key!(
    /// The challenge of the early Noise payload.
    ChallengeKey, "chalpub"
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_goes_both_ways() {
        let key = NodeKey([0xab; 32]);
        let text = key.to_string();
        assert_eq!(text, format!("nodekey:{}", "ab".repeat(32)));
        assert_eq!(text.parse::<NodeKey>().unwrap(), key);
        assert_eq!(format!("nodekey:{}", "AB".repeat(32)).parse::<NodeKey>().unwrap(), key);
    }

    #[test]
    fn strangers_are_refused() {
        for text in ["", "nodekey:", "nodekey:ab", &format!("mkey:{}", "ab".repeat(32)), &"ab".repeat(32)] {
            assert!(text.parse::<NodeKey>().is_err(), "{text}");
        }
    }
}
