//! openraft's network: append, vote, snapshot, hand-over.
//!
//! Each peer gets three connections: a big batch or a snapshot must not delay a heartbeat. Every failure is reported
//! as "unreachable", which makes openraft back off; its other kind of error is retried at once.

use std::{future::Future, time::Duration};

use bytes::Bytes;
use futures::{Stream, StreamExt, stream};
use openraft::{
    AnyError, OptionalSend, RaftNetworkFactory, RaftNetworkV2,
    base::{BoxFuture, BoxStream},
    errors::{RPCError, ReplicationClosed, StreamingError, Unreachable},
    network::RPCOption,
    raft::SnapshotResponse,
};
use state_machine::{MemberId, mutants};
use tokio::{
    sync::mpsc,
    time::{Instant, timeout},
};
use tonic::{Status, Streaming, transport::Channel};

use super::{
    Dialer, SNAPSHOT_PIECE_BYTES,
    proto::{Frame, peers_client::PeersClient},
};
use crate::{
    encode::{Ballot, Call, SnapshotHead, Wire, decode, encode},
    types::{
        AppendRequest, AppendResponse, AppendResult, Seat, Snapshot, SnapshotData, TransferRequest, TransferResponse,
        Types, Vote, VoteRequest, VoteResponse,
    },
};

/// Makes connections for openraft.
pub struct Network(pub Dialer);

impl Network {
    fn connection(&self, to: u64, seat: &Seat) -> Connection {
        self.0.book.hear(MemberId(to), &seat.address);
        let patience = Duration::from_millis(self.0.timing.election_min_ms);
        Connection { client: self.0.channel(MemberId(to)), patience }
    }
}

impl RaftNetworkFactory<Types> for Network {
    type Network = Connection;

    async fn new_client(&mut self, to: u64, seat: &Seat) -> Connection {
        self.connection(to, seat)
    }

    async fn new_heartbeat_client(&mut self, to: u64, seat: &Seat) -> Connection {
        self.connection(to, seat)
    }

    async fn new_snapshot_client(&mut self, to: u64, seat: &Seat) -> Connection {
        self.connection(to, seat)
    }
}

/// One connection to one member.
pub struct Connection {
    client: PeersClient<Channel>,
    /// So long the oldest unanswered append may take, whatever openraft grants it: that is three quarters of a heartbeat,
    /// less than a round trip that the profile is meant for, and a stream that is given up is opened again and gets
    /// nothing done meanwhile. Who hears nothing for so long asks for votes.
    patience: Duration,
}

fn unreachable(error: impl ToString) -> RPCError<Types> {
    RPCError::Unreachable(Unreachable::new(&AnyError::error(error.to_string())))
}

fn append_frame(request: &AppendRequest) -> Frame {
    Frame { kind: Call::Append as u32, data: request.to_wire().into() }
}

impl Connection {
    async fn call<Q: Wire, A: Wire>(
        &mut self,
        call: Call,
        request: &Q,
        within: Duration,
    ) -> Result<A, RPCError<Types>> {
        let frame = Frame { kind: call as u32, data: request.to_wire().into() };
        let answer = timeout(within, self.client.call(frame)).await.map_err(|_| unreachable("no answer in time"))?;
        let frame = answer.map_err(|status| unreachable(status.message()))?.into_inner();
        A::from_wire(&frame.data).map_err(unreachable)
    }
}

impl Connection {
    /// Of the mutant `sub-quorum-commit`: who does not answer is taken for having it all.
    fn append_and_hope<'s, S>(
        &'s mut self,
        input: S,
        within: Duration,
    ) -> BoxStream<'s, Result<AppendResult, RPCError<Types>>>
    where
        S: Stream<Item = AppendRequest> + OptionalSend + Unpin + 'static,
    {
        let results = stream::unfold((self, input), move |(connection, mut input)| async move {
            let request = input.next().await?;
            let last = request.entries.last().map(|entry| entry.log_id).or(request.prev_log_id);
            let result = match connection.call::<_, AppendResponse>(Call::Append, &request, within).await {
                Ok(answer) => answer.into_stream_result(request.prev_log_id, last),
                Err(_) => Ok(last),
            };
            Some((Ok(result), (connection, input)))
        });
        Box::pin(results)
    }
}

impl RaftNetworkV2<Types> for Connection {
    type SnapshotData = SnapshotData;

    async fn append_entries(
        &mut self,
        request: AppendRequest,
        option: RPCOption,
    ) -> Result<AppendResponse, RPCError<Types>> {
        self.call(Call::Append, &request, option.hard_ttl().max(self.patience)).await
    }

    async fn vote(&mut self, request: VoteRequest, option: RPCOption) -> Result<VoteResponse, RPCError<Types>> {
        self.call(Call::Vote, &request, option.soft_ttl()).await
    }

    async fn pre_vote(&mut self, request: VoteRequest, option: RPCOption) -> Result<VoteResponse, RPCError<Types>> {
        self.call(Call::PreVote, &request, option.soft_ttl()).await
    }

    async fn transfer_leader(
        &mut self,
        request: TransferRequest,
        option: RPCOption,
    ) -> Result<TransferResponse, RPCError<Types>> {
        self.call(Call::Transfer, &request, option.soft_ttl()).await
    }

    /// Pipelined replication. Three rules that openraft expects and does not state:
    ///
    /// 1. The first request is taken before anything is dialled. openraft's back-off sleeps inside `input`, before its
    ///    first item; a transport that dials first and fails fast never comes to it, and both spin.
    /// 2. `input` belongs to the returned stream. All sessions to one member share one state behind it, and hyper
    ///    polls a request body until the HTTP/2 stream is gone: given `input` itself, it would steal requests from the
    ///    next session. So requests are pulled while answers are awaited, and handed over by a bounded channel.
    /// 3. The oldest unanswered request has a deadline, not the stream; an end with requests unanswered is an error.
    fn stream_append<'s, S>(
        &'s mut self,
        input: S,
        option: RPCOption,
    ) -> BoxFuture<'s, Result<BoxStream<'s, Result<AppendResult, RPCError<Types>>>, RPCError<Types>>>
    where
        S: Stream<Item = AppendRequest> + OptionalSend + Unpin + 'static,
    {
        Box::pin(async move {
            let within = option.hard_ttl().max(self.patience);
            let mut input = input;
            if mutants::is("sub-quorum-commit") {
                return Ok(self.append_and_hope(input, within));
            }
            let Some(first) = input.next().await else {
                return Ok(Box::pin(stream::empty()) as BoxStream<'s, _>);
            };
            let (requests, body) = mpsc::channel::<Frame>(PIPELINE);
            requests.try_send(append_frame(&first)).expect("the channel was made a line ago");
            let open = self.client.append(tokio_stream::wrappers::ReceiverStream::new(body));
            let opened = timeout(within, open).await.map_err(|_| unreachable("no answer in time"))?;
            let answers = opened.map_err(|status| unreachable(status.message()))?.into_inner();
            let session =
                Session { input, requests: Some(requests), answers, unanswered: 1, since: Instant::now(), within };
            let results = stream::unfold(Some(session), |session| async move { session?.next().await });
            Ok(Box::pin(results) as BoxStream<'s, _>)
        })
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        option: RPCOption,
    ) -> Result<SnapshotResponse<Types>, StreamingError<Types>> {
        let failed = |why: &str| StreamingError::Unreachable(Unreachable::new(&AnyError::error(why)));
        let data = snapshot.snapshot;
        let size = data.len();
        let head = SnapshotHead { bytes: Some(size as u64), ..SnapshotHead::new(&snapshot.meta, Some(vote)) };
        let head = Frame { kind: 0, data: encode(&head).into() };
        let pieces = (0..size).step_by(SNAPSHOT_PIECE_BYTES).map(move |start| Frame {
            kind: 1,
            data: Bytes::slice(&data, start..(start + SNAPSHOT_PIECE_BYTES).min(size)),
        });
        // A slow link carries a megabyte in a second.
        let within = option.soft_ttl().max(Duration::from_secs(10)) + Duration::from_secs((size >> 20) as u64);
        let call = timeout(within, self.client.snapshot(stream::iter(std::iter::once(head).chain(pieces))));
        let answer = tokio::select! { biased;
            closed = cancel => return Err(StreamingError::Closed(closed)),
            answer = call => answer,
        };
        let answer = answer.map_err(|_| failed("snapshot: no answer in time"))?;
        let frame = answer.map_err(|status| failed(status.message()))?.into_inner();
        let ballot: Ballot = decode(&frame.data).map_err(|error| failed(&error.to_string()))?;
        Ok(SnapshotResponse::new(ballot.into()))
    }
}

/// Requests on their way at once.
const PIPELINE: usize = 16;

struct Session<S> {
    input: S,
    /// None: half closed, answers may still come.
    requests: Option<mpsc::Sender<Frame>>,
    answers: Streaming<Frame>,
    unanswered: usize,
    /// When the oldest unanswered request became the oldest.
    since: Instant,
    within: Duration,
}

enum Event {
    Answer(Result<Option<Frame>, Status>),
    /// A request was handed over, or there are no more.
    Request(bool),
    Late,
}

impl<S: Stream<Item = AppendRequest> + Unpin> Session<S> {
    async fn event(&mut self) -> Event {
        let (busy, late) = (self.unanswered > 0, self.since + self.within);
        let Session { input, requests, answers, .. } = self;
        tokio::select! { biased;
            answer = answers.message() => Event::Answer(answer),
            more = pass_on(input, requests.as_ref()), if requests.is_some() => Event::Request(more),
            () = tokio::time::sleep_until(late), if busy => Event::Late,
        }
    }

    /// The next result, and the session unless it is over.
    async fn next(mut self) -> Option<(Result<AppendResult, RPCError<Types>>, Option<Session<S>>)> {
        loop {
            match self.event().await {
                Event::Request(true) => {
                    if self.unanswered == 0 {
                        self.since = Instant::now();
                    }
                    self.unanswered += 1;
                }
                Event::Request(false) => self.requests = None,
                Event::Late => return Some((Err(unreachable("append: no answer in time")), None)),
                Event::Answer(Ok(Some(frame))) => {
                    self.unanswered = self.unanswered.saturating_sub(1);
                    self.since = Instant::now();
                    return match AppendResult::from_wire(&frame.data) {
                        Ok(result) => Some((Ok(result), Some(self))),
                        Err(error) => Some((Err(unreachable(error)), None)),
                    };
                }
                Event::Answer(Ok(None)) if self.unanswered == 0 => return None,
                Event::Answer(Ok(None)) => return Some((Err(unreachable("append: closed early")), None)),
                Event::Answer(Err(status)) => return Some((Err(unreachable(status.message())), None)),
            }
        }
    }
}

/// Moves one request, once there is room for it. False when there are no more, or nobody takes them.
async fn pass_on<S: Stream<Item = AppendRequest> + Unpin>(
    input: &mut S,
    requests: Option<&mpsc::Sender<Frame>>,
) -> bool {
    let Some(requests) = requests else { return false };
    // Room first: a request that was taken from `input` must not be lost when another branch of the select wins.
    let Ok(room) = requests.reserve().await else { return false };
    match input.next().await {
        Some(request) => {
            room.send(append_frame(&request));
            true
        }
        None => false,
    }
}
