//! `leave`: the member that answers is drained, gives its lead away, goes for ever, and takes its data with it.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use clap::Args;
use raft::World;
use state_machine::{MemberId, codes};

use super::{
    Global,
    cluster::{list, remove, set_draining, this_member},
    desk::{self, Desk},
    problem::Problem,
    spans,
};
use crate::cluster::view::{Member, Members, Status};

/// `leave`.
#[derive(Args, Debug)]
pub struct LeaveArgs {
    /// How long its clients may take to go elsewhere
    #[arg(long, default_value = "30s", value_parser = spans::parse)]
    drain_timeout: Duration,
    /// Also when the rest could not go on without it
    #[arg(long)]
    risk_quorum: bool,
    /// When it has left and its process has ended: take its data and keys out of its folder
    #[arg(long)]
    wipe: bool,
    /// The folder of the member, when the configuration file does not say it
    #[arg(long, requires = "wipe", value_name = "FOLDER")]
    data_dir: Option<PathBuf>,
}

/// Where members keep their data when the configuration names no folder.
const FOLDER: &str = "/var/lib/hsraft";
/// A removed process ends within this.
const GONE_WITHIN: Duration = Duration::from_secs(10);
/// A process that drains ends within fifteen seconds, whatever hangs.
const ENDED_WITHIN: Duration = Duration::from_secs(20);
/// Between two looks at whether the clients are gone.
const LOOKS: Duration = Duration::from_millis(500);

/// `leave`.
pub async fn leave(args: LeaveArgs, global: &Global, desk: &Desk, world: &World) -> Result<(), Problem> {
    let mine = this_member(desk).await?;
    let name = mine.name.clone();
    let wiped = match args.wipe {
        true => Some(folder_of(&mine, args.data_dir, global, desk, world).await?),
        false => None,
    };
    let data = match &wiped {
        Some(folder) => format!("everything it kept in {} is deleted", folder.display()),
        None => "its data folder will be worthless".to_owned(),
    };
    if !desk.agreed(&format!("{name} leaves the cluster for ever, and {data}. Go on?")) {
        return super::users::declined(desk, "It stays");
    }
    set_draining(&name, true, desk).await?;
    desk.output.talk(&format!("{name} sends its clients elsewhere"));
    let until = tokio::time::Instant::now() + args.drain_timeout;
    while tokio::time::Instant::now() < until {
        let Members { members, summary } = list(desk).await?;
        let Some(mine) = members.iter().find(|member| member.me) else { break };
        if mine.nodes == 0 && (summary.leader.as_deref() != Some(name.as_str()) || summary.voters == 1) {
            break;
        }
        tokio::time::sleep(LOOKS).await;
    }
    if let Err(problem) = remove(&name, args.risk_quorum, desk).await {
        // Where the member is still there it was refused, and goes on as before.
        match set_draining(&name, false, desk).await {
            Ok(()) => return Err(problem),
            // The process ends as soon as it hears that it was removed, sometimes before it has answered.
            Err(_) if is_gone(desk).await => {}
            Err(_) => return Err(problem),
        }
    }
    let Some(folder) = wiped else {
        return desk.output.done(&format!(
            "{name} has left and its process ends (exit code 14); disable its service and delete its data folder"
        ));
    };
    desk.output.talk(&format!("{name} has left; waiting for its process to end"));
    let rest = wipe(&folder, world).await?;
    let rest = match rest.is_empty() {
        true => String::new(),
        false => format!("; not ours, and left there: {}", rest.join(", ")),
    };
    desk.output.done(&format!("{name} has left, and {} is wiped{rest}; disable its service", folder.display()))
}

/// The folder of this machine's member, surely: what belongs to another must not go with it.
async fn folder_of(
    mine: &Member,
    named: Option<PathBuf>,
    global: &Global,
    desk: &Desk,
    world: &World,
) -> Result<PathBuf, Problem> {
    let folder = match named {
        Some(folder) => folder,
        None => {
            let (file, beside) = desk::config(global.config.as_deref())?;
            let said = file.get("cluster").and_then(|cluster| cluster.get("data_dir")?.as_str().map(str::to_owned));
            said.map_or_else(|| PathBuf::from(FOLDER), |said| beside.join(said))
        }
    };
    let status: Status = desk.client.get("/api/v1/cluster/status").await?;
    let owner = raft::wipe::owner(&*world.disk, &folder).map_err(|error| {
        Problem::of(error.code(), format!("{} cannot be looked at: {error}; nothing was done", folder.display()))
    })?;
    match owner {
        Some((cluster, member)) if cluster == status.cluster_id && member == MemberId(mine.id) => Ok(folder),
        Some((cluster, member)) => Err(Problem::of(
            &codes::START_FOREIGN,
            format!(
                "{} is the folder of member {member} of cluster {cluster}, and {} is member {} of {}; nothing was done; \
                 name its own with --data-dir, on its own machine",
                folder.display(),
                mine.name,
                mine.id,
                status.cluster_id
            ),
        )),
        None => Err(Problem::of(
            &codes::START_NOTHING,
            format!(
                "{} is no member's folder; nothing was done; say --config FILE or --data-dir FOLDER, on the machine of {}",
                folder.display(),
                mine.name
            ),
        )),
    }
}

/// Waits until no process has the folder any more, and takes everything out.
async fn wipe(folder: &Path, world: &World) -> Result<Vec<String>, Problem> {
    let until = tokio::time::Instant::now() + ENDED_WITHIN;
    loop {
        match raft::wipe::wipe(&*world.disk, folder) {
            Ok(rest) => return Ok(rest),
            Err(error) if error.kind() == std::io::ErrorKind::AddrInUse && tokio::time::Instant::now() < until => {
                tokio::time::sleep(LOOKS).await;
            }
            Err(error) => {
                return Err(Problem::of(
                    &codes::FILE_UNWRITABLE,
                    format!(
                        "the member has left, but {} was not wiped: {error}; end its process, then delete the folder",
                        folder.display()
                    ),
                ));
            }
        }
    }
}

/// Whether nobody is at the door any more, or somebody who says of itself that it was removed.
async fn is_gone(desk: &Desk) -> bool {
    let until = tokio::time::Instant::now() + GONE_WITHIN;
    while tokio::time::Instant::now() < until {
        match this_member(desk).await {
            Err(problem) if [&codes::CALL_UNREACHABLE, &codes::NO_LONGER_MEMBER].contains(&problem.code()) => {
                return true;
            }
            _ => tokio::time::sleep(LOOKS).await,
        }
    }
    false
}
