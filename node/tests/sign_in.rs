//! People who sign in at a login provider: a provider in this process that also lies, and three members of which each
//! step meets another one.

mod common;

use std::{sync::Arc, time::Duration};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use common::{Machine, Member, within};
use node::{
    mockoidc::{self, Mock, User},
    options::{ClientSecret, Oidc, Pkce, Start, Token},
};
use serde_json::{Value, json};
use state_machine::JoinRole;
use tokio_util::sync::CancellationToken;

async fn provider() -> (Arc<Mock>, CancellationToken) {
    let stop = CancellationToken::new();
    let options = mockoidc::Options {
        address: ([127, 0, 0, 1], 0).into(),
        client_id: "hsraft".into(),
        client_secret: "secret".into(),
        access_ttl: Duration::from_secs(600),
        users: vec![ann()],
    };
    (mockoidc::start(options, world::real::world(), stop.clone()).await.unwrap(), stop)
}

fn ann() -> User {
    User {
        subject: "1".into(),
        email: "ann@example.com".into(),
        email_verified: true,
        preferred_username: "ann".into(),
        groups: vec!["/dev".into()],
    }
}

fn oidc(mock: &Mock) -> Oidc {
    Oidc {
        issuer: mock.issuer.clone(),
        client_id: "hsraft".into(),
        client_secret: ClientSecret("secret".into()),
        scope: vec!["openid".into(), "email".into()],
        extra_params: [("domain_hint".to_owned(), "example.com".to_owned())].into(),
        allowed_domains: vec!["example.com".into()],
        allowed_groups: vec![],
        allowed_users: vec![],
        email_verified_required: true,
        use_expiry_from_token: true,
        pkce: Pkce::S256,
        only_start_if_available: true,
        authorities: None,
    }
}

async fn three(oidc: &Oidc) -> Vec<Member> {
    let first = Member::start_with(|options| options.oidc = Some(oidc.clone())).await;
    let mut members = vec![first];
    for name in ["hs2", "hs3"] {
        let cluster = members[0].server.cluster();
        let token = cluster.create_join_token(Duration::from_secs(60), "", JoinRole::Voter, "test").await.unwrap();
        let address = cluster.latest().member(cluster.me()).unwrap().peer_address.clone();
        let member = Member::start_with(|options| {
            options.name = name.to_owned();
            options.oidc = Some(oidc.clone());
            options.start = Start::Join { addresses: vec![address], token: Token(token), replaces: String::new() };
        })
        .await;
        members.push(member);
    }
    members
}

async fn end(members: Vec<Member>) {
    for member in members {
        within(member.server.drain()).await;
    }
}

/// Status, head and body.
#[derive(Debug)]
struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl Answer {
    fn of(text: String) -> Answer {
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
        let status = head.split(' ').nth(1).and_then(|word| word.parse().ok()).unwrap_or(0);
        Answer { status, head: head.to_owned(), body: body.to_owned() }
    }

    fn header(&self, name: &str) -> &str {
        let line = self.head.lines().find(|line| line.to_lowercase().starts_with(&format!("{name}: ")));
        line.map_or("", |line| &line[name.len() + 2..])
    }

    /// `name=value` of the cookie it sets.
    fn cookie(&self) -> String {
        self.header("set-cookie").split(';').next().unwrap_or_default().to_owned()
    }
}

async fn get(member: &Member, path: &str, cookie: &str) -> Answer {
    let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nCookie: {cookie}\r\nConnection: close\r\n\r\n");
    Answer::of(member.http(&request).await)
}

async fn post(member: &Member, path: &str, cookie: &str, form: &str) -> Answer {
    let length = form.len();
    Answer::of(
        member
            .http(&format!(
                "POST {path} HTTP/1.1\r\nHost: x\r\nCookie: {cookie}\r\nContent-Type: application/x-www-form-urlencoded\r\n\
                 Content-Length: {length}\r\nConnection: close\r\n\r\n{form}"
            ))
            .await,
    )
}

/// What the provider answers a browser: the path of the way back.
async fn visit(mock: &Mock, address: &str) -> String {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let path = address.strip_prefix(&format!("http://{}", mock.address)).expect("the provider's own address");
    let mut stream = world::real::world().net.connect(&mock.address.to_string()).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut text = String::new();
    within(stream.read_to_string(&mut text)).await.unwrap();
    let answer = Answer::of(text);
    assert_eq!(answer.status, 302, "{answer:?}");
    answer.header("location").strip_prefix("http://127.0.0.1").unwrap().to_owned()
}

/// A machine asks; the path of its login page.
async fn knock(machine: &Machine, member: &Member) -> (String, String) {
    let answer = machine.dial(member).await.register(&machine.registration()).await;
    let url = answer["AuthURL"].as_str().unwrap().to_owned();
    let path = url.strip_prefix("http://127.0.0.1").unwrap().to_owned();
    (url, path)
}

/// Until the way back: its path and the browser's cookie.
async fn there(mock: &Mock, member: &Member, path: &str) -> (String, String) {
    let sent = get(member, path, "").await;
    assert_eq!(sent.status, 302, "{sent:?}");
    (visit(mock, sent.header("location")).await, sent.cookie())
}

fn form(page: &str) -> (String, String) {
    let action = page.split("action=\"").nth(1).unwrap().split('"').next().unwrap().to_owned();
    let id = page.split("name=\"sign_in\" value=\"").nth(1).unwrap().split('"').next().unwrap().to_owned();
    (action, id)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_step_may_meet_another_member() {
    let (mock, stop) = provider().await;
    let members = three(&oidc(&mock)).await;
    let [first, second, third] = &members[..] else { panic!() };
    let laptop = Machine::new(1, "<b>laptop</b>");

    let (url, path) = knock(&laptop, first).await;
    let mut follow = laptop.registration();
    follow["Followup"] = json!(url);
    let mut waiting = laptop.dial(second).await;
    let browser = async {
        let sent = get(second, &path, "").await;
        assert_eq!(sent.status, 302, "{sent:?}");
        let address = sent.header("location");
        for wanted in ["code_challenge_method=S256", "domain_hint=example.com", "scope=openid+email", "nonce="] {
            assert!(address.contains(wanted), "{address}");
        }
        assert!(sent.header("set-cookie").contains("HttpOnly; SameSite=Lax"), "{}", sent.head);
        let (back, cookie) = (visit(&mock, address).await, sent.cookie());
        let page = get(third, &back, &cookie).await;
        assert_eq!(page.status, 200, "{page:?}");
        assert!(page.body.contains("ann@example.com") && page.body.contains("&lt;b&gt;laptop"), "{}", page.body);
        assert_eq!(first.server.cluster().latest().users().len(), 0, "nothing happens before somebody says yes");
        // The same way back a second time, at another member.
        let again = get(first, &back, &cookie).await;
        assert!(again.status == 410 && again.body.contains("HSR-1302"), "{again:?}");
        let (action, id) = form(&page.body);
        let yes = format!("sign_in={id}&answer=yes");
        // Without the page's cookie, and with a guess.
        for (cookie, status) in [("", 403), (&*format!("headscale_register_confirm={}", "x".repeat(43)), 410)] {
            let refused = post(first, &action, cookie, &yes).await;
            assert_eq!(refused.status, status, "{refused:?}");
        }
        let done = post(first, &action, &page.cookie(), &yes).await;
        assert!(done.status == 200 && done.body.contains("The machine is in"), "{done:?}");
        let twice = post(second, &action, &page.cookie(), &yes).await;
        assert_eq!(twice.status, 410, "{twice:?}");
    };
    let (answer, ()) = tokio::join!(waiting.register(&follow), browser);
    assert_eq!(answer["MachineAuthorized"], true, "{answer}");

    let state = within(third.server.cluster().confirm()).await.unwrap();
    let user = state.user_by_name("ann").unwrap();
    assert_eq!((user.provider.as_str(), user.email.as_str()), ("oidc", "ann@example.com"));
    assert!(user.groups.contains("/dev") && user.provider_id.ends_with("/oidc/1"), "{user:?}");
    let node = state.nodes().values().next().unwrap();
    let lasts = node.expiry.unwrap().since(state.now());
    assert!(lasts <= Duration::from_secs(600) && lasts > Duration::from_secs(500), "the token's end: {lasts:?}");
    let (_, told) = state.audit_log().get_max().unwrap();
    assert!(
        told.text.contains(r#""by":"oidc ann@example.com","from":"127.0.0.1","what":"finish sign in""#),
        "{told:?}"
    );

    // The key has expired: the client makes a new one, and the same person brings the same node back.
    let expire = state_machine::Command::SetNodeExpiry { node: node.id, expiry: Some(state.now()) };
    first.done(expire).await;
    let mut renewed = laptop.clone();
    renewed.node_key = tailcfg::NodeKey([77; 32]);
    let mut request = renewed.registration();
    request["OldNodeKey"] = json!(laptop.node_key.to_string());
    let answer = renewed.dial(third).await.register(&request).await;
    let path = answer["AuthURL"].as_str().unwrap().strip_prefix("http://127.0.0.1").unwrap().to_owned();
    let (back, cookie) = there(&mock, first, &path).await;
    let page = get(second, &back, &cookie).await;
    let (action, id) = form(&page.body);
    let done = post(third, &action, &page.cookie(), &format!("sign_in={id}&answer=yes")).await;
    assert_eq!(done.status, 200, "{done:?}");
    let state = within(first.server.cluster().confirm()).await.unwrap();
    assert_eq!((state.nodes().len(), state.users().len()), (1, 1));
    assert_eq!(state.node(node.id).unwrap().node_key, renewed.node_key);
    assert!(!state.is_expired(node.id));
    stop.cancel();
    end(members).await;
}

/// A lie of the provider, and what the page says of it.
type Lie = (&'static str, fn(&Mock, &mut Value, &mut Value) -> Option<String>, &'static str);

const LIES: &[Lie] = &[
    (
        "another issuer",
        |_, _, claims| set(claims, "iss", json!("https://evil.example.com")),
        "made by another provider",
    ),
    ("another audience", |_, _, claims| set(claims, "aud", json!("other")), "made for another application"),
    (
        "an audience of many, meant for another",
        |_, _, claims| {
            set(claims, "aud", json!(["hsraft", "other"]));
            set(claims, "azp", json!("other"))
        },
        "made for another application",
    ),
    ("another nonce", |_, _, claims| set(claims, "nonce", json!("x")), "answers another sign-in"),
    (
        "no nonce",
        |_, _, claims| {
            claims.as_object_mut().unwrap().remove("nonce");
            None
        },
        "answers another sign-in",
    ),
    ("expired", |_, _, claims| set(claims, "exp", json!(1_000_000_000)), "expired already"),
    (
        "not signed",
        |_, head, claims| {
            head["alg"] = json!("none");
            Some(format!("{}.{}.", part(head), part(claims)))
        },
        "not signed by the provider",
    ),
    (
        "signed with the client's secret",
        |_, head, claims| {
            use ring::hmac;
            head["alg"] = json!("HS256");
            let text = format!("{}.{}", part(head), part(claims));
            let key = hmac::Key::new(hmac::HMAC_SHA256, b"secret");
            Some(format!("{text}.{}", URL_SAFE_NO_PAD.encode(hmac::sign(&key, text.as_bytes()))))
        },
        "not signed by the provider",
    ),
    (
        "signed with a key that is not published",
        |mock, head, claims| {
            head["kid"] = json!("2");
            Some(mock.sign(head, claims))
        },
        "not signed by the provider",
    ),
    (
        "changed after it was signed",
        |mock, head, claims| {
            let good = mock.sign(head, claims);
            let mut parts: Vec<&str> = good.split('.').collect();
            claims["sub"] = json!("2");
            let other = part(claims);
            parts[1] = &other;
            Some(parts.join("."))
        },
        "not signed by the provider",
    ),
    ("no token at all", |_, _, _| Some("x".into()), ""),
    ("a huge one", |_, _, _| Some("x".repeat(1 << 20)), "The machine keeps waiting"),
];

fn set(claims: &mut Value, name: &str, value: Value) -> Option<String> {
    claims[name] = value;
    None
}

fn part(value: &Value) -> String {
    URL_SAFE_NO_PAD.encode(value.to_string())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lies_are_refused_and_nothing_changes() {
    let (mock, stop) = provider().await;
    let member = Member::start_with(|options| options.oidc = Some(oidc(&mock))).await;
    let (_, path) = knock(&Machine::new(1, "laptop"), &member).await;
    let untouched = |what: &str| {
        let state = member.server.cluster().latest();
        assert_eq!((state.users().len(), state.nodes().len()), (0, 0), "{what}");
    };
    for (what, lie, said) in LIES {
        let liar = mock.clone();
        mock.twist(Some(Box::new(move |head, claims| lie(&liar, head, claims))));
        let (back, cookie) = there(&mock, &member, &path).await;
        let page = get(&member, &back, &cookie).await;
        assert!(page.status == 403 || page.status == 503, "{what}: {page:?}");
        assert!(page.body.contains("HSR-1305") || page.body.contains("HSR-1301"), "{what}: {}", page.body);
        assert!(page.body.contains(said), "{what}: {}", page.body);
        untouched(what);
    }
    mock.twist(None);

    // Rules of the configuration.
    mock.queue(User { email: "eve@evil.example".into(), subject: "9".into(), ..ann() });
    mock.queue(User { email_verified: false, ..ann() });
    for word in ["unauthorised domain", "unverified email"] {
        let (back, cookie) = there(&mock, &member, &path).await;
        let page = get(&member, &back, &cookie).await;
        let word = word[..1].to_uppercase() + &word[1..];
        assert!(page.status == 401 && page.body.contains(&word) && page.body.contains("HSR-1304"), "{page:?}");
        untouched(&word);
    }

    // Another browser, no cookie, a forged state, somebody else's code.
    let (back, cookie) = there(&mock, &member, &path).await;
    let (name, value) = cookie.split_once('=').unwrap();
    let forged = back.replace(back.split("state=").nth(1).unwrap(), &"f".repeat(43));
    let (other, _) = there(&mock, &member, &path).await;
    let code_of = |path: &str| path.split("code=").nth(1).unwrap().split('&').next().unwrap().to_owned();
    let swapped = back.replace(&code_of(&back), &code_of(&other));
    for (what, back, cookie, status) in [
        ("no cookie", back.clone(), String::new(), 400),
        ("another cookie", back.clone(), format!("{name}={}", "x".repeat(value.len())), 403),
        ("a forged state", forged.clone(), format!("hsraft_sign_in_ffffff={value}"), 403),
        ("a forged state without a cookie", forged, cookie.clone(), 400),
        ("no state", "/oidc/callback?code=x".to_owned(), cookie.clone(), 400),
        ("a state that is too long", format!("/oidc/callback?code=x&state={}", "s".repeat(5_000)), cookie.clone(), 400),
        ("the provider says no", back.replace("code=", "error=access_denied&x="), cookie.clone(), 403),
        ("no code", back.replace("code=", "x="), cookie.clone(), 400),
        ("the code of another sign-in", swapped, cookie.clone(), 403),
    ] {
        let page = get(&member, &back, &cookie).await;
        assert_eq!(page.status, status, "{what}: {page:?}");
        assert!(page.body.contains("HSR-130"), "{what}: {}", page.body);
        untouched(what);
    }
    // After all that the honest way still works.
    let page = get(&member, &back, &cookie).await;
    assert_eq!(page.status, 200, "{page:?}");
    let (action, id) = form(&page.body);
    let no = post(&member, &action, &page.cookie(), &format!("sign_in={id}&answer=no")).await;
    assert!(no.status == 200 && no.body.contains("Turned away"), "{no:?}");
    untouched("no is no");
    let gone = get(&member, &path, "").await;
    assert!(gone.body.contains("This login was refused"), "{gone:?}");

    // The provider goes away: who knocks is told so at once, and the member serves on.
    let (_, path) = knock(&Machine::new(2, "desk"), &member).await;
    let (back, cookie) = there(&mock, &member, &path).await;
    stop.cancel();
    let page = get(&member, &back, &cookie).await;
    assert!(page.status == 503 && page.body.contains("HSR-1301"), "{page:?}");
    assert_eq!(Answer::of(member.get("/health").await).status, 200);
    end(vec![member]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_starts_without_its_provider_unless_told_not_to() {
    let (mock, stop) = provider().await;
    stop.cancel();
    let member = Member::start_with(|options| {
        options.oidc =
            Some(Oidc { issuer: "http://127.0.0.1:9/oidc".into(), only_start_if_available: false, ..oidc(&mock) });
    })
    .await;
    let (_, path) = knock(&Machine::new(1, "laptop"), &member).await;
    let page = get(&member, &path, "").await;
    assert!(page.status == 503 && page.body.contains("HSR-1301"), "{page:?}");
    assert!(page.body.contains("hsraft nodes register"), "{}", page.body);
    let folder = tempfile::tempdir().unwrap();
    let mut options = node::Options::new("hs9", folder.path());
    options.oidc = Some(Oidc { issuer: "http://127.0.0.1:9/oidc".into(), ..oidc(&mock) });
    let error = node::Server::start(options, world::real::world()).await.err().expect("it must not start");
    assert_eq!(error.code().to_string(), "HSR-3034", "{error}");
    end(vec![member]).await;
}
