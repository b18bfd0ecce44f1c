//! How fast the disk takes appends now: the last ten seconds, not the whole life.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use tokio::time::Instant;

/// What counts as now.
const WINDOW: Duration = Duration::from_secs(10);
/// More are not needed for a hundredth, and sorting them must stay cheap.
const SAMPLES_MAX: usize = 4096;

/// Appends that were synced lately, and the one under way. Cheap to clone.
#[derive(Clone, Default)]
pub struct Pace(Arc<Mutex<Inner>>);

#[derive(Default)]
struct Inner {
    recent: VecDeque<(Instant, Duration)>,
    /// A disk that hangs would otherwise look idle.
    under_way: Option<Instant>,
}

impl Pace {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().expect("nobody panics while holding the pace")
    }

    /// An append begins.
    pub fn begin(&self) {
        self.inner().under_way = Some(Instant::now());
    }

    /// It ended; `synced`: it waited for the disk.
    pub fn end(&self, synced: bool) {
        let mut inner = self.inner();
        let now = Instant::now();
        if let Some(begun) = inner.under_way.take().filter(|_| synced) {
            inner.recent.push_back((now, now.duration_since(begun)));
        }
        inner.forget(now);
    }

    /// The time within which 99 of 100 appends of the last ten seconds were synced; none when there were none.
    pub fn p99(&self) -> Option<Duration> {
        let mut inner = self.inner();
        let now = Instant::now();
        inner.forget(now);
        let mut spans: Vec<Duration> = inner.recent.iter().map(|(_, span)| *span).collect();
        // One that has begun counts once it takes longer than those that ended.
        let waiting = inner.under_way.map(|begun| now.duration_since(begun));
        drop(inner);
        spans.extend(waiting.filter(|waiting| spans.iter().max().is_none_or(|most| waiting > most)));
        spans.sort_unstable();
        percentile(&spans, 99)
    }
}

impl Inner {
    fn forget(&mut self, now: Instant) {
        while self.recent.len() > SAMPLES_MAX
            || self.recent.front().is_some_and(|(at, _)| now.duration_since(*at) > WINDOW)
        {
            self.recent.pop_front();
        }
    }
}

/// Of spans in order: the smallest that `percent` of a hundred do not exceed.
pub fn percentile(sorted: &[Duration], percent: usize) -> Option<Duration> {
    let rank = (sorted.len() * percent).div_ceil(100);
    sorted.get(rank.saturating_sub(1)).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn append(pace: &Pace, millis: u64) {
        pace.begin();
        tokio::time::advance(Duration::from_millis(millis)).await;
        pace.end(true);
    }

    #[tokio::test(start_paused = true)]
    async fn the_last_ten_seconds_count() {
        let pace = Pace::default();
        assert_eq!(pace.p99(), None);
        for _ in 0..99 {
            append(&pace, 2).await;
        }
        append(&pace, 500).await;
        assert_eq!(pace.p99(), Some(Duration::from_millis(2)), "one of a hundred");
        append(&pace, 500).await;
        assert_eq!(pace.p99(), Some(Duration::from_millis(500)));
        tokio::time::advance(Duration::from_secs(9)).await;
        append(&pace, 3).await;
        tokio::time::advance(Duration::from_millis(1_500)).await;
        assert_eq!(pace.p99(), Some(Duration::from_millis(3)));
        tokio::time::advance(WINDOW).await;
        assert_eq!(pace.p99(), None, "idle is not slow");
    }

    #[tokio::test(start_paused = true)]
    async fn a_sync_that_hangs_is_seen() {
        let pace = Pace::default();
        pace.begin();
        tokio::time::advance(Duration::from_secs(30)).await;
        assert_eq!(pace.p99(), Some(Duration::from_secs(30)));
        pace.end(false);
        assert_eq!(pace.p99(), None, "what was not synced says nothing of the disk");
    }
}
