//! HuJSON: JSON for people, with comments and trailing commas.
//!
//! [`standardize`] replaces what is not plain JSON by blanks of the same length, so that every place in the result is
//! the same place in what a person wrote, and checks everything else on the way. Names given twice in one object are
//! refused: the second would silently win.

use std::{collections::BTreeSet, fmt};

use serde_json::Value;

/// The longest text that is read.
pub const BYTES_MAX: usize = 1024 * 1024;

/// How deep lists and objects may nest.
pub const DEPTH_MAX: usize = 64;

/// Why a text is not HuJSON, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SyntaxError {
    /// From 1.
    pub line: u32,
    /// From 1, in characters.
    pub column: u32,
    pub what: What,
}

/// What a text did wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    TooLong(usize),
    TooDeep,
    Expected(&'static str),
    OpenComment,
    OpenString,
    ControlCharacter,
    Escape,
    Number,
    Word(String),
    NameTwice(String),
    AfterTheEnd,
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            What::TooLong(bytes) => write!(f, "the text has {bytes} bytes, at most {BYTES_MAX} are allowed"),
            What::TooDeep => write!(f, "lists and objects nest deeper than {DEPTH_MAX}"),
            What::Expected(what) => write!(f, "expected {what}"),
            What::OpenComment => f.write_str("the comment that begins here has no end"),
            What::OpenString => f.write_str("the text in quotes that begins here has no end on its line"),
            What::ControlCharacter => f.write_str("control characters in quotes must be written as \\u00XX"),
            What::Escape => f.write_str("unknown escape in quotes"),
            What::Number => f.write_str("not a number"),
            What::Word(word) => write!(f, "{word:?} must be in quotes, or be true, false or null"),
            What::NameTwice(name) => write!(f, "{name:?} is given twice in the same object"),
            What::AfterTheEnd => f.write_str("there is something after the end"),
        }
    }
}

impl fmt::Display for SyntaxError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}, column {}: {}", self.line, self.column, self.what)
    }
}

impl std::error::Error for SyntaxError {}

/// The value a text stands for.
pub fn parse(text: &str) -> Result<Value, SyntaxError> {
    let plain = standardize(text)?;
    serde_json::from_str(&plain).map_err(|error| {
        // Only numbers beyond a double get here: everything else was checked on the way.
        let (line, column) = (error.line() as u32, error.column() as u32);
        SyntaxError { line, column, what: What::Number }
    })
}

/// The same text as plain JSON: comments and trailing commas are blanks.
pub fn standardize(text: &str) -> Result<String, SyntaxError> {
    let mut reader = Reader { text, at: 0, plain: text.as_bytes().to_vec(), depth: 0 };
    let done = reader.document();
    let plain = reader.plain;
    match done {
        Ok(()) => Ok(String::from_utf8(plain).expect("whole characters were replaced by blanks")),
        Err((at, what)) => {
            let before = &text[..at];
            let line = before.matches('\n').count() as u32 + 1;
            let column = before.chars().rev().take_while(|c| *c != '\n').count() as u32 + 1;
            Err(SyntaxError { line, column, what })
        }
    }
}

/// Where in the text, and what.
type Fault = (usize, What);

struct Reader<'a> {
    text: &'a str,
    /// A byte position; always between characters.
    at: usize,
    plain: Vec<u8>,
    depth: usize,
}

impl Reader<'_> {
    fn document(&mut self) -> Result<(), Fault> {
        if self.text.len() > BYTES_MAX {
            return Err((0, What::TooLong(self.text.len())));
        }
        if self.text.starts_with('\u{feff}') {
            self.blank(0, '\u{feff}'.len_utf8());
            self.at = '\u{feff}'.len_utf8();
        }
        self.space()?;
        self.value()?;
        self.space()?;
        match self.peek() {
            None => Ok(()),
            Some(_) => Err((self.at, What::AfterTheEnd)),
        }
    }

    fn value(&mut self) -> Result<(), Fault> {
        match self.peek() {
            Some(b'{') => self.nested(Self::object),
            Some(b'[') => self.nested(Self::list),
            Some(b'"') => self.string().map(drop),
            Some(b'-' | b'0'..=b'9') => self.number(),
            Some(c) if c.is_ascii_alphabetic() => self.word(),
            _ => Err((self.at, What::Expected("a value"))),
        }
    }

    fn nested(&mut self, inside: fn(&mut Self) -> Result<(), Fault>) -> Result<(), Fault> {
        if self.depth == DEPTH_MAX {
            return Err((self.at, What::TooDeep));
        }
        self.depth += 1;
        self.at += 1;
        inside(self)?;
        self.depth -= 1;
        Ok(())
    }

    fn object(&mut self) -> Result<(), Fault> {
        let mut names = BTreeSet::new();
        self.items(b'}', "a name in quotes or }", |reader| {
            let start = reader.at;
            if reader.peek() != Some(b'"') {
                return Err((start, What::Expected("a name in quotes or }")));
            }
            let name = reader.string()?;
            if names.contains(&name) {
                return Err((start, What::NameTwice(name)));
            }
            names.insert(name);
            reader.space()?;
            if reader.peek() != Some(b':') {
                return Err((reader.at, What::Expected("a colon")));
            }
            reader.at += 1;
            reader.space()?;
            reader.value()
        })
    }

    fn list(&mut self) -> Result<(), Fault> {
        self.items(b']', "a value or ]", Self::value)
    }

    /// Items between commas up to the closing bracket; a comma before it becomes a blank.
    fn items(
        &mut self,
        close: u8,
        expected: &'static str,
        mut item: impl FnMut(&mut Self) -> Result<(), Fault>,
    ) -> Result<(), Fault> {
        let mut comma = None;
        loop {
            self.space()?;
            match self.peek() {
                Some(c) if c == close => {
                    if let Some(comma) = comma {
                        self.blank(comma, comma + 1);
                    }
                    self.at += 1;
                    return Ok(());
                }
                None | Some(b',') => return Err((self.at, What::Expected(expected))),
                Some(_) => item(self)?,
            }
            self.space()?;
            match self.peek() {
                Some(b',') => {
                    comma = Some(self.at);
                    self.at += 1;
                }
                Some(c) if c == close => comma = None,
                _ => {
                    let expected = if close == b'}' { "a comma or }" } else { "a comma or ]" };
                    return Err((self.at, What::Expected(expected)));
                }
            }
        }
    }

    fn string(&mut self) -> Result<String, Fault> {
        let start = self.at;
        self.at += 1;
        loop {
            match self.peek() {
                None | Some(b'\n') => return Err((start, What::OpenString)),
                Some(b'"') => {
                    self.at += 1;
                    let quoted = &self.text[start..self.at];
                    return serde_json::from_str(quoted).map_err(|_| (start, What::Escape));
                }
                Some(b'\\') => self.escape()?,
                Some(c) if c < 0x20 => return Err((self.at, What::ControlCharacter)),
                Some(_) => self.skip_character(),
            }
        }
    }

    fn escape(&mut self) -> Result<(), Fault> {
        let start = self.at;
        let rest = &self.text.as_bytes()[start + 1..];
        let length = match rest.first() {
            Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => 2,
            Some(b'u') if rest.len() >= 5 && rest[1..5].iter().all(u8::is_ascii_hexdigit) => 6,
            _ => return Err((start, What::Escape)),
        };
        self.at += length;
        Ok(())
    }

    fn number(&mut self) -> Result<(), Fault> {
        let start = self.at;
        let part_of_number = |c: u8| c.is_ascii_alphanumeric() || b"+-.".contains(&c);
        while self.peek().is_some_and(part_of_number) {
            self.at += 1;
        }
        match serde_json::from_str::<serde_json::Number>(&self.text[start..self.at]) {
            Ok(_) => Ok(()),
            Err(_) => Err((start, What::Number)),
        }
    }

    fn word(&mut self) -> Result<(), Fault> {
        let start = self.at;
        while self.peek().is_some_and(|c| c.is_ascii_alphanumeric() || c == b'_') {
            self.at += 1;
        }
        match &self.text[start..self.at] {
            "true" | "false" | "null" => Ok(()),
            word => Err((start, What::Word(word.chars().take(40).collect()))),
        }
    }

    /// White space and comments.
    fn space(&mut self) -> Result<(), Fault> {
        loop {
            let (start, rest) = (self.at, &self.text[self.at..]);
            if rest.starts_with([' ', '\t', '\r', '\n']) {
                self.at += 1;
            } else if rest.starts_with("//") {
                self.at = rest.find('\n').map_or(self.text.len(), |end| start + end);
                self.blank(start, self.at);
            } else if let Some(comment) = rest.strip_prefix("/*") {
                let end = comment.find("*/").ok_or((start, What::OpenComment))?;
                self.at = start + 2 + end + 2;
                self.blank(start, self.at);
            } else {
                return Ok(());
            }
        }
    }

    /// Lines stay where they are.
    fn blank(&mut self, from: usize, to: usize) {
        for byte in &mut self.plain[from..to] {
            if *byte != b'\n' {
                *byte = b' ';
            }
        }
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn skip_character(&mut self) {
        self.at += self.text[self.at..].chars().next().map_or(1, char::len_utf8);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn people_may_comment() {
        let text = "// who may\n{\n  \"acls\": [ /* ü none */ {\"a\": 1.5e3, \"b\": [true, null,],}, ], // end\n}\n";
        let plain = standardize(text).unwrap();
        assert_eq!(plain.len(), text.len());
        assert_eq!(plain.lines().count(), text.lines().count());
        assert_eq!(parse(text).unwrap(), json!({"acls": [{"a": 1500.0, "b": [true, null]}]}));
        assert_eq!(parse("\u{feff}{}").unwrap(), json!({}));
        assert_eq!(parse(r#""// \"not/* a comment \u00e4""#).unwrap(), json!("// \"not/* a comment ä"));
    }

    #[test]
    fn mistakes_are_found_where_they_are() {
        let table = [
            ("", "line 1, column 1: expected a value"),
            ("{\n  \"a\": }", "line 2, column 8: expected a value"),
            ("{\"ä\": 1 \"b\": 2}", "line 1, column 9: expected a comma or }"),
            ("[1 2]", "line 1, column 4: expected a comma or ]"),
            ("[,]", "line 1, column 2: expected a value or ]"),
            ("[1,,]", "line 1, column 4: expected a value or ]"),
            ("[1", "line 1, column 3: expected a comma or ]"),
            ("{a: 1}", "line 1, column 2: expected a name in quotes or }"),
            ("{\"a\" 1}", "line 1, column 6: expected a colon"),
            ("/* x", "line 1, column 1: the comment that begins here has no end"),
            ("[\"a\n\"]", "line 1, column 2: the text in quotes that begins here has no end on its line"),
            ("[\"\\x\"]", "line 1, column 3: unknown escape in quotes"),
            ("[\"\\ud800\"]", "line 1, column 2: unknown escape in quotes"),
            ("[\"\t\"]", "line 1, column 3: control characters in quotes must be written as \\u00XX"),
            ("[01]", "line 1, column 2: not a number"),
            ("[yes]", "line 1, column 2: \"yes\" must be in quotes, or be true, false or null"),
            ("{\"a\":1,\"\\u0061\":2}", "line 1, column 8: \"a\" is given twice in the same object"),
            ("{} {}", "line 1, column 4: there is something after the end"),
        ];
        for (text, expected) in table {
            assert_eq!(standardize(text).unwrap_err().to_string(), expected, "{text}");
        }
    }

    #[test]
    fn depth_and_length_are_bounded() {
        let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        assert!(parse(&nested(DEPTH_MAX)).is_ok());
        assert_eq!(standardize(&nested(DEPTH_MAX + 1)).unwrap_err().what, What::TooDeep);
        assert_eq!(standardize(&"[".repeat(500_000)).unwrap_err().what, What::TooDeep);
        let long = format!("[{}]", " ".repeat(BYTES_MAX));
        assert_eq!(standardize(&long).unwrap_err().what, What::TooLong(long.len()));
    }

    #[test]
    fn what_is_standardized_is_json() {
        // Every cut of a text with everything in it is either refused or plain JSON.
        let text = "{\"a\": [1, -2.5e-3, \"x\\n\\u00e9\", /* c */ {\"b\": null,},], // d\n \"c\": {},}";
        for cut in (0..=text.len()).filter(|cut| text.is_char_boundary(*cut)) {
            if let Ok(plain) = standardize(&text[..cut]) {
                serde_json::from_str::<Value>(&plain).unwrap();
            }
        }
        assert!(parse(text).is_ok());
    }
}
