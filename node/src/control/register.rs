//! `POST /machine/register`: coming, going, and waiting for a person.
//!
//! [`plan`] decides from the request and a state what to do, and is a function of its arguments. What needs nothing
//! written is answered from the state: clients repeat their registration with every start.

use std::sync::Arc;

use admin::secret_text;
use http::{Request, StatusCode};
use hyper::body::Incoming;
use state_machine::{
    Command, LoginId, LoginResult, Node, NodeId, Outcome, Refusal, Registration, State, Timestamp, codes,
};
use tailcfg::{Login, MachineKey, RegisterRequest, RegisterResponse, Time, User, from_client_json};

use super::{
    CAPABILITY_VERSION_MIN, Control, Peer,
    body::{Answer, json, no},
    reports::hostinfo_from_wire,
    too_old,
};

/// What a login's id starts with, as scripts around Headscale expect it.
const LOGIN_TAG: &str = "hskey-authreq-";
const LOGIN_ID_LENGTH: usize = 24;

/// What to do about a request.
#[derive(Debug, PartialEq, Eq)]
#[expect(clippy::large_enum_variant, reason = "a plan is moved once, and mostly not made of a command")]
enum Plan {
    /// The node is in already; nothing is written.
    Known(NodeId),
    /// The client must make a new node key.
    Expired,
    /// Another machine's node key.
    Stranger,
    /// Ask the cluster.
    Propose(Command),
    /// A person must act; the text is the URL the client was given.
    Wait(LoginId),
    /// A person must act, and knows nothing of it yet.
    Begin,
    /// Not even a key.
    BadKey,
}

/// Answers a registration.
pub async fn answer(control: &Arc<Control>, peer: Peer, request: Request<Incoming>) -> Answer {
    let body = match control.read_body(request).await {
        Ok(body) => body,
        Err(answer) => return answer,
    };
    let request: RegisterRequest = match from_client_json(&body) {
        Ok(request) => request,
        Err(error) => {
            return no(StatusCode::BAD_REQUEST, &codes::CLIENT_UNREADABLE, format!("malformed registration: {error}"));
        }
    };
    // Go sets the field after it has signed; what the handshake said counts where it is missing.
    let version = if request.version == 0 { peer.version } else { request.version };
    if version < CAPABILITY_VERSION_MIN {
        return too_old(version);
    }
    if request.node_key.is_zero() {
        return no(StatusCode::BAD_REQUEST, &codes::CLIENT_UNREADABLE, "a registration needs a NodeKey");
    }
    let decide =
        |state: &State| plan(state, control.now(), peer.machine_key, &request, followed_login(&request.followup));
    let mut state = control.cluster.latest();
    let mut planned = decide(&state);
    if must_be_certain(&planned, &state) {
        state = control.cluster.confirm().await.unwrap_or(state);
        planned = decide(&state);
    }
    match planned {
        Plan::Known(node) => {
            peer.seat.proved();
            registered(&state, node)
        }
        Plan::Expired => json(&key_expired()),
        Plan::Stranger => {
            no(StatusCode::UNAUTHORIZED, &codes::WRONG_MACHINE, "node exists with a different machine key")
        }
        Plan::BadKey => refused(&Refusal::KeyUnknown),
        Plan::Propose(Command::RegisterWithKey { prefix, secret_sha256, .. }) => {
            learn(control, &state, &prefix, &request).await;
            let client = registration(control, &peer, &request, version);
            propose(control, Command::RegisterWithKey { client, prefix, secret_sha256 }).await
        }
        Plan::Propose(command) => propose(control, command).await,
        Plan::Begin => begin(control, &peer, &request, version).await,
        Plan::Wait(login) => wait(control, &peer, &request, version, login).await,
    }
}

/// Whether a state that lags a little could mislead. What is proposed is judged by the log itself; but a client that is
/// told that its key has expired makes a new one, and one whose login is not known begins another.
fn must_be_certain(plan: &Plan, state: &State) -> bool {
    match plan {
        Plan::Expired => true,
        Plan::Wait(login) => state.login(login).is_none(),
        Plan::Known(_) | Plan::Stranger | Plan::Propose(_) | Plan::Begin | Plan::BadKey => false,
    }
}

/// The order matters: a logout comes before its own auth key is looked at (Go sends both).
fn plan(
    state: &State,
    now: Timestamp,
    machine_key: MachineKey,
    request: &RegisterRequest,
    followed: Option<LoginId>,
) -> Plan {
    let node_key = request.node_key;
    let wish = request.expiry.map(timestamp);
    if wish.is_some_and(|wish| wish <= now) {
        return match state.node_by_key(&node_key) {
            Some(node) if node.machine_key != machine_key => Plan::Stranger,
            Some(_) => Plan::Propose(Command::Logout { machine_key, node_key }),
            None => Plan::Expired,
        };
    }
    let known = state.node_by_key(&node_key);
    if let Some(node) = known
        && node.machine_key != machine_key
    {
        return Plan::Stranger;
    }
    let is_in = known.filter(|node| is_in(state, now, node));
    // Whoever waits for a person and is in meanwhile by other means (an import of another server's nodes) need not wait.
    if let (Some(login), None) = (followed, is_in) {
        return Plan::Wait(login);
    }
    if let (Some(node), Some(expiry)) = (is_in, wish) {
        // A client may only bring the end nearer; a later wish changes nothing.
        return match node.expiry.is_none_or(|known| expiry < known) {
            true => Plan::Propose(Command::ExpireSooner { machine_key, node_key, expiry }),
            false => Plan::Known(node.id),
        };
    }
    match (request.auth_key(), known) {
        (Some(text), _) => match split_key(text) {
            Some((prefix, secret_sha256)) => match is_in {
                Some(node) if came_by_key(state, node, &prefix) => Plan::Known(node.id),
                _ => Plan::Propose(Command::RegisterWithKey { client: Registration::default(), prefix, secret_sha256 }),
            },
            // Containers keep presenting whatever they were started with.
            None => is_in.map_or(Plan::BadKey, |node| Plan::Known(node.id)),
        },
        (None, Some(node)) => match is_in {
            Some(_) => Plan::Known(node.id),
            None => Plan::Expired,
        },
        (None, None) => Plan::Begin,
    }
}

/// Whether a node needs nobody to let it in.
fn is_in(state: &State, now: Timestamp, node: &Node) -> bool {
    !state.is_expired(node.id) && !node.is_expired(now)
}

/// Whether this very key let the node in; then nothing can change by presenting it again.
fn came_by_key(state: &State, node: &Node, prefix: &str) -> bool {
    node.pre_auth_key.is_some() && node.pre_auth_key == state.pre_auth_key_by_prefix(prefix).map(|key| key.id)
}

/// A pre-auth key as prefix and hash.
fn split_key(text: &str) -> Option<(String, [u8; 32])> {
    let (prefix, secret) = secret_text::split(secret_text::AUTH, text)?;
    Some((prefix.to_owned(), secret_text::hash(secret)))
}

/// A key that came from another server is proved slowly once; from then on the cluster knows its quick proof.
async fn learn(control: &Control, state: &State, prefix: &str, request: &RegisterRequest) {
    let Some(key) = state.pre_auth_key_by_prefix(prefix) else { return };
    let Some(hash) = key.bcrypt.as_ref().filter(|_| key.secret_sha256 == [0; 32]) else { return };
    let Some((_, secret)) = request.auth_key().and_then(|text| secret_text::split(secret_text::AUTH, text)) else {
        return;
    };
    if secret_text::proves_slowly(secret, hash).await {
        let secret_sha256 = secret_text::hash(secret);
        let command = Command::LearnPreAuthKey { prefix: prefix.to_owned(), secret_sha256 };
        // When this fails, so does the registration that follows, and says why.
        let _ = control.cluster.propose(&control.name, command).await;
    }
}

/// The login a follow-up speaks of: the last part of the URL it was given.
fn followed_login(followup: &str) -> Option<LoginId> {
    let last = followup.trim_end_matches('/').rsplit('/').next()?;
    (!last.is_empty()).then(|| LoginId(last.to_owned()))
}

fn registration(control: &Control, peer: &Peer, request: &RegisterRequest, version: u16) -> Registration {
    let hostinfo = request.hostinfo.as_ref();
    Registration {
        machine_key: peer.machine_key,
        node_key: request.node_key,
        old_node_key: request.old_node_key,
        nl_key: request.nl_key,
        hostname: hostinfo.map(|hostinfo| hostinfo.hostname.clone()).unwrap_or_default(),
        hostinfo: hostinfo.map(hostinfo_from_wire).unwrap_or_default(),
        capability_version: version,
        ephemeral: request.ephemeral,
        expiry: request.expiry.map(timestamp),
        seed: control.entropy.u64(),
    }
}

async fn propose(control: &Arc<Control>, command: Command) -> Answer {
    let applied = match control.cluster.propose(&control.name, command).await {
        Ok(applied) => applied,
        Err(error) => {
            tracing::warn!(%error, "a registration was not taken");
            return no(
                StatusCode::SERVICE_UNAVAILABLE,
                &codes::NO_QUORUM,
                "the cluster cannot take registrations now; try again",
            );
        }
    };
    let state = control.cluster.latest();
    match applied.answer {
        Ok(Outcome::Registered(node) | Outcome::Node(node)) => registered(&state, node),
        Ok(Outcome::KeyExpired(_) | Outcome::LoggedOut { .. }) => json(&key_expired()),
        Ok(Outcome::Login(id)) => json(&open_url(&state, &id)),
        Ok(_) => json(&RegisterResponse { machine_authorized: true, ..RegisterResponse::default() }),
        Err(refusal) => refused(&refusal),
    }
}

async fn begin(control: &Arc<Control>, peer: &Peer, request: &RegisterRequest, version: u16) -> Answer {
    let client = registration(control, peer, request, version);
    let id = LoginId(format!("{LOGIN_TAG}{}", crate::keys::random_text(&control.entropy, LOGIN_ID_LENGTH)));
    propose(control, Command::BeginLogin { client, id }).await
}

/// Holds the request until the login's row changes, at whichever member that happens.
async fn wait(control: &Arc<Control>, peer: &Peer, request: &RegisterRequest, version: u16, login: LoginId) -> Answer {
    let mut states = control.cluster.watch();
    let patience = tokio::time::sleep(control.limits.followup_hold);
    let mut patience = std::pin::pin!(patience);
    loop {
        let state = states.borrow_and_update().clone();
        let known = state.node_by_key(&request.node_key).filter(|node| node.machine_key == peer.machine_key);
        if let Some(node) = known.filter(|node| is_in(&state, control.now(), node)) {
            peer.seat.proved();
            return registered(&state, node.id);
        }
        match progress(&state, control.now(), peer.machine_key, &login) {
            Progress::Waiting => {}
            Progress::Registered(node) => return registered(&state, node),
            Progress::Rejected(reason) => {
                return json(&RegisterResponse { error: reason, ..RegisterResponse::default() });
            }
            // Unknown, run out, or somebody else's: start over.
            Progress::Over => return begin(control, peer, request, version).await,
        }
        tokio::select! { biased;
            () = peer.leaving.cancelled() => {
                return no(StatusCode::SERVICE_UNAVAILABLE, &codes::STOPPED, "this member is leaving; another one will answer");
            }
            moved = states.changed() => if moved.is_err() {
                return no(StatusCode::SERVICE_UNAVAILABLE, &codes::STOPPED, "this member has stopped");
            },
            // The same URL again: the client backs off and follows up once more.
            () = patience.as_mut() => return json(&open_url(&state, &login)),
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Progress {
    Waiting,
    Registered(NodeId),
    Rejected(String),
    Over,
}

fn progress(state: &State, now: Timestamp, machine_key: MachineKey, login: &LoginId) -> Progress {
    match state.login(login) {
        Some(row) if row.machine_key == machine_key => match &row.result {
            LoginResult::Waiting if row.expires_at > now => Progress::Waiting,
            LoginResult::Waiting => Progress::Over,
            LoginResult::Registered(node) => match state.node(*node) {
                Some(node) if node.machine_key == machine_key => Progress::Registered(node.id),
                _ => Progress::Over,
            },
            LoginResult::Rejected(reason) => Progress::Rejected(reason.clone()),
        },
        _ => Progress::Over,
    }
}

fn registered(state: &State, node: NodeId) -> Answer {
    let Some(node) = state.node(node) else {
        return no(StatusCode::SERVICE_UNAVAILABLE, &codes::NOT_FOUND, "the node was deleted meanwhile; try again");
    };
    let owner = netmap::profile(state, node);
    json(&RegisterResponse {
        user: User { id: owner.id, display_name: owner.display_name.clone() },
        login: Login {
            id: owner.id,
            provider: String::new(),
            login_name: owner.login_name,
            display_name: owner.display_name,
        },
        // Also for a node that waits for an approval, which it hears from its map: a client in Rust takes false here for
        // a failure and registers again and again, and one in Go does not look at it.
        machine_authorized: true,
        ..RegisterResponse::default()
    })
}

fn key_expired() -> RegisterResponse {
    RegisterResponse { node_key_expired: true, ..RegisterResponse::default() }
}

fn open_url(state: &State, login: &LoginId) -> RegisterResponse {
    let auth_url = format!("{}/register/{login}", state.settings().server_url);
    RegisterResponse { auth_url, ..RegisterResponse::default() }
}

/// Clients show the error of a 200; anything else they only log.
fn refused(refusal: &Refusal) -> Answer {
    json(&RegisterResponse { error: format!("{refusal} [{}]", refusal.code()), ..RegisterResponse::default() })
}

fn timestamp(time: Time) -> Timestamp {
    Timestamp(u64::try_from(time.as_millis()).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use state_machine::{Member, PreAuthKey, Revision, Settings, Stamp, UserId};
    use tailcfg::NodeKey;

    use super::*;

    const NOW: Timestamp = Timestamp(1_800_000_000_000);
    const MACHINE: MachineKey = MachineKey([1; 32]);
    const SECRET: &str = "0123456789012345678901234567890123456789012345678901234567890123";

    /// A tailnet with one user, one key and one node that came by it.
    fn tailnet() -> State {
        let mut state = State::default();
        let (prefix, secret_sha256) = split_key(&key_text()).unwrap();
        let commands = [
            Command::Found {
                cluster_id: "c".to_owned(),
                member: Member { id: state_machine::MemberId(1), name: "hs1".to_owned(), ..Member::default() },
                settings: Settings { server_url: "https://hs.example.com".to_owned(), ..Settings::default() },
                secrets: Vec::new(),
            },
            Command::CreateUser {
                name: "ann".to_owned(),
                display_name: String::new(),
                email: String::new(),
                profile_pic_url: String::new(),
            },
            Command::CreatePreAuthKey {
                key: PreAuthKey {
                    prefix: prefix.clone(),
                    secret_sha256,
                    user: Some(UserId(1)),
                    ..PreAuthKey::default()
                },
            },
            Command::RegisterWithKey {
                client: Registration {
                    machine_key: MACHINE,
                    node_key: NodeKey([2; 32]),
                    hostname: "laptop".to_owned(),
                    ..Registration::default()
                },
                prefix,
                secret_sha256,
            },
        ];
        for (index, command) in commands.into_iter().enumerate() {
            let stamp = Stamp { at: NOW, revision: Revision(index as u64 + 1) };
            state.apply(stamp, command).unwrap();
        }
        state
    }

    fn key_text() -> String {
        format!("hskey-auth-abcdefghijkl-{SECRET}")
    }

    fn request(node_key: u8, more: &str) -> RegisterRequest {
        let key = NodeKey([node_key; 32]);
        from_client_json(format!(r#"{{"Version":130,"NodeKey":"{key}"{more}}}"#).as_bytes()).unwrap()
    }

    fn planned(state: &State, machine_key: MachineKey, request: &RegisterRequest) -> Plan {
        plan(state, NOW, machine_key, request, followed_login(&request.followup))
    }

    #[test]
    fn a_node_that_is_in_stays_in_without_a_write() {
        let state = tailnet();
        let auth = format!(r#","Auth":{{"AuthKey":"{}"}}"#, key_text());
        for more in ["", r#","Expiry":"0001-01-01T00:00:00Z""#, &auth, r#","Auth":{"AuthKey":"nonsense"}"#] {
            assert_eq!(planned(&state, MACHINE, &request(2, more)), Plan::Known(NodeId(1)), "{more}");
        }
        let other = r#","Auth":{"AuthKey":"hskey-auth-zzzzzzzzzzzz-1111111111111111111111111111111111111111111111111111111111111111"}"#;
        assert!(matches!(planned(&state, MACHINE, &request(2, other)), Plan::Propose(Command::RegisterWithKey { .. })));
    }

    #[test]
    fn a_logout_comes_before_its_key() {
        let state = tailnet();
        let auth = format!(r#","Auth":{{"AuthKey":"{}"}},"Expiry":"1970-01-01T00:02:03Z""#, key_text());
        let logout = Command::Logout { machine_key: MACHINE, node_key: NodeKey([2; 32]) };
        assert_eq!(planned(&state, MACHINE, &request(2, &auth)), Plan::Propose(logout));
        assert_eq!(planned(&state, MACHINE, &request(3, &auth)), Plan::Expired, "nobody to log out");
    }

    #[test]
    fn another_machine_gets_nowhere() {
        let state = tailnet();
        let auth = format!(r#","Auth":{{"AuthKey":"{}"}}"#, key_text());
        for more in ["", &auth, r#","Expiry":"1970-01-01T00:02:03Z""#, r#","Followup":"https://x/register/abc""#] {
            assert_eq!(planned(&state, MachineKey([9; 32]), &request(2, more)), Plan::Stranger, "{more}");
        }
    }

    #[test]
    fn an_end_may_only_come_nearer() {
        let mut state = tailnet();
        let expiry = NOW.after(std::time::Duration::from_secs(3600));
        let wish = format!(r#","Expiry":"{expiry}""#);
        let sooner = Command::ExpireSooner { machine_key: MACHINE, node_key: NodeKey([2; 32]), expiry };
        assert_eq!(planned(&state, MACHINE, &request(2, &wish)), Plan::Propose(sooner.clone()));
        state.apply(Stamp { at: NOW, revision: Revision(9) }, sooner).unwrap();
        assert_eq!(planned(&state, MACHINE, &request(2, &wish)), Plan::Known(NodeId(1)));
        let later = NOW.after(std::time::Duration::from_secs(7200));
        let later = format!(r#","Expiry":"{later}""#);
        assert_eq!(planned(&state, MACHINE, &request(2, &later)), Plan::Known(NodeId(1)));
        let after = NOW.after(std::time::Duration::from_secs(4000));
        assert_eq!(plan(&state, after, MACHINE, &request(2, ""), None), Plan::Expired);
    }

    #[test]
    fn newcomers_need_a_key_or_a_person() {
        let state = tailnet();
        assert_eq!(planned(&state, MACHINE, &request(3, "")), Plan::Begin);
        assert_eq!(planned(&state, MACHINE, &request(3, r#","Auth":{"AuthKey":""}"#)), Plan::Begin);
        for key in
            ["x", "hskey-auth-", "hskey-auth-abcdefghijkl", "hskey-auth-abcdefghijkl-", "hskey-auth-abc defghijkl-x"]
        {
            let more = format!(r#","Auth":{{"AuthKey":"{key}"}}"#);
            assert_eq!(planned(&state, MACHINE, &request(3, &more)), Plan::BadKey, "{key}");
        }
        let follow = r#","Followup":"https://hs.example.com/register/abcDEF""#;
        assert_eq!(planned(&state, MACHINE, &request(3, follow)), Plan::Wait(LoginId("abcDEF".to_owned())));
        // It waited for a person, and came in by an import meanwhile.
        assert_eq!(planned(&state, MACHINE, &request(2, follow)), Plan::Known(NodeId(1)));
    }

    #[test]
    fn a_login_is_watched_to_its_end() {
        let mut state = tailnet();
        let id = LoginId("abc".to_owned());
        let client = Registration { machine_key: MACHINE, node_key: NodeKey([3; 32]), ..Registration::default() };
        assert_eq!(progress(&state, NOW, MACHINE, &id), Progress::Over);
        let begin = Command::BeginLogin { client, id: id.clone() };
        state.apply(Stamp { at: NOW, revision: Revision(9) }, begin).unwrap();
        assert_eq!(progress(&state, NOW, MACHINE, &id), Progress::Waiting);
        assert_eq!(progress(&state, NOW, MachineKey([9; 32]), &id), Progress::Over, "not theirs");
        let later = NOW.after(std::time::Duration::from_secs(3600));
        assert_eq!(progress(&state, later, MACHINE, &id), Progress::Over);
        let reject = Command::RejectLogin { id: id.clone(), reason: "no".to_owned() };
        state.apply(Stamp { at: NOW, revision: Revision(10) }, reject).unwrap();
        assert_eq!(progress(&state, NOW, MACHINE, &id), Progress::Rejected("no".to_owned()));
    }
}
