use std::error::Error;
use std::fs;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::mpsc;
use tokio::task;
use tokio::time::{self, MissedTickBehavior};
use tracing::{debug, warn};

use super::source;

/// Watches a file for new contents.
///
/// It looks at the contents, not at the file: Kubernetes mounts a ConfigMap as a link through
/// `..data`, which is swapped for another, and editors rename a new file over the old one. So the
/// directory is watched, and whatever happens there is a reason to read again; beyond that the
/// file is read every few seconds, because links may lead out of the directory, and because the
/// system may lose events or have no watch to give.
#[derive(Debug)]
pub struct Watch {
    path: PathBuf,
    /// What was last told, or was there at the start.
    contents: Option<Vec<u8>>,
    events: mpsc::Receiver<()>,
    poll: time::Interval,
    /// Whether the file is to be looked at, although the call that began with it is gone.
    due: bool,
    /// How often in a row the file could not be read.
    missed: u32,
    /// Held for its end: without it no events come.
    _watcher: Option<RecommendedWatcher>,
}

impl Watch {
    /// Begins to watch. `contents` are those that are in use; `None` means whatever is there now.
    ///
    /// Needs a runtime with time.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>, contents: Option<Vec<u8>>) -> Self {
        let path = path.into();
        if fs::read_to_string(MOUNTS).is_ok_and(|mounts| is_mount(&mounts, &path)) {
            warn!(
                path = %path.display(),
                "the file is a mount of its own (a subPath?), which Kubernetes never updates"
            );
        }
        let (sender, events) = mpsc::channel(1);
        // Watched before it is read: a change in between is then told twice, not never.
        let watcher = watch(&path, sender);
        let contents = contents.or_else(|| source::contents(&path).ok());
        let mut poll = time::interval(POLL);
        poll.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self {
            path,
            contents,
            events,
            poll,
            due: false,
            missed: 0,
            _watcher: watcher,
        }
    }

    /// Waits until the file has other contents, and gives them.
    ///
    /// A file that is gone for a while, or cannot be read, has not changed. Nothing is lost when
    /// the future is dropped: what changed meanwhile is found by the next call.
    pub async fn changed(&mut self) -> Vec<u8> {
        loop {
            if !self.due {
                tokio::select! {
                    Some(()) = self.events.recv() => {}
                    _ = self.poll.tick() => {}
                }
                self.due = true;
            }
            // Writers need a moment from the first event to the last.
            time::sleep(SETTLE).await;
            let _ = self.events.try_recv();
            let contents = self.look().await;
            self.due = false;
            if let Some(contents) = contents {
                return contents;
            }
        }
    }

    /// Reads the file; gives its contents if they are new.
    async fn look(&mut self) -> Option<Vec<u8>> {
        let path = self.path.clone();
        let read = task::spawn_blocking(move || source::contents(&path))
            .await
            .ok()?;
        match read {
            Ok(contents) if self.contents.as_ref() == Some(&contents) => {
                self.missed = 0;
                None
            }
            Ok(contents) => {
                self.missed = 0;
                self.contents = Some(contents.clone());
                Some(contents)
            }
            Err(error) => {
                self.missed = self.missed.saturating_add(1);
                let reason = error.source();
                match self.missed {
                    PATIENCE => warn!(reason, "{error}; its last contents stay in use"),
                    _ => debug!(reason, "{error}"),
                }
                None
            }
        }
    }
}

/// Starts the system's watch on the file's directory.
fn watch(path: &Path, events: mpsc::Sender<()>) -> Option<RecommendedWatcher> {
    let directory = match path.parent() {
        Some(parent) if parent.components().next().is_some() => parent,
        Some(_) | None => Path::new("."),
    };
    let told = move |event: notify::Result<notify::Event>| {
        // Our own reading is no change; anything else may be.
        if !event.is_ok_and(|event| event.kind.is_access()) {
            // Full means that a look is due already.
            let _ = events.try_send(());
        }
    };
    let watcher = notify::recommended_watcher(told).and_then(|mut watcher| {
        watcher.watch(directory, RecursiveMode::NonRecursive)?;
        Ok(watcher)
    });
    match watcher {
        Ok(watcher) => Some(watcher),
        Err(error) => {
            warn!(
                error = &error as &dyn Error,
                "no watch on the configuration's directory; the file is read every {POLL:?}"
            );
            None
        }
    }
}

/// Whether the file itself, and not a directory above it, is a mount point, by the system's table.
fn is_mount(mounts: &str, path: &Path) -> bool {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let plain = absolute
        .components()
        .all(|part| part != Component::ParentDir);
    plain
        && mounts
            .lines()
            .any(|line| line.split(' ').nth(4).map(Path::new) == Some(&absolute))
}

/// From the first event to the reading: longer than an editor's write, shorter than patience.
const SETTLE: Duration = Duration::from_millis(50);

/// Between two looks when no event comes.
const POLL: Duration = Duration::from_secs(5);

/// Readings that fail in a row before it is worth a warning: a file may be away for a moment.
const PATIENCE: u32 = 3;

/// The system's table of mounts; elsewhere than on Linux there is none.
const MOUNTS: &str = "/proc/self/mountinfo";

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use tempfile::TempDir;

    use super::*;

    /// Waits for the next contents, as text. The bound is there to fail, not to be reached.
    async fn changed(watch: &mut Watch) -> String {
        let contents = time::timeout(Duration::from_secs(60), watch.changed()).await;
        String::from_utf8(contents.expect("a change in time")).expect("text")
    }

    fn write(directory: &TempDir, name: &str, contents: &str) -> PathBuf {
        let path = directory.path().join(name);
        fs::create_dir_all(path.parent().expect("a parent")).expect("a directory");
        fs::write(&path, contents).expect("a file");
        path
    }

    #[tokio::test]
    async fn a_rewritten_file_is_told() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = write(&directory, "config.yaml", "one");
        let mut watch = Watch::new(&path, None);
        fs::write(&path, "two").expect("a file");
        assert_eq!(changed(&mut watch).await, "two");
        fs::write(&path, "three").expect("a file");
        assert_eq!(changed(&mut watch).await, "three");
    }

    #[tokio::test]
    async fn a_swapped_config_map_is_told() {
        let directory = tempfile::tempdir().expect("a directory");
        write(&directory, "..first/config.yaml", "one");
        symlink("..first", directory.path().join("..data")).expect("a link");
        let path = directory.path().join("config.yaml");
        symlink("..data/config.yaml", &path).expect("a link");
        let mut watch = Watch::new(&path, None);

        for (version, contents) in [("..second", "two"), ("..third", "three")] {
            write(&directory, &format!("{version}/config.yaml"), contents);
            let fresh = directory.path().join("..data_tmp");
            symlink(version, &fresh).expect("a link");
            fs::rename(&fresh, directory.path().join("..data")).expect("a swap");
            assert_eq!(changed(&mut watch).await, contents);
        }
    }

    #[tokio::test]
    async fn a_file_renamed_over_the_old_one_is_told() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = write(&directory, "config.yaml", "one");
        let mut watch = Watch::new(&path, None);
        for contents in ["two", "three"] {
            let fresh = write(&directory, "config.yaml.new", contents);
            fs::rename(fresh, &path).expect("a rename");
            assert_eq!(changed(&mut watch).await, contents);
        }
    }

    #[tokio::test]
    async fn a_file_that_is_away_for_a_while_has_not_changed() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = write(&directory, "config.yaml", "one");
        let mut watch = Watch::new(&path, None);
        fs::remove_file(&path).expect("a file to remove");
        assert_eq!(watch.look().await, None);
        fs::write(&path, "one").expect("a file");
        assert_eq!(watch.look().await, None);
        fs::remove_file(&path).expect("a file to remove");
        fs::write(&path, "two").expect("a file");
        assert_eq!(changed(&mut watch).await, "two");
    }

    #[tokio::test]
    async fn contents_other_than_those_in_use_are_told_at_once() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = write(&directory, "config.yaml", "two");
        let mut watch = Watch::new(&path, Some(b"one".to_vec()));
        assert_eq!(changed(&mut watch).await, "two");
    }

    #[tokio::test]
    async fn a_change_is_told_although_an_earlier_wait_was_given_up() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = write(&directory, "config.yaml", "one");
        let mut watch = Watch::new(&path, None);
        fs::write(&path, "two").expect("a file");
        // Given up at every step of the way, each time a little later.
        let mut given_up = 0;
        let contents = loop {
            let patience = Duration::from_millis(given_up);
            match time::timeout(patience, watch.changed()).await {
                Ok(contents) => break contents,
                Err(_) => given_up += 1,
            }
        };
        assert_eq!(contents, b"two");
    }

    #[tokio::test(start_paused = true)]
    async fn without_events_the_file_is_read_every_few_seconds() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = write(&directory, "config.yaml", "one");
        let mut watch = Watch::new(&path, None);
        watch._watcher = None;
        while watch.events.recv().await.is_some() {}
        fs::write(&path, "two").expect("a file");
        assert_eq!(watch.changed().await, b"two");
    }

    #[test]
    fn a_file_that_is_a_mount_of_its_own_is_noticed() {
        let mounts = "\
            22 1 8:1 / / rw - ext4 /dev/sda1 rw\n\
            31 22 8:1 /x /etc/outrigger/config.yaml ro,relatime - ext4 /dev/sda1 rw\n";
        assert!(is_mount(mounts, Path::new("/etc/outrigger/config.yaml")));
        assert!(!is_mount(mounts, Path::new("/etc/outrigger/other.yaml")));
        assert!(!is_mount(mounts, Path::new("/etc/outrigger")));
    }
}
