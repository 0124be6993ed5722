// A relying service of Writ in Node, with nothing but the standard library: the numbered checks of docs/relying.md around one answer.
//
//   node service.mjs --vectors ../vectors.json
//   node service.mjs --listen 127.0.0.1:8000 --origin http://127.0.0.1:8000 --audience reports --verifier https://verifier.example.org:8443 \
//       --policy sha256:… --record decisions.jsonl [--ca FILE] [--introspection-key FILE]
//
// Grants are enough under the policies that --policy pins, and under no other: Cedar is asked nowhere here (docs/adr/0030).

import crypto from "node:crypto";
import fs from "node:fs";
import http from "node:http";
import https from "node:https";
import { parseArgs } from "node:util";
import { Fields, MAX_BODY, MAX_DOCUMENT, Refusal, ReplayCache, SKEW, admit, parseJSON, parseJWKS, parseStatusList, reading } from "./checks.mjs";

const ANSWER_WITHIN = 5_000, KEYS_LIVE = 300_000, REFRESH = 10_000;
const seconds = () => Math.floor(Date.now() / 1000);

/** What the verifier publishes. What fails leaves the older answer, which ages by itself. */
class Feed {
  constructor(verifier, ca, introspectionKey) {
    const { protocol, hostname, pathname } = new URL(verifier);
    const loopback = ["127.0.0.1", "[::1]", "localhost"].includes(hostname);
    if (pathname !== "/" || verifier.endsWith("/") || !(protocol === "https:" || (protocol === "http:" && loopback)))
      throw new Error("--verifier: https://HOST:PORT, or http to a loopback address");
    Object.assign(this, { verifier, ca, introspectionKey, held: new Map(), fetched: -Infinity, newest: null });
  }

  /** The body of an answer of 200, whole within the deadline and the bound. Redirects are not followed. */
  ask(method, path, headers = {}, body = "") {
    return new Promise((resolve, reject) => {
      const { request } = this.verifier.startsWith("https:") ? https : http;
      const signal = AbortSignal.timeout(ANSWER_WITHIN);
      const asked = request(this.verifier + path, { method, headers, ca: this.ca, agent: false, signal }, (answer) => {
        const parts = [];
        let size = 0;
        answer.on("error", reject);
        answer.on("data", (part) => {
          parts.push(part);
          if ((size += part.length) > MAX_DOCUMENT) asked.destroy(new Error("too large"));
        });
        answer.on("end", () => (answer.statusCode === 200 ? resolve(Buffer.concat(parts)) : reject(new Error(`status ${answer.statusCode}`))));
      });
      asked.on("error", reject);
      asked.end(body);
    });
  }

  async refresh() {
    try {
      const said = await this.ask("GET", "/.well-known/jwks.json");
      this.held = parseJWKS(said);
      this.fetched = performance.now();
    } catch (error) {
      console.error(`keys: ${error.message}`);
    }
    try {
      const path = "/v1/status/0", said = await this.ask("GET", path);
      const list = parseStatusList(said.toString("latin1"), this.keys(), this.verifier + path, seconds());
      if (this.newest === null || list.issued >= this.newest.issued) this.newest = list;
    } catch (error) {
      console.error(`status list: ${error.message}`);
    }
  }

  keys() {
    return performance.now() - this.fetched <= KEYS_LIVE ? this.held : new Map();
  }

  /** Whether the verifier calls the token active, now; null where it cannot be asked. */
  async active(token) {
    const headers = { Authorization: `Bearer ${this.introspectionKey}`, "Content-Type": "application/x-www-form-urlencoded" };
    try {
      const said = await this.ask("POST", "/v1/introspect", headers, new URLSearchParams({ token }).toString());
      return new Fields(parseJSON(said)).take("active") === true;
    } catch {
      return null;
    }
  }
}

/** Appends lines that are on disk when it returns. After a failed write there is no other: the file's end is not known. */
function newRecord(path) {
  const file = fs.openSync(path, "a+", 0o600), { size } = fs.fstatSync(file), last = Buffer.alloc(1, "\n");
  if (size > 0) fs.readSync(file, last, 0, 1, size - 1);
  if (last.toString() !== "\n") fs.writeSync(file, "\n"); // a line that an earlier process tore
  let broken = false;
  return (made) => {
    const line = Buffer.from(`${JSON.stringify(made)}\n`);
    if (broken) throw new Error("an earlier write failed");
    broken = true;
    if (fs.writeSync(file, line) !== line.length) throw new Error("a short write");
    fs.fsyncSync(file);
    broken = false;
  };
}

const REMEDIES = {
  malformed: "Send what the documentation of this route or command describes.",
  "too-large": "Send less; the limit is in expected.",
  unauthenticated: "Send a valid credential.",
  "proof-missing": "Send a proof of possession with each request.",
  "status-stale": "The revocation list is older than a token's life; fetch it again.",
  "token-malformed": "The token is not an execution token of Writ.",
  "token-key-unknown": "The token names a key that is not among the verifier's keys.",
  "signature-invalid": "The signature does not verify under the enrolled key. Re-enrol the host, or look for who altered the message.",
  "token-issuer": "The token was issued by another verifier.",
  "token-audience": "The token was issued for another audience.",
  "token-not-yet-valid": "The clock of this machine is behind the verifier's by more than the allowed skew.",
  "token-expired": "Renew: attest again.",
  "token-revoked": "The token was revoked.",
  "proof-invalid": "The proof does not verify under the token's key.",
  "proof-mismatch": "The proof is for another action, resource, argument or token.",
  "proof-stale": "The proof is older than allowed; check the clock.",
  "proof-replayed": "A proof is used once.",
  "too-many-requests": "Slow down and try again.",
  "policy-unknown": "Publish a policy: `verifier policy publish`.",
  "policy-digest-mismatch": "The bundle is not the one that the token names; fetch the current one.",
  "grant-missing": "The token does not grant this action on this resource.",
  "record-not-durable": "The record could not be made durable, so the action did not pass.",
  unavailable: "Try again; if it persists, run `doctor` on the role.",
  internal: "A bug of ours: report it with the reference.",
};

/** The refusal as a problem (RFC 9457) with its reason. */
function answer(response, { status, code, claim, expected, got }, reference) {
  const headers = { "Content-Type": "application/problem+json", "Cache-Control": "no-store", Connection: "close" };
  const kind = code.startsWith("proof-") ? "invalid_dpop_proof" : "invalid_token";
  if (status === 401) headers["WWW-Authenticate"] = `DPoP error="${kind}", algs="Ed25519 ES256"`;
  const reasons = [{ code, claim, expected, got, remedy: REMEDIES[code] }];
  response.writeHead(status, headers);
  response.end(JSON.stringify({ type: `urn:writ:reason:${code}`, title: "refused", status, verdict: "refused", reasons, reference }));
}

/** The whole body, or a byte more than its bound. */
async function bodyOf(request) {
  const parts = [];
  let size = 0;
  for await (const part of request.iterator({ destroyOnReturn: false })) {
    parts.push(part);
    if ((size += part.length) > MAX_BODY) break;
  }
  return Buffer.concat(parts);
}

/** Around the service itself. rawHeaders has every line; request.headers keeps the first Authorization and hides the second. */
function guard(party, inner) {
  return async (request, response) => {
    const reference = crypto.randomBytes(6).toString("hex"), raw = request.rawHeaders, headers = [];
    for (let at = 0; at < raw.length; at += 2) headers.push([raw[at], raw[at + 1]]);
    try {
      const body = await bodyOf(request);
      const agent = await admit(party, { method: request.method, target: request.url, headers, body }, seconds(), reference);
      inner(response, body, agent);
    } catch (error) {
      const ours = new Refusal(0, 503, "internal", "service", "a decision", "a fault of ours");
      answer(response, error instanceof Refusal ? error : ours, reference);
    }
  };
}

// --- the vectors -----------------------------------------------------------------------------------------------------------

async function runVectors(path) {
  const file = JSON.parse(fs.readFileSync(path, "utf8")), failed = [];
  let requests = 0;
  for (const { name, service: changed, requests: asked } of file.cases) {
    const service = { ...file.service, ...changed };
    const keys = reading(() => parseJWKS(Buffer.from(file.jwks[service.jwks])))[0] ?? new Map();
    const listed = service.status_list === null ? null : file.status_lists[service.status_list];
    const list = listed && reading(() => parseStatusList(listed, keys, service.status_uri, service.now))[0];
    const party = {
      issuer: service.issuer, audience: service.audience, origin: service.origin, pinned: service.pins.map((one) => file.policies[one].digest),
      keys: () => keys, list: () => list, active: null, seen: new ReplayCache(service.capacity, service.started_at ? service.started_at + SKEW + 1 : 0),
      record: () => {
        if (!service.durable) throw new Error("the disk is full");
      },
    };
    for (const { at, method, target, headers, body, times, expect, without_cedar } of asked) {
      let got = { pass: true };
      try {
        await admit(party, { method, target, headers, body: Buffer.from(body.repeat(times)) }, service.now + at, "vector");
      } catch (error) {
        got = { check: error.check, code: error.code, pass: false, status: error.status };
      }
      requests += 1;
      const want = without_cedar ?? expect;
      if (!("check" in want)) delete got.check;
      if (["pass", "check", "code", "status"].some((one) => want[one] !== got[one]))
        failed.push(`${name}: expected ${JSON.stringify(want)}, got ${JSON.stringify(got)}`);
    }
  }
  console.log(JSON.stringify({ cases: file.cases.length, requests, failed }));
  return failed.length > 0 || requests === 0 ? 1 : 0;
}

const text = { type: "string", default: "" };
const { values } = parseArgs({
  options: {
    vectors: text, origin: text, audience: text, verifier: text, ca: text, policy: text, "introspection-key": text,
    listen: { ...text, default: "127.0.0.1:8000" }, record: { ...text, default: "decisions.jsonl" },
  },
});
if (values.vectors) process.exit(await runVectors(values.vectors));
const keyFile = values["introspection-key"];
const ca = values.ca ? fs.readFileSync(values.ca) : undefined;
const feed = new Feed(values.verifier, ca, keyFile && fs.readFileSync(keyFile, "utf8").trim());
const party = {
  issuer: values.verifier, audience: values.audience, origin: values.origin, pinned: values.policy.split(",").filter(Boolean),
  keys: () => feed.keys(), list: () => feed.newest, active: keyFile ? (token) => feed.active(token) : null,
  record: newRecord(values.record), seen: new ReplayCache(100_000, seconds() + SKEW + 1),
};
await feed.refresh();
setInterval(() => feed.refresh(), REFRESH);
const port = values.listen.lastIndexOf(":");
const limits = { maxHeaderSize: 64 << 10, headersTimeout: 10_000, requestTimeout: 20_000 };
const server = http.createServer(limits, guard(party, (response, _body, agent) => response.end(`the report, for ${agent}\n`)));
server.listen(Number(values.listen.slice(port + 1)), values.listen.slice(0, port).replace(/[[\]]/g, ""));
