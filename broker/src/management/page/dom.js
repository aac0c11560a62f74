// Elements, requests and formats. Nothing here, and nothing that uses it, turns text into markup:
// every text of a message is set by `textContent`, and is cleaned as for a terminal.

import { dropSecrets, keepSecrets, send, sendProven } from "./proof.js";

const EMOJI = /(\p{Extended_Pictographic}\uFE0F)/u.source;
const MARKS = /[\u2028\u2029\uFFF9-\uFFFB\u{13430}-\u{13440}\u{16FE4}]/u.source;
const INVISIBLE = `[\\p{Cc}\\p{Default_Ignorable_Code_Point}]|${MARKS}`;
const HIDDEN = new RegExp(`${EMOJI}|${INVISIBLE}`, "gu");

/**
 * Removes control, invisible and reordering characters from a text, but not line breaks and tabs.
 */
export const plain = (text) => {
  const kept = (found) => (found === "\n" || found === "\t" ? found : "");
  return String(text).replace(HIDDEN, (found, emoji) => emoji ?? kept(found));
};

/**
 * @returns an element; `on…` properties listen, `data` fills the dataset, the rest are properties
 * or attributes.
 */
export function el(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (name === "title" || name === "aria-label") made.setAttribute(name, plain(value));
    else if (name === "data") Object.assign(made.dataset, value);
    else if (name in made) made[name] = value;
    else made.setAttribute(name, value === true ? "" : value);
  }
  const shown = children.filter((child) => child !== null && child !== undefined && child !== "");
  made.append(...shown.map((child) => (child instanceof Node ? child : plain(child))));
  return made;
}

export const $ = (id) => document.getElementById(id);

/** Sets a text only if it differs, so that a selection survives. */
export function say(element, text) {
  const shown = plain(text);
  if (element.textContent !== shown) element.textContent = shown;
}

export class Refused extends Error {
  constructor(status, reason, body) {
    super(reason);
    this.status = status;
    this.body = body;
  }
}

/** Signs in, and keeps what the broker gives for it. */
export async function signIn(body) {
  keepSecrets(await ask("POST", "/api/session", body, send));
}

/** Ends the sign-in here in any case. Fails unless the broker has said that it ended it too. */
export async function signOut() {
  try {
    await ask("DELETE", "/api/session");
  } finally {
    dropSecrets();
  }
}

let generation = 0;
/** Makes all pending reads fail. */
export const dropAnswers = () => generation++;

/** Sends a JSON request to the API. Only a sign-in accepts an unproven response. */
export async function ask(method, path, body, request = sendProven) {
  const asked = generation;
  const response = await request(path, {
    method,
    headers: body === undefined ? {} : { "content-type": "application/json" },
    body: body === undefined ? undefined : JSON.stringify(body),
  });
  const text = await response.text();
  // Writes do not fail here: a message that was sent must not be reported as failed.
  if (method === "GET" && asked !== generation)
    throw new Error("The connection to the broker was lost meanwhile.");
  const json = text ? JSON.parse(text) : null;
  if (!response.ok) throw new Refused(response.status, json?.reason ?? response.statusText, json);
  return json;
}

/** Whether a browser leaves a name in a path: it resolves these two, however they are escaped. */
export const isAddressable = (name) => name !== "." && name !== "..";

/** A name as a part of a path. Fails for one that would turn it into another path. */
export function part(name) {
  if (!isAddressable(name)) throw new Error(`A browser cannot ask for what is named "${name}".`);
  return encodeURIComponent(name);
}

export function number(value) {
  if (value === undefined || value === null) return "–";
  if (value >= 1e6) return `${(value / 1e6).toFixed(value >= 1e7 ? 0 : 1)} M`;
  if (value >= 1e4) return `${(value / 1e3).toFixed(value >= 1e5 ? 0 : 1)} k`;
  return value % 1 ? value.toFixed(value < 10 ? 1 : 0) : String(value);
}

export const messages = (count) => (count === 1 ? "1 message" : `${number(count)} messages`);

export function bytes(value) {
  let size = value ?? 0;
  for (const unit of ["B", "KiB", "MiB", "GiB"]) {
    if (size < 1024)
      return `${size < 10 && unit !== "B" ? size.toFixed(1) : Math.round(size)} ${unit}`;
    size /= 1024;
  }
  return `${size.toFixed(1)} TiB`;
}

export function span(ms) {
  const seconds = Math.max(0, Math.round(ms / 1000));
  if (seconds < 60) return `${seconds} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min`;
  if (seconds < 86400)
    return `${Math.floor(seconds / 3600)} h ${Math.floor((seconds % 3600) / 60)} min`;
  return `${Math.floor(seconds / 86400)} d`;
}

const clock = new Intl.DateTimeFormat(undefined, {
  hour: "2-digit",
  minute: "2-digit",
  second: "2-digit",
});
const day = new Intl.DateTimeFormat(undefined, { day: "numeric", month: "short" });

export function when(ms) {
  const date = new Date(ms);
  const today = new Date().toDateString() === date.toDateString();
  return today ? clock.format(date) : `${day.format(date)} ${clock.format(date)}`;
}

/** A hue for a name, always the same one. */
export function hue(name) {
  let hash = 7;
  for (const character of name) hash = (hash * 31 + character.codePointAt(0)) % 360;
  return hash;
}

export function toast(text) {
  const line = el("p", {}, text);
  $("toasts").append(line);
  setTimeout(() => line.remove(), 5000);
}

/** Calls `work` soon, once for many requests. */
export function soon(work, ms = 120) {
  let waiting = false;
  return () => {
    if (waiting) return;
    waiting = true;
    setTimeout(() => {
      waiting = false;
      work();
    }, ms);
  };
}

/**
 * Makes or updates the children of `parent`, one for each item, in the order of `items`. Items with
 * the same key have a child each.
 */
export function keyed(parent, items, { key, make, update }) {
  const there = new Map();
  for (const child of parent.children) {
    const same = there.get(child.dataset.key);
    if (same) same.push(child);
    else there.set(child.dataset.key, [child]);
  }
  let place = null;
  for (const item of items) {
    const name = String(key(item));
    let child = there.get(name)?.shift();
    if (!child) {
      child = make(item);
      child.dataset.key = name;
    }
    update(child, item);
    const wanted = place ? place.nextSibling : parent.firstChild;
    if (wanted !== child) parent.insertBefore(child, wanted);
    place = child;
  }
  for (const children of there.values()) for (const child of children) child.remove();
}
