use std::{
    collections::{HashMap, HashSet},
    fs::{self, File},
    io::{self, BufRead as _, BufReader, BufWriter, Read as _, Write},
    path::{Path, PathBuf},
    sync::Arc,
};

use outrigger_filters::select::{Id, Learned, Memory, State};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tracing::{info, warn};

use super::Error;

/// Keeps what was learned in a directory of this process: a file for each model.
///
/// A file is replaced as a whole, so that there is always one that is whole. It is lines of JSON: what
/// it is of; what was learned of all requests, and of each context, beginning with those that were
/// used least recently; which feedback was counted; and last a digest of all lines before.
#[derive(Clone, Debug)]
pub struct Directory {
    path: PathBuf,
    /// How much each model had learned when it was last saved.
    saved: Arc<Mutex<HashMap<String, u64>>>,
    /// Models whose files could not be read, although there may be nothing wrong with them.
    unread: Arc<Mutex<HashSet<String>>>,
}

/// Writes, and digests what was written.
#[derive(Debug)]
struct Digested<W> {
    inner: W,
    digest: blake3::Hasher,
}

/// What a file says of one model.
#[derive(Debug, Default)]
struct Contents {
    policy: String,
    arms: Vec<String>,
    states: Vec<(Option<String>, Vec<Learned>)>,
    counted: Vec<Id>,
}

impl Directory {
    /// Keeps what was learned there.
    pub fn new(path: PathBuf) -> Self {
        Self {
            path,
            saved: Arc::default(),
            unread: Arc::default(),
        }
    }

    /// Has a memory remember what the file of its model says. A file that is broken is set aside; one
    /// that cannot be read is left alone, and not written over.
    pub fn load(&self, model: &str, policy: &str, memory: &Memory) {
        let path = self.file(model);
        let contents = match Contents::read(&path) {
            Ok(contents) => contents,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return,
            Err(error) if !is_broken(&error) => {
                warn!(
                    model, %error, file = %path.display(),
                    "what was learned cannot be read; it begins anew, and what is learned from now \
                     on is not saved until the file is moved away"
                );
                self.unread.lock().insert(model.to_owned());
                return;
            }
            Err(error) => {
                let aside = path.with_extension("broken");
                let moved = fs::rename(&path, &aside).is_ok();
                warn!(
                    model, %error, file = %path.display(), set_aside = moved,
                    "what was learned cannot be read; it begins anew"
                );
                return;
            }
        };
        let prior = memory.selector().prior();
        let place = |name: &str| contents.arms.iter().position(|arm| arm == name);
        let places: Vec<_> = memory.arms().iter().map(|arm| place(arm)).collect();
        let comparable = contents.policy == policy;
        let mut states = 0;
        let mut broken = 0;
        for (context, learned) in &contents.states {
            let arms = places.iter().zip(&prior.arms).map(|(place, prior)| {
                match place.and_then(|place| learned.get(place)) {
                    None => *prior,
                    Some(learned) if comparable => *learned,
                    Some(learned) => Learned {
                        observations: learned.observations,
                        loss: learned.loss,
                        ..*prior
                    },
                }
            });
            let state = State {
                arms: arms.collect(),
            };
            states += 1;
            broken += usize::from(!memory.put(context.as_deref(), state));
        }
        memory.put_counted(contents.counted);
        self.note(model, memory.learned());
        info!(model, states, broken, "remembered what was learned");
    }

    /// Saves what was learned, if that has changed.
    pub async fn save(
        &self,
        model: &str,
        policy: &'static str,
        memory: &Memory,
    ) -> Option<Result<(), Error>> {
        let learned = memory.learned();
        if !self.is_behind(model, memory) {
            return None;
        }
        let path = self.file(model);
        if self.unread.lock().contains(model) {
            match fs::symlink_metadata(&path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    self.unread.lock().remove(model);
                }
                _ => return Some(Err(Error::Unread(path))),
            }
        }
        let (name, memory) = (model.to_owned(), memory.clone());
        let target = path.clone();
        let written =
            tokio::task::spawn_blocking(move || write(&target, &name, policy, &memory)).await;
        Some(
            match written.unwrap_or_else(|error| Err(io::Error::other(error))) {
                Ok(()) => {
                    self.note(model, learned);
                    Ok(())
                }
                Err(error) => Err(Error::Unwritable(path, error)),
            },
        )
    }

    /// Tells whether more was learned than was saved.
    pub fn is_behind(&self, model: &str, memory: &Memory) -> bool {
        self.saved.lock().get(model).copied().unwrap_or(0) != memory.learned()
    }

    fn note(&self, model: &str, learned: u64) {
        self.saved.lock().insert(model.to_owned(), learned);
    }

    fn file(&self, model: &str) -> PathBuf {
        let mut name = String::new();
        for byte in model.bytes() {
            match byte {
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' => {
                    name.push(char::from(byte))
                }
                byte => name.push_str(&format!("%{byte:02x}")),
            }
        }
        // Names of files are shorter than names of models may be.
        if name.len() > LONGEST {
            name.truncate(LONGEST);
            name.push_str(&blake3::hash(model.as_bytes()).to_hex()[..16]);
        }
        self.path.join(name + ".state")
    }
}

impl Contents {
    fn read(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        let mut lines = BufReader::new(file.take(MOST_BYTES));
        let mut digest = blake3::Hasher::new();
        let mut contents = Self::default();
        let mut head = true;
        let mut line = Vec::new();
        loop {
            line.clear();
            if lines.read_until(b'\n', &mut line)? == 0 {
                return Err(broken("it ends too early"));
            }
            let value: Value = serde_json::from_slice(&line)?;
            if let Some(said) = value["digest"].as_str() {
                return match digest.finalize().to_hex().as_str() == said {
                    true => Ok(contents),
                    false => Err(broken("its digest is another one")),
                };
            }
            digest.update(&line);
            match head {
                true => contents.begin(&value)?,
                false => contents.add(&value)?,
            }
            head = false;
        }
    }

    fn begin(&mut self, head: &Value) -> io::Result<()> {
        if head["schema"] != SCHEMA {
            return Err(broken("its schema is another one"));
        }
        self.policy = string(&head["policy"])?;
        let arms = head["arms"].as_array().into_iter().flatten();
        self.arms = arms.map(string).collect::<Result<_, _>>()?;
        Ok(())
    }

    fn add(&mut self, line: &Value) -> io::Result<()> {
        if let Some(ids) = line["counted"].as_array() {
            for id in ids {
                self.counted.push(Id {
                    nonce: id[0].as_u64().ok_or_else(|| broken("an id is none"))?,
                    row: id[1]
                        .as_u64()
                        .and_then(|row| u32::try_from(row).ok())
                        .ok_or_else(|| broken("an id is none"))?,
                });
            }
            return Ok(());
        }
        let context = match &line["context"] {
            Value::Null => None,
            context => Some(string(context)?),
        };
        let arms = line["learned"].as_array();
        let arms = arms.ok_or_else(|| broken("a line is of nothing"))?;
        if arms.len() != self.arms.len() {
            return Err(broken("a state is of other arms"));
        }
        let arms = arms.iter().map(|arm| {
            let mut numbers = [0.; Learned::NAMES.len()];
            for (place, number) in numbers.iter_mut().enumerate() {
                *number = arm[place]
                    .as_f64()
                    .ok_or_else(|| broken("a number is none"))?;
            }
            Ok(Learned::from(numbers))
        });
        let arms = arms.collect::<io::Result<_>>()?;
        self.states.push((context, arms));
        Ok(())
    }
}

impl<W: Write> Digested<W> {
    fn line(&mut self, line: &Value) -> io::Result<()> {
        let mut text = line.to_string();
        text.push('\n');
        self.digest.update(text.as_bytes());
        self.inner.write_all(text.as_bytes())
    }
}

/// Writes what was learned to another file, then puts that one in place.
fn write(path: &Path, model: &str, policy: &str, memory: &Memory) -> io::Result<()> {
    let directory = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(directory)?;
    let beside = path.with_extension("new");
    let mut file = Digested {
        inner: BufWriter::new(File::create(&beside)?),
        digest: blake3::Hasher::new(),
    };
    let arms: Vec<&str> = memory.arms().iter().map(|arm| &**arm).collect();
    file.line(&json!({ "schema": SCHEMA, "model": model, "policy": policy, "arms": arms }))?;
    let mut written = Ok(());
    memory.each(|context, state| {
        let learned: Vec<_> = state.arms.iter().map(Learned::numbers).collect();
        let line = match context {
            None => json!({ "learned": learned }),
            Some(context) => json!({ "context": context, "learned": learned }),
        };
        if written.is_ok() {
            written = file.line(&line);
        }
    });
    written?;
    for ids in memory.counted().chunks(IDS) {
        let ids: Vec<_> = ids.iter().map(|id| (id.nonce, id.row)).collect();
        file.line(&json!({ "counted": ids }))?;
    }
    let digest = file.digest.finalize().to_hex();
    writeln!(file.inner, "{}", json!({ "digest": digest.as_str() }))?;
    let file = file
        .inner
        .into_inner()
        .map_err(io::IntoInnerError::into_error)?;
    file.sync_all()?;
    fs::rename(&beside, path)?;
    // The name is kept, too.
    File::open(directory)?.sync_all()
}

fn string(value: &Value) -> io::Result<String> {
    let text = value.as_str().ok_or_else(|| broken("a name is none"))?;
    Ok(text.to_owned())
}

/// Tells whether a file was read, and is none of these.
fn is_broken(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof
    )
}

fn broken(why: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

/// Of the files; another one means something else.
const SCHEMA: u64 = 1;

/// Ids in a line.
const IDS: usize = 1000;

/// Bytes of a file's name at most, before what is added.
const LONGEST: usize = 200;

/// Bytes that are read at most: what is longer was not written here.
const MOST_BYTES: u64 = 8 << 30;
