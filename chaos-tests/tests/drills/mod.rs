//! Drills, as an operator runs them: on real processes, through the doors of the members.

use std::time::Duration;

use chaos_tests::fleet::Fleet;
use serde_json::Value;
use tokio::time::Instant;

/// Runs a drill to its end; its exit code and report.
async fn drill(fleet: &Fleet, words: &[&str]) -> (i32, Value) {
    let (dir, mut all) = (fleet.dir(), vec!["drill", "run"]);
    all.extend(words);
    all.extend(["--lab", &dir, "--steady", "2s", "--yes", "-o", "json"]);
    let said = fleet.say(&all).await.unwrap();
    let report = serde_json::from_str(&said.printed);
    let report = report.unwrap_or_else(|error| panic!("{words:?}: {error}: {}\n{}", said.complaint, fleet.logs()));
    (said.code, report)
}

/// What must hold however slow the machine is that runs this.
fn nothing_was_lost(report: &Value) {
    let (rpo, integrity) = (&report["measured"]["rpo"], &report["measured"]["integrity"]);
    assert_eq!(report["schema"], "hsraft.drill/v1");
    assert!(rpo["acked"].as_u64().unwrap() > 0, "{rpo}");
    assert_eq!((rpo["missing"].as_u64(), rpo["stale_reads"].as_u64()), (Some(0), Some(0)), "{rpo}");
    assert_eq!(integrity["state_hash_equal"], true, "{report:#}");
    assert_eq!(integrity["canaries_left_behind"], 0);
}

fn happened(report: &Value, kind: &str) -> bool {
    report["timeline"].as_array().unwrap().iter().any(|event| event["kind"] == kind)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn drills_break_heal_and_judge() {
    let fleet = Fleet::up(3).await.unwrap();

    let (_, report) = drill(&fleet, &["leader-kill", "--hold", "500ms"]).await;
    nothing_was_lost(&report);
    assert!(happened(&report, "injected"), "{report:#}");
    assert!(report["measured"]["elections"].as_u64().unwrap() > 0, "another one led: {report:#}");

    let (_, report) = drill(&fleet, &["partition-leader", "--hold", "3s"]).await;
    nothing_was_lost(&report);
    if report["verdict"] != "ABORTED" {
        assert_eq!(report["measured"]["figures"]["acknowledged_by_old_leader"]["max"], 0, "{report:#}");
    }

    let (_, report) = drill(&fleet, &["follower-stop", "--hold", "1s"]).await;
    nothing_was_lost(&report);

    // Too few canaries: the figures say nothing, and the verdict says so.
    let (code, report) = drill(&fleet, &["leader-transfer", "--writes", "20"]).await;
    nothing_was_lost(&report);
    assert_eq!((code, report["verdict"].as_str()), (20, Some("VOID")), "{report:#}");

    // A second member goes down while the first is: it is broken off, and both are brought back.
    let words = ["follower-stop", "--hold", "60s"];
    let ((code, report), ()) = tokio::join!(drill(&fleet, &words), kill_another(&fleet));
    nothing_was_lost(&report);
    assert_eq!((code, report["verdict"].as_str()), (20, Some("ABORTED")), "{report:#}");
    assert!(happened(&report, "aborted"));
    let dir = fleet.dir();
    let status = fleet.say(&["lab", "status", "--dir", &dir, "-o", "json"]).await.unwrap();
    assert_eq!(status.code, 0, "{}", status.printed);

    // Every run left a record; the last is shown as a page.
    let page = fleet.run(&["drill", "report", "--lab", &dir, "-o", "html"]).await.unwrap();
    assert!(page.contains("ABORTED") && page.contains("<svg"), "{page}");
}

/// Once one member is down, kills another one.
async fn kill_another(fleet: &Fleet) {
    let (dir, begun) = (fleet.dir(), Instant::now());
    while begun.elapsed() < Duration::from_secs(60) {
        let status = fleet.say(&["lab", "status", "--dir", &dir, "-o", "json"]).await.unwrap();
        let status: Value = serde_json::from_str(&status.printed).unwrap();
        let members = status["members"].as_array().unwrap();
        let runs = |member: &&Value| member["running"] == true;
        if let Some(down) = members.iter().position(|member| member["running"] == false) {
            let leader = &status["cluster"]["leader"];
            let other = members.iter().filter(runs).find(|member| member["name"] != *leader).unwrap_or(&members[down]);
            fleet.run(&["lab", "kill", other["name"].as_str().unwrap(), "--dir", &dir]).await.unwrap();
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("no member went down");
}
