// The secrets of the sign-in, and whether an answer comes from the broker that gave them.
//
// Another user of the machine may hold the port while the broker is down, and keep connections when
// it is back. What he answers must change nothing here. So each request carries a nonce, and the
// broker's answer a proof: the HMAC-SHA256 of the nonce, with a key that the broker sent once, when
// this page signed in. He gets the nonces, and never that key.
//
// Browsers compute it over TLS and at addresses of this machine. Where a page came over plain HTTP
// from elsewhere nothing is checked: whoever can answer there can read everything on its way too.

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

/** One request, with the key: a cookie counts only with it. The answer may be anybody's. */
export function send(path, { headers, ...options } = {}) {
  return fetch(path, {
    ...options,
    credentials: "same-origin",
    // What another program answers at this port must not be taken for the broker's word later.
    cache: "no-store",
    redirect: "error",
    headers: { "x-cbroker-key": localStorage.getItem(KEY) ?? "", ...headers },
  });
}

/**
 * The same, with an answer of the broker. Nobody can prove that a session has ended: of an answer
 * that says so without a proof, only the status counts.
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
