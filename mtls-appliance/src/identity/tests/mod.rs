//! From a certificate to what the origin is told, over the whole way.

mod certificates;
mod chain;
mod development;
mod headers;
mod names;
