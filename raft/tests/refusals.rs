//! What a member refuses: strangers, and its own disk when it lies.

mod common;
#[path = "refusals/disks.rs"]
mod disks;

use std::time::Duration;

use common::*;
use raft::StartError;
use state_machine::JoinRole;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_are_for_one_member_and_one_cluster() {
    let (here, elsewhere) = (Place::new("hs1"), Place::new("hs1"));
    let (one, foreign) = (here.found().await, elsewhere.found().await);

    let good = token(&one).await;
    // A member whose folder goes away stops: the place must outlive it.
    let second = Place::new("hs2");
    let two = second.try_join(&one, &good).await.unwrap();
    assert_eq!(code(Place::new("hs3").try_join(&two, &good).await), 10, "used");

    let brief = one.create_join_token(Duration::from_millis(1), "", JoinRole::Voter, "test").await.unwrap();
    tokio::time::sleep(Duration::from_millis(20)).await;
    assert_eq!(code(Place::new("hs3").try_join(&one, &brief).await), 10, "expired");

    let mut wrong_secret = token(&one).await;
    let last = if wrong_secret.pop() == Some('a') { 'b' } else { 'a' };
    wrong_secret.push(last);
    assert_eq!(code(Place::new("hs3").try_join(&one, &wrong_secret).await), 10, "wrong secret");

    let theirs = token(&foreign).await;
    assert_eq!(code(Place::new("hs3").try_join(&one, &theirs).await), 11, "wrong authority");
    assert_eq!(code(Place::new("hs3").try_join(&one, "hsr1.nonsense").await), 10);

    let named = one.create_join_token(Duration::from_secs(60), "hs9", JoinRole::Voter, "test").await.unwrap();
    assert_ne!(code(Place::new("hs3").try_join(&one, &named).await), 0, "for another name");
}

/// A wrong token, then the service that would found on an empty folder.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_join_began_no_service_founds() {
    let home = Place::new("hs1");
    let one = home.found().await;
    let place = Place::new("hs2");
    assert_eq!(code(place.try_join(&one, "hsr1.nonsense").await), 10);
    for _ in 0..2 {
        let error = place.try_found().await.unwrap_err();
        assert_eq!((error.exit_code(), error.code().number), (14, 3021), "{error}");
    }
    // The right words still let it in, and then serve goes on with what it is.
    let two = place.try_join(&one, &token(&one).await).await.unwrap();
    let me = two.me();
    two.shutdown().await;
    drop(two);
    let two = place.try_found().await.unwrap();
    assert_eq!(two.me(), me);
    // Somebody who wants a cluster of its own says so with the file that is named.
    let other = Place::new("hs3");
    assert_eq!(code(other.try_join(&one, "hsr1.nonsense").await), 10);
    other.world.disk.remove(&other.data_dir().join("joining.key")).unwrap();
    let alone = other.try_found().await.unwrap();
    assert_eq!(alone.me().0, 1);
    for member in [one, two, alone] {
        member.shutdown().await;
    }
}

fn code<T>(result: Result<T, StartError>) -> i32 {
    result.err().map_or(0, |error| error.exit_code())
}

/// A member that was killed after some writes; its database is closed.
async fn killed() -> Place {
    let place = Place::new("hs1");
    let member = place.found().await;
    for number in 0..30 {
        write(&member, &format!("user-{number}")).await;
    }
    member.shutdown().await;
    place
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flipped_byte_in_the_log_is_noticed() {
    let place = killed().await;
    let log = place.database_files(".log").pop().unwrap();
    place.change_file(&log, |bytes| {
        let middle = bytes.len() / 2;
        bytes[middle] ^= 0x10;
    });
    assert_eq!(code(place.try_again().await), 40);
    let path = place.data_dir().join("quarantine.txt");
    let report = place.world.disk.read(&path).unwrap().unwrap();
    place.world.disk.remove(&path).unwrap();
    assert_eq!(code(place.try_again().await), 40, "and nothing was repaired by looking");
    let report = String::from_utf8(report).unwrap();
    assert!(
        report.contains("storage integrity") && report.contains("hsraft join HOST:PORT --token hsr1.… --replace hs1")
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_tail_is_noticed() {
    let place = killed().await;
    let log = place.database_files(".log").pop().unwrap();
    place.change_file(&log, |bytes| bytes.truncate(bytes.len() * 3 / 4));
    assert_eq!(code(place.try_again().await), 40);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_identity_without_its_database_stays_out() {
    let place = killed().await;
    for name in place.world.disk.list(&place.data_dir().join("db")).unwrap() {
        place.world.disk.remove(&place.data_dir().join("db").join(name)).unwrap();
    }
    assert_eq!(code(place.try_again().await), 40);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_without_its_identity_is_foreign() {
    let place = killed().await;
    place.world.disk.remove(&place.data_dir().join("identity")).unwrap();
    assert_eq!(code(place.try_again().await), 14);
    // Another's identity does not help.
    let other = killed().await;
    let identity = other.world.disk.read(&other.data_dir().join("identity")).unwrap().unwrap();
    place.world.disk.write(&place.data_dir().join("identity"), &identity).unwrap();
    assert_eq!(code(place.try_again().await), 14);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_folder_one_process() {
    let place = Place::new("hs1");
    let member = place.found().await;
    assert_eq!(code(place.try_again().await), 16);
    write(&member, "alice").await;
    member.shutdown().await;
    let member = place.again().await;
    assert!(member.confirm().await.unwrap().user_by_name("alice").is_some());
}
