//! An AMQP 0-9-1 server.

pub mod exchange;
pub mod persist;
pub mod queue;
pub mod tls;
pub mod users;
pub mod wire;
