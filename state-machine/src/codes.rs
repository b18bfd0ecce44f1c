//! Every refusal has a number that never changes: the table of them, with what, why and what to do next.
//!
//! Programs match on `HSR-nnnn`; people ask `hsraft explain HSR-nnnn` or read `deploy/runbooks/codes.md`, which a test keeps
//! equal to this table. A number is never given to anything else, also when its refusal is gone.

use std::fmt;

use crate::outcome::Refusal;

/// One line of the table.
#[derive(Debug, PartialEq, Eq)]
pub struct Code {
    pub number: u16,
    pub what: &'static str,
    pub why: &'static str,
    pub next: &'static str,
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HSR-{:04}", self.number)
    }
}

impl Code {
    /// By `HSR-1001`, `hsr-1001` or `1001`.
    pub fn find(text: &str) -> Option<&'static Code> {
        let digits = text.trim().to_ascii_uppercase();
        let number: u16 = digits.strip_prefix("HSR-").unwrap_or(&digits).parse().ok()?;
        ALL.iter().copied().find(|code| code.number == number)
    }
}

macro_rules! table {
    ($($name:ident $number:literal, $what:literal, $why:literal, $next:literal;)*) => {
        $(
            #[doc = $what]
            pub const $name: Code = Code { number: $number, what: $what, why: $why, next: $next };
        )*
        /// The whole table, in order.
        pub const ALL: &[&Code] = &[$(&$name),*];
    };
}

table! {
    NOT_FOUND 1001, "there is nothing of that kind under that name", "it was never made, was deleted, or the name is mistyped", "list what there is (hsraft users list, nodes list, members, …) and use a name or id from there";
    TAKEN 1002, "the name, prefix or key belongs to another", "names are unique among users, members and keys", "choose another name, or rename or delete the one that has it";
    INVALID 1003, "a value does not fit", "the message says which rule it breaks", "correct the value and ask again; nothing changed";
    USER_HAS_NODES 1004, "the user still has nodes", "a user goes only when nothing is left behind", "delete or move the nodes first: hsraft nodes list --user NAME";
    KEY_UNKNOWN 1005, "the pre-auth key is not known", "it is mistyped, was deleted, or is of another cluster", "make a new one: hsraft preauthkeys create";
    KEY_EXPIRED 1006, "the pre-auth key has expired", "keys live for the time given with --expiration", "make a new one: hsraft preauthkeys create";
    KEY_USED 1007, "the pre-auth key was used already", "it is good for one node only", "make a new one, or a reusable one: hsraft preauthkeys create --reusable";
    WRONG_MACHINE 1008, "the node key belongs to another machine", "two machines run with a copy of one state folder", "log the copy out, or delete its state folder and log in again";
    TAGS_NOT_PERMITTED 1009, "the tags may not be taken", "the policy's tagOwners do not name the user or the key", "name the owner in tagOwners, or use a pre-auth key that carries the tags";
    ADDRESSES_EXHAUSTED 1010, "the prefix has no address left", "every address of it is a node's", "delete nodes that are gone, or set a wider prefix";
    LOGIN_OVER 1011, "the login is over", "it was finished, rejected, or waited too long", "start it again on the client: tailscale up";
    POLICY_REJECTED 1012, "the policy was rejected", "it cannot be read, contradicts itself, or one of its tests fails", "the message names line and rule; try with: hsraft policy check --file FILE";
    ALREADY_FOUNDED 1013, "the cluster exists already", "founding happens once", "nothing to do";
    NOT_FOUNDED 1014, "the cluster has not been founded", "the first member is just starting", "try again in a moment";
    TOKEN_UNKNOWN 1101, "the join token is not known", "it is mistyped, was revoked, or is of another cluster", "make a new one: hsraft token create";
    TOKEN_EXPIRED 1102, "the join token has expired", "tokens live 15 minutes unless --ttl says otherwise", "make a new one: hsraft token create";
    TOKEN_USED 1103, "the join token was used already", "a token lets one member in", "make a new one: hsraft token create";

    TOKEN_OUTDATED 1104, "the join token names a certificate authority that was replaced", "hsraft cert rotate-ca ran after the token was made; a token pins the authority of its day", "make a new one: hsraft token create";
    ROTATION_UNDER_WAY 1105, "the certificate authority is being replaced already", "a member that still has to move is down or cut off", "hsraft cert status names it; start it, or take it out: hsraft member remove";
    SECRETS_CHANGED 1106, "a secret changed while all of them were being sealed anew", "somebody else wrote one at the same moment", "ask again; nothing changed";
    LEVEL_TOO_LOW 1201, "the cluster does not know this yet", "some members ran an older program when it was last looked at, or the upgrade was not finished", "hsraft upgrade status names the members; when all run the new program: hsraft upgrade finalize";
    PROGRAM_TOO_OLD 1202, "a program is too old for the cluster", "the cluster behaves as a feature level says that this program cannot apply", "run the newer program; hsraft upgrade status shows what each member runs";

    NO_QUORUM 2001, "no majority of the members answers", "too many members are down or cannot reach each other; nothing changed", "hsraft status names the silent ones; start them. If they are lost for ever: runbook backup-and-disaster";
    UNKNOWN_RESULT 2002, "no answer came in time", "the leader was lost while it worked; the change may or may not have happened", "look before asking again";
    UNFIT 2003, "the wish does not fit the cluster as it is", "it would leave too few voters, names a member that cannot, …; the message says so", "hsraft members shows how the cluster is";
    STOPPED 2004, "this member is stopping or broken", "it drains, or its engine has ended", "ask another member; look at this one's log";
    NO_SPACE 2020, "the disk of the leading member is full", "its free space fell below the limit (cluster.disk_low_mib); its reserve was freed, reads go on, and no other voter with room could take the lead", "free or add the space that the message names below cluster.data_dir; changes are taken again by themselves within seconds";
    STATES_DIFFER 2021, "members came to different states", "a memory, a disk or a program is wrong, and no majority of the voters agrees on one state, so nobody can say whose", "hsraft verify --cluster shows who holds which; start the missing voters, or stop the one with a history of faults: runbook backup-and-disaster, section 'States differ'";
    FORBIDDEN 2101, "the caller may not do that", "the API key's role allows reading only, or other things", "use a key of another role: hsraft apikeys create";
    UNAUTHORIZED 2102, "the API key is not accepted", "it is mistyped, has expired, or was deleted", "make a new one on a member: hsraft apikeys create";
    TOO_LARGE 2103, "the request is larger than anybody needs", "bodies are bounded before they are read", "send less at once";
    INTERNAL 2104, "something on our side is not as it should be", "a fault of the program", "look at the member's log and report it with its last lines";

    DRILL_REFUSED 2301, "the drill cannot begin or go on", "the cluster is not well enough, a member takes no part (cluster.drills), another drill is under way, or its session ended", "the message says which; hsraft drill plan NAME shows every condition";

    START_OPTION 3002, "the configuration cannot be used, or there is nothing to continue", "a value contradicts another, or the data folder is empty", "the message names file, line and value; check with: hsraft configtest";
    START_TOKEN 3010, "the join token was not accepted", "it is unknown, expired, used, or for another name", "make a new one on a member: hsraft token create";
    START_WRONG_PIN 3011, "the server is not of the cluster the token names", "the address is wrong, or somebody stands in between; nothing secret was sent", "check the address; make the token on the cluster you mean";
    START_UNREACHABLE 3012, "no member could be reached", "wrong address, closed port, or no majority", "open TCP between the members (cluster.peer_listen_addr); hsraft status on a member";
    START_SKEW 3013, "this program does not fit the cluster's", "the cluster behaves as a feature level says that this program cannot apply; the upgrade was finished", "run the newer program again; hsraft upgrade status on a member shows what they run";
    START_FOREIGN 3014, "the data folder is of another member or cluster, or this member was removed", "a removed member never comes back under its old id", "use an empty folder and join with a new token";
    START_CLOCK 3015, "the clock is more than five seconds off", "certificates and expiries would be guesswork", "set it (NTP) and start again";
    START_PLACE 3016, "a port, folder or file cannot be used", "another process has it, or rights or space are missing", "the message names it";
    START_CATCHING_UP 3020, "admitted, but still catching up", "the state is large or the network slow", "start again; it goes on where it was";
    START_INTEGRITY 3040, "the data folder lost or changed what it had promised to keep", "disk damage, a deleted file, or a folder put back to an earlier day", "keep it (quarantine.txt tells what was found) and replace the member: hsraft join --replace";
    START_FATAL 3070, "the engine or the disk failed", "a write or sync failed; going on would risk what was promised", "check the disk; start again; report it when it comes back";

    BACKUP_DAMAGED 4041, "a backup is damaged or does not open", "bytes changed, a file is missing, or the key is not the one it was made with", "use another shelf or an older full: hsraft snapshot verify TARGET";

    USAGE 9002, "the words make no sense", "a word, flag or value is unknown, or two do not go together", "hsraft help WORD shows an example";
    NOT_DONE 9001, "it was not done", "the message says why", "the message says what would help";
    CALL_UNREACHABLE 9012, "no member answers at that address", "hsraft does not run there, or the address is wrong", "hsraft serve; or another way with --socket FILE or --address URL";
}

impl Refusal {
    /// Its line in the table.
    pub fn code(&self) -> &'static Code {
        match self {
            Refusal::NotFound { .. } => &NOT_FOUND,
            Refusal::Taken { .. } => &TAKEN,
            Refusal::Invalid { .. } => &INVALID,
            Refusal::UserHasNodes { .. } => &USER_HAS_NODES,
            Refusal::KeyUnknown => &KEY_UNKNOWN,
            Refusal::KeyExpired => &KEY_EXPIRED,
            Refusal::KeyUsed => &KEY_USED,
            Refusal::WrongMachine => &WRONG_MACHINE,
            Refusal::TagsNotPermitted { .. } => &TAGS_NOT_PERMITTED,
            Refusal::AddressesExhausted { .. } => &ADDRESSES_EXHAUSTED,
            Refusal::TokenUnknown => &TOKEN_UNKNOWN,
            Refusal::TokenExpired => &TOKEN_EXPIRED,
            Refusal::TokenUsed => &TOKEN_USED,
            Refusal::TokenOutdated => &TOKEN_OUTDATED,
            Refusal::RotationUnderWay { .. } => &ROTATION_UNDER_WAY,
            Refusal::SecretsChanged => &SECRETS_CHANGED,
            Refusal::AlreadyFounded => &ALREADY_FOUNDED,
            Refusal::NotFounded => &NOT_FOUNDED,
            Refusal::LoginOver => &LOGIN_OVER,
            Refusal::PolicyRejected { .. } => &POLICY_REJECTED,
            Refusal::LevelTooLow { .. } => &LEVEL_TOO_LOW,
            Refusal::ProgramTooOld { .. } => &PROGRAM_TOO_OLD,
        }
    }
}

/// The table as a page for people.
pub fn page() -> String {
    let mut page = String::from(
        "# What the codes mean\n\nEvery refusal ends with a code that never changes. `hsraft explain HSR-nnnn` shows the same. This page is written by a\n\
         test from `state-machine/src/codes.rs`; change it there.\n",
    );
    let mut chapter = 0;
    for code in ALL {
        if code.number / 1000 != chapter {
            chapter = code.number / 1000;
            let title = match chapter {
                1 => "What was asked for",
                2 => "The cluster and the caller",
                3 => "A member does not start",
                4 => "Backups",
                _ => "The command line",
            };
            page += &format!("\n## {title}\n\n| code | what | why | next |\n|---|---|---|---|\n");
        }
        let cell = |text: &str| text.replace('|', "\\|");
        page += &format!("| {code} | {} | {} | {} |\n", cell(code.what), cell(code.why), cell(code.next));
    }
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_unique_and_found_again() {
        let mut numbers: Vec<u16> = ALL.iter().map(|code| code.number).collect();
        numbers.sort_unstable();
        numbers.dedup();
        assert_eq!(numbers.len(), ALL.len());
        for code in ALL {
            assert_eq!(Code::find(&code.to_string()), Some(*code));
            assert!(!code.what.is_empty() && !code.why.is_empty() && !code.next.is_empty(), "{code}");
        }
        assert_eq!(Code::find("hsr-1001"), Some(&NOT_FOUND));
        assert_eq!(Code::find("1001"), Some(&NOT_FOUND));
        assert_eq!(Code::find("HSR-7"), None);
    }
}
