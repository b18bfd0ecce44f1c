//! How clients come to a server when the name has several addresses, some of them dead.

use std::time::Duration;

use anyhow::{Result, anyhow};
use futures::{StreamExt, stream::FuturesUnordered};
use tokio::time::Instant;
use world::{BoxStream, Entropy, World};

/// Go starts the next attempt after this, or at once when one is refused (`net/dnscache`, `fallbackDelay`).
const NEXT_ATTEMPT: Duration = Duration::from_millis(300);
/// Go keeps an answer of DNS this long, whatever the record says.
const CACHED: Duration = Duration::from_secs(600);

/// All addresses of one name. DNS hands them out in another order each time.
pub struct Name {
    records: Vec<String>,
    answer: Option<(Instant, Vec<String>)>,
}

impl Name {
    /// `records`: `host:port`, dead ones included.
    pub fn new(records: Vec<String>) -> Name {
        Name { records, answer: None }
    }

    /// Asks DNS: the records, turned round.
    pub fn ask(&self, dice: &Entropy) -> Vec<String> {
        let mut answer = self.records.clone();
        let turn = dice.below(answer.len() as u64) as usize;
        answer.rotate_left(turn);
        answer
    }

    /// What Go uses: an answer of the last ten minutes.
    pub fn cached(&mut self, dice: &Entropy) -> Vec<String> {
        if let Some((at, answer)) = &self.answer
            && at.elapsed() < CACHED
        {
            return answer.clone();
        }
        let answer = self.ask(dice);
        self.answer = Some((Instant::now(), answer.clone()));
        answer
    }
}

/// Go: one attempt after the other, 300 ms apart or as soon as one fails; the first that connects wins.
pub async fn race(world: &World, addresses: &[String]) -> Result<(String, BoxStream)> {
    let mut waiting = addresses.iter();
    let mut attempts = FuturesUnordered::new();
    loop {
        let next = waiting.next();
        let is_last = next.is_none();
        attempts.extend(next.map(|address| async move { (address, world.net.connect(address).await) }));
        if is_last && attempts.is_empty() {
            return Err(anyhow!("no address of {addresses:?} answers"));
        }
        tokio::select! { biased;
            done = attempts.next(), if !attempts.is_empty() => {
                if let Some((address, Ok(stream))) = done {
                    return Ok((address.clone(), stream));
                }
            }
            () = tokio::time::sleep(NEXT_ATTEMPT), if !is_last => {}
        }
    }
}

/// Rust: one address after the other, each as long as the system tries.
pub async fn one_by_one(world: &World, addresses: &[String]) -> Result<(String, BoxStream)> {
    for address in addresses {
        if let Ok(stream) = world.net.connect(address).await {
            return Ok((address.clone(), stream));
        }
    }
    Err(anyhow!("no address of {addresses:?} answers"))
}
