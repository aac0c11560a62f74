// Questions to sessions: how they are, what they hold, to pause and to go on. Their answers go to a
// queue that does not exist; the tap shows them on their way.

import { ask } from "./dom.js";
import { LISTENING, PRESENCE } from "./names.js";

/** Resolves once the question is published. */
export async function question(model, body) {
  const properties = { content_type: "application/json", reply_to: LISTENING, user_id: model.user };
  const order = {
    properties,
    routing_key: "",
    payload: JSON.stringify(body),
    payload_encoding: "string",
  };
  return ask("POST", `/api/exchanges/%2F/${PRESENCE}/publish`, order);
}

const of = (name) => ({ scope: { name } });

/** Asks every session to say how it is. */
export const who = (model) => question(model, { kind: "who" });
/** Messages wait in the session until it goes on. */
export const pause = (model, name) => question(model, { kind: "pause", ...of(name) });
export const resume = (model, name) => question(model, { kind: "resume", ...of(name) });
/** Asks for the texts that a session holds; they stay there. */
export const lookInto = (model, name) =>
  question(model, { kind: "inbox", ...of(name), take: false });
/** What the session holds counts as read, and its agent does not get it. */
export const take = (model, name) => question(model, { kind: "inbox", ...of(name), take: true });
