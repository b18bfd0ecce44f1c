//! Spans, lists and records as configuration files write them.

use std::{collections::BTreeMap, time::Duration};

use serde::Deserialize;
use serde_yaml_ng::Value;
use state_machine::{DerpNode, DerpRegion, DnsRecord};

use crate::options::Regions;

/// Go and Prometheus spans: numbers with units from `ns` to `y`, one after the other; a bare `0` is zero.
pub fn span(text: &str) -> Option<Duration> {
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let mut rest = text;
    let mut total = 0f64;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..digits].parse().ok()?;
        let after = &rest[digits..];
        let letters = after.find(|c: char| c.is_ascii_digit()).unwrap_or(after.len());
        let secs = match &after[..letters] {
            "ns" => 1e-9,
            "us" | "µs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3_600.0,
            "d" => 86_400.0,
            "w" => 604_800.0,
            "y" => 31_536_000.0,
            _ => return None,
        };
        total += number * secs;
        rest = &after[letters..];
    }
    if text.is_empty() { None } else { Duration::try_from_secs_f64(total).ok() }
}

/// A list of texts, or one text split at blanks and commas.
pub fn texts(value: &Value) -> Option<Vec<String>> {
    match value {
        Value::Sequence(items) => items
            .iter()
            .map(|item| match item {
                Value::String(text) => Some(text.trim().to_owned()),
                Value::Number(number) => Some(number.to_string()),
                _ => None,
            })
            .collect(),
        Value::String(text) => {
            Some(text.split([' ', ',', '\n', '\t']).filter(|word| !word.is_empty()).map(ToOwned::to_owned).collect())
        }
        Value::Null => Some(Vec::new()),
        _ => None,
    }
}

/// `dns.extra_records`: `{name, type, value}`. Types clients cannot answer are left out and returned as second.
pub fn records(value: &Value) -> Result<(Vec<DnsRecord>, Vec<String>), String> {
    let Value::Sequence(items) = value else { return Err("must be a list of {name, type, value}".to_owned()) };
    let mut records = Vec::new();
    let mut left_out = Vec::new();
    for (nth, item) in items.iter().enumerate() {
        let field = |name: &str| item.get(name).and_then(Value::as_str).map(|text| text.trim().to_owned());
        let (Some(name), Some(text)) = (field("name"), field("value")) else {
            return Err(format!("entry {} needs name and value", nth + 1));
        };
        let kind = field("type").filter(|kind| !kind.is_empty());
        match (kind.as_deref().unwrap_or("A"), text.parse::<std::net::IpAddr>()) {
            ("A", Ok(value)) if value.is_ipv4() => records.push(DnsRecord { name, kind: "A".to_owned(), value }),
            ("A", Ok(value)) if kind.is_none() => records.push(DnsRecord { name, kind: "AAAA".to_owned(), value }),
            ("AAAA", Ok(value)) if value.is_ipv6() => {
                records.push(DnsRecord { name, kind: "AAAA".to_owned(), value });
            }
            ("A" | "AAAA", _) => return Err(format!("entry {}: {text:?} is not an address of its type", nth + 1)),
            (kind, _) => left_out.push(format!("{name} ({kind})")),
        }
    }
    Ok((records, left_out))
}

/// A DERP map in Headscale's spelling (`regions: {900: {regionid, regioncode, regionname, nodes: […]}}`) or in
/// Tailscale's (`{"Regions": {"900": {"RegionID": 900, …}}}`): letters count as small ones, JSON is YAML.
pub fn derp_map(text: &str) -> Result<Regions, String> {
    #[derive(Deserialize)]
    struct Map {
        #[serde(default)]
        regions: BTreeMap<u32, Option<Region>>,
    }
    #[derive(Deserialize)]
    struct Region {
        #[serde(default)]
        regioncode: String,
        #[serde(default)]
        regionname: String,
        #[serde(default)]
        nodes: Vec<Node>,
    }
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Node {
        name: String,
        hostname: String,
        certname: String,
        ipv4: String,
        ipv6: String,
        stunport: i32,
        stunonly: bool,
        derpport: u16,
        canport80: bool,
        insecurefortests: bool,
    }
    let value: Value = serde_yaml_ng::from_str(text).map_err(|error| error.to_string())?;
    let map: Map = serde_yaml_ng::from_value(small_keys(value)).map_err(|error| error.to_string())?;
    let region = |(id, region): (u32, Option<Region>)| {
        if !(1..=65_535).contains(&id) {
            return Err(format!("region id {id} must lie between 1 and 65535"));
        }
        let region = region.map(|region| DerpRegion {
            id,
            code: region.regioncode,
            name: region.regionname,
            nodes: region
                .nodes
                .into_iter()
                .map(|node| DerpNode {
                    name: node.name,
                    host_name: node.hostname,
                    cert_name: node.certname,
                    ipv4: node.ipv4,
                    ipv6: node.ipv6,
                    derp_port: node.derpport,
                    stun_port: node.stunport,
                    stun_only: node.stunonly,
                    can_port_80: node.canport80,
                    insecure_for_tests: node.insecurefortests,
                })
                .collect(),
        });
        Ok((id, region))
    };
    map.regions.into_iter().map(region).collect()
}

/// Keys in small letters; numbers as keys stay numbers, and texts that are numbers become such (JSON has no others).
fn small_keys(value: Value) -> Value {
    match value {
        Value::Mapping(mapping) => Value::Mapping(
            mapping
                .into_iter()
                .map(|(key, value)| {
                    let key = match key {
                        Value::String(text) => match text.parse::<u32>() {
                            Ok(number) => Value::Number(number.into()),
                            Err(_) => Value::String(text.to_lowercase()),
                        },
                        key => key,
                    };
                    (key, small_keys(value))
                })
                .collect(),
        ),
        Value::Sequence(items) => Value::Sequence(items.into_iter().map(small_keys).collect()),
        value => value,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_are_read_in_both_spellings() {
        let ours = "regions:\n  7: {regionid: 7, regioncode: x, nodes: [{name: 7a, hostname: h, derpport: 8443}]}\n  8: null\n";
        let theirs = r#"{"Regions": {"7": {"RegionID": 7, "RegionCode": "x", "Latitude": 1.5, "Nodes":
            [{"Name": "7a", "RegionID": 7, "HostName": "h", "DERPPort": 8443}]}, "8": null}}"#;
        let map = derp_map(ours).unwrap();
        assert_eq!(map, derp_map(theirs).unwrap());
        assert_eq!(map[&7].as_ref().unwrap().nodes[0].derp_port, 8443);
        assert_eq!(map[&8], None);
        for bad in ["[", "regions: {0: {}}", "regions: {70000: {}}", "regions: 7", "<html>"] {
            assert!(derp_map(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn spans() {
        for (text, secs) in [
            ("0", Some(0.0)),
            ("90s", Some(90.0)),
            ("1h30m", Some(5400.0)),
            ("1.5h", Some(5400.0)),
            ("800ms", Some(0.8)),
            ("180d", Some(15_552_000.0)),
            ("1y", Some(31_536_000.0)),
            ("", None),
            ("5", None),
            ("5 apples", None),
            ("h", None),
            ("..s", None),
        ] {
            assert_eq!(span(text).map(|span| span.as_secs_f64()), secs, "{text}");
        }
    }

    #[test]
    fn lists_come_from_files_and_variables() {
        let list: Value = serde_yaml_ng::from_str("[1.1.1.1, 'https://dns.example/x']").unwrap();
        assert_eq!(texts(&list).unwrap(), ["1.1.1.1", "https://dns.example/x"]);
        assert_eq!(texts(&Value::String("a b,c".to_owned())).unwrap(), ["a", "b", "c"]);
        assert_eq!(texts(&Value::Bool(true)), None);
    }

    #[test]
    fn only_addresses_are_answered() {
        let value: Value = serde_yaml_ng::from_str(
            "[{name: a.x, type: A, value: 100.64.0.3}, {name: b.x, value: 'fd7a::1'}, {name: c.x, type: CNAME, value: d}]",
        )
        .unwrap();
        let (records, left_out) = super::records(&value).unwrap();
        assert_eq!(records.len(), 2);
        assert_eq!(records[1].kind, "AAAA");
        assert_eq!(left_out, ["c.x (CNAME)"]);
        let bad: Value = serde_yaml_ng::from_str("[{name: a.x, type: A, value: 'fd7a::1'}]").unwrap();
        assert!(super::records(&bad).is_err());
    }
}
