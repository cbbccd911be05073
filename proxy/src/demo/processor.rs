//! What this process uses of the processors.

use std::{fs, time::Duration};

/// Processor time that this process has used so far, where the system tells.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Processor {
    /// All of it: load, proxy and models.
    pub(super) process: Option<Duration>,
    /// The threads of the proxy: its workers, and the control thread, which draws besides.
    pub(super) proxy: Option<Duration>,
}

impl Processor {
    /// Reads it.
    pub(super) fn used() -> Self {
        Self {
            process: fs::read_to_string("/proc/self/stat")
                .ok()
                .and_then(|stat| ticks(&stat)),
            proxy: proxy_threads(),
        }
    }

    /// What was used since an earlier reading.
    pub(super) fn since(self, earlier: Self) -> Self {
        let between =
            |now: Option<Duration>, then: Option<Duration>| Some(now?.saturating_sub(then?));
        Self {
            process: between(self.process, earlier.process),
            proxy: between(self.proxy, earlier.proxy),
        }
    }
}

fn proxy_threads() -> Option<Duration> {
    let mut used = Duration::ZERO;
    let process = std::process::id().to_string();
    for thread in fs::read_dir("/proc/self/task").ok()? {
        let path = thread.ok()?.path();
        // A thread may end between the listing and the reading; it is none of the proxy's then.
        let Ok(name) = fs::read_to_string(path.join("comm")) else {
            continue;
        };
        let is_control = path.file_name().is_some_and(|id| id == process.as_str());
        if is_control || name.starts_with(WORKER) {
            used += scheduled(&fs::read_to_string(path.join("schedstat")).ok()?)?;
        }
    }
    Some(used)
}

/// User and system time of a process out of `/proc/<pid>/stat`.
fn ticks(stat: &str) -> Option<Duration> {
    // The name in brackets may hold anything.
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_ascii_whitespace().skip(FIELDS_BEFORE_TIMES);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(TICK.saturating_mul(u32::try_from(user.checked_add(system)?).ok()?))
}

/// The time on a processor out of `/proc/<pid>/task/<tid>/schedstat`.
fn scheduled(schedstat: &str) -> Option<Duration> {
    let nanoseconds = schedstat.split_ascii_whitespace().next()?.parse().ok()?;
    Some(Duration::from_nanos(nanoseconds))
}

/// What the names of the proxy's workers begin with.
const WORKER: &str = "worker-";

/// State, parents, terminal, flags and faults stand between the name and the times.
const FIELDS_BEFORE_TIMES: usize = 11;

/// Linux shows times to users in hundredths of a second on every architecture.
const TICK: Duration = Duration::from_millis(10);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_times_are_found_behind_any_name() {
        let stat = "7 (a) b (c) S 1 7 7 0 -1 4194560 100 0 0 0 150 50 0 0 20 0 9 0 1 2 3";
        assert_eq!(ticks(stat), Some(Duration::from_secs(2)));
        assert_eq!(
            scheduled("1500000 20 3\n"),
            Some(Duration::from_micros(1500))
        );
    }

    #[test]
    fn what_cannot_be_read_is_no_time() {
        for stat in ["", "7 (a", "7 (a) S 1", "7 (a) S 1 7 7 0 -1 1 1 0 0 0 x y"] {
            assert_eq!(ticks(stat), None, "{stat}");
        }
        assert_eq!(scheduled(""), None);
        let nothing = Processor::default();
        assert_eq!(Processor::used().since(nothing), nothing);
    }
}
