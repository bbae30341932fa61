//! The arguments of a bench.

use anyhow::{Context as _, Result, bail};

/// What the bench was started as.
pub(crate) enum Role {
    /// By hand or by `cargo bench`: run the load and print the figures.
    Measure(Options),
    /// By itself: be the stand-in server of that name.
    Serve(Serve),
    /// By `cargo test --benches`: a measurement is not a test.
    Skip,
}

#[derive(Clone, Debug)]
pub(crate) struct Options {
    /// Shorter phases and one round: shows that it runs, not what it costs.
    pub(crate) quick: bool,
    /// Only rows whose name contains this (and the floor).
    pub(crate) only: Option<String>,
    /// How often each row is measured; the medians are printed.
    pub(crate) rounds: Option<usize>,
    /// How long a load is held, where it is not so many messages.
    pub(crate) seconds: Option<u64>,
}

impl Options {
    pub(crate) fn wants(&self, name: &str) -> bool {
        self.only.as_deref().is_none_or(|part| name.contains(part))
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Serve {
    pub(crate) name: String,
    /// Bytes of the payload in each message.
    pub(crate) payload: usize,
}

/// `--bench` (from cargo) or `--quick` measures; `--serve NAME BYTES` serves.
pub(crate) fn role() -> Result<Role> {
    let mut options = Options { quick: false, only: None, rounds: None, seconds: None };
    let mut measure = false;
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--bench" => measure = true,
            "--quick" => (measure, options.quick) = (true, true),
            "--only" => options.only = Some(args.next().context("--only needs a name")?),
            "--rounds" => {
                options.rounds = Some(args.next().context("--rounds needs a count")?.parse()?);
            }
            "--seconds" => {
                options.seconds = Some(args.next().context("--seconds needs a count")?.parse()?);
            }
            "--serve" => {
                let name = args.next().context("--serve needs a name")?;
                let payload = args.next().context("--serve needs a payload length")?.parse()?;
                return Ok(Role::Serve(Serve { name, payload }));
            }
            other => bail!("unknown argument `{other}`: use --quick, --only NAME, --rounds N, --seconds N"),
        }
    }
    if measure {
        return Ok(Role::Measure(options));
    }
    println!("not measured: give --bench or --quick");
    Ok(Role::Skip)
}
