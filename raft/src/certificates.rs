//! Certificates and secrets as operators handle them: who shows what, a new one now, another authority, another data
//! key, and the key on paper.

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Serialize};
use state_machine::{Command, Der, MemberId, MemberState, Outcome, Refusal, State};
use tokio::time::timeout;

use crate::{
    cluster::{AUTHORITY_SECRET, Cluster, Core},
    encode::{Call, decode},
    error::ProposeError,
    peers::proto::Frame,
    pki::{self, Facts},
    renewal::Renewed,
};

/// What a member says of the certificate it shows to other members.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct MemberCertificate {
    /// Hexadecimal.
    pub serial: String,
    /// In milliseconds since 1970.
    pub not_before_ms: u64,
    pub not_after_ms: u64,
    /// Fingerprints of the authorities it believes, the one that signed its certificate first.
    pub trusts: Vec<String>,
}

/// What a member says of the certificate it shows to clients.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ClientCertificate {
    /// `files`, `acme`, `self-signed` (until the first one of the authority came).
    pub source: String,
    /// Names it is good for.
    pub names: Vec<String>,
    /// Who signed it, as a name.
    pub issuer: String,
    /// In milliseconds since 1970.
    pub not_before_ms: u64,
    pub not_after_ms: u64,
    /// Why the newest files are not shown; empty when they are.
    pub error: String,
}

/// An authority of the members.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AuthorityFacts {
    pub generation: u64,
    pub fingerprint: String,
    pub not_before_ms: u64,
    pub not_after_ms: u64,
    /// It signs new certificates.
    pub signs: bool,
}

/// A member renews within moments, or does not answer.
const RENEW_WITHIN: Duration = Duration::from_secs(5);
/// Somebody else writes a secret at the same moment: again, but not for ever.
const RESEAL_ATTEMPTS: usize = 5;

fn failed(error: impl ToString) -> ProposeError {
    ProposeError::Impossible(error.to_string())
}

impl Core {
    /// What this member shows, for its report.
    pub fn member_certificate(&self) -> Option<MemberCertificate> {
        let tls = &self.dialer.tls;
        let facts = Facts::of(&tls.certificate())?;
        let trusts = tls.trusted().iter().filter_map(|der| Some(Facts::of(der)?.fingerprint)).collect();
        Some(MemberCertificate {
            serial: facts.serial,
            not_before_ms: facts.not_before_ms,
            not_after_ms: facts.not_after_ms,
            trusts,
        })
    }
}

impl Cluster {
    /// Authorities whose certificates members take, the newest last.
    pub fn authorities(&self) -> Vec<AuthorityFacts> {
        let state = self.latest();
        let facts = |generation, der: &[u8], signs| {
            let Facts { fingerprint, not_before_ms, not_after_ms, .. } = Facts::of(der)?;
            Some(AuthorityFacts { generation, fingerprint, not_before_ms, not_after_ms, signs })
        };
        match state.authorities().get_max() {
            None => facts(0, &self.core.trust(&state).issuer.0, true).into_iter().collect(),
            Some((newest, _)) => {
                let rows = state.authorities().values();
                rows.filter_map(|row| facts(row.generation, &row.certificate.0, row.generation == *newest)).collect()
            }
        }
    }

    /// Gives a member a new certificate now.
    pub async fn renew_certificate(&self, member: MemberId) -> Result<Renewed, ProposeError> {
        let core = &self.core;
        let state = self.latest();
        let known = state.member(member).filter(|known| known.state == MemberState::Active);
        let name = known.ok_or_else(|| failed(format!("there is no member {member}")))?.name.clone();
        if member == core.me {
            return core.renew_here().await.map_err(failed);
        }
        let frame = Frame { kind: Call::Renew as u32, data: Default::default() };
        let answer = timeout(RENEW_WITHIN, core.dialer_client(member).call(frame)).await;
        let answer = answer.map_err(|_| failed(format!("{name} did not answer; is it up? hsraft members")))?;
        let frame = answer.map_err(|status| match status.code() {
            tonic::Code::Unimplemented => failed(format!("{name} runs a program that cannot do this; upgrade it")),
            _ => failed(format!("{name} does not answer ({}); is it up? hsraft members", status.message())),
        })?;
        let renewed: Result<Renewed, String> = decode(&frame.into_inner().data).map_err(failed)?;
        renewed.map_err(failed)
    }

    /// Begins to replace the authority by a new one; its generation. Members follow by themselves, and when the last of
    /// them has moved the old one is distrusted.
    pub async fn rotate_authority(&self, by: &str) -> Result<Result<u64, Refusal>, ProposeError> {
        let (core, world) = (&self.core, &self.core.world);
        let state = self.confirm().await.map_err(failed)?;
        let trust = core.trust(&state);
        let sealing = core.sealing.of(&state);
        let unsealed = crate::seal::unseal(&sealing, &state, AUTHORITY_SECRET);
        let old_key = unsealed.ok_or_else(|| failed("this member cannot open the authority's key; ask another one"))?;
        let generation = state.authority_generation() + 1;
        let key = pki::new_key(&world.entropy);
        let certificate = pki::new_authority(&key, &core.cluster_id, generation, world).map_err(failed)?;
        let cross = pki::cross_sign(&trust.issuer.0, &old_key, &key, &core.cluster_id, generation, world);
        let command = Command::RotateAuthority {
            before: Der(trust.issuer.0.to_vec()),
            certificate: Der(certificate),
            cross: Der(cross.map_err(failed)?),
            key: sealing.seal_in(&state, AUTHORITY_SECRET, &key, &world.entropy),
        };
        match self.propose(by, command).await?.answer {
            Ok(Outcome::Changed(generation)) => Ok(Ok(generation)),
            Ok(other) => Err(failed(format!("unexpected answer {other:?}"))),
            Err(refusal) => Ok(Err(refusal)),
        }
    }

    /// Seals all secrets under a new data key: its id, and how many secrets.
    pub async fn rotate_data_key(&self, by: &str) -> Result<Result<(u32, usize), Refusal>, ProposeError> {
        let core = &self.core;
        for _ in 0..RESEAL_ATTEMPTS {
            let state = self.confirm().await.map_err(failed)?;
            let (secrets, dropped) = core.sealing.of(&state).reseal(&state, &core.world.entropy).map_err(failed)?;
            let (count, id) = (secrets.len() - 1, secrets.iter().map(|(_, sealed)| sealed.key_id).max().unwrap_or(0));
            let command = Command::ResealSecrets { seen: state.secrets_fingerprint(), secrets, dropped };
            match self.propose(by, command).await?.answer {
                Ok(_) => return Ok(Ok((id, count))),
                Err(Refusal::SecretsChanged) => {}
                Err(refusal) => return Ok(Err(refusal)),
            }
        }
        Ok(Err(Refusal::SecretsChanged))
    }

    /// Remembers that somebody has the recovery key; false: the text is not the one of now.
    pub async fn confirm_recovery_key(&self, text: &str, by: &str) -> Result<Result<bool, Refusal>, ProposeError> {
        let state = self.confirm().await.map_err(failed)?;
        let Some(key) = state.recovery_fingerprint().filter(|_| self.is_recovery_key(text)) else {
            return Ok(Ok(false));
        };
        let answer = self.propose(by, Command::ConfirmRecoveryKey { key }).await?.answer;
        Ok(answer.map(|_| true))
    }

    /// The world's time of day, in milliseconds since 1970.
    pub fn now_ms(&self) -> u64 {
        self.core.world.clock.now_ms()
    }

    /// What this member shows to clients, for the others to know.
    pub fn tell_client_certificate(&self, shown: Option<ClientCertificate>) {
        self.core.boards.tell_client_certificate(shown);
    }

    /// Why this member's port for clients is closed (empty: it is open), for the others to know.
    pub fn tell_client_port(&self, closed: String) {
        self.core.boards.tell_client_port(closed);
    }

    /// How long the certificate this member shows to other members is still good.
    pub fn member_certificate_left(&self) -> Duration {
        let tls = &self.core.dialer.tls;
        tls.left(&tls.certificate())
    }

    /// Whether every member that was heard of a moment ago has applied `revision`.
    pub fn all_have(&self, revision: state_machine::Revision) -> bool {
        let state = self.latest();
        let board = self.board();
        active(&state).all(|id| match board.members.get(&id) {
            _ if id == self.me() => state.revision() >= revision,
            Some(seen) => seen.report.as_ref().is_none_or(|report| report.applied >= revision.0),
            None => true,
        })
    }

    /// What every member that was heard of lately says it shows: to members, and to clients.
    pub fn shown_certificates(&self) -> BTreeMap<MemberId, (Option<MemberCertificate>, Option<ClientCertificate>)> {
        let board = self.board();
        let reports = board.members.into_iter().filter_map(|(id, seen)| Some((id, seen.report?)));
        reports.map(|(id, report)| (id, (report.certificate, report.client_certificate))).collect()
    }
}

fn active(state: &State) -> impl Iterator<Item = MemberId> {
    state.members().values().filter(|member| member.state == MemberState::Active).map(|member| member.id)
}
