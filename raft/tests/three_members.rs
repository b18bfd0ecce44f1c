//! Three members in one process, over the real loopback and real disks.

#![recursion_limit = "256"]

#[path = "three_members/certificates.rs"]
mod certificates;
mod common;
#[path = "three_members/joins.rs"]
mod joins;
#[path = "three_members/sealing.rs"]
mod sealing;
#[path = "three_members/upgrades.rs"]
mod upgrades;

use common::*;
use raft::Options;
use state_machine::{JoinRole, MemberState, RequestId};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn found_join_write_lose_the_leader_and_come_back() {
    let places = places();
    let members = three(&places).await;
    assert_eq!(members.each_ref().map(|member| member.me().0)[0], 1);
    for (number, member) in members.iter().enumerate() {
        write(member, &format!("user-{number}")).await;
        assert_eq!(&**member.secret("noise").unwrap(), &[7; 32]);
    }

    // The leader goes without a word.
    let leader = members[0].leader().unwrap();
    let mut alive: Vec<_> = members.into_iter().zip(&places).collect();
    let lost = alive.iter().position(|(member, _)| member.me() == leader).unwrap();
    let (gone, place) = alive.remove(lost);
    drop(gone);
    write(&alive[0].0, "after-the-loss").await;
    write(&alive[1].0, "after-the-loss-2").await;
    assert_ne!(alive[0].0.leader(), Some(leader));

    let back = place.again().await;
    assert_eq!(back.me(), leader);
    same(&alive[0].0, &back).await;
    write(&back, "from-the-one-that-came-back").await;
    same(&back, &alive[1].0).await;
    for (member, _) in &alive {
        member.shutdown().await;
    }
    back.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_request_id_is_one_wish() {
    let places = places();
    let [one, two, three] = three(&places).await;
    let id = RequestId(42);
    let first = one.propose_as(id, "test", create_user("alice")).await.unwrap();
    let again = two.propose_as(id, "test", create_user("alice")).await.unwrap();
    let other = three.propose_as(RequestId(43), "test", create_user("alice")).await.unwrap();
    assert_eq!(first.answer, again.answer);
    assert!(other.answer.is_err(), "the name is taken: {other:?}");
    assert_eq!(three.confirm().await.unwrap().users().len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leadership_is_handed_over() {
    let places = places();
    let members = three(&places).await;
    let leader = members[0].leader().unwrap();
    let follower = members.iter().find(|member| member.me() != leader).unwrap();
    // Asked at a member that does not lead.
    follower.transfer_leader(Some(follower.me())).await.unwrap();
    status_where(follower, "leading", |status| status.leader == Some(follower.me())).await;
    // On purpose and without an election timeout.
    follower.shutdown().await;
    let rest = members.iter().find(|member| member.me() != follower.me()).unwrap();
    status_where(rest, "a new leader", |status| status.leader.is_some_and(|leader| leader != follower.me())).await;
    write(rest, "carol").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_far_behind_gets_a_snapshot() {
    let mut places = places();
    places.iter_mut().for_each(|place| place.snapshot_every = 30);
    let [one, two, three] = three(&places).await;
    three.shutdown().await;
    drop(three);
    for number in 0..200 {
        write(if number % 2 == 0 { &one } else { &two }, &format!("user-{number}")).await;
    }
    let status = status_where(&one, "purging", |status| status.purged.is_some_and(|index| index > 100)).await;
    let three = places[2].again().await;
    same(&one, &three).await;
    assert_eq!(three.latest().users().len(), 200);
    assert!(three.status().snapshot >= status.purged, "the entries were gone, so a snapshot came");
    // And after a restart on what was installed.
    drop(three);
    let three = places[2].again().await;
    same(&one, &three).await;
    write(&three, "at-last").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_removed_member_is_fenced_and_another_takes_its_place() {
    let places = places();
    let [one, two, three] = three(&places).await;
    let id = three.me();
    two.remove_member(id, false, "test").await.unwrap();
    assert_eq!(soon("the removed member notices", three.fatal()).await, "this member was removed from the cluster");
    assert_eq!(one.confirm().await.unwrap().member(id).unwrap().state, MemberState::Removed);
    voters(&one, 2).await;
    drop(three);
    let four = Place::new("hs4");
    let member = four.join(&two).await;
    assert!(member.me() > id, "an id is never used twice");
    voters(&one, 3).await;
    write(&member, "dave").await;
    assert_eq!(places[2].again_if_let().await.unwrap_err().exit_code(), 14);
}

/// Right after it handed over it knows of no leader's view, and the new leader has heard from nobody.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_has_just_led_may_leave_at_once() {
    let places = places();
    let [one, two, three] = three(&places).await;
    let leader = one.leader().unwrap();
    let leaving = [&one, &two, &three].into_iter().find(|member| member.me() == leader).unwrap();
    leaving.transfer_leader(None).await.unwrap();
    leaving.remove_member(leader, false, "test").await.unwrap();
    assert_eq!(soon("it hears of it", leaving.fatal()).await, "this member was removed from the cluster");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_learner_stays_a_learner() {
    let (place, other) = (Place::new("hs1"), Place::new("hs2"));
    let one = place.found().await;
    let ttl = std::time::Duration::from_secs(60);
    let token = one.create_join_token(ttl, "hs2", JoinRole::Learner, "test").await.unwrap();
    let two = other.try_join(&one, &token).await.unwrap();
    write(&two, "erin").await;
    tokio::time::sleep(std::time::Duration::from_secs(3)).await;
    let status = one.status();
    assert_eq!((status.voters.len(), status.learners), (1, vec![two.me()]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_member_shows_the_same_table() {
    let places = places();
    let members = three(&places).await;
    let leader = members[0].leader().unwrap();
    for member in &members {
        soon("a fresh view", async {
            loop {
                let board = member.board();
                let told = board.members.values().filter(|seen| seen.report.is_some()).count();
                if board.by == Some(leader)
                    && told == 3
                    && board.members.values().all(|seen| seen.last_contact.is_some())
                {
                    assert!(board.members.values().all(|seen| seen.report.as_ref().unwrap().certificate_ends_ms > 0));
                    return;
                }
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            }
        })
        .await;
    }
    // Alone, a member knows nothing new and says how old its knowledge is.
    let mut followers: Vec<_> = members.into_iter().filter(|member| member.me() != leader).collect();
    let alone = followers.pop().unwrap();
    drop(followers);
    soon("the view grows old", async {
        while alone.board().age < std::time::Duration::from_millis(1500) {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    })
    .await;
    assert_eq!(alone.board().by, Some(leader), "the last leader's view is kept");
}

/// The machine's clock, that can be put forward.
struct Ahead(std::sync::atomic::AtomicU64);

impl world::Clock for Ahead {
    fn now_ms(&self) -> u64 {
        world::real::world().clock.now_ms() + self.0.load(std::sync::atomic::Ordering::Relaxed)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn states_are_compared_each_minute() {
    let clock = std::sync::Arc::new(Ahead(0.into()));
    let places = places().map(|place| {
        let world = world::World { clock: clock.clone(), ..place.world.clone() };
        Place { world, ..place }
    });
    let members = three(&places).await;
    clock.0.store(60_000, std::sync::atomic::Ordering::Relaxed);
    write(&members[1], "a-new-minute").await;
    for member in &members {
        soon("all are found to be the same", async {
            loop {
                let agreements = member.board().agreements(&member.status().voters);
                if agreements.len() == 3 && agreements.values().all(|agreement| *agreement == raft::Agreement::Same) {
                    return;
                }
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            }
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_old_copy_of_a_folder_is_recognised() {
    let places = places();
    let [one, two, three] = three(&places).await;
    three.shutdown().await;
    drop(three);
    let copy = Place { folder: tempfile::tempdir().unwrap(), ..Place::new("hs3") };
    copy_folder(&places[2].data_dir(), &copy.data_dir(), &copy.world);
    let id = {
        let three = places[2].again().await;
        write(&three, "later").await;
        same(&one, &three).await;
        three.shutdown().await;
        three.me()
    };
    for _ in 0..3 {
        let error = copy.again_if_let().await.unwrap_err();
        assert_eq!(error.exit_code(), 40, "{error}");
        assert!(error.to_string().contains("from an earlier day"), "{error}");
    }
    // The true folder goes on, and nobody noticed.
    let three = places[2].again().await;
    assert_eq!(three.me(), id);
    write(&three, "still-here").await;
    same(&two, &three).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_member_is_replaced_and_its_folder_stays_out() {
    let places = places();
    let [one, two, three] = three(&places).await;
    let named = || one.create_join_token(std::time::Duration::from_secs(60), "hs3", JoinRole::Voter, "test");
    let new = Place::new("hs3");
    // One that goes on answering is not replaced, however long its successor would wait.
    let hasty = |options: Options| Options { join_within: std::time::Duration::from_millis(2500), ..options };
    let begun = tokio::time::Instant::now();
    let error = new.try_replace_as(&one, &named().await.unwrap(), hasty).await.unwrap_err();
    assert!(error.to_string().contains("not gone") && error.to_string().contains("after 5 s of silence"), "{error}");
    assert_eq!((error.exit_code(), error.code().number), (2, 1108));
    assert!(begun.elapsed() > std::time::Duration::from_secs(1), "it was asked once only");
    // What join began is not where a cluster is founded by mistake.
    let error = new.try_found().await.unwrap_err();
    assert_eq!((error.exit_code(), error.code().number), (14, 3021), "{error}");
    assert!(error.to_string().contains("joining.key"), "{error}");
    let old = three.me();
    three.shutdown().await;
    drop(three);
    // At once: join itself waits until the silence was long enough.
    let token = named().await.unwrap();
    let member = new.try_replace(&two, &token).await.unwrap();
    voters(&member, 3).await;
    assert!(member.me() > old && !member.status().voters.contains(&old));
    write(&member, "replaced").await;
    // It was down when it was removed; its certificate is still good, and opens nothing.
    assert_eq!(places[2].again_if_let().await.unwrap_err().exit_code(), 14);
    drop(two);
    write(&member, "two-of-three").await;
}

fn copy_folder(from: &std::path::Path, to: &std::path::Path, world: &world::World) {
    world.disk.create_dir_all(to).unwrap();
    for name in world.disk.list(from).unwrap() {
        if from.join(&name).is_dir() {
            copy_folder(&from.join(&name), &to.join(&name), world);
        } else if name != "lock" && name != "LOCK" {
            let bytes = world.disk.read(&from.join(&name)).unwrap().unwrap();
            world.disk.write(&to.join(&name), &bytes).unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_with_a_slow_disk_lets_another_lead() {
    let mut places = places();
    let (world, slow) = SlowDisk::world();
    places[0].world = world;
    let members = three(&places).await;
    let first = members[0].me();
    members[1].transfer_leader(Some(first)).await.unwrap();
    status_where(&members[1], "the first leads", |status| status.leader == Some(first)).await;

    slow.store(true, std::sync::atomic::Ordering::Relaxed);
    let begun = tokio::time::Instant::now();
    let mut number = 0;
    // What is slow shows in appends, so somebody has to write.
    soon("another leads", async {
        while members[1].leader() == Some(first) || members[1].leader().is_none() {
            number += 1;
            write(&members[1], &format!("slow-{number}")).await;
        }
    })
    .await;
    let stepped = begun.elapsed();
    assert!(stepped > std::time::Duration::from_secs(10), "a moment's slowness is nothing: {stepped:?}");
    // The others' disks carry the writes now, the slow one only follows.
    let begun = tokio::time::Instant::now();
    for number in 0..10 {
        write(&members[1], &format!("fast-{number}")).await;
    }
    println!("the slow leader stepped aside after {stepped:?}; then ten writes took {:?}", begun.elapsed());
    let new = members[1].leader();
    assert!(new.is_some() && new != Some(first), "and it stays so");
    slow.store(false, std::sync::atomic::Ordering::Relaxed);
    for member in &members {
        member.shutdown().await;
    }
}
