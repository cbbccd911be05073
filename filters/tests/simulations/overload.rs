//! More than the model can do: how much is answered in time, and how soon the others are told.

use std::fmt::Write as _;

use crate::{
    case::{Case, read},
    figures::{Figure, Seen},
    run,
};

/// How requests say by when they need their answers: streams of equal shares of the load.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Deadlines {
    /// All the same.
    Equal,
    /// One and two objectives, and four.
    Mixed,
    /// Half of them one objective, and half none.
    Half,
    /// None: they are in time within the objective.
    None,
}

const ALL: [Deadlines; 4] = [
    Deadlines::Equal,
    Deadlines::Mixed,
    Deadlines::Half,
    Deadlines::None,
];

/// Clipper's linear SVM and its random forest.
const CURVES: [(&str, &str); 2] = [("3671us", "12.5us"), ("7663us", "32us")];

fn case(curve: (&str, &str), deadlines: Deadlines, load: f64) -> Case {
    let deadlines: &[Option<u32>] = match deadlines {
        Deadlines::Equal => &[Some(20)],
        Deadlines::Mixed => &[Some(20), Some(40), Some(80)],
        Deadlines::Half => &[Some(20), None],
        Deadlines::None => &[None],
    };
    let share = load / deadlines.len() as f64;
    let streams = deadlines.iter().map(|deadline| {
        let named = deadline.map_or(String::new(), |millis| {
            format!(r#", "deadline": "{millis}ms""#)
        });
        let name = deadline.map_or("none".into(), |millis| millis.to_string());
        format!(r#""{name}": {{ "arrivals": {{ "poisson": {{ "of_best": {share} }} }}, "rows": 16{named} }}"#)
    });
    let streams: Vec<String> = streams.collect();
    let (beta, alpha) = curve;
    read(&format!(
        r#"{{
            "why": "", "seeds": [1], "length": "1.4s", "filter": {{ "max_queue_rows": 4000 }},
            "model": {{
                "beta": "{beta}", "alpha": "{alpha}", "executors": 1,
                "noise": {{ "exponential": 0.05 }}
            }},
            "load": {{ {} }},
            "expected": [{{ "from": "0.4s", "figures": {{ "p50": [0, 1] }} }}]
        }}"#,
        streams.join(",")
    ))
    .expect("a case")
}

#[test]
fn under_overload_goodput_stays_and_most_are_told_at_once() {
    let mut table = String::new();
    let mut faults = Vec::new();
    for curve in CURVES {
        for deadlines in ALL {
            for load in [1., 2., 4.] {
                let case = case(curve, deadlines, load);
                let seen: Seen = run(&case, 1);
                let figure = |figure| seen.figure(figure, &case.expected[0]);
                let (goodput, at_once) =
                    (figure(Figure::GoodputOfBest), figure(Figure::ToldAtOnce));
                let _ = writeln!(
                    table,
                    "{} {deadlines:?} {load}: goodput {goodput:.2}, p50 {:.1} ms, told at once {at_once:.2}, half of them after {:.2} ms",
                    curve.0,
                    figure(Figure::P50),
                    figure(Figure::UntilTold),
                );
                let is_over =
                    load >= 2. && matches!(deadlines, Deadlines::Equal | Deadlines::Mixed);
                // Who could share the next call of a far deadline may still be overtaken.
                let least = if deadlines == Deadlines::Equal {
                    0.9
                } else {
                    0.6
                };
                if is_over && (goodput < 0.87 || at_once < least) {
                    faults.push(format!(
                        "{curve:?} {deadlines:?} {load}: {goodput} {at_once}"
                    ));
                }
                if seen.left().is_some() {
                    faults.push(format!("{deadlines:?} {load}: {:?}", seen.left()));
                }
            }
        }
    }
    println!("{table}");
    assert!(faults.is_empty(), "{faults:#?}");
}
