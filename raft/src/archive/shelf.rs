//! The backups of one cluster in one place. Names tell what is inside, so that a listing needs no reading.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    sync::Arc,
};

use bytes::Bytes;
use state_machine::State;
use world::{Disk, Objects};

use super::{
    ArchiveError, Full,
    format::{self, FullHead, SegmentHead},
};
use crate::{encode::Blob, store::heavy, types::Entry};

const FULL_ENDING: &str = ".hsfull";
const SEGMENT_ENDING: &str = ".hslog";

/// One file of a shelf.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Item {
    Full { index: u64, taken_ms: u64 },
    Segment { first: u64, last: u64, taken_ms: u64 },
}

impl Item {
    /// `full-<index>-<ms>.hsfull`, `log-<first>-<last>-<ms>.hslog`.
    pub fn file_name(&self) -> String {
        match self {
            Item::Full { index, taken_ms } => format!("full-{index:020}-{taken_ms:015}{FULL_ENDING}"),
            Item::Segment { first, last, taken_ms } => {
                format!("log-{first:020}-{last:020}-{taken_ms:015}{SEGMENT_ENDING}")
            }
        }
    }

    fn parse(name: &str) -> Option<Item> {
        let number = |text: &str| text.parse::<u64>().ok();
        if let Some(rest) = name.strip_prefix("full-").and_then(|rest| rest.strip_suffix(FULL_ENDING)) {
            let (index, taken) = rest.split_once('-')?;
            return Some(Item::Full { index: number(index)?, taken_ms: number(taken)? });
        }
        let rest = name.strip_prefix("log-")?.strip_suffix(SEGMENT_ENDING)?;
        let mut parts = rest.split('-').map(number);
        Some(Item::Segment { first: parts.next()??, last: parts.next()??, taken_ms: parts.next()?? })
    }

    /// When it was written, in milliseconds since 1970.
    pub fn taken_ms(&self) -> u64 {
        match self {
            Item::Full { taken_ms, .. } | Item::Segment { taken_ms, .. } => *taken_ms,
        }
    }

    /// The last log index in it.
    pub fn last(&self) -> u64 {
        match self {
            Item::Full { index, .. } => *index,
            Item::Segment { last, .. } => *last,
        }
    }
}

/// How many fulls are kept: one an hour, one a day, one a week.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kept {
    pub hours: u64,
    pub days: u64,
    pub weeks: u64,
}

impl Default for Kept {
    /// A day of hours, a week of days, four weeks.
    fn default() -> Kept {
        Kept { hours: 24, days: 7, weeks: 4 }
    }
}

/// The log is kept whole for so long, so that every second of it can be restored.
const LOG_KEPT_MS: u64 = 7 * 24 * HOUR_MS;
const HOUR_MS: u64 = 3_600_000;

/// What of `items` is not needed any more: fulls beyond the newest of each hour, day and week, and segments that are
/// older than a week or than the oldest full.
pub fn superfluous(items: &[Item], kept: Kept, now_ms: u64) -> Vec<Item> {
    let mut fulls: Vec<&Item> = items.iter().filter(|item| matches!(item, Item::Full { .. })).collect();
    fulls.sort_by_key(|item| std::cmp::Reverse(item.taken_ms()));
    let mut keep: Vec<&Item> = fulls.first().copied().into_iter().collect();
    for (span, many) in [(HOUR_MS, kept.hours), (24 * HOUR_MS, kept.days), (168 * HOUR_MS, kept.weeks)] {
        let mut slots = BTreeSet::new();
        for full in &fulls {
            let slot = full.taken_ms() / span;
            if now_ms / span - slot.min(now_ms / span) < many && slots.insert(slot) {
                keep.push(full);
            }
        }
    }
    let oldest_index = keep.iter().map(|item| item.last()).min().unwrap_or(0);
    items
        .iter()
        .filter(|item| match item {
            Item::Full { .. } => !keep.contains(item),
            Item::Segment { last, taken_ms, .. } => {
                *last <= oldest_index || taken_ms.saturating_add(LOG_KEPT_MS) < now_ms
            }
        })
        .cloned()
        .collect()
}

/// One shelf: the objects of one folder of a place.
#[derive(Clone)]
pub struct Shelf {
    place: Arc<dyn Objects>,
    /// Within the place; empty: the place itself.
    folder: String,
    /// Says where slow work may be done.
    disk: Arc<dyn Disk>,
}

/// Joins with a slash, unless there is nothing before it.
fn below(folder: &str, name: &str) -> String {
    if folder.is_empty() { name.to_owned() } else { format!("{folder}/{name}") }
}

impl Shelf {
    pub fn new(place: Arc<dyn Objects>, folder: impl Into<String>, disk: Arc<dyn Disk>) -> Shelf {
        Shelf { place, folder: folder.into(), disk }
    }

    /// For people: the place and the folder in it.
    pub fn name(&self) -> String {
        below(self.place.name(), &self.folder)
    }

    /// What people call one of its objects.
    pub fn path(&self, item: &Item) -> String {
        below(&self.name(), &item.file_name())
    }

    fn failed(&self, what: &str) -> impl FnOnce(io::Error) -> ArchiveError + use<> {
        let path = what.to_owned();
        move |source| ArchiveError::Disk { path, source }
    }

    fn damaged(&self, item: &Item, why: impl Into<String>) -> ArchiveError {
        ArchiveError::Damaged { path: self.path(item), why: why.into() }
    }

    /// Everything on it, in the order of the log.
    pub async fn items(&self) -> Result<Vec<Item>, ArchiveError> {
        let names = self.place.list(&self.folder).await.map_err(self.failed(&self.name()))?;
        let mut items: Vec<Item> = names
            .iter()
            .filter_map(|name| match self.folder.is_empty() {
                true => Some(name.as_str()),
                false => name.strip_prefix(&self.folder)?.strip_prefix('/'),
            })
            .filter_map(Item::parse)
            .collect();
        items.sort_by_key(|item| (item.last(), matches!(item, Item::Full { .. }), item.taken_ms()));
        Ok(items)
    }

    async fn read(&self, item: &Item) -> Result<Bytes, ArchiveError> {
        let name = below(&self.folder, &item.file_name());
        let bytes = self.place.get(&name).await.map_err(self.failed(&self.path(item)))?;
        Ok(bytes.ok_or_else(|| self.damaged(item, "it is gone"))?.into())
    }

    /// Writes an object and reads it back: what a disk or a share did not keep is noticed now and not on a bad day.
    async fn write(&self, item: &Item, bytes: Vec<u8>) -> Result<(), ArchiveError> {
        let name = below(&self.folder, &item.file_name());
        self.place.put(&name, bytes.clone()).await.map_err(self.failed(&self.path(item)))?;
        match self.place.get(&name).await.map_err(self.failed(&self.path(item)))? {
            Some(again) if again == bytes => Ok(()),
            _ => {
                // The next attempt has another name; this object would only be found damaged later.
                if let Err(error) = self.place.remove(&name).await {
                    tracing::warn!(%error, name, "a damaged backup object could not be removed");
                }
                Err(self
                    .damaged(item, "what was read back is not what was written; it was removed and is written anew"))
            }
        }
    }

    async fn slowly<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T, ArchiveError> {
        heavy(&self.disk, work).await.map_err(self.failed(&self.name()))
    }

    /// Writes a full; `head.state_hash` is filled in.
    pub async fn put_full(&self, mut head: FullHead, state: Arc<State>) -> Result<Item, ArchiveError> {
        let item = Item::Full { index: head.index, taken_ms: head.taken_ms };
        let work = move || {
            head.state_hash = Blob(state.hash().to_vec().into());
            format::full_to_file(&head, &state)
        };
        let bytes = self.slowly(work).await?;
        world::failpoint!("archive.full.before", |error| Err(self.failed(&self.name())(error)));
        self.write(&item, bytes).await?;
        world::failpoint!("archive.full.after", |error| Err(self.failed(&self.name())(error)));
        Ok(item)
    }

    pub async fn put_segment(&self, head: SegmentHead, entries: Vec<Entry>) -> Result<Item, ArchiveError> {
        let item = Item::Segment { first: head.first, last: head.last, taken_ms: head.taken_ms };
        let bytes = self.slowly(move || format::segment_to_file(&head, &entries)).await?;
        world::failpoint!("archive.segment.before", |error| Err(self.failed(&self.name())(error)));
        self.write(&item, bytes).await?;
        world::failpoint!("archive.segment.after", |error| Err(self.failed(&self.name())(error)));
        Ok(item)
    }

    pub async fn full(&self, item: &Item) -> Result<Full, ArchiveError> {
        let bytes = self.read(item).await?;
        self.slowly(move || format::full_from_file(&bytes)).await?.map_err(|why| self.damaged(item, why))
    }

    pub async fn full_head(&self, item: &Item) -> Result<FullHead, ArchiveError> {
        let bytes = self.read(item).await?;
        self.slowly(move || format::full_head(&bytes)).await?.map_err(|why| self.damaged(item, why))
    }

    pub async fn segment(&self, item: &Item) -> Result<(SegmentHead, Vec<Entry>), ArchiveError> {
        let bytes = self.read(item).await?;
        self.slowly(move || format::segment_from_file(&bytes)).await?.map_err(|why| self.damaged(item, why))
    }

    /// Removes what is not needed any more; how many objects.
    pub async fn prune(&self, kept: Kept, now_ms: u64) -> Result<usize, ArchiveError> {
        let old = superfluous(&self.items().await?, kept, now_ms);
        for item in &old {
            let name = below(&self.folder, &item.file_name());
            self.place.remove(&name).await.map_err(self.failed(&self.path(item)))?;
        }
        Ok(old.len())
    }
}

/// All shelves of a place. Programs of before kept one for each member: `<cluster>/<member>/`.
pub async fn shelves(place: &Arc<dyn Objects>, disk: &Arc<dyn Disk>) -> Result<Vec<Shelf>, ArchiveError> {
    let path = place.name().to_owned();
    let names = place.list("").await.map_err(|source| ArchiveError::Disk { path, source })?;
    let mut folders = BTreeMap::<&str, usize>::new();
    for name in &names {
        let (folder, file) = name.rsplit_once('/').unwrap_or(("", name));
        if Item::parse(file).is_some() {
            *folders.entry(folder).or_default() += 1;
        }
    }
    Ok(folders.into_keys().map(|folder| Shelf::new(place.clone(), folder, disk.clone())).collect())
}
