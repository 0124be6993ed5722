package main

import (
	"bytes"
	"compress/zlib"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"io"
	"math/big"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Strict reading. What is wrong panics with a malformed, and reading turns that into an error: every getter says what it wants, once.

type malformed string

func reading[T any](parse func() T) (parsed T, fault string) {
	defer func() {
		if caught := recover(); caught != nil {
			fault = string(caught.(malformed)) // what is not ours goes on
		}
	}()
	return parse(), ""
}

func require(holds bool, expected string) {
	if !holds {
		panic(malformed(expected))
	}
}

// One JSON value: UTF-8, no key twice, whole numbers, at most 16 levels, nothing behind it. encoding/json alone takes the last of two keys,
// matches names in any case and replaces what is no character.
func parseJSON(data []byte) any {
	require(utf8.Valid(data), "UTF-8")
	decoder := json.NewDecoder(bytes.NewReader(data))
	decoder.UseNumber()
	value := nextValue(decoder, 0)
	_, err := decoder.Token()
	require(err == io.EOF, "one JSON value and nothing behind it")
	return value
}

var whole = regexp.MustCompile(`^-?(0|[1-9][0-9]*)$`)

func nextValue(decoder *json.Decoder, depth int) any {
	token, err := decoder.Token()
	require(err == nil, "JSON")
	switch token := token.(type) {
	case json.Delim:
		require(depth < 16, "at most 16 levels")
		if token == '[' {
			items := []any{}
			for decoder.More() {
				items = append(items, nextValue(decoder, depth+1))
			}
			_, err = decoder.Token()
			require(err == nil, "JSON")
			return items
		}
		members := map[string]any{}
		for decoder.More() {
			name, _ := nextValue(decoder, depth+1).(string)
			_, twice := members[name]
			require(!twice, "no key twice")
			members[name] = nextValue(decoder, depth+1)
		}
		_, err = decoder.Token()
		require(err == nil, "JSON")
		return members
	case json.Number:
		number, err := strconv.ParseInt(token.String(), 10, 64)
		require(err == nil && whole.MatchString(token.String()), "a whole number of 64 bits")
		return number
	case string:
		require(!strings.ContainsRune(token, utf8.RuneError), "whole characters")
		return token
	}
	return token
}

// The one spelling of a token's claims: sorted keys, no spaces. Text with control characters has none.
func spelt(value any) string {
	switch value := value.(type) {
	case map[string]any:
		var members []string
		for name, member := range value {
			members = append(members, spelt(name)+":"+spelt(member))
		}
		slices.Sort(members)
		return "{" + strings.Join(members, ",") + "}"
	case []any:
		var items []string
		for _, item := range value {
			items = append(items, spelt(item))
		}
		return "[" + strings.Join(items, ",") + "]"
	case string:
		return `"` + strings.NewReplacer(`"`, `\"`, `\`, `\\`).Replace(value) + `"`
	case int64:
		return strconv.FormatInt(value, 10)
	}
	encoded, _ := json.Marshal(value)
	return string(encoded)
}

var alphabet = regexp.MustCompile(`^[A-Za-z0-9_-]*$`) // Go's decoder skips line ends

func b64(text string) []byte {
	data, err := base64.RawURLEncoding.Strict().DecodeString(text)
	require(err == nil && alphabet.MatchString(text), "base64url without padding and with unused bits of zero")
	return data
}

func unb64(data []byte) string { return base64.RawURLEncoding.EncodeToString(data) }

func hash(text string) []byte {
	sum := sha256.Sum256([]byte(text))
	return sum[:]
}

// fields is an object read key by key; done refuses what nobody asked for.
type fields map[string]any

func object(value any) fields {
	members, is := value.(map[string]any)
	require(is, "an object")
	return members
}

func (f fields) has(name string) bool { _, has := f[name]; return has }

func (f fields) take(name string) any {
	value, has := f[name]
	require(has, name)
	delete(f, name)
	return value
}

var unprintable = regexp.MustCompile(`[\x00-\x1f\x7f]`)

func (f fields) text(name string, least, most int) string {
	text, is := f.take(name).(string)
	length := utf8.RuneCountInString(text)
	require(is && least <= length && length <= most && !unprintable.MatchString(text), name+" as printable text")
	return text
}

func (f fields) like(name string, pattern *regexp.Regexp) string {
	text := f.text(name, 0, 2048)
	require(pattern.MatchString(text), name+" like "+pattern.String())
	return text
}

func (f fields) uint(name string, most int64) int64 {
	number, is := f.take(name).(int64)
	require(is && 0 <= number && number <= most, name+" as a whole number in its bounds")
	return number
}

func (f fields) items(name string, most int) []any {
	items, is := f.take(name).([]any)
	require(is && len(items) <= most, name+" as an array in its bounds")
	return items
}

func (f fields) done() { require(len(f) == 0, "no unknown member") }

// Keys of two kinds, and no other.

type publicKey struct {
	alg, thumbprint string
	edwards         ed25519.PublicKey
	p256            *ecdsa.PublicKey
}

func parseJWK(value any) publicKey {
	f := object(value)
	kind, curve := f.text("kty", 0, 8), f.text("crv", 0, 16)
	require(kind == "OKP" && curve == "Ed25519" || kind == "EC" && curve == "P-256", "OKP Ed25519 or EC P-256")
	x := b64(f.text("x", 43, 43))
	key := publicKey{alg: "Ed25519", edwards: x}
	canonical := `{"crv":"Ed25519","kty":"OKP","x":"` + unb64(x) + `"}`
	if kind == "EC" {
		y := b64(f.text("y", 43, 43))
		point, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), slices.Concat([]byte{4}, x, y))
		require(err == nil, "a point on its curve")
		key = publicKey{alg: "ES256", p256: point}
		canonical = `{"crv":"P-256","kty":"EC","x":"` + unb64(x) + `","y":"` + unb64(y) + `"}`
	} else {
		require(!smallOrder(x), "a point of large order")
	}
	if f.has("kid") {
		f.text("kid", 1, 256)
	}
	require(!f.has("use") || f.text("use", 0, 16) == "sig", "use of sig")
	require(!f.has("alg") || f.text("alg", 0, 16) == key.alg, "alg of the key")
	f.done()
	key.thumbprint = unb64(hash(canonical))
	return key
}

// The y of the points whose order divides 8, little-endian: under such a key one signature fits many messages, and Verify takes it.
var small = []string{
	"0000000000000000000000000000000000000000000000000000000000000000", "0100000000000000000000000000000000000000000000000000000000000000",
	"ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f", "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
	"c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
}

func smallOrder(point []byte) bool {
	y := slices.Clone(point)
	y[31] &= 0x7f
	overflows := y[0] >= 0xed && y[31] == 0x7f && !slices.ContainsFunc(y[1:31], func(b byte) bool { return b != 0xff })
	return overflows || slices.Contains(small, hex.EncodeToString(y))
}

func (k publicKey) signed(j jws) bool {
	if j.alg != k.alg {
		return false
	}
	if k.p256 != nil {
		r, s := new(big.Int).SetBytes(j.signature[:32]), new(big.Int).SetBytes(j.signature[32:])
		return ecdsa.Verify(k.p256, hash(j.input), r, s)
	}
	return ed25519.Verify(k.edwards, []byte(j.input), j.signature)
}

type jws struct {
	alg, kid, input    string
	jwk                *publicKey
	payload, signature []byte
}

// A compact JWS of exactly that type; nobody has verified it yet.
func parseJWS(compact, typ string, most int) jws {
	require(len(compact) <= most, "at most "+strconv.Itoa(most)+" characters")
	parts := strings.Split(compact, ".")
	require(len(parts) == 3, "three parts")
	header := b64(parts[0])
	require(len(header) <= 4096, "a header of at most 4096 bytes")
	f := object(parseJSON(header))
	read := jws{alg: f.text("alg", 0, 32), input: parts[0] + "." + parts[1], payload: b64(parts[1]), signature: b64(parts[2])}
	require(read.alg == "Ed25519" || read.alg == "ES256", "alg Ed25519 or ES256")
	require(f.text("typ", 0, 64) == typ, "typ "+typ)
	if f.has("kid") {
		read.kid = f.text("kid", 1, 256)
	}
	if f.has("jwk") {
		key := parseJWK(f.take("jwk"))
		require(key.alg == read.alg, "a key of alg")
		read.jwk = &key
	}
	f.done()
	require(len(read.signature) == 64, "a signature of 64 bytes")
	return read
}

const maxDocument, maxList = 2 << 20, 1 << 20

func parseJWKS(data []byte) map[string]publicKey {
	keys := map[string]publicKey{}
	f := object(parseJSON(data))
	for _, item := range f.items("keys", 64) {
		name, _ := object(item)["kid"].(string)
		key := parseJWK(item)
		require(name == key.thumbprint, "a kid that is the thumbprint")
		keys[name] = key
	}
	return keys
}

type statusList struct {
	uri             string
	issued, expires int64
	bits            int
	values          []byte
}

// A status list of uri, signed by one of the keys and not expired.
func parseStatusList(compact string, keys map[string]publicKey, uri string, now int64) *statusList {
	read := parseJWS(compact, "statuslist+jwt", maxDocument)
	key, known := keys[read.kid]
	require(known && key.signed(read), "a signature by one of the keys")
	f := object(parseJSON(read.payload))
	inner := object(f.take("status_list"))
	list := &statusList{uri: f.text("sub", 1, 1024), issued: f.uint("iat", 1<<62), expires: f.uint("exp", 1<<62), bits: int(inner.uint("bits", 8))}
	f.uint("ttl", 1<<62)
	packed := bytes.NewReader(b64(inner.text("lst", 0, maxDocument)))
	f.done()
	inner.done()
	stream, err := zlib.NewReader(packed)
	require(err == nil, "a ZLIB stream")
	list.values, err = io.ReadAll(io.LimitReader(stream, maxList+1))
	require(err == nil && packed.Len() == 0 && 0 < len(list.values) && len(list.values) <= maxList, "one whole ZLIB stream of at most 1 MiB")
	require(slices.Contains([]int{1, 2, 4, 8}, list.bits), "1, 2, 4 or 8 bits")
	require(list.uri == uri && list.issued < list.expires && now < list.expires, "a list of "+uri+" that has not expired")
	return list
}

func (l *statusList) size() int64 { return int64(len(l.values) * 8 / l.bits) }

func (l *statusList) at(index int64) int {
	place := int(index) * l.bits
	return int(l.values[place/8]) >> (place % 8) & (1<<l.bits - 1)
}
