//! Reading what is certainly current: the leader names a log index after it has heard from a quorum (ReadIndex, Raft
//! thesis section 6.4), and whoever reads waits until it has applied that index. No clocks are trusted.

use std::{sync::Arc, time::Duration};

use openraft::{
    ReadPolicy,
    errors::{LinearizableReadError, RaftError},
};
use state_machine::{MemberId, Revision, State, mutants};
use tokio::time::{Instant, timeout, timeout_at};

use crate::{
    cluster::Core,
    encode::{Call, Declined, decode},
    error::ReadError,
    forward::forward_declined,
    peers::proto::Frame,
    publish::Missed,
};

const PAUSE: Duration = Duration::from_millis(20);

impl Core {
    /// The log index everything committed before now lies at or below; only the leader knows.
    pub async fn read_index_here(&self) -> Result<u64, Declined> {
        if mutants::is("read-without-quorum") {
            return Ok(self.latest.borrow().revision().0);
        }
        match self.raft.get_read_linearizer(ReadPolicy::ReadIndex).await {
            Ok(linearizer) => Ok(linearizer.read_log_id().index()),
            Err(RaftError::APIError(LinearizableReadError::ForwardToLeader(forward))) => Err(forward_declined(forward)),
            Err(RaftError::APIError(LinearizableReadError::QuorumNotEnough(_))) => Err(Declined::NotYet),
            Err(RaftError::Fatal(fatal)) => Err(Declined::Unknown(fatal.to_string())),
        }
    }

    async fn read_index_of(&self, leader: MemberId) -> Result<u64, Declined> {
        let mut client = self.dialer_client(leader);
        let frame = Frame { kind: Call::ReadIndex as u32, data: Default::default() };
        let within = self.dialer.silence() * 2;
        let failed = |why: &str| Declined::Unknown(format!("leader {leader}: {why}"));
        let answer = timeout(within, client.call(frame)).await.map_err(|_| failed("no answer in time"))?;
        let answer = answer.map_err(|status| failed(status.message()))?.into_inner();
        decode::<Result<u64, Declined>>(&answer.data).map_err(|error| failed(&error.to_string()))?
    }

    /// A State at least as new as every write that was answered before this call.
    pub async fn confirm(&self, within: Duration) -> Result<Arc<State>, ReadError> {
        let deadline = Instant::now() + within;
        let mut leadership = self.leadership.clone();
        let mut why = "no leader is known".to_string();
        while Instant::now() < deadline {
            if self.tasks.is_stopped() {
                return Err(ReadError::Stopped);
            }
            let now = *leadership.borrow_and_update();
            if now.alone {
                return Err(ReadError::Deadline("this member leads, and no majority answers it".into()));
            }
            let leader = now.leader;
            if let Some(leader) = leader {
                let attempt = async {
                    if leader == self.me { self.read_index_here().await } else { self.read_index_of(leader).await }
                };
                let answer = tokio::select! { biased;
                    answer = timeout_at(deadline, attempt) => answer,
                    _ = leadership.wait_for(|now| now.alone) => continue,
                };
                match answer {
                    Ok(Ok(index)) => return self.at_least(Revision(index), deadline).await,
                    Ok(Err(declined)) => why = format!("{declined:?}"),
                    Err(_) => break,
                }
            }
            let _ = timeout(PAUSE, leadership.changed()).await;
        }
        Err(ReadError::Deadline(why))
    }

    async fn at_least(&self, revision: Revision, deadline: Instant) -> Result<Arc<State>, ReadError> {
        self.published.at_least(revision, deadline).await.map_err(|missed| match missed {
            Missed::Stopped => ReadError::Stopped,
            Missed::Deadline => ReadError::Deadline(format!("this member has not come to {revision}")),
        })
    }
}
