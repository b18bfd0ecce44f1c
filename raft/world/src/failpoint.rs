//! Named points at which a test may end a member, let it fail, or hold it up.
//!
//! In a release there are none: without the feature `failpoints` the macro is empty, and nothing here is compiled. With
//! it a point costs one atomic load until something is armed. A point that is reached says so on the standard error
//! output, `failpoint NAME reached: ACTION`, before it acts: what did not say so was not tested.
//!
//! `failpoint!("log.purge.after")` can abort, panic or pause; `failpoint!("vote.save.before", Err)` can also return,
//! here `Err(error)`. Names are `subject.step[.before|.after]`, unique in the workspace.

use std::{
    io,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

/// Where a process looks for points to arm: `name=action;name=action`.
pub const VARIABLE: &str = "HSRAFT_FAILPOINTS";

/// How long a `pause` holds up the thread that came by; longer than an election.
const PAUSE: Duration = Duration::from_millis(1500);

static ARMED: AtomicBool = AtomicBool::new(false);

fn tell(name: &str, action: &str) {
    eprintln!("failpoint {name} reached: {action}");
}

/// Does what is armed for this point.
pub fn reached(name: &'static str) {
    if ARMED.load(Ordering::Relaxed) {
        fail::fail_point!(name);
    }
}

/// Does what is armed for this point; an error, when it shall return one.
pub fn fails(name: &'static str) -> Option<io::Error> {
    if ARMED.load(Ordering::Relaxed) {
        fail::fail_point!(name, |_| {
            tell(name, "return");
            Some(io::Error::other(format!("failpoint {name}")))
        });
    }
    None
}

/// Arms points: `name=action`, several with `;` between. Each acts once.
///
/// `abort` ends the process on the spot, as `kill -9` would; `panic` unwinds the task; `pause` blocks its thread for a
/// second and a half; `return` gives an error back, where the point can; `off` disarms.
pub fn arm(text: &str) -> Result<(), String> {
    for one in text.split(';').map(str::trim).filter(|one| !one.is_empty()) {
        let (name, action) = one.split_once('=').ok_or_else(|| format!("{one:?} is not name=action"))?;
        let (name, once) = (name.to_owned(), AtomicBool::new(false));
        let at = name.clone();
        match action {
            "abort" => fail::cfg_callback(name, move || {
                tell(&at, "abort");
                std::process::abort();
            }),
            "panic" => fail::cfg_callback(name, move || {
                if !once.swap(true, Ordering::Relaxed) {
                    tell(&at, "panic");
                    panic!("failpoint {at}");
                }
            }),
            "pause" => fail::cfg_callback(name, move || {
                if !once.swap(true, Ordering::Relaxed) {
                    tell(&at, "pause");
                    // The thread itself shall stand still, as under a slow disk or a stopped process.
                    #[allow(clippy::disallowed_methods)]
                    std::thread::sleep(PAUSE);
                }
            }),
            "return" => fail::cfg(name, "1*return"),
            "off" => {
                fail::remove(name);
                Ok(())
            }
            other => return Err(format!("{other:?} is none of abort, panic, pause, return, off")),
        }?;
        ARMED.store(true, Ordering::Relaxed);
    }
    Ok(())
}
