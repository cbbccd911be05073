//! What processes use, as Linux tells it under `/proc`.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::Path;
use std::time::Duration;

/// Processor time and resident memory of a process with its children.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Usage {
    /// Processor time of all threads that live.
    pub cpu: Duration,
    /// Resident bytes.
    pub resident: u64,
}

/// Sums over a process and its children, and theirs.
pub fn of_tree(root: u32) -> io::Result<Usage> {
    let children = children()?;
    let mut sum = Usage::default();
    let mut left = vec![root];
    while let Some(pid) = left.pop() {
        let one = match of_process(pid) {
            Ok(one) => one,
            Err(error) if pid == root => return Err(error),
            // A child may end while we look.
            Err(_) => continue,
        };
        sum.cpu += one.cpu;
        sum.resident += one.resident;
        left.extend(children.get(&pid).into_iter().flatten());
    }
    Ok(sum)
}

fn of_process(pid: u32) -> io::Result<Usage> {
    let folder = Path::new("/proc").join(pid.to_string());
    let mut usage = Usage::default();
    for thread in fs::read_dir(folder.join("task"))? {
        // Nanoseconds, where `stat` has ticks of 10 ms.
        if let Ok(text) = fs::read_to_string(thread?.path().join("schedstat")) {
            usage.cpu += Duration::from_nanos(first_number(&text));
        }
    }
    let status = fs::read_to_string(folder.join("status"))?;
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    usage.resident = resident.map_or(0, first_number) * 1024;
    Ok(usage)
}

fn children() -> io::Result<HashMap<u32, Vec<u32>>> {
    let mut children: HashMap<u32, Vec<u32>> = HashMap::new();
    for entry in fs::read_dir("/proc")? {
        let entry = entry?;
        let Some(pid) = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok())
        else {
            continue;
        };
        let Ok(stat) = fs::read_to_string(entry.path().join("stat")) else {
            continue;
        };
        // "pid (name) state parent ...", where the name may hold anything.
        let parent = stat
            .rsplit_once(')')
            .and_then(|(_, rest)| rest.split_ascii_whitespace().nth(1)?.parse().ok());
        if let Some(parent) = parent {
            children.entry(parent).or_default().push(pid);
        }
    }
    Ok(children)
}

fn first_number(text: &str) -> u64 {
    text.split_ascii_whitespace()
        .next()
        .and_then(|word| word.parse().ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_process_uses_memory_and_time() {
        let mut sum = 0_u64;
        let before = of_tree(std::process::id()).expect("this runs on Linux");
        for n in 0..20_000_000_u64 {
            sum = std::hint::black_box(sum.wrapping_add(n));
        }
        let after = of_tree(std::process::id()).expect("this runs on Linux");
        assert!(after.cpu > before.cpu);
        assert!(after.resident > 100_000);
    }
}
