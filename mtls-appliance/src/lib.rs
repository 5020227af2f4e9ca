//! The appliance as a library, so that tests and tools drive the same code as the binary.
