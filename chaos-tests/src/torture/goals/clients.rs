//! R3, R4, R5: what devices notice of a member that is gone.

use std::{collections::BTreeSet, time::Duration};

use anyhow::{Context, Result, ensure};
use serde_json::json;
use tokio::time::{Instant, sleep};

use super::Wish;
use crate::{
    client::{Identity, Registered},
    torture::{
        crew::{Crew, Plan},
        ground::{self, Ground},
        guests::{self, Guests, News},
        report::{Figure, Goal},
    },
};

/// A cluster is calm again after so long.
const CALM: Duration = Duration::from_secs(2);
/// Each device of each killed process is a repetition.
const KILLS: usize = 25;
/// Between two keep-alives of a stream, about.
const KEEP_ALIVE: Duration = Duration::from_secs(55);

fn three(wish: &Wish<'_>) -> Plan {
    Plan { program: Some(wish.program.to_owned()), ..Plan::three() }
}

/// New devices come in while one of three addresses is a host that vanished.
pub async fn r3(wish: Wish<'_>) -> Result<Vec<Figure>> {
    const WHAT: &str = "a device registers while one address is dead";
    if let Some(why) = ground::why_no_bridge().await {
        return Ok(vec![Figure::skipped("R3", WHAT, why)]);
    }
    let mut figure = Figure::new("R3", WHAT, Goal::two(1500.0, 3000.0));
    let mut crew = Crew::up(three(&wish), Ground::bridge()).await?;
    let addresses: Vec<String> = crew.seats.iter().map(|seat| seat.address()).collect();
    let leader = crew.leader().await?;
    // Half of the times the dead one led.
    for (half, dead) in [(0, (leader + 1) % 3), (1, leader)] {
        ground::pull(&crew.seats[dead].place, true).await?;
        sleep(CALM).await;
        for number in 0..wish.repeats.div_ceil(2) {
            let identity = Identity::new(&crew.world.entropy, &format!("late-{half}-{number}"));
            let begun = Instant::now();
            let (connection, _) = guests::connect(&crew.world, &addresses, &identity).await?;
            let registered = connection.register(&identity, Some(&crew.auth_key)).await?;
            ensure!(registered == Registered::In, "not let in: {registered:?}");
            let mut stream = connection.stream(&identity, true).await?;
            stream.next().await.context("a first map")?;
            figure.took(begun.elapsed());
        }
        ground::pull(&crew.seats[dead].place, false).await?;
        crew.whole().await?;
    }
    figure.note("until", "first map");
    Ok(vec![figure.judged(wish.repeats)])
}

/// A process dies; the devices whose streams it held have a map from another member.
pub async fn r4(wish: Wish<'_>) -> Result<Vec<Figure>> {
    let mut figure = Figure::new("R4", "process killed: its devices have a map elsewhere", Goal::two(3000.0, 10_000.0));
    let mut crew = Crew::up(three(&wish), Ground::Loopback).await?;
    let mut guests = Guests::invite(&crew, wish.clients).await?;
    let kills = wish.repeats.min(KILLS);
    for round in 0..kills {
        guests.catch_up();
        // The one with the most to lose.
        let busiest = (0..crew.plan.members).max_by_key(|member| guests.at(&crew.seats[*member].address()).len());
        let victim = busiest.context("there are members")?;
        let address = crew.seats[victim].address();
        let whom = guests.at(&address);
        let since = Instant::now();
        crew.kill(victim).await?;
        match guests.moved(&whom, &address, since, Duration::from_secs(60)).await {
            Ok(times) => times.into_iter().for_each(|time| figure.took(time)),
            Err(missing) => {
                figure.fail(format!("round {round}: {missing} of {} devices have no map after 60 s", whom.len()))
            }
        }
        crew.raise().await?;
    }
    figure.note("kills", kills);
    figure.note("emulated", true);
    figure.note("devices", wish.clients);
    Ok(vec![figure.judged(wish.repeats)])
}

/// A host vanishes without a word; its devices notice by their watchdog. The same silence tells the others that its
/// relay is gone.
pub async fn r5(wish: Wish<'_>) -> Result<Vec<Figure>> {
    const WHAT: &str = "host vanished: its devices have a map elsewhere";
    const RELAY: &str = "host vanished: devices elsewhere know a map without its relay";
    if let Some(why) = ground::why_no_bridge().await {
        return Ok(vec![Figure::skipped("R5", WHAT, &why), Figure::skipped("R5b", RELAY, why)]);
    }
    let mut figure = Figure::new("R5", WHAT, Goal::all(95_000.0, 125_000.0, 140_000.0));
    let mut relay = Figure::new("R5b", RELAY, Goal::worst(10_000.0));
    let mut crew = Crew::up(three(&wish), Ground::bridge()).await?;
    // Devices that do not see each other: news of one would be a sign of life to all, and their watchdogs, which bark
    // 120 s after the last word, would bark together. So each stream has only its own keep-alives (every 50 to 59 s), and
    // because the streams were opened all through such a span, the host vanishes at every moment between two of them.
    let apart = json!({ "policy": json!({ "acls": [] }).to_string() });
    crew.ask(0, http::Method::PUT, "/api/v1/policy", Some(&apart)).await?;
    // Each member holds a third; and the victim's are the repetitions.
    let many = (wish.repeats * 4).max(12);
    let mut guests = Guests::invite_over(&crew, many, KEEP_ALIVE).await?;
    guests.catch_up();
    let busiest = (0..crew.plan.members).max_by_key(|member| guests.at(&crew.seats[*member].address()).len());
    let victim = busiest.context("there are members")?;
    let (address, name) = (crew.seats[victim].address(), crew.seats[victim].name.clone());
    let region = region_of(&mut crew, &name).await?;
    let whom: BTreeSet<usize> = guests.at(&address).into_iter().collect();
    let mut elsewhere: BTreeSet<usize> = (0..many).filter(|guest| !whom.contains(guest)).collect();
    let since = Instant::now();
    ground::pull(&crew.seats[victim].place, true).await?;
    let mut away = whom.clone();
    let until = since + Duration::from_secs(200);
    while !away.is_empty() {
        match guests.hear(until).await {
            Some(News::Polled { guest, address: new, at }) if new != address && away.remove(&guest) => {
                figure.took(at - since);
            }
            Some(News::Regions { guest, regions, at }) if !regions.contains(&region) && elsewhere.remove(&guest) => {
                relay.took(at - since);
            }
            Some(_) => {}
            None => break,
        }
    }
    if !away.is_empty() {
        figure.fail(format!("{} of {} devices have no map after 200 s", away.len(), whom.len()));
    }
    figure.note("devices", whom.len());
    figure.note("events", 1);
    figure.note(
        "emulates",
        "tailscaled on a desktop: keep-alives after 30 s, every 15 s, nine of them, no TCP_USER_TIMEOUT; watchdog 120 s",
    );
    ground::pull(&crew.seats[victim].place, false).await?;
    crew.whole().await?;
    let waiting = elsewhere.len();
    relay.note("still_waiting", waiting);
    if waiting > 0 {
        relay.fail(format!("{waiting} devices never had a map without the relay"));
    }
    relay.note("events", 1);
    relay.note("then", "the client measures again within 20 to 26 s");
    Ok(vec![figure.judged(wish.repeats), relay.judged(wish.repeats)])
}

async fn region_of(crew: &mut Crew, name: &str) -> Result<u32> {
    let members = crew.members().await.context("somebody answers")?;
    let row = members.iter().find(|row| row["name"] == name).context("the member is listed")?;
    Ok(row["regionId"].as_u64().context("it has a region")? as u32)
}
