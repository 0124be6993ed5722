package main

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"encoding/binary"
	"encoding/hex"
	"math/big"
	"slices"
	"strconv"
)

// Check 16: what the agent's TPM signed a moment ago (TPM2_GetTime), for tokens with the claim lease. Source: TPM 2.0 Library Part 2.

type leaseTerms struct {
	key            []byte // SHA-256 of the lease key's TPMT_PUBLIC
	time           uint64 // of the TPM, in milliseconds, at or before iat
	reset, restart uint32 // which run of it
	life           int64
}

type lease struct{ public, attest, signature []byte }

func parseTerms(f fields) *leaseTerms {
	read := &leaseTerms{b64(f.like("key", thumbprint)), uint64(f.uint("time", 1<<53-1)), uint32(f.uint("reset", 1<<32-1)), uint32(f.uint("restart", 1<<32-1)), f.uint("life", 300)}
	b64(f.like("approved", thumbprint))
	f.done()
	return read
}

// cursor reads big-endian numbers and sized buffers, to the end and no further.
type cursor struct{ left []byte }

func (c *cursor) take(count int) []byte {
	require(count <= len(c.left), "more bytes")
	taken := c.left[:count]
	c.left = c.left[count:]
	return taken
}

func (c *cursor) number(size int) uint64 {
	return binary.BigEndian.Uint64(slices.Concat(make([]byte, 8-size), c.take(size)))
}

func (c *cursor) sized(most int) []byte {
	size := int(c.number(2))
	require(size <= most, "a buffer in its bounds")
	return c.take(size)
}

func (c *cursor) same(want string) { require(string(c.take(len(want))) == want, "exactly these bytes") }

func (c *cursor) done() { require(len(c.left) == 0, "nothing behind it") }

// A byte string of CBOR, of at most 1024 bytes, under its shortest head.
func (c *cursor) cborBytes() []byte {
	head := c.number(1)
	require(0x40 <= head && head <= 0x59, "a byte string")
	size, least := head-0x40, uint64(0)
	if head == 0x58 {
		size, least = c.number(1), 24
	} else if head == 0x59 {
		size, least = c.number(2), 256
	}
	require(least <= size && size <= 1024, "its shortest head")
	return c.take(int(size))
}

// The one spelling of {"v": 1, "attest": bstr, "public": bstr, "signature": bstr}.
func parseLease(shown string) *lease {
	c, read := &cursor{b64(shown)}, &lease{}
	c.same("\xa4\x61v\x01\x66attest")
	read.attest = c.cborBytes()
	c.same("\x66public")
	read.public = c.cborBytes()
	c.same("\x69signature")
	read.signature = c.cborBytes()
	c.done()
	return read
}

// A TPMT_PUBLIC of an ECC key that is named by SHA-256 and signs by ECDSA with SHA-256 on P-256, as every lease key does.
func parseLeaseKey(public []byte) *ecdsa.PublicKey {
	c := &cursor{public}
	c.same("\x00\x23\x00\x0b")                                   // TPM_ALG_ECC, TPM_ALG_SHA256
	c.take(4)                                                    // its attributes, which the verifier judged: the token names these very bytes
	c.sized(64)                                                  // authPolicy
	c.same("\x00\x10" + "\x00\x18\x00\x0b\x00\x03" + "\x00\x10") // no cipher; ECDSA, SHA-256, P-256; no KDF
	x, y := c.sized(32), c.sized(32)
	c.done()
	padded := func(part []byte) []byte { return slices.Concat(make([]byte, 32-len(part)), part) }
	key, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), slices.Concat([]byte{4}, padded(x), padded(y)))
	require(err == nil, "a point on its curve")
	return key
}

type stated struct {
	extraData      []byte
	time           uint64
	reset, restart uint32
}

// A TPMS_ATTEST about the time, made by a TPM and signed by the key.
func parseStated(l *lease) stated {
	key, c := parseLeaseKey(l.public), &cursor{l.signature}
	c.same("\x00\x18\x00\x0b") // ECDSA, SHA-256
	r, s := c.sized(32), c.sized(32)
	c.done()
	signed := ecdsa.Verify(key, hash(string(l.attest)), new(big.Int).SetBytes(r), new(big.Int).SetBytes(s))
	require(signed, "a signature by the lease key")
	c = &cursor{l.attest}
	c.same("\xff\x54\x43\x47\x80\x19") // TPM_GENERATED_VALUE, TPM_ST_ATTEST_TIME
	c.sized(66)                        // qualifiedSigner
	read := stated{extraData: c.sized(66)}
	flag := func() { require(c.number(1) <= 1, "0 or 1") }
	c.take(8 + 4 + 4) // clockInfo
	flag()
	c.take(8) // firmwareVersion
	read.time = c.number(8)
	c.take(8) // clock, which its owner can set, as nobody can the time
	read.reset, read.restart = uint32(c.number(4)), uint32(c.number(4))
	flag()
	c.take(8) // firmwareVersion
	c.done()
	return read
}

// leaseBinding is what the lease is for: this session key, under this token.
func leaseBinding(t *token) []byte {
	instance, _ := hex.DecodeString(t.instance)
	bound := slices.Concat([]byte("\x84\x6dwrit/lease/v1\x50"), instance, []byte("\x58\x20"), b64(t.key), []byte("\x58\x20"), t.digest)
	return hash(string(bound))
}

func judgeLease(shown []string, t *token, now int64) *refusal {
	invalid := func(fault string) *refusal { return refuse(16, 401, "lease-invalid", "lease", fault, "another") }
	var came *lease
	if len(shown) > 0 {
		var fault string
		if came, fault = reading(func() *lease { return parseLease(shown[0]) }); fault != "" {
			return invalid(fault)
		}
	}
	if t.lease == nil {
		return nil
	}
	if came == nil {
		return refuse(16, 401, "lease-missing", "lease", "a lease", "none")
	}
	if !bytes.Equal(hash(string(came.public)), t.lease.key) {
		return invalid("the key that the token names")
	}
	said, fault := reading(func() stated { return parseStated(came) })
	if fault != "" {
		return invalid(fault)
	}
	if said.reset != t.lease.reset || said.restart != t.lease.restart {
		return refuse(16, 401, "lease-mismatch", "lease.resets", "the run of the TPM that was appraised", "another")
	}
	if !bytes.Equal(said.extraData, leaseBinding(t)) {
		return refuse(16, 401, "lease-mismatch", "lease.extra_data", "this token and its session key", "another")
	}
	if said.time < t.lease.time {
		return refuse(16, 401, "lease-mismatch", "lease.time", "at least "+strconv.FormatUint(t.lease.time, 10), strconv.FormatUint(said.time, 10))
	}
	if until := t.issued + int64((said.time-t.lease.time)/1000) + t.lease.life; now >= until { // and exp is after now: check 12
		return refuse(16, 401, "lease-expired", "lease.time", "alive after "+text(now), "until "+text(until))
	}
	return nil
}
