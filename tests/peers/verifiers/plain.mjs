// Node's standard library and nothing else: ISSUER AUDIENCE, a token on standard input; `sub` on standard output, exit 1 with why not.
import crypto from "node:crypto";
import fs from "node:fs";

const [issuer, audience] = process.argv.slice(2);
const check = (holds, what) => {
  if (!holds) {
    console.error(what);
    process.exit(1);
  }
};
const read = async (url) => (await fetch(url)).json();
const found = await read(`${issuer}/.well-known/openid-configuration`).catch((error) => check(false, error.cause?.code ?? error.message));
check(found.issuer === issuer, "issuer of discovery");
const { keys } = await read(found.jwks_uri);
const parts = fs.readFileSync(0, "utf8").trim().split(".");
check(parts.length === 3, "not a JWT");
const [header, claims] = parts.slice(0, 2).map((part) => JSON.parse(Buffer.from(part, "base64url")));
const key = keys.find((one) => one.kid === header.kid);
check(header.alg === "ES256" && header.typ === "JWT" && key?.alg === "ES256", "alg, typ or kid");
const signed = { key: crypto.createPublicKey({ key, format: "jwk" }), dsaEncoding: "ieee-p1363" };
check(crypto.verify("sha256", `${parts[0]}.${parts[1]}`, signed, Buffer.from(parts[2], "base64url")), "signature");
const now = Date.now() / 1000;
check(claims.iss === issuer && claims.aud === audience, "iss or aud");
check(claims.nbf <= now + 5 && now < claims.exp, "nbf or exp");
console.log(claims.sub);
