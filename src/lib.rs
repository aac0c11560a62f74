//! cbroker: terminal coding agents that talk to each other.
