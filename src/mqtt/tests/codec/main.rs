//! The codec, judged through its public edge: tables of packets that must and must not be
//! accepted, written by hand from the two specifications; properties that hold for any packet and
//! for any bytes; and a second opinion.

#![cfg(test)]

mod common;

mod acks;
mod connect;
mod differential;
mod encode;
mod facts;
mod fixed_header;
mod matrix;
mod publish;
mod roundtrip;
mod server_packets;
mod streaming;
mod subscribe;
mod topics;
