//! A folder of backups: one member's, of one cluster. Names tell what is inside, so that a listing needs no reading.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use world::Disk;

use super::{
    ArchiveError, Full,
    format::{self, FullHead, SegmentHead},
};
use crate::types::Entry;

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
        let mut slots = std::collections::BTreeSet::new();
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

/// One folder.
#[derive(Clone)]
pub struct Shelf {
    pub folder: PathBuf,
    disk: Arc<dyn Disk>,
}

impl Shelf {
    pub fn new(folder: PathBuf, disk: Arc<dyn Disk>) -> Shelf {
        Shelf { folder, disk }
    }

    fn failed(&self, path: &Path) -> impl FnOnce(std::io::Error) -> ArchiveError + use<> {
        let path = path.display().to_string();
        move |source| ArchiveError::Disk { path, source }
    }

    /// Everything on it, in the order of the log.
    pub fn items(&self) -> Result<Vec<Item>, ArchiveError> {
        let names = self.disk.list(&self.folder).map_err(self.failed(&self.folder))?;
        let mut items: Vec<Item> = names.iter().filter_map(|name| Item::parse(name)).collect();
        items.sort_by_key(|item| (item.last(), matches!(item, Item::Full { .. }), item.taken_ms()));
        Ok(items)
    }

    fn read(&self, item: &Item) -> Result<(PathBuf, Bytes), ArchiveError> {
        let path = self.folder.join(item.file_name());
        let bytes = self.disk.read(&path).map_err(self.failed(&path))?;
        let missing = || ArchiveError::Damaged { path: path.display().to_string(), why: "it is gone".into() };
        Ok((path.clone(), bytes.ok_or_else(missing)?.into()))
    }

    /// Writes a file and reads it back: what a disk or a share did not keep is noticed now and not on a bad day.
    fn write(&self, item: &Item, bytes: &[u8]) -> Result<(), ArchiveError> {
        let path = self.folder.join(item.file_name());
        self.disk.create_dir_all(&self.folder).map_err(self.failed(&self.folder))?;
        self.disk.write(&path, bytes).map_err(self.failed(&path))?;
        match self.disk.read(&path).map_err(self.failed(&path))? {
            Some(again) if again == bytes => Ok(()),
            _ => {
                let why = "what was read back is not what was written".into();
                Err(ArchiveError::Damaged { path: path.display().to_string(), why })
            }
        }
    }

    pub fn put_full(&self, head: &FullHead, state: &state_machine::State) -> Result<Item, ArchiveError> {
        let item = Item::Full { index: head.index, taken_ms: head.taken_ms };
        world::failpoint!("archive.full.before", |error| Err(self.failed(&self.folder)(error)));
        self.write(&item, &format::full_to_file(head, state))?;
        world::failpoint!("archive.full.after", |error| Err(self.failed(&self.folder)(error)));
        Ok(item)
    }

    pub fn put_segment(&self, head: &SegmentHead, entries: &[Entry]) -> Result<Item, ArchiveError> {
        let item = Item::Segment { first: head.first, last: head.last, taken_ms: head.taken_ms };
        world::failpoint!("archive.segment.before", |error| Err(self.failed(&self.folder)(error)));
        self.write(&item, &format::segment_to_file(head, entries))?;
        world::failpoint!("archive.segment.after", |error| Err(self.failed(&self.folder)(error)));
        Ok(item)
    }

    pub fn full(&self, item: &Item) -> Result<Full, ArchiveError> {
        let (path, bytes) = self.read(item)?;
        format::full_from_file(&bytes).map_err(|why| ArchiveError::Damaged { path: path.display().to_string(), why })
    }

    pub fn full_head(&self, item: &Item) -> Result<FullHead, ArchiveError> {
        let (path, bytes) = self.read(item)?;
        format::full_head(&bytes).map_err(|why| ArchiveError::Damaged { path: path.display().to_string(), why })
    }

    pub fn segment(&self, item: &Item) -> Result<(SegmentHead, Vec<Entry>), ArchiveError> {
        let (path, bytes) = self.read(item)?;
        format::segment_from_file(&bytes).map_err(|why| ArchiveError::Damaged { path: path.display().to_string(), why })
    }

    /// Removes what is not needed any more; how many files.
    pub fn prune(&self, kept: Kept, now_ms: u64) -> Result<usize, ArchiveError> {
        let old = superfluous(&self.items()?, kept, now_ms);
        for item in &old {
            let path = self.folder.join(item.file_name());
            self.disk.remove(&path).map_err(self.failed(&path))?;
        }
        Ok(old.len())
    }
}

/// All shelves in `folder` and two levels below: a target holds `<cluster>/<member>/`.
pub fn shelves(folder: &Path, disk: &Arc<dyn Disk>) -> Result<Vec<Shelf>, ArchiveError> {
    let mut found = Vec::new();
    let mut level = vec![folder.to_path_buf()];
    for _ in 0..3 {
        let mut below = Vec::new();
        for folder in level {
            let shelf = Shelf::new(folder.clone(), disk.clone());
            if !shelf.items()?.is_empty() {
                found.push(shelf);
            }
            let names = disk
                .list(&folder)
                .map_err(|source| ArchiveError::Disk { path: folder.display().to_string(), source })?;
            // A file has nothing below it, and listing it says so.
            let nested = names.into_iter().filter(|name| Item::parse(name).is_none()).map(|name| folder.join(name));
            below.extend(nested.filter(|path| disk.list(path).is_ok_and(|names| !names.is_empty())));
        }
        level = below;
    }
    Ok(found)
}
