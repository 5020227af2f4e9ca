//! Sessions in the kernel: hand-over, control records, splice.
