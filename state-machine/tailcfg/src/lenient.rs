//! Reading what clients send.
//!
//! Go reads JSON keys without regard to case, and clients rely on it: the Go client writes `Hostinfo` and `IPNVersion`
//! where the Rust client writes `HostInfo` and `IpnVersion`. So a message is first brought into the spelling of
//! `tailcfg.go` by a table of names and kinds, and only then read into its type. The table also refuses values of the
//! wrong kind early: what one client says of itself is passed on to its peers, and would end their streams there.

use std::fmt;

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

/// The longest message of a client that is read at all.
pub const MESSAGE_BYTES_MAX: usize = 1 << 20;
/// How deep objects and lists may nest; the messages themselves need five.
const DEPTH_MAX: usize = 16;

/// A message of a client.
pub trait ClientMessage: DeserializeOwned {
    /// Its fields, as `tailcfg.go` spells them.
    const FIELDS: Fields;
}

/// The fields of an object.
#[derive(Clone, Copy, Debug)]
pub struct Fields {
    /// Canonical names with the kind of their values.
    pub known: &'static [(&'static str, Kind)],
    /// Whether others are kept as they are, for peers that know them.
    pub keep_unknown: bool,
}

/// What a value must be.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    /// Text.
    Text,
    /// `true` or `false`.
    Bool,
    /// A whole number of 64 bits.
    Integer,
    /// A whole number that is not negative.
    Unsigned,
    /// A whole number of 16 bits that is not negative.
    Port,
    /// Any number.
    Number,
    /// A list of texts.
    Texts,
    /// A list of whole numbers.
    Integers,
    /// A list of network prefixes.
    Prefixes,
    /// Names of one's own with numbers.
    NumberMap,
    /// An object of known shape.
    Object(&'static Fields),
    /// A list of objects of known shape.
    Objects(&'static Fields),
    /// Anything, as it came.
    Any,
}

/// Why a client's message could not be read. Holds no part of the message beyond field names.
#[derive(Debug)]
pub enum DecodeError {
    /// Longer than [`MESSAGE_BYTES_MAX`].
    TooLong { bytes: usize },
    /// Not JSON.
    Syntax(serde_json::Error),
    /// Objects and lists nest too deep.
    TooDeep,
    /// A field holds something else than it should.
    WrongKind { field: String, expected: &'static str },
    /// The fields do not make up the message.
    Content(serde_json::Error),
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DecodeError::TooLong { bytes } => {
                write!(f, "message of {bytes} bytes, at most {MESSAGE_BYTES_MAX} are read")
            }
            DecodeError::Syntax(_) => f.write_str("message is not JSON"),
            DecodeError::TooDeep => write!(f, "message nests deeper than {DEPTH_MAX} levels"),
            DecodeError::WrongKind { field, expected } => write!(f, "field {field} of the message is not {expected}"),
            DecodeError::Content(_) => f.write_str("message has unusable fields"),
        }
    }
}

impl std::error::Error for DecodeError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            DecodeError::Syntax(error) | DecodeError::Content(error) => Some(error),
            _ => None,
        }
    }
}

/// Reads a message of a client: keys in any case, `null` as absent, unknown fields skipped.
pub fn from_client_json<T: ClientMessage>(bytes: &[u8]) -> Result<T, DecodeError> {
    if bytes.len() > MESSAGE_BYTES_MAX {
        return Err(DecodeError::TooLong { bytes: bytes.len() });
    }
    let value: Value = serde_json::from_slice(bytes).map_err(DecodeError::Syntax)?;
    let value = normal_object(value, &T::FIELDS, "message", 0)?;
    serde_json::from_value(value).map_err(DecodeError::Content)
}

fn normal_object(value: Value, fields: &Fields, at: &str, depth: usize) -> Result<Value, DecodeError> {
    if depth > DEPTH_MAX {
        return Err(DecodeError::TooDeep);
    }
    let Value::Object(object) = value else { return Err(wrong(at, "an object")) };
    let mut normal = Map::new();
    for (key, value) in object {
        if value.is_null() {
            continue;
        }
        match fields.known.iter().find(|(name, _)| name.eq_ignore_ascii_case(&key)) {
            Some((name, kind)) => {
                let exact = *name == key;
                let value = normal_value(value, *kind, name, depth + 1)?;
                // Twice in different spellings: the right spelling wins.
                if exact || !normal.contains_key(*name) {
                    normal.insert((*name).to_owned(), value);
                }
            }
            None if fields.keep_unknown => {
                normal.insert(key, without_nulls(value, depth + 1)?);
            }
            None => {}
        }
    }
    Ok(Value::Object(normal))
}

fn normal_value(value: Value, kind: Kind, at: &str, depth: usize) -> Result<Value, DecodeError> {
    let fits = match kind {
        Kind::Object(fields) => return normal_object(value, fields, at, depth),
        Kind::Objects(fields) => {
            let list = list(value, at)?.into_iter().map(|one| normal_object(one, fields, at, depth + 1));
            return list.collect::<Result<_, _>>().map(Value::Array);
        }
        Kind::Prefixes => return masked_prefixes(value, at),
        Kind::Any => return Ok(value),
        Kind::Text => value.is_string(),
        Kind::Bool => value.is_boolean(),
        Kind::Integer => value.is_i64(),
        Kind::Unsigned => value.is_u64(),
        Kind::Port => value.as_u64().is_some_and(|number| number <= u64::from(u16::MAX)),
        Kind::Number => value.is_number(),
        Kind::Texts => value.as_array().is_some_and(|list| list.iter().all(Value::is_string)),
        Kind::Integers => value.as_array().is_some_and(|list| list.iter().all(Value::is_i64)),
        Kind::NumberMap => value.as_object().is_some_and(|map| map.values().all(Value::is_number)),
    };
    if fits { Ok(value) } else { Err(wrong(at, expected(kind))) }
}

fn expected(kind: Kind) -> &'static str {
    match kind {
        Kind::Text => "a text",
        Kind::Bool => "true or false",
        Kind::Integer => "a whole number",
        Kind::Unsigned => "a whole number, not negative",
        Kind::Port => "a number from 0 to 65535",
        Kind::Number => "a number",
        Kind::Texts => "a list of texts",
        Kind::Integers => "a list of whole numbers",
        Kind::Prefixes => "a list of network prefixes",
        Kind::NumberMap => "an object of numbers",
        Kind::Object(_) => "an object",
        Kind::Objects(_) => "a list of objects",
        Kind::Any => "a value",
    }
}

/// Prefixes with their host bits cleared: peers refuse others in some places.
fn masked_prefixes(value: Value, at: &str) -> Result<Value, DecodeError> {
    let masked = |one: Value| {
        let prefix = one.as_str().and_then(|text| text.parse::<ipnet::IpNet>().ok());
        prefix
            .map(|prefix| Value::String(prefix.trunc().to_string()))
            .ok_or_else(|| wrong(at, expected(Kind::Prefixes)))
    };
    list(value, at)?.into_iter().map(masked).collect::<Result<_, _>>().map(Value::Array)
}

fn list(value: Value, at: &str) -> Result<Vec<Value>, DecodeError> {
    match value {
        Value::Array(list) => Ok(list),
        _ => Err(wrong(at, "a list")),
    }
}

/// What is passed on must hold no `null`.
fn without_nulls(value: Value, depth: usize) -> Result<Value, DecodeError> {
    if depth > DEPTH_MAX {
        return Err(DecodeError::TooDeep);
    }
    Ok(match value {
        Value::Object(object) => {
            let mut kept = Map::new();
            for (key, value) in object.into_iter().filter(|(_, value)| !value.is_null()) {
                kept.insert(key, without_nulls(value, depth + 1)?);
            }
            Value::Object(kept)
        }
        Value::Array(list) => {
            let kept = list.into_iter().filter(|one| !one.is_null()).map(|one| without_nulls(one, depth + 1));
            Value::Array(kept.collect::<Result<_, _>>()?)
        }
        other => other,
    })
}

fn wrong(at: &str, expected: &'static str) -> DecodeError {
    DecodeError::WrongKind { field: at.to_owned(), expected }
}
