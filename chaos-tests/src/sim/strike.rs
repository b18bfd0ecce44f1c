//! Blows land, and are made good again.

use std::time::Duration;

use super::{host::Machine, member::Errand, run::Simulation, trace};
use crate::nemesis::{Blow, Strike, Whom};

/// What makes a blow good again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Repair {
    /// Two hosts hear each other again, unless another blow still keeps them apart.
    Join(String, String),
    /// The first is heard by the second again.
    JoinOneWay(String, String),
    /// What was held between two hosts arrives.
    Release(String, String),
    /// A blow of its own: the next turn of a link that comes and goes.
    Cut(String, String, Duration),
    /// Segments between two hosts are as fast as ever.
    Hasten(String, String),
    FastDisk(u64),
    /// The clock runs as well as before.
    SteadyClock(u64),
    /// A blow of its own: the power fails while the disk of this member is behind; for so long.
    PowerOff(u64, Duration),
    /// This device is switched on again.
    SwitchOn(u64),
}

/// As the network was built.
const LATENCY: Duration = Duration::from_millis(2);

impl Simulation<'_> {
    pub fn strike(&mut self, strike: &Strike) {
        let leader = self.leader();
        let member = match strike.whom {
            Whom::Leader(otherwise) => leader.unwrap_or(otherwise),
            Whom::Member(member) => member,
        };
        // A machine nobody lives on, or one that waits for somebody's word, is left alone.
        if !self.shared.up.borrow().contains_key(&member) && !matches!(strike.blow, Blow::KillAll { .. }) {
            return;
        }
        let phase = self.phase(leader);
        tracing::info!(at = ?self.net.elapsed(), member, ?strike, phase, "strike");
        trace::event("strike", member, format!("{strike:?} {phase}").as_bytes());
        *self.coverage.entry(format!("{} / {phase}", strike.blow.kind())).or_default() += 1;
        self.struck.push(strike.number);
        if leader == Some(member) && takes_the_leader(&strike.blow) {
            let now = self.net.elapsed();
            self.shared.history.borrow_mut().lose_leader(now);
        }
        self.land(member, &strike.blow);
    }

    /// What was going on when a blow landed, for the table of what was exercised.
    fn phase(&self, leader: Option<u64>) -> &'static str {
        let statuses = self.statuses();
        match () {
            () if statuses.values().any(|status| status.joint) => "voters changing",
            () if statuses.values().any(|status| !status.learners.is_empty()) => "member joining",
            () if leader.is_none() => "no leader",
            () if !self.down.is_empty() => "member down",
            () if !self.repairs.is_empty() => "other trouble",
            () => "whole",
        }
    }

    fn land(&mut self, member: u64, blow: &Blow) {
        let now = self.net.elapsed();
        let machine = self.machines[&member].clone();
        match *blow {
            Blow::PowerLoss { torn, down } => {
                let seed = self.random();
                self.power_off(member, Some(now + down), |machine| machine.disk.power_loss(seed, torn));
            }
            Blow::Blackout { sync, after, down } => {
                machine.disk.slow_down(sync);
                self.repairs.push((now + after, Repair::PowerOff(member, down)));
            }
            Blow::Kill { down } => self.crash(member, Some(now + down), |machine| machine.disk.thaw()),
            Blow::KillAll { down } => {
                let members: Vec<u64> = self.shared.up.borrow().keys().copied().collect();
                for (place, member) in members.into_iter().enumerate() {
                    let back = now + down + Duration::from_millis(37 * place as u64);
                    self.crash(member, Some(back), |machine| machine.disk.thaw());
                }
            }
            Blow::Isolate { devices, lasting } => {
                for other in self.other_members(member) {
                    self.cut(machine.name.clone(), other, now + lasting);
                }
                if devices {
                    self.hold_devices(&machine, now + lasting);
                }
                self.partitions += 1;
            }
            Blow::Divide { lasting } => {
                let other = self.neighbour(member);
                self.cut(machine.name.clone(), other, now + lasting);
                self.partitions += 1;
            }
            Blow::OneWay { deaf, lasting } => {
                for other in self.other_members(member) {
                    let (from, to) = match deaf {
                        true => (other, machine.name.clone()),
                        false => (machine.name.clone(), other),
                    };
                    // The network cannot hold a link and cut one of its ways at once.
                    if self.repairs.iter().any(|(_, repair)| repair.holds(&from, &to)) {
                        continue;
                    }
                    self.net.partition_oneway(from.clone(), to.clone());
                    self.repairs.push((now + lasting, Repair::JoinOneWay(from, to)));
                }
                self.partitions += 1;
            }
            Blow::Hold { lasting } => {
                for other in self.other_members(member) {
                    self.hold(machine.name.clone(), other, now + lasting);
                }
                self.hold_devices(&machine, now + lasting);
            }
            Blow::Flap { times, each } => {
                let other = self.neighbour(member);
                for turn in 0..times {
                    let begin = now + each * (2 * turn);
                    let cut = Repair::Cut(machine.name.clone(), other.clone(), begin + each);
                    self.repairs.push((begin, cut));
                }
                self.partitions += 1;
            }
            Blow::Slow { latency, lasting } => {
                for other in self.other_members(member) {
                    self.net.set_link_max_message_latency(machine.name.clone(), other.clone(), latency);
                    self.repairs.push((now + lasting, Repair::Hasten(machine.name.clone(), other)));
                }
            }
            Blow::SlowDisk { sync, lasting } => {
                machine.disk.slow_down(sync);
                self.repairs.push((now + lasting, Repair::FastDisk(member)));
            }
            Blow::SetClock { by_ms } => machine.clock.jump(by_ms),
            Blow::Drift { ppm, lasting } => {
                machine.clock.drift(now, ppm);
                self.repairs.push((now + lasting, Repair::SteadyClock(member)));
            }
            Blow::HandOver => _ = self.send(member, Errand::HandOver),
            Blow::DeviceOff { device, down } => {
                let device = *self.devices.keys().nth(device as usize % self.devices.len()).expect("there are devices");
                self.switch_off(device, down);
            }
        }
    }

    /// A device goes without a goodbye: what is sent to it is lost, and nobody says so. It is switched on after `down`.
    pub fn switch_off(&mut self, device: u64, down: Duration) {
        if self.shared.devices.borrow().get(&device).is_none_or(|device| device.off) {
            return;
        }
        trace::event("switched off", device, &[]);
        let name = self.devices[&device].name.clone();
        let members = self.other_members(0);
        for member in &members {
            self.net.partition(name.clone(), member.clone());
        }
        self.net.crash(name.clone());
        if let Some(device) = self.shared.devices.borrow_mut().get_mut(&device) {
            device.switch_off();
        }
        let until = self.net.elapsed() + down;
        for member in members {
            self.repairs.push((until, Repair::Join(name.clone(), member)));
        }
        self.repairs.push((until, Repair::SwitchOn(device)));
    }

    pub fn other_members(&self, member: u64) -> Vec<String> {
        self.machines.values().filter(|machine| machine.number != member).map(|machine| machine.name.clone()).collect()
    }

    fn neighbour(&self, member: u64) -> String {
        format!("hs{}", member % self.machines.len() as u64 + 1)
    }

    /// False: the member is too busy, or gone.
    pub fn send(&self, member: u64, errand: Errand) -> bool {
        let up = self.shared.up.borrow();
        up.get(&member).is_some_and(|running| running.errands.try_send(errand).is_ok())
    }

    /// Nobody hears a goodbye of a machine without power: connections stay open at the other end.
    fn power_off(&mut self, member: u64, until: Option<Duration>, lose: impl FnOnce(&Machine)) {
        let name = self.machines[&member].name.clone();
        let others: Vec<String> = self
            .other_members(member)
            .into_iter()
            .chain(self.devices.values().map(|device| device.name.clone()))
            .collect();
        for other in &others {
            self.net.partition(name.clone(), other.clone());
        }
        self.crash(member, until, lose);
        for other in others {
            let until = self.net.elapsed();
            self.repairs.push((until, Repair::Join(name.clone(), other)));
        }
    }

    /// `until`: when the machine comes back; `None`: when somebody says so.
    pub fn crash(&mut self, member: u64, until: Option<Duration>, lose: impl FnOnce(&Machine)) {
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

    pub fn cut(&mut self, one: String, other: String, until: Duration) {
        self.net.partition(one.clone(), other.clone());
        self.repairs.push((until, Repair::Join(one, other)));
    }

    fn hold(&mut self, one: String, other: String, until: Duration) {
        // The network cannot hold and cut a link at once; what is cut stays cut.
        if self.repairs.iter().any(|(_, repair)| repair.parts(&one, &other)) {
            return;
        }
        self.net.hold(one.clone(), other.clone());
        self.repairs.push((until, Repair::Release(one, other)));
    }

    fn hold_devices(&mut self, machine: &Machine, until: Duration) {
        let devices: Vec<String> = self.devices.values().map(|device| device.name.clone()).collect();
        for device in devices {
            self.hold(machine.name.clone(), device, until);
        }
    }

    /// Brings back what is due; `all`: everything.
    pub fn mend(&mut self, all: bool) {
        let now = self.net.elapsed();
        let ended = std::mem::take(&mut *self.shared.ended.borrow_mut());
        for machine in ended {
            self.down.remove(&machine);
            self.crash(machine, None, |machine| machine.disk.thaw());
            // The machine lives on without its member, and resets connections somebody still speaks into.
            self.shared.idle.borrow_mut().insert(machine);
            self.net.bounce(self.machines[&machine].name.clone());
        }
        let is_due = |until: &Option<Duration>| until.is_some_and(|until| all || until <= now);
        let due: Vec<u64> = self.down.iter().filter(|(_, until)| is_due(until)).map(|(member, _)| *member).collect();
        for member in due {
            self.bring_back(member);
        }
        if self.repairs.iter().all(|(until, _)| !all && *until > now) {
            return;
        }
        let (due, later): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.repairs).into_iter().partition(|(until, _)| all || *until <= now);
        self.repairs = later;
        for (_, repair) in due {
            self.repair(repair, all);
        }
    }

    pub fn bring_back(&mut self, member: u64) {
        self.down.remove(&member);
        self.shared.idle.borrow_mut().remove(&member);
        trace::event("restart", member, &[]);
        *self.shared.restarts.borrow_mut().entry(member).or_default() += 1;
        self.net.bounce(self.machines[&member].name.clone());
    }

    fn repair(&mut self, repair: Repair, all: bool) {
        trace::event("mend", 0, format!("{repair:?}").as_bytes());
        let now = self.net.elapsed();
        match repair {
            Repair::Join(one, other) => {
                if !self.repairs.iter().any(|(_, later)| later.parts(&one, &other)) {
                    self.net.repair(one, other);
                }
            }
            Repair::JoinOneWay(from, to) => {
                if !self.repairs.iter().any(|(_, later)| later.parts(&from, &to)) {
                    self.net.repair(from, to);
                }
            }
            Repair::Release(one, other) => {
                self.net.release(one.clone(), other.clone());
                // Releasing mends; what was cut meanwhile is cut again.
                if self.repairs.iter().any(|(_, later)| later.parts(&one, &other)) {
                    self.net.partition(one, other);
                }
            }
            Repair::Cut(one, other, until) if !all => self.cut(one, other, until),
            Repair::Cut(..) => {}
            Repair::Hasten(one, other) => {
                if !self.repairs.iter().any(|(_, later)| *later == Repair::Hasten(one.clone(), other.clone())) {
                    self.net.set_link_max_message_latency(one, other, LATENCY);
                }
            }
            Repair::FastDisk(member) => self.machines[&member].disk.slow_down(Duration::ZERO),
            Repair::SteadyClock(member) => self.machines[&member].clock.drift(now, 0),
            Repair::PowerOff(member, down) => {
                self.machines[&member].disk.slow_down(Duration::ZERO);
                // It may have gone meanwhile for another reason; then there is no power to lose.
                if !all && self.shared.up.borrow().contains_key(&member) {
                    if self.leader() == Some(member) {
                        self.shared.history.borrow_mut().lose_leader(now);
                    }
                    let seed = self.random();
                    self.power_off(member, Some(now + down), |machine| machine.disk.power_loss(seed, false));
                }
            }
            Repair::SwitchOn(device) => {
                if let Some(device) = self.shared.devices.borrow_mut().get_mut(&device) {
                    device.off = false;
                }
                self.net.bounce(self.devices[&device].name.clone());
            }
        }
    }
}

impl Repair {
    /// Whether two hosts do not hear each other until this is done.
    fn parts(&self, one: &str, other: &str) -> bool {
        match self {
            Repair::Join(a, b) | Repair::JoinOneWay(a, b) => (a == one && b == other) || (a == other && b == one),
            _ => false,
        }
    }

    /// Whether what they say to each other waits until this is done.
    fn holds(&self, one: &str, other: &str) -> bool {
        matches!(self, Repair::Release(a, b) if (a == one && b == other) || (a == other && b == one))
    }
}

fn takes_the_leader(blow: &Blow) -> bool {
    matches!(blow, Blow::PowerLoss { .. } | Blow::Kill { .. } | Blow::Isolate { .. } | Blow::Hold { .. })
}
