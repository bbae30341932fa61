use super::*;

fn parse(text: &str) -> Result<Config, ConfigError> {
    Config::parse(text, Path::new("/etc/wayleave"), &BTreeMap::new())
}

#[track_caller]
fn check_mistake(text: &str, expected: &str) {
    let error = parse(text).expect_err("it was accepted");
    let said: Vec<_> = error.mistakes.iter().map(ToString::to_string).collect();
    assert!(said.iter().any(|line| line.contains(expected)), "no {expected:?} in {said:#?}");
}

#[test]
fn nothing_is_open_by_default() {
    let config = parse("").unwrap();
    assert!(config.server.listen.ip().is_loopback());
    assert!(!config.auth.anonymous && !config.metrics.enabled && !config.server.try_page);
    assert!(config.tls.is_none() && config.tracing.otlp.is_none());
    assert!(config.api.keys.is_empty() && !config.admin.enabled);
    assert!(config.rooms.is_empty() && config.server.allowed_origins.is_empty());
    let room = &parse("[[rooms]]\nmatch = \"x\"").unwrap().rooms[0];
    assert_eq!((room.publish, room.presence, room.join_leave), (PublishRight::Nobody, false, JoinLeave::Off));
}

#[test]
fn each_mistake_says_what_would_be_right() {
    check_mistake("[server]\nlisten = 8000", "line 2: server.listen: expected a text");
    check_mistake("[server]\nping_interval = \"5\"", "with its unit");
    check_mistake("[server]\nping_interval = \"5s\"", "must be shorter than `ping_interval`");
    check_mistake("[server]\nheader_timeout = \"1h\"", "out of range; expected 100ms to 1m");
    check_mistake("[server]\nallowed_origins = [\"example.com\"]", "\"https://example.com\"");
    check_mistake("[sever]\nlisten = \"x\"", "did you mean `server`?");
    check_mistake("[tls]\ncert = \"/nowhere/x\"", "tls.cert: `/nowhere/x` cannot be read");
    check_mistake("[tls]\n", "line 1: tls.key: this key is required: the path of a PEM file");
    check_mistake("[tracing]\notlp = \"ftp://x\"", "tracing.otlp: is not the URL of a collector");
    check_mistake("[tracing]\notlp = \"127.0.0.1:4318\"", "\"http://127.0.0.1:4318\"");
    check_mistake("[tracing]\notlp = \"https://me:secret@x\"", "without a password");
    check_mistake(
        "[tracing]\notlp = \"https://x\"\nca_file = \"none.pem\"",
        "tracing.ca_file: `none.pem` cannot be read",
    );
    check_mistake("[tracing]\notlp = \"http://x\"\nca_file = \"Cargo.toml\"", "tracing.ca_file: ");
    check_mistake("[tracing]\nsample = 2", "2 is out of range; expected 0.0 to 1.0");
    check_mistake("[tracing]\nsample = \"all\"", "expected a number such as 0.01");
    check_mistake("[auth.jwt]\n", "line 1: auth.jwt.hmac_secret: this key is required");
    check_mistake("[auth.jwt]\nhmac_secret = \"short\"", "shorter than 32 bytes");
    check_mistake(
        "[auth.jwt]\nhmac_secret = \"0123456789abcdef0123456789abcdef\"\nalgorithms = [\"HS512\"]",
        "than 64 bytes",
    );
    check_mistake(
        "[auth.jwt]\nhmac_secret = \"0123456789abcdef0123456789abcdef\"\nalgorithms = [\"RS256\"]",
        "do not fit",
    );
    check_mistake("[auth.jwt]\nhmac_secret = \"0123456789abcdef0123456789abcdef\"\nalgorithms = []", "is empty");
    check_mistake(
        "[auth.jwt]\njwks_url = \"https://a.example/\"\nalgorithms = [\"none\"]",
        "`none` is not an algorithm",
    );
    check_mistake("[auth.jwt]\njwks_url = \"http://a.example/\"", "expected https://");
    check_mistake("[auth.jwt]\njwks_url = \"https://a.example/\"\npublic_key = \"x\"", "not both");
    check_mistake("[auth.jwt]\njwks_url = \"https://a.example/\"\njwks_ca_file = \"/nowhere/x\"", "cannot be read");
    check_mistake("[auth.jwt]\njwks_url = \"https://a.example/\"\njwks_timeout = \"1m\"", "out of range");
    check_mistake("[auth.jwt]\npublic_key = \"x\"", "begins with -----BEGIN PUBLIC KEY-----");
    check_mistake("[auth.jwt]\njwks_file = \"/nowhere/x\"", "cannot be read");
    check_mistake("[auth]\nrefresh_grace = \"11s\"", "out of range; expected 0s to 10s");
    let two = |a: &str, b: &str| {
        let key = "jwks_url = \"https://a.example/\"";
        format!("[[auth.jwt]]\n{key}\n{a}\n[[auth.jwt]]\n{key}\n{b}\n")
    };
    check_mistake(&two("issuer = \"a\"", ""), "auth.jwt[1].issuer: this key is required");
    check_mistake(&two("issuer = \"a\"", "issuer = \"a\""), "two entries for this issuer");
    check_mistake("[server]\nallowed_origins = [\"https://*.com\"]", "at least two labels");
    check_mistake("[[rooms]]\nmatch = \"x\"\njoin = \"tokens\"", "did you mean `token`?");
    check_mistake("[auth.jwt]\nhmac_secret_file = \"/nowhere/x\"", "cannot be read");
    check_mistake("[auth]\nplugins = [\"x\"]", "there is no plugin named `x`");
    check_mistake("[limits]\noutbox = \"100KiB\"", "at least twice `message_size`");
    check_mistake("[bus]\nkind = \"nats\"", "\"nats\" is not known; expected \"memory\", \"redis\"");
    check_mistake("[bus]\nkind = \"redis\"\nurl = \"http://x\"", "is not the URL of a Redis");
    check_mistake("[bus]\nkind = \"redis\"\nmode = \"cluster\"", "this key is required with that mode");
    check_mistake("[bus]\nprefix = \"a{b}\"", "expected up to 64 letters");
    check_mistake("[bus]\npassword_file = \"/nowhere/x\"", "cannot be read");
    check_mistake("[cluster]\nheartbeat = \"4s\"", "must be at least twice `heartbeat`");
    check_mistake("[api]\nkeys = [{ name = \"a\", key = \"short\" }]", "shorter than 16 bytes");
    for empty in ["", " ", "                    "] {
        let text = format!("[api]\nkeys = [{{ name = \"a\", key = \"{empty}\" }}]");
        check_mistake(&text, "line 2: api.keys[0].key: is empty, which anybody can send; expected a long random text");
    }
    check_mistake("[api]\nkeys = [{ name = \"a\" }]", "line 2: api.keys[0].key: this key is required");
    let key = |more: &str| format!("[api]\nkeys = [{{ name = \"a\", key = \"0123456789abcdef\", {more} }}]");
    check_mistake(&key("methods = [\"publsh\"]"), "there is no method `publsh`; did you mean `publish`?");
    check_mistake(&key("methods = []"), "could be used for nothing");
    check_mistake(&key("rooms = []"), "could be used for nothing");
    check_mistake(&key("rooms = [\"\"]"), "a pattern must not be empty");
    check_mistake(&key("rooms = [\"a\"], methods = [\"reload\"]"), "api.keys[0].methods: `reload` is not about rooms");
    check_mistake(&key("key_file = \"x\""), "give only one of `key`, `key_file` and `key_env`");
    check_mistake("[api]\nkeys = [{ name = \"a\", key_file = \"/nowhere/x\" }]", "cannot be read");
    check_mistake("[api]\nkeys = [{ name = \"a\", key_env = \"NOWHERE\" }]", "has no variable `NOWHERE`");
    check_mistake("[api]\nkey = \"short\"", "line 2: api.key: is shorter than 16 bytes");
    check_mistake("[admin]\nenabled = true", "line 2: admin.enabled: the page asks the server API, which needs a key");
    check_mistake("[api]\nfailures = \"20\"", "a number and a time");
    check_mistake("[[rooms]]\npublish = \"members\"", "line 1: rooms[0].match: this key is required");
    check_mistake("[[rooms]]\nmatch = \"\"", "must not be empty");
    check_mistake("[[rooms]]\nmatch = \"x\"\nhistory = { sise = 1 }", "did you mean `size`?");
    check_mistake("[[rooms]]\nmatch = \"x\"\nrecovery = true", "needs `history`");
    check_mistake("[[rooms]]\nmatch = \"x\"\nrecovery = \"cache\"", "needs `history`");
    check_mistake("[[rooms]]\nmatch = \"x\"\nrecovery = \"all\"", "true, false or \"cache\"");
    let kept = "[[rooms]]\nmatch = \"x\"\nhistory = { size = 1 }\n";
    check_mistake(&format!("{kept}recovery = true\nslow = \"latest\""), "count on all messages");
    check_mistake(&format!("{kept}delta = true\nslow = \"drop-oldest\""), "needs the message before it");
    check_mistake(
        &format!("{kept}slow = \"drop-oldest\"\nslow_key = \"data.x\""),
        "only `slow = \"latest\"` has a key",
    );
    check_mistake(&format!("{kept}slow = \"latest\"\nslow_key = \"x\""), "such as \"data.symbol\"");
    check_mistake(&format!("{kept}slow = \"latest\"\nslow_at = \"2MiB\""), "limits.outbox");
    check_mistake(&format!("{kept}members = 0"), "out of range");
    check_mistake("[drain]\ntimeout = \"5s\"\nspread = \"6s\"", "must be at least `delay` and `spread` together");
    check_mistake("[limits]\nconnect_rate = \"5\"", "a number and a time");
    check_mistake("[limits]\nmemory = \"1KiB\"", "out of range");
    check_mistake("[server]\ntrusted_proxies = [\"10.0.0.0/40\"]", "such as \"10.0.0.0/8\"");
    let rate = |commands: &str, rate: &str| format!("[[limits.rates]]\ncommands = [\"{commands}\"]\nrate = \"{rate}\"");
    check_mistake(&rate("publsh", "1/1s"), "`publsh` is not a command; expected some of subscribe");
    check_mistake(&rate("publish", ""), "such as \"100/10s\"");
    check_mistake("[[limits.rates]]\nof = \"room\"", "\"connection\", \"user\", \"address\"");
    check_mistake(
        "[[rooms]]\nmatch = \"x\"\nrecords = { count = 16, size = \"64KiB\" }",
        "limits.outbox: must be at least 2097152 bytes",
    );
    check_mistake("[[rooms]]\nmatch = \"x\"\njoin_leave = \"all\"", "\"connections\" or \"users\"");
    check_mistake("[rooms]\nmatch = \"x\"", "as in [[rooms]]");
    check_mistake(
        "[[routes]]\nroom = \"x\"\nto = [\"usr:{data.x}\"]",
        "line 3: routes[0].to: `usr:{data.x}` is not a target",
    );
    check_mistake("[[plugins]]\nname = \"A b\"\npath = \"x\"", "is not a plugin's name");
    check_mistake(
        "[[plugins]]\nname = \"a\"\npath = \"x\"\n[[plugins]]\nname = \"a\"\npath = \"x\"",
        "two plugins named `a`",
    );
    check_mistake("[[plugins]]\nname = \"a\"\npath = \"x\"\ngrants = [\"files\"]", "expected some of log, kv");
    check_mistake(
        "[[plugins]]\nname = \"a\"\npath = \"x\"\non_failure = { transfrom = \"open\" }",
        "did you mean `transform`?",
    );
    check_mistake("[[plugins]]\nname = \"a\"\npath = \"x\"\nsettings = 5", "expected a table");
    check_mistake("[[plugins]]\nname = \"a\"\npath = \"x\"\ntick = \"10ms\"", "out of range; expected 1s to 7days");
    check_mistake("[log]\nlevel = \"lo=u=d\"", "is not a level");
    check_mistake("[server\nlisten = 1", "line 1");
}

#[test]
fn variables_stand_over_the_file() {
    let variables = |pairs: &[(&str, &str)]| -> BTreeMap<String, String> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    };
    let secret = "a secret from the environment, long";
    let environment = variables(&[
        ("WAYLEAVE_SERVER_LISTEN", "0.0.0.0:9"),
        ("WAYLEAVE_AUTH_JWT_HMAC_SECRET", secret),
        ("WAYLEAVE_SERVER_ALLOWED_ORIGINS", "https://a.example, https://b.example"),
        ("HOME", "/"),
    ]);
    let config = Config::parse("[server]\nlisten = \"127.0.0.1:1\"", Path::new("/"), &environment).unwrap();
    assert_eq!(config.server.listen.to_string(), "0.0.0.0:9");
    let key = crate::auth::Key::secret(secret.as_bytes(), vec![jsonwebtoken::Algorithm::HS256]);
    assert_eq!(config.auth.jwt[0].keys, KeySource::Fixed(vec![key]));
    assert_eq!(config.server.allowed_origins.len(), 2);
    let environment = variables(&[("WAYLEAVE_SERVER_LISTN", "x"), ("WAYLEAVE_SERVER_TRY_PAGE", "maybe")]);
    let error = Config::parse("", Path::new("/"), &environment).unwrap_err().to_string();
    assert!(error.contains("did you mean `WAYLEAVE_SERVER_LISTEN`?"), "{error}");
    assert!(error.contains("WAYLEAVE_SERVER_TRY_PAGE: expected true or false"), "{error}");
}

#[test]
fn keys_of_the_api_come_from_the_environment_and_from_files_too() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("key"), "a key of a file, long\n").unwrap();
    let environment =
        [("WAYLEAVE_API_KEY", "a key of the environment"), ("WAYLEAVE_OWN_KEY", "one more key, from there")];
    let environment = environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let text = "[api]\nkeys = [{ name = \"file\", key_file = \"key\", rooms = [\"a:*\"] }, { name = \"own\", key_env = \
                \"WAYLEAVE_OWN_KEY\", methods = [\"publish\"] }]";
    let config = Config::parse(text, folder.path(), &environment).unwrap_or_else(|error| panic!("{error}"));
    let keys: Vec<_> = config.api.keys.iter().map(|key| (&*key.name, key.key.expose())).collect();
    let expected = [
        ("default", "a key of the environment"),
        ("file", "a key of a file, long"),
        ("own", "one more key, from there"),
    ];
    assert_eq!(keys, expected);
    assert_eq!(config.api.keys[1].file.as_deref(), Some(&*folder.path().join("key")));
    assert_eq!(config.api.keys[2].methods.as_deref(), Some(&["publish".to_owned()][..]));
    assert!(!format!("{config:?}").contains("a key of"));
}

#[test]
fn a_secret_is_not_shown() {
    let config = parse("[auth.jwt]\nhmac_secret = \"canary-canary-canary-canary-canary\"").unwrap();
    assert!(!format!("{config:?}").contains("canary"));
}

#[test]
fn a_plain_policy_spares_the_guards() {
    use crate::plugin::{Hook, Policy};
    let plugin = |policy: &str| {
        let text = format!("[[plugins]]\nname = \"a\"\npath = \"a.wasm\"\non_failure = {policy}");
        parse(&text).unwrap().plugins.remove(0).on_failure
    };
    let open = plugin("\"open\"");
    assert_eq!((open[&Hook::Transform], open[&Hook::Authorize]), (Policy::Open, Policy::Closed));
    let named = plugin("{ authorize = \"open\" }");
    assert_eq!((named[&Hook::Transform], named[&Hook::Authorize]), (Policy::Closed, Policy::Open));
}

#[test]
fn paths_are_the_files_neighbours() {
    let config =
        parse("[[plugins]]\nname = \"a\"\npath = \"p\"\n[[plugins]]\nname = \"b\"\npath = \"/x.wasm\"").unwrap();
    assert_eq!(config.plugins[0].file(), Path::new("/etc/wayleave/p/plugin.wasm"));
    assert_eq!(config.plugins[1].file(), Path::new("/x.wasm"));
}

/// `config.toml` shows every option with its default, except where a comment
/// says what the default is instead.
#[test]
fn the_example_config_shows_every_option_with_its_default() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(root.join("config.toml")).unwrap();
    let shown = Config::parse(&text, root, &BTreeMap::new()).unwrap_or_else(|error| panic!("{error}"));
    // Every line that names another default is put back to it.
    let defaults: String = text
        .split("\n[[rooms]]")
        .next()
        .unwrap()
        .lines()
        .map(|line| match (line.split_once(" = "), line.split_once("# default: ")) {
            (Some((key, _)), Some((_, default))) => {
                let default = default.split(". ").next().unwrap().trim_end_matches('.');
                format!("{key} = {default}\n")
            }
            _ => format!("{line}\n"),
        })
        .collect();
    let defaults = Config::parse(&defaults, root, &BTreeMap::new()).unwrap_or_else(|error| panic!("{error}"));
    let empty = Config::parse("", root, &BTreeMap::new()).unwrap();
    assert_eq!(defaults, empty);
    assert_ne!(shown.server, empty.server);
    // And each key of the sections is there.
    for key in [
        "listen",
        "header_timeout",
        "connect_timeout",
        "ping_interval",
        "pong_timeout",
        "require_pong",
        "personal_rooms",
        "allowed_origins",
        "try_page",
        "cache",
        "cert",
        "key",
        "otlp",
        "sample",
        "names",
        "anonymous",
        "plugins",
        "hmac_secret",
        "hmac_secret_file",
        "public_key",
        "public_key_file",
        "jwks_file",
        "jwks_url",
        "jwks_ca_file",
        "jwks_refresh",
        "jwks_min_interval",
        "jwks_timeout",
        "algorithms",
        "key_id",
        "refresh_grace",
        "audience",
        "issuer",
        "leeway",
        "kind",
        "url",
        "mode",
        "nodes",
        "master",
        "prefix",
        "queue",
        "username",
        "password",
        "password_file",
        "ca_file",
        "name",
        "heartbeat",
        "ttl",
        "sweep",
        "user_limit",
        "user_commands",
        "user_commands_down",
        "presence_grace",
        "history",
        "recovery",
        "records",
        "keys",
        "key",
        "key_file",
        "failures",
        "connections",
        "connections_per_user",
        "rooms_per_connection",
        "message_size",
        "outbox",
        "name_length",
        "commands_per_second",
        "commands_burst",
        "close_timeout",
        "enabled",
        "level",
        "format",
        "timeout",
        "join",
        "publish",
        "presence",
        "join_leave",
        "stamp",
        "keep",
        "grants",
        "tick",
        "init_timeout",
        "memory",
        "answer_size",
        "host_calls",
        "targets",
        "recycle_after",
        "kv_quota",
        "log_rate",
        "on_failure",
    ] {
        let shows = |line: &str| line.trim_start_matches(['#', ' ']).starts_with(&format!("{key} ="));
        assert!(text.lines().any(shows), "config.toml does not show `{key}`");
    }
}
