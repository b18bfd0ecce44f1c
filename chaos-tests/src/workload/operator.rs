//! Somebody at the keyboard of one member, who never rests and writes down every answer.

use std::{collections::BTreeSet, convert::Infallible, rc::Rc};

use raft::Cluster;
use state_machine::{Command, Outcome, PreAuthKey, Refusal, Registration, UserId};
use tailcfg::{MachineKey, NodeKey};
use world::Entropy;

use super::{AuthKey, Shared, pause};
use crate::history::{Fate, UserBook};

/// How many one-use keys everybody tries at once.
const KEYS_ON_THE_BOARD: usize = 4;

/// One operator's desk.
pub struct Operator {
    pub member: u64,
    /// Which life of the member this is: names must never repeat.
    pub life: u64,
    pub cluster: Cluster,
    pub shared: Rc<Shared>,
    pub entropy: Entropy,
}

impl Operator {
    /// Works until the member dies.
    pub async fn work(self) -> Infallible {
        let mut names = 0_u64;
        let mut mine: Vec<UserId> = Vec::new();
        loop {
            pause(&self.entropy, 10, 120).await;
            if !self.shared.open.get() || self.shared.quiet.get() {
                continue;
            }
            names += 1;
            let name = format!("user-{}-{}-{names}", self.member, self.life);
            match self.entropy.below(100) {
                0..30 => self.create_user(name, &mut mine).await,
                30..45 => self.rename_user(name, &mine).await,
                45..52 => self.delete_user(&mut mine).await,
                52..62 => self.race_for_a_name().await,
                62..67 => self.pin_one_use_key().await,
                67..80 => self.try_one_use_key(names).await,
                _ => self.read().await,
            }
        }
    }

    /// Makes the owner of all nodes and the key every device uses. Done once, before anything goes wrong.
    pub async fn furnish(&self) {
        let user = loop {
            if let Some(Ok(Outcome::User(user))) = self.ask(create_user("everybody")).await {
                break user;
            }
            pause(&self.entropy, 10, 50).await;
        };
        let key = AuthKey::new(&self.entropy);
        while self.ask(create_key(&key, user, true)).await.is_none() {
            pause(&self.entropy, 10, 50).await;
        }
        let mut board = self.shared.board.borrow_mut();
        board.user = Some(user);
        board.reusable = Some(key);
    }

    async fn create_user(&self, name: String, mine: &mut Vec<UserId>) {
        if let Some(Ok(Outcome::User(id))) = self.ask(create_user(&name)).await {
            let book = UserBook { names: BTreeSet::from([name]), fate: Fate::Here };
            self.shared.history.borrow_mut().users.insert(id, book);
            mine.push(id);
        }
    }

    async fn rename_user(&self, name: String, mine: &[UserId]) {
        let Some(user) = self.pick(mine) else { return };
        // While the answer is out, both names are possible.
        self.edit(user, |book| book.names.insert(name.clone()));
        match self.ask(Command::RenameUser { user, name: name.clone() }).await {
            Some(Ok(_)) => self.edit(user, |book| book.names = BTreeSet::from([name])),
            Some(Err(_)) => self.edit(user, |book| book.names.remove(&name)),
            None => {}
        }
    }

    async fn delete_user(&self, mine: &mut Vec<UserId>) {
        let Some(user) = self.pick(mine) else { return };
        mine.retain(|other| *other != user);
        self.edit(user, |book| book.fate = Fate::Perhaps);
        match self.ask(Command::DeleteUser { user }).await {
            Some(Ok(_)) => self.edit(user, |book| book.fate = Fate::Gone),
            Some(Err(_)) => self.edit(user, |book| book.fate = Fate::Here),
            None => {}
        }
    }

    /// All operators want the same name at about the same time; a name is a compare-and-swap.
    async fn race_for_a_name(&self) {
        let race = {
            let mut board = self.shared.board.borrow_mut();
            board.race += 1;
            board.race / 3
        };
        let name = format!("everybodys-darling-{race}");
        if let Some(Ok(Outcome::User(id))) = self.ask(create_user(&name)).await {
            self.shared.history.borrow_mut().races.entry(name).or_default().insert(id);
        }
    }

    async fn pin_one_use_key(&self) {
        let Some(user) = self.shared.board.borrow().user else { return };
        let key = AuthKey::new(&self.entropy);
        if let Some(Ok(_)) = self.ask(create_key(&key, user, false)).await {
            let mut board = self.shared.board.borrow_mut();
            board.one_use.push(key);
            if board.one_use.len() > KEYS_ON_THE_BOARD {
                board.one_use.remove(0);
            }
        }
    }

    async fn try_one_use_key(&self, number: u64) {
        let key = {
            let board = self.shared.board.borrow();
            let Some(key) = board.one_use.get(self.entropy.below(KEYS_ON_THE_BOARD as u64) as usize) else { return };
            key.clone()
        };
        let node_key = NodeKey(self.entropy.bytes());
        let client = Registration {
            machine_key: MachineKey(self.entropy.bytes()),
            node_key,
            hostname: format!("box-{}-{number}", self.member),
            capability_version: crate::client::CAPABILITY_VERSION,
            seed: self.entropy.u64(),
            ..Registration::default()
        };
        let register =
            Command::RegisterWithKey { client, prefix: key.prefix.clone(), secret_sha256: key.secret_sha256() };
        if let Some(Ok(Outcome::Registered(node))) = self.ask(register).await {
            self.shared.history.borrow_mut().register(node_key, node, Some(&key.prefix));
        }
    }

    /// A read that must show everything that was answered before it began.
    async fn read(&self) {
        let floor = self.shared.history.borrow().floor;
        if let Ok(state) = self.cluster.confirm().await {
            self.shared.history.borrow_mut().read(self.member, floor, state.revision());
        }
    }

    /// Proposes; `None` when no answer came.
    async fn ask(&self, command: Command) -> Option<Result<Outcome, Refusal>> {
        let asked = self.cluster.propose("operator", command).await;
        let mut history = self.shared.history.borrow_mut();
        match asked {
            Ok(applied) => {
                history.acknowledge(self.member, applied.revision, self.cluster.latest().revision());
                if applied.answer.is_err() {
                    history.counts.refused += 1;
                }
                Some(applied.answer)
            }
            Err(_) => {
                history.give_up(self.member);
                None
            }
        }
    }

    fn pick(&self, mine: &[UserId]) -> Option<UserId> {
        mine.get(self.entropy.below(mine.len() as u64) as usize).copied()
    }

    fn edit<T>(&self, user: UserId, change: impl FnOnce(&mut UserBook) -> T) {
        let mut history = self.shared.history.borrow_mut();
        change(history.users.get_mut(&user).expect("operators only pick users they wrote down"));
    }
}

fn create_user(name: &str) -> Command {
    Command::CreateUser {
        name: name.to_string(),
        display_name: String::new(),
        email: String::new(),
        profile_pic_url: String::new(),
    }
}

fn create_key(key: &AuthKey, user: UserId, reusable: bool) -> Command {
    Command::CreatePreAuthKey {
        key: PreAuthKey {
            prefix: key.prefix.clone(),
            secret_sha256: key.secret_sha256(),
            user: Some(user),
            reusable,
            ..PreAuthKey::default()
        },
    }
}
