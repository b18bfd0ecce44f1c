//! `lab up`: from nothing, or from wherever it stopped, to a healthy cluster with a key to come in.

use std::{
    process::{Child, ExitStatus},
    time::Duration,
};

use serde_json::json;
use tokio::time::Instant;

use state_machine::codes;

use super::{
    client,
    layout::{Layout, Place},
    memory::Memory,
    process::{self, Begin},
};
use crate::{
    cli::{
        Output,
        problem::{Problem, exit},
    },
    client::Client,
    cluster::{
        tokens::NewToken,
        view::{Member, Members, Status, Verdict},
    },
    files,
    secret_text::{self, AUTH},
    v1::types::{OnePreAuthKey, OneUser, PreAuthKeys, Users},
};

/// Who owns the devices of a laboratory.
const USER: &str = "lab";
/// How long the laboratory's key is good: a year.
const KEY_LIFE: Duration = Duration::from_secs(365 * 24 * 3600);
/// How often progress is looked for.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Silence longer than this gets a line, so that nobody thinks it hangs.
const STILL_WAITING: Duration = Duration::from_secs(5);

/// A laboratory that is coming up.
pub struct Up<'a> {
    pub layout: Layout,
    pub memory: Memory,
    pub output: &'a Output,
    /// When patience ends.
    pub deadline: Instant,
    /// Those started now, to notice when one ends at once.
    children: Vec<(usize, Child)>,
}

impl<'a> Up<'a> {
    /// Begins.
    pub fn new(layout: Layout, memory: Memory, output: &'a Output, within: Duration) -> Up<'a> {
        Up { layout, memory, output, deadline: Instant::now() + within, children: Vec::new() }
    }

    /// Everything.
    pub async fn run(&mut self) -> Result<(), Problem> {
        self.prepare()?;
        self.start_the_known()?;
        let door = self.wait_for_quorum().await?;
        for index in 0..self.memory.members.len() {
            if !self.memory.members[index].joined {
                self.join(index, &door).await?;
            }
        }
        self.wait_for_voters(&door).await?;
        self.key(&door).await
    }

    /// Folders and configuration files. A file that is there stays: somebody may have edited it.
    fn prepare(&self) -> Result<(), Problem> {
        for index in 0..self.memory.members.len() {
            let place = self.layout.place(index);
            let failed = |error| {
                Problem::of(&codes::FILE_UNWRITABLE, format!("cannot prepare {}: {error}", place.folder.display()))
            };
            files::create_dir_all(&place.folder).map_err(failed)?;
            if files::read(&place.config).map_err(failed)?.is_none() {
                files::write(&place.config, &self.layout.config(&place)).map_err(failed)?;
            }
        }
        self.memory.save(&self.layout.dir)
    }

    /// Starts who has been a member before; where nobody has, the first one founds the cluster.
    fn start_the_known(&mut self) -> Result<(), Problem> {
        let is_new = !self.memory.members.iter().any(|known| known.joined);
        self.memory.members[0].joined |= is_new;
        for index in 0..self.memory.members.len() {
            let place = self.layout.place(index);
            if !self.memory.members[index].joined {
                continue;
            }
            if process::running(&place).is_some() {
                self.output.talk(&format!("{} is running", place.name));
                continue;
            }
            let others = self.memory.members.iter().filter(|known| known.joined).count() > 1;
            if others && !files::holds_something(&place.data) {
                // Started with an empty folder it would found a cluster of its own.
                self.output.talk(&format!("{} lost its data folder; it will come in as a new member", place.name));
                self.memory.members[index].joined = false;
                continue;
            }
            self.start(index, Begin::Serve)?;
        }
        self.memory.save(&self.layout.dir)
    }

    fn start(&mut self, index: usize, begin: Begin) -> Result<(), Problem> {
        let place = self.layout.place(index);
        self.output.talk(&format!("starting {} at {}", place.name, place.url));
        let child = process::start(&place, begin)?;
        self.children.push((index, child));
        Ok(())
    }

    /// The first member that answers with a quorum behind it.
    async fn wait_for_quorum(&mut self) -> Result<Client, Problem> {
        let mut patience = Patience::new("waiting for a leader");
        loop {
            for index in 0..self.memory.members.len() {
                let place = self.layout.place(index);
                if !self.memory.members[index].joined || process::running(&place).is_none() {
                    continue;
                }
                if answers(&place).await {
                    return Ok(client(&place));
                }
            }
            self.pause(&mut patience).await?;
        }
    }

    /// One member comes in with a fresh token and catches up.
    async fn join(&mut self, index: usize, door: &Client) -> Result<(), Problem> {
        let place = self.layout.place(index);
        if process::running(&place).is_none() {
            self.forget_predecessor(&place, door).await?;
            let wish = json!({ "name": place.name, "ttlSecs": 900 });
            let reply: NewToken = door.post("/api/v1/cluster/tokens", wish).await?;
            let address = reply.addresses.first().cloned().unwrap_or_default();
            self.start(index, Begin::Join { address, token: reply.token })?;
        }
        let mut patience = Patience::new(format!("waiting for {} to catch up", place.name));
        loop {
            let seated = self.seated(door).await.iter().any(|(name, _)| *name == place.name);
            if seated && answers(&place).await {
                break;
            }
            self.pause(&mut patience).await?;
        }
        self.memory.members[index].joined = true;
        self.memory.save(&self.layout.dir)
    }

    /// Names of those that take part, and whether they vote; none while the door does not answer.
    async fn seated(&self, door: &Client) -> Vec<(String, bool)> {
        let members = door.get::<Members>("/api/v1/cluster/members").await.unwrap_or_default().members;
        let role = |member: &Member| match member.role.as_str() {
            "voter" => Some(true),
            "learner" => Some(false),
            _ => None,
        };
        members.iter().filter_map(|member| Some((member.name.clone(), role(member)?))).collect()
    }

    /// A member of that name whose data is gone would keep its name for ever.
    async fn forget_predecessor(&self, place: &Place, door: &Client) -> Result<(), Problem> {
        let members: Members = door.get("/api/v1/cluster/members").await?;
        if !members.members.iter().any(|member| member.name == place.name) || files::holds_something(&place.data) {
            return Ok(());
        }
        self.output.talk(&format!("removing the {} that was", place.name));
        door.delete::<serde_json::Value>(&format!("/api/v1/cluster/members/{}", place.name)).await?;
        Ok(())
    }

    /// Every member answers for itself.
    async fn wait_for_voters(&mut self, door: &Client) -> Result<(), Problem> {
        let mut patience = Patience::new("waiting for every member to answer");
        loop {
            let voters = self.seated(door).await.iter().filter(|(_, votes)| *votes).count();
            let mut answering = 0;
            for index in 0..self.memory.members.len() {
                answering += usize::from(answers(&self.layout.place(index)).await);
            }
            if answering == self.memory.members.len() && voters >= voters_of(answering) {
                return Ok(());
            }
            self.pause(&mut patience).await?;
        }
    }

    /// The user and the key devices come in with; made once.
    async fn key(&mut self, door: &Client) -> Result<(), Problem> {
        let users: Users = door.get(&format!("/api/v1/user?name={USER}")).await?;
        let user = match users.users.into_iter().next() {
            Some(user) => user,
            None => door.post::<OneUser>("/api/v1/user", json!({ "name": USER })).await?.user,
        };
        self.memory.user = user.name;
        let keys: PreAuthKeys = door.get("/api/v1/preauthkey").await?;
        let shown = secret_text::masked(AUTH, secret_text::public_prefix(AUTH, &self.memory.auth_key));
        let soon = files::now().after(Duration::from_secs(3600));
        let good = keys
            .pre_auth_keys
            .iter()
            .any(|key| key.key == shown && key.reusable && key.expiration.is_none_or(|expiration| expiration > soon));
        if !good {
            let expiration = files::now().after(KEY_LIFE).to_string();
            let wish = json!({ "user": user.id.to_string(), "reusable": true, "expiration": expiration });
            self.memory.auth_key = door.post::<OnePreAuthKey>("/api/v1/preauthkey", wish).await?.pre_auth_key.key;
        }
        self.memory.save(&self.layout.dir)
    }

    /// Lets some time pass, unless a member ended or patience did.
    async fn pause(&mut self, patience: &mut Patience) -> Result<(), Problem> {
        for (index, child) in &mut self.children {
            if let Ok(Some(status)) = child.try_wait() {
                let place = self.layout.place(*index);
                return Err(ended_at_once(&place, status));
            }
        }
        if Instant::now() >= self.deadline {
            let text = format!(
                "gave up {}; the members go on trying: look with hsraft lab status, read the logs in {}, or run lab up again",
                patience.what,
                self.layout.dir.display()
            );
            return Err(Problem::of(&codes::LAB_SLOW, text).exiting(exit::STILL_STARTING));
        }
        if patience.shall_speak() {
            self.output.talk(&format!("{} …", patience.what));
        }
        tokio::time::sleep(LOOK_EVERY).await;
        Ok(())
    }
}

/// Whether the member serves certainly current state.
async fn answers(place: &Place) -> bool {
    let status = client(place).get::<Status>("/api/v1/cluster/status").await;
    status.is_ok_and(|status| status.verdict != Verdict::NoQuorum)
}

/// How many of so many members will vote: numbers of voters are kept odd, and seven are enough. The others stand by.
fn voters_of(members: usize) -> usize {
    match members {
        0..=2 => members,
        _ => (members - usize::from(members.is_multiple_of(2))).min(7),
    }
}

/// Why a member ended: its last word, or the end of its log.
fn ended_at_once(place: &Place, status: ExitStatus) -> Problem {
    let end = files::tail(&place.log, 40);
    let word = end.lines().rev().find_map(|line| line.strip_prefix("hsraft: "));
    let (name, log) = (&place.name, place.log.display());
    Problem::of(
        &codes::LAB_START,
        match word {
            Some(word) => format!("{name} ended at once: {word}; its log is {log}"),
            None => format!("{name} ended at once ({status}); the end of {log}:\n{end}"),
        },
    )
}

/// What is being waited for, and since when nothing was said.
struct Patience {
    what: String,
    spoke: Instant,
}

impl Patience {
    fn new(what: impl Into<String>) -> Patience {
        Patience { what: what.into(), spoke: Instant::now() }
    }

    fn shall_speak(&mut self) -> bool {
        let now = Instant::now();
        let shall = now.saturating_duration_since(self.spoke) >= STILL_WAITING;
        if shall {
            self.spoke = now;
        }
        shall
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn some_stand_by() {
        let voters: Vec<usize> = (1..=9).map(voters_of).collect();
        assert_eq!(voters, [1, 2, 3, 3, 5, 5, 7, 7, 7]);
    }
}
