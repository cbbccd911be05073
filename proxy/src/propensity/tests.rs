use std::{
    fs,
    path::Path,
    sync::Arc,
    time::{Duration, UNIX_EPOCH},
};

use outrigger_filters::select::{Arm, Available, Choice, Evidence, Ledger, Lesson};
use smallvec::smallvec;

use super::{
    line::{Line, Names, What},
    queue::Queue,
    *,
};
use crate::config::SelectionLog;

const SOON: Duration = Duration::from_secs(60);

fn settings(path: &Path) -> SelectionLog {
    SelectionLog {
        path: path.to_owned(),
        max_bytes: 1 << 20,
        files: 3,
        sample: 1.,
    }
}

fn open(logs: &Logs, settings: &SelectionLog) -> Log {
    logs.open(settings, "digits", ["svm".into(), "new".into()])
}

fn choose(log: &Log, nonce: u64) {
    log.chosen(Chosen {
        at: UNIX_EPOCH + Duration::from_millis(1_800_000_000_005),
        nonce,
        context: None,
        arm: Some(0),
        rows: 1,
        available: Available::first(2),
        probabilities: &[0.75, 0.25],
    });
}

fn read(path: impl AsRef<Path>) -> String {
    fs::read_to_string(path).expect("it was written")
}

#[test]
fn choices_and_feedback_are_lines_of_json() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("log");
    let log = open(&Logs::default(), &settings(&path));
    choose(&log, 255);
    let context = "a \"name\"".into();
    log.chosen(Chosen {
        at: UNIX_EPOCH + Duration::from_millis(1_800_000_000_120),
        nonce: u64::MAX,
        context: Some(&context),
        arm: None,
        rows: 3,
        available: Available::first(2).without(0),
        probabilities: &[0., 1.],
    });
    let at = UNIX_EPOCH + Duration::from_secs(1_800_000_001);
    log.told(at, 255, None, [(0, 0.5)]);
    log.told(at, u64::MAX, Some(2), [(0, 1.), (1, 1e-7)]);
    log.flush(SOON);
    let wanted = [
        r#"{"time":1800000000.005,"model":"digits","choice":"00000000000000ff","arm":"svm","rows":1,"probabilities":{"svm":0.75,"new":0.25}}"#,
        r#"{"time":1800000000.120,"model":"digits","choice":"ffffffffffffffff","context":"a \"name\"","rows":3,"probabilities":{"new":1.0}}"#,
        r#"{"time":1800000001.000,"model":"digits","feedback":"00000000000000ff","losses":{"svm":0.5}}"#,
        r#"{"time":1800000001.000,"model":"digits","feedback":"ffffffffffffffff","row":2,"losses":{"svm":1.0,"new":1e-7}}"#,
    ];
    let text = read(path);
    assert_eq!(text.lines().collect::<Vec<_>>(), wanted);
    assert!(
        text.lines()
            .all(|line| serde_json::from_str::<serde_json::Value>(line).is_ok())
    );
    assert_eq!(log.dropped(), 0);
}

#[test]
fn of_a_prediction_both_lines_are_written_or_neither() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("log");
    let settings = SelectionLog {
        sample: 0.3,
        ..settings(&path)
    };
    let log = open(&Logs::default(), &settings);
    (0..1000).for_each(|nonce| choose(&log, nonce));
    // On another replica.
    let path = folder.path().join("other");
    let other = open(&Logs::default(), &SelectionLog { path, ..settings });
    (0..1000).for_each(|nonce| other.told(UNIX_EPOCH, nonce, None, [(0, 1.)]));
    log.flush(SOON);
    other.flush(SOON);
    let nonces = |path: &Path, kind: &str| -> Vec<String> {
        let nonce = |line: &str| {
            let line: serde_json::Value = serde_json::from_str(line).expect("it is JSON");
            line[kind].as_str().expect("it has a nonce").to_owned()
        };
        read(path).lines().map(nonce).collect()
    };
    let chosen = nonces(&folder.path().join("log"), "choice");
    assert_eq!(chosen, nonces(&folder.path().join("other"), "feedback"));
    assert!((250..350).contains(&chosen.len()), "{}", chosen.len());
}

#[test]
fn full_files_are_kept_up_to_their_number() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("log");
    let settings = SelectionLog {
        max_bytes: 1000,
        ..settings(&path)
    };
    let logs = Logs::default();
    let log = open(&logs, &settings);
    for nonce in 0..50 {
        choose(&log, nonce);
        if nonce % 7 == 0 {
            log.flush(SOON);
        }
    }
    log.flush(SOON);
    let mut files: Vec<_> = fs::read_dir(folder.path())
        .expect("it is there")
        .map(|file| file.expect("it is there").file_name())
        .collect();
    files.sort();
    assert_eq!(files, ["log", "log.1", "log.2"]);
    let text = [".2", ".1", ""].map(|age| read(format!("{}{age}", path.display())));
    assert!(
        text.iter()
            .all(|text| text.len() <= 1000 && text.ends_with('\n'))
    );
    assert!(text[..2].iter().all(|text| text.len() > 800));
    let text = text.concat();
    let last: Vec<_> = text.lines().collect();
    let first = 50 - last.len();
    for (nonce, line) in (first..).zip(last) {
        assert!(line.contains(&format!("\"{nonce:016x}\"")), "{line}");
    }
}

#[test]
fn a_line_is_never_left_out_for_its_length() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("log");
    let settings = SelectionLog {
        max_bytes: 10,
        files: 1,
        ..settings(&path)
    };
    let log = open(&Logs::default(), &settings);
    choose(&log, 1);
    choose(&log, 2);
    log.flush(SOON);
    assert!(read(&path).contains("\"0000000000000002\""));
    assert_eq!((read(&path).lines().count(), log.dropped()), (1, 0));
}

#[test]
fn a_file_is_gone_on_with() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("log");
    // As a process leaves it that was killed.
    fs::write(&path, "{\"time\":18000").expect("a file");
    let logs = Logs::default();
    let first = open(&logs, &settings(&path));
    choose(&first, 1);
    let second = open(&logs, &settings(&path));
    choose(&second, 2);
    drop(first);
    choose(&second, 3);
    second.flush(SOON);
    let text = read(path);
    let lines: Vec<_> = text.lines().collect();
    assert_eq!((lines.len(), lines[0]), (4, "{\"time\":18000"));
    assert!(lines[3].contains("0000000000000003"));
}

#[test]
fn what_cannot_be_written_is_dropped_and_counted() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("later").join("log");
    let log = open(&Logs::default(), &settings(&path));
    choose(&log, 1);
    log.flush(SOON);
    assert_eq!(log.dropped(), 1);
    fs::create_dir(folder.path().join("later")).expect("a folder");
    choose(&log, 2);
    log.flush(SOON);
    assert_eq!((log.dropped(), read(path).lines().count()), (1, 1));
}

#[test]
fn nobody_waits_for_a_full_queue() {
    let queue = Queue::new(4);
    let names = Arc::new(Names {
        model: "m".into(),
        arms: Box::new(["a".into()]),
    });
    for nonce in 0..10 {
        queue.push(Line {
            at: UNIX_EPOCH,
            names: names.clone(),
            nonce,
            what: What::Feedback {
                row: None,
                losses: smallvec![(0, 1.)],
            },
        });
    }
    assert_eq!(queue.dropped(), 6);
    let mut lines = Default::default();
    assert!(queue.pop_all(&mut lines, Duration::ZERO));
    assert_eq!(lines.len(), 4);
    queue.close();
    lines.clear();
    assert!(!queue.pop_all(&mut lines, SOON));
}

#[test]
fn what_was_handed_over_is_written_after_the_last_handle_is_gone() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("log");
    let queue = {
        let log = open(&Logs::default(), &settings(&path));
        (0..100).for_each(|nonce| choose(&log, nonce));
        log.queue()
    };
    queue.flush(SOON);
    assert_eq!(read(path).lines().count(), 100);
}

#[test]
fn selection_writes_down_who_had_a_chance() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("log");
    let names = ["up", "down", "never"].map(Into::into);
    let log = Logs::default().open(&settings(&path), "digits", names.clone());
    let mut arms = names.map(Arm::new);
    arms[2].weight = 0.;
    log.chose(&Choice {
        model: "digits",
        nonce: 1,
        context: Some("ann"),
        arms: &arms,
        shares: &smallvec![1., 0., 0.],
        chosen: Some(0),
        rows: 2,
    });
    let lesson = |nonce, evidence| {
        log.learned(&Lesson {
            model: "digits",
            nonce,
            row: None,
            context: Some("ann"),
            arms: &arms,
            evidence,
        });
    };
    let (arm, probability, loss) = (0, 1., 0.5);
    let chosen = Evidence::Chosen {
        arm,
        probability,
        loss,
    };
    lesson(Some(1), chosen);
    lesson(None, chosen);
    lesson(Some(2), Evidence::Known(&[None, Some(1.), Some(0.)]));
    log.flush(SOON);
    let text = read(path);
    let ends = [
        r#""choice":"0000000000000001","context":"ann","arm":"up","rows":2,"probabilities":{"up":1.0,"never":0.0}}"#,
        r#""feedback":"0000000000000001","losses":{"up":0.5}}"#,
        r#""feedback":"0000000000000002","losses":{"down":1.0,"never":0.0}}"#,
    ];
    assert_eq!(text.lines().count(), ends.len());
    for (line, end) in text.lines().zip(ends) {
        assert!(line.ends_with(end), "{line}");
    }
}
