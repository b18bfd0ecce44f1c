//! Seeds that once failed, again.

use std::process::Command;

#[test]
fn seeds_that_once_failed_keep_every_law() {
    for line in include_str!("../seeds.txt").lines().filter(|line| !line.starts_with('#')) {
        let Some(seed) = line.split_whitespace().next() else { continue };
        let run = Command::new(env!("CARGO_BIN_EXE_sim")).args(["--seeds", "1", "--from", seed]).output().unwrap();
        assert!(run.status.success(), "{line}\n{}", String::from_utf8_lossy(&run.stdout));
    }
}
