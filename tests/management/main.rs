//! The management API, its defences and the page, as tools, scripts and browsers meet them.
//!
//! Every test has a broker of its own on free ports; the HTTP client is written by hand so that it can lie.

#![allow(clippy::unwrap_used, reason = "a test may fail loudly")]

mod api;
mod browser;
mod definitions;
mod fields;
mod fixture;
mod http;
mod peeking;
mod peers;
mod revocation;
mod security;
mod tap;
mod tools;
mod webdriver;
