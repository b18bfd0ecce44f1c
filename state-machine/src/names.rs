//! Host names into unique DNS labels, and what names of other things look like.

use std::collections::BTreeSet;

use crate::{model::*, state::State};

/// RFC 1035, 2.3.4.
pub(crate) const LABEL_BYTES_MAX: usize = 63;

/// What a node is called whose host name has no usable character.
const NAMELESS: &str = "node";

/// How many numbers are tried in order before the search takes longer steps.
const NUMBERS_IN_ORDER: u64 = 16;

/// A client's host name as a DNS label: lower case, everything that is not a letter or digit is a dash.
pub(crate) fn label(hostname: &str) -> String {
    let lower = hostname.trim().to_ascii_lowercase();
    let bare =
        [".local", ".localdomain", ".lan"].iter().find_map(|suffix| lower.strip_suffix(suffix)).unwrap_or(&lower);
    let dashed: String = bare.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
    let dashed = dashed.trim_matches('-');
    let cut = dashed[..dashed.len().min(LABEL_BYTES_MAX)].trim_end_matches('-');
    if cut.is_empty() { NAMELESS.to_owned() } else { cut.to_owned() }
}

impl State {
    /// The label itself when it is free (or this node's own), otherwise with a number: `laptop-1`, `laptop-2`, ….
    ///
    /// Small numbers are tried in order. A thousand containers of one name must not cost a thousand look-ups for the
    /// next one, so after that the search doubles its steps and then narrows down to a free number after a taken one.
    pub(crate) fn unique_name(&self, label: &str, node: Option<NodeId>) -> String {
        let free = |name: &str| self.node_by_name(name).is_none_or(|other| Some(other.id) == node);
        if free(label) {
            return label.to_owned();
        }
        let number_is_free = |number: u64| free(&numbered(label, number));
        if let Some(number) = (1..=NUMBERS_IN_ORDER).find(|number| number_is_free(*number)) {
            return numbered(label, number);
        }
        let (mut taken, mut next) = (NUMBERS_IN_ORDER, NUMBERS_IN_ORDER * 2);
        while !number_is_free(next) {
            (taken, next) = (next, next * 2);
        }
        while next - taken > 1 {
            let middle = taken + (next - taken) / 2;
            if number_is_free(middle) { next = middle } else { taken = middle }
        }
        numbered(label, next)
    }
}

fn numbered(label: &str, number: u64) -> String {
    let suffix = format!("-{number}");
    let kept = &label[..label.len().min(LABEL_BYTES_MAX - suffix.len())];
    format!("{}{suffix}", kept.trim_end_matches('-'))
}

/// A name a person chose for a node or a member.
pub(crate) fn check_label(name: &str) -> Result<(), String> {
    if name.is_empty() || name.len() > LABEL_BYTES_MAX {
        return Err(format!("{name:?} must have 1 to {LABEL_BYTES_MAX} characters"));
    }
    if !name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-') {
        return Err(format!("{name:?} may hold only a-z, 0-9 and dashes"));
    }
    if name.starts_with('-') || name.ends_with('-') {
        return Err(format!("{name:?} must neither start nor end with a dash"));
    }
    Ok(())
}

/// Labels joined by dots, without a dot at either end.
pub(crate) fn check_domain(domain: &str) -> Result<(), String> {
    domain.split('.').try_for_each(|part| check_label(part).map_err(|why| format!("in {domain:?}: {why}")))
}

/// The names people log in with: a letter first, at most one `@`.
pub(crate) fn check_user_name(name: &str) -> Result<(), String> {
    if name.is_empty() || name.len() > 63 {
        return Err(format!("the name {name:?} must have 1 to 63 characters"));
    }
    if !name.starts_with(|c: char| c.is_ascii_alphabetic()) {
        return Err(format!("the name {name:?} must start with a letter"));
    }
    if !name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._@".contains(&b)) {
        return Err(format!("the name {name:?} may hold only letters, digits and - . _ @"));
    }
    if name.bytes().filter(|b| *b == b'@').count() > 1 {
        return Err(format!("the name {name:?} has more than one @"));
    }
    Ok(())
}

/// `tag:` and a letter, then letters, digits and dashes.
pub(crate) fn check_tag(tag: &str) -> Result<(), String> {
    let Some(name) = tag.strip_prefix("tag:") else {
        return Err(format!("tag {tag:?} must start with 'tag:'"));
    };
    if !name.starts_with(|c: char| c.is_ascii_alphabetic()) {
        return Err(format!("{tag:?}: tag names must start with a letter, after 'tag:'"));
    }
    if name.len() > 50 || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') {
        return Err(format!("{tag:?}: tag names have at most 50 letters, digits and dashes"));
    }
    Ok(())
}

/// Every tag fits, and there are not too many.
pub(crate) fn check_tags(tags: &BTreeSet<String>) -> Result<(), String> {
    if tags.len() > 100 {
        return Err(format!("{} tags are more than the 100 allowed", tags.len()));
    }
    tags.iter().try_for_each(|tag| check_tag(tag))
}

/// The public part of a key. Imported keys have other lengths than ours.
pub(crate) fn check_key_prefix(prefix: &str) -> Result<(), String> {
    let fits =
        (4..=64).contains(&prefix.len()) && prefix.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b));
    fits.then_some(())
        .ok_or_else(|| "the public part must have 4 to 64 letters, digits, dashes and underscores".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_names_become_labels() {
        let table = [
            ("laptop", "laptop"),
            ("Alice's MacBook Pro", "alice-s-macbook-pro"),
            ("printer.local", "printer"),
            ("db.eu_west.example.com", "db-eu-west-example-com"),
            ("--x--", "x"),
            ("", "node"),
            ("...", "node"),
            ("日本", "node"),
            ("localhost", "localhost"),
        ];
        for (hostname, expected) in table {
            assert_eq!(label(hostname), expected, "{hostname}");
        }
        assert_eq!(label(&"x".repeat(80)).len(), 63);
        assert_eq!(label(&format!("{}-{}", "x".repeat(62), "y")), "x".repeat(62));
        for (hostname, _) in table {
            check_label(&label(hostname)).unwrap();
        }
    }

    #[test]
    fn numbers_fit_into_a_label() {
        assert_eq!(numbered("laptop", 1), "laptop-1");
        assert_eq!(numbered(&"x".repeat(63), 12).len(), 63);
        assert_eq!(numbered(&format!("{}-yy", "x".repeat(60)), 1), format!("{}-1", "x".repeat(60)));
    }

    #[test]
    fn tags_and_users() {
        for tag in ["tag:web", "tag:Web-1", "tag:a"] {
            check_tag(tag).unwrap();
        }
        for tag in ["web", "tag:", "tag:1", "tag:a b", "tag:-a", "tag:ä"] {
            assert!(check_tag(tag).is_err(), "{tag}");
        }
        for name in ["alice", "Alice.B", "a", "alice@example.com", "svc-1_x"] {
            check_user_name(name).unwrap();
        }
        for name in ["", "1a", "a@b@c", "al ice", "@a", "-a"] {
            assert!(check_user_name(name).is_err(), "{name}");
        }
    }
}
