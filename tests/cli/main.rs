//! The real binary, verb by verb, including each feature that the TypeScript tool's README lists.
//!
//! Tests that use AMQP run against the embedded broker and, if there is one, against RabbitMQ
//! (`everywhere`).

#![allow(clippy::unwrap_used, reason = "a test may fail loudly")]

#[path = "../support/mod.rs"]
mod support;

mod agents;
mod agreement;
mod api_logins;
mod asking;
mod background_broker;
mod client;
mod costs;
mod crashes;
mod dead;
mod demo;
mod docker;
mod docker_engine;
mod docker_moves;
mod durations;
mod ends;
mod everywhere;
mod fake_engine;
mod fake_http;
mod fates;
mod few_rights;
mod first_steps;
mod folders;
mod foreign_listener;
mod forgers;
mod groups;
mod help;
mod inboxes;
mod lifecycle;
mod looking;
mod mcp;
mod moving;
mod passwords;
mod pausing;
mod remote;
mod screens;
mod sending;
mod serving;
mod sessions;
mod shells;
mod states;
mod strangers;
mod taking;
mod unbound;
mod usage;
