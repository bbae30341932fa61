//! Who may connect: origins, tokens of every algorithm, and what is no token.

use std::time::{SystemTime, UNIX_EPOCH};

use data_encoding::{BASE64, BASE64URL_NOPAD};
use jsonwebtoken::{Algorithm, EncodingKey, crypto};
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ED25519};
use serde_json::{Value, json};
use tokio_tungstenite::{
    connect_async,
    tungstenite::{Error, client::IntoClientRequest},
};

use crate::support::{SECRET, TestClient, TestGateway, redis::RedisServer, token};

mod jwks;
mod leases;
mod matrix;

/// A public key in PEM, and the private one in PKCS #1 behind it.
const RSA: &str = include_str!("identity/rsa.txt");

/// Seconds since 1970.
pub fn seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

/// A signing key and its public half.
pub struct Signer {
    pub algorithm: Algorithm,
    key: EncodingKey,
    pub pem: String,
}

impl Signer {
    pub fn new(algorithm: Algorithm) -> Self {
        let generated = |kind| {
            let pair = KeyPair::generate_for(kind).unwrap();
            (pair.serialize_der(), pair.public_key_pem())
        };
        let (key, pem) = match algorithm {
            Algorithm::HS256 | Algorithm::HS384 | Algorithm::HS512 => {
                (EncodingKey::from_secret(SECRET.repeat(2).as_bytes()), String::new())
            }
            Algorithm::ES256 => {
                let (der, pem) = generated(&PKCS_ECDSA_P256_SHA256);
                (EncodingKey::from_ec_der(&der), pem)
            }
            Algorithm::ES384 => {
                let (der, pem) = generated(&PKCS_ECDSA_P384_SHA384);
                (EncodingKey::from_ec_der(&der), pem)
            }
            Algorithm::EdDSA => {
                let (der, pem) = generated(&PKCS_ED25519);
                (EncodingKey::from_ed_der(&der), pem)
            }
            _ => {
                let end = RSA.find("-----END PUBLIC KEY-----\n").unwrap() + 25;
                let der = BASE64.decode(RSA[end..].replace('\n', "").as_bytes()).unwrap();
                (EncodingKey::from_rsa_der(&der), RSA[..end].to_owned())
            }
        };
        Self { algorithm, key, pem }
    }

    /// A token with exactly this header and these bytes as claims.
    pub fn sign_raw(&self, header: &str, claims: &[u8]) -> String {
        let signed = format!("{}.{}", BASE64URL_NOPAD.encode(header.as_bytes()), BASE64URL_NOPAD.encode(claims));
        let signature = crypto::sign(signed.as_bytes(), &self.key, self.algorithm).unwrap();
        format!("{signed}.{signature}")
    }

    pub fn sign(&self, header: &Value, claims: &Value) -> String {
        self.sign_raw(&header.to_string(), claims.to_string().as_bytes())
    }

    /// The same with the header that belongs to it.
    pub fn token(&self, claims: &Value) -> String {
        self.sign(&json!({ "alg": format!("{:?}", self.algorithm), "typ": "JWT" }), claims)
    }

    /// How the config names its public half.
    pub fn config(&self) -> String {
        if self.pem.is_empty() {
            format!("hmac_secret = {:?}", SECRET.repeat(2))
        } else {
            format!("public_key = {:?}", self.pem)
        }
    }

    /// The public half as a JSON web key.
    pub fn jwk(&self, kid: &str) -> Value {
        let body: String = self.pem.lines().filter(|line| !line.starts_with('-')).collect();
        let der = BASE64.decode(body.as_bytes()).unwrap();
        let text = |bytes: &[u8]| BASE64URL_NOPAD.encode(bytes);
        match self.algorithm {
            Algorithm::ES256 => {
                let point = &der[der.len() - 64..];
                json!({ "kty": "EC", "crv": "P-256", "kid": kid, "alg": "ES256", "x": text(&point[..32]), "y": text(&point[32..]) })
            }
            Algorithm::EdDSA => {
                json!({ "kty": "OKP", "crv": "Ed25519", "kid": kid, "x": text(&der[der.len() - 32..]) })
            }
            other => panic!("no test wants {other:?} in a set"),
        }
    }
}

/// How a hello with a token ends: None if it is let in, else the code and the
/// reason of the close frame or of the refusal.
async fn refused(gateway: &TestGateway, token: &str) -> Option<(u64, String)> {
    let mut client = gateway.socket().await;
    client.say(&json!({ "id": 1, "connect": { "token": token } }).to_string()).await;
    client.first().await
}

#[tokio::test]
async fn tokens_of_every_algorithm_are_checked_with_the_key_of_the_config() {
    use Algorithm::*;
    for algorithm in [HS256, HS384, HS512, RS256, RS384, RS512, PS256, PS384, PS512, ES256, ES384, EdDSA] {
        let signer = Signer::new(algorithm);
        let config = format!("[auth]\n[auth.jwt]\n{}\nalgorithms = [\"{algorithm:?}\"]", signer.config());
        let gateway = TestGateway::start(&config).await;
        assert_eq!(refused(&gateway, &signer.token(&json!({ "sub": "ada" }))).await, None, "{algorithm:?}");
        let mut other = signer.token(&json!({ "sub": "ada" }));
        let claims = BASE64URL_NOPAD.encode(json!({ "sub": "eve" }).to_string().as_bytes());
        let parts: Vec<_> = other.split('.').map(str::to_owned).collect();
        other = format!("{}.{claims}.{}", parts[0], parts[2]);
        let invalid = Some((3500, "invalid token".to_owned()));
        assert_eq!(refused(&gateway, &other).await, invalid, "{algorithm:?}");
    }
}

/// Every token that somebody may try who has none, by what is wrong with it.
fn corpus(signer: &Signer, good: &Value) -> Vec<(String, String)> {
    let mut all: Vec<(String, String)> = Vec::new();
    let mut add = |what: String, token: String| all.push((what, token));
    let header = |more: Value| {
        let mut header = json!({ "alg": "ES256", "kid": "k", "typ": "JWT" });
        header.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        header
    };
    let claims = |more: Value| {
        let mut claims = good.clone();
        for (name, value) in more.as_object().unwrap() {
            claims[name] = value.clone();
        }
        claims
    };
    let whole = signer.sign(&header(json!({})), good);
    let parts: Vec<&str> = whole.split('.').collect();
    // The algorithm.
    let algorithms = json!([
        "none", "None", "NONE", "nOnE", "", "es256", "ES256 ", " ES256", "ES256K", "ES384", "ES512", "HS256", "HS384",
        "HS512", "RS256", "RS512", "PS256", "EdDSA", "null", null, 5, true, ["ES256"], { "ES256": 1 }
    ]);
    for algorithm in algorithms.as_array().unwrap() {
        let signed = signer.sign(&header(json!({ "alg": algorithm })), good);
        add(format!("alg {algorithm}, signed"), signed.clone());
        add(format!("alg {algorithm}, not signed"), signed[..=signed.rfind('.').unwrap()].to_owned());
    }
    add("no alg".into(), signer.sign(&json!({ "kid": "k" }), good));
    // The public key as a secret.
    let body: String = signer.pem.lines().filter(|line| !line.starts_with('-')).collect();
    let der = BASE64.decode(body.as_bytes()).unwrap();
    let secrets =
        [signer.pem.as_bytes(), signer.pem.trim().as_bytes(), body.as_bytes(), &der, &der[der.len() - 65..], b""];
    for (n, secret) in secrets.iter().enumerate() {
        for algorithm in [Algorithm::HS256, Algorithm::HS384, Algorithm::HS512] {
            let forger = Signer { algorithm, key: EncodingKey::from_secret(secret), pem: String::new() };
            let header = header(json!({ "alg": format!("{algorithm:?}") }));
            add(format!("{algorithm:?} with public key {n}"), forger.sign(&header, good));
        }
    }
    // The key's name.
    let long = "k".repeat(300);
    for kid in [
        json!("x"),
        json!("K"),
        json!(""),
        json!("k "),
        json!("k\0"),
        json!(long),
        json!("../../dev/null"),
        json!("' OR 1=1 --"),
        json!(5),
        json!(null),
        json!(["k"]),
        json!({ "k": 1 }),
    ] {
        add(format!("kid {kid}"), signer.sign(&header(json!({ "kid": kid })), good));
    }
    add("no kid".into(), signer.sign(&json!({ "alg": "ES256" }), good));
    // What a header must not bring.
    let other = Signer::new(Algorithm::ES256);
    for (name, value) in [
        ("crit", json!(["exp"])),
        ("crit", json!([])),
        ("crit", json!(null)),
        ("b64", json!(false)),
        ("b64", json!(true)),
        ("cty", json!("JWT")),
    ] {
        add(format!("{name} {value}"), signer.sign(&header(json!({ name: value })), good));
    }
    let own = [
        ("jwk", other.jwk("k")),
        ("jku", json!("http://127.0.0.1:9/")),
        ("x5u", json!("http://127.0.0.1:9/")),
        ("x5c", json!(["AAAA"])),
    ];
    for (name, value) in own {
        add(format!("a key of its own by {name}"), other.sign(&header(json!({ name: value })), good));
    }
    // Times.
    let times = [
        "\"4000000000\"",
        "1.5",
        "-1",
        "null",
        "true",
        "[]",
        "{}",
        "9007199254740992",
        "9223372036854775808",
        "18446744073709551616",
        "1e300",
        "4e9",
        "\"\"",
    ];
    for name in ["exp", "nbf", "iat"] {
        for time in times {
            let text = good.to_string();
            let without = text.trim_end_matches('}').replace(&format!("\"{name}\":"), "\"was\":");
            add(
                format!("{name} {time}"),
                signer.sign_raw(&header(json!({})).to_string(), format!("{without},\"{name}\":{time}}}").as_bytes()),
            );
        }
    }
    add("nbf later".into(), signer.sign(&header(json!({})), &claims(json!({ "nbf": seconds() + 600 }))));
    // Claims.
    let wrong = [
        ("aud", json!([null, "you", ["you"], [], 5, {}, ["us", 5], "us ", "US", ""])),
        ("iss", json!([null, "you", ["them"], [], 5, {}, "them ", "THEM", ""])),
        ("sub", json!([null, 5, true, [], {}, ""])),
        ("jti", json!([null, 5, []])),
        ("channel", json!(["a", null, 5, ""])),
        ("client", json!(["c", null, 5])),
        ("channels", json!(["a", [1], {}, null, [["a"]]])),
        (
            "subs",
            json!([[], { "a": 1 }, { "a": { "rights": 1 } }, { "a": { "override": { "publish": {} } } }, { "a": { "override": { "presence": true } } }, { "a": { "info": 1, "b64info": "MQ==" } }, { "a": { "expire_at": "x" } }, null]),
        ),
        ("b64info", json!(["?", "e30", "e1t7", 5, null])),
        ("expire_at", json!(["x", 1.5, null, 9_223_372_036_854_775_808_u64])),
    ];
    for (name, values) in &wrong {
        for value in values.as_array().unwrap() {
            add(format!("{name} {value}"), signer.sign(&header(json!({})), &claims(json!({ *name: value }))));
        }
    }
    for name in ["aud", "iss", "sub"] {
        let mut claims = good.clone();
        claims.as_object_mut().unwrap().remove(name);
        add(format!("no {name}"), signer.sign(&header(json!({})), &claims));
    }
    add("info twice".into(), signer.sign(&header(json!({})), &claims(json!({ "info": 1, "b64info": "MQ==" }))));
    // The form.
    let [head, payload, signature] = parts.as_slice() else { panic!("{whole}") };
    for form in [
        "a".to_owned(),
        "a.b".into(),
        "a.b.c".into(),
        ".".into(),
        "..".into(),
        "...".into(),
        "{}".into(),
        "null".into(),
        format!("{whole}."),
        format!(".{whole}"),
        format!("{whole}.{signature}"),
        format!("{whole} "),
        format!(" {whole}"),
        format!("{whole}\n"),
        format!("{whole},{whole}"),
        format!("Bearer {whole}"),
        format!("{head}.{payload}"),
        format!("{head}.{payload}."),
        format!("{head}..{signature}"),
        format!(".{payload}.{signature}"),
        format!("{head}=.{payload}.{signature}"),
        format!("{head}.{payload}=.{signature}"),
        format!("{head}.{payload}.{signature}=="),
        format!("{head}.{payload}.+/{}", &signature[2..]),
        format!("{payload}.{head}.{signature}"),
        format!("{head}.{payload}.{head}"),
        format!("{head}.{payload}.{}", &signature[..signature.len() - 1]),
        format!("{head}.{payload}.{signature}AA"),
        format!("{head}.{payload}.{}", "A".repeat(86)),
        format!("{head}.{payload}.{}", "A".repeat(96)),
        "\u{1F600}.\u{1F600}.\u{1F600}".into(),
        "a".repeat(17 << 10),
        format!("{}.{}.{}", "a".repeat(20 << 10), "b".repeat(20 << 10), "c".repeat(9)),
    ] {
        add(format!("form {}", form.chars().take(40).collect::<String>()), form);
    }
    for at in [0, 1, 20, 42, 43, 60, 84] {
        let mut bytes = BASE64URL_NOPAD.decode(signature.as_bytes()).unwrap();
        let at = at * bytes.len() / 86;
        bytes[at] ^= 1;
        add(
            format!("a bit of the signature, byte {at}"),
            format!("{head}.{payload}.{}", BASE64URL_NOPAD.encode(&bytes)),
        );
    }
    let raw = |claims: &[u8]| signer.sign_raw(&header(json!({})).to_string(), claims);
    let text = good.to_string();
    for (what, claims) in [
        ("a list", b"[]".to_vec()),
        ("a text", b"\"ada\"".to_vec()),
        ("nothing", Vec::new()),
        ("half", text.as_bytes()[..20].to_vec()),
        ("bad UTF-8", b"{\"sub\":\"\xff\"}".to_vec()),
        ("two objects", format!("{text}{text}").into_bytes()),
        ("sub twice", text.replacen('{', "{\"sub\":\"eve\",", 1).into_bytes()),
        ("exp twice", text.replacen('{', "{\"exp\":1,", 1).into_bytes()),
        ("deep", "[".repeat(5_000).into_bytes()),
        ("deep in it", text.replacen('{', &format!("{{\"x\":{},", "[".repeat(2_000)), 1).into_bytes()),
        ("a token", whole.clone().into_bytes()),
        ("large", text.replacen('{', &format!("{{\"x\":\"{}\",", "x".repeat(30_000)), 1).into_bytes()),
    ] {
        add(format!("claims: {what}"), raw(&claims));
    }
    for (what, header) in [
        ("a list", "[\"ES256\",\"k\"]".to_owned()),
        ("alg twice", "{\"alg\":\"none\",\"alg\":\"ES256\",\"kid\":\"k\"}".into()),
        ("nothing", String::new()),
        ("a text", "\"ES256\"".into()),
    ] {
        add(format!("header: {what}"), signer.sign_raw(&header, text.as_bytes()));
    }
    add("of another key".into(), other.sign(&header(json!({})), good));
    all
}

/// Row T2.
#[tokio::test]
async fn t2_what_is_no_good_token_is_refused_with_one_and_the_same_text() {
    let signer = Signer::new(Algorithm::ES256);
    let config = format!(
        "[auth]\n[auth.jwt]\n{}\nkey_id = \"k\"\naudience = \"us\"\nissuer = \"them\"\n[[rooms]]\nmatch = \"*\"",
        signer.config()
    );
    let gateway = TestGateway::start(&config).await;
    let good = json!({ "sub": "ada", "aud": "us", "iss": "them", "exp": seconds() + 600, "nbf": seconds() - 5, "iat": seconds() - 5 });
    let header = json!({ "alg": "ES256", "kid": "k", "typ": "JWT" });
    assert_eq!(refused(&gateway, &signer.sign(&header, &good)).await, None, "the good one is good");
    let corpus = corpus(&signer, &good);
    assert!(corpus.len() >= 200, "{} tokens", corpus.len());
    let mut wrong = Vec::new();
    for (what, token) in &corpus {
        let how = refused(&gateway, token).await;
        if how != Some((3500, "invalid token".to_owned())) {
            wrong.push(format!("{what}: {how:?}"));
        }
    }
    assert_eq!(wrong, Vec::<String>::new(), "of {} tokens", corpus.len());
    println!("T2: 0 of {} accepted", corpus.len());
    assert_eq!((gateway.hub().n_users(), gateway.hub().n_connections()), (0, 0));
    assert_eq!(refused(&gateway, &signer.sign(&header, &good)).await, None, "and still is");
}

/// Row T1: origins, by rules, with a token and without.
#[tokio::test]
async fn t1_who_connects_says_the_origin_first_and_then_the_token() {
    const RULES: [&str; 3] = ["", "\"https://good.example\"", "\"https://*.good.example\""];
    // For each of the rules: may a page of this origin connect?
    const ORIGINS: [(Option<&str>, [bool; 3]); 10] = [
        (None, [true, true, true]),
        (Some("https://evil.example"), [false, false, false]),
        (Some("null"), [false, false, false]),
        (Some("https://good.example"), [false, true, false]),
        (Some("https://good.example.evil.example"), [false, false, false]),
        (Some("https://evilgood.example"), [false, false, false]),
        (Some("HTTPS://Good.Example"), [false, true, false]),
        (Some("https://good.example:8443"), [false, false, false]),
        (Some("https://good.example."), [false, false, false]),
        (Some("https://chat.good.example"), [false, false, true]),
    ];
    let mut cases = 0;
    for (n, rules) in RULES.iter().enumerate() {
        let config = format!("[server]\nallowed_origins = [{rules}]\n[auth]\n[auth.jwt]\nhmac_secret = {SECRET:?}\n");
        let gateway = TestGateway::start(&config).await;
        for (origin, may) in ORIGINS {
            for has_token in [true, false] {
                cases += 1;
                let mut request = gateway.url().into_client_request().unwrap();
                if let Some(origin) = origin {
                    request.headers_mut().insert("origin", origin.parse().unwrap());
                }
                let (decided, case) = (connect_async(request).await, (rules, origin, has_token));
                if !may[n] {
                    let Err(Error::Http(response)) = decided else { panic!("{case:?}: not refused") };
                    assert_eq!(response.status(), 403, "{case:?}");
                    continue;
                }
                let (socket, _) = decided.unwrap_or_else(|error| panic!("{case:?}: {error}"));
                let mut client = TestClient::of(socket);
                let token = if has_token { token(&json!({ "sub": "ada" })) } else { String::new() };
                client.say(&json!({ "id": 1, "connect": { "token": token } }).to_string()).await;
                let expected = (!has_token).then(|| (101, "unauthorized".to_owned()));
                assert_eq!(client.first().await, expected, "{case:?}");
            }
        }
    }
    assert_eq!(cases, 60);
    // Our own page, and two origins at once.
    let gateway = TestGateway::start("").await;
    let own = format!("http://{}", gateway.gateway.address());
    for (origins, may) in
        [(vec![own.as_str()], true), (vec![own.as_str(), own.as_str()], false), (vec!["http://127.0.0.1:1"], false)]
    {
        let mut request = gateway.url().into_client_request().unwrap();
        for origin in &origins {
            request.headers_mut().append("origin", origin.parse().unwrap());
        }
        assert_eq!(connect_async(request).await.is_ok(), may, "{origins:?}");
    }
}

/// Row U9: who is not identified is nowhere, on the instance and in Redis.
#[tokio::test]
async fn u9_a_bad_token_leaves_nothing_behind_and_names_its_code() {
    let redis = RedisServer::start().await;
    let config = format!("[auth]\n[auth.jwt]\nhmac_secret = {SECRET:?}\n[server]\npersonal_rooms = true\n");
    let gateway = crate::cluster::gateway(&redis.url(), "g", &config).await;
    let expired = token(&json!({ "sub": "eve", "exp": 1 }));
    let forged = token(&json!({ "sub": "eve", "channels": ["live:1"] })) + "x";
    assert_eq!(refused(&gateway, &forged).await, Some((3500, "invalid token".into())));
    assert_eq!(refused(&gateway, &expired).await, Some((109, "token expired".into())));
    assert_eq!(refused(&gateway, "").await, Some((101, "unauthorized".into())));
    let hub = gateway.hub();
    assert_eq!((hub.n_connections(), hub.n_users(), hub.n_rooms()), (0, 0, 0));
    for what in ["eve", "live"] {
        assert_eq!(redis.keys_containing(what).await, Vec::<String>::new());
    }
    let good = json!({ "token": token(&json!({ "sub": "eve", "channels": ["live:1"] })) });
    let _eve = gateway.client_with(good).await;
    assert!(!redis.keys_containing("eve").await.is_empty(), "a good one is found that way");
    assert_eq!((hub.n_connections(), hub.n_users()), (1, 1));
}

/// Keys in files are rotated without a restart, as PEM and as a key set.
#[tokio::test]
async fn keys_in_files_are_taken_anew_when_the_files_change() {
    let (old, new) = (Signer::new(Algorithm::ES256), Signer::new(Algorithm::EdDSA));
    let set = |signer: &Signer| json!({ "keys": [signer.jwk("k")] }).to_string();
    let named = |signer: &Signer| {
        signer.sign(&json!({ "alg": format!("{:?}", signer.algorithm), "kid": "k" }), &json!({ "sub": "ada" }))
    };
    for (key, before, after) in
        [("public_key_file", old.pem.clone(), new.pem.clone()), ("jwks_file", set(&old), set(&new))]
    {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("keys");
        std::fs::write(&file, before).unwrap();
        let config = format!("[auth]\n[auth.jwt]\n{key} = {:?}\n", file.display().to_string());
        let gateway = TestGateway::start(&config).await;
        assert_eq!(refused(&gateway, &named(&old)).await, None, "{key}");
        assert_eq!(refused(&gateway, &named(&new)).await, Some((3500, "invalid token".into())), "{key}");
        std::fs::write(&file, "half a k").unwrap();
        std::fs::write(&file, after).unwrap();
        crate::support::until("the new key is known", async || refused(&gateway, &named(&new)).await.is_none()).await;
        assert_eq!(refused(&gateway, &named(&old)).await, Some((3500, "invalid token".into())), "{key}");
    }
}
