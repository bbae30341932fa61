//! How single values are written: in TOML, and in environment variables.

use std::time::Duration;

use toml::de::DeValue;

/// A value that can be read from TOML or from an environment variable.
pub(super) trait Value: Sized {
    /// Err: what is expected, as in "expected …".
    fn from_toml(value: &DeValue<'_>) -> Result<Self, String>;
    fn from_text(text: &str) -> Result<Self, String>;
}

impl Value for String {
    fn from_toml(value: &DeValue<'_>) -> Result<Self, String> {
        value.as_str().map(str::to_owned).ok_or_else(|| "a text in quotes".into())
    }
    fn from_text(text: &str) -> Result<Self, String> {
        Ok(text.to_owned())
    }
}

impl Value for bool {
    fn from_toml(value: &DeValue<'_>) -> Result<Self, String> {
        value.as_bool().ok_or_else(|| "true or false".into())
    }
    fn from_text(text: &str) -> Result<Self, String> {
        text.parse().map_err(|_| "true or false".into())
    }
}

impl Value for u64 {
    fn from_toml(value: &DeValue<'_>) -> Result<Self, String> {
        let number =
            value.as_integer().and_then(|integer| Self::from_str_radix(integer.as_str(), integer.radix()).ok());
        number.ok_or_else(|| "a whole number, zero or more".into())
    }
    fn from_text(text: &str) -> Result<Self, String> {
        text.parse().map_err(|_| "a whole number, zero or more".into())
    }
}

impl Value for f64 {
    fn from_toml(value: &DeValue<'_>) -> Result<Self, String> {
        match value {
            DeValue::Float(float) => Self::from_text(float.as_str()),
            DeValue::Integer(integer) => Self::from_text(integer.as_str()),
            _ => Self::from_text(""),
        }
    }
    fn from_text(text: &str) -> Result<Self, String> {
        text.parse().map_err(|_| "a number such as 0.01".into())
    }
}

impl Value for Duration {
    fn from_toml(value: &DeValue<'_>) -> Result<Self, String> {
        Self::from_text(value.as_str().unwrap_or_default())
    }
    fn from_text(text: &str) -> Result<Self, String> {
        humantime::parse_duration(text).map_err(|_| r#"a duration with its unit, such as "20ms", "5s" or "1m""#.into())
    }
}

/// So many things in so long, in the long run as at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// How many.
    pub count: u64,
    /// In this time.
    pub per: Duration,
}

impl Rate {
    /// How many a second in the long run.
    #[must_use]
    pub fn per_second(self) -> f64 {
        self.count as f64 / self.per.as_secs_f64()
    }
}

impl Value for Option<Rate> {
    fn from_toml(value: &DeValue<'_>) -> Result<Self, String> {
        Self::from_text(value.as_str().unwrap_or("?"))
    }
    fn from_text(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            return Ok(None);
        }
        let expected = || r#"a number and a time, such as "100/10s", or "" for none"#.to_owned();
        let (count, per) = text.split_once('/').ok_or_else(expected)?;
        let count = count.trim().parse().ok().filter(|count| *count > 0).ok_or_else(expected)?;
        let per = humantime::parse_duration(per.trim()).ok().filter(|per| !per.is_zero()).ok_or_else(expected)?;
        Ok(Some(Rate { count, per }))
    }
}

/// Whom a room tells of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JoinLeave {
    /// Nobody.
    Off,
    /// Each connection that comes and goes, as the clients' libraries count.
    Connections,
    /// Users: of the first connection that comes and the last that goes.
    Users,
}

impl Value for JoinLeave {
    fn from_toml(value: &DeValue<'_>) -> Result<Self, String> {
        match value.as_bool() {
            Some(true) => Ok(Self::Connections),
            Some(false) => Ok(Self::Off),
            None => Self::from_text(value.as_str().unwrap_or_default()),
        }
    }
    fn from_text(text: &str) -> Result<Self, String> {
        match text {
            "true" | "connections" => Ok(Self::Connections),
            "false" => Ok(Self::Off),
            "users" => Ok(Self::Users),
            _ => Err(r#"true, false, "connections" or "users""#.into()),
        }
    }
}

/// What somebody gets who comes to a room, or comes back to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Recovery {
    /// Nothing.
    Off,
    /// All that it has missed.
    Missed,
    /// The newest message.
    Cache,
}

impl Value for Recovery {
    fn from_toml(value: &DeValue<'_>) -> Result<Self, String> {
        match value.as_bool() {
            Some(true) => Ok(Self::Missed),
            Some(false) => Ok(Self::Off),
            None => Self::from_text(value.as_str().unwrap_or_default()),
        }
    }
    fn from_text(text: &str) -> Result<Self, String> {
        match text {
            "true" => Ok(Self::Missed),
            "false" => Ok(Self::Off),
            "cache" => Ok(Self::Cache),
            _ => Err(r#"true, false or "cache""#.into()),
        }
    }
}

/// A size in bytes, written with its unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Size(pub(super) usize);

impl Value for Size {
    fn from_toml(value: &DeValue<'_>) -> Result<Self, String> {
        Self::from_text(value.as_str().unwrap_or_default())
    }
    fn from_text(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let unit = match text[digits..].trim() {
            "B" => Some(1),
            "KiB" => Some(1 << 10),
            "MiB" => Some(1 << 20),
            "GiB" => Some(1 << 30),
            _ => None,
        };
        let number = text[..digits].parse::<usize>().ok();
        match (number, unit) {
            (Some(number), Some(unit)) => number.checked_mul(unit).map(Self),
            _ => None,
        }
        .ok_or_else(|| r#"a size with its unit (B, KiB, MiB, GiB), such as "64KiB""#.into())
    }
}

impl Value for Vec<String> {
    fn from_toml(value: &DeValue<'_>) -> Result<Self, String> {
        value
            .as_array()
            .and_then(|array| array.iter().map(|item| item.get_ref().as_str().map(str::to_owned)).collect())
            .ok_or_else(|| r#"a list of texts, such as ["a", "b"]"#.into())
    }
    fn from_text(text: &str) -> Result<Self, String> {
        Ok(text.split(',').map(str::trim).filter(|item| !item.is_empty()).map(str::to_owned).collect())
    }
}

pub(super) fn to_json(value: &DeValue<'_>) -> serde_json::Value {
    use serde_json::Value as Json;
    match value {
        DeValue::String(text) => Json::String(text.to_string()),
        DeValue::Integer(integer) => {
            i64::from_str_radix(integer.as_str(), integer.radix()).map_or(Json::Null, Json::from)
        }
        DeValue::Float(float) => float.as_str().parse::<f64>().map_or(Json::Null, Json::from),
        DeValue::Boolean(boolean) => Json::Bool(*boolean),
        DeValue::Datetime(datetime) => Json::String(datetime.to_string()),
        DeValue::Array(array) => array.iter().map(|item| to_json(item.get_ref())).collect(),
        DeValue::Table(table) => {
            table.iter().map(|(name, value)| (name.get_ref().to_string(), to_json(value.get_ref()))).collect()
        }
    }
}
