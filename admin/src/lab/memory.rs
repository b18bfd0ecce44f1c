//! What a laboratory remembers between commands: `lab.json`, for its owner's eyes.

use std::path::Path;

use serde::{Deserialize, Serialize};

use state_machine::codes;

use crate::{cli::problem::Problem, files};

/// The file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Memory {
    pub base_port: u16,
    pub members: Vec<Known>,
    /// The owner of devices that come in with the key.
    pub user: String,
    /// A reusable pre-auth key.
    pub auth_key: String,
}

/// One member.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Known {
    pub name: String,
    /// It has founded or joined: from now on it only continues.
    pub joined: bool,
}

impl Memory {
    /// What the folder remembers; `None` when it is no laboratory yet.
    pub fn load(dir: &Path) -> Result<Option<Memory>, Problem> {
        let file = dir.join("lab.json");
        let text = files::read(&file).map_err(|error| {
            Problem::of(&codes::FILE_UNREADABLE, format!("cannot read {}: {error}", file.display()))
        })?;
        text.map(|text| serde_json::from_str(&text)).transpose().map_err(|error| {
            Problem::of(&codes::LAB_MEMORY, format!("{} is damaged ({error}); delete it to begin anew", file.display()))
        })
    }

    /// Writes it down.
    pub fn save(&self, dir: &Path) -> Result<(), Problem> {
        let text = serde_json::to_string_pretty(self).expect("plain values become JSON");
        let file = dir.join("lab.json");
        files::write(&file, &text)
            .map_err(|error| Problem::of(&codes::FILE_UNWRITABLE, format!("cannot write {}: {error}", file.display())))
    }

    /// Makes room for `count` members; never forgets one.
    pub fn grow(&mut self, count: usize) {
        for index in self.members.len()..count {
            self.members.push(Known { name: format!("hs{}", index + 1), joined: false });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_remembered() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(Memory::load(folder.path()).unwrap(), None);
        let mut memory = Memory { base_port: 8080, auth_key: "k".into(), ..Memory::default() };
        memory.grow(2);
        memory.members[0].joined = true;
        memory.save(folder.path()).unwrap();
        memory.grow(1);
        assert_eq!(Memory::load(folder.path()).unwrap(), Some(memory));
    }
}
