use std::{
    collections::{BTreeSet, HashMap, hash_map::Entry},
    fs::File,
    io::{self, BufRead, BufReader},
    path::{Path, PathBuf},
};

use bytestring::ByteString;
use outrigger_filters::select::{Available, Shares};
use serde_json::{Map, Value};
use smallvec::SmallVec;

use super::Error;

/// What logs say of a model.
#[derive(Debug, Default)]
pub(super) struct Log {
    pub(super) model: String,
    /// The arms, in the order in which they first occur.
    pub(super) arms: Vec<ByteString>,
    pub(super) choices: Vec<Choice>,
    pub(super) feedback: Vec<Feedback>,
    /// Feedback whose choice is in no log.
    pub(super) orphans: usize,
    /// Unfinished lines, in which processes were killed.
    pub(super) unfinished: usize,
}

#[derive(Debug)]
pub(super) struct Choice {
    pub(super) time: f64,
    pub(super) context: Option<ByteString>,
    /// Of an ensemble there is none.
    pub(super) arm: Option<usize>,
    pub(super) available: Available,
    /// By arm, of those that occurred up to here; 0 for those that were not available.
    pub(super) probabilities: Shares,
}

#[derive(Debug)]
pub(super) struct Feedback {
    pub(super) time: f64,
    /// Its place among the choices.
    pub(super) choice: usize,
    pub(super) losses: SmallVec<[(usize, f64); 2]>,
}

/// What is read of one model before it is known which one is meant.
#[derive(Debug, Default)]
struct Draft {
    arms: Vec<ByteString>,
    by_name: HashMap<ByteString, usize>,
    choices: Vec<Choice>,
    by_nonce: HashMap<u64, usize>,
    feedback: Vec<(u64, Said)>,
}

/// Feedback before its choice is looked for: it may stand in a log that is read later.
#[derive(Debug)]
struct Said {
    file: usize,
    line: usize,
    time: f64,
    losses: SmallVec<[(usize, f64); 2]>,
}

/// Reads logs of a model, or of the only one.
///
/// # Errors
///
/// Fails where a file cannot be read, a line makes no sense, or it is not clear which model is
/// meant.
pub(super) fn read(paths: &[PathBuf], model: Option<&str>) -> Result<Log, Error> {
    let mut drafts = HashMap::new();
    let mut unfinished = 0;
    for (index, path) in paths.iter().enumerate() {
        let unreadable = |source| Error::Unreadable {
            path: path.clone(),
            source,
        };
        let file = File::open(path).map_err(unreadable)?;
        let mut reader = BufReader::new(file);
        let read = read_file(&mut reader, index, model, &mut drafts);
        unfinished += read.map_err(|fault| fault.of(path))?;
    }
    let names: BTreeSet<&String> = drafts.keys().collect();
    let name = match (model, names.len()) {
        (Some(model), _) => model.to_owned(),
        (None, 0) => return Err(Error::Nothing),
        (None, 1) => names.into_iter().next().cloned().unwrap_or_default(),
        (None, _) => {
            let names: Vec<&str> = names.into_iter().map(String::as_str).collect();
            let names = names.join(", ");
            return Err(Error::Model(format!(
                "the logs are of several models ({names}): say which with --model"
            )));
        }
    };
    let Some(draft) = drafts.remove(&name) else {
        return Err(Error::Model(format!(
            "there is nothing of the model {name} in the logs"
        )));
    };
    draft.finish(name, paths, unfinished)
}

/// What is wrong with a line, or with the file.
enum Fault {
    File(io::Error),
    Line(usize, String),
}

impl Fault {
    fn of(self, path: &Path) -> Error {
        let path = path.to_owned();
        match self {
            Self::File(source) => Error::Unreadable { path, source },
            Self::Line(line, fault) => Error::Faulty { path, line, fault },
        }
    }
}

/// Reads a file, and returns how many of its lines are unfinished.
fn read_file(
    reader: &mut impl BufRead,
    file: usize,
    model: Option<&str>,
    drafts: &mut HashMap<String, Draft>,
) -> Result<usize, Fault> {
    let mut unfinished = 0;
    let mut text = Vec::new();
    for line in 1.. {
        text.clear();
        let len = io::Read::take(&mut *reader, LONGEST).read_until(b'\n', &mut text);
        if len.map_err(Fault::File)? == 0 {
            break;
        }
        let is_whole = text.last() == Some(&b'\n');
        if !is_whole && text.len() as u64 == LONGEST {
            return Err(Fault::Line(line, "the line is too long".to_owned()));
        }
        let text = text.trim_ascii();
        if text.is_empty() {
            continue;
        }
        let value = match serde_json::from_slice(text) {
            Ok(Value::Object(value)) => value,
            // As a process leaves it that was killed; the next one goes on behind it.
            Err(error) if error.is_eof() && (!is_whole || text.starts_with(BEGINNING)) => {
                unfinished += 1;
                continue;
            }
            Ok(_) => return Err(Fault::Line(line, "it is no object".to_owned())),
            Err(error) => return Err(Fault::Line(line, format!("it is no JSON: {error}"))),
        };
        let said = read_line(value, file, line, model, drafts);
        said.map_err(|fault| Fault::Line(line, fault))?;
    }
    Ok(unfinished)
}

fn read_line(
    mut line: Map<String, Value>,
    file: usize,
    number: usize,
    model: Option<&str>,
    drafts: &mut HashMap<String, Draft>,
) -> Result<(), String> {
    let time = line.remove("time").as_ref().and_then(Value::as_f64);
    let time = time.ok_or("time: a number is expected")?;
    let Some(Value::String(name)) = line.remove("model") else {
        return Err("model: a text is expected".to_owned());
    };
    if model.is_some_and(|model| model != name) {
        return Ok(());
    }
    let choice = line.remove("choice").map(nonce).transpose();
    let choice = choice.map_err(|fault| format!("choice: {fault}"))?;
    let feedback = line.remove("feedback").map(nonce).transpose();
    let feedback = feedback.map_err(|fault| format!("feedback: {fault}"))?;
    let draft = drafts.entry(name).or_default();
    match (choice, feedback) {
        (Some(nonce), None) => draft.choice(nonce, time, line),
        (None, Some(nonce)) => {
            let losses = draft.numbers(line.remove("losses"), "losses")?;
            draft.feedback.push((
                nonce,
                Said {
                    file,
                    line: number,
                    time,
                    losses: losses.into(),
                },
            ));
            Ok(())
        }
        _ => Err("it is neither a choice nor feedback".to_owned()),
    }
}

fn nonce(value: Value) -> Result<u64, &'static str> {
    let text = value.as_str().filter(|text| text.len() == 16);
    text.and_then(|text| u64::from_str_radix(text, 16).ok())
        .ok_or("16 hexadecimal digits are expected")
}

impl Draft {
    fn choice(
        &mut self,
        nonce: u64,
        time: f64,
        mut line: Map<String, Value>,
    ) -> Result<(), String> {
        let context = match line.remove("context") {
            None => None,
            Some(Value::String(context)) => Some(context.into()),
            Some(_) => return Err("context: a text is expected".to_owned()),
        };
        let told = self.numbers(line.remove("probabilities"), "probabilities")?;
        let sum: f64 = told.iter().map(|(_, probability)| probability).sum();
        if (sum - 1.).abs() > 1e-6 {
            return Err(format!("probabilities: they sum to {sum}, and not to 1"));
        }
        let mut probabilities = Shares::from_elem(0., self.arms.len());
        let mut available = Available::first(0);
        for (arm, probability) in told {
            available = available.with(arm);
            if let Some(place) = probabilities.get_mut(arm) {
                *place = probability;
            }
        }
        let arm = match line.remove("arm") {
            None => None,
            Some(Value::String(name)) => {
                let arm = self.by_name.get(name.as_str()).copied();
                let arm = arm.filter(|arm| probabilities.get(*arm).is_some_and(|p| *p > 0.));
                Some(arm.ok_or_else(|| {
                    format!("arm: {name} was chosen, and has no probability above 0")
                })?)
            }
            Some(_) => return Err("arm: a text is expected".to_owned()),
        };
        match self.by_nonce.entry(nonce) {
            Entry::Occupied(_) => {
                return Err(format!(
                    "choice: {nonce:016x} is there twice; is a log given twice?"
                ));
            }
            Entry::Vacant(entry) => entry.insert(self.choices.len()),
        };
        self.choices.push(Choice {
            time,
            context,
            arm,
            available,
            probabilities,
        });
        Ok(())
    }

    /// Reads numbers from 0 to 1 by arm.
    fn numbers(&mut self, value: Option<Value>, name: &str) -> Result<Vec<(usize, f64)>, String> {
        let Some(Value::Object(value)) = value else {
            return Err(format!("{name}: an object is expected"));
        };
        if value.is_empty() {
            return Err(format!("{name}: there are none"));
        }
        let read = value.into_iter().map(|(arm, number)| {
            let number = number.as_f64().filter(|n| (0. ..=1.).contains(n));
            let number =
                number.ok_or_else(|| format!("{name}.{arm}: a number from 0 to 1 is expected"))?;
            Ok((self.arm(arm)?, number))
        });
        read.collect()
    }

    fn arm(&mut self, name: String) -> Result<usize, String> {
        let next = self.arms.len();
        let name = ByteString::from(name);
        match self.by_name.get(&name) {
            Some(arm) => Ok(*arm),
            None if next == Available::MOST => {
                Err(format!("{name} is one arm more than a model may have"))
            }
            None => {
                self.arms.push(name.clone());
                self.by_name.insert(name, next);
                Ok(next)
            }
        }
    }

    fn finish(self, model: String, paths: &[PathBuf], unfinished: usize) -> Result<Log, Error> {
        let mut log = Log {
            model,
            arms: self.arms,
            choices: self.choices,
            feedback: Vec::with_capacity(self.feedback.len()),
            orphans: 0,
            unfinished,
        };
        for (nonce, said) in self.feedback {
            let Some(choice) = self.by_nonce.get(&nonce).copied() else {
                log.orphans += 1;
                continue;
            };
            if let Some(chosen) = log.choices.get(choice)
                && let Some(arm) = chosen.arm
                && said.losses.iter().all(|(told, _)| *told != arm)
            {
                let name = log.arms.get(arm).map_or("", |name| name);
                return Err(Error::Faulty {
                    path: paths.get(said.file).cloned().unwrap_or_default(),
                    line: said.line,
                    fault: format!("losses: that of {name} is missing, which was chosen"),
                });
            }
            log.feedback.push(Feedback {
                time: said.time,
                choice,
                losses: said.losses,
            });
        }
        Ok(log)
    }
}

/// The longest line: far above what 64 arms with long names take.
const LONGEST: u64 = 1 << 20;

/// With which lines begin.
const BEGINNING: &[u8] = b"{\"time\":";
