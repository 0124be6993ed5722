// The numbered checks of docs/relying.md, with nothing but Node's standard library. Nothing here reads a clock or a socket.

import crypto from "node:crypto";
import zlib from "node:zlib";

export const SKEW = 5, MAX_BODY = 1 << 20, MAX_DOCUMENT = 2 << 20;
const CEILING = 300, PROOF_LIFE = 30, MAX_LIST = 1 << 20;

// --- strict reading: what is wrong is a Malformed ----------------------------------------------------------------------

class Malformed extends Error {}

function require(holds, expected) {
  if (!holds) throw new Malformed(expected);
}

/** What `parse` gives, or null and what was wrong with it. */
export function reading(parse) {
  try {
    return [parse(), ""];
  } catch (error) {
    if (error instanceof Malformed) return [null, error.message];
    throw error;
  }
}

/** One JSON value, objects as Maps. JSON.parse alone takes the last of two keys, fractions, any depth, and rounds what is large. */
export function parseJSON(bytes) {
  let text, at = 0;
  try {
    text = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch {
    throw new Malformed("UTF-8");
  }
  const token = /[ \t\n\r]*(?:("[^"\\\x00-\x1f]*(?:\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4})[^"\\\x00-\x1f]*)*")|(-?(?:0|[1-9][0-9]*))(?![.eE0-9])|(true|false|null)|([[\]{}:,]))/y;
  const next = () => {
    token.lastIndex = at;
    const found = token.exec(text);
    require(found, "JSON with whole numbers");
    at = token.lastIndex;
    return found;
  };
  const peek = (mark) => {
    const before = at, found = next()[4] === mark;
    if (!found) at = before;
    return found;
  };
  const value = (depth) => {
    const [, string, number, word, mark] = next();
    if (string !== undefined) return JSON.parse(string);
    if (word !== undefined) return JSON.parse(word);
    if (number !== undefined) {
      require(Number.isSafeInteger(Number(number)), "a whole number up to 2^53-1");
      return Number(number);
    }
    require((mark === "[" || mark === "{") && depth < 16, "a value, at most 16 levels deep");
    const items = [], members = new Map(), end = mark === "[" ? "]" : "}";
    for (let first = true; !peek(end); first = false) {
      require(first || next()[4] === ",", "a comma");
      if (mark === "[") {
        items.push(value(depth + 1));
        continue;
      }
      const name = next()[1];
      require(name !== undefined && next()[4] === ":" && !members.has(JSON.parse(name)), "names, no key twice");
      members.set(JSON.parse(name), value(depth + 1));
    }
    return mark === "[" ? items : members;
  };
  const read = value(0);
  require(/^[ \t\n\r]*$/.test(text.slice(at)), "nothing behind the value");
  return read;
}

/** The one spelling of a token's claims: sorted keys, no spaces. */
function spelt(value) {
  if (value instanceof Map) return `{${[...value.keys()].sort().map((name) => `${JSON.stringify(name)}:${spelt(value.get(name))}`).join(",")}}`;
  return Array.isArray(value) ? `[${value.map(spelt).join(",")}]` : JSON.stringify(value);
}

/** Node's own decoder skips what it does not know and takes standard base64 as well. */
function b64(text) {
  const bytes = Buffer.from(text, "base64url");
  require(bytes.toString("base64url") === text, "base64url without padding and with unused bits of zero");
  return bytes;
}

const hash = (data) => crypto.createHash("sha256").update(data).digest();

/** An object read key by key; `done` refuses what nobody asked for. */
export class Fields {
  constructor(value) {
    require(value instanceof Map, "an object");
    this.members = new Map(value);
  }
  has(name) {
    return this.members.has(name);
  }
  take(name) {
    require(this.members.has(name), name);
    const value = this.members.get(name);
    this.members.delete(name);
    return value;
  }
  text(name, least, most) {
    const text = this.take(name);
    require(typeof text === "string" && least <= [...text].length && [...text].length <= most, `${name} as text in its bounds`);
    require(!/[\x00-\x1f\x7f\ud800-\udfff]/u.test(text), `${name} as printable text`);
    return text;
  }
  like(name, pattern) {
    const text = this.text(name, 0, 2048);
    require(pattern.test(text), `${name} like ${pattern.source}`);
    return text;
  }
  uint(name, most = Number.MAX_SAFE_INTEGER) {
    const number = this.take(name);
    require(typeof number === "number" && 0 <= number && number <= most, `${name} as a whole number in its bounds`);
    return number;
  }
  items(name, most) {
    const items = this.take(name);
    require(Array.isArray(items) && items.length <= most, `${name} as an array in its bounds`);
    return items;
  }
  fields(name) {
    return new Fields(this.take(name));
  }
  done() {
    require(this.members.size === 0, "no unknown member");
  }
}

// --- keys, tokens, proofs, status lists --------------------------------------------------------------------------------

/** The y of the Ed25519 points whose order divides 8, little-endian: under such a key one signature fits many messages. */
const SMALL = [
  "0000000000000000000000000000000000000000000000000000000000000000", "0100000000000000000000000000000000000000000000000000000000000000",
  "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f", "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
  "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
];

function largeOrder(point) {
  const y = Buffer.from(point);
  y[31] &= 0x7f;
  const overflows = y[0] >= 0xed && y[31] === 0x7f && y.subarray(1, 31).every((byte) => byte === 0xff);
  return !overflows && !SMALL.includes(y.toString("hex"));
}

function parseJWK(value) {
  const f = new Fields(value);
  const kind = `${f.text("kty", 0, 8)} ${f.text("crv", 0, 16)}`;
  require(kind === "OKP Ed25519" || kind === "EC P-256", "OKP Ed25519 or EC P-256");
  const x = f.text("x", 43, 43);
  const jwk = kind === "EC P-256" ? { crv: "P-256", kty: "EC", x, y: f.text("y", 43, 43) } : { crv: "Ed25519", kty: "OKP", x };
  const alg = kind === "EC P-256" ? "ES256" : "Ed25519";
  require(b64(x).length === 32 && (jwk.y === undefined ? largeOrder(b64(x)) : b64(jwk.y).length === 32), "a point of large order");
  if (f.has("kid")) f.text("kid", 1, 256);
  require(!f.has("use") || f.text("use", 0, 16) === "sig", "use of sig");
  require(!f.has("alg") || f.text("alg", 0, 16) === alg, "alg of the key");
  f.done();
  let key;
  try {
    key = crypto.createPublicKey({ key: jwk, format: "jwk" });
  } catch {
    throw new Malformed("a point on its curve");
  }
  return { alg, key, thumbprint: hash(JSON.stringify(jwk)).toString("base64url") };
}

/** Whether the key signed it, under the algorithm that both name. */
function signed(jws, { alg, key }) {
  const options = alg === "ES256" ? { key, dsaEncoding: "ieee-p1363" } : key;
  return jws.alg === alg && crypto.verify(alg === "ES256" ? "sha256" : null, Buffer.from(jws.input), options, jws.signature);
}

/** A compact JWS of exactly that type; nobody has verified it yet. */
function parseJWS(compact, typ, most) {
  require(compact.length <= most, `at most ${most} characters`);
  const parts = compact.split(".");
  require(parts.length === 3, "three parts");
  const [header, payload, signature] = parts.map(b64);
  require(header.length <= 4096, "a header of at most 4096 bytes");
  const f = new Fields(parseJSON(header));
  const jws = { alg: f.text("alg", 0, 32), kid: "", jwk: null, input: `${parts[0]}.${parts[1]}`, payload, signature };
  require(jws.alg === "Ed25519" || jws.alg === "ES256", "alg Ed25519 or ES256");
  require(f.text("typ", 0, 64) === typ, `typ ${typ}`);
  if (f.has("kid")) jws.kid = f.text("kid", 1, 256);
  if (f.has("jwk")) jws.jwk = parseJWK(f.take("jwk"));
  require(jws.jwk === null || jws.jwk.alg === jws.alg, "a key of alg");
  f.done();
  require(signature.length === 64, "a signature of 64 bytes");
  return jws;
}

export function parseJWKS(bytes) {
  const keys = new Map();
  for (const item of new Fields(parseJSON(bytes)).items("keys", 64)) {
    const key = parseJWK(item);
    require(item.get("kid") === key.thumbprint, "a kid that is the thumbprint");
    keys.set(key.thumbprint, key);
  }
  return keys;
}

/** A status list of `uri`, signed by one of the keys and not expired. */
export function parseStatusList(compact, keys, uri, now) {
  const jws = parseJWS(compact, "statuslist+jwt", MAX_DOCUMENT);
  require(keys.has(jws.kid) && signed(jws, keys.get(jws.kid)), "a signature by one of the keys");
  const f = new Fields(parseJSON(jws.payload)), inner = f.fields("status_list");
  const list = { uri: f.text("sub", 1, 1024), issued: f.uint("iat"), expires: f.uint("exp"), bits: inner.uint("bits", 8), values: null };
  f.uint("ttl");
  const packed = b64(inner.text("lst", 0, MAX_DOCUMENT));
  f.done();
  inner.done();
  require([1, 2, 4, 8].includes(list.bits), "1, 2, 4 or 8 bits");
  try {
    const { buffer, engine } = zlib.inflateSync(packed, { maxOutputLength: MAX_LIST, info: true });
    if (engine.bytesWritten === packed.length) list.values = buffer;
  } catch {
    // said below
  }
  require(list.values?.length > 0, "one whole ZLIB stream of at most 1 MiB");
  require(list.uri === uri && list.issued < list.expires && now < list.expires, `a list of ${uri} that has not expired`);
  list.size = (list.values.length * 8) / list.bits;
  list.at = (index) => (list.values[Math.floor((index * list.bits) / 8)] >> ((index * list.bits) % 8)) & ((1 << list.bits) - 1);
  return list;
}

const NAME = "[a-z0-9](?:[a-z0-9._-]{0,61}[a-z0-9])?";
const AGENT = new RegExp(`^spiffe://[a-z0-9](?:[a-z0-9._-]{0,253}[a-z0-9])?/${NAME}/agent/${NAME}$`);
const HOST = new RegExp(`^${NAME}$`), DIGEST = /^sha256:[0-9a-f]{64}$/, HEX16 = /^[0-9a-f]{32}$/, THUMBPRINT = /^[A-Za-z0-9_-]{43}$/;

/** Whether the text names one thing only. */
function plain(resource) {
  const segments = resource.toLowerCase().replaceAll("%2e", ".").replaceAll("%2f", "/").replaceAll("%5c", "/").split("/");
  return !/[\x00-\x20\x7f-\x9f\ud800-\udfff*\\]/u.test(resource) && !segments.includes(".") && !segments.includes("..");
}

function parseClaims(payload) {
  const claims = parseJSON(payload);
  require(spelt(claims) === payload.toString(), "sorted keys and no spaces");
  const f = new Fields(claims), cnf = f.fields("cnf"), status = f.fields("status"), entry = status.fields("status_list");
  const token = {
    issuer: f.text("iss", 1, 1024), agent: f.like("sub", AGENT), audience: f.text("aud", 1, 256), issued: f.uint("iat"), expires: f.uint("exp"),
    policy: f.like("policy", DIGEST), instance: f.like("instance", HEX16), key: cnf.like("jkt", THUMBPRINT),
    statusIndex: entry.uint("idx", 2 ** 30), statusURI: entry.text("uri", 1, 1024), grants: f.items("grants", 64),
  };
  b64(token.key);
  f.like("eat_profile", /^urn:writ:execution-token:1$/);
  f.text("jti", 16, 64);
  f.like("host", HOST);
  f.like("result", DIGEST);
  f.like("tpm_class", /^(?:discrete|firmware|virtual|software)$/);
  f.like("runtime", /^(?:affirming|runtime-only|sandboxed)$/);
  require(f.items("lineage", 16).every((id) => typeof id === "string" && HEX16.test(id)), "instances in lineage");
  require(f.items("exceptions", 80).every((code) => typeof code === "string" && code.length >= 1 && code.length <= 64), "reason codes");
  for (const [at, pair] of token.grants.entries()) {
    require(Array.isArray(pair) && pair.length === 2 && pair.every((one) => typeof one === "string"), "pairs in grants");
    const [action, resource] = pair, length = [...resource].length;
    require(/^[A-Za-z][A-Za-z0-9_.:/-]{0,127}$/.test(action) && length >= 1 && length <= 512, "grants in their bounds");
    require(plain(resource.replace(/\/\*$/, "")), "grants with one reading");
    const before = token.grants[at - 1];
    const order = before && (Buffer.compare(Buffer.from(before[0]), Buffer.from(action)) || Buffer.compare(Buffer.from(before[1]), Buffer.from(resource)));
    require(!before || order < 0, "grants in order, each once");
  }
  token.lease = f.has("lease") ? parseTerms(f.fields("lease")) : null;
  for (const one of [f, cnf, status, entry]) one.done();
  return token;
}

function parseProof(jws) {
  require(jws.jwk !== null, "a public key in the header");
  const f = new Fields(parseJSON(jws.payload));
  const proof = { jti: f.text("jti", 16, 128), htm: f.text("htm", 1, 32), htu: f.text("htu", 1, 2048), iat: f.uint("iat") };
  for (const [name, most] of [["nonce", 256], ["act", 256], ["res", 1024]]) if (f.has(name)) proof[name] = f.text(name, 1, most);
  for (const name of ["ath", "arg", "led"]) if (f.has(name)) b64((proof[name] = f.like(name, THUMBPRINT)));
  f.done();
  require(!/[?#]/.test(proof.htu), "htu without query and fragment");
  return proof;
}

function covers([action, granted], asked, resource) {
  if (action !== asked || !plain(resource)) return false;
  if (!granted.endsWith("/*")) return resource === granted;
  const beneath = resource.slice(granted.length - 1);
  return resource.startsWith(granted.slice(0, -1)) && beneath !== "" && !beneath.startsWith("/") && !beneath.includes("//");
}

// --- leases: what the agent's TPM signed a moment ago, by TPM2_GetTime (TPM 2.0 Library Part 2) --------------------------

function parseTerms(f) {
  const [key] = [f.like("key", THUMBPRINT), f.like("approved", THUMBPRINT)].map(b64);
  const terms = { key, time: f.uint("time"), reset: f.uint("reset", 2 ** 32 - 1), restart: f.uint("restart", 2 ** 32 - 1), life: f.uint("life", 300) };
  f.done();
  return terms;
}

/** Big-endian numbers and sized buffers, read to the end and no further. */
class Cursor {
  constructor(bytes) {
    this.left = bytes;
  }
  take(count) {
    require(count <= this.left.length, "more bytes");
    const taken = this.left.subarray(0, count);
    this.left = this.left.subarray(count);
    return taken;
  }
  number(size) {
    return this.take(size).readUIntBE(0, size);
  }
  sized(most) {
    const size = this.number(2);
    require(size <= most, "a buffer in its bounds");
    return this.take(size);
  }
  same(want) {
    require(this.take(want.length).equals(Buffer.from(want, "latin1")), "exactly these bytes");
  }
  flag() {
    require(this.number(1) <= 1, "0 or 1");
  }
  /** A byte string of CBOR, of at most 1024 bytes, under its shortest head. */
  cborBytes() {
    const head = this.number(1);
    require(0x40 <= head && head <= 0x59, "a byte string");
    const [size, least] = head < 0x58 ? [head - 0x40, 0] : head === 0x58 ? [this.number(1), 24] : [this.number(2), 256];
    require(least <= size && size <= 1024, "its shortest head");
    return this.take(size);
  }
  done() {
    require(this.left.length === 0, "nothing behind it");
  }
}

/** The one spelling of {"v": 1, "attest": bstr, "public": bstr, "signature": bstr}. */
function parseLease(shown) {
  const c = new Cursor(b64(shown)), lease = {};
  c.same("\xa4av\x01");
  for (const [head, name] of [["\x66", "attest"], ["\x66", "public"], ["\x69", "signature"]]) {
    c.same(head + name);
    lease[name] = c.cborBytes();
  }
  c.done();
  return lease;
}

const padded = (part) => Buffer.concat([Buffer.alloc(32 - part.length), part]);

/** A TPMT_PUBLIC of an ECC key that is named by SHA-256 and signs by ECDSA with SHA-256 on P-256, as every lease key does. */
function parseLeaseKey(area) {
  const c = new Cursor(area);
  c.same("\x00\x23\x00\x0b"); // TPM_ALG_ECC, TPM_ALG_SHA256
  c.take(4); // its attributes, which the verifier judged: the token names these very bytes
  c.sized(64); // authPolicy
  c.same("\x00\x10\x00\x18\x00\x0b\x00\x03\x00\x10"); // no cipher; ECDSA, SHA-256, P-256; no KDF
  const [x, y] = [c.sized(32), c.sized(32)].map((part) => padded(part).toString("base64url"));
  c.done();
  return parseJWK(new Map(Object.entries({ kty: "EC", crv: "P-256", x, y }))).key;
}

/** What a TPM stated about its time, under a signature by the lease key. */
function parseStated({ public: area, attest, signature }) {
  const key = parseLeaseKey(area);
  let c = new Cursor(signature);
  c.same("\x00\x18\x00\x0b"); // ECDSA, SHA-256
  const raw = Buffer.concat([padded(c.sized(32)), padded(c.sized(32))]);
  c.done();
  require(crypto.verify("sha256", attest, { key, dsaEncoding: "ieee-p1363" }, raw), "a signature by the lease key");
  c = new Cursor(attest);
  c.same("\xff\x54\x43\x47\x80\x19"); // TPM_GENERATED_VALUE, TPM_ST_ATTEST_TIME
  c.sized(66); // qualifiedSigner
  const extraData = c.sized(66);
  c.take(8 + 4 + 4); // clockInfo
  c.flag();
  c.take(8); // firmwareVersion
  const time = c.take(8).readBigUInt64BE();
  c.take(8); // clock, which its owner can set, as nobody can the time
  const [reset, restart] = [c.number(4), c.number(4)];
  c.flag();
  c.take(8); // firmwareVersion
  c.done();
  return { extraData, time, reset, restart };
}

/** What the lease is for: this session key, under this token. */
function leaseBinding(token, digest) {
  const mark = (text) => Buffer.from(text, "latin1"), [instance, key] = [Buffer.from(token.instance, "hex"), b64(token.key)];
  return hash(Buffer.concat([mark("\x84\x6dwrit/lease/v1\x50"), instance, mark("\x58\x20"), key, mark("\x58\x20"), digest]));
}

// --- the checks, by their numbers ----------------------------------------------------------------------------------------

export class Refusal extends Error {
  constructor(check, status, code, claim, expected, got) {
    super(code);
    Object.assign(this, { check, status, code, claim, expected: String(expected), got: String(got).slice(0, 200) });
  }
}

function check(holds, ...refusal) {
  if (!holds) throw new Refusal(...refusal);
}

/** Remembers what was used until it could not be used any more. Full, it refuses and forgets nothing. */
export class ReplayCache {
  constructor(room, madeAfter) {
    Object.assign(this, { room, madeAfter, used: new Set(), lapsing: new Map() });
  }
  take(name, madeAt, now) {
    const remembered = PROOF_LIFE + 2 * SKEW + 1;
    for (const [at, names] of this.lapsing) { // as many seconds as a proof lives
      if (at >= now) continue;
      names.forEach((lapsed) => this.used.delete(lapsed));
      this.lapsing.delete(at);
      this.madeAfter = Math.max(this.madeAfter, at + 1 - remembered); // a clock that is set back revives nothing
    }
    check(madeAt >= this.madeAfter, 24, 401, "proof-stale", "proof.iat", `at least ${this.madeAfter}`, madeAt);
    check(!this.used.has(name), 24, 401, "proof-replayed", "proof.jti", "a new proof", "one used before");
    check(this.used.size < this.room, 24, 503, "too-many-requests", "proof", `room for one of ${this.room}`, "none until older proofs lapse");
    this.used.add(name);
    this.lapsing.set(madeAt + remembered, [...(this.lapsing.get(madeAt + remembered) ?? []), name]);
  }
}

/** Who asks, once the request may pass and that is on disk. Throws a Refusal. */
export async function admit(party, request, now, reference) {
  const made = { at: now, reference, ...read(party, request), permit: false };
  const { token, proof, lease, ...line } = made;
  let refused = null;
  try {
    await judge(party, request, made, line);
  } catch (error) {
    refused = error instanceof Refusal ? error : new Refusal(28, 503, "internal", "service", "a decision", "a fault of ours");
  }
  // 28
  try {
    party.record({ ...line, permit: refused === null, code: refused?.code ?? "" });
  } catch {
    throw new Refusal(28, 503, "record-not-durable", "record", "a durable record", "none");
  }
  if (refused !== null) throw refused;
  return line.agent;
}

/** Action, URL, token, proof and perhaps a lease of a request. */
function read(party, { method, target, headers, body }) {
  // 2
  check(body.length <= MAX_BODY, 2, 413, "too-large", "body", `at most ${MAX_BODY} bytes`, "more");
  // 1
  const resource = party.origin + target;
  const once = /^[A-Z]{1,59} \/[!-~]*$/.test(`${method} ${target}`) && !/[?%\\#]|\/\//.test(target) && !/\/\.\.?(?:[;/]|$)/.test(target);
  check(once && resource.length <= 512, 1, 400, "malformed", "request", "a method and a path with one reading", `${method} ${target}`);
  // 3
  const given = (wanted) => headers.filter(([name]) => name.toLowerCase() === wanted).map(([, value]) => value);
  for (const name of ["authorization", "dpop", "writ-lease"]) {
    const values = given(name);
    check(values.length <= 1 && /^[\x00-\x7e]*$/.test(values.join("")), 3, 400, "malformed", `header ${name}`, "once, in ASCII", `${values.length} times`);
  }
  // 4
  const [authorization = ""] = given("authorization"), [proof] = given("dpop"), [lease] = given("writ-lease"), space = `${authorization} `.indexOf(" ");
  const scheme = authorization.slice(0, space).toLowerCase();
  check(scheme === "dpop", 4, 401, "unauthenticated", "Authorization", "DPoP and a token", "none");
  check(proof !== undefined, 4, 401, "proof-missing", "DPoP", "one proof", "none");
  return { action: `http.${method.toLowerCase()}`, resource, token: authorization.slice(space + 1), proof, lease };
}

async function judge(party, request, made, line) {
  const now = made.at, list = party.list();
  // 6
  check(list !== null, 6, 503, "status-stale", "status_list", "a fresh list", "none");
  // 7
  const [parsed, fault] = reading(() => {
    const jws = parseJWS(made.token, "eat+jwt", 16384);
    return { jws, token: parseClaims(jws.payload) };
  });
  check(parsed !== null, 7, 401, "token-malformed", "token", fault, "another");
  const { jws, token } = parsed, key = party.keys().get(jws.kid);
  // 8, 9
  check(key !== undefined, 8, 401, "token-key-unknown", "token.kid", "one of the verifier's keys", jws.kid);
  check(signed(jws, key), 9, 401, "signature-invalid", "token", "a signature by the issuer", "another");
  // 10, 11
  check(token.issuer === party.issuer, 10, 401, "token-issuer", "token.iss", party.issuer, token.issuer);
  check(token.audience === party.audience, 11, 401, "token-audience", "token.aud", party.audience, token.audience);
  // 12
  check(token.issued <= now + SKEW, 12, 401, "token-not-yet-valid", "token.iat", `at most ${now + SKEW}`, token.issued);
  check(now < token.expires, 12, 401, "token-expired", "token.exp", `later than ${now}`, token.expires);
  // 13
  const life = token.expires - token.issued;
  check(life <= CEILING, 13, 401, "token-malformed", "token.exp", `a life of at most ${CEILING} s`, `${life} s`);
  // 14
  check(token.statusURI === list.uri, 14, 503, "status-stale", "token.status.uri", list.uri, token.statusURI);
  const fresh = now - life <= list.issued && list.issued <= now + SKEW && now < list.expires;
  check(fresh, 14, 503, "status-stale", "status_list.iat", `${now - life} to ${now + SKEW}`, list.issued);
  check(token.statusIndex < list.size, 14, 503, "status-stale", "token.status.idx", `below ${list.size}`, token.statusIndex);
  // 15
  check(list.at(token.statusIndex) === 0, 15, 401, "token-revoked", "token.status.idx", "a valid index", token.statusIndex);
  judgeLease(made, token);
  judgeProof(party, request, made, token);
  const digest = (text) => `sha256:${hash(text).toString("hex")}`;
  Object.assign(line, { agent: token.agent, instance: token.instance, policy: token.policy, token: digest(made.token), proof: digest(made.proof) });
  // 15, again: what was revoked since the list was signed
  const active = party.active === null || (await party.active(made.token));
  check(active !== null, 15, 503, "unavailable", "introspection", "an answer of the verifier", "none");
  check(active, 15, 401, "token-revoked", "token", "one that the verifier calls active", "another");
  // 25
  check(party.pinned.length > 0, 25, 503, "policy-unknown", "policy", token.policy, "none pinned");
  check(party.pinned.includes(token.policy), 25, 503, "policy-digest-mismatch", "policy", party.pinned.join(" "), token.policy);
  // 26; there is no 27 here: grants are enough under a policy that was pinned
  const granted = token.grants.some((grant) => covers(grant, made.action, made.resource));
  check(granted, 26, 403, "grant-missing", "token.grants", `${made.action} on ${made.resource}`, `${token.grants.length} other grants`);
}

function judgeLease({ lease: shown, token: text, at: now }, { lease: terms, ...token }) {
  // 16
  const refuse = (holds, code, claim, expected, got = "another") => check(holds, 16, 401, `lease-${code}`, claim, expected, got);
  const [lease, fault] = shown === undefined ? [null, ""] : reading(() => parseLease(shown));
  refuse(fault === "", "invalid", "lease", fault);
  if (terms === null) return;
  refuse(lease !== null, "missing", "lease", "a lease", "none");
  refuse(hash(lease.public).equals(terms.key), "invalid", "lease.public", "the key that the token names");
  const [stated, wrong] = reading(() => parseStated(lease));
  refuse(stated !== null, "invalid", "lease", wrong);
  const run = stated.reset === terms.reset && stated.restart === terms.restart;
  refuse(run, "mismatch", "lease.resets", "the run of the TPM that was appraised");
  refuse(stated.extraData.equals(leaseBinding(token, hash(text))), "mismatch", "lease.extra_data", "this token and its session key");
  const since = stated.time - BigInt(terms.time);
  refuse(since >= 0n, "mismatch", "lease.time", `at least ${terms.time}`, stated.time);
  const until = token.issued + Number(since / 1000n) + terms.life; // and exp is after now: check 12
  refuse(now < until, "expired", "lease.time", `alive after ${now}`, `until ${until}`);
}

function judgeProof(party, { method, body }, made, token) {
  // 17
  const [parsed, fault] = reading(() => {
    const jws = parseJWS(made.proof, "dpop+jwt", 8192);
    return { jws, proof: parseProof(jws) };
  });
  check(parsed !== null, 17, 401, "proof-invalid", "proof", fault, "another");
  const { jws, proof } = parsed, now = made.at;
  // 18, 19
  check(jws.jwk.thumbprint === token.key, 18, 401, "proof-invalid", "proof.jwk", token.key, jws.jwk.thumbprint);
  check(signed(jws, jws.jwk), 19, 401, "proof-invalid", "proof", "a signature by the token's key", "another");
  // 20, 21, 22
  const ath = hash(made.token).toString("base64url"), arg = hash(body).toString("base64url"), { action, resource } = made;
  const wanted = [[20, "ath", ath], [21, "htm", method], [21, "htu", resource], [22, "act", action], [22, "res", resource], [22, "arg", arg]];
  for (const [number, name, want] of wanted) check(proof[name] === want, number, 401, "proof-mismatch", `proof.${name}`, want, proof[name]);
  // 23
  const [oldest, newest] = [now - PROOF_LIFE - SKEW, now + SKEW];
  check(oldest <= proof.iat && proof.iat <= newest, 23, 401, "proof-stale", "proof.iat", `${oldest} to ${newest}`, proof.iat);
  // 24
  party.seen.take(`${token.key}.${proof.jti}`, proof.iat, now);
}
