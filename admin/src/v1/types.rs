//! What REST v1 says and hears: Headscale's objects, in its spelling.
//!
//! Ids travel as strings and are read from strings or numbers; every field is present; absent moments and objects are
//! `null`. The command line reads the same types back, so that both ends agree by construction.

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use state_machine::Timestamp;

/// A user.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct User {
    #[serde(with = "id")]
    pub id: u64,
    pub name: String,
    #[serde(with = "moment")]
    pub created_at: Option<Timestamp>,
    pub display_name: String,
    pub email: String,
    pub provider_id: String,
    pub provider: String,
    pub profile_pic_url: String,
}

/// A pre-auth key; `key` is whole in the answer to its creation and masked ever after.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PreAuthKey {
    pub user: Option<User>,
    #[serde(with = "id")]
    pub id: u64,
    pub key: String,
    pub reusable: bool,
    pub ephemeral: bool,
    pub used: bool,
    #[serde(with = "moment")]
    pub expiration: Option<Timestamp>,
    #[serde(with = "moment")]
    pub created_at: Option<Timestamp>,
    pub acl_tags: Vec<String>,
}

/// An API key, without its secret.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ApiKey {
    #[serde(with = "id")]
    pub id: u64,
    /// `hskey-api-<12>`, without asterisks: one widely used console looks for the key that starts with it.
    pub prefix: String,
    #[serde(with = "moment")]
    pub expiration: Option<Timestamp>,
    #[serde(with = "moment")]
    pub created_at: Option<Timestamp>,
    #[serde(with = "moment")]
    pub last_seen: Option<Timestamp>,
    /// Ours: `admin` or `read_only`.
    pub role: String,
}

/// A node.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Node {
    #[serde(with = "id")]
    pub id: u64,
    pub machine_key: String,
    pub node_key: String,
    pub disco_key: String,
    pub ip_addresses: Vec<String>,
    pub name: String,
    pub user: Option<User>,
    #[serde(with = "moment")]
    pub last_seen: Option<Timestamp>,
    #[serde(with = "moment")]
    pub expiry: Option<Timestamp>,
    pub pre_auth_key: Option<PreAuthKey>,
    #[serde(with = "moment")]
    pub created_at: Option<Timestamp>,
    pub register_method: RegisterMethod,
    pub given_name: String,
    pub online: bool,
    pub approved_routes: Vec<String>,
    pub available_routes: Vec<String>,
    pub subnet_routes: Vec<String>,
    pub tags: Vec<String>,
    /// What consoles written before 0.28 read instead of `tags`.
    pub forced_tags: Vec<String>,
    pub valid_tags: Vec<String>,
    pub invalid_tags: Vec<String>,
}

/// How a node came in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub enum RegisterMethod {
    #[default]
    #[serde(rename = "REGISTER_METHOD_UNSPECIFIED")]
    Unspecified,
    #[serde(rename = "REGISTER_METHOD_AUTH_KEY")]
    AuthKey,
    #[serde(rename = "REGISTER_METHOD_CLI")]
    Cli,
    #[serde(rename = "REGISTER_METHOD_OIDC")]
    Oidc,
}

/// The policy text and since when it holds.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Policy {
    pub policy: String,
    #[serde(with = "moment")]
    pub updated_at: Option<Timestamp>,
}

/// Ours: one version of the policy that was in force.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PolicyVersion {
    pub number: u64,
    pub author: String,
    #[serde(with = "moment")]
    pub set_at: Option<Timestamp>,
    /// Bytes of the text.
    pub size: u64,
    pub policy: String,
}

/// Every reply is an object around one value; this is the family of them.
macro_rules! envelope {
    ($($(#[$doc:meta])* $name:ident { $field:ident: $kind:ty })*) => {
        $(
            $(#[$doc])*
            #[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
            #[serde(rename_all = "camelCase", default)]
            pub struct $name {
                pub $field: $kind,
            }
        )*
    };
}

envelope! {
    /// Reply around one user.
    OneUser { user: User }
    /// Reply around users.
    Users { users: Vec<User> }
    /// Reply around one node.
    OneNode { node: Node }
    /// Reply around one pre-auth key.
    OnePreAuthKey { pre_auth_key: PreAuthKey }
    /// Reply around pre-auth keys.
    PreAuthKeys { pre_auth_keys: Vec<PreAuthKey> }
    /// The whole text of a new API key.
    OneApiKey { api_key: String }
    /// Reply around API keys.
    ApiKeys { api_keys: Vec<ApiKey> }
    /// What a backfill changed, a line each.
    Changes { changes: Vec<String> }
    /// Whether the member can read certainly current state, in Headscale's words.
    Health { database_connectivity: bool }
    /// Ours: the versions of the policy.
    PolicyHistory { history: Vec<PolicyVersion> }
}

/// Reply around nodes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Nodes {
    pub nodes: Vec<Node>,
    /// Ours: the node to go on after, when the page that was asked for ends before the list does.
    #[serde(with = "next", skip_serializing_if = "Option::is_none")]
    pub next: Option<u64>,
}

mod next {
    use super::*;

    /// As an id.
    pub fn serialize<S: Serializer>(next: &Option<u64>, serializer: S) -> Result<S::Ok, S::Error> {
        id::serialize(&next.unwrap_or_default(), serializer)
    }

    /// As an id; absent: none.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
        id::deserialize(deserializer).map(Some)
    }
}

/// Ids: written as strings, read from strings or numbers.
pub mod id {
    use super::*;

    /// Writes a string.
    pub fn serialize<S: Serializer>(id: &u64, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(id)
    }

    /// Reads a string or a number; absent and empty are 0.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
        let name = name::deserialize(deserializer)?;
        if name.is_empty() {
            return Ok(0);
        }
        name.parse().map_err(|_| serde::de::Error::custom(format!("{name:?} is not an id (a whole number)")))
    }
}

/// Ids or names, as people and old consoles mix them: read from strings or numbers, kept as text.
pub mod name {
    use super::*;

    /// Reads a string, a number or null.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
        struct Visitor;
        impl serde::de::Visitor<'_> for Visitor {
            type Value = String;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a string or a whole number")
            }
            fn visit_str<E>(self, text: &str) -> Result<String, E> {
                Ok(text.trim().to_owned())
            }
            fn visit_u64<E>(self, number: u64) -> Result<String, E> {
                Ok(number.to_string())
            }
            fn visit_i64<E>(self, number: i64) -> Result<String, E> {
                Ok(number.to_string())
            }
            fn visit_f64<E: serde::de::Error>(self, number: f64) -> Result<String, E> {
                // JavaScript has no other numbers; a whole one below 2^53 is exact.
                if number.fract() == 0.0 && (0.0..9_007_199_254_740_992.0).contains(&number) {
                    return Ok((number as u64).to_string());
                }
                Err(E::invalid_value(serde::de::Unexpected::Float(number), &self))
            }
            fn visit_unit<E>(self) -> Result<String, E> {
                Ok(String::new())
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

/// Moments: RFC 3339 or null. Old servers and consoles write year 1 for "none", so moments before 1970 are none.
pub mod moment {
    use super::*;

    /// Writes RFC 3339 or null.
    pub fn serialize<S: Serializer>(moment: &Option<Timestamp>, serializer: S) -> Result<S::Ok, S::Error> {
        match moment {
            Some(moment) => serializer.collect_str(moment),
            None => serializer.serialize_none(),
        }
    }

    /// Reads RFC 3339, null or an empty string.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Timestamp>, D::Error> {
        match Option::<String>::deserialize(deserializer)? {
            Some(text) => super::parse_moment(&text).map_err(serde::de::Error::custom),
            None => Ok(None),
        }
    }
}

/// Reads RFC 3339; empty text and moments before 1970 are none.
pub fn parse_moment(text: &str) -> Result<Option<Timestamp>, String> {
    let text = text.trim();
    if text.is_empty() {
        return Ok(None);
    }
    let moment: jiff::Timestamp =
        text.parse().map_err(|_| format!("{text:?} is not a moment; write RFC 3339, such as 2030-01-31T12:00:00Z"))?;
    Ok(u64::try_from(moment.as_millisecond()).ok().map(Timestamp))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_strings_and_read_from_both() {
        let user: User =
            serde_json::from_str(r#"{"id": 7, "createdAt": "0001-01-01T00:00:00Z", "stranger": 1}"#).unwrap();
        assert_eq!((user.id, user.created_at), (7, None));
        let text = serde_json::to_string(&user).unwrap();
        assert!(text.starts_with(r#"{"id":"7","name":"","createdAt":null,"displayName":"""#), "{text}");
        assert_eq!(serde_json::from_str::<User>(&text).unwrap(), user);
        assert!(serde_json::from_str::<User>(r#"{"id":"x"}"#).is_err());
        assert!(serde_json::from_str::<User>(r#"{"id":-1}"#).is_err());
        assert!(serde_json::from_str::<User>(r#"{"id":1.5}"#).is_err());
    }

    #[test]
    fn moments_are_rfc_3339() {
        let key = ApiKey { created_at: Some(Timestamp(1_700_000_000_000)), ..ApiKey::default() };
        let text = serde_json::to_string(&key).unwrap();
        assert!(text.contains(r#""createdAt":"2023-11-14T22:13:20Z""#), "{text}");
        assert_eq!(serde_json::from_str::<ApiKey>(&text).unwrap(), key);
        assert!(serde_json::from_str::<ApiKey>(r#"{"createdAt":"tomorrow"}"#).is_err());
    }
}
