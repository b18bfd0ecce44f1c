//! Three hundred seeds, twenty of them twice, and a proof that a seed can fail.

use std::process::{Command, Output};

/// Runs the simulator; it starts a process for each seed, as many at a time as there are processors.
fn simulate(arguments: &[&str]) -> (Output, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_sim")).args(arguments).output().unwrap();
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    (output, printed)
}

fn keep_every_law(arguments: &[&str]) {
    let (output, printed) = simulate(arguments);
    assert!(output.status.success(), "{printed}\n{}", String::from_utf8_lossy(&output.stderr));
    println!("{printed}");
}

/// All classes of seeds; a run that is void fails as well.
#[test]
fn seeds_keep_every_law() {
    keep_every_law(&["--seeds", "280", "--from", "21", "--quiet"]);
}

/// The first twenty, and each once more.
#[test]
fn twenty_seeds_give_the_same_trace_again() {
    keep_every_law(&["--seeds", "20", "--twice", "--quiet"]);
}

/// A proof that cannot fail proves nothing: disks that answer syncs without doing them must be noticed.
#[test]
fn disks_that_lie_are_caught() {
    let (output, printed) = simulate(&["--seeds", "4", "--from", "1", "--storm", "15", "--lying-disks"]);
    assert_eq!(output.status.code(), Some(1), "{printed}");
    assert!(printed.contains("FAILED"), "it is a law that is broken, not a void run: {printed}");
    assert!(printed.contains("reproduce: "), "a failing seed says how to see it again: {printed}");
}
