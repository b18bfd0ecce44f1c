//! Who may come in, of those a provider has proved; and what is kept of what it says. Pure, as Headscale 0.29 has it.

use state_machine::Identity;

use super::provider::Claims;
use crate::options::Oidc;

/// Why somebody may not come in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum No {
    Group,
    UnverifiedEmail,
    Domain,
    User,
}

impl No {
    /// What the person is told.
    pub fn text(self) -> &'static str {
        match self {
            No::Group => "unauthorised group: none of your groups may join this network",
            No::UnverifiedEmail => "unverified email: your login provider has not verified your mail address",
            No::Domain => "unauthorised domain: mail addresses of your domain may not join this network",
            No::User => "unauthorised user: your mail address is not on the list of those who may join this network",
        }
    }
}

/// Groups first, then whether the address counts, its domain, the address.
pub fn admit(rules: &Oidc, claims: &Claims) -> Result<(), No> {
    let groups = &rules.allowed_groups;
    if !groups.is_empty() && !claims.groups.iter().any(|group| groups.contains(group)) {
        return Err(No::Group);
    }
    let by_email = !rules.allowed_domains.is_empty() || !rules.allowed_users.is_empty();
    if by_email && rules.email_verified_required && !claims.email_verified {
        return Err(No::UnverifiedEmail);
    }
    if !rules.allowed_domains.is_empty() {
        let domain = claims.email.rsplit_once('@').map(|(_, domain)| domain);
        if !domain.is_some_and(|domain| rules.allowed_domains.iter().any(|allowed| allowed == domain)) {
            return Err(No::Domain);
        }
    }
    if !rules.allowed_users.is_empty() && !rules.allowed_users.contains(&claims.email) {
        return Err(No::User);
    }
    Ok(())
}

/// What the cluster keeps. Texts are cut where the state machine would refuse them: a long name is nobody's fault.
pub fn identity(rules: &Oidc, claims: &Claims) -> Identity {
    let believed = claims.email_verified || !rules.email_verified_required;
    let clean = |text: &str, max: usize| {
        let mut kept = String::new();
        for c in text.chars().filter(|c| !c.is_control()) {
            if kept.len() + c.len_utf8() > max {
                break;
            }
            kept.push(c);
        }
        kept
    };
    let picture = url::Url::parse(&claims.picture).ok().filter(|url| matches!(url.scheme(), "http" | "https"));
    let picture = picture.map(String::from).filter(|url| url.len() <= 2_048).unwrap_or_default();
    let groups = claims.groups.iter().filter(|group| !group.is_empty() && group.len() <= 255);
    Identity {
        provider_id: provider_id(&claims.issuer, &claims.subject),
        name: if good_name(&claims.username) { claims.username.clone() } else { String::new() },
        display_name: clean(&claims.name, 255),
        email: if believed && claims.email.len() <= 255 { claims.email.clone() } else { String::new() },
        profile_pic_url: picture,
        groups: groups.filter(|group| !group.chars().any(char::is_control)).take(512).cloned().collect(),
        expiry: rules.use_expiry_from_token.then_some(claims.expires),
    }
}

/// At least two characters, a letter first, then letters, digits and `-._`, at most one `@`.
fn good_name(name: &str) -> bool {
    (2..=63).contains(&name.len())
        && name.starts_with(|c: char| c.is_ascii_alphabetic())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._@".contains(&byte))
        && name.bytes().filter(|byte| *byte == b'@').count() <= 1
}

/// `issuer/subject` with a small scheme, without empty parts, and escaped as Go's `url.URL` prints it: so that people
/// imported from Headscale are found again.
fn provider_id(issuer: &str, subject: &str) -> String {
    let whole = format!("{}/{subject}", issuer.trim_end_matches('/'));
    let Some((scheme, rest)) = whole.split_once("://") else { return whole };
    let mut parts = rest.split('/').map(str::trim).filter(|part| !part.is_empty());
    let host = parts.next().unwrap_or_default();
    let mut id = format!("{}://{host}", scheme.to_ascii_lowercase());
    for part in parts {
        id.push('/');
        for byte in part.bytes() {
            match byte {
                b'%' => id.push('%'),
                byte if byte.is_ascii_alphanumeric() || b"-_.~$&+,:;=@".contains(&byte) => id.push(byte.into()),
                byte => id += &format!("%{byte:02X}"),
            }
        }
    }
    id
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::Pkce;

    fn rules() -> Oidc {
        Oidc {
            issuer: "https://idp.example.com".into(),
            client_id: "hsraft".into(),
            client_secret: Default::default(),
            scope: vec![],
            extra_params: Default::default(),
            allowed_domains: vec![],
            allowed_groups: vec![],
            allowed_users: vec![],
            email_verified_required: true,
            use_expiry_from_token: false,
            pkce: Pkce::S256,
            only_start_if_available: false,
            authorities: None,
        }
    }

    fn ann() -> Claims {
        Claims {
            issuer: "https://idp.example.com".into(),
            subject: "1".into(),
            username: "ann".into(),
            email: "ann@example.com".into(),
            email_verified: true,
            groups: vec!["/dev".into()],
            ..Claims::default()
        }
    }

    #[test]
    fn the_rules_in_their_order() {
        let list = |text: &str| vec![text.to_owned()];
        let unverified = Claims { email_verified: false, ..ann() };
        let nobody = Claims { email: String::new(), groups: vec![], email_verified: false, ..ann() };
        let table = [
            (rules(), ann(), Ok(())),
            (rules(), nobody.clone(), Ok(())),
            (Oidc { allowed_groups: list("/dev"), ..rules() }, ann(), Ok(())),
            (Oidc { allowed_groups: list("dev"), ..rules() }, ann(), Err(No::Group)),
            (Oidc { allowed_groups: list("/DEV"), ..rules() }, ann(), Err(No::Group)),
            (Oidc { allowed_domains: list("example.com"), ..rules() }, ann(), Ok(())),
            (Oidc { allowed_domains: list("ample.com"), ..rules() }, ann(), Err(No::Domain)),
            (Oidc { allowed_domains: list("example.com"), ..rules() }, unverified.clone(), Err(No::UnverifiedEmail)),
            (
                Oidc { allowed_domains: list("example.com"), email_verified_required: false, ..rules() },
                unverified,
                Ok(()),
            ),
            (
                Oidc { allowed_domains: list("example.com"), email_verified_required: false, ..rules() },
                nobody,
                Err(No::Domain),
            ),
            (Oidc { allowed_users: list("ann@example.com"), ..rules() }, ann(), Ok(())),
            (Oidc { allowed_users: list("Ann@example.com"), ..rules() }, ann(), Err(No::User)),
            (
                Oidc { allowed_domains: list("example.com"), ..rules() },
                Claims { email: "\"x@example.com\"@evil.org".into(), ..ann() },
                Err(No::Domain),
            ),
        ];
        for (rules, claims, expected) in table {
            assert_eq!(admit(&rules, &claims), expected, "{rules:?} {claims:?}");
        }
    }

    #[test]
    fn what_is_kept() {
        assert_eq!(identity(&rules(), &ann()).email, "ann@example.com");
        let unverified = Claims { email_verified: false, picture: "javascript:alert(1)".into(), ..ann() };
        let kept = identity(&rules(), &unverified);
        assert_eq!((kept.email.as_str(), kept.profile_pic_url.as_str()), ("", ""));
        assert_eq!(identity(&Oidc { email_verified_required: false, ..rules() }, &unverified).email, "ann@example.com");
        let long = Claims { name: "é".repeat(200), expires: Timestamp(7), ..ann() };
        assert_eq!(identity(&rules(), &long).display_name.len(), 254);
        assert_eq!(identity(&rules(), &long).expiry, None);
        let by_token = Oidc { use_expiry_from_token: true, ..rules() };
        assert_eq!(identity(&by_token, &long).expiry, Some(Timestamp(7)));
        for (name, kept) in
            [("ann", true), ("a", false), ("1ann", false), ("a@b@c", false), ("a b", false), ("a.b", true)]
        {
            assert_eq!(!identity(&rules(), &Claims { username: name.into(), ..ann() }).name.is_empty(), kept, "{name}");
        }
    }

    use state_machine::Timestamp;

    #[test]
    fn ids_are_as_headscale_writes_them() {
        for (issuer, subject, id) in [
            ("https://idp.example.com", "1", "https://idp.example.com/1"),
            ("https://idp.example.com/", "1", "https://idp.example.com/1"),
            ("HTTPS://idp.example.com//realms//x/", "/a//b", "https://idp.example.com/realms/x/a/b"),
            ("https://x.auth0.com/", "auth0|17", "https://x.auth0.com/auth0%7C17"),
        ] {
            assert_eq!(provider_id(issuer, subject), id);
        }
    }
}
