// Makes src/http/try/app.js, which is committed, so that the gateway builds
// without npm. With --check it only says whether the committed one is current.

import { readFile, writeFile } from "node:fs/promises";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";

const here = (path) => fileURLToPath(new URL(path, import.meta.url));
const OUTPUT = here("../src/http/try/app.js");

/**
 * The licenses of what the bundle contains. The client brings two things along
 * inside its own file, where no bundler sees them: the npm package `events`,
 * and a decoder of deltas that began as part of fossil-delta-js.
 */
async function notice() {
  const version = async (name) => JSON.parse(await readFile(here(`node_modules/${name}/package.json`), "utf8")).version;
  const parts = [
    [`centrifuge ${await version("centrifuge")}`, "node_modules/centrifuge/LICENSE"],
    [`events ${await version("events")}`, "node_modules/events/LICENSE"],
    ["applyDelta of fossil-delta-js", "licenses/fossil-delta.txt"],
  ];
  const texts = await Promise.all(parts.map(async ([name, path]) => `${name}\n\n${(await readFile(here(path), "utf8")).trim()}`));
  return `/*!\nMade by web/build.js from web/src. It contains:\n\n${texts.join("\n\n---\n\n")}\n*/`;
}

const { outputFiles, metafile } = await build({
  entryPoints: [here("src/main.js")],
  bundle: true,
  minify: true,
  format: "iife",
  target: "es2022",
  write: false,
  metafile: true,
  absWorkingDir: here("."),
});
const packages = new Set(Object.keys(metafile.inputs).map((path) => path.match(/^node_modules\/([^/]+)/)?.[1]));
packages.delete(undefined);
if ([...packages].join() !== "centrifuge") throw new Error(`add the licenses of ${[...packages].join(", ")} to the notice`);
const text = `${await notice()}\n${outputFiles[0].text}`;

if (process.argv.includes("--check")) {
  const committed = await readFile(OUTPUT, "utf8").catch(() => "");
  if (committed !== text) {
    console.error("src/http/try/app.js is not what web/src makes; run `npm run build` in web/");
    process.exit(1);
  }
} else {
  await writeFile(OUTPUT, text);
  console.log(`src/http/try/app.js: ${(text.length / 1024).toFixed(0)} KiB`);
}
