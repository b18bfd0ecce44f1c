//! The methods members call on each other.

use std::{pin::Pin, sync::Arc};

use bytes::BytesMut;
use futures::{Stream, StreamExt, stream};
use state_machine::{MemberId, MemberState};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

use super::{
    Caller, SNAPSHOT_BYTES_MAX,
    proto::{Frame, peers_server::Peers},
};
use crate::{
    cluster::Core,
    encode::{Ballot, Call, DecodeError, SnapshotHead, Wire, decode, encode},
    forward, join,
    status::Arriving,
    types::{AppendRequest, Snapshot, TransferRequest, VoteRequest},
};

/// Answers other members.
#[derive(Clone)]
pub struct Service(pub Arc<Core>);

type Frames = Pin<Box<dyn Stream<Item = Result<Frame, Status>> + Send>>;

fn frame(data: impl Into<bytes::Bytes>) -> Frame {
    Frame { kind: 0, data: data.into() }
}

fn malformed(error: DecodeError) -> Status {
    Status::invalid_argument(error.to_string())
}

fn unavailable(error: impl ToString) -> Status {
    Status::unavailable(error.to_string())
}

/// Streams end with it.
fn leaving<T>(request: &Request<T>) -> CancellationToken {
    request.extensions().get::<Caller>().map(|caller| caller.leaving.clone()).unwrap_or_default()
}

impl Service {
    /// The member that calls; fenced ones and strangers are refused.
    fn member<T>(&self, request: &Request<T>) -> Result<MemberId, Status> {
        let caller = request.extensions().get::<Caller>().ok_or_else(|| Status::internal("no caller"))?;
        let member = caller.member.ok_or_else(|| Status::unauthenticated("a member's certificate is needed"))?;
        let state = self.0.latest.borrow();
        if state.member(member).is_some_and(|known| known.state == MemberState::Removed) {
            return Err(Status::permission_denied("this member was removed from the cluster"));
        }
        self.0.boards.note_call();
        Ok(member)
    }
}

#[tonic::async_trait]
impl Peers for Service {
    type AppendStream = Frames;
    type ProposeStream = Frames;

    async fn append(&self, request: Request<Streaming<Frame>>) -> Result<Response<Frames>, Status> {
        let from = self.member(&request)?;
        let (core, leaving) = (self.0.clone(), leaving(&request));
        let ends = (request.into_inner(), core, leaving);
        let requests = stream::unfold(ends, move |(mut frames, core, leaving)| async move {
            let frame = leaving.run_until_cancelled(frames.message()).await?.ok()??;
            core.boards.note_call();
            match AppendRequest::from_wire(&frame.data) {
                // The leader finds the stream ended and tries again, until there is room.
                Ok(request) if !request.entries.is_empty() && core.room().exhausted => {
                    tracing::debug!(member = %from, "the disk is full: entries are not taken");
                    None
                }
                Ok(request) => Some((request, (frames, core, leaving))),
                Err(error) => {
                    tracing::warn!(member = %from, %error, "an append request cannot be read");
                    None
                }
            }
        });
        let results = self.0.raft.stream_append(requests);
        Ok(Response::new(Box::pin(results.map(|result| match result {
            Ok(result) => Ok(frame(result.to_wire())),
            Err(fatal) => Err(unavailable(fatal)),
        }))))
    }

    async fn call(&self, request: Request<Frame>) -> Result<Response<Frame>, Status> {
        let from = self.member(&request)?;
        let Frame { kind, data } = request.into_inner();
        let raft = &self.0.raft;
        let call = Call::from_wire(kind).ok_or_else(|| Status::unimplemented(format!("call {kind}")))?;
        let answer = match call {
            Call::Vote => {
                world::failpoint!("peers.vote.before", |error| Err(unavailable(error)));
                let request = VoteRequest::from_wire(&data).map_err(malformed)?;
                let answer = raft.vote(request).await.map_err(unavailable)?;
                world::failpoint!("peers.vote.after", |error| Err(unavailable(error)));
                answer.to_wire()
            }
            Call::PreVote => {
                let request = VoteRequest::from_wire(&data).map_err(malformed)?;
                raft.pre_vote(request).await.map_err(unavailable)?.to_wire()
            }
            Call::Append => {
                let request = AppendRequest::from_wire(&data).map_err(malformed)?;
                if !request.entries.is_empty() && self.0.room().exhausted {
                    return Err(Status::resource_exhausted("the disk of this member is full"));
                }
                raft.append_entries(request).await.map_err(unavailable)?.to_wire()
            }
            Call::Transfer => {
                world::failpoint!("peers.transfer.before", |error| Err(unavailable(error)));
                let request = TransferRequest::from_wire(&data).map_err(malformed)?;
                raft.handle_transfer_leader(request).await.map_err(unavailable)?.to_wire()
            }
            Call::HandOver => {
                let to: Option<u64> = decode(&data).map_err(malformed)?;
                encode(&self.0.hand_over_here(to.map(MemberId)).await)
            }
            Call::ReadIndex => encode(&self.0.read_index_here().await),
            Call::Report => encode(&self.0.hear(from, decode(&data).map_err(malformed)?)),
            Call::Remember => encode(&self.0.remember(from)),
            Call::Renew => encode(&self.0.renew_here().await),
            Call::TakeSealingKey => {
                let successor = decode(&data).map_err(malformed)?;
                encode(&self.0.take_successor(successor).await)
            }
        };
        Ok(Response::new(frame(answer)))
    }

    async fn snapshot(&self, request: Request<Streaming<Frame>>) -> Result<Response<Frame>, Status> {
        self.member(&request)?;
        let mut frames = request.into_inner();
        let head = frames.message().await?.ok_or_else(|| Status::invalid_argument("a snapshot without a head"))?;
        let head: SnapshotHead = decode(&head.data).map_err(malformed)?;
        let vote = head.vote.ok_or_else(|| Status::invalid_argument("a snapshot without a vote"))?;
        let total = head.bytes;
        let meta = head.meta().map_err(malformed)?;
        let mut data = BytesMut::new();
        while let Some(piece) = frames.message().await? {
            if data.len() + piece.data.len() > SNAPSHOT_BYTES_MAX {
                return Err(Status::resource_exhausted("the snapshot is too large"));
            }
            data.extend_from_slice(&piece.data);
            self.0.boards.note_call();
            if let Some(arrival) = &self.0.arrival {
                arrival.send_replace(Some(Arriving { received: data.len() as u64, total }));
            }
        }
        world::failpoint!("peers.snapshot.received", |error| Err(unavailable(error)));
        let snapshot = Snapshot { meta, snapshot: data.freeze() };
        let response = self.0.raft.install_full_snapshot(vote.into(), snapshot).await.map_err(unavailable)?;
        Ok(Response::new(frame(encode(&Ballot::from(response.vote)))))
    }

    async fn propose(&self, request: Request<Streaming<Frame>>) -> Result<Response<Frames>, Status> {
        let from = self.member(&request)?;
        let leaving = leaving(&request);
        Ok(Response::new(Box::pin(forward::take(self.0.clone(), from, request.into_inner(), leaving))))
    }

    async fn join(&self, request: Request<Frame>) -> Result<Response<Frame>, Status> {
        let caller = request.extensions().get::<Caller>().cloned().ok_or_else(|| Status::internal("no caller"))?;
        let answer = join::serve(&self.0, &caller, &request.into_inner().data).await;
        Ok(Response::new(frame(encode(&answer))))
    }
}
