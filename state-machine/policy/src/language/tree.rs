//! A text as a tree in which every value knows its place.
//!
//! The text was checked before ([`crate::hujson`]), so that building the tree cannot fail.

use serde_json::{Map, Value};

/// A value and where it begins, in bytes.
#[derive(Clone, Debug)]
pub(crate) struct Located {
    pub at: u32,
    pub tree: Tree,
}

#[derive(Clone, Debug)]
pub(crate) enum Tree {
    Null,
    Bool(bool),
    Number(serde_json::Number),
    Text(String),
    List(Vec<Located>),
    Object(Vec<(Key, Located)>),
}

/// A name in an object.
#[derive(Clone, Debug)]
pub(crate) struct Key {
    pub at: u32,
    pub name: String,
}

impl Located {
    /// What it is, for people.
    pub fn kind(&self) -> &'static str {
        match self.tree {
            Tree::Null => "null",
            Tree::Bool(_) => "true or false",
            Tree::Number(_) => "a number",
            Tree::Text(_) => "text in quotes",
            Tree::List(_) => "a list",
            Tree::Object(_) => "an object",
        }
    }

    pub fn is_null(&self) -> bool {
        matches!(self.tree, Tree::Null)
    }

    /// The same without places.
    pub fn to_json(&self) -> Value {
        match &self.tree {
            Tree::Null => Value::Null,
            Tree::Bool(flag) => Value::Bool(*flag),
            Tree::Number(number) => Value::Number(number.clone()),
            Tree::Text(text) => Value::String(text.clone()),
            Tree::List(items) => Value::Array(items.iter().map(Located::to_json).collect()),
            Tree::Object(fields) => {
                let fields = fields.iter().map(|(key, value)| (key.name.clone(), value.to_json()));
                Value::Object(fields.collect::<Map<String, Value>>())
            }
        }
    }
}

/// The tree of plain JSON as [`crate::hujson::standardize`] leaves it.
pub(crate) fn build(plain: &str) -> Located {
    Builder { plain, at: 0 }.value()
}

struct Builder<'a> {
    plain: &'a str,
    at: usize,
}

impl Builder<'_> {
    fn value(&mut self) -> Located {
        self.space();
        let at = self.at as u32;
        let tree = match self.peek() {
            b'{' => self.object(),
            b'[' => self.list(),
            b'"' => Tree::Text(self.string()),
            b't' => self.word(4, Tree::Bool(true)),
            b'f' => self.word(5, Tree::Bool(false)),
            b'n' => self.word(4, Tree::Null),
            _ => self.number(),
        };
        Located { at, tree }
    }

    fn object(&mut self) -> Tree {
        let mut fields = Vec::new();
        self.at += 1;
        loop {
            self.space();
            match self.peek() {
                b'}' => break,
                b',' => self.at += 1,
                _ => {
                    let at = self.at as u32;
                    let name = self.string();
                    self.space();
                    self.at += 1;
                    fields.push((Key { at, name }, self.value()));
                }
            }
        }
        self.at += 1;
        Tree::Object(fields)
    }

    fn list(&mut self) -> Tree {
        let mut items = Vec::new();
        self.at += 1;
        loop {
            self.space();
            match self.peek() {
                b']' => break,
                b',' => self.at += 1,
                _ => items.push(self.value()),
            }
        }
        self.at += 1;
        Tree::List(items)
    }

    fn string(&mut self) -> String {
        let bytes = self.plain.as_bytes();
        let start = self.at;
        self.at += 1;
        let mut escaped = false;
        while bytes[self.at] != b'"' {
            let escape = bytes[self.at] == b'\\';
            escaped |= escape;
            self.at += if escape { 2 } else { 1 };
        }
        self.at += 1;
        match escaped {
            false => self.plain[start + 1..self.at - 1].to_owned(),
            true => serde_json::from_str(&self.plain[start..self.at]).unwrap_or_default(),
        }
    }

    fn number(&mut self) -> Tree {
        let start = self.at;
        while self.plain.as_bytes().get(self.at).is_some_and(|c| c.is_ascii_alphanumeric() || b"+-.".contains(c)) {
            self.at += 1;
        }
        serde_json::from_str(&self.plain[start..self.at]).map_or(Tree::Null, Tree::Number)
    }

    fn word(&mut self, length: usize, tree: Tree) -> Tree {
        self.at += length;
        tree
    }

    fn space(&mut self) {
        while self.plain.as_bytes().get(self.at).is_some_and(u8::is_ascii_whitespace) {
            self.at += 1;
        }
    }

    fn peek(&self) -> u8 {
        self.plain.as_bytes().get(self.at).copied().unwrap_or(b'n')
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hujson;

    #[test]
    fn trees_are_what_was_written() {
        let text =
            "{ // c\n \"a\\n\": [1, -2.5e3, \"x\\u00e4\\\"\", {\"b\": null,}, [], {}], \"ä\": true, \"c\": false, }";
        let tree = build(&hujson::standardize(text).unwrap());
        assert_eq!(tree.to_json(), hujson::parse(text).unwrap());
        let Tree::Object(fields) = &tree.tree else { panic!() };
        assert_eq!(&text[fields[1].0.at as usize..][..4], "\"ä\"");
        assert_eq!(&text[fields[1].1.at as usize..][..4], "true");
    }

    #[test]
    fn numbers_beyond_a_double_build_no_tree_that_never_ends() {
        for text in ["1", "\"a\"", "[1e400]", "null"] {
            if let Ok(plain) = hujson::standardize(text) {
                build(&plain);
            }
        }
    }
}
