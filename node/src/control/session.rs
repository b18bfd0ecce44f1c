//! One long poll, one loop.
//!
//! A session remembers one pointer, the atlas it last drew from, and compares it with the newest whenever the client can
//! take a frame: a slow client gets one delta for the whole gap.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use netmap::{Atlas, Delta};
use state_machine::{NodeId, SessionId, mutants};
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use super::{Control, wire::Coding};

/// Between two deltas. The first after a quiet time leaves at once.
const GAP: Duration = Duration::from_millis(100);
/// Keep-alives are spread, so that a herd that came together does not stay together.
const KEEP_ALIVE_SPREAD_SECS: u64 = 10;

/// One stream of one node.
pub struct Session {
    pub control: Arc<Control>,
    pub node: NodeId,
    pub id: SessionId,
    pub coding: Coding,
    pub frames: mpsc::Sender<Bytes>,
    /// Cancelled when the connection or the member leaves, and when the session has ended.
    pub leaving: CancellationToken,
}

/// Why a session ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ended {
    /// The client closed the stream or its connection.
    HungUp,
    /// This member leaves.
    Drained,
    /// The same node opened a newer stream, here or at another member.
    Superseded,
    /// The node was deleted, or another machine has its place.
    Gone,
    /// The client did not read for too long.
    Stalled,
    /// The member stopped.
    Stopped,
    /// A frame could not be made.
    Broken,
}

impl Ended {
    fn label(self) -> &'static str {
        match self {
            Ended::HungUp => "hung_up",
            Ended::Drained => "drained",
            Ended::Superseded => "superseded",
            Ended::Gone => "gone",
            Ended::Stalled => "stalled",
            Ended::Stopped => "stopped",
            Ended::Broken => "broken",
        }
    }
}

/// What the cluster knows of this stream.
enum Standing {
    /// It was told, and has not answered yet.
    Telling(oneshot::Receiver<()>),
    /// It knows.
    Known,
}

impl Session {
    /// Runs until the client hangs up, the member leaves or the node is somebody else's business.
    pub async fn run(self) {
        let control = self.control.clone();
        control.metrics.sessions.inc();
        let _over = self.leaving.clone().drop_guard();
        let ended = self.serve().await;
        control.metrics.sessions.dec();
        control.metrics.sessions_ended.with_label_values(&[ended.label()]).inc();
        tracing::debug!(node = %self.node, reason = ended.label(), "map stream ended");
    }

    async fn serve(&self) -> Ended {
        let mut atlas = self.control.atlas.clone();
        // The request was answered from a state; the first map must not be older.
        let revision = self.control.cluster.latest().revision();
        let mut known = match self.first_map(&mut atlas, revision).await {
            Ok(first) => first,
            Err(ended) => return ended,
        };
        let _open = Open { control: self.control.clone(), node: self.node, id: self.id };
        let mut standing = Standing::Telling(self.control.presence.opened(self.node, self.id));
        let mut keep_alive_at = self.next_keep_alive();
        let mut quiet_until = Instant::now() + GAP;
        loop {
            // What woke us.
            let wake = tokio::select! { biased;
                () = self.leaving.cancelled() => return Ended::Drained,
                () = self.frames.closed() => return Ended::HungUp,
                () = told(&mut standing) => Wake::Standing,
                moved = next_atlas(&mut atlas, quiet_until) => match moved {
                    Ok(()) => Wake::Atlas,
                    Err(_) => return Ended::Stopped,
                },
                () = tokio::time::sleep_until(keep_alive_at) => Wake::KeepAlive,
            };
            if let Some(ended) = self.judge_standing(&mut standing, wake) {
                return ended;
            }
            let sent = match wake {
                Wake::Standing => Ok(false),
                Wake::KeepAlive => self.keep_alive().await,
                Wake::Atlas => self.next_delta(&mut atlas, &mut known).await,
            };
            match sent {
                Ok(true) => keep_alive_at = self.next_keep_alive(),
                Ok(false) => {}
                Err(ended) => return ended,
            }
            if wake == Wake::Atlas {
                quiet_until = Instant::now() + GAP;
            }
        }
    }

    async fn first_map(
        &self,
        atlas: &mut watch::Receiver<Atlas>,
        revision: state_machine::Revision,
    ) -> Result<Atlas, Ended> {
        let permit = self.permit().await?;
        let latest = tokio::select! { biased;
            () = self.leaving.cancelled() => return Err(Ended::Drained),
            latest = crate::atlas::reached(atlas, revision) => latest.ok_or(Ended::Stopped)?,
        };
        atlas.mark_unchanged();
        let map = {
            let _turn = self.control.full_maps.acquire().await.map_err(|_| Ended::Stopped)?;
            let started = Instant::now();
            let map = netmap::full(&latest, self.node, &self.control.moment()).ok_or(Ended::Gone)?;
            self.control.metrics.full_map_seconds.observe(started.elapsed().as_secs_f64());
            map
        };
        self.send(permit, &map, "full")?;
        Ok(latest)
    }

    /// Waits until the client can take a frame, then compares with whatever is newest by then.
    async fn next_delta(&self, atlas: &mut watch::Receiver<Atlas>, known: &mut Atlas) -> Result<bool, Ended> {
        let permit = self.permit().await?;
        let latest = atlas.borrow_and_update().clone();
        if mutants::is("delta-dropped") && latest.revision().0 > known.revision().0 + 40 {
            *known = latest;
            return Ok(false);
        }
        let sent = match netmap::delta(known, &latest, self.node, &self.control.moment()) {
            Delta::Nothing => false,
            Delta::Gone => return Err(Ended::Gone),
            Delta::Frame(json) => {
                self.send(permit, &json, "delta")?;
                true
            }
        };
        *known = latest;
        Ok(sent)
    }

    async fn keep_alive(&self) -> Result<bool, Ended> {
        let permit = self.permit().await?;
        let frame = self.coding.keep_alive();
        self.count("keep_alive", frame.len());
        permit.send(frame);
        Ok(true)
    }

    /// Room for one frame.
    async fn permit(&self) -> Result<mpsc::Permit<'_, Bytes>, Ended> {
        tokio::select! { biased;
            () = self.leaving.cancelled() => Err(Ended::Drained),
            room = tokio::time::timeout(self.control.limits.stalled_client, self.frames.reserve()) => match room {
                Ok(Ok(permit)) => Ok(permit),
                Ok(Err(_)) => Err(Ended::HungUp),
                Err(_) => Err(Ended::Stalled),
            },
        }
    }

    fn send(&self, permit: mpsc::Permit<'_, Bytes>, json: &[u8], kind: &str) -> Result<(), Ended> {
        let frame = match self.coding.frame(json) {
            Ok(frame) => frame,
            Err(error) => {
                tracing::error!(node = %self.node, %error, "a map frame could not be written");
                return Err(Ended::Broken);
            }
        };
        self.count(kind, frame.len());
        permit.send(frame);
        Ok(())
    }

    fn count(&self, kind: &str, bytes: usize) {
        self.control.metrics.frames.with_label_values(&["success", kind]).inc();
        self.control.metrics.frame_bytes.with_label_values(&[kind]).inc_by(bytes as u64);
    }

    fn next_keep_alive(&self) -> Instant {
        let spread = Duration::from_secs(self.control.entropy.below(KEEP_ALIVE_SPREAD_SECS));
        Instant::now() + self.control.limits.keep_alive + spread
    }

    /// Ends the session when a newer stream of the node is known, and tells the cluster again when it forgot ours: it
    /// does so when this member was silent for long.
    fn judge_standing(&self, standing: &mut Standing, wake: Wake) -> Option<Ended> {
        if matches!(standing, Standing::Telling(_)) {
            return None;
        }
        let state = self.control.cluster.latest();
        match state.presence(self.node).and_then(|presence| presence.session) {
            Some(session) if session.id == self.id => None,
            Some(_) => Some(Ended::Superseded),
            None if state.node(self.node).is_none() => None,
            // Just told, and yet not known: the cluster would not take it. Ask again when something has moved.
            None if wake == Wake::Standing => None,
            None => {
                *standing = Standing::Telling(self.control.presence.opened(self.node, self.id));
                None
            }
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Wake {
    Standing,
    Atlas,
    KeepAlive,
}

/// Waits for the cluster to know of the stream; for ever once it does.
async fn told(standing: &mut Standing) {
    match standing {
        Standing::Telling(answer) => {
            // An error means that the teller is gone, and with it the member.
            let _ = answer.await;
            *standing = Standing::Known;
        }
        Standing::Known => std::future::pending().await,
    }
}

/// Waits for a newer atlas, but not before `quiet_until`.
async fn next_atlas(atlas: &mut watch::Receiver<Atlas>, quiet_until: Instant) -> Result<(), watch::error::RecvError> {
    atlas.changed().await?;
    if Instant::now() < quiet_until {
        // `changed` has marked the atlas as seen; should this wait be cancelled, it must be found again.
        atlas.mark_changed();
        tokio::time::sleep_until(quiet_until).await;
    }
    Ok(())
}

/// Tells the cluster that the stream is over, however it ends.
struct Open {
    control: Arc<Control>,
    node: NodeId,
    id: SessionId,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.control.presence.closed(self.node, self.id);
    }
}
