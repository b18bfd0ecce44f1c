//! Members as children of this process: started, signalled, waited for, and their exit codes read.
//!
//! A laboratory (`hsraft lab`) hides its members behind a command; whoever wants to cut a member's power, arm a point in
//! it or read how it ended needs the process itself. They die with the crew.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use http::Method;
use serde_json::{Value, json};
use tokio::{
    process::{Child, Command},
    time::{Instant, sleep, timeout},
};
use world::World;

use super::{
    ground::{Ground, Place},
    weather::Relays,
};
use crate::fleet::{self, api::Api};

/// How long anything may take that is not itself measured.
pub const PATIENCE: Duration = Duration::from_secs(90);
/// Between two looks at whether something has come true.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// Whoever takes no connection for so long is passed over.
const DIAL: Duration = Duration::from_secs(2);

/// What a crew is made of.
#[derive(Clone, Debug)]
pub struct Plan {
    pub members: usize,
    /// Further seats, with a configuration, for who joins later.
    pub spare: usize,
    /// Members write backups to a folder they share.
    pub backups: bool,
    /// Entries between two snapshots.
    pub snapshot_every: u64,
    /// Lines for `cluster:` of every member's configuration.
    pub timing: &'static str,
    /// The others reach a member through a relay in this process; on the loopback address only.
    pub detours: bool,
    /// The program; none: found as [`fleet::program`] does.
    pub program: Option<PathBuf>,
}

impl Plan {
    /// Three members as an operator would run them.
    pub fn three() -> Plan {
        Plan {
            members: 3,
            spare: 0,
            backups: false,
            snapshot_every: 10_000,
            timing: "lan",
            detours: false,
            program: None,
        }
    }
}

/// One member's place in the world, and its process while it runs.
pub struct Seat {
    pub name: String,
    pub folder: PathBuf,
    pub place: Place,
    pub process: Option<Child>,
}

impl Seat {
    pub fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    fn socket(&self) -> PathBuf {
        self.folder.join("s")
    }

    /// `host:port` of the client port.
    pub fn address(&self) -> String {
        format!("{}:{}", self.place.host, self.place.client)
    }
}

/// Some members, their folder, and what a client of theirs needs.
pub struct Crew {
    pub world: World,
    pub seats: Vec<Seat>,
    pub api_key: String,
    /// Lets any number of devices in.
    pub auth_key: String,
    /// The owner of pre-auth keys, by id.
    pub user: String,
    pub program: PathBuf,
    pub plan: Plan,
    pub ground: Ground,
    /// What stands between members, if the plan says so.
    pub relays: Relays,
    folder: tempfile::TempDir,
}

impl Crew {
    /// Founds with the first, lets the others join, waits until all vote.
    pub async fn up(plan: Plan, ground: Ground) -> Result<Crew> {
        let mut crew = Crew::prepared(plan, ground).await?;
        crew.go().await?;
        Ok(crew)
    }

    /// The same with folders that are prepared.
    pub async fn go(&mut self) -> Result<()> {
        self.start(0)?;
        self.found().await?;
        for member in 1..self.plan.members {
            self.admit(member, "voter").await?;
        }
        self.whole().await
    }

    /// Folders and configurations; nothing runs yet.
    pub async fn prepared(plan: Plan, ground: Ground) -> Result<Crew> {
        let world = world::real::world();
        let folder = tempfile::Builder::new().prefix("hsraft-torture-").tempdir()?;
        let program = match &plan.program {
            Some(program) => program.clone(),
            None => fleet::program().await?,
        };
        let places = ground.places(&world, plan.members + plan.spare).await?;
        let mut seats = Vec::new();
        for (number, place) in (1..).zip(places) {
            let name = format!("hs{number}");
            let seat = Seat { folder: folder.path().join(&name), name, place, process: None };
            world.disk.create_dir_all(&seat.folder)?;
            seats.push(seat);
        }
        let mut crew = Crew {
            world,
            seats,
            api_key: String::new(),
            auth_key: String::new(),
            user: String::new(),
            program,
            plan,
            ground,
            relays: Relays::default(),
            folder,
        };
        for seat in &crew.seats {
            crew.world.disk.write(&seat.folder.join("config.yaml"), crew.configuration(seat).as_bytes())?;
        }
        if crew.plan.detours {
            for Place { host, peer, detour, .. } in crew.seats.iter().map(|seat| &seat.place) {
                crew.relays.add(&crew.world, format!("{host}:{detour}").parse()?, format!("{host}:{peer}")).await?;
            }
        }
        Ok(crew)
    }

    /// Where members put backups.
    pub fn shelf(&self) -> PathBuf {
        self.folder.path().join("backups")
    }

    /// The folder of the whole crew.
    pub fn root(&self) -> &Path {
        self.folder.path()
    }

    fn configuration(&self, seat: &Seat) -> String {
        let quoted = |path: PathBuf| Value::from(path.display().to_string()).to_string();
        let Place { host, client, peer, metrics, derp, stun, detour, .. } = &seat.place;
        let advertised = if self.plan.detours { detour } else { peer };
        let (name, socket, data) = (&seat.name, quoted(seat.socket()), quoted(seat.data()));
        let backup =
            if self.plan.backups { format!("  backup_dir: {}\n", quoted(self.shelf())) } else { String::new() };
        let (every, timing) = (self.plan.snapshot_every, self.plan.timing);
        format!(
            "server_url: http://{host}:{client}\nlisten_addr: {host}:{client}\nmetrics_listen_addr: {host}:{metrics}\n\
             unix_socket: {socket}\nunix_socket_permission: \"0600\"\n\
             prefixes:\n  v4: 100.64.0.0/10\n  v6: fd7a:115c:a1e0::/48\n\
             dns:\n  magic_dns: true\n  base_domain: torture.internal\n  override_local_dns: false\n\
             derp:\n  server:\n    enabled: true\n    stun_listen_addr: {host}:{stun}\n\
             log:\n  level: info\n\
             cluster:\n  name: {name}\n  data_dir: {data}\n  client_url: http://{host}:{client}\n  \
             peer_listen_addr: {host}:{peer}\n  peer_advertise_addr: {host}:{advertised}\n  timing: {timing}\n  timing_check: warn\n  \
             snapshot_every: {every}\n  disk_reserve_mib: 4\n  disk_low_mib: 16\n{backup}  derp_listen_addr: {host}:{derp}\n  derp_host_name: {host}\n  \
             derp_port: {derp}\n  derp_stun_port: {stun}\n  derp_insecure_for_tests: true\n"
        )
    }

    fn command(&self, member: usize, words: &[&str]) -> Result<Command> {
        let seat = &self.seats[member];
        let mut command = self.ground.command(&seat.place, &self.program);
        command.args(words).arg("--config").arg(seat.folder.join("config.yaml"));
        // A variable of ours would override every member's configuration alike.
        command.env_remove("HSRAFT_BIN").current_dir(&seat.folder).stdin(Stdio::null()).kill_on_drop(true);
        let log = self.log_file(member)?;
        command.stdout(log.try_clone()?).stderr(log);
        Ok(command)
    }

    fn log_file(&self, member: usize) -> Result<std::fs::File> {
        let path = self.seats[member].folder.join("log");
        Ok(std::fs::OpenOptions::new().create(true).append(true).open(path)?)
    }

    /// Founds or continues.
    pub fn start(&mut self, member: usize) -> Result<()> {
        self.start_with(member, &[])
    }

    /// The same, with variables.
    pub fn start_with(&mut self, member: usize, variables: &[(&str, &str)]) -> Result<()> {
        let mut command = self.command(member, &["serve"])?;
        command.envs(variables.iter().copied());
        self.seats[member].process = Some(command.spawn()?);
        Ok(())
    }

    /// Joins with a token.
    pub fn join(
        &mut self,
        member: usize,
        at: &str,
        token: &str,
        more: &[&str],
        variables: &[(&str, &str)],
    ) -> Result<()> {
        let mut command = self.command(member, &["join", at])?;
        command.args(more).env("HSRAFT_JOIN_TOKEN", token).envs(variables.iter().copied());
        self.seats[member].process = Some(command.spawn()?);
        Ok(())
    }

    /// What every cluster here begins with: an API key, a user, a reusable key for devices.
    pub async fn found(&mut self) -> Result<()> {
        self.known().await?;
        let user = self.ask(0, Method::POST, "/api/v1/user", Some(&json!({ "name": "torture" }))).await?;
        self.user = user["user"]["id"].as_str().context("a user has an id")?.to_owned();
        let wish = json!({ "user": self.user, "reusable": true });
        let key = self.ask(0, Method::POST, "/api/v1/preauthkey", Some(&wish)).await?;
        self.auth_key = key["preAuthKey"]["key"].as_str().context("a key has a text")?.to_owned();
        Ok(())
    }

    /// Waits for the first member, and gets an API key from it.
    pub async fn known(&mut self) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        let socket = self.seats[0].socket();
        let socket = socket.to_str().context("a path is text")?;
        self.api_key = loop {
            match self.word(0, &["apikeys", "create", "--socket", socket, "-o", "json"]).await {
                Ok(printed) => break fleet::api_key_in(&printed)?,
                Err(error) => ensure!(Instant::now() < deadline, "nobody founded: {error:#}\n{}", self.logs()),
            }
            sleep(LOOK_EVERY * 5).await;
        };
        Ok(())
    }

    /// A fresh one-use token, for a member of this name or (empty) any, and an address where it can be used.
    pub async fn token(&self, by: usize, role: &str, name: &str) -> Result<(String, String)> {
        let wish = json!({ "ttlSecs": 900, "role": role, "name": name });
        let reply = self.ask(by, Method::POST, "/api/v1/cluster/tokens", Some(&wish)).await?;
        let token = reply["token"].as_str().context("a token has a text")?.to_owned();
        let address = reply["addresses"][0].as_str().context("a token has an address")?.to_owned();
        Ok((token, address))
    }

    /// Lets one seat join through whoever runs, and waits until it has a seat in the cluster.
    pub async fn admit(&mut self, member: usize, role: &str) -> Result<()> {
        let by = self.running().into_iter().next().context("somebody runs")?;
        let (token, address) = self.token(by, role, "").await?;
        self.join(member, &address, &token, &[], &[])?;
        self.seated(member).await
    }

    /// Waits until a running member votes or listens, as the others see it.
    pub async fn seated(&mut self, member: usize) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let name = self.seats[member].name.clone();
            let list = self.members().await;
            let there =
                |row: &Value| row["name"] == json!(name) && (row["role"] == "voter" || row["role"] == "learner");
            if list.as_ref().is_some_and(|list| list.iter().any(there)) && self.status(member).await.is_some() {
                return Ok(());
            }
            if let Some(status) = self.ended(member)? {
                bail!("{name} ended with {status} instead of taking its seat\n{}", self.log_end(member));
            }
            ensure!(Instant::now() < deadline, "{name} has no seat: {list:?}\n{}", self.logs());
            sleep(LOOK_EVERY * 2).await;
        }
    }

    /// Members whose process was started and has not ended.
    pub fn running(&mut self) -> Vec<usize> {
        (0..self.seats.len()).filter(|member| matches!(self.ended(*member), Ok(None))).collect()
    }

    /// How a member's process ended; none while it runs. An error when it never started.
    pub fn ended(&mut self, member: usize) -> Result<Option<ExitStatus>> {
        let seat = &mut self.seats[member];
        let process = seat.process.as_mut().with_context(|| format!("{} was not started", seat.name))?;
        Ok(process.try_wait()?)
    }

    /// Waits for the end of a process.
    pub async fn exit(&mut self, member: usize, within: Duration) -> Result<ExitStatus> {
        let name = self.seats[member].name.clone();
        let process = self.seats[member].process.as_mut().with_context(|| format!("{name} was not started"))?;
        let ended = timeout(within, process.wait()).await;
        Ok(ended.with_context(|| format!("{name} did not end within {within:?}"))??)
    }

    /// `kill -9`; returns when the process is gone.
    pub async fn kill(&mut self, member: usize) -> Result<()> {
        self.signal(member, "-KILL").await?;
        self.exit(member, PATIENCE).await?;
        self.seats[member].process = None;
        Ok(())
    }

    /// Any signal; the process may be asleep, so nobody waits.
    pub async fn signal(&self, member: usize, signal: &str) -> Result<()> {
        let seat = &self.seats[member];
        let pid = seat.process.as_ref().and_then(Child::id).with_context(|| format!("{} does not run", seat.name))?;
        let sent = Command::new("kill").args([signal, &pid.to_string()]).status().await?;
        ensure!(sent.success(), "{signal} to {pid} ({})", seat.name);
        Ok(())
    }

    /// Process id, for who looks at /proc.
    pub fn pid(&self, member: usize) -> Option<u32> {
        self.seats[member].process.as_ref().and_then(Child::id)
    }

    /// Starts everybody of the plan who does not run, and waits until the cluster is whole.
    pub async fn raise(&mut self) -> Result<()> {
        let running = self.running();
        for member in (0..self.plan.members).filter(|member| !running.contains(member)) {
            self.start(member)?;
        }
        self.whole().await
    }

    /// Waits until there is a leader and every running member answers with a quorum behind it.
    pub async fn whole(&mut self) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        for member in self.running() {
            loop {
                let status = self.status(member).await;
                let ready = |status: &Value| status["leader"].is_string() && status["verdict"] == "healthy";
                if status.as_ref().is_some_and(ready) {
                    break;
                }
                let name = self.seats[member].name.clone();
                if let Some(ended) = self.seats[member].process.as_mut().and_then(|child| child.try_wait().transpose())
                {
                    bail!("{name} ended with {} instead of coming up\n{}", ended?, self.log_end(member));
                }
                let running = status.map(|status| status["reasons"].to_string());
                ensure!(Instant::now() < deadline, "{name} is not well: {running:?}\n{}", self.logs());
                sleep(LOOK_EVERY).await;
            }
        }
        Ok(())
    }

    /// What a member says of the cluster; none when it does not answer.
    pub async fn status(&self, member: usize) -> Option<Value> {
        self.api(member).get("/api/v1/cluster/status", Duration::from_secs(2)).await.ok()
    }

    /// The members as any of them shows them.
    pub async fn members(&mut self) -> Option<Vec<Value>> {
        for member in self.running() {
            let reply = self.api(member).get("/api/v1/cluster/members", Duration::from_secs(2)).await;
            if let Ok(reply) = reply {
                return reply["members"].as_array().cloned();
            }
        }
        None
    }

    /// Who leads, as its own answer says.
    pub async fn leader(&mut self) -> Result<usize> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            for member in self.running() {
                let status = self.status(member).await;
                if status.is_some_and(|status| status["leader"] == json!(self.seats[member].name)) {
                    return Ok(member);
                }
            }
            ensure!(Instant::now() < deadline, "nobody leads\n{}", self.logs());
            sleep(LOOK_EVERY).await;
        }
    }

    /// A way to one member's API.
    pub fn api(&self, member: usize) -> Api {
        Api::new(&self.world, &self.seats[member].address(), &self.api_key)
    }

    /// One call, as a client makes it that knows all addresses of the name: whoever takes no connection (it does not run,
    /// or keeps clients away because it lags) is passed over, from `first` on, again and again until one does. Then its
    /// answer counts, whatever it is: a call that was taken is not made twice. An error when nobody takes it in time.
    pub async fn ask(&self, first: usize, method: Method, path: &str, body: Option<&Value>) -> Result<Value> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let mut turned_away = Vec::new();
            for turn in 0..self.plan.members {
                let member = (first + turn) % self.plan.members;
                match self.taken_by(member).await {
                    Ok(mut api) => return api.call(method, path, body, PATIENCE).await,
                    Err(error) => turned_away.push(format!("{}: {error:#}", self.seats[member].name)),
                }
            }
            ensure!(Instant::now() < deadline, "{path}: nobody takes the call for {PATIENCE:?}: {turned_away:?}");
            sleep(LOOK_EVERY * 5).await;
        }
    }

    /// The same, and no other member will do.
    pub async fn ask_only(&self, member: usize, method: Method, path: &str, body: Option<&Value>) -> Result<Value> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.taken_by(member).await {
                Ok(mut api) => return api.call(method, path, body, PATIENCE).await,
                Err(error) if Instant::now() >= deadline => {
                    return Err(error.context(format!("{path}: {} takes no call", self.seats[member].name)));
                }
                Err(_) => sleep(LOOK_EVERY * 5).await,
            }
        }
    }

    async fn taken_by(&self, member: usize) -> Result<Api> {
        let mut api = self.api(member);
        api.dial(DIAL).await?;
        Ok(api)
    }

    /// Runs one of the program's words on a member's ground; what it printed.
    pub async fn word(&self, member: usize, words: &[&str]) -> Result<String> {
        let (status, printed, complaint) = self.word_with(member, words, &[]).await?;
        ensure!(status.success(), "hsraft {} ended with {status}: {complaint}", words.join(" "));
        Ok(printed)
    }

    /// The same, however it ends, and with variables: exit status, what it printed, what it complained of.
    pub async fn word_with(
        &self,
        member: usize,
        words: &[&str],
        variables: &[(&str, &str)],
    ) -> Result<(ExitStatus, String, String)> {
        let mut command = self.ground.command(&self.seats[member].place, &self.program);
        command.args(words).env_remove("HSRAFT_BIN").envs(variables.iter().copied());
        command.stdin(Stdio::null()).kill_on_drop(true);
        let output = timeout(PATIENCE, command.output()).await;
        let output = output.with_context(|| format!("hsraft {} takes too long", words.join(" ")))??;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Ok((output.status, text(&output.stdout), text(&output.stderr)))
    }

    /// Everything a member has said so far.
    pub fn log(&self, member: usize) -> String {
        let log = self.world.disk.read(&self.seats[member].folder.join("log")).ok().flatten().unwrap_or_default();
        String::from_utf8_lossy(&log).into_owned()
    }

    /// The last lines of it.
    pub fn log_end(&self, member: usize) -> String {
        let log = self.log(member);
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(25)..].join("\n")
    }

    /// The last lines of everybody.
    pub fn logs(&self) -> String {
        let one = |member: usize| format!("--- {}\n{}\n", self.seats[member].name, self.log_end(member));
        (0..self.seats.len()).map(one).collect()
    }

    /// Resident memory of all members, by name, in megabytes.
    pub fn memory(&self) -> BTreeMap<String, f64> {
        let of = |member: usize| Some((self.seats[member].name.clone(), fleet::resident_mb(self.pid(member)?)?));
        (0..self.seats.len()).filter_map(of).collect()
    }
}

/// Comings and goings.
impl Crew {
    /// Like [`Crew::raise`], and leaves some seats as they are.
    pub async fn raise_without(&mut self, seats: &[usize]) -> Result<()> {
        let running = self.running();
        for member in (0..self.plan.members).filter(|member| !running.contains(member) && !seats.contains(member)) {
            self.start(member)?;
        }
        let deadline = Instant::now() + PATIENCE;
        for member in (0..self.plan.members).filter(|member| !seats.contains(member)) {
            while !self.status(member).await.is_some_and(|status| status["leader"].is_string()) {
                ensure!(Instant::now() < deadline, "{} has no leader\n{}", self.seats[member].name, self.logs());
                sleep(LOOK_EVERY).await;
            }
        }
        Ok(())
    }

    /// Takes a member out of the cluster, waits for its end, and empties its folder.
    pub async fn dismiss(&mut self, member: usize) -> Result<()> {
        let path = format!("/api/v1/cluster/members/{}", self.seats[member].name);
        let deadline = Instant::now() + PATIENCE;
        loop {
            let by = self.running().into_iter().find(|other| *other != member).context("somebody else runs")?;
            let Err(error) = self.api(by).call(Method::DELETE, &path, None, PATIENCE).await else { break };
            // It may have been done, and the answer lost.
            let name = json!(self.seats[member].name);
            if self.members().await.is_some_and(|list| list.iter().all(|row| row["name"] != name)) {
                break;
            }
            ensure!(Instant::now() < deadline, "{path}: {error:#}");
            sleep(LOOK_EVERY * 5).await;
        }
        if self.seats[member].process.is_some() {
            self.exit(member, PATIENCE).await?;
        }
        self.forget(member)
    }

    /// Empties the folder of a member that does not run.
    pub fn forget(&mut self, member: usize) -> Result<()> {
        self.seats[member].process = None;
        match std::fs::remove_dir_all(self.seats[member].data()) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
            _ => Ok(()),
        }
    }
}

/// Copies a folder, as an operator would.
pub async fn copy(from: &Path, to: &Path) -> Result<()> {
    let status = Command::new("cp").arg("-a").arg(from).arg(to).status().await?;
    ensure!(status.success(), "{} could not be copied", from.display());
    Ok(())
}
