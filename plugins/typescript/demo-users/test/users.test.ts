import assert from "node:assert/strict";
import { test } from "node:test";
import { userOf } from "../src/users";

test("a demo token names its user", () => {
  assert.deepEqual(userOf("demo-ada"), { id: "ada", name: "Ada" });
  assert.deepEqual(userOf("demo-c-3_po"), { id: "c-3_po", name: "C-3_po" });
});

test("everything else is somebody else's to judge", () => {
  for (const token of ["", "ada", "demo-", "demo--a", "demo-Ada", "demo-ada\n", "demo-<b>", "xdemo-ada", `demo-${"a".repeat(33)}`]) {
    assert.equal(userOf(token), undefined, token);
  }
});
