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
    ADDRESS_TAKEN 1015, "the address is another node's", "an address belongs to one node at a time", "choose another, or give that node another one first: hsraft nodes set-ip";
    ADDRESS_UNFIT 1016, "the address or range cannot be used", "it lies outside prefixes.v4 and prefixes.v6, or clients keep it for themselves", "choose one inside the prefixes; hsraft explain HSR-1010 when none is left";
    NAME_NOT_OWN 1017, "the name is not the node's own", "a node proves its own name to a certificate authority and nobody else's", "ask for the name that tailscale status shows; after a renaming wait for the next map";
    TOO_MANY_RECORDS 1018, "the node has set as many TXT records as it may", "certificates were asked for again and again; a record lives ten minutes", "wait ten minutes; look at why the authority does not believe it: runbook cert-dns";
    CHANGED 1020, "it changed since you read it", "somebody else changed it meanwhile; yours would have undone theirs", "read it again, make your change to that, and ask again; nothing changed";
    NOT_HERE 1021, "this server has nothing of that kind", "Tailscale's own service has it, a cluster has not", "leave it out; what there is stands in /api/v1/docs";
    TOKEN_UNKNOWN 1101, "the join token is not known", "it is mistyped, was revoked, or is of another cluster", "make a new one: hsraft token create";
    TOKEN_EXPIRED 1102, "the join token has expired", "tokens live 15 minutes unless --ttl says otherwise", "make a new one: hsraft token create";
    TOKEN_USED 1103, "the join token was used already", "a token lets one member in", "make a new one: hsraft token create";

    TOKEN_OUTDATED 1104, "the join token names a certificate authority that was replaced", "hsraft cert rotate-ca ran after the token was made; a token pins the authority of its day", "make a new one: hsraft token create";
    ROTATION_UNDER_WAY 1105, "the certificate authority is being replaced already", "a member that still has to move is down or cut off", "hsraft cert status names it; start it, or take it out: hsraft member remove";
    SECRETS_CHANGED 1106, "a secret changed while all of them were being sealed anew", "somebody else wrote one at the same moment", "ask again; nothing changed";    TOKEN_FROM 1107, "the join token is not for this network", "it was made with --from-cidr, and the joiner calls from elsewhere", "join from one of its networks, or make another token: hsraft token create --from-cidr …";
    REPLACES_LIVING 1108, "the member that shall be replaced still answers", "a member that runs is not gone; two of one name would contradict each other", "a dead one is taken for gone after 5 s, and join waits 15 s for that; one that runs: stop it first, or take it out: hsraft member remove NAME";

    LEVEL_TOO_LOW 1201, "the cluster does not know this yet", "some members ran an older program when it was last looked at, or the upgrade was not finished", "hsraft upgrade status names the members; when all run the new program: hsraft upgrade finalize";
    PROGRAM_TOO_OLD 1202, "a program is too old for the cluster", "the cluster behaves as a feature level says that this program cannot apply", "run the newer program; hsraft upgrade status shows what each member runs";
    UPGRADE_NOT_YET 1203, "the upgrade cannot be finished yet", "a member is silent, or its program has not run long enough to be trusted", "hsraft upgrade status names it; start it, or wait; --now where a surprise does no harm";

    SIGN_IN_UNAVAILABLE 1301, "the login provider cannot be asked", "it is down, slow, or cannot be reached from this member; nodes that are in stay in", "try again in a minute; or let the machine in on a server: hsraft nodes register. Reason: this member's log; runbook oidc";
    SIGN_IN_OVER 1302, "this sign-in is over", "it was finished, took longer than 15 minutes, or this page was opened a second time", "start again on the machine: tailscale up";
    SIGN_IN_BROWSER 1303, "this browser did not begin this sign-in", "the link was opened in another browser, cookies are blocked, or somebody sent you a link of theirs", "do not go on with a link somebody sent you; open the one your own machine shows";
    SIGN_IN_REFUSED 1304, "you may not join this network", "the rules oidc.allowed_groups, allowed_domains and allowed_users of the server leave you out", "ask whoever runs the network; they find the reason in the member's log";
    SIGN_IN_NOT_PROVED 1305, "the login provider did not prove who you are", "it refused, or its answer was not made for this server, this sign-in and this moment", "start again on the machine: tailscale up; if it happens again show this page to whoever runs the network";
    SIGN_IN_SETUP 1306, "the members of this server use different login providers", "oidc.issuer and oidc.client_id differ between their configuration files", "make the oidc section the same on all members and restart them";
    SIGN_IN_TOO_MANY 1307, "too many people are signing in at this moment", "each member asks the provider about a bounded number of people at once, and each address may begin so many sign-ins", "wait a minute and open the link again";

    CLIENT_UNREADABLE 1401, "a client asked what cannot be read", "the request was cut off, is damaged, or is of a program this one does not know", "try again; update the client, and report it with the member's log when a current one says so";
    CLIENT_TOO_OLD 1402, "the client is too old for this server", "it speaks a version of the protocol that is no longer served", "update Tailscale on that machine";
    NOT_SERVED 1403, "this server does not do that", "it is no path of a control server, or a service of Tailscale's own network", "nothing: clients go on without it; a browser wants https://SERVER/";

    CERT_DNS_SILENT 1404, "the DNS server did not take the node's TXT record", "it is down, cannot be reached from the leading member, or refuses the update; or no member leads", "the leading member's log says which, hsraft_cert_dns_failures_total counts: runbook cert-dns; the client may ask again";

    NO_QUORUM 2001, "no majority of the members answers", "too many members are down or cannot reach each other; nothing changed", "hsraft status names the silent ones; start them. If they are lost for ever: runbook backup-and-disaster";
    UNKNOWN_RESULT 2002, "no answer came in time", "the leader was lost while it worked; the change may or may not have happened", "look before asking again";
    UNFIT 2003, "the wish does not fit the cluster as it is", "it would leave too few voters, or names a member that cannot do it", "hsraft members shows how the cluster is";
    STOPPED 2004, "this member is stopping or broken", "it drains, or its engine has ended", "ask another member; look at this one's log";
    NO_SPACE 2020, "the disk of the leading member is full", "its free space fell below the limit (cluster.disk_low_mib); its reserve was freed, reads go on, and no other voter with room could take the lead", "free or add the space that the message names below cluster.data_dir; changes are taken again by themselves within seconds";
    STATES_DIFFER 2021, "members came to different states", "a memory, a disk or a program is wrong, and no majority of the voters agrees on one state, so nobody can say whose", "hsraft verify --cluster shows who holds which; start the missing voters, or stop the one with a history of faults: runbook backup-and-disaster, section 'States differ'";
    AUDIT_BROKEN 2022, "the audit log does not hold together", "a row was changed, taken out or put in by somebody who can write to disks or to the exported file", "compare with the last hash you kept elsewhere; look at who had access; keep the exported file";
    SEALING_KEY_HELD_UP 2023, "the sealing key cannot be replaced now", "every active member must have the new one before it is used, and one of them cannot take it; or there is no recovery key, without which no backup of before would open", "do what the message says, then again: hsraft key rotate --sealing-key";
    FORBIDDEN 2101, "the caller may not do that", "the API key's role allows reading only, or other things", "use a key of another role: hsraft apikeys create";
    UNAUTHORIZED 2102, "the API key is not accepted", "it is mistyped, has expired, or was deleted", "make a new one on a member: hsraft apikeys create";
    TOO_OFTEN 2105, "too many failed attempts from one address", "guessing keys is made slow", "wait as long as the answer says";
    TOO_LARGE 2103, "the request is larger than anybody needs", "bodies are bounded before they are read", "send less at once";
    INTERNAL 2104, "something on our side is not as it should be", "a fault of the program", "look at the member's log and report it with its last lines";

    DRILL_REFUSED 2301, "the drill cannot begin or go on", "the cluster is not well enough, a member takes no part (cluster.drills), another drill is under way, or its session ended", "the message says which; hsraft drill plan NAME shows every condition";
    DRILL_UNKNOWN 2302, "there is no drill of that name", "it is mistyped", "hsraft drill list names them";
    DRILL_RECORD_NONE 2303, "there is no record of that drill", "none was run with records in this folder, or the id is mistyped", "hsraft drill run NAME; or name the folder: --records DIR";
    DRILL_RECORD_DAMAGED 2304, "the record of a drill cannot be read", "its file was changed, or a much newer program wrote it", "look at report.md beside it, or use the program that wrote it";
    DRILL_LAB_ONLY 2305, "this drill is for laboratories", "it destroys a member's folder", "hsraft lab up --dir lab, then: hsraft drill run NAME --lab lab";
    DRILL_SETUP 2306, "a drill does not reach every member by itself", "cluster.client_url is missing or no URL on one of them", "set it on the member the message names and restart that member";
    DRILL_HALTED 2307, "the drill could not go on", "a step of it did not do what it should; the message says which", "look at the timeline in its report, and at the log of the member it names";
    DRILL_STOPPED 2308, "somebody stopped the drill", "Ctrl-C, or hsraft drill stop", "nothing: everything was healed first";
    WEBHOOK_DEAF 2401, "a webhook's receiver did not take the event", "it cannot be reached from this member, its certificate is not trusted, or it answers something else than 2xx", "correct it, then: hsraft webhooks test ID";

    START_OPTION 3002, "the configuration cannot be used, or there is nothing to continue", "a value contradicts another, or the data folder is empty", "the message names file, line and value; check with: hsraft configtest";
    START_NOTHING 3003, "there is nothing to continue", "the data folder is empty, and nobody said to found or to join", "hsraft join …, or a configuration that founds: cluster.data_dir names the folder";
    CONFIG_MISSING 3005, "there is no configuration file", "none lies where hsraft looks, or the name given is wrong", "hsraft serve --config FILE; deploy/config/config.yaml is a start";
    CONFIG_UNREADABLE 3006, "the configuration file cannot be read", "rights are missing, or it is not text", "the message names the file; the user hsraft runs as must read it";
    CONFIG_WRONG 3007, "a value of the configuration cannot be used", "the message names file, line and key", "correct it; check with: hsraft configtest";
    START_REFUSED 3004, "the cluster does not take this member", "the message says why", "correct what it names, then join again";
    START_TOKEN 3010, "the join token was not accepted", "it is unknown, expired, used, or for another name", "make a new one on a member: hsraft token create";
    START_WRONG_PIN 3011, "the server is not of the cluster the token names", "the address is wrong, or somebody stands in between; nothing secret was sent", "check the address; make the token on the cluster you mean";
    START_UNREACHABLE 3012, "no member could be reached", "wrong address, closed port, or no majority", "open TCP between the members (cluster.peer_listen_addr); hsraft status on a member";
    START_SKEW 3013, "this program does not fit the cluster's", "the cluster behaves as a feature level says that this program cannot apply; the upgrade was finished", "run the newer program again; hsraft upgrade status on a member shows what they run";
    START_FOREIGN 3014, "the data folder is of another member or cluster", "a copied folder, or cluster.data_dir names the wrong one", "point cluster.data_dir at this member's own folder, or at an empty one and join";
    START_CLOCK 3015, "the clock is more than five seconds off", "certificates and expiries would be guesswork", "set it (NTP) and start again";
    START_PLACE 3016, "a port, folder or file cannot be used", "another process has it, or rights or space are missing", "the message names it";
    START_REMOVED 3017, "this member was removed from the cluster", "a removed member never comes back under its old id; its certificate opens nothing", "use an empty folder and join with a new token";
    START_OUTDATED 3022, "the others have another certificate authority than this folder knows", "the folder is from an earlier day, or this member was removed; a member that takes part follows every authority", "hsraft members on another member; replace this one: hsraft join --replace";
    START_DISK 3018, "the data folder cannot be used", "rights or space are missing, or another process has it", "the message names folder and reason";
    START_TOKEN_MALFORMED 3019, "the join token cannot be read", "it is not whole: a token is one word that begins with hsr1.", "copy it once more, or make a new one: hsraft token create";
    START_RELAY 3031, "the relay cannot start", "its port, certificate or key cannot be used", "the message says which; derp.server in the configuration";
    START_CERTIFICATE 3032, "the certificate for clients cannot be used", "a file is missing, damaged, or the key is another's", "the message names it; tls_cert_path and tls_key_path in the configuration";
    START_NO_NOISE_KEY 3033, "the cluster's Noise key has not come", "the state is not complete yet", "start again; hsraft status on another member";
    START_PROVIDER 3034, "the login provider cannot be reached", "oidc.only_start_if_oidc_is_available asks for it before a member starts", "bring the provider back, or set oidc.only_start_if_oidc_is_available: false: nodes that are in do not need it";
    START_NOT_FOR_FOUNDING 3021, "no cluster is founded in this folder", "its join never succeeded, or its member left; a cluster founded here would be another than the one it was meant for", "hsraft join, as before or with a new token; or empty the folder to found a cluster of its own";
    START_LOCKED 3023, "the member is locked", "its sealing key is kept outside its data folder (cluster.sealing_key_path), and what lies there is not the cluster's", "hsraft key unlock FILE on that machine, then start it; see the runbook certificates";
    START_CATCHING_UP 3020, "admitted, but still catching up", "the state is large or the network slow", "start again; it goes on where it was";
    START_INTEGRITY 3040, "the data folder lost or changed what it had promised to keep", "disk damage, a deleted file, or a folder put back to an earlier day", "keep it (quarantine.txt tells what was found) and replace the member: hsraft join --replace";
    START_FATAL 3070, "the engine or the disk failed", "a write or sync failed; going on would risk what was promised", "check the disk; start again; report it when it comes back";

    START_UNFIT 3116, "this machine cannot hold the timing profile", "the disk syncs too slowly or the others are too far for its election timeouts; leaders would change for nothing", "use the profile the message names (cluster.timing), or a faster disk; measure again with: hsraft check perf,net";

    BACKUP_BEHIND 4040, "the newest backup is more than a minute old, or the last attempt failed", "the place for backups is down, slow, full or refuses; the cluster itself is not affected", "hsraft snapshot agent status shows the place and the reason; backups go on by themselves, from where they ended, once it works again";
    BACKUP_DAMAGED 4041, "a backup is damaged or does not open", "bytes changed, a file is missing, or the key is not the one it was made with", "use another shelf or an older full: hsraft snapshot verify TARGET";
    RECOVERY_KEY_OTHER 4042, "the recovery key does not open this backup", "it is another cluster's, or was replaced after or before this backup was made", "use the key that was valid then, or --sealing-key-file with a file sealing.key of a member's folder";
    BACKUP_NOT_KEPT 4043, "the place did not keep what was written", "what was read back differs from what was written", "save to another place, and look at the disk or bucket";
    BACKUP_NONE 4050, "there are no backups there", "nothing was written yet, or the place is another one", "hsraft snapshot agent status names the place of the cluster";
    BACKUP_UNFIT 4051, "the backup cannot be used for this", "no full state lies before the moment asked for, or a newer program wrote it", "hsraft snapshot list TARGET shows what it reaches; leave --at out, or use a newer program";
    RECOVERY_KEY_FILE 4052, "that file holds no such key", "it holds something else, or the key was mistyped", "a recovery key begins with hsrk1-; a sealing key is the file sealing.key of a member's folder";
    BACKUP_PLACE 4053, "the place for backups makes no sense", "a bucket's address or its credentials are missing or wrong", "write for example s3://backups/hsraft, with AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in the environment";
    RECOVER_NOT_NEEDED 4060, "nothing needs to be forced", "with this member a majority of the voters can be reached", "start this member as usual: hsraft serve";
    RECOVER_FOLDERS 4061, "the folders cannot be gone on with", "they are empty, damaged, quarantined, or of different clusters", "name the folders of members of one cluster, or restore a backup: hsraft snapshot restore";
    RECOVER_UNCONFIRMED 4062, "what will be lost was not confirmed", "a new cluster of one forgets whatever the missing members alone knew", "hsraft recover plan --survivor FOLDER prints the whole command";

    NOT_DONE 9001, "it was not done", "the message says why", "the message says what would help";
    USAGE 9002, "the words make no sense", "a word, flag or value is unknown, or two do not go together", "hsraft help WORD shows an example";
    FILE_UNREADABLE 9003, "a file cannot be read", "rights are missing, it is not text, or the disk fails", "the message names it; run this as a user who may read it";
    FILE_MISSING 9004, "there is no such file", "the name is mistyped, or it was never written", "the message names it; give the right one";
    FILE_UNWRITABLE 9005, "a file cannot be written", "rights, space or the folder are missing", "the message names it; choose another place, or make room";
    OUTPUT_BROKEN 9006, "the result could not be written", "whoever was reading has gone, or the disk is full", "run it again with its output somewhere else";
    CONFIG_NOT_YAML 9007, "the configuration is not YAML", "a line is not what YAML allows", "the message names the line; check with: hsraft configtest";
    ANSWER_UNREADABLE 9010, "the answer cannot be read", "something else than hsraft answers there, or a much newer program", "check --address and --socket; hsraft version on both sides";
    CALL_TIMEOUT 9011, "the member did not answer in time", "it is overloaded, stuck, or cut off", "look at its log; wait longer with --timeout; or ask another member";
    CALL_UNREACHABLE 9012, "no member answers at that address", "hsraft does not run there, or the address is wrong", "hsraft serve; or another way with --socket FILE or --address URL";
    CALL_UNTRUSTED 9013, "the server does not prove who it is", "its certificate is of an issuer this machine does not trust, or for another name", "name the issuer with --ca-file FILE, or speak http:// where that is safe";
    TRUST_MISSING 9014, "no certificates to trust were found", "this machine has no list of authorities", "install the package ca-certificates, or name a file with --ca-file";
    NO_LONGER_MEMBER 9015, "the member that answers does not belong to the cluster any more", "it was removed", "ask another member: --address URL";
    WHICH 9016, "it is not said which one", "the word needs a name or an id", "the message names the flag";
    AMBIGUOUS 9017, "several fit", "a name or address is not one thing's alone", "use the id: hsraft users list, hsraft nodes list";
    NO_RANDOMNESS 9018, "the machine gives no randomness", "the operating system refuses to make random bytes", "look at the machine; keys made without it would be worthless";
    SERVER_WORD 9019, "this word belongs to the server program", "serve, join and configtest start a member", "run it as hsraft";
    FLAG_MISSING 9020, "a flag is missing", "the word cannot guess what it was not told", "the message names it";
    CODE_UNKNOWN 9021, "there is no such code", "codes look like HSR-2001", "hsraft explain shows all";
    ADDRESS_WRONG 9022, "the address makes no sense", "it is no URL and no host with a port", "write for example https://hs.example.com";
    API_KEY_MISSING 9023, "there is no API key", "another machine's member is asked with a key", "hsraft apikeys create on a member; then HSRAFT_CLI_API_KEY=…";
    SPAN_WRONG 9024, "a span of time cannot be read", "it is a number with a unit", "write for example 90s, 15m or 24h";
    UPGRADE_OTHER_PROGRAM 9025, "this program was asked about another version", "a program knows its own formats only", "run the check with the program that is meant: ./hsraft-new upgrade check";
    NOT_A_CHECK_ID 9026, "that is not the id of a connection", "ids are letters and digits", "hsraft ssh list shows them";
    FORMAT_UNFIT 9027, "that output is not for this word", "md and html are for reports", "hsraft drill report -o html";
    SCRUB_NONE 9028, "nothing was read", "the member stopped or started again meanwhile", "ask again: hsraft verify --deep";
    REQUEST_UNWRITABLE 9030, "the request cannot be written", "a value does not fit into a request", "the message names it";
    TLS_SETUP 9031, "TLS cannot be set up", "this program's TLS refuses its own settings", "report it with the message";
    SILENT_REFUSAL 9032, "the server said no and nothing more", "something else than hsraft stands in between, a proxy perhaps", "look at the proxy's and the member's log";

    LAB_ABSENT 9101, "there is no laboratory", "none was started in this folder", "hsraft lab up";
    LAB_MEMBER 9102, "the laboratory has no member of this name", "it is mistyped, or the laboratory is smaller", "hsraft lab status names them";
    LAB_SIZE 9103, "a laboratory of this size is not possible", "it has between one and seven members", "hsraft lab up --members 3";
    LAB_PORTS 9104, "the ports do not fit", "each member takes ten ports from --base-port on", "choose for example --base-port 18080";
    LAB_PATH 9105, "the folder's name is too long", "a unix socket's path is bounded by the operating system", "choose a shorter --dir";
    LAB_START 9106, "a member of the laboratory did not start", "the end of its log says why", "correct that, then: hsraft lab up";
    LAB_SIGNAL 9107, "a process of the laboratory cannot be signalled", "it is another user's, or stuck", "look at it with ps";
    LAB_RUNNING 9108, "the member is running", "it cannot be started twice", "hsraft lab kill MEMBER first";
    LAB_STOPPED 9109, "the member is not running", "it was stopped or killed", "hsraft lab start MEMBER";
    LAB_NOT_JOINED 9110, "the member has not joined yet", "its join was cut short", "hsraft lab up goes on with it";
    LAB_MEMORY 9111, "what the laboratory remembers is damaged", "its file is not what was written", "hsraft lab down, then up again";
    LAB_SLOW 9112, "the laboratory did not come up in time", "the machine is slow or busy", "hsraft lab up again; it goes on where it was";

    IMPORT_SOURCE 9201, "the database cannot be taken over", "it is not a SQLite file, or not Headscale's", "the message says what was found";
    IMPORT_OUTSIDE 9202, "a node has an address outside the cluster's prefixes", "addresses are kept when a tailnet moves", "give the cluster the prefixes of Headscale's configuration first";
    NOISE_KEY_FILE 9203, "that is not a private key of Headscale", "the file holds something else", "name noise_private.key, or noise.private_key_path";
    NOISE_KEY_OTHER 9204, "the cluster has another Noise key", "clients pin the key they know: none would come back", "found the cluster with that key, or say --force and log every client in anew";
    EXPORT_FAILED 9205, "the database cannot be written", "the place is taken, or rights or space are missing", "the message says which";
    IMPORT_OTHERS 9206, "the cluster holds other rows under the numbers of the import", "users, nodes and pre-auth keys keep their numbers when they move", "delete what the message names, or import into a new cluster first";

    POLICY_NONE 9301, "no policy was ever set", "every node may reach every other", "hsraft policy set --file FILE";
    POLICY_CONVERT 9302, "the policy cannot be converted by itself", "something in it has no equal", "the message names it; change that by hand";
    SCENARIO_WRONG 9303, "that is no scenario", "the JSON is not what is asked for", "hsraft policy preview --help";
    POLICY_BYPASS 9304, "a state cannot be changed behind the members' back", "every member has to apply the same", "leave the flag out: any member takes the policy";
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
            Refusal::AddressTaken { .. } => &ADDRESS_TAKEN,
            Refusal::AddressUnfit { .. } => &ADDRESS_UNFIT,
            Refusal::NameNotOwn { .. } => &NAME_NOT_OWN,
            Refusal::TooManyRecords { .. } => &TOO_MANY_RECORDS,
            Refusal::TokenUnknown => &TOKEN_UNKNOWN,
            Refusal::TokenExpired => &TOKEN_EXPIRED,
            Refusal::TokenUsed => &TOKEN_USED,
            Refusal::TokenOutdated => &TOKEN_OUTDATED,
            Refusal::RotationUnderWay { .. } => &ROTATION_UNDER_WAY,
            Refusal::SecretsChanged => &SECRETS_CHANGED,
            Refusal::Changed { .. } => &CHANGED,
            Refusal::AlreadyFounded => &ALREADY_FOUNDED,
            Refusal::NotFounded => &NOT_FOUNDED,
            Refusal::LoginOver => &LOGIN_OVER,
            Refusal::PolicyRejected { .. } => &POLICY_REJECTED,
            Refusal::LevelTooLow { .. } => &LEVEL_TOO_LOW,
            Refusal::ProgramTooOld { .. } => &PROGRAM_TOO_OLD,
            Refusal::UpgradeNotYet { .. } => &UPGRADE_NOT_YET,
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
                9 => "The command line",
                _ => "More",
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
