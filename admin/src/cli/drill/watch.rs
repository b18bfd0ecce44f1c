//! Watching the members while something is broken: who answers, who leads, what happened when.

use std::{
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;

use super::{canary::Diary, stage::Stage};

/// Between two looks at a member.
const EVERY: Duration = Duration::from_millis(100);
/// A look that takes longer found nobody.
const LOOK: Duration = Duration::from_secs(1);

/// Something that happened.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Event {
    /// Seconds since the run began.
    pub t: f64,
    /// `injected`, `leader`, `recovered`, `healed`, `well`, `silent`, `answers`, `aborted`, …
    pub kind: String,
    pub ev: String,
}

/// A member as last seen. Times in microseconds since the run began.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// When it last answered.
    pub answered: u64,
    /// The last look found nobody.
    pub silent: bool,
}

/// What was seen so far.
#[derive(Default)]
pub struct Sight {
    pub seen: Vec<Seen>,
    pub events: Vec<Event>,
    /// Leaders in order: when each was first heard of, its term and name.
    pub leaders: Vec<(u64, u64, String)>,
}

/// Looks at every member until dropped.
pub struct Watch {
    diary: Arc<Diary>,
    sight: Arc<Mutex<Sight>>,
    _tasks: JoinSet<()>,
}

impl Watch {
    pub fn start(stage: &Stage, diary: &Arc<Diary>) -> Watch {
        let seen = vec![Seen { answered: diary.now(), silent: false }; stage.seats.len()];
        let sight = Arc::new(Mutex::new(Sight { seen, ..Sight::default() }));
        let mut tasks = JoinSet::new();
        for index in 0..stage.seats.len() {
            let (seat, diary, sight) = (stage.seats[index].clone(), diary.clone(), sight.clone());
            tasks.spawn(async move {
                loop {
                    let look = tokio::time::timeout(LOOK, seat.look(false)).await;
                    let now = diary.now();
                    {
                        let mut sight = sight.lock().expect("watchers do not panic");
                        match look {
                            Ok(Ok(look)) => sight.answered(index, &seat.name, now, look.leader, look.term),
                            _ => sight.silent(index, &seat.name, now),
                        }
                    }
                    tokio::time::sleep(EVERY).await;
                }
            });
        }
        Watch { diary: diary.clone(), sight, _tasks: tasks }
    }

    pub fn sight(&self) -> MutexGuard<'_, Sight> {
        self.sight.lock().expect("watchers do not panic")
    }

    /// Writes down what the driver did or found.
    pub fn note(&self, kind: &str, ev: impl Into<String>) {
        let now = self.diary.now();
        self.sight().note(now, kind, ev.into());
    }
}

impl Sight {
    fn note(&mut self, at: u64, kind: &str, ev: String) {
        self.events.push(Event { t: at as f64 / 1e6, kind: kind.into(), ev });
    }

    fn answered(&mut self, index: usize, name: &str, now: u64, leader: Option<String>, term: u64) {
        if std::mem::take(&mut self.seen[index].silent) {
            self.note(now, "answers", format!("{name} answers again"));
        }
        if let Some(leader) = &leader
            && self.leaders.last().is_none_or(|(_, known, _)| term > *known)
        {
            self.leaders.push((now, term, leader.clone()));
            if self.leaders.len() > 1 {
                self.note(now, "leader", format!("{leader} leads, term {term} (as {name} says)"));
            }
        }
        self.seen[index] = Seen { answered: now, silent: false };
    }

    fn silent(&mut self, index: usize, name: &str, now: u64) {
        if !std::mem::replace(&mut self.seen[index].silent, true) {
            self.note(now, "silent", format!("{name} does not answer"));
        }
    }

    /// How long each member but one has been silent; none: it answers.
    pub fn silences(&self, names: &[String], now: u64, except: Option<usize>) -> Vec<(String, Option<u64>)> {
        let others = self.seen.iter().zip(names).enumerate().filter(|(index, _)| Some(*index) != except);
        others.map(|(_, (seen, name))| (name.clone(), seen.silent.then(|| now.saturating_sub(seen.answered)))).collect()
    }

    /// Leaders that came after a moment.
    pub fn leaders_since(&self, since: u64) -> usize {
        self.leaders.iter().filter(|(at, ..)| *at >= since).count()
    }

    /// When another than `name` was first seen to lead, after a moment.
    pub fn left_lead(&self, since: u64, name: &str) -> Option<u64> {
        self.leaders.iter().find(|(at, _, leader)| *at >= since && leader != name).map(|(at, ..)| *at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_happens_is_told_once() {
        let mut sight = Sight { seen: vec![Seen::default(); 2], ..Sight::default() };
        let leader = |name: &str| Some(name.to_owned());
        sight.answered(0, "hs1", 100_000, leader("hs1"), 1);
        sight.answered(1, "hs2", 110_000, leader("hs1"), 1);
        sight.silent(0, "hs1", 200_000);
        sight.silent(0, "hs1", 300_000);
        sight.answered(1, "hs2", 700_000, leader("hs2"), 2);
        sight.answered(1, "hs2", 800_000, leader("hs2"), 2);
        assert_eq!(sight.silences(&["hs1".into(), "hs2".into()], 900_000, None)[0].1, Some(800_000));
        assert_eq!(sight.silences(&["hs1".into(), "hs2".into()], 900_000, Some(0)), [("hs2".into(), None)]);
        sight.answered(0, "hs1", 950_000, leader("hs1"), 1);
        let told: Vec<&str> = sight.events.iter().map(|event| event.ev.as_str()).collect();
        assert_eq!(told, ["hs1 does not answer", "hs2 leads, term 2 (as hs2 says)", "hs1 answers again"]);
        assert_eq!((sight.leaders_since(0), sight.leaders_since(600_000)), (2, 1));
        assert_eq!(sight.left_lead(600_000, "hs1"), sight.leaders.last().map(|(at, ..)| *at));
        assert_eq!(sight.left_lead(600_000, "hs2"), None, "it leads still");
    }
}
