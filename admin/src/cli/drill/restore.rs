//! backup-restore: a backup of now, put together in a scratch folder; nothing live is touched.

use std::{collections::BTreeSet, path::PathBuf};

use base64::{Engine, prelude::BASE64_STANDARD};

use state_machine::codes;

use super::{
    ops::Kind,
    run::{Abort, Run},
    words::{Scratch, say, word},
};
use crate::{
    cli::{backup::Saved, problem::Problem},
    files,
};

/// What opens a backup.
#[derive(Clone, Debug, Default)]
pub enum Key {
    #[default]
    None,
    Recovery(PathBuf),
    /// A member's own.
    Sealing(PathBuf),
}

pub async fn restore(run: &mut Run<'_>, repeat: u32) -> Result<(), Abort> {
    let (flag, file) = match &run.settings.key {
        Key::Recovery(file) => ("--recovery-key-file", word(file)),
        Key::Sealing(file) => ("--sealing-key-file", word(file)),
        Key::None => return Err(Abort("name the recovery key: --recovery-key-file FILE".into())),
    };
    let scratch = Scratch::new(&run.stage.id, "restore")?;
    let since = run.diary.now();
    // What is acknowledged before the backup begins must be in it.
    let acknowledged: BTreeSet<String> = {
        let ops = run.diary.ops();
        let written = ops.iter().filter(|op| op.kind == Kind::Write && op.ok && op.answered < since);
        written.map(|op| op.serial.clone()).collect()
    };
    run.watch.note("injected", format!("#{repeat} a backup is made and restored into a scratch folder"));
    let saved: Saved = run.stage.desk.get("/api/v1/cluster/backup").await?;
    let bytes = BASE64_STANDARD
        .decode(&saved.data)
        .map_err(|error| Problem::of(&codes::ANSWER_UNREADABLE, format!("the backup: {error}")))?;
    let full =
        raft::archive::read_full(&bytes.clone().into()).map_err(|why| Problem::of(&codes::BACKUP_DAMAGED, why))?;
    let has: BTreeSet<&str> = full.state.users().values().map(|user| user.name.as_str()).collect();
    let missing = acknowledged.iter().filter(|name| !has.contains(name.as_str())).count() as u64;

    let backup = scratch.path("now.hsfull");
    files::write_bytes(std::path::Path::new(&backup), &bytes)
        .map_err(|error| Problem::of(&codes::FILE_UNWRITABLE, format!("{backup}: {error}")))?;
    let folder = scratch.path("data");
    let words = ["snapshot", "restore", &backup, "--data-dir", &folder, "--name", "drill", flag, &file];
    say(&words, &[]).await?;
    let took = (run.diary.now() - since) / 1000;
    run.value("restore", "ms", took);
    run.value("missing_in_backup", "count", missing);
    let text = format!("restored {} bytes in {took} ms, {missing} of {} missing", bytes.len(), acknowledged.len());
    run.output.talk(&format!("  {text}"));
    run.watch.note("recovered", text);
    run.check(None, None)
}
