//! `import` and `export`: from Headscale's database into the cluster, and back.

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use serde::Serialize;
use serde_json::{Value, json};
use state_machine::Import as Rows;

use state_machine::codes;

use super::{
    Global,
    desk::{self, Desk},
    output::Output,
    problem::Problem,
};
use crate::{
    files,
    headscale::{Holdings, Place, endpoint::Imported, meet, postgres, read, repair, repair::Repaired, write},
};

/// Whose data.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Whose {
    Headscale,
}

/// `import`.
#[derive(Args, Debug)]
pub struct Import {
    /// Whose database
    #[arg(long, value_enum, default_value = "headscale")]
    pub from: Whose,
    /// The SQLite file, or postgres://USER:PASSWORD@HOST:PORT/NAME (without TLS) [default: what the configuration file says]
    #[arg(long, value_name = "FILE|URL", env = "HSRAFT_IMPORT_DB", hide_env_values = true)]
    pub db: Option<String>,
    /// The private Noise key, to compare with the cluster's [default: noise.private_key_path of the configuration file]
    #[arg(long, value_name = "FILE")]
    pub noise_key: Option<PathBuf>,
    /// Say what would be taken over and mended, and change nothing
    #[arg(long)]
    pub dry_run: bool,
}

/// `export`.
#[derive(Args, Debug)]
pub struct Export {
    /// For whom
    #[arg(long, value_enum, default_value = "headscale")]
    pub to: Whose,
    /// The SQLite file to write; it must not exist
    #[arg(long, value_name = "FILE")]
    pub db: PathBuf,
}

/// What one request takes with it, well below what a member reads at once.
const BATCH_BYTES: usize = 512 << 10;

#[derive(Serialize)]
struct Report<'a> {
    version: Option<&'a str>,
    users: usize,
    nodes: usize,
    pre_auth_keys: usize,
    api_keys: usize,
    policy: bool,
    changed: Option<u64>,
    repairs: &'a [String],
}

/// Takes a database over, or says what would happen.
pub async fn import(args: Import, global: &Global, output: Output) -> Result<(), Problem> {
    let (file, folder) = desk::config(global.config.as_deref())?;
    let named = |path: &[&str]| {
        let found = path.iter().try_fold(&file, |value, key| value.get(key))?;
        found.as_str().map(|text| folder.join(text))
    };
    let database = match source(&args, &file, &folder)? {
        Source::Sqlite(path) => read::file(&path),
        Source::Postgres(config) => postgres::database(&config).await,
    };
    let database = database.map_err(|why| Problem::of(&codes::IMPORT_SOURCE, why))?;
    let version = database.version.clone();
    let mut repaired = repair::repaired(database);
    let changed = match args.dry_run {
        true => None,
        false => {
            let desk = Desk::open(global, output.clone())?;
            let noise_key = args.noise_key.clone().or_else(|| named(&["noise", "private_key_path"]));
            let (changed, repairs) = take_over(&desk, &repaired, noise_key.as_deref()).await?;
            repaired.repairs.extend(repairs);
            Some(changed)
        }
    };
    let rows = &repaired.rows;
    let report = Report {
        version: version.as_deref(),
        users: rows.users.len(),
        nodes: rows.nodes.len(),
        pre_auth_keys: rows.pre_auth_keys.len(),
        api_keys: rows.api_keys.len(),
        policy: repaired.policy.is_some(),
        changed,
        repairs: &repaired.repairs,
    };
    output.show_ours(&report, || human(&report))
}

enum Source {
    Sqlite(PathBuf),
    Postgres(Box<tokio_postgres::Config>),
}

/// What is said with `--db`, or else what Headscale's own configuration file says.
fn source(args: &Import, file: &serde_yaml_ng::Value, folder: &Path) -> Result<Source, Problem> {
    let wrong = |why: String| Problem::of(&codes::IMPORT_SOURCE, why);
    let at = |path: &[&str]| path.iter().try_fold(file, |value, key| value.get(key));
    let text = |path: &[&str]| at(path).and_then(|value| value.as_str()).map(str::to_owned);
    match &args.db {
        Some(url) if url.starts_with("postgres://") || url.starts_with("postgresql://") => {
            // Its own words could repeat the password.
            let config = url.parse().map_err(|_| {
                wrong("the URL cannot be read; write postgres://USER:PASSWORD@HOST:5432/NAME, percent-encoded".into())
            })?;
            return Ok(Source::Postgres(Box::new(config)));
        }
        Some(url) if url.contains("://") => {
            return Err(wrong("SQLite files are read, and postgres://USER:PASSWORD@HOST:5432/NAME".into()));
        }
        Some(path) => return Ok(Source::Sqlite(PathBuf::from(path))),
        None => {}
    }
    if text(&["database", "type"]).is_some_and(|kind| kind == "postgres") {
        let mut config = tokio_postgres::Config::new();
        let of = |key: &str| text(&["database", "postgres", key]);
        config.host(of("host").unwrap_or_else(|| "localhost".into()));
        config.dbname(of("name").unwrap_or_else(|| "headscale".into()));
        config.user(of("user").unwrap_or_else(|| "headscale".into()));
        of("pass").into_iter().for_each(|password| _ = config.password(password));
        let port = at(&["database", "postgres", "port"]).and_then(serde_yaml_ng::Value::as_u64);
        config.port(port.and_then(|port| u16::try_from(port).ok()).unwrap_or(5432));
        return Ok(Source::Postgres(Box::new(config)));
    }
    let named = text(&["database", "sqlite", "path"]).map(|path| Source::Sqlite(folder.join(path)));
    named.ok_or_else(|| {
        let how = "which database? --db FILE or --db postgres://…, or --config with a database section in it";
        Problem::of(&codes::WHICH, how)
    })
}

fn human(report: &Report<'_>) -> String {
    let mut text = String::new();
    for repair in report.repairs {
        text += &format!("mended: {repair}\n");
    }
    text += &format!(
        "{} users, {} nodes, {} pre-auth keys, {} API keys{} ",
        report.users,
        report.nodes,
        report.pre_auth_keys,
        report.api_keys,
        if report.policy { " and the policy" } else { "" },
    );
    text + &match report.changed {
        None => "would be taken over; nothing was changed\n".to_owned(),
        Some(changed) => format!("are in the cluster; {changed} of them are new\n"),
    }
}

/// Sends everything that is not there yet, owners first. How many rows were new, and what became otherwise than it was.
pub async fn take_over(
    desk: &Desk,
    repaired: &Repaired,
    noise_key: Option<&Path>,
) -> Result<(u64, Vec<String>), Problem> {
    let place: Place = desk.client.get("/api/v1/cluster/import").await?;
    if let Some(file) = noise_key {
        check_noise_key(desk, file, &place)?;
    }
    let outside = |node: &&state_machine::Node| {
        let v4 = node.ipv4.is_some_and(|ip| place.prefix_v4.is_none_or(|prefix| !prefix.contains(&ip)));
        v4 || node.ipv6.is_some_and(|ip| place.prefix_v6.is_none_or(|prefix| !prefix.contains(&ip)))
    };
    if let Some(node) = repaired.rows.nodes.iter().find(outside) {
        return Err(Problem::of(
            &codes::IMPORT_OUTSIDE,
            format!(
                "node {} ({}) has an address outside the cluster's prefixes; give the cluster the prefixes of Headscale's \
             configuration first",
                node.id, node.given_name
            ),
        ));
    }
    let here: Holdings = desk.client.post("/api/v1/cluster/export", json!({})).await?;
    let mut rows = repaired.rows.clone();
    let repairs = meet::meet(&mut rows, &here.rows).map_err(|why| Problem::of(&codes::IMPORT_OTHERS, why))?;
    let mut changed = 0;
    for batch in batches(&rows) {
        changed += desk.client.post::<Imported>("/api/v1/cluster/import", batch).await?.changed;
    }
    if let Some(policy) = repaired.policy.as_ref().filter(|policy| place.policy.as_ref() != Some(policy)) {
        desk.client.put::<Value>("/api/v1/policy", json!({ "policy": policy })).await?;
    }
    Ok((changed, repairs))
}

/// Clients know the server by this key: with another one each of them would have to log in anew.
fn check_noise_key(desk: &Desk, file: &Path, place: &Place) -> Result<(), Problem> {
    let read = files::read(file).ok().flatten();
    let Some(text) = read else {
        desk.output.talk(&format!("hint: {} cannot be read, so the Noise keys were not compared", file.display()));
        return Ok(());
    };
    let digits = text.trim().strip_prefix("privkey:").and_then(|digits| hex::decode(digits).ok());
    let private = digits.and_then(|bytes| <[u8; 32]>::try_from(bytes).ok());
    let private = private.ok_or_else(|| {
        Problem::of(&codes::NOISE_KEY_FILE, format!("{} is not a private key of Headscale", file.display()))
    })?;
    let public = x25519_dalek::PublicKey::from(&x25519_dalek::StaticSecret::from(private));
    let public = format!("mkey:{}", hex::encode(public.as_bytes()));
    if place.noise_key.is_empty() || place.noise_key == public || desk.force {
        return Ok(());
    }
    Err(Problem::of(
        &codes::NOISE_KEY_OTHER,
        format!(
            "the cluster has another Noise key than {}: no client would know it. Found the cluster with that key \
         (noise.private_key_path in the configuration of the first member), or say --force and log every client in anew",
            file.display()
        ),
    ))
}

/// Rows in pieces, each after those it refers to.
fn batches(rows: &Rows) -> Vec<Rows> {
    let mut batches = vec![Rows::default()];
    let mut size = 0;
    let mut room = |batches: &mut Vec<Rows>, bytes: usize| {
        if size + bytes > BATCH_BYTES {
            batches.push(Rows::default());
            size = 0;
        }
        size += bytes;
    };
    fn bytes(row: &impl Serialize) -> usize {
        serde_json::to_vec(row).map_or(0, |text| text.len())
    }
    macro_rules! fill {
        ($field:ident) => {
            for row in &rows.$field {
                room(&mut batches, bytes(row) + 64);
                batches.last_mut().expect("there is always one").$field.push(row.clone());
            }
        };
    }
    fill!(users);
    fill!(pre_auth_keys);
    fill!(api_keys);
    fill!(nodes);
    for batch in &mut batches {
        let seen = batch.nodes.iter().filter_map(|node| Some((node.id, *rows.last_seen.get(&node.id)?)));
        batch.last_seen = seen.collect();
    }
    batches
}

/// Writes what the cluster holds into a file for Headscale.
pub async fn export(args: Export, desk: &Desk) -> Result<(), Problem> {
    let holdings: Holdings = desk.client.post("/api/v1/cluster/export", json!({})).await?;
    let left = write::file(&args.db, &holdings, desk.now).map_err(|why| Problem::of(&codes::EXPORT_FAILED, why))?;
    let nodes = holdings.rows.nodes.iter().filter(|node| !node.unapproved).count();
    let report = json!({
        "users": holdings.rows.users.len(),
        "nodes": nodes,
        "left": left,
    });
    desk.output.show_ours(&report, || {
        let mut text: String = left.iter().map(|each| format!("left: {each}\n")).collect();
        text += &format!("{} users and {} nodes are in {}\n", holdings.rows.users.len(), nodes, args.db.display());
        text + "the Noise key stays in the cluster: give Headscale the file this cluster was founded with\n"
    })
}
