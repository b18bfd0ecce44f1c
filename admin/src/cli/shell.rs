//! Words that need no member: `completion`, `manual` and `generate`.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand, ValueEnum};
use serde_json::json;

use state_machine::codes;

use super::{Format, Output, command, problem::Problem};
use crate::files;

/// Shells whose completion is known.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Shell {
    Bash,
    Zsh,
    Fish,
    Powershell,
}

/// `completion`.
#[derive(Args, Debug)]
pub struct Completion {
    pub shell: Shell,
    /// The program is called so
    #[arg(long, default_value = "hsraft", value_name = "NAME")]
    pub name: String,
}

/// `manual`.
#[derive(Args, Debug)]
pub struct Manual {
    /// Where the pages go: hsraft.1, hsraft-nodes.1, …
    pub folder: PathBuf,
}

/// `generate`.
#[derive(Debug, Subcommand)]
pub enum Generate {
    /// A private key as Headscale's files hold it
    #[command(after_help = "Example:\n  hsraft generate private-key > noise_private.key")]
    PrivateKey,
}

/// Writes what the shell wants to read.
pub fn completion(args: &Completion, output: &Output) -> Result<(), Problem> {
    use clap_complete::Shell as Kind;
    let kind = match args.shell {
        Shell::Bash => Kind::Bash,
        Shell::Zsh => Kind::Zsh,
        Shell::Fish => Kind::Fish,
        Shell::Powershell => Kind::PowerShell,
    };
    let mut script = Vec::new();
    clap_complete::generate(kind, &mut command(), &args.name, &mut script);
    output.write(&String::from_utf8_lossy(&script))
}

/// Writes a page for every word.
pub fn manual(args: &Manual, output: &Output) -> Result<(), Problem> {
    let written = |error: std::io::Error| {
        Problem::of(&codes::FILE_UNWRITABLE, format!("cannot write to {}: {error}", args.folder.display()))
    };
    files::create_dir_all(&args.folder).map_err(written)?;
    let mut grammar = command();
    grammar.build();
    let count = pages(&grammar, "", &args.folder).map_err(written)?;
    output.line(&format!("{count} pages in {}", args.folder.display()))
}

fn pages(word: &clap::Command, above: &str, folder: &Path) -> std::io::Result<usize> {
    let name = if above.is_empty() { word.get_name().to_owned() } else { format!("{above}-{}", word.get_name()) };
    let mut page = Vec::new();
    clap_mangen::Man::new(word.clone()).title(&name).render(&mut page)?;
    files::write(&folder.join(format!("{name}.1")), &String::from_utf8_lossy(&page))?;
    let below = word.get_subcommands().filter(|word| !word.is_hide_set() && word.get_name() != "help");
    below.map(|word| pages(word, &name, folder)).sum::<Result<usize, _>>().map(|below| below + 1)
}

/// Makes a key.
pub fn generate(word: &Generate, output: &Output) -> Result<(), Problem> {
    let Generate::PrivateKey = word;
    let mut key = [0u8; 32];
    rustls::crypto::ring::default_provider()
        .secure_random
        .fill(&mut key)
        .map_err(|_| Problem::of(&codes::NO_RANDOMNESS, "the machine gives no randomness"))?;
    // Clamped as Curve25519 wants it, as Go's key package does.
    key[0] &= 248;
    key[31] = key[31] & 127 | 64;
    let text = format!("privkey:{}", hex::encode(key));
    match output.format {
        Format::Human => output.line(&text),
        _ => output.as_is(&json!({ "private_key": text })),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shell_learns_every_word() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish, Shell::Powershell] {
            let (output, text) = Output::captured(Format::Human);
            completion(&Completion { shell, name: "headscale".into() }, &output).unwrap();
            let text = text.lock().unwrap();
            assert!(text.contains("headscale") && text.contains("approve-routes"), "{shell:?}");
        }
    }

    #[test]
    fn every_word_has_a_page() {
        let folder = tempfile::tempdir().unwrap();
        let (output, _) = Output::captured(Format::Human);
        manual(&Manual { folder: folder.path().to_owned() }, &output).unwrap();
        let page = files::read(&folder.path().join("hsraft-nodes-approve-routes.1")).unwrap().unwrap();
        assert!(page.contains("Approve routes"), "{page}");
    }

    #[test]
    fn keys_differ() {
        let made = || {
            let (output, text) = Output::captured(Format::JsonLine);
            generate(&Generate::PrivateKey, &output).unwrap();
            text.lock().unwrap().clone()
        };
        let key = made();
        assert!(key.starts_with("{\"private_key\":\"privkey:") && key.trim_end().len() == 90, "{key}");
        assert_ne!(key, made());
    }
}
