// Waiting for what must happen, never for a time to pass.

/** How long anything may take. Far more than it does: a shared machine pauses. */
const DEADLINE = 30_000;

/** The promise's value, or an error that says what did not happen in time. */
export function within(promise, what, deadline = DEADLINE) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`not within ${deadline / 1000} s: ${what}`)), deadline);
  });
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}

/** All that came, in order, and a way to wait for what is still to come. */
export class Inbox {
  all = [];
  #waiting = new Set();

  put(item) {
    this.all.push(item);
    for (const look of [...this.#waiting]) look();
  }

  /** The first truthy value of `condition(all)`, asked again whenever something comes. */
  until(condition, what = "a condition") {
    let look;
    const met = new Promise((resolve, reject) => {
      look = () => {
        try {
          const value = condition(this.all);
          if (value) resolve(value);
        } catch (error) {
          reject(error);
        }
      };
      this.#waiting.add(look);
      look();
    });
    return within(met, what)
      .catch((error) => {
        const newest = this.all.slice(-8).map((item) => JSON.stringify(item)).join("\n  ");
        throw new Error(`${error.message}; the newest of ${this.all.length}:\n  ${newest}`, { cause: error });
      })
      .finally(() => this.#waiting.delete(look));
  }

  /** The first item that fits, waited for. */
  async first(fits, what = "an item") {
    const found = await this.until((all) => {
      const n = all.findIndex(fits);
      return n >= 0 && { item: all[n] };
    }, what);
    return found.item;
  }
}
