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
    /// Where the shelf goes on after a gap, or with damage; nothing when it was read to its end or to the moment.
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
                Ok(full) => return go_on(shelf, &items, full, until_ms, begin != Begin::Newest).await,
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

async fn go_on(
    shelf: &Shelf,
    items: &[Item],
    full: super::Full,
    until_ms: Option<u64>,
    compare: bool,
) -> Result<Replayed, ArchiveError> {
    let super::Full { head, state } = full;
    let term = head.term;
    let mut done = Replayed { head, state, term, entries: 0, compared: 0, stopped: None };
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
