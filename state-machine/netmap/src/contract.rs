//! What every frame must obey so that Go and Rust clients both live.
//!
//! Go's reader forgives much; the Rust client's forgives nothing: a `null`, a missing field or an escaped string ends
//! its stream. [`check`] reads a frame the way both would and says what the stricter one would refuse. For tests, and
//! for simulated clients that should complain early.

use std::{
    borrow::Cow,
    collections::BTreeSet,
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use ipnet::IpNet;
use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, SeqAccess, Visitor},
};

/// What is wrong with a frame, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// `Peers[3].Addresses`.
    pub at: String,
    pub why: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.at, self.why)
    }
}

impl std::error::Error for Violation {}

type Checked = Result<(), Violation>;

/// Checks one frame: the JSON of a MapResponse, without length and compression.
pub fn check(frame: &[u8]) -> Checked {
    let tree: Tree = serde_json::from_slice(frame).map_err(|error| bad("frame", error))?;
    let Tree::Map(pages) = &tree else { return Err(bad("frame", "is not an object")) };
    if frame.first() != Some(&b'{') || frame.last() != Some(&b'}') {
        return Err(bad("frame", "has bytes around its object"));
    }
    text_and_nulls(&tree, "frame", Borrow::Always)?;
    let has = |name: &str| pages.iter().any(|(key, _)| key == name);
    for (name, page) in pages {
        check_page(name, page)?;
    }
    if has("KeepAlive") {
        let allowed = ["KeepAlive", "PingRequest", "ControlTime", "PopBrowserURL"];
        let extra = pages.iter().find(|(key, _)| !allowed.contains(&&**key));
        return extra.map_or(Ok(()), |(key, _)| Err(bad(key, "is not read in a keep-alive")));
    }
    if !has("ControlTime") {
        return Err(bad("ControlTime", "is missing"));
    }
    if has("Peers") && (has("PeersChanged") || has("PeersRemoved") || has("PeersChangedPatch")) {
        return Err(bad("Peers", "makes clients skip the changes beside it"));
    }
    Ok(())
}

fn check_page(name: &str, page: &Tree) -> Checked {
    match name {
        // Only the viewer itself may be one that waits for an approval.
        "Node" => {
            page.need("MachineAuthorized", name)?.flag(name)?;
            check_node(page, name)
        }
        "Peers" | "PeersChanged" => {
            each(page, name, check_node)?;
            each(page, name, |peer, at| match *peer.need("MachineAuthorized", at)? {
                Tree::Bool(true) => Ok(()),
                _ => Err(bad(at, "is not authorized")),
            })?;
            not_empty_and_sorted(page, name, "ID")
        }
        "PeersChangedPatch" => {
            each(page, name, check_patch)?;
            not_empty_and_sorted(page, name, "NodeID")
        }
        "PeersRemoved" => {
            each(page, name, |id, at| id.id().map(drop).ok_or_else(|| bad(at, "is not an id")))?;
            not_empty(page, name)
        }
        "DERPMap" => check_derp_map(page),
        "DNSConfig" => check_dns(page),
        "Domain" => page.text().filter(|text| !text.is_empty()).map(drop).ok_or_else(|| bad(name, "is not a name")),
        "CollectServices" | "KeepAlive" | "DefaultAutoUpdate" => page.flag(name),
        "PacketFilters" => check_filters(page),
        "UserProfiles" => {
            each(page, name, check_profile)?;
            not_empty(page, name)
        }
        "ControlTime" => page.time(name),
        "PingRequest" => check_ping(page),
        "ControlDialPlan" => each(page.need("Candidates", name)?, name, |one, at| {
            let timeout = one.need("DialTimeoutSec", at)?;
            timeout.number().filter(|secs| *secs > 0.0).map(drop).ok_or_else(|| bad(at, "allows no time to dial"))
        }),
        "SSHPolicy" => each(page.need("rules", name)?, name, |rule, at| {
            ["principals", "sshUsers", "action"].iter().try_for_each(|key| rule.need(key, at).map(drop))
        }),
        "Debug" | "PopBrowserURL" | "Health" | "DisplayMessages" | "ClientVersion" => Ok(()),
        _ => Err(bad(name, "is not a page that clients know or that we send")),
    }
}

fn check_node(node: &Tree, at: &str) -> Checked {
    let id = node.need("ID", at)?.id().ok_or_else(|| bad(at, "has no id"))?;
    if node.need("StableID", at)?.text().is_none_or(str::is_empty) {
        return Err(bad(at, "has no stable id"));
    }
    let at = &format!("{at}({id})");
    let name = node.need("Name", at)?.text().unwrap_or_default();
    if name.is_empty() || (name.contains('.') && !name.ends_with('.')) {
        return Err(bad(at, "has no full name with a dot at its end"));
    }
    node.need("User", at)?.id().ok_or_else(|| bad(at, "has no user"))?;
    key(node.need("Key", at)?, "nodekey", at)?;
    key(node.need("Machine", at)?, "mkey", at)?;
    node.get("DiscoKey").map_or(Ok(()), |disco| key(disco, "discokey", at))?;
    let addresses: Vec<IpNet> = prefixes(node.need("Addresses", at)?, at)?;
    match addresses[..] {
        [IpNet::V4(v4), IpNet::V6(v6)] if v4.prefix_len() == 32 && v6.prefix_len() == 128 => {}
        // Where the policy hides IPv4 (`disable-ipv4`). Clients in Rust cannot read it.
        [IpNet::V6(v6)] if v6.prefix_len() == 128 => {}
        _ => return Err(bad(at, "does not have exactly an IPv4 and an IPv6 address")),
    }
    let allowed = prefixes(node.need("AllowedIPs", at)?, at)?;
    if !addresses.iter().all(|address| allowed.contains(address)) {
        return Err(bad(at, "may not use its own addresses"));
    }
    node.get("PrimaryRoutes").map_or(Ok(()), |routes| prefixes(routes, at).map(drop))?;
    endpoints(node.need("Endpoints", at)?, at)?;
    node.get("HomeDERP").map_or(Ok(()), |region| region.positive(at))?;
    if !matches!(node.need("Hostinfo", at)?, Tree::Map(_)) {
        return Err(bad(at, "has a Hostinfo that is not an object"));
    }
    node.need("Created", at)?.time(at)?;
    node.get("KeyExpiry").map_or(Ok(()), |time| time.time(at))?;
    node.get("LastSeen").map_or(Ok(()), |time| time.time(at))?;
    let online = node.need("Online", at)?;
    online.flag(at)?;
    if *online == Tree::Bool(true) && node.get("LastSeen").is_some() {
        return Err(bad(at, "is online and was last seen before"));
    }
    node.get("Expired").map_or(Ok(()), |flag| flag.flag(at))?;
    if let Some(Tree::Map(caps)) = node.get("CapMap") {
        let is_list = |value: &Tree| matches!(value, Tree::List(_) | Tree::Null);
        caps.iter().try_for_each(|(cap, value)| if is_list(value) { Ok(()) } else { Err(bad(at, cap)) })?;
    }
    Ok(())
}

fn check_patch(patch: &Tree, at: &str) -> Checked {
    patch.need("NodeID", at)?.id().ok_or_else(|| bad(at, "has no id"))?;
    let Tree::Map(fields) = patch else { return Err(bad(at, "is not an object")) };
    for (name, value) in fields {
        match &**name {
            "NodeID" => Ok(()),
            "DERPRegion" | "Cap" => value.positive(at),
            "Endpoints" => endpoints(value, at),
            "Key" => key(value, "nodekey", at),
            "DiscoKey" => key(value, "discokey", at),
            "Online" => value.flag(at),
            "LastSeen" | "KeyExpiry" => value.time(at),
            _ => Err(bad(at, format!("{name} cannot be patched"))),
        }?;
    }
    if fields.len() < 2 { Err(bad(at, "changes nothing")) } else { Ok(()) }
}

fn check_derp_map(map: &Tree) -> Checked {
    let Tree::Map(regions) = map.need("Regions", "DERPMap")? else { return Err(bad("DERPMap", "has no regions")) };
    map.need("omitDefaultRegions", "DERPMap")?.flag("DERPMap")?;
    let mut names = BTreeSet::new();
    for (id, region) in regions {
        let at = &format!("DERPMap.Regions[{id}]");
        let matches = |tree: &Tree| tree.id().is_some_and(|number| number != 0 && number.to_string() == **id);
        if !matches(region.need("RegionID", at)?) {
            return Err(bad(at, "has another id than its key"));
        }
        for field in ["RegionCode", "RegionName"] {
            region.need(field, at)?.text().ok_or_else(|| bad(at, "has no code or name"))?;
        }
        each(region.need("Nodes", at)?, at, |node, at| {
            if !matches(node.need("RegionID", at)?) {
                return Err(bad(at, "belongs to another region"));
            }
            let name = node.need("Name", at)?.text().unwrap_or_default();
            if name.is_empty() || !names.insert(name.to_owned()) {
                return Err(bad(at, "has a name that is not unique in the map"));
            }
            node.need("HostName", at)?.text().ok_or_else(|| bad(at, "has no host name"))?;
            address::<Ipv4Addr>(node.get("IPv4"), at)?;
            address::<Ipv6Addr>(node.get("IPv6"), at)?;
            let stun = node.get("STUNPort").map_or(Some(0.0), Tree::number);
            stun.filter(|port| (-1.0..=65535.0).contains(port))
                .map(drop)
                .ok_or_else(|| bad(at, "has a wrong STUN port"))
        })?;
    }
    Ok(())
}

fn check_dns(dns: &Tree) -> Checked {
    let at = "DNSConfig";
    let resolver = |one: &Tree, at: &str| {
        let addr = one.need("Addr", at)?.text().unwrap_or_default();
        let good = tailcfg::DnsResolver::new(addr).is_some();
        if good { Ok(()) } else { Err(bad(at, "is no resolver clients understand")) }
    };
    for list in ["Resolvers", "FallbackResolvers"] {
        dns.get(list).map_or(Ok(()), |list| each(list, at, resolver))?;
    }
    if let Some(Tree::Map(routes)) = dns.get("Routes") {
        let routes = routes.iter().filter(|(_, list)| *list != Tree::Null);
        routes.into_iter().try_for_each(|(suffix, list)| each(list, suffix, resolver))?;
    }
    dns.get("Domains").map_or(Ok(()), |list| {
        each(list, at, |domain, at| match domain.text() {
            Some(text) if !text.is_empty() && !text.ends_with('.') => Ok(()),
            _ => Err(bad(at, "is a search domain with a dot at its end")),
        })
    })?;
    dns.get("CertDomains").map_or(Ok(()), |list| {
        each(list, at, |domain, at| match domain.text() {
            Some(text) if text.contains('.') && !text.ends_with('.') => Ok(()),
            _ => Err(bad(at, "is a certificate's name with a dot at its end, or with none in it")),
        })
    })?;
    dns.get("ExtraRecords").map_or(Ok(()), |list| {
        each(list, at, |record, at| {
            let value = record.need("Value", at)?.text().and_then(|text| text.parse::<IpAddr>().ok());
            let kind = record.need("Type", at)?.text();
            match (kind, value) {
                (Some("A"), Some(IpAddr::V4(_))) | (Some("AAAA"), Some(IpAddr::V6(_))) => Ok(()),
                _ => Err(bad(at, "is a record of another type than its address")),
            }
        })
    })
}

fn check_filters(filters: &Tree) -> Checked {
    let Tree::Map(filters) = filters else { return Err(bad("PacketFilters", "is not an object")) };
    for (name, rules) in filters {
        if *rules == Tree::Null {
            continue;
        }
        each(rules, &format!("PacketFilters.{name}"), |rule, at| {
            each(rule.need("SrcIPs", at)?, at, |source, at| range(source, at, true))?;
            let network = rule.get("DstPorts").is_some() || rule.get("IPProto").is_some();
            match (network, rule.get("CapGrant")) {
                (true, None) => each(rule.need("DstPorts", at)?, at, |target, at| {
                    range(target.need("IP", at)?, at, false)?;
                    let ports = target.need("Ports", at)?;
                    let (first, last) = (ports.need("First", at)?.number(), ports.need("Last", at)?.number());
                    match (first, last) {
                        (Some(first), Some(last)) if 0.0 <= first && first <= last && last <= 65535.0 => Ok(()),
                        _ => Err(bad(at, "has a wrong range of ports")),
                    }
                }),
                (false, Some(grants)) => each(grants, at, |grant, at| {
                    prefixes(grant.need("Dsts", at)?, at)?;
                    grant.need("CapMap", at).map(drop)
                }),
                _ => Err(bad(at, "is not a rule of exactly one kind")),
            }
        })?;
    }
    Ok(())
}

fn check_profile(profile: &Tree, at: &str) -> Checked {
    profile.need("ID", at)?.id().ok_or_else(|| bad(at, "has no id"))?;
    for field in ["LoginName", "DisplayName"] {
        profile.need(field, at)?.text().ok_or_else(|| bad(at, "has no name"))?;
    }
    let picture = profile.get("ProfilePicURL").map(|url| url.text().is_some_and(crate::profiles::is_web_url));
    if picture == Some(false) { Err(bad(at, "has a picture that is no URL")) } else { Ok(()) }
}

fn check_ping(ping: &Tree) -> Checked {
    let at = "PingRequest";
    ping.need("URLIsNoise", at)?.flag(at)?;
    ping.need("Types", at)?.text().ok_or_else(|| bad(at, "has no types"))?;
    let url = ping.need("URL", at)?.text().unwrap_or_default();
    if url.starts_with("https://") || url.starts_with("http://") { Ok(()) } else { Err(bad(at, "has no absolute URL")) }
}

/// Addresses as filters name them.
fn range(value: &Tree, at: &str, source: bool) -> Checked {
    let text = value.text().unwrap_or_default();
    let good = text == "*"
        || text.parse::<IpAddr>().is_ok()
        || text.parse::<IpNet>().is_ok_and(|prefix| prefix.trunc() == prefix)
        || text.split_once('-').is_some_and(|(a, b)| {
            matches!((a.parse::<IpAddr>(), b.parse::<IpAddr>()), (Ok(a), Ok(b)) if a <= b && a.is_ipv4() == b.is_ipv4())
        })
        || (source && text.strip_prefix("cap:").is_some_and(|cap| !cap.is_empty()));
    if good { Ok(()) } else { Err(bad(at, format!("{text:?} is no range of addresses"))) }
}

fn prefixes(list: &Tree, at: &str) -> Result<Vec<IpNet>, Violation> {
    let mut prefixes = Vec::new();
    each(list, at, |one, at| {
        let prefix = one.text().and_then(|text| text.parse::<IpNet>().ok()).filter(|prefix| prefix.trunc() == *prefix);
        prefixes.push(prefix.ok_or_else(|| bad(at, "is not a prefix without host bits"))?);
        Ok(())
    })?;
    Ok(prefixes)
}

fn endpoints(list: &Tree, at: &str) -> Checked {
    each(list, at, |one, at| match one.text().and_then(|text| text.parse::<SocketAddr>().ok()) {
        Some(SocketAddr::V6(v6)) if v6.ip().is_unicast_link_local() => Err(bad(at, "is of no use outside its link")),
        Some(_) => Ok(()),
        None => Err(bad(at, "is not an address with a port")),
    })
}

fn address<A: std::str::FromStr>(value: Option<&Tree>, at: &str) -> Checked {
    let Some(value) = value else { return Ok(()) };
    let text = value.text().ok_or_else(|| bad(at, "has an address that is no text"))?;
    let good = text.is_empty() || text == "none" || text.parse::<A>().is_ok();
    if good { Ok(()) } else { Err(bad(at, "has a wrong address")) }
}

fn key(value: &Tree, prefix: &str, at: &str) -> Checked {
    let digits = value.text().and_then(|text| text.strip_prefix(prefix)).and_then(|text| text.strip_prefix(':'));
    let lower_hex =
        |digits: &&str| digits.len() == 64 && digits.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    match digits.filter(lower_hex) {
        Some(digits) if digits.bytes().any(|b| b != b'0') => Ok(()),
        _ => Err(bad(at, format!("has no {prefix}"))),
    }
}

fn each(list: &Tree, at: &str, mut check: impl FnMut(&Tree, &str) -> Checked) -> Checked {
    let Tree::List(list) = list else { return Err(bad(at, "is not a list")) };
    list.iter().enumerate().try_for_each(|(place, one)| check(one, &format!("{at}[{place}]")))
}

fn not_empty(list: &Tree, at: &str) -> Checked {
    if *list == Tree::List(Vec::new()) { Err(bad(at, "is empty, which clients read differently")) } else { Ok(()) }
}

fn not_empty_and_sorted(list: &Tree, at: &str, field: &str) -> Checked {
    not_empty(list, at)?;
    let Tree::List(list) = list else { return Ok(()) };
    let ids: Vec<_> = list.iter().filter_map(|one| one.get(field).and_then(Tree::id)).collect();
    let sorted = ids.len() == list.len() && ids.is_sorted_by(|a, b| a < b);
    if sorted { Ok(()) } else { Err(bad(at, "is not in the order of ids, each once")) }
}

/// Whether strings must stand unescaped.
#[derive(Clone, Copy, PartialEq)]
enum Borrow {
    Always,
    /// Rust clients skip these parts.
    Free,
}

/// No `null` but where both readers expect it, no escapes where one borrows, no key twice.
fn text_and_nulls(tree: &Tree, at: &str, borrow: Borrow) -> Checked {
    match tree {
        Tree::Null => Err(bad(at, "is null")),
        Tree::Text(Cow::Owned(_)) if borrow == Borrow::Always => Err(bad(at, "is written with escapes")),
        Tree::List(list) => list.iter().try_for_each(|one| text_and_nulls(one, at, borrow)),
        Tree::Map(fields) => {
            let mut seen = BTreeSet::new();
            for (name, value) in fields {
                if !seen.insert(name) {
                    return Err(bad(at, format!("has {name} twice")));
                }
                if borrow == Borrow::Always && matches!(name, Cow::Owned(_)) {
                    return Err(bad(at, "has a key written with escapes"));
                }
                let nullable =
                    ["CapMap", "PacketFilters", "Routes", "DisplayMessages"].iter().any(|end| at.ends_with(end));
                if nullable && *value == Tree::Null {
                    continue;
                }
                let free = ["Hostinfo", "SSHPolicy", "Health", "DisplayMessages"].contains(&&**name);
                let inside = if free { Borrow::Free } else { borrow };
                text_and_nulls(value, &format!("{at}.{name}"), inside)?;
            }
            Ok(())
        }
        _ => Ok(()),
    }
}

fn bad(at: &str, why: impl fmt::Display) -> Violation {
    Violation { at: at.to_owned(), why: why.to_string() }
}

/// JSON as a reader that borrows sees it: a text is borrowed exactly when it was written without escapes.
#[derive(Clone, Debug, PartialEq)]
enum Tree<'a> {
    Null,
    Bool(bool),
    Whole(u64),
    Number(f64),
    Text(Cow<'a, str>),
    List(Vec<Tree<'a>>),
    Map(Vec<(Cow<'a, str>, Tree<'a>)>),
}

impl<'a> Tree<'a> {
    fn get(&self, name: &str) -> Option<&Tree<'a>> {
        let Tree::Map(fields) = self else { return None };
        fields.iter().find(|(key, _)| key == name).map(|(_, value)| value)
    }

    fn need(&self, name: &str, at: &str) -> Result<&Tree<'a>, Violation> {
        self.get(name).ok_or_else(|| bad(at, format!("lacks {name}")))
    }

    fn text(&self) -> Option<&str> {
        if let Tree::Text(text) = self { Some(text) } else { None }
    }

    /// Ids survive every JSON reader below 2^53.
    fn id(&self) -> Option<u64> {
        if let Tree::Whole(id) = self { Some(*id).filter(|id| *id < 1 << 53) } else { None }
    }

    fn number(&self) -> Option<f64> {
        match self {
            Tree::Whole(number) => Some(*number as f64),
            Tree::Number(number) => Some(*number),
            _ => None,
        }
    }

    fn positive(&self, at: &str) -> Checked {
        self.id().filter(|number| *number > 0).map(drop).ok_or_else(|| bad(at, "has a number that is not positive"))
    }

    fn flag(&self, at: &str) -> Checked {
        if matches!(self, Tree::Bool(_)) { Ok(()) } else { Err(bad(at, "is not true or false")) }
    }

    fn time(&self, at: &str) -> Checked {
        self.text().and_then(tailcfg::Time::parse).map(drop).ok_or_else(|| bad(at, "is not an RFC 3339 time"))
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Tree<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Tree<'a>, D::Error> {
        deserializer.deserialize_any(TreeVisitor)
    }
}

struct TreeVisitor;

impl<'de> Visitor<'de> for TreeVisitor {
    type Value = Tree<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Tree<'de>, E> {
        Ok(Tree::Null)
    }

    fn visit_bool<E>(self, flag: bool) -> Result<Tree<'de>, E> {
        Ok(Tree::Bool(flag))
    }

    fn visit_u64<E>(self, number: u64) -> Result<Tree<'de>, E> {
        Ok(Tree::Whole(number))
    }

    fn visit_i64<E>(self, number: i64) -> Result<Tree<'de>, E> {
        Ok(Tree::Number(number as f64))
    }

    fn visit_f64<E>(self, number: f64) -> Result<Tree<'de>, E> {
        Ok(Tree::Number(number))
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Tree<'de>, E> {
        Ok(Tree::Text(Cow::Borrowed(text)))
    }

    fn visit_str<E>(self, text: &str) -> Result<Tree<'de>, E> {
        Ok(Tree::Text(Cow::Owned(text.to_owned())))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Tree<'de>, A::Error> {
        let mut list = Vec::new();
        while let Some(one) = seq.next_element()? {
            list.push(one);
        }
        Ok(Tree::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Tree<'de>, A::Error> {
        let mut fields = Vec::new();
        while let Some((Tree::Text(key), value)) = map.next_entry::<Tree, Tree>()? {
            fields.push((key, value));
        }
        Ok(Tree::Map(fields))
    }
}

#[cfg(test)]
mod tests {
    use super::check;

    fn refused(frame: &str) -> String {
        check(frame.as_bytes()).expect_err(frame).to_string()
    }

    #[test]
    fn what_kills_a_stream_is_found() {
        let time = r#""ControlTime":"2026-09-01T00:00:00Z""#;
        assert_eq!(check(format!("{{{time}}}").as_bytes()), Ok(()));
        assert_eq!(check(br#"{"KeepAlive":true}"#), Ok(()));
        for (page, why) in [
            (r#""Peers":null"#, "null"),
            (r#""Peers":[]"#, "empty"),
            (r#""PeersRemoved":[]"#, "empty"),
            (r#""Domain":"a\u0062c""#, "escapes"),
            (r#""Domain":"a","Domain":"b""#, "twice"),
            (r#""CollectServices":"false""#, "not true or false"),
            (r#""PeersChangedPatch":[{"NodeID":1}]"#, "changes nothing"),
            (r#""PeersChangedPatch":[{"NodeID":1,"Name":"x"}]"#, "cannot be patched"),
            (r#""PeersChangedPatch":[{"NodeID":1,"DERPRegion":0}]"#, "not positive"),
            (r#""PeersChangedPatch":[{"NodeID":2,"Online":true},{"NodeID":1,"Online":true}]"#, "order"),
            (r#""PacketFilters":{"base":[{"SrcIPs":["*"]}]}"#, "one kind"),
            (r#""PacketFilters":{"base":[{"SrcIPs":["10.0.0.1/8"],"DstPorts":[]}]}"#, "range"),
            (r#""UserProfiles":[{"ID":1,"LoginName":"a","DisplayName":"a","ProfilePicURL":"x"}]"#, "URL"),
            (r#""PingRequest":{"URL":"https://unused/x","URLIsNoise":true}"#, "Types"),
            (r#""ControlDialPlan":{"Candidates":[{"IP":"1.1.1.1","DialTimeoutSec":0}]}"#, "no time"),
            (r#""Seq":1"#, "not a page"),
        ] {
            let found = refused(&format!("{{{page},{time}}}"));
            assert!(found.contains(why), "{page}: {found}");
        }
        assert!(refused("{}").contains("ControlTime"));
        assert!(refused(&format!("{{{time}}} ")).contains("around"));
        assert!(refused(&format!("{{{time}}}{{}}")).contains("trailing"));
        assert!(refused(r#"{"KeepAlive":true,"Domain":"a"}"#).contains("keep-alive"));
        assert!(check(format!(r#"{{"PacketFilters":{{"*":null}},{time}}}"#).as_bytes()).is_ok());
    }
}
