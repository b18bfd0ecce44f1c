//! A folder as a place for objects: on another machine's disk, if the operator was wise.

use std::{io, path::PathBuf, sync::Arc};

use world::{BoxFuture, Disk, Objects};

use crate::store::heavy;

/// Folders below each other that are looked into: a place holds `<cluster>/<member>/`.
const LEVELS: usize = 3;

struct Folder {
    path: PathBuf,
    name: String,
    disk: Arc<dyn Disk>,
}

/// Objects as files below a folder, which is made when something is written.
pub fn folder(path: impl Into<PathBuf>, disk: &Arc<dyn Disk>) -> Arc<dyn Objects> {
    let path = path.into();
    Arc::new(Folder { name: path.display().to_string(), path, disk: disk.clone() })
}

/// Which of them are files; the names are relative to `path`.
fn files(disk: &dyn Disk, path: &std::path::Path, under: &str, levels: usize) -> io::Result<Vec<String>> {
    let mut found = Vec::new();
    for name in disk.list(&path.join(under))? {
        let name = if under.is_empty() { name } else { format!("{under}/{name}") };
        // A file has nothing below it, and listing it says so.
        match disk.list(&path.join(&name)) {
            Ok(below) if !below.is_empty() && levels > 0 => found.extend(files(disk, path, &name, levels - 1)?),
            Ok(below) if !below.is_empty() => {}
            _ => found.push(name),
        }
    }
    Ok(found)
}

impl Folder {
    async fn on_disk<T: Send + 'static>(
        &self,
        work: impl FnOnce(&dyn Disk) -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let disk = self.disk.clone();
        heavy(&self.disk, move || work(&*disk)).await?
    }
}

impl Objects for Folder {
    fn name(&self) -> &str {
        &self.name
    }

    fn list<'a>(&'a self, under: &'a str) -> BoxFuture<'a, io::Result<Vec<String>>> {
        let (path, under) = (self.path.clone(), under.to_owned());
        Box::pin(self.on_disk(move |disk| {
            let mut found = files(disk, &path, &under, LEVELS)?;
            found.sort();
            Ok(found)
        }))
    }

    fn get<'a>(&'a self, name: &'a str) -> BoxFuture<'a, io::Result<Option<Vec<u8>>>> {
        let path = self.path.join(name);
        Box::pin(self.on_disk(move |disk| disk.read(&path)))
    }

    fn put<'a>(&'a self, name: &'a str, bytes: Vec<u8>) -> BoxFuture<'a, io::Result<()>> {
        let path = self.path.join(name);
        Box::pin(self.on_disk(move |disk| {
            if let Some(folder) = path.parent() {
                disk.create_dir_all(folder)?;
            }
            disk.write(&path, &bytes)
        }))
    }

    fn remove<'a>(&'a self, name: &'a str) -> BoxFuture<'a, io::Result<()>> {
        let path = self.path.join(name);
        Box::pin(self.on_disk(move |disk| disk.remove(&path)))
    }
}
