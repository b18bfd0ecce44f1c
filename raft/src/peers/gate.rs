//! A stream between members that a drill can hold up, as a cut cable would.
//!
//! Nothing is lost and nothing is answered: bytes wait, keep-alives run out, and when the fault is over whatever was not
//! given up goes on, as TCP does after a partition.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
};

use state_machine::MemberId;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use world::BoxStream;

use crate::drills::Drills;

/// Who is at the other end; 0 until it has said so.
#[derive(Clone, Default)]
pub struct Peer(Arc<AtomicU64>);

impl Peer {
    pub fn known(member: MemberId) -> Peer {
        Peer(Arc::new(AtomicU64::new(member.0)))
    }

    pub fn is(&self, member: MemberId) {
        self.0.store(member.0, Ordering::Release);
    }

    fn get(&self) -> Option<MemberId> {
        Some(MemberId(self.0.load(Ordering::Acquire))).filter(|member| member.0 != 0)
    }
}

/// The stream itself, or one behind a gate where drills are allowed.
pub fn gated(stream: BoxStream, drills: &Drills, peer: Peer) -> BoxStream {
    match drills.is_allowed() {
        true => Box::new(Gated { stream, drills: drills.clone(), peer }),
        false => stream,
    }
}

struct Gated {
    stream: BoxStream,
    drills: Drills,
    peer: Peer,
}

impl Gated {
    /// The stream, unless it is held up.
    fn open(&mut self, context: &Context<'_>) -> Poll<Pin<&mut BoxStream>> {
        match self.drills.holds_up(self.peer.get(), context) {
            true => Poll::Pending,
            false => Poll::Ready(Pin::new(&mut self.stream)),
        }
    }
}

impl AsyncRead for Gated {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        std::task::ready!(self.open(context)).poll_read(context, buffer)
    }
}

impl AsyncWrite for Gated {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        std::task::ready!(self.open(context)).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        std::task::ready!(self.open(context)).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        std::task::ready!(self.open(context)).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, time::Duration};

    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        time::{Instant, timeout},
    };

    use super::*;
    use crate::{drills::Fault, tasks::Tasks};

    #[tokio::test(start_paused = true)]
    async fn what_was_sent_into_a_cut_arrives_when_it_is_over() {
        let (near, mut far) = tokio::io::duplex(64);
        let (drills, tasks) = (Drills::allowed(), Tasks::here());
        let mut near = gated(Box::new(near), &drills, Peer::known(MemberId(2)));
        near.write_all(b"a").await.unwrap();
        assert_eq!(far.read_u8().await.unwrap(), b'a');

        drills.begin("d", "cli", Duration::from_secs(60)).unwrap();
        drills.inject("d", Fault::Cut(BTreeSet::new()), Duration::from_secs(7), &tasks).unwrap();
        far.write_all(b"b").await.unwrap();
        assert!(timeout(Duration::from_secs(1), near.read_u8()).await.is_err(), "nothing comes in");
        assert!(timeout(Duration::from_secs(1), near.write_all(b"c")).await.is_err(), "nothing goes out");
        let begun = Instant::now();
        assert_eq!(near.read_u8().await.unwrap(), b'b');
        assert_eq!(begun.elapsed().as_secs(), 5);
        near.write_all(b"c").await.unwrap();
        assert_eq!(far.read_u8().await.unwrap(), b'c');
    }
}
