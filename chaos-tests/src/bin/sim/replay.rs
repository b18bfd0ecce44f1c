//! Walks through a recorded run: event by event, with the rows that moved in the states of members.

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Parser;

/// Walks through a recorded run (`cargo sim --reproduce SEED --trace FILE`).
#[derive(Clone, Parser)]
pub struct Replay {
    file: PathBuf,
    /// The first event to show.
    #[arg(long, default_value_t = 0)]
    from: usize,
    /// How many events to show; 0: all.
    #[arg(long, default_value_t = 200)]
    count: usize,
    /// Begins at this simulated second.
    #[arg(long)]
    at: Option<f64>,
    /// Only these kinds of events: `--only strike,mend,statuses,row`.
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Only what happened at this host: members are 1, 2, …, devices 101, 102, ….
    #[arg(long)]
    host: Option<u64>,
}

struct Event<'a> {
    at: f64,
    what: &'a str,
    host: u64,
    content: &'a str,
}

/// `12.345678 session ended 102 …`: seconds, words, the first number after them, the rest.
fn parse(line: &str) -> Option<Event<'_>> {
    let (at, rest) = line.split_once(' ')?;
    let begin = rest.match_indices(' ').map(|(place, _)| place + 1).find(|place| {
        let word = rest[*place..].split(' ').next().unwrap_or_default();
        !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_digit())
    })?;
    let (host, content) = rest[begin..].split_once(' ').unwrap_or((&rest[begin..], ""));
    Some(Event { at: at.parse().ok()?, what: rest[..begin].trim_end(), host: host.parse().ok()?, content })
}

impl Replay {
    pub fn walk(&self) -> Result<()> {
        let bytes =
            world::real::world().disk.read(&self.file)?.with_context(|| format!("no {}", self.file.display()))?;
        let text = String::from_utf8_lossy(&bytes);
        for line in self.lines(&text) {
            println!("{line}");
        }
        Ok(())
    }

    fn lines(&self, text: &str) -> Vec<String> {
        let events = text.lines().enumerate().filter_map(|(number, line)| Some((number, parse(line)?)));
        let wanted = events.filter(|(number, event)| {
            *number >= self.from
                && self.at.is_none_or(|at| event.at >= at)
                && self.host.is_none_or(|host| event.host == host)
                && (self.only.is_empty() || self.only.iter().any(|only| only == event.what))
        });
        let count = if self.count == 0 { usize::MAX } else { self.count };
        let show = |(number, event): (usize, Event<'_>)| {
            format!("{number:>7} {:>10.6} {:<14} {:>4} {}", event.at, event.what, event.host, event.content)
        };
        wanted.take(count).map(show).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RUN: &str = "0.100000 dial 101 hs1:8080\n1.500000 session ended 102 \n1.600000 row 2 table 4 id 01 anna";

    fn walk(only: &[&str], at: Option<f64>, host: Option<u64>) -> Vec<String> {
        let only = only.iter().map(|only| (*only).to_string()).collect();
        Replay { file: PathBuf::new(), from: 0, count: 0, at, only, host }.lines(RUN)
    }

    #[test]
    fn events_are_found_by_kind_time_and_host() {
        assert_eq!(walk(&[], None, None).len(), 3);
        assert!(walk(&["session ended"], None, None)[0].contains("102"));
        assert!(walk(&["row"], None, None)[0].ends_with("table 4 id 01 anna"));
        assert_eq!(walk(&[], Some(1.0), None).len(), 2);
        assert_eq!(walk(&[], None, Some(101)).len(), 1);
    }
}
