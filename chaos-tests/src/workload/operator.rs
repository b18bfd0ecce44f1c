//! Somebody at the keyboard of one member, who never rests and writes down every answer.

use std::{collections::BTreeSet, convert::Infallible, rc::Rc};

use raft::Cluster;
use state_machine::{Command, LoginId, NodeId, Outcome, PreAuthKey, Refusal, RegisterMethod, Registration, UserId};
use tailcfg::{MachineKey, NodeKey};
use world::Entropy;

use super::{AuthKey, OWNERS, Shared, pause};
use crate::history::{Fate, Kind, UserBook};

/// How many one-use keys everybody tries at once.
const KEYS_ON_THE_BOARD: usize = 4;
/// Registers that all operators read and write.
const REGISTERS: u64 = 3;
/// Policies that come and go. None names "alone".
const POLICIES: [&str; 4] = [
    r#"{"acls":[{"action":"accept","src":["east@"],"dst":["east@:*"]},{"action":"accept","src":["west@"],"dst":["west@:*"]}]}"#,
    r#"{"acls":[{"action":"accept","src":["east@","west@"],"dst":["east@:*","west@:*"]}]}"#,
    r#"{"acls":[{"action":"accept","src":["west@"],"dst":["west@:22,80"]}]}"#,
    r#"{"acls":[]}"#,
];

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
    pub async fn work(&self) -> Infallible {
        let mut names = 0_u64;
        let mut mine: Vec<UserId> = Vec::new();
        loop {
            pause(&self.entropy, 10, 160).await;
            if !self.shared.open.get() || self.shared.quiet.get() {
                continue;
            }
            names += 1;
            let name = format!("user-{}-{}-{names}", self.member, self.life);
            match self.entropy.below(100) {
                0..17 => self.create_user(name, &mut mine).await,
                17..25 => self.rename_user(name, &mine).await,
                25..31 => self.delete_user(&mut mine).await,
                31..39 => self.race_for_a_name().await,
                39..46 => self.pin_one_use_key().await,
                46..59 => self.try_one_use_key(names).await,
                59..64 => self.delete_a_box().await,
                64..70 => self.log_in_by_hand(names).await,
                70..75 => self.change_policy().await,
                75..91 => self.write_register().await,
                _ => self.read_register().await,
            }
        }
    }

    /// Reads until the member dies, whatever becomes of the writes: a write at a member that is cut off waits, a read
    /// there must not be answered from the past.
    pub async fn read_on(&self) -> Infallible {
        loop {
            pause(&self.entropy, 80, 500).await;
            match self.entropy.below(4) {
                _ if !self.shared.open.get() || self.shared.quiet.get() => {}
                0 => self.read().await,
                _ => self.read_register().await,
            }
        }
    }

    /// Makes the owners of all nodes with their keys, and the registers. Done once, before anything goes wrong.
    pub async fn furnish(&self) {
        for name in OWNERS {
            let user = self.insist_on_user(name).await;
            let key = AuthKey::new(&self.entropy);
            while self.ask(create_key(&key, user, true)).await.is_none() {
                pause(&self.entropy, 10, 50).await;
            }
            self.shared.board.borrow_mut().owners.push((user, key));
        }
        while !matches!(self.ask(set_policy(POLICIES[1])).await, Some(Ok(_))) {
            pause(&self.entropy, 10, 50).await;
        }
        for register in 0..REGISTERS {
            let user = self.insist_on_user(&register_name(register, 0)).await;
            self.shared.board.borrow_mut().registers.push(user);
        }
    }

    async fn insist_on_user(&self, name: &str) -> UserId {
        loop {
            if let Some(Ok(Outcome::User(user))) = self.ask(create_user(name)).await {
                return user;
            }
            pause(&self.entropy, 10, 50).await;
        }
    }

    async fn create_user(&self, name: String, mine: &mut Vec<UserId>) {
        match self.ask(create_user(&name)).await {
            Some(Ok(Outcome::User(id))) => {
                let book = UserBook { names: BTreeSet::from([name]), fate: Fate::Here };
                self.shared.history.borrow_mut().users.insert(id, book);
                mine.push(id);
            }
            Some(Err(Refusal::Taken { .. })) => self.shared.history.borrow_mut().refuse_what_is_unique(&name),
            _ => {}
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
        let Some(user) = self.owner() else { return };
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
        let client = self.somebody(number);
        let node_key = client.node_key;
        let register =
            Command::RegisterWithKey { client, prefix: key.prefix.clone(), secret_sha256: key.secret_sha256() };
        if let Some(Ok(Outcome::Registered(node))) = self.ask(register).await {
            self.came_in(node_key, node, Some(&key.prefix));
        }
    }

    /// A client without a key shows a page, and a person says yes.
    async fn log_in_by_hand(&self, number: u64) {
        let Some(user) = self.owner() else { return };
        let (client, id) = (self.somebody(number), LoginId(hex::encode(self.entropy.bytes::<12>())));
        let node_key = client.node_key;
        if !matches!(self.ask(Command::BeginLogin { client, id: id.clone() }).await, Some(Ok(_))) {
            return;
        }
        let (method, seed) = (RegisterMethod::Cli, self.entropy.u64());
        let finish = Command::FinishLogin { id, user, method, expiry: None, seed };
        if let Some(Ok(Outcome::Registered(node))) = self.ask(finish).await {
            self.shared.history.borrow_mut().counts.logins += 1;
            self.came_in(node_key, node, None);
        }
    }

    fn came_in(&self, node_key: NodeKey, node: NodeId, one_use_prefix: Option<&str>) {
        self.shared.history.borrow_mut().register(node_key, node, one_use_prefix);
        self.shared.board.borrow_mut().boxes.push(node);
    }

    async fn delete_a_box(&self) {
        let node = {
            let boxes = &mut self.shared.board.borrow_mut().boxes;
            if boxes.is_empty() {
                return;
            }
            // The newest more often than others: ids must not come back.
            let place = if self.entropy.below(2) == 0 {
                boxes.len() - 1
            } else {
                self.entropy.below(boxes.len() as u64) as usize
            };
            boxes.remove(place)
        };
        self.shared.history.borrow_mut().deleted_nodes.insert(node);
        self.ask(Command::DeleteNode { node }).await;
    }

    async fn change_policy(&self) {
        let text = POLICIES[self.entropy.below(POLICIES.len() as u64) as usize];
        if let Some(Ok(_)) = self.ask(set_policy(text)).await {
            self.shared.history.borrow_mut().counts.policies += 1;
        }
    }

    async fn write_register(&self) {
        let register = self.entropy.below(REGISTERS);
        let (user, value) = {
            let mut board = self.shared.board.borrow_mut();
            board.written += 1;
            (board.registers[register as usize], board.written)
        };
        let operation = self.shared.history.borrow_mut().begin(register, Kind::Write(value));
        match self.ask(Command::RenameUser { user, name: register_name(register, value) }).await {
            Some(Ok(_)) => self.shared.history.borrow_mut().end(operation, None),
            // Every value is written once, and nobody deletes a register.
            Some(Err(_)) => self.shared.history.borrow_mut().refuse_what_is_unique(&register_name(register, value)),
            None => {}
        }
    }

    async fn read_register(&self) {
        let register = self.entropy.below(REGISTERS);
        let user = self.shared.board.borrow().registers[register as usize];
        let operation = self.shared.history.borrow_mut().begin(register, Kind::Read(0));
        let floor = self.shared.history.borrow().floor;
        let Ok(state) = self.cluster.confirm().await else { return };
        let name = state.user(user).map(|user| user.name.clone()).unwrap_or_default();
        let value = name.rsplit('-').next().and_then(|number| number.parse().ok());
        let mut history = self.shared.history.borrow_mut();
        history.read(self.member, floor, state.revision());
        // A register that is gone reads as a value nobody wrote.
        history.end(operation, Some(value.unwrap_or(u64::MAX)));
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
        let begun = self.shared.history.borrow_mut().moment();
        let asked = self.cluster.propose("operator", command).await;
        let mut history = self.shared.history.borrow_mut();
        match asked {
            Ok(applied) => {
                history.acknowledge(self.member, applied.revision, self.cluster.latest().revision());
                history.recover(begun, turmoil::sim_elapsed().unwrap_or_default());
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

    fn somebody(&self, number: u64) -> Registration {
        Registration {
            machine_key: MachineKey(self.entropy.bytes()),
            node_key: NodeKey(self.entropy.bytes()),
            hostname: format!("box-{}-{number}", self.member),
            capability_version: crate::client::CAPABILITY_VERSION,
            seed: self.entropy.u64(),
            ..Registration::default()
        }
    }

    fn owner(&self) -> Option<UserId> {
        self.shared.board.borrow().owners.first().map(|(user, _)| *user)
    }

    fn pick(&self, mine: &[UserId]) -> Option<UserId> {
        mine.get(self.entropy.below(mine.len() as u64) as usize).copied()
    }

    fn edit<T>(&self, user: UserId, change: impl FnOnce(&mut UserBook) -> T) {
        let mut history = self.shared.history.borrow_mut();
        change(history.users.get_mut(&user).expect("operators only pick users they wrote down"));
    }
}

/// Puts a policy in force that is not. What a device shows after it is the last thing it was told: nothing that comes
/// later makes up for a change that was kept from it.
pub async fn last_word(cluster: &Cluster, shared: &Shared) -> Result<(), String> {
    let before = cluster.latest().policy().map(|policy| policy.text.to_string());
    let other = POLICIES.iter().find(|text| Some(**text) != before.as_deref()).expect("there are several policies");
    let applied = cluster.propose("operator", set_policy(other)).await.map_err(|error| error.to_string())?;
    applied.answer.map_err(|refusal| refusal.to_string())?;
    shared.last_word.set(true);
    Ok(())
}

fn register_name(register: u64, value: u64) -> String {
    format!("register-{register}-{value}")
}

fn create_user(name: &str) -> Command {
    Command::CreateUser {
        name: name.to_string(),
        display_name: String::new(),
        email: String::new(),
        profile_pic_url: String::new(),
    }
}

fn set_policy(text: &str) -> Command {
    Command::SetPolicy { text: text.into(), author: "operator".into() }
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
