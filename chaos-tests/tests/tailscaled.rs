//! The real `tailscaled`, where this machine has one: two daemons log in through two members and ping each other.
//!
//! Looks for the programs named by TAILSCALED and TAILSCALE, then on PATH; says so and passes when there are none.

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

/// A running `tailscaled` without a network interface; killed when dropped.
struct Daemon {
    cli: PathBuf,
    socket: String,
    _child: Child,
    _folder: tempfile::TempDir,
}

impl Daemon {
    async fn log_in(fleet: &Fleet, daemon: &Path, cli: &Path, name: &str, member: usize) -> Daemon {
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
        let url = fleet.report.members[member].url.clone();
        let up = [
            "up",
            &format!("--login-server={url}"),
            &format!("--authkey={}", fleet.report.auth_key),
            &format!("--hostname={name}"),
            "--timeout=60s",
            "--accept-dns=false",
        ]
        .map(String::from);
        daemon.until_it_works(&up.each_ref().map(String::as_str)).await;
        daemon
    }

    async fn address(&self) -> String {
        self.until_it_works(&["ip", "-4"]).await.trim().to_string()
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
