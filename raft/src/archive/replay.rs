//! From a shelf to the State at some moment: the last full before it, then the log after that, entry by entry.

use state_machine::State;

use super::{
    ArchiveError,
    format::{self, FullHead},
    shelf::{Item, Shelf},
};

/// What a shelf gave.
#[derive(Debug)]
pub struct Replayed {
    /// Of the full it began with.
    pub head: FullHead,
    pub state: State,
    /// The last term seen.
    pub term: u64,
    /// Entries applied after the full.
    pub entries: u64,
    /// Fulls on the way whose state was compared with the replayed one, and equal.
    pub compared: u64,
    /// What is missing between two fulls, where the later one was gone on with: the log was cut before it was archived,
    /// or a piece is damaged. Moments in between cannot be restored.
    pub gaps: Vec<String>,
    /// Where the shelf goes on after a gap, or with damage, and no full leads on; nothing when it was read to its end or
    /// to the moment.
    pub stopped: Option<String>,
}

/// Up to which index the segments lead without a gap from `index`.
pub fn reaches(items: &[Item], mut index: u64) -> u64 {
    let mut segments: Vec<(u64, u64)> = items
        .iter()
        .filter_map(|item| match item {
            Item::Segment { first, last, .. } => Some((*first, *last)),
            Item::Full { .. } => None,
        })
        .collect();
    segments.sort_unstable();
    for (first, last) in segments {
        if first <= index + 1 {
            index = index.max(last);
        }
    }
    index
}

/// With which full a replay begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Begin {
    /// The newest that fits.
    Newest,
    /// So many fulls before the newest (the oldest when there are fewer); every later one is compared with what the log
    /// led to.
    Back(usize),
}

impl Begin {
    /// Everything there is.
    pub const OLDEST: Begin = Begin::Back(usize::MAX);
}

/// The State at `until_ms` (the end when none).
pub async fn replay(shelf: &Shelf, until_ms: Option<u64>, begin: Begin) -> Result<Replayed, ArchiveError> {
    let items = shelf.items().await?;
    let mut fulls: Vec<&Item> = items.iter().filter(|item| matches!(item, Item::Full { .. })).collect();
    match begin {
        Begin::Newest => fulls.reverse(),
        Begin::Back(many) => drop(fulls.drain(..fulls.len().saturating_sub(many.saturating_add(1)))),
    }
    let mut damage = None;
    for full in fulls {
        match shelf.full_head(full).await {
            Ok(head) if until_ms.is_some_and(|until| head.state_ms > until) => {}
            Ok(_) => match shelf.full(full).await {
                Ok(full) if begin == Begin::Newest => return go_on(shelf, &items, full, until_ms, false).await,
                Ok(full) => return go_through(shelf, &items, full, until_ms).await,
                Err(error) => damage = Some(error),
            },
            // Another one does as well, with more of the log after it.
            Err(error) => damage = Some(error),
        }
    }
    Err(damage.unwrap_or_else(|| {
        ArchiveError::Unusable(format!(
            "{} holds no full backup{}",
            shelf.name(),
            if until_ms.is_some() { " from before that moment" } else { "" }
        ))
    }))
}

/// From full to full: each is compared with what the log before it led to, or closes a gap. A damaged one that nothing
/// leads past is where the shelf stops.
async fn go_through(
    shelf: &Shelf,
    items: &[Item],
    full: super::Full,
    until_ms: Option<u64>,
) -> Result<Replayed, ArchiveError> {
    let mut done = go_on(shelf, items, full, until_ms, true).await?;
    let mut tried = done.state.revision().0;
    let mut damaged: Option<(u64, String)> = None;
    loop {
        let later = items.iter().filter_map(|item| match item {
            Item::Full { index, .. } if *index > tried => Some((*index, item)),
            _ => None,
        });
        let reached = done.state.revision().0;
        let Some((index, item)) = later.min_by_key(|(index, _)| *index) else {
            if let Some((_, why)) = damaged.filter(|(at, _)| *at > reached) {
                done.gaps.retain(|gap| *gap != why);
                done.stopped.get_or_insert(why);
            }
            return Ok(done);
        };
        tried = index;
        let full = match shelf.full(item).await {
            Ok(full) if until_ms.is_some_and(|until| full.head.state_ms > until) => return Ok(done),
            Ok(full) => full,
            Err(error) => {
                done.gaps.push(error.to_string());
                damaged = Some((index, error.to_string()));
                continue;
            }
        };
        let gap = || format!("entries {} to {index} are not there", reached + 1);
        let mut gaps = std::mem::take(&mut done.gaps);
        gaps.push(done.stopped.take().unwrap_or_else(gap));
        let (entries, compared) = (done.entries, done.compared);
        done = go_on(shelf, items, full, until_ms, true).await?;
        tried = tried.max(done.state.revision().0);
        gaps.append(&mut done.gaps);
        done = Replayed { entries: done.entries + entries, compared: done.compared + compared, gaps, ..done };
    }
}

async fn go_on(
    shelf: &Shelf,
    items: &[Item],
    full: super::Full,
    until_ms: Option<u64>,
    compare: bool,
) -> Result<Replayed, ArchiveError> {
    let super::Full { head, state } = full;
    let term = head.term;
    let mut done = Replayed { head, state, term, entries: 0, compared: 0, gaps: Vec::new(), stopped: None };
    // A damaged piece may have been written again under another name.
    let mut damage: Option<(u64, String)> = None;
    for item in items {
        let at = done.state.revision().0;
        match item {
            Item::Full { index, .. } if compare && *index == at && *index != done.head.index => {
                let other = shelf.full(item).await?;
                if other.state.hash() != done.state.hash() {
                    return Err(ArchiveError::Damaged {
                        path: shelf.path(item),
                        why: "the log before it leads to another state".into(),
                    });
                }
                done.compared += 1;
                done.term = done.term.max(other.head.term);
            }
            Item::Segment { last, .. } if *last <= at => {}
            Item::Segment { first, .. } if *first > at + 1 => {
                let gap = format!("entries {} to {} are not there", at + 1, first - 1);
                done.stopped = Some(damage.map_or(gap, |(_, why)| why));
                return Ok(done);
            }
            Item::Segment { last, .. } => {
                let (segment, entries) = match shelf.segment(item).await {
                    Ok(read) => read,
                    Err(error) => {
                        damage = Some((*last, error.to_string()));
                        continue;
                    }
                };
                for entry in entries.iter().filter(|entry| entry.log_id.index > at) {
                    let applied = format::apply(&mut done.state, entry, until_ms)
                        .map_err(|why| ArchiveError::Unusable(format!("{why}; use a newer program")))?;
                    if !applied {
                        return Ok(done);
                    }
                    done.entries += 1;
                }
                done.term = done.term.max(segment.term);
            }
            Item::Full { .. } => {}
        }
    }
    let reached = done.state.revision().0;
    done.stopped = damage.filter(|(last, _)| *last > reached).map(|(_, why)| why);
    Ok(done)
}
