//! The door through which a test arms points of this process; not in a release.
//!
//! Two ways: the variable `HSRAFT_FAILPOINTS` at the start, and while a member runs the file `failpoints` beside its
//! data folder. The file is taken away once it was read, so that the next start is a clean one.

use std::{path::Path, time::Duration};

use world::{Disk, failpoint};

/// How often the file is looked for.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Arms what the environment says. Words that make no sense end the process: a test must not pass for a typing error.
pub fn arm_from_environment() -> Result<(), String> {
    match std::env::var(failpoint::VARIABLE) {
        Ok(text) => failpoint::arm(&text),
        Err(_) => Ok(()),
    }
}

/// Looks for the file now, and from now on.
pub fn watch(data_dir: &Path) {
    let path = data_dir.with_file_name("failpoints");
    let disk = world::real::world().disk;
    take(&*disk, &path);
    std::thread::spawn(move || {
        loop {
            // A thread of its own: a member whose tasks all stand still must still be armed.
            #[allow(clippy::disallowed_methods)]
            std::thread::sleep(LOOK_EVERY);
            take(&*disk, &path);
        }
    });
}

fn take(disk: &dyn Disk, path: &Path) {
    let Ok(Some(bytes)) = disk.read(path) else { return };
    if let Err(error) = disk.remove(path) {
        eprintln!("failpoints: {error}");
    }
    match failpoint::arm(&String::from_utf8_lossy(&bytes)) {
        Ok(()) => eprintln!("failpoints armed"),
        Err(error) => eprintln!("failpoints: {error}"),
    }
}
