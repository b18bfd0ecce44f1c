//! Room on the disk, and what happens when it runs out.
//!
//! A reserve lies in the member's folder. When free space falls below a limit, or a write fails for want of it, the
//! reserve is freed: that is enough to go on reading, to note votes and to stop cleanly. The member then says so, gives
//! its lead to one that has room, and takes no changes; other members go on. A follower accepts entries as long as they
//! fit. Once there is room again the reserve is put back and all is as before; nobody needs to be called.

use std::{io, path::Path, sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};
use state_machine::MemberId;
use tokio::time::{Instant, sleep_until};
use world::Disk;

use crate::{cluster::Core, status::Role};

/// The reserve's name in the member's folder.
const RESERVE_FILE: &str = "reserve";

/// How much room a member wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    /// Below so many free bytes no changes are taken.
    pub low_bytes: u64,
    /// Bytes that are kept for that day.
    pub reserve_bytes: u64,
}

impl Default for Space {
    /// RocksDB's write-ahead logs are bounded to 64 MiB and its write buffers to as much; a snapshot is written beside
    /// the one before.
    fn default() -> Space {
        Space { low_bytes: 256 << 20, reserve_bytes: 64 << 20 }
    }
}

impl Space {
    /// With so many free bytes (the reserve having been freed) it is over: the reserve fits, and an eighth of the limit
    /// besides, so that the alarm does not flutter.
    fn enough(&self) -> u64 {
        self.low_bytes + self.low_bytes / 8 + self.reserve_bytes
    }

    /// Below this even a follower takes no more entries: what is left belongs to votes and to a clean end.
    fn floor(&self) -> u64 {
        self.low_bytes / 8
    }
}

/// How much room there is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Room {
    /// Free bytes; an ordinary process may write them.
    pub free: u64,
    /// There is too little: no changes are taken.
    pub short: bool,
    /// Bytes that must become free for it to be over.
    pub needed: u64,
    /// Not even a follower's entries fit.
    pub exhausted: bool,
}

/// The next view, from the one before and a look at the disk.
pub fn judge(before: Room, free: u64, space: Space) -> Room {
    let short = if before.short { free < space.enough() } else { free < space.low_bytes };
    Room {
        free,
        short,
        needed: if short { space.enough().saturating_sub(free) } else { 0 },
        exhausted: short && free < space.floor(),
    }
}

/// Frees the reserve.
pub fn free_reserve(disk: &dyn Disk, folder: &Path) -> io::Result<()> {
    disk.remove(&folder.join(RESERVE_FILE))
}

/// Before a database is opened: an almost full disk gets its reserve back first.
pub fn make_room(disk: &dyn Disk, folder: &Path, space: Space) {
    if let Ok(Some(free)) = disk.free_bytes(folder)
        && free < space.low_bytes
        && let Err(error) = free_reserve(disk, folder)
    {
        tracing::warn!(%error, "the reserve could not be freed");
    }
}

impl Core {
    /// How much room this member has, as last looked at.
    pub fn room(&self) -> Room {
        *self.room.borrow()
    }
}

/// Asking the file system takes microseconds.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Looks after the room of a member as long as it lives.
pub async fn watch(core: Arc<Core>, folder: std::path::PathBuf, space: Space, room: tokio::sync::watch::Sender<Room>) {
    let disk = core.world.disk.clone();
    // Where nobody counts there is nothing to do.
    if !matches!(disk.free_bytes(&folder), Ok(Some(_))) {
        return;
    }
    let mut next = Instant::now();
    loop {
        let before = *room.borrow();
        if let Ok(Some(free)) = disk.free_bytes(&folder) {
            // A drill may have it look almost full: short, and with room for what was promised.
            let free = if core.dialer.drills.disk_is_full() { free.min(space.low_bytes / 4) } else { free };
            let now = judge(before, free, space);
            if now.short && !before.short {
                tracing::error!(free, needed = now.needed, "the disk is almost full: this member takes no changes");
                if let Err(error) = free_reserve(&*disk, &folder) {
                    tracing::warn!(%error, "the reserve could not be freed");
                }
            }
            if !now.short {
                match keep_reserve(&*disk, &folder, space, free) {
                    Ok(()) if before.short => tracing::info!(free, "there is room again: changes are taken"),
                    Ok(()) => {}
                    Err(error) => tracing::warn!(%error, "the reserve for a full disk could not be made"),
                }
            }
            core.metrics.disk_free.set(i64::try_from(free).unwrap_or(i64::MAX));
            core.metrics.disk_short.set(i64::from(now.short));
            room.send_replace(now);
            if now.short {
                step_down(&core).await;
            }
        }
        next = next.max(Instant::now()) + LOOK_EVERY;
        sleep_until(next).await;
    }
}

/// Makes the reserve, unless it is there or would itself use up the room.
fn keep_reserve(disk: &dyn Disk, folder: &Path, space: Space, free: u64) -> io::Result<()> {
    let path = folder.join(RESERVE_FILE);
    match disk.size(&path)? {
        Some(size) if size == space.reserve_bytes => Ok(()),
        _ if free < space.low_bytes + space.reserve_bytes => Ok(()),
        _ => disk.allocate(&path, space.reserve_bytes),
    }
}

/// A leader without room gives its lead to the furthest voter that has some.
async fn step_down(core: &Core) {
    let status = core.status();
    if status.role != Role::Leader {
        return;
    }
    let has_room = |voter: &MemberId| {
        core.boards.report_of(*voter).is_some_and(|report| !report.room.is_some_and(|room| room.short))
    };
    let along = |voter: &MemberId| status.members.get(voter).and_then(|progress| progress.matched);
    let best = status.voters.iter().copied().filter(|voter| *voter != core.me && has_room(voter)).max_by_key(along);
    if let Some(best) = best {
        match core.hand_over_here(Some(best)).await {
            Ok(()) => tracing::info!(to = %best, "leads no more: the disk is almost full"),
            Err(error) => tracing::info!(error, "leadership could not be given away yet"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_alarm_begins_at_the_limit_and_ends_only_when_the_reserve_fits_again() {
        let space = Space { low_bytes: 800, reserve_bytes: 100 };
        let fine = judge(Room::default(), 800, space);
        assert!(!fine.short && fine.needed == 0);
        let short = judge(fine, 799, space);
        assert!(short.short && !short.exhausted && short.needed == 201);
        // Freed, the reserve counts as free.
        let short = judge(short, 899, space);
        assert!(short.short && short.needed == 101);
        assert!(judge(short, 999, space).short);
        assert_eq!(judge(short, 1000, space), Room { free: 1000, ..Room::default() });
        assert!(judge(short, 99, space).exhausted);
    }
}
