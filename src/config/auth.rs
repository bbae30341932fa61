//! `[auth]`: who may connect, and whose tokens are believed.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use jsonwebtoken::Algorithm;

use super::{Secret, read::Table, secs};
use crate::{
    auth::{
        self, Key,
        keys::{self, ALGORITHMS},
    },
    dial,
};

/// `[auth]`: who may connect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuthConfig {
    /// Connections without a token are let in, as nobody in particular.
    pub anonymous: bool,
    /// Plugins whose `authenticate` hook is asked, in this order, before tokens.
    pub plugins: Vec<String>,
    /// How long somebody may stay whose token has ended, to send another.
    pub refresh_grace: Duration,
    /// Whose tokens are believed.
    pub jwt: Vec<Jwt>,
}

/// `[auth.jwt]`, or one `[[auth.jwt]]` of several: an issuer of JSON web tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Jwt {
    /// What checks its tokens.
    pub keys: KeySource,
    /// What its keys may be used with; never empty.
    pub algorithms: Vec<Algorithm>,
    /// The shared secret, if it is one; who has it can make tokens.
    pub secret: Option<Secret>,
    /// Files that were read; a change there is a change of the config.
    pub files: Vec<PathBuf>,
    /// Required `aud`, if any.
    pub audience: Option<String>,
    /// Required `iss`, if any; each of several has one.
    pub issuer: Option<String>,
    /// How far clocks may be apart.
    pub leeway: Duration,
    /// Why keys of a set are not used; for the log, once they are in force.
    pub unusable: Vec<String>,
}

/// Where keys are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeySource {
    /// In the config, or in a file beside it.
    Fixed(Vec<Key>),
    /// They are fetched.
    Url(JwksUrl),
}

/// `jwks_url` and how it is fetched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JwksUrl {
    /// With https, or http to this machine.
    pub url: String,
    /// PEM: whom to trust instead of public authorities.
    pub authorities: Option<String>,
    /// How old keys become before they are fetched anew.
    pub refresh: Duration,
    /// How long after a fetch there is no other, whatever keys tokens name.
    pub min_interval: Duration,
    /// How long a fetch may take, and a token wait for it.
    pub timeout: Duration,
}

impl AuthConfig {
    pub(super) fn read(table: Table<'_>, folder: &Path) -> Self {
        let jwt: Vec<Jwt> = if table.holds_list("jwt") {
            let list = table.list("jwt");
            let several = list.len() > 1;
            let mut known: Vec<Option<String>> = Vec::new();
            let mut issuers = Vec::new();
            for entry in list {
                let issuer = entry.optional::<String>("issuer");
                if several && issuer.is_none() {
                    entry.wrong("issuer", "this key is required, since it tells whose keys a token is checked with");
                }
                if issuer.is_some() && known.contains(&issuer) {
                    entry.wrong("issuer", "there are two entries for this issuer; give both keys to one");
                }
                known.push(issuer);
                issuers.extend(Jwt::read(entry, folder));
            }
            issuers
        } else {
            Jwt::read(table.section("jwt"), folder).into_iter().collect()
        };
        let auth = Self {
            anonymous: table.or("anonymous", false),
            plugins: table.or("plugins", Vec::new()),
            refresh_grace: table.duration("refresh_grace", secs(10), secs(0)..=secs(10)),
            jwt,
        };
        table.finish();
        auth
    }
}

/// The one of some ways to give keys that was chosen: its key in the config,
/// and the text.
struct Given {
    key: &'static str,
    text: Option<String>,
    file: Option<PathBuf>,
}

impl Given {
    /// Every way that is used. A file that cannot be read is a mistake.
    fn all(table: &Table<'_>, folder: &Path) -> Vec<Self> {
        let mut given = Vec::new();
        for key in ["hmac_secret", "public_key", "jwks_url"] {
            if let Some(text) = table.optional::<String>(key) {
                given.push(Self { key, text: Some(text), file: None });
            }
        }
        for key in ["hmac_secret_file", "public_key_file", "jwks_file"] {
            if let Some(path) = table.optional::<String>(key) {
                let file = folder.join(&path);
                let text = std::fs::read_to_string(&file)
                    .map_err(|error| table.wrong(key, format!("`{path}` cannot be read: {error}")));
                given.push(Self { key, text: text.ok(), file: Some(file) });
            }
        }
        given
    }
}

impl Jwt {
    fn read(table: Table<'_>, folder: &Path) -> Option<Self> {
        let present = table.is_present();
        let mut given = Given::all(&table, folder);
        let audience = table.optional("audience");
        let issuer = table.optional("issuer");
        let leeway = table.duration("leeway", secs(0), secs(0)..=secs(300));
        let named = table.optional::<Vec<String>>("algorithms").map(|names| read_algorithms(&table, &names));
        let key_id = table.optional::<String>("key_id");
        let ca_file = table.optional::<String>("jwks_ca_file");
        let refresh = table.duration("jwks_refresh", secs(900), secs(1)..=secs(24 * 3600));
        let min_interval = table.duration("jwks_min_interval", secs(30), secs(1)..=secs(3600));
        let timeout = table.duration("jwks_timeout", secs(3), Duration::from_millis(100)..=secs(10));
        match given.as_slice() {
            [] if present => table.wrong(
                "hmac_secret",
                "this key is required (or `hmac_secret_file`, `public_key`, `public_key_file`, `jwks_file`, `jwks_url`)",
            ),
            [one, other, ..] => {
                table.wrong(other.key, format!("give either `{}` or `{}`, not both", one.key, other.key));
            }
            _ => {}
        }
        let found = if given.len() == 1 { given.pop() } else { None };
        let key = found.as_ref().map_or("", |given| given.key);
        let is_secret = key.starts_with("hmac");
        let default = if is_secret { vec![Algorithm::HS256] } else { ASYMMETRIC.to_vec() };
        let algorithms = named.filter(|named| !named.is_empty()).unwrap_or(default);
        if !key.is_empty() && algorithms.iter().any(|algorithm| is_hmac(*algorithm) != is_secret) {
            let expected = if is_secret { "HS256, HS384 or HS512" } else { "any but HS256, HS384 and HS512" };
            table.wrong("algorithms", format!("do not fit `{key}`; expected {expected}"));
        }
        for algorithm in &algorithms {
            if let Err(reason) = auth::self_check::run(*algorithm) {
                table.wrong("algorithms", reason);
            }
        }
        let authorities = ca_file.as_ref().and_then(|path| read_authorities(&table, "jwks_ca_file", folder, path));
        let mut files: Vec<PathBuf> = ca_file.iter().map(|path| folder.join(path)).collect();
        let shared = found.as_ref().filter(|_| is_secret).and_then(|given| given.text.clone());
        let mut unusable = Vec::new();
        let keys = found.and_then(|Given { key, text, file }| {
            files.extend(file);
            let text = text?;
            match key {
                "hmac_secret" => secret(&table, key, &text, &algorithms),
                "hmac_secret_file" => secret(&table, key, text.trim_end(), &algorithms),
                "jwks_url" => {
                    auth::fetch::check_url(&text).map_err(|reason| table.wrong(key, reason)).ok()?;
                    let url = JwksUrl { url: text, authorities, refresh, min_interval, timeout };
                    return Some(KeySource::Url(url));
                }
                "jwks_file" => {
                    let found = keys::from_jwks(&text, &algorithms).and_then(|(keys, reasons)| {
                        let none = "there is no public key for signatures in it that `algorithms` allow";
                        unusable = reasons;
                        if keys.is_empty() { Err(none.to_owned()) } else { Ok(keys) }
                    });
                    found.map_err(|reason| table.wrong(key, reason)).ok()
                }
                _ => keys::from_pem(&text, &algorithms).map_err(|reason| table.wrong(key, reason)).ok(),
            }
            .map(|keys| {
                let is_set = key == "jwks_file";
                let name = |one: Key| if is_set { one } else { one.named(key_id.clone()) };
                KeySource::Fixed(keys.into_iter().map(name).collect())
            })
        });
        table.finish();
        let shared = shared.map(|text| Secret(text.trim_end().to_owned()));
        Some(Self { keys: keys?, algorithms, secret: shared, files, audience, issuer, leeway, unusable })
    }
}

/// What public keys are used with unless the config says so.
const ASYMMETRIC: &[Algorithm] = &[Algorithm::RS256, Algorithm::ES256, Algorithm::ES384, Algorithm::EdDSA];

fn is_hmac(algorithm: Algorithm) -> bool {
    matches!(algorithm, Algorithm::HS256 | Algorithm::HS384 | Algorithm::HS512)
}

fn read_algorithms(table: &Table<'_>, names: &[String]) -> Vec<Algorithm> {
    let known = || ALGORITHMS.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ");
    if names.is_empty() {
        table.wrong("algorithms", format!("is empty; expected some of {}", known()));
    }
    let find = |name: &String| {
        let found = keys::algorithm(name);
        if found.is_none() {
            table.wrong("algorithms", format!("`{name}` is not an algorithm; expected some of {}", known()));
        }
        found
    };
    names.iter().filter_map(find).collect()
}

/// PEM that is there and can be used; what is wrong is noted at the key.
pub(super) fn read_authorities(table: &Table<'_>, key: &str, folder: &Path, path: &str) -> Option<String> {
    let read = std::fs::read_to_string(folder.join(path)).map_err(|error| format!("`{path}` cannot be read: {error}"));
    let checked = read.and_then(|pem| dial::check_authorities(&pem).map(|_| pem));
    checked.map_err(|reason| table.wrong(key, reason)).ok()
}

/// RFC 7518, section 3.2: a key of at least the size of the hash output.
fn secret(table: &Table<'_>, key: &str, text: &str, algorithms: &[Algorithm]) -> Option<Vec<Key>> {
    let size = |algorithm: &Algorithm| match algorithm {
        Algorithm::HS512 => 64,
        Algorithm::HS384 => 48,
        _ => 32,
    };
    let least = algorithms.iter().map(size).max().unwrap_or(32);
    if text.len() < least {
        let reason = format!("is shorter than {least} bytes, which can be guessed; expected a long random text");
        table.wrong(key, reason);
        return None;
    }
    Some(vec![Key::secret(text.as_bytes(), algorithms.to_vec())])
}
