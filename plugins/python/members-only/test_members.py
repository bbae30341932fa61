import json
import unittest

from members import Members

SETTINGS = {
    "rooms": {
        "team:*": ["ada", "group:staff"],
        "team:board": ["grace"],
        "*:log:*": ["group:ops"],
    },
}
STAFF = json.dumps({"groups": ["staff", "tea"]})
OPS = json.dumps({"groups": ["ops"]})


class Joining(unittest.TestCase):
    def setUp(self):
        self.members = Members(json.dumps(SETTINGS))

    def admits(self, *arguments):
        self.assertTrue(self.members.admits(*arguments), arguments)

    def refuses(self, *arguments):
        self.assertFalse(self.members.admits(*arguments), arguments)

    def test_listed_users_may_join(self):
        self.admits("team:red", "ada", "")
        self.refuses("team:red", "eve", "")

    def test_members_of_a_listed_group_may_join(self):
        self.admits("team:red", "eve", STAFF)
        self.refuses("team:red", "eve", json.dumps({"groups": ["guests"]}))

    def test_a_user_is_never_taken_for_a_group(self):
        self.refuses("team:red", "group:staff", "")

    def test_anonymous_users_may_not_whatever_their_groups_and_the_settings(self):
        self.refuses("team:red", "", STAFF)
        self.assertFalse(Members('{"otherwise":"allow"}').admits("lobby", "", ""))

    def test_the_pattern_that_fixes_more_of_the_name_counts(self):
        self.admits("team:board", "grace", "")
        self.refuses("team:board", "ada", STAFF)

    def test_a_star_stands_for_any_run_of_characters(self):
        self.admits("eu:log:disk:full", "eve", OPS)
        self.admits(":log:", "eve", OPS)
        self.refuses("eu:log", "eve", OPS)
        self.refuses("Team:red", "ada", "")
        self.assertFalse(Members('{"rooms":{"ab*ba":["ada"]}}').admits("aba", "ada", ""))

    def test_rooms_that_no_pattern_matches_are_refused_unless_the_settings_allow_them(self):
        self.refuses("lobby", "ada", "")
        self.members = Members(json.dumps({**SETTINGS, "otherwise": "allow"}))
        self.admits("lobby", "eve", "")
        self.refuses("team:red", "eve", "")

    def test_an_info_without_groups_gives_none(self):
        for info in ("", "{}", "null", "7", '{"groups":"staff"}', '{"groups":[["staff"]]}'):
            self.refuses("team:red", "eve", info)


class TheSettings(unittest.TestCase):
    def test_mistakes_are_named(self):
        for text, what in (
            ('{"otherwise":"deny"}', "`otherwise`"),
            ('{"room":{}}', "unknown key `room`"),
            ('{"rooms":{"a":"ada"}}', "`rooms.a`"),
        ):
            with self.assertRaisesRegex(ValueError, what):
                Members(text)


if __name__ == "__main__":
    unittest.main()
