#![no_std]
//! Types, names and limits shared by the XDP program and userspace.
