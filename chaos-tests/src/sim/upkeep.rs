//! What operators do now and then, storm or not: certificates, authorities, keys; and the share of backups has days of
//! its own. Drawn from dice of its own, so that storms stay what they are.

use std::time::Duration;

use raft::archive::{Begin, Shelf, replay};
use rand::{RngExt, SeedableRng, rngs::SmallRng};
use state_machine::Revision;

use super::{host::mix, member::Errand, run::Simulation, trace};
use crate::checks::backups_restore::Restored;

/// Longer than two periods of the task that fills the share, and than the silence after which another member does it.
const ARCHIVED_WITHIN: Duration = Duration::from_secs(60);

/// One thing to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Task {
    RenewCertificate,
    RotateAuthority,
    Reseal,
    /// The share of backups does not answer for so long.
    ShareAway(Duration),
}

/// What is still to be done, and when; since the storm began.
pub fn tasks(seed: u64, storm: Duration, backups: bool) -> Vec<(Duration, Task)> {
    let mut dice = SmallRng::seed_from_u64(mix(seed, 5));
    let mut tasks = Vec::new();
    let mut at = Duration::from_millis(dice.random_range(500..6000));
    while at < storm {
        let task = match dice.random_range(0..10) {
            0..4 => Task::RenewCertificate,
            4..7 => Task::RotateAuthority,
            7..8 => Task::Reseal,
            _ => Task::ShareAway(Duration::from_millis(dice.random_range(500..12_000))),
        };
        if backups || !matches!(task, Task::ShareAway(_)) {
            tasks.push((at, task));
        }
        at += Duration::from_millis(dice.random_range(2000..9000));
    }
    tasks
}

impl Simulation<'_> {
    /// Does what is due.
    pub fn keep_up(&mut self, since_storm: Duration) {
        while let Some((_, task)) = self.tasks.pop_front_if(|(at, _)| *at <= since_storm) {
            let up: Vec<u64> = self.shared.up.borrow().keys().copied().collect();
            let (by, about) = (self.upkeep_dice.random_range(0..u64::MAX), self.upkeep_dice.random_range(0..u64::MAX));
            let choose = |dice: u64| up.get(dice as usize % up.len().max(1)).copied();
            trace::event("upkeep", 0, format!("{task:?}").as_bytes());
            match (task, choose(by), choose(about)) {
                (Task::ShareAway(lasting), ..) => {
                    if let Some(shelf) = &self.shared.shelf {
                        shelf.set_away(true);
                        self.share_back = Some(self.net.elapsed() + lasting);
                    }
                }
                (Task::RenewCertificate, Some(by), Some(about)) => {
                    let me = self.shared.up.borrow().get(&about).map(|running| running.cluster.me());
                    me.map(|member| self.send(by, Errand::Renew(member)));
                }
                (Task::RotateAuthority, Some(by), _) => _ = self.send(by, Errand::RotateAuthority),
                (Task::Reseal, Some(by), _) => _ = self.send(by, Errand::Reseal),
                // Nobody is there to be asked.
                _ => {}
            }
        }
        if let Some(back) = self.share_back.filter(|back| *back <= self.net.elapsed()) {
            tracing::debug!(?back, "the share is back");
            self.share_back = None;
            self.shared.shelf.as_ref().inspect(|shelf| shelf.set_away(false));
        }
    }

    /// At rest: waits until everything is archived, and restores it on trial, from the newest full and from the oldest.
    pub fn restore_on_trial(&mut self) -> Result<(), String> {
        let Some(shelf) = self.shared.shelf.clone() else { return Ok(()) };
        let end = self.net.elapsed() + ARCHIVED_WITHIN;
        let name = {
            let up = self.shared.up.borrow();
            let (_, running) = up.first_key_value().ok_or("no member runs")?;
            running.cluster.cluster_id().to_owned()
        };
        let disk = self.machines[&1].disk.clone();
        loop {
            let place = Shelf::new(std::sync::Arc::new(shelf.image()), name.clone(), disk.clone());
            let items = block_on(place.items()).map_err(|error| error.to_string())?;
            let newest = self.revisions().values().max().copied().unwrap_or_default();
            if items.iter().map(|item| item.last()).max().is_some_and(|last| Revision(last) >= newest) {
                for begin in [Begin::Newest, Begin::OLDEST] {
                    // An object that is torn is skipped when a restore begins, but not when all are compared.
                    if begin == Begin::Newest || shelf.torn() == 0 {
                        let restored = block_on(replay(&place, None, begin)).map_err(|error| error.to_string());
                        self.restored.push(restored.map(|done| Restored {
                            revision: done.state.revision(),
                            hash: done.state.hash(),
                            stopped: done.stopped,
                        }));
                    }
                }
                return Ok(());
            }
            if self.net.elapsed() > end {
                return Err(format!(
                    "backups restore: {} objects lie on the share and do not reach revision {newest}: {}",
                    items.len(),
                    self.describe()
                ));
            }
            self.run_for(Duration::from_millis(500))?;
        }
    }
}

/// Nothing here waits for anything: the share is an image, and a simulated disk works at once.
fn block_on<T>(work: impl Future<Output = T>) -> T {
    futures::executor::block_on(work)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn upkeep_is_its_seeds_and_every_task_comes_sooner_or_later() {
        let minute = Duration::from_secs(60);
        assert_eq!(tasks(3, minute, true), tasks(3, minute, true));
        let all: Vec<Task> = (0..20).flat_map(|seed| tasks(seed, minute, true)).map(|(_, task)| task).collect();
        for task in [Task::RenewCertificate, Task::RotateAuthority, Task::Reseal] {
            assert!(all.contains(&task), "{task:?}");
        }
        assert!(all.iter().any(|task| matches!(task, Task::ShareAway(_))));
        assert!(!tasks(3, minute, false).iter().any(|(_, task)| matches!(task, Task::ShareAway(_))));
    }
}
