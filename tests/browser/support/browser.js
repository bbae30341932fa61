// A headless Chromium with a folder of its own, and a page of the gateway in it
// that is watched for whatever should not happen.

import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { chromium } from "playwright-core";

const CHROMIUM = process.env.CHROMIUM || "/usr/bin/chromium";
// Nothing but the page is to speak to anybody, and in containers there is
// neither a sandbox nor a GPU.
const ARGUMENTS = [
  "--headless",
  "--no-sandbox",
  "--disable-gpu",
  "--disable-quic",
  "--no-first-run",
  "--disable-background-networking",
  "--disable-component-update",
  "--disable-sync",
];

/** Runs a browser until the test `t` is over. */
export async function browser(t, options = {}) {
  const folder = await mkdtemp(join(tmpdir(), "wayleave-browser-"));
  t.after(() => rm(folder, { recursive: true, force: true, maxRetries: 5 }));
  const context = await chromium.launchPersistentContext(folder, {
    executablePath: CHROMIUM,
    args: ARGUMENTS,
    viewport: { width: 1280, height: 800 },
    ...options,
  });
  t.after(() => context.close());
  context.setDefaultTimeout(30_000);
  return context;
}

/** Opens the gateway's page. What goes wrong in it is collected in `wrong`. */
export async function open(context, gateway) {
  const { page, wrong } = await watched(context, gateway);
  return { page, wrong, panes: { ada: new Pane(page, "ada"), bob: new Pane(page, "bob") } };
}

/** Opens any page of the gateway. */
export async function watched(context, gateway, path = "") {
  const page = await context.newPage();
  const wrong = [];
  page.on("pageerror", (error) => wrong.push(`error: ${error.message}`));
  page.on("dialog", (dialog) => {
    wrong.push(`dialog: ${dialog.message()}`);
    dialog.dismiss();
  });
  page.on("request", (request) => {
    const url = new URL(request.url());
    if (url.protocol !== "data:" && url.host !== new URL(gateway.url).host) wrong.push(`request: ${url}`);
  });
  page.on("websocket", (socket) => {
    if (new URL(socket.url()).host !== new URL(gateway.url).host) wrong.push(`socket: ${socket.url()}`);
  });
  await page.exposeFunction("tellViolation", (text) => wrong.push(`policy: ${text}`));
  await page.addInitScript(() => {
    document.addEventListener("securitypolicyviolation", (event) =>
      tellViolation(`${event.violatedDirective}: ${event.blockedURI} ${event.sample}`),
    );
  });
  await page.goto(gateway.url + path);
  return { page, wrong };
}

/** One user's half of the page. Everything waits until it is so, or fails. */
export class Pane {
  constructor(page, id) {
    this.page = page;
    this.node = page.locator(`.pane[data-user="${id}"]`);
  }

  connected() {
    return this.node.and(this.page.locator('[data-state="connected"]')).waitFor();
  }

  /** As `connect` in the page: with another token. */
  async connect(token) {
    const field = this.node.getByLabel("token");
    if (!(await field.isVisible())) await this.node.getByText("token", { exact: true }).click();
    await field.fill(token);
    await this.node.getByRole("button", { name: "Connect" }).click();
    await this.connected();
  }

  async show(room) {
    await this.node.locator(".tab").filter({ hasText: room }).click();
  }

  /** As `show`, for a room that has no tab yet. */
  async enter(room) {
    await this.node.getByLabel("another room").fill(room);
    await this.node.getByLabel("another room").press("Enter");
  }

  async say(line) {
    await this.node.getByLabel("message", { exact: true }).fill(line);
    await this.node.getByLabel("message", { exact: true }).press("Enter");
  }

  /** The newest entry of the shown room that has this text. */
  entry(text) {
    return this.node.locator(".log:not([hidden]) > .entry").filter({ hasText: text }).last();
  }

  /** Who is here, by name, once it is these. */
  async here(...names) {
    for (const name of names) await this.node.locator(".person").filter({ hasText: name }).first().waitFor();
    return this.node.locator(".person").allTextContents();
  }

  /** The beginning of the id of the instance that it is connected to. */
  async instance() {
    const text = await this.node.locator('.connection [data-part="state"]').textContent();
    return text.match(/^connected to instance ([0-9a-f]{8})$/)?.[1] ?? text;
  }

  async reconnects() {
    return Number(await this.node.locator('[data-part="reconnects"]').textContent());
  }
}
