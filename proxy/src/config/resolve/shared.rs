//! What all models share that are selected from: the keys of feedback and the store of what is
//! learned.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use outrigger_filters::select::Keys;
use rustix::fs::Access;

use super::super::fault::{Collector, Place};
use super::super::read::At;
use super::super::{ClientTls, Feedback, Redis, State, file, leaf};
use super::Surroundings;
use crate::tls;

pub(super) fn feedback(
    section: Option<&At<file::Feedback>>,
    selects: bool,
    surroundings: Surroundings<'_>,
    faults: &mut Collector,
) -> Feedback {
    let Some(section) = section else {
        return Feedback::default();
    };
    inert(&section.place, selects, faults);
    let key = section.key.as_ref();
    let previous = section.previous_key.as_ref();
    match (key, previous) {
        (None, Some(previous)) => faults.add(
            &previous.place,
            "needs a `key` beside it: without one, ids are signed with a random key",
        ),
        (Some(key), Some(previous)) if key.value == previous.value => {
            faults.add(&previous.place, "is the file of `key`");
        }
        _ => {}
    }
    for at in [key, previous].into_iter().flatten() {
        if surroundings.files_at.is_some() {
            check_key(&surroundings.path(at), &at.place, faults);
        }
    }
    if let Some(at) = &section.max_age {
        if at.value.is_zero() {
            faults.add(&at.place, "must be more than 0: no feedback comes at once");
        } else if at.value > LONGEST_AGE {
            faults.add(&at.place, "must be at most 8760h, which is a year");
        }
    }
    Feedback {
        key: key.map(|at| surroundings.path(at)),
        previous_key: previous.map(|at| surroundings.path(at)),
        max_age: section
            .max_age
            .as_ref()
            .map_or(Feedback::default().max_age, |at| at.value),
    }
}

fn check_key(path: &Path, place: &Place, faults: &mut Collector) {
    match Feedback::read_key(path) {
        Err(error) => faults.add(place, unreadable(path, &error)),
        Ok(key) => {
            if let Err(error) = Keys::new(&key, None) {
                faults.add(place, format_args!("{}: {error}", path.display()));
            }
        }
    }
}

pub(super) fn state(
    section: Option<&At<file::State>>,
    selects: bool,
    surroundings: Surroundings<'_>,
    faults: &mut Collector,
) -> Option<State> {
    let Some(section) = section else {
        return Some(State::Memory);
    };
    inert(&section.place, selects, faults);
    let of_redis = [
        section.password_file.as_ref().map(|at| &at.place),
        section.ca.as_ref().map(|at| &at.place),
        section.prefix.as_ref().map(|at| &at.place),
        section.interval.as_ref().map(|at| &at.place),
        section.context_ttl.as_ref().map(|at| &at.place),
    ];
    match (&section.redis, &section.directory) {
        (Some(_), Some(directory)) => {
            faults.add(&directory.place, "is instead of `redis`, not beside it");
            None
        }
        (None, None) => {
            // One that is faulty has been told of.
            if !faults.is_within(&section.place) {
                faults.add(&section.place, "needs `redis` or `directory`");
            }
            None
        }
        (None, Some(directory)) => {
            for place in of_redis.into_iter().flatten() {
                faults.add(place, "is for `redis`, and means nothing to a directory");
            }
            let path = surroundings.path(directory);
            if surroundings.files_at.is_some()
                && let Err(why) = writable(&path)
            {
                faults.add(&directory.place, format_args!("{}: {why}", path.display()));
            }
            Some(State::Directory(path))
        }
        (Some(_), None) => redis(section, surroundings, faults).map(State::Redis),
    }
}

fn redis(
    section: &At<file::State>,
    surroundings: Surroundings<'_>,
    faults: &mut Collector,
) -> Option<Redis> {
    let url = &section.redis.as_ref()?.value;
    let redis = Redis {
        url: url.clone(),
        password_file: section
            .password_file
            .as_ref()
            .map(|at| surroundings.path(at)),
        ca: section.ca.as_ref().map(|at| surroundings.path(at)),
        prefix: match &section.prefix {
            Some(prefix) => prefix.value.clone(),
            None => Redis::PREFIX.parse().ok()?,
        },
        interval: section
            .interval
            .as_ref()
            .map_or(Redis::INTERVAL, |at| at.value),
        context_ttl: section
            .context_ttl
            .as_ref()
            .map_or(Redis::CONTEXT_TTL, |at| at.value),
    };
    if let Some(at) = &section.prefix
        && at.value.contains(['{', '}'])
    {
        faults.add(
            &at.place,
            "must not hold braces: they say what a cluster keeps together",
        );
    }
    if let Some(at) = &section.interval
        && !INTERVALS.contains(&at.value)
    {
        faults.add(&at.place, "must be from 10ms to 1m");
    }
    if let Some(at) = &section.context_ttl
        && at.value < SHORTEST_TTL
    {
        faults.add(&at.place, "must be at least 1m");
    }
    if let Some(at) = &section.ca {
        if !url.tls {
            faults.add(&at.place, "no TLS is spoken; write rediss instead of redis");
        } else if let Some(now) = surroundings.files_at {
            let tls = ClientTls {
                ca: redis.ca.clone(),
                ..ClientTls::default()
            };
            for fault in tls::check_client(&tls, now) {
                faults.add(&at.place, fault);
            }
        }
    }
    if let (Some(at), Some(path)) = (&section.password_file, &redis.password_file) {
        if url.password.is_some() {
            faults.add(&at.place, "the URL has a password already");
        } else if surroundings.files_at.is_some()
            && let Err(error) = redis.password()
        {
            faults.add(&at.place, unreadable(path, &error));
        }
    }
    Some(redis)
}

/// Finds fault with files of logs that two models would write to, or that cannot be written.
pub(super) fn logs<'a>(
    logs: impl Iterator<Item = &'a At<leaf::FilePath>>,
    surroundings: Surroundings<'_>,
    faults: &mut Collector,
) {
    let mut seen: HashMap<PathBuf, &Place> = HashMap::new();
    for at in logs {
        let path = surroundings.path(at);
        if surroundings.files_at.is_some()
            && let Some(folder) = path.parent()
            && let Err(why) = writable(folder)
        {
            faults.add(&at.place, format_args!("{}: {why}", folder.display()));
        }
        if let Some(first) = seen.get(&path) {
            let message = format_args!("`{}` is written to it already", first.path);
            faults.add(&at.place, message);
        } else {
            seen.insert(path, &at.place);
        }
    }
}

/// Finds fault with what has no meaning where nothing is selected.
fn inert(place: &Place, selects: bool, faults: &mut Collector) {
    if !selects {
        faults.add(place, "means nothing: no model has `selection`");
    }
}

/// Whether files can be made in a directory.
fn writable(directory: &Path) -> Result<(), String> {
    let directory = match directory.as_os_str().is_empty() {
        true => Path::new("."),
        false => directory,
    };
    match std::fs::metadata(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Err("there is no such directory".to_owned())
        }
        Err(error) => Err(format!("cannot be read: {error}")),
        Ok(found) if !found.is_dir() => Err("is no directory".to_owned()),
        Ok(_) => rustix::fs::access(directory, Access::WRITE_OK | Access::EXEC_OK)
            .map_err(|error| format!("cannot be written to: {}", io::Error::from(error))),
    }
}

fn unreadable(path: &Path, error: &io::Error) -> String {
    let path = path.display();
    match error.kind() {
        io::ErrorKind::NotFound => format!("{path}: cannot be read: there is no such file"),
        _ => format!("{path}: cannot be read: {error}"),
    }
}

/// The longest time that feedback is waited for; more is a slip.
const LONGEST_AGE: Duration = Duration::from_secs(365 * 24 * 3600);
/// Between what Redis is busy with and what no replica wants to wait for.
const INTERVALS: std::ops::RangeInclusive<Duration> =
    Duration::from_millis(10)..=Duration::from_secs(60);
/// The shortest time that a caller is remembered: the longest interval.
const SHORTEST_TTL: Duration = Duration::from_secs(60);
