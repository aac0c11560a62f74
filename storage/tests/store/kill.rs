//! `kill -9` at random moments under load, again and again on the same folder.

use std::process::Command;
use std::time::Duration;

use crate::child::{command, follow, length_of, options};
use crate::model::{Fate, Model, read_everything};
use crate::random::Random;
use crate::support::open_with;

/// Rounds in the suite, and the longest life of a child; `just soak` asks for more of both.
pub(crate) const ROUNDS: u64 = 12;
const LIFE_MS: u64 = 250;

fn asked(name: &str, usual: u64) -> u64 {
    std::env::var(name).map_or(usual, |number| number.parse().unwrap())
}

/// Runs a child to its end in each round, and checks what it leaves.
pub(crate) fn check_rounds(rounds: u64, calls: u64, mut run: impl FnMut(Command, u64)) {
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
