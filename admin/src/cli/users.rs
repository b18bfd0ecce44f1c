//! `users`: who owns nodes.

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use state_machine::codes;

use super::{
    desk::Desk,
    problem::Problem,
    table::{Table, moment},
};
use crate::{
    client::escape,
    cluster::addresses::{AllRanges, UserRanges},
    v1::types::{OneUser, User, Users as UserList},
};

/// What can be done with users.
#[derive(Debug, Subcommand)]
pub enum Users {
    /// Make a user
    #[command(aliases = ["c", "new"], after_help = "Example:\n  hsraft users create alice --email alice@example.com")]
    Create {
        name: String,
        /// Name for people
        #[arg(short, long, default_value = "", hide_default_value = true)]
        display_name: String,
        #[arg(short, long, default_value = "", hide_default_value = true)]
        email: String,
        #[arg(short, long, default_value = "", hide_default_value = true, value_name = "URL")]
        picture_url: String,
    },
    /// Show users
    #[command(aliases = ["ls", "show"], after_help = "Example:\n  hsraft users list -o json | jq -r '.[].name'")]
    List {
        #[command(flatten)]
        which: Which,
        #[arg(short, long)]
        email: Option<String>,
    },
    /// Delete a user that has no nodes
    #[command(alias = "delete", after_help = "Example:\n  hsraft users destroy --name alice")]
    Destroy {
        #[command(flatten)]
        which: Which,
        /// Name or id, as before 0.25
        #[arg(hide = true)]
        user: Option<String>,
    },
    /// Say where the addresses of a user's new nodes come from; without ranges: from everywhere
    #[command(after_help = "Example:\n  hsraft users set-ranges alice 100.64.8.0/24")]
    SetRanges {
        /// Name or id
        user: String,
        /// Within prefixes.v4 and prefixes.v6 of the configuration
        ranges: Vec<String>,
    },
    /// Show users that have ranges
    #[command(after_help = "Example:\n  hsraft users ranges")]
    Ranges,
    /// Give a user another name
    #[command(alias = "mv", after_help = "Example:\n  hsraft users rename --name alice --new-name bob")]
    Rename {
        #[command(flatten)]
        which: Which,
        #[arg(short = 'r', long)]
        new_name: Option<String>,
        /// Old and new name, as before 0.25
        #[arg(hide = true, num_args = 0..=2)]
        names: Vec<String>,
    },
}

/// Which user.
#[derive(Args, Debug)]
pub struct Which {
    /// Id
    #[arg(short, long, allow_negative_numbers = true)]
    identifier: Option<i64>,
    #[arg(short, long)]
    name: Option<String>,
}

/// Does it.
pub async fn run(word: Users, desk: &Desk) -> Result<(), Problem> {
    match word {
        Users::Create { name, display_name, email, picture_url } => {
            let wish = json!({ "name": name, "displayName": display_name, "email": email, "pictureUrl": picture_url });
            let reply: OneUser = desk.client.post("/api/v1/user", wish).await?;
            desk.output.show(&reply.user, || "User created\n".into())
        }
        Users::List { which, email } => {
            let filter = match (which.id(), which.name, email) {
                (Some(id), _, _) => format!("?id={id}"),
                (_, Some(name), _) => format!("?name={}", escape(&name)),
                (_, _, Some(email)) => format!("?email={}", escape(&email)),
                _ => String::new(),
            };
            let reply: UserList = desk.client.get(&format!("/api/v1/user{filter}")).await?;
            desk.output.show(&reply.users, || table(&reply.users).render())
        }
        Users::Destroy { which, user } => {
            let user = one(desk, which, user).await?;
            if !desk.agreed(&format!("Do you want to remove the user {:?} ({})?", user.name, user.id)) {
                return declined(desk, "User not destroyed");
            }
            desk.client.delete::<Value>(&format!("/api/v1/user/{}", user.id)).await?;
            desk.output.done("User destroyed")
        }
        Users::SetRanges { user, ranges } => {
            let path = format!("/api/v1/cluster/users/{}/ranges", escape(&user));
            let reply: UserRanges = desk.client.post(&path, json!({ "ranges": ranges })).await?;
            desk.output.show_ours(&reply, || "User updated\n".into())
        }
        Users::Ranges => {
            let reply: AllRanges = desk.client.get("/api/v1/cluster/users/ranges").await?;
            desk.output.show_ours(&reply.users, || {
                let mut table = Table::new(["Username", "Ranges"]);
                reply.users.iter().for_each(|row| table.row([row.user.clone(), row.ranges.join(", ")]));
                table.render()
            })
        }
        Users::Rename { which, new_name, names } => {
            let mut names = names.into_iter();
            let old = if which.is_empty() { names.next() } else { None };
            let new = new_name.or_else(|| names.next());
            let new = new.ok_or_else(|| Problem::of(&codes::WHICH, "which new name? --new-name NAME"))?;
            let user = one(desk, which, old).await?;
            let path = format!("/api/v1/user/{}/rename/{}", user.id, escape(&new));
            let reply: OneUser = desk.client.post(&path, json!({})).await?;
            desk.output.show(&reply.user, || "User renamed\n".into())
        }
    }
}

/// A person said no: nothing happened, and that is no failure.
pub fn declined(desk: &Desk, text: &str) -> Result<(), Problem> {
    declined_by(&desk.output, text)
}

/// The same without a member.
pub fn declined_by(output: &super::Output, text: &str) -> Result<(), Problem> {
    match output.format {
        super::Format::Human => output.line(text),
        _ => output.show_ours(&json!({ "Result": text }), String::new),
    }
}

impl Which {
    fn id(&self) -> Option<i64> {
        self.identifier.filter(|id| *id >= 0)
    }

    fn is_empty(&self) -> bool {
        self.id().is_none() && self.name.is_none()
    }
}

async fn one(desk: &Desk, which: Which, positional: Option<String>) -> Result<User, Problem> {
    let filter = match (which.id(), which.name.or(positional)) {
        (Some(id), _) => format!("?id={id}"),
        (None, Some(name)) => format!("?name={}", escape(&name)),
        (None, None) => return Err(Problem::of(&codes::WHICH, "--name or --identifier flag is required")),
    };
    let reply: UserList = desk.client.get(&format!("/api/v1/user{filter}")).await?;
    match <[User; 1]>::try_from(reply.users) {
        Ok([user]) => Ok(user),
        Err(users) if users.is_empty() => {
            Err(Problem::of(&codes::NOT_FOUND, "no user matches; see: hsraft users list"))
        }
        Err(_) => Err(Problem::of(&codes::AMBIGUOUS, "multiple users match query, specify an ID")),
    }
}

fn table(users: &[User]) -> Table {
    let mut table = Table::new(["ID", "Name", "Username", "Email", "Created"]);
    for user in users {
        let created = moment(user.created_at).unwrap_or_default();
        table.row([user.id.to_string(), user.display_name.clone(), user.name.clone(), user.email.clone(), created]);
    }
    table
}
