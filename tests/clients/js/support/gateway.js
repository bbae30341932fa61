// Starts the real gateway as a child process, with a config of its own, and
// ends it by its handle. Needs nothing but Node, so that the browser tests can
// use it too.

import { spawn } from "node:child_process";
import { mkdir, mkdtemp, readFile, rename, rm, symlink, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { dirname, join, resolve } from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { Inbox, within } from "./inbox.js";

const HERE = dirname(fileURLToPath(import.meta.url));
export const ROOT = resolve(HERE, "../../../..");
/** How `run` and `dev` tell where they listen. */
const LISTENING = /http:\/\/127\.0\.0\.1:(\d+)/;
const BINARY = resolve(process.env.WAYLEAVE_BIN ?? join(ROOT, "target/debug/wayleave"));

/** The path of a fixture plugin. */
export function fixture(name) {
  return join(ROOT, "plugins/fixtures", `${name}.wat`);
}

/** The text of a fixture plugin. */
export function fixtureText(name) {
  return readFile(fixture(name), "utf8");
}

/**
 * A config as TOML. Of TOML this knows tables, lists of tables and plain
 * values; those are written as in JSON, which TOML shares.
 */
export function toml(config, path = []) {
  const isTable = (value) => typeof value === "object" && value !== null && !Array.isArray(value);
  const isTables = (value) => Array.isArray(value) && value.length > 0 && value.every(isTable);
  const key = (name) => (/^[\w-]+$/.test(name) ? name : JSON.stringify(name));
  let text = "";
  const later = [];
  for (const [name, value] of Object.entries(config)) {
    if (value === undefined) continue;
    const here = [...path, key(name)];
    if (isTables(value)) later.push(...value.map((table) => `[[${here.join(".")}]]\n${toml(table, here)}`));
    else if (isTable(value)) later.push(`[${here.join(".")}]\n${toml(value, here)}`);
    else text += `${key(name)} = ${JSON.stringify(value)}\n`;
  }
  return text + later.join("");
}

export class Gateway {
  /** What it says on standard error, line by line. */
  log = new Inbox();
  /** What `/try/events` tells, newest last. */
  statuses = new Inbox();
  #config;
  #configFile = "config.toml";
  #command;
  #child;
  #ended;
  #events;

  /**
   * A gateway in a temporary folder, gone when the test `t` is over. `files`
   * are put into that folder before it starts; relative paths of the config
   * begin there. With `behindLink` the config file is a link into a subfolder; `command`
   * is what the program is to do.
   */
  static async start(t, config, files = {}, { behindLink = false, command = "run" } = {}) {
    const gateway = new Gateway();
    gateway.folder = await mkdtemp(join(tmpdir(), "wayleave-test-"));
    t.after(async () => {
      await gateway.stop();
      await rm(gateway.folder, { recursive: true, force: true });
    });
    for (const [name, text] of Object.entries(files)) {
      await mkdir(dirname(join(gateway.folder, name)), { recursive: true });
      await writeFile(join(gateway.folder, name), text);
    }
    if (behindLink) {
      gateway.#configFile = "elsewhere/config.toml";
      await mkdir(join(gateway.folder, "elsewhere"));
      await symlink(gateway.#configFile, join(gateway.folder, "config.toml"));
    }
    gateway.#config = config;
    gateway.#command = command;
    await gateway.run();
    return gateway;
  }

  #text(config) {
    return toml({
      ...config,
      server: { listen: `127.0.0.1:${this.port ?? 0}`, cache: "", try_page: true, ...config.server },
      metrics: { enabled: true },
    });
  }

  /** Runs the process; after a `stop` again, on the same port. */
  async run() {
    await this.write(this.#configFile, this.#text(this.#config));
    const child = spawn(BINARY, [this.#command, "--config", join(this.folder, "config.toml")], {
      stdio: ["ignore", "ignore", "pipe"],
      // The gateway takes what begins like its own keys for one of them.
      env: { ...process.env, WAYLEAVE_BIN: undefined, NO_COLOR: "1" },
    });
    this.#child = child;
    const started = this.log.all.length;
    this.#ended = new Promise((resolve) => {
      child.once("error", (error) => resolve(error.message));
      // `close` comes after the last line of its log.
      child.once("close", (code, signal) => resolve(code ?? signal));
    });
    this.#ended.then((how) => this.log.put(`ended: ${how}`));
    createInterface({ input: child.stderr }).on("line", (line) => this.log.put(plain(line)));
    const line = await this.log.until((all) => {
      const since = all.slice(started);
      if (since.at(-1)?.startsWith("ended: ")) throw new Error(`the gateway does not start:\n${since.join("\n")}`);
      return since.find((line) => LISTENING.test(line));
    }, "the gateway listens");
    this.port = Number(line.match(LISTENING)[1]);
    this.url = `http://127.0.0.1:${this.port}`;
    this.websocket = `ws://127.0.0.1:${this.port}/connection/websocket`;
    if (this.#config.server?.try_page !== false) await this.#follow();
  }

  /** Reads the server-sent events for as long as the process lives. */
  async #follow() {
    this.#events = new AbortController();
    const response = await fetch(`${this.url}/try/events`, { signal: this.#events.signal });
    const read = async () => {
      const decoder = new TextDecoder();
      let text = "";
      for await (const bytes of response.body) {
        text += decoder.decode(bytes, { stream: true });
        const events = text.split("\n\n");
        text = events.pop();
        for (const event of events) {
          const data = event.split("\n").filter((line) => line.startsWith("data:"));
          if (data.length > 0) this.statuses.put(JSON.parse(data.map((line) => line.slice(5)).join("\n")));
        }
      }
    };
    // It ends with the gateway or with the test; neither is a failure here.
    read().catch(() => {});
    await this.status(() => true);
  }

  /** The newest status that fits, as soon as there is one. */
  status(fits, what = "the status") {
    return this.statuses.until((all) => all.length > 0 && fits(all.at(-1)) && all.at(-1), what);
  }

  /** Puts a file into the gateway's folder as careful writers do: whole, by renaming. */
  async write(name, content) {
    const path = join(this.folder, name);
    await writeFile(`${path}.new`, content);
    await rename(`${path}.new`, path);
  }

  /** Takes a file out of the gateway's folder. */
  remove(name) {
    return rm(join(this.folder, name));
  }

  /** Changes the config file; the gateway is to notice by itself. */
  async configure(config) {
    this.#config = config;
    await this.write(this.#configFile, this.#text(config));
  }

  signal(name) {
    this.#child.kill(name);
  }

  /** Ends it in order and gives its exit code. */
  async stop() {
    if (!this.#child) return undefined;
    this.#child.kill("SIGTERM");
    try {
      return await within(this.#ended, "the gateway ends after SIGTERM");
    } catch (error) {
      this.#child.kill("SIGKILL");
      throw error;
    } finally {
      this.#events?.abort();
      this.#child = undefined;
    }
  }

  /** A metric's value, summed over all its labels that hold `labels`. */
  async metric(name, labels = {}) {
    const text = await (await fetch(`${this.url}/metrics`)).text();
    const fits = (line) =>
      line.split(/[ {]/)[0] === name && Object.entries(labels).every(([key, value]) => line.includes(`${key}="${value}"`));
    return text
      .split("\n")
      .filter(fits)
      .reduce((sum, line) => sum + Number(line.slice(line.lastIndexOf(" ") + 1)), 0);
  }

  /** Waits until a metric is at least `least`. The gateway pushes no metrics, so this asks again and again. */
  async metricReaches(name, labels, least) {
    const reached = async () => {
      for (;;) {
        const value = await this.metric(name, labels);
        if (value >= least) return value;
        await new Promise((resolve) => setTimeout(resolve, 20));
      }
    };
    return within(reached(), `${name} ${JSON.stringify(labels)} reaches ${least}`);
  }
}

/** Without the colours that a terminal would want. */
function plain(line) {
  return line.replace(/\u001b\[[\d;]*m/g, "");
}
