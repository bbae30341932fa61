//! Who is alive: what one instance makes of the beats that it sees.
//!
//! Pure state, told what was seen and when. An instance is judged by whether
//! its beat counts on, never by anybody's wall clock, and only time in which
//! the observer itself was in touch with Redis counts as silence: when Redis
//! pauses, nobody grows older, and afterwards everybody has the whole time
//! again to come back.

use std::{collections::HashMap, time::Duration};

use tokio::time::Instant;

use crate::id::InstanceId;

/// How long a cleaning up may stand still before another takes it over.
const CLAIM_STALL: Duration = Duration::from_secs(3);

/// What one look has shown.
#[derive(Debug, Default, Clone)]
pub(super) struct Look {
    /// Beats by instance.
    pub(super) beats: HashMap<String, String>,
    /// Those that ended in order, and for how many milliseconds their members
    /// still count as present.
    pub(super) departed: HashMap<String, String>,
    /// Who is being cleaned up after, and how far that is.
    pub(super) claims: HashMap<String, String>,
}

impl Look {
    /// What there is of an instance's earlier generations: true if they are not
    /// cleaned up after, and those of whom a Redis that failed over has
    /// forgotten that they are over. Nobody knows it better than the instance.
    pub(super) fn before(&self, me: InstanceId) -> (bool, Vec<Finding>) {
        let was_me = |name: &String| {
            InstanceId::parse(name).is_some_and(|id| id.boot == me.boot && id.generation < me.generation)
        };
        let beating = self.beats.iter().filter(|(name, _)| was_me(name));
        let finding =
            |(name, beat): (&String, &String)| Finding { instance: name.clone(), seen: beat.clone(), why: Why::Silent };
        let found: Vec<Finding> = beating.map(finding).collect();
        (!found.is_empty() || self.claims.keys().any(was_me), found)
    }
}

/// Something to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Finding {
    /// The instance to clean up after.
    pub(super) instance: String,
    /// Its beat, or the stalled claim, as it was seen.
    pub(super) seen: String,
    /// Why.
    pub(super) why: Why,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Why {
    Silent,
    Departed,
    Stalled,
}

/// What an observer remembers.
#[derive(Debug)]
pub(super) struct Observer {
    ttl: Duration,
    /// Longer than this between two looks: the observer was out of touch, and
    /// so may the others have been.
    step: Duration,
    last: Option<Instant>,
    seen: HashMap<(Kind, String), Seen>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Kind {
    Beat,
    Departed,
    Claim,
}

#[derive(Debug)]
struct Seen {
    value: String,
    unchanged: Duration,
}

impl Observer {
    /// `sweep`: how often it looks.
    pub(super) fn new(ttl: Duration, sweep: Duration) -> Self {
        Self { ttl, step: 2 * sweep, last: None, seen: HashMap::new() }
    }

    /// Takes in a look; returns what is to be done.
    pub(super) fn look(&mut self, now: Instant, me: &str, look: &Look) -> Vec<Finding> {
        let mut passed = self.last.map_or(Duration::ZERO, |last| now.duration_since(last));
        if passed > self.step {
            passed = Duration::ZERO;
            self.lose_touch();
        }
        self.last = Some(now);
        let present = |(kind, name): &(Kind, String)| match kind {
            Kind::Beat => look.beats.contains_key(name),
            Kind::Departed => look.departed.contains_key(name),
            Kind::Claim => look.claims.contains_key(name),
        };
        self.seen.retain(|key, _| present(key));
        let mut findings = Vec::new();
        let all = [(Kind::Beat, &look.beats), (Kind::Departed, &look.departed), (Kind::Claim, &look.claims)];
        for (kind, values) in all {
            for (instance, value) in values.iter().filter(|(instance, _)| *instance != me || kind == Kind::Claim) {
                let seen = self
                    .seen
                    .entry((kind, instance.clone()))
                    .or_insert_with(|| Seen { value: value.clone(), unchanged: Duration::ZERO });
                if seen.value == *value {
                    seen.unchanged += passed;
                } else {
                    *seen = Seen { value: value.clone(), unchanged: Duration::ZERO };
                }
                let (allowed, why) = match kind {
                    Kind::Beat => (self.ttl, Why::Silent),
                    Kind::Departed => (Duration::from_millis(value.parse().unwrap_or(0)), Why::Departed),
                    Kind::Claim => (CLAIM_STALL, Why::Stalled),
                };
                // Whoever is being cleaned up after is somebody's already.
                if seen.unchanged >= allowed && (kind == Kind::Claim || !look.claims.contains_key(instance)) {
                    findings.push(Finding { instance: instance.clone(), seen: value.clone(), why });
                }
            }
        }
        findings
    }

    /// How long each beat has not changed.
    pub(super) fn silences(&self) -> HashMap<String, Duration> {
        let beats = self.seen.iter().filter(|((kind, _), _)| *kind == Kind::Beat);
        beats.map(|((_, instance), seen)| (instance.clone(), seen.unchanged)).collect()
    }

    /// Redis could not be asked, or has become another: nor could the others
    /// show that they live.
    pub(super) fn lose_touch(&mut self) {
        self.last = None;
        self.seen.values_mut().for_each(|seen| seen.unchanged = Duration::ZERO);
    }

    /// How long until somebody could be found silent.
    pub(super) fn next(&self) -> Duration {
        let left = |((kind, _), seen): (&(Kind, String), &Seen)| match kind {
            Kind::Beat => Some(self.ttl.saturating_sub(seen.unchanged)),
            Kind::Departed => {
                Some(Duration::from_millis(seen.value.parse().unwrap_or(0)).saturating_sub(seen.unchanged))
            }
            Kind::Claim => None,
        };
        self.seen.iter().filter_map(left).min().unwrap_or(self.ttl)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn beats(values: &[(&str, u32)]) -> Look {
        let beats = values.iter().map(|(name, n)| ((*name).to_owned(), n.to_string())).collect();
        Look { beats, ..Look::default() }
    }

    const SECOND: Duration = Duration::from_secs(1);

    fn observer() -> (Observer, Instant) {
        (Observer::new(6 * SECOND, SECOND), Instant::now())
    }

    #[test]
    fn one_that_stops_beating_is_found_after_its_ttl() {
        let (mut observer, start) = observer();
        for second in 0..6 {
            let found = observer.look(start + second * SECOND, "me", &beats(&[("me", 1), ("a", 1), ("b", second)]));
            assert_eq!(found, []);
        }
        let found = observer.look(start + 6 * SECOND, "me", &beats(&[("me", 1), ("a", 1), ("b", 7)]));
        assert_eq!(found, [Finding { instance: "a".into(), seen: "1".into(), why: Why::Silent }]);
    }

    #[test]
    fn nobody_grows_older_while_redis_is_away() {
        let (mut observer, start) = observer();
        observer.look(start, "me", &beats(&[("a", 1)]));
        // A minute without an answer, and then the same beat: the other one has
        // not reached Redis either.
        let back = start + 60 * SECOND;
        assert_eq!(observer.look(back, "me", &beats(&[("a", 1)])), []);
        for second in 1..6 {
            assert_eq!(observer.look(back + second * SECOND, "me", &beats(&[("a", 1)])), []);
        }
        assert_eq!(observer.look(back + 6 * SECOND, "me", &beats(&[("a", 1)])).len(), 1);
    }

    #[test]
    fn an_answer_that_does_not_come_gives_everybody_the_whole_time_again() {
        let (mut observer, start) = observer();
        let look = |observer: &mut Observer, second| observer.look(start + second * SECOND, "me", &beats(&[("a", 1)]));
        for second in 0..6 {
            assert_eq!(look(&mut observer, second), []);
        }
        observer.lose_touch();
        for second in 6..12 {
            assert_eq!(look(&mut observer, second), [], "at {second} s");
        }
        assert_eq!(look(&mut observer, 12).len(), 1);
    }

    #[test]
    fn one_outage_after_the_other_adds_up_to_nothing() {
        let (mut observer, start) = observer();
        for n in 0..10 {
            // Each time it has hardly come back when Redis is away again.
            let back = start + n * 10 * SECOND;
            assert_eq!(observer.look(back, "me", &beats(&[("a", 1)])), []);
            assert_eq!(observer.look(back + 2 * SECOND, "me", &beats(&[("a", 1)])), []);
        }
    }

    #[test]
    fn a_claim_is_taken_over_only_when_it_stands_still() {
        let (mut observer, start) = observer();
        let claim = |progress: u64| {
            let claims = HashMap::from([("a".to_owned(), format!("token:{progress}"))]);
            Look { claims, ..beats(&[("a", 1)]) }
        };
        for second in 0..10 {
            assert_eq!(observer.look(start + u32::try_from(second).unwrap() * SECOND, "me", &claim(second)), []);
        }
        for second in 10..12 {
            assert_eq!(observer.look(start + second * SECOND, "me", &claim(9)), []);
        }
        let found = observer.look(start + 12 * SECOND, "me", &claim(9));
        assert_eq!(found, [Finding { instance: "a".into(), seen: "token:9".into(), why: Why::Stalled }]);
    }

    #[test]
    fn an_instance_finds_those_that_it_was_before() {
        let id = |generation| InstanceId { boot: crate::id::BootId(7), generation };
        let (first, second, third) = (id(1).to_string(), id(2).to_string(), id(3).to_string());
        let other = "0000000000000008.1";
        let look = beats(&[(&first, 5), (&third, 1), (other, 9)]);
        let finding = Finding { instance: first.clone(), seen: "5".into(), why: Why::Silent };
        assert_eq!(look.before(id(3)), (true, vec![finding]));
        assert_eq!(look.before(id(1)), (false, vec![]));
        let claims = HashMap::from([(second, "t:1".to_owned())]);
        assert_eq!(Look { claims, ..beats(&[(&third, 1)]) }.before(id(3)), (true, vec![]));
    }

    #[test]
    fn one_that_departed_is_given_its_grace() {
        let (mut observer, start) = observer();
        let look = Look { departed: HashMap::from([("a".to_owned(), "2000".to_owned())]), ..Look::default() };
        assert_eq!(observer.look(start, "me", &look), []);
        assert_eq!(observer.look(start + SECOND, "me", &look), []);
        assert_eq!(observer.look(start + 2 * SECOND, "me", &look)[0].why, Why::Departed);
    }

    #[test]
    fn the_next_look_is_when_somebody_could_be_silent() {
        let (mut observer, start) = observer();
        observer.look(start, "me", &beats(&[("a", 1)]));
        observer.look(start + SECOND, "me", &beats(&[("a", 1)]));
        assert_eq!(observer.next(), 5 * SECOND);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(500))]

        /// Each look: milliseconds since the last, whether Redis was away in
        /// between, and who has beaten.
        #[test]
        fn whoever_is_found_was_silent_all_that_time_while_the_observer_looked(
            looks in prop::collection::vec(
                (0u64..2500, prop::bool::weighted(0.1), prop::array::uniform3(prop::bool::weighted(0.15))),
                1..60,
            ),
        ) {
            let (mut observer, start) = observer();
            let (mut now, mut touch) = (start, start);
            let (mut counts, mut changed) = ([0; 3], [start; 3]);
            for (n, (gap, is_away, beat)) in looks.into_iter().enumerate() {
                now += Duration::from_millis(gap);
                if is_away {
                    observer.lose_touch();
                }
                if n == 0 || is_away || Duration::from_millis(gap) > 2 * SECOND {
                    touch = now;
                }
                for (n, has_beaten) in beat.into_iter().enumerate() {
                    if has_beaten {
                        (counts[n], changed[n]) = (counts[n] + 1, now);
                    }
                }
                let found = observer.look(now, "me", &beats(&[("me", 0), ("0", counts[0]), ("1", counts[1]), ("2", counts[2])]));
                let mut names: Vec<usize> = found.iter().map(|finding| finding.instance.parse().unwrap()).collect();
                names.sort_unstable();
                let silent = |n: &usize| now.duration_since(changed[*n].max(touch)) >= 6 * SECOND;
                prop_assert_eq!(names, (0..3).filter(silent).collect::<Vec<_>>());
                prop_assert!(observer.next() <= 6 * SECOND);
            }
        }
    }
}
