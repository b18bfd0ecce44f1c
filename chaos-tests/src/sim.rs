//! A whole cluster in one thread, from one seed.
//!
//! A run has two phases. In the *storm* operators and devices work while the nemesis breaks things, and every law looks
//! on. Then everything is healed and the *calm* begins: all members must serve again by themselves, rest at the same
//! revision, and have kept everything that was acknowledged.

pub mod clock;
pub mod disk;
pub mod host;
pub mod member;
pub mod net;
pub mod trace;

use std::{collections::BTreeMap, rc::Rc, sync::Arc, time::Duration};

use rand::{RngExt, SeedableRng, rngs::SmallRng};
use serde::{Deserialize, Serialize};
use state_machine::{Revision, State};

use crate::{
    checks::{Law, Sight, laws},
    nemesis::{Blow, Nemesis},
    workload::{Shared, device::Device},
};
use host::{Machine, mix};

/// What to simulate.
#[derive(Clone, Debug)]
pub struct Plan {
    pub seed: u64,
    pub members: u64,
    pub devices: u64,
    /// How long things go wrong, in simulated time.
    pub storm: Duration,
    /// Disks answer syncs without doing them: the laws must notice.
    pub lying_disks: bool,
    /// Remember every event as text.
    pub keep_trace: bool,
}

/// How a run ended.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Verdict {
    pub seed: u64,
    /// Equal seeds, equal hashes.
    pub hash: String,
    pub events: u64,
    /// Laws that were broken; empty is good.
    pub broken: Vec<String>,
    pub acknowledged: u64,
    pub refused: u64,
    pub unanswered: u64,
    pub reads: u64,
    pub registrations: u64,
    pub frames: u64,
    pub crashes: u64,
    pub partitions: u64,
    pub simulated_secs: f64,
    #[serde(skip)]
    pub trace: Vec<String>,
}

/// How long a cluster may take to come together, and to come to rest again.
const PATIENCE: Duration = Duration::from_secs(120);
/// How long the operators work on after everything is healed: each member must answer some of them.
const HEALED_WORK: Duration = Duration::from_secs(8);
/// Nothing moved for so long: the cluster rests.
const REST: Duration = Duration::from_secs(3);
/// How often the laws look on.
const WATCH: Duration = Duration::from_millis(10);

/// Runs one seed. One seed is one process: counters of tokio and of the engine are process-wide and would make a second
/// run differ from the first.
pub fn run(plan: &Plan) -> Verdict {
    raft::runtime::seed_thread(mix(plan.seed, 1));
    trace::start(plan.keep_trace);
    let mut simulation = Simulation::new(plan);
    let broken = simulation.play(plan).err();
    let mut verdict = simulation.verdict(plan);
    verdict.broken.extend(broken);
    // Members must not outlive the disks they write to, and the trace ends before they are torn down.
    let trace = trace::stop();
    verdict.hash = trace.hash;
    verdict.events = trace.events;
    verdict.trace = trace.lines;
    verdict
}

struct Simulation<'a> {
    net: turmoil::Sim<'a>,
    machines: BTreeMap<u64, Arc<Machine>>,
    devices: BTreeMap<u64, Arc<Machine>>,
    shared: Rc<Shared>,
    laws: Vec<Box<dyn Law>>,
    nemesis: Nemesis,
    dice: SmallRng,
    /// Machines that are off, and when they come back.
    down: BTreeMap<u64, Duration>,
    /// Pairs that do not hear each other, and until when.
    cut: Vec<(Duration, String, String)>,
    crashes: u64,
    partitions: u64,
    watched: Duration,
    statuses: String,
    acknowledged_when_healed: BTreeMap<u64, u64>,
}

impl Simulation<'_> {
    fn new(plan: &Plan) -> Simulation<'static> {
        let mut dice = SmallRng::seed_from_u64(mix(plan.seed, 2));
        let mut net = turmoil::Builder::new()
            .rng_seed(mix(plan.seed, 3))
            .tick_duration(Duration::from_millis(1))
            .min_message_latency(Duration::from_micros(200))
            .max_message_latency(Duration::from_millis(2))
            .simulation_duration(Duration::from_secs(1 << 20))
            .tcp_capacity(1 << 16)
            // A dial into a partition never gives its port back.
            .ephemeral_ports(1024..=65535)
            .enable_random_order()
            .build();
        let shared = Rc::new(Shared::default());
        let mut machines = BTreeMap::new();
        for number in 1..=plan.members {
            let machine = Arc::new(Machine::new(&format!("hs{number}"), number, plan.seed));
            if plan.lying_disks {
                machine.disk.lie();
            }
            machines.insert(number, machine.clone());
            let (shared, members) = (shared.clone(), plan.members);
            net.host(machine.name.clone(), move || member::live(machine.clone(), members, shared.clone()));
        }
        let mut devices = BTreeMap::new();
        for number in 101..101 + plan.devices {
            let machine = Arc::new(Machine::new(&format!("device{number}"), number, plan.seed));
            devices.insert(number, machine.clone());
            shared.devices.borrow_mut().insert(number, Device::default());
            let (shared, members) = (shared.clone(), plan.members);
            net.host(machine.name.clone(), move || member::carry(machine.clone(), members, shared.clone()));
        }
        let nemesis = Nemesis::new(SmallRng::seed_from_u64(dice.random()), plan.members, Duration::ZERO);
        Simulation {
            net,
            machines,
            devices,
            shared,
            laws: laws(),
            nemesis,
            dice,
            down: BTreeMap::new(),
            cut: Vec::new(),
            crashes: 0,
            partitions: 0,
            watched: Duration::ZERO,
            statuses: String::new(),
            acknowledged_when_healed: BTreeMap::new(),
        }
    }

    fn play(&mut self, plan: &Plan) -> Result<(), String> {
        self.form(plan)?;
        self.storm(plan)?;
        self.calm()?;
        self.end()
    }

    /// The founder founds, the others join, the operators furnish.
    fn form(&mut self, plan: &Plan) -> Result<(), String> {
        let end = self.net.elapsed() + PATIENCE;
        while !self.is_whole(plan.members) {
            if self.net.elapsed() > end {
                return Err(format!("the cluster did not come together: {}", self.describe()));
            }
            self.step()?;
        }
        self.shared.open.set(true);
        Ok(())
    }

    fn storm(&mut self, plan: &Plan) -> Result<(), String> {
        // Devices get in first: what goes wrong before anything was promised proves little.
        self.run_for(Duration::from_secs(2))?;
        let end = self.net.elapsed() + plan.storm;
        while self.net.elapsed() < end {
            self.step()?;
            self.mend(false);
            let leader = self.leader();
            if let Some(blow) = self.nemesis.strike(self.net.elapsed(), leader) {
                self.strike(blow);
            }
        }
        Ok(())
    }

    fn calm(&mut self) -> Result<(), String> {
        trace::event("healed", 0, &[]);
        self.mend(true);
        self.run_for(HEALED_WORK)?;
        let before = self.acknowledged();
        self.run_for(HEALED_WORK)?;
        let after = self.acknowledged();
        for number in self.machines.keys() {
            let (before, after) = (before.get(number).unwrap_or(&0), after.get(number).unwrap_or(&0));
            self.acknowledged_when_healed.insert(*number, after - before);
        }
        self.shared.quiet.set(true);
        let patience = self.net.elapsed() + PATIENCE;
        let (mut rests_since, mut rest) = (self.net.elapsed(), BTreeMap::new());
        while self.net.elapsed() < rests_since + REST {
            self.step()?;
            let now = self.revisions();
            if now != rest {
                (rests_since, rest) = (self.net.elapsed(), now);
            }
            if self.net.elapsed() > patience {
                return Err(format!("the cluster did not come to rest: {}", self.describe()));
            }
        }
        Ok(())
    }

    fn end(&mut self) -> Result<(), String> {
        self.examine(|law, sight| law.end(sight))
    }

    fn strike(&mut self, blow: Blow) {
        tracing::info!(at = ?self.net.elapsed(), ?blow, "strike");
        trace::event("strike", 0, format!("{blow:?}").as_bytes());
        let now = self.net.elapsed();
        match blow {
            Blow::PowerLoss { member, torn, down } => {
                let seed = self.dice.random();
                self.crash(member, now + down, |machine| machine.disk.power_loss(seed, torn));
            }
            Blow::Kill { member, down } => self.crash(member, now + down, |machine| machine.disk.thaw()),
            Blow::Isolate { member, devices, lasting } => {
                let others = self.machines.values().filter(|machine| machine.number != member);
                let devices = self.devices.values().filter(|_| devices);
                let names: Vec<_> = others.chain(devices).map(|machine| machine.name.clone()).collect();
                for name in names {
                    self.cut(member, name, now + lasting);
                }
                self.partitions += 1;
            }
            Blow::Divide { member, other, lasting } => {
                self.cut(member, self.machines[&other].name.clone(), now + lasting);
                self.partitions += 1;
            }
            Blow::SetClock { member, by_ms } => self.machines[&member].clock.jump(by_ms),
            Blow::HandOver { member } => self.hand_over(member),
        }
    }

    fn crash(&mut self, member: u64, until: Duration, lose: impl FnOnce(&Machine)) {
        if self.down.contains_key(&member) {
            return;
        }
        let machine = self.machines[&member].clone();
        // First nothing reaches the disk any more, then the member goes: closing a database must not save anything.
        machine.disk.freeze();
        drop(self.shared.up.borrow_mut().remove(&member));
        self.net.crash(machine.name.clone());
        lose(&machine);
        self.down.insert(member, until);
        self.crashes += 1;
    }

    fn cut(&mut self, member: u64, other: String, until: Duration) {
        let name = self.machines[&member].name.clone();
        self.net.partition(name.clone(), other.clone());
        self.cut.push((until, name, other));
    }

    fn hand_over(&mut self, member: u64) {
        let up = self.shared.up.borrow();
        let Some(running) = up.get(&member).filter(|running| running.cluster.is_leader()) else { return };
        // A member that is still busy with the last errand need not hear of another.
        let _ = running.errands.try_send(member::Errand::HandOver);
    }

    /// Brings back what is due; `all`: everything.
    fn mend(&mut self, all: bool) {
        let now = self.net.elapsed();
        let due: Vec<u64> =
            self.down.iter().filter(|(_, until)| all || **until <= now).map(|(member, _)| *member).collect();
        for member in due {
            self.down.remove(&member);
            trace::event("restart", member, &[]);
            self.net.bounce(self.machines[&member].name.clone());
        }
        let (due, cut) = std::mem::take(&mut self.cut).into_iter().partition(|(until, ..)| all || *until <= now);
        self.cut = cut;
        let due: Vec<(Duration, String, String)> = due;
        for (_, one, other) in due {
            let still_cut = self.cut.iter().any(|(_, a, b)| (a, b) == (&one, &other) || (b, a) == (&one, &other));
            if !still_cut {
                trace::event("mend", 0, format!("{one} {other}").as_bytes());
                self.net.repair(one, other);
            }
        }
    }

    fn run_for(&mut self, span: Duration) -> Result<(), String> {
        let end = self.net.elapsed() + span;
        while self.net.elapsed() < end {
            self.step()?;
            self.mend(false);
        }
        Ok(())
    }

    fn step(&mut self) -> Result<(), String> {
        let stepped = self.net.step();
        if let Some(death) = self.shared.deaths.borrow().first() {
            return Err(death.clone());
        }
        stepped.map_err(|error| format!("a host failed: {error}"))?;
        if self.net.elapsed() >= self.watched + WATCH {
            self.watched = self.net.elapsed();
            let statuses = self.describe();
            if statuses != self.statuses {
                trace::event("statuses", 0, statuses.as_bytes());
                self.statuses = statuses;
            }
            self.examine(|law, sight| law.watch(sight))?;
        }
        Ok(())
    }

    fn examine(&mut self, look: impl Fn(&mut dyn Law, &Sight<'_>) -> Result<(), String>) -> Result<(), String> {
        let states = self.states();
        let history = self.shared.history.borrow();
        let devices = self.shared.devices.borrow();
        let sight = Sight {
            states: &states,
            members: self.machines.len() as u64,
            acknowledged_when_healed: &self.acknowledged_when_healed,
            history: &history,
            devices: &devices,
        };
        for law in &mut self.laws {
            look(law.as_mut(), &sight).map_err(|broken| format!("{}: {broken}", law.name()))?;
        }
        Ok(())
    }

    fn states(&self) -> BTreeMap<u64, Arc<State>> {
        self.shared.up.borrow().iter().map(|(member, running)| (*member, running.cluster.latest())).collect()
    }

    fn revisions(&self) -> BTreeMap<u64, Revision> {
        self.states().iter().map(|(member, state)| (*member, state.revision())).collect()
    }

    fn acknowledged(&self) -> BTreeMap<u64, u64> {
        self.shared.history.borrow().acknowledged_by.clone()
    }

    fn leader(&self) -> Option<u64> {
        let up = self.shared.up.borrow();
        let leaders = up.iter().filter(|(_, running)| running.cluster.is_leader());
        leaders.map(|(member, running)| (running.cluster.status().term, *member)).max().map(|(_, member)| member)
    }

    fn is_whole(&self, members: u64) -> bool {
        let up = self.shared.up.borrow();
        up.len() as u64 == members
            && self.shared.board.borrow().reusable.is_some()
            && up.values().all(|running| running.cluster.status().voters.len() as u64 == members)
    }

    fn describe(&self) -> String {
        let up = self.shared.up.borrow();
        let members = up.iter().map(|(member, running)| {
            let status = running.cluster.status();
            let revision = running.cluster.latest().revision();
            format!("hs{member}: term {} leader {:?} revision {revision}", status.term, status.leader)
        });
        members.collect::<Vec<_>>().join("; ")
    }

    fn verdict(&self, plan: &Plan) -> Verdict {
        let counts = self.shared.history.borrow().counts;
        Verdict {
            seed: plan.seed,
            acknowledged: counts.acknowledged,
            refused: counts.refused,
            unanswered: counts.unanswered,
            reads: counts.reads,
            registrations: counts.registrations,
            frames: counts.frames,
            crashes: self.crashes,
            partitions: self.partitions,
            simulated_secs: self.net.elapsed().as_secs_f64(),
            ..Verdict::default()
        }
    }
}
