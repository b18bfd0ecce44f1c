//! A few rounds of torture; `make torture` runs hundreds, failpoints, and the report on the goals.
//!
//! Real members are killed, frozen and all cut down at once, in an order a seed decides, while canaries write, read and
//! register. Afterwards every acknowledged write must be there, at every member, and no one-use key used twice.

use chaos_tests::{
    fleet,
    torture::{
        failpoints::{self, Action},
        kills::{self, Wish},
        report::Report,
    },
};

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_acknowledged_is_lost() {
    let (rounds, seed) = (setting("TORTURE_ROUNDS", 5) as usize, setting("TORTURE_SEED", 7));
    let mut report = Report::begin(&world::real::world(), seed, "hsraft".into(), "debug");
    let wish = Wish { rounds, seed, program: None, only: &[], enough: 1 };
    kills::run(&wish, &mut report).await.unwrap();
    assert!(report.holds(), "{}", report.to_text());
}

/// A dozen of the hundred and more visits that `make torture` makes; which ones the seed decides.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_come_back_from_failpoints() {
    let seed = setting("TORTURE_SEED", 7);
    let mut report = Report::begin(&world::real::world(), seed, "hsraft".into(), "debug");
    let program = fleet::program().await.unwrap();
    let actions = &[Action::Abort, Action::Return];
    let wish = failpoints::Wish { seed, program: &program, actions, filter: "", visits: 12 };
    failpoints::run(&wish, &mut report).await.unwrap();
    assert!(report.holds(), "{}", report.to_text());
}
