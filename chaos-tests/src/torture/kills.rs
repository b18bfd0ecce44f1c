//! Rounds of kill, freeze and all at once, in an order a seed decides, while canaries fly.

use std::{path::Path, time::Duration};

use anyhow::{Context, Result, ensure};
use tokio::time::{Instant, sleep};

use super::{
    Dice,
    canaries::{Canaries, Shared},
    crew::{Crew, Plan},
    ground::Ground,
    report::{Figure, Goal, Report},
    verdict::{self, FLOOR},
};

/// Rounds one crew goes through; then the next begins with an empty folder.
const ROUNDS_A_CREW: usize = 50;
/// Between two rounds, so that there is a steady state to disturb.
const CALM: Duration = Duration::from_millis(500);
/// Longer than an election.
const NOTICED: Duration = Duration::from_secs(1);
/// Every so many rounds two newcomers race for one token while the fault is on.
const NEWCOMERS_EVERY: usize = 25;

/// What happens to whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    KillLeader,
    KillFollower,
    KillAll,
    FreezeLeader,
    FreezeFollower,
}

impl Fault {
    pub const ALL: [Fault; 5] =
        [Fault::KillLeader, Fault::KillFollower, Fault::KillAll, Fault::FreezeLeader, Fault::FreezeFollower];

    /// How often in twenty rounds.
    const OFTEN: [(Fault, usize); 5] = [
        (Fault::KillLeader, 6),
        (Fault::KillFollower, 5),
        (Fault::KillAll, 5),
        (Fault::FreezeLeader, 3),
        (Fault::FreezeFollower, 1),
    ];

    /// Each kind once; then by twenties, each in an order of its own, so that every kind comes as often as it shall.
    fn plan(rounds: usize, dice: &mut Dice) -> Vec<Fault> {
        let twenty = || Fault::OFTEN.iter().flat_map(|(fault, often)| std::iter::repeat_n(*fault, *often)).collect();
        let mut plan = Vec::new();
        if rounds < 20 {
            plan.extend(Fault::ALL);
        }
        while plan.len() < rounds {
            plan.extend(dice.shuffled(twenty()));
        }
        plan.truncate(rounds);
        plan
    }

    fn figure(self) -> Figure {
        match self {
            Fault::KillLeader => {
                Figure::new("R1", "leader killed: longest time without a write", Goal::all(600.0, 1000.0, 2000.0))
            }
            Fault::KillFollower => {
                Figure::new("R2", "follower killed: writes through the others in the second after", Goal::default())
            }
            Fault::KillAll => {
                Figure::new("R9", "all killed: from the last start to the first write", Goal::worst(15_000.0))
            }
            Fault::FreezeLeader => {
                Figure::new("F4", "leader frozen: longest time without a write", Goal::all(600.0, 1000.0, 2000.0))
            }
            Fault::FreezeFollower => {
                Figure::new("F4b", "follower frozen: longest time without a write", Goal::default())
            }
        }
    }
}

/// What a run is asked to do.
pub struct Wish<'a> {
    pub rounds: usize,
    pub seed: u64,
    pub program: Option<&'a Path>,
    /// Only these faults, in turn; empty: all, as the dice say.
    pub only: &'a [Fault],
    /// Repetitions without which a figure is void.
    pub enough: usize,
}

/// What the rounds found, figure by figure.
struct Book {
    figures: Vec<(Fault, Figure)>,
    calm: Vec<Duration>,
    kills: usize,
    acknowledged: usize,
    reads: usize,
    races: usize,
    tokens: usize,
}

/// All rounds; figures and the count of what was kept go to the report. An error is a fault of the torture itself, or
/// a cluster that did not come back.
pub async fn run(wish: &Wish<'_>, report: &mut Report) -> Result<()> {
    let mut dice = Dice(wish.seed);
    let plan = Fault::plan(wish.rounds, &mut dice);
    let figures = Fault::ALL.iter().map(|fault| (*fault, fault.figure())).collect();
    let mut book = Book { figures, calm: Vec::new(), kills: 0, acknowledged: 0, reads: 0, races: 0, tokens: 0 };
    let mut kept = Figure::new("KEPT", "acknowledged writes, one-use keys and tokens", Goal::default());
    let mut round = 0;
    while round < wish.rounds {
        let program = wish.program.map(Path::to_owned);
        let mut crew = Crew::up(Plan { spare: 2, program, ..Plan::three() }, Ground::Loopback).await?;
        let canaries = Canaries::fly(&crew, &format!("c{round}"));
        let until = wish.rounds.min(round + ROUNDS_A_CREW);
        while round < until {
            let fault = match wish.only {
                [] => plan[round],
                only => only[round % only.len()],
            };
            let before = canaries.diary.open().writes.len();
            let broken = one_round(&mut crew, fault, round, &mut dice, &canaries.diary, &mut book).await;
            broken.with_context(|| format!("round {round}, {fault:?}, seed {}\n{}", wish.seed, crew.logs()))?;
            let written = canaries.diary.open().writes.len() - before;
            println!("round {round} (seed {}): {fault:?}, {written} writes acknowledged", wish.seed);
            if written < FLOOR {
                kept.fail(format!("VOID: only {written} writes in round {round}, at least {FLOOR} are needed"));
            }
            round += 1;
        }
        let diary = canaries.land().await;
        crew.raise().await?;
        let diary = std::mem::take(&mut *diary.open());
        for broken in verdict::broken(&crew, &diary).await? {
            kept.fail(format!("{broken} (seed {})", wish.seed));
        }
        book.acknowledged += diary.writes.len();
        book.reads += diary.reads;
        book.races += diary.races.len();
    }
    settle(book, kept, wish, report);
    Ok(())
}

fn settle(mut book: Book, mut kept: Figure, wish: &Wish<'_>, report: &mut Report) {
    book.calm.sort_unstable();
    let calm_p99 = book.calm.get((book.calm.len() * 99 / 100).min(book.calm.len().saturating_sub(1)));
    let calm_ms = calm_p99.copied().unwrap_or_default().as_secs_f64() * 1e3;
    for (fault, mut figure) in book.figures {
        if fault == Fault::KillFollower {
            // Nothing may fail, and the slowest hundredth may be 50 ms slower than in the calm before.
            figure.goal = Goal::p99(calm_ms + 50.0);
            figure.note("calm_p99_ms", calm_ms.round());
        }
        let asked = wish.only.is_empty() || wish.only.contains(&fault);
        if asked {
            // A freeze has no goal of its own number; kinds that seldom came up are judged by what there is.
            let enough = if matches!(fault, Fault::FreezeLeader | Fault::FreezeFollower) { 1 } else { wish.enough };
            report.add(figure.judged(enough));
        }
    }
    kept.note("kills", book.kills);
    kept.note("acknowledged", book.acknowledged);
    kept.note("linearizable_reads", book.reads);
    kept.note("keys_raced_for", book.races);
    kept.note("tokens_raced_for", book.tokens);
    if !matches!(kept.verdict, super::report::Verdict::Fail) {
        kept.note("lost_or_used_twice", 0);
    }
    report.add(kept.judged(0));
}

async fn one_round(
    crew: &mut Crew,
    fault: Fault,
    round: usize,
    dice: &mut Dice,
    diary: &Shared,
    book: &mut Book,
) -> Result<()> {
    let calm_since = Instant::now();
    sleep(CALM).await;
    let leader = crew.leader().await?;
    let members = crew.plan.members;
    let follower = (leader + 1 + dice.below(members - 1)) % members;
    let everybody: Vec<usize> = (0..members).collect();
    book.calm.extend(diary.latencies(&everybody, calm_since, Instant::now() - CALM / 5));
    let newcomers = if round % NEWCOMERS_EVERY == NEWCOMERS_EVERY - 1 {
        Some(crew.token((leader + 1) % members, "learner", "").await?)
    } else {
        None
    };
    if let Some((token, _)) = &newcomers {
        race_for_a_token(crew, token, follower)?;
    }

    let mut since = Instant::now();
    let victim = if matches!(fault, Fault::KillLeader | Fault::FreezeLeader) { leader } else { follower };
    let figure = &mut book.figures.iter_mut().find(|(kind, _)| *kind == fault).expect("all kinds are listed").1;
    match fault {
        Fault::KillLeader | Fault::KillFollower => {
            crew.kill(victim).await?;
            book.kills += 1;
            // Whoever notices at all notices within this time; then the next answer ends the stall.
            sleep(NOTICED).await;
            diary.until_written(Instant::now()).await?;
        }
        Fault::FreezeLeader | Fault::FreezeFollower => {
            crew.signal(victim, "-STOP").await?;
            sleep(NOTICED + Duration::from_millis(dice.below(2000) as u64)).await;
            diary.until_written(Instant::now()).await?;
            crew.signal(victim, "-CONT").await?;
        }
        Fault::KillAll => {
            for member in &everybody {
                crew.signal(*member, "-KILL").await?;
            }
            for member in &everybody {
                crew.exit(*member, NOTICED * 20).await?;
            }
            book.kills += members;
            for member in dice.shuffled(everybody.clone()) {
                sleep(Duration::from_millis(dice.below(200) as u64)).await;
                crew.start(member)?;
            }
            since = Instant::now();
        }
    }
    match fault {
        Fault::KillLeader | Fault::FreezeLeader | Fault::FreezeFollower => figure.took(diary.stall(since)),
        Fault::KillFollower => {
            let others: Vec<usize> = everybody.iter().copied().filter(|member| *member != victim).collect();
            let failed = diary.failed(&others, since, since + NOTICED);
            let before = figure.notes.get("failed_writes").and_then(|count| count.as_u64()).unwrap_or_default();
            figure.note("failed_writes", before + failed.len() as u64);
            for failure in failed {
                figure.fail(format!("a write through {} failed: {}", crew.seats[failure.member].name, failure.why));
            }
            diary.latencies(&others, since, since + NOTICED).into_iter().for_each(|time| figure.took(time));
        }
        Fault::KillAll => {
            figure.took(diary.until_written(since).await? - since);
        }
    }
    if newcomers.is_some() {
        settle_the_race(crew).await?;
        book.tokens += 1;
    }
    crew.raise().await
}

/// Both spare seats ask with the same token, at a member that survives; one of them may come in.
fn race_for_a_token(crew: &mut Crew, token: &str, at: usize) -> Result<()> {
    let place = &crew.seats[at].place;
    let address = format!("{}:{}", place.host, place.peer);
    for seat in [crew.plan.members, crew.plan.members + 1] {
        crew.join(seat, &address, token, &[], &[])?;
    }
    Ok(())
}

/// One was let in and the other refused for good; then both go, folder and all.
async fn settle_the_race(crew: &mut Crew) -> Result<()> {
    let seats = [crew.plan.members, crew.plan.members + 1];
    crew.raise_without(&seats).await?;
    let deadline = Instant::now() + super::crew::PATIENCE;
    let refused = loop {
        let ended: Vec<usize> = seats.iter().copied().filter(|seat| matches!(crew.ended(*seat), Ok(Some(_)))).collect();
        ensure!(ended.len() < 2, "nobody came in with a fresh token:\n{}", crew.logs());
        if let [refused] = ended[..] {
            break refused;
        }
        ensure!(Instant::now() < deadline, "two members run with one token:\n{}", crew.logs());
        sleep(Duration::from_millis(50)).await;
    };
    let status = crew.ended(refused)?;
    let token_refused = status.and_then(|status| status.code()) == Some(10);
    ensure!(token_refused, "the second with a token ended with {status:?}:\n{}", crew.log_end(refused));
    let admitted = seats[usize::from(refused == seats[0])];
    crew.seated(admitted).await?;
    crew.dismiss(admitted).await?;
    crew.forget(refused)
}
