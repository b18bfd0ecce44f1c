//! `/cluster/certificates`, `/cluster/secrets`: who shows what until when, another authority, another data key.

use axum::{Extension, Json as Reply, extract::State as Shared};
use serde::{Deserialize, Serialize};
use state_machine::{ChallengeKind, MemberState, State, Timestamp};

use super::{members::find, view::Standing};
use crate::{
    Api,
    auth::Caller,
    request::{Empty, Json, Query},
    status::ApiError,
    v1::types::moment,
};

/// A certificate is due for a word when less than this part of its life is left; renewal begins at a third.
const ALARM: u64 = 4;

/// Everything about certificates.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Certificates {
    pub members: Vec<MemberRow>,
    pub authorities: Vec<AuthorityRow>,
    pub rotation: Option<Rotation>,
    pub clients: Vec<ClientRow>,
    pub fetched: Vec<FetchedRow>,
    pub warnings: Vec<String>,
}

/// What a member shows to other members.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct MemberRow {
    pub name: String,
    /// Hexadecimal; empty: the member was not heard of lately.
    pub serial: String,
    /// Fingerprint of the authority that signed it.
    pub issuer: String,
    #[serde(with = "moment")]
    pub not_after: Option<Timestamp>,
    pub days_left: Option<u64>,
    /// Fingerprints of the authorities it believes.
    pub trusts: Vec<String>,
}

/// An authority of the members.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct AuthorityRow {
    pub generation: u64,
    pub fingerprint: String,
    #[serde(with = "moment")]
    pub not_after: Option<Timestamp>,
    pub days_left: u64,
    /// It signs new certificates; the other one is on its way out.
    pub signs: bool,
}

/// One authority replaces another.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Rotation {
    pub generation: u64,
    #[serde(with = "moment")]
    pub begun_at: Option<Timestamp>,
    /// Members that have not moved yet.
    pub waiting_for: Vec<String>,
}

/// What a member shows to clients.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ClientRow {
    pub member: String,
    /// `files`, `acme`, `self-signed` (until the first one came), `none` (plain HTTP).
    pub source: String,
    pub names: Vec<String>,
    pub issuer: String,
    #[serde(with = "moment")]
    pub not_after: Option<Timestamp>,
    pub days_left: Option<u64>,
    /// Why the newest files are not shown.
    pub error: String,
}

/// A certificate the cluster fetches.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct FetchedRow {
    pub name: String,
    pub directory: String,
    pub challenge: String,
    /// `valid`, `ordered`, `waiting` (after a failure), `due`.
    pub state: String,
    #[serde(with = "moment")]
    pub not_after: Option<Timestamp>,
    #[serde(with = "moment")]
    pub renew_at: Option<Timestamp>,
    pub wanted_by: Vec<String>,
    pub failures: u32,
    /// Why the last attempt failed.
    pub error: String,
    #[serde(with = "moment")]
    pub retry_at: Option<Timestamp>,
}

/// A certificate that was made.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Renewed {
    pub member: String,
    pub serial: String,
    #[serde(with = "moment")]
    pub not_after: Option<Timestamp>,
}

/// Secrets that were sealed anew.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Resealed {
    pub data_key: u32,
    pub secrets: u64,
}

/// Secrets under another sealing key.
#[derive(Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SealingKeyRotated {
    pub data_key: u32,
    pub secrets: u64,
    /// Opens backups from now on.
    pub recovery_key: String,
}

/// Which member.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(crate) struct Which {
    /// Name or id; empty: the one that answers.
    member: String,
}

const DAY_MS: u64 = 24 * 3600 * 1000;

fn days(until: u64, now: Timestamp) -> u64 {
    until.saturating_sub(now.0) / DAY_MS
}

fn is_late(from: u64, until: u64, now: Timestamp) -> bool {
    until.saturating_sub(now.0) < until.saturating_sub(from) / ALARM
}

fn name_of(state: &State, id: state_machine::MemberId) -> String {
    state.member(id).map_or_else(|| format!("member {id}"), |member| member.name.clone())
}

/// What should not stay like this.
pub(crate) fn warnings(state: &State, standing: &Standing) -> Vec<String> {
    let (mut warnings, now) = (Vec::new(), standing.now);
    for (id, contact) in &standing.contacts {
        let name = name_of(state, *id);
        if let Some(shown) =
            contact.certificate.as_ref().filter(|own| is_late(own.not_before_ms, own.not_after_ms, now))
        {
            let left = days(shown.not_after_ms, now);
            warnings.push(format!(
                "the certificate {name} shows to other members has {left} days left and was not renewed: look at its log; hsraft cert renew {name}"
            ));
        }
        let Some(shown) = &contact.client_certificate else { continue };
        if shown.source != "self-signed" && is_late(shown.not_before_ms, shown.not_after_ms, now) {
            let left = days(shown.not_after_ms, now);
            warnings.push(format!(
                "the certificate {name} shows to clients has {left} days left and was not renewed; hsraft cert status"
            ));
        }
        if !shown.error.is_empty() {
            warnings.push(format!(
                "the newest certificate files of {name} cannot be used, the ones before are shown: {}",
                shown.error
            ));
        }
    }
    for row in state.certificates().values().filter(|row| row.failures > 0) {
        warnings.push(format!(
            "the certificate for {} did not come, {} times in a row: {}; tried again at {}",
            row.wish.name, row.failures, row.error, row.retry_at
        ));
    }
    let waiting = state.members_to_move();
    if !waiting.is_empty() {
        let names: Vec<String> = waiting.iter().map(|id| name_of(state, *id)).collect();
        warnings.push(format!(
            "the certificate authority is being replaced and waits for {}; start what is down, or take it out: hsraft member remove",
            names.join(", ")
        ));
    }
    if state.recovery_fingerprint().is_some() && !state.recovery_confirmed() {
        warnings.push("nobody has confirmed that the recovery key is written down: hsraft recovery-key confirm".into());
    }
    warnings
}

fn view(api: &Api, state: &State) -> Certificates {
    let standing = api.backend.standing();
    let now = standing.now;
    let active = || state.members().values().filter(|member| member.state == MemberState::Active);
    let contact = |member: &state_machine::Member| standing.contacts.get(&member.id).cloned().unwrap_or_default();
    let members = active().map(|member| {
        let shown = contact(member).certificate.unwrap_or_default();
        let known = shown.not_after_ms > 0;
        MemberRow {
            name: member.name.clone(),
            issuer: shown.trusts.first().cloned().unwrap_or_default(),
            not_after: known.then_some(Timestamp(shown.not_after_ms)),
            days_left: known.then(|| days(shown.not_after_ms, now)),
            serial: shown.serial,
            trusts: shown.trusts,
        }
    });
    let authorities = api.backend.authorities().into_iter().map(|authority| AuthorityRow {
        generation: authority.generation,
        fingerprint: authority.fingerprint,
        not_after: Some(Timestamp(authority.not_after_ms)),
        days_left: days(authority.not_after_ms, now),
        signs: authority.signs,
    });
    let newest = state.authorities().get_max().map(|(_, newest)| newest);
    let rotation = newest.filter(|newest| newest.settled_at.is_none()).map(|newest| Rotation {
        generation: newest.generation,
        begun_at: Some(newest.begun_at),
        waiting_for: state.members_to_move().iter().map(|id| name_of(state, *id)).collect(),
    });
    let clients = active().map(|member| match contact(member).client_certificate {
        Some(shown) => ClientRow {
            member: member.name.clone(),
            not_after: Some(Timestamp(shown.not_after_ms)),
            days_left: Some(days(shown.not_after_ms, now)),
            source: shown.source,
            names: shown.names,
            issuer: shown.issuer,
            error: shown.error,
        },
        None => ClientRow { member: member.name.clone(), source: "none".into(), ..ClientRow::default() },
    });
    let fetched = state.certificates().values().map(|row| FetchedRow {
        name: row.wish.name.clone(),
        directory: row.wish.directory.clone(),
        challenge: match row.wish.challenge {
            ChallengeKind::Http01 => "HTTP-01",
            ChallengeKind::TlsAlpn01 => "TLS-ALPN-01",
        }
        .into(),
        state: match (&row.order, row.failures) {
            (Some(_), _) => "ordered",
            (None, 1..) => "waiting",
            (None, 0) if row.renew_at() <= now => "due",
            (None, 0) => "valid",
        }
        .into(),
        not_after: (!row.chain.is_empty()).then_some(row.not_after),
        renew_at: (!row.chain.is_empty()).then(|| row.renew_at()),
        wanted_by: row.wanted_by.iter().map(|id| name_of(state, *id)).collect(),
        failures: row.failures,
        error: row.error.clone(),
        retry_at: (row.failures > 0).then_some(row.retry_at),
    });
    Certificates {
        members: members.collect(),
        authorities: authorities.collect(),
        rotation,
        clients: clients.collect(),
        fetched: fetched.collect(),
        warnings: warnings(state, &standing),
    }
}

/// `GET /cluster/certificates`.
pub(crate) async fn status(Shared(api): Shared<Api>, query: Query) -> Result<Reply<Certificates>, ApiError> {
    let state = api.read(&query).await?;
    Ok(Reply(view(&api, &state)))
}

/// `POST /cluster/certificates/renew`.
pub(crate) async fn renew(
    Shared(api): Shared<Api>,
    Extension(caller): Extension<Caller>,
    Json(which): Json<Which>,
) -> Result<Reply<Renewed>, ApiError> {
    let state = api.backend.latest();
    let id = match which.member.as_str() {
        "" => api.backend.standing().me,
        name => find(&state, name)?,
    };
    tracing::info!(by = caller.by, member = %id, "a member gets a new certificate");
    let (serial, not_after) = api.backend.renew_certificate(id).await?;
    Ok(Reply(Renewed { member: name_of(&state, id), serial, not_after: Some(not_after) }))
}

/// `POST /cluster/certificates/rotate`: begins; members follow by themselves.
pub(crate) async fn rotate(
    Shared(api): Shared<Api>,
    Extension(caller): Extension<Caller>,
    Json(_): Json<Empty>,
) -> Result<Reply<Certificates>, ApiError> {
    tracing::info!(by = caller.by, "the certificate authority is being replaced");
    api.backend.rotate_authority(&caller.by).await??;
    Ok(Reply(view(&api, &api.backend.latest())))
}

/// `POST /cluster/secrets/reseal`.
pub(crate) async fn reseal(
    Shared(api): Shared<Api>,
    Extension(caller): Extension<Caller>,
    Json(_): Json<Empty>,
) -> Result<Reply<Resealed>, ApiError> {
    tracing::info!(by = caller.by, "the secrets are sealed under a new data key");
    let (data_key, secrets) = api.backend.rotate_data_key(&caller.by).await??;
    Ok(Reply(Resealed { data_key, secrets: secrets as u64 }))
}

/// `POST /cluster/secrets/sealing-key`.
pub(crate) async fn rotate_sealing_key(
    Shared(api): Shared<Api>,
    Extension(caller): Extension<Caller>,
    Json(_): Json<Empty>,
) -> Result<Reply<SealingKeyRotated>, ApiError> {
    tracing::info!(by = caller.by, "the sealing key is being replaced");
    let done = api.backend.rotate_sealing_key(&caller.by).await??;
    Ok(Reply(SealingKeyRotated {
        data_key: done.data_key,
        secrets: done.secrets as u64,
        recovery_key: done.recovery_key.to_string(),
    }))
}
