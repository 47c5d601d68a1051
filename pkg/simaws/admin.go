package simaws

import (
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"sync"
)

// adminPath is where the endpoint itself is spoken to, beside the AWS APIs:
//
//	GET    /_simaws/faults   the faults in force         PUT replaces them, POST adds one, DELETE removes all
//	GET    /_simaws/truth    the truth now, one JSON object a line
//	GET    /_simaws/stats    calls, throttles and errors per account, region and action; DELETE sets them to zero
//	GET    /_simaws/estate   the estate, as Load reads it; POST applies a Mutation
const adminPath = "/_simaws/"

func (s *Server) serveAdmin(w http.ResponseWriter, r *http.Request) {
	r.Body = http.MaxBytesReader(w, r.Body, maxBody)
	var err error
	// A browser is never a client: this keeps other sites' scripts out.
	if r.Header.Get("Origin") != "" {
		http.Error(w, "not for browsers", http.StatusForbidden)
		return
	}
	switch r.Method + " " + strings.TrimPrefix(r.URL.Path, adminPath) {
	case "GET faults":
		respond(w, s.faults.list())
	case "PUT faults":
		var list []Fault
		if err = decodeStrict(r, &list); err == nil {
			err = s.SetFaults(list...)
		}
	case "POST faults":
		var f Fault
		if err = decodeStrict(r, &f); err == nil {
			err = s.SetFaults(append(s.faults.list(), f)...)
		}
	case "DELETE faults":
		err = s.SetFaults()
	case "GET truth":
		w.Header().Set("Content-Type", "application/jsonl")
		enc := json.NewEncoder(w)
		for _, t := range s.estate.TruthAt(s.clock()) {
			if enc.Encode(t) != nil {
				return
			}
		}
	case "GET stats":
		respond(w, s.Stats())
	case "DELETE stats":
		s.ResetStats()
	case "GET estate":
		w.Header().Set("Content-Type", "application/json")
		_ = s.estate.Write(w)
	case "POST estate":
		var m Mutation
		if err = decodeStrict(r, &m); err == nil {
			if m.At.IsZero() {
				m.At = s.clock()
			}
			err = s.estate.Apply(m)
		}
	default:
		http.Error(w, "no such thing; there are faults, truth, stats and estate", http.StatusNotFound)
		return
	}
	switch {
	case err != nil:
		http.Error(w, err.Error(), http.StatusBadRequest)
	case r.Method != http.MethodGet:
		w.WriteHeader(http.StatusNoContent)
	}
}

func respond(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v)
}

func decodeStrict(r *http.Request, v any) error {
	d := json.NewDecoder(r.Body)
	d.DisallowUnknownFields()
	return d.Decode(v)
}

// Stat counts the calls of one account, region and action.
type Stat struct {
	Account   string `json:"account"`
	Region    string `json:"region"`
	Service   string `json:"service"`
	Action    string `json:"action"`
	Calls     int64  `json:"calls"`
	Throttles int64  `json:"throttles"`
	// Errors are all refusals, throttles included.
	Errors int64 `json:"errors"`
}

type statKey struct{ account, region, service, action string }

type stats struct {
	mu  sync.Mutex
	all map[statKey]*Stat
}

func (s *stats) at(c *call) *Stat {
	k := statKey{c.accountID(), c.scopeRegion, c.service, c.action}
	if s.all == nil {
		s.all = map[statKey]*Stat{}
	}
	st := s.all[k]
	if st == nil {
		st = &Stat{Account: k.account, Region: k.region, Service: k.service, Action: k.action}
		s.all[k] = st
	}
	return st
}

func (s *stats) called(c *call) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.at(c).Calls++
}

func (s *stats) failed(c *call, e *apiError) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if e.Code == "InvalidAction" || e.Code == "UnknownOperationException" {
		return // the names of actions that do not exist are the client's to invent; they must not fill the table
	}
	st := s.at(c)
	st.Errors++
	switch e.Code {
	case "RequestLimitExceeded", "Throttling", "TooManyRequestsException":
		st.Throttles++
	}
}

// Stats are the calls so far, ordered by account, region, service and action.
func (s *Server) Stats() []Stat {
	s.stats.mu.Lock()
	defer s.stats.mu.Unlock()
	out := make([]Stat, 0, len(s.stats.all))
	for _, st := range s.stats.all {
		out = append(out, *st)
	}
	slices.SortFunc(out, func(a, b Stat) int {
		return strings.Compare(a.Account+"\x00"+a.Region+"\x00"+a.Service+"\x00"+a.Action, b.Account+"\x00"+b.Region+"\x00"+b.Service+"\x00"+b.Action)
	})
	return out
}

// ResetStats sets all counts to zero.
func (s *Server) ResetStats() {
	s.stats.mu.Lock()
	defer s.stats.mu.Unlock()
	s.stats.all = nil
}
