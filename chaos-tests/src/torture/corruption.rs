//! Folders damaged, emptied, put back to an earlier day. A member that finds its folder so must not take part.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use world::World;

use super::{Dice, crew};

/// What is done to the folder of a member that does not run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Damage {
    /// Bytes in the middle of the write-ahead log are others.
    FlippedLog,
    /// Bytes in a table file are others.
    FlippedTable,
    /// A table file is empty.
    EmptyTable,
    /// The file that names the manifest is gone.
    NoCurrent,
    NoManifest,
    /// The folder is as it was some starts ago.
    RolledBack,
}

impl Damage {
    pub const ALL: [Damage; 6] = [
        Damage::FlippedLog,
        Damage::FlippedTable,
        Damage::EmptyTable,
        Damage::NoCurrent,
        Damage::NoManifest,
        Damage::RolledBack,
    ];
}

/// Damages `data`; `before` is a copy of it from an earlier day.
pub async fn damage(world: &World, data: &Path, before: &Path, how: Damage, dice: &mut Dice) -> Result<()> {
    let database = data.join("db");
    match how {
        // Older ones may hold nothing any more that a start would read.
        Damage::FlippedLog => flip(world, &newest(world, &database, ".log")?, dice),
        Damage::FlippedTable => flip(world, &largest(world, &database, ".sst")?, dice),
        Damage::EmptyTable => Ok(world.disk.write(&largest(world, &database, ".sst")?, &[])?),
        Damage::NoCurrent => Ok(world.disk.remove(&database.join("CURRENT"))?),
        Damage::NoManifest => {
            let names = world.disk.list(&database)?;
            let manifest =
                names.iter().find(|name| name.starts_with("MANIFEST-")).context("a database has a manifest")?;
            Ok(world.disk.remove(&database.join(manifest))?)
        }
        Damage::RolledBack => {
            std::fs::remove_dir_all(data)?;
            crew::copy(before, data).await
        }
    }
}

fn newest(world: &World, database: &Path, ending: &str) -> Result<PathBuf> {
    // Names are numbers with zeros in front.
    let newest = world.disk.list(database)?.into_iter().filter(|name| name.ends_with(ending)).max();
    Ok(database.join(newest.with_context(|| format!("no {ending} in {}", database.display()))?))
}

fn largest(world: &World, database: &Path, ending: &str) -> Result<PathBuf> {
    let files =
        world.disk.list(database)?.into_iter().filter(|name| name.ends_with(ending)).map(|name| database.join(name));
    let size = |path: &PathBuf| std::fs::metadata(path).map_or(0, |file| file.len());
    files.max_by_key(size).with_context(|| format!("no {ending} in {}", database.display()))
}

/// Sixteen bytes somewhere in the first half of the file: what comes after them was synced as well.
fn flip(world: &World, path: &Path, dice: &mut Dice) -> Result<()> {
    let mut bytes = world.disk.read(path)?.with_context(|| path.display().to_string())?;
    if bytes.len() < 256 {
        bail!("{} is too small to be damaged: {} bytes", path.display(), bytes.len());
    }
    let at = 32 + dice.below(bytes.len() / 2 - 48);
    bytes[at..at + 16].iter_mut().for_each(|byte| *byte ^= 0xff);
    Ok(world.disk.write(path, &bytes)?)
}
