package main

import (
	"encoding/hex"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
)

// The checks of docs/relying.md, by their numbers. The clock is read by the caller, once a request.

const skew, ceiling, proofLife, maxBody = 5, 300, 30, 1 << 20

type request struct {
	method, target string
	headers        [][2]string // every line as it came
	body           []byte
}

type refusal struct {
	check, status              int
	code, claim, expected, got string
}

func refuse(check, status int, code, claim, expected, got string) *refusal {
	return &refusal{check, status, code, claim, expected, got[:min(len(got), 200)]}
}

type token struct {
	issuer, agent, audience, policy, instance, key, statusURI string
	issued, expires, statusIndex                              int64
	grants                                                    [][2]string
	digest                                                    []byte
	lease                                                     *leaseTerms // nil where it takes none
}

// decision is one line of the record.
type decision struct {
	At                                    int64
	Reference, Action, Resource           string
	Agent, Instance, Token, Policy, Proof string
	Permit                                bool
	Code                                  string
}

type party struct {
	issuer, audience, origin string
	pinned                   []string                         // digests of the policies under which grants are enough here: see docs/adr/0030
	keys                     func() map[string]publicKey      // none once they are too old
	list                     func() *statusList               // nil where there is none
	active                   func(token string) (bool, error) // asks the verifier's introspection; nil where the service does not
	record                   func(decision) error
	seen                     *replayCache
}

// admit says whether the request may pass. Nothing but nil is a permit.
func (p *party) admit(q request, now int64, reference string) (string, *refusal) {
	resource, shown, proof, lease, no := p.read(q)
	if no != nil {
		return "", no
	}
	made := decision{At: now, Reference: reference, Action: "http." + strings.ToLower(q.method), Resource: resource}
	no = p.judge(q, shown, proof, lease, now, &made)
	if no != nil {
		made.Code = no.code
	}
	made.Permit = no == nil
	// 28
	if p.record(made) != nil {
		return "", refuse(28, 503, "record-not-durable", "record", "a durable record", "none")
	}
	return made.Agent, no
}

// read gives the URL, the token, the proof and perhaps a lease of a request.
func (p *party) read(q request) (resource, shown, proof string, lease []string, no *refusal) {
	// 2
	if len(q.body) > maxBody {
		return "", "", "", nil, refuse(2, 413, "too-large", "body", "at most 1048576 bytes", "more")
	}
	// 1
	resource = p.origin + q.target
	plain := requestLine.MatchString(q.method+" "+q.target) && !strings.ContainsAny(q.target, `?%\#`)
	if !plain || len(resource) > 512 || strings.Contains(q.target, "//") || dotSegment.MatchString(q.target) {
		return "", "", "", nil, refuse(1, 400, "malformed", "request", "a method and a path with one reading", q.method+" "+q.target)
	}
	// 3
	given := map[string][]string{}
	for _, line := range q.headers {
		given[strings.ToLower(line[0])] = append(given[strings.ToLower(line[0])], line[1])
	}
	for _, name := range []string{"authorization", "dpop", "writ-lease"} {
		ascii := !strings.ContainsFunc(strings.Join(given[name], ""), func(c rune) bool { return c > 126 })
		if len(given[name]) > 1 || !ascii {
			return "", "", "", nil, refuse(3, 400, "malformed", "header "+name, "once, in ASCII", strconv.Itoa(len(given[name]))+" times")
		}
	}
	// 4
	scheme, shown, _ := strings.Cut(strings.Join(given["authorization"], ""), " ")
	if strings.ToLower(scheme) != "dpop" {
		return "", "", "", nil, refuse(4, 401, "unauthenticated", "Authorization", "DPoP and a token", "none")
	}
	if len(given["dpop"]) == 0 {
		return "", "", "", nil, refuse(4, 401, "proof-missing", "DPoP", "one proof", "none")
	}
	return resource, shown, given["dpop"][0], given["writ-lease"], nil
}

func (p *party) judge(q request, shown, proof string, lease []string, now int64, made *decision) *refusal {
	// 6
	list := p.list()
	if list == nil {
		return refuse(6, 503, "status-stale", "status_list", "a fresh list", "none")
	}
	t, no := p.judgeToken(shown, list, now)
	if no != nil {
		return no
	}
	// 16
	if no := judgeLease(lease, t, now); no != nil {
		return no
	}
	if no := p.judgeProof(q, proof, t, made, now); no != nil {
		return no
	}
	made.Agent, made.Instance, made.Policy = t.agent, t.instance, t.policy
	made.Token, made.Proof = "sha256:"+hex.EncodeToString(t.digest), "sha256:"+hex.EncodeToString(hash(proof))
	// 15, again: what was revoked since the list was signed
	if p.active != nil {
		active, err := p.active(shown)
		if err != nil {
			return refuse(15, 503, "unavailable", "introspection", "an answer of the verifier", "none")
		}
		if !active {
			return refuse(15, 401, "token-revoked", "token", "one that the verifier calls active", "another")
		}
	}
	// 25
	if len(p.pinned) == 0 {
		return refuse(25, 503, "policy-unknown", "policy", t.policy, "none pinned")
	}
	if !slices.Contains(p.pinned, t.policy) {
		return refuse(25, 503, "policy-digest-mismatch", "policy", strings.Join(p.pinned, " "), t.policy)
	}
	// 26; there is no 27 here: grants are enough under a policy that was pinned
	covers := func(grant [2]string) bool { return covered(grant, made.Action, made.Resource) }
	if !slices.ContainsFunc(t.grants, covers) {
		return refuse(26, 403, "grant-missing", "token.grants", made.Action+" on "+made.Resource, strconv.Itoa(len(t.grants))+" other grants")
	}
	return nil
}

func (p *party) judgeToken(shown string, list *statusList, now int64) (*token, *refusal) {
	// 7
	var signed jws
	t, fault := reading(func() *token { signed = parseJWS(shown, "eat+jwt", 16384); return parseClaims(signed.payload) })
	if fault != "" {
		return nil, refuse(7, 401, "token-malformed", "token", fault, "another")
	}
	t.digest = hash(shown)
	// 8
	key, known := p.keys()[signed.kid]
	if !known {
		return nil, refuse(8, 401, "token-key-unknown", "token.kid", "one of the verifier's keys", signed.kid)
	}
	// 9
	if !key.signed(signed) {
		return nil, refuse(9, 401, "signature-invalid", "token", "a signature by the issuer", "another")
	}
	// 10
	if t.issuer != p.issuer {
		return nil, refuse(10, 401, "token-issuer", "token.iss", p.issuer, t.issuer)
	}
	// 11
	if t.audience != p.audience {
		return nil, refuse(11, 401, "token-audience", "token.aud", p.audience, t.audience)
	}
	// 12
	if t.issued > now+skew {
		return nil, refuse(12, 401, "token-not-yet-valid", "token.iat", "at most "+text(now+skew), text(t.issued))
	}
	if now >= t.expires {
		return nil, refuse(12, 401, "token-expired", "token.exp", "later than "+text(now), text(t.expires))
	}
	// 13
	life := t.expires - t.issued
	if life > ceiling {
		return nil, refuse(13, 401, "token-malformed", "token.exp", "a life of at most 300 s", text(life)+" s")
	}
	// 14
	if t.statusURI != list.uri {
		return nil, refuse(14, 503, "status-stale", "token.status.uri", list.uri, t.statusURI)
	}
	if list.issued < now-life || list.issued > now+skew || now >= list.expires {
		return nil, refuse(14, 503, "status-stale", "status_list.iat", text(now-life)+" to "+text(now+skew), text(list.issued))
	}
	if t.statusIndex >= list.size() {
		return nil, refuse(14, 503, "status-stale", "token.status.idx", "below "+text(list.size()), text(t.statusIndex))
	}
	// 15
	if list.at(t.statusIndex) != 0 {
		return nil, refuse(15, 401, "token-revoked", "token.status.idx", "a valid index", text(t.statusIndex))
	}
	return t, nil
}

func (p *party) judgeProof(q request, shown string, t *token, made *decision, now int64) *refusal {
	// 17
	var signed jws
	claims, fault := reading(func() proofClaims { signed = parseJWS(shown, "dpop+jwt", 8192); return parseProof(signed) })
	if fault != "" {
		return refuse(17, 401, "proof-invalid", "proof", fault, "another")
	}
	// 18
	if signed.jwk.thumbprint != t.key {
		return refuse(18, 401, "proof-invalid", "proof.jwk", t.key, signed.jwk.thumbprint)
	}
	// 19
	if !signed.jwk.signed(signed) {
		return refuse(19, 401, "proof-invalid", "proof", "a signature by the token's key", "another")
	}
	// 20, 21, 22
	for _, one := range []struct {
		check      int
		name, want string
	}{
		{20, "ath", unb64(t.digest)}, {21, "htm", q.method}, {21, "htu", made.Resource}, {22, "act", made.Action},
		{22, "res", made.Resource}, {22, "arg", unb64(hash(string(q.body)))},
	} {
		if got := claims.said[one.name]; got != one.want {
			return refuse(one.check, 401, "proof-mismatch", "proof."+one.name, one.want, got)
		}
	}
	// 23
	if claims.made < now-proofLife-skew || claims.made > now+skew {
		return refuse(23, 401, "proof-stale", "proof.iat", text(now-proofLife-skew)+" to "+text(now+skew), text(claims.made))
	}
	// 24
	return p.seen.take(t.key+"."+claims.said["jti"], claims.made, now)
}

func text(number int64) string { return strconv.FormatInt(number, 10) }

const nameLike = `[a-z0-9]([a-z0-9._-]{0,61}[a-z0-9])?`

var (
	requestLine = regexp.MustCompile(`^[A-Z]{1,59} /[!-~]*$`)
	dotSegment  = regexp.MustCompile(`/\.\.?(?:[;/]|$)`)
	agentID     = regexp.MustCompile(`^spiffe://[a-z0-9]([a-z0-9._-]{0,253}[a-z0-9])?/` + nameLike + `/agent/` + nameLike + `$`)
	hostName    = regexp.MustCompile(`^` + nameLike + `$`)
	digestText  = regexp.MustCompile(`^sha256:[0-9a-f]{64}$`)
	hex16       = regexp.MustCompile(`^[0-9a-f]{32}$`)
	thumbprint  = regexp.MustCompile(`^[A-Za-z0-9_-]{43}$`)
	tpmClass    = regexp.MustCompile(`^(discrete|firmware|virtual|software)$`)
	tier        = regexp.MustCompile(`^(affirming|runtime-only|sandboxed)$`)
	profile     = regexp.MustCompile(`^urn:writ:execution-token:1$`)
	actionName  = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9_.:/-]{0,127}$`)
	ambiguous   = regexp.MustCompile(`[\x00-\x20\x7f-\x{9f}*\\]`)
)

func parseClaims(payload []byte) *token {
	f := object(parseJSON(payload))
	require(spelt(map[string]any(f)) == string(payload), "sorted keys and no spaces")
	t := &token{
		issuer: f.text("iss", 1, 1024), agent: f.like("sub", agentID), audience: f.text("aud", 1, 256), issued: f.uint("iat", 1<<62),
		expires: f.uint("exp", 1<<62), policy: f.like("policy", digestText), instance: f.like("instance", hex16),
	}
	f.like("eat_profile", profile)
	f.text("jti", 16, 64)
	f.like("host", hostName)
	f.like("result", digestText)
	f.like("tpm_class", tpmClass)
	f.like("runtime", tier)
	cnf := object(f.take("cnf"))
	t.key = unb64(b64(cnf.like("jkt", thumbprint)))
	cnf.done()
	status := object(f.take("status"))
	entry := object(status.take("status_list"))
	status.done()
	t.statusIndex, t.statusURI = entry.uint("idx", 1<<30), entry.text("uri", 1, 1024)
	entry.done()
	for _, item := range f.items("lineage", 16) {
		id, _ := item.(string)
		require(hex16.MatchString(id), "instances in lineage")
	}
	for _, item := range f.items("exceptions", 80) {
		code, _ := item.(string)
		require(0 < len(code) && len(code) <= 64, "reason codes in exceptions")
	}
	for _, item := range f.items("grants", 64) {
		pair, _ := item.([]any)
		require(len(pair) == 2, "pairs in grants")
		action, _ := pair[0].(string)
		resource, _ := pair[1].(string)
		require(actionName.MatchString(action) && plainResource(strings.TrimSuffix(resource, "/*")) && 0 < len(resource) && len(resource) <= 512, "grants with one reading")
		if last := len(t.grants) - 1; last >= 0 {
			require(slices.Compare(t.grants[last][:], []string{action, resource}) < 0, "grants in order, each once")
		}
		t.grants = append(t.grants, [2]string{action, resource})
	}
	if f.has("lease") {
		t.lease = parseTerms(object(f.take("lease")))
	}
	f.done()
	return t
}

// plainResource tells whether the text names one thing only.
func plainResource(resource string) bool {
	unescaped := strings.NewReplacer("%2e", ".", "%2f", "/", "%5c", "/").Replace(strings.ToLower(resource))
	segments := strings.Split(unescaped, "/")
	return !ambiguous.MatchString(resource) && !slices.Contains(segments, ".") && !slices.Contains(segments, "..")
}

func covered(grant [2]string, action, resource string) bool {
	if action != grant[0] || !plainResource(resource) {
		return false
	}
	prefix, open := strings.CutSuffix(grant[1], "*")
	if !open {
		return resource == grant[1]
	}
	beneath, within := strings.CutPrefix(resource, prefix)
	return within && beneath != "" && beneath[0] != '/' && !strings.Contains(beneath, "//")
}

type proofClaims struct {
	made int64
	said map[string]string
}

func parseProof(signed jws) proofClaims {
	require(signed.jwk != nil, "a public key in the header")
	f := object(parseJSON(signed.payload))
	said := map[string]string{"jti": f.text("jti", 16, 128), "htm": f.text("htm", 1, 32), "htu": f.text("htu", 1, 2048)}
	for name, most := range map[string]int{"nonce": 256, "act": 256, "res": 1024} {
		if f.has(name) {
			said[name] = f.text(name, 1, most)
		}
	}
	for _, name := range []string{"ath", "arg", "led"} {
		if f.has(name) {
			said[name] = unb64(b64(f.like(name, thumbprint)))
		}
	}
	read := proofClaims{f.uint("iat", 1<<62), said}
	f.done()
	require(!strings.ContainsAny(said["htu"], "?#"), "htu without query and fragment")
	return read
}

// replayCache remembers what was used until it could not be used any more. Full, it refuses and forgets nothing.
type replayCache struct {
	sync.Mutex
	room      int
	madeAfter int64 // proofs made earlier may have been seen by a process before this one
	used      map[string]bool
	lapsing   map[int64][]string // names by the second from which they are forgotten: as many seconds as a proof lives
}

func newReplayCache(room int, madeAfter int64) *replayCache {
	return &replayCache{room: room, madeAfter: madeAfter, used: map[string]bool{}, lapsing: map[int64][]string{}}
}

const remembered = proofLife + 2*skew + 1

func (c *replayCache) take(name string, madeAt, now int64) *refusal {
	c.Lock()
	defer c.Unlock()
	for at, names := range c.lapsing {
		if at < now {
			for _, lapsed := range names {
				delete(c.used, lapsed)
			}
			delete(c.lapsing, at)
			c.madeAfter = max(c.madeAfter, at+1-remembered) // a clock that is set back revives nothing
		}
	}
	if madeAt < c.madeAfter {
		return refuse(24, 401, "proof-stale", "proof.iat", "at least "+text(c.madeAfter), text(madeAt))
	}
	if c.used[name] {
		return refuse(24, 401, "proof-replayed", "proof.jti", "a new proof", "one used before")
	}
	if len(c.used) >= c.room {
		return refuse(24, 503, "too-many-requests", "proof", "room for one of "+strconv.Itoa(c.room), "none until older proofs lapse")
	}
	c.used[name] = true
	c.lapsing[madeAt+remembered] = append(c.lapsing[madeAt+remembered], name)
	return nil
}
