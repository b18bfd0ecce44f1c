//! The laboratory: a whole cluster on this machine in one command, for trying things out and for breaking them.
//!
//! Every member is a process of its own with a folder of its own; the laboratory writes their configuration files,
//! starts them, lets them join, and remembers in `lab.json` what it did, so that a second `up` continues.

pub mod layout;
pub mod memory;
pub mod process;
pub mod status;
pub mod up;

use std::time::Duration;

use state_machine::codes;

use crate::{
    cli::problem::Problem,
    client::{Client, Target},
};
use layout::Place;

/// A client for one member.
pub fn client(place: &Place) -> Client {
    Client::new(Target::Socket(place.socket.clone()), Duration::from_secs(15))
}

/// The remembered laboratory of a folder, or how to get one.
pub fn open(dir: &std::path::Path) -> Result<(layout::Layout, memory::Memory), Problem> {
    let dir = layout::absolute(dir)?;
    match memory::Memory::load(&dir)? {
        Some(memory) => Ok((layout::Layout { dir, base_port: memory.base_port }, memory)),
        None => Err(Problem::of(
            &codes::LAB_ABSENT,
            format!(
                "there is no laboratory in {}; start one with: hsraft lab up --dir {}",
                dir.display(),
                dir.display()
            ),
        )),
    }
}

/// The place of a member by name.
pub fn place(layout: &layout::Layout, memory: &memory::Memory, name: &str) -> Result<Place, Problem> {
    match memory.members.iter().position(|member| member.name == name) {
        Some(index) => Ok(layout.place(index)),
        None => {
            let names: Vec<&str> = memory.members.iter().map(|member| member.name.as_str()).collect();
            Err(Problem::of(
                &codes::LAB_MEMBER,
                format!("there is no member {name:?} here; there are {}", names.join(", ")),
            ))
        }
    }
}
