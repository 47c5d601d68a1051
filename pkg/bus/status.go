package bus

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// Status is how the bus is, for people and for checks of health.
type Status struct {
	// Server is the address of the server that answered, without a password,
	// and Version its version.
	Server, Version string
	// RTT is how long a message to it and back takes.
	RTT time.Duration
	// Time is the server's clock, about half of an RTT ago; zero when there is
	// no stream that could tell.
	Time time.Time
	// Stored and StoreLimit are the bytes that JetStream holds for this account
	// and may hold; StoreLimit is 0 without a limit.
	Stored, StoreLimit uint64
	// Streams are those of the catalog that there are, in its order.
	Streams []StreamStatus
	// Missing are the streams of the catalog that there are not.
	Missing []string
}

// StreamStatus is how a stream is.
type StreamStatus struct {
	Name string
	// Replicas is how many servers are to keep it, Current how many have
	// everything, and Leaderless that none of them leads: nothing can be
	// published then.
	Replicas, Current int
	Leaderless        bool
	Messages, Bytes   uint64
	// MaxBytes and MaxAge bound it; 0 is no bound.
	MaxBytes int64
	MaxAge   time.Duration
	// Oldest is when its first message was stored; zero when it is empty.
	Oldest time.Time
	// Differs says how it is configured otherwise than the catalog says; a
	// service that starts sets it right.
	Differs []string
	// Consumers by name.
	Consumers []ConsumerStatus
}

// ConsumerStatus is how far a consumer is.
type ConsumerStatus struct {
	Name string
	// Pending messages were not handed out yet, InHand were and are not done.
	Pending, InHand uint64
	// Waiting counts the processes that wait for messages.
	Waiting int
}

// Status asks the server how the bus is. Nothing is changed.
func (b *Bus) Status(ctx context.Context) (st *Status, err error) {
	err = b.ask(ctx, "$JS.API.", func(ctx context.Context) (err error) {
		st, err = b.status(ctx)
		return err
	})
	return st, err
}

func (b *Bus) status(ctx context.Context) (*Status, error) {
	rtt, err := b.nc.RTT()
	if err != nil {
		return nil, unavailable("asking NATS for its state", err)
	}
	st := &Status{Server: b.nc.ConnectedUrlRedacted(), Version: b.nc.ConnectedServerVersion(), RTT: rtt}
	account, err := b.js.AccountInfo(ctx)
	if err != nil {
		return nil, unavailable("asking JetStream for its state", err)
	}
	st.Stored = account.Store
	if account.Limits.MaxStore > 0 {
		st.StoreLimit = uint64(account.Limits.MaxStore)
	}
	for _, want := range streams {
		s, err := b.js.Stream(ctx, want.Name)
		if errors.Is(err, jetstream.ErrStreamNotFound) {
			st.Missing = append(st.Missing, want.Name)
			continue
		}
		if err != nil {
			return nil, unavailable("looking at stream "+want.Name, err)
		}
		info := s.CachedInfo()
		st.Time = info.TimeStamp
		one := streamStatus(info, want)
		consumers := s.ListConsumers(ctx)
		for c := range consumers.Info() {
			if c.Delivered.Consumer == 0 && c.NumWaiting == 0 && catalogued(want.Name, c.Name) {
				continue // made for a service that never ran
			}
			one.Consumers = append(one.Consumers, ConsumerStatus{
				Name: c.Name, Pending: c.NumPending, InHand: uint64(max(c.NumAckPending, 0)), Waiting: c.NumWaiting,
			})
		}
		if err := consumers.Err(); err != nil {
			return nil, unavailable("looking at the consumers of stream "+want.Name, err)
		}
		slices.SortFunc(one.Consumers, func(a, b ConsumerStatus) int { return strings.Compare(a.Name, b.Name) })
		st.Streams = append(st.Streams, one)
	}
	return st, nil
}

func streamStatus(info *jetstream.StreamInfo, want jetstream.StreamConfig) StreamStatus {
	have := info.Config
	s := StreamStatus{
		Name: have.Name, Replicas: have.Replicas, Current: 1, Messages: info.State.Msgs, Bytes: info.State.Bytes,
		MaxBytes: max(have.MaxBytes, 0), MaxAge: have.MaxAge, Oldest: info.State.FirstTime,
	}
	if info.State.Msgs == 0 {
		s.Oldest = time.Time{}
	}
	if c := info.Cluster; c != nil {
		if s.Leaderless = c.Leader == ""; s.Leaderless {
			s.Current = 0
		}
		for _, r := range c.Replicas {
			if r.Current && !r.Offline {
				s.Current++
			}
		}
	}
	differs := func(what string, have, want any) {
		if have != want {
			s.Differs = append(s.Differs, fmt.Sprintf("%s is %v, not %v", what, have, want))
		}
	}
	differs("storage", have.Storage, want.Storage)
	differs("max age", have.MaxAge, want.MaxAge)
	differs("max bytes", have.MaxBytes, unlimited(want.MaxBytes))
	differs("messages of a subject", have.MaxMsgsPerSubject, unlimited(want.MaxMsgsPerSubject))
	return s
}

// Inspect asks a server how the bus is, as Status does, without becoming one
// of its services: streams are looked at and left as they are. It does not wait
// for a server that is not there.
func Inspect(ctx context.Context, cfg Config) (*Status, error) {
	b, err := prepare(cfg)
	if err != nil {
		return nil, err
	}
	if err := b.dial(ctx); err != nil {
		return nil, err
	}
	defer b.nc.Close()
	return b.Status(ctx)
}
