//! The operations of the API, one a row: Headscale's here, ours and Tailscale's in files of their own.

mod cluster;
mod v2;

/// All of them.
pub fn all() -> impl Iterator<Item = &'static Operation> {
    OPERATIONS.iter().chain(cluster::OPERATIONS).chain(v2::OPERATIONS)
}

/// One method at one path.
pub struct Operation {
    pub method: &'static str,
    pub path: &'static str,
    /// The name gRPC has for it, so that generated clients are called alike.
    pub id: &'static str,
    pub summary: &'static str,
    /// Name and JSON type.
    pub query: &'static [(&'static str, &'static str)],
    /// Name and type: an object of `objects`, `[]` behind it for lists.
    pub body: &'static [(&'static str, &'static str)],
    /// Field and type; both empty for `{}`, `.` when the object is the reply itself.
    pub reply: (&'static str, &'static str),
}

impl Operation {
    /// The noun it belongs to.
    pub fn tag(&self) -> &'static str {
        match self.family() {
            Family::Headscale => self.path.trim_start_matches("/api/v1/").split('/').next().unwrap_or_default(),
            Family::Cluster => "cluster",
            Family::Tailscale => "tailscale",
        }
    }

    /// Whose operation it is.
    pub fn family(&self) -> Family {
        match self.path {
            path if path.starts_with("/api/v1/cluster/") => Family::Cluster,
            path if path.starts_with("/api/v2/") => Family::Tailscale,
            _ => Family::Headscale,
        }
    }

    /// Names in the path.
    pub fn path_names(&self) -> impl Iterator<Item = &'static str> + use<> {
        self.path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'))
    }
}

/// Whose operations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    Headscale,
    Cluster,
    Tailscale,
}

type Fields = &'static [(&'static str, &'static str)];

const fn row(
    method: &'static str,
    path: &'static str,
    id: &'static str,
    summary: &'static str,
    query: Fields,
    body: Fields,
    reply: (&'static str, &'static str),
) -> Operation {
    Operation { method, path, id, summary, query, body, reply }
}

const NONE: (&str, &str) = ("", "");
const USER: (&str, &str) = ("user", "User");
const NODE: (&str, &str) = ("node", "Node");
const TAGS: Fields = &[("tags", "string[]")];
const USER_AND_KEY: Fields = &[("user", "string"), ("key", "string")];

/// Headscale's.
#[rustfmt::skip]
pub const OPERATIONS: &[Operation] = &[
    row("GET", "/api/v1/user", "ListUsers", "Users, or those with this name, email or id", &[("name", "string"), ("email", "string"), ("id", "string")], &[], ("users", "User[]")),
    row("POST", "/api/v1/user", "CreateUser", "Make a user", &[], &[("name", "string"), ("displayName", "string"), ("email", "string"), ("pictureUrl", "string")], USER),
    row("POST", "/api/v1/user/{oldId}/rename/{newName}", "RenameUser", "Give a user another name", &[], &[], USER),
    row("DELETE", "/api/v1/user/{id}", "DeleteUser", "Delete a user that has no nodes", &[], &[], NONE),

    row("GET", "/api/v1/preauthkey", "ListPreAuthKeys", "Pre-auth keys, masked", &[("user", "string")], &[], ("preAuthKeys", "PreAuthKey[]")),
    row("POST", "/api/v1/preauthkey", "CreatePreAuthKey", "Make a pre-auth key; it is shown this once", &[], &[("user", "string"), ("reusable", "boolean"), ("ephemeral", "boolean"), ("expiration", "moment"), ("aclTags", "string[]")], ("preAuthKey", "PreAuthKey")),
    row("POST", "/api/v1/preauthkey/expire", "ExpirePreAuthKey", "End a pre-auth key now", &[], &[("id", "id")], NONE),
    row("DELETE", "/api/v1/preauthkey", "DeletePreAuthKey", "Delete a pre-auth key", &[("id", "string")], &[], NONE),

    row("GET", "/api/v1/node", "ListNodes", "Nodes, or those of one user; with limit a page, whose next is where the following one begins", &[("user", "string"), ("limit", "count"), ("after", "integer")], &[], ("nodes", "Node[]")),
    row("GET", "/api/v1/node/{nodeId}", "GetNode", "One node, by id or name", &[], &[], NODE),
    row("DELETE", "/api/v1/node/{nodeId}", "DeleteNode", "Delete a node", &[], &[], NONE),
    row("POST", "/api/v1/node/{nodeId}/tags", "SetTags", "Give a node to tags, replacing those it has", &[], TAGS, NODE),
    row("POST", "/api/v1/node/{nodeId}/approve_routes", "SetApprovedRoutes", "Approve routes, replacing those approved", &[], &[("routes", "string[]")], NODE),
    row("POST", "/api/v1/node/{nodeId}/expire", "ExpireNode", "End a node's key: now, at a moment, or never", &[("expiry", "string"), ("disableExpiry", "boolean")], &[("expiry", "moment"), ("disableExpiry", "boolean")], NODE),
    row("POST", "/api/v1/node/{nodeId}/rename/{newName}", "RenameNode", "Give a node another name", &[], &[], NODE),
    row("POST", "/api/v1/node/{nodeId}/user", "MoveNode", "Give a node to another user", &[("user", "string")], &[("user", "string")], NODE),
    row("POST", "/api/v1/node/register", "RegisterNode", "Let in a node that waits", &[("user", "string"), ("key", "string")], USER_AND_KEY, NODE),
    row("POST", "/api/v1/node/backfillips", "BackfillNodeIPs", "Give addresses to nodes that lack one", &[("confirmed", "boolean")], &[], ("changes", "string[]")),
    row("POST", "/api/v1/debug/node", "DebugCreateNode", "A login under this key, as if a client had begun it", &[], &[("user", "string"), ("key", "string"), ("name", "string"), ("routes", "string[]")], NODE),

    row("POST", "/api/v1/auth/register", "AuthRegister", "Let in a node that waits", &[], &[("user", "string"), ("authId", "string")], NODE),
    row("POST", "/api/v1/auth/approve", "AuthApprove", "Say yes to a request that needs no owner", &[], &[("authId", "string")], NONE),
    row("POST", "/api/v1/auth/reject", "AuthReject", "Turn a waiting request away", &[], &[("authId", "string")], NONE),

    row("GET", "/api/v1/apikey", "ListApiKeys", "API keys, without their secrets", &[], &[], ("apiKeys", "ApiKey[]")),
    row("POST", "/api/v1/apikey", "CreateApiKey", "Make an API key; it is shown this once", &[], &[("expiration", "moment"), ("role", "string"), ("user", "string")], ("apiKey", "string")),
    row("POST", "/api/v1/apikey/expire", "ExpireApiKey", "End an API key now: by prefix or by id", &[], &[("prefix", "string"), ("id", "id")], NONE),
    row("DELETE", "/api/v1/apikey/{prefix}", "DeleteApiKey", "Delete an API key: by prefix, or by id with the prefix -", &[("id", "string")], &[], NONE),

    row("GET", "/api/v1/policy", "GetPolicy", "The policy in force", &[], &[], (".", "Policy")),
    row("PUT", "/api/v1/policy", "SetPolicy", "Put another policy in force", &[], &[("policy", "string")], (".", "Policy")),
    row("POST", "/api/v1/policy/check", "CheckPolicy", "Whether this policy would be taken", &[], &[("policy", "string")], NONE),

    row("GET", "/api/v1/policy/history", "PolicyHistory", "Policies that were in force, newest first", &[("text", "boolean")], &[], ("history", "object[]")),

    row("GET", "/api/v1/health", "Health", "Whether this member can read current state", &[], &[], ("databaseConnectivity", "boolean")),
];
