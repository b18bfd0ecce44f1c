//! quorum-loss-recovery and full-disaster: everything is lost, in a laboratory the drill makes and removes.
//!
//! What is done is what the runbook `backup-and-disaster` says, with the same words.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use serde_json::{Value, json};
use tokio::time::Instant;

use state_machine::codes;

use super::{
    canary,
    catalogue::{Act, Drill},
    judge::Figure,
    ops::{Kind, Op},
    run::Measured,
    watch::Event,
    words::{Scratch, say, word},
};
use crate::{
    cli::{Output, problem::Problem},
    client::{Client, Remote, Target, Trust},
    cluster::view::{Status, Verdict},
    files,
    lab::{
        self,
        layout::{Layout, Place},
        memory::Memory,
        process::{self, Begin},
    },
    v1::types::{OneUser, Users},
};

const MEMBERS: usize = 3;
/// Canary writes before the end: enough to lose some.
const WRITES: u64 = 300;
const PATIENCE: Duration = Duration::from_secs(120);
/// The archive takes the log every ten seconds; a disaster comes at any moment of it.
const LAST_WRITES: Duration = Duration::from_secs(4);

/// The laboratory and what happened in it; its members are killed when it goes.
struct Ruin<'a> {
    id: &'a str,
    scratch: Scratch,
    layout: Layout,
    begun: Instant,
    ops: Vec<Op>,
    events: Vec<Event>,
    output: &'a Output,
}

impl Drop for Ruin<'_> {
    fn drop(&mut self) {
        for index in 0..MEMBERS {
            // Its folder goes next; what does not run needs no killing.
            let _ = process::kill(&self.layout.place(index));
        }
    }
}

/// Runs one of the two.
pub async fn run(id: &str, drill: &Drill, base_port: u16, output: &Output) -> Result<Measured, Problem> {
    let scratch = Scratch::new(id, "lab")?;
    let layout = Layout { dir: scratch.0.clone(), base_port };
    let mut ruin = Ruin { id, scratch, layout, begun: Instant::now(), ops: Vec::new(), events: Vec::new(), output };
    let mut values: BTreeMap<String, Figure> = BTreeMap::new();
    let mut measured = Measured::default();
    let went = tokio::select! { biased;
        went = ruin.all(drill.act, &mut values, &mut measured) => went,
        _ = tokio::signal::ctrl_c() => Err(Problem::of(&codes::DRILL_STOPPED, "the operator stopped it")),
    };
    if let Err(problem) = went {
        ruin.note("aborted", problem.to_string());
        measured.aborted = Some(problem.to_string());
    }
    measured.figures = values;
    measured.events = std::mem::take(&mut ruin.events);
    measured.ops = std::mem::take(&mut ruin.ops);
    Ok(measured)
}

impl Ruin<'_> {
    fn note(&mut self, kind: &str, ev: impl Into<String>) {
        let ev = ev.into();
        self.output.talk(&ev);
        self.events.push(Event { t: self.begun.elapsed().as_secs_f64(), kind: kind.into(), ev });
    }

    fn place(&self, index: usize) -> Place {
        self.layout.place(index)
    }

    async fn all(
        &mut self,
        act: Act,
        values: &mut BTreeMap<String, Figure>,
        measured: &mut Measured,
    ) -> Result<(), Problem> {
        let (dir, port) = (word(&self.layout.dir), self.layout.base_port.to_string());
        if act == Act::LoseEverything {
            self.keep_backups()?;
        }
        let up = ["lab", "up", "--dir", &dir, "--base-port", &port, "--members", "3", "-o", "json"];
        say(&up, &[]).await?;
        self.note("steady", "three members are up");
        let noise = noise_key(&self.place(0)).await?;
        let first = self.write(0, WRITES).await?;
        measured.steady_rate = first;
        measured.rate = first;
        if act == Act::LoseEverything {
            self.recovery_key().await?;
            self.archived().await?;
            let until = Instant::now() + LAST_WRITES;
            while Instant::now() < until {
                self.write(0, 10).await?;
            }
        }
        for index in 0..MEMBERS {
            process::kill(&self.place(index))?;
        }
        let lost_at = self.begun.elapsed();
        let survivor = match act {
            Act::LoseQuorum => 2,
            _ => 0,
        };
        for index in (0..MEMBERS).filter(|index| act == Act::LoseEverything || *index != survivor) {
            let place = self.place(index);
            process::ended(&place, Duration::from_secs(5)).await;
            files::remove_all(&place.data)
                .map_err(|error| Problem::of(&codes::FILE_UNWRITABLE, format!("{}: {error}", place.name)))?;
        }
        let survivor = self.place(survivor);
        process::ended(&survivor, Duration::from_secs(5)).await;
        let tool = match act {
            Act::LoseQuorum => {
                self.note("injected", format!("all killed; the data of all but {} is gone", survivor.name));
                self.recover(&survivor).await?
            }
            _ => {
                self.note("injected", "all killed; the data of all members is gone");
                self.restore(&survivor).await?
            }
        };
        self.note("tool", format!("the tools took {} ms", tool.as_millis()));
        process::start(&survivor, Begin::Serve)?;
        let door = lab::client(&survivor);
        self.serves(&door).await?;
        let again = json!({ "name": format!("{}again", canary::prefix(self.id)) });
        door.post::<OneUser>("/api/v1/user", again).await?;
        let took = self.begun.elapsed() - lost_at;
        self.note("recovered", format!("{} takes writes, {} ms after all were gone", survivor.name, took.as_millis()));
        let mut figure = |name: &str, unit: &str, value: u64| {
            values.insert(name.into(), Figure::of(unit, vec![value]).expect("one value"));
        };
        figure("tool_time", "ms", tool.as_millis() as u64);
        figure("writes_again", "ms", took.as_millis() as u64);

        let have: Users = door.get("/api/v1/user?consistency=linearizable").await?;
        let names: BTreeSet<String> = have.users.into_iter().map(|user| user.name).collect();
        let found = canary::compare(&self.ops, &[(survivor.name.clone(), names)]);
        let lost_since = self.ops.iter().filter(|op| found.missing.iter().any(|(serial, _)| *serial == op.serial));
        let oldest = lost_since.map(|op| op.answered).min();
        let span = oldest.map_or(0, |oldest| (lost_at.as_micros() as u64).saturating_sub(oldest) / 1000);
        figure("lost_span", "ms", span);
        figure("other_noise_key", "count", u64::from(noise_key(&survivor).await? != noise));
        self.note(
            "counted",
            format!(
                "{} acknowledged, {} gone, the oldest {span} ms before the end",
                found.acknowledged,
                found.missing.len()
            ),
        );

        let others: Vec<usize> = (0..MEMBERS).filter(|index| self.place(*index) != survivor).collect();
        self.rejoin(&survivor, &others).await?;
        self.note("well", "three members again");
        let doors: Vec<Client> = (0..MEMBERS).map(|index| lab::client(&self.place(index))).collect();
        measured.members = MEMBERS;
        measured.hashes = super::run::hashes(&doors).await;
        // R11 allows the last 15 s to be gone; what the survivor of R10 had acknowledged may not be.
        measured.loss_allowed = act == Act::LoseEverything && span <= 15_000;
        measured.found = found;
        measured.targets = (0..MEMBERS).map(|index| self.place(index).name).collect();
        Ok(())
    }

    /// Writes through one member, one after the other; how many a second.
    async fn write(&mut self, index: usize, count: u64) -> Result<f64, Problem> {
        let (door, since) = (lab::client(&self.place(index)), Instant::now());
        for _ in 0..count {
            let serial = format!("{}{}", canary::prefix(self.id), self.ops.len());
            let begun = self.begun.elapsed().as_micros() as u64;
            let why = door.post::<OneUser>("/api/v1/user", json!({ "name": serial })).await.err();
            let answered = self.begun.elapsed().as_micros() as u64;
            let (ok, why) = (why.is_none(), why.map_or_else(String::new, |problem| problem.to_string()));
            self.ops.push(Op { kind: Kind::Write, via: index, begun, answered, ok, stale: false, serial, why });
        }
        Ok(count as f64 / since.elapsed().as_secs_f64())
    }

    /// Configuration files with a backup folder; `lab up` leaves files alone that are there.
    fn keep_backups(&self) -> Result<(), Problem> {
        for place in (0..MEMBERS).map(|index| self.place(index)) {
            let text = format!("{}  backup_dir: {:?}\n", self.layout.config(&place), self.scratch.path("backups"));
            let written = files::create_dir_all(&place.folder).and_then(|()| files::write(&place.config, &text));
            written.map_err(|error| {
                Problem::of(&codes::FILE_UNWRITABLE, format!("{}: {error}", place.config.display()))
            })?;
        }
        Ok(())
    }

    /// The key that opens backups, kept away from the members.
    async fn recovery_key(&self) -> Result<(), Problem> {
        let door = lab::client(&self.place(0));
        let reply: Value = door.post("/api/v1/cluster/recovery-key", json!({})).await?;
        let key = reply["key"].as_str().ok_or_else(|| Problem::of(&codes::DRILL_HALTED, "no recovery key was made"))?;
        files::write(&self.scratch.0.join("recovery.key"), key)
            .map_err(|error| Problem::of(&codes::DRILL_HALTED, format!("the recovery key: {error}")))
    }

    async fn serves(&self, door: &Client) -> Result<(), Problem> {
        let until = Instant::now() + PATIENCE;
        while Instant::now() < until {
            if door.get::<Status>("/api/v1/cluster/status").await.is_ok_and(|now| now.verdict != Verdict::NoQuorum) {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Err(Problem::of(
            &codes::DRILL_HALTED,
            format!("{} does not serve after {} s", door.place(), PATIENCE.as_secs()),
        ))
    }

    /// A backup that has what was written so far.
    async fn archived(&mut self) -> Result<(), Problem> {
        let (door, since, until) = (lab::client(&self.place(0)), files::now(), Instant::now() + PATIENCE);
        while Instant::now() < until {
            let status: Status = door.get("/api/v1/cluster/status").await?;
            if status.summary.backup_at.is_some_and(|at| at > since) {
                self.note("archived", "the backup has everything so far; now some more writes");
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        Err(Problem::of(&codes::DRILL_HALTED, "no backup was written"))
    }

    /// Makes the survivor a new cluster of one.
    async fn recover(&mut self, survivor: &Place) -> Result<Duration, Problem> {
        let folder = word(&survivor.data);
        let (plan, planning) = say(&["recover", "plan", "--survivor", &folder, "-o", "json"], &[]).await?;
        let plan: Value = serde_json::from_str(&plan).unwrap_or_default();
        let last = plan[0]["last_log"]
            .as_u64()
            .ok_or_else(|| Problem::of(&codes::DRILL_HALTED, format!("recover plan said {plan}")))?;
        self.note("plan", format!("recover plan names log index {last} of {}", survivor.name));
        let last = last.to_string();
        let words = [
            "recover",
            "--force-new-cluster",
            "--data-dir",
            &folder,
            "--expect-last-log",
            &last,
            "--acknowledge-data-loss",
            "--offline-peers-confirmed",
        ];
        let (_, forcing) = say(&words, &[]).await?;
        Ok(planning + forcing)
    }

    /// Restores the newest backup.
    async fn restore(&mut self, first: &Place) -> Result<Duration, Problem> {
        let (shelf, key, data) = (self.scratch.path("backups"), self.scratch.path("recovery.key"), word(&first.data));
        let words =
            ["snapshot", "restore", &shelf, "--data-dir", &data, "--name", &first.name, "--recovery-key-file", &key];
        Ok(say(&words, &[]).await?.1)
    }

    /// The others come in empty.
    async fn rejoin(&mut self, first: &Place, others: &[usize]) -> Result<(), Problem> {
        let dir = &self.layout.dir;
        let mut memory = Memory::load(dir)?.unwrap_or_default();
        for index in others {
            memory.members[*index].joined = false;
            // What is left of the one before.
            let _ = files::remove_all(&self.place(*index).data);
        }
        memory.save(dir)?;
        let (dir, port) = (word(dir), self.layout.base_port.to_string());
        let up = ["lab", "up", "--dir", &dir, "--base-port", &port, "--members", "3", "-o", "json"];
        say(&up, &[]).await?;
        self.serves(&lab::client(first)).await
    }
}

/// What clients know the cluster by.
async fn noise_key(place: &Place) -> Result<String, Problem> {
    let url = url::Url::parse(&place.url)
        .map_err(|error| Problem::of(&codes::DRILL_HALTED, format!("{}: {error}", place.url)))?;
    let remote = Remote { url, api_key: String::new(), trust: Trust::System };
    let key: Value = Client::new(Target::Remote(remote), Duration::from_secs(5)).get("/key?v=133").await?;
    let text = key["publicKey"].as_str();
    text.map(str::to_owned)
        .ok_or_else(|| Problem::of(&codes::DRILL_HALTED, format!("{} names no Noise key: {key}", place.url)))
}
