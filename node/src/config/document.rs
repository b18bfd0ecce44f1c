//! A YAML file as dotted keys, each with its line.

use std::{collections::BTreeMap, fmt};

use serde_yaml_ng::Value;

use super::keys::{self, Use};

/// Something to tell about the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The file, or the environment variable.
    pub place: String,
    /// Counted from 1; absent where a key is missing.
    pub line: Option<usize>,
    /// What is wrong and what to write.
    pub text: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            Some(line) => write!(f, "{}:{line}: {}", self.place, self.text),
            None => write!(f, "{}: {}", self.place, self.text),
        }
    }
}

/// The keys of one file, environment laid over it.
#[derive(Debug, Default)]
pub struct Document {
    file: String,
    entries: BTreeMap<String, Entry>,
    /// What does not stop the start.
    pub warnings: Vec<Problem>,
    /// What does.
    pub errors: Vec<Problem>,
}

#[derive(Debug)]
struct Entry {
    value: Value,
    place: String,
    line: Option<usize>,
}

/// Variables win over the file; the second spelling is Headscale's.
const ENV_PREFIXES: [&str; 2] = ["HSRAFT_", "HEADSCALE_"];

impl Document {
    /// Reads `text`; `file` is how problems name it.
    pub fn read(text: &str, file: &str, env: &BTreeMap<String, String>) -> Document {
        let mut document = Document { file: file.to_owned(), ..Document::default() };
        match serde_yaml_ng::from_str::<Value>(text) {
            Ok(Value::Mapping(mapping)) => {
                let lines = lines_of(text);
                document.take("", &mapping, &lines);
            }
            Ok(Value::Null) => {}
            Ok(_) => document.error_at(None, "the file must hold keys and values; is it YAML?"),
            Err(error) => {
                let line = error.location().map(|location| location.line());
                document.error_at(line, &format!("not valid YAML: {error}"));
            }
        }
        document.overlay(env);
        document
    }

    fn take(&mut self, above: &str, mapping: &serde_yaml_ng::Mapping, lines: &BTreeMap<String, usize>) {
        for (key, value) in mapping {
            let name = match key {
                Value::String(name) => name.to_lowercase(),
                Value::Number(number) => number.to_string(),
                Value::Bool(flag) => flag.to_string(),
                _ => {
                    self.error_at(lines.get(above).copied(), "keys must be words");
                    continue;
                }
            };
            let path = if above.is_empty() { name } else { format!("{above}.{name}") };
            // Flow style (`dns: {…}`) has no line of its own; the line of what encloses it is close.
            let line = lines.get(&path).or_else(|| lines.get(above)).copied();
            match (keys::find(&path), value) {
                (Some(Use::Read | Use::ReadTree), Value::Null) => {}
                (Some(Use::Read | Use::ReadTree), _) => {
                    let place = self.file.clone();
                    self.entries.insert(path, Entry { value: value.clone(), place, line });
                }
                (Some(Use::Moot(why) | Use::MootTree(why)), _) => {
                    self.warn_at(line, &format!("{path} has no effect here: {why}"));
                }
                (Some(Use::Gone(fix)), _) => self.error_at(line, &format!("{path} is gone; {fix}")),
                (None, Value::Mapping(below)) if keys::is_section(&path) => self.take(&path, below, lines),
                (None, Value::Null) if keys::is_section(&path) => {}
                (None, _) => {
                    let hint = match keys::nearest(&path) {
                        Some(key) => format!("; did you mean {key}?"),
                        None => String::new(),
                    };
                    self.warn_at(line, &format!("unknown key {path}, ignored{hint}"));
                }
            }
        }
    }

    fn overlay(&mut self, env: &BTreeMap<String, String>) {
        for (key, usage) in keys::KEYS {
            if *usage != Use::Read {
                continue;
            }
            let suffix = key.to_uppercase().replace('.', "_");
            let found = ENV_PREFIXES.iter().map(|prefix| format!("{prefix}{suffix}")).find_map(|name| {
                let value = env.get(&name)?.clone();
                Some((name, value))
            });
            if let Some((name, value)) = found {
                let place = format!("environment variable {name}");
                self.entries.insert((*key).to_owned(), Entry { value: Value::String(value), place, line: None });
            }
        }
    }

    /// Whether the key is set at all.
    pub fn has(&self, key: &str) -> bool {
        self.entries.contains_key(key)
    }

    /// A text; numbers and flags count as such.
    pub fn text(&mut self, key: &str) -> Option<String> {
        match &self.entries.get(key)?.value {
            Value::String(text) => Some(text.trim().to_owned()),
            Value::Number(number) => Some(number.to_string()),
            Value::Bool(flag) => Some(flag.to_string()),
            _ => {
                self.wrong(key, "must be one value, not a list or a section");
                None
            }
        }
        .filter(|text| !text.is_empty())
    }

    /// A flag.
    pub fn flag(&mut self, key: &str) -> Option<bool> {
        let text = self.text(key)?;
        match text.to_lowercase().as_str() {
            "true" | "yes" | "on" | "1" => Some(true),
            "false" | "no" | "off" | "0" => Some(false),
            _ => {
                self.wrong(key, &format!("must be true or false, not {text:?}"));
                None
            }
        }
    }

    /// Anything that reads itself from text; `example` shows what it should look like.
    pub fn parsed<T: std::str::FromStr>(&mut self, key: &str, example: &str) -> Option<T> {
        let text = self.text(key)?;
        match text.parse() {
            Ok(value) => Some(value),
            Err(_) => {
                self.wrong(key, &format!("cannot read {text:?}; write for example {key}: {example}"));
                None
            }
        }
    }

    /// A span (`90s`, `1h30m`, `180d`, `0`).
    pub fn span(&mut self, key: &str) -> Option<std::time::Duration> {
        let text = self.text(key)?;
        let span = super::values::span(&text);
        if span.is_none() {
            self.wrong(key, &format!("cannot read the span {text:?}; write for example 90s, 1h30m or 180d"));
        }
        span
    }

    /// A list of texts; a single text counts as words (that is how variables bring lists).
    pub fn list(&mut self, key: &str) -> Vec<String> {
        let Some(entry) = self.entries.get(key) else { return Vec::new() };
        match super::values::texts(&entry.value) {
            Some(list) => list,
            None => {
                self.wrong(key, "must be a list of texts");
                Vec::new()
            }
        }
    }

    /// The raw value, for sections with a shape of their own.
    pub fn value(&self, key: &str) -> Option<&Value> {
        self.entries.get(key).map(|entry| &entry.value)
    }

    /// Stops the start because of this key.
    pub fn wrong(&mut self, key: &str, text: &str) {
        let problem = self.problem(key, text);
        self.errors.push(problem);
    }

    /// Tells about this key.
    pub fn odd(&mut self, key: &str, text: &str) {
        let problem = self.problem(key, text);
        self.warnings.push(problem);
    }

    fn problem(&self, key: &str, text: &str) -> Problem {
        match self.entries.get(key) {
            Some(entry) => Problem { place: entry.place.clone(), line: entry.line, text: format!("{key}: {text}") },
            None => Problem { place: self.file.clone(), line: None, text: format!("{key}: {text}") },
        }
    }

    fn error_at(&mut self, line: Option<usize>, text: &str) {
        self.errors.push(Problem { place: self.file.clone(), line, text: text.to_owned() });
    }

    fn warn_at(&mut self, line: Option<usize>, text: &str) {
        self.warnings.push(Problem { place: self.file.clone(), line, text: text.to_owned() });
    }
}

/// On which line each key of a block-style file stands, by dotted lower-case path. The first one wins.
fn lines_of(text: &str) -> BTreeMap<String, usize> {
    let mut lines = BTreeMap::new();
    let mut above: Vec<(usize, String)> = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let trimmed = line.trim_start();
        let indent = line.len() - trimmed.len();
        if trimmed.is_empty() || trimmed.starts_with(['#', '-']) {
            continue;
        }
        let Some((name, rest)) = trimmed.split_once(':') else { continue };
        if !(rest.is_empty() || rest.starts_with([' ', '\t'])) {
            continue;
        }
        while above.last().is_some_and(|(depth, _)| *depth >= indent) {
            above.pop();
        }
        let name = name.trim().trim_matches(['"', '\'']).to_lowercase();
        let path = match above.last() {
            Some((_, parent)) => format!("{parent}.{name}"),
            None => name,
        };
        lines.entry(path.clone()).or_insert(index + 1);
        above.push((indent, path));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_have_lines() {
        let text = "# hello\nserver_url: http://x\ndns:\n  # why\n  magic_dns: true\n  nameservers:\n    global:\n      - 1.1.1.1\nlog: {level: info}\n";
        let lines = lines_of(text);
        assert_eq!(lines["server_url"], 2);
        assert_eq!(lines["dns.magic_dns"], 5);
        assert_eq!(lines["dns.nameservers.global"], 7);
        assert_eq!(lines["log"], 9);
    }

    #[test]
    fn strangers_are_named_with_line_and_hint() {
        let text = "server_url: http://x\ndns:\n  magic_dsn: true\ndatabase:\n  type: sqlite\nacl_policy_path: /x\n";
        let document = Document::read(text, "c.yaml", &BTreeMap::new());
        let warnings: Vec<String> = document.warnings.iter().map(ToString::to_string).collect();
        assert_eq!(warnings[0], "c.yaml:3: unknown key dns.magic_dsn, ignored; did you mean dns.magic_dns?");
        assert!(warnings[1].starts_with("c.yaml:4: database has no effect here: "), "{}", warnings[1]);
        assert_eq!(document.errors[0].to_string(), "c.yaml:6: acl_policy_path is gone; write policy.path");
    }

    #[test]
    fn variables_win() {
        let env = BTreeMap::from([("HEADSCALE_SERVER_URL".to_owned(), "https://y".to_owned())]);
        let mut document = Document::read("server_url: http://x\n", "c.yaml", &env);
        assert_eq!(document.text("server_url").as_deref(), Some("https://y"));
        document.wrong("server_url", "is odd");
        assert_eq!(document.errors[0].to_string(), "environment variable HEADSCALE_SERVER_URL: server_url: is odd");
    }

    #[test]
    fn broken_yaml_is_located() {
        let document = Document::read("a: 1\nb: [\n", "c.yaml", &BTreeMap::new());
        assert!(document.errors[0].line.is_some(), "{:?}", document.errors);
    }
}
