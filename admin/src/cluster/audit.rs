//! `/api/v1/cluster/audit`: who changed what, when and from where.

use axum::{Json as Reply, extract::State as Shared};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};

use crate::{
    Api,
    request::{Query, number},
    status::ApiError,
};

/// Rows of one answer unless asked for fewer.
const ROWS_MAX: u64 = 1_000;

/// What the first row there ever was follows.
pub const START: &str = "0000000000000000000000000000000000000000000000000000000000000000";

/// One change with its place in the chain: `hash` is SHA-256 of `before` (64 digits) and the record as it stands here.
#[derive(Debug, Deserialize, Serialize)]
pub struct Line {
    pub before: String,
    pub hash: String,
    /// `{number, index, at, by, from, what, changes: [{object, id, before, after}]}`.
    pub record: Box<RawValue>,
}

impl Line {
    /// Whether the hash is what it must be.
    pub fn holds(&self) -> bool {
        let hash = Sha256::new().chain_update(&self.before).chain_update(self.record.get()).finalize();
        hex::encode(hash) == self.hash
    }
}

/// Rows in order; `first` and `last` are the numbers the cluster still has.
#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(default)]
pub struct Lines {
    pub first: u64,
    pub last: u64,
    pub rows: Vec<Line>,
}

/// `GET /audit?after=&limit=&by=&what=&object=`: without `after` the latest, otherwise what follows that number. `by`,
/// `what` and `object` pick records that hold the text there; then rows between are missing, and the chain with them.
pub(crate) async fn list(Shared(api): Shared<Api>, query: Query) -> Result<Reply<Lines>, ApiError> {
    let state = api.read(&query).await?;
    let log = state.audit_log();
    let limit = query.get("limit").map(|text| number("row", text)).transpose()?.unwrap_or(ROWS_MAX).clamp(1, ROWS_MAX);
    let last = log.get_max().map_or(0, |(number, _)| *number);
    let first = log.get_min().map_or(0, |(number, _)| *number);
    let filters: Vec<(&str, String)> =
        ["by", "what", "object"].into_iter().filter_map(|name| Some((name, query.get(name)?.to_lowercase()))).collect();
    let fits = |text: &str| {
        filters.is_empty() || {
            let record: serde_json::Value = serde_json::from_str(text).unwrap_or_default();
            let holds = |value: &serde_json::Value, wanted: &str| {
                value.as_str().is_some_and(|text| text.to_lowercase().contains(wanted))
            };
            filters.iter().all(|(name, wanted)| match *name {
                "object" => record["changes"].as_array().is_some_and(|changes| {
                    changes.iter().any(|change| holds(&change["object"], wanted) || holds(&change["id"], wanted))
                }),
                name => holds(&record[name], wanted),
            })
        }
    };
    let line = |row: &state_machine::AuditRow| {
        let before = log.get(&(row.number - 1)).map(|before| hex::encode(before.hash));
        let before = before.or_else(|| (row.number == 1).then(|| START.to_owned()));
        let record = RawValue::from_string(row.text.to_string()).ok()?;
        // Of the oldest row that is left, what came before is not known here: whoever exported it knows.
        Some(Line { before: before.unwrap_or_default(), hash: hex::encode(row.hash), record })
    };
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let rows: Vec<Line> = match query.get("after") {
        Some(after) => {
            let from = number("row", after)?.saturating_add(1);
            log.range(from..).filter(|(_, row)| fits(&row.text)).take(limit).filter_map(|(_, row)| line(row)).collect()
        }
        None => {
            let latest = log.iter().rev().filter(|(_, row)| fits(&row.text)).take(limit);
            let mut rows: Vec<Line> = latest.filter_map(|(_, row)| line(row)).collect();
            rows.reverse();
            rows
        }
    };
    Ok(Reply(Lines { first, last, rows }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_holds_or_does_not() {
        let record = r#"{"number":1}"#;
        let hash = hex::encode(Sha256::digest(format!("{START}{record}")));
        let line = Line { before: START.into(), hash, record: RawValue::from_string(record.into()).unwrap() };
        assert!(line.holds());
        let text = serde_json::to_string(&line).unwrap();
        assert!(serde_json::from_str::<Line>(&text).unwrap().holds());
        assert!(!serde_json::from_str::<Line>(&text.replace("\"number\":1", "\"number\":2")).unwrap().holds());
    }
}
