//! The front as its peers see it: real packets through a real store, without TLS but where that is
//! what is tested.

mod client;
mod ends;
mod flows;
mod free;
mod rules;
mod tls;
mod world;
