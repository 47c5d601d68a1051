package bus

import (
	"fmt"
	"slices"
	"strings"

	"golang.org/x/crypto/bcrypt"

	"nightshift.dev/pkg/errs"
)

// Who may do what on the bus follows from the catalog: a service publishes
// what it says there, takes what its own consumers are handed, and nothing
// else. Whoever holds the credentials of one service has no more than that.

// keeper is the service that makes streams, buckets and the consumers of
// services, where services have users of their own. The others wait for it.
const keeper = "persistence"

// The users that are no service.
const (
	// UserSubscriber reads the events that are for everybody.
	UserSubscriber = "subscriber"
	// UserAdmin may do everything, for operators and for "nightshift doctor".
	UserAdmin = "admin"
)

// User is a user of the NATS server and its rights, as subjects.
type User struct {
	Name string
	// Publish and Subscribe are what it may do, NoPublish what it may not even
	// though Publish says so.
	Publish, NoPublish, Subscribe []string
}

// inboxPrefix is where answers to a user come: nobody else can read them.
func inboxPrefix(user string) string { return "_INBOX_" + token(user) }

// Users are the users of an installation: a service each, subscribers, and
// operators.
func Users() []User {
	var users []User
	for _, s := range services() {
		users = append(users, userOf(s))
	}
	return append(users, subscriber(), User{Name: UserAdmin, Publish: []string{">"}, Subscribe: []string{">"}})
}

// ownSubjects are the subjects of an event that a service publishes, or takes:
// a worker only what carries its name, which is also its kind of job.
func (e *Event) ownSubjects(service string) string {
	if slices.Contains(workers, service) && (e.Tokens[0] == "kind" || e.Tokens[0] == "service") {
		return e.Filter(service)
	}
	return e.Filter()
}

// durable is a consumer of a service, as the catalog has it.
type durable struct{ service, stream, name string }

func durables() (all []durable) {
	for _, e := range catalog {
		for _, s := range e.Consumers {
			all = append(all, durable{s, e.Stream, s + "-" + e.Short()})
		}
	}
	return all
}

// catalogued says whether a consumer is one of a service.
func catalogued(stream, name string) bool {
	return slices.ContainsFunc(durables(), func(d durable) bool { return d.stream == stream && d.name == name })
}

// needs are the streams a service looks at when it starts.
func needs(service string) (names []string) {
	for _, e := range catalog {
		if slices.Contains(e.Publishers, service) || slices.Contains(e.Consumers, service) {
			names = append(names, e.Stream)
		}
	}
	if service == "scheduler" {
		names = append(names, deadLetterStream)
	}
	slices.Sort(names)
	return slices.Compact(names)
}

func userOf(service string) User {
	u := User{Name: service, Subscribe: []string{inboxPrefix(service) + ".>"}}
	may := func(subjects ...string) { u.Publish = append(u.Publish, subjects...) }
	for _, s := range append(needs(service), "KV_"+laterBucket) {
		may("$JS.API.STREAM.INFO." + s)
	}
	for _, e := range catalog {
		if slices.Contains(e.Publishers, service) {
			may(e.ownSubjects(service))
		}
	}
	for _, d := range durables() {
		if d.service != service {
			continue
		}
		key := "$KV." + laterBucket + "." + d.name + ".*"
		may("$JS.API.CONSUMER.INFO."+d.stream+"."+d.name, "$JS.API.CONSUMER.MSG.NEXT."+d.stream+"."+d.name,
			"$JS.ACK."+d.stream+"."+d.name+".>", subject(deadLetterSubject, d.name),
			key, "$JS.API.DIRECT.GET.KV_"+laterBucket+"."+key)
	}
	switch service {
	case keeper:
		may("$JS.API.INFO") // asked before a bucket is made
		for _, s := range kept() {
			may("$JS.API.STREAM.INFO."+s, "$JS.API.STREAM.CREATE."+s, "$JS.API.STREAM.UPDATE."+s)
		}
		for _, d := range durables() {
			may("$JS.API.CONSUMER.INFO."+d.stream+"."+d.name, "$JS.API.CONSUMER.CREATE."+d.stream+"."+d.name)
		}
	case "scheduler":
		jobs, bucket := "NIGHTSHIFT_JOB", "KV_"+jobsBucket
		may("$JS.API.STREAM.MSG.GET."+jobs, "$JS.API.CONSUMER.LIST."+jobs)
		u.ephemeral(jobs, "nightshift.job.v1.JobTriggered.>")
		may("$KV."+jobsBucket+".*", "$JS.API.STREAM.INFO."+bucket, "$JS.API.DIRECT.GET."+bucket+".>", "$JS.FC."+bucket+".>")
		u.ephemeral(bucket, "$KV."+jobsBucket+".>")
		may("$JS.API.STREAM.MSG.GET."+deadLetterStream, "$JS.API.STREAM.MSG.DELETE."+deadLetterStream)
		for _, d := range durables() {
			may("$JS.API.CONSUMER.INFO."+d.stream+"."+d.name, subjectOfReplay(d.stream, d.name))
		}
	case "health":
		may("$JS.API.INFO")
		for _, s := range kept() {
			may("$JS.API.STREAM.INFO."+s, "$JS.API.CONSUMER.LIST."+s)
		}
	}
	slices.Sort(u.Publish)
	u.Publish = slices.Compact(u.Publish)
	return u
}

// ephemeral lets a user read these subjects of a stream through consumers that
// it makes itself, of any name but those of services: a server tells subjects
// apart by whole tokens, and so cannot tell who else made a consumer.
func (u *User) ephemeral(stream string, subjects ...string) {
	for _, s := range subjects {
		u.Publish = append(u.Publish, "$JS.API.CONSUMER.CREATE."+stream+".*."+s)
	}
	for _, call := range []string{"$JS.API.CONSUMER.INFO.", "$JS.API.CONSUMER.MSG.NEXT.", "$JS.API.CONSUMER.DELETE."} {
		u.Publish = append(u.Publish, call+stream+".*")
	}
	for _, d := range durables() {
		if d.stream != stream {
			continue
		}
		u.NoPublish = append(u.NoPublish, "$JS.API.CONSUMER.CREATE."+stream+"."+d.name+".>",
			"$JS.API.CONSUMER.MSG.NEXT."+stream+"."+d.name, "$JS.API.CONSUMER.DELETE."+stream+"."+d.name)
	}
}

// open are the events that are for everybody: those that only tell people.
func (e *Event) open() bool {
	return slices.Equal(e.Publishers, []string{keeper}) && !slices.ContainsFunc(e.Consumers, func(c string) bool { return !slices.Contains(teller, c) })
}

func subscriber() User {
	u := User{Name: UserSubscriber, Subscribe: []string{inboxPrefix(UserSubscriber) + ".>"}}
	for _, s := range streams {
		var subjects []string
		for _, e := range catalog {
			if e.Stream == s.Name && e.open() {
				subjects = append(subjects, e.Filter())
			}
		}
		if len(subjects) == 0 {
			continue
		}
		u.Subscribe = append(u.Subscribe, subjects...)
		u.Publish = append(u.Publish, "$JS.API.STREAM.INFO."+s.Name, "$JS.ACK."+s.Name+".*.>")
		u.ephemeral(s.Name, subjects...)
		for _, d := range durables() {
			if d.stream == s.Name {
				u.NoPublish = append(u.NoPublish, "$JS.ACK."+s.Name+"."+d.name+".>")
			}
		}
	}
	return u
}

// Permissions is the part of a NATS server's configuration that says what the
// users may do. It has no secrets.
func Permissions() string {
	var b strings.Builder
	b.WriteString("# What the users of Nightshift may do on NATS. Generated from the catalog of events; docs/nats.md explains it.\n")
	list := func(indent, name string, subjects []string) {
		fmt.Fprintf(&b, "%s%s: [\n", indent, name)
		for _, s := range subjects {
			fmt.Fprintf(&b, "%s  %q\n", indent, s)
		}
		fmt.Fprintf(&b, "%s]\n", indent)
	}
	for _, u := range Users() {
		fmt.Fprintf(&b, "\n%s = {\n  publish: {\n", variable(u.Name))
		list("    ", "allow", u.Publish)
		if len(u.NoPublish) > 0 {
			list("    ", "deny", u.NoPublish)
		}
		b.WriteString("  }\n  subscribe: {\n")
		list("    ", "allow", u.Subscribe)
		b.WriteString("  }\n}\n")
	}
	return b.String()
}

// variable is the name under which a user's rights are in the configuration.
func variable(user string) string {
	return "nightshift_" + strings.ReplaceAll(user, "-", "_") + "_rights"
}

// ServerConfig is a part of a NATS server's configuration, to be included in
// it: the account NIGHTSHIFT with its users and their rights. Passwords are
// given by user, at least 22 characters each and made at random; they are not
// in the result, only what tells them.
func ServerConfig(passwords map[string]string) (string, error) {
	var b strings.Builder
	b.WriteString(Permissions())
	b.WriteString("\naccounts {\n  NIGHTSHIFT {\n    jetstream: enabled\n    users: [\n")
	for _, u := range Users() {
		p := passwords[u.Name]
		if len(p) < 22 {
			return "", errs.New(errs.InvalidArgument, "WEAK_PASSWORD", "the password of NATS user %s has fewer than 22 characters", u.Name)
		}
		// The least cost: nobody guesses a random password of this length, and each connection pays it.
		hash, err := bcrypt.GenerateFromPassword([]byte(p), bcrypt.MinCost)
		if err != nil {
			return "", errs.New(errs.InvalidArgument, "BAD_PASSWORD", "the password of NATS user %s cannot be used", u.Name).Wrap(err)
		}
		fmt.Fprintf(&b, "      {user: %q, password: %q, permissions: $%s}\n", u.Name, hash, variable(u.Name))
	}
	b.WriteString("    ]\n  }\n}\n")
	return b.String(), nil
}
