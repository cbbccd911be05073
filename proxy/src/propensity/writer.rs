use std::{collections::VecDeque, io, path::PathBuf, sync::Arc, time::Duration};

use parking_lot::Mutex;
use tracing::{info, warn};

use super::{files::Files, line::Line, queue::Queue};

/// The thread that writes lines.
#[derive(Debug)]
pub(super) struct Writer {
    queue: Arc<Queue>,
    bounds: Arc<Mutex<Bounds>>,
    path: PathBuf,
    files: Files,
    buffer: Vec<u8>,
    /// Whether the last lines could not be written.
    failing: bool,
}

/// How large files get, and how many are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Bounds {
    pub(super) max_bytes: usize,
    pub(super) files: usize,
}

impl Writer {
    pub(super) fn new(queue: Arc<Queue>, bounds: Arc<Mutex<Bounds>>, path: PathBuf) -> Self {
        let Bounds { max_bytes, files } = *bounds.lock();
        Self {
            queue,
            bounds,
            files: Files::new(&path, max_bytes, files),
            path,
            buffer: Vec::new(),
            failing: false,
        }
    }

    /// Writes until the queue is closed and empty.
    pub(super) fn run(mut self) {
        let mut lines = VecDeque::new();
        while self.queue.pop_all(&mut lines, GATHER) {
            let Bounds { max_bytes, files } = *self.bounds.lock();
            self.files.bound(max_bytes, files);
            let count = lines.len();
            let written = self.write(&mut lines);
            let dropped = lines.len();
            lines.clear();
            self.queue.finished(count - dropped, dropped);
            match written {
                Err(error) if !self.failing => {
                    let path = self.path.display();
                    warn!(%path, %error, "the log of choices cannot be written");
                    self.failing = true;
                }
                Ok(()) if self.failing => {
                    info!(path = %self.path.display(), "the log of choices is written again");
                    self.failing = false;
                }
                _ => {}
            }
        }
    }

    /// Takes the lines off that were written.
    fn write(&mut self, lines: &mut VecDeque<Line>) -> io::Result<()> {
        let mut taken = 0;
        let mut room = self.files.room()?;
        self.buffer.clear();
        while let Some(line) = lines.get(taken) {
            let before = self.buffer.len();
            line.put(&mut self.buffer);
            let is_full = self.buffer.len() as u64 > room;
            let len = if is_full { before } else { self.buffer.len() };
            if !is_full && len < AT_ONCE && taken + 1 < lines.len() {
                taken += 1;
                continue;
            }
            self.files.write(&self.buffer[..len])?;
            lines.drain(..taken + usize::from(!is_full));
            taken = 0;
            if is_full {
                // A line that is longer than a whole file has one of its own.
                self.files.rotate()?;
                let line = self.buffer.len() - before;
                room = self.files.room()?.max(line as u64);
            } else {
                room = room.saturating_sub(len as u64);
            }
            self.buffer.clear();
        }
        Ok(())
    }
}

/// How long lines wait for others, so that a write has more than one.
const GATHER: Duration = Duration::from_millis(100);

/// Bytes that are written at once.
const AT_ONCE: usize = 64 << 10;
