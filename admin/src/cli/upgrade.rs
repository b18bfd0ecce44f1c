//! `upgrade`: another program, one member after the other.

use clap::{Args, Subcommand};
use serde_json::{Value, json};
use state_machine::{FEATURE_LEVEL, codec, codes};

use super::{
    desk::Desk,
    problem::{Problem, exit},
    table::{Table, span},
};
use crate::cluster::upgrade::Upgrade;

/// What can be done about an upgrade.
#[derive(Debug, Subcommand)]
pub enum UpgradeWord {
    /// Whether this program can take part: run it with the new program, before the first member gets it
    #[command(after_help = "Example:\n  ./hsraft-new upgrade check")]
    Check(CheckArgs),
    /// What each member runs, what the cluster does, and what to do next
    #[command(after_help = "Example:\n  hsraft upgrade status")]
    Status,
    /// Let the cluster do what all programs can; from then on no member can go back to the older program
    #[command(after_help = "Example:\n  hsraft upgrade finalize")]
    Finalize(FinalizeArgs),
}

/// `upgrade check`.
#[derive(Args, Debug)]
pub struct CheckArgs {
    /// The version that is meant; it must be the one this program has
    version: Option<String>,
}

/// `upgrade finalize`.
#[derive(Args, Debug)]
pub struct FinalizeArgs {
    /// Do not wait until all programs have run for five minutes: laboratories
    #[arg(long)]
    now: bool,
}

/// `upgrade …`; the result is the exit code.
pub async fn run(word: UpgradeWord, desk: &Desk) -> Result<i32, Problem> {
    match word {
        UpgradeWord::Check(args) => check(args.version.as_deref(), desk).await,
        UpgradeWord::Status => {
            let upgrade = ask(desk).await?;
            desk.output.show_ours(&upgrade, || page(&upgrade))?;
            Ok(exit::OK)
        }
        UpgradeWord::Finalize(args) => finalize(args.now, desk).await,
    }
}

async fn ask(desk: &Desk) -> Result<Upgrade, Problem> {
    desk.client.get("/api/v1/cluster/upgrade").await
}

async fn check(version: Option<&str>, desk: &Desk) -> Result<i32, Problem> {
    let this = env!("CARGO_PKG_VERSION");
    if let Some(other) = version.filter(|version| version.trim_start_matches('v') != this) {
        return Err(Problem::of(
            &codes::UPGRADE_OTHER_PROGRAM,
            format!(
                "this program is {this} and knows nothing of {other}; run the check with that program: ./hsraft upgrade check"
            ),
        ));
    }
    let upgrade = ask(desk).await?;
    if upgrade.feature_level > FEATURE_LEVEL {
        return Err(Problem::of(
            &codes::START_SKEW,
            format!(
                "the cluster is at feature level {}, this program ({this}) applies up to {FEATURE_LEVEL}: a member with it \
                 would not start; take a newer program",
                upgrade.feature_level
            ),
        ));
    }
    let facts = json!({
        "version": this,
        "featureLevel": FEATURE_LEVEL,
        "entryFormat": codec::FORMAT,
        "clusterLevel": upgrade.feature_level,
        "fits": true,
    });
    desk.output.show_ours(&facts, || {
        let then = match upgrade.feature_level < FEATURE_LEVEL {
            true => format!(
                "the cluster stays at {} until hsraft upgrade finalize; every member can go back to its program until then",
                upgrade.feature_level
            ),
            false => "it brings no new level: going back stays possible".to_owned(),
        };
        format!(
            "{this} fits: it applies feature level {FEATURE_LEVEL}, the cluster is at {}\n{then}\n\
             next, a member after the other, the leader last: hsraft drain NAME, replace the program, start it, wait for\n\
             hsraft members to show lag 0, hsraft undrain NAME\n",
            upgrade.feature_level
        )
    })?;
    Ok(exit::OK)
}

/// One screen.
pub fn page(upgrade: &Upgrade) -> String {
    let mut table = Table::new(["Member", "Version", "Can do level", "Leads"]);
    for member in &upgrade.members {
        table.row([
            member.name.clone(),
            member.version.clone(),
            member.feature_level.map_or_else(|| "?".into(), |level| level.to_string()),
            if member.leads { "yes".into() } else { String::new() },
        ]);
    }
    let next = match upgrade.common_level {
        None => "some member does not say what it runs; start it: hsraft members".to_owned(),
        Some(common) if upgrade.can_finalize => format!(
            "all can do {common}, for {}; when that is long enough: hsraft upgrade finalize (no way back then)",
            span(upgrade.common_for_secs * 1000)
        ),
        Some(_)
            if upgrade
                .members
                .iter()
                .any(|member| member.feature_level.is_some_and(|it| it > upgrade.feature_level)) =>
        {
            "some members still run the older program; go on with the next one".to_owned()
        }
        Some(_) => "nothing to finish: the cluster does all its programs can".to_owned(),
    };
    format!("{}feature level {}\n{next}\n", table.render(), upgrade.feature_level)
}

/// Clusters that were founded below this level have no data key until somebody makes one.
const DATA_KEYS_FROM: u32 = 3;

async fn finalize(now: bool, desk: &Desk) -> Result<i32, Problem> {
    let before = ask(desk).await?;
    if before.common_level.is_some() && !before.can_finalize {
        let older: Vec<&str> = before
            .members
            .iter()
            .filter(|member| member.feature_level.is_some_and(|level| level <= before.feature_level))
            .map(|member| member.name.as_str())
            .collect();
        if before.members.len() == older.len() {
            desk.output.done("Nothing to finish: the cluster does all its programs can")?;
            return Ok(exit::OK);
        }
        return Err(Problem::of(
            &codes::PROGRAM_TOO_OLD,
            format!("{} still runs an older program; upgrade it first: hsraft upgrade status", older.join(", ")),
        ));
    }
    if !desk.agreed("No member can go back to its older program afterwards. Go on?") {
        super::users::declined(desk, "Nothing was raised")?;
        return Ok(exit::OK);
    }
    let after: Upgrade = desk.client.post("/api/v1/cluster/upgrade/finalize", json!({ "now": now })).await?;
    let told: Value = json!({ "featureLevel": after.feature_level });
    desk.output.show_ours(&told, || format!("The cluster is at feature level {}\n", after.feature_level))?;
    if before.feature_level < DATA_KEYS_FROM {
        desk.output.talk("Its secrets are not sealed under a data key yet; once, on any member: hsraft key rotate");
    }
    Ok(exit::OK)
}
