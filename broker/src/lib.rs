//! An AMQP 0-9-1 server.

pub mod exchange;
pub mod queue;
pub mod wire;
