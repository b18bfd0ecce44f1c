//! dns-dead-record: a client's list of addresses begins with one that nobody has; as Tailscale's clients it tries the next
//! one 300 ms later (control-protocol facts, section 7), and writes through whoever answered first.

use std::time::Duration;

use futures::{StreamExt, stream::FuturesUnordered};
use serde_json::{Value, json};

use super::{
    canary::{PATIENCE, prefix},
    run::{Abort, Run},
};
use crate::{
    client::{Client, Remote, Target, Trust},
    v1::types::OneUser,
};

/// dnscache.go, fallbackDelay.
const NEXT_AFTER: Duration = Duration::from_millis(300);
/// TEST-NET-1 (RFC 5737): an address no host has, so that packets to it vanish.
const NOBODY: &str = "192.0.2.1";
/// Connections a repeat.
const TRIES: u64 = 10;

pub async fn race(run: &mut Run<'_>, repeat: u32) -> Result<(), Abort> {
    run.watch.note("injected", format!("#{repeat} {TRIES} clients whose first address is dead"));
    for attempt in 0..TRIES {
        let begun = run.diary.now();
        let first = attempt as usize % run.stage.seats.len();
        let mut dead = run.stage.seats[first].url.clone();
        if dead.set_host(Some(NOBODY)).is_err() {
            return Err(Abort(format!("{dead} has no host to replace")));
        }
        let target = Remote { url: dead, api_key: String::new(), trust: Trust::System };
        let nobody = (usize::MAX, Client::new(Target::Remote(target), PATIENCE));
        let others = (0..run.stage.seats.len()).map(|offset| {
            let index = (first + offset) % run.stage.seats.len();
            (index, run.stage.seats[index].canary.clone())
        });
        let mut racing: FuturesUnordered<_> = std::iter::once(nobody)
            .chain(others)
            .enumerate()
            .map(|(place, (index, client))| async move {
                tokio::time::sleep(NEXT_AFTER * place as u32).await;
                client.get::<Value>("/version").await.map(|_| index)
            })
            .collect();
        let mut winner = None;
        while let Some(answered) = racing.next().await {
            if let Ok(index) = answered {
                winner = Some(index);
                break;
            }
        }
        drop(racing);
        let Some(winner) = winner.filter(|index| *index < run.stage.seats.len()) else {
            return Err(Abort("no member answered a client with one dead address".into()));
        };
        let name = format!("{}dns-{repeat}-{attempt}", prefix(&run.stage.id));
        run.stage.seats[winner].canary.post::<OneUser>("/api/v1/user", json!({ "name": name })).await?;
        let took = (run.diary.now() - begun) / 1000;
        run.value("connect", "ms", took);
        run.check(None, None)?;
    }
    run.watch.note("recovered", format!("#{repeat} all were served"));
    Ok(())
}
