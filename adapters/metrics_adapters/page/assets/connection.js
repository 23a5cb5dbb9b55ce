/**
 * The stream of dashboards: one EventSource at a time, opened again with growing pauses after it breaks.
 *
 * The states are `connecting`, `live`, `stale` (connected, but no new document arrives), `lost` (and tried again),
 * `refused` (not tried again, because the same request would be refused again) and `paused`.
 */

import { printable } from "./elements.js";

const FIRST_RETRY_SECONDS = 1;
const MOST_RETRY_SECONDS = 15;
const LEAST_STALE_SECONDS = 8;

export class Connection {
  /**
   * @param onDocument Called with each event of the stream.
   * @param onState Called after each change of `state`.
   */
  constructor(onDocument, onState) {
    this.state = "connecting";
    this.receivedAt = null; // Date.now() of the last new document; it also counts while the computer sleeps
    this.retryAt = null;
    this.reason = ""; // what the server answered, if it refused the stream or could not make a document
    this._onDocument = onDocument;
    this._onState = onState;
    this._url = null;
    this._source = null;
    this._retry = null;
    this._failures = 0;
    this._every = 2;
    this._generatedAt = null;
    this._connectedAt = 0; // Date.now() of the last attempt, or of its success
    this._hasFailed = false; // whether the server reported a failure since the last document
    addEventListener("online", () => this._retry !== null && this._connect());
    setInterval(() => this._checkAge(), 1000);
  }

  /** Read another stream. Documents of the stream before do not arrive any more. */
  open(url) {
    this._url = url;
    this._generatedAt = null;
    this._failures = 0;
    this._hasFailed = false;
    this.receivedAt = null;
    this.reason = "";
    this._setState("connecting");
    this._connect();
  }

  /** Stop reading, until `open` is called. */
  pause() {
    this._close();
    this._setState("paused");
  }

  _connect() {
    this._close();
    const source = new EventSource(this._url);
    this._source = source;
    this._connectedAt = Date.now();
    source.addEventListener("open", () => {
      this._connectedAt = Date.now();
      if (this.state === "lost") this._setState("connecting");
    });
    source.addEventListener("dashboard", (event) => this._receive(event.data));
    source.addEventListener("failed", (event) => this._receiveFailure(event.data));
    source.addEventListener("error", () => {
      const refused = source.readyState === EventSource.CLOSED; // the answer was not an event stream
      this._close();
      this.reason = refused ? this.reason : "";
      this._retryLater();
      if (refused) this._askWhy(this._url);
    });
  }

  _close() {
    clearTimeout(this._retry);
    this._retry = null;
    this._source?.close();
    this._source = null;
  }

  _receive(text) {
    let received;
    try {
      received = JSON.parse(text);
    } catch {
      return; // the next document replaces it; if none arrives, the state becomes stale
    }
    this._failures = 0;
    this._hasFailed = false;
    this.reason = "";
    const generatedAt = received?.dashboard?.generated_at;
    if (generatedAt !== this._generatedAt || generatedAt === undefined) this.receivedAt = Date.now();
    this._generatedAt = generatedAt;
    if (received?.every_seconds > 0) this._every = received.every_seconds;
    if (this.state !== "stale") this._setState("live");
    this._checkAge();
    this._onDocument(received);
  }

  /** The server could not make a document, so the last one is old, until another one arrives. */
  _receiveFailure(text) {
    this._failures = 0;
    this._hasFailed = true;
    try {
      this.reason = printable(JSON.parse(text).text, 300);
    } catch {
      this.reason = "the dashboard failed";
    }
    this._setState("stale");
    this._onState();
  }

  _retryLater() {
    const pause = Math.min(FIRST_RETRY_SECONDS * 2 ** this._failures, MOST_RETRY_SECONDS);
    const spread = pause * (0.8 + 0.4 * Math.random()); // many displays must not return at the same moment
    this._failures += 1;
    this.retryAt = Date.now() + 1000 * spread;
    this._retry = setTimeout(() => this._connect(), 1000 * spread);
    this._setState("lost");
  }

  /**
   * An EventSource hides the status of a refusal, so ask again. Without a session, show the login form. A request
   * with a wrong value is wrong for ever, so it is not retried.
   */
  async _askWhy(url) {
    const aborter = new AbortController();
    try {
      const response = await fetch(url, { headers: { Accept: "text/event-stream" }, signal: aborter.signal });
      if (response.status === 401) location.reload();
      if (response.ok) return;
      const text = printable((await response.text()).trim(), 300).replace(/\.$/, "");
      if (url !== this._url || this.state === "paused") return; // a later choice
      this.reason = `${response.status}, ${text}`;
      if (response.status === 400) {
        this._close();
        this._setState("refused");
      }
    } catch {
      // The connection is lost, and tried again without a reason.
    } finally {
      aborter.abort();
      this._onState();
    }
  }

  _checkAge() {
    if (!["connecting", "live", "stale"].includes(this.state)) return;
    const limit = 1000 * Math.max(LEAST_STALE_SECONDS, 3 * this._every);
    const isOld = Date.now() - Math.max(this.receivedAt ?? 0, this._connectedAt) > limit;
    if (this._hasFailed || isOld) this._setState("stale");
    else if (this.state === "stale") this._setState("live");
  }

  _setState(state) {
    if (state === this.state && state !== "lost") return;
    this.state = state;
    this._onState();
  }
}
