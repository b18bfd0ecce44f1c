//! The cluster a drill is run on: its members and their doors, and the laboratory when it is one.

use std::{sync::Arc, time::Duration};

use serde_json::{Value, json};
use tokio::{sync::watch, task::JoinHandle, time::Instant};

use state_machine::codes;

use crate::{
    cli::{Global, desk::Desk, problem::Problem},
    client::{Client, Remote, Target, Trust, escape},
    cluster::{
        drills::Look,
        view::{Member, Members, Status},
    },
    files,
    lab::{
        layout::{Layout, Place},
        memory::Memory,
        process::{self, Begin},
    },
    secret_text,
    v1::types::OneApiKey,
};

/// The driver renews its session so often, for so long: a member heals itself when it is silent for longer.
const RENEW_EVERY: Duration = Duration::from_secs(2);
const SESSION: Duration = Duration::from_secs(10);
/// For the doors; canaries have their own patience.
const DOOR_PATIENCE: Duration = Duration::from_secs(3);
/// A drill's own API key outlives it by nothing that matters.
const KEY_LIFE: Duration = Duration::from_secs(4 * 3600);
/// A laboratory's member that the driver killed is started by somebody else when the driver is gone for so long.
const DEAD_MAN: Duration = Duration::from_secs(60);

/// One member as the driver reaches it.
#[derive(Clone)]
pub struct Seat {
    pub id: u64,
    pub name: String,
    /// Where clients dial.
    pub url: url::Url,
    /// For its door.
    pub door: Client,
    /// For canaries.
    pub canary: Client,
    /// `host:port` of members.
    pub peer_address: String,
}

/// A laboratory under the drill.
pub struct Lab {
    pub layout: Layout,
    pub memory: Memory,
}

/// Everything a run works with.
pub struct Stage {
    pub id: String,
    /// Any member, as the command line was told.
    pub desk: Client,
    pub seats: Arc<Vec<Seat>>,
    pub lab: Option<Lab>,
    key: String,
    begun: Option<(watch::Sender<bool>, JoinHandle<()>)>,
}

impl Stage {
    /// Finds all members and makes an API key for the time of the drill.
    pub async fn open(id: &str, desk: &Desk, global: &Global, lab: Option<Lab>) -> Result<Stage, Problem> {
        let members: Members = desk.client.get("/api/v1/cluster/members").await?;
        let unreachable: Vec<&str> =
            members.members.iter().filter(|one| one.client_url.is_empty()).map(|one| one.name.as_str()).collect();
        if !unreachable.is_empty() {
            let text = format!(
                "{} has no cluster.client_url: a drill must reach every member by itself; set it and restart",
                unreachable.join(", ")
            );
            return Err(Problem::of(&codes::DRILL_SETUP, text));
        }
        let wish = json!({ "expiration": files::now().after(KEY_LIFE).to_string(), "role": "admin" });
        let key = desk.client.post::<OneApiKey>("/api/v1/apikey", wish).await?.api_key;
        let trust = match &global.ca_file {
            _ if global.insecure => Trust::Anybody,
            Some(file) => Trust::File(file.clone()),
            None => Trust::System,
        };
        let seats: Result<Vec<Seat>, Problem> =
            members.members.iter().map(|member| seat(member, &key, &trust)).collect();
        Ok(Stage { id: id.into(), desk: desk.client.clone(), seats: Arc::new(seats?), lab, key, begun: None })
    }

    /// What each member's door says.
    pub async fn looks(&self) -> Vec<(String, Option<Look>)> {
        let one = |seat: &Seat| {
            let seat = seat.clone();
            async move { (seat.name.clone(), seat.look(false).await.ok()) }
        };
        futures::future::join_all(self.seats.iter().map(one)).await
    }

    /// How the cluster is, asked of whoever answers first.
    pub async fn status(&self) -> Option<Status> {
        for seat in self.seats.iter() {
            if let Ok(status) = seat.door.get::<Status>("/api/v1/cluster/status").await
                && status.leader.is_some()
            {
                return Some(status);
            }
        }
        None
    }

    /// The index of whoever leads, as most members say.
    pub async fn leader(&self) -> Option<usize> {
        let status = self.status().await?;
        self.index_of(status.leader.as_deref()?)
    }

    pub fn index_of(&self, name: &str) -> Option<usize> {
        self.seats.iter().position(|seat| seat.name == name)
    }

    /// Opens the session at every member, and keeps it open until [`Stage::end`].
    pub async fn begin(&mut self, despite_freeze: bool) -> Result<(), Problem> {
        for seat in self.seats.iter() {
            seat.renew(&self.id, despite_freeze).await?;
        }
        let (stop, mut stopped) = watch::channel(false);
        let (seats, id) = (self.seats.clone(), self.id.clone());
        let task = tokio::spawn(async move {
            while tokio::time::timeout(RENEW_EVERY, stopped.changed()).await.is_err() {
                // A member that was killed is asked again when it is back.
                futures::future::join_all(seats.iter().map(|seat| seat.renew(&id, despite_freeze))).await;
            }
        });
        self.begun = Some((stop, task));
        Ok(())
    }

    /// The door of somebody who is not broken.
    pub fn desk_besides(&self, target: usize) -> &Client {
        let other = if target == 0 { self.seats.len() - 1 } else { 0 };
        &self.seats[other].door
    }

    /// Breaks one member.
    pub async fn inject(&self, target: usize, wish: Value) -> Result<(), Problem> {
        let path = format!("/api/v1/cluster/drill/{}/faults", self.id);
        self.seats[target].door.post::<Value>(&path, wish).await.map(drop)
    }

    /// Ends every fault everywhere, and starts members of a laboratory that do not run.
    pub async fn heal(&self) {
        let path = format!("/api/v1/cluster/drill/{}/faults", self.id);
        futures::future::join_all(self.seats.iter().map(|seat| seat.door.delete::<Value>(&path))).await;
        for target in 0..self.seats.len() {
            if let Err(problem) = self.start(target) {
                tracing::warn!(%problem, "a member was not started");
            }
        }
    }

    /// Ends the session everywhere. The drill's key is gone with it.
    pub async fn end(&mut self) {
        if let Some((stop, task)) = self.begun.take() {
            stop.send_replace(true);
            let _ = task.await;
        }
        let path = format!("/api/v1/cluster/drill/{}", self.id);
        futures::future::join_all(self.seats.iter().map(|seat| seat.door.delete::<Value>(&path))).await;
        let prefix = secret_text::public_prefix(secret_text::API, &self.key);
        if let Err(problem) = self.desk.delete::<Value>(&format!("/api/v1/apikey/{}", escape(prefix))).await {
            tracing::warn!(%problem, "the drill's API key was not deleted; it expires by itself");
        }
    }

    /// The place of a member in the laboratory.
    pub fn place(&self, target: usize) -> Option<Place> {
        let lab = self.lab.as_ref()?;
        let index = lab.memory.members.iter().position(|known| known.name == self.seats[target].name)?;
        Some(lab.layout.place(index))
    }

    /// Somebody else starts the member when this driver does not come to it.
    pub fn leave_to_dead_man(&self, target: usize) -> Result<(), Problem> {
        match (&self.lab, self.place(target)) {
            (Some(lab), Some(place)) => process::start_later(&place, &lab.layout.dir, DEAD_MAN),
            _ => Ok(()),
        }
    }

    /// Starts a member of the laboratory, unless it runs. Elsewhere a supervisor does.
    pub fn start(&self, target: usize) -> Result<(), Problem> {
        match self.place(target) {
            Some(place) if process::running(&place).is_none() => process::start(&place, Begin::Serve).map(drop),
            _ => Ok(()),
        }
    }

    /// Members open the port of clients last: the others may call one well that does not answer yet.
    async fn all_answer(&self) -> bool {
        futures::future::join_all(self.seats.iter().map(|seat| seat.look(false))).await.iter().all(Result::is_ok)
    }

    /// Everybody is well, answers, and nobody lags; how long that took. None: not within `patience`.
    pub async fn well(&self, patience: Duration) -> Option<Duration> {
        let begun = Instant::now();
        while begun.elapsed() < patience {
            if let Some(status) = self.status().await
                && status.verdict == crate::cluster::view::Verdict::Healthy
                && status.members.len() == self.seats.len()
                && status.members.iter().all(|member| member.lag.is_some_and(|lag| lag <= LAG))
                && self.all_answer().await
            {
                return Some(begun.elapsed());
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        None
    }
}

/// Members under load are a few entries behind at any moment.
const LAG: u64 = 100;

fn seat(member: &Member, key: &str, trust: &Trust) -> Result<Seat, Problem> {
    let url = url::Url::parse(&member.client_url).map_err(|error| {
        let text = format!("cluster.client_url of {} is no URL: {:?} ({error})", member.name, member.client_url);
        Problem::of(&codes::DRILL_SETUP, text)
    })?;
    let remote = Remote { url: url.clone(), api_key: key.into(), trust: trust.clone() };
    Ok(Seat {
        id: member.id,
        name: member.name.clone(),
        url,
        door: Client::new(Target::Remote(remote.clone()), DOOR_PATIENCE),
        canary: Client::new(Target::Remote(remote), super::canary::PATIENCE),
        peer_address: member.peer_address.clone(),
    })
}

impl Seat {
    pub async fn look(&self, hash: bool) -> Result<Look, Problem> {
        self.door.get(&format!("/api/v1/cluster/drill?hash={hash}")).await
    }

    async fn renew(&self, id: &str, despite_freeze: bool) -> Result<(), Problem> {
        let wish = json!({ "id": id, "forSecs": SESSION.as_secs(), "despiteFreeze": despite_freeze });
        self.door.post::<Value>("/api/v1/cluster/drill", wish).await.map(drop)
    }
}
