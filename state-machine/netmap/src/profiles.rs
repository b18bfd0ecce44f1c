//! Whose nodes these are, as clients show it.

use state_machine::{Node, State, User, UserId};
use tailcfg::UserProfile;

/// The pseudo user of tagged nodes; Headscale's number, so that tools find what they know.
pub const TAGGED_DEVICES: u64 = 2_147_455_555;

/// The profile of a node's owner. Tagged nodes, and nodes whose user is not known, belong to the tags.
pub fn profile(state: &State, node: &Node) -> UserProfile {
    of_owner(state, owner(state, node))
}

/// The number a node's owner goes by in maps.
pub(crate) fn owner(state: &State, node: &Node) -> u64 {
    match node.user {
        Some(user) if !node.is_tagged() && state.user(user).is_some() => user.0,
        _ => TAGGED_DEVICES,
    }
}

pub(crate) fn of_owner(state: &State, owner: u64) -> UserProfile {
    match state.user(UserId(owner)) {
        Some(user) => of_user(user),
        None => UserProfile {
            id: TAGGED_DEVICES,
            login_name: "tagged-devices".to_owned(),
            display_name: "Tagged Devices".to_owned(),
            profile_pic_url: String::new(),
        },
    }
}

fn of_user(user: &User) -> UserProfile {
    let login_name = if user.email.is_empty() { &user.name } else { &user.email };
    let display_name = if user.display_name.is_empty() { login_name } else { &user.display_name };
    let picture = if is_web_url(&user.profile_pic_url) { user.profile_pic_url.clone() } else { String::new() };
    UserProfile {
        id: user.id.0,
        login_name: login_name.clone(),
        display_name: display_name.clone(),
        profile_pic_url: picture,
    }
}

/// Whether every client takes the text for a URL. Stricter than RFC 3986: a picture less does no harm, while a URL that
/// a client in Rust cannot parse ends its stream.
pub(crate) fn is_web_url(text: &str) -> bool {
    let Some(rest) = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://")) else { return false };
    let (authority, _) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    let (host, port) = authority.split_once(':').map_or((authority, None), |(host, port)| (host, Some(port)));
    let is_label = |label: &str| {
        !label.is_empty() && !label.starts_with("xn--") && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
    };
    host.split('.').all(is_label)
        && host.rsplit('.').next().is_some_and(|last| last.starts_with(|c: char| c.is_ascii_alphabetic()))
        && port.is_none_or(|port| port.parse::<u16>().is_ok())
        && rest.bytes().all(|b| b.is_ascii_graphic() && !matches!(b, b'"' | b'\\' | b'<' | b'>' | b'`'))
}

#[cfg(test)]
mod tests {
    use super::is_web_url;

    #[test]
    fn only_urls_everybody_reads() {
        for good in ["https://example.com/a.png?s=1&t=2#x", "http://example.com:8080", "https://lh3.example.com/a-b_c"]
        {
            assert!(is_web_url(good), "{good}");
        }
        for bad in [
            "",
            "example.com/a.png",
            "ftp://example.com",
            "https://",
            "https:///x",
            "https://a..b/",
            "https://exa mple.com",
            "https://example.com:99999",
            "https://example.com/\"",
            "https://1.2.3.4.5/",
            "https://user@example.com/",
            "https://xn--a/",
            "javascript:alert(1)",
        ] {
            assert!(!is_web_url(bad), "{bad}");
        }
    }
}
