use std::{
    collections::BTreeMap,
    fmt,
    fs::File,
    io::Read as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::fault::Problem;

/// What files hold at one moment, or why they cannot be read.
#[derive(Clone, Default, PartialEq, Eq)]
pub(super) struct Files(BTreeMap<PathBuf, Result<Arc<[u8]>, Problem>>);

impl Files {
    /// Reads files.
    pub(super) fn read<'a>(paths: impl IntoIterator<Item = &'a Path>) -> Self {
        let read = paths.into_iter().map(|path| (path.to_owned(), read(path)));
        Self(read.collect())
    }

    /// Returns what a file holds.
    pub(super) fn contents(&self, path: &Path) -> Result<&[u8], Problem> {
        match self.0.get(path) {
            Some(Ok(contents)) => Ok(contents),
            Some(Err(problem)) => Err(problem.clone()),
            None => Err(Problem::Unreadable("it was not looked for".to_owned())),
        }
    }
}

#[cfg(test)]
impl<const N: usize> From<[(&str, &[u8]); N]> for Files {
    fn from(files: [(&str, &[u8]); N]) -> Self {
        let files = files.map(|(path, contents)| (path.into(), Ok(contents.into())));
        Self(files.into())
    }
}

impl fmt::Debug for Files {
    /// Shows names alone: what keys hold has no business in a log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

fn read(path: &Path) -> Result<Arc<[u8]>, Problem> {
    let mut contents = Vec::new();
    let read = File::open(path)
        .and_then(|file| file.take(MAX_BYTES as u64 + 1).read_to_end(&mut contents));
    match read {
        Ok(_) if contents.len() > MAX_BYTES => Err(Problem::TooLarge),
        Ok(_) => Ok(contents.into()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            Err(Problem::Unreadable("there is no such file".to_owned()))
        }
        Err(error) => Err(Problem::Unreadable(error.to_string())),
    }
}

/// Several times a system's whole bundle of roots.
pub(super) const MAX_BYTES: usize = 1 << 20;
