//! A wrapped session: one program in a pseudo-terminal, as if nothing stood between it and its terminal, and one
//! queue whose messages are typed into it when that is safe.
//!
//! | what | where |
//! |---|---|
//! | the program, its terminal, its stops and its end | [`pty`], [`monitor`] |
//! | the person's terminal | [`terminal`] |
//! | what the bytes mean | [`modes`] (output), [`keys`] (input), [`agents::reading`] (the drawn screen) |
//! | what is known of the agent | [`agents`] (always), [`attention`] (now) |
//! | when and how a line is typed | [`inject`]: pure, time as an argument |

pub mod agents;
pub mod attention;
pub mod hold;
pub mod inject;
pub mod keys;
pub mod modes;
pub mod monitor;
pub mod pty;
pub mod terminal;
