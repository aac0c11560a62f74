//! Modes of the fake agent in which keys are no text: vim's NORMAL mode and the trust dialog.
//!
//! Relies on the agent's state.

use std::sync::mpsc::Receiver;

use super::input::{Key, Parser};
use super::{Agent, Happening, State};

impl Agent {
    /// A key in vim's NORMAL mode.
    pub(super) fn command(&mut self, key: &Key) {
        match key {
            Key::Text(letter) if letter == "i" => self.is_normal = false,
            Key::Escape => {}
            key => self.note(&format!("command {key:?}")),
        }
    }

    /// The trust dialog at the start: Enter ends the agent, as its first answer is "No, exit".
    pub(super) fn ask_for_trust(&mut self, hear: &Receiver<Happening>) {
        self.state = State::Trust;
        self.draw();
        self.note("asks for trust");
        let mut parser = Parser::default();
        while let Ok(happening) = hear.recv() {
            let Happening::Bytes(bytes) = happening else {
                continue;
            };
            for key in parser.read(&bytes) {
                match key {
                    Key::Text(text) if text == "2" => {
                        self.state = State::Idle;
                        return self.draw();
                    }
                    key => self.note(&format!("distrusted {key:?}")),
                }
            }
        }
    }
}
