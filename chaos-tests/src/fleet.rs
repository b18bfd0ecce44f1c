//! The same story with real processes: members that `hsraft lab` starts, real sockets, real disks, real `kill -9`.

pub mod api;
pub mod forwarder;

use std::{
    collections::VecDeque,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::Stdio,
    sync::Mutex,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;
use serde_json::json;
use tokio::{process::Command, time::Instant};
use world::World;

use api::Api;

/// Ports a laboratory takes: ten for each member.
const PORTS_PER_MEMBER: u16 = 10;
/// How long one of the program's words may take; `lab up` waits for a healthy cluster.
const PATIENCE: Duration = Duration::from_secs(90);

/// Three members (or another number) in a folder of their own; gone when dropped.
pub struct Fleet {
    pub world: World,
    pub report: Report,
    pub api_key: String,
    program: PathBuf,
    folder: tempfile::TempDir,
    base_port: u16,
    members: usize,
}

/// What `hsraft lab … -o json` says.
#[derive(Clone, Debug, Deserialize)]
pub struct Report {
    pub members: Vec<Member>,
    pub auth_key: String,
    pub cluster: Option<Cluster>,
}

/// What one of the program's words came to.
pub struct Said {
    pub code: i32,
    pub printed: String,
    pub complaint: String,
}

/// One member's process.
#[derive(Clone, Debug, Deserialize)]
pub struct Member {
    pub name: String,
    pub running: bool,
    pub pid: Option<u32>,
    pub url: String,
    pub socket: String,
    pub log: String,
    pub metrics_url: String,
    pub derp_port: u16,
}

impl Member {
    /// `host:port` of the client port.
    pub fn address(&self) -> &str {
        self.url.trim_start_matches("http://").trim_end_matches('/')
    }
}

/// What a member says of the cluster.
#[derive(Clone, Debug, Deserialize)]
pub struct Cluster {
    /// By name.
    pub leader: Option<String>,
}

impl Fleet {
    /// Starts `members` members and waits until they are one healthy cluster.
    pub async fn up(members: usize) -> Result<Fleet> {
        let world = world::real::world();
        let folder = tempfile::Builder::new().prefix("hsraft-fleet-").tempdir()?;
        let base_port = free_ports(&world, PORTS_PER_MEMBER * members as u16).await?;
        let nobody = Report { members: Vec::new(), auth_key: String::new(), cluster: None };
        let program = program().await?;
        let mut fleet = Fleet { world, report: nobody, api_key: String::new(), program, folder, base_port, members };
        fleet.raise().await?;
        let socket = fleet.report.members[0].socket.clone();
        let made = fleet.run(&["apikeys", "create", "--socket", &socket, "-o", "json"]).await?;
        fleet.api_key = api_key_in(&made)?;
        Ok(fleet)
    }

    /// `lab up`: starts members that do not run and waits until all is well.
    pub async fn raise(&mut self) -> Result<()> {
        let (dir, members, port) = (self.dir(), self.members.to_string(), self.base_port.to_string());
        let up = ["lab", "up", "--members", &members, "--dir", &dir, "--base-port", &port, "-o", "json"];
        let raised = self.run(&up).await;
        let printed = raised.with_context(|| format!("the fleet did not come up; logs:\n{}", self.logs()))?;
        self.report = serde_json::from_str(&printed).with_context(|| format!("lab up said: {printed}"))?;
        Ok(())
    }

    /// Looks anew: who runs, who leads.
    pub async fn look(&mut self) -> Result<&Report> {
        let printed = self.run(&["lab", "status", "--dir", &self.dir(), "-o", "json"]).await?;
        self.report = serde_json::from_str(&printed).with_context(|| format!("lab status said: {printed}"))?;
        Ok(&self.report)
    }

    /// The member that leads, by its index.
    pub async fn leader(&mut self) -> Result<usize> {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let report = self.look().await?;
            let leader = report.cluster.as_ref().and_then(|cluster| cluster.leader.clone());
            if let Some(index) = report.members.iter().position(|member| Some(&member.name) == leader.as_ref())
                && report.members[index].running
            {
                return Ok(index);
            }
            ensure!(Instant::now() < deadline, "no leader: {report:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// SIGTERM, and how long the process then takes to end.
    pub async fn stop(&self, member: usize) -> Result<Duration> {
        let pid = self.report.members[member].pid.context("the member runs")?.to_string();
        let begun = Instant::now();
        let told = Command::new("kill").args(["-TERM", &pid]).status().await?;
        ensure!(told.success(), "process {pid} could not be stopped");
        // Gone, or dead and waiting for its parent: a laboratory's members have none that would ask.
        let status = PathBuf::from(format!("/proc/{pid}/status"));
        loop {
            let text = self.world.disk.read(&status).ok().flatten().unwrap_or_default();
            if text.is_empty() || String::from_utf8_lossy(&text).contains("\nState:\tZ") {
                return Ok(begun.elapsed());
            }
            ensure!(begun.elapsed() < PATIENCE, "process {pid} does not end");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// `kill -9`.
    pub async fn kill(&self, member: usize) -> Result<()> {
        let pid = self.report.members[member].pid.context("the member runs")?;
        let killed = Command::new("kill").args(["-9", &pid.to_string()]).status().await?;
        ensure!(killed.success(), "process {pid} could not be killed");
        Ok(())
    }

    /// A way to one member's API.
    pub fn api(&self, member: usize) -> Api {
        Api::new(&self.world, self.report.members[member].address(), &self.api_key)
    }

    /// Writes through `api`, again and again under new names, until a write is answered; how long that took.
    pub async fn write_gap(&self, api: &mut Api, name: &str) -> Result<Duration> {
        let begun = Instant::now();
        for attempt in 0.. {
            let body = json!({ "name": format!("{name}-{attempt}") });
            match api.post("/api/v1/user", &body, Duration::from_secs(15)).await {
                Ok(_) => break,
                Err(error) if begun.elapsed() > Duration::from_secs(30) => return Err(error),
                Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        }
        Ok(begun.elapsed())
    }

    /// The last lines of every member's log.
    pub fn logs(&self) -> String {
        let mut text = String::new();
        for index in 1..=self.members {
            let path = self.folder.path().join(format!("hs{index}/hsraft.log"));
            let log = self.world.disk.read(&path).ok().flatten().unwrap_or_default();
            let log = String::from_utf8_lossy(&log).into_owned();
            let lines: Vec<&str> = log.lines().collect();
            let tail = lines[lines.len().saturating_sub(25)..].join("\n");
            text.push_str(&format!("--- hs{index}\n{tail}\n"));
        }
        text
    }

    /// Runs one of the program's words, whatever its exit code.
    pub async fn say(&self, words: &[&str]) -> Result<Said> {
        let mut command = Command::new(&self.program);
        command.args(words).stdin(Stdio::null()).kill_on_drop(true);
        let output = tokio::time::timeout(PATIENCE * 2, command.output())
            .await
            .with_context(|| format!("hsraft {} takes too long", words.join(" ")))??;
        Ok(Said {
            code: output.status.code().context("it was killed")?,
            printed: String::from_utf8_lossy(&output.stdout).into_owned(),
            complaint: String::from_utf8_lossy(&output.stderr).into_owned(),
        })
    }

    /// Runs one of the program's words; what it printed.
    pub async fn run(&self, words: &[&str]) -> Result<String> {
        let mut command = Command::new(&self.program);
        command.args(words).stdin(Stdio::null()).kill_on_drop(true);
        let output = tokio::time::timeout(PATIENCE, command.output())
            .await
            .with_context(|| format!("hsraft {} takes too long", words.join(" ")))??;
        if !output.status.success() {
            let complaint = String::from_utf8_lossy(&output.stderr);
            bail!("hsraft {} ended with {}: {complaint}", words.join(" "), output.status);
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// The laboratory's folder.
    pub fn dir(&self) -> String {
        self.folder.path().display().to_string()
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        // Members outlive the command that started them, so they must be taken down by name of their folder.
        let mut down = std::process::Command::new(&self.program);
        down.args(["lab", "down", "--dir", &self.dir()]).stdin(Stdio::null()).stdout(Stdio::null());
        let _ = down.stderr(Stdio::null()).status();
    }
}

/// The program: HSRAFT_BIN, or beside this one, or built now.
pub async fn program() -> Result<PathBuf> {
    if let Some(named) = std::env::var_os("HSRAFT_BIN") {
        return Ok(PathBuf::from(named));
    }
    let here = std::env::current_exe()?;
    // A test lies in `deps`, the program one folder up.
    let beside = here.ancestors().skip(1).take(2).map(|folder| folder.join("hsraft")).find(|file| file.exists());
    if let Some(beside) = beside {
        return Ok(beside);
    }
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut build = Command::new(cargo);
    build.args(["build", "-p", "node", "--bin", "hsraft"]);
    if !cfg!(debug_assertions) {
        build.arg("--release");
    }
    ensure!(build.status().await?.success(), "hsraft could not be built; build it, or name it in HSRAFT_BIN");
    let folder = here.ancestors().nth(if here.parent().is_some_and(|folder| folder.ends_with("deps")) { 2 } else { 1 });
    Ok(folder.unwrap_or(Path::new(".")).join("hsraft"))
}

/// The key in what `apikeys create` printed: a text, or an object with one.
pub fn api_key_in(printed: &str) -> Result<String> {
    let value: serde_json::Value = serde_json::from_str(printed.trim()).unwrap_or_else(|_| json!(printed.trim()));
    let key = value.as_str().or(value["apiKey"].as_str()).or(value["key"].as_str());
    Ok(key.with_context(|| format!("no API key in {printed:?}"))?.to_string())
}

/// Runs of ports this process has given out lately: whoever got them may be down just now, and comes back to them.
static GIVEN: Mutex<VecDeque<std::ops::Range<u16>>> = Mutex::new(VecDeque::new());
/// So many of them are kept; far fewer crews live at the same time.
const GIVEN_MAX: usize = 1000;

/// A run of ports nobody listens on, and that nobody else in this process got. Another process may take one before we
/// do; that is rare, and loud.
pub async fn free_ports(world: &World, count: u16) -> Result<u16> {
    for _ in 0..500 {
        // Below the range from which the system gives out ports to those who ask for any.
        let base = 10_000 + world.entropy.below(20_000) as u16;
        let run = base..base + count;
        {
            let mut given = GIVEN.lock().expect("nobody panics while choosing ports");
            if given.iter().any(|other| other.start < run.end && run.start < other.end) {
                continue;
            }
            given.push_back(run.clone());
            if given.len() > GIVEN_MAX {
                given.pop_front();
            }
        }
        let mut held = Vec::new();
        for port in run {
            match world.net.listen(SocketAddr::from((Ipv4Addr::LOCALHOST, port))).await {
                Ok(listener) => held.push(listener),
                Err(_) => break,
            }
        }
        if held.len() == usize::from(count) {
            return Ok(base);
        }
    }
    bail!("no {count} free ports in a row")
}

/// A process's resident memory in megabytes.
pub fn resident_mb(pid: u32) -> Option<f64> {
    let status = world::real::world().disk.read(Path::new(&format!("/proc/{pid}/status"))).ok()??;
    let status = String::from_utf8_lossy(&status).into_owned();
    let line = status.lines().find(|line| line.starts_with("VmRSS:"))?;
    let kilobytes: f64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kilobytes / 1024.0)
}
