//! `version` and `health`.

use super::{
    Format, Output,
    desk::Desk,
    problem::{Problem, exit},
};
use state_machine::codes::{self, Code};

use crate::{v1::types::Health, version};

/// Which program this is.
pub async fn version(output: &Output) -> Result<i32, Problem> {
    let version = version::this();
    let human = || {
        format!(
            "hsraft {} (compatible with headscale {})\ncommit: {}\nbuild time: {}\nbuilt for: {} {}\n",
            version.hsraft,
            version.version.split('+').next().unwrap_or_default(),
            version.commit,
            version.build_time,
            version.go.os,
            version.go.arch,
        )
    };
    // Not through the dialect: Headscale prints these names as they are.
    match output.format {
        Format::Human => output.write(&human())?,
        _ => output.as_is(&version)?,
    }
    Ok(exit::OK)
}

/// Whether the member can read certainly current state.
pub async fn health(desk: &Desk) -> Result<i32, Problem> {
    let health: Health = desk.client.get("/api/v1/health").await?;
    desk.output.show_ours(&health, || "\n".into())?;
    match health.database_connectivity {
        true => Ok(exit::OK),
        false => Err(Problem::of(
            &codes::NO_QUORUM,
            "checking health: the member has no quorum behind it; see: hsraft status",
        )
        .exiting(exit::FAILED)),
    }
}

/// What a code means.
pub fn explain(code: Option<&str>, output: &Output) -> Result<(), Problem> {
    let chosen: Vec<&Code> = match code {
        None => codes::ALL.to_vec(),
        Some(text) => vec![Code::find(text).ok_or_else(|| {
            Problem::of(
                &codes::CODE_UNKNOWN,
                format!("{text:?} is no code; they look like HSR-2001, and hsraft explain shows all"),
            )
        })?],
    };
    let facts: Vec<serde_json::Value> = chosen
        .iter()
        .map(|code| serde_json::json!({ "code": code.to_string(), "what": code.what, "why": code.why, "next": code.next }))
        .collect();
    output.show_ours(&facts, || {
        let lines =
            chosen.iter().map(|code| format!("{code}  {}\n  why   {}\n  next  {}\n", code.what, code.why, code.next));
        lines.collect::<Vec<_>>().join("\n")
    })
}
