//! The phases of a run.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use raft::{LogFact, Status};
use rand::{RngExt, SeedableRng, rngs::SmallRng};
use state_machine::{MemberId, Revision, State};

use super::{
    host::{Machine, mix},
    member::{self, Errand},
    plan::{Class, Plan, Verdict},
    seats::Seats,
    shelf::SimShelf,
    strike::Repair,
    trace, upkeep,
};
use crate::{
    checks::{Law, Sight, backups_restore::Restored, laws},
    client::stream,
    nemesis::{self, Strike},
    workload::{Shared, device::Device},
};

/// How long a cluster may take to come together, and to come to rest again; longer than a client's watchdog.
const PATIENCE: Duration = Duration::from_secs(180);
/// How long the operators work on after everything is healed, twice: each member must answer some of them, and a device
/// must have spoken into a connection that is dead (an update waits ten seconds, the next comes within three).
const HEALED_WORK: Duration = Duration::from_secs(7);
/// Long enough that a member misses many entries, short enough that nobody gives its devices up.
const LEFT_BEHIND: Duration = Duration::from_secs(4);
/// Nothing moved for so long: the cluster rests.
const REST: Duration = Duration::from_secs(3);
/// How often the laws look on.
const WATCH: Duration = Duration::from_millis(12);
/// How often they look into logs: each look reads [`LOG_TAIL`] entries of every member.
const WATCH_LOGS: Duration = Duration::from_millis(240);
const LOG_TAIL: u64 = 24;

/// Runs one seed. One seed is one process: counters of tokio and of the engine are process-wide and would make a second
/// run differ from the first.
pub fn run(plan: &Plan) -> Verdict {
    raft::runtime::seed_thread(mix(plan.seed, 1));
    trace::start(plan.keep_trace);
    let mut simulation = Simulation::new(plan);
    let broken = simulation.play().err();
    let mut verdict = simulation.verdict();
    verdict.broken.extend(broken);
    if verdict.broken.is_empty() {
        verdict.void = simulation.void(&verdict);
    }
    // Members must not outlive the disks they write to, and the trace ends before they are torn down.
    let trace = trace::stop();
    verdict.hash = trace.hash;
    verdict.events = trace.events;
    verdict.trace = trace.lines;
    verdict
}

/// What the trace tells of a member: its machine, term, leader, what it applied, and how many vote.
type Standing = (u64, u64, Option<MemberId>, Option<u64>, usize);

pub(super) struct Simulation<'a> {
    pub plan: Plan,
    pub net: turmoil::Sim<'a>,
    pub machines: BTreeMap<u64, Arc<Machine>>,
    pub devices: BTreeMap<u64, Arc<Machine>>,
    pub shared: Rc<Shared>,
    laws: Vec<Box<dyn Law>>,
    pub dice: SmallRng,
    /// Machines that are off, and when they come back; `None`: when somebody says so.
    pub down: BTreeMap<u64, Option<Duration>>,
    pub repairs: Vec<(Duration, Repair)>,
    pub seats: Seats,
    /// What operators do now and then, and the dice that say at which member.
    pub tasks: VecDeque<(Duration, upkeep::Task)>,
    pub upkeep_dice: SmallRng,
    /// When the share of backups answers again.
    pub share_back: Option<Duration>,
    pub restored: Vec<Result<Restored, String>>,
    pub crashes: u64,
    pub partitions: u64,
    pub coverage: BTreeMap<String, u64>,
    pub struck: Vec<usize>,
    leaders: BTreeSet<(u64, u64)>,
    installed: BTreeMap<u64, u64>,
    snapshots_installed: u64,
    watched: Duration,
    logs_watched: Duration,
    statuses_told: Vec<Standing>,
    acknowledged_when_healed: BTreeMap<u64, u64>,
    settled: bool,
    /// Map frames of class patient until every watchdog had its turn.
    heard_before_watchdog: u64,
}

impl Simulation<'_> {
    fn new(plan: &Plan) -> Simulation<'static> {
        let dice = SmallRng::seed_from_u64(mix(plan.seed, 2));
        let mut net = turmoil::Builder::new()
            .rng_seed(mix(plan.seed, 3))
            .tick_duration(plan.tick())
            .min_message_latency(Duration::from_micros(200))
            .max_message_latency(Duration::from_millis(2))
            .simulation_duration(Duration::from_secs(1 << 20))
            .tcp_capacity(1 << 16)
            // A dial into a partition never gives its port back.
            .ephemeral_ports(1024..=65535)
            .enable_random_order()
            .build();
        let shelf = plan.backups().then(|| Arc::new(SimShelf::new(mix(plan.seed, 6))));
        let shared = Rc::new(Shared { shelf, snapshot_every: plan.snapshot_every(), ..Shared::default() });
        let mut machines = BTreeMap::new();
        for number in 1..=plan.machines() {
            let machine = Arc::new(Machine::new(&format!("hs{number}"), number, plan.seed));
            if plan.lying_disks {
                machine.disk.lie();
            }
            machines.insert(number, machine.clone());
            let shared = shared.clone();
            let founders = Plan::FOUNDERS;
            net.host(machine.name.clone(), move || member::live(machine.clone(), founders, shared.clone()));
        }
        // Two addresses of the name lead nowhere: one refuses, one answers nothing at all.
        net.host("refusing", std::future::pending::<turmoil::Result>);
        net.host("vanished", std::future::pending::<turmoil::Result>);
        let names = machines.values().map(|machine| machine.name.as_str()).chain(["refusing", "vanished"]);
        let records: Vec<String> = names.map(|name| format!("{name}:{}", member::CLIENT_PORT)).collect();
        let chatty = plan.class != Class::Patient;
        let mut devices = BTreeMap::new();
        for number in 101..101 + plan.devices {
            let machine = Arc::new(Machine::new(&format!("device{number}"), number, plan.seed));
            devices.insert(number, machine.clone());
            shared.devices.borrow_mut().insert(number, Device::default());
            let (name, shared, records) = (machine.name.clone(), shared.clone(), records.clone());
            net.host(name.clone(), move || member::carry(machine.clone(), records.clone(), chatty, shared.clone()));
            net.partition(name, "vanished");
        }
        // Nobody is there, so nobody needs turns.
        net.crash("vanished");
        Simulation {
            plan: plan.clone(),
            net,
            machines,
            devices,
            shared,
            laws: laws(),
            dice,
            down: BTreeMap::new(),
            repairs: Vec::new(),
            seats: Seats::default(),
            tasks: upkeep::tasks(plan.seed, plan.storm, plan.backups()).into(),
            upkeep_dice: SmallRng::seed_from_u64(mix(plan.seed, 7)),
            share_back: None,
            restored: Vec::new(),
            crashes: 0,
            partitions: 0,
            coverage: BTreeMap::new(),
            struck: Vec::new(),
            leaders: BTreeSet::new(),
            installed: BTreeMap::new(),
            snapshots_installed: 0,
            watched: Duration::ZERO,
            logs_watched: Duration::ZERO,
            statuses_told: Vec::new(),
            acknowledged_when_healed: BTreeMap::new(),
            settled: false,
            heard_before_watchdog: 0,
        }
    }

    fn play(&mut self) -> Result<(), String> {
        self.form()?;
        self.storm()?;
        self.calm()?;
        self.restore_on_trial()?;
        self.examine(|law, sight| law.end(sight))
    }

    /// The founder founds, the others join, the operators furnish.
    fn form(&mut self) -> Result<(), String> {
        let end = self.net.elapsed() + PATIENCE;
        while !self.is_whole(Plan::FOUNDERS) {
            if self.net.elapsed() > end {
                return Err(format!("the cluster did not come together: {}", self.describe()));
            }
            self.step()?;
        }
        self.shared.open.set(true);
        Ok(())
    }

    fn storm(&mut self) -> Result<(), String> {
        // Devices get in first: what goes wrong before anything was promised proves little.
        self.run_for(Duration::from_secs(2))?;
        let begin = self.net.elapsed();
        let seed = mix(self.plan.seed, 4);
        let strikes = nemesis::storm(seed, self.plan.machines(), self.plan.storm, self.plan.only.as_ref());
        let mut strikes: VecDeque<Strike> = strikes.into();
        while self.net.elapsed() < begin + self.plan.storm {
            self.step()?;
            self.mend(false);
            let now = self.net.elapsed() - begin;
            while let Some(strike) = strikes.pop_front_if(|strike| strike.at <= now) {
                self.strike(&strike);
            }
            self.change_seats(now);
            self.keep_up(now);
        }
        Ok(())
    }

    fn calm(&mut self) -> Result<(), String> {
        trace::event("healed", 0, &[]);
        self.mend(true);
        self.shared.shelf.as_ref().inspect(|shelf| shelf.calm_down());
        self.settle_seats(PATIENCE)?;
        self.leave_behind();
        self.run_for(HEALED_WORK)?;
        self.settled = true;
        // The laws shall have seen who is connected before somebody is not.
        self.run_for(Duration::from_millis(100))?;
        let goes = self.any_device();
        self.switch_off(goes, Duration::from_secs(1));
        let before = self.acknowledged();
        self.run_for(HEALED_WORK)?;
        let after = self.acknowledged();
        for number in self.machines.keys() {
            let (before, after) = (before.get(number).unwrap_or(&0), after.get(number).unwrap_or(&0));
            self.acknowledged_when_healed.insert(*number, after - before);
        }
        if self.plan.seed.is_multiple_of(2) {
            self.send_home();
        }
        self.shared.quiet.set(true);
        if self.plan.class == Class::Patient {
            // Who never speaks does not notice that the other end is gone, until the watchdog does. What is told on the
            // streams that it brings back is then worked for: the storm may have ended every stream at its beginning.
            self.run_for(stream::WATCHDOG + REST)?;
            self.heard_before_watchdog = self.shared.history.borrow().counts.frames;
            self.shared.quiet.set(false);
            self.run_for(HEALED_WORK)?;
            self.shared.quiet.set(true);
        }
        self.have_the_last_word()?;
        let patience = self.net.elapsed() + PATIENCE;
        let (mut rests_since, mut rest) = (self.net.elapsed(), (BTreeMap::new(), 0));
        while self.net.elapsed() < rests_since + REST {
            self.step()?;
            let now = (self.revisions(), self.shared.history.borrow().counts.frames);
            if now != rest || !self.all_connected() {
                (rests_since, rest) = (self.net.elapsed(), now);
            }
            if self.net.elapsed() > patience {
                return Err(format!("the cluster did not come to rest: {}", self.describe()));
            }
        }
        Ok(())
    }

    fn all_connected(&self) -> bool {
        self.shared.devices.borrow().values().all(|device| device.connected.is_some() || device.off)
    }

    fn any_device(&mut self) -> u64 {
        let place = self.random() as usize % self.devices.len();
        *self.devices.keys().nth(place).expect("there are devices")
    }

    /// One follower hears no other member for a while, and its devices notice nothing: when it has caught up, they must
    /// have been told all they missed, on the streams they have.
    fn leave_behind(&mut self) {
        let leader = self.leader();
        let serving: BTreeSet<u64> =
            self.shared.devices.borrow().values().filter_map(|device| device.connected).collect();
        let Some(member) = serving.into_iter().find(|member| Some(*member) != leader) else { return };
        trace::event("left behind", member, &[]);
        let until = self.net.elapsed() + LEFT_BEHIND;
        let name = self.machines[&member].name.clone();
        for other in self.other_members(member) {
            self.cut(name.clone(), other, until);
        }
    }

    /// One device is closed for the night, with a goodbye.
    fn send_home(&mut self) {
        let device = self.any_device();
        trace::event("sent home", device, &[]);
        self.net.crash(self.devices[&device].name.clone());
        if let Some(device) = self.shared.devices.borrow_mut().get_mut(&device) {
            device.switch_off();
        }
    }

    /// After everything else one more policy, at whichever member takes it.
    fn have_the_last_word(&mut self) -> Result<(), String> {
        let end = self.net.elapsed() + PATIENCE;
        let mut again = self.net.elapsed() + Duration::from_secs(1);
        while !self.shared.last_word.get() {
            self.step()?;
            self.mend(false);
            if self.net.elapsed() < again {
                continue;
            }
            again += Duration::from_secs(2);
            let by = self.shared.up.borrow().keys().next().copied();
            by.map(|by| self.send(by, Errand::LastWord));
            if self.net.elapsed() > end {
                return Err(format!("no member takes a policy, though everything is healed: {}", self.describe()));
            }
        }
        Ok(())
    }

    pub fn run_for(&mut self, span: Duration) -> Result<(), String> {
        let end = self.net.elapsed() + span;
        while self.net.elapsed() < end {
            self.step()?;
            self.mend(false);
        }
        Ok(())
    }

    pub fn step(&mut self) -> Result<(), String> {
        trace::set_now(self.net.elapsed());
        let stepped = self.net.step();
        if let Some(death) = self.shared.deaths.borrow().first() {
            return Err(death.clone());
        }
        stepped.map_err(|error| format!("a host failed: {error}"))?;
        if self.net.elapsed() >= self.watched + WATCH {
            self.watched = self.net.elapsed();
            self.examine(|law, sight| law.watch(sight))?;
        }
        Ok(())
    }

    fn examine(&mut self, look: impl Fn(&mut dyn Law, &Sight<'_>) -> Result<(), String>) -> Result<(), String> {
        let (states, statuses) = (self.states(), self.statuses());
        self.note_statuses(&statuses);
        let mut logs: BTreeMap<u64, Vec<LogFact>> = BTreeMap::new();
        if self.net.elapsed() >= self.logs_watched + WATCH_LOGS {
            self.logs_watched = self.net.elapsed();
            for (member, running) in &*self.shared.up.borrow() {
                let log = running.cluster.newest_entries(LOG_TAIL);
                logs.insert(*member, log.map_err(|error| format!("hs{member}: its log cannot be read: {error}"))?);
            }
        }
        let (history, devices) = (self.shared.history.borrow(), self.shared.devices.borrow());
        let sight = Sight {
            at: self.net.elapsed(),
            states: &states,
            statuses: &statuses,
            logs: &logs,
            members: &self.seats.expected(),
            settled: self.settled,
            acknowledged_when_healed: &self.acknowledged_when_healed,
            history: &history,
            devices: &devices,
            restored: &self.restored,
        };
        for law in &mut self.laws {
            look(law.as_mut(), &sight).map_err(|broken| format!("{}: {broken}", law.name()))?;
        }
        Ok(())
    }

    fn note_statuses(&mut self, statuses: &BTreeMap<u64, Status>) {
        let standing = |(member, status): (&u64, &Status)| {
            (*member, status.term, status.leader, status.applied, status.voters.len())
        };
        if !self.statuses_told.iter().copied().eq(statuses.iter().map(standing)) {
            self.statuses_told = statuses.iter().map(standing).collect();
            trace::event("statuses", 0, describe(statuses).as_bytes());
        }
        for (member, status) in statuses {
            if let Some(leader) = status.leader {
                self.leaders.insert((status.term, leader.0));
            }
            // A log that begins behind what was applied a moment ago came with a snapshot.
            let applied = status.applied.unwrap_or(0);
            let before = self.installed.insert(*member, applied).unwrap_or(0);
            if before > 0 && status.purged.unwrap_or(0) > before {
                self.snapshots_installed += 1;
            }
        }
    }

    fn states(&self) -> BTreeMap<u64, Arc<State>> {
        self.shared.up.borrow().iter().map(|(member, running)| (*member, running.cluster.latest())).collect()
    }

    pub fn statuses(&self) -> BTreeMap<u64, Status> {
        self.shared.up.borrow().iter().map(|(member, running)| (*member, running.cluster.status())).collect()
    }

    pub fn revisions(&self) -> BTreeMap<u64, Revision> {
        self.states().iter().map(|(member, state)| (*member, state.revision())).collect()
    }

    fn acknowledged(&self) -> BTreeMap<u64, u64> {
        self.shared.history.borrow().acknowledged_by.clone()
    }

    pub fn leader(&self) -> Option<u64> {
        let up = self.shared.up.borrow();
        let leaders = up.iter().filter(|(_, running)| running.cluster.is_leader());
        leaders.map(|(member, running)| (running.cluster.status().term, *member)).max().map(|(_, member)| member)
    }

    pub fn is_whole(&self, members: u64) -> bool {
        let up = self.shared.up.borrow();
        up.len() as u64 == members
            && self.shared.board.borrow().registers.len() == 3
            && up.values().all(|running| {
                let status = running.cluster.status();
                status.voters.len() as u64 == members && !status.joint
            })
    }

    pub fn describe(&self) -> String {
        let down: Vec<u64> = self.down.keys().copied().collect();
        format!("{}; down {down:?}", describe(&self.statuses()))
    }

    pub fn random(&mut self) -> u32 {
        self.dice.random()
    }

    fn verdict(&self) -> Verdict {
        let mut coverage = self.coverage.clone();
        coverage.extend(self.shared.upkeep.borrow().iter().map(|(what, count)| (format!("upkeep / {what}"), *count)));
        if !self.restored.is_empty() {
            coverage.insert("upkeep / backup restored on trial".into(), self.restored.len() as u64);
        }
        let history = self.shared.history.borrow();
        let counts = history.counts;
        Verdict {
            seed: self.plan.seed,
            class: self.plan.class.name().into(),
            acknowledged: counts.acknowledged,
            refused: counts.refused,
            unanswered: counts.unanswered,
            reads: counts.reads,
            operations: history.operations.iter().filter(|operation| operation.end.is_some()).count() as u64,
            registrations: counts.registrations,
            logins: counts.logins,
            policies: counts.policies,
            frames: counts.frames,
            streams: self.shared.devices.borrow().values().map(|device| device.streams).sum(),
            crashes: self.crashes,
            partitions: self.partitions,
            snapshots_installed: self.snapshots_installed,
            leaders: self.leaders.len() as u64,
            strikes: self.struck.clone(),
            coverage,
            recoveries_ms: history.recoveries.iter().map(|recovery| recovery.as_millis() as u64).collect(),
            simulated_secs: self.net.elapsed().as_secs_f64(),
            ..Verdict::default()
        }
    }

    /// What a run of this class must have exercised. A shortened storm owes no blows.
    fn void(&self, verdict: &Verdict) -> Vec<String> {
        let storm = self.plan.only.is_none() && self.plan.storm >= Duration::from_secs(15);
        let mut owed = vec![
            ("acknowledged writes", verdict.acknowledged, 150),
            ("answered operations on registers", verdict.operations, 60),
            ("certain reads", verdict.reads, 20),
            ("registrations", verdict.registrations, self.plan.devices + 5),
            ("map frames", verdict.frames, 20),
        ];
        if self.plan.class == Class::Patient {
            owed.push(("map frames after the watchdog", verdict.frames - self.heard_before_watchdog, 5));
        }
        if storm {
            owed.extend([
                ("strikes", verdict.strikes.len() as u64, 5),
                ("crashes or partitions", verdict.crashes + verdict.partitions, 2),
                ("leaders", verdict.leaders, 2),
            ]);
            match self.plan.class {
                Class::Churn => owed.push(("members that came and went", self.seats.changes, 4)),
                Class::Rough => owed.push(("members that were replaced", self.seats.changes, 1)),
                Class::Trio | Class::Patient => {}
            }
        }
        let missed = owed.into_iter().filter(|(_, had, owed)| had < owed);
        missed.map(|(what, had, owed)| format!("{had} {what} instead of at least {owed}")).collect()
    }
}

fn describe(statuses: &BTreeMap<u64, Status>) -> String {
    let members = statuses.iter().map(|(member, status)| {
        format!(
            "hs{member}: term {} leader {:?} applied {} voters {}",
            status.term,
            status.leader.map(|leader| leader.0),
            status.applied.unwrap_or(0),
            status.voters.len()
        )
    });
    members.collect::<Vec<_>>().join("; ")
}
