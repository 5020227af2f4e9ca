//! The XDP guard program.
#![no_std]
#![no_main]
