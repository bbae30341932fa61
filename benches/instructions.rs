//! What the hot paths cost in instructions: does one of them as often as asked,
//! on one thread and alike each time, for `tests/instructions` to count.
//!
//! What twice as many cost more is the cost of so many: that leaves out the
//! start. No time is taken here, and none plays a part.

mod paths;
mod support;

use std::env;

use anyhow::{Context as _, Result, bail};

// As the program has it.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> Result<()> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        [] | ["--bench" | "--test", ..] => {
            println!("instructions: not counted here; `make test-instructions` does");
            Ok(())
        }
        ["--prepare"] => paths::prepare(),
        ["--list"] => {
            paths::ALL.iter().for_each(|path| println!("{} {}", path.name, path.count));
            Ok(())
        }
        [name, count] => {
            let path = paths::ALL.iter().find(|path| path.name == name);
            let path = path.with_context(|| format!("there is no path `{name}`; --list names them"))?;
            (path.run)(count.parse().with_context(|| format!("`{count}` is no count"))?)
        }
        _ => bail!("expected PATH COUNT, --list or --prepare"),
    }
}
