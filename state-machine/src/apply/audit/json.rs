//! JSON of one line with fields in the order they are given: the same bytes on every member, whatever libraries do.

use std::fmt;

/// A value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Json {
    Null,
    Flag(bool),
    Number(u64),
    Text(String),
    List(Vec<Json>),
    Object(Vec<(&'static str, Json)>),
}

impl fmt::Display for Json {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Json::Null => f.write_str("null"),
            Json::Flag(flag) => write!(f, "{flag}"),
            Json::Number(number) => write!(f, "{number}"),
            Json::Text(text) => write_text(f, text),
            Json::List(items) => {
                f.write_str("[")?;
                for (nth, item) in items.iter().enumerate() {
                    f.write_str(if nth > 0 { "," } else { "" })?;
                    item.fmt(f)?;
                }
                f.write_str("]")
            }
            Json::Object(fields) => {
                f.write_str("{")?;
                for (nth, (name, value)) in fields.iter().enumerate() {
                    f.write_str(if nth > 0 { "," } else { "" })?;
                    write_text(f, name)?;
                    f.write_str(":")?;
                    value.fmt(f)?;
                }
                f.write_str("}")
            }
        }
    }
}

/// RFC 8259, 7: quotes, backslashes and control characters are escaped; so are the two that end lines elsewhere.
fn write_text(f: &mut fmt::Formatter<'_>, text: &str) -> fmt::Result {
    f.write_str("\"")?;
    for c in text.chars() {
        match c {
            '"' => f.write_str("\\\"")?,
            '\\' => f.write_str("\\\\")?,
            '\n' => f.write_str("\\n")?,
            c if c.is_control() || matches!(c, '\u{2028}' | '\u{2029}') => write!(f, "\\u{:04x}", c as u32)?,
            c => fmt::Write::write_char(f, c)?,
        }
    }
    f.write_str("\"")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_whatever_stands_in_it() {
        let json = Json::Object(vec![
            ("a", Json::Text("x\n\"\\\u{7}\u{2028}é".into())),
            ("b", Json::List(vec![Json::Number(1), Json::Flag(true), Json::Null])),
        ]);
        assert_eq!(json.to_string(), r#"{"a":"x\n\"\\\u0007\u2028é","b":[1,true,null]}"#);
    }
}
