// Package audit is the chain of the audit log: how an entry is hashed, and
// how somebody who trusts nobody checks that no entry was changed, left out,
// moved or put in.
//
// It exists so that whoever verifies computes the same as whoever writes, from
// the same few lines. It must import nothing of ours but gen.
package audit

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"

	"google.golang.org/protobuf/proto"

	auditv1 "nightshift.dev/gen/nightshift/audit/v1"
)

// HashSize is how long a hash is, in bytes.
const HashSize = sha256.Size

// Encode is a record as it is hashed.
func Encode(r *auditv1.Record) ([]byte, error) {
	return proto.MarshalOptions{Deterministic: true}.Marshal(r)
}

// Hash is the hash of the entry at a place from 1, after the entry with the
// hash before, which is zeros or empty for the first.
func Hash(sequence int64, before, payload []byte) []byte {
	var head [8 + HashSize]byte
	binary.BigEndian.PutUint64(head[:8], uint64(sequence))
	copy(head[8:], before)
	h := sha256.New()
	h.Write(head[:])
	h.Write(payload)
	return h.Sum(nil)
}

// A Head is a place in the chain and the hash of the entry there. Whoever
// keeps one can tell later whether the log up to there is still the same.
type Head struct {
	// Sequence is the place, from 1; 0 is that of an empty log.
	Sequence int64
	// Hash is that of the entry; zeros for the empty log.
	Hash []byte
}

// String is the head as ParseHead reads it, such as 12:9f86d0…
func (h Head) String() string { return fmt.Sprintf("%d:%x", h.Sequence, h.Hash) }

// ParseHead reads what String wrote.
func ParseHead(s string) (Head, error) {
	number, text, _ := strings.Cut(strings.TrimSpace(s), ":")
	n, err := strconv.ParseInt(number, 10, 64)
	hash, herr := hex.DecodeString(text)
	if err != nil || n < 0 || herr != nil || len(hash) != HashSize {
		return Head{}, fmt.Errorf("%q is no place and hash, such as 12:%x", s, sha256.Sum256([]byte("example")))
	}
	return Head{Sequence: n, Hash: hash}, nil
}

// A Break is a place where the log is not what was written.
type Break struct {
	// Sequence is the place of the entry that is wrong, or the first that is missing.
	Sequence int64
	// What is wrong there.
	What string
}

// String is a line that says both.
func (b Break) String() string { return fmt.Sprintf("entry %d: %s", b.Sequence, b.What) }

// A Verifier is shown the entries of a log in order and says where they break.
// It goes on after a break, from what the log says there, so that what was done
// to one entry is found at that entry.
type Verifier struct {
	heads map[int64][]byte
	last  Head
	known bool // the hash of last is that of an entry, not of a gap
	count int64
}

// NewVerifier begins after a place, of which the hash is believed; the zero
// Head begins with the first entry. The heads must be in the log.
func NewVerifier(after Head, heads ...Head) *Verifier {
	v := &Verifier{heads: map[int64][]byte{}, last: after, known: true}
	for _, h := range heads {
		v.heads[h.Sequence] = h.Hash
	}
	if after.Sequence == 0 {
		v.last.Hash = make([]byte, HashSize)
	}
	return v
}

// Next looks at the next entry.
func (v *Verifier) Next(e *auditv1.Entry) (breaks []Break) {
	at := e.GetSequence()
	tell := func(format string, args ...any) { breaks = append(breaks, Break{at, fmt.Sprintf(format, args...)}) }
	v.count++
	switch next := v.last.Sequence + 1; {
	case at < next:
		tell("comes after entry %d", v.last.Sequence)
		return breaks
	case at > next:
		breaks = append(breaks, Break{next, missing(next, at-1)})
		for s, hash := range v.heads {
			if s >= next && s < at {
				breaks = append(breaks, Break{s, fmt.Sprintf("is missing, and had the hash %x", hash)})
				delete(v.heads, s)
			}
		}
		v.known = false
	}
	if v.known && string(Hash(at, v.last.Hash, e.GetPayload())) != string(e.GetHash()) {
		tell("its hash is not that of its contents and of entry %d before it: one of them was changed", v.last.Sequence)
	}
	if len(e.GetHash()) != HashSize {
		tell("its hash has %d bytes instead of %d", len(e.GetHash()), HashSize)
	}
	r := &auditv1.Record{}
	if err := proto.Unmarshal(e.GetPayload(), r); err != nil {
		tell("what was hashed is no record")
	} else if !proto.Equal(r, e.GetRecord()) {
		tell("what is shown, and found by, is not what was hashed: %s", difference(r, e.GetRecord()))
	}
	v.last, v.known = Head{at, e.GetHash()}, true
	return append(breaks, v.Compare()...)
}

// Compare holds the last entry against the head that was kept of it, if there
// is one. Next does so by itself.
func (v *Verifier) Compare() (breaks []Break) {
	if want, ok := v.heads[v.last.Sequence]; ok && string(want) != string(v.last.Hash) {
		breaks = append(breaks, Break{v.last.Sequence, fmt.Sprintf("its hash was %x and is %x: the log was written anew up to here", want, v.last.Hash)})
	}
	delete(v.heads, v.last.Sequence)
	return breaks
}

// End says what is missing at the end, where the log was longer once.
func (v *Verifier) End() (breaks []Break) {
	for s, hash := range v.heads {
		if s > v.last.Sequence {
			breaks = append(breaks, Break{v.last.Sequence + 1, missing(v.last.Sequence+1, s) + fmt.Sprintf(": the log reached %s once", Head{s, hash})})
		}
	}
	return breaks
}

// Head is where the log ends.
func (v *Verifier) Head() Head { return v.last }

// Count is how many entries were looked at.
func (v *Verifier) Count() int64 { return v.count }

func missing(from, to int64) string {
	if from == to {
		return "is missing"
	}
	return fmt.Sprintf("is missing, and all to entry %d", to)
}

// difference names the fields in which two records differ.
func difference(a, b *auditv1.Record) string {
	var names []string
	fields := a.ProtoReflect().Descriptor().Fields()
	for i := range fields.Len() {
		f := fields.Get(i)
		if !a.ProtoReflect().Get(f).Equal(b.ProtoReflect().Get(f)) {
			names = append(names, string(f.Name()))
		}
	}
	return strings.Join(names, ", ")
}
