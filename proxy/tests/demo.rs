//! The demonstration as a user starts it.

use std::{
    io::{BufRead as _, BufReader, Read as _},
    process::{Command, Stdio},
};

fn demo(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_outrigger"));
    command
        .arg("demo")
        .args(arguments)
        .env_remove("RUST_LOG")
        .stdout(Stdio::piped());
    command
}

#[test]
fn a_headless_demo_prints_both_tables_and_nothing_else() {
    let output = demo(&["--headless", "--seconds", "4"])
        .output()
        .expect("the binary runs");
    let (out, err) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert!(output.status.success(), "{out}{err}");
    assert!(out.starts_with("Batching, "), "{out}");
    for row in ["without ", "with "] {
        let rows = out.lines().filter(|line| line.starts_with(row));
        assert_eq!(rows.count(), 1, "{out}");
    }
    assert!(out.contains("\n\nSelection, "), "{out}");
    for row in [
        "wrong: svc alone ",
        "wrong: one arm, thompson ",
        "wrong: vote of all, exp4 ",
        "thompson asks svc ",
    ] {
        let rows = out.lines().filter(|line| line.starts_with(row));
        assert_eq!(rows.count(), 1, "{out}");
    }
    assert!(out.lines().all(|line| line.chars().count() <= 80), "{out}");
    assert!(!out.contains('\x1b'), "{out:?}");
    assert_eq!(err, "");
}

#[test]
fn an_interrupt_in_the_middle_of_a_load_ends_the_demo() {
    let mut child = demo(&["--seconds", "600"])
        .spawn()
        .expect("the binary runs");
    let mut out = BufReader::new(child.stdout.take().expect("a pipe"));
    let mut line = String::new();
    while !line.starts_with("without batching") {
        line.clear();
        let read = out.read_line(&mut line).expect("text");
        assert!(read > 0, "the demo ended by itself");
    }
    let killed = Command::new("kill")
        .args(["-INT", &child.id().to_string()])
        .status()
        .expect("there is kill");
    assert!(killed.success());
    let mut rest = String::new();
    out.read_to_string(&mut rest).expect("text");
    assert_eq!(child.wait().expect("a status").code(), Some(130), "{rest}");
    assert!(!rest.contains("Batching"), "{rest}");
}
