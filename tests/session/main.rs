//! What a wrapped session promises, on real pseudo-terminals and through a real broker.
//!
//! This program is its own cast: under the name `claude` it is the fake agent ([`agent`]), under
//! the name `sink` it writes down what is submitted to it ([`sink`]), and with a hidden verb it is
//! the monitor of a test's own terminal. So it has a main function of its own and a small runner
//! ([`runner`]) that takes the usual arguments.
//!
//! # Which test fails when a rule is taken out
//!
//! Each rule was taken out of the code by itself, and the tests named here are those that noticed,
//! or were written because none did. `rule_N_…` are unit tests of the pure machine in
//! `src/wrap/inject/tests*`; names with a file are unit tests of that file; the rest is in this
//! folder.
//!
//! | rule of delivery | tests |
//! |---|---|
//! | 1 a known, empty prompt | `rule_1_…`, `rule_2_a_running_turn_…`, `escape_in_a_turn_…`, `agents/reading.rs`, `a_dialog_is_never_answered_by_a_message` |
//! | 2 keys only at idle, kept and replayed | `rule_2_…`, `nothing_is_typed_before_the_intent_is_on_disk_…`, `keys_during_an_injection_come_after_it` |
//! | 3 paste, redraw, Enter, one more | `rule_3_…` (`enter.rs`), `a_slow_agent_…`, `an_enter_that_was_lost_…`, `a_text_that_was_swallowed_…` |
//! | 4 one at a time, batches | `rule_4_…`, `messages_arrive_whole_once_and_in_order` |
//! | 5, 6 the line, made safe | `envelope/line.rs`, `keyboard/text.rs`, `neither_control_c_…`, `hostile_texts_press_no_key`, `line_breaks_are_kept_on_request` |
//! | 7 a draft is sacred | `rule_7_…`, `keys.rs`, `agents/reading.rs`, `agents/line.rs`, `a_draft_holds_…` |
//! | 8 the hook | `rule_8_…` (`hook.rs`), `hooks.rs`, `a_draft_stays_and_the_hook_…`, `what_stands_in_no_transcript_…`, `one_waiter_waits_and_no_more`, `the_hooks_end_with_the_session` |
//! | 9 answers are no keys | `keys.rs`, `answers_of_the_terminal_reach_the_program` |
//! | 10 ready | `rule_10_…`, `without_hooks_the_screen_alone_decides_…` |
//! | 11 unknown programs, notify | `rule_11_…`, `agents/line.rs`, `notify_announces_and_the_inbox_reads`, `what_is_taken_from_the_inbox_is_delivered` |
//! | 12 arguments | `agents/arguments.rs`, `the_agents_own_arguments_are_kept`, `unbriefed_and_allowed_to_send`, `a_run_that_answers_…` |
//! | 13 suspension | `rule_13_…`, `a_stopped_program_stops_the_wrap_…`, `a_shell_stops_and_continues_…`, `an_agent_that_suspends_itself_…` |
//! | 14 reasons in words | `a_draft_holds_the_message_and_the_sender_hears_why`, `whoever_watches_hears_of_a_hold` |
//!
//! | promise of the wrap | tests |
//! |---|---|
//! | what executes its input | `nothing_is_typed_into_what_executes_its_input`, `notify_announces_…`, `in_shell_mode_nothing_is_typed`, `agents/mod.rs` |
//! | the reply hint | `envelope/parse.rs`, `envelope/line.rs`, `what_is_no_message_is_a_dead_letter_…` |
//! | the brake, pause | `brake.rs` in both places, `pause_holds_…`; the header: `tests/cli/sending.rs` |
//! | acks, intents, repeats, the lock | `a_message_that_was_injected_before_…`, `a_message_of_a_killed_wrap_…`, `messages_arrive_…`, `what_stands_in_no_transcript_…`, `seen.rs` |
//! | without hooks, `!`, vim | `without_hooks_…` in both places, `hooks.rs`, `shell_mode_and_vim_normal_mode_…`, `whoever_was_in_insert_mode_…`, `agents/reading.rs` |
//! | no second Enter, long lines | `rule_11_an_unknown_program_…`, `a_terminal_that_collects_lines_…`, `a_long_text_goes_by_file_and_pointer` |
//! | monitor, statuses, modes | `a_stopped_program_…`, `the_exit_code_comes_back_…`, `the_program_runs_in_our_folder`, `modes_that_the_program_left_on_…` |
//! | no terminal | `without_a_terminal_…`, `a_pipe_behind_the_wrap_…`, `a_run_that_answers_…` |
//! | answering | `the_program_is_told_who_it_is_and_no_secret` (the path), `unbriefed_and_allowed_to_send`, `probe/sandbox.rs` (the settings) |

#![allow(clippy::unwrap_used)]

mod agent;
mod brake;
mod child_env;
mod claude;
mod delivery;
mod faults;
mod floods;
mod hooks;
mod inbox;
mod launchers;
mod passthrough;
mod plugin;
mod removal;
mod runner;
mod scenes;
mod signals;
mod sink;
mod stage;
mod starting;

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    let mut arguments = std::env::args_os();
    let name = arguments.next().unwrap_or_default();
    let arguments: Vec<OsString> = arguments.collect();
    if let Some(code) = cbroker::wrap::hidden(&arguments) {
        return code.into();
    }
    match Path::new(&name).file_name().and_then(|name| name.to_str()) {
        Some("claude") => agent::run(&arguments),
        Some("codex") => agent::codex::run(),
        Some("gemini") => agent::gemini::run(),
        Some("sink") => sink::run(&arguments),
        _ => {
            signals::restore_defaults();
            runner::run(
                &[
                    passthrough::TESTS,
                    delivery::TESTS,
                    brake::TESTS,
                    claude::TESTS,
                    child_env::TESTS,
                    faults::TESTS,
                    floods::TESTS,
                    hooks::TESTS,
                    inbox::TESTS,
                    plugin::TESTS,
                    launchers::TESTS,
                    removal::TESTS,
                    scenes::TESTS,
                    starting::TESTS,
                ]
                .concat(),
                &arguments,
            )
        }
    }
}
