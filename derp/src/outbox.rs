//! What waits to be written to one client: two lanes that drop at the head, and what the relay itself has to say.
//!
//! Senders append whole frames under a short lock; the client's task takes everything that is ready at once, so that
//! many packets share one TLS record and one write. A full lane drops its oldest packets: for a tunnel a late packet
//! is worth less than a lost one. Path discovery has a lane of its own that bulk traffic cannot push out.

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
    task::Waker,
};

use futures::task::AtomicWaker;
use tailcfg::NodeKey;

use crate::{connection::Ended, frame::Frame, options::QueueLimits};

/// Frames for one client, in the order in which they will be written.
pub struct Outbox {
    inside: Mutex<Inside>,
    task: AtomicWaker,
}

struct Inside {
    pong: Option<[u8; 8]>,
    /// The relay's own words; small and few.
    notices: Vec<u8>,
    notices_bytes_max: usize,
    is_watching: bool,
    disco: Lane,
    packets: Lane,
    ended: Option<Ended>,
}

/// Which lane a packet takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Disco,
    Other,
}

/// What became of a packet and of those before it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pushed {
    /// The connection is ending; the packet was not taken.
    pub refused: bool,
    /// How many older packets had to go.
    pub dropped_packets: u64,
    /// Their bytes, frame headers included.
    pub dropped_bytes: u64,
}

/// What was handed to the writer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Taken {
    pub packets: u64,
    pub pongs: u64,
}

impl Outbox {
    /// An empty outbox.
    pub fn new(limits: &QueueLimits) -> Outbox {
        Outbox {
            inside: Mutex::new(Inside {
                pong: None,
                notices: Vec::new(),
                notices_bytes_max: limits.notices_bytes_max,
                is_watching: false,
                disco: Lane::new(limits.disco_packets_max, limits.disco_bytes_max),
                packets: Lane::new(limits.packets_max, limits.bytes_max),
                ended: None,
            }),
            task: AtomicWaker::new(),
        }
    }

    /// Appends a packet. The client's task is not woken: whoever pushes calls [`Outbox::wake`] after its last one.
    pub fn push_packet(&self, from: &NodeKey, packet: &[u8], kind: Kind) -> Pushed {
        let mut inside = self.lock();
        if inside.ended.is_some() {
            return Pushed { refused: true, ..Pushed::default() };
        }
        let lane = match kind {
            Kind::Disco => &mut inside.disco,
            Kind::Other => &mut inside.packets,
        };
        lane.push(&Frame::RecvPacket { from: *from, packet })
    }

    /// Appends words of the relay and wakes the client's task. What does not fit is dropped: a client only misses a
    /// hint. A watcher would miss the truth and is disconnected instead.
    pub fn notify(&self, frame: &Frame<'_>) {
        let mut inside = self.lock();
        if inside.ended.is_none() && inside.notices.len() < inside.notices_bytes_max {
            frame.encode(&mut inside.notices);
        } else if inside.is_watching {
            inside.ended.get_or_insert(Ended::SlowWatcher);
        }
        drop(inside);
        self.wake();
    }

    /// A watcher is told about everybody at once and gets the room for it.
    pub fn start_watching(&self, notices_bytes_max: usize) {
        let mut inside = self.lock();
        inside.is_watching = true;
        inside.notices_bytes_max = notices_bytes_max;
    }

    /// Answers a ping; one answer waits at most, further pings go unanswered.
    pub fn pong(&self, data: [u8; 8]) {
        self.lock().pong.get_or_insert(data);
        self.wake();
    }

    /// Ends the connection; the first reason stays.
    pub fn close(&self, why: Ended) {
        self.lock().ended.get_or_insert(why);
        self.wake();
    }

    /// Whether and why the connection is to end.
    pub fn ended(&self) -> Option<Ended> {
        self.lock().ended
    }

    /// Wakes the client's task.
    pub fn wake(&self) {
        self.task.wake();
    }

    /// Whom to wake.
    pub fn register(&self, waker: &Waker) {
        self.task.register(waker);
    }

    /// Moves about `bytes_max` bytes of whole frames into `out`: the relay's words, discovery, then packets.
    pub fn take(&self, out: &mut Vec<u8>, bytes_max: usize) -> Taken {
        let mut inside = self.lock();
        let mut taken = Taken::default();
        if let Some(data) = inside.pong.take() {
            Frame::Pong(data).encode(out);
            taken.pongs = 1;
        }
        if !inside.notices.is_empty() {
            if out.is_empty() {
                std::mem::swap(out, &mut inside.notices);
            } else {
                out.append(&mut inside.notices);
            }
            inside.notices = Vec::new();
        }
        taken.packets += inside.disco.take(out, bytes_max);
        taken.packets += inside.packets.take(out, bytes_max);
        taken
    }

    /// How many packets wait.
    #[cfg(test)]
    pub fn waiting(&self) -> usize {
        let inside = self.lock();
        inside.disco.lengths.len() + inside.packets.lengths.len()
    }

    fn lock(&self) -> MutexGuard<'_, Inside> {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Encoded frames behind each other, with their lengths; empty lanes own no memory.
struct Lane {
    bytes: Vec<u8>,
    /// Where the oldest frame that is still here begins.
    start: usize,
    lengths: VecDeque<u32>,
    packets_max: usize,
    bytes_max: usize,
}

impl Lane {
    fn new(packets_max: usize, bytes_max: usize) -> Lane {
        Lane { bytes: Vec::new(), start: 0, lengths: VecDeque::new(), packets_max, bytes_max }
    }

    fn push(&mut self, frame: &Frame<'_>) -> Pushed {
        let before = self.bytes.len();
        frame.encode(&mut self.bytes);
        let length = self.bytes.len() - before;
        let mut pushed = Pushed::default();
        while self.lengths.len() >= self.packets_max || self.bytes.len() - self.start > self.bytes_max {
            // The new frame itself always stays: a limit below one frame would otherwise stop all traffic.
            let Some(oldest) = self.lengths.pop_front() else { break };
            self.start += oldest as usize;
            pushed.dropped_packets += 1;
            pushed.dropped_bytes += u64::from(oldest);
        }
        self.lengths.push_back(length as u32);
        if self.start > self.bytes.len() / 2 {
            self.bytes.drain(..self.start);
            self.start = 0;
        }
        pushed
    }

    fn take(&mut self, out: &mut Vec<u8>, bytes_max: usize) -> u64 {
        let (mut end, mut packets) = (self.start, 0);
        while let Some(length) = self.lengths.front().map(|length| *length as usize) {
            if packets + out.len() > 0 && out.len() + (end - self.start) + length > bytes_max {
                break;
            }
            self.lengths.pop_front();
            end += length;
            packets += 1;
        }
        if packets == 0 {
            return 0;
        }
        if self.lengths.is_empty() && self.start == 0 && out.is_empty() {
            std::mem::swap(out, &mut self.bytes);
        } else {
            out.extend_from_slice(&self.bytes[self.start..end]);
        }
        if self.lengths.is_empty() {
            // Freed rather than kept, so that idle clients are small.
            (self.bytes, self.start) = (Vec::new(), 0);
            self.lengths.shrink_to(64);
        } else {
            self.start = end;
        }
        packets as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FROM: NodeKey = NodeKey([1; 32]);

    fn limits() -> QueueLimits {
        QueueLimits {
            packets_max: 4,
            bytes_max: 1000,
            disco_packets_max: 2,
            disco_bytes_max: 500,
            notices_bytes_max: 100,
        }
    }

    fn packets(bytes: &[u8]) -> Vec<u8> {
        let mut rest = bytes;
        let mut first_bytes = Vec::new();
        while let Ok(crate::frame::Step::Frame { frame, used }) = crate::frame::step(rest, crate::frame::Side::Server) {
            if let Frame::RecvPacket { packet, .. } = frame {
                first_bytes.push(packet[0]);
            }
            rest = &rest[used..];
        }
        assert!(rest.is_empty(), "whole frames only");
        first_bytes
    }

    fn take(outbox: &Outbox, bytes_max: usize) -> Vec<u8> {
        let mut out = Vec::new();
        outbox.take(&mut out, bytes_max);
        packets(&out)
    }

    #[test]
    fn the_oldest_packets_go_first() {
        let outbox = Outbox::new(&limits());
        let dropped: Vec<u64> =
            (0..6).map(|n| outbox.push_packet(&FROM, &[n; 10], Kind::Other).dropped_packets).collect();
        assert_eq!(dropped, [0, 0, 0, 0, 1, 1]);
        assert_eq!(take(&outbox, 10_000), [2, 3, 4, 5]);
        assert_eq!(take(&outbox, 10_000), [0u8; 0]);
    }

    #[test]
    fn bytes_are_bounded_but_one_packet_always_fits() {
        let outbox = Outbox::new(&limits());
        outbox.push_packet(&FROM, &[1; 400], Kind::Other);
        outbox.push_packet(&FROM, &[2; 400], Kind::Other);
        assert_eq!(outbox.push_packet(&FROM, &[3; 400], Kind::Other).dropped_bytes, 437);
        assert_eq!(outbox.push_packet(&FROM, &[4; 5000], Kind::Other).dropped_packets, 2);
        assert_eq!(take(&outbox, 100), [4]);
    }

    #[test]
    fn discovery_is_not_pushed_out_and_goes_first() {
        let outbox = Outbox::new(&limits());
        outbox.push_packet(&FROM, &[100; 100], Kind::Disco);
        for n in 0..50 {
            outbox.push_packet(&FROM, &[n; 200], Kind::Other);
        }
        assert_eq!(take(&outbox, 10_000), [100, 46, 47, 48, 49]);
    }

    #[test]
    fn a_batch_ends_at_its_limit() {
        let outbox = Outbox::new(&limits());
        for n in 0..4 {
            outbox.push_packet(&FROM, &[n; 100], Kind::Other);
        }
        assert_eq!(take(&outbox, 300), [0, 1]);
        outbox.push_packet(&FROM, &[9; 100], Kind::Other);
        assert_eq!(take(&outbox, 300), [2, 3]);
        assert_eq!(take(&outbox, 300), [9]);
        assert_eq!(outbox.waiting(), 0);
    }

    #[test]
    fn a_closed_outbox_takes_nothing_more() {
        let outbox = Outbox::new(&limits());
        outbox.close(Ended::Drained);
        outbox.close(Ended::HungUp);
        assert_eq!(outbox.ended(), Some(Ended::Drained));
        assert!(outbox.push_packet(&FROM, &[1], Kind::Other).refused);
    }
}
