//! Rows of ours as a SQLite file that Headscale 0.29 opens. What cannot go along is said in a sentence.

use std::path::Path;

use rusqlite::{Connection, params};
use serde_json::Value;
use state_machine::{RegisterMethod, Timestamp};

use super::Holdings;

/// The tables and indexes of release 0.29; that server compares them with its own at the start.
const SCHEMA: &str = "
CREATE TABLE migrations(id text,PRIMARY KEY(id));
CREATE TABLE users(
  id integer PRIMARY KEY AUTOINCREMENT, name text, display_name text, email text, provider_identifier text,
  provider text, profile_pic_url text, created_at datetime, updated_at datetime, deleted_at datetime
);
CREATE INDEX idx_users_deleted_at ON users(deleted_at);
CREATE UNIQUE INDEX idx_provider_identifier ON users(provider_identifier) WHERE provider_identifier IS NOT NULL;
CREATE UNIQUE INDEX idx_name_provider_identifier ON users(name, provider_identifier);
CREATE UNIQUE INDEX idx_name_no_provider_identifier ON users(name) WHERE provider_identifier IS NULL;
CREATE TABLE pre_auth_keys(
  id integer PRIMARY KEY AUTOINCREMENT, key text, prefix text, hash blob, user_id integer, reusable numeric,
  ephemeral numeric DEFAULT false, used numeric DEFAULT false, tags text, expiration datetime, created_at datetime,
  CONSTRAINT fk_pre_auth_keys_user FOREIGN KEY(user_id) REFERENCES users(id) ON DELETE SET NULL
);
CREATE UNIQUE INDEX idx_pre_auth_keys_prefix ON pre_auth_keys(prefix) WHERE prefix IS NOT NULL AND prefix != '';
CREATE TABLE api_keys(
  id integer PRIMARY KEY AUTOINCREMENT, prefix text, hash blob, expiration datetime, last_seen datetime,
  created_at datetime
);
CREATE UNIQUE INDEX idx_api_keys_prefix ON api_keys(prefix);
CREATE TABLE nodes(
  id integer PRIMARY KEY AUTOINCREMENT, machine_key text, node_key text, disco_key text, endpoints text,
  host_info text, ipv4 text, ipv6 text, hostname text, given_name varchar(63), user_id integer, register_method text,
  tags text, auth_key_id integer, last_seen datetime, expiry datetime, approved_routes text, created_at datetime,
  updated_at datetime, deleted_at datetime,
  CONSTRAINT fk_nodes_user FOREIGN KEY(user_id) REFERENCES users(id) ON DELETE CASCADE,
  CONSTRAINT fk_nodes_auth_key FOREIGN KEY(auth_key_id) REFERENCES pre_auth_keys(id)
);
CREATE TABLE policies(
  id integer PRIMARY KEY AUTOINCREMENT, data text, created_at datetime, updated_at datetime, deleted_at datetime
);
CREATE INDEX idx_policies_deleted_at ON policies(deleted_at);
CREATE TABLE database_versions(id integer PRIMARY KEY, version text NOT NULL, updated_at datetime);
";

/// What release 0.29 has done to a database before it calls it up to date.
const MIGRATIONS: &[&str] = &[
    "202501221827",
    "202501311657",
    "202502070949",
    "202502131714",
    "202502171819",
    "202505091439",
    "202505141324",
    "202507021200",
    "202510311551",
    "202511101554-drop-old-idx",
    "202511011637-preauthkey-bcrypt",
    "202511122344-remove-newline-index",
    "202511131445-node-forced-tags-to-tags",
    "202601121700-migrate-hostinfo-request-tags",
    "202602201200-clear-tagged-node-user-id",
    "202605221435-clear-zero-time-node-expiry",
    "202606181200-recover-null-tags-node-user-id",
];

/// Writes a new file, and says what could not go along.
pub fn file(path: &Path, holdings: &Holdings, now: Timestamp) -> Result<Vec<String>, String> {
    if path.exists() {
        return Err(format!("{} is there already; name a file that is not", path.display()));
    }
    let wrong = |error: rusqlite::Error| format!("cannot write {}: {error}", path.display());
    let mut connection = Connection::open(path).map_err(wrong)?;
    let transaction = connection.transaction().map_err(wrong)?;
    let left = fill(&transaction, holdings, now).map_err(wrong)?;
    transaction.commit().map_err(wrong)?;
    Ok(left)
}

fn fill(to: &Connection, holdings: &Holdings, now: Timestamp) -> rusqlite::Result<Vec<String>> {
    let mut left = Vec::new();
    to.execute_batch(SCHEMA)?;
    for migration in MIGRATIONS.iter().chain(&["SCHEMA_INIT"]) {
        to.execute("INSERT INTO migrations(id) VALUES (?1)", [migration])?;
    }
    to.execute("INSERT INTO database_versions VALUES (1, 'v0.29.2', ?1)", [now.to_string()])?;
    let rows = &holdings.rows;
    for user in &rows.users {
        if !user.ranges.is_empty() {
            left.push(format!("ranges of user {}: there all addresses come from the prefixes", user.name));
        }
        let identity = Some(&user.provider_id).filter(|identity| !identity.is_empty());
        let provider = identity.map_or("", |_| user.provider.as_str());
        to.execute(
            "INSERT INTO users(id, name, display_name, email, provider_identifier, provider, profile_pic_url, \
             created_at, updated_at) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?8)",
            params![
                user.id.0 as i64,
                user.name,
                user.display_name,
                user.email,
                identity,
                provider,
                user.profile_pic_url,
                user.created_at.to_string()
            ],
        )?;
    }
    for key in &rows.pre_auth_keys {
        if key.bcrypt.is_none() {
            left.push(format!(
                "pre-auth key {} was made here: its secret is not known, so the file has it expired; make a new one there",
                key.id
            ));
        }
        // Nodes refer to their key, so it stays, but as one that opens nothing.
        let expiration = match &key.bcrypt {
            Some(_) => key.expiration,
            None => Some(key.expiration.map_or(now, |expiration| expiration.min(now))),
        };
        to.execute(
            "INSERT INTO pre_auth_keys(id, prefix, hash, user_id, reusable, ephemeral, used, tags, expiration, \
             created_at) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
            params![
                key.id.0 as i64,
                key.prefix,
                key.bcrypt.as_ref().map(|hash| hash.as_bytes()),
                key.user.map(|user| user.0 as i64),
                key.reusable,
                key.ephemeral,
                key.used,
                json(key.tags.iter()),
                expiration.map(|moment| moment.to_string()),
                key.created_at.to_string()
            ],
        )?;
    }
    for key in &rows.api_keys {
        let Some(hash) = &key.bcrypt else {
            left.push(format!(
                "API key {} was made here: its secret is not known, so it stays; make a new one there",
                key.id
            ));
            continue;
        };
        to.execute(
            "INSERT INTO api_keys(id, prefix, hash, expiration, last_seen, created_at) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
            params![
                key.id.0 as i64,
                key.prefix,
                hash.as_bytes(),
                key.expiration.map(|moment| moment.to_string()),
                key.last_seen.map(|moment| moment.to_string()),
                key.created_at.to_string()
            ],
        )?;
    }
    for node in &rows.nodes {
        if node.unapproved {
            left.push(format!("node {} waits for an approval, which the file cannot hold: it is left out", node.id));
            continue;
        }
        // There a node belongs to a user or to its tags.
        let user = node.user.filter(|_| !node.is_tagged()).map(|user| user.0 as i64);
        let method = match node.register_method {
            RegisterMethod::AuthKey => "authkey",
            RegisterMethod::Oidc => "oidc",
            RegisterMethod::Cli => "cli",
        };
        let ephemeral_key = node.pre_auth_key.and_then(|id| rows.pre_auth_keys.iter().find(|key| key.id == id));
        if node.ephemeral && !ephemeral_key.is_some_and(|key| key.ephemeral) {
            left.push(format!(
                "node {} is ephemeral by its own wish, which the file cannot hold: it stays there",
                node.id
            ));
        }
        let raw = if node.hostinfo.raw.is_empty() { "{}" } else { &*node.hostinfo.raw };
        to.execute(
            "INSERT INTO nodes(id, machine_key, node_key, disco_key, endpoints, host_info, ipv4, ipv6, hostname, \
             given_name, user_id, register_method, tags, auth_key_id, last_seen, expiry, approved_routes, created_at, \
             updated_at) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?18)",
            params![
                node.id.0 as i64,
                node.machine_key.to_string(),
                node.node_key.to_string(),
                // Zeros where there is none: Headscale wants a key.
                node.disco_key.to_string(),
                json(node.endpoints.iter().map(|endpoint| endpoint.addr)),
                raw,
                node.ipv4.map(|address| address.to_string()),
                node.ipv6.map(|address| address.to_string()),
                node.hostname,
                node.given_name,
                user,
                method,
                json(node.tags.iter()),
                node.pre_auth_key.map(|key| key.0 as i64),
                rows.last_seen.get(&node.id).map(|moment| moment.to_string()),
                node.expiry.map(|moment| moment.to_string()),
                json(node.approved_routes.iter()),
                node.created_at.to_string()
            ],
        )?;
    }
    if let Some(policy) = &holdings.policy {
        to.execute(
            "INSERT INTO policies(data, created_at, updated_at) VALUES (?1, ?2, ?2)",
            params![policy, now.to_string()],
        )?;
    }
    Ok(left)
}

fn json(values: impl Iterator<Item = impl ToString>) -> String {
    Value::from(values.map(|value| value.to_string()).collect::<Vec<_>>()).to_string()
}
