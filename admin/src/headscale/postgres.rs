//! A Postgres database of Headscale, into the same tables of text as a SQLite file.

use tokio_postgres::{Config, NoTls, SimpleQueryMessage};

use super::read::{self, Database, TABLES, Table, Tables};

/// Reads a database in one transaction that can change nothing. Without TLS: from the database's own machine, through
/// its socket, or through a tunnel.
pub async fn database(config: &Config) -> Result<Database, String> {
    let called = config.get_dbname().unwrap_or("the database").to_owned();
    let wrong = |error: tokio_postgres::Error| format!("cannot read {called}: {}", told(&error));
    let (client, connection) = config.connect(NoTls).await.map_err(wrong)?;
    // It ends with the client.
    let connection = tokio::spawn(connection);
    let begin = "SET TIME ZONE 'UTC'; SET bytea_output = 'hex'; BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY";
    client.batch_execute(begin).await.map_err(wrong)?;
    let listed = "SELECT tablename FROM pg_tables WHERE schemaname = ANY (current_schemas(false))";
    let names: Vec<String> =
        table(&client, listed).await.map_err(wrong)?.rows.into_iter().flatten().flatten().collect();
    read::check(&names, &called)?;
    let mut tables = Tables::default();
    for name in TABLES.into_iter().filter(|name| names.iter().any(|known| known == name)) {
        // The names come from this program, not from outside.
        let found = table(&client, &format!("SELECT * FROM {name} ORDER BY 1")).await.map_err(wrong)?;
        tables.0.insert(name.to_owned(), found);
    }
    drop(client);
    let _ = connection.await;
    Ok(read::database(&tables))
}

/// What went wrong, with its reason: the library's own words stop short of it.
fn told(error: &tokio_postgres::Error) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(why) = source {
        text += &format!(": {why}");
        source = why.source();
    }
    text
}

/// In the simple protocol Postgres writes every value as text.
async fn table(client: &tokio_postgres::Client, query: &str) -> Result<Table, tokio_postgres::Error> {
    let mut table = Table::default();
    for message in client.simple_query(query).await? {
        match message {
            SimpleQueryMessage::RowDescription(columns) => {
                table.columns = columns.iter().map(|column| column.name().to_ascii_lowercase()).collect();
            }
            SimpleQueryMessage::Row(row) => {
                let value = |at: usize| {
                    let text = row.get(at)?;
                    Some(match table.columns.get(at).map(String::as_str) {
                        Some("hash") => bytes_as_text(text),
                        _ => text.to_owned(),
                    })
                };
                let values = (0..row.len()).map(value).collect();
                table.rows.push(values);
            }
            _ => {}
        }
    }
    Ok(table)
}

/// A hash is text in a column of bytes, which come as `\\x` and hexadecimal digits.
fn bytes_as_text(text: &str) -> String {
    let bytes = text.strip_prefix("\\x").and_then(|digits| hex::decode(digits).ok());
    bytes.map_or_else(|| text.to_owned(), |bytes| String::from_utf8_lossy(&bytes).into_owned())
}
