//! How many commands a second three members take. Not run by default:
//! `cargo test --release -p raft --test speed -- --ignored --nocapture`

mod common;

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use common::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn proposals_a_second() {
    let mut places = places();
    places.iter_mut().for_each(|place| place.snapshot_every = 100_000);
    let members = three(&places).await;
    for clients in [1, 64, 1000] {
        let done = Arc::new(AtomicU64::new(0));
        let until = tokio::time::Instant::now() + std::time::Duration::from_secs(5);
        let mut tasks = Vec::new();
        for client in 0..clients {
            let (member, done) = (members[client % 3].clone(), done.clone());
            tasks.push(tokio::spawn(async move {
                let mut number = 0;
                while tokio::time::Instant::now() < until {
                    write(&member, &format!("u{clients}-{client}-{number}")).await;
                    number += 1;
                    done.fetch_add(1, Ordering::Relaxed);
                }
            }));
        }
        for task in tasks {
            task.await.unwrap();
        }
        println!("{clients} clients: {} proposals/s", done.load(Ordering::Relaxed) / 5);
    }
}
