//! A command's way into the log: straight, when this member leads; else over one stream to the leader, which stamps
//! the time.
//!
//! All attempts of one wish share one request id, so the state machine applies it once however often it arrives. An
//! attempt ends early when the leadership changes: waiting for a leader that was replaced is waiting for nothing. A
//! leader that no majority answers takes nothing new ([`ProposeError::NoQuorum`]); what it has written already may yet be
//! taken over by others, so whoever waits for that hears that nobody knows ([`ProposeError::Deadline`]).

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use futures::{FutureExt, Stream, StreamExt, stream::FuturesUnordered};
use openraft::errors::{ClientWriteError, ForwardReason, ForwardToLeader, RaftError};
use state_machine::{Answer, Command, Entry, MemberId, MemberState, RequestId, Revision, Timestamp, codec, mutants};
use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, timeout, timeout_at},
};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Status, Streaming};

use crate::{
    cluster::{Applied, Core},
    encode::{self, AnswerBatch, Blob, Declined, ProposeBatch, decode, encode},
    error::ProposeError,
    peers::{COMMAND_BYTES_MAX, proto::Frame},
    publish::Missed,
    types::{Payload, Types},
};

/// All attempts together.
pub const DEADLINE: Duration = Duration::from_secs(10);

/// Commands on their way to one leader, or being written for one member, at once.
const IN_FLIGHT: usize = 1024;
/// Commands and answers that share a frame.
const TOGETHER: usize = 256;
/// A frame is not filled beyond this.
const FRAME_BYTES: usize = 1 << 20;

impl Core {
    /// Gets a command into the log and waits until this member has applied it.
    pub async fn propose(
        self: &Arc<Self>,
        request: RequestId,
        by: &str,
        command: Command,
    ) -> Result<Applied, ProposeError> {
        let deadline = Instant::now() + DEADLINE;
        self.metrics.proposals.inc();
        let result = self.propose_until(request, by, command, deadline).await;
        if result.is_err() {
            self.metrics.proposal_failures.inc();
        }
        result
    }

    async fn propose_until(
        self: &Arc<Self>,
        request: RequestId,
        by: &str,
        command: Command,
        deadline: Instant,
    ) -> Result<Applied, ProposeError> {
        // An older leader would take what it can read of a later command, and leave the rest out.
        if command.feature_level() > 0
            && let Err(refusal) = self.admits(&command).await
        {
            return Ok(Applied { revision: self.latest.borrow().revision(), answer: Err(refusal) });
        }
        let mut entry = Entry { request: Some(request), at: Timestamp(0), by: by.into(), command };
        let mut bytes = Bytes::from(codec::encode_entry(&entry));
        if bytes.len() > COMMAND_BYTES_MAX {
            return Err(ProposeError::TooLarge(bytes.len(), COMMAND_BYTES_MAX));
        }
        let mut leadership = self.leadership.clone();
        let mut hint = None;
        let mut guesses = 0;
        let mut why = "no leader is known".to_string();
        let mut pause = PAUSE_MIN;
        let mut closed_until = None;
        // Whether an attempt may have come into a log.
        let mut sent = false;
        let unanswered = |why: String, sent: bool| match sent {
            true => ProposeError::Deadline(why),
            false => ProposeError::NoQuorum(why),
        };
        while Instant::now() < deadline {
            if self.tasks.is_stopped() {
                return Err(ProposeError::Stopped);
            }
            let seen = *leadership.borrow_and_update();
            if seen.alone {
                return Err(unanswered(ALONE.into(), sent));
            }
            let leader = hint.take().or(seen.leader).or_else(|| self.guess(&mut guesses));
            let declined = match leader {
                None => Declined::NotLeader(None),
                Some(leader) => {
                    if mutants::is("retry-without-request-id") {
                        entry.request = Some(self.new_request());
                        bytes = Bytes::from(codec::encode_entry(&entry));
                    }
                    let attempt = async {
                        if leader == self.me {
                            self.write_here(entry.clone()).await
                        } else {
                            self.forwards.pass(self, leader, bytes.clone()).await
                        }
                    };
                    let outcome = tokio::select! { biased;
                        outcome = timeout_at(deadline, attempt) => outcome,
                        _ = leadership.wait_for(|now| *now != seen && (now.leader != Some(leader) || now.alone)) => {
                            Ok(Err(Declined::Unknown(format!("member {leader} leads no more"))))
                        }
                    };
                    sent |= matches!(outcome, Ok(Err(Declined::Unknown(_))));
                    match outcome {
                        Ok(Ok((revision, answer))) => return self.once_applied(revision, answer, deadline).await,
                        Ok(Err(declined)) => declined,
                        Err(_) => return Err(ProposeError::Deadline(format!("leader {leader} did not answer"))),
                    }
                }
            };
            match declined {
                Declined::Malformed(what) => return Err(ProposeError::Malformed(what)),
                Declined::NotLeader(Some(other)) if leader != Some(MemberId(other)) => {
                    hint = Some(MemberId(other));
                    why = format!("member {other} is said to lead");
                }
                Declined::NotLeader(_) => why = "no leader is known".into(),
                Declined::NotYet => why = "the leader has not heard from a majority yet".into(),
                Declined::Unknown(what) => why = what,
                Declined::Closed(code, why) => {
                    // A leader without room gives its lead away, if there is somebody to take it.
                    let until = *closed_until.get_or_insert(Instant::now() + HAND_OVER_WITHIN);
                    if Instant::now() >= until || self.status().voters.len() <= 1 {
                        return Err(ProposeError::Closed { code, why });
                    }
                }
            }
            let _ = timeout(pause, leadership.changed()).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
        Err(unanswered(why, sent))
    }

    /// Whom to ask when no leader is known: one member after the other; whoever it is knows more, or leads. A member
    /// whose address changed would otherwise wait for a leader that cannot find it. The first round asks nobody: most
    /// of the time the news is on its way.
    fn guess(&self, guesses: &mut usize) -> Option<MemberId> {
        *guesses += 1;
        let state = self.latest.borrow();
        let others: Vec<MemberId> = state
            .members()
            .values()
            .filter(|member| member.state == MemberState::Active && member.id != self.me)
            .map(|member| member.id)
            .collect();
        (*guesses > 1 && !others.is_empty()).then(|| others[*guesses % others.len()])
    }

    async fn once_applied(&self, revision: u64, answer: Answer, until: Instant) -> Result<Applied, ProposeError> {
        let revision = Revision(revision);
        if mutants::is("answer-before-applied") {
            return Ok(Applied { revision, answer });
        }
        match self.published.at_least(revision, until).await {
            Ok(_) => Ok(Applied { revision, answer }),
            Err(Missed::Stopped) => Err(ProposeError::Stopped),
            Err(Missed::Deadline) => {
                Err(ProposeError::Deadline(format!("written, but this member has not come to {revision}")))
            }
        }
    }

    /// Stamps and writes, if this member leads.
    async fn write_here(self: &Arc<Self>, mut entry: Entry) -> Result<(u64, Answer), Declined> {
        if let Err(refusal) = self.admits(&entry.command).await {
            let leader = self.leadership.borrow().leader;
            return match leader == Some(self.me) {
                true => Ok((self.latest.borrow().revision().0, Err(refusal))),
                false => Err(Declined::NotLeader(leader.map(|leader| leader.0))),
            };
        }
        world::failpoint!("propose.write.before", |error: std::io::Error| Err(Declined::Unknown(error.to_string())));
        if self.leadership.borrow().leader == Some(self.me)
            && let Some(closed) = self.closed_to(&entry.by)
        {
            return Err(Declined::Closed(closed.code, closed.why));
        }
        entry.at = self.stamp();
        let payload = Payload(codec::encode_entry(&entry).into());
        let mut leadership = self.leadership.clone();
        let response = tokio::select! { biased;
            response = self.raft.client_write(payload) => response.map_err(declined)?,
            // It is in this log, and in nobody else's as far as this member knows.
            _ = leadership.wait_for(|now| now.alone) => return Err(Declined::Unknown(ALONE.into())),
        };
        let answer = response.data.0.ok_or_else(|| Declined::Unknown("an entry without an answer".into()))?;
        Ok((response.log_id.index, answer))
    }

    /// The leader's clock, never behind what was stamped before.
    pub fn stamp(&self) -> Timestamp {
        Timestamp(self.world.clock.now_ms()).max(self.latest.borrow().now())
    }
}

/// Why a leader that no majority answers refuses.
const ALONE: &str = "this member leads, and no majority answers it; ask another member";
/// How long a leader that takes no changes may need to give its lead away.
const HAND_OVER_WITHIN: Duration = Duration::from_secs(3);
/// Between attempts, unless the leadership changes earlier.
const PAUSE_MIN: Duration = Duration::from_millis(5);
const PAUSE_MAX: Duration = Duration::from_millis(100);

fn declined(error: RaftError<Types, ClientWriteError<Types>>) -> Declined {
    match error {
        RaftError::APIError(ClientWriteError::ForwardToLeader(forward)) => forward_declined(forward),
        RaftError::APIError(other) => Declined::Unknown(other.to_string()),
        RaftError::Fatal(fatal) => Declined::Unknown(fatal.to_string()),
    }
}

/// Why openraft sends us elsewhere.
pub fn forward_declined(forward: ForwardToLeader<Types>) -> Declined {
    match forward.reason {
        ForwardReason::LeaseExpired => Declined::NotYet,
        ForwardReason::NotLeader | ForwardReason::LeadershipTransfer => Declined::NotLeader(forward.leader_id),
    }
}

/// The streams to leaders of now and before.
#[derive(Default)]
pub struct Forwards {
    lanes: Mutex<BTreeMap<MemberId, mpsc::Sender<Parcel>>>,
}

struct Parcel {
    entry: Bytes,
    reply: oneshot::Sender<Result<encode::Applied, Declined>>,
}

impl Forwards {
    async fn pass(&self, core: &Core, to: MemberId, entry: Bytes) -> Result<(u64, Answer), Declined> {
        let (reply, answer) = oneshot::channel();
        let gone = || Declined::Unknown(format!("the connection to leader {to} ended"));
        world::failpoint!("forward.send.before", |error: std::io::Error| Err(Declined::Unknown(error.to_string())));
        let lane = self.lane(core, to);
        lane.send(Parcel { entry, reply }).await.map_err(|_| gone())?;
        let applied = answer.await.map_err(|_| gone())??;
        world::failpoint!("forward.answered", |error: std::io::Error| Err(Declined::Unknown(error.to_string())));
        let answer =
            codec::decode_answer(&applied.answer.0).map_err(|error| Declined::Unknown(format!("answer: {error}")))?;
        Ok((applied.revision, answer))
    }

    fn lane(&self, core: &Core, to: MemberId) -> mpsc::Sender<Parcel> {
        let mut lanes = self.lanes.lock().expect("nobody panics while holding the lanes");
        if let Some(lane) = lanes.get(&to).filter(|lane| !lane.is_closed()) {
            return lane.clone();
        }
        let (lane, parcels) = mpsc::channel(IN_FLIGHT);
        let (dialer, within) = (core.dialer.clone(), core.dialer.silence() * 4);
        core.tasks.spawn(async move {
            if let Err(why) = carry(dialer.channel(to), parcels, within).await {
                tracing::debug!(member = %to, why, "forwarding stopped");
            }
        });
        lanes.insert(to, lane.clone());
        lane
    }
}

/// One stream to one leader, until it breaks; whoever still waits then hears that the stream ended.
async fn carry(
    mut client: crate::peers::Client,
    mut parcels: mpsc::Receiver<Parcel>,
    within: Duration,
) -> Result<(), String> {
    let mut waiting: BTreeMap<u64, oneshot::Sender<Result<encode::Applied, Declined>>> = BTreeMap::new();
    let mut packed: Vec<Parcel> = Vec::new();
    let mut number = 0;
    let (frames, body) = mpsc::channel::<Frame>(8);
    let opened = timeout(within, client.propose(ReceiverStream::new(body))).await;
    let mut answers =
        opened.map_err(|_| "no answer in time")?.map_err(|status| status.message().to_string())?.into_inner();
    loop {
        tokio::select! { biased;
            answer = answers.message() => {
                let frame = answer.map_err(|status| status.message().to_string())?.ok_or("closed")?;
                let batch: AnswerBatch = decode(&frame.data).map_err(|error| error.to_string())?;
                for (number, answer) in batch.answers {
                    if let Some(reply) = waiting.remove(&number) {
                        let _ = reply.send(answer);
                    }
                }
            }
            room = frames.reserve(), if !packed.is_empty() => {
                let room = room.map_err(|_| "closed")?;
                let mut batch = ProposeBatch::default();
                let mut bytes = 0;
                let fits = packed.iter().take_while(|parcel| { bytes += parcel.entry.len(); bytes <= FRAME_BYTES }).count();
                for parcel in packed.drain(..fits.max(1)) {
                    number += 1;
                    batch.commands.push((number, Blob(parcel.entry)));
                    waiting.insert(number, parcel.reply);
                }
                room.send(Frame { kind: 0, data: encode(&batch).into() });
            }
            some = parcels.recv_many(&mut packed, TOGETHER), if packed.is_empty() && waiting.len() < IN_FLIGHT => {
                if some == 0 {
                    return Ok(());
                }
            }
        }
    }
}

/// The leader's side of [`carry`]: writes what comes, answers in batches. Never passes anything on: one hop is enough.
pub fn take(
    core: Arc<Core>,
    from: MemberId,
    mut frames: Streaming<Frame>,
    leaving: CancellationToken,
) -> impl Stream<Item = Result<Frame, Status>> + Send {
    let (sender, receiver) = mpsc::channel(8);
    let tasks = core.tasks.clone();
    tasks.spawn(async move {
        let mut running = FuturesUnordered::new();
        let mut open = true;
        while open || !running.is_empty() {
            tokio::select! { biased;
                Some(done) = running.next(), if !running.is_empty() => {
                    let mut batch = AnswerBatch { answers: vec![done] };
                    while batch.answers.len() < TOGETHER
                        && let Some(Some(done)) = running.next().now_or_never()
                    {
                        batch.answers.push(done);
                    }
                    let frame = Frame { kind: 0, data: encode(&batch).into() };
                    if sender.send(Ok(frame)).await.is_err() {
                        return;
                    }
                }
                // The connection ends; the other side opens another one.
                () = leaving.cancelled(), if open => open = false,
                frame = frames.message(), if open && running.len() < IN_FLIGHT => {
                    let batch = match frame {
                        Ok(Some(frame)) => decode::<ProposeBatch>(&frame.data),
                        _ => { open = false; continue }
                    };
                    match batch {
                        Ok(batch) => {
                            core.metrics.forwarded.inc_by(batch.commands.len() as u64);
                            for (number, command) in batch.commands {
                                let core = core.clone();
                                running.push(async move { (number, write(&core, command.0).await) });
                            }
                        }
                        Err(error) => {
                            tracing::warn!(member = %from, %error, "forwarded commands cannot be read");
                            let _ = sender.send(Err(Status::invalid_argument(error.to_string()))).await;
                            return;
                        }
                    }
                }
            }
        }
    });
    ReceiverStream::new(receiver)
}

async fn write(core: &Arc<Core>, bytes: Bytes) -> Result<encode::Applied, Declined> {
    let entry = codec::decode_entry(&bytes).map_err(|error| Declined::Malformed(error.to_string()))?;
    world::failpoint!("forward.take.before", |error: std::io::Error| Err(Declined::Unknown(error.to_string())));
    let (revision, answer) = core.write_here(entry).await?;
    world::failpoint!("forward.answer.before", |error: std::io::Error| Err(Declined::Unknown(error.to_string())));
    Ok(encode::Applied { revision, answer: Blob(codec::encode_answer(&answer).into()) })
}
