// Go's standard library and nothing else: ISSUER CA AUDIENCE, a token on standard input; `sub` on standard output, exit 1 with why not.
package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"os"
	"strings"
	"time"
)

func check(holds bool, what any) {
	if !holds {
		fmt.Fprintln(os.Stderr, what)
		os.Exit(1)
	}
}

func decoded(text string) []byte {
	data, err := base64.RawURLEncoding.DecodeString(text)
	check(err == nil, "base64url")
	return data
}

func main() {
	issuer, audience := os.Args[1], os.Args[3]
	pem, err := os.ReadFile(os.Args[2])
	check(err == nil, err)
	roots := x509.NewCertPool()
	check(roots.AppendCertsFromPEM(pem), "CA")
	client := http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}}}
	read := func(url string, into any) {
		answer, err := client.Get(url)
		check(err == nil, err)
		defer answer.Body.Close()
		check(answer.StatusCode == 200 && json.NewDecoder(answer.Body).Decode(into) == nil, url)
	}
	var found struct{ Issuer, Jwks_uri string }
	var set struct {
		Keys []struct{ Kid, Kty, Crv, Alg, X, Y string }
	}
	read(issuer+"/.well-known/openid-configuration", &found)
	check(found.Issuer == issuer, "issuer of discovery")
	read(found.Jwks_uri, &set)

	text, _ := io.ReadAll(os.Stdin)
	parts := strings.Split(strings.TrimSpace(string(text)), ".")
	check(len(parts) == 3, "not a JWT")
	var header struct{ Alg, Typ, Kid string }
	var claims struct {
		Iss, Sub, Aud string
		Nbf, Exp      int64
	}
	check(json.Unmarshal(decoded(parts[0]), &header) == nil && json.Unmarshal(decoded(parts[1]), &claims) == nil, "JSON")
	var key *ecdsa.PublicKey
	for _, one := range set.Keys {
		if one.Kid == header.Kid && one.Kty == "EC" && one.Crv == "P-256" && one.Alg == "ES256" {
			key = &ecdsa.PublicKey{Curve: elliptic.P256(), X: new(big.Int).SetBytes(decoded(one.X)), Y: new(big.Int).SetBytes(decoded(one.Y))}
		}
	}
	check(key != nil && header.Alg == "ES256" && header.Typ == "JWT", "alg, typ or kid")
	signature := decoded(parts[2])
	check(len(signature) == 64, "signature")
	hash := sha256.Sum256([]byte(parts[0] + "." + parts[1]))
	check(ecdsa.Verify(key, hash[:], new(big.Int).SetBytes(signature[:32]), new(big.Int).SetBytes(signature[32:])), "signature")
	now := time.Now().Unix()
	check(claims.Iss == issuer && claims.Aud == audience, "iss or aud")
	check(claims.Nbf <= now+5 && now < claims.Exp, "nbf or exp")
	fmt.Println(claims.Sub)
}
