//! How much of something there may be, and of which.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
    time::Duration,
};

use tokio::time::Instant;

use super::{Rate, read::Table};

/// The commands that a rate can be for, by their names on the wire.
const COMMANDS: [&str; 11] = [
    "subscribe",
    "unsubscribe",
    "publish",
    "presence",
    "presence_stats",
    "history",
    "rpc",
    "send",
    "refresh",
    "sub_refresh",
    "ping",
];

/// Whose commands are counted together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RateOf {
    /// Those of one connection.
    Connection,
    /// Those of all connections of a user, on all instances.
    User,
    /// Those of all connections from one address, on this instance.
    Address,
}

/// `[[limits.rates]]`: how often somebody may ask for something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RateConfig {
    /// Whose.
    pub of: RateOf,
    /// Which commands, by their names on the wire.
    pub commands: Vec<String>,
    /// How many.
    pub rate: Rate,
}

pub(super) fn read(limits: &Table<'_>) -> Vec<RateConfig> {
    let mut rates = Vec::new();
    for table in limits.list("rates") {
        let of = table
            .choice("of", &[("connection", RateOf::Connection), ("user", RateOf::User), ("address", RateOf::Address)]);
        let commands: Vec<String> = table.required("commands").unwrap_or_default();
        for command in commands.iter().filter(|command| !COMMANDS.contains(&command.as_str())) {
            let known = COMMANDS.join(", ");
            table.wrong("commands", format!("`{command}` is not a command; expected some of {known}"));
        }
        let rate = table.required::<Option<Rate>>("rate").flatten();
        if rate.is_none() {
            table.wrong("rate", r#"expected a number and a time, such as "100/10s""#);
        }
        table.finish();
        if let Some(rate) = rate {
            rates.push(RateConfig { of, commands, rate });
        }
    }
    rates
}

/// What is left of a [`Rate`] at a moment.
#[derive(Debug, Clone, Copy)]
pub struct Level {
    left: f64,
    at: Instant,
}

impl Level {
    /// Nothing was taken.
    #[must_use]
    pub fn full(rate: Rate, now: Instant) -> Self {
        Self { left: rate.count as f64, at: now }
    }

    /// True if all of it is there again.
    #[must_use]
    pub fn is_full(&self, rate: Rate, now: Instant) -> bool {
        self.left + now.duration_since(self.at).as_secs_f64() * rate.per_second() >= rate.count as f64
    }

    /// Takes one.
    ///
    /// # Errors
    /// When there is one again.
    pub fn take(&mut self, rate: Rate, now: Instant) -> Result<(), Duration> {
        let refill = now.duration_since(self.at).as_secs_f64() * rate.per_second();
        self.left = (self.left + refill).min(rate.count as f64);
        self.at = now;
        if self.left >= 1.0 {
            self.left -= 1.0;
            return Ok(());
        }
        Err(Duration::from_secs_f64((1.0 - self.left) / rate.per_second()))
    }
}

/// What counts as one address: of the sixth version, a network of 64 bits,
/// since anybody has as many addresses of one as they like.
#[must_use]
pub fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from(u128::from(address) & !u128::from(u64::MAX)).into(),
        address @ IpAddr::V4(_) => address,
    }
}

/// Some addresses: `10.0.0.0/8`, or one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    bits: u8,
}

impl Network {
    /// True if an address is one of them.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.address, address.to_canonical()) {
            (IpAddr::V4(network), IpAddr::V4(address)) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(self.bits)).unwrap_or(0);
                u32::from(network) & mask == u32::from(address) & mask
            }
            (IpAddr::V6(network), IpAddr::V6(address)) => {
                let mask = u128::MAX.checked_shl(128 - u32::from(self.bits)).unwrap_or(0);
                u128::from(network) & mask == u128::from(address) & mask
            }
            _ => false,
        }
    }
}

impl FromStr for Network {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (address, bits) = text.split_once('/').map_or((text, None), |(address, bits)| (address, Some(bits)));
        let address: IpAddr = address.parse().map_err(|_| ())?;
        let all = if matches!(address, IpAddr::V4(_)) { 32 } else { 128 };
        let bits = bits.map_or(Ok(all), |bits| bits.parse().map_err(|_| ()))?;
        if bits > all { Err(()) } else { Ok(Self { address, bits }) }
    }
}

pub(super) fn read_networks(table: &Table<'_>, key: &'static str) -> Vec<Network> {
    let mut networks = Vec::new();
    for text in table.or::<Vec<String>>(key, Vec::new()) {
        match text.parse() {
            Ok(network) => networks.push(network),
            Err(()) => {
                let example = Ipv4Addr::new(10, 0, 0, 0);
                table.wrong(
                    key,
                    format!(r#"`{text}` is no address and no network; expected one such as "{example}/8""#),
                );
            }
        }
    }
    networks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_has_its_addresses_and_no_others() {
        let check = |network: &str, address: &str| {
            network.parse::<Network>().unwrap().contains(address.parse::<IpAddr>().unwrap())
        };
        assert!(check("10.0.0.0/8", "10.255.0.1") && !check("10.0.0.0/8", "11.0.0.1"));
        assert!(check("192.0.2.1", "192.0.2.1") && !check("192.0.2.1", "192.0.2.2"));
        assert!(check("0.0.0.0/0", "8.8.8.8") && !check("0.0.0.0/0", "2001:db8::1"));
        assert!(check("2001:db8::/32", "2001:db8:1::1") && !check("2001:db8::/32", "2001:db9::1"));
        assert!(check("10.0.0.0/8", "::ffff:10.1.1.1"));
        for wrong in ["", "10.0.0.0/33", "10.0.0/8", "::/129", "example.com"] {
            assert!(wrong.parse::<Network>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_was_taken_comes_back_with_time() {
        let (now, rate) = (Instant::now(), Rate { count: 2, per: Duration::from_secs(1) });
        let mut level = Level::full(rate, now);
        assert!(level.take(rate, now).is_ok() && level.take(rate, now).is_ok());
        assert_eq!(level.take(rate, now), Err(Duration::from_millis(500)));
        assert!(level.take(rate, now + Duration::from_millis(500)).is_ok());
    }
}
