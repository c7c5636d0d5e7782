//! End to end: the published Weave trace server and Weave's own Python client at the other ends.
//!
//! `tests/weave/setup.sh` installs them below `.cache`; without them these tests say that they are
//! skipped, or fail if `WEAVE_WAL_NO_SKIP` is 1; with 0 they are skipped in any case.
#![allow(missing_docs, clippy::unwrap_used)]

#[path = "weave/helpers.rs"]
mod helpers;
#[path = "weave/proxy.rs"]
mod proxy;
#[path = "weave/server.rs"]
mod server;

#[path = "weave/kinds.rs"]
mod kinds;
#[path = "weave/large.rs"]
mod large;
#[path = "weave/modes.rs"]
mod modes;
#[path = "weave/odd.rs"]
mod odd;
#[path = "weave/python.rs"]
mod python;
#[path = "weave/sidecar.rs"]
mod sidecar;
#[path = "weave/together.rs"]
mod together;
