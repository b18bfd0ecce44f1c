//! The real cluster behind the handlers: `raft::Cluster` in their words.

use std::{sync::Arc, time::Duration};

use futures::future::BoxFuture;
use raft::{Cluster, DrillRefused, Drills, Fault, ProposeError, ReadError, TokenWish};
use state_machine::{Answer, Command, MemberId, RISES_BY_ITSELF_TO, SealedSecret, State, Timestamp};

use super::view::{Backup, Contact, Standing};
use crate::backend::{Asked, Backend, Failure};

impl From<ProposeError> for Failure {
    fn from(error: ProposeError) -> Failure {
        match error {
            ProposeError::NoQuorum(why) => Failure::NoQuorum(why),
            ProposeError::Deadline(why) => Failure::Unknown(why),
            ProposeError::Stopped => Failure::Stopped("it is shutting down".into()),
            ProposeError::Closed { code, why } => Failure::Closed(code, why),
            ProposeError::Unready { code, why } => Failure::Unready(code, why),
            ProposeError::Refused(refusal) => Failure::Refused(refusal),
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

    fn watch(&self) -> tokio::sync::watch::Receiver<Arc<State>> {
        Cluster::watch(self)
    }

    fn confirm(&self) -> BoxFuture<'_, Result<Arc<State>, Failure>> {
        Box::pin(async { Ok(Cluster::confirm(self).await?) })
    }

    fn propose<'a>(&'a self, by: &'a str, command: Command) -> BoxFuture<'a, Result<Answer, Failure>> {
        Box::pin(async move { Ok(Cluster::propose(self, by, command).await?.answer) })
    }

    fn seal(&self, name: &str, secret: &[u8]) -> Result<SealedSecret, Failure> {
        Ok(Cluster::seal(self, name, secret))
    }

    fn standing(&self) -> Standing {
        let (status, board) = (self.status(), self.board());
        let agreements = board.agreements(&status.voters);
        let same_state = |id| match agreements.get(&id) {
            Some(raft::Agreement::Same) => Some(true),
            Some(raft::Agreement::Differs | raft::Agreement::NoMajority) => Some(false),
            Some(raft::Agreement::Unknown) | None => None,
        };
        let contact = |id: MemberId, seen: &raft::Seen| Contact {
            same_state: same_state(id),
            lag: Some(seen.lag),
            silent_for: seen.last_contact,
            per_second: seen.per_second,
            clock_ahead_ms: seen.clock_ahead_ms,
            backup: seen.report.as_ref().and_then(|report| report.backup.clone()).map(Backup::from),
            room: seen.report.as_ref().and_then(|report| report.room),
            scrubbed_at: seen.report.as_ref().map(|report| Timestamp(report.scrubbed_ms)).filter(|at| at.0 > 0),
            reaches: seen.report.as_ref().map(|report| report.reaches.iter().copied().map(MemberId).collect()),
            feature_level: seen.report.as_ref().map(|report| report.feature_level.max(RISES_BY_ITSELF_TO)),
            certificate: seen.report.as_ref().and_then(|report| report.certificate.clone()),
            client_certificate: seen.report.as_ref().and_then(|report| report.client_certificate.clone()),
            client_port_closed: seen.report.as_ref().and_then(|report| report.client_port_closed.clone()),
            certificate_ends: seen.report.as_ref().map(|report| Timestamp(report.certificate_ends_ms)),
            append_p99_us: seen.report.as_ref().and_then(|report| report.append_p99_us),
        };
        Standing {
            me: status.me,
            leader: status.leader,
            term: status.term,
            voters: status.voters.iter().copied().collect(),
            learners: status.learners.iter().copied().collect(),
            last_log: status.last_log.unwrap_or_default(),
            committed: status.committed.unwrap_or_default(),
            applied: status.applied.unwrap_or_default(),
            contacts: board.members.iter().map(|(id, seen)| (*id, contact(*id, seen))).collect(),
            halted: self.halted(),
            seen_by: board.by,
            seen_ago: board.age,
            leading_for: board.leading_for,
            able: board.able,
            now: Timestamp(self.now_ms()),
        }
    }

    fn create_join_token<'a>(&'a self, wish: TokenWish, by: &'a str) -> BoxFuture<'a, Result<String, Failure>> {
        Box::pin(async move { Ok(Cluster::create_token(self, wish, by).await?) })
    }

    fn transfer_leader(&self, to: Option<MemberId>) -> BoxFuture<'_, Result<(), Failure>> {
        Box::pin(async move { Ok(Cluster::transfer_leader(self, to).await?) })
    }

    fn full_backup(&self) -> Result<(String, Vec<u8>), Failure> {
        Ok(Cluster::full_backup(self))
    }

    fn create_recovery_key<'a>(&'a self, by: &'a str) -> BoxFuture<'a, Result<String, Failure>> {
        Box::pin(async move { Ok(Cluster::create_recovery_key(self, by).await?.to_string()) })
    }

    fn confirm_recovery_key<'a>(&'a self, text: &'a str, by: &'a str) -> BoxFuture<'a, Asked<bool>> {
        Box::pin(async move { Ok(Cluster::confirm_recovery_key(self, text, by).await?) })
    }

    fn authorities(&self) -> Vec<raft::AuthorityFacts> {
        Cluster::authorities(self)
    }

    fn renew_certificate(&self, member: MemberId) -> BoxFuture<'_, Result<(String, Timestamp), Failure>> {
        Box::pin(async move {
            let renewed = Cluster::renew_certificate(self, member).await?;
            Ok((renewed.serial, Timestamp(renewed.not_after_ms)))
        })
    }

    fn rotate_authority<'a>(&'a self, by: &'a str) -> BoxFuture<'a, Asked<u64>> {
        Box::pin(async move { Ok(Cluster::rotate_authority(self, by).await?) })
    }

    fn rotate_sealing_key<'a>(&'a self, by: &'a str) -> BoxFuture<'a, Asked<raft::Rotated>> {
        Box::pin(async move { Ok(Cluster::rotate_sealing_key(self, by).await?) })
    }

    fn rotate_data_key<'a>(&'a self, by: &'a str) -> BoxFuture<'a, Asked<(u32, usize)>> {
        Box::pin(async move { Ok(Cluster::rotate_data_key(self, by).await?) })
    }

    fn compare_states(&self) -> BoxFuture<'_, Result<raft::Comparison, Failure>> {
        Box::pin(async move { Ok(Cluster::compare_states(self).await?) })
    }

    fn begin_scrub(&self) -> Result<raft::Scrubbing, Failure> {
        Ok(Cluster::begin_scrub(self))
    }

    fn scrubbing(&self) -> Result<raft::Scrubbing, Failure> {
        Ok(Cluster::scrubbing(self))
    }

    fn drills(&self) -> Drills {
        Cluster::drills(self).clone()
    }

    fn inject(&self, drill: &str, fault: Fault, within: Duration) -> Result<(), DrillRefused> {
        Cluster::inject(self, drill, fault, within)
    }

    fn remove_member<'a>(&'a self, id: MemberId, force: bool, by: &'a str) -> BoxFuture<'a, Result<(), Failure>> {
        Box::pin(async move { Ok(Cluster::remove_member(self, id, force, by).await?) })
    }
}
