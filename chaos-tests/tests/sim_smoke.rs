//! Twenty seeds with crashes, partitions and restarts, and one seed twice.

use std::process::Command;

/// Runs the simulator and shows what it printed when it fails.
fn simulate(arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_sim")).args(arguments).output().unwrap();
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{printed}\n{}", String::from_utf8_lossy(&output.stderr));
    printed
}

#[test]
fn twenty_seeds_keep_every_law() {
    println!("{}", simulate(&["--seeds", "20"]));
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    println!("{}", simulate(&["--seeds", "1", "--from", "7", "--twice"]));
}

/// A proof that cannot fail proves nothing: disks that answer syncs without doing them must be noticed.
#[test]
fn disks_that_lie_are_caught() {
    let arguments = ["--seeds", "2", "--from", "1", "--storm", "15", "--lying-disks"];
    let output = Command::new(env!("CARGO_BIN_EXE_sim")).args(arguments).output().unwrap();
    let printed = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{printed}");
    assert!(printed.contains("reproduce: "), "a failing seed says how to see it again: {printed}");
}
