// The secrets of the sign-in, and the check that a response comes from the broker that sent them.
//
// While the broker is down, a program of another user may hold its port, and it may keep
// connections afterwards. Its responses must change nothing here. So each request has a nonce, and
// the broker's response a proof: the HMAC-SHA256 of the nonce with a key that was sent once, at the
// sign-in. The other program sees the nonces, but never that key.
//
// Once a connection broke off, or a response had no proof, the page is in doubt: it sends nothing
// but a request without secrets, which asks for a proof alone, until there is one.
//
// Browsers compute it over TLS and at addresses of this machine alone. Elsewhere the page does not
// start: an attacker there can read all traffic anyway.

/** Local storage is neither seen nor changed by other ports of this host, as cookies are. */
const KEY = "key";
const PROOF_KEY = "proof-key";
/** No secret: what the broker knows the sign-in by. */
const ID = "sign-in";

/** Whether the browser computes proofs here. */
export const canProve = () => crypto.subtle !== undefined;

export function keepSecrets({ id, key, proof_key: proofKey }) {
  localStorage.setItem(ID, id);
  localStorage.setItem(KEY, key);
  localStorage.setItem(PROOF_KEY, proofKey);
}

export function dropSecrets() {
  for (const name of [ID, KEY, PROOF_KEY]) localStorage.removeItem(name);
}

let inDoubt = false;
/** Sends nothing more until the broker has proved itself. */
export const doubt = () => (inDoubt = true);

/** Sends a request with the key of the cookie. The response is not checked. */
export function send(path, { headers, ...options } = {}) {
  return fetch(path, {
    ...options,
    credentials: "same-origin",
    // A response of another program at this port must not be reused later as the broker's.
    cache: "no-store",
    redirect: "error",
    headers: { "x-cbroker-key": localStorage.getItem(KEY) ?? "", ...headers },
  });
}

/**
 * The same, and checks that the broker responded, in doubt before it sends anything. Of a 401
 * without a proof only the status is used: the end of a sign-in cannot be proved, because its proof
 * key is gone.
 */
export async function sendProven(path, options = {}) {
  if (!localStorage.getItem(PROOF_KEY)) return signedOut();
  if (inDoubt) {
    const probe = await (probing ??= askForProof().finally(() => (probing = undefined)));
    if (!probe.ok) return signedOut();
  }
  return proven((nonce) => send(path, { ...options, headers: { ...nonce, ...options.headers } }));
}

const signedOut = () => new Response(null, { status: 401, statusText: "Signed out" });

/** The request for a proof that is under way. */
let probing;

async function askForProof() {
  const id = { "x-cbroker-sign-in": localStorage.getItem(ID) ?? "" };
  const bare = { credentials: "omit", cache: "no-store", redirect: "error" };
  const answer = await proven((nonce) =>
    fetch("/api/session/proof", { ...bare, headers: { ...id, ...nonce } }),
  );
  if (answer.ok) inDoubt = false;
  return answer;
}

/** Returns the response to a request with a nonce if it is proven. */
async function proven(request) {
  const nonce = crypto.getRandomValues(new Uint32Array(8)).join("-");
  try {
    const answer = await request({ "x-cbroker-nonce": nonce });
    const proof = answer.headers.get("x-cbroker-proof");
    if (await isProven(proof, nonce, localStorage.getItem(PROOF_KEY)).catch(() => false))
      return answer;
    await answer.body?.cancel();
    if (answer.status !== 401) throw new Error("Another program answers in the broker's place.");
    doubt();
    return signedOut();
  } catch (error) {
    doubt();
    throw error;
  }
}

async function isProven(proof, nonce, proofKey) {
  if (!proof) return false;
  const bytes = (text) => Uint8Array.from(text, (character) => character.charCodeAt(0));
  const hmac = { name: "HMAC", hash: "SHA-256" };
  const key = await crypto.subtle.importKey("raw", bytes(proofKey), hmac, false, ["verify"]);
  return crypto.subtle.verify("HMAC", key, bytes(atob(proof)), bytes(nonce));
}
