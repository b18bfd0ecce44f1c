//! The member's DNS port: UDP, and TCP for what does not fit.

use std::{sync::Arc, time::Duration};

use raft::Cluster;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::{Semaphore, watch},
    time::timeout,
};
use tokio_util::task::TaskTracker;
use world::{BoxStream, Datagrams, Listener};

use super::{
    guarded,
    zone::{Over, QUESTION_BYTES_MAX, Zone},
};
use crate::{
    listen::{Closing, accept, door::Port},
    observe::Metrics,
};

/// Resolvers come over TCP one by one.
const STREAMS_MAX: usize = 128;
/// On one connection.
const QUESTIONS_MAX: usize = 16;
/// Between two questions, and for an answer to be taken.
const PATIENCE: Duration = Duration::from_secs(5);
/// After an error of the socket.
const AGAIN: Duration = Duration::from_millis(10);

/// What answers are made of.
pub struct Desk {
    pub cluster: Cluster,
    pub name_servers: Vec<String>,
    /// Closed while this member cannot serve.
    pub port: watch::Receiver<Port>,
    pub metrics: Metrics,
}

impl Desk {
    fn answer(&self, asked: &[u8], over: Over) -> Option<Vec<u8>> {
        let state = self.cluster.latest();
        let well = matches!(*self.port.borrow(), Port::Open(_));
        let zone = Zone { state: &state, name_servers: &self.name_servers, well };
        let said = guarded(|| zone.answer(asked, over))??;
        self.metrics.cert_dns_answers.with_label_values(&[said.what]).inc();
        Some(said.bytes)
    }
}

/// Answers datagrams for ever, one after the other.
pub async fn datagrams(socket: Box<dyn Datagrams>, desk: Arc<Desk>) {
    let mut buffer = [0; QUESTION_BYTES_MAX];
    loop {
        let (length, from) = match socket.recv_from(&mut buffer).await {
            Ok(received) => received,
            Err(error) => {
                tracing::debug!(%error, "could not read from the DNS socket");
                // Errors of earlier answers come back here; a socket that is broken for good must not spin.
                tokio::time::sleep(AGAIN).await;
                continue;
            }
        };
        if from.port() == 0 {
            continue;
        }
        if let Some(said) = desk.answer(&buffer[..length], Over::Datagram)
            && let Err(error) = socket.send_to(&said, from).await
        {
            tracing::debug!(%error, "a DNS answer was not sent");
        }
    }
}

/// Answers streams until the member closes.
pub async fn streams(listener: Box<dyn Listener>, desk: Arc<Desk>, tasks: TaskTracker, closing: Closing) {
    let seats = Arc::new(Semaphore::new(STREAMS_MAX));
    accept(listener, "DNS", closing.stop, |stream, _| {
        // Whoever finds no seat is closed at once, and asks another member.
        let Ok(seat) = seats.clone().try_acquire_owned() else { return };
        let (desk, cut) = (desk.clone(), closing.cut.clone());
        tasks.spawn(async move {
            cut.run_until_cancelled(converse(stream, &desk)).await;
            drop(seat);
        });
    })
    .await;
}

/// Each message behind its length in two bytes (RFC 1035, 4.2.2).
async fn converse(mut stream: BoxStream, desk: &Desk) {
    for _ in 0..QUESTIONS_MAX {
        let asked = timeout(PATIENCE, async {
            let length = usize::from(stream.read_u16().await.ok()?);
            let mut asked = vec![0; Some(length).filter(|length| *length <= QUESTION_BYTES_MAX)?];
            stream.read_exact(&mut asked).await.ok()?;
            Some(asked)
        });
        let Ok(Some(asked)) = asked.await else { return };
        let Some(mut said) = desk.answer(&asked, Over::Stream) else { return };
        let Ok(length) = u16::try_from(said.len()) else { return };
        said.splice(0..0, length.to_be_bytes());
        match timeout(PATIENCE, stream.write_all(&said)).await {
            Ok(Ok(())) => {}
            _ => return,
        }
    }
}
