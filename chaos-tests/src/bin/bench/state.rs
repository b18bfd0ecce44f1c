//! What one command costs in a tailnet of many nodes, and what a snapshot of it costs. No disk, no network, one thread.

use std::time::Duration;

use anyhow::Result;
use state_machine::{
    Command, Member, MemberId, Node, PreAuthKey, PresenceChange, Registration, Report, Revision, SessionId, Settings,
    Stamp, State, Timestamp,
};
use tailcfg::{MachineKey, NodeKey};
use tokio::time::Instant;

/// What to measure.
#[derive(clap::Args)]
pub struct Arguments {
    /// Nodes in the tailnet.
    #[arg(long, default_value_t = 10_000)]
    nodes: u64,
}

/// A state and the revision it has come to.
struct Bench {
    state: State,
    revision: u64,
    now: u64,
}

impl Bench {
    fn apply(&mut self, command: Command) -> Result<()> {
        self.revision += 1;
        self.now += 1;
        let stamp = Stamp { at: Timestamp(self.now), revision: Revision(self.revision) };
        self.state.apply(stamp, command).map(drop).map_err(|refusal| anyhow::anyhow!("{refusal}"))
    }

    /// One command for each node, each on a state somebody else still holds, as it is when State is published.
    fn each(&mut self, what: &str, make: impl Fn(&Node) -> Command) -> Result<()> {
        let nodes: Vec<_> = self.state.nodes().values().cloned().collect();
        let begun = Instant::now();
        for node in &nodes {
            let published = self.state.clone();
            self.apply(make(node))?;
            drop(published);
        }
        print(what, begun.elapsed() / u32::try_from(nodes.len().max(1))?);
        Ok(())
    }
}

fn print(what: &str, span: Duration) {
    println!("{what:<24} {:>10.1} µs", span.as_secs_f64() * 1e6);
}

/// Registers, reports, comes and goes, snapshots.
pub fn run(arguments: &Arguments) -> Result<()> {
    println!("a state of {} nodes, one command at a time", arguments.nodes);
    let mut bench = Bench { state: State::default(), revision: 0, now: 1_767_225_600_000 };
    let member = Member { id: MemberId(1), name: "hs1".into(), feature_level: 1, ..Member::default() };
    bench.apply(Command::Found {
        cluster_id: "bench".into(),
        member,
        settings: Settings::default(),
        secrets: vec![],
    })?;
    let tags = ["tag:a".to_owned()].into();
    bench.apply(Command::CreatePreAuthKey {
        key: PreAuthKey { prefix: "bench".into(), reusable: true, tags, ..PreAuthKey::default() },
    })?;
    let begun = Instant::now();
    for number in 1..=arguments.nodes {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&number.to_be_bytes());
        let client = Registration {
            machine_key: MachineKey(bytes),
            node_key: NodeKey(bytes),
            hostname: "job".into(),
            ..Registration::default()
        };
        bench.apply(Command::RegisterWithKey { client, prefix: "bench".into(), secret_sha256: [0; 32] })?;
    }
    print("register, same name", begun.elapsed() / u32::try_from(arguments.nodes.max(1))?);
    bench.each("stream opened", |node| presence(node, true))?;
    bench.each("report of a home relay", |node| Command::Report {
        reports: vec![Report { node: node.id, node_key: node.node_key, home_derp: Some(901), ..Report::default() }],
    })?;
    bench.each("stream closed", |node| presence(node, false))?;
    bench.each("renamed", |node| Command::RenameNode { node: node.id, name: format!("n{}", node.id) })?;

    let before = bench.state.clone();
    bench.now += 60_000;
    let begun = Instant::now();
    bench.apply(Command::Elapse)?;
    print("all offline at once", begun.elapsed());
    let begun = Instant::now();
    let rows = bench.state.changed_rows(&before).len();
    print(&format!("{rows} changed rows"), begun.elapsed());
    let begun = Instant::now();
    let snapshot = bench.state.to_snapshot();
    print(&format!("snapshot, {} KB", snapshot.len() / 1024), begun.elapsed());
    let begun = Instant::now();
    State::from_snapshot(&snapshot).map_err(|error| anyhow::anyhow!("{error}"))?;
    print("from that snapshot", begun.elapsed());
    Ok(())
}

fn presence(node: &Node, here: bool) -> Command {
    Command::Presence {
        member: MemberId(1),
        changes: vec![PresenceChange { node: node.id, session: SessionId(1), here }],
    }
}
