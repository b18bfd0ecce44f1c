//! A policy as it was written: one JSON object with known sections.

use std::sync::Arc;

use serde_json::{Map, Value};

use crate::{
    diagnostics::{Diagnostic, Diagnostics},
    hujson,
};

/// The sections of the language. Names are compared without regard to case.
const SECTIONS: [&str; 11] = [
    "groups",
    "hosts",
    "tagOwners",
    "acls",
    "grants",
    "nodeAttrs",
    "autoApprovers",
    "ssh",
    "tests",
    "sshTests",
    "randomizeClientPort",
];

/// A policy whose text can be read and whose sections are known.
#[derive(Clone, Debug)]
pub struct Policy {
    sections: Arc<Map<String, Value>>,
}

impl Policy {
    /// Reads the text of a policy.
    pub fn parse(text: &str) -> Result<Policy, Diagnostics> {
        let one = |message: String| Diagnostics(vec![Diagnostic { at: None, message }]);
        let Value::Object(given) = hujson::parse(text)? else {
            return Err(one("a policy is an object: { \"acls\": [ … ] }".into()));
        };
        let (mut sections, mut complaints) = (Map::new(), Vec::new());
        for (name, value) in given {
            let Some(section) = SECTIONS.into_iter().find(|section| section.eq_ignore_ascii_case(&name)) else {
                let message = format!("unknown field {name:?}; a policy may have: {}", SECTIONS.join(", "));
                complaints.push(Diagnostic { at: None, message });
                continue;
            };
            if sections.insert(section.to_owned(), value).is_some() {
                complaints.push(Diagnostic { at: None, message: format!("{section:?} is given twice") });
            }
        }
        match complaints.is_empty() {
            true => Ok(Policy { sections: Arc::new(sections) }),
            false => Err(Diagnostics(complaints)),
        }
    }

    /// One section by its name in the documentation.
    pub fn section(&self, name: &str) -> Option<&Value> {
        self.sections.get(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sections_are_known() {
        let policy = Policy::parse("{ /* everybody */ \"ACLs\": [], \"taGowners\": {\"tag:a\": [],}, }").unwrap();
        assert_eq!(policy.section("acls"), Some(&Value::Array(vec![])));
        assert!(policy.section("tagOwners").is_some() && policy.section("grants").is_none());
        assert!(Policy::parse("{}").is_ok());
    }

    #[test]
    fn strangers_are_named() {
        let complaint = |text| Policy::parse(text).unwrap_err().to_string();
        assert!(complaint("{\"acl\": []}").contains("unknown field \"acl\""));
        assert!(complaint("[]").contains("a policy is an object"));
        assert!(complaint("{\"acls\": [], \"ACLS\": []}").contains("given twice"));
        assert!(complaint("{\n  \"acls\": [}").starts_with("line 2, column 12:"), "{}", complaint("{\n  \"acls\": [}"));
    }
}
