//! The socket of the agent's hooks: who may speak there, and what its words may lead to.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::process::Command;

use cbroker::wrap::monitor::ChildStatus;

use crate::stage::{CBROKER, LIMIT, Stage, Terminal, wait_for};

crate::tests![
    whoever_does_not_know_the_token_is_no_hook,
    a_transcript_that_is_a_fifo_keeps_nobody_waiting,
];

fn with_draft(stage: &Stage, quirks: &str) -> Terminal {
    let command = [CBROKER, "--name", "peer", "claude"];
    let terminal = stage.terminal_with(&command, &[("AGENT", quirks)]);
    wait_for("the agent", || stage.text("agent.log").contains("started"));
    terminal.keys(b"half a draft");
    terminal.wait_for_screen("half a draft");
    terminal
}

fn whoever_does_not_know_the_token_is_no_hook() {
    // Any program that found the socket was given messages, and they were acked for the agent.
    let stage = Stage::new();
    let terminal = with_draft(&stage, "");
    let sockets = std::fs::read_dir(stage.path("home/sessions")).unwrap();
    let path = sockets
        .map(|entry| entry.unwrap().path())
        .find(|path| {
            let path = path.to_string_lossy();
            path.ends_with(".sock") && !path.ends_with(".p.sock")
        })
        .unwrap();
    let strangers = [
        "wait\n{}",
        "0123456789abcdef0123456789abcdef\nwait\n{}",
        "\nwait\n{}",
    ];
    let mut connections = strangers.map(|words| {
        let mut stranger = UnixStream::connect(&path).unwrap();
        stranger.set_read_timeout(Some(LIMIT)).unwrap();
        let length = u32::try_from(words.len()).unwrap();
        stranger.write_all(&length.to_be_bytes()).unwrap();
        stranger.write_all(words.as_bytes()).unwrap();
        stranger
    });
    let said = stage.send("peer", "for the agent", &["--wait", "--timeout", "120"]);
    for stranger in &mut connections {
        let mut heard = Vec::new();
        stranger.read_to_end(&mut heard).unwrap();
        assert_eq!(heard, b"", "{said}");
    }
    assert!(
        stage
            .text("agent.log")
            .contains("reminder [cbroker peer message"),
        "{said}"
    );
    terminal.close();
}

fn a_transcript_that_is_a_fifo_keeps_nobody_waiting() {
    // Opening it waited for a writer that never came, and the wrap could not end.
    let stage = Stage::new();
    let made = Command::new("mkfifo")
        .arg(stage.path("transcript.jsonl"))
        .status();
    assert!(made.unwrap().success());
    let mut terminal = with_draft(&stage, "forgetful");
    stage.send("peer", "by the hook", &[]);
    wait_for("the hook", || {
        let log = stage.text("home/logs/peer.log");
        log.contains("hook: the agent did not accept the text")
    });
    terminal.keys(b"\x15");
    terminal.submit("/exit");
    assert_eq!(terminal.wait_for_end(), ChildStatus::Exited(0));
}
