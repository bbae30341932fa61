//! See Cargo.toml: there is nothing to build here.
