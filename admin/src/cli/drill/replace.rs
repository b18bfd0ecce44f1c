//! node-replace: a member whose disk is gone is replaced by an empty one. In a laboratory.

use std::time::Duration;

use serde_json::json;
use tokio::time::Instant;

use state_machine::codes;

use super::run::{Abort, Run};
use crate::{
    cli::problem::Problem,
    cluster::{tokens::NewToken, view::Members},
    files,
    lab::process::{self, Begin},
};

/// A member that is gone must have been silent for a while before another may take its place.
const SILENT: Duration = Duration::from_secs(12);
/// Goal R8.
const PATIENCE: Duration = Duration::from_secs(180);

pub async fn replace(run: &mut Run<'_>, target: usize, repeat: u32) -> Result<(), Abort> {
    let place = run.stage.place(target).ok_or_else(|| Abort("this drill needs a laboratory: --lab DIR".into()))?;
    let name = run.stage.seats[target].name.clone();
    process::kill(&place)?;
    let since = run.injected(target, repeat, "its process was killed and its data folder removed");
    if !process::ended(&place, Duration::from_secs(5)).await {
        return Err(Abort(format!("{name} was killed and still runs")));
    }
    files::remove_all(&place.data)
        .map_err(|error| Problem::of(&codes::FILE_UNWRITABLE, format!("{}: {error}", place.data.display())))?;
    run.rest(SILENT, Some(target)).await?;

    let token: NewToken =
        run.stage.desk_besides(target).post("/api/v1/cluster/tokens", json!({ "name": name, "ttlSecs": 600 })).await?;
    let address = token.addresses.iter().find(|address| **address != run.stage.seats[target].peer_address);
    let address = address.cloned().ok_or_else(|| Abort("no member to join at".into()))?;
    let joining = run.diary.now();
    run.watch.note("joins", format!("#{repeat} an empty {name} joins at {address}"));
    process::start(&place, Begin::Replace { address, token: token.token, name: name.clone() })?;
    let begun = Instant::now();
    loop {
        let members = run.stage.desk_besides(target).get::<Members>("/api/v1/cluster/members").await;
        let votes = members.is_ok_and(|reply| {
            reply
                .members
                .iter()
                .any(|one| one.name == name && one.role == "voter" && one.id != run.stage.seats[target].id)
        });
        if votes {
            break;
        }
        run.check(Some(target), None)?;
        if begun.elapsed() > PATIENCE {
            return Err(Abort(format!(
                "the new {name} does not vote after {} s; its log: {}",
                PATIENCE.as_secs(),
                place.log.display()
            )));
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let took = (run.diary.now() - joining) / 1000;
    run.value("voter_again", "ms", took);
    let failed =
        super::ops::failures(&run.diary.ops(), super::ops::Kind::Write, since, run.diary.now(), Some(target)).0;
    run.value("write_errors", "count", failed);
    run.watch.note("recovered", format!("#{repeat} the new {name} votes, {took} ms after it began to join"));
    run.output.talk(&format!("  the new {name} votes after {took} ms"));
    match run.stage.well(run.settings.patience).await {
        Some(_) => Ok(()),
        None => Err(Abort("the cluster is not well with its new member".into())),
    }
}
