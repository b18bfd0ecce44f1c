//! One member's life on a simulated machine, from start to the moment its machine dies.

use std::{net::SocketAddr, rc::Rc, sync::Arc, time::Duration};

use node::{
    Server,
    options::{Options, Start, Token},
};
use raft::Cluster;
use state_machine::JoinRole;
use tokio::sync::mpsc;
use world::World;

use super::{host::Machine, trace};
use crate::{
    client::Identity,
    workload::{Shared, device::Daemon, operator::Operator},
};

/// The port members speak to each other on.
pub const PEER_PORT: u16 = 9000;
/// The port clients speak to.
pub const CLIENT_PORT: u16 = 8080;

/// Often enough that snapshots are built, sent and installed in every run.
const SNAPSHOT_EVERY: u64 = 200;

/// A start that ends so may be tried again: nobody could be reached, or the log is not caught up yet.
const PATIENT_EXIT_CODES: &[i32] = &[12, 20];

/// A member that runs.
pub struct Running {
    pub cluster: Cluster,
    /// Where others ask it to do something: the tasks run on its own machine.
    pub errands: mpsc::Sender<Errand>,
}

/// Something a running member is asked to do.
pub enum Errand {
    HandOver,
}

/// Starts a member, again and again when it may not start yet, and lets an operator work at it.
pub async fn live(machine: Arc<Machine>, members: u64, shared: Rc<Shared>) -> turmoil::Result {
    let (life, world) = machine.world();
    let number = machine.number;
    let server = start_until_it_does(&machine, &world, &shared).await?;
    let cluster = server.cluster().clone();
    let (errands, mut asked) = mpsc::channel(4);
    shared.up.borrow_mut().insert(number, Running { cluster: cluster.clone(), errands });

    let operator = Operator {
        member: number,
        life,
        cluster: cluster.clone(),
        shared: shared.clone(),
        entropy: world.entropy.clone(),
    };
    if number == 1 && life == 1 {
        invite(&cluster, members, &shared).await?;
        operator.furnish().await;
    }
    let work = operator.work();
    let fatal = server.fatal();
    tokio::pin!(work, fatal);
    loop {
        tokio::select! { biased;
            why = &mut fatal => {
                shared.deaths.borrow_mut().push(format!("{} died: {why}", machine.name));
                return Err(why.into());
            }
            Some(Errand::HandOver) = asked.recv() => {
                let cluster = cluster.clone();
                tokio::task::spawn_local(async move {
                    // Refused when leadership moved meanwhile; then there is nothing to hand over.
                    let _ = cluster.transfer_leader(None).await;
                });
            }
            never = &mut work => match never {},
        }
    }
}

async fn start_until_it_does(machine: &Machine, world: &World, shared: &Shared) -> Result<Server, String> {
    loop {
        if let Some(start) = how_to_start(machine.number, shared) {
            match Server::start(options(machine, start), world.clone()).await {
                Ok(server) => return Ok(server),
                Err(error) if PATIENT_EXIT_CODES.contains(&error.exit_code()) => {
                    trace::event("start failed", machine.number, &[]);
                    tracing::info!(member = machine.number, %error, "could not start yet");
                }
                Err(error) => {
                    let death = format!("{} could not start: {error}", machine.name);
                    shared.deaths.borrow_mut().push(death.clone());
                    return Err(death);
                }
            }
        }
        // What a service manager does.
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

/// The founder founds; the others wait for their ticket.
fn how_to_start(number: u64, shared: &Shared) -> Option<Start> {
    if number == 1 {
        return Some(Start::Found);
    }
    let token = shared.board.borrow().join_tokens.get(&number).cloned()?;
    Some(Start::Join { addresses: vec![format!("hs1:{PEER_PORT}")], token: Token(token), replaces: String::new() })
}

fn options(machine: &Machine, start: Start) -> Options {
    let anywhere = |port| SocketAddr::from(([0, 0, 0, 0], port));
    Options {
        start,
        peer_listen: anywhere(PEER_PORT),
        peer_advertise: format!("{}:{PEER_PORT}", machine.name),
        client_listen: anywhere(CLIENT_PORT),
        client_url: format!("http://{}:{CLIENT_PORT}", machine.name),
        snapshot_every: SNAPSHOT_EVERY,
        ..Options::new(&machine.name, "/data")
    }
}

/// One ticket for each member to come.
async fn invite(cluster: &Cluster, members: u64, shared: &Shared) -> Result<(), String> {
    for number in 2..=members {
        let name = format!("hs{number}");
        let hour = Duration::from_secs(3600);
        let token = cluster.create_join_token(hour, &name, JoinRole::Voter, "operator").await;
        let token = token.map_err(|error| format!("no join token for {name}: {error}"))?;
        shared.board.borrow_mut().join_tokens.insert(number, token);
    }
    Ok(())
}

/// One device's life.
pub async fn carry(machine: Arc<Machine>, members: u64, shared: Rc<Shared>) -> turmoil::Result {
    let (_, world) = machine.world();
    let identity = Identity::new(&world.entropy, &machine.name);
    let servers = (1..=members).map(|number| format!("hs{number}:{CLIENT_PORT}")).collect();
    let daemon = Daemon { number: machine.number, servers, identity, world, shared };
    daemon.run().await.map_err(|error| error.to_string().into())
}
