// Reads a stream of server-sent events with `fetch`, which sends the sign-in's key in a header: an
// EventSource could only put it into the URL.

import { doubt, sendProven } from "./proof.js";

/** How long it waits after a stream has ended. */
const PAUSE_MS = 3000;

/**
 * Listens until the signal aborts, and connects again after a stream ends. Calls `open` and `lost`,
 * and for each event `hear` with its kind and its data.
 */
export async function listen(path, signal, { open, lost, hear }) {
  while (!signal.aborted) {
    try {
      const response = await sendProven(path, { signal });
      if (response.ok) {
        open();
        // Where the connection ends, another program may take the port.
        await read(response.body, hear).finally(doubt);
      } else await response.body?.cancel();
    } catch {
      // The stream is lost.
    }
    if (!signal.aborted) lost();
    await new Promise((resolve) => setTimeout(resolve, PAUSE_MS));
  }
}

/** Reads the events of a body to its end. */
async function read(body, hear) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let [rest, kind, data] = ["", "", ""];
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    for (const line of lines) {
      if (line.startsWith("event: ")) kind = line.slice(7);
      else if (line.startsWith("data: ")) data = line.slice(6);
      else if (line === "") {
        if (data) tell(hear, kind, data);
        [kind, data] = ["", ""];
      }
    }
  }
}

/** Handles an event; an error in it does not end the stream. */
function tell(hear, kind, data) {
  try {
    hear(kind, data);
  } catch (error) {
    reportError(error);
  }
}
