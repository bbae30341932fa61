import json
import unittest

from censor import Censor, NotUnicode
from settings import Settings


class Words(unittest.TestCase):
    def check_masked(self, words, text, expected):
        self.assertEqual(Censor(words).mask_json(text), expected)
        json.loads(expected)

    def check_clean(self, words, text):
        self.assertIsNone(Censor(words).mask_json(text))

    def test_whole_words_are_masked_without_regard_to_case(self):
        self.check_masked(["darn"], '{"text":"Darn it, DARN!"}', '{"text":"**** it, ****!"}')
        self.check_masked(["DARN"], '"darn"', '"****"')

    def test_parts_of_words_are_left_alone(self):
        self.check_clean(["ass"], '{"text":"a classic assembly, ass3"}')
        self.check_masked(["ass"], '{"text":"an ass_"}', '{"text":"an ***_"}')

    def test_keys_and_numbers_stay_as_they_are(self):
        self.check_clean(["darn", "12"], '{"darn":12}')
        self.check_masked(
            ["darn", "1"],
            '{ "darn" : 1.0, "n": 12345678901234567890, "a": ["darn", {"b":"1"}] }',
            '{ "darn" : 1.0, "n": 12345678901234567890, "a": ["****", {"b":"*"}] }',
        )

    def test_letters_of_escapes_are_no_part_of_a_word(self):
        self.check_masked(["darn"], r'{"text":"so\ndarn\\darn\"darn\""}', r'{"text":"so\n****\\****\"****\""}')
        self.check_clean(["no"], r'{"text":"\nono"}')

    def test_escaped_letters_do_not_hide_a_word(self):
        self.check_masked(["darn"], r'{"text":"d\u0061rn"}', '{"text":"****"}')
        self.check_clean(["darn"], r'{"text":"d\u0061re"}')

    def test_other_scripts_are_folded_and_bounded_too(self):
        self.check_masked(["käse"], '"“KÄSE” und Käsekuchen"', '"“****” und Käsekuchen"')
        self.check_masked(["κακός"], '"ΚΑΚΌΣ"', '"*****"')
        self.check_masked(["плохо"], '"Плохо…"', '"*****…"')
        self.check_masked(["हिन्"], '"हिन् हिन्दी"', '"**** हिन्दी"')

    def test_of_two_phrases_the_longer_counts(self):
        self.check_masked(["bad", "bad word"], '"bad word, bad words, bad"', '"********, *** words, ***"')
        self.check_masked(["c++"], '"C++ and c++17"', '"*** and c++17"')

    def test_half_a_surrogate_pair_is_an_error(self):
        with self.assertRaises(NotUnicode):
            Censor(["darn"]).mask_json(r'{"text":"\ud800 darn"}')

    def test_a_text_that_cannot_be_found_is_refused(self):
        with self.assertRaisesRegex(ValueError, "`!!`"):
            Censor(["!!"])
        with self.assertRaisesRegex(ValueError, "words"):
            Censor([""])


class TheSettings(unittest.TestCase):
    def test_mistakes_are_named(self):
        self.assertEqual(Settings.parse('{"words":[]}'), Settings([], "mask"))
        for text, what in (
            ("{}", "`words`"),
            ('{"words":[],"action":"hide"}', "`action`"),
            ('{"words":[],"word":[]}', "unknown key `word`"),
        ):
            with self.assertRaisesRegex(ValueError, what):
                Settings.parse(text)


if __name__ == "__main__":
    unittest.main()
