//! Databases of three ages with the dirt such files hold, into a cluster, out, and in again.

use std::{path::Path, sync::Arc, time::Duration};

use axum::{body::Body, http::Request};
use http_body_util::BodyExt;
use rusqlite::Connection;
use state_machine::{ApiKey, Command, NodeId, Outcome, PreAuthKeyId, Registration, UserId};
use tower::ServiceExt;

use super::{read, repair, write, *};
use crate::{
    backend::Backend,
    cli::{Format, Output, for_tests::desk, moving},
    client::{Client, Target},
    lone::Lone,
    secret_text,
};

/// The columns of an age.
#[derive(Clone, Copy, PartialEq)]
enum Age {
    /// 0.25: a table of routes, `forced_tags`, keys as text.
    Routes,
    /// 0.26 and 0.27: `approved_routes`, `forced_tags`, keys as text.
    ForcedTags,
    /// 0.29: `tags`, hashed keys.
    Today,
}

const SECRET: &str = "-_cretsecretsecretsecretsecretsecretsecretsecretsecretsecretsec_";
const OLD_AUTH_KEY: &str = "00112233445566778899aabbccddeeff0011223344556677";

fn hash(secret: &str) -> String {
    // The lowest cost, so that tests are quick.
    bcrypt::hash(secret, 4).unwrap()
}

fn key(kind: &str, byte: u8) -> String {
    format!("{kind}:{}", hex::encode([byte; 32]))
}

fn make(path: &Path, age: Age) {
    let to = Connection::open(path).unwrap();
    let tags = if age == Age::Today { "tags" } else { "forced_tags" };
    let hashed = if age == Age::Today { ", prefix text, hash blob" } else { "" };
    let approved = if age == Age::Routes { "" } else { ", approved_routes text" };
    to.execute_batch(&format!(
        "CREATE TABLE users(id integer PRIMARY KEY, name text, display_name text, email text, provider_identifier text,
           provider text, profile_pic_url text, created_at datetime, updated_at datetime, deleted_at datetime);
         CREATE TABLE pre_auth_keys(id integer PRIMARY KEY, key text, user_id integer, reusable numeric,
           ephemeral numeric, used numeric, tags text, expiration datetime, created_at datetime{hashed});
         CREATE TABLE api_keys(id integer PRIMARY KEY, prefix text, hash blob, expiration datetime, last_seen datetime,
           created_at datetime);
         CREATE TABLE nodes(id integer PRIMARY KEY, machine_key text, node_key text, disco_key text, endpoints text,
           host_info text, ipv4 text, ipv6 text, hostname text, given_name text, user_id integer, register_method text,
           {tags} text, auth_key_id integer, last_seen datetime, expiry datetime, created_at datetime,
           updated_at datetime, deleted_at datetime{approved});
         CREATE TABLE policies(id integer PRIMARY KEY, data text, created_at datetime, deleted_at datetime);
         CREATE TABLE _litestream_seq(id integer);
         CREATE TABLE kvs(key text, value text);
         INSERT INTO policies(id, data) VALUES (1, '{{\"acls\":[]}}'),
           (2, '{{\"acls\":[{{\"action\":\"accept\",\"src\":[\"*\"],\"dst\":[\"*:*\"]}}]}}');
         INSERT INTO users VALUES
           (1, 'alice', 'Alice', 'alice@example.com', NULL, '', '', '2024-05-01 10:00:00.123456789+00:00', NULL, NULL),
           (2, 'alice', 'Alice O', '', 'https://idp//sub', 'oidc', 'nonsense', '2024-05-01 12:00:00+02:00', NULL, NULL),
           (3, '', '', 'carol@example.com', 'HTTPS://idp/carol', 'oidc', 'https://x.org/c.png', '2024-05-01', NULL, NULL),
           (4, 'gone', '', '', NULL, '', '', '2024-05-01 10:00:00', NULL, '2024-06-01 10:00:00');",
    ))
    .unwrap();
    if age == Age::Today {
        let insert = "INSERT INTO pre_auth_keys(id, key, prefix, hash, user_id, reusable, ephemeral, used, tags, expiration, created_at) VALUES";
        to.execute(
            &format!(
                "{insert} (1, '', 'pre-fix_1234', ?1, 1, 1, 0, 0, '[]', '2030-01-01 00:00:00', '2024-05-01 10:00:00')"
            ),
            [hash(SECRET).into_bytes()],
        )
        .unwrap();
        to.execute_batch(&format!(
            "{insert} (2, '{OLD_AUTH_KEY}', NULL, NULL, 1, 1, 1, 1, NULL, '2030-01-01 00:00:00', '2024-05-01 10:00:00'),
             (3, '', 'onlytagged12', '{}', NULL, 0, 0, 1, '[\"tag:server\",\"nonsense\"]', NULL, '2024-05-01 10:00:00'),
             (4, '', '', '', 1, 0, 0, 0, NULL, NULL, NULL),
             (5, '', 'nobodys12345', '{}', 9, 0, 0, 0, 'null', NULL, NULL);",
            hash("x"),
            hash("y")
        ))
        .unwrap();
    } else {
        to.execute_batch(&format!(
            "INSERT INTO pre_auth_keys(id, key, user_id, reusable, ephemeral, used, tags, expiration, created_at) VALUES
             (1, 'ffeeddccbbaa99887766554433221100ffeeddccbbaa9988', 1, 1, 0, 0, NULL, '2030-01-01 00:00:00', '2024-05-01 10:00:00'),
             (2, '{OLD_AUTH_KEY}', 1, 1, 1, 1, NULL, '2030-01-01 00:00:00', '2024-05-01 10:00:00'),
             (3, '0123456789abcdef0123456789abcdef0123456789abcdef', 1, 0, 0, 1, '[\"tag:server\"]', NULL, '2024-05-01 10:00:00');",
        ))
        .unwrap();
    }
    to.execute(
        "INSERT INTO api_keys VALUES (1, 'api-pre_fix1', ?1, '2030-01-01 00:00:00', '2025-01-01 00:00:00', '2024-05-01 10:00:00'), \
         (2, 'old_pre', ?2, NULL, NULL, '2024-05-01 10:00:00'), (3, 'broken', 'x', NULL, NULL, NULL)",
        [hash(SECRET).into_bytes(), hash(&SECRET[..32]).into_bytes()],
    )
    .unwrap();
    let node = |id: u8, name: &str, user: &str, tags: &str, auth_key: &str, expiry: &str, deleted: &str, keys: u8| {
        to.execute(
            &format!(
                "INSERT INTO nodes(id, machine_key, node_key, disco_key, endpoints, host_info, ipv4, ipv6, hostname, \
                 given_name, user_id, register_method, {}, auth_key_id, last_seen, expiry, created_at, deleted_at) VALUES \
                 (?1, ?2, ?3, ?4, '[\"192.0.2.1:41641\",\"nonsense\"]', ?5, ?6, ?7, ?8, ?9, {user}, 'authkey', ?10, \
                 {auth_key}, '2025-02-03 04:05:06', {expiry}, '2024-05-01 10:00:00', {deleted})",
                if age == Age::Today { "tags" } else { "forced_tags" }
            ),
            rusqlite::params![
                id,
                key("mkey", keys),
                key("nodekey", keys + 100),
                key("discokey", keys),
                r#"{"OS":"linux","Hostname":"Laptop","RoutableIPs":["10.0.0.0/24","0.0.0.0/0","::/0"],"NetInfo":{"PreferredDERP":7}}"#,
                format!("100.64.0.{id}"),
                format!("fd7a:115c:a1e0::{id}"),
                name,
                name.to_lowercase(),
                tags
            ],
        )
        .unwrap();
    };
    node(1, "Laptop", "1", "[]", "2", "'0001-01-01 00:00:00+00:00'", "NULL", 1);
    node(2, "server", "1", "[\"tag:server\"]", "3", "NULL", "NULL", 2);
    // An orphan of its key, a null where tags should be, an odd name.
    node(3, "Büro Mac!", "1", "null", "77", "'2031-01-01 00:00:00'", "NULL", 3);
    // An orphan of its user.
    node(4, "orphan", "9", "", "NULL", "NULL", "NULL", 4);
    node(5, "deleted", "1", "", "NULL", "NULL", "'2024-06-01 10:00:00'", 5);
    // The same node key as node 1, and the same name.
    node(6, "laptop", "1", "", "NULL", "NULL", "NULL", 1);
    node(7, "laptop", "2", "", "NULL", "NULL", "NULL", 7);
    // Came by the one-use key that let node 2 in.
    node(8, &"x".repeat(80), "3", "", "3", "NULL", "NULL", 8);
    match age {
        Age::Routes => to
            .execute_batch(
                "CREATE TABLE routes(id integer, node_id integer, prefix text, advertised numeric, enabled numeric,
                   is_primary numeric, created_at datetime, deleted_at datetime);
                 INSERT INTO routes VALUES (1, 1, '10.0.0.0/24', 1, 1, 1, NULL, NULL), (2, 1, '0.0.0.0/0', 1, 1, 0, NULL, NULL),
                   (3, 1, '10.9.0.0/24', 1, 0, 0, NULL, NULL), (4, 1, '10.8.0.0/24', 1, 1, 0, NULL, '2024-06-01 10:00:00');",
            )
            .unwrap(),
        _ => {
            let routes = r#"["10.0.0.0/24","0.0.0.0/0"]"#;
            to.execute("UPDATE nodes SET approved_routes = ?1 WHERE id = 1", [routes]).unwrap();
        }
    }
}

async fn take_over(lone: &Arc<Lone>, repaired: &repair::Repaired) -> u64 {
    let client = Client::new(Target::Direct(lone.router(true)), Duration::from_secs(5));
    let (output, _) = Output::captured(Format::Human);
    moving::take_over(&desk(client, output), repaired, None).await.unwrap().0
}

async fn status(lone: &Arc<Lone>, key: &str) -> u16 {
    let request = Request::get("/api/v1/user").header("authorization", format!("Bearer {key}"));
    let response = lone.router(false).oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
    let status = response.status().as_u16();
    response.into_body().collect().await.unwrap();
    status
}

#[tokio::test]
async fn every_age_is_taken_over() {
    for age in [Age::Routes, Age::ForcedTags, Age::Today] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("db.sqlite");
        make(&path, age);
        let repaired = repair::repaired(read::file(&path).unwrap());
        let lone = Lone::new();
        let count = repaired.rows.users.len() + repaired.rows.nodes.len() + repaired.rows.pre_auth_keys.len();
        assert_eq!(take_over(&lone, &repaired).await, (count + repaired.rows.api_keys.len()) as u64);
        // An import that broke off is repeated.
        assert_eq!(take_over(&lone, &repaired).await, 0);

        let state = lone.latest();
        let names: Vec<&str> = state.users().values().map(|user| user.name.as_str()).collect();
        assert_eq!(names, ["alice", "alice-1", "carol@example.com"]);
        assert_eq!(state.user(UserId(2)).unwrap().provider_id, "https://idp/sub");
        assert_eq!(state.user(UserId(1)).unwrap().created_at.to_string(), "2024-05-01T10:00:00.123Z");
        assert_eq!(state.user(UserId(2)).unwrap().created_at.to_string(), "2024-05-01T10:00:00Z");
        let given: Vec<(u64, &str)> =
            state.nodes().values().map(|node| (node.id.0, node.given_name.as_str())).collect();
        let long = "x".repeat(63);
        assert_eq!(given, [(1, "laptop"), (2, "server"), (3, "b-ro-mac"), (7, "laptop-1"), (8, long.as_str())]);

        let laptop = state.node(NodeId(1)).unwrap();
        let routes: Vec<String> = laptop.approved_routes.iter().map(ToString::to_string).collect();
        assert_eq!(routes, ["0.0.0.0/0", "10.0.0.0/24", "::/0"]);
        assert_eq!((laptop.expiry, laptop.ephemeral, laptop.home_derp), (None, true, 7));
        assert_eq!(laptop.endpoints.len(), 1);
        assert_eq!(laptop.hostinfo.routable_ips.len(), 3);
        assert_eq!(laptop.pre_auth_key, Some(PreAuthKeyId(2)));
        assert_eq!(state.presence(NodeId(1)).unwrap().last_seen.unwrap().to_string(), "2025-02-03T04:05:06Z");
        assert!(state.node(NodeId(2)).unwrap().is_tagged());
        assert_eq!(state.node(NodeId(3)).unwrap().pre_auth_key, None);
        assert_eq!(state.node(NodeId(8)).unwrap().pre_auth_key, None);
        assert!(state.policy().unwrap().text.contains("accept"));
        for said in ["orphan", "deleted", "API key 3", "user 4", "node 6", "user 2", "node 8"] {
            assert!(repaired.repairs.iter().any(|repair| repair.contains(said)), "{said}: {:#?}", repaired.repairs);
        }

        // New things get new numbers and other addresses.
        let new = lone.apply(Command::CreateUser {
            name: "dora".into(),
            display_name: String::new(),
            email: String::new(),
            profile_pic_url: String::new(),
        });
        assert_eq!(new, Ok(Outcome::User(UserId(4))));

        // Old API keys open the door: slowly once, then quickly; wrong ones do not.
        let new_style = format!("hskey-api-api-pre_fix1-{SECRET}");
        let old_style = format!("old_pre.{}", &SECRET[..32]);
        for key in [&new_style, &old_style, &new_style] {
            assert_eq!(status(&lone, key).await, 200, "{key}");
        }
        let learned = lone.latest().api_key_by_prefix("old_pre").unwrap().secret_sha256;
        assert_eq!(learned, secret_text::hash(&SECRET[..32]));
        assert_eq!(take_over(&lone, &repaired).await, 0, "said again although keys were used meanwhile");
        for key in [new_style.replace("-_cret", "-_krat"), old_style.replace("-_cret", "-_krat"), "old_pre.x".into()] {
            assert_eq!(status(&lone, &key).await, 401, "{key}");
        }
        // A pre-auth key of the old form, as a client presents it.
        let (prefix, secret) = secret_text::split(secret_text::AUTH, OLD_AUTH_KEY).unwrap();
        let client = Registration {
            machine_key: tailcfg::MachineKey([50; 32]),
            node_key: tailcfg::NodeKey([51; 32]),
            hostname: "late".into(),
            ..Registration::default()
        };
        let register = |prefix: &str, secret: &str| Command::RegisterWithKey {
            client: client.clone(),
            prefix: prefix.into(),
            secret_sha256: secret_text::hash(secret),
        };
        assert!(lone.apply(register(prefix, "wrong")).is_err());
        assert!(matches!(lone.apply(register(prefix, secret)), Ok(Outcome::Registered(_))));
        assert_eq!(lone.latest().node_by_name("late").unwrap().ipv4.unwrap().to_string(), "100.64.0.9");
    }
}

#[tokio::test]
async fn out_and_in_again_loses_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let (first, second) = (folder.path().join("first"), folder.path().join("second"));
    make(&first, Age::Today);
    let taken = repair::repaired(read::file(&first).unwrap());
    let lone = Lone::new();
    take_over(&lone, &taken).await;

    let request = Request::post("/api/v1/cluster/export").body(Body::empty()).unwrap();
    let response = lone.router(true).oneshot(request).await.unwrap();
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    let holdings: Holdings = serde_json::from_slice(&bytes).unwrap();
    assert_eq!(holdings.rows, taken.rows);
    let left = write::file(&second, &holdings, state_machine::Timestamp(1_800_000_000_000)).unwrap();
    // The key that was text there is a hash of another kind here.
    assert_eq!(left.len(), 1, "{left:?}");
    assert!(left[0].starts_with("pre-auth key 2 was made here"), "{left:?}");

    let again = repair::repaired(read::file(&second).unwrap());
    let lost_key = |rows: &state_machine::Import| {
        let mut rows = rows.clone();
        rows.pre_auth_keys.retain(|key| key.id != PreAuthKeyId(2));
        rows.nodes.iter_mut().filter(|node| node.pre_auth_key == Some(PreAuthKeyId(2))).for_each(|node| {
            node.pre_auth_key = None;
            node.ephemeral = false;
        });
        // There, a tagged node has no user; and the kinds of endpoints are not kept.
        rows.nodes.iter_mut().filter(|node| node.is_tagged()).for_each(|node| node.user = None);
        rows.nodes.iter_mut().for_each(|node| node.home_derp = 0);
        rows
    };
    assert_eq!(lost_key(&again.rows), lost_key(&taken.rows));
    assert_eq!(again.policy, taken.policy);
    assert!(write::file(&second, &holdings, state_machine::Timestamp(0)).unwrap_err().contains("is there already"));
}

/// An administrator made a key before the import, and clients came back while it ran.
#[tokio::test]
async fn an_import_meets_what_is_there() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("db.sqlite");
    make(&path, Age::Today);
    let taken = repair::repaired(read::file(&path).unwrap());
    let lone = Lone::new();
    let hasty = ApiKey { prefix: "hastykey0001".into(), secret_sha256: [1; 32], ..ApiKey::default() };
    lone.apply(Command::CreateApiKey { key: hasty }).unwrap();
    let count = taken.rows.users.len() + taken.rows.nodes.len() + taken.rows.pre_auth_keys.len();
    assert_eq!(take_over(&lone, &taken).await, (count + taken.rows.api_keys.len()) as u64);
    let state = lone.latest();
    assert_eq!(state.api_keys().len(), taken.rows.api_keys.len() + 1);
    for key in &taken.rows.api_keys {
        assert!(state.api_key_by_prefix(&key.prefix).is_some(), "{}", key.prefix);
    }
    assert_eq!(status(&lone, &format!("hskey-api-api-pre_fix1-{SECRET}")).await, 200);
    // A node that came back is not as it was, and neither is a user whose name was mended.
    lone.apply(Command::RenameNode { node: NodeId(1), name: "desk".into() }).unwrap();
    lone.apply(Command::RenameUser { user: UserId(1), name: "alina".into() }).unwrap();
    assert_eq!(take_over(&lone, &taken).await, 0);
    assert_eq!(lone.latest().node(NodeId(1)).unwrap().given_name, "desk");

    // Rows of somebody else's under the same numbers: refused before anything is sent.
    let other = Lone::new();
    let (display_name, email, profile_pic_url) = Default::default();
    other.apply(Command::CreateUser { name: "bob".into(), display_name, email, profile_pic_url }).unwrap();
    let mut rows = taken.rows.clone();
    let here = state_machine::Import {
        users: other.latest().users().values().map(|user| (**user).clone()).collect(),
        ..state_machine::Import::default()
    };
    let why = meet::meet(&mut rows, &here).unwrap_err();
    assert!(why.starts_with("user 1 is \"alice\" in the database and \"bob\" in the cluster"), "{why}");
    assert_eq!(rows, taken.rows);
}

#[tokio::test]
async fn what_does_not_fit_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("db.sqlite");
    make(&path, Age::Today);
    let taken = repair::repaired(read::file(&path).unwrap());
    let lone = Lone::new();
    lone.apply(Command::CreateUser {
        name: "bob".into(),
        display_name: String::new(),
        email: String::new(),
        profile_pic_url: String::new(),
    })
    .unwrap();
    let before = lone.latest();
    let refused = lone.apply(Command::Import { batch: taken.rows.clone() }).unwrap_err();
    assert_eq!(refused.to_string(), "user \"1\" exists already");
    assert_eq!(lone.latest().users(), before.users());
    assert_eq!(lone.latest().nodes(), before.nodes());

    for (file, why) in [("none", "cannot read"), ("text", "cannot read")] {
        let path = folder.path().join(file);
        if file == "text" {
            crate::files::write(&path, &"no database, this".repeat(100)).unwrap();
        }
        assert!(read::file(&path).unwrap_err().contains(why), "{file}");
    }
    let old = folder.path().join("old");
    Connection::open(&old)
        .unwrap()
        .execute_batch("CREATE TABLE machines(id integer); CREATE TABLE namespaces(id integer)")
        .unwrap();
    assert!(read::file(&old).unwrap_err().contains("0.22"));
}

#[test]
fn moments_of_go() {
    for (text, told) in [
        ("2024-05-01 10:00:00.5+00:00", "2024-05-01T10:00:00.5Z"),
        ("2024-05-01T10:00:00Z", "2024-05-01T10:00:00Z"),
        ("2024-05-01 12:00:00 +0200 UTC m=+1.5", "2024-05-01T10:00:00Z"),
        ("2024-05-01 10:00:00", "2024-05-01T10:00:00Z"),
    ] {
        assert_eq!(repair::moment(text).unwrap().to_string(), told, "{text}");
    }
    for text in ["", "0001-01-01 00:00:00+00:00", "yesterday"] {
        assert_eq!(repair::moment(text), None, "{text}");
    }
}

/// A Postgres of its own, as long as the value lives.
struct Server {
    process: std::process::Child,
    folder: tempfile::TempDir,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// `None`: there is none on this machine, or nobody whom it would serve (it refuses root).
fn postgres_server() -> Option<Server> {
    use std::{os::unix::fs::PermissionsExt, process::Command as Process};

    let versions = std::fs::read_dir("/usr/lib/postgresql").ok()?.flatten();
    let bin = versions.map(|version| version.path().join("bin")).find(|bin| bin.join("initdb").exists())?;
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let program = |name: &str| {
        if !rustix::process::getuid().is_root() {
            return Process::new(bin.join(name));
        }
        let mut process = Process::new("setpriv");
        process.args(["--reuid=postgres", "--regid=postgres", "--clear-groups"]).arg(bin.join(name));
        process
    };
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
    let mut initdb = program("initdb");
    initdb
        .args(["--auth=trust", "--username=headscale", "--no-sync", "--encoding=UTF8", "--locale=C", "-D"])
        .arg(&data);
    if !initdb.current_dir("/").output().is_ok_and(|done| done.status.success()) {
        return None;
    }
    let mut serve = program("postgres");
    serve.arg("-D").arg(&data).args(["-c", "listen_addresses=", "-c", "fsync=off", "-c"]);
    serve.arg(format!("unix_socket_directories={}", folder.path().display()));
    let quiet = std::process::Stdio::null;
    let process = serve.current_dir("/").stdout(quiet()).stderr(quiet()).spawn().unwrap();
    Some(Server { process, folder })
}

/// The SQLite file again as Postgres would hold it, with its own kinds of columns.
fn as_postgres(file: &Path) -> String {
    let connection = Connection::open(file).unwrap();
    let mut statements = String::new();
    for name in read::TABLES {
        let Ok(mut statement) = connection.prepare(&format!("SELECT * FROM {name}")) else { continue };
        let columns: Vec<String> = statement.column_names().map(str::to_owned).collect();
        let kind = |column: &str| match column {
            "reusable" | "ephemeral" | "used" | "enabled" => "boolean",
            "hash" => "bytea",
            "id" | "user_id" | "auth_key_id" | "node_id" => "bigint",
            "expiry" | "expiration" | "last_seen" => "timestamptz",
            column if column.ends_with("_at") => "timestamptz",
            _ => "text",
        };
        let kinds: Vec<String> = columns.iter().map(|column| format!("{column} {}", kind(column))).collect();
        statements += &format!("CREATE TABLE {name}({});\n", kinds.join(", "));
        let mut rows = statement.query([]).unwrap();
        while let Some(row) = rows.next().unwrap() {
            let value = |at: usize| match row.get_ref(at).unwrap() {
                rusqlite::types::ValueRef::Null => "NULL".to_owned(),
                rusqlite::types::ValueRef::Integer(number) => format!("'{number}'"),
                rusqlite::types::ValueRef::Real(number) => format!("'{number}'"),
                rusqlite::types::ValueRef::Text(bytes) | rusqlite::types::ValueRef::Blob(bytes) => {
                    format!("'{}'", String::from_utf8_lossy(bytes).replace('\'', "''"))
                }
            };
            let values: Vec<String> = (0..columns.len()).map(value).collect();
            statements += &format!("INSERT INTO {name} VALUES ({});\n", values.join(", "));
        }
    }
    statements
}

#[tokio::test]
async fn a_real_postgres_is_read_as_its_sqlite_twin() {
    let Some(server) = postgres_server() else {
        return println!("skipped: no Postgres here that would serve us (Debian: postgresql)");
    };
    let mut config = tokio_postgres::Config::new();
    config.host_path(server.folder.path()).user("headscale").dbname("postgres");
    let (client, connection) = tokio::time::timeout(Duration::from_secs(30), async {
        loop {
            match config.connect(tokio_postgres::NoTls).await {
                Ok(connected) => return connected,
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    })
    .await
    .unwrap();
    let connection = tokio::spawn(connection);
    let empty = super::postgres::database(&config).await.unwrap_err();
    assert!(empty.contains("not a database of Headscale"), "{empty}");
    for age in [Age::Today, Age::ForcedTags, Age::Routes] {
        let file = server.folder.path().join("twin.sqlite");
        make(&file, age);
        client.batch_execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public").await.unwrap();
        client.batch_execute(&as_postgres(&file)).await.unwrap();
        let (there, here) = (super::postgres::database(&config).await.unwrap(), read::file(&file).unwrap());
        let (there, here) = (repair::repaired(there), repair::repaired(here));
        assert_eq!(there.repairs, here.repairs);
        assert_eq!(there.rows, here.rows);
        assert_eq!(there.policy, here.policy);
        assert!(!here.rows.nodes.is_empty() && !here.rows.api_keys.is_empty());
        std::fs::remove_file(&file).unwrap();
    }
    config.dbname("nowhere");
    let missing = super::postgres::database(&config).await.unwrap_err();
    assert!(missing.contains("nowhere") && missing.contains("does not exist"), "{missing}");
    drop(client);
    connection.await.unwrap().unwrap();
}
