//! Keys that tokens are checked with: from PEM, from a JSON web key, or a
//! shared secret.
//!
//! A key says itself for which algorithms it is; what a token names is only
//! ever compared with that.

use jsonwebtoken::{Algorithm, DecodingKey};
use serde::Deserialize;
use spki::{
    SubjectPublicKeyInfoRef,
    der::{self, Decode, Reader, SliceReader, asn1::UintRef},
};

/// Sizes of RSA keys, in bits. RFC 7518, section 3.3, has the lower one; the
/// upper one bounds what a check costs.
const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=4096;

/// Keys of one set.
const KEYS_MAX: usize = 64;

/// Every algorithm, by the name that tokens and the config have for it.
pub(crate) const ALGORITHMS: &[(&str, Algorithm)] = &[
    ("HS256", Algorithm::HS256),
    ("HS384", Algorithm::HS384),
    ("HS512", Algorithm::HS512),
    ("RS256", Algorithm::RS256),
    ("RS384", Algorithm::RS384),
    ("RS512", Algorithm::RS512),
    ("PS256", Algorithm::PS256),
    ("PS384", Algorithm::PS384),
    ("PS512", Algorithm::PS512),
    ("ES256", Algorithm::ES256),
    ("ES384", Algorithm::ES384),
    ("EdDSA", Algorithm::EdDSA),
];

/// The algorithm of this name.
pub(crate) fn algorithm(name: &str) -> Option<Algorithm> {
    ALGORITHMS.iter().find(|(known, _)| *known == name).map(|(_, algorithm)| *algorithm)
}

/// One key.
#[derive(Clone)]
pub struct Key {
    /// Its name; a token that names a key is checked with that one alone.
    pub(super) id: Option<String>,
    /// What it is for; never empty.
    algorithms: Vec<Algorithm>,
    material: DecodingKey,
    /// Stands for the key's material in comparisons.
    mark: blake3::Hash,
}

impl Key {
    /// Its name; None: it checks tokens whichever key they name.
    #[must_use]
    pub fn id(&self) -> Option<&str> {
        self.id.as_deref()
    }
}

impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        (&self.id, &self.algorithms, self.mark) == (&other.id, &other.algorithms, other.mark)
    }
}

impl Eq for Key {}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Key").field("id", &self.id).field("algorithms", &self.algorithms).finish_non_exhaustive()
    }
}

/// A public key's kind, free of how it was written.
enum Public<'a> {
    Rsa {
        n: &'a [u8],
        e: &'a [u8],
    },
    /// An uncompressed point.
    Ec(&'a [u8], Algorithm),
    Ed(&'a [u8]),
}

impl Public<'_> {
    /// What such a key can be used for.
    fn fits(&self) -> &'static [Algorithm] {
        use Algorithm::{ES256, ES384, EdDSA, PS256, PS384, PS512, RS256, RS384, RS512};
        match self {
            Self::Rsa { .. } => &[RS256, RS384, RS512, PS256, PS384, PS512],
            Self::Ec(_, ES384) => &[ES384],
            Self::Ec(..) => &[ES256],
            Self::Ed(_) => &[EdDSA],
        }
    }

    fn check(&self) -> Result<(), String> {
        match self {
            Self::Rsa { n, e } => {
                let n = strip_zeros(n);
                let bits = n.first().map_or(0, |first| n.len() * 8 - first.leading_zeros() as usize);
                let e = strip_zeros(e);
                let is_odd = |number: &[u8]| number.last().is_some_and(|last| last % 2 == 1);
                if !RSA_BITS.contains(&bits) {
                    return Err(format!(
                        "an RSA key of {bits} bits; expected {} to {}",
                        RSA_BITS.start(),
                        RSA_BITS.end()
                    ));
                }
                if !is_odd(n) || !is_odd(e) || e.len() > 4 || *e == [1] {
                    return Err("not an RSA key".to_owned());
                }
                Ok(())
            }
            // Whether the point is on the curve, the library looks.
            Self::Ec(point, algorithm) => {
                let size = if *algorithm == Algorithm::ES384 { 97 } else { 65 };
                let is_point = point.len() == size && point[0] == 4;
                let is_key = is_point
                    && jsonwebtoken::crypto::verify("AA", b"", &DecodingKey::from_ec_der(point), *algorithm).is_ok();
                if is_key { Ok(()) } else { Err("not a point of its curve".to_owned()) }
            }
            // A shorter one would be a panic of the library.
            Self::Ed(bytes) if bytes.len() != 32 => Err("not an Ed25519 key".to_owned()),
            Self::Ed(bytes) => {
                let key = DecodingKey::from_ed_der(bytes);
                let is_key = jsonwebtoken::crypto::verify("AA", b"", &key, Algorithm::EdDSA).is_ok();
                if is_key { Ok(()) } else { Err("not an Ed25519 key".to_owned()) }
            }
        }
    }

    /// The key for those of `allowed` that it fits; None: for none.
    fn key(&self, id: Option<String>, allowed: &[Algorithm]) -> Option<Key> {
        let algorithms: Vec<_> = self.fits().iter().copied().filter(|fit| allowed.contains(fit)).collect();
        if algorithms.is_empty() {
            return None;
        }
        let (material, mark) = match self {
            Self::Rsa { n, e } => (DecodingKey::from_rsa_raw_components(n, e), blake3::hash(n)),
            Self::Ec(point, _) => (DecodingKey::from_ec_der(point), blake3::hash(point)),
            Self::Ed(bytes) => (DecodingKey::from_ed_der(bytes), blake3::hash(bytes)),
        };
        Some(Key { id, algorithms, material, mark })
    }
}

fn strip_zeros(number: &[u8]) -> &[u8] {
    &number[number.iter().position(|byte| *byte != 0).unwrap_or(number.len())..]
}

impl Key {
    /// A shared secret. Its length is the config's to check.
    pub(crate) fn secret(secret: &[u8], algorithms: Vec<Algorithm>) -> Self {
        Self { id: None, algorithms, material: DecodingKey::from_secret(secret), mark: blake3::hash(secret) }
    }

    /// The same key by this name.
    #[must_use]
    pub(crate) fn named(self, id: Option<String>) -> Self {
        Self { id, ..self }
    }

    /// True if it is for this algorithm, and for tokens that name this key or
    /// none.
    pub(super) fn is_for(&self, algorithm: Algorithm) -> bool {
        self.algorithms.contains(&algorithm)
    }

    /// True if it made this signature over that text, both as they stand in a
    /// token.
    pub(super) fn signed(&self, text: &str, signature: &str, algorithm: Algorithm) -> bool {
        self.is_for(algorithm)
            && jsonwebtoken::crypto::verify(signature, text.as_bytes(), &self.material, algorithm).unwrap_or(false)
    }
}

/// Every key of a PEM text, for those of `allowed` that it fits.
///
/// # Errors
/// What is wrong, and what would be right.
pub(crate) fn from_pem(text: &str, allowed: &[Algorithm]) -> Result<Vec<Key>, String> {
    let mut keys = Vec::new();
    for (n, block) in text.split("-----BEGIN ").skip(1).enumerate() {
        let at = |reason: String| format!("key {}: {reason}", n + 1);
        let end = block.find("-----END ").and_then(|end| Some(end + block[end..].find('\n')?)).unwrap_or(block.len());
        let block = format!("-----BEGIN {}\n", block[..end].trim_end());
        let (label, document) = der::Document::from_pem(&block).map_err(|error| at(format!("is not PEM: {error}")))?;
        let key = match label {
            "PUBLIC KEY" => from_spki(document.as_bytes(), allowed),
            "RSA PUBLIC KEY" => rsa_of(document.as_bytes()).and_then(|(n, e)| use_of(&Public::Rsa { n, e }, allowed)),
            _ => Err(format!(
                "is a {label}; expected a PUBLIC KEY, as `openssl pkey -pubout` writes it; a private key belongs to \
                 whoever signs"
            )),
        };
        keys.push(key.map_err(at)?);
    }
    match keys.len() {
        0 => Err("there is no key in it; expected PEM that begins with -----BEGIN PUBLIC KEY-----".to_owned()),
        n if n > KEYS_MAX => Err(format!("{n} keys; expected at most {KEYS_MAX}")),
        _ => Ok(keys),
    }
}

fn use_of(public: &Public<'_>, allowed: &[Algorithm]) -> Result<Key, String> {
    public.check()?;
    public.key(None, allowed).ok_or_else(|| {
        let fits: Vec<_> = public.fits().iter().map(|fit| format!("\"{fit:?}\"")).collect();
        format!("none of `algorithms` is for such a key; expected some of {}", fits.join(", "))
    })
}

fn from_spki(bytes: &[u8], allowed: &[Algorithm]) -> Result<Key, String> {
    const RSA: &str = "1.2.840.113549.1.1.1";
    const EC: &str = "1.2.840.10045.2.1";
    const ED25519: &str = "1.3.101.112";
    const P256: &str = "1.2.840.10045.3.1.7";
    const P384: &str = "1.3.132.0.34";
    let info = SubjectPublicKeyInfoRef::try_from(bytes).map_err(|error| format!("is not a public key: {error}"))?;
    let bits = info.subject_public_key.as_bytes().ok_or("is not a public key")?;
    let public = match info.algorithm.oid.to_string().as_str() {
        RSA => {
            let (n, e) = rsa_of(bits)?;
            Public::Rsa { n, e }
        }
        EC => match info.algorithm.parameters_oid().map(|curve| curve.to_string()).as_deref() {
            Ok(P256) => Public::Ec(bits, Algorithm::ES256),
            Ok(P384) => Public::Ec(bits, Algorithm::ES384),
            _ => return Err("is a key of another curve; expected P-256 or P-384".to_owned()),
        },
        ED25519 => Public::Ed(bits),
        other => return Err(format!("is a key of another kind ({other}); expected RSA, EC or Ed25519")),
    };
    use_of(&public, allowed)
}

/// PKCS #1: modulus and exponent.
fn rsa_of(bytes: &[u8]) -> Result<(&[u8], &[u8]), String> {
    let read = || -> der::Result<(UintRef<'_>, UintRef<'_>)> {
        let mut reader = SliceReader::new(bytes)?;
        let pair = reader.sequence(|reader| Ok((UintRef::decode(reader)?, UintRef::decode(reader)?)))?;
        reader.finish(pair)
    };
    let (n, e) = read().map_err(|error| format!("is not an RSA key: {error}"))?;
    Ok((n.as_bytes(), e.as_bytes()))
}

#[derive(Deserialize)]
struct WireSet {
    keys: Vec<serde_json::Value>,
}

/// RFC 7517. What else stands in a key (`x5u`, `jku`) is not looked at.
#[derive(Deserialize)]
struct WireKey {
    kty: String,
    kid: Option<String>,
    alg: Option<String>,
    #[serde(rename = "use")]
    usage: Option<String>,
    key_ops: Option<Vec<String>>,
    crv: Option<String>,
    n: Option<String>,
    e: Option<String>,
    x: Option<String>,
    y: Option<String>,
}

/// The keys of a JSON web key set that are for signatures, and for some of
/// `allowed`. Others are passed over: a set is made for more than us. Beside
/// them, for the log, which keys cannot be used though they are meant for that.
///
/// # Errors
/// If it is not a key set, or has too many keys.
pub(crate) fn from_jwks(text: &str, allowed: &[Algorithm]) -> Result<(Vec<Key>, Vec<String>), String> {
    let set: WireSet = serde_json::from_str(text).map_err(|error| format!("is not a JSON web key set: {error}"))?;
    if set.keys.len() > KEYS_MAX {
        return Err(format!("{} keys; expected at most {KEYS_MAX}", set.keys.len()));
    }
    let (mut keys, mut unusable) = (Vec::new(), Vec::new());
    for (n, value) in set.keys.into_iter().enumerate() {
        match serde_json::from_value::<WireKey>(value).map_err(|error| error.to_string()).and_then(|key| {
            let id = key.kid.clone();
            from_jwk(&key, allowed).map(|found| found.map(|found| found.named(id)))
        }) {
            Ok(Some(key)) => keys.push(key),
            Ok(None) => {}
            Err(reason) => unusable.push(format!("key {n} of a JSON web key set is passed over: {reason}")),
        }
    }
    Ok((keys, unusable))
}

/// None: not for us.
fn from_jwk(key: &WireKey, allowed: &[Algorithm]) -> Result<Option<Key>, String> {
    let is_for_signatures = key.usage.as_deref().is_none_or(|usage| usage == "sig")
        && key.key_ops.as_ref().is_none_or(|ops| ops.iter().any(|op| op == "verify"));
    // A secret in a set that others may read would be none.
    if !is_for_signatures || key.kty == "oct" {
        return Ok(None);
    }
    let bytes = |name: &str, text: &Option<String>| {
        let text = text.as_deref().ok_or_else(|| format!("`{name}` is missing"))?;
        let bytes = data_encoding::BASE64URL_NOPAD.decode(text.as_bytes());
        bytes.map_err(|_| format!("`{name}` is not base64url"))
    };
    let (n, e, point);
    let public = match (key.kty.as_str(), key.crv.as_deref()) {
        ("RSA", _) => {
            (n, e) = (bytes("n", &key.n)?, bytes("e", &key.e)?);
            Public::Rsa { n: &n, e: &e }
        }
        ("EC", Some(curve @ ("P-256" | "P-384"))) => {
            point = [vec![4], bytes("x", &key.x)?, bytes("y", &key.y)?].concat();
            Public::Ec(&point, if curve == "P-384" { Algorithm::ES384 } else { Algorithm::ES256 })
        }
        ("OKP", Some("Ed25519")) => {
            point = bytes("x", &key.x)?;
            Public::Ed(&point)
        }
        _ => return Ok(None),
    };
    public.check()?;
    Ok(match key.alg.as_deref().map(algorithm) {
        // It names another one, which is not ours.
        Some(None) => None,
        Some(Some(named)) if !allowed.contains(&named) => None,
        Some(Some(named)) => public.key(None, &[named]),
        None => public.key(None, allowed),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: &[Algorithm] = &[Algorithm::RS256, Algorithm::ES256, Algorithm::ES384, Algorithm::EdDSA];

    fn set(keys: &str) -> Vec<Key> {
        from_jwks(&format!("{{\"keys\":[{keys}]}}"), ALL).unwrap().0
    }

    #[test]
    fn only_good_keys_for_signatures_are_taken_from_a_set() {
        // RFC 8037, appendix A.2.
        let ed = r#""kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo""#;
        assert_eq!(set(&format!("{{{ed},\"kid\":\"a\"}}"))[0].id.as_deref(), Some("a"));
        assert_eq!(set(&format!("{{{ed},\"alg\":\"EdDSA\",\"use\":\"sig\"}}")).len(), 1);
        for not in [
            format!("{{{ed},\"use\":\"enc\"}}"),
            format!("{{{ed},\"key_ops\":[\"sign\"]}}"),
            format!("{{{ed},\"alg\":\"RS256\"}}"),
            format!("{{{ed},\"alg\":\"none\"}}"),
            ed.replace("11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo", "AA"),
            ed.replace("\"x\"", "\"z\""),
            r#"{"kty":"oct","k":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA","alg":"HS256"}"#.into(),
            r#"{"kty":"RSA","n":"AQAB","e":"AQAB"}"#.into(),
            r#"{"kty":"EC","crv":"P-256","x":"AA","y":"AA"}"#.into(),
            r#"{"kty":"EC","crv":"P-521","x":"AA","y":"AA"}"#.into(),
            "5".into(),
        ] {
            let not = if not.starts_with('"') { format!("{{{not}}}") } else { not };
            assert_eq!(set(&not), [], "{not}");
        }
        assert!(from_jwks("[]", ALL).is_err());
    }

    #[test]
    fn what_is_no_public_key_is_refused_with_a_remedy() {
        let check = |text: &str, reason: &str| {
            let error = from_pem(text, ALL).unwrap_err();
            assert!(error.contains(reason), "no {reason:?} in {error}");
        };
        check("", "no key in it");
        check("garbage", "no key in it");
        check("-----BEGIN PUBLIC KEY-----\n?\n-----END PUBLIC KEY-----\n", "is not PEM");
        check("-----BEGIN PRIVATE KEY-----\nMAA=\n-----END PRIVATE KEY-----\n", "belongs to whoever signs");
        check("-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n", "expected a PUBLIC KEY");
        check("-----BEGIN PUBLIC KEY-----\nMAA=\n-----END PUBLIC KEY-----\n", "is not a public key");
    }
}
