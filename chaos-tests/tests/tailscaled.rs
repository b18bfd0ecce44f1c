//! The real `tailscaled`, where this machine has one: two daemons log in through two members and ping each other.
//!
//! Looks for the programs named by TAILSCALED and TAILSCALE, then on PATH; says so and passes when there are none.

#[path = "common/trio.rs"]
#[allow(dead_code, reason = "shared with proxies.rs")]
mod trio;

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use chaos_tests::fleet::Fleet;
use tokio::{
    process::{Child, Command},
    time::Instant,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_daemons_ping_each_other() {
    let (Some(daemon), Some(cli)) = (find("TAILSCALED", "tailscaled"), find("TAILSCALE", "tailscale")) else {
        println!("skipped: no tailscaled and tailscale here (set TAILSCALED and TAILSCALE, or put them on PATH)");
        return;
    };
    let fleet = Fleet::up(3).await.unwrap();
    let one = Daemon::log_in(&fleet, &daemon, &cli, "daemon-one", 0).await;
    let two = Daemon::log_in(&fleet, &daemon, &cli, "daemon-two", 1).await;
    one.ping(&two.address().await).await;
    two.ping(&one.address().await).await;
}

/// A port that is not allowed is dead, one that is lives, and when the policy changes it is the other way round.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_daemons_obey_the_policy() {
    let (Some(daemon), Some(cli)) = (find("TAILSCALED", "tailscaled"), find("TAILSCALE", "tailscale")) else {
        println!("skipped: no tailscaled and tailscale here (set TAILSCALED and TAILSCALE, or put them on PATH)");
        return;
    };
    let fleet = Fleet::up(1).await.unwrap();
    let (first, second) = (greeter(&fleet).await, greeter(&fleet).await);
    allow(&fleet, first).await;
    let one = Daemon::log_in(&fleet, &daemon, &cli, "daemon-one", 0).await;
    let two = Daemon::log_in(&fleet, &daemon, &cli, "daemon-two", 0).await;
    let address = two.address().await;

    let deadline = Instant::now() + Duration::from_secs(90);
    while !one.is_greeted(&address, first, Duration::from_secs(5)).await {
        assert!(Instant::now() < deadline, "an allowed port is dead; logs:\n{}", fleet.logs());
    }
    assert!(!one.is_greeted(&address, second, Duration::from_secs(3)).await, "a port that is not allowed lives");

    allow(&fleet, second).await;
    let changed = Instant::now();
    while !one.is_greeted(&address, second, Duration::from_secs(1)).await {
        assert!(changed.elapsed() < Duration::from_secs(20), "the new policy does not arrive");
    }
    println!("tailscaled: a port that the new policy allows lives {:?} after the change", changed.elapsed());
    assert!(!one.is_greeted(&address, first, Duration::from_secs(3)).await, "a port that is no longer allowed lives");
}

/// SSH check mode: the connection is held until somebody approves it at another member; the next one is not held.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shell_waits_for_a_person() {
    let (Some(daemon), Some(cli)) = (find("TAILSCALED", "tailscaled"), find("TAILSCALE", "tailscale")) else {
        println!("skipped: no tailscaled and tailscale here (set TAILSCALED and TAILSCALE, or put them on PATH)");
        return;
    };
    let Some(ssh) = find("SSH_CLIENT_PROGRAM", "ssh") else { return println!("skipped: no ssh here") };
    let fleet = Fleet::up(3).await.unwrap();
    let policy = r#"{
        "acls": [{"action": "accept", "src": ["*"], "dst": ["*:*"]}],
        "ssh": [{"action": "check", "checkPeriod": "1h", "src": ["autogroup:member"], "dst": ["autogroup:self"],
            "users": ["root", "autogroup:nonroot"]}],
    }"#;
    set_policy(&fleet, policy).await;
    let one = Daemon::log_in(&fleet, &daemon, &cli, "daemon-one", 0).await;
    let two = Daemon::log_in_with(&fleet, &daemon, &cli, "daemon-two", 1, &["--ssh"]).await;
    let address = two.address().await;
    // The path is there, whatever SSH makes of it.
    one.ping(&address).await;

    let shell = |words: &'static str| {
        let proxy = format!("ProxyCommand={} --socket={} nc %h %p", cli.display(), one.socket);
        let mut ssh = Command::new(&ssh);
        ssh.args(["-T", "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", &proxy]);
        // Whoever runs the test may become himself.
        let user = std::env::var("USER").unwrap_or_else(|_| "root".to_owned());
        ssh.args(["-F", "/dev/null", "-l", &user, &address, words]).stdin(Stdio::null()).kill_on_drop(true);
        ssh
    };
    let held = shell("echo let-in").stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // The question shows up at another member than the one that holds the connection, and is answered there.
    let socket = fleet.report.members[2].socket.clone();
    let deadline = Instant::now() + Duration::from_secs(60);
    let id = loop {
        let printed = fleet.run(&["ssh", "list", "--socket", &socket, "-o", "json"]).await.unwrap();
        let checks: serde_json::Value = serde_json::from_str(&printed).unwrap();
        let waiting = checks.as_array().into_iter().flatten().find(|check| check["state"] == "waiting");
        if let Some(check) = waiting {
            assert_eq!((&check["source"], &check["destination"]), (&"daemon-one".into(), &"daemon-two".into()));
            break check["id"].as_str().unwrap().to_owned();
        }
        assert!(Instant::now() < deadline, "nobody asks; logs:\n{}", fleet.logs());
        tokio::time::sleep(Duration::from_millis(200)).await;
    };
    fleet.run(&["ssh", "approve", &id, "--socket", &socket]).await.unwrap();
    let ended =
        tokio::time::timeout(Duration::from_secs(60), held.wait_with_output()).await.expect("it goes on").unwrap();
    let said = String::from_utf8_lossy(&ended.stderr).into_owned();
    assert!(String::from_utf8_lossy(&ended.stdout).contains("let-in"), "{said}");
    assert!(said.contains(&format!("hsraft ssh approve {id}")), "the connecting person is told what to do: {said}");

    let again = tokio::time::timeout(Duration::from_secs(60), shell("echo at-once").output()).await;
    let again = again.expect("the approval is remembered").unwrap();
    assert!(String::from_utf8_lossy(&again.stdout).contains("at-once"), "{}", String::from_utf8_lossy(&again.stderr));
}

/// The only address the daemon was told goes dead; the dial plan leads it to another member. Once the plan is taken back,
/// only the dead address is left.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_dial_plan_survives_a_dead_address() {
    let (Some(daemon), Some(cli)) = (find("TAILSCALED", "tailscaled"), find("TAILSCALE", "tailscale")) else {
        println!("skipped: no tailscaled and tailscale here (set TAILSCALED and TAILSCALE, or put them on PATH)");
        return;
    };
    let mut trio = trio::Trio::up(None).await;
    let settings = (**trio.anybody().cluster().latest().settings()).clone();
    let with_plan = |dial_plan| state_machine::Command::ApplySettings {
        settings: state_machine::Settings { dial_plan, ..settings.clone() },
    };
    trio.done(with_plan(true)).await;
    let mut states = trio.anybody().cluster().watch();
    let told = states.wait_for(|state| state.members().values().all(|member| !member.addresses.is_empty()));
    tokio::time::timeout(trio::PATIENCE, told).await.expect("all members tell where they are").unwrap();

    let name = "daemon-planned";
    let url = format!("http://127.0.0.1:{}", trio.client_port);
    let _daemon = Daemon::log_in_at(&daemon, &cli, name, &url, &trio.auth_key, &[]).await;
    assert_eq!(trio.serving(name, None).await, 0, "it begins at the address it was told");

    let stopped = Instant::now();
    trio.stop(0).await;
    let second = trio.serving(name, Some(0)).await;
    println!("tailscaled: at {} {:?} after the one address it was told died", trio::address(second), stopped.elapsed());

    trio.done(with_plan(false)).await;
    // Two of three are left, and after this one; it still takes streams, and knows of none.
    let third = 3 - second;
    tokio::time::sleep(Duration::from_secs(2)).await;
    trio.stop(second).await;
    tokio::time::sleep(Duration::from_secs(8)).await;
    assert_eq!(trio.sessions(third), 0.0, "a plan that was taken back is not followed");
    trio.end().await;
}

const GREETING: &str = "hello from behind the daemon";

/// Greets whoever connects to a local port, to which a daemon without an interface passes connections on.
async fn greeter(fleet: &Fleet) -> u16 {
    use tokio::io::AsyncWriteExt;
    let mut listener = fleet.world.net.listen("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.write_all(GREETING.as_bytes()).await;
            let _ = stream.shutdown().await;
        }
    });
    port
}

async fn allow(fleet: &Fleet, port: u16) {
    let policy = format!("{{\"acls\": [{{\"action\": \"accept\", \"src\": [\"*\"], \"dst\": [\"*:{port}\"]}}]}}");
    set_policy(fleet, &policy).await;
}

async fn set_policy(fleet: &Fleet, policy: &str) {
    let body = serde_json::json!({ "policy": policy });
    let set = fleet.api(0).call(http::Method::PUT, "/api/v1/policy", Some(&body), Duration::from_secs(30)).await;
    set.unwrap();
}

/// A running `tailscaled` without a network interface; killed when dropped.
struct Daemon {
    cli: PathBuf,
    socket: String,
    _child: Child,
    _folder: tempfile::TempDir,
}

impl Daemon {
    async fn log_in(fleet: &Fleet, daemon: &Path, cli: &Path, name: &str, member: usize) -> Daemon {
        Daemon::log_in_with(fleet, daemon, cli, name, member, &[]).await
    }

    async fn log_in_with(fleet: &Fleet, daemon: &Path, cli: &Path, name: &str, member: usize, more: &[&str]) -> Daemon {
        let url = fleet.report.members[member].url.clone();
        Daemon::log_in_at(daemon, cli, name, &url, &fleet.report.auth_key, more).await
    }

    async fn log_in_at(daemon: &Path, cli: &Path, name: &str, url: &str, auth_key: &str, more: &[&str]) -> Daemon {
        let folder = tempfile::Builder::new().prefix("ts-").tempdir().unwrap();
        let socket = folder.path().join("sock").display().to_string();
        let child = Command::new(daemon)
            .args(["--tun=userspace-networking", "--port=0", "--no-logs-no-support"])
            .arg(format!("--statedir={}", folder.path().display()))
            .arg(format!("--socket={socket}"))
            // Only the loopback interface may be up on a build machine; the client would wait for another.
            .env("TS_ASSUME_NETWORK_UP_FOR_TEST", "1")
            .env("TS_NO_LOGS_NO_SUPPORT", "true")
            .env("TS_PANIC_IF_HIT_MAIN_CONTROL", "1")
            .env("TS_DISABLE_PORTMAPPER", "1")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let daemon = Daemon { cli: cli.to_path_buf(), socket, _child: child, _folder: folder };
        let up = [
            "up",
            &format!("--login-server={url}"),
            &format!("--authkey={auth_key}"),
            &format!("--hostname={name}"),
            "--timeout=60s",
            "--accept-dns=false",
        ]
        .map(String::from);
        let words: Vec<&str> = up.iter().map(String::as_str).chain(more.iter().copied()).collect();
        daemon.until_it_works(&words).await;
        daemon
    }

    async fn address(&self) -> String {
        self.until_it_works(&["ip", "-4"]).await.trim().to_string()
    }

    /// Whether somebody behind the other daemon's port greets within this time.
    async fn is_greeted(&self, address: &str, port: u16, within: Duration) -> bool {
        let mut nc = Command::new(&self.cli);
        nc.arg(format!("--socket={}", self.socket)).args(["nc", address, &port.to_string()]);
        // Its input stays open: it ends when the other side does.
        let mut child =
            nc.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).kill_on_drop(true).spawn().unwrap();
        let mut stdout = child.stdout.take().unwrap();
        let mut greeting = vec![0; GREETING.len()];
        let read = tokio::io::AsyncReadExt::read_exact(&mut stdout, &mut greeting);
        matches!(tokio::time::timeout(within, read).await, Ok(Ok(_))) && greeting == GREETING.as_bytes()
    }

    async fn ping(&self, address: &str) {
        let pong = self.until_it_works(&["ping", "--c=5", "--until-direct=false", "--timeout=5s", address]).await;
        assert!(pong.contains("pong"), "{pong}");
    }

    /// The daemon needs a moment before its socket answers, and a new peer a moment to show up.
    async fn until_it_works(&self, words: &[&str]) -> String {
        let deadline = Instant::now() + Duration::from_secs(90);
        loop {
            let output =
                Command::new(&self.cli).arg(format!("--socket={}", self.socket)).args(words).output().await.unwrap();
            if output.status.success() {
                return String::from_utf8_lossy(&output.stdout).into_owned();
            }
            let complaint = String::from_utf8_lossy(&output.stderr);
            assert!(Instant::now() < deadline, "tailscale {words:?}: {complaint}");
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    }
}

fn find(variable: &str, name: &str) -> Option<PathBuf> {
    if let Some(named) = std::env::var_os(variable) {
        return Some(PathBuf::from(named));
    }
    std::env::split_paths(&std::env::var_os("PATH")?).map(|folder| folder.join(name)).find(|file| file.is_file())
}
