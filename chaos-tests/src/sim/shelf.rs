//! The place backups go to: a share all members reach, which is slow, away at times, and does not keep everything.

use std::{collections::BTreeMap, io, sync::Mutex, time::Duration};

use rand::{RngExt, SeedableRng, rngs::SmallRng};
use world::{BoxFuture, Objects};

/// An answer takes so long, in milliseconds.
const LATENCY_MS: std::ops::Range<u64> = 2..40;
/// Nobody answers: what a client of such a share waits.
const AWAY: Duration = Duration::from_secs(2);

/// A share that outlives all machines.
pub struct SimShelf {
    inner: Mutex<Inner>,
}

struct Inner {
    objects: BTreeMap<String, Vec<u8>>,
    /// Objects that are not what somebody wrote.
    torn: std::collections::BTreeSet<String>,
    dice: SmallRng,
    /// From here on everything is kept.
    calm: bool,
    /// Nobody answers.
    away: bool,
}

/// What becomes of something that is written.
enum Fate {
    Kept,
    /// Half of it, and nothing is said.
    Torn,
    /// All of it, but an error is answered.
    Doubtful,
    /// Nothing, and an error is answered.
    Lost,
}

impl SimShelf {
    pub fn new(seed: u64) -> SimShelf {
        let dice = SmallRng::seed_from_u64(seed);
        let inner = Inner { objects: BTreeMap::new(), torn: Default::default(), dice, calm: false, away: false };
        SimShelf { inner: Mutex::new(inner) }
    }

    fn inner(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().expect("no panic while locked")
    }

    /// The share is away, or back.
    pub fn set_away(&self, away: bool) {
        self.inner().away = away;
    }

    /// Nothing is lost or torn any more, and the share is there.
    pub fn calm_down(&self) {
        let mut inner = self.inner();
        (inner.calm, inner.away) = (true, false);
    }

    /// Objects that were torn and still lie there: whoever wrote them died before it could read them back.
    pub fn torn(&self) -> usize {
        self.inner().torn.len()
    }

    /// Every object, as a share that answers at once: for those who look at it from outside.
    pub fn image(&self) -> Image {
        Image(self.inner().objects.clone())
    }

    async fn wait(&self) -> io::Result<()> {
        let (away, latency) = {
            let mut inner = self.inner();
            (inner.away, inner.dice.random_range(LATENCY_MS))
        };
        if away {
            tokio::time::sleep(AWAY).await;
            return Err(io::Error::from(io::ErrorKind::TimedOut));
        }
        tokio::time::sleep(Duration::from_millis(latency)).await;
        Ok(())
    }

    fn keep(&self, name: &str, bytes: Vec<u8>) -> io::Result<()> {
        let mut inner = self.inner();
        let fate = match inner.dice.random_range(0..100) {
            _ if inner.calm => Fate::Kept,
            0..4 => Fate::Torn,
            4..7 => Fate::Doubtful,
            7..12 => Fate::Lost,
            _ => Fate::Kept,
        };
        inner.torn.remove(name);
        let half = bytes.len() / 2;
        match fate {
            Fate::Kept => _ = inner.objects.insert(name.into(), bytes),
            Fate::Torn => {
                inner.objects.insert(name.into(), bytes[..half].to_vec());
                inner.torn.insert(name.into());
            }
            Fate::Doubtful => {
                inner.objects.insert(name.into(), bytes);
                return Err(io::Error::other("the share did not say whether it kept it"));
            }
            Fate::Lost => return Err(io::Error::other("the share did not take it")),
        }
        Ok(())
    }
}

impl Objects for SimShelf {
    fn name(&self) -> &str {
        "share"
    }

    fn list<'a>(&'a self, under: &'a str) -> BoxFuture<'a, io::Result<Vec<String>>> {
        Box::pin(async move {
            self.wait().await?;
            self.image().list(under).await
        })
    }

    fn get<'a>(&'a self, name: &'a str) -> BoxFuture<'a, io::Result<Option<Vec<u8>>>> {
        Box::pin(async move {
            self.wait().await?;
            Ok(self.inner().objects.get(name).cloned())
        })
    }

    fn put<'a>(&'a self, name: &'a str, bytes: Vec<u8>) -> BoxFuture<'a, io::Result<()>> {
        Box::pin(async move {
            self.wait().await?;
            self.keep(name, bytes)
        })
    }

    fn remove<'a>(&'a self, name: &'a str) -> BoxFuture<'a, io::Result<()>> {
        Box::pin(async move {
            self.wait().await?;
            let mut inner = self.inner();
            inner.objects.remove(name);
            inner.torn.remove(name);
            Ok(())
        })
    }
}

/// What lay on a share at some moment; it answers at once and takes nothing.
pub struct Image(BTreeMap<String, Vec<u8>>);

impl Objects for Image {
    fn name(&self) -> &str {
        "share"
    }

    fn list<'a>(&'a self, under: &'a str) -> BoxFuture<'a, io::Result<Vec<String>>> {
        let within = move |name: &&String| {
            under.is_empty() || name.strip_prefix(under).is_some_and(|rest| rest.starts_with('/'))
        };
        Box::pin(async move { Ok(self.0.keys().filter(within).cloned().collect()) })
    }

    fn get<'a>(&'a self, name: &'a str) -> BoxFuture<'a, io::Result<Option<Vec<u8>>>> {
        Box::pin(async move { Ok(self.0.get(name).cloned()) })
    }

    fn put<'a>(&'a self, _name: &'a str, _bytes: Vec<u8>) -> BoxFuture<'a, io::Result<()>> {
        Box::pin(async { Err(io::ErrorKind::ReadOnlyFilesystem.into()) })
    }

    fn remove<'a>(&'a self, _name: &'a str) -> BoxFuture<'a, io::Result<()>> {
        Box::pin(async { Err(io::ErrorKind::ReadOnlyFilesystem.into()) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_share_loses_things_until_it_is_calm_and_answers_nobody_while_it_is_away() {
        let share = SimShelf::new(1);
        let (mut refused, mut torn) = (0, 0);
        for number in 0..200 {
            let name = format!("a/{number}");
            refused += usize::from(share.put(&name, vec![7; 10]).await.is_err());
            torn += usize::from(share.get(&name).await.unwrap().is_some_and(|bytes| bytes.len() == 5));
        }
        assert!(refused > 0 && torn > 0, "{refused} refused, {torn} torn");
        assert_eq!(share.torn(), torn);
        share.set_away(true);
        assert!(share.list("").await.is_err());
        share.calm_down();
        for number in 0..200 {
            share.put(&format!("b/{number}"), vec![7; 10]).await.unwrap();
        }
        assert_eq!(share.list("b").await.unwrap().len(), 200);
        share.remove("b/0").await.unwrap();
        assert_eq!(share.get("b/0").await.unwrap(), None);
        assert_eq!(share.image().list("b").await.unwrap().len(), 199);
    }
}
