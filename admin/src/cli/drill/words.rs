//! Our own words, said by a process of their own: what the runbooks say is what the drills do.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
};

use tokio::{process::Command, time::Instant};

use state_machine::codes;

use super::stage::Stage;
use crate::{cli::problem::Problem, files};

/// Says `hsraft WORDS`; what it printed and how long it took. `secrets` are variables.
pub async fn say(words: &[&str], secrets: &[(&str, &str)]) -> Result<(String, std::time::Duration), Problem> {
    let program = std::env::current_exe()
        .map_err(|error| Problem::of(&codes::DRILL_HALTED, format!("cannot find this program: {error}")))?;
    let begun = Instant::now();
    let mut command = Command::new(program);
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(|name| name.starts_with("HSRAFT_") || name.starts_with("HEADSCALE_")) {
            command.env_remove(name);
        }
    }
    command.args(words).envs(secrets.iter().copied()).stdin(Stdio::null()).kill_on_drop(true);
    let done = command.output().await;
    let done =
        done.map_err(|error| Problem::of(&codes::DRILL_HALTED, format!("hsraft {}: {error}", words.join(" "))))?;
    if !done.status.success() {
        let complaint = String::from_utf8_lossy(&done.stderr);
        let last = complaint.lines().last().unwrap_or_default();
        return Err(Problem::of(
            &codes::DRILL_HALTED,
            format!("hsraft {} ended with {}: {last}", words.join(" "), done.status),
        ));
    }
    Ok((String::from_utf8_lossy(&done.stdout).into_owned(), begun.elapsed()))
}

/// A folder that goes with the drill.
pub struct Scratch(pub PathBuf);

impl Scratch {
    /// A new one, for this drill alone.
    pub fn new(drill: &str, what: &str) -> Result<Scratch, Problem> {
        let folder = std::env::temp_dir().join(format!("hsraft-drill-{drill}-{what}"));
        files::create_dir_all(&folder).map_err(|error| {
            Problem::of(&codes::FILE_UNWRITABLE, format!("cannot make {}: {error}", folder.display()))
        })?;
        Ok(Scratch(folder))
    }

    /// A path in it, as a word.
    pub fn path(&self, name: &str) -> String {
        self.0.join(name).display().to_string()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // Nobody to tell; the system empties its folder for such things.
        let _ = files::remove_all(&self.0);
    }
}

impl Stage {
    /// A key file of the laboratory's first member, if this is one.
    pub fn lab_key(&self) -> Option<PathBuf> {
        let lab = self.lab.as_ref()?;
        Some(lab.layout.place(0).data.join("sealing.key"))
    }
}

/// A path as a word.
pub fn word(path: &Path) -> String {
    path.display().to_string()
}
