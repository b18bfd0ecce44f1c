//! Programs of two levels in one cluster.

use std::time::Duration;

use raft::Cluster;
use state_machine::{Command, FEATURE_LEVEL, OPERATION, RISES_BY_ITSELF_TO, Refusal};

use super::common::*;

const OLD: u32 = RISES_BY_ITSELF_TO;
const NEXT: u32 = FEATURE_LEVEL + 1;

/// Of level 3: an entry an older program could not read.
fn new_kind() -> Command {
    Command::ConfirmRecoveryKey { key: [1; 32] }
}

async fn finish(member: &Cluster, level: u32) -> Result<(), Refusal> {
    let command = Command::RaiseFeatureLevel { level, at_once: true };
    member.propose("test", command).await.unwrap().answer.map(|_| ())
}

/// Asks until the answer fits: what programs can do is told once a second.
async fn until_told(member: &Cluster, level: u32, fits: impl Fn(&Result<(), Refusal>) -> bool) {
    soon("everybody's program is known", async {
        while !fits(&finish(member, level).await) {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    })
    .await;
}

async fn led_by(asked: &Cluster, leader: &Cluster) {
    asked.transfer_leader(Some(leader.me())).await.unwrap();
    status_where(leader, "leading", |status| status.leader == Some(leader.me())).await;
    status_where(asked, "it leads", |status| status.leader == Some(leader.me())).await;
}

/// The same folder under another program.
async fn under(place: &mut Place, member: Cluster, level: u32) -> Cluster {
    member.shutdown().await;
    drop(member);
    place.feature_level = level;
    place.again().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_old_and_a_new_program_lead_in_turn_and_nothing_new_is_written() {
    let mut places = ["hs1", "hs2", "hs3"].map(Place::settled);
    places.iter_mut().for_each(|place| place.feature_level = OLD);
    let [one, two, three] = three(&places).await;
    assert_eq!(one.latest().feature_level(), OLD, "a founder's program decides");
    write(&one, "before").await;

    let three = under(&mut places[2], three, OPERATION).await;
    led_by(&one, &three).await;
    write(&one, "the-new-one-leads").await;
    let refused = one.propose("test", new_kind()).await.unwrap().answer;
    assert_eq!(refused, Err(Refusal::LevelTooLow { needs: OPERATION, at: OLD }));
    led_by(&three, &one).await;
    write(&three, "the-old-one-leads").await;
    assert!(finish(&three, OPERATION).await.is_err(), "hs1 could not follow");
    let entries = one.status().last_log;
    assert!(one.propose("test", new_kind()).await.unwrap().answer.is_err());
    assert_eq!(one.status().last_log, entries, "what is refused for its level is never written");

    // Forth, and back again, because nobody finished.
    let two = under(&mut places[1], two, OPERATION).await;
    write(&two, "forth").await;
    assert!(two.latest().members().values().all(|member| member.feature_level <= OLD), "nobody says more in State");
    let two = under(&mut places[1], two, OLD).await;
    write(&two, "back").await;
    same(&two, &three).await;

    let two = under(&mut places[1], two, OPERATION).await;
    let one = under(&mut places[0], one, OPERATION).await;
    let patient = Command::RaiseFeatureLevel { level: OPERATION, at_once: false };
    soon("all programs are known", async {
        loop {
            match two.propose("test", patient.clone()).await.unwrap().answer {
                Err(Refusal::UpgradeNotYet { why }) if why.contains("300 s are wanted") => return,
                Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
                Ok(outcome) => panic!("five minutes have not passed: {outcome:?}"),
            }
        }
    })
    .await;
    until_told(&two, OPERATION, Result::is_ok).await;
    for member in [&one, &two, &three] {
        let mut latest = member.watch();
        soon("the level rises", latest.wait_for(|state| state.feature_level() == OPERATION)).await.unwrap();
        assert!(member.latest().members().values().all(|member| member.feature_level == OPERATION));
    }
    let answer = one.propose("test", new_kind()).await.unwrap().answer;
    assert!(!matches!(answer, Err(Refusal::LevelTooLow { .. })), "{answer:?}");
    same(&one, &three).await;

    // No way back now, and no way in for the old program.
    two.shutdown().await;
    drop(two);
    places[1].feature_level = OLD;
    let error = places[1].again_if_let().await.unwrap_err();
    assert_eq!((error.exit_code(), error.code().number), (13, 3013), "{error}");
    let late = Place { feature_level: OLD, ..Place::new("hs4") };
    let error = late.try_join(&one, &token(&one).await).await.err().unwrap();
    assert_eq!((error.exit_code(), error.code().number), (13, 1202), "{error}");
    places[1].feature_level = OPERATION;
    let two = places[1].again().await;
    write(&two, "at-last").await;
    for member in [one, two, three] {
        member.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_next_program_leads_beside_this_one_and_may_not_go_ahead_alone() {
    let mut places = places();
    places[2].feature_level = NEXT;
    let [one, two, three] = three(&places).await;
    assert_eq!(one.latest().feature_level(), FEATURE_LEVEL);
    let too_old = |answer: &Result<(), Refusal>| {
        matches!(answer, Err(Refusal::ProgramTooOld { has: FEATURE_LEVEL, needs: NEXT }))
    };
    led_by(&one, &three).await;
    write(&one, "the-next-program-leads").await;
    until_told(&one, NEXT, too_old).await;
    led_by(&three, &one).await;
    write(&three, "and-this-one").await;
    until_told(&three, NEXT, too_old).await;
    same(&one, &three).await;
    assert_eq!(three.latest().feature_level(), FEATURE_LEVEL);
    for member in [one, two, three] {
        member.shutdown().await;
    }
}
