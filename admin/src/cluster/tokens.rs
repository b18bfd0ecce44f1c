//! Join tokens: one-use tickets into the cluster.

use std::time::Duration;

use axum::{
    Extension, Json as Reply,
    extract::{Path, State as Shared},
};
use ipnet::IpNet;
use raft::TokenWish;
use serde::{Deserialize, Serialize};
use state_machine::{Command, JoinRole, JoinToken, Timestamp};

use crate::{
    Api,
    auth::Caller,
    request::{Empty, Json, Query},
    status::ApiError,
    v1::types::moment,
};

/// How long a token is good for when nobody said.
const LIFE: Duration = Duration::from_secs(15 * 60);
/// And at most.
const LIFE_MAX: Duration = Duration::from_secs(24 * 3600);

/// A token without its secret.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Token {
    pub id: String,
    /// Only a member of this name may use it; empty: any.
    pub name: String,
    pub role: String,
    /// `valid`, `used` or `expired`.
    pub state: String,
    /// The member that came in with it, the last one of several.
    pub used_by: Option<String>,
    /// For how many members it is good in all.
    pub uses: u32,
    /// How many came in with it.
    pub used: u32,
    /// Only for joiners from these networks; empty: from anywhere.
    pub from: Vec<String>,
    #[serde(with = "moment")]
    pub created_at: Option<Timestamp>,
    #[serde(with = "moment")]
    pub expires_at: Option<Timestamp>,
}

/// Reply around tokens.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Tokens {
    pub tokens: Vec<Token>,
}

/// A new token, whole; shown once.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NewToken {
    pub token: String,
    /// Addresses a joiner can call, this member's first.
    pub addresses: Vec<String>,
    pub ttl_secs: u64,
}

/// What a new token allows.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Create {
    ttl_secs: Option<u64>,
    name: String,
    /// `voter` (also when empty) or `learner`.
    role: String,
    /// For so many members; absent: one.
    uses: u32,
    /// Networks like `10.0.0.0/24` a joiner must call from; empty: any.
    from: Vec<String>,
}

fn view(token: &JoinToken, state: &state_machine::State, now: Timestamp) -> Token {
    let member = |id| state.member(id).map_or_else(|| format!("member {id}"), |member| member.name.clone());
    Token {
        id: token.id.clone(),
        name: token.name.clone(),
        role: match token.role {
            JoinRole::Voter => "voter",
            JoinRole::Learner => "learner",
        }
        .into(),
        state: match token.is_spent() {
            true => "used",
            false if token.expires_at <= now => "expired",
            false => "valid",
        }
        .into(),
        used_by: token.used_by.map(member),
        uses: token.uses.max(1),
        used: if token.uses > 1 { token.used } else { u32::from(token.used_by.is_some()) },
        from: token.from.iter().map(ToString::to_string).collect(),
        created_at: Some(token.created_at),
        expires_at: Some(token.expires_at),
    }
}

/// `GET /cluster/tokens`.
pub(crate) async fn list(Shared(api): Shared<Api>, query: Query) -> Result<Reply<Tokens>, ApiError> {
    let state = api.read(&query).await?;
    let now = api.now();
    Ok(Reply(Tokens { tokens: state.join_tokens().values().map(|token| view(token, &state, now)).collect() }))
}

/// `POST /cluster/tokens`.
pub(crate) async fn create(
    Shared(api): Shared<Api>,
    Extension(caller): Extension<Caller>,
    Json(wish): Json<Create>,
) -> Result<Reply<NewToken>, ApiError> {
    let ttl = wish.ttl_secs.map_or(LIFE, Duration::from_secs);
    if ttl.is_zero() || ttl > LIFE_MAX {
        return Err(ApiError::invalid("a join token lives between 1 second and 24 hours: --ttl 15m"));
    }
    let role = match wish.role.as_str() {
        "" | "voter" => JoinRole::Voter,
        "learner" => JoinRole::Learner,
        other => return Err(ApiError::invalid(format!("role is {other:?}; it can be voter or learner"))),
    };
    let from = wish.from.iter().map(|text| network(text)).collect::<Result<Vec<IpNet>, ApiError>>()?;
    let wish = TokenWish { ttl, name: wish.name, role, uses: wish.uses, from };
    let token = api.backend.create_join_token(wish, &caller.by).await?;
    Ok(Reply(NewToken { token, addresses: addresses(&api), ttl_secs: ttl.as_secs() }))
}

/// Reads `10.0.0.0/24`, or one address.
fn network(text: &str) -> Result<IpNet, ApiError> {
    let alone = || text.parse::<std::net::IpAddr>().ok().map(IpNet::from);
    let network = text.parse::<IpNet>().ok().or_else(alone).map(|network| network.trunc());
    network.ok_or_else(|| ApiError::invalid(format!("{text:?} is no network; write for example 10.0.0.0/24")))
}

/// Where a joiner may call: this member first, then the others that vote.
fn addresses(api: &Api) -> Vec<String> {
    let (state, standing) = (api.backend.latest(), api.backend.standing());
    let mut ids = vec![standing.me];
    ids.extend(standing.voters.iter().copied().filter(|id| *id != standing.me));
    ids.into_iter().filter_map(|id| state.member(id)).map(|member| member.peer_address.clone()).collect()
}

/// `DELETE /cluster/tokens/{id}`.
pub(crate) async fn revoke(
    Shared(api): Shared<Api>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Result<Reply<Empty>, ApiError> {
    api.propose(&caller, Command::RevokeJoinToken { id }).await?;
    Ok(Reply(Empty {}))
}
