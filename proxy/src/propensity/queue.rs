use std::{collections::VecDeque, time::Duration};

use parking_lot::{Condvar, Mutex};

use super::line::Line;

/// Lines on their way to the thread that writes them.
#[derive(Debug)]
pub(super) struct Queue {
    state: Mutex<State>,
    /// There is something to write, or much of it, or somebody waits for it, or it is the end.
    wake: Condvar,
    /// Something was written.
    done: Condvar,
    most: usize,
}

#[derive(Debug, Default)]
struct State {
    lines: VecDeque<Line>,
    /// Since the beginning.
    pushed: u64,
    /// Of those, as many as have been written or given up.
    finished: u64,
    dropped: u64,
    flushing: usize,
    closed: bool,
}

impl Queue {
    pub(super) fn new(most: usize) -> Self {
        Self {
            state: Mutex::default(),
            wake: Condvar::new(),
            done: Condvar::new(),
            most,
        }
    }

    /// Hands a line over, or drops it where too many wait.
    pub(super) fn push(&self, line: Line) {
        let mut state = self.state.lock();
        if state.lines.len() >= self.most {
            state.dropped += 1;
            return;
        }
        state.lines.push_back(line);
        state.pushed += 1;
        // The thread is woken by the first one of many, and where it should not wait for more.
        if state.lines.len() == 1 || state.lines.len() == self.most / 2 {
            self.wake.notify_one();
        }
    }

    /// Waits until there are lines, and some time for more; returns nothing at the end.
    pub(super) fn pop_all(&self, into: &mut VecDeque<Line>, gather: Duration) -> bool {
        let mut state = self.state.lock();
        while state.lines.is_empty() {
            if state.closed {
                return false;
            }
            self.wake.wait(&mut state);
        }
        let hurried = |state: &mut State| {
            state.closed || state.flushing > 0 || state.lines.len() >= self.most / 2
        };
        self.wake
            .wait_while_for(&mut state, |state| !hurried(state), gather);
        std::mem::swap(&mut state.lines, into);
        true
    }

    /// Says that so many lines were written, and so many not.
    pub(super) fn finished(&self, written: usize, dropped: usize) {
        let mut state = self.state.lock();
        state.finished += (written + dropped) as u64;
        state.dropped += dropped as u64;
        self.done.notify_all();
    }

    /// Waits until all has been written that was handed over before; no longer than so long.
    pub(super) fn flush(&self, most: Duration) {
        let mut state = self.state.lock();
        let until = state.pushed;
        state.flushing += 1;
        self.wake.notify_one();
        self.done
            .wait_while_for(&mut state, |state| state.finished < until, most);
        state.flushing -= 1;
    }

    /// Lets the thread end when it has written everything.
    pub(super) fn close(&self) {
        self.state.lock().closed = true;
        self.wake.notify_one();
    }

    pub(super) fn dropped(&self) -> u64 {
        self.state.lock().dropped
    }
}
