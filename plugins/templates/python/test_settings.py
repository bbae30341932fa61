import unittest

from settings import Settings


class TheSettings(unittest.TestCase):
    def test_there_are_defaults(self):
        self.assertEqual(Settings.parse("{}").greeting, "hello")

    def test_mistakes_are_named(self):
        for text, what in (('{"greting":"hi"}', "unknown key `greting`"), ('{"greeting":1}', "`greeting`")):
            with self.assertRaisesRegex(ValueError, what):
                Settings.parse(text)


if __name__ == "__main__":
    unittest.main()
