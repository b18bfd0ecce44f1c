//! An older policy in today's words: YAML, `user:NAME`, users without `@`, namespaces, `users` and `ports`.
//!
//! Words are exchanged where they stand, so that comments and layout of a HuJSON file stay. What a word may mean depends
//! on where it stands, therefore the text is walked with its path.

use std::{collections::BTreeSet, net::IpAddr};

use ipnet::IpNet;
use serde_json::Value;

/// A policy in today's words.
#[derive(Debug, PartialEq)]
pub struct Converted {
    pub text: String,
    /// What was done, for people.
    pub notes: Vec<String>,
}

/// Rewrites a text; `Err` says why it is neither HuJSON nor YAML.
pub fn convert(text: &str) -> Result<Converted, String> {
    let mut notes = Vec::new();
    let text = match policy::hujson::standardize(text) {
        Ok(_) => text.to_owned(),
        Err(error) => match serde_yaml_ng::from_str::<Value>(text) {
            Ok(value @ Value::Object(_)) => {
                notes.push("it was YAML; comments are lost".to_owned());
                serde_json::to_string_pretty(&value).map_err(|error| error.to_string())? + "\n"
            }
            _ => return Err(format!("{error}, and it is no YAML either")),
        },
    };
    let plain = policy::hujson::standardize(&text).map_err(|error| error.to_string())?;
    let document: Value = policy::hujson::parse(&text).map_err(|error| error.to_string())?;
    let mut walk = Walk { plain: plain.as_bytes(), at: 0, strings: Vec::new() };
    walk.value(&mut Vec::new());
    let known = Known::of(&document);
    let mut edits: Vec<(usize, usize, String)> = Vec::new();
    for found in &walk.strings {
        let Ok(word) = serde_json::from_str::<String>(&plain[found.start..found.end]) else { continue };
        let new = match found.is_key {
            true => modern_key(&found.path, &word).map(|key| vec![key]),
            false => modern_words(&found.path, &word, &known),
        };
        if let Some(new) = new.filter(|new| *new != [word.clone()]) {
            let shown: Vec<String> = new.iter().map(|word| Value::from(word.as_str()).to_string()).collect();
            notes.push(format!("{}: {word:?} became {}", place(&found.path), shown.join(", ")));
            edits.push((found.start, found.end, shown.join(", ")));
        }
    }
    edits.extend(missing_tags(&document, &plain, &walk.strings, &mut notes));
    edits.sort_by_key(|(start, ..)| *start);
    let mut text = text;
    for (start, end, new) in edits.into_iter().rev() {
        text.replace_range(start..end, &new);
    }
    Ok(Converted { text, notes })
}

/// Tags that are used and nobody owns: once that was allowed. Who may give them is left to whoever reads the note.
fn missing_tags(
    document: &Value,
    plain: &str,
    strings: &[Found],
    notes: &mut Vec<String>,
) -> Option<(usize, usize, String)> {
    let owned = |found: &&Found| matches!(found.path.as_slice(), [Step::Key(section)] if section.eq_ignore_ascii_case("tagOwners"));
    let word = |found: &Found| serde_json::from_str::<String>(&plain[found.start..found.end]).unwrap_or_default();
    let defined: BTreeSet<String> = strings.iter().filter(|found| found.is_key).filter(owned).map(word).collect();
    let used = strings.iter().filter(|found| !found.is_key).map(word).filter_map(|word| {
        let name = word.strip_prefix("tag:")?.split(':').next()?.to_owned();
        Some(format!("tag:{name}"))
    });
    let missing: BTreeSet<String> = used.filter(|tag| !defined.contains(tag)).collect();
    if missing.is_empty() || !document.is_object() {
        return None;
    }
    let entries: Vec<String> = missing.iter().map(|tag| format!("{}: []", Value::from(tag.as_str()))).collect();
    notes.push(format!(
        "tagOwners: {} had no owner; say who may give it",
        missing.into_iter().collect::<Vec<_>>().join(", ")
    ));
    let section = strings
        .iter()
        .find(|found| found.is_key && found.path.is_empty() && word(found).eq_ignore_ascii_case("tagOwners"));
    let from = section.map_or(0, |key| key.end);
    let at = from + plain[from..].find('{')? + 1;
    Some(match section {
        Some(_) => (at, at, format!("{}, ", entries.join(", "))),
        None => (at, at, format!("\n  \"tagOwners\": {{{}}},", entries.join(", "))),
    })
}

/// `acls[3].src`.
fn place(path: &[Step]) -> String {
    let mut text = String::new();
    for step in path {
        match step {
            Step::Key(key) if text.is_empty() => text += key,
            Step::Key(key) => text += &format!(".{key}"),
            Step::Index(index) => text += &format!("[{index}]"),
        }
    }
    text
}

/// Names that are no users.
struct Known {
    hosts: BTreeSet<String>,
    /// `ssh[n]` whose sources are no users alone.
    tagged_shells: BTreeSet<usize>,
}

impl Known {
    fn of(document: &Value) -> Known {
        let section = |name: &str| {
            let sections = document.as_object().into_iter().flatten();
            sections.filter(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value).next_back()
        };
        let hosts = section("hosts").and_then(Value::as_object).map(|hosts| hosts.keys().cloned().collect());
        let rules = section("ssh").and_then(Value::as_array).into_iter().flatten().enumerate();
        let tagged = rules.filter(|(_, rule)| {
            let mut sources = rule["src"].as_array().into_iter().flatten().filter_map(Value::as_str);
            sources.any(|word| word.starts_with("tag:") || word == "autogroup:tagged")
        });
        Known { hosts: hosts.unwrap_or_default(), tagged_shells: tagged.map(|(index, _)| index).collect() }
    }
}

/// Keys of the first policies of the language.
fn modern_key(path: &[Step], word: &str) -> Option<String> {
    let in_rule = matches!(path, [Step::Key(section), Step::Index(_)] if section.eq_ignore_ascii_case("acls"));
    match word.to_lowercase().as_str() {
        "users" if in_rule => Some("src".to_owned()),
        "ports" if in_rule => Some("dst".to_owned()),
        _ => None,
    }
}

/// What stands for a word today; `None` where it may stay.
fn modern_words(path: &[Step], word: &str, known: &Known) -> Option<Vec<String>> {
    let section = match path.first()? {
        Step::Key(section) => section.to_lowercase(),
        Step::Index(_) => return None,
    };
    let field = match path {
        [_, _, Step::Key(field), ..] => field.to_lowercase(),
        _ => String::new(),
    };
    match (section.as_str(), field.as_str()) {
        ("groups" | "tagowners", _) | ("autoapprovers", _) => Some(vec![modern_user_or(word, known, true)]),
        ("tests", "accept" | "deny") => Some(one_port_each(&with_ports(word, known))),
        ("acls", "dst" | "ports") => Some(vec![with_ports(word, known)]),
        ("acls" | "grants" | "ssh" | "sshtests" | "tests", "src" | "users") if section != "ssh" || field == "src" => {
            Some(vec![modern_user_or(word, known, false)])
        }
        // Shells are entered on tagged nodes and on one's own; a source with tags has none of its own.
        ("ssh", "dst") if word == "*" => {
            let index = path.iter().find_map(|step| match step {
                Step::Index(index) => Some(*index),
                Step::Key(_) => None,
            })?;
            match known.tagged_shells.contains(&index) {
                true => Some(vec!["autogroup:tagged".to_owned()]),
                false => Some(vec!["autogroup:tagged".to_owned(), "autogroup:self".to_owned()]),
            }
        }
        ("grants" | "ssh" | "sshtests" | "nodeattrs", "dst" | "target") => {
            Some(vec![modern_user_or(word, known, false)])
        }
        _ => None,
    }
}

/// The word before its ports.
fn with_ports(word: &str, known: &Known) -> String {
    let is_ports =
        |text: &str| !text.is_empty() && text.chars().all(|c| c.is_ascii_digit() || matches!(c, '*' | ',' | '-' | ' '));
    match word.rsplit_once(':') {
        Some((name, ports)) if is_ports(ports) => format!("{}:{ports}", modern_user_or(name, known, false)),
        _ => modern_user_or(word, known, false),
    }
}

/// A test asks about one port. SSH's stands for all of them: it is what people want to know about first.
fn one_port_each(word: &str) -> Vec<String> {
    let Some((name, ports)) = word.rsplit_once(':') else { return vec![word.to_owned()] };
    let parts = ports.split(',').map(|part| part.trim().split('-').next().unwrap_or_default());
    let parts: Vec<&str> = parts.map(|port| if port == "*" { "22" } else { port }).collect();
    match parts.iter().all(|port| port.parse::<u16>().is_ok()) {
        true => parts.into_iter().map(|port| format!("{name}:{port}")).collect(),
        false => vec![word.to_owned()],
    }
}

/// Users as `name@`; everything else as it is. Where only users may stand, hosts are users too.
fn modern_user_or(word: &str, known: &Known, users_only: bool) -> String {
    let trimmed = word.trim();
    if let Some(name) = trimmed.strip_prefix("user:").filter(|name| !name.starts_with('*')) {
        return if name.contains('@') { name.to_owned() } else { format!("{name}@") };
    }
    if trimmed == "autogroup:members" {
        return "autogroup:member".to_owned();
    }
    let is_name = !trimmed.is_empty()
        && trimmed != "*"
        && !trimmed.contains(['@', ':', '/', ' '])
        && trimmed.parse::<IpAddr>().is_err()
        && trimmed.parse::<IpNet>().is_err();
    match is_name && (users_only || !known.hosts.contains(trimmed)) {
        true => format!("{trimmed}@"),
        false => word.to_owned(),
    }
}

#[derive(Clone, Debug, PartialEq)]
enum Step {
    Key(String),
    Index(usize),
}

/// A string of the text, quotes included.
struct Found {
    path: Vec<Step>,
    start: usize,
    end: usize,
    is_key: bool,
}

/// Walks JSON that is known to be well formed and not deep.
struct Walk<'a> {
    plain: &'a [u8],
    at: usize,
    strings: Vec<Found>,
}

impl Walk<'_> {
    fn value(&mut self, path: &mut Vec<Step>) {
        self.space();
        match self.plain.get(self.at) {
            Some(b'{') => self.object(path),
            Some(b'[') => self.list(path),
            Some(b'"') => {
                let (start, end) = self.string();
                self.strings.push(Found { path: path.clone(), start, end, is_key: false });
            }
            _ => {
                while self.plain.get(self.at).is_some_and(|c| !b",]} \n\r\t".contains(c)) {
                    self.at += 1;
                }
            }
        }
        self.space();
    }

    fn object(&mut self, path: &mut Vec<Step>) {
        self.at += 1;
        self.space();
        while self.plain.get(self.at) == Some(&b'"') {
            let (start, end) = self.string();
            self.strings.push(Found { path: path.clone(), start, end, is_key: true });
            let key =
                std::str::from_utf8(&self.plain[start..end]).ok().and_then(|text| serde_json::from_str(text).ok());
            self.space();
            self.at += 1;
            path.push(Step::Key(key.unwrap_or_default()));
            self.value(path);
            path.pop();
            self.skip(b',');
        }
        self.skip(b'}');
    }

    fn list(&mut self, path: &mut Vec<Step>) {
        self.at += 1;
        self.space();
        let mut index = 0;
        while self.at < self.plain.len() && self.plain[self.at] != b']' {
            path.push(Step::Index(index));
            self.value(path);
            path.pop();
            self.skip(b',');
            index += 1;
        }
        self.skip(b']');
    }

    fn string(&mut self) -> (usize, usize) {
        let start = self.at;
        self.at += 1;
        while let Some(c) = self.plain.get(self.at) {
            self.at += match c {
                b'\\' => 2,
                _ => 1,
            };
            if *c == b'"' {
                break;
            }
        }
        (start, self.at.min(self.plain.len()))
    }

    fn skip(&mut self, c: u8) {
        if self.plain.get(self.at) == Some(&c) {
            self.at += 1;
            self.space();
        }
    }

    fn space(&mut self) {
        while self.plain.get(self.at).is_some_and(u8::is_ascii_whitespace) {
            self.at += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_exchanged_where_they_stand() {
        let old = r#"// who is who
{
  "groups": {"group:ops": ["user:ann", "bob", "eve@example.com"]}, // people
  "tagOwners": {"tag:web": ["group:ops", "ann"]},
  "hosts": {"jenkins": "100.64.0.9"},
  "acls": [
    {"action": "accept", "src": ["jenkins", "default", "100.64.0.1", "10.0.0.0/8", "*"], "dst": ["guest:*", "tag:web:80,443", "jenkins:22"]},
    {"Action": "accept", "Users": ["user:ann"], "Ports": ["*:*"]},
  ],
  "ssh": [
    {"action": "accept", "src": ["group:ops"], "dst": ["*"], "users": ["root", "ubuntu"]},
    {"action": "accept", "src": ["tag:web"], "dst": ["*"], "users": ["root"]},
  ],
  "tests": [{"src": "user:ann", "accept": ["tag:web:443", "tag:web:80,443"], "deny": ["tag:web:*", "tag:web:20-30"]}],
}
"#;
        let new = r#"// who is who
{
  "groups": {"group:ops": ["ann@", "bob@", "eve@example.com"]}, // people
  "tagOwners": {"tag:web": ["group:ops", "ann@"]},
  "hosts": {"jenkins": "100.64.0.9"},
  "acls": [
    {"action": "accept", "src": ["jenkins", "default@", "100.64.0.1", "10.0.0.0/8", "*"], "dst": ["guest@:*", "tag:web:80,443", "jenkins:22"]},
    {"Action": "accept", "src": ["ann@"], "dst": ["*:*"]},
  ],
  "ssh": [
    {"action": "accept", "src": ["group:ops"], "dst": ["autogroup:tagged", "autogroup:self"], "users": ["root", "ubuntu"]},
    {"action": "accept", "src": ["tag:web"], "dst": ["autogroup:tagged"], "users": ["root"]},
  ],
  "tests": [{"src": "ann@", "accept": ["tag:web:443", "tag:web:80", "tag:web:443"], "deny": ["tag:web:22", "tag:web:20"]}],
}
"#;
        let converted = convert(old).unwrap();
        assert_eq!(converted.text, new);
        assert_eq!(converted.notes[0], "groups.group:ops[0]: \"user:ann\" became \"ann@\"");
        assert_eq!(
            convert(new).unwrap(),
            Converted { text: new.to_owned(), notes: Vec::new() },
            "nothing is left to do"
        );
        let parsed = policy::Policy::parse(new).unwrap();
        assert_eq!(parsed.warnings, []);
    }

    #[test]
    fn yaml_becomes_hujson() {
        let old = "# all\nacls:\n  - action: accept\n    src: [default]\n    dst: ['*:*', 'guest:*']\n";
        let converted = convert(old).unwrap();
        assert!(
            converted.text.contains("\"default@\"") && converted.text.contains("\"guest@:*\""),
            "{}",
            converted.text
        );
        assert!(policy::Policy::parse(&converted.text).unwrap().warnings.is_empty());
        assert_eq!(converted.notes[0], "it was YAML; comments are lost");
        let old = "{\"acls\": [{\"action\": \"accept\", \"src\": [\"tag:a\"], \"dst\": [\"tag:b:22\", \"tag:a:*\"]}]}";
        let converted = convert(old).unwrap();
        assert!(
            converted.text.starts_with("{\n  \"tagOwners\": {\"tag:a\": [], \"tag:b\": []},\"acls\""),
            "{}",
            converted.text
        );
        let old = converted.text.replace("\"tag:b\": []", "\"tag:c\": [\"ann@\"]");
        let converted = convert(&old).unwrap();
        assert!(converted.text.contains("\"tagOwners\": {\"tag:b\": [], \"tag:a\": []"), "{}", converted.text);
        assert_eq!(converted.notes, ["tagOwners: tag:b had no owner; say who may give it"]);
        assert!(policy::Policy::parse(&converted.text).is_ok());
        for bad in ["{\"acls\": [}", "just words", "", "- a\n- b\n"] {
            assert!(convert(bad).is_err(), "{bad:?}");
        }
    }
}
