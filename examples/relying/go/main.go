// A relying service of Writ in Go, with nothing but the standard library: the numbered checks of docs/relying.md.
//
//	go run . -vectors ../vectors.json
//	go run . -listen 127.0.0.1:8000 -origin http://127.0.0.1:8000 -audience reports -verifier https://verifier.example.org:8443 \
//	    -policy sha256:… -record decisions.jsonl [-ca FILE] [-introspection-key FILE]
//
// Grants are enough under the policies that -policy pins, and under no other: Cedar is asked nowhere here (docs/adr/0030).
package main

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync"
	"time"
)

// feed holds what the verifier publishes. What fails leaves the older answer, which ages by itself.
type feed struct {
	sync.Mutex
	client        *http.Client
	verifier      string
	held          map[string]publicKey
	fetched       time.Time
	newest        *statusList
	introspection string // the API key, empty where the service does not ask
}

const answerWithin, keysLive = 5 * time.Second, 300 * time.Second

func newFeed(verifier, ca, introspection string) *feed {
	parsed, err := url.Parse(verifier)
	address := net.ParseIP(parsed.Hostname())
	if err != nil || parsed.Path != "" || !(parsed.Scheme == "https" || parsed.Scheme == "http" && address.IsLoopback()) {
		log.Fatal("-verifier: https://HOST:PORT, or http to a loopback address")
	}
	roots, _ := x509.SystemCertPool()
	if ca != "" {
		roots = x509.NewCertPool()
		if pem, err := os.ReadFile(ca); err != nil || !roots.AppendCertsFromPEM(pem) {
			log.Fatal("-ca: a file of certificates")
		}
	}
	client := &http.Client{
		Timeout:       answerWithin,
		Transport:     &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}, DisableKeepAlives: true}, // and no proxy of the environment
		CheckRedirect: func(*http.Request, []*http.Request) error { return errors.New("a redirect") },
	}
	return &feed{client: client, verifier: verifier, introspection: introspection}
}

func (f *feed) ask(method, path string, header http.Header, body string) ([]byte, error) {
	asked, err := http.NewRequestWithContext(context.Background(), method, f.verifier+path, strings.NewReader(body))
	if err != nil {
		return nil, err
	}
	asked.Header = header
	answer, err := f.client.Do(asked)
	if err != nil {
		return nil, err
	}
	defer answer.Body.Close()
	said, err := io.ReadAll(io.LimitReader(answer.Body, maxDocument+1))
	if err != nil || answer.StatusCode != 200 || len(said) > maxDocument {
		return nil, fmt.Errorf("%s: status %d, %d bytes", path, answer.StatusCode, len(said))
	}
	return said, nil
}

func (f *feed) refresh() {
	said, err := f.ask("GET", "/.well-known/jwks.json", http.Header{}, "")
	if keys, fault := reading(func() map[string]publicKey { return parseJWKS(said) }); err == nil && fault == "" {
		f.Lock()
		f.held, f.fetched = keys, time.Now()
		f.Unlock()
	} else {
		log.Print("keys: ", err, fault)
	}
	said, err = f.ask("GET", "/v1/status/0", http.Header{}, "")
	keys, now := f.keys(), time.Now().Unix()
	list, fault := reading(func() *statusList { return parseStatusList(string(said), keys, f.verifier+"/v1/status/0", now) })
	f.Lock()
	defer f.Unlock()
	if err != nil || fault != "" {
		log.Print("status list: ", err, fault)
	} else if f.newest == nil || list.issued >= f.newest.issued {
		f.newest = list
	}
}

func (f *feed) keys() map[string]publicKey {
	f.Lock()
	defer f.Unlock()
	if time.Since(f.fetched) > keysLive {
		return nil
	}
	return f.held
}

func (f *feed) list() *statusList {
	f.Lock()
	defer f.Unlock()
	return f.newest
}

func (f *feed) active(token string) (bool, error) {
	header := http.Header{"Authorization": {"Bearer " + f.introspection}, "Content-Type": {"application/x-www-form-urlencoded"}}
	said, err := f.ask("POST", "/v1/introspect", header, url.Values{"token": {token}}.Encode())
	answer, fault := reading(func() any { return object(parseJSON(said))["active"] })
	if fault != "" {
		err = errors.Join(err, errors.New(fault))
	}
	return answer == true, err
}

// newRecord appends lines that are on disk when it returns. After a failed write there is no other: the file's end is not known.
func newRecord(path string) func(decision) error {
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		log.Fatal(err)
	}
	last := make([]byte, 1)
	if info, err := file.Stat(); err == nil && info.Size() > 0 {
		if file.ReadAt(last, info.Size()-1); last[0] != '\n' { // a line that an earlier process tore
			file.Write([]byte("\n"))
		}
	}
	var lock sync.Mutex
	return func(made decision) error {
		lock.Lock()
		defer lock.Unlock()
		line, _ := json.Marshal(made)
		if err == nil {
			_, err = file.Write(append(line, '\n'))
		}
		if err == nil {
			err = file.Sync()
		}
		return err
	}
}

var remedies = map[string]string{
	"malformed":              "Send what the documentation of this route or command describes.",
	"too-large":              "Send less; the limit is in expected.",
	"unauthenticated":        "Send a valid credential.",
	"proof-missing":          "Send a proof of possession with each request.",
	"status-stale":           "The revocation list is older than a token's life; fetch it again.",
	"token-malformed":        "The token is not an execution token of Writ.",
	"token-key-unknown":      "The token names a key that is not among the verifier's keys.",
	"signature-invalid":      "The signature does not verify under the enrolled key. Re-enrol the host, or look for who altered the message.",
	"token-issuer":           "The token was issued by another verifier.",
	"token-audience":         "The token was issued for another audience.",
	"token-not-yet-valid":    "The clock of this machine is behind the verifier's by more than the allowed skew.",
	"token-expired":          "Renew: attest again.",
	"token-revoked":          "The token was revoked.",
	"proof-invalid":          "The proof does not verify under the token's key.",
	"proof-mismatch":         "The proof is for another action, resource, argument or token.",
	"proof-stale":            "The proof is older than allowed; check the clock.",
	"proof-replayed":         "A proof is used once.",
	"too-many-requests":      "Slow down and try again.",
	"policy-unknown":         "Publish a policy: `verifier policy publish`.",
	"policy-digest-mismatch": "The bundle is not the one that the token names; fetch the current one.",
	"grant-missing":          "The token does not grant this action on this resource.",
	"unavailable":            "Try again; if it persists, run `doctor` on the role.",
	"record-not-durable":     "The record could not be made durable, so the action did not pass.",
}

// answer writes the refusal as a problem (RFC 9457) with its reason.
func (r *refusal) answer(w http.ResponseWriter, reference string) {
	reason := map[string]string{"code": r.code, "claim": r.claim, "expected": r.expected, "got": r.got, "remedy": remedies[r.code]}
	w.Header().Set("Content-Type", "application/problem+json")
	w.Header().Set("Cache-Control", "no-store")
	if r.status == 401 {
		kind := "invalid_token"
		if strings.HasPrefix(r.code, "proof-") {
			kind = "invalid_dpop_proof"
		}
		w.Header().Set("WWW-Authenticate", `DPoP error="`+kind+`", algs="Ed25519 ES256"`)
	}
	w.WriteHeader(r.status)
	json.NewEncoder(w).Encode(map[string]any{
		"type": "urn:writ:reason:" + r.code, "title": "refused", "status": r.status, "verdict": "refused", "reference": reference,
		"reasons": []any{reason},
	})
}

// guard is around the service itself. No router comes before it: http.ServeMux would redirect what check 1 has to refuse.
func guard(p *party, inner func(w http.ResponseWriter, body []byte, agent string)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var reference [6]byte
		rand.Read(reference[:])
		q := request{method: r.Method, target: r.RequestURI}
		for name, values := range r.Header {
			for _, value := range values {
				q.headers = append(q.headers, [2]string{name, value})
			}
		}
		var err error
		// net/http hides a Content-Length beside chunks, and returning without an answer is a 200
		if q.body, err = io.ReadAll(io.LimitReader(r.Body, maxBody+1)); err != nil || len(r.TransferEncoding) > 0 {
			w.Header().Set("Connection", "close")
			refuse(2, 400, "malformed", "body", "a whole body, its length said", "another").answer(w, hex.EncodeToString(reference[:]))
			return
		}
		agent, no := p.admit(q, time.Now().Unix(), hex.EncodeToString(reference[:]))
		if no != nil {
			w.Header().Set("Connection", "close")
			no.answer(w, hex.EncodeToString(reference[:]))
			return
		}
		inner(w, q.body, agent)
	})
}

func main() {
	vectors := flag.String("vectors", "", "run the vectors of this file and say what failed")
	listen := flag.String("listen", "127.0.0.1:8000", "where to serve")
	origin := flag.String("origin", "", "scheme and authority as clients write them")
	audience := flag.String("audience", "", "who this service is")
	verifier := flag.String("verifier", "", "URL of the verifier, the issuer of its tokens")
	ca := flag.String("ca", "", "certificates that speak for the verifier, instead of the system's")
	policy := flag.String("policy", "", "digests of the policies under which grants are enough, with commas between")
	record := flag.String("record", "decisions.jsonl", "where decisions are recorded")
	keyFile := flag.String("introspection-key", "", "file with an API key of the role relying: ask the verifier about each token")
	flag.Parse()
	if *vectors != "" {
		os.Exit(runVectors(*vectors))
	}
	var key []byte
	if *keyFile != "" {
		var err error
		if key, err = os.ReadFile(*keyFile); err != nil {
			log.Fatal(err)
		}
	}
	f := newFeed(*verifier, *ca, strings.TrimSpace(string(key)))
	p := &party{
		issuer: *verifier, audience: *audience, origin: *origin, pinned: strings.FieldsFunc(*policy, func(c rune) bool { return c == ',' }),
		keys: f.keys, list: f.list, record: newRecord(*record),
		seen: newReplayCache(100_000, time.Now().Unix()+skew+1),
	}
	if f.introspection != "" {
		p.active = f.active
	}
	f.refresh()
	go func() {
		for range time.Tick(10 * time.Second) {
			f.refresh()
		}
	}()
	server := &http.Server{
		Addr: *listen, ReadHeaderTimeout: 10 * time.Second, ReadTimeout: 20 * time.Second, WriteTimeout: 20 * time.Second,
		MaxHeaderBytes: 64 << 10, DisableGeneralOptionsHandler: true,
		Handler: guard(p, func(w http.ResponseWriter, _ []byte, agent string) { fmt.Fprintf(w, "the report, for %s\n", agent) }),
	}
	log.Fatal(server.ListenAndServe())
}
