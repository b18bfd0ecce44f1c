//! Ports and protocols.

use std::fmt;

/// From first to last, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ports {
    pub first: u16,
    pub last: u16,
}

impl Ports {
    /// Every port.
    pub const ALL: Ports = Ports { first: 0, last: u16::MAX };

    pub fn contains(self, port: u16) -> bool {
        (self.first..=self.last).contains(&port)
    }
}

impl fmt::Display for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (*self, self.first == self.last) {
            (Ports::ALL, _) => f.write_str("*"),
            (_, true) => write!(f, "{}", self.first),
            _ => write!(f, "{}-{}", self.first, self.last),
        }
    }
}

/// `*`, `22`, `80-90`, or several with commas.
pub(crate) fn parse_list(text: &str) -> Result<Vec<Ports>, String> {
    text.split(',').map(|part| parse_range(part.trim())).collect()
}

fn parse_range(text: &str) -> Result<Ports, String> {
    if text == "*" {
        return Ok(Ports::ALL);
    }
    let wrong = |what: &str| format!("port range {text:?}: {what}");
    let (first, last) = match text.split_once('-') {
        Some((first, last)) => (first, Some(last)),
        None => (text, None),
    };
    let number = |text: &str, which: &str| {
        let digits = !text.is_empty() && text.bytes().all(|c| c.is_ascii_digit());
        let number = text.parse::<u64>().ok().filter(|_| digits);
        number.ok_or_else(|| wrong(&format!("invalid {which} integer")))
    };
    let first = number(first, "first")?;
    let last = last.map_or(Ok(first), |last| number(last, "last"))?;
    if first == 0 {
        return Err(wrong("first port must be >0, or use '*' for wildcard"));
    }
    if first > u64::from(u16::MAX) || last > u64::from(u16::MAX) {
        return Err(wrong("ports end at 65535"));
    }
    if last < first {
        return Err(wrong("first port must be less than or equal to last port"));
    }
    Ok(Ports { first: first as u16, last: last as u16 })
}

/// IANA protocol numbers by the names policies use.
const PROTOCOLS: [(&str, u8); 16] = [
    ("icmp", 1),
    ("igmp", 2),
    ("ipv4", 4),
    ("ip-in-ip", 4),
    ("tcp", 6),
    ("egp", 8),
    ("igp", 9),
    ("udp", 17),
    ("dccp", 33),
    ("gre", 47),
    ("esp", 50),
    ("ah", 51),
    ("ipv6-icmp", 58),
    ("icmpv6", 58),
    ("sctp", 132),
    ("fc", 133),
];

/// Protocols that have ports.
pub(crate) const WITH_PORTS: [u8; 3] = [6, 17, 132];

/// What a rule without a protocol lets through: TCP, UDP and both ICMPs (`filter.MatchesFromFilterRules`).
pub const DEFAULT_PROTOCOLS: [u8; 4] = [6, 17, 1, 58];

/// The number of a protocol; `None` for the default set.
pub(crate) fn parse_protocol(text: &str) -> Result<Option<u8>, String> {
    let name = text.trim();
    if name.is_empty() || name == "*" {
        return Ok(None);
    }
    let known = PROTOCOLS.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, number)| *number);
    let digits = name.bytes().all(|c| c.is_ascii_digit()) && (name.len() == 1 || !name.starts_with('0'));
    match known.or_else(|| name.parse().ok().filter(|_| digits)) {
        Some(number) => Ok(Some(number)),
        None => Err(format!("unknown protocol {text:?}")),
    }
}

/// The name of a protocol, for people.
pub fn protocol_name(number: u8) -> String {
    let known = PROTOCOLS.iter().find(|(_, known)| *known == number);
    known.map_or_else(|| number.to_string(), |(name, _)| (*name).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges() {
        let range = |first, last| Ports { first, last };
        assert_eq!(parse_list("22,80-443, *").unwrap(), [range(22, 22), range(80, 443), Ports::ALL]);
        let complaint = |text| parse_list(text).unwrap_err();
        assert_eq!(complaint("ssh"), "port range \"ssh\": invalid first integer");
        assert_eq!(complaint("0"), "port range \"0\": first port must be >0, or use '*' for wildcard");
        assert_eq!(complaint("-1"), "port range \"-1\": invalid first integer");
        assert_eq!(complaint("1-x"), "port range \"1-x\": invalid last integer");
        assert!(complaint("9-1").contains("less than") && complaint("1-99999").contains("65535"));
        assert!(parse_list("").is_err() && parse_list("1,").is_err());
    }

    #[test]
    fn protocols() {
        assert_eq!(parse_protocol("").unwrap(), None);
        assert_eq!(parse_protocol("TCP").unwrap(), Some(6));
        assert_eq!(parse_protocol("47").unwrap(), Some(47));
        assert!(parse_protocol("256").is_err() && parse_protocol("tpc").is_err() && parse_protocol("047").is_err());
    }
}
