//! Whether the client port is open.
//!
//! A client that is refused tries the next address at once; one that is accepted and not served waits for ten seconds and
//! comes back to the same address. So a member that cannot serve closes its port, and opens it when it can. Being without
//! a leader is no reason: maps are served from what is known. Nor is it a reason when nobody else could serve either.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use raft::{Board, Cluster, Role};
use state_machine::{MemberId, MemberState, State};
use tokio::sync::watch;

use super::{Closing, Doors, accept, client};
use crate::{control::Control, keys, observe::Metrics};

/// How often it is looked at, beside every change of the members or of the secrets.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Entries behind the leader at which maps are too old to hand out, and at which they are good again.
const LAG_MAX: u64 = 10_000;
const LAG_FINE: u64 = 1_000;
/// A view of the leader older than this says nothing about now.
const FRESH: Duration = Duration::from_secs(3);
/// Whom the leader has not heard for so long does not serve.
const SILENT: Duration = Duration::from_secs(3);
/// The port was ours a moment ago and will be ours again.
const BIND_AGAIN: Duration = Duration::from_millis(200);

/// Why clients are not let in; `None` where they are.
pub type Shut = Option<&'static str>;

/// How the port is, as distinct from how it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Port {
    /// Connections are taken here.
    Open(SocketAddr),
    /// Whoever dials is refused, and why.
    Closed(String),
}

/// Tells everybody who asks how the port is: `/readyz`, the metrics, and through the board the other members.
pub struct Sign {
    pub cluster: Cluster,
    pub metrics: Metrics,
    pub port: watch::Sender<Port>,
}

impl Sign {
    fn says(&self, port: Port) {
        self.metrics.client_port_open.set(matches!(port, Port::Open(_)).into());
        self.cluster.tell_client_port(match &port {
            Port::Open(_) => String::new(),
            Port::Closed(why) => why.clone(),
        });
        self.port.send_replace(port);
    }
}

/// What the decision is made from.
#[derive(Clone, Copy, Debug, Default)]
struct Look {
    engine_stopped: bool,
    key_differs: bool,
    draining: bool,
    /// Entries this member is behind what the leader last said it has; none: nobody said so lately.
    lag: Option<u64>,
    /// Another member takes clients.
    others_serve: bool,
}

fn decide(was: Shut, look: Look) -> Shut {
    if look.engine_stopped {
        return Some("the engine has stopped");
    }
    if look.key_differs {
        return Some("the cluster has another Noise key");
    }
    if !look.others_serve {
        return None;
    }
    if look.draining {
        return Some("drained");
    }
    let limit = if was.is_some() { LAG_FINE } else { LAG_MAX };
    look.lag.filter(|lag| *lag > limit).map(|_| "far behind the leader")
}

/// Keeps `door` as it should be, as long as the member runs.
pub async fn keep(cluster: Cluster, control: Arc<Control>, door: watch::Sender<Shut>) {
    let mut states = cluster.watch();
    loop {
        let state = states.borrow_and_update().clone();
        let now = decide(*door.borrow(), look(&cluster, &control, &state));
        let changed = door.send_if_modified(|shut| {
            let changed = *shut != now;
            *shut = now;
            changed
        });
        if changed {
            match now {
                Some(why) => tracing::warn!(why, "the client port is closed; clients go to other members"),
                None => tracing::info!("the client port is open"),
            }
        }
        // A look opens a sealed key and draws the leader's view: too much for every entry of the log.
        let matters =
            |new: &Arc<State>| !new.members().ptr_eq(state.members()) || !new.secrets().ptr_eq(state.secrets());
        tokio::select! { biased;
            moved = states.wait_for(matters) => if moved.is_err() { return },
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
    }
}

fn look(cluster: &Cluster, control: &Control, state: &State) -> Look {
    let (me, board) = (cluster.me(), cluster.board());
    let status = cluster.status();
    Look {
        engine_stopped: status.role == Role::Stopped,
        key_differs: !cluster.secret(keys::NOISE).is_some_and(|key| control.is_private_key(&key)),
        draining: state.member(me).is_some_and(|member| member.draining),
        lag: lag(&board, me, status.applied),
        others_serve: others_serve(state, &board, me),
    }
}

/// Entries between what the leader has and what this member has applied. Not the leader's own count: a new leader knows
/// nothing of a member until it has answered, and takes it for empty; its clients would be sent away after every election.
fn lag(board: &Board, me: MemberId, applied: Option<u64>) -> Option<u64> {
    let leader = board.by.filter(|leader| *leader != me && board.age <= FRESH)?;
    let next = |index: Option<u64>| index.map_or(0, |index| index + 1);
    let last = board.members.get(&leader)?.matched?;
    Some(next(Some(last)).saturating_sub(next(applied)))
}

fn others_serve(state: &State, board: &Board, me: MemberId) -> bool {
    let heard = |id: &MemberId| {
        board.age <= FRESH
            && board.members.get(id).and_then(|seen| seen.last_contact).is_some_and(|silence| silence <= SILENT)
    };
    let mut others = state.members().values().filter(|member| member.id != me);
    others.any(|member| member.state == MemberState::Active && !member.draining && !member.silent && heard(&member.id))
}

/// Serves clients until told to stop, while the door is open. `listener` is open already.
pub async fn clients(
    listener: Box<dyn world::Listener>,
    doors: Arc<Doors>,
    net: Arc<dyn world::Net>,
    mut door: watch::Receiver<Shut>,
    sign: Sign,
    closing: Closing,
) {
    open_and_close(listener, doors, net, &mut door, &sign, &closing).await;
    sign.says(Port::Closed("this member is stopping".to_owned()));
}

async fn open_and_close(
    listener: Box<dyn world::Listener>,
    doors: Arc<Doors>,
    net: Arc<dyn world::Net>,
    door: &mut watch::Receiver<Shut>,
    sign: &Sign,
    closing: &Closing,
) {
    let Ok(address) = listener.local_addr() else { return };
    let mut listener = Some(listener);
    while !closing.stop.is_cancelled() {
        let open = match listener.take() {
            Some(open) => open,
            None => match net.listen(address).await {
                Ok(open) => open,
                Err(error) => {
                    tracing::warn!(%address, %error, "the client port cannot be opened again yet");
                    sign.says(Port::Closed(format!("{address} cannot be opened again yet: {error}")));
                    let _ = closing.stop.run_until_cancelled(tokio::time::sleep(BIND_AGAIN)).await;
                    continue;
                }
            },
        };
        sign.says(Port::Open(address));
        let shut = closing.stop.child_token();
        let welcome = |stream, from| client::welcome(&doors, stream, from, closing);
        let mut serve = std::pin::pin!(accept(open, "clients", shut.clone(), welcome));
        let told = tokio::select! { biased;
            () = serve.as_mut() => return,
            told = door.wait_for(Option::is_some) => told.is_ok(),
        };
        shut.cancel();
        let why = door.borrow().unwrap_or("it is about to open");
        sign.says(Port::Closed(why.to_owned()));
        serve.await;
        if !told {
            return;
        }
        let opened = closing.stop.run_until_cancelled(async { door.wait_for(Option::is_none).await.is_ok() }).await;
        if opened != Some(true) {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use raft::Seen;

    use super::*;

    #[test]
    fn a_new_leader_that_knows_nothing_of_a_member_sends_nobody_away() {
        let seen = |matched, lag| Seen { matched, lag, ..Seen::default() };
        let (me, leader) = (MemberId(2), MemberId(1));
        // It was elected a moment ago: the others have answered nothing yet and count as empty.
        let members = [(leader, seen(Some(50_000), 0)), (me, seen(None, 50_001))].into_iter().collect();
        let board = Board { by: Some(leader), members, ..Board::default() };
        assert_eq!(lag(&board, me, Some(49_990)), Some(10));
        assert_eq!(lag(&board, me, Some(50_020)), Some(0), "the view is a second old");
        assert_eq!(lag(&board, me, None), Some(50_001), "it has just joined, and has nothing");
        assert_eq!(lag(&board, me, Some(100)), Some(49_900), "it slept for an hour");
        assert_eq!(lag(&board, leader, Some(50_000)), None, "who leads is not behind");
        assert_eq!(lag(&Board { age: FRESH * 2, ..board }, me, Some(100)), None, "that was long ago");
        assert_eq!(lag(&Board::default(), me, Some(100)), None);
    }

    #[test]
    fn the_door_is_closed_only_where_others_serve() {
        let well = Look { others_serve: true, lag: Some(3), ..Look::default() };
        assert_eq!(decide(None, well), None);
        assert_eq!(decide(None, Look { draining: true, ..well }), Some("drained"));
        assert_eq!(decide(None, Look { draining: true, others_serve: false, ..well }), None, "nobody else is there");
        assert_eq!(decide(None, Look { lag: Some(10_001), ..well }), Some("far behind the leader"));
        assert_eq!(decide(None, Look { lag: Some(10_000), ..well }), None);
        assert!(decide(Some("far behind the leader"), Look { lag: Some(1_001), ..well }).is_some());
        assert_eq!(decide(Some("far behind the leader"), Look { lag: Some(1_000), ..well }), None);
        assert_eq!(decide(None, Look { lag: None, others_serve: false, ..well }), None, "no leader is no reason");
        assert!(decide(None, Look { engine_stopped: true, ..Look::default() }).is_some());
        assert!(decide(None, Look { key_differs: true, ..Look::default() }).is_some());
    }
}
