//! The management API, its security and the page, as tools, scripts and browsers use them.
//!
//! Every test has its own broker on free ports. The HTTP client is written by hand, so that it can
//! send wrong headers.

#![allow(clippy::unwrap_used, reason = "a test may fail loudly")]

mod api;
mod archive;
mod attention;
mod browser;
mod conversation;
mod costs;
mod definitions;
mod fields;
mod fixture;
mod forgery;
mod glance;
mod held_port;
mod interrupted_deletions;
mod keyboard;
mod layout;
mod limits;
mod needs_you;
mod peeking;
mod peers;
mod revocation;
mod rights;
mod security;
mod sign_in;
#[path = "../support/mod.rs"]
mod support;
mod tap;
mod tools;
mod unsafe_requests;
mod webdriver;
mod words;

use support::http;
