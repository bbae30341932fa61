//! As much of Redis's protocol as the relay needs.

use std::io::Write as _;

use anyhow::{Context as _, Result, bail};

/// Puts a command behind what is there.
pub(super) fn command<const PARTS: usize>(commands: &mut Vec<u8>, parts: [&[u8]; PARTS]) {
    head(commands, '*', PARTS);
    for part in parts {
        head(commands, '$', part.len());
        commands.extend_from_slice(part);
        commands.extend_from_slice(b"\r\n");
    }
}

fn head(commands: &mut Vec<u8>, sign: char, length: usize) {
    write!(commands, "{sign}{length}\r\n").expect("memory takes all");
}

/// What a subscriber is told.
pub(super) struct Push<'a> {
    pub(super) parts: [&'a [u8]; 3],
    /// Of all of it, in bytes.
    pub(super) length: usize,
}

/// The first one of `bytes`, when all of it is there.
pub(super) fn push(bytes: &[u8]) -> Result<Option<Push<'_>>> {
    let mut rest = bytes;
    match line(&mut rest) {
        Some(b"*3") => {}
        Some(other) => bail!("Redis says {}", other.escape_ascii()),
        None => return Ok(None),
    }
    let mut parts = [[].as_slice(); 3];
    for part in &mut parts {
        match item(&mut rest)? {
            Some(item) => *part = item,
            None => return Ok(None),
        }
    }
    Ok(Some(Push { parts, length: bytes.len() - rest.len() }))
}

/// A string, or a number as it is written.
fn item<'a>(rest: &mut &'a [u8]) -> Result<Option<&'a [u8]>> {
    match line(rest).map(<[u8]>::split_first) {
        None => Ok(None),
        Some(Some((b':', number))) => Ok(Some(number)),
        Some(Some((b'$', length))) => {
            let length: usize = str::from_utf8(length)?.parse().context("a length of Redis")?;
            // With the end of the line.
            let whole = rest.split_off(..length + 2);
            Ok(whole.map(|whole| &whole[..length]))
        }
        Some(_) => bail!("Redis sends something else than strings and numbers"),
    }
}

fn line<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let end = rest.windows(2).position(|end| end == b"\r\n")?;
    let line = &rest[..end];
    *rest = &rest[end + 2..];
    Some(line)
}
