//! `weft version`.

use crate::{exit::Failure, output};

/// `weft version`
pub fn run() -> Result<(), Failure> {
    output::print(concat!("weft ", env!("CARGO_PKG_VERSION"), "\n"))
}
