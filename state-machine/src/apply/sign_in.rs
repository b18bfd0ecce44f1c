//! People who prove themselves at a login provider: off, back, yes or no. Each step may reach the log by another member.
//!
//! The edge talks to the provider and judges what it says; here each step is taken once, in order, by whoever is first.

use std::time::Duration;

use crate::{
    model::*,
    names,
    outcome::{Answer, Outcome, Refusal, What},
    state::State,
};

use super::{check_text, invalid, not_found, users};

/// How long a person may take, with both pages.
const LASTS: Duration = Duration::from_secs(15 * 60);
/// Whoever knows a login's URL can begin; the oldest gives way.
const SIGN_INS_MAX: usize = 4_096;
/// Tabs a person may have open for one login; the oldest gives way.
const OF_ONE_SUBJECT_MAX: usize = 8;
/// A directory's groups of one person.
const GROUPS_MAX: usize = 512;

impl State {
    pub(super) fn begin_sign_in(&mut self, id: String, subject: SignInSubject, provider: String) -> Answer {
        let is_hash = id.len() == 64 && id.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte));
        if !is_hash {
            return Err(invalid(What::SignIn, "its id is not a hash"));
        }
        check_text(What::SignIn, "provider", &provider, 2_048)?;
        if self.sign_in(&id).is_some() {
            return Err(Refusal::Taken { what: What::SignIn, name: id });
        }
        let ends = self.subject_waits_until(&subject)?;
        let mut of_subject = self.sign_ins_of(&subject);
        while of_subject.len() >= OF_ONE_SUBJECT_MAX {
            self.drop_sign_in(&of_subject.remove(0));
        }
        while self.sign_ins().len() >= SIGN_INS_MAX
            && let Some(((_, oldest), ())) = self.indexes.sign_ins_by_age.get_min().cloned()
        {
            self.drop_sign_in(&oldest);
        }
        let now = self.now();
        self.put_sign_in(SignIn {
            id,
            subject,
            provider,
            created_at: now,
            expires_at: now.after(LASTS).min(ends),
            progress: SignInProgress::Away,
        });
        Ok(Outcome::Done)
    }

    /// The provider has spoken. Once: who comes back a second time is refused.
    pub(super) fn prove_sign_in(&mut self, id: &str, identity: Identity, confirm_sha256: [u8; 32]) -> Answer {
        let row = self.open_sign_in(id)?;
        if row.progress != SignInProgress::Away {
            return Err(Refusal::LoginOver);
        }
        self.subject_waits_until(&row.subject)?;
        check_identity(&identity)?;
        if let SignInSubject::SshCheck(check) = &row.subject {
            self.check_owner_of_source(check, &identity)?;
        }
        self.put_sign_in(SignIn { progress: SignInProgress::Proved { identity, confirm_sha256 }, ..row });
        Ok(Outcome::Done)
    }

    /// The person has said yes or no on the confirmation page.
    pub(super) fn finish_sign_in(&mut self, id: &str, confirm_sha256: [u8; 32], accept: bool, seed: u64) -> Answer {
        let row = self.open_sign_in(id)?;
        let SignInProgress::Proved { identity, confirm_sha256: expected } = &row.progress else {
            return Err(Refusal::LoginOver);
        };
        if *expected != confirm_sha256 {
            return Err(Refusal::LoginOver);
        }
        // User and node change together or not at all.
        let mut next = self.clone();
        let outcome = match (&row.subject, accept) {
            (SignInSubject::Login(login), true) => {
                let user = next.put_person(identity);
                next.finish_login(login, user, RegisterMethod::Oidc, identity.expiry, seed)?
            }
            (SignInSubject::Login(login), false) => {
                next.reject_login(login, format!("turned away by {}", called(identity)))?
            }
            (SignInSubject::SshCheck(check), true) => {
                next.check_owner_of_source(check, identity)?;
                next.approve_ssh_check(check, format!("oidc {}", called(identity)))?
            }
            (SignInSubject::SshCheck(check), false) => {
                next.reject_ssh_check(check, format!("oidc {}", called(identity)))?
            }
        };
        next.put_sign_in(SignIn { progress: SignInProgress::Over, ..row });
        *self = next;
        Ok(outcome)
    }

    /// The user of this identity, as the provider describes them today; made when they come for the first time.
    fn put_person(&mut self, identity: &Identity) -> UserId {
        let known = self.user_by_provider_id(&identity.provider_id).cloned();
        let (id, created_at) = match &known {
            Some(user) => (user.id, user.created_at),
            None => (self.next_user_id(), self.now()),
        };
        let user = User {
            id,
            name: self.name_of_person(identity, known.as_deref()),
            display_name: identity.display_name.clone(),
            email: identity.email.clone(),
            provider: "oidc".into(),
            provider_id: identity.provider_id.clone(),
            profile_pic_url: identity.profile_pic_url.clone(),
            groups: identity.groups.clone(),
            created_at,
            ranges: known.as_ref().map(|user| user.ranges.clone()).unwrap_or_default(),
        };
        if known.as_deref() != Some(&user) {
            self.put_user(user);
        }
        id
    }

    /// `preferred_username` where it is a good name and nobody else's. Somebody who has a name keeps it otherwise; a
    /// newcomer is called by the mail address, its first part, or `user`, with a number where that is taken. A name never
    /// makes two people one: who somebody is says the provider's id alone.
    fn name_of_person(&self, identity: &Identity, known: Option<&User>) -> String {
        let good = |name: &str| names::check_user_name(name).is_ok();
        let free = |name: &str| self.user_by_name(name).is_none_or(|user| Some(user.id) == known.map(|user| user.id));
        if good(&identity.name) && free(&identity.name) {
            return identity.name.clone();
        }
        if let Some(known) = known {
            return known.name.clone();
        }
        let local = identity.email.split('@').next().unwrap_or_default();
        let wishes = [identity.email.as_str(), identity.name.as_str(), local, "user"];
        let wishes: Vec<&str> = wishes.into_iter().filter(|wish| good(wish)).collect();
        if let Some(wish) = wishes.iter().find(|wish| free(wish)) {
            return (*wish).to_owned();
        }
        let base = wishes.iter().find(|wish| !wish.contains('@')).copied().unwrap_or("user");
        let base = &base[..base.len().min(50)];
        let mut numbers = 2u64..;
        let name = numbers.by_ref().map(|number| format!("{base}-{number}")).find(|name| free(name));
        name.expect("numbers do not run out before users do")
    }

    /// Who says yes to a connection must own the node it comes from (as Headscale wants it).
    fn check_owner_of_source(&self, check: &str, identity: &Identity) -> Result<(), Refusal> {
        let check = self.ssh_check(check).ok_or_else(|| not_found(What::SshCheck, check))?;
        let source = self.node(check.source).ok_or_else(|| not_found(What::Node, check.source))?;
        let person = self.user_by_provider_id(&identity.provider_id).map(|user| user.id);
        match person.is_some() && !source.is_tagged() && source.user == person {
            true => Ok(()),
            false => {
                let why = format!("it comes from {}, which is not a node of {}", source.given_name, called(identity));
                Err(invalid(What::SshCheck, why))
            }
        }
    }

    fn open_sign_in(&self, id: &str) -> Result<SignIn, Refusal> {
        let row = self.sign_in(id).filter(|row| row.expires_at > self.now()).ok_or(Refusal::LoginOver)?;
        Ok((**row).clone())
    }

    /// Until when the subject can be decided; refused when it cannot.
    fn subject_waits_until(&self, subject: &SignInSubject) -> Result<Timestamp, Refusal> {
        let now = self.now();
        let until = match subject {
            SignInSubject::Login(id) => {
                let login = self.login(id).ok_or_else(|| not_found(What::Login, id))?;
                (login.result == LoginResult::Waiting).then_some(login.expires_at)
            }
            SignInSubject::SshCheck(id) => {
                let check = self.ssh_check(id).ok_or_else(|| not_found(What::SshCheck, id))?;
                (check.result == SshCheckResult::Waiting).then_some(check.expires_at)
            }
        };
        until.filter(|until| *until > now).ok_or(Refusal::LoginOver)
    }

    /// Sign-ins of one subject, oldest first.
    fn sign_ins_of(&self, subject: &SignInSubject) -> Vec<String> {
        let from = (subject.clone(), Timestamp(0), String::new());
        let of_subject = self.indexes.sign_ins_by_subject.range(from..);
        let of_subject = of_subject.take_while(|((other, _, _), ())| other == subject);
        of_subject.map(|((_, _, id), ())| id.clone()).collect()
    }
}

/// For people: the mail address, the name, or what the provider calls them.
fn called(identity: &Identity) -> &str {
    let names = [&identity.email, &identity.name, &identity.provider_id];
    names.into_iter().find(|name| !name.is_empty()).map_or("somebody", String::as_str)
}

fn check_identity(identity: &Identity) -> Result<(), Refusal> {
    if identity.provider_id.is_empty() {
        return Err(invalid(What::SignIn, "the provider gave no subject"));
    }
    let texts = [
        ("subject", &identity.provider_id, 2_048),
        ("name", &identity.name, 255),
        ("display name", &identity.display_name, 255),
        ("email", &identity.email, 255),
    ];
    texts.into_iter().try_for_each(|(field, text, max)| check_text(What::SignIn, field, text, max))?;
    users::check_picture(&identity.profile_pic_url)?;
    if identity.groups.len() > GROUPS_MAX {
        let why = format!("the provider names {} groups, at most {GROUPS_MAX} are kept", identity.groups.len());
        return Err(invalid(What::SignIn, why));
    }
    identity.groups.iter().try_for_each(|group| check_text(What::SignIn, "name of a group", group, 255))
}
