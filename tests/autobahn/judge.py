"""Counts what Autobahn's suite has found, and ends with an error unless all is well."""

import collections
import json
import sys

# 12 and 13 are about compression, which is not offered.
CASES_AT_LEAST = 300
FINE = {"OK", "NON-STRICT", "INFORMATIONAL", "UNIMPLEMENTED"}

with open(sys.argv[1]) as file:
    (cases,) = json.load(file).values()

compression = {name for name in cases if name.split(".")[0] in {"12", "13"}}
counts = collections.Counter(case["behavior"] for case in cases.values())
print(f"{len(cases)} cases: " + ", ".join(f"{n} {name}" for name, n in counts.most_common()))

failed = [
    f"{name}: {case['behavior']}, close: {case['behaviorClose']}"
    for name, case in sorted(cases.items())
    if case["behavior"] not in FINE
    or case["behaviorClose"] not in FINE
    or (case["behavior"] == "UNIMPLEMENTED" and name not in compression)
]
for line in failed:
    print("FAILED", line)
tried = len(cases) - len(compression)
if tried < CASES_AT_LEAST:
    print(f"only {tried} cases were tried; there are {CASES_AT_LEAST} or more")
sys.exit(bool(failed) or tried < CASES_AT_LEAST)
