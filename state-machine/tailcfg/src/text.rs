//! Strings that need no JSON escapes.
//!
//! Clients in Rust borrow many strings straight from the frame; a single backslash in one of them ends their stream.
//! Names come from people and from other clients, so every such string passes through here on its way out.

use std::borrow::Cow;

use serde::{Serializer, ser::SerializeSeq};

/// Whether JSON can carry the text between quotes as it stands.
pub fn is_plain(text: &str) -> bool {
    !text.bytes().any(needs_escape)
}

/// The text without the characters JSON would have to escape: quotes, backslashes, control characters.
pub fn plain(text: &str) -> Cow<'_, str> {
    if is_plain(text) {
        Cow::Borrowed(text)
    } else {
        Cow::Owned(text.chars().filter(|&c| !(c.is_ascii() && needs_escape(c as u8))).collect())
    }
}

fn needs_escape(byte: u8) -> bool {
    byte < 0x20 || byte == b'"' || byte == b'\\'
}

/// For `#[serde(serialize_with)]`: a plain string.
pub(crate) fn serialize_plain<S: Serializer>(text: &str, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&plain(text))
}

/// For `#[serde(serialize_with)]`: a list of plain strings.
pub(crate) fn serialize_plain_list<S: Serializer>(texts: &[String], serializer: S) -> Result<S::Ok, S::Error> {
    let mut list = serializer.serialize_seq(Some(texts.len()))?;
    for text in texts {
        list.serialize_element(&*plain(text))?;
    }
    list.end()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_json_escapes_is_lost() {
        assert_eq!(plain("Ann \"the\\admin\"\n\u{7}"), "Ann theadmin");
        assert_eq!(plain("Zoë <zoe@example.com> & 名字/x"), "Zoë <zoe@example.com> & 名字/x");
        assert!(matches!(plain("ann"), Cow::Borrowed(_)));
        for text in ["Zoë", "名字", "a/b<c>&'", "\u{7f}"] {
            assert!(!serde_json::to_string(text).unwrap().contains('\\'), "{text}");
        }
    }
}
