//! What leads a member to a point.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::json;
use tokio::time::{Instant, sleep};

use super::{Action, Point, Stage};
use crate::torture::{
    crew::{Crew, PATIENCE, Plan, copy},
    goals::last_log_in,
    ground::Ground,
};

/// Traffic comes by within a snapshot's time.
const SOON: Duration = Duration::from_secs(5);
/// Backups have a clock of their own: the full at one stroke of ten seconds, a piece of the log at the next.
const A_BACKUP: Duration = Duration::from_secs(25);

/// What happens until the point is reached. Those at the end bring a crew of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scene {
    /// Writes, reads, registrations; snapshots, purges and backups come of them.
    Traffic,
    /// The leader dies.
    Election,
    /// The leader is asked to hand over.
    HandOver,
    /// A follower starts.
    Start,
    /// A member is told to renew its certificate.
    Renewal,
    /// All members are given another sealing key.
    Sealing,
    /// A voter is taken out, and one of its name joins with an empty folder.
    Churn,
    /// A leader comes back that wrote what nobody else has.
    Truncation,
    /// Writes where the log is kept long enough to be archived piece by piece: elsewhere here it is cut each second, and
    /// the shelf gets full states instead.
    Shelf,
    /// A cluster of one begins.
    Founding,
    /// A backup becomes a folder.
    Restore,
    /// What is left of a folder becomes a cluster of one.
    Recovery,
}

impl Scene {
    /// By the first words of the name; whoever names a point elsewhere adds a line here.
    pub fn of(point: &str) -> Scene {
        const BY_NAME: &[(&str, Scene)] = &[
            ("vote.", Scene::Election),
            ("peers.vote.", Scene::Election),
            ("leader.transfer.", Scene::HandOver),
            ("peers.transfer.", Scene::HandOver),
            ("store.open.", Scene::Start),
            ("start.incarnation.", Scene::Start),
            ("start.engine.", Scene::Start),
            ("member.announce.", Scene::Start),
            ("archive.segment.", Scene::Shelf),
            ("certificate.", Scene::Renewal),
            ("sealing.", Scene::Sealing),
            ("start.", Scene::Churn),
            ("join.", Scene::Churn),
            ("token.", Scene::Churn),
            ("member.", Scene::Churn),
            ("membership.", Scene::Churn),
            ("snapshot.install.", Scene::Churn),
            ("peers.snapshot.", Scene::Churn),
            ("log.truncate.", Scene::Truncation),
            ("founding.", Scene::Founding),
            ("restore.", Scene::Restore),
            ("recover.", Scene::Recovery),
            ("disk.folder_rename.", Scene::Recovery),
        ];
        BY_NAME.iter().find(|(begins, _)| point.starts_with(begins)).map_or(Scene::Traffic, |(_, scene)| *scene)
    }
}

impl Stage {
    /// Plays a scene with the crew that is up; who reached the point.
    pub(super) async fn play(
        &mut self,
        scene: Scene,
        point: &Point,
        action: Action,
        marks: &[usize],
    ) -> Result<Option<usize>> {
        let text = format!("{}={}", point.name, action.word());
        let leader = self.crew.leader().await?;
        let follower = (leader + 1) % self.crew.plan.members;
        match scene {
            Scene::Traffic | Scene::Shelf => {
                let within = if point.name.starts_with("archive.") { A_BACKUP } else { SOON };
                for member in [leader, follower] {
                    self.arm(member, &text).await?;
                    if let Some(by) = self.who_reached(&point.name, action, marks, within).await {
                        return Ok(Some(by));
                    }
                }
                Ok(None)
            }
            Scene::Election => {
                self.arm(follower, &text).await?;
                if point.name.starts_with("peers.") {
                    // Whoever asks for votes is not asked.
                    self.arm((leader + 2) % self.crew.plan.members, &text).await?;
                }
                self.crew.kill(leader).await?;
                Ok(self.who_reached(&point.name, action, marks, SOON).await)
            }
            Scene::HandOver => {
                for member in 0..self.crew.plan.members {
                    self.arm(member, &text).await?;
                }
                let mut api = self.crew.api(leader);
                // Its answer is not what is asked for here: the one that answers may die of the question.
                let asked = async { drop(api.post("/api/v1/cluster/transfer-leader", &json!({}), SOON).await) };
                let (by, ()) = tokio::join!(self.who_reached(&point.name, action, marks, SOON), asked);
                Ok(by)
            }
            Scene::Start => {
                self.crew.kill(follower).await?;
                self.crew.start_with(follower, &[("HSRAFT_FAILPOINTS", &text)])?;
                Ok(self.who_reached(&point.name, action, marks, SOON * 2).await)
            }
            Scene::Renewal => {
                self.arm(follower, &text).await?;
                let mut api = self.crew.api(follower);
                let asked = async { drop(api.post("/api/v1/cluster/certificates/renew", &json!({}), SOON).await) };
                let (by, ()) = tokio::join!(self.who_reached(&point.name, action, marks, SOON * 2), asked);
                Ok(by)
            }
            Scene::Sealing => {
                let mut api = self.crew.api(follower);
                api.post("/api/v1/cluster/recovery-key", &json!({}), SOON).await?;
                self.arm(follower, &text).await?;
                let asked = async { drop(api.post("/api/v1/cluster/secrets/sealing-key", &json!({}), SOON).await) };
                let (by, ()) = tokio::join!(self.who_reached(&point.name, action, marks, SOON * 2), asked);
                Ok(by)
            }
            Scene::Churn => self.churn(point, action, leader, follower, marks).await,
            Scene::Truncation => self.truncation(point, action, leader, marks).await,
            Scene::Founding | Scene::Restore | Scene::Recovery => unreachable!("played alone"),
        }
    }

    /// `follower` goes and comes again, by another id; the point is armed in everybody who has a part in it.
    async fn churn(
        &mut self,
        point: &Point,
        action: Action,
        leader: usize,
        follower: usize,
        marks: &[usize],
    ) -> Result<Option<usize>> {
        let text = format!("{}={}", point.name, action.word());
        // Any member may be asked to take another out, and the first is: its points lie there, the others at the leader.
        let asked = (0..self.crew.plan.members).find(|member| *member != follower).context("three members")?;
        let whom = if point.name.starts_with("member.remove.") { asked } else { leader };
        self.arm(whom, &text).await?;
        let mut by = None;
        if whom == asked && point.name.starts_with("member.remove.") {
            // Its answer may be lost with it. It comes back before the wish is said again: with one dead and one taken
            // out nobody could go on, and that is refused.
            let path = format!("/api/v1/cluster/members/{}", self.crew.seats[follower].name);
            let _ = self.crew.api(asked).call(http::Method::DELETE, &path, None, SOON).await;
            by = self.who_reached(&point.name, action, marks, SOON).await;
            self.back_on_its_feet(asked).await?;
            self.crew.raise_without(&[follower]).await?;
            self.crew.leader().await?;
        }
        self.crew.dismiss(follower).await?;
        if by.is_none() {
            by = self.who_reached(&point.name, action, marks, Duration::from_millis(50)).await;
            if by.is_some() {
                self.back_on_its_feet(whom).await?;
            }
        }
        let helper = (0..self.crew.plan.members).find(|member| *member != follower && *member != leader);
        let helper = helper.context("three members")?;
        let (token, _) = self.crew.token(helper, "voter", "").await?;
        // The leader is asked to let it in: the points of consuming a token lie there.
        let place = &self.crew.seats[leader].place;
        let address = format!("{}:{}", place.host, place.peer);
        let variables = [("HSRAFT_FAILPOINTS", text.as_str())];
        self.crew.join(follower, &address, &token, &[], if by.is_some() { &[] } else { &variables })?;
        if by.is_none() {
            by = self.who_reached(&point.name, action, marks, SOON * 4).await;
            self.back_on_its_feet(leader).await?;
        }
        // Whoever died while joining asks again, with the same words: it must become the same member.
        let deadline = Instant::now() + PATIENCE;
        loop {
            if self.crew.ended(follower)?.is_some() {
                self.crew.join(follower, &address, &token, &[], &[])?;
            }
            let name = json!(self.crew.seats[follower].name);
            let votes = |row: &serde_json::Value| row["name"] == name && row["role"] == "voter";
            if self.crew.members().await.is_some_and(|list| list.iter().any(votes)) {
                break;
            }
            ensure!(Instant::now() < deadline, "the newcomer does not vote:\n{}", self.crew.logs());
            sleep(Duration::from_millis(50)).await;
        }
        let members = self.crew.members().await.context("somebody answers")?;
        ensure!(members.len() == self.crew.plan.members, "a joiner left something behind: {members:?}");
        Ok(by)
    }

    async fn back_on_its_feet(&mut self, member: usize) -> Result<()> {
        sleep(Duration::from_millis(300)).await;
        if self.crew.ended(member)?.is_some() {
            self.crew.start(member)?;
        }
        Ok(())
    }

    /// The leader writes what it cannot replicate, dies, and finds another log when it comes back.
    async fn truncation(
        &mut self,
        point: &Point,
        action: Action,
        leader: usize,
        marks: &[usize],
    ) -> Result<Option<usize>> {
        let others: Vec<usize> = (0..self.crew.plan.members).filter(|member| *member != leader).collect();
        // Not merely stopped: what waits in a stopped process's sockets would be taken when it goes on. And both at once:
        // a leader takes writes only until it knows that it is alone, which is half a second.
        for other in &others {
            self.crew.signal(*other, "-KILL").await?;
        }
        // The canaries go on asking the leader, which appends and waits.
        let body = json!({ "name": format!("nobody-heard-{}", self.crew.world.entropy.u64()) });
        let _ = self.crew.api(leader).post("/api/v1/user", &body, Duration::from_millis(300)).await;
        for member in others.iter().chain([&leader]) {
            self.crew.kill(*member).await?;
        }
        for other in &others {
            self.crew.start(*other)?;
        }
        let since = Instant::now();
        self.canaries.diary.until_written(since).await?;
        let text = format!("{}={}", point.name, action.word());
        self.crew.start_with(leader, &[("HSRAFT_FAILPOINTS", &text)])?;
        Ok(self.who_reached(&point.name, action, marks, SOON * 2).await)
    }

    /// Scenes with a crew of their own, or with no member at all.
    pub(super) async fn visit_alone(
        &mut self,
        scene: Scene,
        point: &Point,
        action: Action,
    ) -> Result<Option<Duration>> {
        match scene {
            Scene::Founding => self.founding(point, action).await.map(Some),
            Scene::Restore => self.restore(point, action).await.map(Some),
            Scene::Recovery => self.recovery(point, action).await.map(Some),
            _ => Ok(None),
        }
    }

    async fn founding(&mut self, point: &Point, action: Action) -> Result<Duration> {
        let plan = Plan { members: 1, program: Some(self.program.clone()), ..Plan::three() };
        let mut crew = Crew::prepared(plan, Ground::Loopback).await?;
        crew.start_with(0, &[("HSRAFT_FAILPOINTS", &format!("{}={}", point.name, action.word()))])?;
        said_so(&crew, point, action, SOON * 2).await?;
        if action == Action::Abort {
            crew.exit(0, SOON).await?;
        } else {
            sleep(Duration::from_secs(1)).await;
        }
        let since = Instant::now();
        if crew.ended(0)?.is_some() {
            crew.start(0)?;
        }
        crew.found().await?;
        crew.whole().await?;
        Ok(since.elapsed())
    }

    async fn restore(&mut self, point: &Point, action: Action) -> Result<Duration> {
        let root = self.crew.root().to_owned();
        let path = |name: &str| root.join(name).display().to_string();
        let (backup, target) = (path("save.hsfull"), path("restored"));
        let socket = path("hs1/s");
        self.crew.word(0, &["snapshot", "save", &backup, "--socket", &socket]).await?;
        let key = path("hs1/data/sealing.key");
        let words =
            ["snapshot", "restore", &backup, "--data-dir", &target, "--name", "hs1", "--sealing-key-file", &key];
        let text = format!("{}={}", point.name, action.word());
        let (status, _, complaint) = self.crew.word_with(0, &words, &[("HSRAFT_FAILPOINTS", &text)]).await?;
        reached_in(&complaint, point, action)?;
        let since = Instant::now();
        if !status.success() {
            // Half a folder is not taken for a whole one, and whoever empties it begins anew.
            let again = self.crew.word_with(0, &words, &[]).await?;
            if !again.0.success() {
                self.crew.world.disk.list(&root.join("restored"))?;
                std::fs::remove_dir_all(&target)?;
                self.crew.word(0, &words).await?;
            }
        }
        let took = since.elapsed();
        lives(&self.program, &target, "torture").await?;
        std::fs::remove_dir_all(&target)?;
        Ok(took)
    }

    async fn recovery(&mut self, point: &Point, action: Action) -> Result<Duration> {
        let plan = Plan { members: 1, program: Some(self.program.clone()), ..Plan::three() };
        let mut crew = Crew::up(plan, Ground::Loopback).await?;
        crew.api(0).post("/api/v1/user", &json!({ "name": "kept" }), PATIENCE).await?;
        crew.kill(0).await?;
        let data = crew.seats[0].data().display().to_string();
        let plan = crew.word(0, &["recover", "plan", "--survivor", &data, "-o", "json"]).await?;
        let last = last_log_in(&plan)?.to_string();
        let words = [
            "recover",
            "--force-new-cluster",
            "--data-dir",
            &data,
            "--expect-last-log",
            &last,
            "--acknowledge-data-loss",
            "--offline-peers-confirmed",
        ];
        let text = format!("{}={}", point.name, action.word());
        let (status, _, complaint) = crew.word_with(0, &words, &[("HSRAFT_FAILPOINTS", &text)]).await?;
        reached_in(&complaint, point, action)?;
        let since = Instant::now();
        if !status.success() {
            // The folder is under its old name or under the one it was kept under; nothing of it is lost.
            let kept =
                crew.world.disk.list(&crew.seats[0].folder)?.into_iter().find(|name| name.starts_with("data.before-"));
            if let Some(kept) = kept {
                let _ = std::fs::remove_dir_all(&data);
                crew.world.disk.rename(&crew.seats[0].folder.join(kept), std::path::Path::new(&data))?;
            }
            crew.word(0, &words).await?;
        }
        let took = since.elapsed();
        lives(&self.program, &data, "kept").await?;
        Ok(took)
    }
}

async fn said_so(crew: &Crew, point: &Point, action: Action, within: Duration) -> Result<()> {
    let deadline = Instant::now() + within;
    while reached_in(&crew.log(0), point, action).is_err() {
        ensure!(Instant::now() < deadline, "nobody came there:\n{}", crew.log_end(0));
        sleep(Duration::from_millis(10)).await;
    }
    Ok(())
}

fn reached_in(text: &str, point: &Point, action: Action) -> Result<()> {
    let line = format!("failpoint {} reached: {}", point.name, action.word());
    ensure!(text.contains(&line), "nobody came there: {text}");
    Ok(())
}

/// A member starts in this folder, and knows this user.
async fn lives(program: &std::path::Path, data: &str, user: &str) -> Result<()> {
    let plan = Plan { members: 1, program: Some(program.to_owned()), ..Plan::three() };
    let mut crew = Crew::prepared(plan, Ground::Loopback).await?;
    copy(std::path::Path::new(data), &crew.seats[0].data()).await?;
    crew.start(0)?;
    crew.known().await?;
    crew.whole().await?;
    let found = crew.api(0).get(&format!("/api/v1/user?name={user}"), PATIENCE).await?;
    ensure!(found["users"].as_array().is_some_and(|users| users.len() == 1), "{user} is gone: {found}");
    Ok(())
}
