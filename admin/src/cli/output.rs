//! Where results go: data to standard output, talk to standard error.

use std::{
    io::{self, BufRead, Write},
    sync::{Arc, Mutex},
};

use serde::Serialize;

use state_machine::codes;

use super::{
    dialect::{Doc, GoJson, GoYaml, Show, snake_keys},
    problem::Problem,
    table::Table,
};

/// How results are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// Tables and sentences.
    #[default]
    Human,
    /// Indented with tabs.
    Json,
    /// On one line.
    JsonLine,
    Yaml,
    /// For reports alone.
    Markdown,
    /// For reports alone: a page of its own.
    Html,
}

impl std::str::FromStr for Format {
    type Err = String;

    fn from_str(text: &str) -> Result<Format, String> {
        match text {
            "" | "table" => Ok(Format::Human),
            "json" => Ok(Format::Json),
            "json-line" => Ok(Format::JsonLine),
            "yaml" => Ok(Format::Yaml),
            "md" | "markdown" => Ok(Format::Markdown),
            "html" => Ok(Format::Html),
            _ => Err("write json, json-line, yaml, or leave it out for tables".into()),
        }
    }
}

/// Whose shape JSON and YAML have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Shape {
    /// Headscale 0.29: Go structs.
    #[default]
    Structs,
    /// Headscale 0.30: REST objects.
    Rest,
}

/// The two channels to whoever called.
#[derive(Clone, Default)]
pub struct Output {
    pub format: Format,
    pub shape: Shape,
    /// In tests both channels end here.
    captured: Option<Arc<Mutex<String>>>,
}

impl Output {
    /// Writes to the process's own channels.
    pub fn new(format: Format, shape: Shape) -> Output {
        Output { format, shape, captured: None }
    }

    /// Writes into a text.
    #[cfg(test)]
    pub fn captured(format: Format) -> (Output, Arc<Mutex<String>>) {
        let text = Arc::<Mutex<String>>::default();
        (Output { format, shape: Shape::default(), captured: Some(text.clone()) }, text)
    }

    /// A value with a Go form: `human` is asked only when people read.
    pub fn show<T: Show + Serialize>(&self, value: &T, human: impl FnOnce() -> String) -> Result<(), Problem> {
        match (self.format, self.shape) {
            (Format::Human, _) => self.write(&human()),
            (_, Shape::Rest) => self.machine(value),
            (Format::Yaml, _) => self.machine(&GoYaml(&value.doc())),
            _ => self.machine(&GoJson(&value.doc())),
        }
    }

    /// A list that comes in pages and shall read as one.
    pub fn pages(&self) -> Pages<'_> {
        Pages { output: self, begun: false, widths: Vec::new() }
    }

    /// A value of our own words.
    pub fn show_ours<T: Serialize>(&self, value: &T, human: impl FnOnce() -> String) -> Result<(), Problem> {
        match self.format {
            Format::Human => self.write(&human()),
            _ => self.machine(&snake_keys(serde_json::to_value(value).map_err(unwritable)?)),
        }
    }

    /// A sentence, or `{}` where programs read.
    pub fn done(&self, human: &str) -> Result<(), Problem> {
        match self.format {
            Format::Human => self.line(human),
            _ => self.machine(&serde_json::json!({})),
        }
    }

    /// A text of its own, whatever the format: JSON strings for programs, the bare text for people.
    pub fn text(&self, text: &str) -> Result<(), Problem> {
        match self.format {
            Format::Human => self.line(text),
            _ => self.machine(&text),
        }
    }

    /// One line on standard output.
    pub fn line(&self, text: &str) -> Result<(), Problem> {
        self.write(&format!("{text}\n"))
    }

    /// Any text on standard output.
    pub fn write(&self, text: &str) -> Result<(), Problem> {
        if let Some(captured) = &self.captured {
            captured.lock().expect("tests do not panic here").push_str(text);
            return Ok(());
        }
        let mut out = io::stdout().lock();
        match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
            // The reader has seen enough (`| head`).
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            result => result
                .map_err(|error| Problem::of(&codes::OUTPUT_BROKEN, format!("could not write the result: {error}"))),
        }
    }

    /// A line for people on standard error; never part of the data.
    pub fn talk(&self, text: &str) {
        match &self.captured {
            Some(captured) => captured.lock().expect("tests do not panic here").push_str(&format!("{text}\n")),
            // Nobody to tell when even this fails.
            None => drop(writeln!(io::stderr().lock(), "{text}")),
        }
    }

    /// A problem, in the format that was asked for, on standard error.
    pub fn problem(&self, problem: &Problem) {
        let text = problem.to_string();
        let shown = match self.format {
            Format::Human => format!("Error: {}", problem.page()),
            format => {
                let code = problem.code();
                let facts =
                    serde_json::json!({ "error": text, "code": code.to_string(), "why": code.why, "next": code.next });
                render(&facts, format).unwrap_or(text).trim_end().to_owned()
            }
        };
        self.talk(&shown);
    }

    /// Whether a person says yes. Only `y`, `yes` and `sure` do.
    pub fn ask(&self, question: &str) -> bool {
        self.talk(&format!("{question} [y/n] "));
        if self.captured.is_some() {
            return false;
        }
        let mut answer = String::new();
        let read = io::stdin().lock().read_line(&mut answer);
        read.is_ok() && matches!(answer.trim().to_lowercase().as_str(), "y" | "yes" | "sure")
    }

    /// A value under the names it has, for programs.
    pub fn as_is<T: Serialize>(&self, value: &T) -> Result<(), Problem> {
        self.machine(value)
    }

    fn machine<T: Serialize>(&self, value: &T) -> Result<(), Problem> {
        self.write(&render(value, self.format)?)
    }
}

/// A list of which each page is written as soon as it is there.
pub struct Pages<'a> {
    output: &'a Output,
    /// Something of the list was written.
    begun: bool,
    widths: Vec<u16>,
}

impl Pages<'_> {
    /// One page: `table` is asked only when people read.
    pub fn page<T: Show + Serialize>(&mut self, values: &[T], table: impl FnOnce() -> Table) -> Result<(), Problem> {
        let (output, doc) = (self.output, || Doc::List(values.iter().map(Show::doc).collect()));
        let text = match (output.format, output.shape) {
            (Format::Human, _) => return output.write(&table().page(&mut self.widths)),
            _ if values.is_empty() => return Ok(()),
            (format, Shape::Rest) => render(&values, format)?,
            (Format::Yaml, _) => render(&GoYaml(&doc()), Format::Yaml)?,
            (format, _) => render(&GoJson(&doc()), format)?,
        };
        let text = match output.format {
            Format::Yaml => text,
            // `[…]` without its end, and from the second page on with a comma for its beginning.
            _ => {
                let items = text.trim_end();
                let items = items.strip_suffix(']').unwrap_or(items).trim_end();
                if self.begun { format!(",{}", &items[1..]) } else { items.to_owned() }
            }
        };
        self.begun = true;
        output.write(&text)
    }

    /// The list is whole.
    pub fn end(self) -> Result<(), Problem> {
        self.output.write(match (self.output.format, self.begun) {
            (Format::Human, _) | (Format::Yaml, true) => "",
            (_, false) => "[]\n",
            (Format::JsonLine, true) => "]\n",
            (_, true) => "\n]\n",
        })
    }
}

fn render<T: Serialize>(value: &T, format: Format) -> Result<String, Problem> {
    match format {
        Format::Yaml => serde_yaml_ng::to_string(value).map_err(unwritable),
        Format::JsonLine => serde_json::to_string(value).map_err(unwritable).map(|text| text + "\n"),
        Format::Json | Format::Human | Format::Markdown | Format::Html => {
            let mut bytes = Vec::new();
            let tabs = serde_json::ser::PrettyFormatter::with_indent(b"\t");
            value.serialize(&mut serde_json::Serializer::with_formatter(&mut bytes, tabs)).map_err(unwritable)?;
            bytes.push(b'\n');
            Ok(String::from_utf8(bytes).expect("JSON is UTF-8"))
        }
    }
}

fn unwritable(error: impl std::fmt::Display) -> Problem {
    Problem::of(&codes::OUTPUT_BROKEN, format!("could not write the result: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::v1::types::User;

    #[test]
    fn pages_read_as_one_list() {
        let users: Vec<User> = (1..=5).map(|id| User { id, name: format!("[u{id}]"), ..User::default() }).collect();
        for format in [Format::Json, Format::JsonLine, Format::Yaml] {
            for shape in [Shape::Structs, Shape::Rest] {
                for count in [0, 1, 5] {
                    let (mut whole, expected) = Output::captured(format);
                    whole.shape = shape;
                    whole.show(&users[..count].to_vec(), String::new).unwrap();
                    let (mut output, told) = Output::captured(format);
                    output.shape = shape;
                    let mut pages = output.pages();
                    for page in users[..count].chunks(2) {
                        pages.page(page, || Table::new(["ID"])).unwrap();
                    }
                    pages.end().unwrap();
                    assert_eq!(*told.lock().unwrap(), *expected.lock().unwrap(), "{format:?} {shape:?} {count}");
                }
            }
        }
    }
}
