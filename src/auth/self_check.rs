//! Whether this build can check what the config wants checked.
//!
//! A library that was built without an algorithm would say so at the first
//! token, or panic there. Each algorithm is tried once with a signature that
//! is known to be right, and with one that is not.

use jsonwebtoken::{Algorithm, EncodingKey};

use super::keys::{self, Key};

/// What was signed.
const TEXT: &str = "wayleave checks itself";

/// Signatures over it, one a line, and the public keys to them.
const KNOWN: &str = include_str!("self_check.txt");

/// Tries an algorithm.
///
/// # Errors
/// If a right signature is refused or a wrong one taken.
pub(crate) fn run(algorithm: Algorithm) -> Result<(), String> {
    let name = format!("{algorithm:?}");
    let failed = || format!("this build cannot check {name}; that is a fault of the build and not of the config");
    let (keys, signature) = match algorithm {
        Algorithm::HS256 | Algorithm::HS384 | Algorithm::HS512 => {
            let secret = [7; 64];
            let signature = jsonwebtoken::crypto::sign(TEXT.as_bytes(), &EncodingKey::from_secret(&secret), algorithm);
            (vec![Key::secret(&secret, vec![algorithm])], signature.map_err(|_| failed())?)
        }
        _ => {
            let line = KNOWN.lines().find_map(|line| line.strip_prefix(&name)?.strip_prefix(' '));
            let keys = KNOWN
                .split_inclusive("-----END PUBLIC KEY-----\n")
                .filter_map(|text| keys::from_pem(text, &[algorithm]).ok())
                .flatten();
            (keys.collect(), line.ok_or_else(failed)?.to_owned())
        }
    };
    let [key] = keys.as_slice() else { return Err(failed()) };
    let is_right = key.signed(TEXT, &signature, algorithm) && !key.signed("another text", &signature, algorithm);
    is_right.then_some(()).ok_or_else(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_algorithm_can_be_checked() {
        for (name, algorithm) in keys::ALGORITHMS {
            assert_eq!(run(*algorithm), Ok(()), "{name}");
        }
    }
}
