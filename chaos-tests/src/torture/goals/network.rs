//! R7 and its relatives: members that hear each other no more, while clients hear them all.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use anyhow::Result;
use serde_json::json;
use tokio::time::{Instant, sleep};

use super::Wish;
use crate::torture::{
    canaries::{Canaries, Shared},
    crew::{Crew, Plan},
    ground::{self, Ground},
    report::{ENOUGH, Figure, Goal},
    verdict,
    weather::Weather,
};

/// Longer than an election, and long enough for the one cut off to notice.
const CUT_FOR: Duration = Duration::from_millis(2500);
const CALM: Duration = Duration::from_millis(500);
/// A member gives a write up after ten seconds; its client waits longer.
const LONGER: Duration = Duration::from_secs(15);
/// Flapping: so long cut, so long whole.
const FLAP: Duration = Duration::from_secs(1);
const FLAPS: usize = 10;
/// One weather, each way.
struct Storm {
    delay: Duration,
    jitter: Duration,
    loss_percent: u64,
    /// The profile is made for it; whatever is worse is only said.
    judged: bool,
}

const fn storm(delay_ms: u64, loss_percent: u64, judged: bool) -> Storm {
    let (delay, jitter) = (Duration::from_millis(delay_ms), Duration::from_millis(delay_ms / 2));
    Storm { delay, jitter, loss_percent, judged }
}

/// Fault 16: 100 ms ± 50, and one to twenty in a hundred lost; and twice as far, the longest round trip that the profile
/// `wan` is for, and beyond.
const STORMS: [Storm; 5] =
    [storm(50, 1, true), storm(50, 5, true), storm(50, 20, true), storm(100, 5, true), storm(100, 20, false)];
/// How long the weather is bad, and was good before.
const WEATHER: Duration = Duration::from_secs(20);
/// Writers at each member, and how long each rests: people and programs, not one loop that only waits for the round trip.
const CROWD: usize = 40;
const CROWD_PAUSE: Duration = Duration::from_secs(1);

/// The leader is cut from both others: in every second round only what it sends is lost.
pub async fn r7(wish: Wish<'_>) -> Result<Vec<Figure>> {
    const WHAT: &str = "leader cut off: until a write through the others";
    if let Some(why) = ground::why_no_bridge().await {
        return Ok(vec![Figure::skipped("R7", WHAT, why)]);
    }
    let mut back = Figure::new("R7", WHAT, Goal::p99(2000.0));
    // 0.6 s after its lease, which lasts 0.3 s since a majority last answered.
    let mut refused =
        Figure::new("R7b", "leader cut off: until it refuses the write it was given then", Goal::worst(900.0));
    let mut crew = Crew::up(Plan { program: Some(wish.program.to_owned()), ..Plan::three() }, Ground::bridge()).await?;
    let canaries = Canaries::fly(&crew, "r7");
    let mut slowest = (Duration::ZERO, String::new());
    let checked = Arc::new(AtomicUsize::new(0));
    for round in 0..wish.repeats {
        sleep(CALM).await;
        let leader = crew.leader().await?;
        let others: Vec<usize> = (0..crew.plan.members).filter(|member| *member != leader).collect();
        let both_ways = round % 2 == 0;
        // Its client is connected before: how long a connection takes is not asked here.
        let mut api = crew.api(leader);
        api.dial(LONGER).await?;
        for other in &others {
            ground::cut(&crew.seats[leader].place, &crew.seats[*other].place, true).await?;
            if both_ways {
                ground::cut(&crew.seats[*other].place, &crew.seats[leader].place, true).await?;
            }
        }
        let since = Instant::now();
        let stop = Arc::new(AtomicBool::new(false));
        let skeptic = tokio::spawn(doubt(crew.api(leader), canaries.diary.clone(), stop.clone(), checked.clone()));
        let name = format!("to-the-lonely-{round}");
        let lonely = tokio::spawn(async move {
            let asked = Instant::now();
            let answer = api.post("/api/v1/user", &json!({ "name": name }), LONGER).await;
            (answer.map(drop), asked.elapsed())
        });
        let written = through(&canaries.diary, &others, since).await?;
        back.took(written - since);
        sleep((since + CUT_FOR).saturating_duration_since(Instant::now())).await;
        stop.store(true, Ordering::Relaxed);
        skeptic.await?;
        for other in &others {
            ground::cut(&crew.seats[leader].place, &crew.seats[*other].place, false).await?;
            if both_ways {
                ground::cut(&crew.seats[*other].place, &crew.seats[leader].place, false).await?;
            }
        }
        // Asked while it was alone: refused, or written for good once it heard the others again; never in between.
        let (answer, time) = lonely.await?;
        refused.took(time);
        if answer.is_ok() && time < CUT_FOR - CALM {
            back.fail(format!("round {round}: the leader cut off took a write after {time:?}"));
        }
        if time > slowest.0 {
            let said = answer.map_or_else(|error| format!("{error:#}"), |()| "written".to_owned());
            slowest = (time, format!("{}: {said}", if both_ways { "both ways" } else { "one way" }));
        }
        crew.whole().await?;
    }
    let (relatives, diary) = relatives(&mut crew, canaries).await?;
    for what in verdict::broken(&crew, &diary).await? {
        back.fail(what);
    }
    back.note("linearizable_reads_at_the_one_cut_off", checked.load(Ordering::Relaxed));
    back.note("stale", diary.stale.len());
    back.note("acknowledged", diary.writes.len());
    refused.note("one_way", wish.repeats / 2);
    refused.note("slowest", slowest.1);
    let mut figures = vec![back.judged(wish.repeats), refused.judged(wish.repeats)];
    figures.extend(relatives);
    Ok(figures)
}

/// The first answer to a write through one of these that began after `since`.
async fn through(diary: &Shared, members: &[usize], since: Instant) -> Result<Instant> {
    loop {
        let next = diary.until_written(since).await?;
        let first = |at: &super::super::canaries::Write| members.contains(&at.member) && at.begun >= since;
        if let Some(answered) =
            diary.open().writes.iter().filter(|write| first(write)).map(|write| write.answered).min()
        {
            return Ok(answered);
        }
        sleep(Duration::from_millis(2)).await;
        anyhow::ensure!(next.elapsed() < Duration::from_secs(90), "no write through the majority");
    }
}

/// Asks the one cut off for the newest acknowledged write: it may say nothing, but not that there is none.
async fn doubt(mut api: crate::fleet::api::Api, diary: Shared, stop: Arc<AtomicBool>, checked: Arc<AtomicUsize>) {
    while !stop.load(Ordering::Relaxed) {
        sleep(Duration::from_millis(20)).await;
        let Some(newest) = diary.open().writes.last().cloned() else { continue };
        let path = format!("/api/v1/user?name={}&consistency=linearizable", newest.name);
        let Ok(reply) = api.get(&path, Duration::from_secs(1)).await else {
            checked.fetch_add(1, Ordering::Relaxed);
            continue;
        };
        checked.fetch_add(1, Ordering::Relaxed);
        if reply["users"].as_array().is_none_or(Vec::is_empty) {
            diary.open().stale.push(format!("the leader cut off did not know {}", newest.name));
        }
    }
}

/// A follower heard by nobody, two that hear only the third, a link that flaps.
async fn relatives(crew: &mut Crew, canaries: Canaries) -> Result<(Vec<Figure>, super::super::canaries::Diary)> {
    let mut figures = vec![refusals(crew).await?];
    let leader = crew.leader().await?;
    let (one, other) = ((leader + 1) % 3, (leader + 2) % 3);

    let mut figure =
        Figure::new("N18", "what a follower sends is lost: longest time without a write", Goal::worst(2000.0));
    let before = term(crew).await;
    for to in [leader, other] {
        ground::cut(&crew.seats[one].place, &crew.seats[to].place, true).await?;
    }
    let since = Instant::now();
    sleep(CUT_FOR * 2).await;
    figure.took(canaries.diary.stall(since));
    for to in [leader, other] {
        ground::cut(&crew.seats[one].place, &crew.seats[to].place, false).await?;
    }
    crew.whole().await?;
    sleep(CALM).await;
    let changes = term(crew).await - before;
    figure.note("terms", changes);
    if changes > 1 {
        figure.because.push(format!("{changes} new terms, one is the goal"));
    }
    figures.push(figure.judged(1));

    let leader = crew.leader().await?;
    let one = (leader + 1) % 3;
    let mut figure =
        Figure::new("N19", "leader and one follower cut, both hear the third: no write for", Goal::worst(5000.0));
    let before = term(crew).await;
    for (from, to) in [(leader, one), (one, leader)] {
        ground::cut(&crew.seats[from].place, &crew.seats[to].place, true).await?;
    }
    let since = Instant::now();
    sleep(CUT_FOR * 4).await;
    figure.took(canaries.diary.stall(since));
    for (from, to) in [(leader, one), (one, leader)] {
        ground::cut(&crew.seats[from].place, &crew.seats[to].place, false).await?;
    }
    crew.whole().await?;
    let changes = term(crew).await - before;
    figure.note("terms", changes);
    if changes > 2 {
        figure.because.push(format!("{changes} new terms, two a minute are the goal"));
    }
    figures.push(figure.judged(1));

    let leader = crew.leader().await?;
    let mut figure =
        Figure::new("N20", "the leader's link flaps each second: share of time with writes", Goal::default());
    let since = Instant::now();
    for _ in 0..FLAPS {
        ground::pull(&crew.seats[leader].place, true).await?;
        sleep(FLAP).await;
        ground::pull(&crew.seats[leader].place, false).await?;
        sleep(FLAP).await;
    }
    let spent = since.elapsed();
    let silent: Duration = silences(&canaries.diary, since, Duration::from_millis(200));
    let share = 100.0 * (1.0 - silent.as_secs_f64() / spent.as_secs_f64());
    figure.took(canaries.diary.stall(since));
    figure.note("available_percent", share.round());
    if share < 80.0 {
        figure.because.push(format!("available {share:.0} % of the time, 80 % is the goal"));
    }
    crew.whole().await?;
    figures.push(figure.judged(1));

    let diary = canaries.land().await;
    let diary = std::mem::take(&mut *diary.open());
    Ok((figures, diary))
}

/// Fault 16: everything between members is late, and some of it is lost. The profile is `wan`, made for that; what is
/// written is compared with what the same writers wrote just before.
pub async fn n16(wish: Wish<'_>) -> Result<Vec<Figure>> {
    let mut figures = Vec::new();
    for Storm { delay, jitter, loss_percent, judged } in STORMS {
        let there_and_back = format!("{} ms ± {}", 2 * delay.as_millis(), 2 * jitter.as_millis());
        let what = format!(
            "{there_and_back} there and back, {loss_percent} % loss between members: longest time without a write"
        );
        let mut figure = Figure::new("N16", &what, Goal::default());
        let plan = Plan { detours: true, timing: "wan", program: Some(wish.program.to_owned()), ..Plan::three() };
        let mut crew = Crew::up(plan, Ground::Loopback).await?;
        let mut canaries = Canaries::crowd(&crew, "n16", CROWD, CROWD_PAUSE);
        canaries.doubt(&crew);
        sleep(CALM * 4).await;
        let before = term(&mut crew).await;
        let fine = written(&canaries.diary, WEATHER).await;
        crew.relays.turn(Weather { delay, jitter, loss_percent });
        sleep(CALM * 4).await;
        let since = Instant::now();
        let bad = written(&canaries.diary, WEATHER).await;
        figure.took(canaries.diary.stall(since));
        let failed = canaries.diary.failed(&[0, 1, 2], since, Instant::now());
        crew.relays.turn(Weather::default());
        let diary = canaries.land().await;
        crew.whole().await?;
        let diary = std::mem::take(&mut *diary.open());
        for what in verdict::broken(&crew, &diary).await? {
            figure.fail(what);
        }
        let share = 100 * bad / fine.max(1);
        figure.note("writes_a_second_before", fine / WEATHER.as_secs() as usize);
        figure.note("writes_a_second", bad / WEATHER.as_secs() as usize);
        figure.note("throughput_percent", share);
        figure.note("failed_writes", failed.len());
        let mut reasons: BTreeMap<&str, usize> = BTreeMap::new();
        for failure in &failed {
            // Of a refusal its code and status; else what the network said.
            let (_, why) = failure.why.rsplit_once("\"hsr\":").unwrap_or(("", &failure.why));
            *reasons.entry(why.split(',').next().unwrap_or_default()).or_default() += 1;
        }
        if let Some((why, times)) = reasons.into_iter().max_by_key(|(_, times)| *times) {
            figure.note("failed_most", format!("{times} × {why}"));
        }
        figure.note("linearizable_reads", diary.reads);
        figure.note("stale", diary.stale.len());
        figure.note("terms", term(&mut crew).await.saturating_sub(before));
        figure.note("writers", 3 * CROWD);
        figure.note("emulated", "relays between members in this process; a loss is a chunk 300 to 400 ms later");
        if judged && share < 30 {
            figure.because.push(format!("{share} % of the writes of before, 30 % are the goal"));
        }
        figures.push(figure.judged(1));
    }
    Ok(figures)
}

/// How many writes are acknowledged in so long from now.
async fn written(diary: &Shared, span: Duration) -> usize {
    let before = diary.open().writes.len();
    sleep(span).await;
    diary.open().writes.len() - before
}

/// Writes to a leader that is alone, before and after it knows: each is refused, as not written or as unknown.
async fn refusals(crew: &mut Crew) -> Result<Figure> {
    let mut figure =
        Figure::new("R7c", "leader cut off: what it is given each 40 ms, until it refuses", Goal::worst(900.0));
    let leader = crew.leader().await?;
    // Connected before: the first packet after a cable was put back is lost often, and is sent again after a second.
    let mut apis = Vec::new();
    for _ in 0..ENOUGH {
        let mut api = crew.api(leader);
        api.dial(LONGER).await?;
        apis.push(api);
    }
    ground::pull(&crew.seats[leader].place, true).await?;
    let others: Vec<usize> = (0..crew.plan.members).filter(|member| *member != leader).collect();
    for other in &others {
        ground::cut(&crew.seats[leader].place, &crew.seats[*other].place, true).await?;
    }
    ground::pull(&crew.seats[leader].place, false).await?;
    let mut asked = tokio::task::JoinSet::new();
    for (number, mut api) in apis.into_iter().enumerate() {
        asked.spawn(async move {
            sleep(Duration::from_millis(40) * number as u32).await;
            let begun = Instant::now();
            let name = format!("refused-{number}");
            let answer = api.post("/api/v1/user", &json!({ "name": name }), LONGER).await;
            (answer.is_ok(), begun.elapsed())
        });
    }
    while let Some(answer) = asked.join_next().await {
        match answer? {
            (false, time) => figure.took(time),
            (true, time) => figure.fail(format!("the leader cut off took a write after {time:?}")),
        }
    }
    for other in &others {
        ground::cut(&crew.seats[leader].place, &crew.seats[*other].place, false).await?;
    }
    crew.whole().await?;
    Ok(figure.judged(ENOUGH))
}

async fn term(crew: &mut Crew) -> u64 {
    for member in crew.running() {
        if let Some(status) = crew.status(member).await {
            return status["summary"]["term"].as_u64().unwrap_or_default();
        }
    }
    0
}

/// All silences longer than `shortest`, together.
fn silences(diary: &Shared, since: Instant, shortest: Duration) -> Duration {
    let mut answers: Vec<Instant> =
        diary.open().writes.iter().map(|write| write.answered).filter(|answered| *answered >= since).collect();
    answers.push(since);
    answers.sort_unstable();
    answers.windows(2).map(|pair| pair[1] - pair[0]).filter(|silence| *silence > shortest).sum()
}
