// The secrets of the sign-in, and the check that a response comes from the broker that sent them.
//
// While the broker is down, a program of another user may hold its port, and it may keep
// connections afterwards. Its responses must change nothing here. So each request has a nonce, and
// the broker's response a proof: the HMAC-SHA256 of the nonce with a key that was sent once, at the
// sign-in. The other program sees the nonces, but never that key.
//
// Browsers compute it over TLS and at addresses of this machine. A page that came over plain HTTP
// from another machine checks nothing: an attacker there can read all traffic anyway.

/** Local storage is neither seen nor changed by other ports of this host, as cookies are. */
const KEY = "key";
const PROOF_KEY = "proof-key";

export function keepSecrets({ key, proof_key: proofKey }) {
  localStorage.setItem(KEY, key);
  localStorage.setItem(PROOF_KEY, proofKey);
}

export function dropSecrets() {
  for (const name of [KEY, PROOF_KEY]) localStorage.removeItem(name);
}

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
 * The same, and checks that the broker responded. Of a 401 without a proof only the status is used:
 * the end of a sign-in cannot be proved, because its proof key is gone.
 */
export async function sendProven(path, options = {}) {
  const signedOut = () => new Response(null, { status: 401, statusText: "Signed out" });
  const proofKey = localStorage.getItem(PROOF_KEY);
  if (crypto.subtle && !proofKey) return signedOut();
  const nonce = crypto.getRandomValues(new Uint32Array(8)).join("-");
  const headers = { "x-cbroker-nonce": nonce, ...options.headers };
  const answer = await send(path, { ...options, headers });
  const proof = answer.headers.get("x-cbroker-proof");
  if (await isProven(proof, nonce, proofKey).catch(() => false)) return answer;
  await answer.body?.cancel();
  if (answer.status === 401) return signedOut();
  throw new Error("Another program answers in the broker's place.");
}

async function isProven(proof, nonce, proofKey) {
  if (!crypto.subtle) return true;
  if (!proof) return false;
  const bytes = (text) => Uint8Array.from(text, (character) => character.charCodeAt(0));
  const hmac = { name: "HMAC", hash: "SHA-256" };
  const key = await crypto.subtle.importKey("raw", bytes(proofKey), hmac, false, ["verify"]);
  return crypto.subtle.verify("HMAC", key, bytes(atob(proof)), bytes(nonce));
}
