//! The drills: what each breaks, what it should prove, and what heals it.

use serde::Serialize;

use super::judge::{Goal, Stat};

/// How much is at stake.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Risk {
    /// Nothing is broken; clients should notice nothing.
    Low,
    /// One member is broken for seconds.
    Medium,
    /// One member is broken for longer, or loses its data.
    High,
    /// Everything is lost: only in a laboratory the drill makes itself.
    Lab,
}

/// Where a drill can be run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// A live cluster, or a laboratory.
    Cluster,
    /// A laboratory (`--lab DIR`): it works on the folders and processes of members.
    Laboratory,
    /// A laboratory of its own, made and removed by the drill.
    OwnLaboratory,
}

/// What is done in each repeat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    KillLeader,
    KillFollower,
    Transfer,
    CutLeader,
    SlowDisk,
    FullDisk,
    DeadRecord,
    RestoreBackup,
    RenewCertificates,
    RotateAuthority,
    ReplaceMember,
    LoseQuorum,
    LoseEverything,
}

/// One drill.
#[derive(Debug)]
pub struct Drill {
    pub name: &'static str,
    pub act: Act,
    pub risk: Risk,
    pub stage: Stage,
    pub hypothesis: &'static str,
    pub does: &'static str,
    pub heals: &'static str,
    pub blast_radius: &'static str,
    /// How often it should be run.
    pub cadence: &'static str,
    pub goals: &'static [Goal],
}

const fn goal(figure: &'static str, stat: Stat, limit: u64, source: &'static str) -> Goal {
    Goal { figure, stat, limit, source }
}

/// All drills, from harmless to terrible.
pub const DRILLS: &[Drill] = &[
    Drill {
        name: "leader-transfer",
        act: Act::Transfer,
        risk: Risk::Low,
        stage: Stage::Cluster,
        hypothesis: "Handing leadership over pauses writes for 250 ms at most (p99), and no write fails.",
        does: "asks the leader to hand over to the member that is furthest",
        heals: "nothing is broken",
        blast_radius: "writes of all members wait for a moment",
        cadence: "weekly",
        goals: &[
            goal("write_stall", Stat::P99, 250, "R6"),
            goal("write_errors", Stat::Max, 0, "R6"),
            goal("write_rto", Stat::Max, 1_000, "R1"),
        ],
    },
    Drill {
        name: "dns-dead-record",
        act: Act::DeadRecord,
        risk: Risk::Low,
        stage: Stage::Cluster,
        hypothesis: "A client whose DNS answer holds one dead address is served by another within 1.5 s (p50) and 3 s (p99).",
        does: "races a dead address and the members' as Tailscale clients do, one 300 ms after the other, and writes through the winner",
        heals: "nothing is broken",
        blast_radius: "none: the dead address is only on the driver's list",
        cadence: "monthly",
        goals: &[goal("connect", Stat::P50, 1_500, "R3"), goal("connect", Stat::P99, 3_000, "R3")],
    },
    Drill {
        name: "backup-restore",
        act: Act::RestoreBackup,
        risk: Risk::Low,
        stage: Stage::Cluster,
        hypothesis: "A backup of now, put together in a scratch folder, holds every acknowledged write, within 5 minutes.",
        does: "saves the whole state, restores it into a scratch folder with the recovery key, and looks for every serial in it",
        heals: "nothing is broken; the scratch folder is removed",
        blast_radius: "none: nothing live is touched",
        cadence: "monthly",
        goals: &[goal("restore", Stat::Max, 300_000, "R11"), goal("missing_in_backup", Stat::Max, 0, "R11")],
    },
    Drill {
        name: "cert-rotate",
        act: Act::RenewCertificates,
        risk: Risk::Low,
        stage: Stage::Cluster,
        hypothesis: "Every member takes a new certificate while writes go on: none fails, and none waits longer than a second.",
        does: "has every member renew its certificate, one after the other, and waits until connections of the old ones are gone",
        heals: "nothing is broken",
        blast_radius: "new connections between members show the new certificate",
        cadence: "quarterly",
        goals: &[
            goal("write_errors", Stat::Max, 0, "fault matrix 26"),
            goal("write_stall", Stat::P99, 1_000, "R1"),
            goal("renewal", Stat::Max, 30_000, "every member tells within seconds"),
        ],
    },
    Drill {
        name: "ca-rotate",
        act: Act::RotateAuthority,
        risk: Risk::Medium,
        stage: Stage::Cluster,
        hypothesis: "The members take a new authority under load: no write fails, and afterwards nobody shows a certificate of the old one.",
        does: "replaces the authority, waits until every member shows a certificate of the new one, and until connections of the old are gone",
        heals: "nothing is broken; hsraft cert status shows a replacement that stands still. Join tokens made before are worthless",
        blast_radius: "the connections between all members",
        cadence: "twice a year",
        goals: &[
            goal("write_errors", Stat::Max, 0, "fault matrix 26"),
            goal("write_stall", Stat::P99, 1_000, "R1"),
            goal("rotation", Stat::Max, 300_000, "runbook certificates"),
        ],
    },
    Drill {
        name: "leader-kill",
        act: Act::KillLeader,
        risk: Risk::Medium,
        stage: Stage::Cluster,
        hypothesis: "The leader's process is killed: writes through any other member are back within 0.6 s (p50), 1 s (p99), 2 s (max), and nothing acknowledged is lost.",
        does: "ends the leader's process as kill -9 would",
        heals: "systemd (Restart=on-failure) or, in a laboratory, the driver starts it again; a timer does when the driver dies",
        blast_radius: "one member; its clients reconnect elsewhere",
        cadence: "monthly",
        goals: &[
            goal("write_rto", Stat::P50, 600, "R1"),
            goal("write_rto", Stat::P99, 1_000, "R1"),
            goal("write_rto", Stat::Max, 2_000, "R1"),
        ],
    },
    Drill {
        name: "follower-stop",
        act: Act::KillFollower,
        risk: Risk::Medium,
        stage: Stage::Cluster,
        hypothesis: "A follower is killed and stays away for a while: no write fails, and none takes 50 ms longer (p99).",
        does: "ends a follower's process as kill -9 would; in a laboratory it stays down for the hold time",
        heals: "systemd, or the driver of the laboratory; a timer does when the driver dies",
        blast_radius: "one member; its clients reconnect elsewhere",
        cadence: "monthly",
        goals: &[goal("write_errors", Stat::Max, 0, "R2"), goal("added_p99", Stat::P99, 50, "R2")],
    },
    Drill {
        name: "partition-leader",
        act: Act::CutLeader,
        risk: Risk::Medium,
        stage: Stage::Cluster,
        hypothesis: "The leader is cut off from all members: the others write again within 2 s (p99), and the old leader acknowledges nothing and reads nothing linearizable.",
        does: "holds up everything the leader sends to and receives from other members, for the hold time",
        heals: "the member itself when the time is over, or when the driver is silent for ten seconds",
        blast_radius: "one member, which answers its clients from its old state",
        cadence: "quarterly",
        goals: &[
            goal("write_rto", Stat::P99, 2_000, "R7"),
            goal("acknowledged_by_old_leader", Stat::Max, 0, "R7"),
            goal("rejoin", Stat::Max, 60_000, "fault matrix 21"),
        ],
    },
    Drill {
        name: "slow-disk",
        act: Act::SlowDisk,
        risk: Risk::Medium,
        stage: Stage::Cluster,
        hypothesis: "The leader's syncs take 200 ms longer: nothing fails, nobody fights for leadership, and writes through the others are as fast as before within 15 s.",
        does: "holds up every sync of the leader's log by --slow-by, for the hold time",
        heals: "the member itself when the time is over, or when the driver is silent for ten seconds",
        blast_radius: "one member; writes through it are slower for as long",
        cadence: "quarterly",
        goals: &[
            goal("write_errors", Stat::Max, 0, "fault matrix 15"),
            goal("elections", Stat::Max, 2, "fault matrix 15"),
            goal("fast_again", Stat::Max, 15_000, "fault matrix 15"),
        ],
    },
    Drill {
        name: "disk-full",
        act: Act::FullDisk,
        risk: Risk::Medium,
        stage: Stage::Cluster,
        hypothesis: "The leader's disk counts as full: another leads, reads go on, and writes are back within 5 s.",
        does: "has the leader see no free space, for the hold time; no byte is written for it",
        heals: "the member itself when the time is over, or when the driver is silent for ten seconds",
        blast_radius: "one member, which leads no more and says so",
        cadence: "quarterly",
        goals: &[
            goal("write_rto", Stat::Max, 5_000, "fault matrix 13"),
            goal("left_lead", Stat::Max, 15_000, "fault matrix 13"),
        ],
    },
    Drill {
        name: "node-replace",
        act: Act::ReplaceMember,
        risk: Risk::High,
        stage: Stage::Laboratory,
        hypothesis: "A member whose disk is gone is replaced by an empty one within 2 minutes; no write fails.",
        does: "kills a follower, removes its data folder, and lets an empty one join in its place",
        heals: "the join itself; lab up brings the member back when the driver dies",
        blast_radius: "one member, for ever; the name goes to the new one",
        cadence: "quarterly",
        goals: &[goal("voter_again", Stat::Max, 120_000, "R8"), goal("write_errors", Stat::Max, 0, "R8")],
    },
    Drill {
        name: "quorum-loss-recovery",
        act: Act::LoseQuorum,
        risk: Risk::Lab,
        stage: Stage::OwnLaboratory,
        hypothesis: "Two of three members are gone for ever: the survivor is made a new cluster within 30 s of tool time and takes writes; its newest entry is named before.",
        does: "makes three members, kills all, destroys two, follows the runbook: recover plan, recover --force-new-cluster, serve",
        heals: "the laboratory is removed",
        blast_radius: "a laboratory of the drill's own",
        cadence: "twice a year",
        goals: &[goal("tool_time", Stat::Max, 30_000, "R10"), goal("writes_again", Stat::Max, 300_000, "R10")],
    },
    Drill {
        name: "full-disaster",
        act: Act::LoseEverything,
        risk: Risk::Lab,
        stage: Stage::OwnLaboratory,
        hypothesis: "All members are gone: from the backup alone the cluster serves again within 5 minutes, with the same Noise key, and has lost 15 s at most.",
        does: "makes three members with a backup folder, kills all, destroys their data, restores on one, lets two join",
        heals: "the laboratory is removed",
        blast_radius: "a laboratory of the drill's own",
        cadence: "twice a year",
        goals: &[
            goal("writes_again", Stat::Max, 300_000, "R11"),
            goal("lost_span", Stat::Max, 15_000, "R11"),
            goal("other_noise_key", Stat::Max, 0, "R11"),
        ],
    },
];

/// By name.
pub fn find(name: &str) -> Option<&'static Drill> {
    DRILLS.iter().find(|drill| drill.name == name)
}

impl Drill {
    /// What writes may take to come back, in milliseconds; past three times that the drill is broken off.
    pub fn outage_goal_ms(&self) -> Option<u64> {
        self.goals.iter().filter(|goal| goal.figure == "write_rto").map(|goal| goal.limit).max()
    }

    /// It breaks members through their doors.
    pub fn breaks(&self) -> bool {
        matches!(
            self.act,
            Act::KillLeader | Act::KillFollower | Act::CutLeader | Act::SlowDisk | Act::FullDisk | Act::ReplaceMember
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_drill_can_fail() {
        let mut names: Vec<&str> = DRILLS.iter().map(|drill| drill.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), DRILLS.len());
        for drill in DRILLS {
            assert!(!drill.goals.is_empty(), "{}", drill.name);
            assert!(find(drill.name).is_some());
        }
        assert_eq!(find("leader-kill").unwrap().outage_goal_ms(), Some(2_000));
        assert_eq!(find("follower-stop").unwrap().outage_goal_ms(), None);
        assert!(find("leader-kil").is_none());
    }
}
