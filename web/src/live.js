// What is live in the gateway, as it tells by server-sent events.

/** How long to wait when the browser itself gives up trying again. */
const RETRY = 2000;

/** Calls `onStatus` with each status, and `onLost` when nothing comes any more. */
export function follow(url, { onStatus, onLost }) {
  const source = new EventSource(url);
  source.onmessage = ({ data }) => {
    // An event that cannot be read must not end the ones after it.
    try {
      onStatus(JSON.parse(data));
    } catch (error) {
      console.error(error);
    }
  };
  source.onerror = () => {
    onLost();
    // After a lost connection it tries again by itself, after an error page not.
    if (source.readyState === EventSource.CLOSED) setTimeout(() => follow(url, { onStatus, onLost }), RETRY);
  };
}
