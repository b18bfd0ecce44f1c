//! The way of a browser: `/register/<id>` or `/auth/<id>` → the provider → `/oidc/callback` → yes or no.
//!
//! Each step may meet another member: all that must be remembered is a row of the state. What a browser carries is a
//! random text (`state`); nonce, proof key and the browser's own cookie are derived from it with a key all members have,
//! and the row is found by its hash. So the log alone is of no use to anybody, and a forged text finds nothing.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use admin::throttle::Throttle;
use axum::{
    Router,
    body::Body,
    extract::{ConnectInfo, Path, Request, State as Shared},
    response::Response,
    routing::{get, post},
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use http_body_util::{BodyExt, Limited};
use ring::hmac;
use sha2::{Digest, Sha256};
use state_machine::{
    Command, Identity, LoginId, LoginResult, Outcome, Refusal, SignIn, SignInProgress, SignInSubject, SshCheckResult,
    State, Timestamp,
    codes::{self, Code},
};
use subtle::ConstantTimeEq;
use tokio::time::Instant;

use super::{
    pages::{self, Language},
    provider::{Provider, Question, Trouble},
    rules,
};
use crate::{control::Control, keys};

/// Random texts in URLs and pages; nearly 256 bits.
const TEXT_LENGTH: usize = 43;
/// Cookies live as long as a sign-in may.
const COOKIE_SECS: u32 = 15 * 60;
/// A form with two short fields.
const FORM_BYTES_MAX: usize = 4 << 10;
/// Codes of providers have some hundred characters.
const PARAM_BYTES_MAX: usize = 4 << 10;
/// How long a page waits for news of what another member may have begun.
const CATCH_UP: Duration = Duration::from_secs(2);
/// As Headscale names it.
const CONFIRM_COOKIE: &str = "headscale_register_confirm";

/// What texts in browsers are derived with; the same at all members.
#[derive(Clone)]
pub struct Key(hmac::Key);

impl Key {
    /// From the cluster's Noise key, which every member has and nobody else.
    pub fn of(noise_private: &[u8; 32]) -> Key {
        let root = hmac::Key::new(hmac::HMAC_SHA256, noise_private);
        Key(hmac::Key::new(hmac::HMAC_SHA256, hmac::sign(&root, b"hsraft sign-in 1").as_ref()))
    }

    /// 43 characters.
    fn derive(&self, what: &str, state: &str) -> String {
        URL_SAFE_NO_PAD.encode(hmac::sign(&self.0, format!("{what} {state}").as_bytes()))
    }
}

/// Where people sign in at this member.
pub struct Desk {
    control: Arc<Control>,
    pub provider: Option<Arc<Provider>>,
    key: Key,
    throttle: Throttle,
}

impl Desk {
    /// Without a provider people are told what to run on a server.
    pub fn new(control: Arc<Control>, provider: Option<Arc<Provider>>, key: Key) -> Desk {
        Desk { control, provider, key, throttle: Throttle::default() }
    }

    fn now(&self) -> Timestamp {
        Timestamp(self.control.clock.now_ms())
    }

    /// What this member knows, or what is certain when it does not know what is asked for.
    async fn state_with(&self, known: impl Fn(&State) -> bool) -> Arc<State> {
        let state = self.control.cluster.latest();
        if known(&state) {
            return state;
        }
        match tokio::time::timeout(CATCH_UP, self.control.cluster.confirm()).await {
            Ok(Ok(state)) => state,
            _ => state,
        }
    }

    async fn propose(&self, by: &str, command: Command) -> Result<Outcome, Failure> {
        match self.control.cluster.propose(by, command).await {
            Ok(applied) => applied.answer.map_err(Failure::Refused),
            Err(error) => {
                tracing::warn!(%error, "a sign-in was not taken");
                Err(Failure::NoQuorum)
            }
        }
    }
}

enum Failure {
    Refused(Refusal),
    NoQuorum,
}

impl Failure {
    fn page(self, language: Language) -> Response {
        match self {
            Failure::Refused(Refusal::LoginOver | Refusal::NotFound { .. }) => over(language),
            Failure::Refused(refusal) => {
                pages::trouble(StatusCode::FORBIDDEN, language, refusal.code(), &refusal.to_string())
            }
            Failure::NoQuorum => pages::trouble(StatusCode::SERVICE_UNAVAILABLE, language, &codes::NO_QUORUM, ""),
        }
    }
}

/// The pages.
pub fn router(desk: Arc<Desk>) -> Router {
    Router::new()
        .route("/register/{id}", get(register))
        .route("/auth/{id}", get(check))
        .route("/oidc/callback", get(callback))
        .route("/register/confirm/{id}", post(confirm))
        .with_state(desk)
}

async fn register(Shared(desk): Shared<Arc<Desk>>, Path(id): Path<String>, request: Request) -> Response {
    let (language, from) = (Language::of(request.headers()), address(&request));
    if !is_id(&id) {
        return plain(StatusCode::BAD_REQUEST, &codes::SIGN_IN_OVER, "not a login id");
    }
    let login = LoginId(id.clone());
    let state = desk.state_with(|state| state.login(&login).is_some()).await;
    match state.login(&login).map(|login| &login.result) {
        Some(LoginResult::Registered(_)) => welcome(language),
        Some(LoginResult::Rejected(_)) => {
            let heading = language.say("This login was refused", "此登录已被拒绝");
            pages::page(StatusCode::OK, language, heading, "")
        }
        found => match sign_in_provider(&desk, &state) {
            Some(provider) if found.is_some() => {
                begin(&desk, provider, SignInSubject::Login(login), from, language).await
            }
            Some(_) => over(language),
            None => by_hand(language, &id),
        },
    }
}

async fn check(Shared(desk): Shared<Arc<Desk>>, Path(id): Path<String>, request: Request) -> Response {
    let (language, from) = (Language::of(request.headers()), address(&request));
    if !is_id(&id) {
        return plain(StatusCode::BAD_REQUEST, &codes::NOT_A_CHECK_ID, "not the id of a connection");
    }
    let state = desk.state_with(|state| state.ssh_check(&id).is_some()).await;
    let done = |heading| pages::page(StatusCode::OK, language, heading, "");
    match state.ssh_check(&id).map(|check| &check.result) {
        Some(SshCheckResult::Approved { .. }) => done(language.say("The connection was approved", "连接已获批准")),
        Some(SshCheckResult::Rejected { .. }) => done(language.say("The connection was turned away", "连接已被拒绝")),
        found => match sign_in_provider(&desk, &state) {
            Some(provider) if found.is_some() => {
                begin(&desk, provider, SignInSubject::SshCheck(id), from, language).await
            }
            Some(_) => over(language),
            None => {
                let heading = language.say("A connection by SSH asks to be let in", "有一个 SSH 连接请求接入");
                let inner = format!(
                    "<p>{}</p>{}",
                    language.say("On a server, run:", "请在服务器上运行："),
                    pages::command(&format!("hsraft ssh approve {id}"))
                );
                pages::page(StatusCode::OK, language, heading, &inner)
            }
        },
    }
}

/// The provider, where there is one and all members know what a sign-in is.
fn sign_in_provider<'a>(desk: &'a Desk, state: &State) -> Option<&'a Arc<Provider>> {
    desk.provider.as_ref().filter(|_| state.feature_level() >= state_machine::OPERATION)
}

/// Off to the provider.
async fn begin(
    desk: &Desk,
    provider: &Arc<Provider>,
    subject: SignInSubject,
    from: Option<IpAddr>,
    language: Language,
) -> Response {
    // Anybody who has the link may begin, and each beginning is an entry of the log.
    if desk.throttle.wait(from, Instant::now()).is_some() {
        return pages::trouble(StatusCode::TOO_MANY_REQUESTS, language, &codes::SIGN_IN_TOO_MANY, "");
    }
    desk.throttle.failed(from, Instant::now());
    let state = keys::random_text(&desk.control.entropy, TEXT_LENGTH);
    let texts = Texts::of(desk, &state);
    let address = match provider.address(&texts.question()).await {
        Ok(address) => address,
        Err(trouble) => return unreachable(&trouble, &subject, language),
    };
    let command = Command::BeginSignIn { id: hash_text(&state), subject, provider: provider.name() };
    if let Err(failure) = desk.propose(&desk.control.name, command).await {
        return failure.page(language);
    }
    let mut answer = Response::new(Body::empty());
    *answer.status_mut() = StatusCode::FOUND;
    let headers = answer.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    let cookie = set_cookie(&cookie_name(&state), &texts.browser, "/oidc/callback", "Lax", texts.secure);
    match (HeaderValue::from_str(address.as_str()), cookie) {
        (Ok(address), Some(cookie)) => {
            headers.insert(header::LOCATION, address);
            headers.insert(header::SET_COOKIE, cookie);
            answer
        }
        _ => pages::trouble(StatusCode::INTERNAL_SERVER_ERROR, language, &codes::INTERNAL, ""),
    }
}

/// What is derived from a `state`.
struct Texts<'a> {
    state: &'a str,
    nonce: String,
    verifier: String,
    browser: String,
    redirect: String,
    secure: bool,
}

impl<'a> Texts<'a> {
    fn of(desk: &Desk, state: &'a str) -> Texts<'a> {
        let server = desk.control.cluster.latest().settings().server_url.clone();
        Texts {
            nonce: desk.key.derive("nonce", state),
            verifier: desk.key.derive("proof key", state),
            browser: desk.key.derive("browser", state),
            redirect: format!("{}/oidc/callback", server.trim_end_matches('/')),
            secure: server.starts_with("https://"),
            state,
        }
    }

    fn question(&self) -> Question<'_> {
        Question { redirect: &self.redirect, state: self.state, nonce: &self.nonce, verifier: &self.verifier }
    }
}

/// Back from the provider.
async fn callback(Shared(desk): Shared<Arc<Desk>>, request: Request) -> Response {
    let language = Language::of(request.headers());
    let said = |code: &'static Code, status: StatusCode, detail: &str| pages::trouble(status, language, code, detail);
    let Some(provider) = &desk.provider else {
        return said(&codes::SIGN_IN_SETUP, StatusCode::NOT_FOUND, "this member has no login provider configured");
    };
    let query = request.uri().query().unwrap_or_default();
    let param = |name: &str| {
        let mut found = url::form_urlencoded::parse(query.as_bytes()).filter(|(key, _)| key == name);
        found.next().map(|(_, value)| value.into_owned()).filter(|value| value.len() <= PARAM_BYTES_MAX)
    };
    let Some(state_text) = param("state").filter(|text| is_text(text)) else {
        return said(&codes::SIGN_IN_BROWSER, StatusCode::BAD_REQUEST, "the provider sent no usable state");
    };
    let texts = Texts::of(&desk, &state_text);
    // Before anything is looked up: only the browser that began may go on.
    match cookie(request.headers(), &cookie_name(&state_text)) {
        None => {
            let detail = "the cookie of this sign-in is missing";
            return said(&codes::SIGN_IN_BROWSER, StatusCode::BAD_REQUEST, detail);
        }
        Some(value) if !same(&value, &texts.browser) => {
            return said(&codes::SIGN_IN_BROWSER, StatusCode::FORBIDDEN, "the cookie belongs to another sign-in");
        }
        Some(_) => {}
    }
    let id = hash_text(&state_text);
    let state = desk.state_with(|state| state.sign_in(&id).is_some()).await;
    let Some(row) = state.sign_in(&id).filter(|row| row.expires_at > desk.now()) else { return over(language) };
    if row.progress != SignInProgress::Away {
        return over(language);
    }
    if row.provider != provider.name() {
        return said(&codes::SIGN_IN_SETUP, StatusCode::INTERNAL_SERVER_ERROR, "");
    }
    if let Some(error) = param("error") {
        let more = param("error_description").unwrap_or_default();
        tracing::info!(error, more, "the login provider refused somebody");
        let detail = format!("the provider says: {error} {more}");
        return said(&codes::SIGN_IN_NOT_PROVED, StatusCode::FORBIDDEN, detail.trim());
    }
    let Some(code) = param("code").filter(|code| !code.is_empty()) else {
        return said(&codes::SIGN_IN_NOT_PROVED, StatusCode::BAD_REQUEST, "the provider sent no usable code");
    };
    let claims = match provider.ask(&texts.question(), &code).await {
        Ok(claims) => claims,
        Err(trouble @ (Trouble::Unreachable(_) | Trouble::Busy)) => {
            return unreachable(&trouble, &row.subject, language);
        }
        Err(Trouble::NotProved(why)) => {
            tracing::warn!(why, "nobody was proved by the login provider");
            return said(&codes::SIGN_IN_NOT_PROVED, StatusCode::FORBIDDEN, &why);
        }
    };
    if let Err(no) = rules::admit(&provider.options, &claims) {
        tracing::info!(subject = claims.subject, email = claims.email, why = no.text(), "somebody may not join");
        return said(&codes::SIGN_IN_REFUSED, StatusCode::UNAUTHORIZED, no.text());
    }
    let identity = rules::identity(&provider.options, &claims);
    let word = keys::random_text(&desk.control.entropy, TEXT_LENGTH);
    let confirm_sha256 = Sha256::digest(&word).into();
    let command = Command::ProveSignIn { id: id.clone(), identity: identity.clone(), confirm_sha256 };
    if let Err(failure) = desk.propose(&desk.control.name, command).await {
        return failure.page(language);
    }
    ask_page(&desk.control.cluster.latest(), row, &identity, &word, texts.secure, language)
}

/// Is it you, and do you want that? The form can only be sent from this page: its word lies in a cookie no other site can
/// have sent.
fn ask_page(
    state: &State,
    row: &SignIn,
    identity: &Identity,
    word: &str,
    secure: bool,
    language: Language,
) -> Response {
    let person = [&identity.email, &identity.name, &identity.display_name].into_iter().find(|text| !text.is_empty());
    let person = person.map_or("–", String::as_str).to_owned();
    let you = (language.say("You are", "您是"), person);
    let (heading, rows, id) = match &row.subject {
        SignInSubject::Login(id) => {
            let login = state.login(id);
            let host = login.map(|login| login.hostname.clone()).unwrap_or_default();
            let os = login.map(|login| login.hostinfo.os.clone()).unwrap_or_default();
            let tags = login.map(|login| login.hostinfo.request_tags.iter().cloned().collect::<Vec<_>>().join(", "));
            let key = login.map(|login| login.machine_key.to_string().chars().take(17).collect::<String>());
            let rows = vec![
                you,
                (language.say("Machine", "设备"), host),
                (language.say("System", "系统"), os),
                (language.say("Tags it asks for", "请求的标签"), tags.unwrap_or_default()),
                (language.say("Its key begins", "设备密钥开头"), key.unwrap_or_default()),
            ];
            (language.say("Let this machine into the network?", "允许此设备加入网络吗？"), rows, id.0.clone())
        }
        SignInSubject::SshCheck(id) => {
            let check = state.ssh_check(id);
            let name = |node| state.node(node).map(|node| node.given_name.clone()).unwrap_or_default();
            let rows = vec![
                you,
                (language.say("From", "来自"), check.map(|check| name(check.source)).unwrap_or_default()),
                (language.say("To", "目标"), check.map(|check| name(check.target)).unwrap_or_default()),
                (language.say("As", "登录用户"), check.map(|check| check.local_user.clone()).unwrap_or_default()),
            ];
            (language.say("Let this SSH connection in?", "允许此 SSH 连接吗？"), rows, id.clone())
        }
    };
    let inner = format!(
        "{}<p>{}</p><form method=\"post\" action=\"/register/confirm/{}\">\
         <input type=\"hidden\" name=\"sign_in\" value=\"{}\">\
         <button class=\"yes\" name=\"answer\" value=\"yes\">{}</button>\
         <button name=\"answer\" value=\"no\">{}</button></form>",
        pages::facts(&rows),
        language.say(
            "Say yes only if you started this yourself a moment ago.",
            "仅当这是您本人刚刚发起的操作时才选择允许。"
        ),
        pages::escaped(&id),
        pages::escaped(&row.id),
        language.say("Yes, let it in", "允许"),
        language.say("No", "拒绝"),
    );
    let mut answer = pages::page(StatusCode::OK, language, heading, &inner);
    let headers = answer.headers_mut();
    if let Some(cookie) = set_cookie(CONFIRM_COOKIE, word, "/register/confirm/", "Strict", secure) {
        headers.append(header::SET_COOKIE, cookie);
    }
    answer
}

/// Yes or no.
async fn confirm(Shared(desk): Shared<Arc<Desk>>, Path(subject): Path<String>, request: Request) -> Response {
    let language = Language::of(request.headers());
    let said = |code: &'static Code, status: StatusCode, detail: &str| pages::trouble(status, language, code, detail);
    if !is_id(&subject) {
        return plain(StatusCode::BAD_REQUEST, &codes::SIGN_IN_OVER, "not a login id");
    }
    let from = address(&request);
    let Some(word) = cookie(request.headers(), CONFIRM_COOKIE).filter(|word| is_text(word)) else {
        return said(&codes::SIGN_IN_BROWSER, StatusCode::FORBIDDEN, "the cookie of the confirmation page is missing");
    };
    let body = Limited::new(request.into_body(), FORM_BYTES_MAX).collect();
    let form = match tokio::time::timeout(desk.control.limits.handshake, body).await {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(error)) if error.is::<http_body_util::LengthLimitError>() => {
            return said(&codes::TOO_LARGE, StatusCode::PAYLOAD_TOO_LARGE, "");
        }
        _ => return plain(StatusCode::BAD_REQUEST, &codes::CLIENT_UNREADABLE, "the form broke off"),
    };
    let field = |name: &str| {
        url::form_urlencoded::parse(&form).find(|(key, _)| key == name).map(|(_, value)| value.into_owned())
    };
    let accept = match field("answer").as_deref() {
        Some("yes") => true,
        Some("no") => false,
        _ => return plain(StatusCode::BAD_REQUEST, &codes::CLIENT_UNREADABLE, "the form says neither yes nor no"),
    };
    let id = field("sign_in").unwrap_or_default();
    let proved = |state: &State| state.sign_in(&id).is_some_and(|row| row.progress != SignInProgress::Away);
    let state = desk.state_with(proved).await;
    let Some(row) = state.sign_in(&id) else { return over(language) };
    let is_it = match &row.subject {
        SignInSubject::Login(login) => login.0 == subject,
        SignInSubject::SshCheck(check) => *check == subject,
    };
    let SignInProgress::Proved { identity, .. } = &row.progress else { return over(language) };
    if !is_it {
        return over(language);
    }
    let names = [&identity.email, &identity.name, &identity.provider_id];
    let person = names.into_iter().find(|name| !name.is_empty()).cloned().unwrap_or_default();
    let by = match from {
        Some(from) => format!("oidc {person} from {}", from.to_canonical()),
        None => format!("oidc {person}"),
    };
    let confirm_sha256 = Sha256::digest(&word).into();
    let seed = desk.control.entropy.u64();
    let finished = desk.propose(&by, Command::FinishSignIn { id, confirm_sha256, accept, seed }).await;
    let mut answer = match finished {
        Err(failure) => return failure.page(language),
        Ok(_) if !accept => {
            let heading = language.say("Turned away", "已拒绝");
            let inner = language.say(
                "<p>Nothing was let in. If you did not start this, somebody else did: tell whoever runs the network.</p>",
                "<p>未允许任何接入。如果这不是您发起的，请告知网络管理员。</p>",
            );
            pages::page(StatusCode::OK, language, heading, inner)
        }
        Ok(_) => match &row.subject {
            SignInSubject::Login(_) => welcome(language),
            SignInSubject::SshCheck(_) => {
                let heading = language.say("The connection was approved", "连接已获批准");
                pages::page(StatusCode::OK, language, heading, "")
            }
        },
    };
    if let Some(gone) = set_cookie(CONFIRM_COOKIE, "", "/register/confirm/", "Strict", false) {
        answer.headers_mut().append(header::SET_COOKIE, gone);
    }
    answer
}

fn welcome(language: Language) -> Response {
    let heading = language.say("The machine is in", "设备已加入");
    let inner = language.say("<p>You can close this page.</p>", "<p>可以关闭此页面。</p>");
    pages::page(StatusCode::OK, language, heading, inner)
}

/// What to run to let the node in. Tells nothing about the node: whoever guesses ids shall not learn names.
fn by_hand(language: Language, id: &str) -> Response {
    let heading = language.say("A machine asks to be let in", "有一台设备请求加入");
    let inner = format!(
        "<p>{}</p>{}",
        language.say(
            "On a server, run this with the name of the user it shall belong to:",
            "请在服务器上运行以下命令，并填写所属用户名："
        ),
        pages::command(&format!("hsraft nodes register --key {id} --user USERNAME"))
    );
    pages::page(StatusCode::OK, language, heading, &inner)
}

fn over(language: Language) -> Response {
    pages::trouble(StatusCode::GONE, language, &codes::SIGN_IN_OVER, "")
}

fn unreachable(trouble: &Trouble, subject: &SignInSubject, language: Language) -> Response {
    tracing::warn!(%trouble, "a sign-in did not get through to the login provider");
    let (code, status) = match trouble {
        Trouble::Busy => (&codes::SIGN_IN_TOO_MANY, StatusCode::SERVICE_UNAVAILABLE),
        _ => (&codes::SIGN_IN_UNAVAILABLE, StatusCode::SERVICE_UNAVAILABLE),
    };
    let detail = match subject {
        SignInSubject::Login(_) => language.say("The machine keeps waiting", "设备仍在等待"),
        SignInSubject::SshCheck(_) => language.say("The connection keeps waiting", "连接仍在等待"),
    };
    let mut answer = pages::trouble(status, language, code, detail);
    answer.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("30"));
    answer
}

/// Where a request came from.
fn address(request: &Request) -> Option<IpAddr> {
    request.extensions().get::<ConnectInfo<SocketAddr>>().map(|info| info.0.ip())
}

fn plain(status: StatusCode, code: &'static Code, text: &'static str) -> Response {
    let mut answer = Response::new(Body::from(format!("{text} [{code}]")));
    *answer.status_mut() = status;
    answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    answer
}

fn is_id(id: &str) -> bool {
    !id.is_empty() && id.len() <= 64 && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
}

/// One of our random or derived texts, from its form.
fn is_text(text: &str) -> bool {
    text.len() == TEXT_LENGTH && is_id(text)
}

fn same(one: &str, other: &str) -> bool {
    one.as_bytes().ct_eq(other.as_bytes()).into()
}

fn hash_text(text: &str) -> String {
    hex::encode(Sha256::digest(text))
}

/// One a sign-in, so that several tabs do not disturb each other.
fn cookie_name(state: &str) -> String {
    format!("hsraft_sign_in_{}", &state[..6])
}

fn cookie(headers: &HeaderMap, name: &str) -> Option<String> {
    let all = headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
    let mut pairs = all.flat_map(|line| line.split(';')).filter_map(|pair| pair.trim().split_once('='));
    pairs.find(|(key, _)| *key == name).map(|(_, value)| value.to_owned())
}

/// Empty: the browser shall forget it.
fn set_cookie(name: &str, value: &str, path: &str, same_site: &str, secure: bool) -> Option<HeaderValue> {
    let age = if value.is_empty() { 0 } else { COOKIE_SECS };
    let secure = if secure { "; Secure" } else { "" };
    let text = format!("{name}={value}; Path={path}; Max-Age={age}; HttpOnly; SameSite={same_site}{secure}");
    HeaderValue::from_str(&text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_follow_from_the_key_and_the_state_alone() {
        let (one, other) = (Key::of(&[1; 32]), Key::of(&[2; 32]));
        let state = "s".repeat(43);
        assert_eq!(one.derive("nonce", &state), Key::of(&[1; 32]).derive("nonce", &state));
        let texts = [
            one.derive("nonce", &state),
            one.derive("proof key", &state),
            one.derive("browser", &state),
            other.derive("nonce", &state),
            one.derive("nonce", &"t".repeat(43)),
        ];
        for (nth, text) in texts.iter().enumerate() {
            assert!(is_text(text), "{text}");
            assert!(texts.iter().skip(nth + 1).all(|other| other != text));
        }
    }

    #[test]
    fn cookies_are_found_among_others() {
        let headers: HeaderMap =
            [(header::COOKIE, HeaderValue::from_static("a=1; hsraft_sign_in_ssssss=x; b=2"))].into_iter().collect();
        assert_eq!(cookie(&headers, &cookie_name(&"s".repeat(43))).as_deref(), Some("x"));
        assert_eq!(cookie(&headers, "c"), None);
    }

    #[test]
    fn only_ids_are_ids() {
        for id in ["", "<script>", "a b", &"x".repeat(65)] {
            assert!(!is_id(id), "{id}");
        }
        assert!(is_id("hskey-authreq-abcDEF123456abcDEF123456"));
    }
}
