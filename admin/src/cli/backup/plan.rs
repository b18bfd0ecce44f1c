//! `recover plan`: what is left of the members, which to go on with, and exactly what may be lost.

use std::path::PathBuf;

use raft::{
    World,
    archive::{Begin, LeftOver},
};
use serde_json::{Value, json};
use state_machine::{Timestamp, codes};

use super::{failed, shelves};
use crate::cli::{
    Output,
    problem::{Problem, exit},
    table::{Table, span},
};

/// How far the backups of the same cluster lead.
pub struct Archived {
    shelf: String,
    /// Everything in a backup was committed.
    index: u64,
    /// The time of the last command in it.
    at: Timestamp,
    /// Where it stops, when something is damaged or missing.
    stopped: Option<String>,
}

/// The survivor to go on with: the one whose log a majority would have voted for.
fn best<'a>(found: &[&'a LeftOver]) -> Option<&'a LeftOver> {
    found.iter().copied().max_by_key(|left| (left.last.1, left.last.0))
}

/// What may be missing after going on with the best of `found`, in sentences.
pub fn loss(found: &[&LeftOver], archived: Option<&Archived>) -> String {
    let Some(best) = best(found) else { return String::new() };
    let (last, term) = best.last;
    let votes = found.iter().filter(|left| best.voters.contains(&left.member)).count();
    let lost_voters = best.voters.len() - votes.min(best.voters.len());
    let tail = match best.applied < last {
        true => {
            format!("; entries {} to {last} were not yet known to be committed here and are kept too", best.applied + 1)
        }
        false => String::new(),
    };
    let kept = format!("kept: everything up to log index {last} (term {term}){tail}");
    if lost_voters < best.quorum() {
        return format!(
            "{kept}\nlost: nothing that was acknowledged. {lost_voters} of {} voters are missing, fewer than the {} it takes to \
             acknowledge a write, so each acknowledged write is in one of these folders, and this one is the furthest",
            best.voters.len(),
            best.quorum()
        );
    }
    let risk = match archived {
        Some(archive) if archive.index > last => format!(
            "lost for certain, if you go on with this folder: entries {} to {} ({} of them), which the backup has. Restore the backup \
             instead: hsraft snapshot restore. May be lost besides: what was acknowledged after log index {} ({})",
            last + 1,
            archive.index,
            archive.index - last,
            archive.index,
            archive.at
        ),
        Some(archive) => format!(
            "may be lost: only what was acknowledged after log index {last} (last change here {}) without any of these members. The \
             backup ends at {} ({}) and so holds nothing that is missing here",
            best.state.now(),
            archive.index,
            archive.at
        ),
        None => format!(
            "may be lost: whatever the other {lost_voters} voters acknowledged after log index {last} (last change here {}) without \
             these members; further folders (--survivor) or the backups (--backup) tell how much",
            best.state.now()
        ),
    };
    let damage = archived.and_then(|archive| archive.stopped.as_ref());
    let damage = damage.map_or_else(String::new, |why| format!("\nthe backup goes no further because {why}"));
    format!("{kept}\n{risk}{damage}")
}

async fn look_at_backups(
    target: &str,
    cluster: &str,
    output: &Output,
    world: &World,
) -> Result<Option<Archived>, Problem> {
    let mut best: Option<Archived> = None;
    for shelf in shelves(target, world).await? {
        match raft::archive::replay(&shelf, None, Begin::Newest).await {
            Ok(done) if done.head.cluster_id == cluster => {
                let index = done.state.revision().0;
                if best.as_ref().is_none_or(|best| best.index < index) {
                    best = Some(Archived { shelf: shelf.name(), index, at: done.state.now(), stopped: done.stopped });
                }
            }
            Ok(_) => output.talk(&format!("{} is of another cluster", shelf.name())),
            Err(error) => output.talk(&failed(error).to_string()),
        }
    }
    Ok(best)
}

/// `recover plan`.
pub async fn plan(folders: &[PathBuf], backup: Option<&str>, output: &Output, world: &World) -> Result<i32, Problem> {
    let mut found = Vec::new();
    for folder in folders {
        match raft::archive::inspect_folder(folder, None, world).await {
            Ok(left) => found.push(left),
            Err(error) => output.talk(&format!("{}: {error}", folder.display())),
        }
    }
    let found: Vec<&LeftOver> = found.iter().collect();
    let Some(best) = best(&found) else {
        return Err(Problem::of(
            &codes::RECOVER_FOLDERS,
            "none of the folders can be used; restore a backup: hsraft snapshot restore",
        ));
    };
    if found.iter().any(|left| left.cluster_id != best.cluster_id) {
        return Err(Problem::of(&codes::RECOVER_FOLDERS, "the folders are of different clusters"));
    }
    let archived = match backup {
        Some(target) => look_at_backups(target, &best.cluster_id, output, world).await?,
        None => None,
    };
    let mut text = table(&found, world);
    if let Some(archive) = &archived {
        text += &format!("\nbackup {}: up to log index {}, last change {}\n", archive.shelf, archive.index, archive.at);
    }
    let (here, of) = (found.iter().filter(|left| best.voters.contains(&left.member)).count(), best.voters.len());
    let certain = found.iter().map(|left| left.applied).chain(archived.iter().map(|archive| archive.index)).max();
    let loss = loss(&found, archived.as_ref());
    if here >= best.quorum() {
        text += &format!(
            "\n{here} of {of} voters are here: that is a majority, and nothing is lost. Force nothing; start these members on \
             machines that reach each other.\n"
        );
    } else {
        text += &format!(
            "\ngo on with {} ({})\n{loss}\ncertainly committed: up to {}\n\n  hsraft recover --force-new-cluster --data-dir {} \
             --expect-last-log {} --acknowledge-data-loss\n",
            best.name,
            best.folder.display(),
            certain.unwrap_or_default(),
            best.folder.display(),
            best.last.0
        );
    }
    let facts: Vec<Value> = found
        .iter()
        .map(|left| {
            json!({
                "member": left.name, "id": left.member.0, "folder": left.folder, "last_log": left.last.0,
                "term": left.last.1, "applied": left.applied, "best": left.member == best.member,
                "backup_index": archived.as_ref().map(|archive| archive.index),
                "loss": if here >= best.quorum() { "nothing" } else { loss.as_str() },
            })
        })
        .collect();
    output.show_ours(&facts, || text)?;
    Ok(exit::OK)
}

fn table(found: &[&LeftOver], world: &World) -> String {
    let age = |left: &LeftOver| span(world.clock.now_ms().saturating_sub(left.state.now().0));
    let mut table = Table::new(["Member", "Folder", "Last log", "Term", "Applied", "Last change", "Users", "Nodes"]);
    for left in found {
        table.row([
            format!("{} ({})", left.name, left.member),
            left.folder.display().to_string(),
            left.last.0.to_string(),
            left.last.1.to_string(),
            left.applied.to_string(),
            format!("{} ago", age(left)),
            left.state.users().len().to_string(),
            left.state.nodes().len().to_string(),
        ]);
    }
    table.render()
}
