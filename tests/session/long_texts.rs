//! Texts that are too long: for a line, for a terminal that collects lines, and for the limit.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use cbroker::envelope::digest;

use crate::stage::{Stage, body, wait_for};

crate::tests![
    a_long_text_goes_by_file_and_pointer,
    a_terminal_that_collects_lines_gets_a_long_text_by_file,
    the_file_of_a_long_text_is_kept_for_seven_days,
    a_body_above_the_limit_is_a_dead_letter_and_is_not_sent,
];

/// The file that a delivered line names.
fn file_in(line: &str) -> PathBuf {
    let mut words = line.split_whitespace();
    let path = words.find(|word| word.contains("/spill/"));
    path.unwrap_or_else(|| panic!("no file in {line}")).into()
}

fn a_long_text_goes_by_file_and_pointer() {
    let stage = Stage::new();
    let _terminal = stage.sink(&[]);
    let whole = format!("{} the end", "x".repeat(60_000));
    stage.publish("peer", &body("whole", &whole));
    let spilled = "y".repeat(100_000);
    stage.publish("peer", &body("spilled", &spilled));
    let lines = stage.wait_for_messages(2);
    assert_eq!(
        lines[0],
        format!("[cbroker peer message from=tester id=whole] {whole} [end]")
    );
    let path = file_in(&lines[1]);
    assert_eq!(std::fs::read_to_string(&path).unwrap(), spilled);
    let name = path.file_name().unwrap().to_str().unwrap();
    assert!(name.starts_with("message-peer-spilled-"), "{name}");
    let proof = format!(" text_sha256={}] ", digest(spilled.as_bytes(), 12));
    assert!(lines[1].contains(&proof), "{}", lines[1]);
    // Its owner's alone; not even that one's to change, once it was delivered.
    let mode = || std::fs::metadata(&path).unwrap().permissions().mode() & 0o777;
    assert!([0o600, 0o400].contains(&mode()), "{:o}", mode());
    wait_for("the mark of a delivered text", || mode() == 0o400);
}

fn a_terminal_that_collects_lines_gets_a_long_text_by_file() {
    let stage = Stage::new();
    let script = "echo ready; while read -r line; do echo \"$line\" >> $STAGE/sink.txt; done";
    let terminal = stage.wrap(&["--delivery", "pty"], &["sh", "-c", script]);
    terminal.wait_for("ready");
    let text = "z".repeat(5000);
    stage.publish("peer", &body("long", &text));
    let lines = stage.wait_for_messages(1);
    assert!(lines[0].ends_with("[end]"), "{lines:?}");
    assert_eq!(std::fs::read_to_string(file_in(&lines[0])).unwrap(), text);
}

fn the_file_of_a_long_text_is_kept_for_seven_days() {
    let stage = Stage::new();
    let folder = stage.path("home/spill");
    std::fs::create_dir_all(&folder).unwrap();
    let of_days = |days: u64| {
        let path = folder.join(format!("message-peer-{days}.txt"));
        let written = SystemTime::now() - Duration::from_hours(days * 24);
        let file = std::fs::File::create(&path).unwrap();
        file.set_modified(written).unwrap();
        path
    };
    let (younger, older) = (of_days(6), of_days(8));
    let mut terminal = stage.wrap(&[], &["true"]);
    terminal.wait_for_end();
    assert!(younger.exists());
    assert!(!older.exists());
}

fn a_body_above_the_limit_is_a_dead_letter_and_is_not_sent() {
    let stage = Stage::new();
    stage.configure("body_limit_bytes = 2000\n");
    let _terminal = stage.sink(&[]);
    let long = "x".repeat(3000);
    let large = body("large", &long);
    stage.publish("peer", &large);
    stage.publish("peer", &body("good", "after it"));
    let lines = stage.wait_for_messages(1);
    assert!(lines[0].contains("id=good]"), "{lines:?}");
    let why = format!("the body has {} bytes; the limit is 2000", large.len());
    wait_for("the dead letter", || stage.dead_letters().contains(&why));
    let mut send = stage.cbroker(&["send", "--to", "peer", "-m", &long]);
    let output = send.output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{output:?}");
}
