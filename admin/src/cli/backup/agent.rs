//! `snapshot agent status`: who keeps backups where, and what might be missing now.

use serde_json::json;

use crate::{
    cli::{
        desk::Desk,
        problem::{Problem, exit},
        table::{Table, moment, span},
    },
    cluster::view::{BACKUP_OLD, Backup, Members},
};

/// What there is to do, and when.
const SCHEDULE: &str =
    "log every 10 s, full every hour, restored on trial every week; kept: 24 h, 7 d, 4 w of fulls, 7 d of log";

/// The result is the exit code: 1 when nobody keeps a backup or more than a minute might be missing.
pub async fn status(desk: &Desk) -> Result<i32, Problem> {
    let reply: Members = desk.client.get("/api/v1/cluster/members").await?;
    let backups: Vec<(&str, &Backup)> =
        reply.members.iter().filter_map(|member| Some((member.name.as_str(), member.backup.as_ref()?))).collect();
    let behind_ms = backups.iter().filter_map(|(_, backup)| backup.behind_ms).min();
    let is_fine = behind_ms.is_some_and(|behind| u128::from(behind) <= BACKUP_OLD.as_millis());
    let facts = json!({
        "schedule": SCHEDULE,
        "rpo_ms": behind_ms,
        "fine": is_fine,
        "members": backups.iter().map(|(name, backup)| json!({ "name": name, "backup": backup })).collect::<Vec<_>>(),
    });
    desk.output.show_ours(&facts, || {
        let mut table =
            Table::new(["Member", "Place", "Does it", "Archived", "Log index", "Full", "Restored on trial", "Problem"]);
        for (name, backup) in &backups {
            let when =
                |at| moment(Some(at).filter(|at: &state_machine::Timestamp| at.0 > 0)).unwrap_or_else(|| "-".into());
            let problem = if backup.error.is_empty() { &backup.trial_error } else { &backup.error };
            table.row([
                (*name).to_owned(),
                backup.place.clone(),
                if backup.acting { "yes" } else { "stands by" }.into(),
                when(backup.archived_at),
                if backup.index == 0 { "-".into() } else { backup.index.to_string() },
                when(backup.full_at),
                when(backup.verified_at),
                if problem.is_empty() { "-".into() } else { problem.clone() },
            ]);
        }
        let now = match behind_ms {
            Some(behind) => format!("might be missing now: the last {}\n", span(behind)),
            None if backups.is_empty() => {
                "nobody keeps a backup: set cluster.backup_dir or cluster.backup_url\n".to_owned()
            }
            None => "nothing was archived yet\n".to_owned(),
        };
        format!("{}{SCHEDULE}\n{now}", table.render())
    })?;
    Ok(if is_fine { exit::OK } else { exit::FAILED })
}
