package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"os"
	"strings"
)

// The vectors of docs/relying.md, against the checks of this service.

type service struct {
	Now        int64
	Issuer     string
	Audience   string
	Origin     string
	StatusURI  string `json:"status_uri"`
	StartedAt  int64  `json:"started_at"`
	Capacity   int
	JWKS       string
	StatusList *string `json:"status_list"`
	Pins       []string
	Durable    bool
}

type expectation struct {
	Pass   bool
	Check  int
	Code   string
	Status int
}

type vectorFile struct {
	Service     json.RawMessage
	JWKS        map[string]string
	StatusLists map[string]string `json:"status_lists"`
	Policies    map[string]struct{ Digest string }
	Cases       []struct {
		Name     string
		Service  json.RawMessage
		Requests []struct {
			At                   int64
			Method, Target, Body string
			Times                int
			Headers              [][2]string
			Expect               expectation
			WithoutCedar         *expectation `json:"without_cedar"`
		}
	}
}

func (file vectorFile) party(s service) *party {
	keys, _ := reading(func() map[string]publicKey { return parseJWKS([]byte(file.JWKS[s.JWKS])) })
	var list *statusList
	if s.StatusList != nil {
		list, _ = reading(func() *statusList { return parseStatusList(file.StatusLists[*s.StatusList], keys, s.StatusURI, s.Now) })
	}
	p := &party{
		issuer: s.Issuer, audience: s.Audience, origin: s.Origin,
		keys: func() map[string]publicKey { return keys }, list: func() *statusList { return list },
		seen: newReplayCache(s.Capacity, 0),
		record: func(decision) error {
			if !s.Durable {
				return errors.New("the disk is full")
			}
			return nil
		},
	}
	for _, name := range s.Pins {
		p.pinned = append(p.pinned, file.Policies[name].Digest)
	}
	if s.StartedAt > 0 {
		p.seen.madeAfter = s.StartedAt + skew + 1
	}
	return p
}

func runVectors(path string) int {
	data, err := os.ReadFile(path)
	var file vectorFile
	if err == nil {
		err = json.Unmarshal(data, &file)
	}
	if err != nil {
		log.Fatal(err)
	}
	requests, failed := 0, []string{}
	for _, one := range file.Cases {
		var s service
		if err := errors.Join(json.Unmarshal(file.Service, &s), json.Unmarshal(one.Service, &s)); err != nil {
			log.Fatal(err)
		}
		p := file.party(s)
		for _, asked := range one.Requests {
			want := asked.Expect
			if asked.WithoutCedar != nil {
				want = *asked.WithoutCedar
			}
			q := request{asked.Method, asked.Target, asked.Headers, []byte(strings.Repeat(asked.Body, asked.Times))}
			got := expectation{Pass: true}
			if _, no := p.admit(q, s.Now+asked.At, "vector"); no != nil {
				got = expectation{false, no.check, no.code, no.status}
			}
			if want.Check == 0 {
				got.Check = 0
			}
			requests++
			if got != want {
				failed = append(failed, fmt.Sprintf("%s: expected %+v, got %+v", one.Name, want, got))
			}
		}
	}
	json.NewEncoder(os.Stdout).Encode(map[string]any{"cases": len(file.Cases), "requests": requests, "failed": failed})
	if len(failed) > 0 || requests == 0 {
		return 1
	}
	return 0
}
