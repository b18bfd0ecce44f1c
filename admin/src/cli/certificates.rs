//! `cert`, `key`: certificates of members and for clients, and what seals the secrets.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use clap::{Args, Subcommand};
use raft::World;
use serde_json::json;
use state_machine::codes;

use super::{
    Global, Output,
    desk::{self, Desk},
    problem::Problem,
    spans,
    table::{Table, moment},
};
use crate::cluster::certificates::{Certificates, Renewed, Resealed, SealingKeyRotated};

/// What can be done with certificates.
#[derive(Debug, Subcommand)]
pub enum CertWord {
    /// Who shows which certificate and until when: members, authorities, clients
    #[command(alias = "list", after_help = "Example:\n  hsraft cert status -o json | jq '.members[].daysLeft'")]
    Status,
    /// Give a member a new certificate now; it happens by itself at two thirds of its life
    #[command(after_help = "Example:\n  hsraft cert renew hs2")]
    Renew {
        /// Name or id; without it the member that answers
        member: Option<String>,
    },
    /// Replace the members' certificate authority while they serve; asked again it goes on waiting
    #[command(after_help = "Example:\n  hsraft cert rotate-ca --wait 5m")]
    RotateCa(RotateArgs),
}

/// `cert rotate-ca`.
#[derive(Args, Debug)]
pub struct RotateArgs {
    /// How long to wait until the last member has moved; it goes on without waiting, too
    #[arg(long, default_value = "1m", value_parser = spans::parse)]
    wait: Duration,
}

/// What can be done with data keys.
#[derive(Debug, Subcommand)]
pub enum KeyWord {
    /// Make a new data key and seal all secrets of the cluster under it, while members serve
    #[command(after_help = "Example:\n  hsraft key rotate\n  hsraft key rotate --sealing-key")]
    Rotate {
        /// Also give every member another sealing key, and make another recovery key: it is shown this once
        #[arg(long)]
        sealing_key: bool,
    },
    /// Bring the sealing key to where the configuration looks for it, so that this machine's member can start
    #[command(
        after_help = "Example:\n  hsraft key unlock /mnt/usb/sealing.key --config /etc/hsraft/config.yaml && systemctl start hsraft"
    )]
    Unlock {
        /// The file `sealing.key` of a member, or a copy of it
        file: PathBuf,
        /// Where to; without it what cluster.sealing_key_path of the configuration says
        #[arg(long, value_name = "FILE")]
        to: Option<PathBuf>,
    },
}

/// `cluster.sealing_key_path`: where this machine's member looks for its sealing key when that is not its folder.
pub fn sealing_key_path(global: &Global) -> Result<Option<PathBuf>, Problem> {
    let (config, beside) = desk::config(global.config.as_deref())?;
    let said = config.get("cluster").and_then(|cluster| cluster.get("sealing_key_path")?.as_str().map(str::to_owned));
    Ok(said.map(|said| beside.join(said)))
}

/// `key unlock`: needs no member; none can run without the key.
pub fn unlock(
    file: &Path,
    to: Option<PathBuf>,
    global: &Global,
    output: &Output,
    world: &World,
) -> Result<(), Problem> {
    let to = match to {
        Some(to) => to,
        None => sealing_key_path(global)?.ok_or_else(|| {
            Problem::of(
                &codes::FLAG_MISSING,
                "the configuration has no cluster.sealing_key_path: members find the key in their data folder; \
                 set it first, or say --to FILE",
            )
        })?,
    };
    let unreadable = |why: String| Problem::of(&codes::FILE_UNREADABLE, format!("{}: {why}", file.display()));
    let bytes = world.disk.read(file).map_err(|error| unreadable(error.to_string()))?;
    let bytes =
        bytes.ok_or_else(|| Problem::of(&codes::FILE_MISSING, format!("there is no file {}", file.display())))?;
    let key = raft::archive::SealingKey::from_bytes(&bytes).ok_or_else(|| {
        Problem::of(
            &codes::RECOVERY_KEY_FILE,
            format!("{} is no sealing key: it has {} bytes and not 32", file.display(), bytes.len()),
        )
    })?;
    let unwritable = |error| Problem::of(&codes::FILE_UNWRITABLE, format!("{}: {error}", to.display()));
    if let Some(folder) = to.parent() {
        world.disk.create_dir_all(folder).map_err(unwritable)?;
    }
    world.disk.write(&to, key.bytes()).map_err(unwritable)?;
    output.done(&format!("The key lies in {}; now start the member", to.display()))
}

/// Between two looks at who has moved.
const LOOKS: Duration = Duration::from_millis(300);

/// `cert …`.
pub async fn cert(word: CertWord, desk: &Desk) -> Result<(), Problem> {
    match word {
        CertWord::Status => {
            let status = look(desk).await?;
            desk.output.show_ours(&status, || page(&status))
        }
        CertWord::Renew { member } => {
            let wish = json!({ "member": member.unwrap_or_default() });
            let renewed: Renewed = desk.client.post("/api/v1/cluster/certificates/renew", wish).await?;
            let until = moment(renewed.not_after).unwrap_or_default();
            desk.output.done(&format!("{} shows certificate {} until {until}", renewed.member, renewed.serial))
        }
        CertWord::RotateCa(args) => rotate(args, desk).await,
    }
}

/// `key …`.
pub async fn key(word: KeyWord, desk: &Desk) -> Result<(), Problem> {
    match word {
        KeyWord::Rotate { sealing_key: true } => {
            let question = "Replace the sealing key of all members? Copies of it open nothing new any more, and there will \
                            be a new recovery key to be written down.";
            if !desk.agreed(question) {
                return super::users::declined(desk, "Nothing replaced");
            }
            let done: SealingKeyRotated = desk.client.post("/api/v1/cluster/secrets/sealing-key", json!({})).await?;
            desk.output.text(&done.recovery_key)?;
            desk.output.talk(&format!(
                "That is the new recovery key: write it down, then: hsraft recovery-key confirm hsrk1-…\n\
                 {} secrets are sealed under data key {} and another sealing key, which every member has. Copies of the old \
                 sealing.key open backups of before only: where you keep one, keep the new one as well. The recovery key of \
                 before opens backups of before.",
                done.secrets, done.data_key
            ));
            Ok(())
        }
        KeyWord::Rotate { sealing_key: false } => {
            let done: Resealed = desk.client.post("/api/v1/cluster/secrets/reseal", json!({})).await?;
            desk.output.done(&format!("{} secrets are sealed under data key {}", done.secrets, done.data_key))
        }
        KeyWord::Unlock { .. } => unreachable!("carried out without a desk"),
    }
}

async fn look(desk: &Desk) -> Result<Certificates, Problem> {
    desk.client.get("/api/v1/cluster/certificates").await
}

async fn rotate(args: RotateArgs, desk: &Desk) -> Result<(), Problem> {
    let before = look(desk).await?;
    if before.rotation.is_none() {
        let question = "Replace the members' certificate authority? Join tokens made before become worthless.";
        if !desk.agreed(question) {
            return super::users::declined(desk, "Nothing replaced");
        }
        desk.client.post::<Certificates>("/api/v1/cluster/certificates/rotate", json!({})).await?;
    }
    let until = tokio::time::Instant::now() + args.wait;
    let mut said = String::new();
    loop {
        let Some(rotation) = look(desk).await?.rotation else { break };
        let line = format!("waiting for {}", rotation.waiting_for.join(", "));
        if said != line {
            desk.output.talk(&line);
            said = line;
        }
        if tokio::time::Instant::now() > until {
            let names = rotation.waiting_for.join(", ");
            let text = format!(
                "the new authority signs, and the old one is believed until {names} moved; start what is down, or take it out with: \
                 hsraft member remove; then ask again: hsraft cert rotate-ca"
            );
            return Err(Problem::of(&codes::ROTATION_UNDER_WAY, text));
        }
        tokio::time::sleep(LOOKS).await;
    }
    desk.output
        .done("Every member shows a certificate of the new authority; the old one is believed by nobody any more")
}

fn dash(text: &str) -> String {
    if text.is_empty() { "-".into() } else { text.into() }
}

/// The first half is enough for eyes.
fn short(fingerprint: &str) -> String {
    dash(fingerprint.get(..16).unwrap_or(fingerprint))
}

fn left(days: Option<u64>) -> String {
    days.map_or_else(|| "-".into(), |days| format!("{days}d"))
}

fn page(status: &Certificates) -> String {
    let mut page = String::from("Between members\n");
    let mut table = Table::new(["Member", "Serial", "Issuer", "Ends", "Left", "Believes"]);
    for row in &status.members {
        let trusts: Vec<String> = row.trusts.iter().map(|authority| short(authority)).collect();
        table.row([
            row.name.clone(),
            dash(&row.serial),
            short(&row.issuer),
            moment(row.not_after).unwrap_or_else(|| "-".into()),
            left(row.days_left),
            dash(&trusts.join(" ")),
        ]);
    }
    page += &table.render();
    page += "\nTheir authorities\n";
    let mut table = Table::new(["Generation", "Fingerprint", "Ends", "Left", "Signs"]);
    for row in &status.authorities {
        table.row([
            row.generation.to_string(),
            short(&row.fingerprint),
            moment(row.not_after).unwrap_or_default(),
            left(Some(row.days_left)),
            if row.signs { "yes".into() } else { "no, on its way out".to_owned() },
        ]);
    }
    page += &table.render();
    page += "\nFor clients\n";
    let mut table = Table::new(["Member", "From", "Names", "Issuer", "Ends", "Left"]);
    for row in &status.clients {
        table.row([
            row.member.clone(),
            if row.source == "none" { "plain HTTP".into() } else { row.source.clone() },
            dash(&row.names.join(" ")),
            dash(&row.issuer),
            moment(row.not_after).unwrap_or_else(|| "-".into()),
            left(row.days_left),
        ]);
    }
    page += &table.render();
    if !status.fetched.is_empty() {
        page += "\nFetched by the cluster (ACME)\n";
        let mut table = Table::new(["Name", "State", "By", "Renewed at", "Wanted by", "Failures", "Again at"]);
        for row in &status.fetched {
            table.row([
                row.name.clone(),
                row.state.clone(),
                row.challenge.clone(),
                moment(row.renew_at).unwrap_or_else(|| "-".into()),
                row.wanted_by.join(" "),
                row.failures.to_string(),
                moment(row.retry_at).unwrap_or_else(|| "-".into()),
            ]);
        }
        page += &table.render();
    }
    for warning in &status.warnings {
        page += &format!("! {warning}\n");
    }
    page
}
