package simaws

import (
	"fmt"
	"time"
)

// Image is an Amazon machine image.
type Image struct {
	ID   string `json:"id"`
	Name string `json:"name"`
	// Owner is empty for an image of the account's own, else the owner's account id; Alias is amazon or aws-marketplace for theirs.
	Owner string `json:"owner,omitempty"`
	Alias string `json:"alias,omitempty"`
	// State: available, disabled, deregistered, pending or failed; empty means available. A deregistered image is not listed.
	State   string    `json:"state,omitempty"`
	Created time.Time `json:"created"`
	// Deprecated is from when on it is deprecated; zero: never.
	Deprecated time.Time `json:"deprecated,omitzero"`
	Public     bool      `json:"public,omitempty"`
	Windows    bool      `json:"windows,omitempty"`
	// Hidden: another account's private image that is shared no more. Nameless besides: the metadata of its instances holds its id alone.
	Hidden   bool `json:"hidden,omitempty"`
	Nameless bool `json:"nameless,omitempty"`
	// Snapshots are what its disks are made of.
	Snapshots []string `json:"snapshots,omitempty"`
	Tags      []Tag    `json:"tags,omitempty"`
	Case      string   `json:"case,omitempty"`
}

var imageStates = []string{"", "available", "disabled", "deregistered", "pending", "failed"}

func (i *Image) state() string {
	if i.State == "" {
		return "available"
	}
	return i.State
}

// listed tells whether the account can see the image at all.
func (i *Image) listed() bool {
	return !i.Hidden && i.State != "deregistered" && (i.State != "disabled" || i.Owner == "")
}

func (r *Region) indexImages() error {
	r.images = make(map[string]int32, len(r.Images))
	for i := range r.Images {
		img := &r.Images[i]
		if _, twice := r.images[img.ID]; twice || img.ID == "" {
			return fmt.Errorf("image id %q is empty or used twice", img.ID)
		}
		ok := false
		for _, s := range imageStates {
			ok = ok || s == img.State
		}
		if !ok {
			return fmt.Errorf("image %s: state %q is not available, disabled, deregistered, pending or failed", img.ID, img.State)
		}
		r.images[img.ID] = int32(i)
	}
	return nil
}

func (r *Region) image(id string) *Image {
	if i, ok := r.images[id]; ok {
		return &r.Images[i]
	}
	return nil
}
