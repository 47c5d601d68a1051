package simaws

import (
	"fmt"
	"slices"
	"time"
)

// Mutation is one change of a running estate, as the admin endpoint takes it.
type Mutation struct {
	// Action: stop, start, terminate (an instance), attach, detach, delete (a volume), tag (either), role (puts one into an account, in place of one of the
	// same name).
	Action string `json:"action"`
	// ID of the instance, volume or account.
	ID string `json:"id"`
	// Instance to attach to.
	Instance string `json:"instance,omitempty"`
	// Tags to set, for tag; an empty value sets an empty value.
	Tags []Tag `json:"tags,omitempty"`
	// Role to put.
	Role *Role `json:"role,omitempty"`
	// At is when it happens; zero means the endpoint's clock.
	At time.Time `json:"at,omitzero"`
}

// Apply changes the estate, and says what would have been right when it cannot. Mutation.At must be set.
func (e *Estate) Apply(m Mutation) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if m.At.IsZero() {
		return fmt.Errorf("%s %s: at is not set", m.Action, m.ID)
	}
	m.At = m.At.UTC().Truncate(time.Second)
	if m.Action == "role" {
		return e.putRole(m)
	}
	for _, a := range e.Accounts {
		for _, r := range a.Regions {
			if in := r.instance(m.ID); in != nil {
				return r.mutateInstance(in, m)
			}
			if v := r.volume(m.ID); v != nil {
				return r.mutateVolume(v, m)
			}
		}
	}
	return fmt.Errorf("%s %s: no such instance or volume", m.Action, m.ID)
}

// Stop stops a running instance at that time, as its user would.
func (e *Estate) Stop(id string, at time.Time) error {
	return e.Apply(Mutation{Action: "stop", ID: id, At: at})
}

// Start starts a stopped instance at that time.
func (e *Estate) Start(id string, at time.Time) error {
	return e.Apply(Mutation{Action: "start", ID: id, At: at})
}

// Terminate terminates an instance; its volumes go with it or are left available, as each attachment says.
func (e *Estate) Terminate(id string, at time.Time) error {
	return e.Apply(Mutation{Action: "terminate", ID: id, At: at})
}

// Attach attaches an available volume to an instance of its zone.
func (e *Estate) Attach(volume, instance string, at time.Time) error {
	return e.Apply(Mutation{Action: "attach", ID: volume, Instance: instance, At: at})
}

// Detach detaches a volume from all its instances.
func (e *Estate) Detach(volume string, at time.Time) error {
	return e.Apply(Mutation{Action: "detach", ID: volume, At: at})
}

// DeleteVolume deletes a volume that is not attached; it is listed no more.
func (e *Estate) DeleteVolume(id string, at time.Time) error {
	return e.Apply(Mutation{Action: "delete", ID: id, At: at})
}

// PutRole puts a role into an account, as whoever onboards the account would make it.
func (e *Estate) PutRole(account string, r Role, at time.Time) error {
	return e.Apply(Mutation{Action: "role", ID: account, Role: &r, At: at})
}

func (e *Estate) putRole(m Mutation) error {
	a := e.Account(m.ID)
	if a == nil || m.Role == nil || m.Role.Name == "" {
		return fmt.Errorf("role %s: it takes an account of the estate and a role with a name", m.ID)
	}
	if err := m.Role.Policy.check(); err != nil {
		return fmt.Errorf("role %s of account %s: %w", m.Role.Name, m.ID, err)
	}
	a.Roles = append(slices.DeleteFunc(slices.Clone(a.Roles), func(r Role) bool { return r.Name == m.Role.Name }), *m.Role)
	return nil
}

func (r *Region) mutateInstance(in *Instance, m Mutation) error {
	wrong := func(want string) error {
		return fmt.Errorf("%s %s: it is %s, it would have to be %s", m.Action, m.ID, in.State, want)
	}
	userDate := "User initiated (" + m.At.Format("2006-01-02 15:04:05") + " GMT)"
	switch m.Action {
	case "stop":
		if in.State != "running" {
			return wrong("running")
		}
		in.State, in.Stopped, in.Reason, in.ReasonCode = "stopped", m.At, userDate, "Client.UserInitiatedShutdown"
		in.PublicIP = "" // its subnet takes it back
	case "start":
		if in.State != "stopped" {
			return wrong("stopped")
		}
		in.Runs = append(slices.Clone(in.Runs), Span{in.Launched, in.Stopped})
		in.State, in.Launched, in.Stopped, in.Reason, in.ReasonCode = "running", m.At, time.Time{}, "", ""
	case "terminate":
		if in.State == "terminated" {
			return wrong("anything else")
		}
		if in.Stopped.IsZero() {
			in.Stopped = m.At
		}
		for _, d := range in.disks {
			v := &r.Volumes[d]
			keep := slices.ContainsFunc(v.Attachments, func(a Attachment) bool { return a.Instance == in.ID && !a.DeleteOnTermination })
			r.release(v, in.ID, m.At)
			if !keep && len(v.Attachments) == 0 {
				v.State = "deleted"
			}
		}
		for _, i := range in.nics { // the first goes with the instance, the others are left
			n := &r.Interfaces[i]
			if n.Instance = ""; n.Device == 0 {
				n.Deleted = true
				for _, k := range r.eipsOn[n.ID] {
					r.Addresses[k].Interface, r.Addresses[k].Private = "", ""
				}
				delete(r.eipsOn, n.ID)
			}
		}
		for _, i := range r.eips[in.ID] {
			r.Addresses[i].Instance = ""
		}
		delete(r.eips, in.ID)
		in.disks, in.nics, in.PublicIP = nil, nil, ""
		in.State, in.Reason, in.ReasonCode = "terminated", userDate, "Client.UserInitiatedShutdown"
	case "tag":
		in.Tags = setTags(in.Tags, m.Tags)
	default:
		return fmt.Errorf("%s %s: an instance knows stop, start, terminate and tag", m.Action, m.ID)
	}
	return nil
}

func (r *Region) mutateVolume(v *Volume, m Mutation) error {
	wrong := func(want string) error {
		return fmt.Errorf("%s %s: it is %s, it would have to be %s", m.Action, m.ID, v.State, want)
	}
	switch m.Action {
	case "attach":
		in := r.instance(m.Instance)
		switch {
		case v.State != "available" && (!v.MultiAttach || v.State != "in-use"):
			return wrong("available")
		case in == nil || in.State == "terminated" || in.Zone != v.Zone:
			return fmt.Errorf("attach %s: %q is not an instance of zone %s that could take it", m.ID, m.Instance, v.Zone)
		case slices.ContainsFunc(v.Attachments, func(a Attachment) bool { return a.Instance == in.ID }):
			return fmt.Errorf("attach %s: it is attached to %s already", m.ID, in.ID)
		}
		v.Attachments = append(slices.Clone(v.Attachments), Attachment{Instance: in.ID, Device: fmt.Sprintf("/dev/sd%c", 'f'+len(in.disks)%11), At: m.At})
		v.State, v.Detached = "in-use", time.Time{}
		in.disks = append(slices.Clone(in.disks), r.volumes[v.ID])
	case "detach":
		if v.State != "in-use" {
			return wrong("in-use")
		}
		for _, at := range slices.Clone(v.Attachments) {
			r.release(v, at.Instance, m.At)
			in := r.instance(at.Instance)
			in.disks = slices.DeleteFunc(slices.Clone(in.disks), func(d int32) bool { return d == r.volumes[v.ID] })
		}
	case "delete":
		if v.State != "available" && v.State != "error" {
			return wrong("available or error")
		}
		v.State = "deleted"
	case "tag":
		v.Tags = setTags(v.Tags, m.Tags)
	default:
		return fmt.Errorf("%s %s: a volume knows attach, detach, delete and tag", m.Action, m.ID)
	}
	return nil
}

// release ends the volume's attachment to an instance and keeps when it was active in its history.
func (r *Region) release(v *Volume, instance string, at time.Time) {
	history := slices.Clone(v.History)
	for _, s := range r.active(&Volume{Attachments: slices.DeleteFunc(slices.Clone(v.Attachments), func(a Attachment) bool { return a.Instance != instance })}) {
		if s.To.IsZero() || s.To.After(at) {
			s.To = at
		}
		if s.From.Before(s.To) {
			history = append(history, s)
		}
	}
	v.History = history
	v.Attachments = slices.DeleteFunc(slices.Clone(v.Attachments), func(a Attachment) bool { return a.Instance == instance })
	if len(v.Attachments) == 0 {
		v.State, v.Detached = "available", at
	}
}

// setTags never writes into the old slice: resources share them.
func setTags(old, set []Tag) []Tag {
	out := slices.Clone(old)
	for _, t := range set {
		if i := slices.IndexFunc(out, func(o Tag) bool { return o.Key == t.Key }); i >= 0 {
			out[i].Value = t.Value
		} else {
			out = append(out, t)
		}
	}
	return out
}
