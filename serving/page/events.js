// Events on their way to the server: batched, sent again until acknowledged, each with an id of its own.

const FLUSH_MS = 2000;
const MAX_BATCH = 200;
const MAX_WAITING = 2000;

export class EventQueue {
  #waiting = [];
  #isSending = false;

  constructor() {
    setInterval(() => this.flush(), FLUSH_MS);
    // The last chance before the tab may vanish.
    document.addEventListener("visibilitychange", () => {
      if (document.visibilityState === "hidden") this.flush(true);
    });
  }

  // The new event's id.
  add(event) {
    const id = crypto.randomUUID();
    this.#waiting.push({ event_id: id, ...event });
    if (this.#waiting.length > MAX_WAITING) this.#waiting.shift();
    return id;
  }

  async flush(isLeaving = false) {
    if (!this.#waiting.length || (this.#isSending && !isLeaving)) return;
    this.#isSending = true;
    const batch = this.#waiting.slice(0, MAX_BATCH);
    try {
      const reply = await fetch("/events", {
        method: "POST", keepalive: isLeaving,
        headers: { "Content-Type": "application/json" }, body: JSON.stringify({ events: batch }),
      });
      // A refused batch would be refused again; only an unreachable or overloaded server is asked once more.
      if (reply.status < 500) {
        const sent = new Set(batch);
        this.#waiting = this.#waiting.filter((event) => !sent.has(event));
      }
    } catch {
      // Offline: the events wait for the next turn, and their ids keep a repeat from counting twice.
    } finally {
      this.#isSending = false;
    }
  }
}
