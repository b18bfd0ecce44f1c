//! Proposals per second with three processes.
//!
//! The load runs inside the processes, straight at [`Cluster::propose`], so that HTTP is not what is measured. Every
//! proposal is the commonest real one: a node reports a new endpoint.

use std::{net::SocketAddr, path::PathBuf, process::Stdio, sync::Arc, time::Duration};

use anyhow::{Context, Result, bail};
use chaos_tests::workload::AuthKey;
use raft::{Cluster, Options, StartAs, Timing};
use serde::{Deserialize, Serialize};
use state_machine::{Command, Endpoint, JoinRole, NodeId, Outcome, PreAuthKey, Registration, Report, Settings, UserId};
use tailcfg::{MachineKey, NodeKey};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines},
    process::{Child, ChildStdin, ChildStdout},
    task::JoinSet,
    time::Instant,
};
use world::Entropy;

/// What to measure.
#[derive(clap::Args)]
pub struct Arguments {
    /// How many proposers at once; each value is a run.
    #[arg(long, value_delimiter = ',', default_value = "1,64,1000")]
    clients: Vec<usize>,
    /// How long each run lasts.
    #[arg(long, default_value_t = 5)]
    secs: u64,
    /// How many nodes report.
    #[arg(long, default_value_t = 1000)]
    nodes: u64,
}

/// One member's start.
#[derive(clap::Args)]
pub struct MemberArguments {
    #[arg(long)]
    dir: PathBuf,
    #[arg(long)]
    name: String,
    /// Whom to join; nobody: found.
    #[arg(long, requires = "token")]
    join: Option<String>,
    #[arg(long)]
    token: Option<String>,
    /// What its program can apply.
    #[arg(long, default_value_t = state_machine::FEATURE_LEVEL)]
    feature_level: u32,
}

/// What the parent asks, one line of JSON each.
#[derive(Debug, Serialize, Deserialize)]
enum Ask {
    Token { name: String },
    AwaitVoters { voters: usize },
    Furnish { nodes: u64 },
    Load { clients: usize, secs: u64, writes: Writes },
}

/// What the load writes.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub enum Writes {
    /// The commonest: a node has another endpoint. Never in the audit log.
    Endpoints,
    /// What people do: a node gets another name. Always there.
    Names,
}

/// What the child answers, one line of JSON each.
#[derive(Debug, Serialize, Deserialize)]
enum Tell {
    Up { address: String },
    Token { token: String },
    Done,
    Measured(Figures),
}

/// What one run came to.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Figures {
    pub per_second: f64,
    pub p50_ms: f64,
    pub p99_ms: f64,
    pub failed: u64,
    pub leads: bool,
    pub resident_mb: f64,
    /// Processor time this member used meanwhile, load included.
    pub cpu_secs: f64,
    /// Entries this member applied meanwhile, whoever proposed them.
    pub applied: u64,
}

/// Three members whose programs apply this level, with so many nodes; the founder is the first.
pub async fn three(folder: &std::path::Path, feature_level: u32, nodes: u64) -> Result<Vec<Member>> {
    let mut first = Member::spawn(folder.join("b1"), "b1", None, feature_level).await?;
    let mut members = Vec::new();
    for name in ["b2", "b3"] {
        let Tell::Token { token } = first.ask(&Ask::Token { name: name.into() }).await? else {
            bail!("a token was asked for");
        };
        let ticket = Some((first.address.clone(), token));
        members.push(Member::spawn(folder.join(name), name, ticket, feature_level).await?);
        first.ask(&Ask::AwaitVoters { voters: members.len() + 1 }).await?;
    }
    first.ask(&Ask::Furnish { nodes }).await?;
    members.insert(0, first);
    Ok(members)
}

/// The parent: starts three members, loads the leader, then all of them.
pub async fn run(arguments: Arguments) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let mut members = three(folder.path(), state_machine::FEATURE_LEVEL, arguments.nodes).await?;

    println!("three processes, {} nodes, one endpoint report per proposal", arguments.nodes);
    for clients in &arguments.clients {
        for member in &mut members {
            let figures = member.load(*clients, arguments.secs, Writes::Endpoints).await?;
            // The founder leads unless it stumbled; the others show what forwarding costs.
            if figures.leads || member.name == "b2" {
                print(&figures, *clients, if figures.leads { "at the leader" } else { "at a follower" });
            }
        }
        let each = clients.div_ceil(3);
        let loads = members.iter_mut().map(|member| member.load(each, arguments.secs, Writes::Endpoints));
        let all = futures::future::try_join_all(loads).await?;
        let together = Figures {
            per_second: all.iter().map(|figures| figures.per_second).sum(),
            p50_ms: all.iter().map(|figures| figures.p50_ms).fold(0.0, f64::max),
            p99_ms: all.iter().map(|figures| figures.p99_ms).fold(0.0, f64::max),
            failed: all.iter().map(|figures| figures.failed).sum(),
            leads: false,
            resident_mb: all.iter().map(|figures| figures.resident_mb).fold(0.0, f64::max),
            cpu_secs: all.iter().map(|figures| figures.cpu_secs).sum(),
            applied: all.iter().map(|figures| figures.applied).max().unwrap_or_default(),
        };
        print(&together, *clients, "spread over all");
    }
    Ok(())
}

fn print(figures: &Figures, clients: usize, place: &str) {
    println!(
        "{clients:>5} clients {place:<16} {:>8.0}/s  p50 {:>7.2} ms  p99 {:>7.2} ms  failed {}  resident {:.0} MB",
        figures.per_second, figures.p50_ms, figures.p99_ms, figures.failed, figures.resident_mb
    );
}

/// A child process as the parent sees it; killed when dropped.
pub struct Member {
    pub name: String,
    address: String,
    ask: ChildStdin,
    tell: Lines<BufReader<ChildStdout>>,
    _child: Child,
}

impl Member {
    async fn spawn(dir: PathBuf, name: &str, ticket: Option<(String, String)>, level: u32) -> Result<Member> {
        let mut command = tokio::process::Command::new(std::env::current_exe()?);
        command.args(["member", "--name", name, "--feature-level", &level.to_string(), "--dir"]).arg(dir);
        if let Some((address, token)) = ticket {
            command.args(["--join", &address, "--token", &token]);
        }
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true).spawn()?;
        let ask = child.stdin.take().context("a pipe to the member")?;
        let tell = BufReader::new(child.stdout.take().context("a pipe from the member")?).lines();
        let mut member = Member { name: name.into(), address: String::new(), ask, tell, _child: child };
        let Tell::Up { address } = member.hear().await? else { bail!("{name} did not come up") };
        member.address = address;
        Ok(member)
    }

    async fn ask(&mut self, ask: &Ask) -> Result<Tell> {
        let mut line = serde_json::to_string(ask)?;
        line.push('\n');
        self.ask.write_all(line.as_bytes()).await?;
        self.hear().await
    }

    async fn hear(&mut self) -> Result<Tell> {
        let line = self.tell.next_line().await?.with_context(|| format!("{} ended", self.name))?;
        Ok(serde_json::from_str(&line)?)
    }

    /// Loads the cluster through this member.
    pub async fn load(&mut self, clients: usize, secs: u64, writes: Writes) -> Result<Figures> {
        match self.ask(&Ask::Load { clients, secs, writes }).await? {
            Tell::Measured(figures) => Ok(figures),
            other => bail!("figures were asked for, not {other:?}"),
        }
    }
}

/// The child: one member, doing what it is asked.
pub async fn member(arguments: MemberArguments) -> Result<()> {
    let world = world::real::world();
    // As in production: Raft has threads of its own.
    let raft_runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let start = match (arguments.join, arguments.token) {
        (Some(address), Some(token)) => StartAs::Join { address: vec![address], token, replaces: String::new() },
        _ => StartAs::FoundIfEmpty { settings: Settings::default(), secrets: vec![("noise".into(), vec![42; 32])] },
    };
    let options = Options {
        data_dir: arguments.dir,
        sealing_key: None,
        name: arguments.name,
        peer_listen: SocketAddr::from(([127, 0, 0, 1], 0)),
        peer_advertise: "127.0.0.1:0".into(),
        timing: Timing::lan(),
        version: env!("CARGO_PKG_VERSION").into(),
        client_url: String::new(),
        relay: None,
        start,
        snapshot_every: 10_000,
        feature_level: arguments.feature_level,
        space: raft::Space::default(),
        auto_remove_after: None,
        join_within: raft::JOIN_WITHIN,
        arrival: None,
        backup: None,
        drills: false,
        runtime: Some(raft_runtime.handle().clone()),
    };
    let cluster = Cluster::start(options, &world).await.map_err(|error| anyhow::anyhow!("{error}"))?;
    let state = cluster.latest();
    let me = state.member(cluster.me()).context("a member knows itself")?;
    tell(&Tell::Up { address: me.peer_address.clone() })?;

    let mut asked = BufReader::new(tokio::io::stdin()).lines();
    while let Some(line) = asked.next_line().await? {
        let answer = match serde_json::from_str(&line)? {
            Ask::Token { name } => {
                let hour = Duration::from_secs(3600);
                let token = cluster.create_join_token(hour, &name, JoinRole::Voter, "bench").await;
                Tell::Token { token: token.map_err(|error| anyhow::anyhow!("{error}"))? }
            }
            Ask::AwaitVoters { voters } => {
                while cluster.status().voters.len() < voters {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                Tell::Done
            }
            Ask::Furnish { nodes } => {
                furnish(&cluster, &world.entropy, nodes).await?;
                Tell::Done
            }
            Ask::Load { clients, secs, writes } => {
                Tell::Measured(load(&cluster, &world.entropy, clients, secs, writes).await?)
            }
        };
        tell(&answer)?;
    }
    // The parent is gone; there is nobody to hand over to. The runtime must not be dropped inside another one.
    raft_runtime.shutdown_background();
    Ok(())
}

fn tell(answer: &Tell) -> Result<()> {
    println!("{}", serde_json::to_string(answer)?);
    Ok(())
}

async fn propose(cluster: &Cluster, command: Command) -> Result<Outcome> {
    let applied = cluster.propose("bench", command).await.map_err(|error| anyhow::anyhow!("{error}"))?;
    applied.answer.map_err(|refusal| anyhow::anyhow!("{refusal}"))
}

async fn furnish(cluster: &Cluster, entropy: &Entropy, nodes: u64) -> Result<()> {
    let command = Command::CreateUser {
        name: "bench".into(),
        display_name: String::new(),
        email: String::new(),
        profile_pic_url: String::new(),
    };
    let Outcome::User(user) = propose(cluster, command).await? else { bail!("a user was asked for") };
    let key = AuthKey::new(entropy);
    let pre_auth_key = PreAuthKey {
        prefix: key.prefix.clone(),
        secret_sha256: key.secret_sha256(),
        user: Some(UserId(user.0)),
        reusable: true,
        ..PreAuthKey::default()
    };
    propose(cluster, Command::CreatePreAuthKey { key: pre_auth_key }).await?;
    let mut tasks = JoinSet::new();
    for number in 0..nodes {
        let client = Registration {
            machine_key: MachineKey(entropy.bytes()),
            node_key: NodeKey(entropy.bytes()),
            hostname: format!("bench-{number}"),
            capability_version: 113,
            ..Registration::default()
        };
        let command =
            Command::RegisterWithKey { client, prefix: key.prefix.clone(), secret_sha256: key.secret_sha256() };
        let cluster = cluster.clone();
        tasks.spawn(async move { propose(&cluster, command).await.map(drop) });
        if tasks.len() >= 64 {
            tasks.join_next().await.expect("not empty")??;
        }
    }
    while let Some(done) = tasks.join_next().await {
        done??;
    }
    Ok(())
}

async fn load(cluster: &Cluster, entropy: &Entropy, clients: usize, secs: u64, writes: Writes) -> Result<Figures> {
    let nodes: Vec<(NodeId, NodeKey)> =
        cluster.latest().nodes().values().map(|node| (node.id, node.node_key)).collect();
    let nodes = Arc::new(nodes);
    if nodes.is_empty() {
        bail!("no nodes to report");
    }
    let (cpu_before, applied_before) = (cpu_secs()?, cluster.latest().revision().0);
    let begun = Instant::now();
    let end = begun + Duration::from_secs(secs);
    let mut tasks = JoinSet::new();
    for client in 0..clients {
        let (cluster, nodes, entropy) = (cluster.clone(), nodes.clone(), entropy.clone());
        tasks.spawn(async move {
            let (mut micros, mut failed, mut turn) = (Vec::new(), 0_u64, client);
            while Instant::now() < end {
                let (node, node_key) = nodes[turn % nodes.len()];
                turn += 1;
                let dice = entropy.u64();
                let command = match writes {
                    Writes::Endpoints => {
                        let addr = SocketAddr::from(([192, 0, 2, dice as u8], 1024 + (dice >> 8) as u16 % 60_000));
                        let endpoints = Some(vec![Endpoint { addr, kind: 2 }]);
                        Command::Report { reports: vec![Report { node, node_key, endpoints, ..Report::default() }] }
                    }
                    Writes::Names => Command::RenameNode { node, name: format!("n{node}-{:04x}", dice as u16) },
                };
                let asked = Instant::now();
                match propose(&cluster, command).await {
                    Ok(_) => micros.push(asked.elapsed().as_micros() as u64),
                    Err(_) => failed += 1,
                }
            }
            (micros, failed)
        });
    }
    let (mut micros, mut failed) = (Vec::new(), 0);
    while let Some(done) = tasks.join_next().await {
        let (more, missed) = done?;
        micros.extend(more);
        failed += missed;
    }
    let elapsed = begun.elapsed().as_secs_f64();
    micros.sort_unstable();
    let at = |share: f64| {
        micros
            .get(((micros.len().saturating_sub(1)) as f64 * share) as usize)
            .map_or(0.0, |micros| *micros as f64 / 1e3)
    };
    Ok(Figures {
        per_second: micros.len() as f64 / elapsed,
        p50_ms: at(0.5),
        p99_ms: at(0.99),
        failed,
        leads: cluster.is_leader(),
        resident_mb: chaos_tests::fleet::resident_mb(std::process::id()).unwrap_or_default(),
        cpu_secs: cpu_secs()? - cpu_before,
        applied: cluster.latest().revision().0 - applied_before,
    })
}

/// Processor time of this process so far: proc(5), fields 14 and 15 of `stat`, in hundredths of a second on Linux.
fn cpu_secs() -> Result<f64> {
    let stat = world::real::world().disk.read(std::path::Path::new("/proc/self/stat"))?.context("no /proc here")?;
    let stat = String::from_utf8_lossy(&stat).into_owned();
    // The name of the program stands in parentheses and may hold spaces.
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |index: usize| fields.get(index).and_then(|field| field.parse::<f64>().ok()).context("a number");
    Ok((ticks(11)? + ticks(12)?) / 100.0)
}
