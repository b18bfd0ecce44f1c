//! Scripts: words in, output out. `tests/scripts/*.txt` of this crate; `UPDATE=1` rewrites them.
//!
//! `> words` runs a command line against a cluster of one State, `GET /path` and its siblings ask the API, `+ verb …`
//! makes something happen in the tailnet. What follows up to an empty line is what came out; a non-zero exit code is
//! its last line.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use axum::body::Body;
use http_body_util::BodyExt;
use serde_json::Value;
use state_machine::{
    Command, Hostinfo, LoginId, Member, MemberId, NodeId, PresenceChange, Registration, Report, SessionId, Timestamp,
};
use tailcfg::{MachineKey, NodeKey};
use tower::ServiceExt;

use super::*;
use crate::{
    client::{Client, Target},
    cluster::view::Contact,
    files,
    lone::Lone,
};

#[tokio::test]
async fn scripts() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scripts");
    let mut scripts: Vec<PathBuf> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    scripts.sort();
    assert!(!scripts.is_empty());
    let mut wrong = Vec::new();
    for script in scripts {
        let written = files::read(&script).unwrap().unwrap();
        let found = play(&written).await;
        if found == written {
            continue;
        }
        if std::env::var_os("UPDATE").is_some() {
            files::write(&script, &found).unwrap();
        } else {
            let line = written.lines().zip(found.lines()).position(|(old, new)| old != new).map_or(0, |line| line + 1);
            wrong.push(format!("{}:{line} differs; this came out:\n{found}", script.display()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

async fn play(script: &str) -> String {
    let lone = Lone::new();
    let mut out = String::new();
    let mut in_answer = false;
    for line in script.lines() {
        let answer = match line.split_once(' ') {
            _ if line.is_empty() => {
                in_answer = false;
                out.push('\n');
                continue;
            }
            Some((">", words)) => say(&lone, words).await,
            Some(("+", deed)) => happen(&lone, deed),
            Some((method @ ("GET" | "POST" | "PUT" | "DELETE"), rest)) => ask(&lone, method, rest).await,
            _ if in_answer => continue,
            _ => {
                out.push_str(&format!("{line}\n"));
                continue;
            }
        };
        in_answer = true;
        // An empty line would end the answer; scripts show it as a dot.
        let answer: String =
            answer.lines().map(|line| if line.is_empty() { ".\n".into() } else { format!("{line}\n") }).collect();
        out.push_str(&format!("{line}\n{answer}"));
    }
    out
}

/// A command line.
async fn say(lone: &Arc<Lone>, words: &str) -> String {
    let words =
        ["hsraft".to_owned()].into_iter().chain(words.split(' ').map(|word| word.replace("''", "").replace('~', " ")));
    let (words, hints) = words::modern(words.map(OsString::from).collect());
    let cli = match Cli::try_parse_from(words) {
        Ok(cli) => cli,
        Err(error) => {
            return format!("{}\nexit {}\n", error.to_string().lines().next().unwrap_or_default(), error.exit_code());
        }
    };
    let (output, text) = Output::captured(cli.global.output);
    hints.iter().for_each(|hint| output.talk(hint));
    let client = Client::new(Target::Direct(lone.router(true)), Duration::from_secs(5));
    let desk = desk::Desk::fixed(client, output.clone(), cli.global.force, lone.now());
    let code = match on_desk(cli.word, &desk).await {
        Ok(code) => code,
        Err(problem) => {
            output.problem(&problem);
            problem.exit
        }
    };
    let text = text.lock().unwrap().clone();
    if code == 0 { text } else { format!("{text}exit {code}\n") }
}

/// A request: path, perhaps a key, perhaps a body.
async fn ask(lone: &Arc<Lone>, method: &str, rest: &str) -> String {
    let (path, rest) = rest.split_once(' ').unwrap_or((rest, ""));
    let (key, body) = match rest.strip_prefix("key=") {
        Some(rest) => rest.split_once(' ').unwrap_or((rest, "")),
        None => ("", rest),
    };
    let mut request = axum::http::Request::builder().method(method).uri(path);
    if !key.is_empty() {
        request = request.header("authorization", format!("Bearer {key}"));
    }
    // No Content-Type: the consoles send none either.
    let request = request.body(Body::from(body.to_owned())).unwrap();
    let response = lone.router(key.is_empty()).oneshot(request).await.unwrap();
    let status = response.status();
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    match serde_json::from_slice::<Value>(&bytes) {
        Ok(value) => format!("{}\n{}\n", status.as_u16(), serde_json::to_string_pretty(&value).unwrap()),
        Err(_) => format!("{}\n{}\n", status.as_u16(), String::from_utf8_lossy(&bytes)),
    }
}

/// Something in the tailnet.
fn happen(lone: &Arc<Lone>, deed: &str) -> String {
    let words: Vec<&str> = deed.split(' ').collect();
    let byte = |text: &str| text.parse::<u8>().unwrap();
    let answer = match words[..] {
        ["login", name, number] => {
            let n = byte(number);
            let client = Registration {
                machine_key: MachineKey([n; 32]),
                node_key: NodeKey([n + 100; 32]),
                hostname: name.into(),
                capability_version: 113,
                ..Registration::default()
            };
            lone.apply(Command::BeginLogin { client, id: LoginId(format!("login{number:0>19}")) })
        }
        ["offers", node, routes] => lone.apply(Command::Report {
            reports: vec![Report {
                node: NodeId(node.parse().unwrap()),
                node_key: NodeKey([byte(node) + 100; 32]),
                hostinfo: Some(Hostinfo {
                    routable_ips: routes.split(',').map(|route| route.parse().unwrap()).collect(),
                    ..Hostinfo::default()
                }),
                ..Report::default()
            }],
        }),
        ["online", node] => {
            let node = NodeId(node.parse().unwrap());
            let change = PresenceChange { node, session: SessionId(node.0), here: true };
            lone.apply(Command::Presence { member: MemberId(1), changes: vec![change] })
        }
        ["asks", from, to, user, id] => lone.apply(Command::BeginSshCheck {
            id: id.into(),
            source: NodeId(from.parse().unwrap()),
            target: NodeId(to.parse().unwrap()),
            local_user: user.into(),
        }),
        ["pass", span] => {
            lone.advance(spans::parse(span).unwrap());
            return String::new();
        }
        ["quorum", on] => {
            lone.quorum.store(on == "on", Ordering::Relaxed);
            return String::new();
        }
        ["member", name, token, silence] => {
            let contact = Contact {
                lag: Some(2),
                silent_for: Some(spans::parse(silence).unwrap()),
                clock_ahead_ms: Some(-1),
                certificate_ends: Some(lone.now().after(Duration::from_secs(27 * 86_400 + 3600))),
                ..Contact::default()
            };
            let member = Member {
                name: name.into(),
                peer_address: format!("{name}:7443"),
                version: "0.1.0".into(),
                feature_level: state_machine::FEATURE_LEVEL,
                ..Member::default()
            };
            let answer = lone.apply(Command::AdmitMember { token: token.into(), member, replaces: String::new() });
            if let Ok(state_machine::Outcome::Member(id)) = answer {
                lone.contacts.lock().unwrap().push((id, contact));
            }
            answer
        }
        _ => panic!("no such deed: {deed}"),
    };
    match answer {
        Ok(_) => String::new(),
        Err(refusal) => format!("refused: {refusal}\n"),
    }
}

/// Whoever is refused finds a line of the table that is about this refusal, not about refusals as such.
#[tokio::test]
async fn every_refusal_has_a_code_of_its_own() {
    use state_machine::codes;
    let lone = Lone::new();
    let walk = [
        ("users create alice", None),
        ("users create alice", Some(&codes::TAKEN)),
        ("users create a~b/c", Some(&codes::INVALID)),
        ("users destroy -n nobody --force", Some(&codes::NOT_FOUND)),
        ("users destroy --force", Some(&codes::WHICH)),
        ("users rename -i 1", Some(&codes::WHICH)),
        ("preauthkeys expire", Some(&codes::WHICH)),
        ("preauthkeys create -u 99", Some(&codes::NOT_FOUND)),
        ("apikeys expire --prefix nobody", Some(&codes::NOT_FOUND)),
        ("nodes delete -i 99 --force", Some(&codes::NOT_FOUND)),
        ("policy set -f /nowhere/policy.hujson", Some(&codes::FILE_MISSING)),
        ("policy diff", Some(&codes::POLICY_NONE)),
        ("ssh approve a/b/..", Some(&codes::NOT_A_CHECK_ID)),
        ("token create --from-cidr nonsense", Some(&codes::INVALID)),
        ("token create --uses 2 --name hs2", Some(&codes::INVALID)),
        ("token revoke nothing", Some(&codes::NOT_FOUND)),
        ("member remove hs9 --force", Some(&codes::NOT_FOUND)),
        ("member remove hs1 --force", Some(&codes::INVALID)),
        ("transfer-leader --to hs9", Some(&codes::NOT_FOUND)),
        ("drain hs9", Some(&codes::NOT_FOUND)),
        ("upgrade check 99.0.0", Some(&codes::UPGRADE_OTHER_PROGRAM)),
    ];
    for (words, code) in walk {
        let said = say(&lone, words).await;
        let found = said.rsplit_once("[HSR-").and_then(|(_, rest)| codes::Code::find(rest.split(']').next()?));
        assert_eq!(found, code, "{words}: {said}");
        assert!(found.is_none_or(|code| ![codes::NOT_DONE.number, codes::USAGE.number].contains(&code.number)));
    }
    lone.quorum.store(false, Ordering::Relaxed);
    let said = say(&lone, "users create bob").await;
    assert!(said.contains("[HSR-2001]") && said.ends_with("exit 3\n"), "{said}");
}

#[test]
fn the_grammar_is_sound() {
    command().debug_assert();
}

/// Every form Headscale or its users know is understood.
#[test]
fn words_of_headscale() {
    let lines = [
        "users create alice",
        "user c alice",
        "namespaces create alice",
        "ns new alice",
        "users create alice -d Alice -e a@x.org -p https://x.org/a.png",
        "users list",
        "users ls -n alice",
        "user show --email a@x.org",
        "users list -i 3",
        "users list -i -1",
        "users destroy -n alice --force",
        "users delete -i 1",
        "users destroy alice",
        "users rename -i 1 -r bob",
        "users mv --name alice --new-name bob",
        "users rename alice bob",
        "preauthkeys create -u 1",
        "preauthkey c --user alice --reusable --ephemeral -e 90d --tags tag:a,tag:b",
        "authkey new -u 1 --expiration 1y",
        "pre create --expiry 24h -n alice",
        "preauthkeys list",
        "pre ls",
        "authkey show",
        "preauthkeys list --user alice",
        "preauthkeys expire -i 3",
        "preauthkeys revoke --id 3",
        "pre exp -i 3",
        "pre e -i 3",
        "preauthkeys expire --user alice hskey-auth-x",
        "preauthkeys delete --id 3",
        "pre del -i 3",
        "pre rm -i 3",
        "pre d -i 3",
        "nodes list",
        "node ls -u alice",
        "machines show",
        "machine list -n alice",
        "nodes list -t",
        "nodes list-routes",
        "nodes lsr -i 3",
        "nodes routes",
        "nodes register -u alice -k hskey-authreq-x",
        "nodes register --key x --namespace alice",
        "-u alice nodes register --key x",
        "nodes expire -i 1",
        "nodes logout -i 1 -e 2030-01-01T00:00:00Z",
        "nodes exp -i 1 -d",
        "nodes e --identifier 1 --disable",
        "nodes rename -i 1 desk",
        "nodes rename desk -i 1",
        "nodes rename -i 1 -n desk",
        "nodes delete -i 1 --force",
        "nodes del -i 1",
        "nodes tag -i 1 -t tag:a,tag:b",
        "nodes tags -i 1 -t tag:a -t tag:b",
        "nodes t -i 1 -t tag:a",
        "nodes approve-routes -i 1 -r 10.0.0.0/8,::/0",
        "nodes approve-routes -i 1 -r ''",
        "nodes move -i 1 -u bob",
        "nodes backfillips --force",
        "apikeys create -e 30d",
        "apikey c",
        "api new",
        "apikeys list",
        "api ls",
        "api show",
        "apikeys expire -p abc",
        "apikeys revoke -i 1",
        "api exp --id 1",
        "api e -i 1",
        "apikeys delete -p abc",
        "api remove -i 1",
        "api del -i 1",
        "policy get",
        "policy show",
        "policy view",
        "policy fetch",
        "policy set -f p.hujson",
        "policy check -f p.hujson",
        "policy put -f x",
        "policy update --file x",
        "policy set -f x --bypass-grpc-and-access-database-directly",
        "policy get --bypass-server-and-access-database-directly",
        "auth register --auth-id x -u alice",
        "auth reject --auth-id x",
        "auth approve --auth-id x",
        "routes list",
        "routes list -i 3 -o json",
        "route ls",
        "routes enable -r 12",
        "routes disable --route 12",
        "routes delete -r 12",
        "debug create-node --name x -u alice -k k -r 10.0.0.0/8 -r ::/0",
        "generate private-key",
        "gen private-key -o json",
        "completion bash",
        "completion zsh --name headscale",
        "manual /tmp/x",
        "serve --migrate-only",
        "import --from headscale --db x.sqlite --dry-run",
        "import --noise-key k -c x.yaml",
        "export --to headscale --db x.sqlite",
        "health",
        "version",
        "version -o json",
        "configtest -c x.yaml",
        "serve",
        "serve -c x.yaml",
        "-c x.yaml serve",
        "join 10.0.0.1:7443 --token t",
        "join a:1,b:2 --token t -c x.yaml",
        "members",
        "members --watch",
        "member remove hs2",
        "member remove hs2 --risk-quorum --yes",
        "member promote hs4",
        "member demote hs4",
        "drain",
        "drain hs2",
        "undrain hs2",
        "leave --drain-timeout 1m",
        "leave --wipe --data-dir /var/lib/hsraft",
        "key unlock /mnt/sealing.key --to /run/hsraft/sealing.key",
        "join a:1 --token t --replace hs3",
        "status -o yaml",
        "token create --ttl 1h --name hs2 --role learner",
        "token list",
        "token revoke abc",
        "transfer-leader",
        "verify",
        "verify --cluster --deep",
        "verify --deep --data-dir d",
        "snapshot save x.hsfull",
        "snapshot list /backup",
        "snapshot list s3://backups/ours",
        "snapshot save s3://backups/ours",
        "snapshot agent status",
        "recover plan --survivor a --survivor b --backup s3://backups/ours",
        "snapshot inspect x.hsfull",
        "snapshot verify /backup --restore-dry-run --recovery-key-file k",
        "snapshot prune /backup --keep 24h,7d,4w",
        "snapshot restore /backup --data-dir d --name hs1 --recovery-key-file k --at 2026-09-01T10:00:00Z",
        "recover plan --survivor a --survivor b",
        "recover --force-new-cluster --data-dir d --expect-last-log 9 --acknowledge-data-loss",
        "cert status",
        "cert renew hs2",
        "cert rotate-ca --wait 5m",
        "key rotate",
        "key rotate --sealing-key",
        "recovery-key create",
        "explain",
        "explain HSR-2001",
        "recovery-key confirm hsrk1-x",
        "transfer-leader --to hs2",
        "lab up",
        "lab up --members 3 --dir x --base-port 9000 -o json",
        "lab status --dir x",
        "lab kill hs1",
        "lab start hs1 --dir x",
        "lab down",
        "-o json-line users list",
        "users list -o yaml --socket /x",
        "users list --address https://x --insecure --timeout 3s",
    ];
    for line in lines {
        let words = ["hsraft"].into_iter().chain(line.split(' ').map(|word| if word == "''" { "" } else { word }));
        let (words, _) = words::modern(words.map(OsString::from).collect());
        if let Err(error) = Cli::try_parse_from(words) {
            panic!("{line}: {error}");
        }
    }
}

#[test]
fn nonsense_is_refused_with_exit_code_2() {
    for line in [
        "nodes",
        "users rename -i 1 -o xml",
        "apikeys expire",
        "apikeys expire -i 1 -p abc",
        "nodes expire -i 1 -d -e 2030-01-01T00:00:00Z",
        "preauthkeys create -e tomorrow",
        "token create --role king",
        "dance",
    ] {
        let error = Cli::try_parse_from(["hsraft"].into_iter().chain(line.split(' '))).expect_err(line);
        assert_eq!(error.exit_code(), 2, "{line}");
    }
}

/// Every word a person types comes with an example.
#[test]
fn help_has_examples() {
    fn leaves(command: &clap::Command, path: String, without: &mut Vec<String>) {
        let mut below =
            command.get_subcommands().filter(|sub| !sub.is_hide_set() && sub.get_name() != "help").peekable();
        if below.peek().is_none() && command.get_after_help().is_none() {
            without.push(path.clone());
        }
        for sub in below {
            leaves(sub, format!("{path} {}", sub.get_name()), without);
        }
    }
    let mut without = Vec::new();
    leaves(&command(), "hsraft".into(), &mut without);
    // `status` explains its exit codes in its own line.
    assert_eq!(without, ["hsraft status"; 0]);
}

impl Lone {
    fn now(&self) -> Timestamp {
        use crate::backend::Backend;
        self.latest().now()
    }
}
