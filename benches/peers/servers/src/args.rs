//! The arguments.

use anyhow::{Context as _, Result, bail};

pub(crate) struct Args {
    pub(crate) name: String,
    pub(crate) port: u16,
    /// The port of a Redis that the messages go through.
    pub(crate) redis: Option<u16>,
}

impl Args {
    pub(crate) fn parse(mut args: impl Iterator<Item = String>) -> Result<Args> {
        let name = args.next().context("usage: peers NAME --port P [--redis PORT]")?;
        let (mut port, mut redis) = (None, None);
        while let Some(option) = args.next() {
            let mut number = || -> Result<u16> {
                let value = args.next().with_context(|| format!("{option} wants a port"))?;
                value.parse().with_context(|| format!("{option} {value}"))
            };
            match option.as_str() {
                "--port" => port = Some(number()?),
                "--redis" => redis = Some(number()?),
                _ => bail!("no option is called {option}"),
            }
        }
        Ok(Args { name, port: port.context("--port is missing")?, redis })
    }
}
