use std::error::Error;
use std::fs;
use std::path::{Component, Path, PathBuf};

use tokio::task;
use tracing::{debug, warn};

use super::Changes;
use super::source;

/// Watches a file for new contents.
///
/// It looks at the contents, not at the file: whatever happens in its directory is a reason to read
/// it again, and so are a few seconds in which nothing does.
#[derive(Debug)]
pub struct Watch {
    path: PathBuf,
    /// What was last told, or was there at the start.
    contents: Option<Vec<u8>>,
    changes: Changes,
    /// How often in a row the file could not be read.
    missed: u32,
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
        // Watched before it is read: a change in between is then told twice, not never.
        let changes = Changes::near([path.as_path()]);
        let contents = contents.or_else(|| source::contents(&path).ok());
        Self {
            path,
            contents,
            changes,
            missed: 0,
        }
    }

    /// Waits until the file has other contents, and gives them.
    ///
    /// A file that is gone for a while, or cannot be read, has not changed. Nothing is lost when
    /// the future is dropped: what changed meanwhile is found by the next call.
    pub async fn changed(&mut self) -> Vec<u8> {
        loop {
            self.changes.due().await;
            let contents = self.look().await;
            self.changes.looked();
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

/// Readings that fail in a row before it is worth a warning: a file may be away for a moment.
const PATIENCE: u32 = 3;

/// The system's table of mounts; elsewhere than on Linux there is none.
const MOUNTS: &str = "/proc/self/mountinfo";

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::time::Duration;

    use tempfile::TempDir;
    use tokio::time;

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
        watch.changes.lose_events().await;
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
