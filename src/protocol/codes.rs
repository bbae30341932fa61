//! The tables of endings: error replies, closes and unsubscribes.
//!
//! Codes are those of the Centrifuge protocol, version 2. No other file has
//! such a number. On 3000 to 3499 and 4000 to 4499 a client reconnects; on
//! 3500 to 3999 and 4500 to 4999 it stays away.

use std::borrow::Cow;

/// A command refused: the error reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// What kind of refusal.
    pub code: u32,
    /// For people.
    pub reason: Cow<'static, str>,
    /// The client may try the same again.
    pub temporary: bool,
}

macro_rules! refusals {
    ($($(#[$doc:meta])* $name:ident = $code:literal $reason:literal $temporary:literal;)*) => {
        impl Refusal {
            $($(#[$doc])* pub const $name: Self =
                Self { code: $code, reason: Cow::Borrowed($reason), temporary: $temporary };)*
        }
    };
}

refusals! {
    /// Something failed that the client cannot mend.
    INTERNAL = 100 "internal server error" true;
    /// No right to be here at all.
    UNAUTHORIZED = 101 "unauthorized" false;
    /// No entry of the config matches the room.
    UNKNOWN_ROOM = 102 "unknown channel" false;
    /// Not for this client.
    PERMISSION_DENIED = 103 "permission denied" false;
    /// No such command, or no plugin knows the called method.
    METHOD_NOT_FOUND = 104 "method not found" false;
    /// The connection is in the room.
    ALREADY_JOINED = 105 "already subscribed" false;
    /// A limit of the config.
    LIMIT_EXCEEDED = 106 "limit exceeded" false;
    /// The command makes no sense.
    BAD_REQUEST = 107 "bad request" false;
    /// The room does not offer this.
    NOT_AVAILABLE = 108 "not available" false;
    /// The token was good once.
    TOKEN_EXPIRED = 109 "token expired" false;
    /// The time until which it was to hold is over.
    EXPIRED = 110 "expired" false;
    /// What this needs does not answer right now; nothing has changed.
    BUS_DOWN = 108 "not available for the moment" true;
    /// What this needs has not answered: it may have happened.
    BUS_UNKNOWN = 100 "the outcome is not known" true;
    /// The messages since then are not kept any more, or never were.
    UNRECOVERABLE = 112 "unrecoverable position" false;
    /// Commands come too fast.
    TOO_MANY_REQUESTS = 111 "too many requests" true;
}

impl Refusal {
    /// The longest reason from a plugin that is passed on, in bytes.
    const REASON_MAX: usize = 255;

    /// A plugin's own refusal. Codes that are not a plugin's become 103.
    #[must_use]
    pub fn from_plugin(code: u32, reason: &str, temporary: bool) -> Self {
        let own = (400..=1999).contains(&code);
        let reason = match cut(reason, Self::REASON_MAX) {
            "" => Self::PERMISSION_DENIED.reason,
            text => Cow::Owned(text.to_owned()),
        };
        Self { code: if own { code } else { Self::PERMISSION_DENIED.code }, reason, temporary }
    }
}

/// Why a connection ends: the code and reason of the WebSocket close frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Close {
    /// What kind of ending.
    pub code: u16,
    /// For people; at most 123 bytes.
    pub reason: Cow<'static, str>,
}

macro_rules! closes {
    ($($(#[$doc:meta])* $name:ident = $code:literal $reason:literal;)*) => {
        impl Close {
            $($(#[$doc])* pub const $name: Self = Self { code: $code, reason: Cow::Borrowed($reason) };)*
        }
    };
}

closes! {
    /// The client closed.
    BY_CLIENT = 3000 "connection closed";
    /// Its socket broke, or it leaves a page and may come back on the next.
    LOST = 3000 "connection lost";
    /// The instance drains.
    SHUTDOWN = 3001 "shutdown";
    /// The identity's time is over.
    EXPIRED = 3005 "connection expired";
    /// It reads slower than its rooms speak.
    SLOW = 3008 "slow";
    /// The server's ping was not answered.
    NO_PONG = 3012 "no pong";
    /// Commands keep coming too fast.
    TOO_MANY_REQUESTS = 3013 "too many requests";
    /// The token is not one of ours.
    INVALID_TOKEN = 3500 "invalid token";
    /// Not the protocol.
    BAD_REQUEST = 3501 "bad request";
    /// No successful connect within the deadline.
    STALE = 3502 "stale";
    /// A plugin or an operator ended it.
    FORCED = 3503 "force disconnect";
    /// A limit on connections.
    CONNECTION_LIMIT = 3504 "connection limit";
    /// A frame that is not text.
    INAPPROPRIATE_PROTOCOL = 3506 "inappropriate protocol";
    /// Refused again and again.
    TOO_MANY_ERRORS = 3509 "too many errors";
    /// RFC 6455, section 7.4.1: the frames are wrong.
    PROTOCOL_ERROR = 1002 "protocol error";
    /// RFC 6455, section 7.4.1: a text that is not UTF-8.
    INVALID_DATA = 1007 "invalid UTF-8";
    /// RFC 6455, section 7.4.1: more control frames than any client needs.
    CONTROL_FLOOD = 1008 "too many control frames";
    /// RFC 6455, section 7.4.1: fragments without end.
    FRAGMENT_FLOOD = 1008 "too many fragments";
    /// RFC 6455, section 7.4.1: larger than `limits.message_size`.
    MESSAGE_TOO_BIG = 1009 "message too big";
}

impl Close {
    /// RFC 6455, section 5.5: a control frame carries 125 bytes, two of them
    /// the code.
    pub const REASON_MAX: usize = 123;

    /// True if the client may be back in a moment: it did not end the
    /// conversation, and nobody sent it away.
    #[must_use]
    pub fn may_return(&self) -> bool {
        *self != Self::BY_CLIENT && matches!(self.code, 3000..=3499 | 4000..=4499)
    }

    /// A plugin's own close. Codes that are not a plugin's become 3503.
    #[must_use]
    pub fn from_plugin(code: u32, reason: &str) -> Self {
        let own = u16::try_from(code).ok().filter(|code| (4000..=4999).contains(code));
        let reason = match cut(reason, Self::REASON_MAX) {
            "" => Self::FORCED.reason,
            text => Cow::Owned(text.to_owned()),
        };
        Self { code: own.unwrap_or(Self::FORCED.code), reason }
    }
}

/// Unsubscribe code: the server took it out.
pub const LEFT_BY_SERVER: u32 = 2000;

/// Unsubscribe code: messages are lost to it; it comes back by itself and asks
/// for what it missed.
pub const INSUFFICIENT_STATE: u32 = 2500;

/// Unsubscribe code: the time of its subscription token is over; it comes back
/// by itself with another one.
pub const SUBSCRIPTION_EXPIRED: u32 = 2501;

/// The longest start of `text` that has at most `max` bytes.
fn cut(text: &str, max: usize) -> &str {
    &text[..text.floor_char_boundary(max)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plugins_codes_stay_in_their_range() {
        assert_eq!(Refusal::from_plugin(450, "no", false).code, 450);
        assert_eq!(Refusal::from_plugin(0, "", false), Refusal::PERMISSION_DENIED);
        assert_eq!(Refusal::from_plugin(3, "x", true).code, 103);
        assert_eq!(Close::from_plugin(4500, "out").code, 4500);
        assert_eq!(Close::from_plugin(1006, "").code, 3503);
    }

    #[test]
    fn a_reason_fits_a_close_frame_and_stays_text() {
        let close = Close::from_plugin(4000, &"ä".repeat(100));
        assert_eq!(close.reason.len(), 122);
    }
}
