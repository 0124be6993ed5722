// The package jose as it is: MODULE ISSUER AUDIENCE, a token on standard input; `sub` on standard output, exit 1 with its code.
import fs from "node:fs";

const [module, issuer, audience] = process.argv.slice(2);
const { createRemoteJWKSet, jwtVerify } = await import(module);
try {
  const found = await (await fetch(`${issuer}/.well-known/openid-configuration`)).json();
  if (found.issuer !== issuer) throw new Error("issuer");
  const token = fs.readFileSync(0, "utf8").trim();
  const { payload } = await jwtVerify(token, createRemoteJWKSet(new URL(found.jwks_uri)), {
    issuer, audience, typ: "JWT", algorithms: found.id_token_signing_alg_values_supported, requiredClaims: ["sub", "exp", "nbf", "iat", "jti"],
  });
  console.log(payload.sub);
} catch (error) {
  console.error(`${error.code}: ${error.message}`);
  process.exit(1);
}
