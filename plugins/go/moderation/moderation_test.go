package main

import (
	"encoding/json"
	"strings"
	"testing"
)

func censor(t *testing.T, words ...string) *Censor {
	t.Helper()
	censor, err := NewCensor(words)
	if err != nil {
		t.Fatal(err)
	}
	return censor
}

func checkMasked(t *testing.T, censor *Censor, text, expected string) {
	t.Helper()
	if !censor.Suspects(text) {
		t.Errorf("not suspected: %s", text)
	}
	if masked, _, err := censor.MaskJSON(text); masked != expected || err != nil {
		t.Errorf("%s became %s (%v), not %s", text, masked, err, expected)
	}
	if !json.Valid([]byte(expected)) {
		t.Errorf("no JSON: %s", expected)
	}
}

func checkClean(t *testing.T, censor *Censor, text string) {
	t.Helper()
	if masked, found, err := censor.MaskJSON(text); found || err != nil {
		t.Errorf("%s became %s (%v)", text, masked, err)
	}
}

func TestWholeWordsAreMaskedWithoutRegardToCase(t *testing.T) {
	checkMasked(t, censor(t, "darn"), `{"text":"Darn it, DARN!"}`, `{"text":"**** it, ****!"}`)
	checkMasked(t, censor(t, "DARN"), `"darn"`, `"****"`)
}

func TestPartsOfWordsAreLeftAlone(t *testing.T) {
	checkClean(t, censor(t, "ass"), `{"text":"a classic assembly, ass3"}`)
	if censor(t, "ass").Suspects(`{"text":"a classic assembly"}`) {
		t.Error("suspected")
	}
}

func TestKeysAndNumbersStayAsTheyAre(t *testing.T) {
	checkClean(t, censor(t, "darn", "12"), `{"darn":12}`)
	checkMasked(t, censor(t, "darn", "1"),
		`{ "darn" : 1.0, "n": 12345678901234567890, "a": ["darn", {"b":"1"}] }`,
		`{ "darn" : 1.0, "n": 12345678901234567890, "a": ["****", {"b":"*"}] }`)
}

func TestLettersOfEscapesAreNoPartOfAWord(t *testing.T) {
	checkMasked(t, censor(t, "darn"), `{"text":"so\ndarn\\darn\"darn\""}`, `{"text":"so\n****\\****\"****\""}`)
	if censor(t, "no").Suspects(`{"text":"\no"}`) {
		t.Error("suspected")
	}
}

func TestEscapedLettersDoNotHideAWord(t *testing.T) {
	checkMasked(t, censor(t, "darn"), `{"text":"d\u0061rn"}`, `{"text":"****"}`)
	checkMasked(t, censor(t, "darn"), `{"text":"\ud83d\ude00 darn \u0001<&>"}`, `{"text":"😀 **** \u0001<&>"}`)
	checkClean(t, censor(t, "darn"), `{"text":"d\u0061re"}`)
}

func TestOtherScriptsAreFoldedAndBoundedToo(t *testing.T) {
	checkMasked(t, censor(t, "käse"), `"“KÄSE” und Käsekuchen"`, `"“****” und Käsekuchen"`)
	checkMasked(t, censor(t, "κακός"), `"ΚΑΚΌΣ"`, `"*****"`)
	checkMasked(t, censor(t, "плохо"), `"Плохо…"`, `"*****…"`)
	checkMasked(t, censor(t, "हिन्"), `"हिन् हिन्दी"`, `"**** हिन्दी"`)
}

func TestOfTwoPhrasesTheLongerCounts(t *testing.T) {
	checkMasked(t, censor(t, "bad", "bad word"), `"bad word, bad words, bad"`, `"********, *** words, ***"`)
	checkMasked(t, censor(t, "c++"), `"C++ and c++17"`, `"*** and c++17"`)
}

func TestHalfASurrogatePairIsAnError(t *testing.T) {
	for _, text := range []string{`"\ud800 darn"`, `"\ud800\n"`, `"\udc00\ud800"`} {
		if _, _, err := censor(t, "darn").MaskJSON(text); err == nil {
			t.Error(text)
		}
	}
}

func TestATextThatCannotBeFoundIsRefused(t *testing.T) {
	for _, text := range []string{"!!", ""} {
		if _, err := NewCensor([]string{text}); err == nil {
			t.Errorf("`%s` was taken", text)
		}
	}
}

func TestMistakesInTheSettingsAreNamed(t *testing.T) {
	if settings, err := parseSettings(`{"words":[]}`); err != nil || settings.Action != Mask {
		t.Error(settings, err)
	}
	for text, what := range map[string]string{
		`{}`:                           "`words`",
		`{"words":[],"action":"hide"}`: "`action`",
		`{"words":[],"word":[]}`:       `"word"`,
		`{"words":"darn"}`:             "words",
	} {
		if _, err := parseSettings(text); err == nil || !strings.Contains(err.Error(), what) {
			t.Errorf("%s: %v", text, err)
		}
	}
}
