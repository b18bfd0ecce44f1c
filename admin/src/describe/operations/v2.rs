//! Tailscale's, as far as a cluster has them.

use super::{NONE, Operation, row};

const REPLY: (&str, &str) = (".", "object");

/// All of them.
#[rustfmt::skip]
pub const OPERATIONS: &[Operation] = &[
    row("POST", "/api/v2/oauth/token", "CreateAccessToken", "Client credentials for a token of an hour (a form: client_id, client_secret, scope)", &[], &[], REPLY),
    row("GET", "/api/v2/tailnet/{tailnet}/keys", "V2ListKeys", "Keys for nodes, OAuth clients, API keys, as far as the scopes reach", &[("all", "boolean")], &[], REPLY),
    row("POST", "/api/v2/tailnet/{tailnet}/keys", "V2CreateKey", "Make a key for nodes, or with keyType client an OAuth client", &[], &[("keyType", "string"), ("capabilities", "object"), ("expirySeconds", "integer"), ("description", "string"), ("scopes", "string[]"), ("tags", "string[]")], REPLY),
    row("GET", "/api/v2/tailnet/{tailnet}/keys/{keyId}", "V2GetKey", "One key, without its secret", &[], &[], REPLY),
    row("DELETE", "/api/v2/tailnet/{tailnet}/keys/{keyId}", "V2DeleteKey", "Delete a key", &[], &[], NONE),
    row("GET", "/api/v2/tailnet/{tailnet}/devices", "V2ListDevices", "Machines; any field as a filter", &[("fields", "string"), ("tags", "string"), ("hostname", "string")], &[], REPLY),
    row("GET", "/api/v2/device/{deviceId}", "V2GetDevice", "One machine", &[("fields", "string")], &[], REPLY),
    row("DELETE", "/api/v2/device/{deviceId}", "V2DeleteDevice", "Delete a machine", &[], &[], NONE),
    row("POST", "/api/v2/device/{deviceId}/authorized", "V2AuthorizeDevice", "Let a machine in", &[], &[("authorized", "boolean")], NONE),
    row("POST", "/api/v2/device/{deviceId}/ip", "V2SetDeviceAddress", "Give a machine another address", &[], &[("ipv4", "string")], NONE),
    row("POST", "/api/v2/device/{deviceId}/name", "V2RenameDevice", "Give a machine another name", &[], &[("name", "string")], NONE),
    row("POST", "/api/v2/device/{deviceId}/tags", "V2TagDevice", "Give a machine to tags", &[], &[("tags", "string[]")], NONE),
    row("POST", "/api/v2/device/{deviceId}/key", "V2SetDeviceKey", "Whether a machine's key ends", &[], &[("keyExpiryDisabled", "boolean")], NONE),
    row("POST", "/api/v2/device/{deviceId}/expire", "V2ExpireDevice", "End a machine's key now", &[], &[], NONE),
    row("GET", "/api/v2/device/{deviceId}/routes", "V2GetDeviceRoutes", "Routes a machine offers and may serve", &[], &[], REPLY),
    row("POST", "/api/v2/device/{deviceId}/routes", "V2SetDeviceRoutes", "Routes a machine may serve", &[], &[("routes", "string[]")], REPLY),
    row("GET", "/api/v2/device/{deviceId}/attributes", "V2GetDeviceAttributes", "What is known of a machine", &[], &[], REPLY),
    row("GET", "/api/v2/tailnet/{tailnet}/acl", "V2GetPolicy", "The policy, with an ETag; application/hujson as it was written", &[], &[], REPLY),
    row("POST", "/api/v2/tailnet/{tailnet}/acl", "V2SetPolicy", "Another policy (the body itself); with If-Match only over the one that was seen", &[], &[("acls", "object[]")], REPLY),
    row("POST", "/api/v2/tailnet/{tailnet}/acl/validate", "V2ValidatePolicy", "Whether a policy, or a list of tests, would pass", &[], &[("acls", "object[]")], REPLY),
    row("GET", "/api/v2/tailnet/{tailnet}/dns/nameservers", "V2GetNameservers", "Name servers", &[], &[], REPLY),
    row("POST", "/api/v2/tailnet/{tailnet}/dns/nameservers", "V2SetNameservers", "Other name servers", &[], &[("dns", "string[]")], REPLY),
    row("GET", "/api/v2/tailnet/{tailnet}/dns/searchpaths", "V2GetSearchPaths", "Search domains", &[], &[], REPLY),
    row("POST", "/api/v2/tailnet/{tailnet}/dns/searchpaths", "V2SetSearchPaths", "Other search domains", &[], &[("searchPaths", "string[]")], REPLY),
    row("GET", "/api/v2/tailnet/{tailnet}/dns/split-dns", "V2GetSplitDns", "Domains with servers of their own", &[], &[], REPLY),
    row("PUT", "/api/v2/tailnet/{tailnet}/dns/split-dns", "V2SetSplitDns", "All of them anew", &[], &[("corp.example.com", "string[]")], REPLY),
    row("PATCH", "/api/v2/tailnet/{tailnet}/dns/split-dns", "V2ChangeSplitDns", "Some of them; null takes one away", &[], &[("corp.example.com", "string[]")], REPLY),
    row("GET", "/api/v2/tailnet/{tailnet}/dns/preferences", "V2GetDnsPreferences", "Whether machines have names", &[], &[], REPLY),
    row("POST", "/api/v2/tailnet/{tailnet}/dns/preferences", "V2SetDnsPreferences", "Whether machines shall have names", &[], &[("magicDNS", "boolean")], REPLY),
    row("GET", "/api/v2/tailnet/{tailnet}/dns/configuration", "V2GetDns", "All of DNS", &[], &[], REPLY),
    row("POST", "/api/v2/tailnet/{tailnet}/dns/configuration", "V2SetDns", "All of DNS anew", &[], &[("nameservers", "object[]"), ("splitDNS", "object"), ("searchPaths", "string[]"), ("preferences", "object")], REPLY),
    row("GET", "/api/v2/tailnet/{tailnet}/settings", "V2GetSettings", "Settings of the tailnet", &[], &[], REPLY),
    row("PATCH", "/api/v2/tailnet/{tailnet}/settings", "V2ChangeSettings", "Change them, as far as a cluster has them", &[], &[("devicesKeyDurationDays", "integer")], REPLY),
    row("GET", "/api/v2/tailnet/{tailnet}/users", "V2ListUsers", "People", &[("type", "string"), ("role", "string")], &[], REPLY),
    row("GET", "/api/v2/users/{userId}", "V2GetUser", "One of them", &[], &[], REPLY),
];
