//! One run on a cluster: canaries, then break, watch, heal, again and again; then count what is there.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use serde_json::json;
use tokio::time::Instant;

use super::{
    canary::{self, Canaries, Diary, Found, Load},
    catalogue::{Act, Drill},
    judge::{self, Facts, Figure},
    ops::{self, Kind},
    stage::Stage,
    watch::{Event, Watch},
};
use crate::{
    cli::{Output, problem::Problem},
    client::Client,
    cluster::drills::Look,
};

/// How a run shall be.
#[derive(Clone, Debug)]
pub struct Settings {
    pub repeats: u32,
    /// How long something stays broken.
    pub hold: Duration,
    /// Undisturbed canaries before the first fault: what is normal.
    pub steady: Duration,
    /// Between healing and the next fault.
    pub calm: Duration,
    pub load: Load,
    pub slow_by: Duration,
    pub patience: Duration,
    /// What opens a backup; backup-restore only.
    pub key: super::restore::Key,
}

/// What a run came to.
#[derive(Debug, Default)]
pub struct Measured {
    pub steady_rate: f64,
    pub steady_p50_us: u64,
    pub steady_p99_us: u64,
    pub figures: BTreeMap<String, Figure>,
    pub events: Vec<Event>,
    pub aborted: Option<String>,
    pub found: Found,
    pub stale: u64,
    /// Acknowledged writes a second, outages left out.
    pub rate: f64,
    pub errors: BTreeMap<String, u64>,
    pub elections: usize,
    pub terms: (u64, u64),
    /// Name, revision and hash of each member's state, at rest.
    pub hashes: Vec<(String, u64, String)>,
    pub ops: Vec<ops::Op>,
    /// How many members there should be in it.
    pub members: usize,
    /// The drill's goals say that the newest writes may be gone, and no more are.
    pub loss_allowed: bool,
    /// Canary users that could not be removed.
    pub left_behind: usize,
    /// Members that were broken.
    pub targets: Vec<String>,
}

/// A run under way.
pub struct Run<'a> {
    pub stage: &'a Stage,
    pub drill: &'a Drill,
    pub settings: &'a Settings,
    pub output: &'a Output,
    pub diary: Arc<Diary>,
    pub watch: Watch,
    values: BTreeMap<&'static str, (&'static str, Vec<u64>)>,
    targets: Vec<String>,
    /// Microseconds in which writes were out.
    outages: u64,
    pub names: Vec<String>,
    steady_p99: u64,
}

/// Why a run does not go on.
#[derive(Debug)]
pub struct Abort(pub String);

impl From<Problem> for Abort {
    fn from(problem: Problem) -> Abort {
        Abort(problem.to_string())
    }
}

/// How often the driver looks whether it is over, or too much.
const LOOK: Duration = Duration::from_millis(25);
/// A hand-over and what follows from it is over by then.
const TRANSFER_WINDOW_US: u64 = 2_000_000;
/// Three times R4's goal.
const CLIENTS_BACK_US: u64 = 30_000_000;
/// R7: the old leader refuses 0.6 s after its lease at the latest; a lease lasts as long as an election, 0.3 s.
const OLD_LEADER_US: u64 = 900_000;

/// Runs a drill whose session is open. Always heals; only `Err` when not even the canaries could be started.
pub async fn run(stage: &mut Stage, drill: &Drill, settings: &Settings, output: &Output) -> Result<Measured, Problem> {
    let canaries = Canaries::start(stage, settings.load);
    let diary = canaries.diary.clone();
    let watch = Watch::start(stage, &diary);
    let names = stage.seats.iter().map(|seat| seat.name.clone()).collect();
    let mut run = Run {
        stage,
        drill,
        settings,
        output,
        diary,
        watch,
        values: BTreeMap::new(),
        targets: Vec::new(),
        outages: 0,
        names,
        steady_p99: 0,
    };
    let mut measured = Measured::default();
    let went = tokio::select! { biased;
        went = run.all(&mut measured) => went,
        _ = tokio::signal::ctrl_c() => Err(Abort("the operator stopped it".into())),
    };
    if let Err(Abort(why)) = went {
        output.talk(&format!("ABORTED: {why}; healing"));
        run.watch.note("aborted", why.clone());
        measured.aborted = Some(why);
    }
    run.stage.heal().await;
    if run.stage.well(run.settings.patience).await.is_none() {
        let why = "the cluster is not well again: hsraft status says what it lacks".to_owned();
        run.watch.note("unwell", why.clone());
        measured.aborted.get_or_insert(why);
    }
    let end = run.diary.now();
    let ours =
        run.values.into_iter().filter_map(|(name, (unit, values))| Some((name.into(), Figure::of(unit, values)?)));
    measured.figures = ours.collect();
    measured.targets = run.targets;
    {
        let sight = run.watch.sight();
        measured.elections = sight.leaders.len().saturating_sub(1);
        let term = |leader: Option<&(u64, u64, String)>| leader.map_or(0, |(_, term, _)| *term);
        measured.terms = (term(sight.leaders.first()), term(sight.leaders.last()));
        measured.events = sight.events.clone();
    }
    let outages = run.outages;
    drop(run.watch);
    let diary = canaries.stop().await;
    let ops = diary.ops().clone();
    measured.rate = ops::rate(&ops, Kind::Write, 0, end.saturating_sub(outages));
    measured.stale = ops.iter().filter(|op| op.stale).count() as u64;
    for (kind, name) in [(Kind::Write, "writes"), (Kind::Read, "reads"), (Kind::Register, "registrations")] {
        let failed = ops.iter().filter(|op| op.kind == kind && !op.ok).count() as u64;
        measured.errors.insert(name.into(), failed);
    }
    count(stage, &diary, &ops, &mut measured, output).await?;
    measured.ops = ops;
    Ok(measured)
}

/// Compares every acknowledged serial and the members' states, then removes what canaries made.
async fn count(
    stage: &Stage,
    diary: &Diary,
    ops: &[ops::Op],
    measured: &mut Measured,
    output: &Output,
) -> Result<(), Problem> {
    output.talk("canaries are still; comparing what each member has");
    let mut have = Vec::new();
    let mut all = Vec::new();
    for seat in stage.seats.iter() {
        let users = canary::users(seat, &stage.id).await?;
        have.push((seat.name.clone(), users.iter().map(|(_, name)| name.clone()).collect()));
        all = users;
    }
    measured.found = canary::compare(ops, &have);
    let doors: Vec<Client> = stage.seats.iter().map(|seat| seat.canary.clone()).collect();
    measured.members = doors.len();
    measured.hashes = hashes(&doors).await;
    measured.left_behind = canary::clean(stage, diary, all).await;
    Ok(())
}

/// Every member's state at one revision, once nothing moves; as they are when something always does.
pub async fn hashes(doors: &[Client]) -> Vec<(String, u64, String)> {
    let mut hashes = Vec::new();
    for _ in 0..20 {
        let look = |door: &Client| {
            let door = door.clone();
            async move { door.get::<Look>("/api/v1/cluster/drill?hash=true").await }
        };
        let looks = futures::future::join_all(doors.iter().map(look)).await;
        let said = looks.into_iter().flatten().filter_map(|look| Some((look.member, look.revision, look.state_hash?)));
        hashes = said.collect();
        if hashes.len() == doors.len() && hashes.windows(2).all(|pair| pair[0].1 == pair[1].1) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
    hashes
}

impl Run<'_> {
    async fn all(&mut self, measured: &mut Measured) -> Result<(), Abort> {
        self.output.talk(&format!("what is normal: {} s without a fault", self.settings.steady.as_secs()));
        let from = self.diary.now();
        self.rest(self.settings.steady, None).await?;
        let to = self.diary.now();
        {
            let ops = self.diary.ops();
            measured.steady_rate = ops::rate(&ops, Kind::Write, from, to);
            let took = ops::latencies(&ops, Kind::Write, from, to, None);
            measured.steady_p50_us = ops::percentile(&took, 50).unwrap_or_default();
            measured.steady_p99_us = ops::percentile(&took, 99).unwrap_or_default();
        }
        self.steady_p99 = measured.steady_p99_us;
        self.watch.note("steady", format!("normal: {:.0} writes/s", measured.steady_rate));
        for repeat in 1..=self.settings.repeats {
            self.once(repeat).await?;
            if repeat < self.settings.repeats {
                self.rest(self.settings.calm, None).await?;
            }
        }
        Ok(())
    }

    async fn once(&mut self, repeat: u32) -> Result<(), Abort> {
        let leader = self.stage.leader().await.ok_or_else(|| Abort("nobody leads".into()))?;
        let follower = (leader + repeat as usize) % self.stage.seats.len();
        let follower = if follower == leader { (leader + 1) % self.stage.seats.len() } else { follower };
        match self.drill.act {
            Act::KillLeader => self.kill(leader, repeat).await,
            Act::KillFollower => self.kill(follower, repeat).await,
            Act::Transfer => self.transfer(leader, repeat).await,
            Act::CutLeader => self.cut(leader, repeat).await,
            Act::SlowDisk => self.slow(leader, repeat).await,
            Act::FullDisk => self.full(leader, repeat).await,
            Act::DeadRecord => super::dead_record::race(self, repeat).await,
            Act::RestoreBackup => super::restore::restore(self, repeat).await,
            Act::RenewCertificates => super::certificates::renew(self, repeat).await,
            Act::RotateAuthority => super::certificates::rotate(self, repeat).await,
            Act::ReplaceMember => super::replace::replace(self, follower, repeat).await,
            Act::LoseQuorum | Act::LoseEverything => Err(Abort("this drill makes a laboratory of its own".into())),
        }
    }

    async fn kill(&mut self, target: usize, repeat: u32) -> Result<(), Abort> {
        let clients = self.clients(None).await;
        self.stage.leave_to_dead_man(target)?;
        self.stage.inject(target, json!({ "kind": "crash", "forMs": 1000 })).await?;
        tokio::time::sleep(raft::drills::CRASH_AFTER).await;
        let since = self.injected(target, repeat, "its process was killed");
        if self.drill.act == Act::KillLeader {
            self.recovered(since, target).await?;
        }
        self.clients_back(since, target, clients).await?;
        self.rest(self.settings.hold, Some(target)).await?;
        let to = self.diary.now();
        self.outcome(since, to, target);
        if self.drill.act == Act::KillFollower {
            let took = ops::latencies(&self.diary.ops(), Kind::Write, since, to, Some(target));
            let p99 = ops::percentile(&took, 99);
            self.value_of("added_p99", "ms", p99.map(|p99| p99.saturating_sub(self.steady_p99) / 1000));
        }
        self.heal(target, repeat).await
    }

    /// Real clients whose stream is open, at all members but one.
    async fn clients(&self, except: Option<usize>) -> u64 {
        let status = self.stage.status().await.unwrap_or_default();
        let except = except.map(|index| self.names[index].as_str());
        status.members.iter().filter(|member| Some(member.name.as_str()) != except).map(|member| member.nodes).sum()
    }

    /// Waits until the clients of the broken member have a stream elsewhere, if there were any (R4).
    async fn clients_back(&mut self, since: u64, target: usize, before: u64) -> Result<(), Abort> {
        while before > 0 && self.diary.now() < since + CLIENTS_BACK_US {
            // One in a hundred may be a laptop that was just closed.
            if self.clients(Some(target)).await * 100 >= before * 99 {
                let took = (self.diary.now() - since) / 1000;
                self.watch.note("clients", format!("{before} clients have a stream elsewhere after {took} ms"));
                self.value("clients_back", "ms", took);
                break;
            }
            self.check(Some(target), None)?;
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Ok(())
    }

    async fn transfer(&mut self, leader: usize, repeat: u32) -> Result<(), Abort> {
        let since = self.diary.now();
        self.target(leader);
        self.watch.note("injected", format!("#{repeat}: {} hands over", self.names[leader]));
        self.stage.desk.post::<serde_json::Value>("/api/v1/cluster/transfer-leader", json!({})).await?;
        self.recovered(since, usize::MAX).await?;
        self.rest(Duration::from_micros(TRANSFER_WINDOW_US), None).await?;
        self.outcome(since, since + TRANSFER_WINDOW_US, usize::MAX);
        Ok(())
    }

    async fn cut(&mut self, leader: usize, repeat: u32) -> Result<(), Abort> {
        let lasts = self.settings.hold + Duration::from_secs(10);
        self.stage.inject(leader, json!({ "kind": "cut", "forMs": lasts.as_millis() as u64 })).await?;
        let since = self.injected(leader, repeat, "it is cut off from all members");
        self.recovered(since, leader).await?;
        self.rest(self.settings.hold, Some(leader)).await?;
        let to = self.diary.now();
        self.outcome(since, to, leader);
        let old = {
            let ops = self.diary.ops();
            let answered = ops
                .iter()
                .filter(|op| op.via == leader && op.ok && op.begun >= since + OLD_LEADER_US && op.answered < to);
            answered.count() as u64
        };
        self.value("acknowledged_by_old_leader", "count", old);
        self.heal(leader, repeat).await
    }

    async fn slow(&mut self, leader: usize, repeat: u32) -> Result<(), Abort> {
        let (delay, lasts) = (self.settings.slow_by, self.settings.hold + Duration::from_secs(10));
        let wish = json!({
            "kind": "slow-disk",
            "delayMs": delay.as_millis() as u64,
            "forMs": lasts.as_millis() as u64,
        });
        self.stage.inject(leader, wish).await?;
        let since = self.injected(leader, repeat, &format!("every sync takes {} ms longer", delay.as_millis()));
        self.rest(self.settings.hold, Some(leader)).await?;
        let to = self.diary.now();
        self.outcome(since, to, usize::MAX);
        let elections = self.watch.sight().leaders_since(since) as u64;
        self.value("elections", "count", elections);
        let (fast, there) = {
            let ops = self.diary.ops();
            // A member answers what it has applied itself, and it applies what it has synced: through the slow one, nothing
            // is fast before its disk is. It is said, and not judged.
            let led_on = self.watch.sight().left_lead(since, &self.names[leader]).unwrap_or(since);
            let through = |via: usize| ops.iter().filter(move |op| op.via == via).cloned().collect::<Vec<_>>();
            let there = ops::latencies(&through(leader), Kind::Write, led_on, to, None);
            (fast_again(&ops, since, to, self.steady_p99, leader), ops::percentile(&there, 99))
        };
        self.value_of("fast_again", "ms", fast.map(|at| (at - since) / 1000));
        self.value_of("through_it_p99", "ms", there.map(|p99| p99 / 1000));
        self.heal(leader, repeat).await
    }

    async fn full(&mut self, leader: usize, repeat: u32) -> Result<(), Abort> {
        let lasts = self.settings.hold + Duration::from_secs(10);
        self.stage.inject(leader, json!({ "kind": "full-disk", "forMs": lasts.as_millis() as u64 })).await?;
        let since = self.injected(leader, repeat, "its disk counts as full");
        self.recovered(since, leader).await?;
        self.rest(self.settings.hold, Some(leader)).await?;
        let to = self.diary.now();
        self.outcome(since, to, leader);
        let left = self.watch.sight().left_lead(since, &self.names[leader]);
        self.value_of("left_lead", "ms", left.map(|at| (at - since) / 1000));
        self.heal(leader, repeat).await
    }

    /// What was broken, and when.
    pub fn injected(&mut self, target: usize, repeat: u32, what: &str) -> u64 {
        let since = self.diary.now();
        self.target(target);
        let text = format!("#{repeat} {}: {what}", self.names[target]);
        self.output.talk(&text);
        self.watch.note("injected", text);
        since
    }

    pub fn target(&mut self, target: usize) {
        if !self.targets.contains(&self.names[target]) {
            self.targets.push(self.names[target].clone());
        }
    }

    /// Waits until writes are back.
    pub async fn recovered(&mut self, since: u64, target: usize) -> Result<(), Abort> {
        loop {
            let back = ops::sustained(&self.diary.ops(), Kind::Write, since, Some(target), self.gap());
            if let Some(back) = back {
                let ms = (back - since) / 1000;
                self.output.talk(&format!("  writes are back after {ms} ms"));
                self.watch.note("recovered", format!("writes are back after {ms} ms"));
                return Ok(());
            }
            self.check(Some(target), Some(since))?;
            tokio::time::sleep(LOOK).await;
        }
    }

    /// A row of successes may have holes as wide as this: wider where canaries are slow on purpose.
    fn gap(&self) -> u64 {
        ops::GAP_US.max(4_000_000 / self.settings.load.writes.max(1))
    }

    /// Figures of one fault, from what was done between two moments.
    pub fn outcome(&mut self, since: u64, to: u64, target: usize) {
        let (gap, except) = (self.gap(), Some(target));
        let (back, stall, failed) = {
            let ops = self.diary.ops();
            let back = |kind, gap| ops::sustained(&ops, kind, since, except, gap).map(|at| (at - since) / 1000);
            let wide = 4_000_000;
            let back = [
                ("write_rto", back(Kind::Write, gap)),
                ("read_rto", back(Kind::Read, wide)),
                ("register_rto", back(Kind::Register, wide)),
            ];
            let stall = ops::longest_gap(&ops, Kind::Write, since, to) / 1000;
            (back, stall, ops::failures(&ops, Kind::Write, since, to, except).0)
        };
        for (name, value) in back {
            self.value_of(name, "ms", value);
        }
        self.outages += back[0].1.unwrap_or_default() * 1000;
        self.value("write_stall", "ms", stall);
        self.value("write_errors", "count", failed);
    }

    pub fn value(&mut self, name: &'static str, unit: &'static str, value: u64) {
        self.values.entry(name).or_insert((unit, Vec::new())).1.push(value);
    }

    pub fn value_of(&mut self, name: &'static str, unit: &'static str, value: Option<u64>) {
        if let Some(value) = value {
            self.value(name, unit, value);
        }
    }

    /// Ends the fault and waits until all is well.
    pub async fn heal(&mut self, target: usize, repeat: u32) -> Result<(), Abort> {
        self.stage.heal().await;
        self.watch.note("healed", format!("#{repeat} {} healed", self.names[target]));
        match self.stage.well(self.settings.patience).await {
            Some(took) => {
                self.watch.note("well", format!("#{repeat} all members are well, lag 0"));
                self.value("rejoin", "ms", took.as_millis() as u64);
                Ok(())
            }
            None => Err(Abort(format!(
                "{} is not well {} s after it was healed",
                self.names[target],
                self.settings.patience.as_secs()
            ))),
        }
    }

    /// Lets time pass under watch.
    pub async fn rest(&self, span: Duration, target: Option<usize>) -> Result<(), Abort> {
        let until = Instant::now() + span;
        while Instant::now() < until {
            self.check(target, None)?;
            tokio::time::sleep(LOOK.min(until - Instant::now())).await;
        }
        Ok(())
    }

    /// Whether it goes too far.
    pub fn check(&self, target: Option<usize>, outage_since: Option<u64>) -> Result<(), Abort> {
        let now = self.diary.now();
        let from = now.saturating_sub(judge::ERRORS_OVER_US);
        let writes = match now >= judge::ERRORS_OVER_US {
            true => ops::failures(&self.diary.ops(), Kind::Write, from, now, target),
            false => (0, 0),
        };
        let facts = Facts {
            silent_for: self.watch.sight().silences(&self.names, now, target),
            writes,
            watched: now,
            outage: outage_since.map(|since| now.saturating_sub(since)),
            goal: self.drill.outage_goal_ms().map(|ms| ms * 1000),
        };
        match judge::abort(&facts) {
            Some(why) => Err(Abort(why)),
            None => Ok(()),
        }
    }
}

/// Writes over so long count as fast.
const FAST_OVER_US: u64 = 2_000_000;

/// When writes through the members that are not `slow` were as fast as before for good: from then on, no window of two
/// seconds had a p99 beyond twice what was normal, or 50 ms more than it.
fn fast_again(ops: &[ops::Op], since: u64, to: u64, normal: u64, slow: usize) -> Option<u64> {
    let bar = (2 * normal).max(normal + 50_000);
    let late = ops.iter().filter(|op| {
        let late = op.ok && op.answered - op.begun > bar;
        late && op.kind == Kind::Write && op.via != slow && op.begun >= since && op.answered < to
    });
    // One slow write in a hundred is within a p99: windows are judged, not writes.
    let mut last_slow = since;
    for op in late {
        let (from, until) = (op.begun.saturating_sub(FAST_OVER_US / 2), op.begun + FAST_OVER_US / 2);
        let window = ops::latencies(ops, Kind::Write, from, until, Some(slow));
        if ops::percentile(&window, 99).is_some_and(|p99| p99 > bar) {
            last_slow = last_slow.max(op.answered);
        }
    }
    (last_slow + FAST_OVER_US <= to).then_some(last_slow)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fast_again_when_no_window_is_slow_any_more() {
        let through = |via: usize, begun: u64, took: u64| ops::Op {
            kind: Kind::Write,
            via,
            begun: begun * 1000,
            answered: (begun + took) * 1000,
            ok: true,
            stale: false,
            serial: String::new(),
            why: String::new(),
        };
        let write = |begun: u64, took: u64| through(1, begun, took);
        let slow: Vec<ops::Op> = (0..20).map(|i| write(i * 100, 200)).collect();
        let fast = |from: u64| (0..200).map(move |i| write(from + i * 20, 5));
        let both: Vec<ops::Op> = slow.iter().cloned().chain(fast(2100)).collect();
        assert_eq!(fast_again(&both, 0, 6_000_000, 5_000, 0), Some(2_100_000));
        assert_eq!(fast_again(&slow, 0, 2_100_000, 5_000, 0), None, "slow to the end");
        let only_fast: Vec<ops::Op> = fast(0).collect();
        assert_eq!(fast_again(&only_fast, 0, 4_000_000, 5_000, 0), Some(0));
        // One slow one among many does not make a slow window.
        let one: Vec<ops::Op> = fast(0).chain([write(2000, 200)]).collect();
        assert_eq!(fast_again(&one, 0, 4_000_000, 5_000, 0), Some(0));
        // Through the member whose disk is slow, they are slow for as long as it is.
        let there = (0..20).map(|i| through(0, i * 200, 180));
        let others_fast: Vec<ops::Op> = fast(0).chain(there).collect();
        assert_eq!(fast_again(&others_fast, 0, 4_000_000, 5_000, 0), Some(0));
        assert_eq!(fast_again(&others_fast, 0, 4_000_000, 5_000, 2), None);
    }
}
