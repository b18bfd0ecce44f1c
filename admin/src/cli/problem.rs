//! What goes wrong at the command line: a text that says what, why and what next, and a stable exit code.

use std::fmt;

use state_machine::codes::{self, Code};

/// Exit codes, the same for every word.
pub mod exit {
    /// Done.
    pub const OK: i32 = 0;
    /// Not done; or, from `status`, degraded.
    pub const FAILED: i32 = 1;
    /// The words make no sense.
    pub const USAGE: i32 = 2;
    /// No majority of members.
    pub const NO_QUORUM: i32 = 3;
    /// A join token that is unknown, used or expired.
    pub const TOKEN: i32 = 10;
    /// A state or a disk is not what it must be.
    pub const INTEGRITY: i32 = 40;
    /// A backup is damaged, or does not open.
    pub const BACKUP: i32 = 41;
    /// Nobody answers at that address.
    pub const UNREACHABLE: i32 = 12;
    /// What is needed to begin is not there.
    pub const PREFLIGHT: i32 = 16;
    /// The laboratory did not come up in time; safe to run again.
    pub const STILL_STARTING: i32 = 20;
}

/// Why a word could not be carried out.
#[derive(Debug)]
pub struct Problem {
    /// One of [`exit`].
    pub exit: i32,
    text: String,
    code: Option<&'static Code>,
}

impl Problem {
    /// Not done.
    pub fn new(text: impl Into<String>) -> Problem {
        Problem { exit: exit::FAILED, text: text.into(), code: None }
    }

    /// The words make no sense.
    pub fn usage(text: impl Into<String>) -> Problem {
        Problem { exit: exit::USAGE, text: text.into(), code: None }
    }

    /// Nobody answers.
    pub fn unreachable(text: impl Into<String>) -> Problem {
        Problem { exit: exit::UNREACHABLE, text: text.into(), code: None }
    }

    /// With the code somebody else gave it.
    pub fn coded(self, code: &'static Code) -> Problem {
        Problem { code: Some(code), ..self }
    }

    /// Its line in the table of codes.
    pub fn code(&self) -> &'static Code {
        self.code.unwrap_or(match self.exit {
            exit::USAGE => &codes::USAGE,
            exit::NO_QUORUM => &codes::NO_QUORUM,
            exit::TOKEN => &codes::START_TOKEN,
            exit::UNREACHABLE => &codes::CALL_UNREACHABLE,
            exit::STILL_STARTING => &codes::START_CATCHING_UP,
            exit::BACKUP => &codes::BACKUP_DAMAGED,
            exit::INTEGRITY => &codes::START_INTEGRITY,
            _ => &codes::NOT_DONE,
        })
    }

    /// With another exit code.
    pub fn exiting(self, exit: i32) -> Problem {
        Problem { exit, ..self }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}
