use std::{
    ffi::OsString,
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    path::{Path, PathBuf},
};

/// A file that is begun anew when it is full, with its elder ones.
#[derive(Debug)]
pub(super) struct Files {
    path: PathBuf,
    max_bytes: u64,
    /// With the one that is written to.
    files: usize,
    open: Option<(File, u64)>,
}

impl Files {
    pub(super) fn new(path: &Path, max_bytes: usize, files: usize) -> Self {
        Self {
            path: path.to_owned(),
            max_bytes: max_bytes as u64,
            files: files.max(1),
            open: None,
        }
    }

    /// Keeps to other bounds from now on.
    pub(super) fn bound(&mut self, max_bytes: usize, files: usize) {
        self.max_bytes = max_bytes as u64;
        self.files = files.max(1);
    }

    /// Returns how much may still be written before the file is full.
    pub(super) fn room(&mut self) -> io::Result<u64> {
        let most = self.max_bytes;
        let (_, len) = self.opened()?;
        Ok(most.saturating_sub(*len))
    }

    /// Writes whole lines.
    pub(super) fn write(&mut self, lines: &[u8]) -> io::Result<()> {
        let (file, len) = self.opened()?;
        let written = file.write_all(lines);
        *len += lines.len() as u64;
        if written.is_err() {
            // What stands in it now is not known.
            self.open = None;
        }
        written
    }

    /// Begins an empty file, if this one is not.
    pub(super) fn rotate(&mut self) -> io::Result<()> {
        if self.opened()?.1 == 0 {
            return Ok(());
        }
        self.open = None;
        for younger in (0..self.files - 1).rev() {
            match fs::rename(self.nth(younger), self.nth(younger + 1)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        if self.files == 1 {
            fs::remove_file(&self.path)?;
        }
        self.opened().map(|_| ())
    }

    fn nth(&self, age: usize) -> PathBuf {
        if age == 0 {
            return self.path.clone();
        }
        let mut name = OsString::from(&self.path);
        name.push(format!(".{age}"));
        name.into()
    }

    fn opened(&mut self) -> io::Result<&mut (File, u64)> {
        if self.open.is_none() {
            let mut options = OpenOptions::new();
            let mut file = options
                .append(true)
                .create(true)
                .read(true)
                .open(&self.path)?;
            let mut len = file.metadata()?.len();
            if len > 0 && !ends_a_line(&mut file, len)? {
                // What a process was killed in becomes a line by itself.
                file.write_all(b"\n")?;
                len += 1;
            }
            self.open = Some((file, len));
        }
        self.open
            .as_mut()
            .ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

fn ends_a_line(file: &mut File, len: u64) -> io::Result<bool> {
    use std::io::{Read as _, Seek as _, SeekFrom};
    file.seek(SeekFrom::Start(len - 1))?;
    let mut last = [0];
    file.read_exact(&mut last)?;
    Ok(last == *b"\n")
}
