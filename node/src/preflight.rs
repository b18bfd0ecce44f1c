//! Before a member is made: can this machine hold the timing profile it is told to run with?
//!
//! Only newcomers are turned away. A member that has data is started whatever its disk does at that moment: it is needed
//! more than a profile is.

use std::time::Duration;

use raft::{
    StartError,
    fitness::{Spans, best_profile, time_appends, time_round_trips},
};
use world::World;

use crate::options::{Options, Start};

/// Enough for a hundredth; a fast disk needs a fifth of a second for them.
const SYNCS: usize = 100;
const SYNCS_WITHIN: Duration = Duration::from_secs(2);
/// A neighbour's noise passes; a slow disk is slow each time.
const ROUNDS: usize = 3;
const TRIPS: usize = 5;
const TRIP_WITHIN: Duration = Duration::from_secs(2);

/// Measures, and refuses or warns as the options say. To be called before the start.
pub async fn check(options: &Options, world: &World) -> Result<(), StartError> {
    if matches!(options.start, Start::Continue) || raft::is_taken(&*world.disk, &options.data_dir) {
        return Ok(());
    }
    let append = appends(options, world)?.map(|spans| spans.p99);
    let trip = match &options.start {
        Start::Join { addresses, .. } => round_trip(addresses, world).await,
        Start::Found | Start::Continue => None,
    };
    let timing = options.timing;
    if timing.holds(append, trip) {
        return Ok(());
    }
    let millis = |span: Option<Duration>| {
        span.map_or("not measured".to_owned(), |it| format!("{:.1} ms", it.as_secs_f64() * 1e3))
    };
    let better = match best_profile(append, trip) {
        Some(name) => format!("set cluster.timing: {name}"),
        None => "no profile holds; use a faster disk".to_owned(),
    };
    let why = format!(
        "this machine cannot hold cluster.timing: {}: appends are synced within {} at the hundredth (at most {}), the \
         farthest member is {} away (at most {}); {better}, or set cluster.timing_check: warn; measure again with: \
         hsraft check perf,net",
        timing.name(),
        millis(append),
        millis(Some(timing.append_max())),
        millis(trip),
        millis(Some(timing.round_trip_max())),
    );
    match options.timing_must_hold {
        true => Err(StartError::Unfit(why)),
        false => {
            tracing::warn!(why, "started all the same");
            Ok(())
        }
    }
}

/// The best of some rounds.
fn appends(options: &Options, world: &World) -> Result<Option<Spans>, StartError> {
    let folder = &options.data_dir;
    let disk = |source| StartError::Disk { path: folder.display().to_string(), source };
    world.disk.create_dir_all(folder).map_err(disk)?;
    let mut best: Option<Spans> = None;
    for _ in 0..ROUNDS {
        let Some(spans) = time_appends(&*world.disk, folder, SYNCS, SYNCS_WITHIN).map_err(disk)? else { break };
        best = Some(best.filter(|best| best.p99 <= spans.p99).unwrap_or(spans));
        if options.timing.holds(best.map(|best| best.p99), None) {
            break;
        }
    }
    Ok(best)
}

/// The farthest of those that answer; who does not answer is told by joining.
async fn round_trip(addresses: &[String], world: &World) -> Option<Duration> {
    let mut farthest: Option<Duration> = None;
    for address in addresses {
        if let Ok(spans) = time_round_trips(&*world.net, address, TRIPS, TRIP_WITHIN).await {
            farthest = farthest.max(Some(spans.p50));
        }
    }
    farthest
}

#[cfg(test)]
mod tests {
    use raft::Timing;

    use super::*;

    #[tokio::test]
    async fn a_newcomer_with_a_slow_disk_is_turned_away_and_a_member_is_not() {
        let world = world::real::world();
        let folder = tempfile::tempdir().unwrap();
        let mut options = Options::new("hs1", folder.path());
        // No disk syncs a hundred appends within a tenth of this.
        options.timing = Timing { heartbeat_ms: 0, election_min_ms: 0, election_max_ms: 1 };
        let refused = check(&options, &world).await.unwrap_err();
        assert_eq!((refused.exit_code(), refused.code().number), (16, 3116));
        let told = refused.to_string();
        assert!(told.contains("cluster.timing: custom") && told.contains("hsraft check perf,net"), "{told}");
        options.timing_must_hold = false;
        check(&options, &world).await.unwrap();
        options.timing_must_hold = true;
        world.disk.write(&folder.path().join("identity"), b"a member's").unwrap();
        check(&options, &world).await.unwrap();
    }
}
