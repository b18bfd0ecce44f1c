//! Several processes that are one cluster: one leaves with its data, one dies while it fills the shelf of backups.

use std::path::PathBuf;

use serde_json::Value;
use tempfile::TempDir;

use super::*;

fn config(name: &str, more: &str) -> String {
    format!("{}{more}dns: {{magic_dns: false}}\n", BASE.replace("name: hs1", &format!("name: {name}")))
}

async fn json(at: &Process, words: &[&str]) -> Value {
    let text = at.word(&[words, &["-o", "json"]].concat()).await.unwrap();
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{words:?}: {error}: {text}"))
}

/// A process that joins in this folder, until it votes.
async fn joins(folder: TempDir, name: &str, more: &str, at: &Process) -> Process {
    let mut process = joins_as(folder, name, "voter", more, at).await;
    process.says(&["votes: it has arrived"]).await;
    process
}

/// A process that joins in this folder.
async fn joins_as(folder: TempDir, name: &str, role: &str, more: &str, at: &Process) -> Process {
    let ticket = json(at, &["token", "create", "--name", name, "--role", role]).await;
    let address = ticket["addresses"][0].as_str().unwrap().to_owned();
    let token = ticket["token"].as_str().unwrap().to_owned();
    let join = |config: &Path| {
        let mut command = Command::new(PROGRAM);
        command.args(["join", &address, "--config"]).arg(config);
        command.env("HSRAFT_JOIN_TOKEN", token).env_remove("RUST_LOG");
        command
    };
    let mut process = Process::start(folder, &config(name, more), join).await;
    process.says(&["serving", "client_addr"]).await;
    process
}

/// Three that vote, and the line in which the first says where it serves.
async fn three(more: &str) -> ([Process; 3], String) {
    let mut one = Process::start(tempfile::tempdir().unwrap(), &config("hs1", more), serve).await;
    let line = one.says(&["serving", "client_addr"]).await;
    let two = joins(tempfile::tempdir().unwrap(), "hs2", more, &one).await;
    let three = joins(tempfile::tempdir().unwrap(), "hs3", more, &two).await;
    ([one, two, three], line)
}

/// Asks a page of the metrics port until it holds this.
async fn until(address: &str, path: &str, wanted: &str) -> String {
    tokio::time::timeout(PATIENCE, async {
        loop {
            let page = get(address, path).await;
            if page.contains(wanted) {
                return page;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    })
    .await
    .unwrap_or_else(|_| panic!("{path} never said {wanted:?}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_says_why_its_client_port_is_closed() {
    let (mut members, line) = three("").await;
    let (clients, metrics) = (address(&line, "client_addr"), address(&line, "metrics_addr"));
    let net = world::real::world().net;
    let page = until(&metrics, "/readyz/client_port", "[+]client_port ok").await;
    assert!(page.contains(&format!("open at {clients}")), "{page}");

    members[1].word(&["drain", "hs1"]).await.unwrap();
    let page = until(&metrics, "/readyz", "[-]client_port failed: closed: drained; clients are refused").await;
    assert!(page.starts_with("HTTP/1.1 503") && page.contains("[-]not_draining failed"), "{page}");
    until(&metrics, "/readyz?mode=client", "[-]client_port failed").await;
    until(&metrics, "/metrics", "\nhsraft_client_port_open 0\n").await;
    tokio::time::timeout(PATIENCE, async { while net.connect(&clients).await.is_ok() {} })
        .await
        .expect("who dials is refused");
    // The others know it as well.
    tokio::time::timeout(PATIENCE, async {
        loop {
            let reply = json(&members[2], &["members"]).await;
            let hs1 = reply["members"].as_array().unwrap().iter().find(|member| member["name"] == "hs1").unwrap();
            if hs1["client_port_closed"] == "drained" {
                return;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    })
    .await
    .expect("hs3 knows that the port of hs1 is closed");

    members[1].word(&["undrain", "hs1"]).await.unwrap();
    until(&metrics, "/readyz", "[+]client_port ok: open at").await;
    assert!(net.connect(&clients).await.is_ok());
    for process in &mut members {
        stop(process).await;
    }
}

async fn ended(process: &mut Process) -> Option<i32> {
    tokio::time::timeout(PATIENCE, process.child.wait()).await.unwrap().unwrap().code()
}

async fn stop(process: &mut Process) {
    process.signal("TERM").await;
    assert_eq!(ended(process).await, Some(0));
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_leaves_takes_its_data_along_and_may_come_back() {
    let ([mut one, mut two, mut three], _) = three("").await;
    let key = fs::read(one.file("data/sealing.key")).unwrap();
    assert_eq!(key.len(), 32);

    // The folder of another member is not this one's to wipe, and then nothing else is done either.
    let other = three.file("data");
    let refused = two.word(&["leave", "--wipe", "--force", "--data-dir", other.to_str().unwrap()]).await.unwrap_err();
    assert!(refused.contains("HSR-3014") && refused.contains("nothing was done"), "{refused}");
    let members = json(&two, &["members"]).await;
    assert_eq!(members["members"].as_array().unwrap().len(), 3, "{members}");
    assert!(members["members"].as_array().unwrap().iter().all(|member| member["draining"] != true), "{members}");

    // The founder and, most likely, the leader goes.
    fs::create_dir(one.file("data/backups")).unwrap();
    fs::write(one.file("data/backups/full"), "theirs").unwrap();
    let file = one.file("config.yaml");
    let told = one.word(&["leave", "--wipe", "--force", "--config", file.to_str().unwrap()]).await.unwrap();
    assert!(told.contains("is wiped") && told.contains("left there: backups"), "{told}");
    assert_eq!(ended(&mut one).await, Some(14));
    assert_eq!(names(&one.file("data")), ["LOCK.hsraft", "backups", "db", "left", "snapshots"]);
    assert!(names(&one.file("data/db")).is_empty() && names(&one.file("data/snapshots")).is_empty());

    // The two go on; a service that starts again founds nothing; the name is free.
    two.word(&["users", "create", "alice"]).await.unwrap();
    let Process { folder, .. } = one;
    let mut again = Process::start(folder, &config("hs1", ""), serve).await;
    again.says(&["no cluster is founded", "its member left", "HSR-3021"]).await;
    assert_eq!(ended(&mut again).await, Some(14));
    let Process { folder, .. } = again;
    let mut back = joins(folder, "hs1", "", &three).await;
    assert!(!back.file("data/left").exists());
    assert_eq!(fs::read(back.file("data/sealing.key")).unwrap(), key);
    let users = json(&back, &["users", "list"]).await;
    assert_eq!(users[0]["name"], "alice", "{users}");
    back.word(&["users", "create", "bob"]).await.unwrap();
    stop(&mut back).await;
    stop(&mut two).await;
    stop(&mut three).await;
}

/// The key of the secrets lies elsewhere: the folder alone starts nothing and opens nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_folder_without_its_key_is_locked() {
    let more = "  sealing_key_path: key/sealing.key\n";
    let mut process = Process::start(tempfile::tempdir().unwrap(), &config("hs1", more), serve).await;
    process.says(&["serving", "client_addr"]).await;
    process.word(&["users", "create", "alice"]).await.unwrap();
    // A newcomer is given the same key, and keeps it where it was told to.
    let mut two = joins_as(tempfile::tempdir().unwrap(), "hs2", "learner", more, &process).await;
    assert!(!process.file("data/sealing.key").exists() && !two.file("data/sealing.key").exists());
    let key = fs::read(process.file("key/sealing.key")).unwrap();
    assert!(key.len() == 32 && fs::read(two.file("key/sealing.key")).unwrap() == key);
    stop(&mut two).await;
    stop(&mut process).await;
    let usb = tempfile::tempdir().unwrap();
    let kept = usb.path().join("sealing.key");
    // Across file systems, perhaps.
    fs::copy(process.file("key/sealing.key"), &kept).unwrap();
    fs::remove_file(process.file("key/sealing.key")).unwrap();

    let Process { folder, .. } = process;
    let mut locked = Process::start(folder, &config("hs1", more), serve).await;
    locked.says(&["locked", "it is not there", "HSR-3023"]).await;
    assert_eq!(ended(&mut locked).await, Some(16));
    // Another cluster's key opens nothing, and what is no key at all is not taken.
    let (file, other) = (locked.file("config.yaml"), usb.path().join("other"));
    let unlock = async |process: &Process, key: &Path| {
        process.word(&["key", "unlock", key.to_str().unwrap(), "--config", file.to_str().unwrap()]).await
    };
    fs::write(&other, "short").unwrap();
    let refused = unlock(&locked, &other).await.unwrap_err();
    assert!(refused.contains("HSR-4052") && !locked.file("key/sealing.key").exists(), "{refused}");
    fs::write(&other, [9; 32]).unwrap();
    unlock(&locked, &other).await.unwrap();
    let Process { folder, .. } = locked;
    let mut locked = Process::start(folder, &config("hs1", more), serve).await;
    locked.says(&["locked", "not this cluster's", "HSR-3023"]).await;
    assert_eq!(ended(&mut locked).await, Some(16));

    // Nobody makes a new cluster of a folder without its key, and nothing is moved.
    let data = locked.file("data");
    let plan = json(&locked, &["recover", "plan", "--survivor", data.to_str().unwrap()]).await;
    let last = plan[0]["last_log"].to_string();
    let force = ["recover", "--force-new-cluster", "--data-dir", data.to_str().unwrap(), "--expect-last-log", &last];
    let force = [&force[..], &["--acknowledge-data-loss", "--config", file.to_str().unwrap()]].concat();
    let refused = locked.word(&force).await.unwrap_err();
    assert!(refused.contains("HSR-3023") && data.join("identity").exists(), "{refused}");

    unlock(&locked, &kept).await.unwrap();
    let Process { folder, .. } = locked;
    let mut open = Process::start(folder, &config("hs1", more), serve).await;
    open.says(&["serving", "client_addr"]).await;
    assert_eq!(json(&open, &["users", "list"]).await[0]["name"], "alice");
    open.word(&["key", "rotate"]).await.unwrap();
    stop(&mut open).await;
    let refused = open.word(&force).await.unwrap_err();
    assert!(refused.contains("--expect-last-log"), "the log went on: {refused}");
    let plan = json(&open, &["recover", "plan", "--survivor", data.to_str().unwrap()]).await;
    let last = plan[0]["last_log"].to_string();
    let force: Vec<&str> = force.iter().enumerate().map(|(at, word)| if at == 5 { &last } else { *word }).collect();
    open.word(&force).await.unwrap();
    let Process { folder, .. } = open;
    let mut anew = Process::start(folder, &config("hs1", more), serve).await;
    anew.says(&["serving", "client_addr"]).await;
    assert!(!anew.file("data/sealing.key").exists());
    assert_eq!(json(&anew, &["users", "list"]).await[0]["name"], "alice");
    stop(&mut anew).await;
}

/// Whoever had the old key, or a copy of the folder, opens nothing new with it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_sealing_key_is_made_where_the_old_one_lies() {
    let more = "  sealing_key_path: key/sealing.key\n";
    let mut process = Process::start(tempfile::tempdir().unwrap(), &config("hs1", more), serve).await;
    process.says(&["serving", "client_addr"]).await;
    let rotate = ["key", "rotate", "--sealing-key", "--force"];
    let refused = process.word(&rotate).await.unwrap_err();
    assert!(refused.contains("HSR-2023") && refused.contains("hsraft recovery-key rotate"), "{refused}");
    process.word(&["recovery-key", "rotate", "--force"]).await.unwrap();
    let unasked = process.word(&rotate[..3]).await;
    assert!(!unasked.unwrap_or_default().contains("hsrk1-"), "nobody said yes");

    let usb = tempfile::tempdir().unwrap();
    let (kept, paper) = (usb.path().join("old"), usb.path().join("paper"));
    fs::copy(process.file("key/sealing.key"), &kept).unwrap();
    let shown = process.word(&rotate).await.unwrap();
    assert!(shown.starts_with("hsrk1-"), "{shown}");
    process.word(&["recovery-key", "confirm", shown.trim()]).await.unwrap();
    fs::write(&paper, &shown).unwrap();
    tokio::time::timeout(PATIENCE, async {
        while names(&process.file("key")) != ["sealing.key"]
            || fs::read(process.file("key/sealing.key")).unwrap() == fs::read(&kept).unwrap()
        {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await
    .expect("the new key takes the old one's place");
    assert!(!names(&process.file("data")).iter().any(|name| name.starts_with("sealing")), "never in the folder");
    process.word(&["users", "create", "alice"]).await.unwrap();
    let full = usb.path().join("full");
    process.word(&["snapshot", "save", full.to_str().unwrap()]).await.unwrap();
    stop(&mut process).await;

    // A start with the old key is refused; with the new one it goes on.
    let (place, new) = (process.file("key/sealing.key"), usb.path().join("new"));
    fs::copy(&place, &new).unwrap();
    fs::copy(&kept, &place).unwrap();
    let Process { folder, .. } = process;
    let mut locked = Process::start(folder, &config("hs1", more), serve).await;
    locked.says(&["locked", "not this cluster's", "HSR-3023"]).await;
    assert_eq!(ended(&mut locked).await, Some(16));
    let file = locked.file("config.yaml");
    locked.word(&["key", "unlock", new.to_str().unwrap(), "--config", file.to_str().unwrap()]).await.unwrap();
    let Process { folder, .. } = locked;
    let mut open = Process::start(folder, &config("hs1", more), serve).await;
    open.says(&["serving", "client_addr"]).await;
    assert_eq!(json(&open, &["users", "list"]).await[0]["name"], "alice");
    stop(&mut open).await;

    // The backup opens with the new paper and the new key, and with nothing of before.
    let data = |name: &str| usb.path().join(name).into_os_string().into_string().unwrap();
    let restore = async |to: &str, flag: &str, key: &Path| {
        let words = ["snapshot", "restore", full.to_str().unwrap(), "--data-dir", &data(to), "--name", "hs1", flag];
        open.word(&[&words[..], &[key.to_str().unwrap()]].concat()).await
    };
    let refused = restore("a", "--sealing-key-file", &kept).await.unwrap_err();
    assert!(refused.contains("HSR-4042") && !usb.path().join("a").exists(), "{refused}");
    restore("b", "--sealing-key-file", &new).await.unwrap();
    restore("c", "--recovery-key-file", &paper).await.unwrap();
    assert_eq!(fs::read(usb.path().join("c/sealing.key")).unwrap(), fs::read(&new).unwrap());
}

/// Segments and fulls on the shelf of one cluster.
fn shelf(place: &Path, ending: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![place.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => folders.push(path),
                false if path.extension().is_some_and(|it| it == ending) => found.push(path),
                false => {}
            }
        }
    }
    found
}

/// The leader is killed in the moment its segment appears, in the middle of writes; the next one fills the same shelf.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_next_leader_goes_on_with_the_shelf_of_one_that_was_killed() {
    let place = tempfile::tempdir().unwrap();
    let more = format!("  backup_dir: {}\n", place.path().display());
    let (members, _) = three(&more).await;
    let summary = json(&members[0], &["members"]).await["summary"].clone();
    let leader = summary["leader"].as_str().unwrap().to_owned();
    let lost = ["hs1", "hs2", "hs3"].iter().position(|name| *name == leader).unwrap();
    let mut alive = Vec::from(members);
    let mut dying = alive.remove(lost);

    let mut created = 0;
    let before = shelf(place.path(), "hslog").len();
    tokio::time::timeout(PATIENCE, async {
        while shelf(place.path(), "hslog").len() <= before {
            created += 1;
            alive[created % 2].word(&["users", "create", &format!("user-{created}")]).await.unwrap();
        }
    })
    .await
    .expect("the leader archives the log");
    dying.signal("KILL").await;
    dying.child.wait().await.unwrap();
    let killed_at = shelf(place.path(), "hslog").len();
    let begun = tokio::time::Instant::now();
    for _ in 0..10 {
        created += 1;
        alive[created % 2].word(&["users", "create", &format!("user-{created}")]).await.unwrap();
    }
    tokio::time::timeout(PATIENCE, async {
        while shelf(place.path(), "hslog").len() <= killed_at {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    })
    .await
    .expect("another member goes on with the log");
    println!("the next segment lay on the shelf {:?} after the death", begun.elapsed());

    // What it says it has is all there, without a gap, and becomes a member.
    let key = alive[0].file("data/sealing.key");
    let key = ["--sealing-key-file", key.to_str().unwrap()];
    let told = tokio::time::timeout(PATIENCE, async {
        loop {
            let words = ["snapshot", "verify", place.path().to_str().unwrap(), "--restore-dry-run"];
            let told = alive[0].word(&[&words[..], &key].concat()).await.unwrap();
            assert!(!told.contains("before that"), "a gap: {told}");
            if told.contains(&format!("a member with {created} users")) {
                return told;
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    })
    .await
    .expect("every write is on the shelf");
    assert!(told.contains("good") && told.contains("entries replayed"), "{told}");
    let writers = json(&alive[0], &["snapshot", "list", place.path().to_str().unwrap()]).await.to_string();
    println!("{writers}");

    // The one that was killed comes back and does not disturb.
    let Process { folder, .. } = dying;
    let mut back = Process::start(folder, &config(&leader, &more), serve).await;
    back.says(&["serving", "client_addr"]).await;
    for process in alive.iter_mut().chain([&mut back]) {
        stop(process).await;
    }
}
