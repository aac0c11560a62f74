//! A durable message store.
