//! One client: reader, writer, limits.
//!
//! One task per client does both directions, each as far as it gets without waiting. Whole frames are read into a
//! buffer of the thread and routed from there, so an idle client owns no buffers; everything that waits for the client
//! is taken at once and handed to one write.

use std::{
    cell::RefCell,
    future::{Future, poll_fn},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use tailcfg::NodeKey;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, Sleep, sleep_until},
};
use world::BoxStream;

use crate::{
    frame::{self, CLIENT_FRAME_BYTES_MAX, Frame, Gone, Side, Step},
    hub::{Closing, ConnectionId, Route},
    metrics::Metrics,
    options::Limits,
    outbox::{Kind, Outbox},
    switchboard::Switchboard,
};

/// Why a connection that was let in ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// The client closed it, or the network did.
    HungUp,
    /// The client broke the protocol.
    BadFrame,
    /// The client asked for what only relays of the mesh may have.
    NotMesh,
    /// The client took nothing for too long.
    WriteTimeout,
    /// A watcher did not keep up.
    SlowWatcher,
    /// Its key opened too many connections and this was the quietest.
    Crowded,
    /// Another relay of the mesh asked for it.
    Asked,
    /// Its key may not be here any more.
    NotAdmitted,
    /// The relay is shutting down.
    Drained,
}

impl Ended {
    /// A label for metrics.
    pub fn label(self) -> &'static str {
        match self {
            Ended::HungUp => "hung_up",
            Ended::BadFrame => "bad_frame",
            Ended::NotMesh => "not_mesh",
            Ended::WriteTimeout => "write_timeout",
            Ended::SlowWatcher => "slow_watcher",
            Ended::Crowded => "crowded",
            Ended::Asked => "asked",
            Ended::NotAdmitted => "not_admitted",
            Ended::Drained => "drained",
        }
    }
}

/// What a connection shares with all others.
#[derive(Clone)]
pub(crate) struct Surroundings {
    pub(crate) board: Arc<Switchboard>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) limits: Arc<Limits>,
}

/// Who is at the other end.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Who {
    pub(crate) id: ConnectionId,
    pub(crate) key: NodeKey,
    /// It knows the mesh key.
    pub(crate) is_mesh: bool,
    /// Between two signs of life.
    pub(crate) keep_alive_every: Duration,
}

/// A client that counts as having moved its home, rather than as having just arrived.
const SETTLED_AFTER: Duration = Duration::from_secs(5);

thread_local! {
    /// Where frames are read into: the longest frame, and a turn's worth of others.
    static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// A client that was let in.
pub(crate) struct Connection {
    around: Surroundings,
    who: Who,
    outbox: Arc<Outbox>,
    stream: BoxStream,
    reader: Reader,
    writer: Writer,
    timer: Pin<Box<Sleep>>,
    keep_alive_at: Instant,
    since: Instant,
    home: Home,
    not_here: NotHereLimit,
}

/// Whether the client calls us its home; takes itself out of the count when the connection ends, however it ends.
struct Home {
    metrics: Arc<Metrics>,
    is_home: bool,
}

impl Home {
    /// Whether this was news.
    fn note(&mut self, is_home: bool) -> bool {
        let news = self.is_home != is_home;
        self.is_home = is_home;
        if news {
            self.metrics.current_home_connections.add(if is_home { 1 } else { -1 });
        }
        news
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        self.note(false);
    }
}

#[derive(Default)]
struct Reader {
    /// The beginning of a frame.
    partial: Vec<u8>,
    /// Bytes of an unknown frame still to come.
    skip: usize,
}

#[derive(Default)]
struct Writer {
    bytes: Vec<u8>,
    written: usize,
    unflushed: bool,
    /// When the client will have taken nothing for too long.
    stalled_until: Option<Instant>,
}

impl Connection {
    /// `partial` came right behind the introduction.
    pub(crate) fn new(
        around: Surroundings,
        who: Who,
        outbox: Arc<Outbox>,
        stream: BoxStream,
        partial: Vec<u8>,
    ) -> Connection {
        let since = Instant::now();
        let home = Home { metrics: around.metrics.clone(), is_home: false };
        let keep_alive_at = since + who.keep_alive_every;
        Connection {
            around,
            who,
            outbox,
            stream,
            reader: Reader { partial, skip: 0 },
            writer: Writer::default(),
            timer: Box::pin(sleep_until(keep_alive_at)),
            keep_alive_at,
            since,
            home,
            not_here: NotHereLimit::new(since),
        }
    }

    /// Serves the client to its end.
    pub(crate) async fn run(&mut self) -> Ended {
        // What came with the introduction is not announced by the socket again.
        let early = std::mem::take(&mut self.reader.partial);
        match self.process(&early) {
            Ok(used) => self.reader.partial = early[used..].to_vec(),
            Err(ended) => return ended,
        }
        drop(early);
        poll_fn(|cx| self.poll(cx)).await
    }

    /// What is left, to say goodbye on.
    pub(crate) fn into_stream(self) -> BoxStream {
        self.stream
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Ended> {
        self.outbox.register(cx.waker());
        if let Some(why) = self.outbox.ended() {
            return Poll::Ready(why);
        }
        // Writing first: what waits leaves before more is read, also when everybody sends at once.
        let done = self.write_ready(cx).and_then(|()| self.read_ready(cx)).and_then(|()| self.keep_time(cx));
        match done {
            Ok(()) => Poll::Pending,
            Err(why) => Poll::Ready(why),
        }
    }

    /// Writes until the client or the outbox has had enough.
    fn write_ready(&mut self, cx: &mut Context<'_>) -> Result<(), Ended> {
        let writer = &mut self.writer;
        loop {
            if writer.written == writer.bytes.len() {
                writer.bytes.clear();
                writer.written = 0;
                let taken = self.outbox.take(&mut writer.bytes, self.around.limits.write_bytes_per_turn);
                if writer.bytes.is_empty() {
                    break;
                }
                let metrics = &self.around.metrics;
                metrics.packets_sent.inc_by(taken.packets);
                metrics.bytes_sent.inc_by(writer.bytes.len() as u64);
                if taken.pongs > 0 {
                    metrics.sent_pong.inc_by(taken.pongs);
                }
            }
            match Pin::new(&mut self.stream).poll_write(cx, &writer.bytes[writer.written..]) {
                Poll::Ready(Ok(0)) | Poll::Ready(Err(_)) => return Err(Ended::HungUp),
                Poll::Ready(Ok(n)) => {
                    writer.written += n;
                    writer.unflushed = true;
                    writer.stalled_until = None;
                }
                Poll::Pending => {
                    self.blocked();
                    return Ok(());
                }
            }
        }
        if writer.unflushed {
            match Pin::new(&mut self.stream).poll_flush(cx) {
                Poll::Ready(Ok(())) => {
                    writer.unflushed = false;
                    writer.stalled_until = None;
                }
                Poll::Ready(Err(_)) => return Err(Ended::HungUp),
                Poll::Pending => {
                    self.blocked();
                    return Ok(());
                }
            }
        }
        // Idle clients own no buffer.
        writer.bytes = Vec::new();
        Ok(())
    }

    /// The client takes nothing right now.
    fn blocked(&mut self) {
        if self.writer.stalled_until.is_some() {
            return;
        }
        let limits = &self.around.limits;
        let patience = if self.who.is_mesh { limits.mesh_write_timeout } else { limits.write_timeout };
        let until = Instant::now() + patience;
        self.writer.stalled_until = Some(until);
        if until < self.timer.deadline() {
            self.timer.as_mut().reset(until);
        }
    }

    /// Reads and routes one turn's worth of frames.
    fn read_ready(&mut self, cx: &mut Context<'_>) -> Result<(), Ended> {
        let per_turn = self.around.limits.read_bytes_per_turn;
        let mut scratch = SCRATCH.take();
        scratch.resize(CLIENT_FRAME_BYTES_MAX + per_turn, 0);
        let result = self.read_into(cx, &mut scratch, per_turn);
        SCRATCH.set(scratch);
        result
    }

    fn read_into(&mut self, cx: &mut Context<'_>, scratch: &mut [u8], per_turn: usize) -> Result<(), Ended> {
        let start = self.reader.partial.len();
        let end = (start + per_turn).min(scratch.len());
        let mut filled = start;
        let mut hung_up = false;
        let mut more = false;
        loop {
            if filled == end {
                more = true;
                break;
            }
            let mut buffer = ReadBuf::new(&mut scratch[filled..end]);
            match Pin::new(&mut self.stream).poll_read(cx, &mut buffer) {
                Poll::Pending => break,
                Poll::Ready(Ok(())) if !buffer.filled().is_empty() => filled += buffer.filled().len(),
                Poll::Ready(_) => {
                    hung_up = true;
                    break;
                }
            }
        }
        if filled > start {
            scratch[..start].copy_from_slice(&self.reader.partial);
            let used = self.process(&scratch[..filled])?;
            self.reader.partial = scratch[used..filled].to_vec();
        }
        if hung_up {
            return Err(Ended::HungUp);
        }
        if more {
            // Others first: those who receive must be able to write before their queues overflow.
            cx.waker().wake_by_ref();
        }
        Ok(())
    }

    fn keep_time(&mut self, cx: &mut Context<'_>) -> Result<(), Ended> {
        while self.timer.as_mut().poll(cx).is_ready() {
            let now = Instant::now();
            if self.writer.stalled_until.is_some_and(|until| until <= now) {
                self.around.metrics.sclient_write_timeouts.inc();
                return Err(Ended::WriteTimeout);
            }
            if self.keep_alive_at <= now {
                self.outbox.notify(&Frame::KeepAlive);
                self.keep_alive_at = now + self.who.keep_alive_every;
            }
            let next = self.writer.stalled_until.map_or(self.keep_alive_at, |until| until.min(self.keep_alive_at));
            self.timer.as_mut().reset(next);
        }
        Ok(())
    }

    /// Acts on all whole frames of `bytes`; returns how many bytes they were.
    fn process(&mut self, bytes: &[u8]) -> Result<usize, Ended> {
        let mut batch = Batch::default();
        let result = self.process_frames(bytes, &mut batch);
        batch.finish(&self.around.metrics);
        result
    }

    fn process_frames(&mut self, bytes: &[u8], batch: &mut Batch) -> Result<usize, Ended> {
        let mut at = 0;
        loop {
            let skipped = self.reader.skip.min(bytes.len() - at);
            at += skipped;
            self.reader.skip -= skipped;
            match frame::step(&bytes[at..], Side::Client) {
                Ok(Step::Frame { frame, used }) => {
                    self.on_frame(frame, batch)?;
                    at += used;
                }
                Ok(Step::Skip { kind, used, payload }) => {
                    tracing::trace!(kind, payload, "skipping a frame of unknown type");
                    self.around.metrics.unknown_frames.inc();
                    at += used;
                    self.reader.skip = payload;
                }
                Ok(Step::Incomplete) => return Ok(at),
                Err(error) => {
                    tracing::debug!(key = ?self.who.key, %error, "closing: the client broke the protocol");
                    return Err(Ended::BadFrame);
                }
            }
        }
    }

    fn on_frame(&mut self, frame: Frame<'_>, batch: &mut Batch) -> Result<(), Ended> {
        if !batch.spoke {
            batch.spoke = true;
            self.around.board.spoke(&self.who.key, self.who.id);
        }
        match frame {
            Frame::SendPacket { to, packet } => self.send(to, packet, batch),
            Frame::NotePreferred(home) => self.note_home(home),
            Frame::Ping(data) => {
                self.around.metrics.got_ping.inc();
                self.outbox.pong(data);
            }
            Frame::ForwardPacket { from, to, packet } => {
                self.must_be_mesh()?;
                self.forward(from, to, packet, batch);
            }
            Frame::WatchConns => {
                self.must_be_mesh()?;
                self.outbox.start_watching(self.around.limits.watcher_notices_bytes_max);
                self.around.board.watch(self.who.id, &self.outbox);
            }
            Frame::ClosePeer(key) => {
                self.must_be_mesh()?;
                self.around.board.close_peer(&key, Closing::Asked);
            }
            // Nobody asked: this relay does not ping.
            Frame::Pong(_) => {}
            // Not among the frames a client says.
            _ => self.around.metrics.unknown_frames.inc(),
        }
        Ok(())
    }

    fn must_be_mesh(&self) -> Result<(), Ended> {
        if self.who.is_mesh {
            return Ok(());
        }
        tracing::debug!(key = ?self.who.key, "closing: a client without the mesh key asked for mesh service");
        Err(Ended::NotMesh)
    }

    fn send(&mut self, to: NodeKey, packet: &[u8], batch: &mut Batch) {
        let kind = batch.count(packet);
        let key = self.who.key;
        let receiver = batch.receiver(to, || self.around.board.route(&key, &to));
        match receiver {
            Some(outbox) => push(outbox, &key, packet, kind, &self.around.metrics),
            None => {
                self.around.metrics.dropped("unknown_dest", label(kind), 1, packet.len() as u64);
                if kind == Kind::Disco && self.not_here.allows() {
                    self.around.metrics.peer_gone_not_here_frames.inc();
                    self.outbox.notify(&Frame::PeerGone { key: to, why: Gone::NotHere });
                }
            }
        }
    }

    fn forward(&mut self, from: NodeKey, to: NodeKey, packet: &[u8], batch: &mut Batch) {
        let kind = batch.count(packet);
        let metrics = &self.around.metrics;
        metrics.packets_forwarded_in.inc();
        match batch.receiver(to, || self.around.board.route_forwarded(&to)) {
            Some(outbox) => push(outbox, &from, packet, kind, metrics),
            None => metrics.dropped("unknown_dest_on_fwd", label(kind), 1, packet.len() as u64),
        }
    }

    fn note_home(&mut self, home: bool) {
        let settled = self.since.elapsed() >= SETTLED_AFTER;
        if self.home.note(home) && settled {
            let metrics = &self.around.metrics;
            let moves = if home { &metrics.home_moves_in } else { &metrics.home_moves_out };
            moves.inc();
        }
    }
}

fn push(outbox: &Outbox, from: &NodeKey, packet: &[u8], kind: Kind, metrics: &Metrics) {
    let pushed = outbox.push_packet(from, packet, kind);
    if pushed.refused {
        metrics.dropped("gone_disconnected", label(kind), 1, packet.len() as u64);
    }
    if pushed.dropped_packets > 0 {
        metrics.dropped("queue_head", label(kind), pushed.dropped_packets, pushed.dropped_bytes);
    }
}

fn label(kind: Kind) -> &'static str {
    match kind {
        Kind::Disco => "disco",
        Kind::Other => "other",
    }
}

/// What is remembered while the frames of one read are routed, so that a run of packets to the same peer costs one
/// look-up and one wake-up.
#[derive(Default)]
struct Batch {
    spoke: bool,
    receiver: Option<(NodeKey, Option<Arc<Outbox>>)>,
    packets: u64,
    disco: u64,
    bytes: u64,
}

impl Batch {
    fn count(&mut self, packet: &[u8]) -> Kind {
        self.packets += 1;
        self.bytes += packet.len() as u64;
        if !frame::is_disco(packet) {
            return Kind::Other;
        }
        self.disco += 1;
        Kind::Disco
    }

    fn receiver(&mut self, to: NodeKey, route: impl FnOnce() -> Route<Arc<Outbox>>) -> Option<&Outbox> {
        if self.receiver.as_ref().is_none_or(|(key, _)| *key != to) {
            self.wake();
            let outbox = match route() {
                Route::To(outbox) => Some(outbox),
                Route::Unknown => None,
            };
            self.receiver = Some((to, outbox));
        }
        self.receiver.as_ref().and_then(|(_, outbox)| outbox.as_deref())
    }

    fn wake(&self) {
        if let Some((_, Some(outbox))) = &self.receiver {
            outbox.wake();
        }
    }

    fn finish(self, metrics: &Metrics) {
        self.wake();
        if self.packets == 0 {
            return;
        }
        metrics.packets_received.inc_by(self.packets);
        metrics.bytes_received.inc_by(self.bytes);
        for (kind, packets) in [(Kind::Disco, self.disco), (Kind::Other, self.packets - self.disco)] {
            if packets > 0 {
                metrics.packets_received_kind.with_label_values(&[label(kind)]).inc_by(packets);
            }
        }
    }
}

/// How often a client is told that somebody is not here: once a second, three at once (`derp_server.go`).
struct NotHereLimit {
    left: u32,
    refilled_at: Instant,
}

impl NotHereLimit {
    const BURST: u32 = 3;
    const EVERY: Duration = Duration::from_secs(1);

    fn new(now: Instant) -> NotHereLimit {
        NotHereLimit { left: NotHereLimit::BURST, refilled_at: now }
    }

    fn allows(&mut self) -> bool {
        let seconds = self.refilled_at.elapsed().as_secs();
        if seconds > 0 {
            self.left = NotHereLimit::BURST.min(self.left.saturating_add(seconds.min(3) as u32));
            self.refilled_at += NotHereLimit::EVERY * u32::try_from(seconds).unwrap_or(u32::MAX);
        }
        let allowed = self.left > 0;
        self.left = self.left.saturating_sub(1);
        allowed
    }
}
