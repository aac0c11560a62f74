//! `kill -9` at random moments under load, and memory that runs out, again and again on the same
//! folder.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::child::{MEMORY, command, follow, length_of, options};
use crate::model::{Fate, Model, read_everything};
use crate::random::Random;
use crate::support::{LIMIT, open_with};

/// Rounds in the suite, and the longest life of a child; `just soak` asks for more of both.
const ROUNDS: u64 = 12;
const LIFE_MS: u64 = 250;

fn asked(name: &str, usual: u64) -> u64 {
    std::env::var(name).map_or(usual, |number| number.parse().unwrap())
}

/// Runs a child to its end in each round, and checks what it leaves.
fn check_rounds(rounds: u64, calls: u64, mut run: impl FnMut(Command, u64)) {
    let folder = tempfile::tempdir().unwrap();
    let mut model = Model::default();
    for round in 0..rounds {
        run(command(folder.path(), round + 1, calls), round);

        let journal = std::fs::read_to_string(folder.path().join("journal")).unwrap_or_default();
        let durable = follow(&journal, &mut model);
        let (opened, _progress) = open_with(&folder.path().join("store"), options());
        assert_eq!(opened.report.losses, [""; 0], "in round {round}");
        model.check(&opened, durable, length_of);
        // What was found is where the next round begins.
        for (queue, messages) in &mut model.queues {
            let found = read_everything(&opened, *queue, length_of);
            messages.clear();
            messages.extend(found.into_iter().map(|number| (number, Fate::Appended(0))));
        }
        opened.store.close().unwrap();
        let _ = std::fs::remove_file(folder.path().join("journal"));
    }
}

#[test]
fn nothing_confirmed_is_lost_when_the_process_is_killed() {
    let rounds = asked("CBROKER_SOAK_ROUNDS", ROUNDS);
    let life_ms = asked("CBROKER_SOAK_LIFE_MS", LIFE_MS);
    let mut random = Random(0x5EED);
    check_rounds(rounds, u64::MAX, |mut command, _| {
        let mut child = command.spawn().unwrap();
        // At any moment, the opening included.
        std::thread::sleep(Duration::from_millis(random.below(life_ms)));
        child.kill().unwrap();
        child.wait().unwrap();
    });
}

/// A failing allocation ends the process wherever it is.
#[test]
fn nothing_confirmed_is_lost_when_memory_runs_out() {
    let mut died = 0;
    check_rounds(ROUNDS, 600, |mut command, round| {
        let more = round * (64 << 10);
        let command = command.env(MEMORY, more.to_string());
        let mut child = command.stderr(Stdio::null()).spawn().unwrap();
        let until = Instant::now() + LIMIT;
        let ended = loop {
            if let Some(ended) = child.try_wait().unwrap() {
                break ended;
            }
            if Instant::now() > until {
                // One that is stuck in a library counts as killed.
                child.kill().unwrap();
            }
            std::thread::sleep(Duration::from_millis(5));
        };
        died += u64::from(!ended.success());
    });
    assert!(died > 0, "memory ran out in no round");
}
