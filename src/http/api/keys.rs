//! Who may call: keys, what each is limited to, and addresses that guess.

use std::{
    borrow::Cow,
    collections::{BTreeMap, HashMap},
    net::IpAddr,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{
    table::{About, Method},
    wire::{bad, read},
};
use crate::{
    config::{ApiKey, Pattern, Rate, Target},
    protocol::Refusal,
};

/// Addresses that are remembered; further ones are counted as one.
const ADDRESSES: usize = 10_000;

/// How often those are forgotten that have rested, while there are so many.
const SWEEP: Duration = Duration::from_secs(1);

/// How long an address counts as one of a backend after a good key.
const TRUSTED: Duration = Duration::from_secs(600);

/// The key that was sent, by its place. What is compared are hashes, so that
/// it takes as long whatever both texts have in common; and it is compared
/// with all keys, whichever it is.
pub(super) fn find(sent: &str, keys: &[ApiKey]) -> Option<usize> {
    // Whatever the config holds: nothing sent opens nothing.
    if sent.is_empty() {
        return None;
    }
    let sent = blake3::hash(sent.as_bytes());
    let mut found = None;
    for (n, key) in keys.iter().enumerate() {
        // Hashes compare in constant time, and none is passed over.
        if sent == blake3::Hash::from_bytes(key.digest) {
            found = Some(n);
        }
    }
    found
}

/// Addresses that have sent keys, and may have guessed.
#[derive(Debug, Default)]
pub struct Guesses(Mutex<Addresses>);

#[derive(Debug, Default)]
struct Addresses {
    /// None: all further ones.
    tries: HashMap<Option<IpAddr>, Tries>,
    /// When those that matter no more were last forgotten.
    swept: Option<Instant>,
}

#[derive(Debug)]
struct Tries {
    /// Wrong keys that it may still send, at `at`.
    left: f64,
    at: Instant,
    /// When it last sent a good one.
    good: Option<Instant>,
}

impl Tries {
    fn fill(&mut self, rate: Rate, now: Instant) {
        let gained = now.saturating_duration_since(self.at).as_secs_f64() * rate.per_second();
        self.left = (self.left + gained).min(rate.count as f64);
        self.at = now;
    }

    fn is_trusted(&self, now: Instant) -> bool {
        self.good.is_some_and(|good| now.saturating_duration_since(good) < TRUSTED)
    }
}

/// Who owns one IPv6 address owns its whole network.
fn neighbourhood(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            IpAddr::from([a, b, c, d, 0, 0, 0, 0])
        }
        address @ IpAddr::V4(_) => address,
    }
}

impl Guesses {
    /// False: too many wrong keys have come from there, and another one is not
    /// answered as such. Where a good one has come from lately, which may be the
    /// address of a balancer for all, they still are.
    pub(super) fn may_try(&self, address: Option<IpAddr>, rate: Option<Rate>, now: Instant) -> bool {
        let Some(rate) = rate else { return true };
        let mut all = self.0.lock();
        let place = all.place(address);
        let Some(tries) = all.tries.get_mut(&place) else { return true };
        tries.fill(rate, now);
        tries.left >= 1.0 || tries.is_trusted(now)
    }

    /// A wrong key came from there. True: it was the last one for now.
    pub(super) fn failed(&self, address: Option<IpAddr>, rate: Option<Rate>, now: Instant) -> bool {
        let Some(rate) = rate else { return false };
        let mut all = self.0.lock();
        let tries = all.entry(address, rate, now);
        tries.fill(rate, now);
        let was_left = tries.left >= 1.0;
        tries.left = (tries.left - 1.0).max(0.0);
        was_left && tries.left < 1.0
    }

    /// A good key came from there.
    pub(super) fn succeeded(&self, address: Option<IpAddr>, rate: Option<Rate>, now: Instant) {
        let Some(rate) = rate else { return };
        self.0.lock().entry(address, rate, now).good = Some(now);
    }
}

impl Addresses {
    /// Under what an address is kept.
    fn place(&self, address: Option<IpAddr>) -> Option<IpAddr> {
        let is_kept = |address: &IpAddr| self.tries.len() < ADDRESSES || self.tries.contains_key(&Some(*address));
        address.map(neighbourhood).filter(is_kept)
    }

    fn entry(&mut self, address: Option<IpAddr>, rate: Rate, now: Instant) -> &mut Tries {
        let is_due = self.swept.is_none_or(|swept| now.saturating_duration_since(swept) > SWEEP);
        if self.tries.len() >= ADDRESSES && is_due {
            self.swept = Some(now);
            self.tries.retain(|_, tries| {
                tries.fill(rate, now);
                tries.is_trusted(now) || tries.left < rate.count as f64
            });
        }
        let place = self.place(address);
        self.tries.entry(place).or_insert_with(|| Tries { left: rate.count as f64, at: now, good: None })
    }
}

/// What of a method's parameters a key may be limited to.
#[derive(Deserialize)]
struct Named<'a> {
    #[serde(borrow, default)]
    channel: Cow<'a, str>,
    #[serde(borrow, default)]
    channels: Vec<Cow<'a, str>>,
    #[serde(borrow, default)]
    to: Vec<Cow<'a, str>>,
    #[serde(borrow, default)]
    except: Vec<Cow<'a, str>>,
}

/// Whether a key may call a method with these parameters.
///
/// # Errors
/// If it may not.
pub(super) fn check(key: &ApiKey, method: &Method, parameters: &[u8]) -> Result<(), Refusal> {
    if key.methods.as_ref().is_some_and(|methods| !methods.iter().any(|name| name == method.name)) {
        return Err(denied(key, format_args!("the method `{}`", method.name)));
    }
    let Some(rooms) = &key.rooms else { return Ok(()) };
    let room = |room: &str| match rooms.iter().any(|pattern| pattern.matches(room)) {
        true => Ok(()),
        false => Err(denied(key, format_args!("the room `{room}`"))),
    };
    match method.about {
        About::List | About::Others => Ok(()),
        About::Instance => Err(denied(key, format_args!("what is not about rooms, as `{}`", method.name))),
        About::Room => room(&read::<Named<'_>>(parameters)?.channel),
        About::RoomOf => {
            let named: Named<'_> = read(parameters)?;
            named.to.iter().chain(&named.except).try_for_each(|target| check_target(key, rooms, target, true))?;
            room(&named.channel)
        }
        About::Rooms => read::<Named<'_>>(parameters)?.channels.iter().try_for_each(|name| room(name)),
        About::Targets => {
            let named: Named<'_> = read(parameters)?;
            named.to.iter().try_for_each(|target| check_target(key, rooms, target, false))?;
            // Who is left out of its own rooms is its own affair; what tells
            // who is in rooms of others is not.
            named.except.iter().try_for_each(|target| check_target(key, rooms, target, true))
        }
    }
}

/// Users and connections are in rooms of others too.
fn check_target(key: &ApiKey, rooms: &[Pattern], target: &str, with_users: bool) -> Result<(), Refusal> {
    let is_allowed = match Target::parse(target) {
        None => return Err(bad(format_args!("`{target}` is no target"))),
        Some(Target::Room(room)) => rooms.iter().any(|pattern| pattern.matches(&room)),
        Some(Target::Pattern(wanted)) => rooms.iter().any(|pattern| covers(pattern.as_str(), &wanted)),
        Some(Target::User(_) | Target::Connection(_)) => with_users,
        Some(Target::Everyone) => false,
    };
    if is_allowed { Ok(()) } else { Err(denied(key, format_args!("the target `{target}`"))) }
}

/// True if all that matches `wanted` matches `pattern`: the same, or narrower
/// behind a common beginning.
fn covers(pattern: &str, wanted: &str) -> bool {
    let narrower = |head: &str| !head.contains('*') && wanted.starts_with(head);
    pattern == wanted || pattern.strip_suffix('*').is_some_and(narrower)
}

pub(super) fn denied(key: &ApiKey, what: impl std::fmt::Display) -> Refusal {
    let reason = format!("permission denied: the key `{}` is not for {what}", key.name);
    Refusal { reason: reason.into(), ..Refusal::PERMISSION_DENIED }
}

/// Where in its parameters it stands whom or what a call was about.
const SUBJECTS: [&str; 7] = ["to", "channels", "channel", "user", "client", "uid", "instance"];

/// What a call was about, for its line in the log, which escapes it.
pub(super) fn subject(parameters: &[u8]) -> String {
    const MAX: usize = 200;
    // Each field by itself: what a method passes over must not hide the rest.
    let Ok(fields) = read::<BTreeMap<Cow<'_, str>, &RawValue>>(parameters) else { return String::new() };
    let named = |field: &&str| {
        let value = fields.get(*field)?.get();
        let one = serde_json::from_str::<Cow<'_, str>>(value).map(|one| vec![one]);
        one.or_else(|_| serde_json::from_str::<Vec<Cow<'_, str>>>(value)).ok()
    };
    let all: Vec<_> = SUBJECTS.iter().filter_map(named).flatten().collect();
    let mut text = String::new();
    for name in all.iter().filter(|name| !name.is_empty()) {
        if !text.is_empty() {
            text.push(' ');
        }
        for c in name.chars() {
            if text.len() >= MAX {
                text.push('…');
                return text;
            }
            text.push(c);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    fn keys(text: &str) -> Vec<ApiKey> {
        let text = format!("[api]\nkeys = [{text}]");
        Config::parse(&text, std::path::Path::new("/"), &Default::default()).unwrap().api.keys
    }

    #[test]
    fn any_of_the_keys_is_known_and_nothing_else() {
        let keys =
            keys("{ name = \"old\", key = \"0123456789abcdef\" }, { name = \"new\", key = \"fedcba9876543210\" }");
        let known = |sent: &str| find(sent, &keys);
        assert_eq!((known("0123456789abcdef"), known("fedcba9876543210")), (Some(0), Some(1)));
        assert_eq!((known(""), known("0123456789abcde"), known("0123456789abcdef0")), (None, None, None));
    }

    #[test]
    fn nothing_sent_opens_nothing() {
        let mut keys = keys("{ name = \"a\", key = \"0123456789abcdef\" }");
        keys[0].key = crate::config::Secret::default();
        keys[0].digest = *blake3::hash(b"").as_bytes();
        assert_eq!(find("", &keys), None);
    }

    #[test]
    fn a_key_may_be_limited_to_methods_and_rooms() {
        let keys = keys(
            "{ name = \"all\", key = \"0123456789abcdef\" }, \
             { name = \"some\", key = \"fedcba9876543210\", methods = [\"publish\", \"send\", \"batch\"] }, \
             { name = \"tenant\", key = \"fedcba9876543211\", rooms = [\"a:*\", \"b\"] }",
        );
        let may = |key: usize, method: &str, parameters: &str| {
            check(&keys[key], Method::named(method).unwrap(), parameters.as_bytes()).is_ok()
        };
        for method in crate::http::METHODS {
            assert!(may(0, method.name, r#"{"channel":"x"}"#), "{}", method.name);
            assert_eq!(may(1, method.name, "{}"), ["publish", "send", "batch"].contains(&method.name));
        }
        let message = check(&keys[1], Method::named("disconnect").unwrap(), b"{}").unwrap_err();
        assert_eq!(
            (message.code, &*message.reason),
            (103, "permission denied: the key `some` is not for the method `disconnect`")
        );
        for (method, parameters, allowed) in [
            ("publish", r#"{"channel":"a:1"}"#, true),
            ("publish", r#"{"channel":"b"}"#, true),
            ("publish", r#"{"channel":"b1"}"#, false),
            ("publish", r#"{"channel":"a:1","channel":"c"}"#, false),
            ("publish", r#"{}"#, false),
            ("publish", r#"[]"#, false),
            ("broadcast", r#"{"channels":["a:1","b"]}"#, true),
            ("broadcast", r#"{"channels":["a:1","c"]}"#, false),
            ("subscribe", r#"{"user":"ada","channel":"a:1"}"#, true),
            ("subscribe", r#"{"user":"ada","channel":"c"}"#, false),
            ("subscribe", r#"{"to":["room:c"],"channel":"a:1"}"#, false),
            ("subscribe", r#"{"to":["everyone"],"channel":"a:1"}"#, false),
            ("unsubscribe", r#"{"to":["user:x","room:a:2"],"channel":"a:1"}"#, true),
            ("send", r#"{"to":["room:a:1","pattern:a:x*"]}"#, true),
            ("send", r#"{"to":["pattern:a:*"]}"#, true),
            ("send", r#"{"to":["pattern:*"]}"#, false),
            ("send", r#"{"to":["user:ada"]}"#, false),
            ("send", r#"{"to":["connection:x"]}"#, false),
            ("send", r#"{"to":["everyone"]}"#, false),
            ("send", r#"{"to":["nonsense"]}"#, false),
            ("requests", r#"{"to":["room:c"]}"#, false),
            ("requests", r#"{"to":["room:a:1"],"except":["room:c"]}"#, false),
            ("send", r#"{"to":["room:a:1"],"except":["pattern:*"]}"#, false),
            ("send", r#"{"to":["room:a:1"],"except":["room:b","connection:x"]}"#, true),
            ("subscribe", r#"{"to":["user:ada"],"except":["room:c"],"channel":"a:1"}"#, false),
            ("channels", "{}", true),
            ("history", r#"{"channel":"c"}"#, false),
            ("record", r#"{"channel":"a:1"}"#, true),
            ("info", "{}", false),
            ("disconnect", r#"{"user":"ada"}"#, false),
            ("reload", "{}", false),
            ("rpc", r#"{"method":"x","channel":"a:1"}"#, false),
        ] {
            assert_eq!(may(2, method, parameters), allowed, "{method} {parameters}");
        }
    }

    #[test]
    fn what_a_call_was_about_is_read_whatever_else_it_says() {
        for (parameters, about) in [
            (r#"{"user":"ada","channel":5,"to":{"a":1}}"#, "ada"),
            (r#"{"channel":"a","to":["user:x","everyone"]}"#, "user:x everyone a"),
            (r#"{"uid":"t1","expire_at":5}"#, "t1"),
            (r#"{"instance":"b","data":{"user":"eve"}}"#, "b"),
            (r#"{"channels":["a",5],"client":null}"#, ""),
            ("[]", ""),
        ] {
            assert_eq!(subject(parameters.as_bytes()), about, "{parameters}");
        }
        assert!(subject(format!(r#"{{"user":"{}"}}"#, "x".repeat(900)).as_bytes()).len() < 210);
    }

    #[test]
    fn guesses_of_one_address_are_bounded_and_lock_no_backend_out() {
        let (guesses, rate) = (Guesses::default(), Some(Rate { count: 3, per: Duration::from_secs(30) }));
        let (eve, now) = (Some(IpAddr::from([10, 0, 0, 1])), Instant::now());
        for last in [false, false, true] {
            assert!(guesses.may_try(eve, rate, now));
            assert_eq!(guesses.failed(eve, rate, now), last);
        }
        assert!(!guesses.may_try(eve, rate, now) && !guesses.failed(eve, rate, now));
        assert!(guesses.may_try(Some(IpAddr::from([10, 0, 0, 2])), rate, now), "another address");
        assert!(guesses.may_try(eve, rate, now + Duration::from_secs(10)), "one more in ten seconds");
        assert!(guesses.may_try(eve, None, now), "it can be turned off");

        let balancer = Some(IpAddr::from([10, 0, 0, 3]));
        guesses.succeeded(balancer, rate, now);
        for _ in 0..100 {
            let _last = guesses.failed(balancer, rate, now);
        }
        assert!(guesses.may_try(balancer, rate, now), "a backend is behind it");
        for _ in 0..100 {
            let _last = guesses.failed(balancer, rate, now + TRUSTED);
        }
        assert!(!guesses.may_try(balancer, rate, now + TRUSTED), "not any more");

        let of = |host: u16| Some(IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, host]));
        for host in 0..3 {
            let _last = guesses.failed(of(host), rate, now);
        }
        assert!(!guesses.may_try(of(9), rate, now), "a network of IPv6 is one address");
    }

    #[test]
    fn addresses_that_guess_take_no_memory_without_end() {
        let (guesses, rate) = (Guesses::default(), Some(Rate { count: 3, per: Duration::from_secs(30) }));
        let now = Instant::now();
        let address = |n: u32| Some(IpAddr::from(n.to_be_bytes()));
        for n in 0..3 * ADDRESSES as u32 {
            let _last = guesses.failed(address(n), rate, now);
        }
        assert!(guesses.0.lock().tries.len() <= ADDRESSES + 1);
        assert!(!guesses.may_try(address(99_999), rate, now), "the rest is counted as one");
        guesses.failed(address(77), rate, now + Duration::from_secs(3600));
        assert!(guesses.0.lock().tries.len() <= ADDRESSES + 1);
        guesses.failed(address(99_999), rate, now + Duration::from_secs(3600));
        assert!(guesses.0.lock().tries.len() < 10, "those that have rested are forgotten");
    }

    /// Welch's t of how long two texts take to be compared.
    fn welch(mut compare: impl FnMut(&str) -> bool, classes: [&str; 2], samples: usize) -> f64 {
        const CALLS: usize = 16;
        let mut times: [Vec<f64>; 2] = [Vec::with_capacity(samples), Vec::with_capacity(samples)];
        let mut random = 0x9e37_79b9_7f4a_7c15_u64;
        for _ in 0..2 * samples {
            // In random order, so that what changes with time concerns both.
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            let class = usize::from(random & 1 == 1);
            let begun = Instant::now();
            for _ in 0..CALLS {
                std::hint::black_box(compare(std::hint::black_box(classes[class])));
            }
            times[class].push(begun.elapsed().as_nanos() as f64);
        }
        // Interrupts would drown everything: only the quicker half counts.
        let mut moments = times.map(|mut times| {
            times.sort_by(f64::total_cmp);
            times.truncate(times.len() / 2);
            let n = times.len() as f64;
            let mean = times.iter().sum::<f64>() / n;
            let variance = times.iter().map(|time| (time - mean).powi(2)).sum::<f64>() / (n - 1.0);
            (mean, variance / n)
        });
        // A clock of whole ticks may show no variance at all.
        moments.iter_mut().for_each(|(_, error)| *error = error.max(1e-6));
        let [(a, a_error), (b, b_error)] = moments;
        (a - b) / (a_error + b_error).sqrt()
    }

    /// Row T11: how much of a wrong key is right cannot be told by the time it
    /// takes. A difference would show every time, so one time without is
    /// enough; and the same test does tell a comparison that stops early.
    #[test]
    fn t11_a_wrong_key_takes_as_long_however_much_of_it_is_right() {
        const KEY: &str =
            "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
        let keys = keys(&format!(
            "{{ name = \"a\", key = \"{KEY}\" }}, {{ name = \"b\", key = \"another key of the tests\" }}"
        ));
        let nothing = format!("x{}", &KEY[1..]);
        let nearly = format!("{}x", &KEY[..KEY.len() - 1]);
        let classes = [nothing.as_str(), nearly.as_str()];
        let samples = std::env::var("T11_SAMPLES").map_or(10_000, |n| n.parse().unwrap());
        let is_known = |sent: &str| find(sent, &keys).is_some();
        let ts: Vec<f64> = (0..8).map(|_| welch(is_known, classes, samples).abs()).collect();
        assert!(ts.iter().any(|t| *t < 4.5), "{ts:?}");
        let naive = |sent: &str| sent.bytes().zip(KEY.bytes()).all(|(a, b)| std::hint::black_box(a) == b);
        let ts: Vec<f64> = (0..8).map(|_| welch(naive, classes, samples).abs()).collect();
        assert!(ts.iter().all(|t| *t > 4.5), "the test would see nothing: {ts:?}");
    }
}
