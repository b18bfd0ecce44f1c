//! The objects of REST v1 as JSON schemas.

use serde_json::{Map, Value, json};

type Fields = &'static [(&'static str, &'static str)];

const USER: Fields = &[
    ("id", "id"),
    ("name", "string"),
    ("createdAt", "moment"),
    ("displayName", "string"),
    ("email", "string"),
    ("providerId", "string"),
    ("provider", "string"),
    ("profilePicUrl", "string"),
];

const PRE_AUTH_KEY: Fields = &[
    ("user", "User"),
    ("id", "id"),
    ("key", "string"),
    ("reusable", "boolean"),
    ("ephemeral", "boolean"),
    ("used", "boolean"),
    ("expiration", "moment"),
    ("createdAt", "moment"),
    ("aclTags", "string[]"),
];

const API_KEY: Fields =
    &[("id", "id"), ("prefix", "string"), ("expiration", "moment"), ("createdAt", "moment"), ("lastSeen", "moment")];

const NODE: Fields = &[
    ("id", "id"),
    ("machineKey", "string"),
    ("nodeKey", "string"),
    ("discoKey", "string"),
    ("ipAddresses", "string[]"),
    ("name", "string"),
    ("user", "User"),
    ("lastSeen", "moment"),
    ("expiry", "moment"),
    ("preAuthKey", "PreAuthKey"),
    ("createdAt", "moment"),
    ("registerMethod", "RegisterMethod"),
    ("givenName", "string"),
    ("online", "boolean"),
    ("approvedRoutes", "string[]"),
    ("availableRoutes", "string[]"),
    ("subnetRoutes", "string[]"),
    ("tags", "string[]"),
];

const POLICY: Fields = &[("policy", "string"), ("updatedAt", "moment")];

const PROBLEM: Fields = &[
    ("code", "integer"),
    ("message", "string"),
    ("title", "string"),
    ("status", "integer"),
    ("detail", "string"),
    ("hsr", "string"),
    ("why", "string"),
    ("next", "string"),
];

/// Every object by name; references begin with `prefix`.
pub fn all(prefix: &str) -> Map<String, Value> {
    let objects = [
        ("User", USER),
        ("PreAuthKey", PRE_AUTH_KEY),
        ("ApiKey", API_KEY),
        ("Node", NODE),
        ("Policy", POLICY),
        ("Problem", PROBLEM),
    ];
    let mut all: Map<String, Value> = objects
        .into_iter()
        .map(|(name, fields)| {
            let fields = fields.iter().map(|(name, kind)| ((*name).to_owned(), reference(kind, prefix)));
            (name.to_owned(), json!({"type": "object", "properties": fields.collect::<Map<_, _>>()}))
        })
        .collect();
    let ways = ["UNSPECIFIED", "AUTH_KEY", "CLI", "OIDC"].map(|way| format!("REGISTER_METHOD_{way}"));
    all.insert("RegisterMethod".into(), json!({"type": "string", "enum": ways}));
    all
}

/// The schema of a type as the tables write it.
pub fn reference(kind: &str, prefix: &str) -> Value {
    if let Some(item) = kind.strip_suffix("[]") {
        return json!({"type": "array", "items": reference(item, prefix)});
    }
    match kind {
        // Written as a string, read from both.
        "id" => json!({"type": "string", "format": "uint64"}),
        "moment" => json!({"type": "string", "format": "date-time"}),
        "string" | "boolean" | "integer" | "object" => json!({"type": kind}),
        // As many as it takes, one at least.
        "count" => json!({"type": "integer", "minimum": 1}),
        object => json!({"$ref": format!("{prefix}{object}")}),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::v1::types;

    /// What is described is what is written.
    #[test]
    fn the_schemas_have_the_fields_of_the_types() {
        let written = [
            ("User", serde_json::to_value(types::User::default()).unwrap(), vec![]),
            ("PreAuthKey", serde_json::to_value(types::PreAuthKey::default()).unwrap(), vec![]),
            ("ApiKey", serde_json::to_value(types::ApiKey::default()).unwrap(), vec!["role"]),
            (
                "Node",
                serde_json::to_value(types::Node::default()).unwrap(),
                vec!["forcedTags", "validTags", "invalidTags"],
            ),
            ("Policy", serde_json::to_value(types::Policy::default()).unwrap(), vec![]),
        ];
        let described = all("");
        for (name, value, ours) in written {
            let fields: BTreeSet<&str> = value.as_object().unwrap().keys().map(String::as_str).collect();
            let schema = described[name]["properties"].as_object().unwrap();
            let told: BTreeSet<&str> = schema.keys().map(String::as_str).chain(ours).collect();
            assert_eq!(fields, told, "{name}");
        }
    }
}
