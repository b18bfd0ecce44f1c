//! One member's life on a simulated machine, from start to the moment its machine dies.

use std::{cell::RefCell, net::SocketAddr, rc::Rc, sync::Arc, time::Duration};

use node::{
    Server, StartError,
    options::{Bucket, Options, Start, Token},
};
use raft::{Cluster, OUTDATED, REMOVED};
use state_machine::{JoinRole, MemberId};
use tokio::sync::mpsc;
use world::World;

use super::{host::Machine, trace};
use crate::{
    client::{Identity, dial::Name},
    workload::{
        Shared,
        device::Daemon,
        operator::{self, Operator},
    },
};

/// The port members speak to each other on.
pub const PEER_PORT: u16 = 9000;
/// The port clients speak to.
pub const CLIENT_PORT: u16 = 8080;

/// A start that ends so may be tried again: nobody could be reached, or the log is not caught up yet.
const PATIENT_EXIT_CODES: &[i32] = &[12, 20];
/// A start that ends so has a ticket that somebody else has used.
const TICKET_SPENT: i32 = 10;
/// A start that ends so heard that this member was removed.
const NOT_OURS: i32 = 14;
/// A start that ends so found that the folder is not what the member promised.
const QUARANTINE: i32 = 40;

/// A member that runs.
pub struct Running {
    pub cluster: Cluster,
    /// Where others ask it to do something: the tasks run on its own machine.
    pub errands: mpsc::Sender<Errand>,
}

/// Something a running member is asked to do.
pub enum Errand {
    HandOver,
    /// Make a ticket for a machine and pin it on the board. `replaces`: the name of a member whose place it takes.
    Invite {
        machine: u64,
        replaces: String,
    },
    /// One ticket for one member, pinned for several machines: only one may come in with it.
    InviteMany(Vec<u64>),
    Remove(MemberId),
    /// Give a member a new certificate.
    Renew(MemberId),
    RotateAuthority,
    /// Seal all secrets under a new data key.
    Reseal,
    /// Another policy than the one in force: the last change of a run.
    LastWord,
}

/// Starts a member, again and again when it may not start yet, and lets an operator work at it.
pub async fn live(machine: Arc<Machine>, founders: u64, shared: Rc<Shared>) -> turmoil::Result {
    let number = machine.number;
    if shared.idle.borrow().contains(&number) {
        return std::future::pending().await;
    }
    let (life, world) = machine.world();
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
        for machine in 2..=founders {
            invite(&cluster, machine, String::new(), &shared).await?;
        }
        operator.furnish().await;
    }
    let (work, reading) = (operator.work(), operator.read_on());
    let fatal = server.fatal();
    tokio::pin!(work, reading, fatal);
    loop {
        tokio::select! { biased;
            why = &mut fatal => {
                shared.up.borrow_mut().remove(&number);
                if (why == REMOVED || why.starts_with(OUTDATED)) && shared.leaving.borrow().contains(&number) {
                    return ended(number, &shared).await;
                }
                if why.starts_with(OUTDATED) && shared.rolled_back.borrow().contains_key(&number) {
                    shared.rolled_back.borrow_mut().insert(number, true);
                    return ended(number, &shared).await;
                }
                shared.deaths.borrow_mut().push(format!("{} died: {why}", machine.name));
                return Err(why.into());
            }
            Some(errand) = asked.recv() => {
                tokio::task::spawn_local(run(errand, cluster.clone(), shared.clone()));
            }
            never = &mut work => match never {},
            never = &mut reading => match never {},
        }
    }
}

/// Errors are no news: leadership moved meanwhile, or the storm was too strong. Whoever wants it done asks again.
async fn run(errand: Errand, cluster: Cluster, shared: Rc<Shared>) {
    let done = match errand {
        Errand::HandOver => cluster.transfer_leader(None).await.map_err(|error| error.to_string()),
        Errand::Invite { machine, replaces } => invite(&cluster, machine, replaces, &shared).await,
        Errand::InviteMany(machines) => invite_many(&cluster, &machines, &shared).await,
        Errand::LastWord => operator::last_word(&cluster, &shared).await,
        Errand::Remove(member) => {
            cluster.remove_member(member, false, "operator").await.map_err(|error| error.to_string())
        }
        Errand::Renew(member) => {
            let renewed = cluster.renew_certificate(member).await;
            renewed.map(|_| shared.kept_up("certificate renewed")).map_err(|error| error.to_string())
        }
        Errand::RotateAuthority => {
            granted(cluster.rotate_authority("operator").await).map(|_| shared.kept_up("authority replaced"))
        }
        Errand::Reseal => {
            granted(cluster.rotate_data_key("operator").await).map(|_| shared.kept_up("secrets resealed"))
        }
    };
    if let Err(error) = done {
        tracing::debug!(error, "an errand failed");
    }
}

/// Errors and refusals as one.
fn granted<T, R: ToString, E: ToString>(answer: Result<Result<T, R>, E>) -> Result<T, String> {
    answer.map_err(|error| error.to_string())?.map_err(|refusal| refusal.to_string())
}

/// The process has ended and nobody starts it again. The system closes what it held open: whoever runs the simulation
/// does that, by crashing the host.
async fn ended<T>(machine: u64, shared: &Shared) -> T {
    trace::event("ended", machine, &[]);
    shared.ended.borrow_mut().insert(machine);
    std::future::pending().await
}

async fn start_until_it_does(machine: &Machine, world: &World, shared: &Shared) -> Result<Server, String> {
    loop {
        if let Some(start) = how_to_start(machine, shared) {
            match Server::start(options(machine, start, shared), world.clone()).await {
                Ok(server) => {
                    let ticket =
                        shared.board.borrow().join_tokens.get(&machine.number).map(|(ticket, _)| ticket.clone());
                    if let Some(ticket) = ticket {
                        shared.history.borrow_mut().tickets.entry(ticket).or_default().insert(machine.number);
                    }
                    if shared.rolled_back.borrow().contains_key(&machine.number) {
                        shared.history.borrow_mut().rolled_back(machine.number);
                    }
                    return Ok(server);
                }
                Err(StartError::Raft(raft::StartError::Outdated(..)))
                    if shared.leaving.borrow().contains(&machine.number) =>
                {
                    return ended(machine.number, shared).await;
                }
                Err(StartError::Raft(raft::StartError::Outdated(..)))
                    if shared.rolled_back.borrow().contains_key(&machine.number) =>
                {
                    trace::event("outdated", machine.number, &[]);
                    shared.rolled_back.borrow_mut().insert(machine.number, true);
                    return ended(machine.number, shared).await;
                }
                // The authority was replaced before it came in: the operators make another ticket.
                Err(error) if error.to_string().contains("was replaced since") => {
                    trace::event("ticket outdated", machine.number, &[]);
                    tracing::info!(member = machine.number, %error, "its ticket is too old");
                    shared.board.borrow_mut().join_tokens.remove(&machine.number);
                }
                Err(error) if PATIENT_EXIT_CODES.contains(&error.exit_code()) => {
                    trace::event("start failed", machine.number, &[]);
                    tracing::info!(member = machine.number, %error, "could not start yet");
                }
                Err(error) if error.exit_code() == NOT_OURS && shared.leaving.borrow().contains(&machine.number) => {
                    return ended(machine.number, shared).await;
                }
                Err(error)
                    if error.exit_code() == QUARANTINE && shared.rolled_back.borrow().contains_key(&machine.number) =>
                {
                    trace::event("quarantine", machine.number, &[]);
                    shared.rolled_back.borrow_mut().insert(machine.number, true);
                    return ended(machine.number, shared).await;
                }
                Err(error)
                    if error.exit_code() == TICKET_SPENT
                        && shared.board.borrow_mut().give_up_ticket(machine.number) =>
                {
                    trace::event("ticket spent", machine.number, &[]);
                }
                // Whom it replaces was heard from a moment ago; it will be silent long enough.
                Err(error)
                    if error.to_string().contains("is not gone")
                        && shared.board.borrow().empty_handed.contains(&machine.number) =>
                {
                    trace::event("start failed", machine.number, &[]);
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
fn how_to_start(machine: &Machine, shared: &Shared) -> Option<Start> {
    let board = shared.board.borrow();
    if machine.number == 1 && !board.empty_handed.contains(&1) {
        return Some(Start::Found);
    }
    let (token, replaces) = board.join_tokens.get(&machine.number).cloned()?;
    let addresses = (1..=5).filter(|other| *other != machine.number).map(|n| format!("hs{n}:{PEER_PORT}")).collect();
    Some(Start::Join { addresses, token: Token(token), replaces })
}

fn options(machine: &Machine, start: Start, shared: &Shared) -> Options {
    let anywhere = |port| SocketAddr::from(([0, 0, 0, 0], port));
    Options {
        start,
        peer_listen: anywhere(PEER_PORT),
        peer_advertise: format!("{}:{PEER_PORT}", machine.name),
        client_listen: anywhere(CLIENT_PORT),
        client_url: format!("http://{}:{CLIENT_PORT}", machine.name),
        snapshot_every: shared.snapshot_every,
        backup_bucket: shared.shelf.clone().map(|shelf| Bucket(shelf)),
        ..Options::new(&machine.name, "/data")
    }
}

async fn invite(cluster: &Cluster, machine: u64, replaces: String, shared: &Shared) -> Result<(), String> {
    let name = format!("hs{machine}");
    let hour = Duration::from_secs(3600);
    let token = cluster.create_join_token(hour, &name, JoinRole::Voter, "operator").await;
    let token = token.map_err(|error| format!("no join token for {name}: {error}"))?;
    shared.board.borrow_mut().join_tokens.entry(machine).or_insert((token, replaces));
    Ok(())
}

/// What an operator does who thinks a ticket lets in as many as show it.
async fn invite_many(cluster: &Cluster, machines: &[u64], shared: &Shared) -> Result<(), String> {
    let token = cluster.create_join_token(Duration::from_secs(3600), "", JoinRole::Voter, "operator").await;
    let token = token.map_err(|error| format!("no join token for {machines:?}: {error}"))?;
    let mut board = shared.board.borrow_mut();
    if board.shared_ticket.is_none() {
        board.shared_ticket = Some(token.clone());
        for machine in machines {
            board.join_tokens.entry(*machine).or_insert((token.clone(), String::new()));
        }
    }
    Ok(())
}

/// One device's life.
pub async fn carry(machine: Arc<Machine>, records: Vec<String>, chatty: bool, shared: Rc<Shared>) -> turmoil::Result {
    let (_, world) = machine.world();
    let identity = {
        let mut devices = shared.devices.borrow_mut();
        let device = devices.get_mut(&machine.number).expect("every device is entered before it runs");
        device.identity.get_or_insert_with(|| Identity::new(&world.entropy, &machine.name)).clone()
    };
    let name = RefCell::new(Name::new(records));
    let daemon = Daemon { number: machine.number, name, identity, world, shared, chatty };
    daemon.run().await.map_err(|error| error.to_string().into())
}
