//! Reading objects, lists and texts of a policy, with complaints that know their place.

use super::tree::{Key, Located, Tree};
use crate::rejection::Fault;

/// The fields of one object; what is not taken is unknown.
pub(crate) struct Fields<'a> {
    /// Where the object begins.
    pub at: u32,
    fields: Vec<Option<&'a (Key, Located)>>,
    known: Vec<&'static str>,
}

impl<'a> Fields<'a> {
    /// `what` says in complaints what should have been an object.
    pub fn of(value: &'a Located, what: &str) -> Result<Fields<'a>, Fault> {
        match &value.tree {
            Tree::Object(fields) => {
                Ok(Fields { at: value.at, fields: fields.iter().map(Some).collect(), known: Vec::new() })
            }
            _ => Err(Fault::new(value.at, format!("{what} must be an object, not {}", value.kind()))),
        }
    }

    /// A field by its name without regard to case; `null` is as good as absent.
    pub fn take(&mut self, name: &'static str) -> Result<Option<&'a Located>, Fault> {
        self.known.push(name);
        let mut found: Option<&'a (Key, Located)> = None;
        for field in &mut self.fields {
            if let Some(given) = field.filter(|(key, _)| key.name.eq_ignore_ascii_case(name)) {
                if found.is_some() {
                    return Err(Fault::new(given.0.at, format!("{name:?} is given twice")));
                }
                found = Some(given);
                *field = None;
            }
        }
        Ok(found.map(|(_, value)| value).filter(|value| !value.is_null()))
    }

    /// A text, trimmed of nothing; empty when absent.
    pub fn text(&mut self, name: &'static str) -> Result<Option<(&'a str, u32)>, Fault> {
        self.take(name)?.map(|value| text(value, name).map(|text| (text, value.at))).transpose()
    }

    /// A list of texts; empty when absent.
    pub fn texts(&mut self, name: &'static str) -> Result<Vec<(&'a str, u32)>, Fault> {
        self.take(name)?.map_or(Ok(Vec::new()), |value| texts(value, name))
    }

    pub fn flag(&mut self, name: &'static str) -> Result<bool, Fault> {
        match self.take(name)? {
            None => Ok(false),
            Some(Located { tree: Tree::Bool(flag), .. }) => Ok(*flag),
            Some(value) => Err(Fault::new(value.at, format!("{name} must be true or false, not {}", value.kind()))),
        }
    }

    /// Complains of what nobody took. Names that begin with `#` are remarks.
    pub fn finish(self) -> Result<(), Fault> {
        match self.fields.iter().flatten().find(|(key, _)| !key.name.starts_with('#')) {
            None => Ok(()),
            Some((key, _)) => Err(Fault::new(key.at, format!("unknown field {:?}", key.name))
                .hint(format!("known here: {}", self.known.join(", ")))),
        }
    }
}

/// The entries of an object of free names.
pub(crate) fn entries<'a>(value: &'a Located, what: &str) -> Result<&'a [(Key, Located)], Fault> {
    match &value.tree {
        Tree::Object(fields) => Ok(fields),
        _ => Err(Fault::new(value.at, format!("{what} must be an object, not {}", value.kind()))),
    }
}

pub(crate) fn list<'a>(value: &'a Located, what: &str) -> Result<&'a [Located], Fault> {
    match &value.tree {
        Tree::List(items) => Ok(items),
        _ => Err(Fault::new(value.at, format!("{what} must be a list, not {}", value.kind()))),
    }
}

pub(crate) fn text<'a>(value: &'a Located, what: &str) -> Result<&'a str, Fault> {
    match &value.tree {
        Tree::Text(text) => Ok(text),
        _ => Err(Fault::new(value.at, format!("{what} must be text in quotes, not {}", value.kind()))),
    }
}

pub(crate) fn texts<'a>(value: &'a Located, what: &str) -> Result<Vec<(&'a str, u32)>, Fault> {
    match &value.tree {
        Tree::List(items) => items.iter().map(|item| text(item, what).map(|text| (text, item.at))).collect(),
        Tree::Null => Ok(Vec::new()),
        _ => Err(Fault::new(value.at, format!("{what} must be a list of texts, not {}", value.kind()))
            .hint(format!("write \"{what}\": [ … ]"))),
    }
}
