// Requests to sessions: their state, what they hold, pause and resume. The answers go to a queue
// that does not exist; the page sees them in the tap.

import { ask, messages, toast } from "./dom.js";
import { LISTENING, PRESENCE } from "./names.js";

/** Resolves once the request is published. */
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

/** Asks every session for its state. */
export const who = (model) => question(model, { kind: "who" });
/** Holds messages in the session until it is resumed. */
export const pause = (model, name) => question(model, { kind: "pause", ...of(name) });
export const resume = (model, name) => question(model, { kind: "resume", ...of(name) });
/** Asks for the texts that a session holds; they stay there. */
export const lookInto = (model, name) =>
  question(model, { kind: "inbox", ...of(name), take: false });
/**
 * Takes the messages of these answers, which the page has shown: they count as read, and the agent
 * does not get them.
 */
export const take = (model, name, answers) =>
  Promise.all(
    answers.map(({ session, keys }) => {
      model.takes.add(session);
      return question(model, { kind: "taken", ...of(name), session, keys });
    }),
  );
/** Says how many messages sessions did not give to this page. */
export function tellLeft(model) {
  if (!model.left) return;
  toast(`Not taken: ${messages(model.left)}, which the agent or another command already has.`);
  model.left = 0;
}
