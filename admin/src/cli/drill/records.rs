//! Records of drills: a folder each, with the report and what it was made from.

use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use state_machine::codes;

use super::{
    html,
    ops::Op,
    report::{self, Evidence, Report},
};
use crate::{cli::problem::Problem, files};

/// Where records are kept.
#[derive(Clone, Debug)]
pub struct Records(pub PathBuf);

impl Records {
    fn folder(&self, id: &str) -> PathBuf {
        self.0.join(id)
    }

    /// Every record, oldest first: ids begin with the time.
    pub fn all(&self) -> Result<Vec<Report>, Problem> {
        let names = files::list(&self.0)
            .map_err(|error| Problem::of(&codes::FILE_UNREADABLE, format!("{}: {error}", self.0.display())))?;
        let mut reports = Vec::new();
        for name in names {
            if let Some(text) = files::read(&report_file(&self.folder(&name), &name)).ok().flatten() {
                reports.push(parse(&text, &name)?);
            }
        }
        Ok(reports)
    }

    /// By id; without one, the last.
    pub fn find(&self, id: Option<&str>) -> Result<Report, Problem> {
        let none = || {
            let text = format!("there is no record in {}; run one: hsraft drill run NAME", self.0.display());
            Problem::of(&codes::DRILL_RECORD_NONE, text)
        };
        let Some(id) = id else { return self.all()?.pop().ok_or_else(none) };
        // An id becomes part of a path.
        if !id.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-') {
            return Err(Problem::of(&codes::DRILL_RECORD_NONE, format!("{id:?} is no drill's id")));
        }
        let file = report_file(&self.folder(id), id);
        let text = files::read(&file)
            .map_err(|error| Problem::of(&codes::FILE_UNREADABLE, format!("{}: {error}", file.display())))?;
        parse(&text.ok_or_else(none)?, id)
    }

    /// The newest record of a drill.
    pub fn latest(&self, name: &str) -> Option<Report> {
        self.all().ok()?.into_iter().rfind(|report| report.name == name)
    }

    /// Writes what canaries did, and names it in the report.
    pub fn keep_history(&self, report: &mut Report, ops: &[Op]) -> Result<(), Problem> {
        let folder = self.folder(&report.id);
        let failed =
            |error: std::io::Error| Problem::of(&codes::FILE_UNWRITABLE, format!("{}: {error}", folder.display()));
        files::create_dir_all(&folder).map_err(failed)?;
        let mut text = String::new();
        for op in ops {
            text += &serde_json::to_string(op).expect("plain values become JSON");
            text.push('\n');
        }
        let file = "canary-history.jsonl".to_owned();
        files::write(&folder.join(&file), &text).map_err(failed)?;
        report.evidence.push(Evidence { file, sha256: hex::encode(Sha256::digest(&text)) });
        Ok(())
    }

    /// Writes the report in all its forms; where the page is.
    pub fn keep(&self, report: &Report) -> Result<PathBuf, Problem> {
        let folder = self.folder(&report.id);
        let failed =
            |error: std::io::Error| Problem::of(&codes::FILE_UNWRITABLE, format!("{}: {error}", folder.display()));
        files::create_dir_all(&folder).map_err(failed)?;
        let json = serde_json::to_string_pretty(report).expect("plain values become JSON") + "\n";
        files::write(&report_file(&folder, &report.id), &json).map_err(failed)?;
        files::write(&folder.join("report.md"), &report::markdown(report)).map_err(failed)?;
        let page = folder.join("report.html");
        files::write(&page, &html::page(report)).map_err(failed)?;
        Ok(page)
    }
}

/// `drill-<utc>-<name>.json`: the id holds both.
fn report_file(folder: &Path, id: &str) -> PathBuf {
    folder.join(format!("drill-{id}.json"))
}

fn parse(text: &str, id: &str) -> Result<Report, Problem> {
    let schema = serde_json::from_str::<serde_json::Value>(text)
        .ok()
        .and_then(|value| value["schema"].as_str().map(str::to_owned));
    match schema.as_deref() {
        Some(report::SCHEMA) => serde_json::from_str(text)
            .map_err(|error| Problem::of(&codes::DRILL_RECORD_DAMAGED, format!("the record {id} is damaged: {error}"))),
        other => {
            let text = format!("the record {id} has the form {other:?}; this program knows {}", report::SCHEMA);
            Err(Problem::of(&codes::DRILL_RECORD_DAMAGED, text))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::drill::{judge::Verdict, report::sample};

    #[test]
    fn records_come_back_and_are_found() {
        let folder = tempfile::tempdir().unwrap();
        let records = Records(folder.path().join("drills"));
        assert!(records.find(None).is_err() && records.latest("leader-kill").is_none());
        let mut first = sample();
        records.keep_history(&mut first, &[]).unwrap();
        let page = records.keep(&first).unwrap();
        assert!(page.exists());
        let second =
            Report { id: format!("{}x", first.id), name: "slow-disk".into(), verdict: Verdict::Void, ..first.clone() };
        records.keep(&second).unwrap();
        assert_eq!(records.find(Some(&first.id)).unwrap(), first);
        assert_eq!(records.find(None).unwrap().verdict, Verdict::Void);
        assert_eq!(records.latest("leader-kill").unwrap().id, first.id);
        for id in ["../x", "a/b", "none"] {
            assert!(records.find(Some(id)).is_err(), "{id}");
        }
        let other = serde_json::to_string(&first).unwrap().replace("hsraft.drill/v1", "hsraft.drill/v2");
        files::write(&report_file(&records.folder(&first.id), &first.id), &other).unwrap();
        let said = records.find(Some(&first.id)).unwrap_err().to_string();
        assert!(said.contains("hsraft.drill/v2"), "{said}");
    }
}
