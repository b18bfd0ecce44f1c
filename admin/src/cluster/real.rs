//! The real cluster behind the handlers: `raft::Cluster` in their words.

use std::{sync::Arc, time::Duration};

use futures::future::BoxFuture;
use raft::{Cluster, ProposeError, ReadError};
use state_machine::{Answer, Command, JoinRole, MemberId, State};

use super::view::{Contact, Standing};
use crate::backend::{Backend, Failure};

impl From<ProposeError> for Failure {
    fn from(error: ProposeError) -> Failure {
        match error {
            ProposeError::Deadline(why) => Failure::Unknown(why),
            ProposeError::Stopped => Failure::Stopped("it is shutting down".into()),
            ProposeError::TooLarge(..)
            | ProposeError::Malformed(_)
            | ProposeError::Impossible(_)
            | ProposeError::NoSuccessor(_) => Failure::Unfit(error.to_string()),
        }
    }
}

impl From<ReadError> for Failure {
    fn from(error: ReadError) -> Failure {
        match error {
            ReadError::Deadline(why) => Failure::NoQuorum(why),
            ReadError::Stopped => Failure::Stopped("it is shutting down".into()),
        }
    }
}

impl Backend for Cluster {
    fn latest(&self) -> Arc<State> {
        Cluster::latest(self)
    }

    fn confirm(&self) -> BoxFuture<'_, Result<Arc<State>, Failure>> {
        Box::pin(async { Ok(Cluster::confirm(self).await?) })
    }

    fn propose<'a>(&'a self, by: &'a str, command: Command) -> BoxFuture<'a, Result<Answer, Failure>> {
        Box::pin(async move { Ok(Cluster::propose(self, by, command).await?.answer) })
    }

    fn standing(&self) -> Standing {
        let status = self.status();
        let contact =
            |progress: &raft::Progress| Contact { lag: Some(progress.lag), silent_for: progress.last_contact };
        Standing {
            me: status.me,
            leader: status.leader,
            term: status.term,
            voters: status.voters.iter().copied().collect(),
            learners: status.learners.iter().copied().collect(),
            last_log: status.last_log.unwrap_or_default(),
            committed: status.committed.unwrap_or_default(),
            applied: status.applied.unwrap_or_default(),
            contacts: status.members.iter().map(|(id, progress)| (*id, contact(progress))).collect(),
        }
    }

    fn create_join_token<'a>(
        &'a self,
        ttl: Duration,
        name: &'a str,
        role: JoinRole,
        by: &'a str,
    ) -> BoxFuture<'a, Result<String, Failure>> {
        Box::pin(async move { Ok(Cluster::create_join_token(self, ttl, name, role, by).await?) })
    }

    fn transfer_leader(&self, to: Option<MemberId>) -> BoxFuture<'_, Result<(), Failure>> {
        Box::pin(async move { Ok(Cluster::transfer_leader(self, to).await?) })
    }

    fn remove_member(&self, id: MemberId) -> BoxFuture<'_, Result<(), Failure>> {
        Box::pin(async move { Ok(Cluster::remove_member(self, id).await?) })
    }
}
