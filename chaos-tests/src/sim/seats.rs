//! Members come, go and are replaced while the storm goes.

use std::{collections::BTreeSet, time::Duration};

use state_machine::{MemberId, MemberState};

use super::{
    disk::OldDay,
    member::Errand,
    plan::{Class, Plan},
    run::Simulation,
    trace,
};

/// Between two attempts at the same errand.
const AGAIN: Duration = Duration::from_secs(2);
/// When the first change begins, since the storm began.
const FIRST_CHANGE: Duration = Duration::from_secs(2);

/// Who shall be a member, and what is still to be done for it.
#[derive(Default)]
pub struct Seats {
    /// Changes of who is a member that came to their end.
    pub changes: u64,
    gone: BTreeSet<u64>,
    wanted: Wanted,
    asked: Duration,
    wiped: Option<u64>,
    old_day: Option<(u64, OldDay)>,
    grown: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
enum Wanted {
    #[default]
    Nothing,
    /// These machines shall get members.
    Guests(Vec<u64>),
    /// These members shall leave for good.
    Leavers(Vec<u64>),
    /// The member of this machine, whose folder is gone, shall be replaced.
    Replacement(u64),
}

impl Seats {
    /// The machines on which members should run.
    pub fn expected(&self) -> BTreeSet<u64> {
        let all = if self.grown { 5 } else { Plan::FOUNDERS };
        (1..=all).filter(|machine| !self.gone.contains(machine)).collect()
    }
}

impl Simulation<'_> {
    /// Begins the changes of this run's class, and pushes what is under way.
    pub fn change_seats(&mut self, since_storm: Duration) {
        if since_storm >= FIRST_CHANGE && self.seats.wanted == Wanted::Nothing {
            match self.plan.class {
                Class::Churn if !self.seats.grown => {
                    self.seats.grown = true;
                    self.seats.wanted = Wanted::Guests(vec![4, 5]);
                }
                Class::Churn if self.seats.gone.is_empty() && since_storm >= FIRST_CHANGE * 4 => {
                    let first = u64::from(self.random()) % 5 + 1;
                    self.let_go([first, first % 5 + 1]);
                }
                Class::Rough if self.seats.wiped.is_none() && self.down.is_empty() => self.wipe(),
                _ => {}
            }
        }
        self.push();
    }

    /// After the storm: what was begun must come to its end, and an old folder must not.
    pub fn settle_seats(&mut self, patience: Duration) -> Result<(), String> {
        if self.plan.class == Class::Churn && self.seats.gone.is_empty() && self.seats.grown {
            self.finish(patience)?;
            self.let_go([4, 5]);
        }
        self.finish(patience)?;
        match self.seats.old_day.take() {
            Some((machine, day)) => self.put_back(machine, &day, patience),
            None => Ok(()),
        }
    }

    fn let_go(&mut self, machines: [u64; 2]) {
        self.shared.leaving.borrow_mut().extend(machines);
        self.seats.gone.extend(machines);
        self.seats.wanted = Wanted::Leavers(machines.to_vec());
    }

    fn finish(&mut self, patience: Duration) -> Result<(), String> {
        let end = self.net.elapsed() + patience;
        while self.seats.wanted != Wanted::Nothing {
            self.step()?;
            self.mend(false);
            self.push();
            if self.net.elapsed() > end {
                return Err(format!(
                    "{:?} did not come to its end after the storm: {}",
                    self.seats.wanted,
                    self.describe()
                ));
            }
        }
        Ok(())
    }

    /// Asks some member for what is wanted, again and again, and notices when it is done.
    fn push(&mut self) {
        let now = self.net.elapsed();
        if self.seats.wanted == Wanted::Nothing || now < self.seats.asked + AGAIN {
            return;
        }
        self.seats.asked = now;
        let up: Vec<u64> = self.shared.up.borrow().keys().copied().collect();
        let Some(by) = up.get(self.random() as usize % up.len().max(1)).copied() else { return };
        match self.seats.wanted.clone() {
            Wanted::Nothing => {}
            Wanted::Guests(machines) => {
                let pinned = |machine: &u64| self.shared.board.borrow().join_tokens.contains_key(machine);
                if machines.iter().all(|machine| self.votes(*machine)) {
                    self.done(machines.len() as u64);
                } else if self.shared.board.borrow().shared_ticket.is_none() {
                    self.send(by, Errand::InviteMany(machines));
                } else if let Some(machine) = machines.iter().find(|machine| !pinned(machine)).copied() {
                    self.send(by, Errand::Invite { machine, replaces: String::new() });
                }
            }
            Wanted::Leavers(machines) => {
                let here = machines.iter().filter_map(|machine| Some((*machine, self.active(*machine)?)));
                match here.collect::<Vec<_>>().first().copied() {
                    None => {
                        // Their processes have ended, or will as soon as they hear of it.
                        if machines.iter().all(|machine| !self.shared.up.borrow().contains_key(machine)) {
                            for machine in machines.iter().copied() {
                                // One that was down all the time stays so.
                                self.down.insert(machine, None);
                            }
                            self.done(machines.len() as u64);
                        }
                    }
                    // Nobody asks a member to remove itself.
                    Some((machine, member)) if machine != by => _ = self.send(by, Errand::Remove(member)),
                    Some(_) => {}
                }
            }
            Wanted::Replacement(machine) => {
                let pinned = self.shared.board.borrow().join_tokens.contains_key(&machine);
                if !pinned {
                    self.send(by, Errand::Invite { machine, replaces: format!("hs{machine}") });
                } else if self.down.contains_key(&machine) {
                    self.bring_back(machine);
                } else if self.votes(machine) {
                    self.done(1);
                }
            }
        }
    }

    fn done(&mut self, changes: u64) {
        trace::event("seats", 0, format!("{:?}", self.seats.wanted).as_bytes());
        self.seats.changes += changes;
        self.seats.wanted = Wanted::Nothing;
    }

    /// Whether the member on this machine runs, votes, and is known to by itself.
    fn votes(&self, machine: u64) -> bool {
        let up = self.shared.up.borrow();
        up.get(&machine).is_some_and(|running| {
            let status = running.cluster.status();
            status.voters.contains(&status.me) && !status.joint
        })
    }

    /// The member of this name, as long as the member that knows most has it.
    fn active(&self, machine: u64) -> Option<MemberId> {
        let up = self.shared.up.borrow();
        let state = up.values().map(|running| running.cluster.latest()).max_by_key(|state| state.revision())?;
        let name = format!("hs{machine}");
        let mut members = state.members().values();
        members.find(|member| member.state == MemberState::Active && member.name == name).map(|member| member.id)
    }

    /// A machine burns down. Its member must be replaced; before, a copy of another machine is put aside for later.
    fn wipe(&mut self) {
        let victim = u64::from(self.random()) % Plan::FOUNDERS + 1;
        let other = victim % Plan::FOUNDERS + 1;
        if !self.is_whole(Plan::FOUNDERS) {
            return;
        }
        self.seats.wiped = Some(victim);
        let soon = self.net.elapsed() + Duration::from_millis(50);
        self.crash(other, Some(soon), |machine| machine.disk.thaw());
        self.seats.old_day = Some((other, self.machines[&other].disk.copy()));
        self.crash(victim, None, |machine| machine.disk.thaw());
        self.empty(victim);
    }

    fn empty(&mut self, machine: u64) {
        self.machines[&machine].disk.put_back(None);
        let mut board = self.shared.board.borrow_mut();
        board.join_tokens.remove(&machine);
        board.empty_handed.insert(machine);
        self.seats.wanted = Wanted::Replacement(machine);
        trace::event("wiped", machine, &[]);
    }

    /// Somebody restores a machine from an image of yesterday. Its member must notice, and is then replaced.
    fn put_back(&mut self, machine: u64, day: &OldDay, patience: Duration) -> Result<(), String> {
        self.run_for(Duration::from_secs(2))?;
        self.crash(machine, None, |machine| machine.disk.thaw());
        self.machines[&machine].disk.put_back(Some(day));
        trace::event("put back", machine, &[]);
        self.shared.rolled_back.borrow_mut().insert(machine, false);
        self.bring_back(machine);
        let end = self.net.elapsed() + patience;
        while self.shared.rolled_back.borrow().get(&machine) == Some(&false) {
            self.step()?;
            self.mend(false);
            if self.net.elapsed() > end {
                return Err(format!("hs{machine}, put back to an earlier day, neither starts nor gives up"));
            }
        }
        self.mend(false);
        self.shared.rolled_back.borrow_mut().remove(&machine);
        self.empty(machine);
        self.finish(patience)
    }
}
