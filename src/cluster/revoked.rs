//! Tokens that were taken back, for all instances to see.

use redis::Value;

use super::{
    BusError, Cluster,
    pipeline::{garbled, parse},
    script,
};

/// How many are read at once.
const PAGE: usize = 5_000;

/// Up to where somebody knows what has been taken back.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RevokedUpTo {
    /// Which count; empty: none has begun.
    pub epoch: String,
    /// The number of the last one.
    pub number: u64,
}

/// What has been taken back.
#[derive(Debug, Default)]
pub struct RevokedSince {
    /// The newest of all.
    pub last: RevokedUpTo,
    /// Each with its number, in order: what, and its moments.
    pub new: Vec<(u64, String, String)>,
    /// There are more.
    pub has_more: bool,
}

impl Cluster {
    /// Notes that something was taken back: what was issued up to a time, to be
    /// remembered until another, in seconds since 1970. False: `most` are
    /// remembered.
    ///
    /// # Errors
    /// If Redis does not answer.
    pub async fn revoke(&self, what: &str, before: u64, until: u64, most: usize) -> Result<bool, BusError> {
        let names = ["revoked", "revoked:ends", "revoked:last", "revoked:times"].map(|part| self.keys.instances(part));
        let keys = names.each_ref().map(String::as_str);
        let command = script::REVOKE.with(&keys, &[&what, &before, &until, &most, &crate::room::history::new_epoch()]);
        parse::<i64>(self.reader.one(command, keys[0]).await?).map(|number| number > 0)
    }

    /// What was noted behind a number; all of it, if that is of another count.
    ///
    /// # Errors
    /// If Redis does not answer.
    pub async fn revoked_since(&self, known: &RevokedUpTo) -> Result<RevokedSince, BusError> {
        let names = ["revoked", "revoked:last", "revoked:times"].map(|part| self.keys.instances(part));
        let keys = names.each_ref().map(String::as_str);
        let command = script::REVOKED.with(&keys, &[&known.epoch, &known.number, &PAGE]);
        let answer: Vec<Value> = parse(self.reader.one(command, keys[0]).await?)?;
        let [epoch, last, all] = answer.as_slice() else { return Err(garbled()) };
        let mut all = parse::<Vec<String>>(all.clone())?.into_iter();
        let mut new = Vec::new();
        while let (Some(what), Some(times), Some(number)) = (all.next(), all.next(), all.next()) {
            new.push((number.parse().map_err(|_| garbled())?, what, times));
        }
        let last = RevokedUpTo { epoch: parse(epoch.clone())?, number: parse(last.clone())? };
        Ok(RevokedSince { last, has_more: new.len() >= PAGE, new })
    }
}
