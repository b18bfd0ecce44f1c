//! What happens when something that must be so is not: a member is quarantined, or the cluster takes no changes.
//!
//! A member whose State is not the one a majority of the voters came to, or whose disk gives back other bytes than it
//! was given, stops at once (exit code 40) and leaves a report in its folder; as long as the report lies there, it
//! does not start. When several States exist and no majority stands behind any, nobody can say who is wrong: all go
//! on reading and none takes a change, until a comparison has a majority again.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, atomic::Ordering},
    time::Duration,
};

use state_machine::{Command, MemberId, codes};
use tokio::{
    sync::watch,
    time::{Instant, sleep_until, timeout},
};
use world::World;

use crate::{
    agreement::{ASKED_BY, Agreement, Fingerprint},
    cluster::{Core, REMOVED},
    error::{OUTDATED, ProposeError, StartError},
    options::Options,
    status::Role,
    upgrade,
};

/// How a reason of [`Cluster::fatal`](crate::Cluster::fatal) begins when the member must not be started again.
pub const QUARANTINED: &str = "storage integrity: ";

/// The report of a member that must not take part: for whoever finds the folder.
pub const QUARANTINE_FILE: &str = "quarantine.txt";

/// The process's exit code for a reason of [`Cluster::fatal`](crate::Cluster::fatal).
pub fn fatal_exit_code(reason: &str) -> u8 {
    match reason {
        REMOVED => 14,
        reason if reason.starts_with(OUTDATED) => 12,
        reason if reason.starts_with(QUARANTINED) => 40,
        reason if reason.contains(upgrade::TOO_OLD) => 13,
        _ => 70,
    }
}

/// The first reason stays: what follows is only its consequence.
pub fn fail(fatal: &watch::Sender<Option<String>>, reason: impl Into<String>) {
    fatal.send_if_modified(|known| {
        let first = known.is_none();
        if first {
            *known = Some(reason.into());
        }
        first
    });
}

/// Where a member's report goes and what it says of the member.
#[derive(Clone)]
pub struct Warden {
    folder: PathBuf,
    name: String,
    version: String,
    world: World,
}

impl Warden {
    pub fn new(options: &Options, world: &World) -> Warden {
        let Options { data_dir: folder, name, version, .. } = options.clone();
        Warden { folder, name, version, world: world.clone() }
    }

    /// Of a folder whose member does not run.
    pub fn of(folder: &Path, name: &str, version: &str, world: &World) -> Warden {
        let (folder, world) = (folder.to_path_buf(), world.clone());
        Warden { folder, name: name.to_owned(), version: version.to_owned(), world }
    }

    /// The member's folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Writes the report, unless one lies there.
    pub fn report(&self, why: &str) {
        let Warden { folder, name, version, world } = self;
        let path = folder.join(QUARANTINE_FILE);
        if matches!(world.disk.read(&path), Ok(Some(_))) {
            return;
        }
        let text = format!(
            "{why}\n\nmember name   {name}\nfolder        {}\nprogram       {version}\nunix time ms  {}\ncode          {}\n\n\
             Nothing in this folder was changed. Keep it for analysis; do not start it again, here or elsewhere: as long as\n\
             this file is here, hsraft refuses to.\n\
             A healthy majority goes on without it. To replace this member, on a healthy one:\n\
             \n  hsraft token create --name {name}\n\nand here, with an empty data folder:\n\
             \n  hsraft join HOST:PORT --token hsr1.… --replace {name}\n",
            folder.display(),
            world.clock.now_ms(),
            codes::START_INTEGRITY,
        );
        if let Err(error) = world.disk.write(&path, text.as_bytes()) {
            tracing::error!(%error, "the report of the quarantine could not be written");
        }
    }

    /// Refuses a folder that was quarantined before.
    pub fn check(&self) -> Result<(), StartError> {
        let path = self.folder.join(QUARANTINE_FILE);
        let Ok(Some(report)) = self.world.disk.read(&path) else { return Ok(()) };
        let report = String::from_utf8_lossy(&report).into_owned();
        let first = report.lines().next().unwrap_or_default();
        let first = first.strip_prefix(QUARANTINED).unwrap_or(first);
        Err(StartError::Integrity(format!("it was quarantined before, see {}: {first}", path.display())))
    }
}

/// Why no changes are taken now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Closed {
    pub code: u16,
    pub why: String,
}

impl From<Closed> for ProposeError {
    fn from(Closed { code, why }: Closed) -> ProposeError {
        ProposeError::Closed { code, why }
    }
}

/// Whether changes are taken.
#[derive(Default)]
pub struct Gate {
    /// States differ and nobody is right.
    halted: Mutex<Option<String>>,
}

impl Gate {
    fn halt(&self, why: Option<String>) -> bool {
        let mut halted = self.halted.lock().expect("nobody panics while holding the gate");
        let changed = halted.is_some() != why.is_some();
        *halted = why;
        changed
    }

    /// Why nothing is taken because States differ.
    pub fn halted(&self) -> Option<String> {
        self.halted.lock().expect("nobody panics while holding the gate").clone()
    }
}

/// How often the comparison is looked at: members tell each other once a second.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// A view of the leader that is older says nothing.
const FRESH: Duration = Duration::from_secs(5);
/// While nothing is taken, the leader asks for another comparison so often: a member that came back has a say then.
const ASK_EVERY: Duration = Duration::from_secs(10);

/// Acts on what comparing the States came to, as long as the member lives.
pub async fn guard(core: Arc<Core>, fatal: watch::Sender<Option<String>>) {
    let mut next = Instant::now();
    let mut asked = Instant::now();
    loop {
        next = next.max(Instant::now()) + LOOK_EVERY;
        sleep_until(next).await;
        let board = core.board();
        if board.age > FRESH {
            continue;
        }
        let status = core.status();
        let agreements = board.agreements(&status.voters);
        let wrong = agreements.values().filter(|agreement| !agreement.is_good()).count();
        core.metrics.state_differs.set(wrong as i64);
        match agreements.get(&core.me) {
            Some(Agreement::Differs) => {
                let why = "its state is not the one a majority of the voters came to at the same log index";
                quarantine(&core, &fatal, why).await;
                return;
            }
            Some(Agreement::NoMajority) => {
                let others: Vec<String> =
                    agreements.iter().filter(|(_, found)| !found.is_good()).map(|(id, _)| id.to_string()).collect();
                let why = format!("members {} came to different states and no majority to one", others.join(", "));
                if core.gate.halt(Some(why.clone())) {
                    tracing::error!(why, "no changes are taken until a majority of the voters has one state");
                }
                if status.role == Role::Leader && asked.elapsed() >= ASK_EVERY {
                    asked = Instant::now();
                    if let Err(error) = core.ask_for_fingerprints().await {
                        tracing::info!(%error, "no new comparison yet");
                    }
                }
            }
            _ => {
                if core.gate.halt(None) {
                    tracing::info!("a majority of the voters has one state; changes are taken again");
                }
            }
        }
    }
}

/// Stops this member for good.
pub async fn quarantine(core: &Core, fatal: &watch::Sender<Option<String>>, why: &str) {
    tracing::error!(why, "this member is quarantined");
    core.metrics.quarantined.set(1);
    core.warden.report(&StartError::Integrity(why.to_owned()).to_string());
    core.stopping.store(true, Ordering::SeqCst);
    fail(fatal, format!("{QUARANTINED}{why}"));
    if let Err(error) = core.raft.shutdown().await {
        tracing::warn!(%error, "the engine of a quarantined member did not stop cleanly");
    }
}

/// How long members may take to tell of a revision they were asked about: two reports, and a slow disk.
const TELL_WITHIN: Duration = Duration::from_secs(10);
const TELL_LOOKS: Duration = Duration::from_millis(200);

/// What all members came to at one revision.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Comparison {
    pub revision: u64,
    /// Every active member; nothing where it did not tell in time.
    pub members: Vec<(MemberId, Option<Fingerprint>, Agreement)>,
}

impl Core {
    /// Puts an entry into the log at which every member takes a fingerprint; its index.
    async fn ask_for_fingerprints(self: &Arc<Self>) -> Result<u64, ProposeError> {
        let applied = self.propose(self.new_request(), ASKED_BY, Command::Elapse).await?;
        Ok(applied.revision.0)
    }

    /// Has all members compare their States at one revision.
    pub async fn compare_states(self: &Arc<Self>) -> Result<Comparison, ProposeError> {
        let revision = self.ask_for_fingerprints().await?;
        let told = || {
            let board = self.board();
            let mut told = Vec::new();
            let active: Vec<MemberId> = {
                let state = self.latest.borrow();
                let members = state.members().values();
                members.filter(|m| m.state == state_machine::MemberState::Active).map(|m| m.id).collect()
            };
            for id in active {
                let report = board.members.get(&id).and_then(|seen| seen.report.as_ref());
                let print =
                    report.and_then(|report| report.fingerprints.iter().find(|p| p.revision == revision).copied());
                told.push((id, print));
            }
            told
        };
        let all = async {
            while told().iter().any(|(_, print)| print.is_none()) {
                tokio::time::sleep(TELL_LOOKS).await;
            }
        };
        let _ = timeout(TELL_WITHIN, all).await;
        let told = told();
        let prints = told.iter().filter_map(|(id, print)| Some((*id, vec![(*print)?]))).collect();
        let agreements = crate::agreement::compare(&prints, &self.status().voters);
        let judged = |id: &MemberId| agreements.get(id).copied().unwrap_or_default();
        let members = told.iter().map(|(id, print)| (*id, *print, judged(id))).collect();
        Ok(Comparison { revision, members })
    }

    /// Why this member, which leads, takes no change now.
    pub fn closed_to(&self, by: &str) -> Option<Closed> {
        if let Some(why) = self.gate.halted().filter(|_| by != ASKED_BY) {
            return Some(Closed { code: codes::STATES_DIFFER.number, why });
        }
        let room = self.room();
        room.short.then(|| Closed {
            code: codes::NO_SPACE.number,
            why: format!(
                "the disk of the leading member {} is full: {} MiB are free, {} MiB more are needed below {}",
                self.warden.name,
                room.free >> 20,
                (room.needed >> 20) + 1,
                self.warden.folder.display()
            ),
        })
    }
}
