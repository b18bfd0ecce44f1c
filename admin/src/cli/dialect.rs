//! What programs read from the command line: JSON and YAML as Headscale 0.29 prints them.
//!
//! That release prints its protobuf structs with Go's encoders. JSON: snake_case names, zero values left out, ids as
//! numbers, moments as `{"seconds":…,"nanos":…}`, enums as numbers. YAML: lower-case names without underscores, zero
//! values present. One [`Doc`] describes a value under its Go names; the two dialects follow from it. Release 0.30
//! prints the REST objects instead; `HSRAFT_CLI_SHAPE=0.30` asks for that.

use serde::{Serialize, Serializer, ser::SerializeMap};
use state_machine::Timestamp;

use crate::v1::types::{ApiKey, Node, PreAuthKey, RegisterMethod, User};

/// A value under its Go field names.
#[derive(Clone, Debug, PartialEq)]
pub enum Doc {
    /// A message or moment that is not there.
    Nil,
    Bool(bool),
    Number(u64),
    Text(String),
    List(Vec<Doc>),
    Object(Vec<(&'static str, Doc)>),
}

/// Values that have a Go form.
pub trait Show {
    fn doc(&self) -> Doc;
}

impl Doc {
    fn is_zero(&self) -> bool {
        match self {
            Doc::Nil => true,
            Doc::Bool(value) => !value,
            Doc::Number(value) => *value == 0,
            Doc::Text(value) => value.is_empty(),
            Doc::List(values) => values.is_empty(),
            Doc::Object(_) => false,
        }
    }
}

/// A value as Go's `encoding/json` writes it.
pub struct GoJson<'a>(pub &'a Doc);

/// A value as Go's YAML encoder writes it.
pub struct GoYaml<'a>(pub &'a Doc);

impl Serialize for GoJson<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            Doc::Nil => serializer.serialize_unit(),
            Doc::Bool(value) => serializer.serialize_bool(*value),
            Doc::Number(value) => serializer.serialize_u64(*value),
            Doc::Text(value) => serializer.serialize_str(value),
            Doc::List(values) => serializer.collect_seq(values.iter().map(GoJson)),
            Doc::Object(fields) => {
                let mut map = serializer.serialize_map(None)?;
                for (name, value) in fields.iter().filter(|(_, value)| !value.is_zero()) {
                    map.serialize_entry(&snake(name), &GoJson(value))?;
                }
                map.end()
            }
        }
    }
}

impl Serialize for GoYaml<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            Doc::List(values) => serializer.collect_seq(values.iter().map(GoYaml)),
            Doc::Object(fields) => {
                let mut map = serializer.serialize_map(Some(fields.len()))?;
                for (name, value) in fields {
                    map.serialize_entry(&name.to_ascii_lowercase(), &GoYaml(value))?;
                }
                map.end()
            }
            simple => GoJson(simple).serialize(serializer),
        }
    }
}

/// `IpAddresses` → `ip_addresses`.
fn snake(name: &str) -> String {
    let mut snake = String::with_capacity(name.len() + 4);
    for letter in name.chars() {
        if letter.is_ascii_uppercase() && !snake.is_empty() {
            snake.push('_');
        }
        snake.push(letter.to_ascii_lowercase());
    }
    snake
}

/// Our own words print what REST answers, with snake_case names like everything else here.
pub fn snake_keys(value: serde_json::Value) -> serde_json::Value {
    match value {
        serde_json::Value::Object(fields) => {
            fields.into_iter().map(|(name, value)| (snake(&name), snake_keys(value))).collect()
        }
        serde_json::Value::Array(values) => values.into_iter().map(snake_keys).collect(),
        simple => simple,
    }
}

fn moment(moment: Option<Timestamp>) -> Doc {
    match moment {
        None => Doc::Nil,
        Some(Timestamp(ms)) => {
            Doc::Object(vec![("Seconds", Doc::Number(ms / 1000)), ("Nanos", Doc::Number(ms % 1000 * 1_000_000))])
        }
    }
}

fn text(text: &str) -> Doc {
    Doc::Text(text.to_owned())
}

fn texts(texts: &[String]) -> Doc {
    Doc::List(texts.iter().map(|each| text(each)).collect())
}

fn message<T: Show>(message: &Option<T>) -> Doc {
    message.as_ref().map_or(Doc::Nil, Show::doc)
}

impl<T: Show> Show for Vec<T> {
    fn doc(&self) -> Doc {
        Doc::List(self.iter().map(Show::doc).collect())
    }
}

impl Show for User {
    fn doc(&self) -> Doc {
        Doc::Object(vec![
            ("Id", Doc::Number(self.id)),
            ("Name", text(&self.name)),
            ("CreatedAt", moment(self.created_at)),
            ("DisplayName", text(&self.display_name)),
            ("Email", text(&self.email)),
            ("ProviderId", text(&self.provider_id)),
            ("Provider", text(&self.provider)),
            ("ProfilePicUrl", text(&self.profile_pic_url)),
        ])
    }
}

impl Show for PreAuthKey {
    fn doc(&self) -> Doc {
        Doc::Object(vec![
            ("User", message(&self.user)),
            ("Id", Doc::Number(self.id)),
            ("Key", text(&self.key)),
            ("Reusable", Doc::Bool(self.reusable)),
            ("Ephemeral", Doc::Bool(self.ephemeral)),
            ("Used", Doc::Bool(self.used)),
            ("Expiration", moment(self.expiration)),
            ("CreatedAt", moment(self.created_at)),
            ("AclTags", texts(&self.acl_tags)),
        ])
    }
}

impl Show for ApiKey {
    fn doc(&self) -> Doc {
        Doc::Object(vec![
            ("Id", Doc::Number(self.id)),
            ("Prefix", Doc::Text(format!("{}-***", self.prefix))),
            ("Expiration", moment(self.expiration)),
            ("CreatedAt", moment(self.created_at)),
            ("LastSeen", moment(self.last_seen)),
        ])
    }
}

impl Show for Node {
    fn doc(&self) -> Doc {
        Doc::Object(vec![
            ("Id", Doc::Number(self.id)),
            ("MachineKey", text(&self.machine_key)),
            ("NodeKey", text(&self.node_key)),
            ("DiscoKey", text(&self.disco_key)),
            ("IpAddresses", texts(&self.ip_addresses)),
            ("Name", text(&self.name)),
            ("User", message(&self.user)),
            ("LastSeen", moment(self.last_seen)),
            ("Expiry", moment(self.expiry)),
            ("PreAuthKey", message(&self.pre_auth_key)),
            ("CreatedAt", moment(self.created_at)),
            ("RegisterMethod", Doc::Number(self.register_method.number())),
            ("GivenName", text(&self.given_name)),
            ("Online", Doc::Bool(self.online)),
            ("ApprovedRoutes", texts(&self.approved_routes)),
            ("AvailableRoutes", texts(&self.available_routes)),
            ("SubnetRoutes", texts(&self.subnet_routes)),
            ("Tags", texts(&self.tags)),
        ])
    }
}

impl RegisterMethod {
    /// The enum's number on Headscale's older wire.
    pub fn number(self) -> u64 {
        match self {
            RegisterMethod::Unspecified => 0,
            RegisterMethod::AuthKey => 1,
            RegisterMethod::Cli => 2,
            RegisterMethod::Oidc => 3,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> PreAuthKey {
        PreAuthKey {
            user: Some(User {
                id: 1,
                name: "alice".into(),
                created_at: Some(Timestamp(1_700_000_000_000)),
                ..User::default()
            }),
            id: 3,
            key: "hskey-auth-abcdefghijkl-***".into(),
            reusable: true,
            expiration: Some(Timestamp(1_700_000_000_250)),
            ..PreAuthKey::default()
        }
    }

    #[test]
    fn json_leaves_zero_values_out() {
        let text = serde_json::to_string(&GoJson(&key().doc())).unwrap();
        assert_eq!(
            text,
            r#"{"user":{"id":1,"name":"alice","created_at":{"seconds":1700000000}},"id":3,"#.to_owned()
                + r#""key":"hskey-auth-abcdefghijkl-***","reusable":true,"expiration":{"seconds":1700000000,"nanos":250000000}}"#
        );
    }

    #[test]
    fn yaml_keeps_them() {
        let text = serde_yaml_ng::to_string(&GoYaml(&vec![key()].doc())).unwrap();
        for line in [
            "- user:\n    id: 1\n",
            "    profilepicurl: ''\n",
            "  ephemeral: false\n",
            "  acltags: []\n",
            "  createdat: null\n",
            "  expiration:\n    seconds: 1700000000\n    nanos: 250000000\n",
        ] {
            assert!(text.contains(line), "{line:?} is not in\n{text}");
        }
    }

    #[test]
    fn names() {
        for (go, snaked) in [
            ("Id", "id"),
            ("IpAddresses", "ip_addresses"),
            ("ProfilePicUrl", "profile_pic_url"),
            ("lastContactMs", "last_contact_ms"),
        ] {
            assert_eq!(snake(go), snaked);
        }
    }
}
