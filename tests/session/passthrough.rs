//! As if it were not there: bytes, size, signals, stops, codes and modes.

use rustix::process::Signal;

use cbroker::wrap::monitor::ChildStatus;

use crate::stage::{CBROKER, Stage, wait_for};

crate::tests![
    every_byte_passes_both_ways_unchanged,
    answers_of_the_terminal_reach_the_program,
    the_program_runs_in_our_folder,
    a_flood_of_output_arrives_whole_and_in_order,
    a_slow_line_gets_all_that_the_program_wrote_last,
    the_program_sees_the_window_and_every_change_of_it,
    the_exit_code_comes_back_and_a_signal_as_128_and_its_number,
    signals_to_the_wrap_go_to_the_program,
    keys_of_the_terminal_become_signals_in_the_program,
    a_stopped_program_stops_the_wrap_and_goes_on_with_it,
    a_shell_stops_and_continues_the_wrap_and_the_program_sees_the_window_of_then,
    a_shell_ends_a_job_that_is_stopped,
    modes_that_the_program_left_on_are_switched_off,
    the_terminal_is_as_before_after_every_end,
    the_terminal_is_as_before_after_a_signal_to_the_wrap,
    a_panic_of_the_session_gives_the_terminal_back_and_says_one_line,
    a_panic_beside_the_session_s_loop_is_in_the_log_and_the_session_goes_on,
    without_a_terminal_the_program_has_our_descriptors,
    a_pipe_behind_the_wrap_is_the_programs_own,
    the_program_is_told_who_it_is_and_no_secret,
    a_program_that_is_not_there_is_one_line_and_code_127,
    a_gate_without_its_monitor_does_not_wait,
    a_background_process_does_not_keep_the_wrap,
    keys_after_the_programs_end_are_the_shells,
    a_terminal_that_is_closed_closes_the_programs_too,
];

fn wrapped(stage: &Stage, script: &str) -> crate::stage::Terminal {
    stage.wrap(&[], &["sh", "-c", script])
}

fn every_byte_passes_both_ways_unchanged() {
    let stage = Stage::new();
    let mut terminal = wrapped(
        &stage,
        "stty raw -echo; printf ready; head -c 256 | od -An -v -tx1 | tr -d ' \\n'; printf end; \
         head -c 256 $STAGE/all",
    );
    let all: Vec<u8> = (0..=255).collect();
    std::fs::write(stage.path("all"), &all).unwrap();
    terminal.wait_for("ready");
    terminal.keys(&all);
    terminal.wait_for("end");
    assert_eq!(terminal.wait_for_end(), ChildStatus::Exited(0));
    let hex: String = all
        .iter()
        .fold(String::new(), |hex, byte| hex + &format!("{byte:02x}"));
    assert!(terminal.shown().contains(&hex));
    wait_for("all bytes", || {
        terminal.output().windows(256).any(|window| window == all)
    });
}

fn answers_of_the_terminal_reach_the_program() {
    let stage = Stage::new();
    let answers = b"\x1b[?62;22c\x1b[I\x1b]11;rgb:0/0/0\x07\x1b[<0;1;1M";
    let script = format!(
        "stty raw -echo; printf ready; head -c {} | od -An -v -c | tr -d ' \\n'; printf end",
        answers.len()
    );
    let terminal = wrapped(&stage, &script);
    terminal.wait_for("ready");
    terminal.keys(answers);
    terminal.wait_for("end");
    terminal.wait_for("033[?62;22c033[I033]11;rgb:0/0/0\\a033[<0;1;1M");
}

fn the_program_runs_in_our_folder() {
    let stage = Stage::new();
    std::fs::create_dir(stage.path("here")).unwrap();
    let script = format!("cd $STAGE/here && {CBROKER} --name peer run -- pwd");
    let mut terminal = stage.terminal(&["sh", "-c", &script]);
    assert_eq!(terminal.wait_for_end(), ChildStatus::Exited(0));
    let folder = stage.path("here").canonicalize().unwrap();
    terminal.wait_for(folder.to_str().unwrap());
}

fn a_shell_stops_and_continues_the_wrap_and_the_program_sees_the_window_of_then() {
    // While the shell has the foreground, nobody tells the wrap of a new size.
    let stage = Stage::new();
    let terminal = stage.terminal(&["bash", "--norc", "-i"]);
    let program = "sh -c 'while read -r word; do stty size; done'";
    terminal.keys(format!("{CBROKER} --name peer run -- {program}\r").as_bytes());
    wait_for("the session", || {
        stage.text("home/logs/peer.log").contains("session ")
    });
    terminal.keys(b"first\r");
    terminal.wait_for("24 100");
    terminal.keys(b"\x1a");
    terminal.wait_for("Stopped");
    terminal.keys(b"echo sh''ell\r");
    terminal.wait_for("shell\r\n");
    terminal.resize(30, 90);
    let before = terminal.shown().matches(program).count();
    terminal.keys(b"fg\r");
    wait_for("the shell to name what it continues", || {
        terminal.shown().matches(program).count() > before
    });
    terminal.keys(b"second\r");
    terminal.wait_for("30 90");
    terminal.close();
}

fn a_shell_ends_a_job_that_is_stopped() {
    // Continued in the background, the wrap took the terminal, which stopped it again.
    for is_stopped_alone in [false, true] {
        let stage = Stage::new();
        let terminal = stage.terminal(&["bash", "--norc", "-i"]);
        std::fs::write(
            stage.path("program"),
            "ps -o ppid= -p $PPID > $STAGE/wrap; echo it is $((40+2)); sleep 600",
        )
        .unwrap();
        let wrapped = format!("{CBROKER} --name peer run -- sh $STAGE/program\r");
        terminal.keys(wrapped.as_bytes());
        terminal.wait_for("it is 42");
        if is_stopped_alone {
            let wrap = stage.text("wrap").trim().parse().unwrap();
            let wrap = rustix::process::Pid::from_raw(wrap).unwrap();
            rustix::process::kill_process(wrap, Signal::STOP).unwrap();
        } else {
            terminal.keys(b"\x1a");
        }
        terminal.wait_for("Stopped");
        terminal.keys(b"kill %1\r");
        wait_for("the program's end", || {
            let log = stage.text("home/logs/peer.log");
            log.contains("the program was ended by signal 15")
        });
        terminal.keys(b"wait; echo the shell goes $((40+2))\r");
        terminal.wait_for("the shell goes 42");
        assert!(!terminal.shown().contains("tty output"));
        terminal.close();
    }
}

fn a_flood_of_output_arrives_whole_and_in_order() {
    let stage = Stage::new();
    let mut terminal = wrapped(&stage, "stty -opost; seq 1 300000");
    assert_eq!(terminal.wait_for_end(), ChildStatus::Exited(0));
    let expected: String = (1..=300_000).fold(String::new(), |text, number| {
        text + &number.to_string() + "\n"
    });
    wait_for("all lines", || terminal.output().len() >= expected.len());
    assert!(terminal.shown() == expected);
}

fn a_slow_line_gets_all_that_the_program_wrote_last() {
    // A second after the program's end the rest was dropped, however steadily the terminal took it.
    let stage = Stage::new();
    let mut terminal = wrapped(&stage, "stty -opost; echo ready; read -r go; seq 1 10000");
    terminal.wait_for("ready");
    terminal.slow_down();
    terminal.keys(b"\r");
    assert_eq!(terminal.wait_for_end(), ChildStatus::Exited(0));
    wait_for("the last line", || terminal.shown().ends_with("\n10000\n"));
}

fn the_program_sees_the_window_and_every_change_of_it() {
    let stage = Stage::new();
    let mut terminal = wrapped(
        &stage,
        "stty size; trap 'stty size; exit' WINCH; echo ready; while :; do sleep 0.05; done",
    );
    terminal.wait_for("24 100");
    terminal.wait_for("ready");
    terminal.resize(30, 90);
    terminal.wait_for("30 90");
    terminal.wait_for_end();
}

fn the_exit_code_comes_back_and_a_signal_as_128_and_its_number() {
    let stage = Stage::new();
    for (script, code) in [
        ("exit 0", 0),
        ("exit 7", 7),
        ("exit 255", 255),
        ("kill -TERM $$", 143),
        ("kill -SEGV $$", 139),
        ("kill -KILL $$", 137),
    ] {
        assert_eq!(
            wrapped(&stage, script).wait_for_end(),
            ChildStatus::Exited(code),
            "{script}"
        );
    }
}

fn signals_to_the_wrap_go_to_the_program() {
    let stage = Stage::new();
    for (signal, name, code) in [
        (Signal::TERM, "TERM", 31),
        (Signal::HUP, "HUP", 32),
        (Signal::INT, "INT", 33),
    ] {
        let script = format!(
            "trap 'echo got {name}; exit {code}' {name}; echo ready; while :; do sleep 0.05; done"
        );
        let mut terminal = wrapped(&stage, &script);
        terminal.wait_for_start();
        terminal.wait_for("ready");
        terminal.signal(signal);
        assert_eq!(terminal.wait_for_end(), ChildStatus::Exited(code), "{name}");
    }
}

fn keys_of_the_terminal_become_signals_in_the_program() {
    let stage = Stage::new();
    for (key, code) in [(b"\x03", 130), (b"\x1c", 131)] {
        let mut terminal = wrapped(&stage, "echo ready; exec sleep 60");
        terminal.wait_for("ready");
        terminal.keys(key);
        assert_eq!(terminal.wait_for_end(), ChildStatus::Exited(code));
    }
}

fn a_stopped_program_stops_the_wrap_and_goes_on_with_it() {
    let stage = Stage::new();
    let mut terminal = wrapped(&stage, "echo ready; exec cat");
    terminal.wait_for_start();
    terminal.wait_for("ready");
    for word in ["one", "two"] {
        assert!(terminal.is_raw());
        terminal.keys(b"\x1a");
        let stopped = terminal.wait_for_report(|report| matches!(report, ChildStatus::Stopped(_)));
        assert_eq!(stopped, ChildStatus::Stopped(Signal::TSTP.as_raw()));
        assert!(!terminal.is_raw(), "a shell must find its own modes");
        terminal.foreground();
        wait_for("raw modes again", || terminal.is_raw());
        terminal.keys(format!("{word}\r").as_bytes());
        terminal.wait_for(&format!("{word}\r\n{word}\r\n"));
    }
    terminal.keys(b"\x04");
    assert_eq!(terminal.wait_for_end(), ChildStatus::Exited(0));
}

fn modes_that_the_program_left_on_are_switched_off() {
    let stage = Stage::new();
    let mut terminal = wrapped(
        &stage,
        "printf '\\033[?1049h\\033[?25l\\033[?2004h\\033[>1u'; kill -KILL $$",
    );
    terminal.wait_for_end();
    terminal.wait_for("\x1b[<1u\x1b[?2004l\x1b[?1049l\x1b[?25h");
}

fn the_terminal_is_as_before_after_every_end() {
    let stage = Stage::new();
    for script in ["true", "stty raw -echo", "kill -KILL $$"] {
        let mut terminal = wrapped(&stage, script);
        terminal.wait_for_end();
        assert!(!terminal.is_raw(), "{script}");
    }
}

fn the_terminal_is_as_before_after_a_signal_to_the_wrap() {
    let stage = Stage::new();
    for signal in [Signal::TERM, Signal::HUP, Signal::INT, Signal::QUIT] {
        let script = "printf '\\033[?25lready'; exec sleep 60";
        let mut terminal = wrapped(&stage, script);
        terminal.wait_for_start();
        terminal.wait_for("ready");
        assert!(terminal.is_raw());
        terminal.signal(signal);
        let code = 128 + signal.as_raw();
        assert_eq!(terminal.wait_for_end(), ChildStatus::Exited(code));
        assert!(!terminal.is_raw(), "{signal:?}");
        terminal.wait_for("\x1b[?25h");
    }
}

/// A wrap that panics at this point; `None` where this build has no such points.
fn panicking(stage: &Stage, point: &str, script: &str) -> Option<crate::stage::Terminal> {
    if !cfg!(debug_assertions) {
        eprintln!("skipped: only debug builds panic on request");
        return None;
    }
    let more = [("CBROKER_TEST_PANIC", point)];
    Some(stage.wrap_with(&[], &["sh", "-c", script], &more))
}

fn a_panic_of_the_session_gives_the_terminal_back_and_says_one_line() {
    let stage = Stage::new();
    let script = "printf '\\033[?1049h\\033[?2004hready'; exec sleep 60";
    let Some(mut terminal) = panicking(&stage, "key", script) else {
        return;
    };
    terminal.wait_for("ready");
    assert!(terminal.is_raw());
    terminal.keys(b"x");
    assert_eq!(terminal.wait_for_end(), ChildStatus::Exited(1));
    assert!(!terminal.is_raw());
    terminal.wait_for(")\r\n");
    let shown = terminal.shown();
    let (_, after) = shown.split_once("ready").unwrap();
    let (resets, said) = after.split_once("cbroker: ").unwrap();
    assert_eq!(resets, "\x1b[?2004l\x1b[?1049l");
    assert!(said.starts_with("internal error: asked for"), "{said}");
    assert!(
        said.ends_with(")\r\n") && said.lines().count() == 1,
        "{said}"
    );
}

fn a_panic_beside_the_session_s_loop_is_in_the_log_and_the_session_goes_on() {
    let stage = Stage::new();
    let Some(mut terminal) = panicking(&stage, "screen", "printf ready; read -r line; exit 7")
    else {
        return;
    };
    terminal.wait_for("ready");
    let asked = stage.cbroker(&["screen", "peer"]).output().unwrap();
    assert_eq!(asked.status.code(), Some(1), "{asked:?}");
    wait_for("the panic in the log", || {
        let log = stage.text("home/logs/peer.log");
        log.contains("internal error: asked for")
    });
    assert!(terminal.is_raw());
    assert!(
        !terminal.shown().contains("internal"),
        "{}",
        terminal.shown()
    );
    terminal.keys(b"\r");
    assert_eq!(terminal.wait_for_end(), ChildStatus::Exited(7));
}

fn without_a_terminal_the_program_has_our_descriptors() {
    let stage = Stage::new();
    let output = stage
        .cbroker(&[
            "--name",
            "peer",
            "run",
            "--",
            "sh",
            "-c",
            "test -t 0 || echo no terminal; cat >&2; exit 5",
        ])
        .stdin(std::fs::File::open("/dev/null").unwrap())
        .output()
        .unwrap();
    assert_eq!(output.stdout, b"no terminal\n");
    assert_eq!(output.status.code(), Some(5));
    assert_eq!(stage.waiting("peer"), 0, "its queue is there");
}

fn a_pipe_behind_the_wrap_is_the_programs_own() {
    let stage = Stage::new();
    let script =
        format!("{CBROKER} --name peer run -- sh -c 'test -t 1 || echo no terminal' | cat");
    let mut terminal = stage.terminal(&["sh", "-c", &script]);
    terminal.wait_for_end();
    terminal.wait_for("no terminal");
}

fn the_program_is_told_who_it_is_and_no_secret() {
    let stage = Stage::new();
    let mut terminal = wrapped(
        &stage,
        "env; echo; cat $CBROKER_HOME/sessions/$CBROKER_SESSION.cred; \
         stat -c %a $CBROKER_HOME/sessions/$CBROKER_SESSION.cred; \
         command -v cbroker",
    );
    terminal.wait_for_end();
    let shown = terminal.shown();
    assert!(
        shown.contains("CBROKER_NAME=peer\r\n") && shown.contains("CBROKER_SESSION=01"),
        "{shown}"
    );
    let (environment, credentials) = shown.split_once("\r\n\r\n").unwrap();
    assert!(
        environment.contains("CBROKER_URL=amqp://tester@127.0.0.1")
            && !environment.contains("secret"),
        "{environment}"
    );
    assert!(
        credentials.contains("amqp://tester:secret@127.0.0.1") && credentials.contains("600\r\n"),
        "{credentials}"
    );
    assert!(
        credentials.contains(CBROKER),
        "the program finds this cbroker"
    );
    let left: Vec<_> = std::fs::read_dir(stage.path("home/sessions"))
        .unwrap()
        .flatten()
        .map(|entry| entry.file_name())
        .collect();
    assert!(
        !left
            .iter()
            .any(|name| name.to_string_lossy().ends_with(".cred")),
        "{left:?}"
    );
}

fn a_program_that_is_not_there_is_one_line_and_code_127() {
    let stage = Stage::new();
    let output = stage
        .cbroker(&["--name", "peer", "run", "--", "no-such-program"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(127));
    assert_eq!(
        String::from_utf8_lossy(&output.stderr),
        "cbroker: no-such-program cannot be run: there is no such program on the PATH\n\
         hint: check the name, or name its file: cbroker --name NAME run -- \
         /PATH/TO/no-such-program\n"
    );
}

fn a_gate_without_its_monitor_does_not_wait() {
    // A wrap killed in its first milliseconds left a stopped process behind, for ever.
    let mut gate = std::process::Command::new(CBROKER)
        .args(["__gate", "sh", "-c", "exit 0"])
        .spawn()
        .unwrap();
    let mut status = None;
    wait_for("the gate's end", || {
        status = gate.try_wait().unwrap();
        status.is_some()
    });
    assert!(!status.unwrap().success(), "the program was not run");
}

fn a_background_process_does_not_keep_the_wrap() {
    let stage = Stage::new();
    let mut terminal = wrapped(&stage, "sleep 60 & echo bye");
    assert_eq!(terminal.wait_for_end(), ChildStatus::Exited(0));
    terminal.wait_for("bye");
}

fn a_terminal_that_is_closed_closes_the_programs_too() {
    // vim at its question about a swap file ignored the hang-up and stayed for ever, and the wrap
    // with it.
    let stage = Stage::new();
    let script = "trap '' HUP; echo $$ > $STAGE/pid; echo ready; while read line; do :; done; \
                  echo over > $STAGE/over";
    let terminal = wrapped(&stage, script);
    terminal.wait_for("ready");
    terminal.close();
    wait_for("the program's own end", || stage.text("over") == "over\n");
}

fn keys_after_the_programs_end_are_the_shells() {
    // While the last output was waited for, the command that a person typed ahead was read and
    // thrown away.
    let stage = Stage::new();
    let program = "sh -c '(trap \"\" HUP; exec sleep 20) & echo started'";
    let script = format!("{CBROKER} --name peer run -- {program}; read -r next; echo got:$next:");
    let terminal = stage.terminal(&["sh", "-c", &script]);
    wait_for("the program's end", || {
        stage
            .text("home/logs/peer.log")
            .contains("the program exited with 0")
    });
    terminal.keys(b"ahead\n");
    terminal.wait_for("got:ahead:");
}
