//! Members as processes: start detached, find again, signal.

use std::{
    ffi::OsString,
    os::unix::process::CommandExt,
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use tokio::time::Instant;

use state_machine::codes;

use super::layout::Place;
use crate::{cli::problem::Problem, files};

/// Variables that would override every member's configuration alike.
const OVERRIDES: [&str; 2] = ["HSRAFT_", "HEADSCALE_"];

/// How a member begins.
pub enum Begin {
    /// Founds a cluster, or continues.
    Serve,
    /// Joins the member at this address.
    Join { address: String, token: String },
    /// Joins in the place of a member that is gone.
    Replace { address: String, token: String, name: String },
}

/// Starts a member in a session of its own, so that it outlives this command and its terminal.
pub fn start(place: &Place, begin: Begin) -> Result<Child, Problem> {
    let failed = |what: &str, error: std::io::Error| {
        Problem::of(&codes::LAB_START, format!("cannot start {}: {what}: {error}", place.name))
    };
    let log = files::append(&place.log).map_err(|error| failed("its log", error))?;
    let errors = log.try_clone().map_err(|error| failed("its log", error))?;
    let program = std::env::current_exe().map_err(|error| failed("this program", error))?;
    let mut command = Command::new(program);
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(|name| OVERRIDES.iter().any(|prefix| name.starts_with(prefix))) {
            command.env_remove(name);
        }
    }
    command.args(["lab", "detach", "--"]);
    match begin {
        Begin::Serve => command.arg("serve"),
        // By environment: the words of a process are everybody's to read.
        Begin::Join { address, token } => command.args(["join", &address]).env("HSRAFT_JOIN_TOKEN", token),
        Begin::Replace { address, token, name } => {
            command.args(["join", &address, "--replace", &name]).env("HSRAFT_JOIN_TOKEN", token)
        }
    };
    command.arg("--config").arg(&place.config);
    command.current_dir(&place.folder).stdin(Stdio::null()).stdout(log).stderr(errors);
    let child = command.spawn().map_err(|error| failed("this program", error))?;
    files::write(&place.pid, &child.id().to_string()).map_err(|error| failed("its pid file", error))?;
    Ok(child)
}

/// Has a process of its own start the member after a while, unless it runs by then: whoever killed it may be gone.
pub fn start_later(place: &Place, dir: &Path, after: Duration) -> Result<(), Problem> {
    let failed =
        |error: std::io::Error| Problem::of(&codes::LAB_START, format!("cannot watch over {}: {error}", place.name));
    let mut command = Command::new(std::env::current_exe().map_err(failed)?);
    command.args(["lab", "detach", "--", "lab", "revive", &place.name, "--after", &format!("{}s", after.as_secs())]);
    command.arg("--dir").arg(dir).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().map(drop).map_err(failed)
}

/// `lab detach -- WORDS`: leaves the terminal's session and becomes `hsraft WORDS`. Only returns when that fails.
pub fn detach(words: &[OsString]) -> Problem {
    if let Err(error) = rustix::process::setsid() {
        return Problem::of(&codes::LAB_START, format!("cannot leave the session: {error}"));
    }
    match std::env::current_exe() {
        Ok(program) => {
            Problem::of(&codes::LAB_START, format!("cannot start: {}", Command::new(program).args(words).exec()))
        }
        Err(error) => Problem::of(&codes::LAB_START, format!("cannot find this program: {error}")),
    }
}

/// The process of a member, if it runs. A pid that was given to another process meanwhile does not count.
pub fn running(place: &Place) -> Option<Pid> {
    let pid = files::read(&place.pid).ok().flatten()?.trim().parse::<i32>().ok()?;
    let words = files::read(Path::new(&format!("/proc/{pid}/cmdline"))).ok().flatten()?;
    words.split('\0').any(|word| Path::new(word) == place.config).then(|| Pid::from_raw(pid)).flatten()
}

/// `kill -9`, as a machine that loses power.
pub fn kill(place: &Place) -> Result<bool, Problem> {
    signal(place, Signal::KILL)
}

/// Asks a member to end; returns whether it was running.
pub fn terminate(place: &Place) -> Result<bool, Problem> {
    signal(place, Signal::TERM)
}

fn signal(place: &Place, signal: Signal) -> Result<bool, Problem> {
    let Some(pid) = running(place) else { return Ok(false) };
    match kill_process(pid, signal) {
        Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(true),
        Err(error) => {
            Err(Problem::of(&codes::LAB_SIGNAL, format!("cannot signal {} (process {pid}): {error}", place.name)))
        }
    }
}

/// Waits until a member's process has ended; false when it has not in time.
pub async fn ended(place: &Place, within: Duration) -> bool {
    let deadline = Instant::now() + within;
    while running(place).is_some() {
        if Instant::now() >= deadline {
            return false;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    true
}
