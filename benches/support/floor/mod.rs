//! The floors: servers that do nothing but what must be done.

pub(crate) mod bare;
pub(crate) mod raw;

use anyhow::Result;

use super::args::Serve;

/// Becomes the floor of that name; false when it is none.
pub(crate) fn serve(serve: &Serve) -> Result<bool> {
    match serve.name.as_str() {
        "bare write" => bare::serve(serve.payload, 1)?,
        "bare write of 10" => bare::serve(serve.payload, 10)?,
        "bare write of 64" => bare::serve(serve.payload, 64)?,
        "raw tokio" => raw::serve(serve.payload)?,
        _ => return Ok(false),
    }
    Ok(true)
}
