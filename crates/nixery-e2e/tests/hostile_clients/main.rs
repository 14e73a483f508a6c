//! Clients that take whatever they get: the real server keeps answering the others, within its
//! memory and file descriptors.
//!
//! Each group of clients has addresses of its own (`127.0.0.0/8` is all loopback), because limits
//! are for each address.

mod claims;
mod client;
mod fairness;
mod load;
mod requests;
mod streams;

use std::net::Ipv4Addr;

/// The seed of the random requests; a run that fails can be repeated with it.
const SEED: u64 = 20_261_201;

/// The n-th address of a group of clients, from 1.
fn address(group: u8, number: usize) -> Ipv4Addr {
    let number = u8::try_from(number).expect("at most 255 addresses of a group");
    Ipv4Addr::new(127, 0, group, number)
}
