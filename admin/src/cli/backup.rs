//! `snapshot`, `recover`, `recovery-key`: backups, and the day they are needed.
//!
//! Only `snapshot save`, `snapshot agent` and `recovery-key` speak to a member. Everything else works on files and
//! buckets, on a machine where no member runs.

mod agent;
mod plan;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

pub use agent::status as agent_status;
use base64::{Engine, prelude::BASE64_STANDARD};
use clap::{Args, Subcommand};
use raft::{
    World,
    archive::{ArchiveError, Begin, Item, Kept, Objects, RecoveryKey, Shelf},
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use state_machine::{Timestamp, codes};

use super::{
    Global, Output,
    desk::Desk,
    problem::{Problem, exit},
    table::{Table, moment},
};
use crate::{files, v1::types::parse_moment};

/// What can be done with backups.
#[derive(Debug, Subcommand)]
pub enum SnapshotWord {
    /// Write the whole state of the cluster to a file, now
    #[command(
        after_help = "Examples:\n  hsraft snapshot save before-the-change.hsfull\n  hsraft snapshot save s3://backups/hsraft/by-hand"
    )]
    Save {
        /// A file, or s3://bucket/prefix (credentials from AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_ENDPOINT_URL)
        file: String,
    },
    /// Show the backups in a folder (cluster.backup_dir) or bucket (cluster.backup_url)
    #[command(
        alias = "ls",
        after_help = "Examples:\n  hsraft snapshot list /backup/hsraft\n  hsraft snapshot list s3://backups/hsraft"
    )]
    List {
        /// A folder, or s3://bucket/prefix
        target: String,
    },
    /// Show what a full backup holds
    #[command(after_help = "Example:\n  hsraft snapshot inspect before-the-change.hsfull")]
    Inspect { file: PathBuf },
    /// Read every file, replay the log and compare the states on the way; exits 41 on damage
    #[command(after_help = "Example:\n  hsraft snapshot verify /backup/hsraft --restore-dry-run")]
    Verify {
        /// A file, a folder of backups, or s3://bucket/prefix
        target: String,
        /// Also put a member together from it, in a scratch folder that is removed again
        #[arg(long)]
        restore_dry_run: bool,
        #[command(flatten)]
        key: KeyArgs,
    },
    /// Remove what is older than the retention
    #[command(after_help = "Example:\n  hsraft snapshot prune /backup/hsraft --keep 24h,7d,4w")]
    Prune {
        /// A folder, or s3://bucket/prefix
        target: String,
        /// One full for each hour, day and week, so many
        #[arg(long, default_value = "24h,7d,4w", value_parser = parse_kept)]
        keep: Kept,
    },
    /// Make a new cluster of one from a backup, in an empty data folder; then: hsraft serve
    #[command(
        after_help = "Example:\n  hsraft snapshot restore /backup/hsraft --data-dir /var/lib/hsraft --name hs1 \\\n    --recovery-key-file key.txt --at 2026-09-01T10:00:00Z"
    )]
    Restore {
        /// A file, a folder of backups, or s3://bucket/prefix
        target: String,
        /// The state at this moment; without it the newest
        #[arg(long, value_name = "TIME", value_parser = in_past)]
        at: Option<Timestamp>,
        /// Must be empty
        #[arg(long)]
        data_dir: PathBuf,
        /// cluster.name of this member
        #[arg(long)]
        name: String,
        #[command(flatten)]
        key: KeyArgs,
    },
    /// The task that keeps backups
    #[command(subcommand)]
    Agent(AgentWord),
}

/// What can be asked of the task that keeps backups.
#[derive(Debug, Subcommand)]
pub enum AgentWord {
    /// Who keeps backups where, when it last worked, what might be missing now; exits 1 when that is more than a minute
    #[command(after_help = "Example:\n  hsraft snapshot agent status")]
    Status,
}

/// What opens the secrets in a backup.
#[derive(Args, Debug)]
pub struct KeyArgs {
    /// Holds the key that `hsraft recovery-key create` printed
    #[arg(long, value_name = "FILE")]
    recovery_key_file: Option<PathBuf>,
    /// Or the file `sealing.key` of a member's folder
    #[arg(long, value_name = "FILE")]
    sealing_key_file: Option<PathBuf>,
}

/// `recover`.
#[derive(Args, Debug)]
pub struct RecoverArgs {
    #[command(subcommand)]
    word: Option<RecoverWord>,
    /// Make a new cluster of one from this member's folder
    #[arg(long)]
    force_new_cluster: bool,
    /// The member's folder; it is kept under another name
    #[arg(long)]
    data_dir: Option<PathBuf>,
    /// Its sealing key, when that is neither in the folder nor where cluster.sealing_key_path of the configuration says
    #[arg(long, value_name = "FILE")]
    sealing_key_file: Option<PathBuf>,
    /// The last log index that `recover plan` named
    #[arg(long, value_name = "INDEX")]
    expect_last_log: Option<u64>,
    /// What other members acknowledged and this one never received is gone
    #[arg(long)]
    acknowledge_data_loss: bool,
    /// The others are certainly off, whatever answers at their addresses
    #[arg(long)]
    offline_peers_confirmed: bool,
}

/// What can be done before.
#[derive(Debug, Subcommand)]
pub enum RecoverWord {
    /// Compare what is left of the members and say which to go on with; changes nothing
    #[command(
        after_help = "Example:\n  hsraft recover plan --survivor /var/lib/hsraft --survivor /mnt/hs3/hsraft --backup /backup/hsraft"
    )]
    Plan {
        /// A member's folder; several times
        #[arg(long, required = true, value_name = "FOLDER")]
        survivor: Vec<PathBuf>,
        /// The backups, which may reach further: a folder or s3://bucket/prefix
        #[arg(long, value_name = "TARGET")]
        backup: Option<String>,
    },
}

/// What can be done with the recovery key.
#[derive(Debug, Subcommand)]
pub enum RecoveryKeyWord {
    /// Make the key that opens backups; it is shown this once, and the one before opens no new backup
    #[command(alias = "rotate", after_help = "Example:\n  hsraft recovery-key create")]
    Create,
    /// Whether a key is the right one
    #[command(after_help = "Example:\n  hsraft recovery-key confirm hsrk1-…")]
    Confirm { key: String },
}

/// A whole backup, as the API hands it out.
#[derive(Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Saved {
    pub file: String,
    /// Base64.
    pub data: String,
}

fn parse_kept(text: &str) -> Result<Kept, String> {
    let mut kept = Kept { hours: 0, days: 0, weeks: 0 };
    for part in text.split(',') {
        let (number, unit) = part.split_at(part.len().saturating_sub(1));
        let number = number.parse().map_err(|_| "write for example 24h,7d,4w".to_owned())?;
        match unit {
            "h" => kept.hours = number,
            "d" => kept.days = number,
            "w" => kept.weeks = number,
            _ => return Err("write for example 24h,7d,4w".into()),
        }
    }
    Ok(kept)
}

fn in_past(text: &str) -> Result<Timestamp, String> {
    parse_moment(text)?.ok_or_else(|| "write for example 2026-09-01T10:00:00Z".into())
}

fn failed(error: ArchiveError) -> Problem {
    let (exit, code) = (error.exit_code(), error.code());
    Problem::of(code, error.to_string()).exiting(exit)
}

/// `snapshot save` and `recovery-key`, which need a member.
pub async fn save(file: &str, desk: &Desk, world: &World) -> Result<(), Problem> {
    let saved: Saved = desk.client.get("/api/v1/cluster/backup").await?;
    let bytes = BASE64_STANDARD
        .decode(&saved.data)
        .map_err(|error| Problem::of(&codes::ANSWER_UNREADABLE, format!("the answer is no backup: {error}")))?;
    let full =
        raft::archive::read_full(&bytes.clone().into()).map_err(|why| Problem::of(&codes::BACKUP_DAMAGED, why))?;
    let broken = |error: std::io::Error| Problem::of(&codes::FILE_UNWRITABLE, format!("{file}: {error}"));
    let (kept, name) = if bucket::is_bucket(file) {
        let place = place(file, world)?;
        place.put(&saved.file, bytes.clone()).await.map_err(broken)?;
        (place.get(&saved.file).await.map_err(broken)?, format!("{}/{}", place.name(), saved.file))
    } else {
        world.disk.write(Path::new(file), &bytes).map_err(broken)?;
        (world.disk.read(Path::new(file)).map_err(broken)?, file.to_owned())
    };
    if kept.as_ref() != Some(&bytes) {
        return Err(Problem::of(&codes::BACKUP_NOT_KEPT, format!("{name} did not keep what was written")));
    }
    desk.output.done(&format!(
        "{name}: {} bytes, log index {}, {} users, {} nodes; written, read back, state compared",
        bytes.len(),
        full.head.index,
        full.state.users().len(),
        full.state.nodes().len()
    ))
}

/// `recovery-key …`.
pub async fn recovery_key(word: RecoveryKeyWord, desk: &Desk) -> Result<(), Problem> {
    match word {
        RecoveryKeyWord::Create => {
            let question = "Make a new recovery key? A key made before opens only backups from before.";
            if !desk.agreed(question) {
                return super::users::declined(desk, "No key made");
            }
            let reply: Value = desk.client.post("/api/v1/cluster/recovery-key", json!({})).await?;
            desk.output.text(reply["key"].as_str().unwrap_or_default())?;
            desk.output.talk("Write it down and keep it away from the members: without it no backup can be opened.");
            desk.output.talk("Then: hsraft recovery-key confirm hsrk1-…");
            Ok(())
        }
        RecoveryKeyWord::Confirm { key } => {
            desk.client.post::<Value>("/api/v1/cluster/recovery-key/confirm", json!({ "key": key })).await?;
            desk.output.done("This key opens the backups made from now on")
        }
    }
}

/// Everything that works on files.
pub async fn snapshot(word: SnapshotWord, output: &Output, world: &World) -> Result<i32, Problem> {
    match word {
        SnapshotWord::Save { .. } | SnapshotWord::Agent(_) => unreachable!("carried out on a desk"),
        SnapshotWord::List { target } => list(&target, output, world).await?,
        SnapshotWord::Inspect { file } => inspect(&file, output, world)?,
        SnapshotWord::Verify { target, restore_dry_run, key } => {
            verify(&target, restore_dry_run, &key, output, world).await?;
        }
        SnapshotWord::Prune { target, keep } => {
            let mut gone = 0;
            for shelf in shelves(&target, world).await? {
                gone += shelf.prune(keep, world.clock.now_ms()).await.map_err(failed)?;
            }
            output.done(&format!("{gone} files removed"))?;
        }
        SnapshotWord::Restore { target, at, data_dir, name, key } => {
            restore(&target, at, &data_dir, &name, &key, output, world).await?;
        }
    }
    Ok(exit::OK)
}

/// A folder, or a bucket with the credentials of the environment.
fn place(target: &str, world: &World) -> Result<Arc<dyn Objects>, Problem> {
    if !bucket::is_bucket(target) {
        return Ok(raft::archive::folder(target, &world.disk));
    }
    let way = bucket::Way::from_env(target, &std::env::vars().collect());
    bucket::open(&way).map_err(|error| Problem::of(&codes::BACKUP_PLACE, error.to_string()))
}

async fn shelves(target: &str, world: &World) -> Result<Vec<Shelf>, Problem> {
    let shelves = raft::archive::shelves(&place(target, world)?, &world.disk).await.map_err(failed)?;
    if shelves.is_empty() {
        return Err(Problem::of(&codes::BACKUP_NONE, format!("there are no backups in {target}")));
    }
    Ok(shelves)
}

async fn list(target: &str, output: &Output, world: &World) -> Result<(), Problem> {
    let mut rows = Vec::new();
    for shelf in shelves(target, world).await? {
        for item in shelf.items().await.map_err(failed)? {
            let (kind, range) = match item {
                Item::Full { index, .. } => ("full", format!("up to {index}")),
                Item::Segment { first, last, .. } => ("log", format!("{first} to {last}")),
            };
            rows.push((kind, range, item.taken_ms(), shelf.path(&item)));
        }
    }
    let json: Vec<Value> = rows
        .iter()
        .map(|(kind, range, taken, path)| json!({ "kind": kind, "entries": range, "taken_ms": taken, "file": path }))
        .collect();
    output.show_ours(&json, || {
        let mut table = Table::new(["Kind", "Log entries", "Taken", "File"]);
        for (kind, range, taken, path) in &rows {
            table.row([
                (*kind).into(),
                range.clone(),
                moment(Some(Timestamp(*taken))).unwrap_or_default(),
                path.clone(),
            ]);
        }
        table.render()
    })
}

fn inspect(file: &Path, output: &Output, world: &World) -> Result<(), Problem> {
    let full = read_file(file, world)?;
    let (head, state) = (&full.head, &full.state);
    let facts = json!({
        "cluster": head.cluster_id,
        "written_by": head.member,
        "program": head.program,
        "log_index": head.index,
        "term": head.term,
        "taken": Timestamp(head.taken_ms).to_string(),
        "state_hash": hex::encode(&head.state_hash.0),
        "users": state.users().len(),
        "nodes": state.nodes().len(),
        "members": state.members().len(),
        "recovery_key": state.secrets().contains_key(raft::archive::RECOVERY_SECRET),
    });
    output.show_ours(&facts, || {
        let lines = facts.as_object().expect("made a line ago").iter();
        lines
            .map(|(name, value)| format!("{:<13} {}\n", name.replace('_', " "), value.to_string().trim_matches('"')))
            .collect()
    })
}

fn read_file(file: &Path, world: &World) -> Result<raft::archive::Full, Problem> {
    let bytes = world
        .disk
        .read(file)
        .map_err(|error| Problem::of(&codes::FILE_UNREADABLE, format!("{}: {error}", file.display())))?;
    let bytes = bytes.ok_or_else(|| Problem::of(&codes::FILE_MISSING, format!("there is no {}", file.display())))?;
    raft::archive::read_full(&bytes.into())
        .map_err(|why| Problem::of(&codes::BACKUP_DAMAGED, format!("{} is damaged: {why}", file.display())))
}

async fn verify(target: &str, dry_run: bool, key: &KeyArgs, output: &Output, world: &World) -> Result<(), Problem> {
    let mut said = Vec::new();
    // The one that leads furthest is the one a restore would take.
    let mut best: Option<(state_machine::State, u64)> = None;
    let mut take = |state: state_machine::State, term| {
        let key = |state: &state_machine::State| (state.now(), state.revision());
        if best.as_ref().is_none_or(|(best, _)| key(best) < key(&state)) {
            best = Some((state, term));
        }
    };
    if Path::new(target).is_file() {
        let full = read_file(Path::new(target), world)?;
        said.push(format!("{target}: good, log index {}", full.head.index));
        take(full.state, full.head.term);
    } else {
        for shelf in shelves(target, world).await? {
            let done = raft::archive::replay(&shelf, None, Begin::OLDEST).await.map_err(failed)?;
            let place = shelf.name();
            if let Some(why) = done.stopped {
                return Err(Problem::of(
                    &codes::BACKUP_DAMAGED,
                    format!("{place}: stops at log index {}: {why}", done.state.revision()),
                ));
            }
            said.push(format!(
                "{place}: good, {} entries replayed up to log index {}, {} full states compared",
                done.entries,
                done.state.revision(),
                done.compared + 1
            ));
            for gap in &done.gaps {
                said.push(format!("{place}: moments between two full states cannot be restored: {gap}"));
            }
            take(done.state, done.term);
        }
    }
    if dry_run && let Some((state, term)) = best {
        let scratch = std::env::temp_dir().join(format!("hsraft-dry-run-{}", world.entropy.u64()));
        let sealing = sealing_key(key, &state, world)?;
        let settled = raft::archive::settle(&scratch, "dry-run", state, term, &sealing, world).await;
        let removed = files::remove_all(&scratch);
        let settled = settled.map_err(failed)?;
        removed.map_err(|error| Problem::of(&codes::FILE_UNWRITABLE, format!("{}: {error}", scratch.display())))?;
        said.push(format!(
            "a member with {} users and {} nodes was put together and removed",
            settled.users, settled.nodes
        ));
    }
    output.show_ours(&said, || said.join("\n") + "\n")
}

/// The key that opens a State's secrets, from one file or the other.
fn sealing_key(
    key: &KeyArgs,
    state: &state_machine::State,
    world: &World,
) -> Result<raft::archive::SealingKey, Problem> {
    match (&key.recovery_key_file, &key.sealing_key_file) {
        (Some(file), None) => {
            let text = files::read(file).ok().flatten();
            let text =
                text.ok_or_else(|| Problem::of(&codes::FILE_UNREADABLE, format!("{} cannot be read", file.display())))?;
            let key = RecoveryKey::parse(&text).ok_or_else(|| {
                Problem::of(
                    &codes::RECOVERY_KEY_FILE,
                    format!("{} holds no recovery key (hsrk1-…), or it has a typing error", file.display()),
                )
            })?;
            key.unwrap(state).ok_or_else(|| {
                Problem::of(
                    &codes::RECOVERY_KEY_OTHER,
                    "this recovery key does not open this backup: it is of another cluster, or was replaced",
                )
            })
        }
        (None, Some(file)) => {
            let key = raft::archive::sealing_key_of(file, world).map_err(failed)?;
            match key.opens(state) {
                Some(false) => Err(Problem::of(
                    &codes::RECOVERY_KEY_OTHER,
                    format!(
                        "the sealing key in {} does not open this backup: it is of another cluster, or was replaced after \
                         the backup was made; use the recovery key of that day",
                        file.display()
                    ),
                )),
                Some(true) | None => Ok(key),
            }
        }
        _ => Err(Problem::of(
            &codes::FLAG_MISSING,
            "say --recovery-key-file FILE, or --sealing-key-file FILE with the file of a member's folder",
        )),
    }
}

async fn restore(
    target: &str,
    at: Option<Timestamp>,
    data_dir: &Path,
    name: &str,
    key: &KeyArgs,
    output: &Output,
    world: &World,
) -> Result<(), Problem> {
    let (state, term, source) = if Path::new(target).is_file() {
        let full = read_file(Path::new(target), world)?;
        (full.state, full.head.term, target.to_owned())
    } else {
        best(&shelves(target, world).await?, at, output).await?
    };
    let upto = state.revision();
    let said = state.now();
    let sealing = sealing_key(key, &state, world)?;
    let settled = raft::archive::settle(data_dir, name, state, term, &sealing, world).await.map_err(failed)?;
    output.done(&format!(
        "restored from {source}: log index {upto}, last change {said}; {} users, {} nodes\n\
         new cluster {}, member {}, same Noise key; members of the old cluster cannot speak to it\n\
         next: hsraft serve, then hsraft token create for each further member",
        settled.users, settled.nodes, settled.cluster_id, settled.member
    ))
}

/// The shelf that leads furthest.
async fn best(
    shelves: &[Shelf],
    at: Option<Timestamp>,
    output: &Output,
) -> Result<(state_machine::State, u64, String), Problem> {
    let mut best: Option<raft::archive::Replayed> = None;
    let mut source = String::new();
    let mut problem = None;
    for shelf in shelves {
        match raft::archive::replay(shelf, at.map(|at| at.0), Begin::Newest).await {
            Ok(done) => {
                if let Some(why) = &done.stopped {
                    output.talk(&format!("{}: {why}", shelf.name()));
                }
                // Of two clusters in one place the younger one; of one cluster's members the one that got furthest.
                let key = |done: &raft::archive::Replayed| (done.state.now(), done.state.revision());
                if best.as_ref().is_none_or(|best| key(best) < key(&done)) {
                    source = shelf.name();
                    best = Some(done);
                }
            }
            Err(error) => {
                output.talk(&error.to_string());
                problem = Some(error);
            }
        }
    }
    match (best, problem) {
        (Some(best), _) => Ok((best.state, best.term, source)),
        (None, Some(error)) => Err(failed(error)),
        (None, None) => Err(Problem::of(&codes::BACKUP_NONE, "nothing to restore")),
    }
}

/// `recover`.
pub async fn recover(args: RecoverArgs, global: &Global, output: &Output, world: &World) -> Result<i32, Problem> {
    if let Some(RecoverWord::Plan { survivor, backup }) = args.word {
        return plan::plan(&survivor, backup.as_deref(), output, world).await;
    }
    let (true, Some(folder)) = (args.force_new_cluster, args.data_dir) else {
        return Err(Problem::of(&codes::RECOVER_UNCONFIRMED, "begin with: hsraft recover plan --survivor FOLDER"));
    };
    let sealing_key = match args.sealing_key_file {
        Some(file) => Some(file),
        None => super::certificates::sealing_key_path(global)?,
    };
    let left = raft::archive::inspect_folder(&folder, sealing_key.as_deref(), world).await.map_err(failed)?;
    if args.expect_last_log != Some(left.last.0) {
        let text = format!(
            "the log in {} ends at {}; look at hsraft recover plan, then say --expect-last-log {}",
            folder.display(),
            left.last.0,
            left.last.0
        );
        return Err(Problem::of(&codes::RECOVER_UNCONFIRMED, text));
    }
    if !args.offline_peers_confirmed {
        let answering = left.who_answers(world).await;
        if answering.len() + 1 >= left.quorum() && left.voters.len() > 1 {
            let names: Vec<String> = answering.into_iter().map(|(_, name)| name).collect();
            let text = format!(
                "{} answers: with this member that is a majority of {} voters, and nothing needs to be forced; start this \
                 member instead. If that is certainly somebody else: --offline-peers-confirmed",
                names.join(", "),
                left.voters.len()
            );
            return Err(Problem::of(&codes::RECOVER_NOT_NEEDED, text));
        }
    }
    if !args.acknowledge_data_loss {
        let loss = plan::loss(&[&left], None);
        let text = format!("{loss}\nif that is understood: --acknowledge-data-loss");
        return Err(Problem::of(&codes::RECOVER_UNCONFIRMED, text));
    }
    output.talk(&plan::loss(&[&left], None));
    let (settled, aside) = raft::archive::recover(left, world).await.map_err(failed)?;
    output.done(&format!(
        "new cluster {}, member {}, {} users, {} nodes, same Noise key; the old folder is {}\n\
         never start a member of the old cluster again; next: hsraft serve, then hsraft token create for each new member",
        settled.cluster_id,
        settled.member,
        settled.users,
        settled.nodes,
        aside.display()
    ))?;
    Ok(exit::OK)
}
