//! `policy preview`: what each node of a scenario would be told. Asks no server.

use netmap::preview::Scenario;
use serde_json::json;

use state_machine::codes;

use crate::cli::{
    output::{Format, Output},
    problem::{Problem, exit},
};

/// Writes what nodes would be told, or why the policy is refused; the exit code.
pub fn preview(scenario: &str, output: &Output) -> Result<i32, Problem> {
    let wrong = |error| Problem::of(&codes::SCENARIO_WRONG, format!("this is no scenario: {error}; see --help"));
    let scenario: Scenario = serde_json::from_str(scenario).map_err(wrong)?;
    let (answer, code) = match netmap::preview::preview(&scenario) {
        Ok(nodes) => (json!({ "accepted": true, "nodes": nodes }), exit::OK),
        Err(rejection) => (json!({ "accepted": false, "message": rejection.to_string() }), exit::FAILED),
    };
    // Keys are those of the wire, and stay as they are.
    let text = match output.format {
        Format::JsonLine => serde_json::to_string(&answer).map_err(|error| error.to_string()),
        Format::Yaml => serde_yaml_ng::to_string(&answer).map_err(|error| error.to_string()),
        _ => serde_json::to_string_pretty(&answer).map_err(|error| error.to_string()),
    };
    let text = text.map_err(|why| Problem::of(&codes::OUTPUT_BROKEN, why))?;
    output.write(&format!("{}\n", text.trim_end()))?;
    Ok(code)
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn previewed(policy: &str) -> (i32, Value) {
        let scenario = json!({
            "policy": policy,
            "users": [{"id": 1, "name": "ann", "email": "ann@example.com"}],
            "nodes": {
                "laptop": {"user": "ann", "ipv4": "100.64.0.1", "ipv6": "fd7a:115c:a1e0::1"},
                "web": {"user": null, "tags": ["tag:web"], "ipv4": "100.64.0.2", "ipv6": "fd7a:115c:a1e0::2"},
            },
        });
        let (output, text) = Output::captured(Format::Json);
        let code = preview(&scenario.to_string(), &output).unwrap();
        let text = text.lock().unwrap().clone();
        (code, serde_json::from_str(&text).unwrap())
    }

    #[test]
    fn nodes_are_shown_in_the_words_of_the_wire() {
        let policy =
            r#"{"tagOwners": {"tag:web": []}, "acls": [{"action": "accept", "src": ["ann@"], "dst": ["tag:web:22"]}]}"#;
        let (code, answer) = previewed(policy);
        assert_eq!(code, exit::OK);
        let rule = &answer["nodes"]["web"]["packet_filter"][0];
        assert_eq!(rule["SrcIPs"], json!(["100.64.0.1", "fd7a:115c:a1e0::1"]));
        assert_eq!(rule["DstPorts"][0], json!({"IP": "100.64.0.2", "Ports": {"First": 22, "Last": 22}}));
        assert_eq!(answer["nodes"]["laptop"]["peers"]["web"]["allowed_ips"][0], "100.64.0.2/32");
    }

    #[test]
    fn refusals_fail() {
        let (code, answer) = previewed("{\"acls\": [{}]}");
        assert_eq!((code, &answer["accepted"]), (exit::FAILED, &json!(false)));
        assert!(answer["message"].as_str().unwrap().contains("is not supported"));
        assert!(preview("{", &Output::captured(Format::Json).0).is_err());
    }
}
