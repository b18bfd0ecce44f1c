//! How all members are, the same at every member.
//!
//! Only the leader knows how far the others are and when they answered last. So every member tells every other one
//! of itself once a second, and whoever leads answers with what it sees of all. A member without a leader keeps the
//! last view and says how old it is. Telling everybody shows besides who reaches whom: a learner votes only when it
//! reaches the voters and they reach it (membership.rs). And because each remembers what the others said, a member
//! whose folder was put back to an earlier day can be told so before it takes part again ([`Memory`]).

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use futures::future::join_all;
use serde::{Deserialize, Serialize};
use state_machine::{MemberId, MemberState};
use tokio::{
    sync::watch,
    time::{Instant, sleep_until, timeout},
};

use crate::{
    agreement::{self, Agreement, Fingerprint, TOLD},
    archive::{self, BackupReport},
    certificates::{ClientCertificate, MemberCertificate},
    cluster::{Core, REMOVED},
    encode::{Call, decode, encode},
    error::outdated,
    integrity::fail,
    peers::{Client, proto::Frame},
    pki,
    space::Room,
    status::{Progress, Role, Status},
};

/// After so many rounds in which nobody answers and somebody shows a newer authority, this member was left behind.
const LEFT_BEHIND: u32 = 5;
/// How often members tell each other.
const PERIOD: Duration = Duration::from_secs(1);
/// Shorter than the period, so that a dead member delays nobody's news.
const ANSWER_WITHIN: Duration = Duration::from_millis(800);
/// A report older than this says nothing about now.
const FRESH: Duration = Duration::from_secs(5);
/// How many looks, a second apart, a rate is taken over.
const SAMPLES: usize = 10;

/// What a member says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Report {
    /// How often it was started.
    pub incarnation: u64,
    pub term: u64,
    pub applied: u64,
    /// What it had applied a report earlier, and has surely synced since.
    pub settled: u64,
    /// Its time of day when it wrote this, in milliseconds since 1970.
    pub clock_ms: u64,
    /// How long the report before took there and back.
    pub round_trip_ms: u64,
    /// When its certificate ends, in milliseconds since 1970.
    pub certificate_ends_ms: u64,
    /// Members that answered its last report.
    pub reaches: BTreeSet<u64>,
    /// Within this 99 of 100 appends of the last seconds were synced, in microseconds; none: there were none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub append_p99_us: Option<u64>,
    /// Since it last gave its lead away because of its disk.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stepped_aside_ms_ago: Option<u64>,
    /// How its backup stands; none: it keeps none.
    pub backup: Option<BackupReport>,
    /// Its State at the last minutes, newest last.
    pub fingerprints: Vec<Fingerprint>,
    /// The highest feature level its program can apply; zero from programs that could not tell, which stop at 2.
    pub feature_level: u32,
    /// How much room its disk has; none: nobody counts there.
    pub room: Option<Room>,
    /// When its disk was last read through, in milliseconds since 1970; zero: never.
    pub scrubbed_ms: u64,
    /// The certificate it shows to other members.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub certificate: Option<MemberCertificate>,
    /// The one it shows to clients; none: it speaks plain HTTP.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_certificate: Option<ClientCertificate>,
    /// Why its port for clients is closed; empty: it is open; none: it does not say.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_port_closed: Option<String>,
}

/// One member in the eyes of the leader.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// The last log index it is known to have on disk.
    pub matched: Option<u64>,
    /// Entries it is behind.
    pub lag: u64,
    /// Since it was last heard from.
    pub last_contact: Option<Duration>,
    /// Entries it took a second, over the last seconds.
    pub per_second: Option<u64>,
    /// How far its clock is ahead of the leader's, in milliseconds.
    pub clock_ahead_ms: Option<i64>,
    /// What it said of itself a moment ago.
    pub report: Option<Report>,
}

impl Board {
    /// Whether each member's State is the others'; a majority is one of `voters`.
    pub fn agreements(&self, voters: &[MemberId]) -> BTreeMap<MemberId, Agreement> {
        let told = self.members.iter().filter_map(|(id, seen)| Some((*id, seen.report.as_ref()?.fingerprints.clone())));
        agreement::compare(&told.collect(), voters)
    }
}

/// All members in the eyes of the leader.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Board {
    /// Whose view this is; none when no leader was heard of since this member started.
    pub by: Option<MemberId>,
    /// How old the view is. Nobody leads now, or does not answer, when this is more than a few seconds.
    pub age: Duration,
    pub term: u64,
    /// The leader itself among them.
    pub members: BTreeMap<MemberId, Seen>,
    /// For how long it leads.
    pub leading_for: Duration,
    /// The feature level every member's program can apply, and for how long that has been so; none: some are silent.
    pub able: Option<(u32, Duration)>,
}

/// [`Board`] on the wire.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct BoardRow {
    pub by: u64,
    pub term: u64,
    pub members: BTreeMap<u64, SeenRow>,
    /// For how long it leads, in milliseconds.
    pub leading_ms: u64,
    /// Feature level and milliseconds ([`Board::able`]).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub able: Option<(u32, u64)>,
}

/// [`Seen`] on the wire.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SeenRow {
    pub matched: Option<u64>,
    pub lag: u64,
    pub last_contact_ms: Option<u64>,
    pub per_second: Option<u64>,
    pub clock_ahead_ms: Option<i64>,
    pub report: Option<Report>,
}

/// The answer to a report.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Heard {
    /// From the leader only.
    pub board: Option<BoardRow>,
}

/// What a member remembers of another, for the other's sake.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Memory {
    /// The latest start it heard of.
    pub incarnation: u64,
    /// The last index it is known to have on disk.
    pub has: u64,
}

/// A report and when it came.
struct Told {
    report: Report,
    at: Instant,
    clock_ahead_ms: i64,
}

#[derive(Default)]
struct Inner {
    told: BTreeMap<MemberId, Told>,
    /// The last answer of a leader.
    seen: Option<(Instant, BoardRow)>,
    /// Where the others were at the last looks; on the leader.
    matched: BTreeMap<MemberId, VecDeque<(Instant, u64)>>,
    /// What this member said last.
    own: Report,
    /// The term this member leads, and since when.
    leading: Option<(u64, Instant)>,
    /// The feature level every member's program can apply, and since when; on the leader.
    able: Option<(u32, Instant)>,
    backup: Option<BackupReport>,
    stepped_aside: Option<Instant>,
    fingerprints: Vec<Fingerprint>,
    scrubbed_ms: u64,
    client_certificate: Option<ClientCertificate>,
    client_port_closed: Option<String>,
    /// Another member called this one since the last look.
    called: bool,
}

/// What a member has heard of the others. One for each member.
#[derive(Default)]
pub struct Boards(Mutex<Inner>);

impl Boards {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().expect("nobody panics while holding the board")
    }

    /// What `member` said of itself a moment ago.
    pub fn report_of(&self, member: MemberId) -> Option<Report> {
        self.inner().told.get(&member).filter(|told| told.at.elapsed() < FRESH).map(|told| told.report.clone())
    }

    /// Another member calls this one: it is not left behind.
    pub fn note_call(&self) {
        self.inner().called = true;
    }

    fn take_called(&self) -> bool {
        std::mem::take(&mut self.inner().called)
    }

    /// This member gives its lead away because of its disk.
    pub fn note_stepping_aside(&self) {
        self.inner().stepped_aside = Some(Instant::now());
    }

    /// Since any member, this one among them, last gave its lead away because of its disk, as far as it was told.
    pub fn stepped_aside_ago(&self) -> Option<Duration> {
        let inner = self.inner();
        let told = inner
            .told
            .values()
            .filter_map(|told| Some(Duration::from_millis(told.report.stepped_aside_ms_ago?) + told.at.elapsed()));
        told.chain(inner.stepped_aside.map(|at| at.elapsed())).min()
    }

    /// The backup's task tells how it stands.
    pub fn tell_backup(&self, report: BackupReport) {
        self.inner().backup = Some(report);
    }

    pub fn client_certificate(&self) -> Option<ClientCertificate> {
        self.inner().client_certificate.clone()
    }

    /// What is shown to clients.
    pub fn tell_client_certificate(&self, shown: Option<ClientCertificate>) {
        self.inner().client_certificate = shown;
    }

    /// Why the port for clients is closed; empty: it is open.
    pub fn tell_client_port(&self, closed: String) {
        self.inner().client_port_closed = Some(closed);
    }

    /// This member's State at another minute.
    pub fn tell_fingerprint(&self, print: Fingerprint) {
        let mut inner = self.inner();
        inner.fingerprints.push(print);
        let old = inner.fingerprints.len().saturating_sub(TOLD);
        inner.fingerprints.drain(..old);
    }

    fn fingerprints(&self) -> Vec<Fingerprint> {
        self.inner().fingerprints.clone()
    }

    /// This member's disk was read through and is whole.
    pub fn tell_scrubbed(&self, at_ms: u64) {
        self.inner().scrubbed_ms = at_ms;
    }

    /// When that was; zero: never.
    pub fn scrubbed_ms(&self) -> u64 {
        self.inner().scrubbed_ms
    }

    fn own_step_aside_ago(&self) -> Option<Duration> {
        self.inner().stepped_aside.map(|at| at.elapsed())
    }

    /// What others said of their backups a moment ago; of those that keep one.
    pub fn backups(&self) -> BTreeMap<MemberId, BackupReport> {
        let inner = self.inner();
        let fresh = inner.told.iter().filter(|(_, told)| told.at.elapsed() < FRESH);
        fresh.filter_map(|(id, told)| Some((*id, told.report.backup.clone()?))).collect()
    }

    pub fn backup(&self) -> Option<BackupReport> {
        self.inner().backup.clone()
    }

    fn hear(&self, from: MemberId, report: Report, clock_ms: u64) {
        let theirs = report.clock_ms.saturating_add(report.round_trip_ms.min(10_000) / 2);
        let clock_ahead_ms = i64::try_from(i128::from(theirs) - i128::from(clock_ms)).unwrap_or(i64::MAX);
        self.inner().told.insert(from, Told { report, at: Instant::now(), clock_ahead_ms });
    }

    fn sample(&self, status: &Status, now: Instant) {
        let mut inner = self.inner();
        if status.role != Role::Leader {
            inner.matched.clear();
            inner.leading = None;
            return;
        }
        if inner.leading.is_none_or(|(term, _)| term != status.term) {
            inner.leading = Some((status.term, now));
        }
        inner.matched.retain(|member, _| status.members.contains_key(member));
        for (member, progress) in &status.members {
            let samples = inner.matched.entry(*member).or_default();
            samples.push_back((now, progress.matched.unwrap_or_default()));
            while samples.len() > SAMPLES {
                samples.pop_front();
            }
        }
    }

    /// How far this member's clock is behind most others', in milliseconds (negative: ahead), as they said in the last
    /// seconds. None when fewer than two did: one alone cannot say who is wrong.
    pub fn clock_behind_ms(&self) -> Option<i64> {
        let inner = self.inner();
        let fresh = inner.told.values().filter(|told| told.at.elapsed() < FRESH);
        let mut ahead: Vec<i64> = fresh.map(|told| told.clock_ahead_ms).collect();
        if ahead.len() < 2 {
            return None;
        }
        ahead.push(0);
        ahead.sort_unstable();
        let middle = [ahead[(ahead.len() - 1) / 2], ahead[ahead.len() / 2]];
        middle.into_iter().min_by_key(|ahead| ahead.unsigned_abs())
    }

    /// What all programs can apply, and for how long that has been so without a break; on the leader.
    pub fn able(&self) -> Option<(u32, Duration)> {
        self.inner().able.map(|(level, since)| (level, since.elapsed()))
    }

    fn take_able(&self, common: Option<u32>, now: Instant) {
        let mut inner = self.inner();
        if inner.able.map(|(level, _)| level) != common {
            inner.able = common.map(|level| (level, now));
        }
    }

    fn remember(&self, member: MemberId) -> Memory {
        self.inner().told.get(&member).map_or_else(Memory::default, |told| Memory {
            incarnation: told.report.incarnation,
            has: told.report.settled,
        })
    }
}

/// Entries a second between the first and the last sample.
fn per_second(samples: &VecDeque<(Instant, u64)>) -> Option<u64> {
    let ((start, first), (end, last)) = (samples.front()?, samples.back()?);
    let span = end.duration_since(*start).as_millis() as u64;
    (span > 0).then(|| last.saturating_sub(*first) * 1000 / span)
}

impl Inner {
    /// One other member, as this member, which leads, sees it.
    fn seen(&self, member: MemberId, progress: &Progress) -> SeenRow {
        let told = self.told.get(&member).filter(|told| told.at.elapsed() < FRESH);
        SeenRow {
            matched: progress.matched,
            lag: progress.lag,
            last_contact_ms: progress.last_contact.map(|silence| silence.as_millis() as u64),
            per_second: self.matched.get(&member).and_then(per_second),
            clock_ahead_ms: told.map(|told| told.clock_ahead_ms),
            report: told.map(|told| told.report.clone()),
        }
    }
}

impl BoardRow {
    fn aged(&self, age: Duration) -> Board {
        let seen = |row: &SeenRow| Seen {
            matched: row.matched,
            lag: row.lag,
            last_contact: row.last_contact_ms.map(|silence| Duration::from_millis(silence) + age),
            per_second: row.per_second,
            clock_ahead_ms: row.clock_ahead_ms,
            report: row.report.clone(),
        };
        let members = self.members.iter().map(|(id, row)| (MemberId(*id), seen(row))).collect();
        let able = self.able.map(|(level, since)| (level, Duration::from_millis(since) + age));
        let leading_for = Duration::from_millis(self.leading_ms) + age;
        Board { by: Some(MemberId(self.by)), age, term: self.term, members, leading_for, able }
    }
}

impl Core {
    /// All members, as the leader sees them.
    pub fn board(&self) -> Board {
        if let Some(row) = self.board_here() {
            return row.aged(Duration::ZERO);
        }
        match &self.boards.inner().seen {
            Some((at, row)) => row.aged(at.elapsed()),
            None => Board::default(),
        }
    }

    /// The view of this member, if it leads.
    fn board_here(&self) -> Option<BoardRow> {
        let status = self.status();
        if status.role != Role::Leader {
            return None;
        }
        let inner = self.boards.inner();
        let mut members: BTreeMap<u64, SeenRow> =
            status.members.iter().map(|(id, progress)| (id.0, inner.seen(*id, progress))).collect();
        let own = SeenRow {
            matched: status.last_log,
            last_contact_ms: Some(0),
            clock_ahead_ms: Some(0),
            report: Some(inner.own.clone()),
            ..SeenRow::default()
        };
        members.insert(self.me.0, own);
        let able = inner.able.map(|(level, since)| (level, since.elapsed().as_millis() as u64));
        let leading_ms = inner.leading.map_or(0, |(_, since)| since.elapsed().as_millis() as u64);
        Some(BoardRow { by: self.me.0, term: status.term, members, leading_ms, able })
    }

    /// A member tells of itself; whoever leads answers with everything.
    pub fn hear(&self, from: MemberId, report: Report) -> Heard {
        self.boards.hear(from, report, self.world.clock.now_ms());
        Heard { board: self.board_here() }
    }

    /// What this member knows of another that is about to start.
    pub fn remember(&self, member: MemberId) -> Memory {
        let memory = self.boards.remember(member);
        let status = self.status();
        let stated = self.latest.borrow().member(member).map_or(0, |member| member.incarnation);
        Memory { incarnation: memory.incarnation.max(stated), has: memory.has.max(surely_has(&status, member)) }
    }

    fn others(&self) -> Vec<MemberId> {
        let state = self.latest.borrow();
        let active = state.members().values().filter(|member| member.state == MemberState::Active);
        active.map(|member| member.id).filter(|id| *id != self.me).collect()
    }
}

/// Tells and hears once a second, as long as the member lives. A member that hears that it was removed cannot go on.
pub async fn keep(core: Arc<Core>, incarnation: u64, fatal: watch::Sender<Option<String>>) {
    let mut next = Instant::now();
    let mut round_trip = Duration::ZERO;
    let mut reaches = BTreeSet::new();
    let mut settled = 0;
    let mut alone_among_newer = 0;
    loop {
        let status = core.status();
        core.boards.sample(&status, Instant::now());
        core.boards.take_able(core.common_level(&status), Instant::now());
        let report = Report {
            incarnation,
            term: status.term,
            applied: status.applied.unwrap_or_default(),
            settled: std::mem::replace(&mut settled, status.applied.unwrap_or_default()),
            clock_ms: core.world.clock.now_ms(),
            round_trip_ms: round_trip.as_millis() as u64,
            certificate_ends_ms: pki::not_after_ms(&core.dialer.tls.certificate()).unwrap_or(0),
            reaches: std::mem::take(&mut reaches),
            append_p99_us: core.metrics.store.pace.p99().map(|p99| p99.as_micros() as u64),
            stepped_aside_ms_ago: core.boards.own_step_aside_ago().map(|ago| ago.as_millis() as u64),
            backup: core.boards.backup().map(|backup| backup.at(core.world.clock.now_ms())),
            fingerprints: core.boards.fingerprints(),
            feature_level: core.feature_level,
            room: Some(core.room()).filter(|room| *room != Room::default()),
            scrubbed_ms: core.boards.scrubbed_ms(),
            certificate: core.member_certificate(),
            client_certificate: core.boards.client_certificate(),
            client_port_closed: core.boards.inner().client_port_closed.clone(),
        };
        archive::measure(&core, report.backup.clone());
        core.boards.inner().own = report.clone();
        let frame = Frame { kind: Call::Report as u32, data: encode(&report).into() };
        let mut heard_anybody = false;
        let said = core.others().into_iter().map(|to| tell(core.dialer_client(to), to, frame.clone()));
        for (member, word) in join_all(said).await {
            match word {
                Word::Heard(heard, took) => {
                    heard_anybody = true;
                    reaches.insert(member.0);
                    round_trip = took;
                    if let Some(board) = heard.board {
                        core.boards.inner().seen = Some((Instant::now(), board));
                    }
                }
                Word::Removed => {
                    fail(&fatal, REMOVED);
                    return;
                }
                Word::Silence => {}
            }
        }
        // Not by who leads: who hears from nobody goes on believing in the leader it heard last.
        let called = core.boards.take_called();
        let newer = core.dialer.tls.take_newer().filter(|_| !heard_anybody && !called);
        alone_among_newer = if newer.is_some() { alone_among_newer + 1 } else { 0 };
        if let Some(theirs) = newer.filter(|_| alone_among_newer >= LEFT_BEHIND) {
            fail(&fatal, outdated(theirs, core.latest.borrow().authority_generation()));
            return;
        }
        next = next.max(Instant::now()) + PERIOD;
        sleep_until(next).await;
    }
}

enum Word {
    Heard(Heard, Duration),
    Silence,
    Removed,
}

async fn tell(mut client: Client, to: MemberId, frame: Frame) -> (MemberId, Word) {
    let start = Instant::now();
    let word = match timeout(ANSWER_WITHIN, client.call(frame)).await {
        Ok(Ok(answer)) => match decode(&answer.into_inner().data) {
            Ok(heard) => Word::Heard(heard, start.elapsed()),
            Err(_) => Word::Silence,
        },
        Ok(Err(status)) if status.code() == tonic::Code::PermissionDenied => Word::Removed,
        // A program of before speaks, but not of this.
        Ok(Err(status)) if status.code() == tonic::Code::Unimplemented => {
            Word::Heard(Heard::default(), start.elapsed())
        }
        _ => Word::Silence,
    };
    (to, word)
}

/// Up to which entry a member must have the log, as far as this one knows from having led.
///
/// What it held beyond the committed part it may have lost rightly: another leader cut it off.
fn surely_has(status: &Status, member: MemberId) -> u64 {
    let matched = status.members.get(&member).and_then(|progress| progress.matched).unwrap_or_default();
    matched.min(status.committed.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_committed_may_be_cut_off_the_log() {
        let mut status = Status { committed: Some(40), ..Status::default() };
        let progress = |matched| Progress { matched: Some(matched), lag: 0, last_contact: None };
        status.members = [(MemberId(2), progress(43)), (MemberId(3), progress(38))].into();
        assert_eq!(surely_has(&status, MemberId(2)), 40);
        assert_eq!(surely_has(&status, MemberId(3)), 38);
        assert_eq!(surely_has(&status, MemberId(4)), 0);
        status.committed = None;
        assert_eq!(surely_has(&status, MemberId(2)), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_view_grows_old_and_a_rate_is_taken_over_seconds() {
        let boards = Boards::default();
        let mut status = Status { role: Role::Leader, me: MemberId(1), ..Status::default() };
        for second in 0..20u64 {
            let progress = Progress { matched: Some(second * 500), lag: 10, last_contact: None };
            status.members.insert(MemberId(2), progress);
            boards.sample(&status, Instant::now());
            tokio::time::advance(Duration::from_secs(1)).await;
        }
        let inner = boards.inner();
        let row = BoardRow {
            by: 1,
            term: 3,
            members: [(
                2,
                SeenRow { last_contact_ms: Some(20), ..inner.seen(MemberId(2), &status.members[&MemberId(2)]) },
            )]
            .into(),
            leading_ms: 0,
            able: None,
        };
        assert_eq!(row.members[&2].per_second, Some(500));
        let board = row.aged(Duration::from_secs(7));
        assert_eq!((board.by, board.age), (Some(MemberId(1)), Duration::from_secs(7)));
        assert_eq!(board.members[&MemberId(2)].last_contact, Some(Duration::from_millis(7020)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_clock_is_off_when_most_others_say_so() {
        let boards = Boards::default();
        let tell = |member, ahead_ms: u64| {
            let report = Report { clock_ms: 100_000 + ahead_ms, ..Report::default() };
            boards.hear(MemberId(member), report, 100_000);
        };
        assert_eq!(boards.clock_behind_ms(), None);
        tell(2, 3_000);
        assert_eq!(boards.clock_behind_ms(), None, "who of two is wrong?");
        tell(3, 2_900);
        assert_eq!(boards.clock_behind_ms(), Some(2_900));
        tell(3, 5);
        assert_eq!(boards.clock_behind_ms(), Some(5), "the other one is off");
        tell(4, 3_000);
        assert_eq!(boards.clock_behind_ms(), Some(5), "two against two: nothing is certain");
        tokio::time::advance(FRESH).await;
        assert_eq!(boards.clock_behind_ms(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_report_is_old_after_five_seconds_but_what_it_promised_is_remembered() {
        let boards = Boards::default();
        let report =
            Report { incarnation: 7, term: 3, settled: 90, clock_ms: 10_000, round_trip_ms: 40, ..Report::default() };
        boards.hear(MemberId(2), report.clone(), 9_000);
        assert_eq!(boards.report_of(MemberId(2)), Some(report));
        assert_eq!(boards.inner().told[&MemberId(2)].clock_ahead_ms, 1_020);
        tokio::time::advance(FRESH).await;
        assert_eq!(boards.report_of(MemberId(2)), None);
        assert_eq!(boards.remember(MemberId(2)), Memory { incarnation: 7, has: 90 });
        assert_eq!(boards.remember(MemberId(3)), Memory::default());
    }
}
