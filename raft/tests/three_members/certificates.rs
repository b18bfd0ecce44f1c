//! Certificates and secrets are replaced while members serve.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use raft::{Cluster, StartError};
use state_machine::{MemberId, Refusal};
use tokio::time::Instant;
use world::Clock;

use super::common::*;

const DAY_MS: u64 = 24 * 3600 * 1000;

/// The real clock, set ahead by hand.
#[derive(Clone, Default)]
struct Ahead(Arc<AtomicU64>);

impl Clock for Ahead {
    fn now_ms(&self) -> u64 {
        world::real::world().clock.now_ms() + self.0.load(Ordering::SeqCst)
    }
}

impl Ahead {
    fn by_days(&self, days: u64) {
        self.0.store(days * DAY_MS, Ordering::SeqCst);
    }
}

fn places_in(time: &Ahead) -> [Place; 3] {
    let mut places = places();
    for place in &mut places {
        place.world.clock = Arc::new(time.clone());
    }
    places
}

/// Serials, by member, as all of them say at `at`; waits until `fit`.
async fn serials(at: &Cluster, what: &str, fit: impl Fn(&[(u64, String, u64)]) -> bool) -> Vec<(u64, String, u64)> {
    soon(what, async {
        loop {
            let shown = at.shown_certificates();
            let rows: Vec<_> = shown
                .into_iter()
                .filter_map(|(id, (certificate, _))| certificate.map(|shown| (id.0, shown.serial, shown.not_after_ms)))
                .collect();
            if fit(&rows) {
                return rows;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_are_renewed_at_two_thirds_and_connections_outlive_the_old_ones() {
    let time = Ahead::default();
    let places = places_in(&time);
    let members = three(&places).await;
    let first = serials(&members[0], "all told", |rows| rows.len() == 3).await;
    let is_new = |before: &[(u64, String, u64)], now: &[(u64, String, u64)]| {
        now.len() == 3 && before.iter().zip(now).all(|(before, now)| before.1 != now.1)
    };

    // 19 days of 30: nothing yet.
    time.by_days(19);
    write(&members[0], "too-early").await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(serials(&members[0], "all told", |rows| rows.len() == 3).await, first);

    time.by_days(21);
    write(&members[0], "time-to-renew").await;
    let second = serials(&members[0], "all renewed", |rows| is_new(&first, rows)).await;
    assert!(second.iter().zip(&first).all(|(now, before)| now.2 > before.2 + 20 * DAY_MS));

    // The first ones have ended: whoever still spoke under one would be cut.
    time.by_days(35);
    for (number, member) in members.iter().enumerate() {
        write(member, &format!("later-{number}")).await;
    }
    time.by_days(42);
    write(&members[1], "time-again").await;
    serials(&members[0], "all renewed again", |rows| is_new(&second, rows)).await;
    for member in &members {
        member.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_whose_certificate_ended_while_it_was_down_comes_back() {
    let time = Ahead::default();
    let places = places_in(&time);
    let [one, two, three] = three(&places).await;
    three.shutdown().await;
    drop(three);
    time.by_days(21);
    write(&one, "renew").await;
    serials(&one, "the others renewed", |rows| rows.iter().filter(|row| row.2 > one_life_ms(&time)).count() >= 2).await;
    time.by_days(45);
    write(&two, "renew-again").await;
    let three = places[2].again().await;
    same(&one, &three).await;
    write(&three, "from-the-one-that-came-back").await;
    for member in [one, two, three] {
        member.shutdown().await;
    }
}

/// Certificates made now end later than this.
fn one_life_ms(time: &Ahead) -> u64 {
    time.now_ms() + 29 * DAY_MS
}

/// Writes as fast as it is answered; how often, and the slowest.
fn writer(member: &Cluster, name: &'static str, stop: &Arc<AtomicBool>) -> tokio::task::JoinHandle<(u64, Duration)> {
    let (member, stop) = (member.clone(), stop.clone());
    tokio::spawn(async move {
        let (mut count, mut slowest) = (0u64, Duration::ZERO);
        while !stop.load(Ordering::SeqCst) {
            let begun = Instant::now();
            write(&member, &format!("{name}-{count}")).await;
            slowest = slowest.max(begun.elapsed());
            count += 1;
        }
        (count, slowest)
    })
}

async fn settled(member: &Cluster, generation: u64) {
    let mut states = member.watch();
    let fits = |state: &Arc<state_machine::State>| {
        let newest = state.authorities().get_max().map(|(_, newest)| newest.clone());
        newest.is_some_and(|newest| newest.generation == generation && newest.settled_at.is_some())
    };
    soon("the old authority is distrusted", states.wait_for(fits)).await.unwrap();
}

/// Until every member believes the newest authority alone.
async fn believe_one(at: &Cluster) {
    let newest = at.authorities().last().unwrap().fingerprint.clone();
    soon("all believe the new one alone", async {
        loop {
            let shown = at.shown_certificates();
            let told = shown.values().filter_map(|(certificate, _)| certificate.as_ref());
            if told.clone().count() >= 3 && told.into_iter().all(|shown| shown.trusts == [newest.clone()]) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_authority_replaces_another_under_load_without_a_failed_write() {
    let places = places();
    let members = three(&places).await;
    let outdated = token(&members[0]).await;
    let stop = Arc::new(AtomicBool::new(false));
    let writers = ["a", "b", "c"].into_iter().zip(&members).map(|(name, member)| writer(member, name, &stop));
    let writers: Vec<_> = writers.collect();
    tokio::time::sleep(Duration::from_millis(500)).await;

    let begun = Instant::now();
    let generation = members[1].rotate_authority("test").await.unwrap().unwrap();
    assert_eq!(generation, 1);
    settled(&members[0], 1).await;
    let took = begun.elapsed();
    believe_one(&members[0]).await;
    let everywhere = begun.elapsed();
    // Again at once: every connection moves a second time.
    assert_eq!(members[2].rotate_authority("test").await.unwrap().unwrap(), 2);
    settled(&members[0], 2).await;
    believe_one(&members[0]).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    stop.store(true, Ordering::SeqCst);
    let (mut count, mut slowest) = (0, Duration::ZERO);
    for writer in writers {
        // A write that fails ends its writer.
        let (wrote, longest) = writer.await.unwrap();
        (count, slowest) = (count + wrote, slowest.max(longest));
    }
    assert!(count > 50, "a rotation without load shows nothing: {count} writes");
    println!(
        "rotation: distrusted after {took:?}, known everywhere after {everywhere:?}; two rotations, {count} writes, 0 failed, slowest {slowest:?}"
    );
    assert_eq!(members[0].confirm().await.unwrap().users().len() as u64, count);

    // Nobody believes the old one: a ticket that pins it opens nothing, a new one does, and so does an old folder.
    let fourth = Place::new("hs4");
    match fourth.try_join(&members[0], &outdated).await {
        Err(error @ StartError::WrongPin(_)) => assert!(error.to_string().contains("hsraft token create"), "{error}"),
        other => panic!("{other:?}"),
    }
    let four = fourth.join(&members[1]).await;
    write(&four, "under-the-new-one").await;
    let [one, two, three] = members;
    three.shutdown().await;
    drop(three);
    let three = places[2].again().await;
    write(&three, "after-a-restart").await;
    for member in [one, two, three, four] {
        member.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_is_down_keeps_the_old_authority_alive_and_is_named() {
    let places = places();
    let [one, two, three] = three(&places).await;
    let gone = three.me();
    let outdated = token(&one).await;
    three.shutdown().await;
    drop(three);
    assert_eq!(one.rotate_authority("test").await.unwrap().unwrap(), 1);
    let mut states = one.watch();
    let waiting = |state: &Arc<state_machine::State>| state.members_to_move() == [gone];
    soon("the others moved", states.wait_for(waiting)).await.unwrap();
    match two.rotate_authority("test").await.unwrap() {
        Err(refusal @ Refusal::RotationUnderWay { .. }) => assert!(refusal.to_string().contains("hs3"), "{refusal}"),
        other => panic!("{other:?}"),
    }
    assert_eq!(one.authorities().len(), 2);
    // A ticket of before is refused by a cluster it recognises, and says what to do.
    match Place::new("hs4").try_join(&two, &outdated).await {
        Err(StartError::Token { why, .. }) => {
            assert!(why.contains("replaced") && why.contains("token create"), "{why}")
        }
        other => panic!("{other:?}"),
    }
    // A newcomer comes in meanwhile and is on the new side.
    let fifth = Place::new("hs5");
    let five = fifth.join(&two).await;
    write(&five, "in-between").await;

    let three = places[2].again().await;
    assert_eq!(three.me(), gone);
    settled(&one, 1).await;
    same(&one, &three).await;
    write(&three, "moved").await;
    for member in [one, two, three, five] {
        member.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_certificate_on_demand_here_and_there() {
    let places = places();
    let [one, two, three] = three(&places).await;
    let before = serials(&one, "all told", |rows| rows.len() == 3).await;
    for member in [&one, &two] {
        let renewed = one.renew_certificate(member.me()).await.unwrap();
        assert!(before.iter().all(|row| row.1 != renewed.serial));
        let is_shown = |rows: &[(u64, String, u64)]| rows.iter().any(|row| row.1 == renewed.serial);
        serials(&one, "the new one is shown", is_shown).await;
        write(member, &format!("renewed-{}", member.me())).await;
    }
    let why = one.renew_certificate(MemberId(77)).await.unwrap_err().to_string();
    assert!(why.contains("no member 77"), "{why}");
    let gone = three.me();
    three.shutdown().await;
    drop(three);
    let why = one.renew_certificate(gone).await.unwrap_err().to_string();
    assert!(why.contains("hs3") && why.contains("hsraft members"), "{why}");
    one.shutdown().await;
    two.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn secrets_are_sealed_anew_while_others_are_written() {
    let places = places();
    let [one, two, three] = three(&places).await;
    let stop = Arc::new(AtomicBool::new(false));
    let writing = {
        let (member, stop) = (two.clone(), stop.clone());
        tokio::spawn(async move {
            let mut count = 0u64;
            while !stop.load(Ordering::SeqCst) {
                let applied = member.put_secret("counter", &count.to_be_bytes(), "test").await.unwrap();
                applied.answer.unwrap();
                assert_eq!(&**member.secret("counter").unwrap(), &count.to_be_bytes());
                count += 1;
                tokio::time::sleep(Duration::from_millis(30)).await;
            }
            count
        })
    };
    let key = one.create_recovery_key("test").await.unwrap();
    assert!(!one.latest().recovery_confirmed());
    assert!(!one.confirm_recovery_key("hsrk1-nonsense", "test").await.unwrap().unwrap());
    assert!(two.confirm_recovery_key(&key, "test").await.unwrap().unwrap());
    let mut rotated = Vec::new();
    for member in [&one, &two, &three] {
        // Refused when a secret was written at that very moment: nothing is lost, and it is asked again.
        let id = soon("a new data key", async {
            loop {
                match member.rotate_data_key("test").await.unwrap() {
                    Ok((id, count)) => return (id, count),
                    Err(Refusal::SecretsChanged) => {}
                    Err(other) => panic!("{other}"),
                }
            }
        })
        .await;
        rotated.push(id.0);
        assert!(id.1 >= 2, "the authority's key and Noise's at least");
    }
    assert!(rotated.is_sorted() && rotated[0] > 2, "{rotated:?}");
    stop.store(true, Ordering::SeqCst);
    let count = writing.await.unwrap();
    assert!(count > 0);
    let state = one.confirm().await.unwrap();
    assert!(state.recovery_confirmed(), "the key on paper opens as before");
    assert!(one.is_recovery_key(&key));
    for (name, sealed) in state.secrets() {
        let expected = if name == "recovery" || name.starts_with("data-key.") { 1 } else { rotated[2] };
        // What was written after the last rotation is under the newest as well.
        assert_eq!(sealed.key_id, expected, "{name}");
    }
    three.shutdown().await;
    drop(three);
    let three = places[2].again().await;
    for member in [&one, &two, &three] {
        assert_eq!(&**member.secret("noise").unwrap(), &[7; 32]);
    }
    // A new recovery key has to be shown again.
    three.create_recovery_key("test").await.unwrap();
    assert!(!three.confirm().await.unwrap().recovery_confirmed());
    for member in [one, two, three] {
        member.shutdown().await;
    }
}
