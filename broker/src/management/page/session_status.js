// What a session does, and what it needs from a person. Uses no DOM.
//
// Two wraps of one name share its queue, but are two sessions for a person: each has a row of its
// own, as in `cbroker list`.

import { isText } from "./envelope.js";

/** The states of a wrap, most urgent first: the colour and the label of each. */
const SHOWN = {
  stuck: ["held", "Stuck"],
  "needs-you": ["held", "Needs you"],
  draft: ["draft", "Draft"],
  starting: ["starting", "Starting"],
  busy: ["busy", "Busy"],
  paused: ["paused", "Paused"],
  notify: ["notify", "Notify"],
  idle: ["idle", "Idle"],
};
const ORDER = Object.keys(SHOWN);

/** The state of a wrap in a word, as `cbroker list` has it. */
const word = ({ state }) => (ORDER.includes(state) ? SHOWN[state][1].toLowerCase() : state);

/** Whether a person paused a wrap, whatever its state is. */
const isPaused = ({ state, paused }) => state === "paused" || paused === true;
/** Whether a person paused a wrap that has another state. */
const isAlsoPaused = (wrap) => isPaused(wrap) && wrap.state !== "paused";

/** What a wrap asks of its person, or why it holds messages; and that it is paused. */
function reasonOf(wrap) {
  const reason = [wrap.detail, wrap.reason].find(isText);
  if (!isAlsoPaused(wrap)) return reason;
  return reason && reason !== "paused" ? `${reason}; paused` : "paused";
}

/** The state of a wrap in words, as `cbroker list` has them. */
export function words(wrap) {
  const state = [word(wrap), wrap.detail].filter(isText).join(": ");
  const shown = isAlsoPaused(wrap) ? `${state}; paused` : state;
  const isSaid = !isText(wrap.reason) || shown.includes(wrap.reason);
  return isSaid ? shown : `${shown}; held: ${wrap.reason}`;
}

const urgency = ({ state }) => (ORDER.includes(state) ? ORDER.indexOf(state) : ORDER.length);
const heldBy = (presences) =>
  presences.reduce((sum, presence) => sum + (Number(presence.held) || 0), 0);

/**
 * The last announcements of the open wraps of a session. A killed wrap does not announce its end.
 * Each open one consumes from the queue, so as many as there are consumers count, the latest first.
 */
function open({ presences, queue }) {
  const said = [...presences.values()];
  return queue ? said.slice(Math.max(0, said.length - (queue.consumers ?? 0))) : said;
}

/**
 * The state of these wraps of a session in one word, and the reason; by default of all open ones.
 */
export function statusOf(session, wraps = open(session)) {
  const presences = [...wraps].sort((one, two) => urgency(one) - urgency(two));
  if (session.queue && !session.queue.consumers)
    return { state: "closed", label: "Closed", presences: [] };
  const first = presences[0];
  if (!first) return { state: "attached", label: "Attached", presences };
  const isKnown = ORDER.includes(first.state);
  const [state, label] = isKnown ? SHOWN[first.state] : ["attached", first.state];
  return {
    state,
    label,
    reason: reasonOf(first),
    since: first.since,
    held: heldBy(presences),
    canPause: !presences.every(isPaused),
    canResume: presences.some(isPaused),
    presences,
  };
}

/** Messages in the queue that no wrap has taken. */
export function waiting(session) {
  const held = statusOf(session).held ?? 0;
  return Math.max(0, (session.queue?.messages ?? 0) - held);
}

/** Whether messages wait for a session that is closed. */
export function waitsToBeOpened(session) {
  return statusOf(session).state === "closed" && waiting(session) > 0;
}

/**
 * What a session needs from a person: `asks`, `stuck`, `open`, or `keeps` if it holds messages
 * until the person does something; undefined for nothing.
 */
function need(session, { state, label, held }) {
  if (state === "held") return label === "Stuck" ? "stuck" : "asks";
  if (waitsToBeOpened(session)) return "open";
  return held && ["draft", "paused", "notify"].includes(state) ? "keeps" : undefined;
}

/**
 * Sessions that ask or are stuck first, then those with messages that wait, the closed ones last.
 */
function rank({ need, status }) {
  if (need) return need === "asks" || need === "stuck" ? 0 : 1;
  return status.state === "closed" ? 3 : 2;
}

/** The rows of a session. `key` is its name; further wraps of the name get other keys. */
function rowsOf(session) {
  const wraps = open(session).sort((one, two) => (one.session < two.session ? -1 : 1));
  const shares = wraps.length > 1 ? wraps.map((wrap) => [wrap]) : [wraps];
  return shares.map((share, place) => {
    const status = statusOf(session, share);
    return {
      key: place ? `${session.name} ${share[0].session}` : session.name,
      name: session.name,
      session,
      status,
      need: need(session, status),
      /** How many wraps have this name. */
      wraps: wraps.length,
    };
  });
}

/** A row for each session; one for each wrap if several have the same name. */
export function rows(sessions) {
  return [...sessions]
    .flatMap(rowsOf)
    .sort((one, two) => rank(one) - rank(two) || one.key.localeCompare(two.key));
}
