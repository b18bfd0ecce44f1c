//! A database of Headscale as it is. Columns came and went between releases: what a database does not have is absent.

use std::{collections::BTreeMap, path::Path};

use rusqlite::{Connection, OpenFlags, types::ValueRef};

/// Everything that is taken over, in the words of the file.
#[derive(Debug, Default, PartialEq)]
pub struct Database {
    /// What the last server that opened it was.
    pub version: Option<String>,
    pub users: Vec<User>,
    pub pre_auth_keys: Vec<PreAuthKey>,
    pub api_keys: Vec<ApiKey>,
    pub nodes: Vec<Node>,
    /// Approved routes of releases before 0.26: node and prefix.
    pub routes: Vec<(i64, String)>,
    /// The newest policy.
    pub policy: Option<String>,
}

/// A row of `users`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct User {
    pub id: i64,
    pub name: String,
    pub display_name: String,
    pub email: String,
    pub provider_identifier: String,
    pub provider: String,
    pub profile_pic_url: String,
    pub created_at: String,
    pub deleted_at: String,
}

/// A row of `pre_auth_keys`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PreAuthKey {
    pub id: i64,
    pub key: String,
    pub prefix: String,
    pub hash: String,
    pub user_id: Option<i64>,
    pub reusable: bool,
    pub ephemeral: bool,
    pub used: bool,
    /// JSON.
    pub tags: String,
    pub expiration: String,
    pub created_at: String,
}

/// A row of `api_keys`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ApiKey {
    pub id: i64,
    pub prefix: String,
    pub hash: String,
    pub expiration: String,
    pub last_seen: String,
    pub created_at: String,
}

/// A row of `nodes`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Node {
    pub id: i64,
    pub machine_key: String,
    pub node_key: String,
    pub disco_key: String,
    /// JSON.
    pub endpoints: String,
    /// JSON.
    pub host_info: String,
    pub ipv4: String,
    pub ipv6: String,
    pub hostname: String,
    pub given_name: String,
    pub user_id: Option<i64>,
    pub register_method: String,
    /// JSON; `forced_tags` before 0.28.
    pub tags: String,
    pub auth_key_id: Option<i64>,
    pub last_seen: String,
    pub expiry: String,
    /// JSON.
    pub approved_routes: String,
    pub created_at: String,
    pub deleted_at: String,
}

/// Tables by name, every value as text: what SQLite and Postgres have in common.
#[derive(Debug, Default)]
pub(super) struct Tables(pub BTreeMap<String, Table>);

/// A table in the order of its ids.
#[derive(Debug, Default)]
pub(super) struct Table {
    /// In lower case.
    pub columns: Vec<String>,
    pub rows: Vec<Vec<Option<String>>>,
}

/// What is read of a database, where it is there.
pub(super) const TABLES: [&str; 8] =
    ["users", "pre_auth_keys", "pre_auth_key_acl_tags", "api_keys", "nodes", "routes", "policies", "database_versions"];

/// Reads a file without changing it.
pub fn file(path: &Path) -> Result<Database, String> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let wrong = |error: rusqlite::Error| {
        format!("cannot read {}: {error}; stop Headscale and give its db.sqlite, or a copy of it", path.display())
    };
    let connection = Connection::open_with_flags(path, flags).map_err(wrong)?;
    let names = tables(&connection).map_err(wrong)?;
    check(&names, &path.display().to_string())?;
    let mut tables = Tables::default();
    for name in TABLES.into_iter().filter(|name| names.iter().any(|known| known == name)) {
        tables.0.insert(name.to_owned(), table(&connection, name).map_err(wrong)?);
    }
    Ok(database(&tables))
}

/// Whether these are the tables of a Headscale that can be taken over.
pub(super) fn check(names: &[String], called: &str) -> Result<(), String> {
    let has = |name: &str| names.iter().any(|known| known == name);
    if has("machines") && !has("nodes") {
        return Err(format!("{called} is of Headscale 0.22 or older; let Headscale 0.23 open it once, then import"));
    }
    if !has("nodes") || !has("users") {
        return Err(format!("{called} is not a database of Headscale: it has no nodes and users"));
    }
    Ok(())
}

pub(super) fn database(tables: &Tables) -> Database {
    let users = rows(tables, "users", |row| User {
        id: row.id("id"),
        name: row.text("name"),
        display_name: row.text("display_name"),
        email: row.text("email"),
        provider_identifier: row.text("provider_identifier"),
        provider: row.text("provider"),
        profile_pic_url: row.text("profile_pic_url"),
        created_at: row.text("created_at"),
        deleted_at: row.text("deleted_at"),
    });
    let mut pre_auth_keys = rows(tables, "pre_auth_keys", |row| PreAuthKey {
        id: row.id("id"),
        key: row.text("key"),
        prefix: row.text("prefix"),
        hash: row.text("hash"),
        user_id: row.number("user_id"),
        reusable: row.flag("reusable"),
        ephemeral: row.flag("ephemeral"),
        used: row.flag("used"),
        tags: row.text("tags"),
        expiration: row.text("expiration"),
        created_at: row.text("created_at"),
    });
    if tables.0.contains_key("pre_auth_key_acl_tags") {
        // A table of their own before 0.24.
        for (key, tag) in rows(tables, "pre_auth_key_acl_tags", |row| (row.number("pre_auth_key_id"), row.text("tag")))
        {
            let Some(key) = pre_auth_keys.iter_mut().find(|known| Some(known.id) == key) else { continue };
            // What cannot be read stays as it is: the repair tells of it.
            let Ok(tags) =
                serde_json::from_str::<Option<Vec<String>>>(if key.tags.is_empty() { "null" } else { &key.tags })
            else {
                continue;
            };
            let mut tags = tags.unwrap_or_default();
            tags.push(tag);
            key.tags = serde_json::Value::from(tags).to_string();
        }
    }
    let api_keys = rows(tables, "api_keys", |row| ApiKey {
        id: row.id("id"),
        prefix: row.text("prefix"),
        hash: row.text("hash"),
        expiration: row.text("expiration"),
        last_seen: row.text("last_seen"),
        created_at: row.text("created_at"),
    });
    let nodes = rows(tables, "nodes", |row| Node {
        id: row.id("id"),
        machine_key: row.text("machine_key"),
        node_key: row.text("node_key"),
        disco_key: row.text("disco_key"),
        endpoints: row.text("endpoints"),
        host_info: row.text("host_info"),
        ipv4: row.text("ipv4"),
        ipv6: row.text("ipv6"),
        hostname: row.text("hostname"),
        given_name: row.text("given_name"),
        user_id: row.number("user_id"),
        register_method: row.text("register_method"),
        tags: if row.has("tags") { row.text("tags") } else { row.text("forced_tags") },
        auth_key_id: row.number("auth_key_id"),
        last_seen: row.text("last_seen"),
        expiry: row.text("expiry"),
        approved_routes: row.text("approved_routes"),
        created_at: row.text("created_at"),
        deleted_at: row.text("deleted_at"),
    });
    let routes = rows(tables, "routes", |row| {
        let stands = row.flag("enabled") && row.text("deleted_at").is_empty();
        stands.then(|| (row.id("node_id"), row.text("prefix")))
    });
    let policies = rows(tables, "policies", |row| (row.id("id"), row.text("data"), row.text("deleted_at")));
    let versions = rows(tables, "database_versions", |row| row.text("version"));
    Database {
        version: versions.into_iter().next(),
        users,
        pre_auth_keys,
        api_keys,
        nodes,
        routes: routes.into_iter().flatten().collect(),
        policy: policies
            .into_iter()
            .filter(|policy| policy.2.is_empty())
            .max_by_key(|policy| policy.0)
            .map(|policy| policy.1),
    }
}

fn tables(connection: &Connection) -> rusqlite::Result<Vec<String>> {
    let mut statement = connection.prepare("SELECT name FROM sqlite_master WHERE type = 'table'")?;
    statement.query_map([], |row| row.get(0))?.collect()
}

/// Every row of a table, by id where it has one.
fn table(connection: &Connection, name: &str) -> rusqlite::Result<Table> {
    // The names come from this file, not from outside.
    let mut statement = connection.prepare(&format!("SELECT * FROM {name} ORDER BY 1"))?;
    let columns: Vec<String> = statement.column_names().map(|name| name.to_ascii_lowercase()).collect();
    let mut found = Vec::new();
    let mut cursor = statement.query([])?;
    while let Some(row) = cursor.next()? {
        let value = |at| match row.get_ref(at).unwrap_or(ValueRef::Null) {
            ValueRef::Null => None,
            ValueRef::Integer(number) => Some(number.to_string()),
            ValueRef::Real(number) => Some(number.to_string()),
            ValueRef::Text(bytes) | ValueRef::Blob(bytes) => Some(String::from_utf8_lossy(bytes).into_owned()),
        };
        found.push((0..columns.len()).map(value).collect());
    }
    Ok(Table { columns, rows: found })
}

/// Every row of a table, read; none where there is no such table.
fn rows<T>(tables: &Tables, name: &str, read: impl Fn(&Row) -> T) -> Vec<T> {
    let Some(table) = tables.0.get(name) else { return Vec::new() };
    table.rows.iter().map(|values| read(&Row { columns: &table.columns, values })).collect()
}

/// One row, by names of columns.
struct Row<'a> {
    columns: &'a [String],
    values: &'a [Option<String>],
}

impl Row<'_> {
    fn has(&self, column: &str) -> bool {
        self.columns.iter().any(|name| name == column)
    }

    fn value(&self, column: &str) -> Option<&str> {
        let at = self.columns.iter().position(|name| name == column)?;
        self.values.get(at)?.as_deref()
    }

    /// Text of whatever stands there; empty for nothing.
    fn text(&self, column: &str) -> String {
        self.value(column).unwrap_or_default().to_owned()
    }

    fn number(&self, column: &str) -> Option<i64> {
        self.value(column)?.parse().ok()
    }

    fn id(&self, column: &str) -> i64 {
        self.number(column).unwrap_or(0)
    }

    /// Whatever SQLite, Postgres and files that went from one to the other write for it.
    fn flag(&self, column: &str) -> bool {
        match self.value(column) {
            Some("t" | "true" | "TRUE") => true,
            Some(text) => text.parse::<i64>().is_ok_and(|number| number != 0),
            None => false,
        }
    }
}
