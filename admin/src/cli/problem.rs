//! What goes wrong at the command line: a text that says what, why and what next, and a stable exit code.

use std::fmt;

use state_machine::codes::Code;

/// Exit codes, the same for every word.
pub mod exit {
    use state_machine::codes::Code;

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
    /// This program does not fit the cluster's.
    pub const SKEW: i32 = 13;

    /// What a code ends a process with: a member that does not start says by its exit code why, and so do the words
    /// that ask one; the rest were simply not done.
    pub fn of(code: &Code) -> i32 {
        match code.number {
            1101..=1107 => TOKEN,
            1202 => SKEW,
            2001 | 2002 | 2004 | 2021 => NO_QUORUM,
            3002..=3007 => USAGE,
            3010 | 3019 => TOKEN,
            3011..=3016 => i32::from(code.number - 3000),
            3017 | 3021 => 14,
            3022 => UNREACHABLE,
            3018 | 3023 | 3031 | 3032 | 3116 => 16,
            3020 | 3033 => STILL_STARTING,
            3040..=3049 => 40,
            3070..=3079 => 70,
            4041..=4049 => BACKUP,
            2302 | 2305 | 4053 | 4062 => USAGE,
            9028 => FAILED,
            9002 | 9016 | 9019..=9029 | 9103..=9105 | 9303 | 9304 => USAGE,
            9011..=9013 => UNREACHABLE,
            _ => FAILED,
        }
    }
}

/// Why a word could not be carried out. There is none without its line in the table of codes.
#[derive(Debug)]
pub struct Problem {
    /// One of [`exit`].
    pub exit: i32,
    text: String,
    code: &'static Code,
}

impl Problem {
    /// With its line in the table of codes, which knows the exit code too.
    pub fn of(code: &'static Code, text: impl Into<String>) -> Problem {
        Problem { exit: exit::of(code), text: text.into(), code }
    }

    /// Its line in the table of codes.
    pub fn code(&self) -> &'static Code {
        self.code
    }

    /// With another exit code.
    pub fn exiting(self, exit: i32) -> Problem {
        Problem { exit, ..self }
    }

    /// What, why, what to do next, and the code: everything somebody needs who is woken by it, on one line. A text that
    /// names its next step says why as well; any other is completed from the table.
    pub fn page(&self) -> String {
        let mut page = self.text.clone();
        if !names_a_next_step(&page) {
            // Some lines of the table refer to the message, which is here already.
            let more = [self.code.why, self.code.next].into_iter().filter(|part| !part.starts_with("the message"));
            more.for_each(|part| page = format!("{page}; {part}"));
        }
        format!("{page} [{}]", self.code)
    }
}

/// Messages put their next step behind a semicolon, or name a word of ours.
fn names_a_next_step(text: &str) -> bool {
    text.contains("; ") || text.contains("hsraft ") || text.contains("--")
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use raft::StartError;
    use state_machine::codes;

    use super::*;

    #[test]
    fn every_code_has_one_of_the_known_exit_codes() {
        let known = [1, 2, 3, 10, 11, 12, 13, 14, 15, 16, 20, 40, 41, 70];
        for code in codes::ALL {
            assert!(known.contains(&exit::of(code)), "{code} ends with {}", exit::of(code));
        }
    }

    /// Whatever stands in front: the reader learns what to do.
    #[test]
    fn a_bare_message_is_completed_from_the_table() {
        // HSR-9001 is nobody's: a test of the house sees to it.
        for code in codes::ALL.iter().copied().filter(|code| **code != codes::NOT_DONE) {
            let page = Problem::of(code, "no").page();
            assert!(page.ends_with(&format!(" [{code}]")), "{page}");
            let says_next = page.contains(code.next) || code.next.starts_with("the message");
            assert!(says_next && page.len() > "no [HSR-nnnn]".len(), "{page}");
        }
        let whole = "the key is used; make a new one with: hsraft token create";
        assert_eq!(Problem::of(&codes::TOKEN_USED, whole).page(), format!("{whole} [HSR-1103]"));
    }

    #[test]
    fn a_member_that_does_not_start_ends_as_its_code_says() {
        let io = || std::io::Error::other("x");
        let x = || "x".to_owned();
        let token = |code| StartError::Token { why: x(), code };
        let table = [
            (StartError::Option(x()), 2),
            (StartError::NothingThere(x()), 2),
            (StartError::Refused { why: x(), code: &codes::START_REFUSED }, 2),
            (token(&codes::TOKEN_USED), 10),
            (token(&codes::TOKEN_FROM), 10),
            (token(&codes::START_TOKEN_MALFORMED), 10),
            (StartError::WrongPin(x()), 11),
            (StartError::Unreachable(x()), 12),
            (StartError::Skew(x()), 13),
            (StartError::Refused { why: x(), code: &codes::PROGRAM_TOO_OLD }, 13),
            (StartError::Foreign(x()), 14),
            (StartError::Removed, 14),
            (StartError::Clock(6_000), 15),
            (StartError::Listen { address: x(), source: io() }, 16),
            (StartError::Disk { path: x(), source: io() }, 16),
            (StartError::CatchingUp, 20),
            (StartError::Integrity(x()), 40),
            (StartError::Engine(x()), 70),
        ];
        for (error, exit) in table {
            assert_eq!(error.exit_code(), exit, "{error:?}");
            assert_eq!(exit::of(error.code()), exit, "{error:?} is {}", error.code());
        }
    }
}
