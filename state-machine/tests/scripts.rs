//! Stories: commands in, answers and tables out. One story per file of `scripts/`.
//!
//! A block is a command, `----` and what it printed. `UPDATE=1 cargo test -p state-machine` rewrites what was printed;
//! read the difference before you commit it. After every command the invariants are checked, the state must survive a
//! snapshot, and a refusal must have changed nothing.

#[path = "common/story.rs"]
mod story;

#[expect(clippy::disallowed_methods, reason = "test data lies in files")]
#[test]
fn stories() {
    let update = std::env::var("UPDATE").is_ok_and(|value| !value.is_empty() && value != "0");
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/scripts");
    let mut paths: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "txt"));
    paths.sort();
    assert!(paths.len() >= 20, "the stories are there");

    let mut different = Vec::new();
    for path in paths {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let written = std::fs::read_to_string(&path).unwrap();
        let told = retell(&name, &written);
        if told == written {
            continue;
        }
        match update {
            true => std::fs::write(&path, told).unwrap(),
            false => different.push(format!("--- {name}\n{}", difference(&written, &told))),
        }
    }
    assert!(different.is_empty(), "{}\nUPDATE=1 rewrites the expectations", different.join("\n"));
}

/// The story as it goes now.
fn retell(name: &str, written: &str) -> String {
    let mut story = story::Story::default();
    let mut told = String::new();
    let mut lines = written.lines().peekable();
    while let Some(line) = lines.next() {
        told.push_str(line);
        told.push('\n');
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let mut command = line.to_owned();
        for line in lines.by_ref() {
            told.push_str(line);
            told.push('\n');
            if line == "----" {
                break;
            }
            command.push('\n');
            command.push_str(line);
        }
        while lines.next_if(|line| !line.is_empty()).is_some() {}
        told.push_str(&story.tell(&command).unwrap_or_else(|why| panic!("{name}: {command:?}: {why}")));
    }
    told
}

fn difference(written: &str, told: &str) -> String {
    let (mut written, mut told) = (written.lines(), told.lines());
    let mut shown = Vec::new();
    loop {
        match (written.next(), told.next()) {
            (None, None) => return shown.join("\n"),
            (old, new) if old == new => {}
            (old, new) => shown.push(format!("-{}\n+{}", old.unwrap_or_default(), new.unwrap_or_default())),
        }
    }
}
