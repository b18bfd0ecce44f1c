//! Leaves strikes out of a storm as long as the same law stays broken (Zeller's ddmin, over the numbers of strikes).

use anyhow::{Result, bail};
use chaos_tests::sim::Verdict;

use crate::{
    Run,
    many::{Ended, run_in_child},
};

/// Prints the shortest storm found; whether the seed keeps every law.
pub async fn minimise(run: &Run, seed: u64) -> Result<bool> {
    let Some((verdict, law)) = broken(run, seed).await? else {
        println!("seed {seed} breaks no law; there is nothing to shorten");
        return Ok(true);
    };
    let mut kept: Vec<usize> = verdict.strikes.clone();
    println!("seed {seed} breaks \"{law}\" after {} strikes", kept.len());
    let still_broken = async |strikes: &[usize]| -> Result<bool> {
        let shorter = Run { only: Some(list(strikes)), ..run.clone() };
        Ok(broken(&shorter, seed).await?.is_some_and(|(_, other)| other == law))
    };
    if !still_broken(&kept).await? {
        bail!("with its own strikes alone the run ends otherwise; it cannot be shortened");
    }
    let mut pieces = 2;
    while !kept.is_empty() {
        let size = kept.len().div_ceil(pieces.min(kept.len()));
        let mut shorter = None;
        for begin in (0..kept.len()).step_by(size) {
            let rest: Vec<usize> = kept[..begin].iter().chain(kept.iter().skip(begin + size)).copied().collect();
            if still_broken(&rest).await? {
                shorter = Some(rest);
                break;
            }
        }
        match shorter {
            Some(rest) => {
                println!("  {} strikes do: {}", rest.len(), list(&rest));
                kept = rest;
                pieces = 2.max(pieces - 1);
            }
            None if size == 1 => break,
            None => pieces *= 2,
        }
    }
    let shortest = Run { only: Some(list(&kept)), ..run.clone() };
    println!("{} of {} strikes break \"{law}\"", kept.len(), verdict.strikes.len());
    println!("  reproduce: {}", shortest.command_line(seed));
    Ok(false)
}

/// The law a seed breaks: the part of the sentence that names no numbers.
async fn broken(run: &Run, seed: u64) -> Result<Option<(Box<Verdict>, String)>> {
    Ok(match run_in_child(run, seed).await? {
        Ended::Broken(verdict, what) => Some((verdict, law_of(&what))),
        Ended::Kept(_) | Ended::Void(..) => None,
        Ended::Died(why) => bail!("{why}"),
    })
}

pub fn law_of(what: &str) -> String {
    what.split(':').next().unwrap_or(what).to_string()
}

fn list(strikes: &[usize]) -> String {
    match strikes {
        [] => "none".into(),
        strikes => strikes.iter().map(usize::to_string).collect::<Vec<_>>().join(","),
    }
}
