import unittest

from settings import Settings
from text import announcement, field, may_concern, mentions


class WhatPeopleWrite(unittest.TestCase):
    def check_mentions(self, text, expected):
        self.assertEqual(mentions(text, "me", 3), expected)

    def test_names_are_found_between_other_text(self):
        self.check_mentions("@ada and (@grace): ask @j.doe-2.", ["ada", "grace", "j.doe-2"])
        self.check_mentions("@Jürgen, @名前!", ["Jürgen", "名前"])

    def test_each_is_mentioned_once_and_never_the_sender(self):
        self.check_mentions("@ada @me @ada", ["ada"])

    def test_addresses_and_lone_signs_are_no_mentions(self):
        self.check_mentions("ada@example.com @ @. @@", [])

    def test_there_is_a_limit(self):
        self.check_mentions("@a @b @c @d", ["a", "b", "c"])

    def test_only_the_named_string_field_counts(self):
        self.assertEqual(field(r'{"text":"a\n@b"}', "text"), "a\n@b")
        for text in ('{"text":7}', '{"body":"@b"}', '["@b"]', '"@b"', r'{"text":"\ud800 @b"}'):
            self.assertIsNone(field(text, "text"), text)

    def test_an_announcement_begins_with_the_command(self):
        self.assertEqual(announcement("/announce we are back "), "we are back")
        for text in ("do not /announce it", "/announcement", "/announce  "):
            self.assertIsNone(announcement(text), text)

    def test_escapes_do_not_hide_anything(self):
        for text in (r'{"text":"\/announce x"}', r'{"text":"\u002f\u0061nnounce x"}', r'{"text":"\u0040ada"}'):
            self.assertTrue(may_concern(text), text)
        self.assertFalse(may_concern(r'{"text":"hello\nthere"}'))


class TheSettings(unittest.TestCase):
    def test_there_are_defaults(self):
        settings = Settings.parse("{}")
        self.assertEqual((settings.field, settings.max_mentions), ("text", 10))

    def test_mistakes_are_named(self):
        for text, what in (
            ('{"max_mention":1}', "max_mention"),
            ('{"max_mentions":true}', "max_mentions"),
            ('{"announcers":["ada"]}', "announce_rooms"),
            ('{"announcers":[""],"announce_rooms":["all"]}', "anonymous"),
        ):
            with self.assertRaisesRegex(ValueError, what):
                Settings.parse(text)


if __name__ == "__main__":
    unittest.main()
