//! The program itself, as a process: signals and exit codes.
#![allow(clippy::disallowed_methods, reason = "the test plays the operator, who writes files for another process")]

#[path = "process/members.rs"]
mod members;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Stdio,
    sync::Arc,
    time::Duration,
};

use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    process::{Child, Command},
    sync::mpsc,
};

const PATIENCE: Duration = Duration::from_secs(60);
const PROGRAM: &str = env!("CARGO_BIN_EXE_hsraft");

/// A running `hsraft serve` in a folder that goes with it.
struct Process {
    child: Child,
    lines: mpsc::Receiver<String>,
    folder: tempfile::TempDir,
}

impl Process {
    /// `more` is appended to a file that a laboratory member would have.
    async fn start(folder: tempfile::TempDir, config: &str, command: impl FnOnce(&Path) -> Command) -> Process {
        let path = folder.path().join("config.yaml");
        fs::write(&path, config).unwrap();
        let mut child = command(&path).stdin(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true).spawn().unwrap();
        let mut stderr = BufReader::new(child.stderr.take().unwrap()).lines();
        let (tx, lines) = mpsc::channel(10_000);
        tokio::spawn(async move {
            while let Ok(Some(line)) = stderr.next_line().await {
                if tx.send(line).await.is_err() {
                    return;
                }
            }
        });
        Process { child, lines, folder }
    }

    /// The next line of the log that holds all of these.
    async fn says(&mut self, wanted: &[&str]) -> String {
        let mut seen = Vec::new();
        let found = tokio::time::timeout(PATIENCE, async {
            while let Some(line) = self.lines.recv().await {
                if wanted.iter().all(|text| line.contains(text)) {
                    return Some(line);
                }
                seen.push(line);
            }
            None
        })
        .await;
        found.ok().flatten().unwrap_or_else(|| panic!("{wanted:?} was not said, but: {seen:#?}"))
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    async fn signal(&self, name: &str) {
        let pid = self.child.id().expect("it runs").to_string();
        assert!(Command::new("kill").args([&format!("-{name}"), &pid]).status().await.unwrap().success());
    }

    /// One word of the command line at this member.
    async fn word(&self, words: &[&str]) -> Result<String, String> {
        let output = Command::new(PROGRAM)
            .args(words)
            .args(["--socket", self.file("hsraft.sock").to_str().unwrap()])
            .stdin(Stdio::null())
            .output()
            .await
            .unwrap();
        match output.status.success() {
            true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
            false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
        }
    }
}

fn serve(config: &Path) -> Command {
    let mut command = Command::new(PROGRAM);
    command.args(["serve", "--config"]).arg(config).env_remove("RUST_LOG");
    command
}

const BASE: &str = "server_url: http://127.0.0.1
listen_addr: 127.0.0.1:0
metrics_listen_addr: 127.0.0.1:0
unix_socket: hsraft.sock
cluster:
  name: hs1
  data_dir: data
  peer_listen_addr: 127.0.0.1:0
  timing_check: warn
";

/// What `name=127.0.0.1:…` says in a line of the log.
fn address(line: &str, name: &str) -> String {
    let rest = line.split(&format!("{name}=")).nth(1).unwrap_or_else(|| panic!("no {name} in {line}"));
    rest.split_whitespace().next().unwrap().to_owned()
}

/// Shakes hands trusting only this certificate.
async fn shows(address: &str, pem: &str) -> bool {
    use rustls_pki_types::{CertificateDer, pem::PemObject};
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(pem.as_bytes()).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let stream = world::real::world().net.connect(address).await.unwrap();
    let name = "hs.example.com".try_into().unwrap();
    tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, stream).await.is_ok()
}

async fn get(address: &str, path: &str) -> String {
    let mut stream = world::real::world().net.connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    tokio::time::timeout(PATIENCE, stream.read_to_string(&mut answer)).await.unwrap().unwrap();
    answer
}

fn put_certificate(folder: &Path) -> String {
    let made = derp::SelfSigned::new(&["hs.example.com".to_owned()], &*world::real::world().clock).unwrap();
    fs::write(folder.join("cert.pem"), &made.certificate_pem).unwrap();
    fs::write(folder.join("key.pem"), made.key_pem.as_bytes()).unwrap();
    made.certificate_pem
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hang_up_takes_over_what_can_be_taken_over() {
    let folder = tempfile::tempdir().unwrap();
    let first = put_certificate(folder.path());
    fs::write(folder.path().join("policy.hujson"), "// one\n{}").unwrap();
    fs::write(folder.path().join("records.json"), "[]").unwrap();
    let config = format!(
        "{BASE}dns: {{base_domain: example.net, extra_records_path: records.json}}\n\
         tls_cert_path: cert.pem\ntls_key_path: key.pem\npolicy: {{mode: file, path: policy.hujson}}\n\
         log: {{level: info}}\n"
    );
    let mut process = Process::start(folder, &config, serve).await;
    let line = process.says(&["serving", "client_addr"]).await;
    let (clients, metrics) = (address(&line, "client_addr"), address(&line, "metrics_addr"));
    assert!(shows(&clients, &first).await);
    let ready = get(&metrics, "/readyz?format=json").await;
    assert!(ready.starts_with("HTTP/1.1 200"), "{ready}");
    assert!(ready.contains(r#"{"name":"read_index","ok":true,"reason":"#), "{ready}");
    let ready = get(&metrics, "/readyz").await;
    assert!(ready.contains("[+]raft_leader ok: ") && ready.ends_with("ready\n"), "{ready}");
    let one = get(&metrics, "/readyz/cert").await;
    assert!(one.contains("[+]cert ok: valid for ") && !one.contains("raft_leader"), "{one}");

    // Everything moves, and one thing that cannot.
    let second = put_certificate(process.folder.path());
    fs::write(process.file("policy.hujson"), "// two\n{}").unwrap();
    fs::write(process.file("records.json"), r#"[{"name": "a.example.net", "value": "100.64.0.9"}]"#).unwrap();
    let moved = config.replace("level: info", "level: debug").replace("name: hs1", "name: hs9");
    fs::write(process.file("config.yaml"), moved).unwrap();
    process.signal("HUP").await;
    let told = process.says(&["reloaded in part"]).await;
    for taken in ["tls_cert_path", "settings: extra_records", "policy.path", "log.level: debug"] {
        assert!(told.split("refused=").next().unwrap().contains(taken), "{taken}: {told}");
    }
    assert!(told.contains("refused=\"nothing\"") && told.contains("needs_restart=\"cluster.name\""), "{told}");
    assert!(shows(&clients, &second).await && !shows(&clients, &first).await);
    assert_eq!(process.word(&["policy", "get"]).await.unwrap(), "// two\n{}\n");
    process.says(&["DEBUG"]).await;

    // What cannot be used is named, and what is in force stays.
    fs::write(process.file("policy.hujson"), "{\"acls\": [}").unwrap();
    fs::write(process.file("cert.pem"), "nothing").unwrap();
    process.signal("HUP").await;
    let told = process.says(&["reloaded in part"]).await;
    let refused = told.split("refused=").nth(1).unwrap();
    assert!(refused.contains("policy.path (") && refused.contains("holds no certificate"), "{told}");
    assert!(shows(&clients, &second).await);
    assert_eq!(process.word(&["policy", "get"]).await.unwrap(), "// two\n{}\n");
    fs::write(process.file("config.yaml"), "server_url: [").unwrap();
    process.signal("HUP").await;
    process.says(&["nothing was reloaded", "not valid YAML"]).await;

    process.signal("TERM").await;
    let ended = tokio::time::timeout(PATIENCE, process.child.wait()).await.unwrap().unwrap();
    assert_eq!(ended.code(), Some(0));
}

/// The disk refuses what was to be kept: the process ends with 70 and nobody was told that it was.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_takes_nothing_more_ends_the_process_with_70() {
    let folder = tempfile::tempdir().unwrap();
    let config = format!("{BASE}dns: {{magic_dns: false}}\n");
    // Files may have 6 MB; who ignores the signal is told by an error of write.
    let limited = |config: &Path| {
        let mut command = Command::new("sh");
        command.args(["-c", "trap '' XFSZ; ulimit -f 12288; exec \"$0\" serve --config \"$1\"", PROGRAM]).arg(config);
        command
    };
    let mut process = Process::start(folder, &config, limited).await;
    process.says(&["serving", "client_addr"]).await;

    let mut kept = 0;
    let text = process.file("policy.hujson");
    let complaint = loop {
        fs::write(&text, format!("// {kept} {}\n{{}}", "x".repeat(900_000))).unwrap();
        match process.word(&["policy", "set", "--file", text.to_str().unwrap()]).await {
            Ok(_) => kept += 1,
            Err(complaint) => break complaint,
        }
        assert!(kept < 100, "the limit does not bite");
    };
    assert!(kept > 0, "{complaint}");
    let ended = tokio::time::timeout(PATIENCE, process.child.wait()).await.unwrap().unwrap();
    assert_eq!(ended.code(), Some(70), "{complaint}");

    // Without the limit it starts again and has everything it said it had.
    let Process { folder, .. } = process;
    let mut again = Process::start(folder, &config, serve).await;
    again.says(&["serving", "client_addr"]).await;
    let text = again.word(&["policy", "get", "--number", &kept.to_string()]).await.unwrap();
    assert!(text.starts_with(&format!("// {} ", kept - 1)), "{}", &text[..40]);
}

#[tokio::test]
async fn the_sample_configuration_can_be_used() {
    let sample = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/config/config.yaml");
    let output = Command::new(PROGRAM).args(["configtest", "--config"]).arg(sample).output().await.unwrap();
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success() && told.is_empty(), "{told}");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "the configuration can be used\n");
}
