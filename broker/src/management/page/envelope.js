// Parses the JSON of messages and of sessions' answers, whole or cut: the tap and a peek contain
// only the first part of a long one. Uses no DOM.
//
// The broker does not check envelopes. Anything that is not valid is ignored.

/** The number of held messages of one session that are shown. */
export const HELD = 100;

/** Whether it is a text that is not empty. */
export const isText = (value) => typeof value === "string" && value !== "";

/** Parses an envelope, also from a cut excerpt; undefined if it is not one. */
export function envelope(text, properties = {}) {
  const whole = parse(text);
  if (whole)
    return isText(whole.id) && isText(whole.from) && isText(whole.to) && isText(whole.message)
      ? whole
      : undefined;
  const found = cutFields(text);
  if (!found) return undefined;
  const cut = { cut: true };
  for (const name of ["id", "from", "to", "ts", "message", "reply_to", "correlation_id"])
    cut[name] = found.get(name);
  cut.id ??= properties.message_id;
  return isText(cut.id) && isText(cut.from) && isText(cut.to) && isText(cut.message)
    ? cut
    : undefined;
}

/** Parses a JSON object; undefined if it is not one. */
export function parse(text) {
  try {
    const value = JSON.parse(text);
    return value !== null && typeof value === "object" && !Array.isArray(value) ? value : undefined;
  } catch {
    return undefined;
  }
}

const TOKEN = /\s*("(?:[^"\\]|\\.)*(?:"|\\?$)|[{}[\],:]|[^\s{}[\],:"]+)/sy;

/**
 * The text fields of a JSON object whose end is missing, without those of nested objects. Undefined
 * if a name occurs twice: sessions refuse such a message.
 */
function cutFields(text) {
  const found = new Map();
  let depth = 0;
  let name;
  TOKEN.lastIndex = 0;
  for (let match; (match = TOKEN.exec(text));) {
    const token = match[1];
    if (depth === 0 && (token !== "{" || found.size)) return undefined;
    if (token === "{" || token === "[") depth++;
    else if (token === "}" || token === "]") depth--;
    else if (depth > 1 || token === ":") continue;
    else if (token === ",") name = undefined;
    else if (name === undefined) {
      name = parseText(token);
      if (name === undefined) break;
      if (found.has(name)) return undefined;
      found.set(name, undefined);
    } else if (token[0] === '"') found.set(name, parseText(token) ?? cutText(token));
  }
  return found;
}

function parseText(token) {
  try {
    return JSON.parse(token);
  } catch {
    return undefined;
  }
}

/** A text whose end is missing, perhaps in the middle of an escape. */
function cutText(token) {
  const text =
    parseText(`${token}"`) ?? parseText(`${token.replace(/\\(u[0-9a-fA-F]{0,3})?$/, "")}"`);
  return text === undefined ? undefined : `${text}…`;
}

/** A text field of a session's answer whose end is missing, at any depth. */
function field(text, name) {
  const found = new RegExp(`"${name}"\\s*:\\s*("(?:[^"\\\\]|\\\\.)*(?:"|\\\\?$))`, "s").exec(text);
  return found ? (parseText(found[1]) ?? cutText(found[1])) : undefined;
}

/**
 * Parses the answer of a session about the messages that it holds. Of a long answer, the tap has
 * the first whole messages, or the first part of the first one.
 */
export function inbox(text) {
  const whole = parse(text);
  if (whole) return { found: whole, isCut: false };
  for (
    let end = text.lastIndexOf("},{"), tries = 0;
    end > 0 && tries < HELD;
    end = text.lastIndexOf("},{", end - 1), tries++
  ) {
    const found = parse(`${text.slice(0, end)}}]}`);
    if (found) return { found, isCut: true };
  }
  const found = { messages: [{}] };
  for (const name of ["kind", "name", "session"]) found[name] = field(text, name);
  for (const name of ["id", "from", "reason", "line"]) found.messages[0][name] = field(text, name);
  return { found, isCut: true };
}
